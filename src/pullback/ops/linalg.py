"""Linear algebra."""

from typing import Any

from ..core.define import Array, Sample, op

__all__ = ["linear", "matmul"]


def _to(xp: Any, g: Any, shape: Any) -> Any:
    return g if g.shape == shape else xp.sum_to(g, shape)


@op(
    lambda xp, g, b, a_shape: _to(xp, g @ b.mT, a_shape),
    lambda xp, g, a, b_shape: _to(xp, a.mT @ g, b_shape),
    jvp=(lambda t, b: t @ b, lambda a, t: a @ t),
    samples=lambda rng: [
        Sample((rng.normal(size=(2, 3)), rng.normal(size=(3, 4)))),
        Sample((rng.normal(size=(5, 2, 3)), rng.normal(size=(3, 4)))),
    ],
)
def matmul(xp: Any, a: Array, b: Array) -> Any:
    """Matrix product."""
    return a @ b


@op(
    lambda g, w: g @ w.mT,
    lambda x, g: x.mT @ g,
    lambda xp, g: xp.sum(g, axis=0),
    jvp=(lambda t, w: t @ w, lambda x, t: x @ t, lambda xp, t, out_shape: xp.broadcast_to(t, out_shape)),
    samples=lambda rng: [Sample((rng.normal(size=(2, 3)), rng.normal(size=(3, 4)), rng.normal(size=(4,))))],
)
def linear(xp: Any, x: Array, w: Array, b: Array) -> Any:
    """`x @ w + b`."""
    y = x @ w
    y += b
    return y
