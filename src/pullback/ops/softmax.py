"""Sums of exponentials on the scale of their logarithms.

The largest number is subtracted before `exp`, so nothing overflows. A number of -inf counts for nothing. Where all of a
row are -inf, `logsumexp` is -inf; `softmax` and `log_softmax` have no limit there and are NaN. NumPy gives no warning.
"""

from typing import Any

from ..backends import BACKENDS, default_dtype, is_floating
from ..core.define import Array, Sample, composite, op
from ..shapes import Axis, example_axes, kept, normalize_axes, reduced_axes

__all__ = ["log_softmax", "log_softmax_slope", "logsumexp", "softmax", "softmax_slope"]


def _ready(xp: Any, x: Any, axis: Any) -> tuple[Any, Any]:
    """`x` in floating point, and checked axes."""
    x = x if is_floating(x.dtype) else xp.astype(x, xp.dtype(default_dtype()))
    return x, reduced_axes(axis, x.ndim)


def _rows(rng: Any) -> Any:
    yield Sample((rng.normal(size=(2, 3)),))
    yield Sample((rng.normal(size=(2, 3, 2)),), {"axis": 1})
    yield Sample((rng.normal(size=(2, 3, 2)),), {"axis": (0, -1)})
    yield Sample((10 * rng.normal(size=(4,)),), {"axis": None})


def _logsumexp_samples(rng: Any) -> Any:
    yield from _rows(rng)
    yield Sample((rng.normal(size=(2, 3)),), {"axis": 0, "keepdims": True})
    yield Sample((rng.normal(size=()),))


@op(
    lambda xp, g, x, axis, keepdims: xp.safe_multiply(
        g if keepdims or axis is None else xp.reshape(g, kept(x.shape, axis)), xp.softmax(x, axis=axis)
    ),
    jvp=lambda xp, t, x, axis, keepdims: xp.sum(
        xp.safe_multiply(t, xp.softmax(x, axis=axis)), axis=axis, keepdims=keepdims
    ),
    samples=_logsumexp_samples,
)
def logsumexp(xp: Any, x: Array, axis: Axis = None, *, keepdims: bool = False) -> Any:
    """`log(sum(exp(x)))` over `axis` (an int, a tuple, or None for all); -inf where there is nothing to add.

    A zero cotangent stays zero where all numbers of a row are -inf.
    """
    x, axis = _ready(xp, x, axis)
    with BACKENDS[x.__class__].quiet():
        if not x.size:
            return xp.log(xp.sum(x, axis=axis, keepdims=keepdims))
        top = xp.max(x, axis=axis, keepdims=True)
        top = xp.where(xp.isfinite(top), top, xp.zeros_like(top))
        total = xp.log(xp.sum(xp.exp(x - top), axis=axis, keepdims=True)) + top
        return total if keepdims else xp.squeeze(total, axis=normalize_axes(axis, x.ndim))


def _slopes(rng: Any) -> Any:
    for sample in _rows(rng):
        yield Sample((rng.normal(size=sample.args[0].shape), *sample.args), sample.kwargs)


@composite(
    samples=_slopes,
    batching=lambda xp, g, out, axis=-1: xp.softmax_slope(g, out, axis=example_axes(axis, out.ndim)),
)
def softmax_slope(xp: Any, g: Array, out: Array, axis: Axis = -1) -> Any:
    """`(diag(s) - s s') g` for the value s of `softmax`: a symmetric map, so it serves both modes."""
    weighted = g * out
    return weighted - out * xp.sum(weighted, axis=axis, keepdims=True)


@composite(
    samples=_slopes,
    batching=lambda xp, g, out, axis=-1: xp.log_softmax_slope(g, out, axis=example_axes(axis, out.ndim)),
)
def log_softmax_slope(xp: Any, g: Array, out: Array, axis: Axis = -1) -> Any:
    """`g - exp(out) * sum(g)`: the VJP of `log_softmax` from its value."""
    return g - xp.exp(out) * xp.sum(g, axis=axis, keepdims=True)


@op(
    lambda xp, g, out, axis: xp.softmax_slope(g, out, axis),
    jvp=lambda xp, t, out, axis: xp.softmax_slope(t, out, axis),
    samples=_rows,
    batching=lambda xp, x, axis=-1: xp.softmax(x, axis=example_axes(axis, x.ndim)),
)
def softmax(xp: Any, x: Array, axis: Axis = -1) -> Any:
    """`exp(x) / sum(exp(x))` over `axis` (an int, a tuple, or None for all)."""
    x, axis = _ready(xp, x, axis)
    if not x.size:
        return xp.zeros_like(x)
    with BACKENDS[x.__class__].quiet():
        e = xp.exp(x - xp.max(x, axis=axis, keepdims=True))
        return e / xp.sum(e, axis=axis, keepdims=True)


@op(
    lambda xp, g, out, axis: xp.log_softmax_slope(g, out, axis),
    jvp=lambda xp, t, out, axis: t - xp.sum(xp.exp(out) * t, axis=axis, keepdims=True),
    samples=_rows,
    batching=lambda xp, x, axis=-1: xp.log_softmax(x, axis=example_axes(axis, x.ndim)),
)
def log_softmax(xp: Any, x: Array, axis: Axis = -1) -> Any:
    """`x - log(sum(exp(x)))` over `axis` (an int, a tuple, or None for all): the logarithm of `softmax`."""
    x, axis = _ready(xp, x, axis)
    if not x.size:
        return xp.zeros_like(x)
    with BACKENDS[x.__class__].quiet():
        d = x - xp.max(x, axis=axis, keepdims=True)
        return d - xp.log(xp.sum(xp.exp(d), axis=axis, keepdims=True))
