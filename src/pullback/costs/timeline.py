"""When what was measured began and ended, and the same as a trace for Perfetto and chrome://tracing."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..backends import Backend
from .signatures import PULL, PUSH, Work

__all__ = ["Event", "Span", "placed", "trace_of"]

PREFIXES = {PULL: "vjp of ", PUSH: "jvp of "}


class Event(NamedTuple):
    """One measured call.

    Attributes:
        what: "body", or `signatures.PULL`, or `signatures.PUSH`, or "update".
        op: The op, or the name of an optimizer or of a function with rules of its own.
        phase: "forward", "vjp", "jvp" or "update".
        layer: The dotted name of the module.
        backend: Where it ran; marks are its.
        start, end: Marks around it.
        first: The index of the first event inside of it; its own where there is none.
        facts: What `signatures.works_of` takes; None where that does not apply.
    """

    what: str
    op: Any
    phase: str
    layer: str
    backend: Backend
    start: Any
    end: Any
    first: int
    facts: Any

    @property
    def name(self) -> str:
        """The name of the op or optimizer."""
        return getattr(self.op, "name", self.op)


class Span(NamedTuple):
    """The call of a module, or a whole walk: all events from `first` to the one before `end`."""

    name: str
    kind: str
    first: int
    end: int


def placed(
    events: Sequence[Event], begun: float, ended: Mapping[Backend, Any]
) -> tuple[list[tuple[float, float]], dict[Backend, float]]:
    """The seconds at which each event began and ended, and the length of the whole block by the clock of each backend.

    Each backend has a clock of its own: that of the host begins with the block, others with their first mark. Places
    are sums of the times from mark to mark: single precision, which CUDA gives, is enough for those.
    """
    places = [(0.0, 0.0)] * len(events)
    lengths = {}
    for backend, last in ended.items():
        mine = [i for i, event in enumerate(events) if event.backend is backend]
        # an event begins before what is inside of it, and what begins at the same index and ends later is outside
        moments = [((events[i].first, 0, -i), i, events[i].start) for i in mine]
        moments += [((i, 1, 0), i, events[i].end) for i in mine]
        moments.sort(key=lambda moment: moment[0])
        previous = begun if isinstance(last, float) else moments[0][2]
        now = 0.0
        for (_, is_end, _), i, mark in moments:
            now += max(backend.seconds_between(previous, mark), 0.0)
            previous = mark
            places[i] = (places[i][0], now) if is_end else (now, now)
        lengths[backend] = now + max(backend.seconds_between(previous, last), 0.0)
    return places, lengths


def trace_of(
    events: Sequence[Event],
    spans: Sequence[Span],
    places: Sequence[tuple[float, float]],
    works: Sequence[Work],
    notes: Mapping[str, Any],
) -> dict[str, Any]:
    """The object that Perfetto reads, by the Trace Event Format: complete events ("X"), a row for each kind of device.

    Modules and walks last from the first to the last event inside of them. Times are in microseconds.
    """
    backends = list(dict.fromkeys(event.backend for event in events))
    rows = {backend: row for row, backend in enumerate(backends, 1)}
    found: list[tuple[int, int, int, int, dict[str, Any]]] = []

    def add(backend: Backend, start: float, end: float, rank: int, **entry: Any) -> None:
        begin, stop = round(start * 1e9), round(end * 1e9)
        found.append((rows[backend], begin, -stop, rank, entry | {"ts": begin / 1e3, "dur": (stop - begin) / 1e3}))

    for rank, span in enumerate(sorted(spans, key=lambda s: (s.first, -s.end))):
        for backend in backends:
            inside = [places[i] for i in range(span.first, span.end) if events[i].backend is backend]
            if inside:
                start, end = min(p[0] for p in inside), max(p[1] for p in inside)
                add(backend, start, end, rank, name=span.name, cat=span.kind, args={})
    for i, (event, (start, end), work) in enumerate(zip(events, places, works, strict=True)):
        args: dict[str, Any] = {"phase": event.phase, "layer": event.layer, "arrays": work.arrays}
        if (count := work.count) is not None:
            args |= {"flops": count.flops, "bytes read": count.read, "bytes written": count.written}
        name = PREFIXES.get(event.what, "") + event.name
        add(event.backend, start, end, len(spans) + len(events) - i, name=name, cat=event.phase, args=args)
    found.sort(key=lambda entry: entry[:4])
    names = [_name("process_name", 0, "pullback")]
    names += [_name("thread_name", row, backend.name) for backend, row in rows.items()]
    lines = [{"ph": "X", "pid": 1, "tid": row, **entry} for row, _, _, _, entry in found]
    return {"traceEvents": names + lines, "displayTimeUnit": "ms", "otherData": dict(notes)}


def _name(what: str, row: int, name: str) -> dict[str, Any]:
    """A metadata event, which names the process or one of its rows."""
    return {"ph": "M", "name": what, "pid": 1, "tid": row, "ts": 0, "args": {"name": name}}
