"""Functions that make, move and choose numbers, on arrays without numbers."""

from collections.abc import Callable, Sequence
from math import ceil, prod
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple
from numpy.lib.stride_tricks import as_strided

from ...errors import DeviceError
from .array import MetaArray, fresh, ghost_of, iterated, joined, kept, view, work
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
        return _copied(x, lengths)
    return _copied(x, ghost.shape) if copy else view(x, ghost)


def _copied(x: MetaArray, shape: Sequence[int]) -> MetaArray:
    """A copy that was reshaped, as NumPy does it."""
    out = work("reshape", fresh(shape, x.dtype), [x])
    return view(out, out.ghost)


def _broadcast_arrays(*given: Any) -> list[Any]:
    operands = arrays(given)
    _, ghosts = broadcast(operands)
    return [view(x, ghost) for x, ghost in zip(operands, ghosts, strict=True)]


def _unstack(given: Any, axis: int = 0) -> tuple[Any, ...]:
    (x,) = arrays([given])
    first = np.moveaxis(x.ghost, axis, 0)
    return tuple(view(x, first[i, ...]) for i in range(len(first)))


# --- copies -----------------------------------------------------------------------------------------------------------


def _roll(given: Any, shift: Any, axis: Any = None) -> Any:
    (x,) = arrays([given])
    if axis is not None:
        normalize_axis_tuple(axis, x.ndim, allow_duplicate=True)  # an axis that does not exist is an error
        return work("roll", fresh(x.shape, x.dtype, kept(x.ghost)), [x])
    rolled = work("roll", fresh((x.size,), x.dtype), [x])
    return view(rolled, rolled.ghost.reshape(x.shape))


def _tile(given: Any, repetitions: Sequence[int]) -> Any:
    (x,) = arrays([given])
    ndim = max(x.ndim, len(repetitions))
    times = (1,) * (ndim - len(repetitions)) + tuple(repetitions)
    shape = (1,) * (ndim - x.ndim) + x.shape
    if all(n == 1 for n in times):
        out = work("tile", fresh(shape, x.dtype, kept(x.ghost.reshape(shape, copy=False))), [x])
        return view(out, out.ghost) if ndim > x.ndim else out
    out = work("tile", fresh([n * k for n, k in zip(shape, times, strict=True)], x.dtype), [x])
    return view(out, out.ghost)


def _triangle(name: str) -> Callable[..., Any]:
    def call(given: Any, *_: Any, **__: Any) -> Any:
        (x,) = arrays([given])
        mask = np.broadcast_to(ghost_of(x.shape[-2:], np.dtype(bool)), x.shape)  # what NumPy chooses by
        return work(name, fresh(x.shape, x.dtype, iterated([mask, x.ghost])), [x])

    return call


def _concat(given: Sequence[Any], axis: int | None = 0) -> Any:
    operands = arrays(given)
    dtype = np.result_type(*(x.dtype for x in operands))
    if axis is None:
        return work("concat", fresh((sum(x.size for x in operands),), dtype), operands)
    ghosts = [x.ghost for x in operands]
    place = normalize_axis_index(axis, ghosts[0].ndim)
    shape = list(ghosts[0].shape)
    for g in ghosts[1:]:
        if g.ndim != len(shape) or any(g.shape[a] != n for a, n in enumerate(shape) if a != place):
            raise ValueError(f"shapes {ghosts[0].shape} and {g.shape} differ along another axis than {place}")
        shape[place] += g.shape[place]
    return work("concat", fresh(shape, dtype, joined(ghosts)), operands)


def _stack(given: Sequence[Any], axis: int = 0) -> Any:
    return _concat([view(x, np.expand_dims(x.ghost, axis)) for x in arrays(given)], axis)


def _repeat(given: Any, repeats: Any, axis: int | None = None) -> Any:
    (x,) = arrays([given])
    if isinstance(repeats, MetaArray):
        if repeats.known is None:
            raise DeviceError("the shape of repeat depends on numbers, and an array on 'meta' has none")
        repeats = repeats.known
    lengths = [x.size] if axis is None else list(x.shape)
    place = normalize_axis_index(axis or 0, len(lengths))
    lengths[place] = int(np.broadcast_to(repeats, (lengths[place],)).sum())
    return work("repeat", fresh(lengths, x.dtype), [x])


# --- indices ----------------------------------------------------------------------------------------------------------


def _entries(index: Any) -> tuple[Any, ...]:
    """The entries of an index, an Ellipsis among them: of integers alone NumPy would read a number."""
    entries = index if isinstance(index, tuple) else (index,)
    return entries if any(entry is ... for entry in entries) else (*entries, ...)


def _is_array(entry: Any) -> bool:
    return hasattr(entry, "dtype") or isinstance(entry, list | bool)


def _on_host(entry: Any) -> Any:
    """An entry of an index as NumPy takes it. Positions that are not known do: any are as many."""
    if not isinstance(entry, MetaArray):
        return entry
    if entry.dtype.kind == "b" and entry.known is None:
        raise DeviceError("the shape of x[mask] depends on numbers, and an array on 'meta' has none")
    return as_strided(np.zeros(1, np.int64), entry.shape, (0,) * entry.ndim) if entry.known is None else entry.known


def _shape_of_choice(x: MetaArray, index: Any) -> tuple[int, ...]:
    """The shape of `x[index]`."""
    nothing = np.broadcast_to(np.zeros((), np.dtype([])), x.shape)  # of no bytes: choosing moves none
    return nothing[tuple(map(_on_host, _entries(index)))].shape


def _getitem(x: MetaArray, index: Any) -> Any:
    entries = _entries(index)
    if not any(map(_is_array, entries)):
        return view(x, x.ghost[entries])
    out = _choice(x, [_on_host(entry) for entry in entries], _shape_of_choice(x, index))
    return work("getitem", out, _arrays_in(index), read=out.nbytes)


def _choice(x: MetaArray, entries: Sequence[Any], shape: tuple[int, ...]) -> MetaArray:
    """What NumPy makes for `x[entries]` where there are arrays in them.

    The axes of the arrays come first in memory, then the others in the order of x. Where all arrays, and integers
    beside them, stand side by side, their axes are then moved to that place: the result is a view.
    """
    chosen = [i for i, entry in enumerate(entries) if _is_array(entry) or isinstance(entry, int)]
    ranks = [np.ndim(e) if i in chosen and np.asarray(e).dtype.kind == "b" else 1 for i, e in enumerate(entries)]
    taken = sum(n for n, e in zip(ranks, entries, strict=True) if e is not None and e is not ...)
    before = sum(x.ndim - taken if e is ... else 1 for e in entries[: chosen[0]])
    place = before if chosen[-1] - chosen[0] == len(chosen) - 1 else 0
    if not prod(shape) or all(np.ndim(entries[i]) == 0 and ranks[i] for i in chosen):
        out = fresh(shape, x.dtype)
        return view(out, out.ghost) if place else out
    rest = x.ghost[tuple([z for i, e in enumerate(entries) for z in ([0] * ranks[i] if i in chosen else [e])])]
    many = len(shape) - rest.ndim
    order = [*range(place, place + many), *range(place), *range(place + many, len(shape))]
    first = tuple([shape[axis] for axis in order])
    out = fresh(first, x.dtype, [*range(many), *(many + axis for axis in kept(rest))])
    return view(out, np.moveaxis(out.ghost, range(many), order[:many])) if place else out


def _arrays_in(index: Any) -> list[Any]:
    """The arrays of positions and the masks of an index: they are read too."""
    return arrays([entry for entry in _entries(index) if hasattr(entry, "dtype")])


def _written(name: str, adds: bool = False) -> Callable[..., Any]:
    """`x[index] = values`, or with repeated positions added up."""

    def call(x: MetaArray, index: Any, values: Any) -> Any:
        shape = _shape_of_choice(x, index)
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
    (places,) = arrays([indices])
    place = normalize_axis_index(axis or 0, x.ndim)
    out = fresh((*x.shape[:place], *places.shape, *x.shape[place + 1 :]), x.dtype)
    return work("take", out, [places], read=out.nbytes)


def _take_along_axis(given: Any, indices: Any, axis: int = -1) -> Any:
    x, places = arrays([given, indices])
    at = normalize_axis_index(axis, x.ndim)
    shape = np.broadcast_shapes((*x.shape[:at], 1, *x.shape[at + 1 :]), places.shape)
    out = fresh(shape, x.dtype, iterated([np.broadcast_to(places.ghost, shape)]))
    return work("take_along_axis", out, [places], read=out.nbytes)


# --- order ------------------------------------------------------------------------------------------------------------


def _sorting(name: str, dtype: Any = None) -> Callable[..., Any]:
    def call(given: Any, axis: int = -1, descending: bool = False, **_: Any) -> Any:
        (x,) = arrays([given])
        normalize_axis_index(axis, x.ndim)  # an axis that does not exist is an error
        out = work(name, fresh(x.shape, dtype or x.dtype, None if dtype else kept(x.ghost)), [x])
        return view(out, np.flip(out.ghost, axis)) if descending and not dtype else out

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
    "roll": _roll,
    "repeat": _repeat,
    "tile": _tile,
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
