"""Interleaved timing, its statistics, and how they are shown.

All contenders run in every round, in a new order each time, so that whatever else the machine does meets all of them.
Ratios are taken inside each round and then their median: both times of a pair come from the same moment.
"""

import gc
import os
import platform
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

__all__ = ["Races", "environment", "installed", "race", "race_apart", "spread", "table"]

LIBRARIES = ("pullback", "numpy", "autograd", "mygrad", "torch")
Races = dict[str, np.ndarray]


def environment(threads: int) -> dict[str, Any]:
    """The facts that figures depend on; nothing that names a machine or a person."""
    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "not installed"
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    found["blas of numpy"] = f"{blas['name']} {blas['version']}"
    if hasattr(os, "getloadavg"):
        found["load before"] = round(os.getloadavg()[0], 1)
    return found


def installed(contenders: dict[str, Any]) -> dict[str, Any]:
    """Those contenders whose library, the part of their name before a comma, can be imported here."""
    return {name: make for name, make in contenders.items() if find_spec(name.partition(",")[0])}


def _processor() -> str:
    """The model of the CPU, and the family where the model is not told."""
    listing = Path("/proc/cpuinfo")
    if not listing.exists():
        return platform.processor() or platform.machine()
    facts = dict(
        (part.strip() for part in line.partition(":")[::2]) for line in listing.read_text().splitlines() if ":" in line
    )
    return f"{facts.get('model name', platform.machine())}, family {facts.get('cpu family', '?')}"


def race(contenders: dict[str, Callable[[], Any]], rounds: int, turn: float = 0.02) -> Races:
    """Seconds per call of each contender in each round.

    Args:
        contenders: What to time, by name; functions of no argument.
        rounds: How often all of them run.
        turn: Seconds that one contender runs for in one round; before them it runs untimed for a tenth of that, to
            fill the caches with its own data again.
    """
    return _in_turns({name: _turn_of(contender, turn) for name, contender in contenders.items()}, rounds)


def race_apart(makers: dict[str, Callable[[], Callable[[], Any]]], rounds: int, turn: float = 0.02) -> Races:
    """As `race`, each contender in a process of its own: its users have no other library in theirs.

    In one process the heap that one library has grown spares another its page faults: MyGrad's large step takes a
    quarter less time there.

    Args:
        makers: What makes the function to time, by name; functions that can be pickled.
        rounds, turn: As in `race`. Processes that wait for their turn do nothing.
    """
    with ExitStack() as stack:
        return _in_turns({name: stack.enter_context(_apart(make, turn)) for name, make in makers.items()}, rounds)


def _in_turns(turns: dict[str, Callable[[], float]], rounds: int) -> Races:
    """The value of each turn in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    order, chance = list(turns), random.Random(0)
    for _ in range(rounds):
        chance.shuffle(order)
        for name in order:
            seconds[name].append(turns[name]())
    return {name: np.array(times) for name, times in seconds.items()}


def _turn_of(contender: Callable[[], Any], turn: float) -> Callable[[], float]:
    """A function that runs `contender` for about `turn` seconds and gives the seconds of one call."""
    count, taken = 1, 0.0
    while taken < turn / 4:
        start = perf_counter()
        for _ in range(count):
            contender()
        taken = perf_counter() - start
        count *= 2
    calls = max(1, round(turn / (taken / (count // 2))))

    def run() -> float:
        gc.collect()
        for _ in range(1 + calls // 10):
            contender()
        start = perf_counter()
        for _ in range(calls):
            contender()
        return (perf_counter() - start) / calls

    return run


@contextmanager
def _apart(make: Callable[[], Callable[[], Any]], turn: float) -> Iterator[Callable[[], float]]:
    """The turns of a contender that lives in a process of its own."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, make, turn), daemon=True)
    process.start()
    there.close()

    def run() -> float:
        here.send(True)
        return float(here.recv())

    try:
        run()
        yield run
    finally:
        here.close()
        process.join()


def _serve(connection: Any, make: Callable[[], Callable[[], Any]], turn: float) -> None:
    """Run a turn for each message, until the other end is closed."""
    run = _turn_of(make(), turn)
    with suppress(EOFError):
        while connection.recv():
            connection.send(run())


def spread(values: Sequence[float] | np.ndarray, digits: int = 3) -> dict[str, float]:
    """Median, quartiles and minimum of the rounds."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    found = {"median": middle, "quartile 1": low, "quartile 3": high, "min": np.min(values)}
    return {name: round(float(value), digits) for name, value in found.items()}


def table(rows: dict[str, dict[str, Any]], head: str) -> None:
    """Print rows of named cells; a cell that is a `spread` is shown as `median [quartile 1 .. quartile 3]`."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [[head, *columns]]
    lines += [[name, *(_cell(row.get(column, "")) for column in columns)] for name, row in rows.items()]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns) + 1)]
    for line in lines:
        print(
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
            sep="  ",
        )


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return f"{_number(value['median'])} [{_number(value['quartile 1'])} .. {_number(value['quartile 3'])}]"
    return _number(value) if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
