"""Interleaved timing, and its statistics.

All contenders run in every round, in a new order each time, so that whatever else the machine does meets all of them.
Ratios are taken inside each round and then their median: both times of a pair come from the same moment.
"""

import gc
import os
import platform
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from ..costs.machine import blas, cores, processor

__all__ = ["Races", "collected", "environment", "in_turns", "installed", "race", "spread", "turn_of"]

LIBRARIES = ("pullback", "numpy", "autograd", "jax", "mygrad", "torch")
Races = dict[str, np.ndarray]
T = TypeVar("T")


def environment(threads: int) -> dict[str, Any]:
    """The facts that figures depend on; nothing that names a machine or a person."""
    found: dict[str, Any] = {
        "processor": processor(),
        "cores": cores(),
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "not installed"
    found["blas of numpy"] = blas()
    if hasattr(os, "getloadavg"):
        found["load before"] = round(os.getloadavg()[0], 1)
    return found


def installed(contenders: Mapping[str, T]) -> dict[str, T]:
    """Those contenders whose library, the part of their name before a comma, can be imported here."""
    return {name: make for name, make in contenders.items() if find_spec(name.partition(",")[0])}


def race(contenders: Mapping[str, Callable[[], Any]], rounds: int, turn: float = 0.02) -> Races:
    """Seconds per call of each contender in each round.

    Args:
        contenders: What to time, by name; functions of no argument.
        rounds: How often all of them run.
        turn: Seconds that one contender runs for in one round; before them it runs untimed for a tenth of that, to
            fill the caches with its own data again, unless one call takes longer than `turn`.
    """
    return collected(in_turns({name: turn_of(contender, turn) for name, contender in contenders.items()}, rounds))


def in_turns(turns: Mapping[str, Callable[[], float]], rounds: int) -> Iterator[tuple[str, float]]:
    """Each turn once in each round, in a new order each time: its name and its value, as soon as it is there."""
    order, chance = list(turns), random.Random(0)
    for _ in range(rounds):
        chance.shuffle(order)
        for name in order:
            yield name, turns[name]()


def collected(measured: Iterable[tuple[str, float]]) -> Races:
    """The values by name, round by round."""
    seconds: dict[str, list[float]] = {}
    for name, value in measured:
        seconds.setdefault(name, []).append(value)
    return {name: np.array(times) for name, times in seconds.items()}


def turn_of(contender: Callable[[], Any], turn: float) -> Callable[[], float]:
    """A function that runs `contender` for about `turn` seconds and gives the seconds of one call.

    How many calls that are is found out here, after a first call, in which some compile, load or plan.
    """
    contender()
    count, taken = 1, 0.0
    while taken < turn / 4:
        start = perf_counter()
        for _ in range(count):
            contender()
        taken = perf_counter() - start
        count *= 2
    one = taken / (count // 2)
    calls = max(1, round(turn / one))
    warm = 1 + calls // 10 if one < turn else 0  # what takes long fills the caches soon enough

    def run() -> float:
        gc.collect()
        for _ in range(warm):
            contender()
        start = perf_counter()
        for _ in range(calls):
            contender()
        return (perf_counter() - start) / calls

    return run


def spread(values: Sequence[float] | np.ndarray, digits: int = 3) -> dict[str, float]:
    """Median, quartiles and minimum of the rounds."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    found = {"median": middle, "quartile 1": low, "quartile 3": high, "min": np.min(values)}
    return {name: round(float(value), digits) for name, value in found.items()}
