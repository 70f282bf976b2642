"""First values of weights: the usual random ones, with PyTorch's gains.

Each function takes a shape and gives a constant tensor. The layout of weights is (in, out): `fan_in` is the length of
the last axis but one, `fan_out` that of the last one, both times the lengths of all axes before them.
"""

from collections.abc import Callable, Sequence
from math import prod, sqrt
from typing import Any

from ..core.tensor import Tensor
from ..errors import ArgumentError, ShapeError
from ..ops import creation
from ..random import Generator, default_generator

__all__ = [
    "Initializer",
    "calculate_gain",
    "kaiming_normal",
    "kaiming_uniform",
    "named",
    "ones",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]

Initializer = Callable[..., Tensor]  # init(shape, generator=..., dtype=..., device=...)

_GAINS: dict[str, Callable[[float], float]] = {
    "leaky_relu": lambda slope: sqrt(2.0 / (1.0 + slope**2)),
    "linear": lambda slope: 1.0,
    "relu": lambda slope: sqrt(2.0),
    "selu": lambda slope: 0.75,
    "sigmoid": lambda slope: 1.0,
    "tanh": lambda slope: 5.0 / 3.0,
}


def calculate_gain(nonlinearity: str, negative_slope: float = 0.01) -> float:
    """What weights are multiplied by so that the deviation of values stays through an activation, as in PyTorch.

    linear and sigmoid 1, tanh 5/3, relu sqrt(2), leaky_relu sqrt(2 / (1 + negative_slope^2)), selu 3/4.

    Raises:
        ArgumentError: there is no gain for this name.
    """
    if nonlinearity not in _GAINS:
        raise ArgumentError(f"calculate_gain: no gain for {nonlinearity!r}; there are {', '.join(_GAINS)}")
    return _GAINS[nonlinearity](negative_slope)


def kaiming_uniform(
    shape: Sequence[int],
    *,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
    dtype: Any = None,
    device: str | None = None,
) -> Tensor:
    """Uniform between +-gain sqrt(3 / fan), He et al., "Delving deep into rectifiers" (2015).

    Args:
        shape: At least two axes, the last two (in, out).
        a: The slope of leaky_relu below 0, for the gain.
        mode: "fan_in" keeps the deviation of values forward, "fan_out" that of cotangents backward.
        nonlinearity: See `calculate_gain`.
        generator: What is drawn from; None for the default generator of the process.
        dtype, device: Of the tensor.

    Raises:
        ShapeError: fewer than two axes. ArgumentError: an unknown mode or nonlinearity.
    """
    bound = sqrt(3.0) * _kaiming_deviation(shape, a, mode, nonlinearity)
    return (generator or default_generator).uniform(shape, -bound, bound, dtype=dtype, device=device)


def kaiming_normal(
    shape: Sequence[int],
    *,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
    dtype: Any = None,
    device: str | None = None,
) -> Tensor:
    """Normal with deviation gain / sqrt(fan). All else is as in `kaiming_uniform`."""
    deviation = _kaiming_deviation(shape, a, mode, nonlinearity)
    return (generator or default_generator).normal(shape, 0.0, deviation, dtype=dtype, device=device)


def xavier_uniform(
    shape: Sequence[int],
    *,
    gain: float = 1.0,
    generator: Generator | None = None,
    dtype: Any = None,
    device: str | None = None,
) -> Tensor:
    """Uniform between +-gain sqrt(6 / (fan_in + fan_out)), Glorot and Bengio (2010), eq. 16.

    Args:
        shape: At least two axes, the last two (in, out).
        gain: See `calculate_gain`.
        generator: What is drawn from; None for the default generator of the process.
        dtype, device: Of the tensor.

    Raises:
        ShapeError: fewer than two axes.
    """
    bound = gain * sqrt(6.0 / max(sum(_fans(shape)), 1))
    return (generator or default_generator).uniform(shape, -bound, bound, dtype=dtype, device=device)


def xavier_normal(
    shape: Sequence[int],
    *,
    gain: float = 1.0,
    generator: Generator | None = None,
    dtype: Any = None,
    device: str | None = None,
) -> Tensor:
    """Normal with deviation gain sqrt(2 / (fan_in + fan_out)). All else is as in `xavier_uniform`."""
    deviation = gain * sqrt(2.0 / max(sum(_fans(shape)), 1))
    return (generator or default_generator).normal(shape, 0.0, deviation, dtype=dtype, device=device)


def zeros(
    shape: Sequence[int], *, generator: Generator | None = None, dtype: Any = None, device: str | None = None
) -> Tensor:
    """Zeros; nothing is drawn."""
    return creation.zeros(shape, dtype=dtype, device=device)


def ones(
    shape: Sequence[int], *, generator: Generator | None = None, dtype: Any = None, device: str | None = None
) -> Tensor:
    """Ones; nothing is drawn."""
    return creation.ones(shape, dtype=dtype, device=device)


_NAMED = {f.__name__: f for f in (kaiming_normal, kaiming_uniform, ones, xavier_normal, xavier_uniform, zeros)}


def named(init: str | Initializer) -> Initializer:
    """The initialisation of a name. Raises ArgumentError, with those that there are, for any other."""
    if callable(init):
        return init
    if init not in _NAMED:
        raise ArgumentError(f"init: no initialisation is called {init!r}; there are {', '.join(_NAMED)}")
    return _NAMED[init]


def _fans(shape: Sequence[int]) -> tuple[int, int]:
    if len(shape) < 2:
        raise ShapeError(f"init: weights have at least two axes, (in, out); got shape {tuple(shape)}")
    *before, inputs, outputs = shape
    return inputs * prod(before), outputs * prod(before)


def _kaiming_deviation(shape: Sequence[int], a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ArgumentError(f"init: mode is 'fan_in' or 'fan_out'; got {mode!r}")
    fan_in, fan_out = _fans(shape)
    return calculate_gain(nonlinearity, a) / sqrt(max(fan_in if mode == "fan_in" else fan_out, 1))
