"""A backend that computes with NumPy and counts what is executed, as device "counting".

Its arrays hold real NumPy arrays. What is counted at each call of a native function comes from them alone: from the
sizes of operands and results, from the dtypes of the loop that NumPy ran, from the addresses of the numbers, from who
owns memory and when it is given back. The backend of the device "meta", which predicts the same counts, is not asked.

What LAPACK executes cannot be seen from outside: its functions count no operations here. Temporaries inside one call of
NumPy are not counted.
"""

import operator
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from math import isqrt
from typing import Any

import numpy as np
from scipy import special

from pullback.backends import Backend, Namespace, register
from pullback.backends.batched.array import BatchedArray
from pullback.backends.numpy_backend import NumpyBackend

__all__ = ["CountedArray", "CountingBackend", "Counts", "counting"]


LAPACK = {
    "cholesky", "det", "eigh", "eigvalsh", "inv", "matrix_rank", "pinv", "qr", "slogdet", "solve", "svd", "svdvals",
}  # fmt: skip


@dataclass
class Counts:
    """What was executed, in all: operations, bytes read, written and allocated, bytes that live now, their most at any
    time, and those that results keep. LAPACK's operations are left out."""

    flops: int = 0
    multiply_adds: int = 0
    read: int = 0
    written: int = 0
    allocated: int = 0
    live: int = 0
    peak: int = 0
    kept: int = 0
    log: list[str] = field(default_factory=list, compare=False, repr=False)

    def allocate(self, nbytes: int, shape: tuple[int, ...] = ()) -> None:
        self.allocated += nbytes
        self.live += nbytes
        self.peak = max(self.peak, self.live)

    def release(self, nbytes: int) -> None:
        self.live -= nbytes

    def work(self, name: str, flops: int, multiply_adds: int, read: int, written: int) -> None:
        flops = 0 if name in LAPACK else flops
        self.flops += flops
        self.multiply_adds += multiply_adds
        self.read += read
        self.written += written
        self.log.append(f"{name}: {flops} flops, {multiply_adds} multiply-adds, {read} read, {written} written")

    def enter(self, name: str) -> None:
        """The meter of "meta" is told of ops; what is counted in all does not depend on them."""

    def leave(self) -> None:
        """See `enter`."""


_current: Counts | None = None
_owners: dict[int, Any] = {}  # weak references to the arrays that own memory and were counted, by their ids


@contextmanager
def counting(counts: Counts) -> Iterator[None]:
    """A context in which everything that is done with arrays of this backend is counted."""
    global _current
    outer, _current = _current, counts
    try:
        yield
    finally:
        _current = outer


# --- facts of real arrays ---------------------------------------------------------------------------------------------


def owner_of(x: np.ndarray) -> np.ndarray:
    """The array that owns the memory of `x`."""
    while isinstance(x.base, np.ndarray):
        x = x.base
    return x


def bytes_of_addresses(x: np.ndarray) -> int:
    """Bytes of the different numbers of an array: how many addresses its indices lead to.

    In large arrays they are not listed: the numbers of contiguous ones all differ.
    """
    if x.size > 1 << 12 and (x.flags.c_contiguous or x.flags.f_contiguous):
        return x.nbytes
    addresses = np.zeros((1,), np.int64)
    for length, stride in zip(x.shape, x.strides, strict=True):
        addresses = np.unique(addresses[:, None] + np.arange(length) * stride)
    return len(addresses) * x.itemsize


def keep_account(x: np.ndarray, counts: Counts) -> None:
    """Count the memory that `x` is in, if it is new, and its return."""
    owner = owner_of(x)
    if id(owner) in _owners:
        return
    key, nbytes = id(owner), owner.nbytes

    def gone(_: Any) -> None:
        del _owners[key]
        counts.release(nbytes)

    _owners[key] = weakref.ref(owner, gone)
    counts.allocate(nbytes)


def is_float(*dtypes: Any) -> bool:
    return all(np.dtype(d).kind == "f" for d in dtypes)


# --- operations executed, by native function --------------------------------------------------------------------------


def of_loop(function: np.ufunc, operands: Sequence[Any], out: np.ndarray) -> int:
    """One for each number, where the loop that NumPy chooses takes floating-point numbers and gives them."""
    kinds = tuple(x.dtype if hasattr(x, "dtype") else type(x) for x in operands)
    *ins, result = function.resolve_dtypes((*kinds, None))
    return out.size if is_float(result) and any(is_float(kind) for kind in ins) else 0


def of_joining(operands: Sequence[Any], out: np.ndarray, **_: Any) -> int:
    """A reduction joins the n numbers of each result by n - 1 operations."""
    return max(operands[0].size - out.size, 0) if is_float(out.dtype) else 0


def of_mean(operands: Sequence[Any], out: np.ndarray, **_: Any) -> int:
    return of_joining(operands, out) + (out.size if is_float(out.dtype) else 0)


def of_scan(operands: Sequence[Any], out: np.ndarray, axis: int | None = None, **_: Any) -> int:
    x = operands[0]
    length = x.shape[axis or 0] if x.ndim else 1
    return x.size - x.size // length if length and is_float(out.dtype) else 0


def of_trace(operands: Sequence[Any], out: np.ndarray, offset: int = 0, **_: Any) -> int:
    return of_joining([np.linalg.diagonal(operands[0], offset=offset)], out)


def of_cross(operands: Sequence[Any], out: np.ndarray, **_: Any) -> int:
    """Two products and their difference for each number."""
    return 3 * out.size if is_float(out.dtype) else 0


def of_each(operands: Sequence[Any], out: np.ndarray, **_: Any) -> int:
    return out.size if is_float(out.dtype) else 0


def products_of_matmul(operands: Sequence[Any], out: np.ndarray, **_: Any) -> int:
    """Each number is a sum of as many products as the left one has columns."""
    return int(out.size * operands[0].shape[-1])


def products_of_tensordot(operands: Sequence[Any], out: np.ndarray, **_: Any) -> int:
    """Rows, columns and joined lengths are m, n, k: the sizes m k, k n and m n multiply to (m n k)^2."""
    a, b = operands
    return isqrt(a.size * b.size * out.size)


def products_of_vecdot(operands: Sequence[Any], out: np.ndarray, axis: int = -1, **_: Any) -> int:
    return int(out.size * operands[0].shape[axis])


_ADDING: dict[str, Callable[..., int]] = dict.fromkeys(("sum", "prod", "max", "min"), of_joining) | {
    "mean": of_mean, "cumulative_sum": of_scan, "cumulative_prod": of_scan, "trace": of_trace, "cross": of_cross,
    **dict.fromkeys(("outer", "round", "clip", "erf", "erfc"), of_each),
}  # fmt: skip
_MULTIPLYING: dict[str, Callable[..., int]] = {
    "matmul": products_of_matmul, "tensordot": products_of_tensordot, "vecdot": products_of_vecdot,
}  # fmt: skip
_MOVING = {"positive"}  # a ufunc that copies
UNWRITTEN = {"empty", "empty_like"}
FILLING = {"zeros_like", "ones_like", "full_like"}  # they look at the shape of their argument


def operations(name: str, function: Any, operands: Sequence[Any], out: Any, options: dict[str, Any]) -> tuple[int, int]:
    """Floating-point operations, and the multiply-adds among them."""
    if not isinstance(out, np.ndarray) or name in _MOVING:
        return 0, 0
    if name in _MULTIPLYING:
        count = _MULTIPLYING[name](operands, out, **options) if is_float(out.dtype) else 0
        return 2 * count, count
    if name in _ADDING:
        return _ADDING[name](operands, out, **options), 0
    return (of_loop(function, operands, out) if isinstance(function, np.ufunc) else 0), 0


# --- arrays -----------------------------------------------------------------------------------------------------------


class CountedArray:
    """A real NumPy array, `numbers`, whose every use goes through a native function that counts."""

    __slots__ = ("__weakref__", "numbers")
    __array_ufunc__ = None

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers

    def __repr__(self) -> str:
        return f"Counted{self.numbers!r}"

    def __len__(self) -> int:
        return len(self.numbers)

    def __bool__(self) -> bool:
        return bool(self.numbers)

    def __float__(self) -> float:
        return float(self.numbers)

    def __int__(self) -> int:
        return int(self.numbers)

    __index__ = __int__
    __hash__ = object.__hash__

    @property
    def mT(self) -> Any:
        return native("mT", lambda x: x.mT)(self)

    @property
    def T(self) -> Any:
        return native("T", lambda x: x.T)(self)

    def reshape(self, *shape: Any) -> Any:
        return native("reshape", lambda x: x.reshape(*shape))(self)

    def __getitem__(self, index: Any) -> Any:
        return read_at(self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        write_at("setitem", operator.setitem, self, index, value)


for _fact in ("base", "shape", "dtype", "ndim", "size", "nbytes", "device"):
    setattr(CountedArray, _fact, property(operator.attrgetter(f"numbers.{_fact}")))


def plain(value: Any) -> Any:
    """An argument with NumPy arrays in place of counted ones."""
    if isinstance(value, CountedArray):
        return value.numbers
    if value.__class__ in (list, tuple):
        return value.__class__(map(plain, value))
    return value


def operands_in(values: Sequence[Any]) -> list[Any]:
    """The arrays among arguments, also in lists, and Python numbers beside them."""
    found = []
    for value in values:
        if value.__class__ in (list, tuple):
            found += [x for x in operands_in(value) if hasattr(x, "dtype")]
        elif isinstance(value, CountedArray | np.ndarray | np.generic | bool | int | float):
            found.append(plain(value))
    return found


def wrapped(value: Any, given: Sequence[Any], fresh: Sequence[Any] = ()) -> Any:
    """What a function gave, with counted arrays for NumPy's; an argument that came back is itself."""
    if isinstance(value, np.ndarray | np.generic):
        same = next((x for x in given if isinstance(x, CountedArray) and x.numbers is value), None)
        if same is not None:
            return same
        numbers = np.asarray(value)
        if _current is not None and any(x is value for x in fresh):
            keep_account(numbers, _current)
        return CountedArray(numbers)
    if isinstance(value, tuple | list):
        parts = [wrapped(x, given, fresh) for x in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def native(name: str, function: Any) -> Callable[..., Any]:
    """A function of NumPy that counts: what it read and wrote, unless its result is a view, which costs nothing."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        out = function(*map(plain, args), **{k: plain(x) for k, x in kwargs.items()})
        if isinstance(out, tuple | list):
            parts = [np.asarray(x) if isinstance(x, np.generic) else x for x in out]
            out = type(out)(*parts) if hasattr(out, "_fields") else type(out)(parts)
        elif isinstance(out, np.generic):
            out = np.asarray(out)
        operands = operands_in([*args, *[x for x in kwargs.values() if isinstance(x, CountedArray)]])
        fresh = fresh_among(out, operands)
        if _current is not None:
            count(name, function, operands, out, fresh, {k: x for k, x in kwargs.items() if k != "dtype"})
        return wrapped(out, args, fresh)

    return call


def fresh_among(out: Any, operands: Sequence[Any]) -> list[np.ndarray]:
    """The results that are in memory of their own, and no views of operands."""
    owners = [owner_of(x) for x in operands if isinstance(x, np.ndarray)]
    results = [x for x in (out if isinstance(out, tuple | list) else [out]) if isinstance(x, np.ndarray)]
    return [r for r in results if not any(owner_of(r) is owner for owner in owners)]


def count(
    name: str, function: Any, operands: Sequence[Any], out: Any, fresh: Sequence[np.ndarray], options: dict[str, Any]
) -> None:
    """Tell what a call read and wrote to make its fresh results."""
    if not any(r.size for r in fresh) or _current is None or name in UNWRITTEN:
        return
    flops, multiply_adds = operations(name, function, operands, out, options)
    arrays = [x for x in operands if isinstance(x, np.ndarray | np.generic) and name not in FILLING]
    read = sum(bytes_of_addresses(np.asarray(x)) for x in arrays)
    _current.work(name, flops, multiply_adds, read, sum(r.nbytes for r in fresh))


def read_at(x: CountedArray, index: Any) -> Any:
    """`x[index]`: a view, or a copy of the numbers chosen, each read once where it stands."""
    entries = index if isinstance(index, tuple) else (index,)
    chooses = [e for e in map(plain, entries) if isinstance(e, np.ndarray | list)]
    whole = plain(entries)
    if not chooses and not any(e is Ellipsis for e in entries):
        whole = (*whole, ...)  # of no dimension: an array, as in the standard, and no scalar
    out = np.asarray(x.numbers[whole])
    if _current is not None and out.size and not np.shares_memory(out, x.numbers):
        _current.work("getitem", 0, 0, out.nbytes + sum(np.asarray(e).nbytes for e in chooses), out.nbytes)
    return wrapped(out, (x,), fresh_among(out, [x.numbers]))


def write_at(name: str, function: Any, x: CountedArray, index: Any, values: Any, adds: bool = False) -> Any:
    """Write or add `values` at an index, in place."""
    where = plain(index)
    chosen = x.numbers[where]
    function(x.numbers, where, plain(values))
    if _current is not None and chosen.size:
        given = plain(values)
        read = bytes_of_addresses(given) if isinstance(given, np.ndarray) else 0
        entries = where if isinstance(where, tuple) else (where,)
        read += sum(e.nbytes for e in entries if isinstance(e, np.ndarray))
        flops = chosen.size if adds and is_float(chosen.dtype) else 0
        _current.work(name, flops, 0, read + (chosen.nbytes if adds else 0), chosen.nbytes)
    return x


def in_place(name: str, function: Any) -> Callable[[CountedArray, Any], CountedArray]:
    """`x += y` and its like."""

    def call(x: CountedArray, y: Any) -> CountedArray:
        other = plain(y)
        function(x.numbers, other, out=x.numbers, casting="same_kind")
        if _current is not None and x.size:
            read = bytes_of_addresses(x.numbers) + (
                bytes_of_addresses(np.asarray(other)) if hasattr(other, "dtype") else 0
            )
            _current.work(name, of_loop(function, [x.numbers, other], x.numbers), 0, read, x.nbytes)
        return x

    return call


def reflected(function: np.ufunc) -> Callable[[CountedArray, Any], Any]:
    """`y + x` and its like, where y is no counted array."""
    call = native(function.__name__, function)
    return lambda x, y: call(y, x)


_OPERATORS = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.divide, "floordiv": np.floor_divide,
    "mod": np.remainder, "pow": np.pow, "matmul": np.matmul, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor, "lshift": np.left_shift, "rshift": np.right_shift,
}  # fmt: skip
_COMPARISONS = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip


def infix(ufunc: Any) -> Callable[..., Any]:
    """An operator; where the other operand is of a frame of vmap, it is that one's."""
    counted = native(ufunc.__name__, ufunc)
    return lambda a, b: NotImplemented if isinstance(b, BatchedArray) else counted(a, b)


for _short, _ufunc in (_OPERATORS | _COMPARISONS).items():
    setattr(CountedArray, f"__{_short}__", infix(_ufunc))
for _short, _ufunc in _OPERATORS.items():
    setattr(CountedArray, f"__r{_short}__", reflected(_ufunc))
    setattr(CountedArray, f"__i{_short}__", in_place(_ufunc.__name__, _ufunc))
for _short, _ufunc in {"neg": np.negative, "pos": np.positive, "abs": np.abs, "invert": np.invert}.items():
    setattr(CountedArray, f"__{_short}__", native(_ufunc.__name__, _ufunc))


# --- the backend ------------------------------------------------------------------------------------------------------


def _take(x: CountedArray, indices: Any, axis: int | None = None) -> Any:
    out = np.take(x.numbers, plain(indices), axis=axis)
    if _current is not None and out.size:
        _current.work("take", 0, 0, out.nbytes + np.asarray(plain(indices)).nbytes, out.nbytes)
    return wrapped(out, (x,), [out])


def _take_along_axis(x: CountedArray, indices: Any, axis: int = -1) -> Any:
    out = np.take_along_axis(x.numbers, plain(indices), axis=axis)
    if _current is not None and out.size:
        read = out.nbytes + bytes_of_addresses(plain(indices))
        _current.work("take_along_axis", 0, 0, read, out.nbytes)
    return wrapped(out, (x,), [out])


def _scatter_set(x: CountedArray, index: Any, values: Any) -> Any:
    return write_at("scatter_set", operator.setitem, x, index, values)


def _scatter_add(x: CountedArray, index: Any, values: Any) -> Any:
    return write_at("scatter_add", np.add.at, x, index, values, adds=True)


_STANDARD = {name: getattr(NumpyBackend().xp, name) for name in ("reshape", "sort", "argsort")}


class CountingBackend(Backend):
    """Arrays in host memory; the plain bodies run on them, without what NumPy's backend does faster."""

    name = "counting"
    array_types = (CountedArray,)

    def __init__(self) -> None:
        given = vars(np) | _STANDARD | {"erf": special.erf, "erfc": special.erfc}
        functions = {
            name: native(name, function)
            for name, function in given.items()
            if callable(function) and not isinstance(function, type)
        }
        functions |= {
            "take": _take, "take_along_axis": _take_along_axis, "scatter_set": _scatter_set,
            "scatter_add": _scatter_add, "dtype": np.dtype, "isdtype": np.isdtype, "result_type": np.result_type,
        }  # fmt: skip
        linalg = {name: native(name, getattr(np.linalg, name)) for name in np.linalg.__all__ if name != "LinAlgError"}
        self.xp = Namespace(np, **functions, linalg=Namespace(np.linalg, **linalg))

    def asarray(self, data: Any, dtype: Any = None, device: str | None = None, copy: bool | None = None) -> Any:
        with self.on(device):
            return self.xp.asarray(data, dtype=dtype, copy=copy)

    def fused(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        """`plain`; a mask that came from the host is new memory, written once."""
        if name not in ("dropout_mask", "keyed_dropout"):
            return plain

        def run(*args: Any) -> Any:
            out = plain(*args)
            mask = out if name == "dropout_mask" else out[1]
            if _current is not None and mask.size:
                _current.work(name, 0, 0, 0, mask.nbytes)
                keep_account(mask.numbers, _current)
            return out

        return run

    def to_numpy(self, array: Any) -> np.ndarray:
        return array.numbers

    def quiet(self) -> Any:
        return np.errstate(all="ignore")

    def walking(self, array: Any) -> Any:
        return np.errstate(all="ignore")


register(CountingBackend())
