"""Values brought to mean 0 and variance 1."""

from typing import Any

from ..backends import BACKENDS, canonical_dtype, default_dtype, is_floating
from ..core.define import Array, Sample, composite, op
from ..errors import ArgumentError, ShapeError
from ..shapes import Axis, Shape, count, normalize_axes

__all__ = ["layer_norm", "layer_norm_slope", "standardize"]


def _push(xp: Any, t: Any, out: Any, axis: Any) -> Any:
    """The tangents of z and r, where z = (x - mean) r and r = (variance + eps)^(-1/2).

    With <.> for the mean over `axis`:  dz = r (t - <t> - z <z t>),  dr = -r^2 <z t>.
    """
    z, r = out
    along = xp.mean(z * t, axis=axis, keepdims=True)
    return r * (t - xp.mean(t, axis=axis, keepdims=True) - z * along), -(r * r) * along


def _pull(xp: Any, g: Any, out: Any, axis: Any) -> Any:
    """The transpose of `_push`: its first part is symmetric, and -r^2 <z t> adds -r^2 z g / n."""
    z, r = out
    along = xp.mean(z * g[0], axis=axis, keepdims=True) + r * g[1] * (1.0 / max(count(z.shape, axis), 1))
    return r * (g[0] - xp.mean(g[0], axis=axis, keepdims=True) - z * along)


def _standardized(xp: Any, x: Any, axis: Axis, eps: float) -> tuple[Any, Any]:
    axes = normalize_axes(axis, x.ndim)
    if not eps > 0:
        raise ArgumentError(f"eps has to be above 0; got {eps!r}")
    dtype = x.dtype if is_floating(x.dtype) else xp.dtype(default_dtype())
    share = 1.0 / max(count(x.shape, axes), 1)
    wide = xp.astype(x, xp.float32 if canonical_dtype(dtype).itemsize < 4 else dtype, copy=False)
    with BACKENDS[x.__class__].quiet():
        z = wide - xp.sum(wide, axis=axes, keepdims=True) * share
        r = 1.0 / xp.sqrt(xp.sum(z * z, axis=axes, keepdims=True) * share + eps)
        z *= r
    return xp.astype(z, dtype, copy=False), xp.astype(r, dtype, copy=False)


def _standardize_samples(rng: Any) -> Any:
    yield Sample((rng.normal(size=(2, 4)),))
    yield Sample((rng.normal(size=(3, 2, 3)),), {"axis": (0, -1), "eps": 0.1})
    yield Sample((rng.normal(size=(5,)),), {"axis": None})


@op(
    _pull,
    jvp=_push,
    outputs=("standardized", "inverse_deviation"),
    samples=_standardize_samples,
)
def standardize(xp: Any, x: Array, axis: Axis = -1, eps: float = 1e-5) -> Any:
    """`x` brought to mean 0 and variance 1 over `axis` (an int, a tuple, or None for all).

    Args:
        x: The values; integers take the default dtype.
        eps: Added to the variance, above 0.

    Returns:
        (z, r) with r = (variance + eps)^(-1/2), of length 1 along `axis`, and z = (x - mean) r. The variance divides by
        the count of values. 16-bit values are worked on in float32.

    Raises:
        ShapeError: `axis` is not there. ArgumentError: `eps` is not above 0.
    """
    return _standardized(xp, x, axis, eps)


def _scaled(g: Any, weight: Any) -> Any:
    return g if weight is None else g * weight


def _slope_samples(rng: Any) -> Any:
    draw = rng.normal
    yield Sample((draw(size=(3, 4)), draw(size=(3, 4)), draw(size=(3, 1)), draw(size=(4,))), {"bias_shape": (4,)})
    yield Sample((draw(size=(4, 2)), draw(size=(4, 2)), draw(size=(1, 2)), draw(size=(4, 1)), 0, (4, 2)))


@composite(samples=_slope_samples)
def layer_norm_slope(
    xp: Any,
    g: Array,
    standardized: Array,
    inverse_deviation: Array,
    weight: Array | None = None,
    axis: Axis = -1,
    bias_shape: Shape | None = None,
) -> Any:
    """The cotangents of `x`, `weight` and `bias` in `layer_norm`, from that of its value and what `standardize` gives.

    `axis` is that of `layer_norm`. The cotangent of a weight or bias that is None (of a `bias_shape` that is None) is
    not to be used.
    """
    dx = _pull(xp, (_scaled(g, weight), 0.0), (standardized, inverse_deviation), axis)
    shape = getattr(weight, "shape", None)  # a number has none, and no cotangent
    dweight = dx if shape is None else xp.sum_to(g * standardized, shape)
    return dx, dweight, dx if bias_shape is None else xp.sum_to(g, bias_shape)


def _layer_norm_samples(rng: Any) -> Any:
    draw = rng.normal
    yield Sample((draw(size=(3, 4)), draw(size=(4,)), draw(size=(4,))))
    yield Sample((draw(size=(2, 3, 2)), draw(size=(3, 2)), draw(size=(3, 2))), {"axis": (-2, -1), "eps": 0.1})
    yield Sample((draw(size=(4, 2)), draw(size=(4, 1)), None), {"axis": 0})
    yield Sample((draw(size=(2, 3)), None, draw(size=(3,))))
    yield Sample((draw(size=(5,)),))


@op(
    lambda g: g[0],
    lambda g: g[1],
    lambda g: g[2],
    first=lambda xp, g, weight, bias_shape, kept, axis: xp.layer_norm_slope(g, *kept, weight, axis, bias_shape),
    jvp=(
        lambda xp, t, weight, kept, axis: _scaled(_push(xp, t, kept, axis)[0], weight),
        lambda t, kept: t * kept[0],
        lambda xp, t, out_shape: xp.broadcast_to(t, out_shape),
    ),
    kept="standardize",
    samples=_layer_norm_samples,
)
def layer_norm(
    xp: Any, x: Array, weight: Array | None = None, bias: Array | None = None, axis: Axis = -1, eps: float = 1e-5
) -> Any:
    """`z * weight + bias`, where z is `x` brought to mean 0 and variance 1 over `axis`.

    z = (x - mean) / sqrt(variance + eps), Ba, Kiros and Hinton, "Layer normalization" (2016).

    Args:
        x: The values, such as (batch, features).
        weight, bias: Arrays that broadcast to the shape of `x`, such as (features,); None leaves them out.
        axis: The axes to normalise over: an int, a tuple, or None for all.
        eps: Added to the variance, above 0.

    Raises:
        ShapeError: `axis` is not there, or `weight` or `bias` does not broadcast to `x`.
        ArgumentError: `eps` is not above 0.
    """
    z, r = _standardized(xp, x, axis, eps)
    out = z
    if weight is not None:
        out = out * weight
    if bias is not None:
        out = out + bias
    if out.shape != x.shape:
        raise ShapeError("weight and bias have to broadcast to the shape of x")
    return out, (z, r)
