"""Products and decompositions, on arrays without numbers.

A product of an m x k and a k x n matrix takes m k n multiply-adds, each two floating-point operations. For
decompositions the leading terms are counted as G. H. Golub and C. F. Van Loan, "Matrix computations" (4th ed., 2013),
gives them: what LAPACK does differs by its blocks and, for eigenvalues and singular values, by the numbers.
"""

from collections.abc import Callable, Sequence
from math import prod
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple
from numpy.lib.stride_tricks import as_strided

from .array import MetaArray, fresh, ghost_of, iterated, kept, view, work
from .elementwise import FUNCTIONS as NUMBERS
from .elementwise import arrays, is_float

__all__ = ["FUNCTIONS", "linalg"]


def _matmul(left: Any, right: Any) -> Any:
    a, b = arrays([left, right])
    if not a.ndim or not b.ndim:
        raise ValueError(f"matmul: {a.shape} and {b.shape}, of which one has no axis")
    rows = a.ghost if a.ndim > 1 else a.ghost[None]
    columns = b.ghost if b.ndim > 1 else b.ghost[:, None]
    if rows.shape[-1] != columns.shape[-2]:
        raise ValueError(f"matmul: {a.shape} and {b.shape} have other inner lengths")
    batch = np.broadcast_shapes(rows.shape[:-2], columns.shape[:-2])
    shape = (*batch, *rows.shape[-2:-1][: a.ndim - 1], *columns.shape[-1:][: b.ndim - 1])
    dtype = np.result_type(a.dtype, b.dtype)
    count = prod(batch) * rows.shape[-2] * rows.shape[-1] * columns.shape[-1]
    out = fresh(shape, dtype, _stacked(shape, rows, columns))
    return _product("matmul", out, [a, b], count)


def _stacked(shape: Sequence[int], *matrices: np.ndarray) -> list[int]:
    """The order of the axes of a result for each matrix of stacks: NumPy's iterator goes through the stacks."""
    stacks = [as_strided(m, m.shape[:-2], m.strides[:-2]) for m in matrices]
    batch = np.broadcast_shapes(*(stack.shape for stack in stacks))
    order = iterated([np.broadcast_to(stack, batch) for stack in stacks]) or []
    return [*order, *range(len(batch), len(shape))]


def _product(name: str, out: MetaArray, operands: Sequence[Any], count: int) -> MetaArray:
    counted = count if is_float(out.dtype) else 0
    made: MetaArray = work(name, out, operands, flops=2 * counted, multiply_adds=counted)
    return made


def _vecdot(left: Any, right: Any, axis: int = -1) -> Any:
    a, b = (view(x, np.moveaxis(x.ghost, axis, -1)) for x in arrays([left, right]))
    shape = np.broadcast_shapes(a.shape, b.shape)
    order = _stacked(shape[:-1], a.ghost[..., None], b.ghost[..., None])
    return _product("vecdot", fresh(shape[:-1], np.result_type(a.dtype, b.dtype), order), [a, b], prod(shape))


def _outer(left: Any, right: Any) -> Any:
    a, b = arrays([left, right])
    return NUMBERS["multiply"](view(a, a.ghost[:, None]), b)


def _tensordot(left: Any, right: Any, axes: Any = 2) -> Any:
    a, b = arrays([left, right])
    if isinstance(axes, int):
        axes = range(a.ndim - axes, a.ndim), range(axes)
    ours, theirs = (normalize_axis_tuple(chosen, x.ndim) for x, chosen in zip((a, b), axes, strict=True))
    if [a.shape[i] for i in ours] != [b.shape[i] for i in theirs]:
        raise ValueError(f"tensordot: {a.shape} and {b.shape} have other lengths along {axes}")
    rows = [n for i, n in enumerate(a.shape) if i not in ours]
    columns = [n for i, n in enumerate(b.shape) if i not in theirs]
    count = prod(rows) * prod(columns) * prod(a.shape[i] for i in ours)
    return _product("tensordot", fresh((*rows, *columns), np.result_type(a.dtype, b.dtype)), [a, b], count)


def _working(dtype: Any) -> Any:
    """The dtype that LAPACK works in."""
    if not is_float(dtype):
        return np.dtype("float64")
    if dtype.itemsize < 4:
        raise TypeError(f"array type {dtype} is unsupported in linalg")
    return dtype


def _square(name: str, flops: Callable[[int], int], shape: Callable[[Any], Sequence[int]]) -> Callable[..., Any]:
    """A function of square matrices with one result."""

    def call(given: Any, **_: Any) -> Any:
        (x,) = arrays([given])
        batch, n = prod(x.shape[:-2]), x.shape[-1]
        if x.ndim < 2 or x.shape[-2] != n:
            raise np.linalg.LinAlgError("Last 2 dimensions of the array must be square")
        made = shape(x.shape)
        return work(name, fresh(made, _working(x.dtype), _stacked(made, x.ghost)), [x], flops=batch * flops(n))

    return call


def _several(name: str, parts: Callable[..., tuple[int, Sequence[Sequence[int]]]]) -> Callable[..., Any]:
    """A decomposition: `parts(m, n, **options)` gives operations and the shapes of the results for one matrix."""
    names = {"qr": ("Q", "R"), "svd": ("U", "S", "Vh"), "eigh": ("eigenvalues", "eigenvectors")}
    names |= {"slogdet": ("sign", "logabsdet")}

    def call(given: Any, **options: Any) -> Any:
        (x,) = arrays([given])
        flops, parts_of_one = parts(*x.shape[-2:], **options)
        batch, shapes = x.shape[:-2], [(*x.shape[:-2], *shape) for shape in parts_of_one]
        working = _working(x.dtype)
        dtype = np.dtype("int64") if name == "matrix_rank" else working
        orders = [_stacked(shape, x.ghost) for shape in shapes]
        if name == "qr":  # the upper triangles of what was a copy of x
            copy = ghost_of(x.shape, dtype, kept(x.ghost))[..., : shapes[1][-2], :]
            orders[1] = iterated([np.broadcast_to(ghost_of(shapes[1][-2:], np.dtype(bool)), shapes[1]), copy]) or []
        results = [fresh(shape, dtype, order) for shape, order in zip(shapes, orders, strict=True)]
        work(name, results[0], [x], flops=prod(batch) * flops, written=sum(r.nbytes for r in results))
        return _Parts(results, names[name]) if name in names else results[0]

    return call


class _Parts(tuple):  # type: ignore[type-arg]
    """A tuple with names."""

    def __new__(cls, values: Sequence[Any], names: Sequence[str]) -> "_Parts":
        made = super().__new__(cls, values)
        vars(made).update(zip(names, values, strict=True))
        return made


def _solve(left: Any, right: Any) -> Any:
    a, b = arrays([left, right])
    n = a.shape[-1]
    if a.ndim < 2 or a.shape[-2] != n or b.shape[-2 if b.ndim > 1 else -1] != n:
        raise np.linalg.LinAlgError(f"solve: {a.shape} is no square matrix for {b.shape}")
    columns = 1 if b.ndim == 1 else b.shape[-1]
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2] if b.ndim > 1 else ())
    shape = (*batch, n, columns)[: None if b.ndim > 1 else -1]
    flops = prod(batch) * (2 * n**3 // 3 + 2 * n * n * columns)
    order = _stacked(shape, a.ghost, b.ghost if b.ndim > 1 else b.ghost[:, None])
    return work("solve", fresh(shape, _working(np.result_type(a.dtype, b.dtype)), order), [a, b], flops=flops)


def _qr(m: int, n: int, **_: Any) -> tuple[int, Sequence[Sequence[int]]]:
    k = min(m, n)
    return 4 * m * n * k - 4 * k**3 // 3, [(m, k), (k, n)]  # Householder, and Q made of its reflections


def _svd(m: int, n: int, full_matrices: bool = True) -> tuple[int, Sequence[Sequence[int]]]:
    k = min(m, n)
    shapes: list[Sequence[int]] = [(m, m if full_matrices else k), (k,), (n if full_matrices else k, n)]
    return 4 * m * m * n + 8 * m * n * n + 9 * n**3, shapes


def _pinv(m: int, n: int, **_: Any) -> tuple[int, Sequence[Sequence[int]]]:
    return _svd(m, n)[0] + 2 * m * n * min(m, n), [(n, m)]


def _cross(left: Any, right: Any, axis: int = -1) -> Any:
    operands = arrays([left, right])
    shape = np.broadcast_shapes(*(x.shape for x in operands))
    out = fresh(shape, np.result_type(*(x.dtype for x in operands)))
    return work("cross", out, operands, flops=3 * out.size if is_float(out.dtype) else 0)


def _diagonal(given: Any, offset: int = 0) -> Any:
    (x,) = arrays([given])
    return view(x, np.linalg.diagonal(x.ghost, offset=offset))


def _trace(given: Any, offset: int = 0, dtype: Any = None) -> Any:
    return NUMBERS["sum"](_diagonal(given, offset), axis=-1, dtype=dtype)


def _described(name: str, operands: Sequence[Any], specs: Any, flops: int) -> Any:
    """What is said of a call, done: it reads `operands` and makes an array of each (shape, dtype)."""
    several = isinstance(specs, list)
    made = [fresh(shape, np.dtype(dtype)) for shape, dtype in (specs if several else [specs])]
    work(name, made[0], arrays(operands), flops=flops, written=sum(x.nbytes for x in made))
    return tuple(made) if several else made[0]


_same: Callable[[Any], Any] = lambda shape: shape  # noqa: E731
linalg = SimpleNamespace(
    cholesky=_square("cholesky", lambda n: n**3 // 3, _same),
    cross=_cross,
    det=_square("det", lambda n: 2 * n**3 // 3, lambda shape: shape[:-2]),
    diagonal=_diagonal,
    eigh=_several("eigh", lambda n, _: (9 * n**3, [(n,), (n, n)])),
    eigvalsh=_square("eigvalsh", lambda n: 4 * n**3 // 3, lambda shape: shape[:-1]),
    inv=_square("inv", lambda n: 2 * n**3, _same),
    matmul=_matmul,
    matrix_rank=_several("matrix_rank", lambda m, n, **_: (2 * m * n * min(m, n), [()])),
    outer=_outer,
    pinv=_several("pinv", _pinv),
    qr=_several("qr", _qr),
    slogdet=_several("slogdet", lambda n, _: (2 * n**3 // 3, [(), ()])),
    solve=_solve,
    svd=_several("svd", _svd),
    svdvals=_several("svdvals", lambda m, n: (4 * m * n * min(m, n) - 4 * min(m, n) ** 3 // 3, [(min(m, n),)])),
    tensordot=_tensordot,
    trace=_trace,
    vecdot=_vecdot,
)
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "described": _described,
    "matmul": _matmul,
    "tensordot": _tensordot,
    "vecdot": _vecdot,
    "diagonal": _diagonal,
    "trace": _trace,
}
