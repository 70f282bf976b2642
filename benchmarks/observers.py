"""What watching costs: a training step inside of an observer beside the same step outside of it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pullback as pb

from .runner import race, spread, table
from .steps import NETS, Problem, Step, by_pullback

WIDE = {"2048-2048-2048-2048-10, batch 256": ((2048, 2048, 2048, 2048, 10), 256)}
OBSERVERS: dict[str, Callable[[], AbstractContextManager[Any]]] = {"detect_nonfinite": pb.detect_nonfinite}


def answer(quick: bool) -> dict[str, Any]:
    """Microseconds per step, and of each observer the share that it adds (the issue asks for less than 0.1)."""
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
    return answers


def _watched(make: Callable[[], AbstractContextManager[Any]], step: Step) -> Step:
    """`step` inside of an observer of its own."""

    def run() -> Any:
        with make():
            return step()

    return run
