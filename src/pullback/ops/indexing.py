"""Indexing: reading, writing and adding at chosen positions.

An index is what NumPy takes: integers, slices, None, Ellipsis, integer arrays, boolean masks (Tensors, arrays or nested
lists), or a tuple of these. Reading is linear, and its transpose is `scatter`, so both differentiate to any order.

Errors: IndexingError for a position out of range, a mask of the wrong length, or too many indices; DtypeError for an
index of another type, such as floats; DeviceError for a Tensor on another device. CuPy does not check the values of
integer arrays, which would wait for the device.
"""

from typing import Any

from ..backends import BACKENDS, canonical_dtype, is_floating
from ..core.define import Array, Sample, op
from ..core.tensor import Tensor, as_array
from ..errors import DeviceError, DtypeError, ShapeError
from ..shapes import Shape, along, broadcast_shape, kept, normalize_axis

__all__ = [
    "at_add", "at_set", "getitem", "scatter", "scatter_along_axis", "take", "take_along_axis", "written_last",
]  # fmt: skip

_BASIC = {int, slice, type(None), type(Ellipsis)}


# --- what an index is -------------------------------------------------------------------------------------------------


def _is_basic(index: Any) -> bool:
    """Whether `index` chooses by slices and integers alone, so that no position is chosen twice."""
    return index.__class__ in _BASIC or (index.__class__ is tuple and all(entry.__class__ in _BASIC for entry in index))


def _kind(array: Any) -> str:
    return canonical_dtype(array.dtype).kind if hasattr(array, "dtype") else "O"


def _ready(x: Any, index: Any) -> tuple[Any, bool]:
    """`index` as arrays of the backend of `x` take it, and whether it holds an integer array."""
    if _is_basic(index):
        return index, False
    entries = [_entry(x, entry) for entry in (index if index.__class__ is tuple else (index,))]
    has_integers = any(_kind(entry) in "iu" for entry in entries if hasattr(entry, "dtype"))
    return (tuple(entries) if index.__class__ is tuple else entries[0]), has_integers


def _entry(x: Any, entry: Any) -> Any:
    """One entry of an index of `x`: a number, a slice, None, Ellipsis, or an array of its backend."""
    if entry.__class__ in _BASIC:
        return entry
    if isinstance(entry, bool | list | tuple):
        array = as_array(entry)
        array = array if array.size else array.astype(int)  # an empty list holds no floats
    else:
        array = entry.data if isinstance(entry, Tensor) else entry
    if _kind(array) not in "iub":
        raise DtypeError(
            "an index is made of integers, slices, None, Ellipsis, integer arrays and boolean masks; "
            f"got {getattr(array, 'dtype', type(array).__name__)}"
        )
    backend, owner = BACKENDS[x.__class__], BACKENDS[array.__class__]
    if owner is not backend and not isinstance(entry, Tensor):
        return backend.asarray(array)
    if owner is backend and backend.name == "cpu":
        return array if array.ndim or _kind(array) == "b" else int(array)
    here, there = backend.device_of(x), owner.device_of(array)
    if here != there:
        raise DeviceError(f"the index is on {there}, the array on {here}; move one with .to()")
    return array


def _refuse_positions(indices: Any) -> None:
    if indices.__class__ is not int and _kind(indices) not in "iu":
        raise DtypeError(f"indices are integers; got {getattr(indices, 'dtype', type(indices).__name__)}")


def _unbroadcast(xp: Any, g: Any, shape: Shape) -> Any:
    """`g` summed down to `shape`, which may have unit axes in front that g lacks (as a written value may)."""
    if g.shape == shape:
        return g
    extra = len(shape) - g.ndim
    return xp.reshape(xp.sum_to(g, shape[extra:]), shape) if extra > 0 else xp.sum_to(g, shape)


# --- reading, and its transpose ---------------------------------------------------------------------------------------


def _indices() -> list[Any]:
    """Indices of every kind for an array of shape (3, 4)."""
    mask = [[True, False, True, True], [False] * 4, [False, True, False, False]]
    return [
        1, (-1, 2), (slice(None, None, -1), slice(1, 3)), (..., None, -1), (slice(0, 0),), (),
        [2, 0, 2], ([0, 1, 1], [3, -1, -1]), (slice(None), [[1], [0]]), ([1, 1], None, slice(1, None)),
        ([0, 2], None, 1), mask, [True, False, True], (slice(None), [False, True, True, False]),
        ([True, False, True], 2), ([[0], [2]], [1, 3]), True, [],
    ]  # fmt: skip


def _read(rng: Any) -> Any:
    for index in _indices():
        yield Sample((rng.normal(size=(3, 4)), index))
    yield Sample((rng.normal(size=()), (None, ...)))


@op(
    lambda xp, g, index, x_shape: xp.scatter(g, index, x_shape),
    jvp="linear",
    view=True,
    samples=_read,
    standard=False,
)
def getitem(xp: Any, x: Array, index: Any) -> Any:
    """`x[index]`, by NumPy's rules.

    Raises:
        IndexingError: a position is out of range, a mask has the wrong length, or there are too many indices.
        DtypeError: an index is of another type. DeviceError: an index is on another device.
    """
    return x[_ready(x, index)[0]]


def _scattered(rng: Any) -> Any:
    grid = rng.normal(size=(3, 4))
    for index in _indices():
        yield Sample((rng.normal(size=grid[index].shape), index, (3, 4)))
    yield Sample((rng.normal(size=(4,)), [2, 0, 2], (3, 4)))


@op(
    lambda xp, g, values_shape, index: _unbroadcast(xp, xp.getitem(g, index), values_shape),
    jvp="linear",
    samples=_scattered,
    standard=False,
)
def scatter(xp: Any, values: Array, index: Any, shape: Shape) -> Any:
    """Zeros of `shape` with `values` added at `index`: the transpose of reading there. Positions that repeat add up.

    Raises: as `getitem`; ShapeError when the values do not broadcast to what the index chooses.
    """
    index, has_integers = _ready(values, index)
    out = xp.zeros(shape, dtype=values.dtype, device=values.device)
    if has_integers:
        return xp.scatter_add(out, index, values)
    out[index] = values
    return out


# --- writing and adding -----------------------------------------------------------------------------------------------


def _fitted(xp: Any, x: Any, value: Any) -> Any:
    """`value` in the dtype of `x`, into which it is written."""
    floats = isinstance(value, float) or (hasattr(value, "dtype") and is_floating(value.dtype))
    if floats and not is_floating(x.dtype):
        raise DtypeError(f"floating-point numbers would be cut to fit into {x.dtype}; convert one of them with astype")
    return xp.astype(value, x.dtype) if getattr(value, "dtype", x.dtype) != x.dtype else value


def _written(rng: Any) -> Any:
    grid = rng.normal(size=(3, 4))
    for index in _indices():
        yield Sample((rng.normal(size=(3, 4)), rng.normal(size=grid[index].shape), index))
    yield Sample((rng.normal(size=(3, 4)), rng.normal(size=(1, 1, 2)), (slice(0, 2), slice(1, 3))))
    yield Sample((rng.normal(size=(3, 4)), rng.normal(size=()), [[0, 0], [2, 0]]))


@op(
    lambda xp, g, index: xp.at_set(g, 0, index),
    lambda xp, g, value_shape, index: _unbroadcast(xp, _surviving(xp, xp.getitem(g, index), g, index), value_shape),
    jvp=(
        lambda xp, t, index: xp.at_set(t, 0, index),
        lambda xp, t, index, x_shape: xp.scatter(_surviving(xp, t, t, index, x_shape), index, x_shape),
    ),
    samples=_written,
    standard=False,
)
def at_set(xp: Any, x: Array, value: Array, index: Any) -> Any:
    """`x` with `value`, broadcast and in the dtype of x, at `index`: what `x.at[index].set(value)` gives.

    Where positions of integer arrays repeat, one of the numbers stays (on the CPU the last), and only that one has a
    gradient.

    Raises: as `getitem`; ShapeError when the value does not broadcast to what the index chooses; DtypeError for
    floating-point numbers into an array of integers.
    """
    index, has_integers = _ready(x, index)
    value = _fitted(xp, x, value)
    out = xp.asarray(x, copy=True)
    if has_integers:
        return xp.scatter_set(out, index, value)
    out[index] = value
    return out


def _surviving(xp: Any, values: Any, like: Any, index: Any, shape: Any = None) -> Any:
    """`values` at an index, without those that a later one overwrites."""
    if _is_basic(index):
        return values
    return values * xp.written_last(like, index, like.shape if shape is None else shape)


def _overwritten(rng: Any) -> Any:
    yield Sample((rng.normal(size=3), ([0, 1, 0], [2, 3, 2]), (3, 4)))


@op(None, samples=_overwritten)
def written_last(xp: Any, like: Array, index: Any, shape: Shape) -> Any:
    """1 where the number written at an entry of `index` stays, 0 where another overwrites it; in the dtype of `like`.

    `shape` is that of the array written into. All entries are numbered and written: those that stay read their own
    number.
    """
    index, has_integers = _ready(like, index)
    entries = xp.zeros(shape, dtype=xp.int64, device=like.device)
    chosen = entries[index]
    if not has_integers:
        return xp.ones(chosen.shape, dtype=like.dtype, device=like.device)
    numbers = xp.reshape(xp.arange(chosen.size, device=like.device), chosen.shape)
    return xp.astype(xp.scatter_set(entries, index, numbers)[index] == numbers, like.dtype)


@op(
    lambda g: g,
    lambda xp, g, value_shape, index: _unbroadcast(xp, xp.getitem(g, index), value_shape),
    jvp=(lambda t: t, lambda xp, t, index, x_shape: xp.scatter(t, index, x_shape)),
    samples=_written,
    standard=False,
)
def at_add(xp: Any, x: Array, value: Array, index: Any) -> Any:
    """`x` with `value`, broadcast and in the dtype of x, added at `index`: what `x.at[index].add(value)` gives.

    Positions that repeat add up.

    Raises: as `at_set`.
    """
    index, has_integers = _ready(x, index)
    value = _fitted(xp, x, value)
    out = xp.asarray(x, copy=True)
    if has_integers:
        return xp.scatter_add(out, index, value)
    out[index] = out[index] + value
    return out


# --- along one axis ---------------------------------------------------------------------------------------------------


def _taken(rng: Any) -> Any:
    x = rng.normal(size=(2, 3, 2))
    for axis, size in ((0, 2), (1, 3), (-1, 2)):
        yield Sample((x, rng.integers(0, size, 4)), {"axis": axis})
    yield Sample((rng.normal(size=(5,)), rng.integers(0, 5, 3)))


@op(
    lambda xp, g, x_shape, indices, axis: xp.scatter(g, along(axis or 0, len(x_shape), indices), x_shape),
    None,
    jvp=(lambda xp, t, indices, axis: xp.take(t, indices, axis=axis), None),
    samples=_taken,
)
def take(xp: Any, x: Array, indices: Array, axis: int | None = None) -> Any:
    """The slices of `x` at the integers `indices` along `axis`, which may be left out for a vector.

    Shapes: the axis is replaced by those of the indices (the standard has vectors only; NumPy and CuPy take any shape).

    Raises:
        IndexingError: an index is out of range. DtypeError: indices are no integers. ShapeError: the axis is missing.
    """
    _refuse_positions(indices)
    if axis is None and x.ndim != 1:
        raise ShapeError(f"an array of {x.ndim} dimensions needs an axis; None is for vectors")
    return xp.take(x, indices, axis=normalize_axis(axis or 0, x.ndim))


def _chosen(rng: Any) -> Any:
    for shape, chosen, axis in (((2, 3), (2, 4), 1), ((2, 3), (1, 3), 0), ((4,), (3,), -1), ((2, 3), (1, 2), -1)):
        size = shape[axis]
        yield Sample((rng.normal(size=shape), rng.integers(-size, size, chosen)), {"axis": axis})


@op(
    lambda xp, g, x_shape, indices, axis: xp.scatter_along_axis(g, indices, axis, x_shape),
    None,
    jvp=(lambda xp, t, indices, axis: xp.take_along_axis(t, indices, axis=axis), None),
    samples=_chosen,
)
def take_along_axis(xp: Any, x: Array, indices: Array, axis: int = -1) -> Any:
    """In each vector of `x` along `axis`, the numbers at the positions that the vector of `indices` there holds.

    Shapes: both arrays have the same rank, and broadcast along the other axes.

    Raises:
        IndexingError: an index is out of range. DtypeError: indices are no integers. ShapeError: the shapes do not fit.
    """
    _refuse_positions(indices)
    if x.ndim != getattr(indices, "ndim", 0):
        raise ShapeError("x and indices have the same number of axes")
    return xp.take_along_axis(x, indices, axis=normalize_axis(axis, x.ndim))


def _put(rng: Any) -> Any:
    for sample in _chosen(rng):
        x, indices = sample.args
        axis = sample.kwargs["axis"]
        shape = broadcast_shape(indices.shape, kept(x.shape, axis))
        yield Sample((rng.normal(size=shape), indices, axis, x.shape))


@op(
    lambda xp, g, indices, axis: xp.take_along_axis(g, indices, axis=axis),
    None,
    jvp=(lambda xp, t, indices, axis, shape: xp.scatter_along_axis(t, indices, axis, shape), None),
    samples=_put,
)
def scatter_along_axis(xp: Any, values: Array, indices: Array, axis: int, shape: Shape) -> Any:
    """Zeros of `shape` with `values` added at `indices` along `axis`: the transpose of `take_along_axis`."""
    axis = normalize_axis(axis, len(shape))
    out = xp.zeros(shape, dtype=values.dtype, device=values.device)
    grid = [
        xp.reshape(xp.arange(n, device=values.device), (n, *(1,) * (len(shape) - a - 1))) for a, n in enumerate(shape)
    ]
    return xp.scatter_add(out, (*grid[:axis], indices, *grid[axis + 1 :]), values)
