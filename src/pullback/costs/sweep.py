"""The reverse sweep of a tape, step by step: what each rule gives, by which formula, at what cost."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..backends import backend_for
from ..backends.meta.metering import metering
from ..core.op import ARRAYS, OPS
from ..core.tape import Bundle, fit_to, reaching
from .formula import Formula, bar, call, literal, symbol
from .ledger import Count
from .terms import TERMS, Term, array_of, each_term, term
from .traced import Line, Traced, is_gathering
from .watching import Tally

__all__ = ["Pull", "sweep"]

_LONG = 14  # ops in a formula that is still read


@dataclass(frozen=True, slots=True)
class Pull:
    """One step: the cotangent of `of`, or what one branch adds to it.

    Attributes:
        equation: The number of the equation whose rule it is, from 1.
        of: The name of the input; "" for a factor that several inputs of the equation share.
        target: What the step gives: the cotangent of `of`, or the name of the factor.
        formula: What it is.
        shape: Its shape.
        count: What the rule does and, if it `adds`, the sum.
        adds: Whether it is added to what other branches gave.
    """

    equation: int
    of: str
    target: Formula
    formula: Formula
    shape: tuple[int, ...]
    count: Count
    adds: bool


def sweep(traced: Traced) -> list[Pull]:
    """Walk the tape of `traced` backwards. What the steps cost adds up to what the library's own walk costs."""
    return _Sweep(traced).pulls


class _Sweep:
    def __init__(self, traced: Traced) -> None:
        self.traced, self.tally = traced, Tally()
        self.pulls: list[Pull] = []
        self.found: dict[Any, Any] = {}
        self.lines: dict[Any, tuple[int, Line]] = {}
        for number, line in enumerate(traced.lines, 1):
            self.lines[line.equation] = number, line
            self.lines |= {n: (number, line) for n in line.equation.parents if is_gathering(n)}
        ends = [node for node, name in traced.names.items() if name in traced.ends]
        self.wanted = reaching(traced.trace.tape, ends)
        for x in traced.trace.outputs:
            if x.node in self.wanted:
                self.found[x.node] = term(x.data, bar(traced.names[x.node]))
        with metering(self.tally):
            for e in reversed(traced.trace.tape):
                if e in self.found and e in self.wanted:
                    self._pull(e, self.found.pop(e))

    def _pull(self, e: Any, g: Any) -> None:
        """Run the rules of an equation."""
        op = e.op
        number, line = self.lines.get(e, (0, None))
        saved = tuple(e.saved if line is None or line.equation is not e else _saved(e, line))
        if op.outputs:
            g = Bundle(_zeros(spec) if x is None else x for x, spec in zip(g, e.fit[-1], strict=True))
        parents = [n if n in self.wanted else None for n in e.parents]
        if op.bound_first is not None:
            g = self._first(number, line, g, op.bound_first(TERMS, g, parents, saved))
        for i, n in enumerate(parents):
            if n is not None:
                x, count = self._ruled(e, i, g, saved, line)
                if x is not None:
                    self._give(number, n, x, count)

    def _first(self, number: int, line: Any, g: Term, made: Any) -> Any:
        """What is done once for all inputs, with a name for the factor that they share."""
        shared = next(iter(each_term(made)), None)
        if shared is None or not shared.formula.op:
            return made
        old, new = shared.formula, term(shared.array, symbol(f"delta{number}")).formula
        said = _slope(line, g) if old.size > _LONG else old
        self.pulls.append(Pull(number, "", new, said, tuple(shared.shape), self.tally.taken(), False))
        entries = [Term(x.array, x.formula.replaced(old, new)) if isinstance(x, Term) else x for x in _entries(made)]
        return entries[0] if isinstance(made, Term) else tuple(entries)

    def _ruled(self, e: Any, i: int, g: Any, saved: Any, line: Line | None) -> tuple[Any, Count]:
        """What a rule gives, in the shape and dtype of its input, and what it did.

        It runs on terms or, where it does more than has a formula (runs a function again, say), on their arrays.
        """
        rule, spec, before = e.op.bound_rules[i], e.fit and e.fit[i], self.tally.taken()
        try:
            x = rule(TERMS, g, i, saved)
            x = x if x is None or spec is None else fit_to(TERMS, x, spec)
            if isinstance(x, Term) and x.formula.size > _LONG:
                x = term(x.array, _product(e, i, g, line))
            return x, before + self.tally.taken()
        except Exception:
            self.tally.taken()
        ops = ARRAYS[each_term(g)[0].array.__class__]
        x = rule(ops, array_of(g), i, e.saved)
        x = x if x is None or spec is None else fit_to(ops, x, spec)
        entries = [None if v is None else term(v, _product(e, j, g, line)) for j, v in enumerate(_entries(x))]
        made = Bundle(entries) if isinstance(x, list | tuple) else entries[0]
        return made, before + self.tally.taken()

    def _give(self, number: int, node: Any, x: Any, count: Count) -> None:
        """Add `x` to the cotangent of a node, and note the step if the node has a name."""
        adds, name = node in self.found, self.traced.names.get(node)
        if name is None:  # the bundle of an op with several outputs
            self.found[node] = self.found[node] + x if adds else x
            self.tally.put_back(count)
            return
        array = self.found[node].array + x.array if adds else x.array
        self.found[node] = term(array, bar(name))
        target = self.found[node].formula
        count += self.tally.taken()
        if adds or x.formula != target:
            self.pulls.append(Pull(number, name, target, x.formula, tuple(array.shape), count, adds))


def _slope(line: Line, g: Term) -> Formula:
    """A factor whose formula is too long to read."""
    return call(f"{line.op}_slope", [g.formula, *(symbol(name) for name in line.inputs if name)])


def _entries(made: Any) -> Sequence[Any]:
    return made if isinstance(made, list | tuple) else [made]


def _product(e: Any, i: int, g: Any, line: Line | None) -> Formula:
    """The transposed Jacobian of an op times the cotangent of its value, where nothing more is known."""
    names = [name for name in line.inputs if name][i : i + 1] if line else []
    jacobian = call(f"J_{line.op if line else e.op.name}", [symbol(name) for name in names])
    cotangents = [x.formula for x in each_term(g)]
    right = cotangents[0] if len(cotangents) == 1 else call("list", cotangents)
    return call("matmul", [call("transpose", [jacobian]), right])


def _zeros(spec: tuple[Any, Any]) -> Term:
    return term(backend_for("meta").xp.zeros(spec[0], dtype=spec[1]), literal(0))


def _saved(e: Any, line: Line) -> Iterator[Any]:
    """What the tape keeps of an equation, arrays as terms with the names of the values."""
    op = e.op
    inputs = dict(zip(op.inputs, line.inputs, strict=False))
    for name, value in zip(op.saves, e.saved, strict=False):
        if name == op.sequence:
            yield [_named(x, given) for x, given in zip(value, line.inputs, strict=True)]
        elif name in inputs:
            yield _named(value, inputs[name])
        elif name == "out":
            parts = [_named(x, given) for x, given in zip(_entries(value), line.outputs, strict=True)]
            yield tuple(parts) if op.outputs else parts[0]
        elif name == "kept" and value is not None:
            kept = OPS[op.kept]
            parts = [symbol(given) for given in line.inputs[: len(kept.inputs)] if given]
            several = [f"{kept.name}.{part}" for part in kept.outputs] or [kept.name]
            terms = [term(x, call(n, parts)) for x, n in zip(_entries(value), several, strict=True)]
            yield tuple(terms) if kept.outputs else terms[0]
        else:
            yield value


def _named(value: Any, name: str) -> Any:
    return term(value, symbol(name)) if hasattr(value, "dtype") else value
