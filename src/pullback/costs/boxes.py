"""The graph of a tape as boxes to be drawn: one for each equation, with its leaves; equal layers in a row are one."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .ledger import Count
from .tables import flops_text

__all__ = ["Box", "Twig", "boxes_of"]

_PERIODS = range(1, 9)  # layers that repeat together
_ENOUGH = 4  # times that a layer comes before the rest of them is folded


@dataclass(frozen=True, slots=True)
class Twig:
    """A leaf at the side of a box: a parameter, a constant, or an argument that is read late.

    `again` says that it is drawn at another box too.
    """

    name: str
    kind: str
    shape: str
    again: bool


@dataclass
class Box:
    """What is drawn: an equation, an argument, or the equations that a fold hides.

    Attributes:
        key: Its name, unique in the graph.
        kind: "value", "argument", "constant", "parameter", or "more" for a fold.
        lines: The text inside.
        layer: The module that it is in.
        twigs: Its leaves.
        inputs: (key of another box, shape) for each edge into it.
        is_output: Whether the function returns it.
        rank, column: Its row, and the column that the row is in; `layout` sets them.
        x, y: Its centre in inches, y downwards.
    """

    key: str
    kind: str
    lines: tuple[str, ...]
    layer: str = ""
    twigs: list[Twig] = field(default_factory=list)
    inputs: list[tuple[str, str]] = field(default_factory=list)
    is_output: bool = False
    rank: int = 0
    column: int = 0
    x: float = 0.0
    y: float = 0.0


def boxes_of(tape: Any, fold: bool) -> list[Box]:
    """The boxes of a tape, each after those that it depends on."""
    maker = _Maker(tape)
    hidden = _hidden(tape) if fold else {}
    boxes: dict[str, Box] = {}
    for e in tape:
        run = hidden.get(e.number)
        if run is None:
            box = maker.equation(e)
        elif run[0] is e:
            box = maker.folded(run)
        else:
            continue
        for name in maker.roots(box):
            boxes.setdefault(name, maker.root(name))
        boxes[box.key] = box
    for name in tape.outputs:
        if name in tape.variables and maker.key_of(name) not in boxes:
            boxes[name] = maker.root(name)
        boxes[maker.key_of(name)].is_output = True
    return list(boxes.values())


class _Maker:
    def __init__(self, tape: Any) -> None:
        self.tape = tape
        self.keys = {v.name: e.name for e in tape for v in e.outputs}
        made = set(self.keys)
        # an argument stands above what reads it, if that reads no value of an equation
        self.above = {
            name for e in tape for name in e.inputs
            if name in tape.variables and tape.variables[name].kind == "argument" and not made & set(e.inputs)
        }  # fmt: skip
        self.drawn: set[str] = set()

    def key_of(self, name: str) -> str:
        """The box that a value is in."""
        return self.keys.get(name, name)

    def roots(self, box: Box) -> list[str]:
        """The arguments that a box reads and that have boxes of their own."""
        return [key for key, _ in box.inputs if key in self.above]

    def root(self, name: str) -> Box:
        """The box of an argument."""
        v = self.tape.variables[name]
        return Box(name, v.kind, (name, v.dtype))

    def equation(self, e: Any) -> Box:
        """The box of an equation."""
        numbers = [name for name in e.inputs if name not in self.tape.variables]
        options = [f"{name}={x}" for name, x in e.options.items()]
        said = " ".join([e.op, *numbers, *options])
        cost = f"{flops_text(e.forward.flops)}, VJP {flops_text(e.vjp.flops)}"
        box = Box(e.name, "value", (f"{e.name}: {_shortened(said, 30)}", cost), e.layer)
        self._join(box, e, set())
        return box

    def folded(self, run: Sequence[Any]) -> Box:
        """The box that stands for a run of equations, which go by its name from now on."""
        names = {v.name for e in run for v in e.outputs}
        layers = list(dict.fromkeys(e.layer for e in run if e.layer))
        forward, vjp = (sum((getattr(e, what) for e in run), Count()) for what in ("forward", "vjp"))
        span = f"{layers[0]} to {layers[-1]}" if len(layers) > 1 else f"{run[0].name} to {run[-1].name}"
        several = f"{len(run)} equations like those above"
        cost = f"{flops_text(forward.flops)}, VJP {flops_text(vjp.flops)}"
        box = Box(run[0].name, "more", (several, _shortened(span, 40), cost))
        self.keys |= dict.fromkeys(names, box.key)
        for e in run:
            self._join(box, e, names)
        box.twigs = box.twigs and [_summary(self.tape, run)]
        return box

    def _join(self, box: Box, e: Any, inside: set[str]) -> None:
        """Enter what an equation reads, without what its own box makes."""
        for name in e.inputs:
            v = self.tape.variables.get(name)
            if v is None or name in inside:
                continue
            if name in self.keys or name in self.above:
                edge = (self.key_of(name), _axes(v.shape))
                if not inside or edge not in box.inputs:
                    box.inputs.append(edge)
            else:
                box.twigs.append(Twig(name, v.kind, _axes(v.shape), name in self.drawn))
                self.drawn.add(name)


def _summary(tape: Any, run: Sequence[Any]) -> Twig:
    """The leaves of a fold as one."""
    found = {name: tape.variables[name] for e in run for name in e.inputs if name in tape.variables}
    leaves = [v for v in found.values() if v.kind == "parameter"]
    return Twig(f"{len(leaves)} parameters", "parameter", f"{sum(v.size for v in leaves):,} numbers", False)


def _hidden(tape: Any) -> dict[int, list[Any]]:
    """Equation number -> the run that it is hidden in, for those that only repeat what stands before them.

    Equations of one layer in a row are a segment; so is each that is in no layer. Where segments, or groups of a few,
    come again and again with the same ops and shapes, the first and the last are drawn.
    """
    segments: list[list[Any]] = []
    for e in tape:
        if segments and e.layer and segments[-1][0].layer == e.layer:
            segments[-1].append(e)
        else:
            segments.append([e])
    made_by = {v.name: e.number for e in tape for v in e.outputs}
    signs = [tuple(_sign(tape, made_by, e) for e in segment) for segment in segments]
    hidden: dict[int, list[Any]] = {}
    start = 0
    while start < len(segments):
        times, period = _repeats(signs, start)
        if times < _ENOUGH:
            start += 1
            continue
        end = start + times * period
        run = [e for segment in segments[start + period : end - period] for e in segment]
        hidden |= dict.fromkeys((e.number for e in run), run)
        start = end
    return hidden


def _repeats(signs: Sequence[Any], start: int) -> tuple[int, int]:
    """How many times the segments at `start` come in a row, and how many they are: the most, then the fewest."""
    best = 1, 1
    for period in _PERIODS:
        first, times = signs[start : start + period], 1
        while signs[start + times * period : start + (times + 1) * period] == first and len(first) == period:
            times += 1
        best = max(best, (times, period), key=lambda found: found[0])
    return best


def _sign(tape: Any, made_by: dict[str, int], e: Any) -> Any:
    """What equal equations have in common: the op, the shapes, and how far back their inputs were made."""
    known = [tape.variables.get(name) for name in e.inputs]
    back = [e.number - made_by[name] if name in made_by else 0 for name in e.inputs]
    shapes = tuple((v.kind, v.shape) if v else name for v, name in zip(known, e.inputs, strict=True))
    return e.op, shapes, tuple(back), tuple(v.shape for v in e.outputs), bool(e.layer)


def _axes(shape: Sequence[int]) -> str:
    return "\u00d7".join(map(str, shape)) or "1"


def _shortened(text: str, longest: int) -> str:
    """The text without its middle, where it is too long."""
    half = longest // 2
    return text if len(text) <= longest else f"{text[: half - 1]}\u2026{text[-half:]}"
