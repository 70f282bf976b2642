"""Running a function on shapes: nothing is computed, every call is booked."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from .. import trees
from ..backends import Backend, backend_for, is_floating
from ..backends.meta.metering import current_meter, metering
from ..core.layers import Layers
from ..core.op import ARRAYS, Op, wrapped_bodies
from ..core.recording import Observer
from ..core.tape import HEAD, PART, Leaf, equation, pull, push, reaching, tape_of, tick
from ..core.tensor import Tensor, asarray
from ..errors import TapeError
from .ledger import Ledger

__all__ = ["Booking", "Trace", "booked", "on_meta", "stand_in"]


class Booking(Observer):
    """Tells the ledger which layer and which equation is at work."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.layers = ledger, Layers()
        # by the number of the equation: keeping equations would keep what they save
        self.layer_of: dict[int, str] = {}
        self._sizes: dict[int, tuple[int, ...]] = {}

    def recorded(self, equation: Any, inputs: Any, value: Any) -> None:
        """Remember the layer, and how many numbers there are."""
        self.layer_of[equation.seq] = self.layers.current
        self._sizes[equation.seq] = tuple(x.size for x in (value if equation.op.outputs else (value,)))
        super().recorded(equation, inputs, value)

    def size_of(self, ends: Mapping[Any, int], node: Any) -> int:
        """How many numbers the value of a node has; of `ends` it is given."""
        if node in ends:
            return ends[node]
        if node.op is PART:
            return self._sizes[node.parents[0].seq][node.saved[node.op.saves.index("index")]]
        known = self._sizes.get(node.seq)  # of several arrays that are only gathered: what they have together
        return sum(known if known else (self.size_of(ends, n) for n in node.parents if n is not None))

    @contextmanager
    def calling(self, module: Any) -> Iterator[None]:
        """What the module does is booked under its name."""
        outer = self.layers.current
        with self.layers.calling(module), super().calling(module):
            self.ledger.within(self.layers.current)
            try:
                yield
            finally:
                self.ledger.within(outer)

    @contextmanager
    def pulling(self, equation: Any, found: dict[Any, Any]) -> Iterator[None]:
        """What the rules do is booked under the op that they are of."""
        layer = self.layer_of.get(equation.seq, "")
        with self.ledger.of_equation(layer, equation.op.name), super().pulling(equation, found):
            yield

    @contextmanager
    def pushing(self, equation: Any) -> Iterator[None]:
        """The same."""
        layer = self.layer_of.get(equation.seq, "")
        with self.ledger.of_equation(layer, equation.op.name), super().pushing(equation):
            yield


@contextmanager
def on_meta() -> Iterator[None]:
    """A context in which ops of a thread that meters run on shapes, whatever arrays they are given."""
    backend_for("meta")
    with wrapped_bodies(_without_numbers):
        yield


def _without_numbers(op: Op, backend: Backend, run: Callable[..., Any]) -> Callable[..., Any]:
    meta = backend_for("meta")
    if backend.rank >= meta.rank:  # that of `vmap` has nothing else beneath where someone meters
        return run
    inputs = [a.name in op.inputs for a in op.arguments]
    on_shapes = op.body_on(meta, ARRAYS[meta.array_types[0]])

    def body(*args: Any, **kwargs: Any) -> Any:
        if current_meter() is None:
            return run(*args, **kwargs)
        given = [stand_in(x) if inputs[min(i, len(inputs) - 1)] else x for i, x in enumerate(args)]
        return on_shapes(*given, **{name: stand_in(x) if name in op.inputs else x for name, x in kwargs.items()})

    return body


def stand_in(value: Any) -> Any:
    """What stands for a raw array, or for those in a list or tuple: without numbers, and its memory counts as there
    before. All else is itself."""
    if isinstance(value, list | tuple):
        return tuple(map(stand_in, value))
    return backend_for("meta").asarray(value) if hasattr(value, "dtype") else value


@contextmanager
def booked(ledger: Ledger) -> Iterator[Booking]:
    """A context in which ops are recorded and run on shapes, and all they do is booked."""
    with ExitStack() as stack:
        stack.enter_context(on_meta())
        stack.enter_context(metering(ledger))
        yield stack.enter_context(Booking(ledger))


class Trace:
    """`f(*args)` on shapes, and the stretch of tape that it wrote.

    Attributes:
        out: The value of f.
        outputs: Its floating-point tensors.
        heads: Node -> (shape, dtype) of the tensors in the arguments that it is differentiated by.
        given: Each leaf of the arguments, and what stands for it.
        leaves: Parameter of others -> the leaf that stands for it on this tape: no walk of shapes may reach those.
        tape: The equations that the outputs depend on, oldest first.
    """

    def __init__(self, name: str, f: Callable[..., Any], args: Sequence[Any], argnums: Sequence[int]) -> None:
        mark = tick()
        self.heads: dict[Any, tuple[Any, Any]] = {}
        self.given: list[tuple[Any, Any]] = []
        given = [trees.map(partial(self._argument, i in argnums), x) for i, x in enumerate(args)]
        self.out = f(*given)
        tensors = [x for x in trees.flatten(self.out)[0] if isinstance(x, Tensor)]
        self.outputs = [x for x in tensors if is_floating(x.dtype)]
        if not self.outputs:
            kinds = ", ".join(sorted({str(x.dtype) for x in tensors})) or type(self.out).__name__
            raise TapeError(f"{name}: the function returned {kinds}; return a tensor of floating point")
        self.tape = tape_of([x.node for x in self.outputs], self.heads, mark)
        self.leaves: dict[Leaf, Leaf] = {}
        for e in self.tape:
            e.parents = tuple([self._twin(n) for n in e.parents])

    def _argument(self, is_head: bool, x: Any) -> Any:
        made = self._stand_in(is_head, x)
        self.given.append((x, made))
        return made

    def _stand_in(self, is_head: bool, x: Any) -> Any:
        if not (hasattr(x, "dtype") or (is_head and isinstance(x, float | list))):
            return x
        tensor = x if isinstance(x, Tensor) else asarray(x)
        array = stand_in(tensor.data)
        if not is_head or not is_floating(array.dtype):
            return Tensor(array, tensor.node if tensor.is_leaf else None)
        head = Tensor(array, equation(HEAD, (None,), (), None))
        self.heads[head.node] = array.shape, array.dtype
        return head

    def _twin(self, node: Any) -> Any:
        if node.__class__ is not Leaf:
            return node
        twin = self.leaves.get(node)
        if twin is None:
            twin = self.leaves[node] = Leaf()
            twin.stale = False
        return twin

    def pull(self, ends: Collection[Any], free: bool) -> dict[Any, Any]:
        """The cotangents found for `ends`, from outputs' cotangents that are there already."""
        wanted = reaching(self.tape, ends)
        found: dict[Any, Any] = {}
        for x in self.outputs:
            if x.node in wanted:
                found[x.node] = stand_in(x.data)
        if found:
            pull(self.tape, found, wanted=wanted, free=free)
        return found

    def push(self, tangents: dict[Any, Any]) -> dict[Any, Any]:
        """The tangents found for all nodes from those of the ends."""
        push(self.tape, tangents)
        return tangents
