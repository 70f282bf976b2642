"""Shapes and types: the same numbers in another arrangement.

Each op here is linear. Axes may be negative; one that is out of range, or named twice, is a ShapeError.
"""

from collections.abc import Sequence
from typing import Any

from ..backends import BACKENDS, backend_for, canonical_dtype
from ..core.define import Array, Sample, composite, op
from ..errors import ArgumentError, ShapeError
from ..shapes import Axis, Shape, broadcast_axes, broadcast_shape, normalize_axes, normalize_axis

__all__ = [
    "astype", "broadcast_arrays", "broadcast_to", "diagonal", "expand_dims", "flip", "matrix_transpose", "meshgrid",
    "moveaxis", "permute_dims", "reshape", "roll", "squeeze", "sum_to", "to_device", "tril", "triu",
]  # fmt: skip


# --- types and places -------------------------------------------------------------------------------------------------


@op(
    lambda xp, g, x_dtype: xp.astype(g, x_dtype),
    jvp="linear",
    view=True,
    samples=lambda rng: [Sample((rng.normal(size=(2, 3)), "float64"))],
)
def astype(xp: Any, x: Array, dtype: Any, *, copy: bool = True) -> Any:
    """`x` in another dtype, given by name or as a dtype object. Values in integers or booleans have no derivative.

    With `copy=False` an array that has the dtype already is not copied.
    """
    return xp.astype(x, xp.dtype(canonical_dtype(dtype)), copy=copy)


@op(
    lambda xp, g, device, source: xp.to_device(g, source, device),
    jvp=lambda xp, t, device, source: xp.to_device(t, device, source),
    samples=lambda rng: [Sample((rng.normal(size=(3,)), "cpu", "cpu"))],
    view=True,
)
def to_device(xp: Any, x: Array, device: str, source: str) -> Any:
    """`x`, which is on `source`, on `device`."""
    target = backend_for(device)
    owner = BACKENDS[x.__class__]
    return target.asarray(x if owner is target else owner.to_numpy(x), device=device)


# --- shapes -----------------------------------------------------------------------------------------------------------


@op(
    lambda xp, g, x_shape: xp.reshape(g, x_shape),
    jvp="linear",
    view=True,
    samples=lambda rng: [Sample((rng.normal(size=(2, 3)), (3, 2))), Sample((rng.normal(size=(4,)), (2, -1)))],
)
def reshape(xp: Any, x: Array, shape: Shape, *, copy: bool | None = None) -> Any:
    """The numbers of `x` in row-major order in another shape; one length may be -1, and follows from the others.

    The result shares the memory of x where it can, with `copy=True` never; with `copy=False` it is refused where it
    cannot.

    Raises:
        ShapeError: the shape does not hold as many numbers as x, or not without the copy that `copy=False` forbids.
    """
    return xp.reshape(x, shape) if copy is None else xp.reshape(x, shape, copy=copy)


@op(
    lambda xp, g, x_shape: xp.reshape(g, x_shape),
    jvp="linear",
    view=True,
    samples=lambda rng: [Sample((rng.normal(size=(2, 3)),), {"axis": a}) for a in (0, 1, -1, (0, -1))],
)
def expand_dims(xp: Any, x: Array, axis: int | tuple[int, ...] = 0) -> Any:
    """`x` with a new axis of length 1 at `axis` (or several), counted in the result."""
    if axis.__class__ is int:
        at = normalize_axis(axis, x.ndim + 1)
        return xp.reshape(x, (*x.shape[:at], 1, *x.shape[at:]))
    ndim = x.ndim + (len(axis) if isinstance(axis, Sequence) else 1)
    new = normalize_axes(axis, ndim)
    lengths = iter(x.shape)
    return xp.reshape(x, tuple([1 if a in new else next(lengths) for a in range(ndim)]))


@op(
    lambda xp, g, x_shape: xp.reshape(g, x_shape),
    jvp="linear",
    view=True,
    samples=lambda rng: [Sample((rng.normal(size=(1, 3, 1)),), {"axis": a}) for a in (0, -1, (0, 2), None)],
)
def squeeze(xp: Any, x: Array, axis: Axis = None) -> Any:
    """`x` without the axes `axis`, which have length 1; None means all that have.

    Raises:
        ShapeError: an axis has another length.
    """
    gone = [a for a, n in enumerate(x.shape) if n == 1] if axis is None else normalize_axes(axis, x.ndim)
    for a in gone:
        if x.shape[a] != 1:
            raise ShapeError(f"axis {a} has length {x.shape[a]}; only axes of length 1 can go")
    return xp.reshape(x, tuple([n for a, n in enumerate(x.shape) if a not in gone]))


@op(
    lambda xp, g, x_shape: xp.sum_to(g, x_shape),
    jvp="linear",
    view=True,
    samples=lambda rng: [Sample((rng.normal(size=(3,)), (2, 3))), Sample((rng.normal(size=(2, 1)), (4, 2, 3)))],
)
def broadcast_to(xp: Any, x: Array, shape: Shape) -> Any:
    """`x` repeated along new or unit axes to fill `shape`.

    Raises:
        ShapeError: an axis of x has neither length 1 nor that of the shape.
    """
    return xp.broadcast_to(x, shape)


@op(
    lambda xp, g, x_shape: xp.broadcast_to(g, x_shape),
    jvp="linear",
    view=True,
    samples=lambda rng: [Sample((rng.normal(size=(2, 3)), (3,))), Sample((rng.normal(size=(4, 2, 3)), (2, 1)))],
)
def sum_to(xp: Any, x: Array, shape: Shape) -> Any:
    """`x` summed down to `shape`: undoes broadcasting."""
    axes = broadcast_axes(shape, x.shape)
    return xp.reshape(xp.sum(x, axis=axes), shape) if axes else x


def _broadcast_samples(rng: Any) -> Any:
    yield Sample((rng.normal(size=(2, 1)), rng.normal(size=(3,)), rng.normal(size=())))
    yield Sample((rng.normal(size=(2, 3)),))


@composite(samples=_broadcast_samples)
def broadcast_arrays(xp: Any, *arrays: Array) -> Any:
    """All arrays, repeated along new or unit axes to their common shape: a tuple.

    Raises:
        ShapeError: there is no common shape.
    """
    shape = broadcast_shape(*[getattr(x, "shape", ()) for x in arrays])
    return tuple([xp.broadcast_to(x, shape) for x in arrays])


# --- order of the axes ------------------------------------------------------------------------------------------------


def _inverse(axes: Sequence[int], ndim: int) -> tuple[int, ...]:
    return tuple(sorted(range(ndim), key=normalize_axes(tuple(axes), ndim).__getitem__))


@op(
    lambda xp, g, axes: xp.permute_dims(g, _inverse(axes, g.ndim)),
    jvp="linear",
    view=True,
    samples=lambda rng: [
        Sample((rng.normal(size=(2, 3)), (1, 0))),
        Sample((rng.normal(size=(2, 3, 4)), (2, 0, 1))),
        Sample((rng.normal(size=(2, 3, 4)), (-1, 0, -2))),
    ],
)
def permute_dims(xp: Any, x: Array, axes: Sequence[int]) -> Any:
    """`x` with its axes in another order: axis i of the result is axis `axes[i]` of x.

    Raises:
        ShapeError: `axes` does not name every axis once.
    """
    order = normalize_axes(tuple(axes), x.ndim)
    if len(order) != x.ndim:
        raise ShapeError(f"axes {tuple(axes)} name {len(order)} of {x.ndim} axes; name each once")
    return xp.permute_dims(x, order)


def _refuse_vector(x: Any) -> None:
    if x.ndim < 2:
        raise ShapeError(f"a matrix has two axes; got an array of {x.ndim}")


@op(
    lambda g: g.mT,
    jvp=lambda t: t.mT,
    view=True,
    samples=lambda rng: [Sample((rng.normal(size=(2, 3)),)), Sample((rng.normal(size=(2, 3, 4)),))],
)
def matrix_transpose(xp: Any, x: Array) -> Any:
    """`x` with its last two axes swapped.

    Raises:
        ShapeError: x has fewer than two axes.
    """
    _refuse_vector(x)
    return x.mT


@op(
    lambda xp, g, source, destination: xp.moveaxis(g, destination, source),
    jvp="linear",
    view=True,
    samples=lambda rng: [
        Sample((rng.normal(size=(2, 3, 4)), 0, -1)),
        Sample((rng.normal(size=(2, 3, 4)), (0, -1), (1, 0))),
    ],
)
def moveaxis(xp: Any, x: Array, source: int | tuple[int, ...], destination: int | tuple[int, ...]) -> Any:
    """`x` with the axes `source` moved to the positions `destination`; the others keep their order.

    Raises:
        ShapeError: source and destination differ in number, or an axis is out of range.
    """
    old, new = normalize_axes(source, x.ndim), normalize_axes(destination, x.ndim)
    if len(old) != len(new):
        raise ShapeError(f"{len(old)} axes cannot move to {len(new)} positions; give one each")
    moved = dict(zip(new, old, strict=True))
    others = iter([a for a in range(x.ndim) if a not in old])
    return xp.permute_dims(x, tuple([moved[a] if a in moved else next(others) for a in range(x.ndim)]))


@op(
    lambda xp, g, axis: xp.flip(g, axis=axis),
    jvp="linear",
    view=True,
    samples=lambda rng: [Sample((rng.normal(size=(2, 3, 2)),), {"axis": a}) for a in (None, 0, -1, (0, 1))],
)
def flip(xp: Any, x: Array, axis: Axis = None) -> Any:
    """`x` with the order along `axis` (an int, a tuple, or None for all) reversed."""
    return xp.flip(x, axis=normalize_axes(axis, x.ndim))


def _opposite(shift: Any) -> Any:
    return tuple([-s for s in shift]) if isinstance(shift, Sequence) else -shift


@op(
    lambda xp, g, shift, axis: xp.roll(g, _opposite(shift), axis=axis),
    jvp="linear",
    samples=lambda rng: [
        Sample((rng.normal(size=(5,)), 2)),
        Sample((rng.normal(size=(2, 3)), -4)),
        Sample((rng.normal(size=(2, 3)), 1), {"axis": -1}),
        Sample((rng.normal(size=(2, 3)), (1, -1)), {"axis": (0, 1)}),
    ],
)
def roll(xp: Any, x: Array, shift: int | tuple[int, ...], axis: Axis = None) -> Any:
    """`x` moved on by `shift` places along `axis`; what leaves at the end comes in at the front.

    Without an axis the numbers move in row-major order. Several axes take one shift each, or one for all.

    Raises:
        ShapeError: shifts and axes differ in number, or an axis is out of range.
    """
    if axis is None and not isinstance(shift, Sequence):
        return xp.roll(x, shift)
    axes = () if axis is None else normalize_axes(axis, x.ndim)
    shifts = tuple(shift) if isinstance(shift, Sequence) else (shift,) * len(axes)
    if len(shifts) != len(axes):
        raise ShapeError(f"{len(shifts)} shifts for {len(axes)} axes; give one each")
    return xp.roll(x, shifts, axis=axes) if axes else +x


# --- parts of matrices ------------------------------------------------------------------------------------------------


def _matrices(rng: Any) -> Any:
    for shape, k in (((3, 3), 0), ((2, 4), 1), ((2, 4, 3), -1)):
        yield Sample((rng.normal(size=shape),), {"k": k})


@op(lambda xp, g, k: xp.tril(g, k=k), jvp="linear", samples=_matrices)
def tril(xp: Any, x: Array, k: int = 0) -> Any:
    """The lower triangles of matrices: zeros above diagonal `k` (above the main one is positive).

    Raises:
        ShapeError: x has fewer than two axes.
    """
    _refuse_vector(x)
    return xp.tril(x, k=k)


@op(lambda xp, g, k: xp.triu(g, k=k), jvp="linear", samples=_matrices)
def triu(xp: Any, x: Array, k: int = 0) -> Any:
    """The upper triangles of matrices: zeros below diagonal `k` (above the main one is positive).

    Raises:
        ShapeError: x has fewer than two axes.
    """
    _refuse_vector(x)
    return xp.triu(x, k=k)


def _diagonals(rng: Any) -> Any:
    for shape, offset in (((3, 3), 0), ((2, 4), 1), ((2, 4, 3), -1), ((2, 2), 5)):
        yield Sample((rng.normal(size=shape),), {"offset": offset})
    yield Sample((rng.normal(size=(3, 2, 3)),), {"axis1": 0, "axis2": 2})


@composite(samples=_diagonals)
def diagonal(xp: Any, x: Array, *, offset: int = 0, axis1: int = -2, axis2: int = -1) -> Any:
    """The diagonals of the matrices whose rows lie along `axis1` and columns along `axis2`, as the last axis.

    `offset` counts from the main diagonal, positive above it. In row-major order a diagonal is a slice.

    Raises:
        ShapeError: the axes are out of range or the same.
    """
    rows, columns = normalize_axes((axis1, axis2), x.ndim)
    x = xp.permute_dims(x, (*[a for a in range(x.ndim) if a not in (rows, columns)], rows, columns))
    height, width = x.shape[-2:]
    size = height * width
    start = min(offset if offset >= 0 else -offset * width, size)
    length = max(0, min(height + min(offset, 0), width - max(offset, 0)))
    flat = xp.reshape(x, (*x.shape[:-2], size))
    return flat[..., start : min(start + length * (width + 1), size) : width + 1]


# --- grids ------------------------------------------------------------------------------------------------------------


def _grids(rng: Any) -> Any:
    yield Sample((rng.normal(size=(2,)), rng.normal(size=(3,))))
    yield Sample((rng.normal(size=(2,)), rng.normal(size=(3,)), rng.normal(size=(2,))), {"indexing": "ij"})
    yield Sample((rng.normal(size=(2,)),))


@composite(samples=_grids)
def meshgrid(xp: Any, *arrays: Array, indexing: str = "xy") -> Any:
    """Coordinate arrays of the grid that vectors span: a tuple of one array per vector.

    Shapes: vectors of lengths n1, n2, n3, ... give arrays (n1, n2, n3, ...) with `indexing` "ij", and
    (n2, n1, n3, ...) with "xy".

    Raises:
        ShapeError: an input is no vector. ArgumentError: another `indexing`.
    """
    if indexing not in ("xy", "ij"):
        raise ArgumentError(f'indexing is "xy" or "ij"; got {indexing!r}')
    shapes: list[Shape] = [getattr(x, "shape", ()) for x in arrays]
    if any(len(shape) != 1 for shape in shapes):
        raise ShapeError(f"coordinates are vectors; got shapes {', '.join(map(str, shapes))}")
    places = list(range(len(arrays)))
    if indexing == "xy":
        places[:2] = places[:2][::-1]
    lengths = dict(zip(places, (n for (n,) in shapes), strict=True))
    shape = tuple([lengths[place] for place in range(len(arrays))])
    units = [tuple([n if a == place else 1 for a, n in enumerate(shape)]) for place in places]
    return tuple([xp.broadcast_to(xp.reshape(x, unit), shape) for x, unit in zip(arrays, units, strict=True)])
