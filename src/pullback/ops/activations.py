"""Activation functions, number by number, by the definitions of PyTorch.

Slopes name the value rather than the argument where it is enough: the next op often keeps the value anyway. Where an
activation is flat the cotangent of its argument is zero, even if that of its value is infinite. The convention at each
kink stands with the op.
"""

import math
from typing import Any, Literal

from ..core.define import Array, Sample, elementwise
from ..errors import ArgumentError
from .special import in_dtype, log_one_plus_exp, logistic, one_minus_exp

__all__ = [
    "celu", "elu", "gelu", "hardsigmoid", "hardswish", "leaky_relu", "mish", "relu", "relu6", "selu", "silu",
    "softsign", "step", "tanhshrink",
]  # fmt: skip


def _with(**settings: Any) -> Any:
    """Samples at the default settings and at others."""

    def samples(rng: Any) -> Any:
        for shape in ((), (3,), (2, 5)):
            yield Sample((rng.uniform(-4.0, 4.0, size=shape),))
        yield Sample((rng.uniform(-4.0, 4.0, size=(2, 5)),), settings)

    return samples


# --- pieces of lines --------------------------------------------------------------------------------------------------


@elementwise(None)
def step(xp: Any, x: Array) -> Any:
    """1 where `x > 0`, else 0, in the dtype of `x`: a mask, without a derivative."""
    return xp.astype(x > 0, x.dtype)


@elementwise(lambda xp, g, out: xp.where(out > 0, g, 0.0), domain=(-4, 4), fused=True)
def relu(xp: Any, x: Array) -> Any:
    """`max(x, 0)`; the slope at 0 is 0."""
    return xp.maximum(x, 0)


@elementwise(lambda xp, g, out: xp.where((out > 0) & (out < 6), g, 0.0), domain=(-4, 8), fused=True)
def relu6(xp: Any, x: Array) -> Any:
    """`min(max(x, 0), 6)`; the slope at 0 and at 6 is 0."""
    return xp.minimum(xp.maximum(x, 0), 6)


@elementwise(
    lambda xp, g, out, negative_slope: xp.where(out > 0, g, negative_slope * g),
    samples=_with(negative_slope=0.2),
    fused=True,
)
def leaky_relu(xp: Any, x: Array, negative_slope: float = 0.01) -> Any:
    """`x` where `x > 0`, else `negative_slope * x`; the slope at 0 is `negative_slope`.

    Raises:
        ArgumentError: `negative_slope` is below 0 (the branch is read off the sign of the value).
    """
    if not negative_slope >= 0:
        raise ArgumentError(f"negative_slope is {negative_slope}; it must not be negative")
    if negative_slope == 0:
        return xp.maximum(x, 0.0)
    return (xp.maximum if negative_slope <= 1 else xp.minimum)(x, negative_slope * x)


@elementwise(lambda xp, g, out: (1 / 6) * xp.where((out > 0) & (out < 1), g, 0.0), domain=(-5, 5), fused=True)
def hardsigmoid(xp: Any, x: Array) -> Any:
    """`relu6(x + 3) / 6`; the slope at -3 and at 3 is 0."""
    return xp.minimum(xp.maximum(x + 3.0, 0.0), 6.0) / 6.0


def _hardswish_slope(xp: Any, x: Any) -> Any:
    return xp.where(xp.abs(x) < 3, x / 3.0 + 0.5, xp.astype(x >= 3, x.dtype))


@elementwise(lambda xp, g, x: g * _hardswish_slope(xp, x), domain=(-5, 5), fused=True)
def hardswish(xp: Any, x: Array) -> Any:
    """`x * relu6(x + 3) / 6`; the slope at -3 is 0, at 3 it is 1 (Howard et al. 2019, MobileNetV3)."""
    return x * xp.minimum(xp.maximum(x + 3.0, 0.0), 6.0) / 6.0


# --- exponential on the left ------------------------------------------------------------------------------------------


def _decay(xp: Any, x: Any) -> Any:
    """1 - exp(min(x, 0)), to full precision."""
    return one_minus_exp(xp, -1.0 * xp.minimum(x, 0.0))


def _checked(alpha: float) -> float:
    if not alpha > 0:
        raise ArgumentError(f"alpha is {alpha}; it must be above 0")
    return alpha


@elementwise(lambda xp, g, out, alpha: xp.where(out > 0, g, g * (out + alpha)), samples=_with(alpha=1.5), fused=True)
def elu(xp: Any, x: Array, alpha: float = 1.0) -> Any:
    """`x` where `x > 0`, else `alpha * (exp(x) - 1)`; the slope at 0 is `alpha` (Clevert et al. 2016).

    Raises:
        ArgumentError: `alpha` is not above 0.
    """
    return xp.maximum(x, 0.0) - _checked(alpha) * _decay(xp, x)


@elementwise(lambda xp, g, out, alpha: g * (xp.minimum(out, 0.0) / alpha + 1.0), samples=_with(alpha=0.5), fused=True)
def celu(xp: Any, x: Array, alpha: float = 1.0) -> Any:
    """`x` where `x > 0`, else `alpha * (exp(x / alpha) - 1)`, which is smooth at 0 (Barron 2017).

    Raises:
        ArgumentError: `alpha` is not above 0.
    """
    return xp.maximum(x, 0.0) - _checked(alpha) * _decay(xp, x / alpha)


_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772  # Klambauer et al. 2017, to float64


@elementwise(
    lambda xp, g, out: xp.where(out > 0, _SELU_SCALE * g, g * (out + _SELU_SCALE * _SELU_ALPHA)),
    domain=(-4, 4),
    fused=True,
)
def selu(xp: Any, x: Array) -> Any:
    """`scale * elu(x, alpha)` with the constants that keep mean 0 and variance 1 (Klambauer et al. 2017).

    The slope at 0 is `scale * alpha`.
    """
    return _SELU_SCALE * (xp.maximum(x, 0.0) - _SELU_ALPHA * _decay(xp, x))


# --- smooth gates -----------------------------------------------------------------------------------------------------

_ROOT_HALF = math.sqrt(0.5)
_BELL = 1.0 / math.sqrt(2.0 * math.pi)
_CURVE, _CUBE = math.sqrt(2.0 / math.pi), 0.044715


def _gelu_slope(xp: Any, g: Any, x: Any, approximate: str) -> Any:
    if approximate == "none":
        return g * (0.5 * xp.erfc(-_ROOT_HALF * x) + _BELL * x * xp.exp(-0.5 * (x * x)))
    t = xp.tanh(_CURVE * (x + _CUBE * (x * x * x)))
    bend = (0.5 * _CURVE) * x * (1.0 - t * t)  # exactly 0 long before x * x overflows
    return g * (0.5 * (1.0 + t) + bend + (3.0 * _CUBE) * bend * x * x)


@elementwise(_gelu_slope, samples=_with(approximate="tanh"), standard=False, fused=True)
def gelu(xp: Any, x: Array, approximate: Literal["none", "tanh"] = "none") -> Any:
    """`x` times the normal distribution function at `x` (Hendrycks and Gimpel 2016).

    With `approximate="tanh"`, `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3)))`.

    Raises:
        ArgumentError: `approximate` is neither "none" nor "tanh".
    """
    if approximate == "none":
        return 0.5 * x * in_dtype(xp, xp.erfc(-_ROOT_HALF * x), x)
    if approximate == "tanh":
        return 0.5 * x * (1.0 + xp.tanh(_CURVE * (x + _CUBE * (x * x * x))))
    raise ArgumentError(f"approximate is {approximate!r}; it must be 'none' or 'tanh'")


def _silu_slope(xp: Any, x: Any) -> Any:
    gate = xp.sigmoid(x)
    return gate * (1.0 + x * (1.0 - gate))


@elementwise(lambda xp, g, x: g * _silu_slope(xp, x), domain=(-6, 6), fused=True)
def silu(xp: Any, x: Array) -> Any:
    """`x * sigmoid(x)`, also called swish (Elfwing et al. 2017)."""
    return x * logistic(xp, x)


def _mish_slope(xp: Any, x: Any) -> Any:
    gate = xp.tanh(xp.softplus(x))
    return gate + x * xp.sigmoid(x) * (1.0 - gate * gate)


@elementwise(lambda xp, g, x: g * _mish_slope(xp, x), domain=(-6, 6), fused=True)
def mish(xp: Any, x: Array) -> Any:
    """`x * tanh(softplus(x))` (Misra 2019)."""
    return x * xp.tanh(log_one_plus_exp(xp, x))


@elementwise(lambda xp, g, out: g * xp.square(1.0 - xp.abs(out)), domain=(-4, 4), fused=True)
def softsign(xp: Any, x: Array) -> Any:
    """`x / (1 + |x|)`."""
    return x / (1.0 + xp.abs(x))


@elementwise(lambda xp, g, x: g * xp.square(xp.tanh(x)), domain=(-4, 4), fused=True)
def tanhshrink(xp: Any, x: Array) -> Any:
    """`x - tanh(x)`."""
    return x - xp.tanh(x)
