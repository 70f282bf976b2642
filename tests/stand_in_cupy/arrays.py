"""Device arrays: NumPy's arithmetic on the memory of `memory.py`, by CuPy's rules.

Host arrays are refused beside them, results are arrays even where NumPy gives scalars, and reading a number waits for
the device, which a captured stream refuses.
"""

import operator
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from .devices import Device, current_device
from .log import LOG, Operation
from .memory import Block, Lease, allocate
from .streams import current_stream, enqueue, refuse_in_capture

LIBRARY = {"matmul", "dot", "tensordot", "vecdot", "vdot", "inner", "outer", "einsum"}
REDUCTIONS = {
    "all", "amax", "amin", "any", "argmax", "argmin", "count_nonzero", "max", "mean", "min", "prod", "std", "sum",
    "var",
}  # fmt: skip
COPIES = {"copy", "ascontiguousarray"}
VIEWS = {"reshape", "transpose", "swapaxes", "squeeze", "view"}  # these look at no number, and so at no device
SYNCHRONISING = {"nonzero", "unique", "unique_all", "unique_counts", "unique_inverse", "unique_values", "argwhere"}
METHODS = {
    "all", "any", "argmax", "argmin", "argsort", "astype", "clip", "copy", "cumprod", "cumsum", "diagonal", "dot",
    "flatten", "max", "mean", "min", "nonzero", "prod", "ravel", "repeat", "reshape", "round", "squeeze", "std", "sum",
    "swapaxes", "take", "trace", "transpose", "var", "view",
}  # fmt: skip


class ndarray:
    """As `cupy.ndarray`."""

    __module__ = "cupy"
    __hash__ = None  # type: ignore[assignment]
    _host: np.ndarray
    _lease: Lease

    def __init__(self, shape: Any, dtype: Any = float) -> None:
        dtype = np.dtype(dtype)
        shape = tuple(int(n) for n in shape) if isinstance(shape, tuple | list) else (int(shape),)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self._lease = allocate(size)
        self._host = self._lease.block.bytes[:size].view(dtype).reshape(shape)
        self._device = current_device()
        self.base: ndarray | None = None

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    itemsize = property(lambda self: self._host.itemsize)
    nbytes = property(lambda self: self._host.nbytes)
    strides = property(lambda self: self._host.strides)
    flags = property(lambda self: self._host.flags)
    device = property(lambda self: Device(self._device))
    data = property(lambda self: SimpleNamespace(ptr=self._host.ctypes.data, mem=self._lease))
    T = property(lambda self: _view(self, self._host.T))
    mT = property(lambda self: _view(self, self._host.mT))

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array "
            "explicitly."
        )

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__":
            return NotImplemented
        return call(ufunc, inputs, kwargs)

    def get(self) -> np.ndarray:
        refuse_in_capture("a copy to the host")
        LOG.append(Operation("download", "get"))
        return self._host.copy()

    def set(self, values: np.ndarray) -> None:
        refuse_in_capture("a copy from the host", kind=RuntimeError)
        LOG.append(Operation("upload", "set"))
        self._host[...] = values

    def item(self, *args: Any) -> Any:
        return self.get().item(*args)

    def tolist(self) -> Any:
        return self.get().tolist()

    def fill(self, value: Any) -> None:
        write(self, value, Operation("fill", "fill"))

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        return call(_getitem, (self, _index(index)), name="getitem", kind="other")

    def __setitem__(self, index: Any, value: Any) -> None:
        write(self, value, Operation("elementwise", "setitem"), _index(index))

    def __getattr__(self, name: str) -> Any:
        if name not in METHODS:
            raise AttributeError(f"'cupy.ndarray' object has no attribute {name!r}")
        method = getattr(np.ndarray, name)
        return lambda *args, **kwargs: call(method, (self, *args), kwargs, name)

    def __repr__(self) -> str:
        return f"device {self._host!r}"


for _name, _convert in {"float": float, "int": int, "bool": bool, "index": operator.index}.items():
    setattr(ndarray, f"__{_name}__", lambda self, convert=_convert: convert(self.get()[()]))

_BINARY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide, "floordiv": np.floor_divide,
    "mod": np.remainder, "pow": np.power, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "lshift": np.left_shift, "rshift": np.right_shift, "matmul": np.matmul,
}  # fmt: skip


def infix(ufunc: Any) -> Callable[..., Any]:
    """An operator: as CuPy's it is left to an operand whose class says `__array_ufunc__ = None`."""
    return lambda self, other: (
        NotImplemented if getattr(other, "__array_ufunc__", ufunc) is None else call(ufunc, (self, other))
    )


for _name, _ufunc in _BINARY.items():
    setattr(ndarray, f"__{_name}__", infix(_ufunc))
    setattr(ndarray, f"__r{_name}__", lambda self, other, f=_ufunc: call(f, (other, self)))
    setattr(ndarray, f"__i{_name}__", lambda self, other, f=_ufunc: call(f, (self, other), {"out": self}))
for _name, _ufunc in {
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal,
}.items():  # fmt: skip
    setattr(ndarray, f"__{_name}__", infix(_ufunc))
for _name, _ufunc in {"neg": np.negative, "abs": np.absolute, "invert": np.invert, "pos": np.positive}.items():
    setattr(ndarray, f"__{_name}__", lambda self, f=_ufunc: call(f, (self,)))


def call(function: Callable[..., Any], args: Any, kwargs: Any = None, name: str = "", kind: str = "") -> Any:
    """A NumPy function on device arrays.

    Its result is a view where NumPy's is one; otherwise it is one piece of work for the device, which writes into new
    memory, or into `out`.
    """
    kwargs = dict(kwargs or {})
    name = name or function.__name__
    kind = kind or _kind(function, name)
    if kind == "library":
        refuse_in_capture(f"cuBLAS ({name})", kind=NotImplementedError)
    if name in SYNCHRONISING:
        refuse_in_capture(name)
    out = kwargs.pop("out", None)
    out = out[0] if isinstance(out, tuple) else out
    inputs = list(_arrays((args, tuple(kwargs.values()))))
    here = name not in VIEWS and not (function is _getitem and len(inputs) == 1)  # slices make a view
    host_args, host_kwargs = host(tuple(args), here), {key: host(value, here) for key, value in kwargs.items()}

    if isinstance(function, np.ufunc) and any(isinstance(a, list | tuple) for a in args):
        raise TypeError("Unsupported type <class 'list'>")
    if kind == "library" and inputs and all(x.dtype.name == "bfloat16" for x in inputs):
        function = _by_float32(function)

    def compute() -> Any:
        with np.errstate(all="ignore"):
            return function(*host_args, **host_kwargs)

    value = compute()
    if isinstance(value, tuple | list):
        made = [_wrapped(v, inputs, None) for v in value]
        result: Any = type(value)(*made) if hasattr(value, "_fields") else type(value)(made)
        fresh = [(i, x) for i, (v, x) in enumerate(zip(value, made, strict=True)) if _is_fresh(v, x, inputs)]
    else:
        result = _wrapped(value, inputs, out)
        fresh = [(None, result)] if _is_fresh(value, result, inputs) or out is not None else []
    if not fresh:
        return result

    targets = [(place, x._host) for place, x in fresh]  # no array: what is captured keeps none alive

    def run(found: Any = None) -> None:
        found = compute() if found is None else found
        for place, target in targets:
            np.copyto(target, found if place is None else found[place], casting="same_kind")

    LOG.append(Operation(kind, name))
    used = [*inputs, *(x for _, x in fresh)]
    if current_stream().is_capturing():
        enqueue(run, _blocks(used))
    else:
        run(value)
    return result


def write(array: ndarray, value: Any, operation: Operation, index: Any = ...) -> None:
    """`array[index] = value` on the device."""
    target, index, value, used = host(array), host(index), host(value), list(_arrays((array, index, value)))
    LOG.append(operation)
    enqueue(lambda: target.__setitem__(index, value), _blocks(used))


def host(value: Any, here: bool = True) -> Any:
    """The memory behind arguments of a call. Host arrays are refused, as CuPy does, and those not `here` if asked."""
    if isinstance(value, ndarray):
        if here and value._device != current_device():
            raise ValueError(f"Array device must be same as the current device: {value._device} != {current_device()}")
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, list | tuple):
        return type(value)(host(v, here) for v in value)
    return value


def upload(values: Any, dtype: Any = None) -> ndarray:
    """Host data as a new device array."""
    refuse_in_capture("a copy from the host", kind=RuntimeError)
    source = np.asarray(values, dtype=dtype)
    if source.dtype.kind in "OUSM":
        raise ValueError(f"Unsupported dtype {source.dtype}")
    made = ndarray(source.shape, source.dtype)
    LOG.append(Operation("upload", "asarray"))
    made._host[...] = source
    return made


def brought(array: ndarray) -> ndarray:
    """`array`, or a copy of it on the current device if it is on another one."""
    if array._device == current_device():
        return array
    made = ndarray(array.shape, array.dtype)
    LOG.append(Operation("copy", "copy"))
    source, target = array._host, made._host
    enqueue(lambda: np.copyto(target, source), _blocks([array, made]))
    return made


def _by_float32(function: Callable[..., Any]) -> Callable[..., Any]:
    """A product of bfloat16, of which NumPy has none, as cuBLAS makes it: summed in float32 and rounded once."""

    def product(*args: np.ndarray, **kwargs: Any) -> Any:
        return function(*[a.astype(np.float32) for a in args], **kwargs).astype(args[0].dtype)

    return product


def _getitem(array: np.ndarray, index: Any) -> Any:
    entries = index if isinstance(index, tuple) else (index,)
    if any(isinstance(i, np.ndarray) or i is ... for i in entries):
        return array[index]
    return array[(*entries, ...)]  # a view even of one number


def _index(index: Any) -> Any:
    """An index whose host arrays and lists are uploaded; a mask makes the host wait for the number of its elements."""
    entries = index if isinstance(index, tuple) else (index,)
    entries = tuple(upload(i) if isinstance(i, np.ndarray | list) else i for i in entries)
    if any(isinstance(i, ndarray) and i.dtype == bool for i in entries):
        refuse_in_capture("indexing by a mask")
    return entries if isinstance(index, tuple) else entries[0]


def _kind(function: Any, name: str) -> str:
    if name in LIBRARY or "linalg" in str(getattr(function, "__module__", "")):
        return "library"
    if name in REDUCTIONS:
        return "reduction"
    if name in COPIES:
        return "copy"
    return "elementwise" if isinstance(function, np.ufunc) or name in ("where", "astype", "clip") else "other"


def _wrapped(value: Any, inputs: list[ndarray], out: ndarray | None) -> Any:
    """A result on the device: `out`, an input itself, a view of one, or memory of its own; what is no array stays."""
    if not isinstance(value, np.ndarray | np.generic):
        return value
    value = np.asarray(value)
    if out is not None:
        if out.shape != value.shape:
            raise ValueError(f"Out shape is mismatched: {out.shape} for {value.shape}")
        if not np.can_cast(value.dtype, out.dtype, "same_kind"):
            raise TypeError(f"output (typecode {value.dtype.char!r}) could not be coerced to {out.dtype.char!r}")
        return out
    for x in inputs:
        if value is x._host:
            return x
        if value.size and np.may_share_memory(value, x._lease.block.bytes):
            return _view(x, value)
    return ndarray(value.shape, value.dtype)


def _is_fresh(value: Any, made: Any, inputs: list[ndarray]) -> bool:
    return isinstance(made, ndarray) and all(made._lease is not x._lease for x in inputs)


def _view(array: ndarray, values: np.ndarray) -> ndarray:
    made = ndarray.__new__(ndarray)
    made._host, made._lease, made._device = values, array._lease, array._device
    made.base = array if array.base is None else array.base
    return made


def _arrays(values: Any) -> Iterator[ndarray]:
    for value in values:
        if isinstance(value, ndarray):
            yield value
        elif isinstance(value, list | tuple):
            yield from _arrays(value)


def _blocks(arrays: list[ndarray]) -> list[Block]:
    return [x._lease.block for x in arrays]
