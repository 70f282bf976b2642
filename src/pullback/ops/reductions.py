"""Reductions over one, several or all axes."""

from typing import Any

from ..core.define import Array, Sample, op
from ..shapes import Axis, count, kept

__all__ = ["mean", "sum"]


def _reduced(rng: Any) -> Any:
    yield Sample((rng.normal(size=(2, 3)),))
    yield Sample((rng.normal(size=(2, 3, 4)),), {"axis": (0, -1)})
    yield Sample((rng.normal(size=(2, 3)),), {"axis": 1, "keepdims": True})


@op(
    lambda xp, g, x_shape, axis: xp.broadcast_to(xp.reshape(g, kept(x_shape, axis)), x_shape),
    jvp="linear",
    samples=_reduced,
)
def sum(xp: Any, x: Array, axis: Axis = None, keepdims: bool = False) -> Any:
    """Sum over `axis` (an int, a tuple, or None for all)."""
    return xp.sum(x, axis=axis, keepdims=keepdims)


@op(
    lambda xp, g, x_shape, axis: xp.broadcast_to(
        xp.reshape(g * (1 / max(count(x_shape, axis), 1)), kept(x_shape, axis)), x_shape
    ),
    jvp="linear",
    samples=_reduced,
)
def mean(xp: Any, x: Array, axis: Axis = None, keepdims: bool = False) -> Any:
    """Arithmetic mean over `axis`."""
    return xp.mean(x, axis=axis, keepdims=keepdims)
