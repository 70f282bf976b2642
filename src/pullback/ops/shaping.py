"""Shapes and types: the same numbers in another arrangement."""

from typing import Any

from ..backends import BACKENDS, backend_for
from ..core.define import Array, Sample, op
from ..shapes import Shape, broadcast_axes

__all__ = ["astype", "broadcast_to", "matrix_transpose", "reshape", "sum_to", "to_device"]


@op(
    lambda xp, g, x_shape: xp.reshape(g, x_shape),
    jvp="linear",
    view=True,
    samples=lambda rng: [Sample((rng.normal(size=(2, 3)), (3, 2))), Sample((rng.normal(size=(4,)), (2, -1)))],
)
def reshape(xp: Any, x: Array, shape: Shape) -> Any:
    """The numbers of `x` in row-major order in another shape; one length may be -1."""
    return xp.reshape(x, shape)


@op(
    lambda xp, g, x_dtype: xp.astype(g, x_dtype),
    jvp="linear",
    samples=lambda rng: [Sample((rng.normal(size=(2, 3)), "float64"))],
)
def astype(xp: Any, x: Array, dtype: Any, copy: bool = True) -> Any:
    """`x` in another dtype."""
    return xp.astype(x, xp.dtype(dtype), copy=copy)


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


@op(
    lambda xp, g, x_shape: xp.sum_to(g, x_shape),
    jvp="linear",
    view=True,
    samples=lambda rng: [Sample((rng.normal(size=(3,)), (2, 3))), Sample((rng.normal(size=(2, 1)), (4, 2, 3)))],
)
def broadcast_to(xp: Any, x: Array, shape: Shape) -> Any:
    """`x` repeated along new or unit axes to fill `shape`."""
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


@op(
    lambda g: g.mT,
    jvp=lambda t: t.mT,
    view=True,
    samples=lambda rng: [Sample((rng.normal(size=(2, 3)),)), Sample((rng.normal(size=(2, 3, 4)),))],
)
def matrix_transpose(xp: Any, x: Array) -> Any:
    """`x` with its last two axes swapped."""
    return x.mT
