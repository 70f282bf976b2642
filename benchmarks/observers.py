"""What watching costs: a training step inside of an observer beside the same step outside of it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from random import Random
from time import perf_counter
from typing import Any

import numpy as np

import pullback as pb

from .runner import race, spread, table
from .steps import NETS, Problem, Step, by_pullback

WIDE = {"2048-2048-2048-2048-10, batch 256": ((2048, 2048, 2048, 2048, 10), 256)}
STEPS = dict(zip(NETS | WIDE, (50, 4, 1), strict=True))  # in one block of a profile
BLOCKS = dict(zip(NETS | WIDE, (400, 200, 20), strict=True))
OBSERVERS: dict[str, Callable[[], AbstractContextManager[Any]]] = {"detect_nonfinite": pb.detect_nonfinite}


def answer(quick: bool) -> dict[str, Any]:
    """Microseconds per step, and of each observer the share that it adds (less than 0.1 is asked)."""
    answers = {}
    for net, (sizes, batch) in (NETS | WIDE).items():
        problem = Problem(sizes, batch)
        contenders = {"unwatched": by_pullback(problem)}
        contenders |= {name: _watched(make, by_pullback(problem)) for name, make in OBSERVERS.items()}
        times = race(contenders, rounds=4 if quick else 60, turn=0.02 if quick else 0.2)
        rows = {
            name: {"us per step": spread(t * 1e6, 1), "added": spread(t / times["unwatched"] - 1, 3)}
            for name, t in times.items()
        }
        table(rows, net)
        print()
        answers[net] = rows
    return answers | {"profile": profile_overhead(quick)}


def profile_overhead(quick: bool) -> dict[str, Any]:
    """Microseconds per step in blocks of a profile and in none, and the share that it adds (less than 0.05 is
    asked); and the milliseconds that an empty block takes, once for all of its steps.

    Blocks are short and take turns, so that both of a pair meet the same moment of the machine; the first step of each
    is not timed, and neither is the making of the block.
    """
    answers = {}
    for net, (sizes, batch) in (NETS | WIDE).items():
        problem, chance = Problem(sizes, batch), Random(0)
        contenders = {"unwatched": (by_pullback(problem), nullcontext), "profile": (by_pullback(problem), pb.profile)}
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        empty = []
        for _ in range(10 if quick else BLOCKS[net]):
            for name in chance.sample(list(contenders), len(contenders)):
                step, make = contenders[name]
                with make():
                    step()
                    begun = perf_counter()
                    for _ in range(STEPS[net]):
                        step()
                    seconds[name].append((perf_counter() - begun) / STEPS[net])
            start = perf_counter()
            with pb.profile():
                pass
            empty.append(perf_counter() - start)
        times = {name: np.array(found) for name, found in seconds.items()}
        rows: dict[str, dict[str, Any]] = {
            name: {
                "us per step": spread(t * 1e6, 1),
                "minimum": float(t.min() * 1e6),
                "added": spread(t / times["unwatched"] - 1, 3),
            }
            for name, t in times.items()
        }
        rows["empty block"] = {"ms": spread(np.array(empty) * 1e3)}
        table(rows, f"{net}, {STEPS[net]} steps in a block")
        print()
        answers[net] = rows
    return answers


def _watched(make: Callable[[], AbstractContextManager[Any]], step: Step) -> Step:
    """`step` inside of an observer of its own."""

    def run() -> Any:
        with make():
            return step()

    return run
