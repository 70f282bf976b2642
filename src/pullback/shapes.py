"""Arithmetic on shapes: tuples of ints, no arrays."""

from collections.abc import Sequence
from math import prod

from .errors import ArgumentError, ShapeError

Shape = tuple[int, ...]
Axis = int | tuple[int, ...] | None

__all__ = [
    "Axis", "Shape", "along", "broadcast_axes", "broadcast_shape", "count", "kept", "normalize_axes", "normalize_axis",
    "reduced_axes",
]  # fmt: skip


def normalize_axis(axis: int, ndim: int) -> int:
    """`axis` counted from the front. Raises ShapeError when it is outside `-ndim .. ndim - 1`."""
    try:
        position = axis.__index__()
    except (AttributeError, TypeError):
        raise ArgumentError(f"an axis is an int; got {axis!r}") from None
    if not -ndim <= position < ndim:
        allowed = f"use {-ndim} to {ndim - 1}" if ndim else "it has none"
        raise ShapeError(f"axis {axis} is out of range for an array of {ndim} dimensions; {allowed}")
    return position % ndim


def normalize_axes(axis: Axis | Sequence[int], ndim: int) -> tuple[int, ...]:
    """All axes named by `axis` (None means every one), counted from the front, in the order given."""
    if axis.__class__ is int:
        return (normalize_axis(axis, ndim),)
    if axis is None:
        return tuple(range(ndim))
    given = axis if isinstance(axis, Sequence) and not isinstance(axis, str) else (axis,)
    axes = tuple([normalize_axis(a, ndim) for a in given])
    if len(set(axes)) != len(axes):
        raise ShapeError(f"axis {axis} names the same axis twice; name each once")
    return axes


def example_axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    """`axis` of one example, in an array of `ndim` dimensions that has examples along its first axis."""
    return tuple([a + 1 for a in normalize_axes(axis, ndim - 1)])


def reduced_axes(axis: Axis | Sequence[int], ndim: int) -> Axis:
    """`axis` as the reductions of a namespace take it. They check an int themselves, except NumPy's for a 0-d array."""
    return axis if axis is None or (axis.__class__ is int and ndim) else normalize_axes(axis, ndim)


def kept(shape: Shape, axis: Axis) -> Shape:
    """`shape` after a reduction over `axis` with keepdims: the reduced axes have length 1."""
    if axis.__class__ is int:
        position = normalize_axis(axis, len(shape))
        return *shape[:position], 1, *shape[position + 1 :]
    axes = normalize_axes(axis, len(shape))
    return tuple([1 if i in axes else n for i, n in enumerate(shape)])


def count(shape: Shape, axis: Axis) -> int:
    """How many numbers one reduction over `axis` joins."""
    if axis.__class__ is int:
        return shape[normalize_axis(axis, len(shape))]
    return prod(shape if axis is None else [shape[a] for a in normalize_axes(axis, len(shape))])


def along(axis: int, ndim: int, index: object) -> tuple[object, ...]:
    """The index tuple that takes `index` along `axis` and everything along the others."""
    return (*(slice(None),) * normalize_axis(axis, ndim), index, ...)


def broadcast_axes(small: Shape, large: Shape) -> tuple[int, ...]:
    """The axes of `large` along which an array of shape `small` was repeated."""
    lead = len(large) - len(small)
    return (*range(lead), *(i + lead for i, n in enumerate(small) if n == 1 and large[i + lead] != 1))


def broadcast_shape(*shapes: Shape) -> Shape:
    """The shape that arrays of these shapes broadcast to. Raises ShapeError when there is none."""
    ndim = max(map(len, shapes), default=0)
    filled = [(1,) * (ndim - len(shape)) + shape for shape in shapes]
    lengths = [{n for n in column if n != 1} for column in zip(*filled, strict=True)]
    if any(len(found) > 1 for found in lengths):
        met = ", ".join(str(tuple(shape)) for shape in shapes)
        raise ShapeError(f"shapes {met} do not broadcast: counted from the end, lengths agree or are 1")
    return tuple([found.pop() if found else 1 for found in lengths])
