"""Streams, and graphs captured on them. Work runs at once; on a stream that is captured it is recorded instead."""

from collections.abc import Callable, Sequence
from itertools import count
from time import perf_counter
from typing import Any

from .memory import Block, default_pool

Work = tuple[Callable[[], None], list[Block]]


class CUDARuntimeError(RuntimeError):
    """As `cupy.cuda.runtime.CUDARuntimeError`."""


class Stream:
    """As `cupy.cuda.Stream`."""

    null: "Stream"
    _handles = count(0x1000, 0x10)

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False) -> None:
        self.ptr = 0 if null else next(self._handles)
        self._captured: list[Work] | None = None

    def __enter__(self) -> "Stream":
        _current.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        _current.pop()

    def use(self) -> "Stream":
        _current[-1] = self
        return self

    def synchronize(self) -> None:
        refuse_in_capture("synchronisation", self)

    def begin_capture(self, mode: Any = None) -> None:
        if self.ptr == 0:
            raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: the default stream cannot be captured")
        self._captured = []

    def end_capture(self) -> "Graph":
        assert self._captured is not None
        work, self._captured = self._captured, None
        return Graph(work)

    def is_capturing(self) -> bool:
        return self._captured is not None

    def record(self, event: Any = None) -> Any:
        return event or Event()

    def wait_event(self, event: Any) -> None:
        pass


class Event:
    """As `cupy.cuda.Event`. Its time is the host's: work is done when it is given."""

    done = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.time = 0.0

    def record(self, stream: Any = None) -> None:
        self.time = perf_counter()

    def synchronize(self) -> None:
        refuse_in_capture("synchronisation")


def get_elapsed_time(start: Event, end: Event) -> float:
    """As `cupy.cuda.get_elapsed_time`: milliseconds."""
    return (end.time - start.time) * 1e3


class Graph:
    """As `cupy.cuda.Graph`: it replays work on the memory that was in use, and keeps none of it alive."""

    def __init__(self, work: Sequence[Work]) -> None:
        self._work = work
        self._generations = {block: block.generation for _, blocks in work for block in blocks}

    def launch(self, stream: Any = None) -> None:
        for block, generation in self._generations.items():
            if block.generation != generation or (not block.live and block.pool is default_pool):
                raise CUDARuntimeError("a graph replays into memory that its pool has taken back")
        for run, _ in self._work:
            run()

    def upload(self, stream: Any = None) -> None:
        pass


Stream.null = Stream(null=True)
_current = [Stream.null]


def current_stream() -> Stream:
    return _current[-1]


def enqueue(run: Callable[[], None], blocks: list[Block]) -> None:
    """Do `run` now, or record it with the memory it uses."""
    captured = current_stream()._captured
    if captured is None:
        run()
    else:
        captured.append((run, blocks))


def refuse_in_capture(what: str, stream: Stream | None = None, kind: type[Exception] = CUDARuntimeError) -> None:
    if (stream or current_stream()).is_capturing():
        raise kind(f"cudaErrorStreamCaptureUnsupported: {what} while the stream is capturing")
