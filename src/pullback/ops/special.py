"""Special functions, number by number: error function, logistic function and its kin, sums and products of logarithms.

Singular slopes follow the convention of `elementwise`: a zero cotangent stays zero.
"""

import math
from typing import Any

from ..core.define import Array, elementwise
from .elementwise import is_number

__all__ = ["erf", "erfc", "logaddexp", "logsigmoid", "sigmoid", "softplus", "xlogy"]

_BELL = 2.0 / math.sqrt(math.pi)


def in_dtype(xp: Any, out: Any, x: Any) -> Any:
    """`out` in the dtype of `x` if that is of floating point: libraries widen the error function of float16."""
    return xp.astype(out, x.dtype) if out.dtype != x.dtype and xp.isdtype(x.dtype, "real floating") else out


@elementwise(lambda xp, g, x: _BELL * g * xp.exp(-(x * x)), standard=False)
def erf(xp: Any, x: Array) -> Any:
    """The error function, `2 / sqrt(pi)` times the integral of `exp(-t ** 2)` from 0 to `x` (DLMF 7.2.1)."""
    return in_dtype(xp, xp.erf(x), x)


@elementwise(lambda xp, g, x: -_BELL * g * xp.exp(-(x * x)), standard=False)
def erfc(xp: Any, x: Array) -> Any:
    """`1 - erf(x)`, to full precision for large `x` too (DLMF 7.2.2)."""
    return in_dtype(xp, xp.erfc(x), x)


# --- logistic ---------------------------------------------------------------------------------------------------------


def logistic(xp: Any, x: Any) -> Any:
    """1 / (1 + exp(-x)) over a native namespace. No exponential overflows, and the left tail keeps its precision."""
    small = xp.exp(-1.0 * xp.abs(x))
    out = xp.maximum(small, xp.astype(x >= 0, small.dtype))  # 1 on the right, exp(x) on the left
    small += 1.0
    out /= small
    return out


def log_one_plus_exp(xp: Any, x: Any) -> Any:
    """ln(1 + exp(x)) = max(x, 0) + ln(1 + exp(-|x|)) over a native namespace.

    The second term is ln(u) - ((u - 1) - e) / u with e = exp(-|x|) and u = 1 + e: the fraction gives back what rounding
    took from u. NumPy's log is five times as fast as its log1p.
    """
    small = xp.exp(-1.0 * xp.abs(x))
    one_plus = 1.0 + small
    out = one_plus - 1.0
    out -= small
    out /= one_plus
    out = xp.log(one_plus) - out
    out += xp.maximum(x, 0.0)
    return out


def one_minus_exp(xp: Any, x: Any) -> Any:
    """1 - exp(-x) = 2 t / (1 + t), t = tanh(x / 2), for x >= 0, to full precision, over any namespace.

    NumPy's tanh is four times as fast as its expm1 in float32.
    """
    t = xp.tanh(0.5 * x)
    return (t + t) / (1.0 + t)


@elementwise(lambda xp, g, out: g * (out * (1.0 - out)), domain=(-6, 6), fused=True)
def sigmoid(xp: Any, x: Array) -> Any:
    """The logistic function `1 / (1 + exp(-x))`, without overflow."""
    return logistic(xp, x)


@elementwise(lambda xp, g, out: g * one_minus_exp(xp, out), domain=(-6, 6), fused=True)
def softplus(xp: Any, x: Array) -> Any:
    """`ln(1 + exp(x))`, without overflow; its slope is the logistic function."""
    return log_one_plus_exp(xp, x)


@elementwise(lambda xp, g, out: g * one_minus_exp(xp, -out), domain=(-6, 6), fused=True)
def logsigmoid(xp: Any, x: Array) -> Any:
    """`ln(sigmoid(x)) = -softplus(-x)`, without overflow."""
    return -log_one_plus_exp(xp, -1.0 * x)


# --- logarithms -------------------------------------------------------------------------------------------------------


def _weight(xp: Any, x: Any, y: Any) -> Any:
    """exp(x) / (exp(x) + exp(y)); 1/2 where both are the same infinity."""
    lead = x - y
    return xp.sigmoid(xp.where(xp.logical_and(xp.isnan(lead), x == y), 0.0, lead))


@elementwise(lambda xp, g, x, y: g * _weight(xp, x, y), lambda xp, g, x, y: g * _weight(xp, y, x))
def logaddexp(xp: Any, x: Array, y: Array) -> Any:
    """`ln(exp(x) + exp(y))`, without overflow. Where both are the same infinity, each gets half of the cotangent."""
    return xp.logaddexp(x, y)


@elementwise(
    lambda xp, g, y: xp.xlogy(g, y),
    lambda xp, g, x, y: xp.safe_divide(g * x, y),
    domain=[(-2.0, 2.0), (0.1, 3.0)],
)
def xlogy(xp: Any, x: Array, y: Array) -> Any:
    """`x * ln(y)`, and 0 where `x` is 0, whatever `y` is.

    The slope in `y` is 0 where `x` is 0. A zero cotangent stays zero where `y` is 0.
    """
    if is_number(x):
        return x * xp.log(y) if x else x * xp.zeros_like(y)
    if is_number(y):
        y = y * xp.ones_like(x)
    return x * xp.log(xp.where(x != 0, y, 1))
