"""Arithmetic, number by number, with broadcasting.

Convention at singular slopes: where a finite input has an infinite slope (`sqrt` at 0, `log` at 0, `exp` past overflow),
a cotangent of zero stays zero. So an untaken branch of `where` never turns into NaN. Rules state it by `safe_divide`
and `safe_multiply`.
"""

from typing import Any

from ..core.define import Array, elementwise

__all__ = [
    "add", "cos", "divide", "exp", "log", "multiply", "negative", "positive", "relu", "safe_divide", "safe_multiply", "sin", "sqrt",
    "square", "step", "subtract", "tanh",
]  # fmt: skip


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
    lambda xp, g, y: xp.safe_divide(g, y), lambda xp, g, y, out: -xp.safe_divide(g * out, y), domain=(0.5, 2.0)
)
def divide(xp: Any, x: Array, y: Array) -> Any:
    """`x / y`. A zero cotangent stays zero where `y` is 0."""
    return x / y


@elementwise(
    lambda xp, g, y: xp.safe_divide(g, y), lambda xp, g, y, out: -xp.safe_divide(g * out, y), domain=(0.5, 2.0)
)
def safe_divide(xp: Any, x: Array, y: Array) -> Any:
    """`x / y`, and 0 where `x` is 0, whatever `y` is."""
    if isinstance(y, float | int):
        return x / y if y else x * 0
    return x / xp.where(x == 0, xp.ones_like(y), y)


@elementwise(lambda xp, g, y: xp.safe_multiply(g, y), lambda xp, g, x: xp.safe_multiply(g, x))
def safe_multiply(xp: Any, x: Array, y: Array) -> Any:
    """`x * y`, and 0 where `x` is 0, even if `y` is infinite."""
    return x * xp.where(x == 0, xp.zeros_like(y), y)


@elementwise(lambda xp, g, x: g * xp.cos(x))
def sin(xp: Any, x: Array) -> Any:
    """Sine of `x` in radians."""
    return xp.sin(x)


@elementwise(lambda xp, g, x: -(g * xp.sin(x)))
def cos(xp: Any, x: Array) -> Any:
    """Cosine of `x` in radians."""
    return xp.cos(x)


@elementwise(lambda xp, g, out: xp.safe_multiply(g, out))
def exp(xp: Any, x: Array) -> Any:
    """`e ** x`. A zero cotangent stays zero where the result overflows."""
    return xp.exp(x)


@elementwise(lambda xp, g, x: xp.safe_divide(g, x), domain=(0.1, 3.0))
def log(xp: Any, x: Array) -> Any:
    """Natural logarithm of `x`. A zero cotangent stays zero at 0."""
    return xp.log(x)


@elementwise(lambda xp, g, out: xp.safe_divide(0.5 * g, out), domain=(0.1, 4.0))
def sqrt(xp: Any, x: Array) -> Any:
    """Square root of `x`. A zero cotangent stays zero at 0."""
    return xp.sqrt(x)


@elementwise(lambda g, x: g * (x + x))
def square(xp: Any, x: Array) -> Any:
    """`x * x`."""
    return x * x


@elementwise(lambda g, out: g * (1.0 - out * out))
def tanh(xp: Any, x: Array) -> Any:
    """Hyperbolic tangent of `x`."""
    return xp.tanh(x)


@elementwise(lambda xp, g, out: g * xp.step(out))
def relu(xp: Any, x: Array) -> Any:
    """`max(x, 0)`; the slope at 0 is 0."""
    return xp.maximum(x, 0.0)


@elementwise(None)
def step(xp: Any, x: Array) -> Any:
    """1 where `x > 0`, else 0, in the dtype of `x`: a mask, without a derivative."""
    return xp.astype(x > 0, x.dtype)
