"""Exponentials, logarithms, circular and hyperbolic functions, number by number.

Singular slopes follow the convention of `elementwise`: a zero cotangent stays zero.
"""

import math
from typing import Any

from ..core.define import Array, elementwise

__all__ = [
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cos", "cosh", "exp", "expm1", "log", "log1p", "log2",
    "log10", "sin", "sinh", "tan", "tanh",
]  # fmt: skip

_PER_LOG_2, _PER_LOG_10 = 1.0 / math.log(2.0), 1.0 / math.log(10.0)


@elementwise(lambda xp, g, out: xp.safe_multiply(g, out))
def exp(xp: Any, x: Array) -> Any:
    """`e ** x`. A zero cotangent stays zero where the result overflows."""
    return xp.exp(x)


@elementwise(lambda xp, g, out: xp.safe_multiply(g, out + 1.0))
def expm1(xp: Any, x: Array) -> Any:
    """`e ** x - 1`, to full precision near 0. A zero cotangent stays zero where the result overflows."""
    return xp.expm1(x)


@elementwise(lambda xp, g, x: xp.safe_divide(g, x), domain=(0.1, 3.0))
def log(xp: Any, x: Array) -> Any:
    """The natural logarithm of `x`. A zero cotangent stays zero at 0."""
    return xp.log(x)


@elementwise(lambda xp, g, x: xp.safe_divide(g, 1.0 + x), domain=(-0.9, 3.0))
def log1p(xp: Any, x: Array) -> Any:
    """The natural logarithm of `1 + x`, to full precision near 0. A zero cotangent stays zero at -1."""
    return xp.log1p(x)


@elementwise(lambda xp, g, x: xp.safe_divide(_PER_LOG_2 * g, x), domain=(0.1, 3.0))
def log2(xp: Any, x: Array) -> Any:
    """The logarithm of `x` to base 2. A zero cotangent stays zero at 0."""
    return xp.log2(x)


@elementwise(lambda xp, g, x: xp.safe_divide(_PER_LOG_10 * g, x), domain=(0.1, 3.0))
def log10(xp: Any, x: Array) -> Any:
    """The logarithm of `x` to base 10. A zero cotangent stays zero at 0."""
    return xp.log10(x)


# --- circular ---------------------------------------------------------------------------------------------------------


@elementwise(lambda xp, g, x: g * xp.cos(x))
def sin(xp: Any, x: Array) -> Any:
    """The sine of `x` in radians."""
    return xp.sin(x)


@elementwise(lambda xp, g, x: -(g * xp.sin(x)))
def cos(xp: Any, x: Array) -> Any:
    """The cosine of `x` in radians."""
    return xp.cos(x)


@elementwise(lambda g, out: g * (1.0 + out * out), domain=(-1.3, 1.3))
def tan(xp: Any, x: Array) -> Any:
    """The tangent of `x` in radians."""
    return xp.tan(x)


@elementwise(lambda xp, g, x: xp.safe_divide(g, xp.sqrt((1.0 - x) * (1.0 + x))), domain=(-0.9, 0.9))
def asin(xp: Any, x: Array) -> Any:
    """The angle in [-pi/2, pi/2] whose sine is `x`. A zero cotangent stays zero at -1, 1 and outside."""
    return xp.asin(x)


@elementwise(lambda xp, g, x: -xp.safe_divide(g, xp.sqrt((1.0 - x) * (1.0 + x))), domain=(-0.9, 0.9))
def acos(xp: Any, x: Array) -> Any:
    """The angle in [0, pi] whose cosine is `x`. A zero cotangent stays zero at -1, 1 and outside."""
    return xp.acos(x)


@elementwise(lambda g, x: g / (1.0 + x * x))
def atan(xp: Any, x: Array) -> Any:
    """The angle in [-pi/2, pi/2] whose tangent is `x`."""
    return xp.atan(x)


def _turn(xp: Any, g: Any, along: Any, x: Any, y: Any) -> Any:
    """g along / (x^2 + y^2), without the overflow of squares."""
    radius = xp.hypot(x, y)
    return xp.safe_divide(g * xp.safe_divide(along, radius), radius)


@elementwise(
    lambda xp, g, x, y: _turn(xp, g, y, x, y),
    lambda xp, g, x, y: -_turn(xp, g, x, x, y),
    domain=[(0.5, 2.0), (-2.0, 2.0)],
)
def atan2(xp: Any, x: Array, y: Array) -> Any:
    """The angle in [-pi, pi] of the point with ordinate `x` and abscissa `y`; both slopes at the origin are 0."""
    return xp.atan2(x, y)


# --- hyperbolic -------------------------------------------------------------------------------------------------------


@elementwise(lambda xp, g, x: xp.safe_multiply(g, xp.cosh(x)))
def sinh(xp: Any, x: Array) -> Any:
    """The hyperbolic sine of `x`. A zero cotangent stays zero where the result overflows."""
    return xp.sinh(x)


@elementwise(lambda xp, g, x: xp.safe_multiply(g, xp.sinh(x)))
def cosh(xp: Any, x: Array) -> Any:
    """The hyperbolic cosine of `x`. A zero cotangent stays zero where the result overflows."""
    return xp.cosh(x)


@elementwise(lambda xp, g, out: g * (1.0 - out * out), fused=True)
def tanh(xp: Any, x: Array) -> Any:
    """The hyperbolic tangent of `x`."""
    return xp.tanh(x)


@elementwise(lambda xp, g, out: g / xp.cosh(out))
def asinh(xp: Any, x: Array) -> Any:
    """The number whose hyperbolic sine is `x`."""
    return xp.asinh(x)


@elementwise(lambda xp, g, out: xp.safe_divide(g, xp.sinh(out)), domain=(1.2, 4.0))
def acosh(xp: Any, x: Array) -> Any:
    """The number, not negative, whose hyperbolic cosine is `x`. A zero cotangent stays zero at 1 and below."""
    return xp.acosh(x)


@elementwise(lambda xp, g, x: xp.safe_divide(g, (1.0 - x) * (1.0 + x)), domain=(-0.9, 0.9))
def atanh(xp: Any, x: Array) -> Any:
    """The number whose hyperbolic tangent is `x`. A zero cotangent stays zero at -1 and 1."""
    return xp.atanh(x)
