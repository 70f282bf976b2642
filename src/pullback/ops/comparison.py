"""Comparisons, logic, bits and rounding, number by number. None has a derivative: their values are constants."""

from typing import Any

from ..core.define import Array, Sample, elementwise

__all__ = [
    "bitwise_and", "bitwise_invert", "bitwise_left_shift", "bitwise_or", "bitwise_right_shift", "bitwise_xor", "ceil",
    "equal", "floor", "floor_divide", "greater", "greater_equal", "isfinite", "isinf", "isnan", "less", "less_equal",
    "logical_and", "logical_not", "logical_or", "logical_xor", "nextafter", "not_equal", "round", "sign", "signbit",
    "trunc",
]  # fmt: skip


@elementwise(None, None)
def equal(xp: Any, x: Array, y: Array) -> Any:
    """Whether `x == y`; NaN equals nothing."""
    return x == y


@elementwise(None, None)
def not_equal(xp: Any, x: Array, y: Array) -> Any:
    """Whether `x != y`."""
    return x != y


@elementwise(None, None)
def less(xp: Any, x: Array, y: Array) -> Any:
    """Whether `x < y`."""
    return x < y


@elementwise(None, None)
def less_equal(xp: Any, x: Array, y: Array) -> Any:
    """Whether `x <= y`."""
    return x <= y


@elementwise(None, None)
def greater(xp: Any, x: Array, y: Array) -> Any:
    """Whether `x > y`."""
    return x > y


@elementwise(None, None)
def greater_equal(xp: Any, x: Array, y: Array) -> Any:
    """Whether `x >= y`."""
    return x >= y


@elementwise(None)
def isfinite(xp: Any, x: Array) -> Any:
    """Whether `x` is neither infinite nor NaN."""
    return xp.isfinite(x)


@elementwise(None)
def isinf(xp: Any, x: Array) -> Any:
    """Whether `x` is infinite, of either sign."""
    return xp.isinf(x)


@elementwise(None)
def isnan(xp: Any, x: Array) -> Any:
    """Whether `x` is NaN."""
    return xp.isnan(x)


# --- logic and bits ---------------------------------------------------------------------------------------------------


def _truths(rng: Any) -> Any:
    yield Sample((rng.random((2, 3)) < 0.5, rng.random(3) < 0.5))


def _truth(rng: Any) -> Any:
    yield Sample((rng.random((2, 3)) < 0.5,))


def _words(rng: Any) -> Any:
    yield Sample((rng.integers(0, 8, size=(2, 3)), rng.integers(0, 8, size=(3,))))


def _word(rng: Any) -> Any:
    yield Sample((rng.integers(-8, 8, size=(2, 3)),))


@elementwise(None, None, samples=_truths)
def logical_and(xp: Any, x: Array, y: Array) -> Any:
    """Whether both booleans hold."""
    return xp.logical_and(x, y)


@elementwise(None, None, samples=_truths)
def logical_or(xp: Any, x: Array, y: Array) -> Any:
    """Whether at least one of two booleans holds."""
    return xp.logical_or(x, y)


@elementwise(None, None, samples=_truths)
def logical_xor(xp: Any, x: Array, y: Array) -> Any:
    """Whether exactly one of two booleans holds."""
    return xp.logical_xor(x, y)


@elementwise(None, samples=_truth)
def logical_not(xp: Any, x: Array) -> Any:
    """Whether a boolean does not hold."""
    return xp.logical_not(x)


@elementwise(None, None, samples=_words)
def bitwise_and(xp: Any, x: Array, y: Array) -> Any:
    """`x & y`, for integers and booleans."""
    return x & y


@elementwise(None, None, samples=_words)
def bitwise_or(xp: Any, x: Array, y: Array) -> Any:
    """`x | y`, for integers and booleans."""
    return x | y


@elementwise(None, None, samples=_words)
def bitwise_xor(xp: Any, x: Array, y: Array) -> Any:
    """`x ^ y`, for integers and booleans."""
    return x ^ y


@elementwise(None, samples=_word)
def bitwise_invert(xp: Any, x: Array) -> Any:
    """`~x`, for integers and booleans."""
    return ~x


@elementwise(None, None, samples=_words)
def bitwise_left_shift(xp: Any, x: Array, y: Array) -> Any:
    """`x << y`, for integers; `y` is not negative."""
    return x << y


@elementwise(None, None, samples=_words)
def bitwise_right_shift(xp: Any, x: Array, y: Array) -> Any:
    """`x >> y`, for integers, keeping the sign; `y` is not negative."""
    return x >> y


# --- rounding and signs -----------------------------------------------------------------------------------------------


@elementwise(None)
def floor(xp: Any, x: Array) -> Any:
    """The largest integer not above `x`, in the dtype of `x`."""
    return xp.floor(x)


@elementwise(None)
def ceil(xp: Any, x: Array) -> Any:
    """The smallest integer not below `x`, in the dtype of `x`."""
    return xp.ceil(x)


@elementwise(None)
def trunc(xp: Any, x: Array) -> Any:
    """The integer next to `x` on the side of 0, in the dtype of `x`."""
    return xp.trunc(x)


@elementwise(None)
def round(xp: Any, x: Array) -> Any:
    """The integer nearest to `x`, the even one of two, in the dtype of `x`."""
    return xp.round(x)


@elementwise(None, None)
def floor_divide(xp: Any, x: Array, y: Array) -> Any:
    """`x // y`: the quotient rounded down, so that `x == y * (x // y) + x % y`."""
    return x // y


@elementwise(None)
def sign(xp: Any, x: Array) -> Any:
    """-1, 0 or 1 as `x` is negative, zero or positive; NaN stays."""
    return xp.sign(x)


@elementwise(None)
def signbit(xp: Any, x: Array) -> Any:
    """Whether the sign of `x` is minus, also that of -0.0."""
    return xp.signbit(x)


@elementwise(None, None)
def nextafter(xp: Any, x: Array, y: Array) -> Any:
    """The next number of the dtype from `x` towards `y`."""
    return xp.nextafter(x, y)
