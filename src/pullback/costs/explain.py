"""`pb.explain`: the chain rule of a function, written out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np

from ..core.tape import PART, Leaf
from .forms import dense_products
from .formula import Formula, bar, call, literal, symbol
from .graph import Tape, TracedEquation, tape_from
from .ledger import Count
from .sweep import Pull, sweep
from .tables import aligned, bytes_text, counted, flops_text
from .traced import Traced, traced

__all__ = ["Explanation", "Step", "explain"]


@dataclass(frozen=True, slots=True)
class Step(Pull):
    """One step of the reverse sweep beside the elementary Jacobian that is never formed.

    Attributes:
        rows, columns, nbytes: The Jacobian of the equation's value by that input; 0 for a factor.
    """

    rows: int
    columns: int
    nbytes: int

    def __str__(self) -> str:
        return f"{self.target} {'+=' if self.adds else '='} {self.formula}"

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON can hold."""
        names = ("equation", "of", "adds", "rows", "columns", "nbytes")
        numbers: dict[str, Any] = {name: getattr(self, name) for name in names}
        text = {"target": str(self.target), "formula": str(self.formula), "latex": self.formula.to_latex()}
        return numbers | text | {"shape": list(self.shape), "count": self.count.to_dict()}


@dataclass(frozen=True)
class Explanation:
    """The chain rule of a function, as `explain` gives it; `print` shows it as text, a notebook as formulas.

    Attributes:
        tape: The equations.
        steps: The reverse sweep, from the value to the parameters.
        shared: Value -> the parameters (or arguments) whose gradients all need its cotangent, which is computed once.
        sums: Value -> how many branches its cotangent is the sum of, where there are several.
        dense: What the product of dense Jacobians would do.
    """

    tape: Tape
    steps: tuple[Step, ...]
    shared: Mapping[str, tuple[str, ...]]
    sums: Mapping[str, int]
    dense: Count

    @property
    def vjp(self) -> Count:
        """What the whole sweep does."""
        return sum((step.count for step in self.steps), Count())

    @property
    def visits(self) -> tuple[int, int]:
        """How many equations are pulled, and how many would be if each gradient had a sweep of its own."""
        return len(self.shared), sum(map(len, self.shared.values()))

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON can hold."""
        return {
            "tape": self.tape.to_dict(),
            "steps": [step.to_dict() for step in self.steps],
            "shared": {name: list(ends) for name, ends in self.shared.items()},
            "sums": dict(self.sums),
            "vjp": self.vjp.to_dict(),
            "dense": self.dense.to_dict(),
        }

    def latex(self) -> str:
        """The equations and the steps of the sweep as an `aligned` block of LaTeX, for math mode."""
        lines = [rf"{symbol(e.name).to_latex()} &= {_forward(e).to_latex()}" for e in self.tape]
        lines += [rf"{target.to_latex()} &= {given.to_latex()}" for target, given in self._seeds()]
        for step in self.steps:
            start = rf"{step.target.to_latex()} + {{}}" if step.adds else ""
            lines.append(rf"{step.target.to_latex()} &{':' * step.adds}= {start}{step.formula.to_latex()}")
        return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"

    def _repr_latex_(self) -> str:
        return f"$\\displaystyle {self.latex()}$"

    def _seeds(self) -> list[tuple[Formula, Formula]]:
        """Where the sweep starts."""
        values = [self.tape.variables[name] for name in self.tape.outputs]
        return [(bar(v.name), literal(1) if v.size == 1 else symbol("given", r"\text{given}")) for v in values]

    def __str__(self) -> str:
        tape, ends = self.tape, self.tape.ends
        head = f"{tape.title}: the chain rule, from {', '.join(tape.outputs) or 'a constant'} back to {_counted(ends)}"
        if not self.steps:
            return f"{head}\n\nnothing to pull: the value is {', '.join(tape.outputs) or 'a constant'} itself"
        forward = [
            (f"{e.number}", f"{e.name} = {_forward(e)}", _axes(e.shape), flops_text(e.forward.flops), e.layer)
            for e in tape
        ]
        seeds = [("", f"{target} = {given}", "", "", "") for target, given in self._seeds()]
        back = [
            (f"{step.equation}", str(step), _axes(step.shape), flops_text(step.count.flops), _jacobian(step))
            for step in self.steps
        ]
        columns = [("", "forward", "shape", "cost", "layer"), *forward, ("",) * 5]
        columns += [("", "backward", "shape", "cost", "the Jacobian it stands for"), *seeds, *back]
        return "\n\n".join([head, aligned(columns, right=(0, 3)), "\n".join(self._remarks())])

    def _remarks(self) -> list[str]:
        """What is shared, what is added, and what it would cost otherwise."""
        shared = [f"{name}_bar by {len(e)} gradients" for name, e in self.shared.items() if len(e) > 1]
        lines = [f"computed once and shared: {_elided(shared)}"] if shared else []
        lines += [f"{name} is read in {n} places: {name}_bar is a sum of {n} terms" for name, n in self.sums.items()]
        once, apart = self.visits
        lines.append(f"{counted(once, 'pull')} of an equation; with a sweep for each gradient it would be {apart}")
        vjp, dense = self.vjp, self.dense
        times = f", {dense.flops / vjp.flops:,.3g} times as many" if vjp.flops and dense.flops > vjp.flops else ""
        product = f"the product of dense Jacobians would take {flops_text(dense.flops)}{times}"
        lines.append(f"in all {flops_text(vjp.flops)}; {product}, and write {bytes_text(dense.written)}")
        return lines


def _counted(ends: Sequence[str]) -> str:
    return _elided(ends) if len(ends) < 5 else f"{_elided(ends)} ({len(ends)})"


def _elided(texts: Sequence[str]) -> str:
    return ", ".join(texts if len(texts) < 5 else [*texts[:3], f"... {texts[-1]}"])


def _axes(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _jacobian(step: Step) -> str:
    return f"{step.rows:,} x {step.columns:,}, {bytes_text(step.nbytes)}" if step.rows else ""


def _forward(e: TracedEquation) -> Formula:
    """The right side of an equation as a formula."""
    parts = [symbol(name) if name[0].isalpha() else literal(name) for name in e.inputs]
    return call(e.op, parts, options=e.options)


def explain(f: Callable[..., Any], *args: Any, argnums: int | Sequence[int] | None = None) -> Explanation:
    """The chain rule of this very function: its equations, and the reverse sweep step by step, with what each costs.

    Nothing is computed: f runs on arrays without numbers, as in `cost`. The formulas are found by running the rules of
    the ops on names in place of numbers, so they say what is done. A rule that does more than has a formula is written
    as J^T, the transposed Jacobian of its op.

        print(pb.explain(loss, x, labels))
        pb.explain(loss, x, labels).latex()

    In text `x_bar` is the cotangent of `x`, `*` multiplies number by number, `@` is the product of matrices, `[c]` is 1
    where `c` holds and 0 elsewhere, and `delta3` is a factor that several inputs of equation 3 share.

    Args:
        f: A function of trees to a tree of tensors, or a module.
        args: Its arguments: tensors or arrays of any device, and whatever else it takes.
        argnums: Which arguments to differentiate by. None: by the parameters that the value depends on, or where there
            are none by all floating-point arguments.

    Raises:
        TapeError: f returns no tensor of floating point. ArgumentError: `argnums` names no argument. DtypeError: f is
        no function. DeviceError: f reads numbers, or a shape in it depends on them. RuleError: an op has no rule for
        the reverse mode.
    """
    with traced("explain", f, args, argnums) as run:
        pulls = sweep(run)
        tape = tape_from(run, pulls)
        return Explanation(
            tape, tuple(_step(tape, pull) for pull in pulls), _shared(tape, pulls), _sums(pulls), _dense(run)
        )


def _step(tape: Tape, pull: Pull) -> Step:
    """A step beside its elementary Jacobian."""
    e = tape[pull.equation - 1]
    rows = sum(v.size for v in e.outputs) if pull.of else 0
    columns = tape.variables[pull.of].size if pull.of else 0
    nbytes = rows * columns * np.dtype(e.dtype).itemsize
    same = {part.name: getattr(pull, part.name) for part in fields(Pull)}
    return Step(**same, rows=rows, columns=columns, nbytes=nbytes)


def _shared(tape: Tape, pulls: Sequence[Pull]) -> dict[str, tuple[str, ...]]:
    """For the value of each equation that is pulled, last first: the ends that it depends on."""
    depends: dict[str, dict[str, None]] = {name: {name: None} for name in tape.ends}
    for e in tape:
        behind = {end: None for name in e.inputs for end in depends.get(name, ())}
        depends |= {v.name: behind for v in e.outputs}
    pulled = {pull.equation for pull in pulls}
    return {e.name: tuple(depends[e.outputs[0].name]) for e in reversed(tape.equations) if e.number in pulled}


def _sums(pulls: Sequence[Pull]) -> dict[str, int]:
    """How many branches each cotangent is the sum of, where there are several."""
    terms: dict[str, int] = {}
    for pull in pulls:
        if pull.of:
            terms[pull.of] = terms.get(pull.of, 0) + 1
    return {name: n for name, n in terms.items() if n > 1}


def _dense(run: Traced) -> Count:
    """What the dense Jacobians of all equations and their products would do."""
    ends = {
        node: run.variables[name].size
        for node, name in run.names.items()
        if name in run.ends and (node.__class__ is Leaf or node in run.trace.heads)
    }
    sizes = {line.equation: sum(run.variables[name].size for name in line.outputs) for line in run.lines}
    itemsize = max(x.dtype.itemsize for x in run.trace.outputs)
    return dense_products(run.trace.tape, ends, partial(_size_of, run, sizes), itemsize)[1]


def _size_of(run: Traced, sizes: Mapping[Any, int], node: Any) -> int:
    """How many numbers the value of a node has; of arrays that are only gathered, all of theirs."""
    if node in sizes and node.op is not PART:
        return sizes[node]
    if node in run.names:
        return run.variables[run.names[node]].size
    return sum(_size_of(run, sizes, n) for n in node.parents if n is not None)
