"""Arithmetic on shapes: tuples of ints, no arrays."""

from collections.abc import Sequence
from math import prod

from .errors import ArgumentError, ShapeError

Shape = tuple[int, ...]
Axis = int | tuple[int, ...] | None

__all__ = ["Axis", "Shape", "broadcast_axes", "count", "kept", "normalize_axes", "normalize_axis"]


def normalize_axis(axis: int, ndim: int) -> int:
    """`axis` counted from the front. Raises ShapeError when it is outside `-ndim .. ndim - 1`."""
    try:
        position = axis.__index__()
    except AttributeError:
        raise ArgumentError(f"an axis is an int; got {axis!r}") from None
    if not -ndim <= position < ndim:
        raise ShapeError(f"axis {axis} is out of range for an array of {ndim} dimensions; use {-ndim} to {ndim - 1}")
    return position % ndim


def normalize_axes(axis: Axis | Sequence[int], ndim: int) -> tuple[int, ...]:
    """All axes named by `axis` (None means every one), counted from the front, in the order given."""
    if axis is None:
        return tuple(range(ndim))
    axes = tuple(normalize_axis(a, ndim) for a in (axis if isinstance(axis, Sequence) else (axis,)))
    if len(set(axes)) != len(axes):
        raise ShapeError(f"axis {axis} names the same axis twice; name each once")
    return axes


def kept(shape: Shape, axis: Axis) -> Shape:
    """`shape` after a reduction over `axis` with keepdims: the reduced axes have length 1."""
    axes = normalize_axes(axis, len(shape))
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def count(shape: Shape, axis: Axis) -> int:
    """How many numbers one reduction over `axis` joins."""
    return prod(shape[a] for a in normalize_axes(axis, len(shape)))


def broadcast_axes(small: Shape, large: Shape) -> tuple[int, ...]:
    """The axes of `large` along which an array of shape `small` was repeated."""
    lead = len(large) - len(small)
    return (*range(lead), *(i + lead for i, n in enumerate(small) if n == 1 and large[i + lead] != 1))
