"""`pb.profile`: what each op takes of the time of a block, beside what it does."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import asdict
from functools import cached_property
from os import PathLike
from threading import get_ident
from time import perf_counter
from typing import Any, Self

from ..backends import Backend
from ..core.layers import Layers
from ..core.op import OPS, Op, wrapped_bodies
from ..core.recording import Observer
from ..errors import ArgumentError
from ..io.atomic import replacing
from .signatures import BODY, PULL, PUSH, Work, owner, pulled_facts, pushed_facts, sketch, sketches, works_of
from .timeline import Event, Span, placed, trace_of
from .timings import Line, Timing, lines_of, rates_of, summed, text_of

__all__ = ["Profile", "profile"]

_current: ContextVar["Profile | None"] = ContextVar("profile", default=None)
_measuring = _current.get


def profile() -> "Profile":
    """A context that measures what each op takes of its time, forward and backward, in which layer.

        with pb.profile() as p:
            for x, labels in batches:
                step(x, labels)
        print(p)

    Only what this thread and async context does is measured. On the CPU times are those of the host's clock; on CUDA
    they are the times between events on the current stream, and nothing is waited for before the profile is read. (On
    a GPU that waits for the host, the waiting inside of an op is its own. With several GPUs work on another than the
    current one is not seen.) When the block has ended, flops and bytes of each call are found by running it again on
    shapes, and set in relation to how fast this machine multiplies matrices and copies memory: that is measured when
    it is first asked for, in about a second, and kept in the user's cache folder. See `Profile` for what can be read.

    Raises:
        ArgumentError: another profile is at work here, or this one was used before.
    """
    return Profile()


class Profile(Observer):
    """What ops took in a block; `print` shows it as a table. See `profile`.

    An op that runs inside of another (or of a rule) counts as part of it. What a checkpointed function runs again is
    told op by op, in the phase of the walk. All can be read when the block has ended, also by an error. What is told
    to it while the block runs (`log`, `spans` and what else has no docstring) is for `timeline` alone.
    """

    records = False

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.spans: list[tuple[Any, ...]] = []
        self.phase, self.layer = "forward", ""
        self.inside = False  # of an op or a rule: what runs there is part of it
        self.thread: int | None = None
        self.layer_of: dict[int, str] = {}  # by the number of the equation: keeping equations would keep what they save
        self.tangents: dict[Any, Any] = {}  # of the push that is at work
        self._layers, self._walking = Layers(), _Walking(self)
        self._begun = self._ended = 0.0
        self._last: dict[Backend, Any] | None = None  # a mark of each backend at the end

    def __enter__(self) -> Self:
        if self._begun:
            raise ArgumentError("profile: it measures one block, and has had it; make another with pb.profile()")
        if _measuring() is not None:
            raise ArgumentError("profile: another one is at work here; end its block first, or read that one")
        super().__enter__()
        self._bodies = wrapped_bodies(_timed)
        self._bodies.__enter__()
        self._token = _current.set(self)
        self.thread, self._begun = get_ident(), perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended = perf_counter()
        self.thread = None
        try:
            self._last = {backend: backend.mark() for backend in dict.fromkeys(entry[4] for entry in self.log)}
        finally:
            _current.reset(self._token)
            self._bodies.__exit__(None, None, None)
            super().__exit__(*error)
            del self._layers, self._walking  # and the modules that are held there

    # --- what is told (few instructions: this is inside of what is measured) ---

    def recorded(self, equation: Any, inputs: Any, value: Any) -> None:
        """Remember the layer."""
        self.layer_of[equation.seq] = self.layer
        if self.outer is not None:
            self.outer.recorded(equation, inputs, value)

    def calling(self, module: Any) -> AbstractContextManager[Any]:
        """What the module does is told under its name."""
        if self.thread != get_ident():
            return super().calling(module)
        name = self._layers.name_of(module)
        mine = _Within(self, name, "module", name)
        return mine if self.outer is None else _both(self.outer.calling(module), mine)

    def walking(self, tape: Sequence[Any], found: dict[Any, Any], pushes: bool) -> AbstractContextManager[Any]:
        """A span of its own."""
        if self.inside or self.thread != get_ident():
            return super().walking(tape, found, pushes)
        mine = _Within(self, "push" if pushes else "pull", "walk", self.layer, found if pushes else None)
        return mine if self.outer is None else _both(self.outer.walking(tape, found, pushes), mine)

    def pulling(self, equation: Any, found: dict[Any, Any]) -> AbstractContextManager[Any]:
        """The time of all its rules."""
        if self.inside or self.thread != get_ident():
            return super().pulling(equation, found)
        g = found[equation]
        backend = owner(g)
        if backend.absorbs:
            return super().pulling(equation, found)
        mine = self._walking.of(PULL, equation, backend, pulled_facts(equation, g, found), found)
        return mine if self.outer is None else _both(self.outer.pulling(equation, found), mine)

    def pushing(self, equation: Any) -> AbstractContextManager[Any]:
        """The time of all its rules."""
        if self.inside or self.thread != get_ident():
            return super().pushing(equation)
        tangents = self.tangents
        backend = owner(next(tangents[n] for n in equation.parents if n is not None and n in tangents))
        if backend.absorbs:
            return super().pushing(equation)
        mine = self._walking.of(PUSH, equation, backend, pushed_facts(equation, tangents))
        return mine if self.outer is None else _both(self.outer.pushing(equation), mine)

    def updating(self, optimizer: str, backend: Backend) -> AbstractContextManager[Any]:
        """The time of the update, as a phase of its own."""
        if self.thread != get_ident():
            return super().updating(optimizer, backend)
        mine = _Updated(self, optimizer, backend)
        return mine if self.outer is None else _both(self.outer.updating(optimizer, backend), mine)

    # --- what was found ---

    @cached_property
    def events(self) -> list[Event]:
        """Every measured call, in the order in which they ended. Raises ArgumentError before the end of the block."""
        self._ends()
        return [Event(*entry) for entry in self.log]

    @cached_property
    def _placed(self) -> tuple[list[tuple[float, float]], dict[Backend, float]]:
        return placed(self.events, self._begun, self._ends())

    @cached_property
    def _works(self) -> list[Work]:
        return list(works_of((event.what, event.op, event.facts) for event in self.events))

    @cached_property
    def lines(self) -> list[Line]:
        """One line for each op, layer, phase, device and dtype, by falling time."""
        return lines_of(self.events, self._placed[0], self._works)

    @property
    def seconds(self) -> float:
        """The length of the block: by the host's clock, or where a device was at work for longer, by its own."""
        return max(self._ended - self._begun, *self._placed[1].values(), 0.0)

    @property
    def unaccounted(self) -> dict[str, float]:
        """Device -> the seconds of the block in which it ran no op: Python, the tape, waiting, and whatever else."""
        left = {backend.name: self.seconds for backend in self._placed[1]}
        for line in self.lines:
            left[line.device] -= line.timing.seconds
        return {device: max(seconds, 0.0) for device, seconds in left.items()}

    @property
    def by_op(self) -> dict[str, dict[str, Timing]]:
        """Op -> phase -> what it took: in "vjp" and "jvp" what its rules took."""
        return summed(self.lines, lambda line: line.op)

    @property
    def by_layer(self) -> dict[str, dict[str, Timing]]:
        """Layer -> phase -> what it took; "" is what stands in no module."""
        return summed(self.lines, lambda line: line.layer)

    def to_dict(self) -> dict[str, Any]:
        """All of it as numbers and text, as JSON can hold."""
        rates = rates_of(self.lines)
        return {
            "seconds": self.seconds,
            "unaccounted": self.unaccounted,
            "lines": [line.to_dict(rates) for line in self.lines],
            "rates": [{"device": key[0], "dtype": key[1], **asdict(rate)} for key, rate in rates.items()],
        }

    def to_chrome(self, path: str | PathLike[str]) -> None:
        """Write a trace that Perfetto (ui.perfetto.dev) and chrome://tracing open, whole or not at all.

        Each kind of device is a row with a clock of its own; modules and walks span what ran inside of them.

        Raises:
            ArgumentError: the block has not ended. CheckpointError: the file cannot be written.
        """
        import json

        trace = trace_of(
            self.events, [Span(*span) for span in self.spans], self._placed[0], self._works, {"seconds": self.seconds}
        )
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(trace), encoding="utf-8")

    def __str__(self) -> str:
        if self._last is None:
            return "a profile whose block has not ended: read it after the with statement"
        return text_of(self.lines, self.seconds, self.unaccounted)

    def _ends(self) -> dict[Backend, Any]:
        if self._last is None:
            raise ArgumentError("profile: its block has not ended; read it after the with statement")
        return self._last


@contextmanager
def _both(outer: AbstractContextManager[Any], inner: AbstractContextManager[Any]) -> Iterator[None]:
    with outer, inner:
        yield


def _timed(op: Op, backend: Backend, run: Callable[..., Any]) -> Callable[..., Any]:
    """The body `run`, measured where a profile is at work and no op is around it."""
    if backend.absorbs:
        return run

    def body(*args: Any, **kwargs: Any) -> Any:
        p = _measuring()
        if p is None or p.inside or p.thread != get_ident():
            return run(*args, **kwargs)
        here = backend.holder((*args, *kwargs.values()) if kwargs else args)
        if here.absorbs:
            return run(*args, **kwargs)
        p.inside = True
        try:
            start = here.mark()
            value = run(*args, **kwargs)
            end = here.mark()
        finally:
            p.inside = False
        log = p.log
        named = {name: sketch(x) for name, x in kwargs.items()} if kwargs else kwargs
        log.append((BODY, op, p.phase, p.layer, here, start, end, len(log), (sketches(args), named)))
        return value

    return body


class _Within:
    """A module or a walk is at work."""

    __slots__ = ("first", "kind", "layer", "name", "profile", "tangents")

    def __init__(self, profile: Profile, name: str, kind: str, layer: str, tangents: Any = None) -> None:
        self.profile, self.name, self.kind, self.layer, self.tangents = profile, name, kind, layer, tangents

    def __enter__(self) -> None:
        p = self.profile
        self.first = len(p.log)
        p.layer, self.layer = self.layer, p.layer
        if self.tangents is not None:
            p.tangents, self.tangents = self.tangents, p.tangents

    def __exit__(self, *_: object) -> None:
        p = self.profile
        p.layer = self.layer
        if self.tangents is not None:
            p.tangents = self.tangents
        p.spans.append((self.name, self.kind, self.first, len(p.log)))


class _Walking:
    """The equation that was told last is pulled or pushed. One object serves all of a profile: walks nest."""

    __slots__ = ("profile", "stack", "told")

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.told: Any = None
        self.stack: list[tuple[Any, ...]] = []

    def of(self, what: str, equation: Any, backend: Backend, facts: tuple[Any, ...], found: Any = None) -> Self:
        """This, for one equation."""
        self.told = what, equation.op, equation.seq, equation.parents, backend, facts, found
        return self

    def __enter__(self) -> None:
        p = self.profile
        what, op, seq, parents, backend, facts, found = self.told
        self.told = None
        outer = p.phase, p.layer
        if p.phase == "forward":
            p.phase = what
        p.layer = p.layer_of.get(seq, "")
        p.inside = not _is_function(op)
        self.stack.append((what, op, parents, backend, facts, found, outer, len(p.log), backend.mark()))

    def __exit__(self, kind: Any, *_: object) -> None:
        p = self.profile
        what, op, parents, backend, facts, found, outer, first, start = self.stack.pop()
        if kind is None:
            end = backend.mark()
            if not p.inside:
                op, facts = op.name, None  # the op holds the arguments of the function
            elif found is not None:
                facts = *facts, tuple([n in found for n in parents])
            p.log.append((what, op, p.phase, p.layer, backend, start, end, first, facts))
        p.inside = False
        p.phase, p.layer = outer


class _Updated:
    """An optimizer changes parameters."""

    __slots__ = ("backend", "name", "profile", "start")

    def __init__(self, profile: Profile, name: str, backend: Backend) -> None:
        self.profile, self.name, self.backend = profile, name, backend

    def __enter__(self) -> None:
        self.start = self.backend.mark()

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is None:
            end, log = self.backend.mark(), self.profile.log
            log.append(("update", self.name, "update", "", self.backend, self.start, end, len(log), None))


def _is_function(op: Op) -> bool:
    """Whether the rules of `op` run a whole function of the user: a checkpointed one, or one with rules of its own."""
    return op.inputs == ("arguments",) and OPS.get(op.name) is not op
