"""What the GPU benchmarks share: how much they do, where they write, launches that can be repeated, times by events."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from pullback.backends import BACKENDS
from pullback.core.op import ARRAYS, OPS

__all__ = [
    "FULL", "TINY", "Clock", "Launch", "Report", "Scale", "backend", "host_seconds", "kernels_on",
    "set_kernels", "watched",
]  # fmt: skip

Net = tuple[tuple[int, ...], int, int]  # sizes of the layers, batch, steps between two waits for the device


class Scale(NamedTuple):
    """How much is measured.

    Attributes:
        sizes: Numbers of an array whose bandwidth is measured, the most telling first.
        row: Numbers of a row there.
        spacer: Bytes of a copy behind which launches queue up, so that the device never waits for the host.
        rounds: Of every measurement.
        calls: In one round of launch overhead.
        turn: Seconds of a contender's turn in the races of training steps.
        nets: By name.
        shapes: Rows and columns of what numbers are compared on.
        types: In which kernels run.
        jobs: Processes that compile and test side by side.
        seconds: A sanitizer's limit.
    """

    sizes: tuple[int, ...]
    row: int
    spacer: int
    rounds: int
    calls: int
    turn: float
    nets: dict[str, Net]
    shapes: tuple[tuple[int, int], ...] = ((37, 72), (515, 264))  # a few blocks, and more than run at once
    types: tuple[str, ...] = ("float32", "bfloat16", "float16", "float64")
    jobs: int = min(os.cpu_count() or 1, 16)
    seconds: float = 90.0


FULL = Scale(
    sizes=(2**24, 2**28, 2**20, 2**26, 2**22),
    row=1024,
    spacer=2**30,
    rounds=5,
    calls=200,
    turn=0.2,
    nets={
        "784-256-256-10, batch 128": ((784, 256, 256, 10), 128, 20),
        "8 x 4096, batch 8192": ((4096,) * 9, 8192, 1),
    },
)
TINY = FULL._replace(
    sizes=(96,),
    row=8,
    spacer=64,
    rounds=2,
    calls=2,
    turn=1e-3,
    jobs=1,
    seconds=9.0,
    nets={"4-8-3, batch 5": ((4, 8, 3), 5, 2)},
    shapes=((37, 72),),
    types=("float32",),
)


class Report:
    """What a part has found, a line of JSON each as soon as it is there: the names that lead to a value, the value."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, *way: str | Any) -> None:
        """Write `add(name, ..., value)`."""
        with self.path.open("a") as file:
            file.write(json.dumps(way) + "\n")

    @staticmethod
    def read(path: Path) -> dict[str, Any]:
        """All that was written there, as dicts in dicts; a line that was cut short is left out."""
        found: dict[str, Any] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                *way, last, value = json.loads(line)
            except ValueError:
                continue
            place = found
            for name in way:
                place = place.setdefault(name, {})
            place[last] = value
        return found


@dataclass(frozen=True)
class Launch:
    """A launch of one of our kernels. Calling it launches the kernel again, with nothing else done on the host."""

    kernel: Any
    grid: Any
    block: Any
    args: tuple[Any, ...]

    def __call__(self) -> None:
        self.kernel(self.grid, self.block, *self.args)


@contextmanager
def watched(run: bool = True) -> Iterator[list[Launch]]:
    """The launches of our kernels inside the block, in order; without `run` they are noted only."""
    kind: Any = import_module("pullback.backends.cuda.launching").Kernel
    original, found = kind.__call__, list[Launch]()

    def noted(kernel: Any, grid: Any, block: Any, *args: Any) -> None:
        if run:
            original(kernel, grid, block, *args)
        if 0 not in (grid if isinstance(grid, tuple) else (grid,)):
            found.append(Launch(kernel, grid, block, args))

    kind.__call__ = noted
    try:
        yield found
    finally:
        kind.__call__ = original


def set_kernels(on: bool) -> bool:
    """Let ops run by the kernels from now on, or all by their plain formulas; what it was before."""
    import cupy

    fused: Any = import_module("pullback.backends.cuda.fused")
    before, fused.enabled = fused.enabled, on
    for op in OPS.values():  # each body is bound at its first call
        op.bodies.pop(cupy.ndarray, None)
    ARRAYS.pop(cupy.ndarray, None)
    return bool(before)


@contextmanager
def kernels_on(on: bool) -> Iterator[None]:
    """Inside of the block ops run by the kernels, or all by their plain formulas."""
    before = set_kernels(on)
    try:
        yield
    finally:
        set_kernels(before)


def host_seconds(call: Callable[[], Any], rounds: int, calls: int) -> np.ndarray:
    """Seconds that the host is busy with one call, in each round; the device may finish later."""
    import cupy

    times = []
    for _ in range(rounds + 1):
        cupy.cuda.get_current_stream().synchronize()
        start = perf_counter()
        for _ in range(calls):
            call()
        times.append((perf_counter() - start) / calls)
    cupy.cuda.get_current_stream().synchronize()
    return np.array(times[1:])


class Clock:
    """Times on the device, by events around work that waits in its queue.

    A copy of `spacer` bytes goes first and keeps the device busy while the host hands over the work, so that the time
    holds no waiting for the host, only what the device itself needs between two launches.

    Attributes:
        waited: In how many rounds the device was done with the copy before the host had handed over all the work; the
            times of those may be the host's.
    """

    def __init__(self, spacer: int) -> None:
        import cupy

        self.cuda, self.copyto = cupy.cuda, cupy.copyto
        self.source, self.target = (cupy.zeros(spacer, np.uint8) for _ in range(2))
        self.start, self.end = cupy.cuda.Event(), cupy.cuda.Event()
        self.waited = 0

    def seconds(self, work: Callable[[], Any], rounds: int, most: int = 16, turn: float = 1e-3) -> np.ndarray:
        """Seconds of one call of `work` on the device, in each round, after a warm-up.

        Args:
            work: Gives the device something to do.
            rounds: Times that are taken.
            most: Calls in a round, at most, and
            turn: about so many seconds of them.
        """
        first = max(self._round(work, 1), self._round(work, 1), 1e-7)
        count = max(1, min(most, int(turn / first)))
        self._round(work, count)
        self.waited = 0
        return np.array([self._round(work, count) for _ in range(rounds)])

    def _round(self, work: Callable[[], Any], count: int) -> float:
        self.copyto(self.target, self.source)
        self.start.record()
        for _ in range(count):
            work()
        self.waited += bool(self.start.done)
        self.end.record()
        self.end.synchronize()
        return float(self.cuda.get_elapsed_time(self.start, self.end)) / 1e3 / count


def backend() -> Any:
    """The CUDA backend."""
    import cupy

    return BACKENDS[cupy.ndarray]
