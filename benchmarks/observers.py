"""What watching costs: a training step inside of an observer beside the same step outside of it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pullback as pb

from .runner import race, spread, table
from .steps import NETS, Problem, Step, by_pullback

STEPS = 20  # in one block of a profile
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
    return answers | {"profile": profile_overhead(quick)}


def profile_overhead(quick: bool) -> dict[str, Any]:
    """Microseconds per step in blocks of a profile and in none, and the share that it adds (the issue asks for less
    than 0.05); and the milliseconds that an empty block takes, once for all of its steps."""
    answers = {}
    for net, (sizes, batch) in NETS.items():
        problem = Problem(sizes, batch)
        contenders = {"unwatched": _repeated(by_pullback(problem), nullcontext)}
        contenders["profile"] = _repeated(by_pullback(problem), pb.profile)
        contenders["empty block"] = _repeated(lambda: None, pb.profile)
        times = race(contenders, rounds=4 if quick else 100, turn=0.02 if quick else 0.1)
        empty = times.pop("empty block")
        times["profile"] = times["profile"] - empty
        rows: dict[str, dict[str, Any]] = {
            name: {"us per step": spread(t / STEPS * 1e6, 1), "added": spread(t / times["unwatched"] - 1, 3)}
            for name, t in times.items()
        }
        rows["empty block"] = {"ms": spread(empty * 1e3)}
        table(rows, f"{net}, {STEPS} steps in a block")
        print()
        answers[net] = rows
    return answers


def _repeated(step: Step, make: Callable[[], AbstractContextManager[Any]]) -> Step:
    """Several steps in one block."""

    def run() -> None:
        with make():
            for _ in range(STEPS):
                step()

    return run


def _watched(make: Callable[[], AbstractContextManager[Any]], step: Step) -> Step:
    """`step` inside of an observer of its own."""

    def run() -> Any:
        with make():
            return step()

    return run
