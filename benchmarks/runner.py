"""Races of contenders in processes of their own, and how figures are shown; races are `pullback.bench.racing`."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing import get_context
from typing import Any, TypeVar

from pullback.bench.racing import Races, collected, environment, in_turns, installed, race, spread, turn_of

__all__ = ["Races", "environment", "installed", "race", "race_apart", "race_problem", "spread", "table"]


T = TypeVar("T")


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


def race_problem(
    problem: T, contenders: dict[str, Callable[[T], Any]], check: Callable[[dict[str, Any]], None], rounds: int,
    turn: float,
) -> Races:  # fmt: skip
    """Those contenders that are installed, of the same problem: checked against each other here, then raced apart."""
    there = installed(contenders)
    check({name: make(problem) for name, make in there.items()})
    return race_apart({name: partial(make, problem) for name, make in there.items()}, rounds, turn)


def _in_turns(turns: dict[str, Callable[[], float]], rounds: int) -> Races:
    """The value of each turn in each round."""
    return collected(in_turns(turns, rounds))


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
    run = turn_of(make(), turn)
    with suppress(EOFError):
        while connection.recv():
            connection.send(run())


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
