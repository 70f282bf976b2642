"""Functions that make, move and choose numbers, on arrays without numbers."""

from collections.abc import Callable, Sequence
from math import ceil, prod
from typing import Any

import numpy as np

from ...errors import DeviceError
from .array import MetaArray, fresh, iterated, joined, kept, view, work
from .elementwise import arrays, broadcast, is_float

__all__ = ["FUNCTIONS"]

_FLOAT, _INTEGER = np.dtype("float64"), np.dtype("int64")

# --- new arrays -------------------------------------------------------------------------------------------------------


def _new(name: str, written: bool = True) -> Callable[..., Any]:
    def call(shape: Any, *_: Any, dtype: Any = None, **__: Any) -> Any:
        lengths = tuple(shape) if isinstance(shape, Sequence) else (shape,)
        out = fresh(lengths, _FLOAT if dtype is None else np.dtype(dtype))
        return work(name, out, []) if written else out

    return call


def _new_like(name: str, written: bool = True) -> Callable[..., Any]:
    def call(given: Any, *_: Any, dtype: Any = None, **__: Any) -> Any:
        (x,) = arrays([given])
        out = fresh(x.shape, x.dtype if dtype is None else np.dtype(dtype), kept(x.ghost))
        return work(name, out, []) if written else out

    return call


def _full(shape: Any, value: Any, dtype: Any = None, **_: Any) -> Any:
    return FUNCTIONS["zeros"](shape, dtype=np.asarray(value).dtype if dtype is None else dtype)


def _asarray(given: Any, dtype: Any = None, copy: bool | None = None, **_: Any) -> Any:
    if isinstance(given, bool | int | float | list | tuple):
        made = np.asarray(given, dtype=dtype)
        known = made if made.dtype.kind in "biu" else None
        return work("asarray", fresh(made.shape, made.dtype, known=known), [])
    (x,) = arrays([given])
    kind = x.dtype if dtype is None else np.dtype(dtype)
    return x if kind == x.dtype and not copy else work("asarray", fresh(x.shape, kind, kept(x.ghost)), [x])


def _arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None, **_: Any) -> Any:
    start, stop = (0, start) if stop is None else (start, stop)
    kind = np.result_type(*(np.asarray(n).dtype for n in (start, stop, step))) if dtype is None else np.dtype(dtype)
    return work("arange", fresh((max(ceil((stop - start) / step), 0),), kind), [])


def _linspace(start: Any, stop: Any, num: int, dtype: Any = None, **_: Any) -> Any:
    return work("linspace", fresh((num,), _FLOAT if dtype is None else np.dtype(dtype)), [])


def _eye(rows: int, columns: int | None = None, dtype: Any = None, **_: Any) -> Any:
    shape = (rows, rows if columns is None else columns)
    return work("eye", fresh(shape, _FLOAT if dtype is None else np.dtype(dtype)), [])


# --- views ------------------------------------------------------------------------------------------------------------


def _viewing(function: Callable[..., np.ndarray]) -> Callable[..., Any]:
    """A function of NumPy that only makes views."""

    def call(given: Any, *args: Any, **kwargs: Any) -> Any:
        (x,) = arrays([given])
        return view(x, function(x.ghost, *args, **kwargs))

    return call


def _reshape(given: Any, shape: Any, copy: bool | None = None) -> Any:
    (x,) = arrays([given])
    try:
        ghost = np.reshape(x.ghost, shape, copy=False)
    except ValueError:
        lengths = np.broadcast_to(np.zeros((), np.int8), x.shape).reshape(shape).shape  # names a shape that is wrong
        return work("reshape", fresh(lengths, x.dtype), [x])
    return work("reshape", fresh(ghost.shape, x.dtype), [x]) if copy else view(x, ghost)


def _broadcast_arrays(*given: Any) -> list[Any]:
    operands = arrays(given)
    _, ghosts = broadcast(operands)
    return [view(x, ghost) for x, ghost in zip(operands, ghosts, strict=True)]


def _unstack(given: Any, axis: int = 0) -> tuple[Any, ...]:
    (x,) = arrays([given])
    first = np.moveaxis(x.ghost, axis, 0)
    return tuple(view(x, first[i, ...]) for i in range(len(first)))


# --- copies -----------------------------------------------------------------------------------------------------------


def _copying(name: str, shape_of: Callable[..., Sequence[int]]) -> Callable[..., Any]:
    """A function whose result is a copy, of the shape that `shape_of(x, *args)` gives."""

    def call(given: Any, *args: Any, **kwargs: Any) -> Any:
        (x,) = arrays([given])
        return work(name, fresh(shape_of(x, *args, **kwargs), x.dtype), [x])

    return call


def _concat(given: Sequence[Any], axis: int | None = 0) -> Any:
    operands = arrays(given)
    flat = [_reshape(x, (-1,)).ghost if axis is None else x.ghost for x in operands]
    place = range(flat[0].ndim)[axis or 0]
    shape = list(flat[0].shape)
    for g in flat[1:]:
        if g.ndim != len(shape) or any(g.shape[a] != n for a, n in enumerate(shape) if a != place):
            raise ValueError(f"shapes {flat[0].shape} and {g.shape} differ along another axis than {place}")
        shape[place] += g.shape[place]
    return work("concat", fresh(shape, np.result_type(*(x.dtype for x in operands)), joined(flat)), operands)


def _stack(given: Sequence[Any], axis: int = 0) -> Any:
    return _concat([view(x, np.expand_dims(x.ghost, axis)) for x in arrays(given)], axis)


def _repeated(x: MetaArray, repeats: Any, axis: int | None = None) -> tuple[int, ...]:
    place = range(x.ndim)[axis or 0]
    total = int(np.broadcast_to(repeats, x.shape[place]).sum()) if not isinstance(repeats, int) else (
        repeats * x.shape[place]
    )  # fmt: skip
    return tuple(total if a == place else n for a, n in enumerate(x.shape))


def _tiled(x: MetaArray, repetitions: Sequence[int]) -> tuple[int, ...]:
    ndim = max(x.ndim, len(repetitions))
    lengths, times = ((1,) * (ndim - len(t)) + tuple(t) for t in (x.shape, repetitions))
    return tuple(n * k for n, k in zip(lengths, times, strict=True))


def _triangle(name: str) -> Callable[..., Any]:
    return _copying(name, lambda x, *_, **__: x.shape)


# --- indices ----------------------------------------------------------------------------------------------------------


def _chosen(x: MetaArray, index: Any) -> tuple[tuple[int, ...], bool]:
    """The shape of `x[index]`, and whether it is a copy: it is where there are arrays in the index."""
    entries = index if isinstance(index, tuple) else (index,)
    host = []
    for entry in entries:
        if isinstance(entry, MetaArray):
            if entry.dtype.kind == "b" and entry.known is None:
                raise DeviceError("the shape of x[mask] depends on numbers, and an array on 'meta' has none")
            entry = np.broadcast_to(np.zeros((), np.int64), entry.shape) if entry.known is None else entry.known
        host.append(entry)
    advanced = any(hasattr(entry, "dtype") or isinstance(entry, list) for entry in host)
    nothing = np.broadcast_to(np.zeros((), np.dtype([])), x.shape)  # of no bytes: choosing moves none
    return nothing[tuple(host)].shape, advanced


def _getitem(x: MetaArray, index: Any) -> Any:
    shape, advanced = _chosen(x, index)
    if not advanced:
        entries = index if isinstance(index, tuple) else (index,)
        return view(x, x.ghost[entries if any(entry is ... for entry in entries) else (*entries, ...)])
    out = fresh(shape, x.dtype)
    return work("getitem", out, _arrays_in(index), read=out.nbytes)


def _arrays_in(index: Any) -> list[Any]:
    """The arrays of positions and the masks of an index: they are read too."""
    return arrays([entry for entry in (index if isinstance(index, tuple) else (index,)) if hasattr(entry, "dtype")])


def _written(name: str, adds: bool = False) -> Callable[..., Any]:
    """`x[index] = values`, or with repeated positions added up."""

    def call(x: MetaArray, index: Any, values: Any) -> Any:
        shape, _ = _chosen(x, index)
        (given,) = arrays([values])
        lengths = tuple(getattr(given, "shape", ()))
        while len(lengths) > len(shape) and lengths[0] == 1:
            lengths = lengths[1:]
        if np.broadcast_shapes(lengths, shape) != shape:
            raise ValueError(f"could not broadcast input array from shape {given.shape} into shape {shape}")
        count = prod(shape)
        nbytes = count * x.dtype.itemsize
        flops = count if adds and is_float(x.dtype) else 0
        return work(name, x, [given, *_arrays_in(index)], flops, read=nbytes if adds else 0, written=nbytes)

    return call


def _take(given: Any, indices: Any, axis: int | None = None) -> Any:
    (x,) = arrays([given])
    place = range(x.ndim)[axis or 0]
    return _getitem(x, (*(slice(None),) * place, indices))


def _take_along_axis(given: Any, indices: Any, axis: int = -1) -> Any:
    x, places = arrays([given, indices])
    at = range(x.ndim)[axis]
    shape = np.broadcast_shapes((*x.shape[:at], 1, *x.shape[at + 1 :]), places.shape)
    out = fresh(shape, x.dtype)
    return work("take_along_axis", out, [places], read=out.nbytes)


# --- order ------------------------------------------------------------------------------------------------------------


def _sorting(name: str, dtype: Any = None) -> Callable[..., Any]:
    def call(given: Any, axis: int = -1, **_: Any) -> Any:
        (x,) = arrays([given])
        range(x.ndim)[axis]  # one that does not exist is an IndexError
        return work(name, fresh(x.shape, dtype or x.dtype), [x])

    return call


def _searchsorted(given: Any, wanted: Any, side: str = "left", sorter: Any = None) -> Any:
    operands = arrays([given, wanted] if sorter is None else [given, wanted, sorter])
    return work("searchsorted", fresh(operands[1].shape, _INTEGER), operands)


def _depends_on_numbers(name: str) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise DeviceError(f"the shape of {name} depends on numbers, and an array on 'meta' has none")

    return call


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "zeros": _new("zeros"),
    "ones": _new("ones"),
    "empty": _new("empty", written=False),
    "full": _full,
    "zeros_like": _new_like("zeros_like"),
    "ones_like": _new_like("ones_like"),
    "empty_like": _new_like("empty_like", written=False),
    "full_like": _new_like("full_like"),
    "asarray": _asarray,
    "arange": _arange,
    "linspace": _linspace,
    "eye": _eye,
    "reshape": _reshape,
    "broadcast_to": _viewing(np.broadcast_to),
    "broadcast_arrays": _broadcast_arrays,
    "permute_dims": _viewing(np.permute_dims),
    "matrix_transpose": _viewing(np.matrix_transpose),
    "moveaxis": _viewing(np.moveaxis),
    "expand_dims": _viewing(lambda x, *a, axis=0: np.expand_dims(x, *(a or (axis,)))),
    "squeeze": _viewing(np.squeeze),
    "flip": _viewing(np.flip),
    "unstack": _unstack,
    "concat": _concat,
    "stack": _stack,
    "roll": _copying("roll", lambda x, *_, **__: x.shape),
    "repeat": _copying("repeat", _repeated),
    "tile": _copying("tile", _tiled),
    "tril": _triangle("tril"),
    "triu": _triangle("triu"),
    "getitem": _getitem,
    "setitem": _written("setitem"),
    "scatter_set": _written("scatter_set"),
    "scatter_add": _written("scatter_add", adds=True),
    "take": _take,
    "take_along_axis": _take_along_axis,
    "sort": _sorting("sort"),
    "argsort": _sorting("argsort", _INTEGER),
    "searchsorted": _searchsorted,
}
FUNCTIONS |= {
    name: _depends_on_numbers(name)
    for name in ("nonzero", "unique_all", "unique_counts", "unique_inverse", "unique_values")
}
