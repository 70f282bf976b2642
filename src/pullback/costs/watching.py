"""Running a function on shapes, with every equation noted: where it stands, what it was given, what it did."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass, field
from typing import Any

from ..backends import Backend
from ..backends.meta.metering import Meter, current_meter, metering
from ..core.layers import Layers
from ..core.op import Op, wrapped_bodies
from ..core.places import file_of, here
from ..core.recording import Observer
from .ledger import Count
from .tracing import on_meta

__all__ = ["Note", "Tally", "Watch", "watched"]


class Tally(Meter):
    """A meter that adds up what native functions did since it was last asked; memory is not counted."""

    def __init__(self) -> None:
        self._numbers = [0] * 5

    def taken(self) -> Count:
        """What was done, and the count starts anew."""
        count, self._numbers = Count(*self._numbers), [0] * 5
        return count

    def put_back(self, count: Count) -> None:
        """What was taken, for the next who asks."""
        self._numbers = [a + b for a, b in zip(self._numbers, astuple(count), strict=True)]

    def work(self, name: str, flops: int, multiply_adds: int, read: int, written: int) -> None:
        """A native function ran."""
        for i, amount in enumerate((flops, multiply_adds, read, written, 1)):
            self._numbers[i] += amount


class OpTally(Tally):
    """A tally of one op at a time.

    Attributes:
        total: What all ops did.
        calls: Op -> the arguments of its last call.
    """

    def __init__(self) -> None:
        super().__init__()
        self._depth, self.total = 0, Count()
        self.calls: dict[Op, tuple[Any, Any]] = {}

    def enter(self, name: str) -> None:
        """An op begins."""
        if self._depth == 0:
            self.taken()
        self._depth += 1

    def leave(self) -> None:
        """An op ends."""
        self._depth -= 1

    def work(self, name: str, flops: int, multiply_adds: int, read: int, written: int) -> None:
        """A native function ran."""
        super().work(name, flops, multiply_adds, read, written)
        self.total += Count(flops, multiply_adds, read, written, 1)


@dataclass(slots=True)
class Note:
    """What is known of an equation beside what the tape keeps.

    Attributes:
        layer: The module that it ran in.
        source: File and line of the first frame outside of this package.
        inputs: The raw arrays (or numbers, or None) that it was given, without those of an unrecorded gathering.
        specs: (shape, dtype) of each output.
        params: The parameters of the op by name.
        count: What its body did.
    """

    layer: str
    source: tuple[str, int]
    inputs: tuple[Any, ...]
    specs: tuple[tuple[Any, Any], ...]
    params: dict[str, Any]
    count: Count


@dataclass
class Watch(Observer):
    """Notes every equation, and the modules that are called.

    Attributes:
        notes: By the number of the equation.
        roots: The modules that were called from outside of others, by name.
    """

    tally: OpTally
    notes: dict[int, Note] = field(default_factory=dict)
    roots: dict[str, Any] = field(default_factory=dict)
    layers: Layers = field(default_factory=Layers)

    def recorded(self, equation: Any, inputs: Any, value: Any) -> None:
        """Note the equation."""
        op: Op = equation.op
        values = value if op.outputs else (value,)
        self.notes[equation.seq] = Note(
            self.layers.current,
            file_of(here()),
            tuple(inputs),
            tuple((tuple(x.shape), x.dtype) for x in values),
            _params(op, *self.tally.calls.get(op, ((), {}))),
            self.tally.taken(),
        )
        super().recorded(equation, inputs, value)

    @contextmanager
    def calling(self, module: Any) -> Iterator[None]:
        """Note the module, if it is inside of no other."""
        outermost = not self.layers.current
        with self.layers.calling(module), super().calling(module):
            if outermost and module not in self.roots.values() and "." not in self.layers.current:
                self.roots[self.layers.current] = module
            yield


def _params(op: Op, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a call of an op's body, with their defaults."""
    given = {a.name: x for a, x in zip(op.arguments, args, strict=False)} | kwargs
    return {a.name: given.get(a.name, a.default) for a in op.arguments if a.name in op.params}


def _noting(op: Op, backend: Backend, run: Callable[..., Any]) -> Callable[..., Any]:
    def body(*args: Any, **kwargs: Any) -> Any:
        tally = current_meter()
        if isinstance(tally, OpTally):
            tally.calls[op] = args, kwargs
        return run(*args, **kwargs)

    return body


@contextmanager
def watched() -> Iterator[Watch]:
    """A context in which ops are recorded, run on shapes and are noted."""
    tally = OpTally()
    with ExitStack() as stack:
        stack.enter_context(on_meta())
        stack.enter_context(wrapped_bodies(_noting))
        stack.enter_context(metering(tally))
        yield stack.enter_context(Watch(tally))
