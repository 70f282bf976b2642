"""`detect_nonfinite`: one look at the end of each walk along a tape, and a replay only where it finds something."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from ..backends import BACKENDS
from ..core.places import Call, current_call, here
from ..core.recording import Observer
from .replay import Record, Replay, arrays_of, depth, nonfinite

__all__ = ["detect_nonfinite"]


def detect_nonfinite() -> Observer:
    """A context in which a NaN or an infinity is found and traced to the op, the layer and the line that made it.

        with pb.detect_nonfinite():
            loss = pb.nn.cross_entropy(model(x), labels)
            loss.backward()

    Each walk along a tape (`backward`, the pull of `grad` and `vjp`, the push of `jvp` and `hvp`) is followed by one
    look at the values that it started from and at everything that it found: one flag for all of them, read once. Only
    when it is set is the tape walked again, equation by equation. What is recorded in the context, never walked, and
    still held when the context ends is looked at then, in the same way. What is not recorded (under `no_grad`, or
    computed from constants) is not looked at, and an infinity in the middle that leaves no trace in values and
    derivatives (the `-inf` of a mask before a softmax) is none of its business.

    The error names the op, forward or backward, the layer and the user's line, and shows the operands. `.grad` of no
    leaf is changed by the walk that raises it; its tape is freed as it is by any other.

    It holds for this thread and async context. It costs a few microseconds for each recorded op, and memory: inputs and
    values of every recorded op live as long as its place on the tape, and what the tape saved for the backward pass
    until the end of it.

    Raises (where a walk or the context ends):
        NonFiniteError: a value, a cotangent or a tangent is not finite.
    """
    return _Detector()


class _Detector(Observer):
    """The observer behind `detect_nonfinite`."""

    records = False

    def __init__(self) -> None:
        self.known: dict[int, Record] = {}
        forget = self.known.pop
        self._gone: Callable[[Any], object] = lambda record: forget(record.seq, None)

    def __exit__(self, kind: Any = None, *_: object) -> None:
        try:
            if kind is None:
                self._look_at_the_rest()
        finally:
            self.known.clear()
            super().__exit__()

    def recorded(self, equation: Any, inputs: Any, value: Any) -> None:
        record = Record(equation, self._gone)
        record.seq, record.inputs, record.value = equation.seq, inputs, value
        record.line, record.call, record.walked = here(), current_call(), False
        self.known[equation.seq] = record
        if self.outer is not None:
            self.outer.recorded(equation, inputs, value)

    def calling(self, module: Any) -> AbstractContextManager[Any]:
        return Call(module) if self.outer is None else self._told_of(module, self.outer)

    @contextmanager
    def _told_of(self, module: Any, outer: Observer) -> Iterator[None]:
        with outer.calling(module), Call(module):
            yield

    @contextmanager
    def walking(self, tape: Sequence[Any], found: dict[Any, Any], pushes: bool) -> Iterator[None]:
        outside = depth.get()
        token = depth.set(outside + 1)
        try:
            with super().walking(tape, found, pushes):
                if outside:  # a part of another walk
                    yield
                else:
                    walk = _Walk(self.known, tape, found, pushes)
                    yield
                    walk.look(found)
        finally:
            depth.reset(token)

    def _look_at_the_rest(self) -> None:
        """Look at the last values of what was recorded and not walked."""
        live = {e: r for r in [*self.known.values()] if not r.walked and (e := r()) is not None}
        known = Replay(self.known, {})
        used = {n for e in live for parent in e.parents or () for n in known.recorded(parent)}
        last = [e for e in live if e not in used]
        arrays = [x for e in last for x in arrays_of(live[e].value)]
        if nonfinite(arrays):
            with BACKENDS[arrays[0].__class__].walking(arrays[0]):
                known.raise_forward(last)


class _Walk:
    """One walk, and what is kept of it so that it can be done again."""

    def __init__(self, records: dict[int, Record], tape: Sequence[Any], found: dict[Any, Any], pushes: bool) -> None:
        self.start, self.pushes, self.records = dict(found), pushes, records
        self.steps = {e: (e.parents, e.saved) for e in tape}

    def look(self, found: dict[Any, Any]) -> None:
        """The one look, and the replay when it finds something."""
        replay = Replay(self.records, self.steps)
        if self.pushes:
            used = {n for parents, _ in self.steps.values() for n in parents}
            ends = [e for e in self.steps if e not in used and e in found]
            results = [found[e] for e in ends]
        else:
            ends, results = list(self.start), list(found.values())
        values = [self.records[e.seq].value for node in ends for e in replay.recorded(node)]
        for e in self.steps:
            if (record := self.records.get(e.seq)) is not None:
                record.walked = True
        if not nonfinite(arrays_of([*values, *results])):
            return
        freed = [e for e in self.steps if e.parents is None]
        try:
            for e in freed:
                e.parents, e.saved = self.steps[e]
            replay.raise_forward(ends)
            if self.pushes:
                replay.raise_pushed(self.start, found, ends)
            else:
                replay.raise_pulled(self.start, found)
        finally:
            for e in freed:
                e.parents = e.saved = None
