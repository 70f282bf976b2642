"""A function's tape with its names: what both the graph and the explanation are made of."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .. import trees
from ..core.op import OPS
from ..core.tape import HEAD, PART, Leaf
from ..core.tensor import Tensor
from ..errors import ArgumentError, DeviceError
from ..transforms.packed import GATHER
from ..transforms.reverse import argument_numbers
from ..transforms.trace import require_function
from .ledger import Count
from .naming import argument_names, closed_over, parameter_names, title_of
from .tracing import Trace
from .watching import Note, Watch, watched

__all__ = ["Line", "Traced", "Variable", "is_gathering", "traced"]


@dataclass(frozen=True, slots=True)
class Variable:
    """A value by name.

    Attributes:
        name: Such as "layers.0.weight", "x" or "h3".
        kind: "parameter", "argument", "constant", or "value" of an equation.
        shape, dtype: Of the array.
        layer: The module that it is of, or "".
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    layer: str

    @property
    def size(self) -> int:
        """How many numbers."""
        size = 1
        for n in self.shape:
            size *= n
        return size

    @property
    def type(self) -> str:
        """Dtype and shape: `float32[128, 256]`."""
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON can hold."""
        names = ("name", "kind", "shape", "dtype", "layer")
        return {name: getattr(self, name) for name in names} | {"shape": list(self.shape)}


@dataclass(frozen=True)
class Line:
    """One equation with its names.

    Attributes:
        equation: The line of the tape.
        note: Where it stands and what it did.
        inputs: What it is given: names, and numbers as text; "" where an input is None.
        outputs: The names of its values.
        count: What its body does.
    """

    equation: Any
    note: Note
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    count: Count

    @property
    def op(self) -> str:
        """The name of its op."""
        name: str = self.equation.op.name
        return name.strip("<>")


class Traced:
    """The tape of `f(*args)`, from shapes alone.

    Attributes:
        title: What the function is called.
        trace, watch: The run.
        variables: By name, in the order of their first use.
        names: Node -> name.
        lines: The equations, oldest first.
        ends: Names of what it is differentiated by.
        outputs: Names of its values of floating point.
    """

    def __init__(self, title: str, trace: Trace, watch: Watch, known: dict[int, str], ends: Collection[Any]) -> None:
        self.title, self.trace, self.watch = title, trace, watch
        self._known = known
        self._leaf_of = {twin: leaf for leaf, twin in trace.leaves.items()}
        self._constants: dict[int, str] = {}
        self.variables: dict[str, Variable] = {}
        self.names: dict[Any, str] = {}
        self.lines: list[Line] = []
        self._on_tape = {e.seq for e in trace.tape}
        for x, made in trace.given:
            if isinstance(made, Tensor):
                kind = "parameter" if isinstance(x, Tensor) and x.is_leaf else "argument"
                self._add(known[id(_origin(made.data))], kind, made.shape, made.dtype, "", made.node)
        for e in trace.tape:
            self._read(e)
        tensors = [x for x in trace.outputs if x.node is not None]
        self.outputs = tuple(dict.fromkeys(self.names[x.node] for x in tensors if x.node in self.names))
        self.ends = tuple(dict.fromkeys(self.names[end] for end in ends if end in self.names))

    def _add(self, name: str, kind: str, shape: Any, dtype: Any, layer: str, node: Any) -> str:
        """Enter a variable; its name, which is another one where that is taken."""
        free, number = name, 1
        while free in self.variables:
            number += 1
            free = f"{name}_{number}"
        self.variables[free] = Variable(free, kind, tuple(shape), str(dtype), layer)
        if node is not None:
            self.names[node] = free
        return free

    def _read(self, e: Any) -> None:
        """Enter an equation."""
        if e.op is GATHER:
            return
        if e.op is HEAD:
            parent = e.parents[0]
            if parent in self.names:
                self.names[e] = self.names[parent]
            return
        if e.op is PART:
            of, index = e.parents[0], e.saved[e.op.saves.index("index")]
            line = next(line for line in reversed(self.lines) if line.equation is of)
            self.names[e] = line.outputs[index]
            return
        note = self.watch.notes.get(e.seq) or _unnoted(e)
        nodes = [n for p in e.parents for n in (p.parents if is_gathering(p) else [p])]
        arrays = note.inputs or (None,) * len(nodes)
        inputs = tuple([self._input(n, x, note.layer) for n, x in zip(nodes, arrays, strict=True)])
        name = f"h{len(self.lines) + 1}"
        given = e.op.outputs if len(e.op.outputs) == len(note.specs) else range(len(note.specs))
        parts = [f"{name}.{part}" for part in given] if len(note.specs) > 1 else [name]
        outputs = [
            self._add(name, "value", shape, dtype, note.layer, None)
            for name, (shape, dtype) in zip(parts, note.specs, strict=True)
        ]
        if not e.op.outputs:
            self.names[e] = outputs[0]
        count = note.count if e.op.name in OPS else note.count + self._inside(e)
        self.lines.append(Line(e, note, inputs, tuple(outputs), count))

    def _inside(self, e: Any) -> Count:
        """What was recorded inside of a function that stands on the tape as one equation."""
        begin = max((n.seq for p in e.parents for n in p.parents if n is not None), default=0)
        inside = [seq for seq in self.watch.notes if begin < seq < e.seq and seq not in self._on_tape]
        return sum((self.watch.notes.pop(seq).count for seq in inside), Count())

    def _input(self, node: Any, x: Any, layer: str) -> str:
        """The name of an input; "" where there is none."""
        if node in self.names:
            return self.names[node]
        if node.__class__ is Leaf:
            name = self._known.get(id(self._leaf_of.get(node, node)), f"p{len(self.names)}")
            return self._add(name, "parameter", x.shape, x.dtype, layer, node)
        if x is None:
            return ""
        if not hasattr(x, "dtype"):
            return f"{x:.4g}" if isinstance(x, float) else str(x)
        x = _origin(x)
        if id(x) not in self._constants:
            name = self._known.get(id(x), f"c{len(self._constants)}")
            if name in self.variables:
                return name
            self._constants[id(x)] = self._add(name, "constant", x.shape, x.dtype, layer, None)
        return self._constants[id(x)]


def _origin(array: Any) -> Any:
    """The array that was brought to the device "meta", if it was one."""
    origin = getattr(array, "origin", None)
    return array if origin is None else origin


def is_gathering(node: Any) -> bool:
    """Whether a node is the line that gathers the arguments of a function with rules of its own."""
    return getattr(node, "op", None) is GATHER


def _unnoted(e: Any) -> Note:
    """What can be known of an equation that no op wrote."""
    specs = e.fit[-1] if e.op.outputs else (e.fit[-1],)
    return Note("", ("", 0), (), tuple(specs), {}, Count())


@contextmanager
def traced(name: str, f: Callable[..., Any], args: Sequence[Any], argnums: Any) -> Iterator[Traced]:
    """Run `f(*args)` on shapes, and give its tape while that still holds.

    Every array among the arguments is followed, so that the whole computation is on the tape; it is differentiated as
    `cost` differentiates it.
    """
    require_function(name, f)
    asked = () if argnums is None else argument_numbers(name, argnums, len(args))
    given = argument_names(f, args)
    holding = [i for i, x in enumerate(args) if any(hasattr(leaf, "dtype") for leaf in trees.flatten(x)[0])]
    with watched() as watch:
        try:
            trace = Trace(name, f, args, sorted({*asked, *(holding or range(len(args)))}))
        except DeviceError as error:
            raise DeviceError(
                f"{name}: {error}. A function is traced on shapes: what it does may depend on shapes and on Python "
                "values, not on the numbers in a tensor; write pb.where for a choice by numbers"
            ) from error
        yield Traced(
            title_of(f), trace, watch, _known(f, trace, watch, given), _ends(name, trace, args, asked, argnums)
        )


def _known(f: Any, trace: Trace, watch: Watch, given: Sequence[tuple[str, Any]]) -> dict[int, str]:
    """Names by the identity of leaves and of raw arrays: arguments, parameters of modules, closed-over variables."""
    known: dict[int, str] = {}
    for (name, _), (_, made) in zip(given, trace.given, strict=True):
        if isinstance(made, Tensor):
            known[id(_origin(made.data))] = name
            if made.node.__class__ is Leaf:
                known[id(made.node)] = name
    for name, x in (*parameter_names(watch.roots), *closed_over(f)):
        node, array = getattr(x, "node", None), getattr(x, "data", x) if isinstance(x, Tensor) else x
        known.setdefault(id(node) if node.__class__ is Leaf else id(array), name)
    return known


def _ends(name: str, trace: Trace, args: Sequence[Any], asked: Collection[int], argnums: Any) -> list[Any]:
    """The nodes that are differentiated by: as asked, else parameters, else all floating-point arguments."""
    if argnums is not None:
        numbers = [i for i, x in enumerate(args) for _ in trees.flatten(x)[0]]
        made = [x for i, (_, x) in zip(numbers, trace.given, strict=True) if i in asked]
        ends = [x.node for x in made if isinstance(x, Tensor) and x.node is not None]
        if not ends:
            raise ArgumentError(f"{name}: argnums {argnums}: there is no floating-point number in these arguments")
        return ends
    leaves = [made.node for x, made in trace.given if isinstance(x, Tensor) and x.is_leaf and made.node is not None]
    leaves += trace.leaves.values()
    return leaves or list(trace.heads)
