"""`pb.trace`: the tape of a function as data, as text and as a picture."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import getcwd
from os.path import basename, relpath
from typing import Any, overload

from ..core.op import OPS
from ..core.tensor import Tensor, TensorLike
from ..errors import ArgumentError, DtypeError, RuleError
from .dot import dot_text
from .drawing import draw
from .formula import written
from .ledger import Count
from .sweep import Pull, sweep
from .tables import aligned, counted, flops_text
from .traced import Line, Traced, Variable, traced

__all__ = ["Tape", "TracedEquation", "tape_from", "trace"]


@dataclass(frozen=True, slots=True)
class TracedEquation:
    """One line of a tape: `outputs = op(inputs, params)`.

    Attributes:
        number: From 1, in the order in which they ran.
        op: The name of the op.
        inputs: Names of variables, and numbers as text.
        params: The parameters of the op by name.
        outputs: Its value, or its values.
        layer: The dotted name of the module that it ran in; "" outside of all.
        source: File and line of the user's call.
        forward, vjp: What the body and what the rules do; a value that nothing is differentiated through has no VJP.
    """

    number: int
    op: str
    inputs: tuple[str, ...]
    params: Mapping[str, Any]
    outputs: tuple[Variable, ...]
    layer: str
    source: tuple[str, int]
    forward: Count
    vjp: Count

    @property
    def name(self) -> str:
        """The name of its value: "h3"; of several values what their names begin with."""
        return self.outputs[0].name.partition(".")[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its (first) value."""
        return self.outputs[0].shape

    @property
    def dtype(self) -> str:
        """The dtype of its (first) value."""
        return self.outputs[0].dtype

    @property
    def place(self) -> str:
        """The user's line: "train.py:12"."""
        file, line = self.source
        if not file:
            return ""
        near = relpath(file) if file.startswith(getcwd()) else basename(file)
        return f"{near}:{line}"

    @property
    def options(self) -> dict[str, str]:
        """The parameters that are not the defaults, as text."""
        known = {a.name: a.default for a in OPS[self.op].arguments} if self.op in OPS else {}
        return {name: written(x) for name, x in self.params.items() if written(x) != written(known.get(name))}

    @property
    def call(self) -> str:
        """The call: `linear(x, layers.0.weight)`."""
        return f"{self.op}({', '.join([*self.inputs, *(f'{name}={x}' for name, x in self.options.items())])})"

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON can hold."""
        return {
            "number": self.number,
            "op": self.op,
            "inputs": list(self.inputs),
            "params": {name: written(x) for name, x in self.params.items()},
            "outputs": [v.to_dict() for v in self.outputs],
            "layer": self.layer,
            "source": list(self.source),
            "forward": self.forward.to_dict(),
            "vjp": self.vjp.to_dict(),
        }

    def __str__(self) -> str:
        return f"{', '.join(v.name for v in self.outputs)}: {self.outputs[0].type} = {self.call}"


class Tape(Sequence[TracedEquation]):
    """The tape of a function, as `trace` gives it: a sequence of equations; `print` shows one a line.

    Attributes:
        title: What the function is called.
        equations: The equations, in the order in which they ran.
        variables: All values by name: arguments, parameters, constants, and values of equations.
        outputs: Names of what the function gives.
        ends: Names of what it is differentiated by.
        other: What was done by ops outside of the tape, through which nothing is differentiated.
    """

    def __init__(
        self,
        title: str,
        equations: Sequence[TracedEquation],
        variables: Mapping[str, Variable],
        outputs: Sequence[str],
        ends: Sequence[str],
        other: Count,
    ) -> None:
        self.title, self.equations, self.variables = title, tuple(equations), dict(variables)
        self.outputs, self.ends, self.other = tuple(outputs), tuple(ends), other

    def __len__(self) -> int:
        return len(self.equations)

    @overload
    def __getitem__(self, index: int) -> TracedEquation: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[TracedEquation, ...]: ...
    def __getitem__(self, index: int | slice) -> TracedEquation | tuple[TracedEquation, ...]:
        return self.equations[index]

    def __iter__(self) -> Iterator[TracedEquation]:
        return iter(self.equations)

    @property
    def forward(self) -> Count:
        """What all equations do."""
        return sum((e.forward for e in self), Count())

    @property
    def vjp(self) -> Count:
        """What one pull through all of them does."""
        return sum((e.vjp for e in self), Count())

    def readers(self, name: str) -> list[TracedEquation]:
        """The equations that read a value, one entry for each place where they do."""
        return [e for e in self for given in e.inputs if given == name]

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON can hold."""
        return {
            "title": self.title,
            "variables": [v.to_dict() for v in self.variables.values() if v.kind != "value"],
            "equations": [e.to_dict() for e in self],
            "outputs": list(self.outputs),
            "ends": list(self.ends),
            "other": self.other.to_dict(),
        }

    def to_dot(self, path: Any = None) -> str:
        """The graph in the language of Graphviz, written to `path` if there is one: `dot -Tsvg`.

        Raises OSError where the file cannot be written.
        """
        text = dot_text(self)
        if path is not None:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        return text

    def plot(self, path: Any = None, fold: bool = True) -> Any:
        """A matplotlib Figure of the graph; saved at `path`, in the format of its ending.

        Equations run from top to bottom, in several columns where there are many. Parameters are leaves at the side,
        layers are boxes; edges have shapes, equations their flops (forward, then VJP). Of layers that come four times
        or more in a row, with the same ops and shapes, the first and the last are drawn and the others are one box;
        not if `fold` is false.

        Raises ArgumentError without matplotlib: `pip install 'pullback[plot]'`; OSError where it cannot be written.
        """
        return draw(self, path, fold)

    def __str__(self) -> str:
        free = [v for v in self.variables.values() if v.kind != "value"]
        marks = dict.fromkeys(self.ends, "differentiated")
        given = [(f"{v.name}: {v.type}", f"# {v.kind}", marks.get(v.name, "")) for v in free]
        rows = [
            (f"{', '.join(v.name for v in e.outputs)}: {e.outputs[0].type}", f"= {e.call}", e.layer,
             flops_text(e.forward.flops), flops_text(e.vjp.flops), e.place)
            for e in self
        ]  # fmt: skip
        value = ", ".join(self.outputs) or "a constant"
        head = f"{self.title}: {counted(len(self), 'equation')}; value: {value}"
        parts = [
            head,
            aligned(given),
            aligned(rows and [("", "", "layer", "forward", "VJP", "line"), *rows], right=(3, 4)),
        ]
        return "\n\n".join(part for part in parts if part)

    def __repr__(self) -> str:
        return f"<Tape of {self.title}: {counted(len(self), 'equation')}>"


def tape_from(run: Traced, pulls: Sequence[Pull]) -> Tape:
    """The tape of a run, with what the steps of its reverse sweep cost."""
    vjp: dict[int, Count] = {}
    for step in pulls:
        vjp[step.equation] = vjp.get(step.equation, Count()) + step.count
    equations = [_equation(run, number, line, vjp) for number, line in enumerate(run.lines, 1)]
    other = run.watch.tally.total + sum((e.forward for e in equations), Count()) * -1
    return Tape(run.title, equations, run.variables, run.outputs, run.ends, other)


def _equation(run: Traced, number: int, line: Line, vjp: Mapping[int, Count]) -> TracedEquation:
    note = line.note
    return TracedEquation(
        number=number,
        op=line.op,
        inputs=tuple(name for name in line.inputs if name),
        params=note.params,
        outputs=tuple(run.variables[name] for name in line.outputs),
        layer=note.layer,
        source=note.source,
        forward=line.count,
        vjp=vjp.get(number, Count()),
    )


@overload
def trace(f: Callable[..., Any], *args: Any, argnums: int | Sequence[int] | None = None) -> Tape: ...
@overload
def trace(f: TensorLike, *args: Any, **kwargs: Any) -> Tensor: ...
def trace(f: Any, *args: Any, **kwargs: Any) -> Any:
    """The tape of `f(*args)`: its equations as data; of a matrix instead of a function, the sum of its diagonal.

    Nothing is computed: f runs on arrays without numbers, as in `cost`, and each equation comes with its cost.

        tape = pb.trace(model, x)
        print(tape)  # equations, one a line, with shapes, layers, costs and your lines of code
        tape.plot("graph.png")

    Args:
        f: A function of trees to a tree of tensors, or a module.
        args: Its arguments: tensors or arrays of any device, and whatever else it takes.
        argnums: Which arguments to differentiate by. None: by the parameters that the value depends on, or where there
            are none by all floating-point arguments.

    Where f is no function this is the op `trace(x, offset=0, axis1=0, axis2=1)`; see `pb.linalg.trace`.

    Raises:
        TapeError: f returns no tensor of floating point. ArgumentError: `argnums` names no argument. DtypeError: f is
        no function. DeviceError: f reads numbers, or a shape in it depends on them.
    """
    if not callable(f):
        if not (hasattr(f, "dtype") or isinstance(f, list | tuple)):
            raise DtypeError(f"trace: its first argument is a function, or a matrix; got {type(f).__name__}")
        return OPS["trace"].call(f, *args, **kwargs)
    if kwargs.keys() - {"argnums"}:
        raise ArgumentError(
            f"trace: no option is called {', '.join(kwargs)}; give f as a function of positional arguments"
        )
    with traced("trace", f, args, kwargs.get("argnums")) as run:
        try:
            pulls = sweep(run)
        except RuleError:  # it is shown all the same
            pulls = []
        return tape_from(run, pulls)
