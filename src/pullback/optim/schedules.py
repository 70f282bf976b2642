"""Learning rates as functions of how many steps were taken. They hold no state: the optimizer's count is all of it."""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, isfinite, pi
from typing import Any

from ..errors import ArgumentError

__all__ = ["Chain", "ConstantRate", "CosineDecay", "LinearRamp", "Schedule", "StepDecay", "WarmUp"]

Schedule = Callable[[int], float]  # steps taken so far -> the learning rate of the next step


@dataclass(frozen=True)
class ConstantRate:
    """The same learning rate at every step; for chains."""

    rate: float

    def __post_init__(self) -> None:
        _check_rate(self, rate=self.rate)

    def __call__(self, step: int) -> float:
        return self.rate


@dataclass(frozen=True)
class StepDecay:
    """`rate * factor ** (step // every)`: a cut after every so many steps (PyTorch's StepLR)."""

    rate: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        _check_rate(self, rate=self.rate, factor=self.factor)
        _check_steps(self, every=self.every)

    def __call__(self, step: int) -> float:
        return self.rate * self.factor ** (step // self.every)


@dataclass(frozen=True)
class CosineDecay:
    """Half a cosine from `rate` down to `final` within `steps`, and `final` from there on.

    final + (rate - final) (1 + cos(pi step / steps)) / 2, eq. 5 of Loshchilov and Hutter, "SGDR" (2017), without
    restarts (PyTorch's CosineAnnealingLR up to `steps`).
    """

    rate: float
    steps: int
    final: float = 0.0

    def __post_init__(self) -> None:
        _check_rate(self, rate=self.rate, final=self.final)
        _check_steps(self, steps=self.steps)

    def __call__(self, step: int) -> float:
        done = min(step / self.steps, 1.0)
        return self.final + (self.rate - self.final) * (1.0 + cos(pi * done)) / 2.0


@dataclass(frozen=True)
class LinearRamp:
    """A straight line from `rate` to `final` within `steps`, up or down, and `final` from there on."""

    rate: float
    steps: int
    final: float = 0.0

    def __post_init__(self) -> None:
        _check_rate(self, rate=self.rate, final=self.final)
        _check_steps(self, steps=self.steps)

    def __call__(self, step: int) -> float:
        return self.rate + (self.final - self.rate) * min(step / self.steps, 1.0)


@dataclass(frozen=True)
class WarmUp:
    """Another schedule, begun with a straight line from `start` times its first rate up to it within `steps`.

    The other schedule counts its steps from the end of the line. `WarmUp(5, s, start=1/3)` is PyTorch's
    `SequentialLR([LinearLR(total_iters=5), s], milestones=[5])`.
    """

    steps: int
    then: Schedule
    start: float = 0.0

    def __post_init__(self) -> None:
        _check_rate(self, start=self.start)
        _check_steps(self, steps=self.steps)
        _check_callable(self, self.then)

    def __call__(self, step: int) -> float:
        if step >= self.steps:
            return self.then(step - self.steps)
        return self.then(0) * (self.start + (1.0 - self.start) * step / self.steps)


class Chain:
    """Schedules one after another: `Chain((100, LinearRamp(0.0, 100, 0.1)), (900, CosineDecay(0.1, 900)))`.

    Each part is (steps, schedule) and counts its steps from its own begin; the last one goes on for ever.
    """

    def __init__(self, *parts: tuple[int, Schedule]) -> None:
        if not parts or not all(isinstance(part, tuple) and len(part) == 2 for part in parts):
            raise ArgumentError("Chain: give one or more parts (steps, schedule)")
        for steps, schedule in parts:
            _check_steps(self, steps=steps)
            _check_callable(self, schedule)
        self.parts = parts

    def __call__(self, step: int) -> float:
        for steps, schedule in self.parts[:-1]:
            if step < steps:
                return schedule(step)
            step -= steps
        return self.parts[-1][1](step)

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.parts))})"


def _check_rate(schedule: Any, **values: Any) -> None:
    for name, value in values.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not (isfinite(value) and value >= 0):
            raise ArgumentError(
                f"{type(schedule).__name__}: {name} is a finite number that is not negative; got {value!r}"
            )


def _check_steps(schedule: Any, **values: Any) -> None:
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ArgumentError(f"{type(schedule).__name__}: {name} is an int above 0; got {value!r}")


def _check_callable(schedule: Any, value: Any) -> None:
    if not callable(value):
        raise ArgumentError(
            f"{type(schedule).__name__}: {value!r} is no schedule, a function of the step; "
            "for a number write ConstantRate(number)"
        )
