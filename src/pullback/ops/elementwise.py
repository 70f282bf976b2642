"""Arithmetic and powers, number by number, with broadcasting.

Convention at singular slopes: where a finite input has an infinite slope, or none (`sqrt` at 0 or below, `log` at 0,
`exp` past overflow), a cotangent of zero stays zero. So an untaken branch of `where` never turns into NaN. Rules state
it by `safe_divide` and `safe_multiply`, which are zero where their first argument is, whatever the second. And an input
that has no influence on the value (in `where`, `clip`, `maximum`) gets a zero cotangent, even if that of the value is
infinite.
"""

from math import isfinite, isnan, log
from typing import Any

from ..core.define import Array, Sample, elementwise
from ..core.tensor import WEAK, as_array
from ..errors import ArgumentError

__all__ = [
    "abs", "add", "clip", "copysign", "divide", "hypot", "maximum", "minimum", "multiply", "negative", "positive",
    "pow", "reciprocal", "remainder", "safe_divide", "safe_multiply", "sqrt", "square", "subtract", "where",
]  # fmt: skip


def is_number(x: Any) -> bool:
    """Whether an input of a body or of a rule is a Python number: a weak one, without shape and dtype."""
    return x.__class__ in WEAK


@elementwise(lambda g: g)
def positive(xp: Any, x: Array) -> Any:
    """The same numbers."""
    return +x


@elementwise(lambda g: -g)
def negative(xp: Any, x: Array) -> Any:
    """`-x`."""
    return -x


@elementwise(lambda g: g, lambda g: g)
def add(xp: Any, x: Array, y: Array) -> Any:
    """`x + y`."""
    return x + y


@elementwise(lambda g: g, lambda g: -g)
def subtract(xp: Any, x: Array, y: Array) -> Any:
    """`x - y`."""
    return x - y


@elementwise(lambda g, y: g * y, lambda g, x: g * x)
def multiply(xp: Any, x: Array, y: Array) -> Any:
    """`x * y`."""
    return x * y


@elementwise(
    lambda xp, g, y: xp.safe_divide(g, y),
    lambda xp, g, y, out: -xp.safe_multiply(g, out / y),
    domain=(0.5, 2.0),
)
def divide(xp: Any, x: Array, y: Array) -> Any:
    """`x / y`, of floating point for integers too. A zero cotangent stays zero where `y` is 0."""
    return x / y


@elementwise(
    lambda xp, g, y: xp.safe_divide(g, y),
    lambda xp, g, x, y, out: xp.where(x == 0, 0.0, -xp.safe_multiply(g, out / y)),
    domain=(0.5, 2.0),
)
def safe_divide(xp: Any, x: Array, y: Array) -> Any:
    """`x / y`, and 0 where `x` is 0, whatever `y` is: also 0, infinite or NaN. There the slope in `y` is 0."""
    if is_number(x):
        return x / y if x else x / xp.ones_like(y)
    if is_number(y):
        if y and not isnan(y):
            return x / y
        y = y * xp.ones_like(x)
    return x / xp.where(x != 0, y, 1)


@elementwise(lambda xp, g, y: xp.safe_multiply(g, y), lambda xp, g, x: xp.safe_multiply(x, g))
def safe_multiply(xp: Any, x: Array, y: Array) -> Any:
    """`x * y`, and 0 where `x` is 0, whatever `y` is: also infinite or NaN. There the slope in `y` is 0."""
    if is_number(x):
        return x * y if x else x * xp.zeros_like(y)
    if is_number(y):
        if isfinite(y):
            return x * y
        y = y * xp.ones_like(x)
    return x * xp.where(x != 0, y, 0)


@elementwise(lambda xp, g, out: -xp.safe_multiply(xp.safe_multiply(g, out), out), domain=(0.5, 2.0))
def reciprocal(xp: Any, x: Array) -> Any:
    """`1 / x`, of floating point for integers too. A zero cotangent stays zero at 0."""
    return 1.0 / x


@elementwise(lambda xp, g, x: g * xp.sign(x))
def abs(xp: Any, x: Array) -> Any:
    """The absolute value of `x`; the slope at 0 is 0."""
    return xp.abs(x)


@elementwise(lambda g, x: g * (x + x))
def square(xp: Any, x: Array) -> Any:
    """`x * x`."""
    return x * x


@elementwise(lambda xp, g, out: xp.safe_divide(0.5 * g, out), domain=(0.1, 4.0))
def sqrt(xp: Any, x: Array) -> Any:
    """The square root of `x`, NaN below 0. A zero cotangent stays zero at 0 and below."""
    return xp.sqrt(x)


# --- powers -----------------------------------------------------------------------------------------------------------

# Exponents that a product or a root serves, thirty times as fast as the general power.
_PRODUCTS = {
    3: lambda xp, x: x * x * x,
    4: lambda xp, x: (x * x) * (x * x),
    -0.5: lambda xp, x: 1.0 / xp.sqrt(x),
    -2: lambda xp, x: 1.0 / (x * x),
}


def _by_base(xp: Any, g: Any, x: Any, y: Any) -> Any:
    """g y x^(y - 1). Where `y` is 0 the slope is 0; a product that starts with `g` keeps a zero cotangent zero."""
    if not is_number(y):
        return xp.safe_multiply(g, xp.safe_multiply(y, x ** (y - 1)))
    if y == 1:
        return g
    if y == 2:
        return g * (x + x)
    if y == 3:
        return (3.0 * g) * x * x
    if y == 0.5:
        return xp.safe_divide(0.5 * g, xp.sqrt(x))
    return xp.safe_multiply(y * g, x ** (y - 1))


def _by_exponent(xp: Any, g: Any, x: Any, out: Any) -> Any:
    """g x^y ln(x). `xlogy` makes it 0 where x^y is 0."""
    if is_number(x) and x > 0:
        return xp.safe_multiply(g * log(x), out)
    return xp.safe_multiply(g, xp.xlogy(out, x))


@elementwise(
    _by_base,
    _by_exponent,
    domain=[(0.5, 2.0), (-2.0, 3.0)],
)
def pow(xp: Any, x: Array, y: Array) -> Any:
    """`x ** y`, NaN where `x < 0` and `y` is no integer.

    The slope in `x` is 0 where `y` is 0, also at 0 ** 0. The slope in `y` is 0 where the power is 0 (so at `x == 0`,
    `y > 0`), minus infinity at 0 ** 0, and NaN where `x < 0`. A zero cotangent stays zero everywhere.

    Raises:
        ArgumentError: integers to a negative power.
    """
    if is_number(y) and y in _PRODUCTS and xp.isdtype(x.dtype, "real floating"):
        return _PRODUCTS[y](xp, x)
    try:
        return x**y
    except ValueError:
        if (y < 0) if is_number(y) else bool(xp.any(y < 0)):
            raise ArgumentError("integers have no negative integer powers; make one of them floating-point") from None
        raise


@elementwise(
    lambda g: g,
    lambda xp, g, x, y: -xp.safe_multiply(g, xp.floor_divide(x, y)),
    domain=[(-4.0, 4.0), (1.5, 2.5)],
)
def remainder(xp: Any, x: Array, y: Array) -> Any:
    """`x % y`, with the sign of `y`. Slopes are those between the jumps: 1, and `-(x // y)`.

    A zero cotangent stays zero where `y` is 0.
    """
    return x % y


@elementwise(
    lambda xp, g, x, out: xp.safe_multiply(g, xp.safe_divide(x, out)),
    lambda xp, g, y, out: xp.safe_multiply(g, xp.safe_divide(y, out)),
)
def hypot(xp: Any, x: Array, y: Array) -> Any:
    """`sqrt(x ** 2 + y ** 2)` without overflow; both slopes at the origin are 0."""
    return xp.hypot(x, y)


@elementwise(lambda xp, g, x, out: g * (xp.sign(x) * xp.sign(out)), None)
def copysign(xp: Any, x: Array, y: Array) -> Any:
    """The magnitude of `x` with the sign of `y`, which has no derivative; the slope at `x == 0` is 0."""
    if not is_number(y) and not xp.isdtype(y.dtype, "real floating"):
        y = xp.astype(y, x.dtype)
    return xp.copysign(x, y)


# --- choices ----------------------------------------------------------------------------------------------------------


def _choices(rng: Any) -> Any:
    yield Sample((rng.random((2, 3)) < 0.5, rng.normal(size=(2, 3)), rng.normal(size=(2, 3))))
    yield Sample((rng.random((2, 1)) < 0.5, rng.normal(size=(3,)), rng.normal(size=())))
    yield Sample((rng.random(4) < 0.5, rng.normal(size=(4,)), 0.0))
    yield Sample((rng.random(4) < 0.5, 1, rng.normal(size=(4,))))


@elementwise(
    None,
    lambda xp, g, condition: xp.where(condition, g, 0.0),
    lambda xp, g, condition: xp.where(condition, 0.0, g),
    samples=_choices,
)
def where(xp: Any, condition: Array, x: Array, y: Array) -> Any:
    """`x` where `condition` (booleans) holds, else `y`.

    Each cotangent goes to the branch that was taken; the other gets 0, even if the cotangent is infinite.
    """
    if is_number(x) and is_number(y):  # no array gives them a dtype: take that of Python numbers
        x = xp.asarray(x, dtype=as_array([x, y]).dtype)
    return xp.where(condition, x, y)


def _larger_share(xp: Any, g: Any, x: Any, y: Any) -> Any:
    """`g` where `x > y`, half of it where they are equal, else 0."""
    return xp.where(x >= y, g, 0.0) * (1.0 - 0.5 * xp.astype(x == y, g.dtype))


@elementwise(_larger_share, lambda xp, g, x, y: _larger_share(xp, g, y, x))
def maximum(xp: Any, x: Array, y: Array) -> Any:
    """The larger of `x` and `y`, NaN where one is. Where they are equal, each gets half of the cotangent."""
    return xp.maximum(x, y)


@elementwise(lambda xp, g, x, y: _larger_share(xp, g, y, x), _larger_share)
def minimum(xp: Any, x: Array, y: Array) -> Any:
    """The smaller of `x` and `y`, NaN where one is. Where they are equal, each gets half of the cotangent."""
    return xp.minimum(x, y)


def _bounds(rng: Any) -> Any:
    yield Sample((rng.normal(size=(2, 3)), rng.normal(size=(2, 1)), rng.normal(size=(3,))))
    yield Sample((rng.normal(size=(2, 3)), -0.5, 0.5))
    yield Sample((rng.normal(size=(3,)),), {"max": 0.0})
    yield Sample((rng.normal(size=(2, 3)), rng.normal(size=()), None))


def _inside(xp: Any, g: Any, x: Any, min: Any, max: Any) -> Any:
    if min is not None:
        g = xp.where(x >= min, g, 0.0)
    return g if max is None else xp.where(x <= max, g, 0.0)


def _below(xp: Any, g: Any, x: Any, min: Any, max: Any) -> Any:
    g = xp.where(x < min, g, 0.0)
    return g if max is None else xp.where(max >= min, g, 0.0)


def _above(xp: Any, g: Any, x: Any, min: Any, max: Any) -> Any:
    return xp.where(x > max if min is None else (x > max) | (min > max), g, 0.0)


@elementwise(
    _inside,
    _below,
    _above,
    samples=_bounds,
)
def clip(xp: Any, x: Array, min: Array | None = None, max: Array | None = None) -> Any:
    """`minimum(maximum(x, min), max)`; a bound is a number, an array, or None for no bound.

    The cotangent goes to `x` inside and at the bounds, else to the bound that was taken.
    """
    if min is not None:
        x = xp.maximum(x, min)
    if max is not None:
        x = xp.minimum(x, max)
    return x if min is not None or max is not None else +x
