"""Which equation made a number that is not finite: a walk done again, one equation at a time."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from math import isfinite
from typing import Any, NoReturn
from weakref import ref

import numpy as np

from ..backends import BACKENDS, is_floating
from ..core.op import OPS, Op
from ..core.places import Call, Line, input_name, layer_of, source_of
from ..core.tape import HEAD, PART, Bundle, Equation, pull, push
from ..core.tensor import Tensor
from ..errors import NonFiniteError, RuleError
from ..transforms.packed import GATHER
from ..transforms.vmap import ENTER, LEAVE

__all__ = ["Record", "Replay", "arrays_of", "depth", "nonfinite"]

_BETWEEN = (HEAD, PART, GATHER, ENTER, LEAVE)
depth: ContextVar[int] = ContextVar("depth", default=0)
"""How many walks this is inside of; -1 where one equation is replayed, so that walks inside of it count as whole."""


class Record(ref[Equation]):
    """What is known of an equation for as long as it lives: its moment, raw inputs, value, line and module."""

    __slots__ = ("call", "inputs", "line", "seq", "value", "walked")

    seq: int
    inputs: Sequence[Any]
    value: Any
    line: Line
    call: Call | None
    walked: bool


def arrays_of(x: Any) -> list[Any]:
    """The raw floating-point arrays in a Tensor, an array, or a tuple or list of them."""
    if isinstance(x, list | tuple):
        return [array for entry in x for array in arrays_of(entry)]
    if isinstance(x, Tensor):
        x = x.data
    return [x] if hasattr(x, "dtype") and is_floating(x.dtype) else []


def nonfinite(arrays: Iterable[Any]) -> bool:
    """Whether there is a NaN or an infinity in any array: one flag for each device."""
    places: dict[Any, list[Any]] = {}
    for array in arrays:
        backend = BACKENDS[array.__class__]
        places.setdefault((backend, backend.device_of(array)), []).append(array)
    for (backend, device), together in places.items():
        with backend.on(device):
            if bool(backend.nonfinite(together)):
                return True
    return False


def _raw(x: Any) -> Any:
    """A value of a walk as raw arrays."""
    if isinstance(x, Bundle):
        return Bundle(_raw(entry) for entry in x)
    return x.data if isinstance(x, Tensor) else x


def _bad(x: Any) -> bool:
    return nonfinite(arrays_of(x)) or (isinstance(x, float) and not isfinite(x))


class Replay:
    """A walk and the forward pass before it, to be searched.

    Args:
        records: What is known of equations, by their moment.
        steps: The equations of the walk, oldest first, with parents and saved values.
    """

    def __init__(self, records: Mapping[int, Record], steps: dict[Any, tuple[Any, Any]]) -> None:
        self.records, self.steps = records, steps
        self._bad_values: dict[Any, bool] = {}

    # --- forward ---

    def recorded(self, node: Any) -> list[Any]:
        """The nearest equations at or before `node` that have a record: heads and parts have none of their own."""
        if node.__class__ is not Equation:
            return []
        if node.seq in self.records:
            return [node]
        return [e for parent in self._parents(node) for e in self.recorded(parent)] if node.op in _BETWEEN else []

    def raise_forward(self, nodes: Iterable[Any], then: str = "") -> None:
        """Raise the error for what first made the values of `nodes` infinite or NaN, if they are."""
        e = self._origin(nodes)
        if e is None:
            return
        if OPS.get(e.op.name) is not e.op:
            with suppress(RuleError):  # it cannot be pulled, so it has no tape inside
                self._alone(pull, e, {e: Bundle(_ones_like(x) for x in self.records[e.seq].value)})
        operands = [*self._operands(e), ("out", self.records[e.seq].value)]
        foreign = [name for name, x in operands[:-1] if _bad(x)]
        if foreign:
            what = f"met by {e.op.name} in its input {' and '.join(foreign)}"
            why = "no recorded op made it: look at the data, the parameters, and what is computed without recording"
        else:
            what = f"made by {e.op.name} in the forward pass"
            why = _cause(e, operands, lambda: _wide_value(e, operands))
        self._refuse(what, e, operands, why, then)

    def _origin(self, nodes: Iterable[Any]) -> Any:
        """The equation where the chain of values that are not finite begins; None if those of `nodes` are finite.

        Where several chains begin, the first is meant of those that begin with finite inputs.
        """
        chain = [e for node in nodes for e in self.recorded(node) if self._is_bad(e)]
        seen, begins = set(chain), []
        for e in chain:  # it grows while it is read
            before = [n for parent in self._parents(e) for n in self.recorded(parent) if self._is_bad(n)]
            chain += [n for n in dict.fromkeys(before) if n not in seen]
            seen.update(before)
            if not before:
                begins.append(e)
        return min(begins, key=lambda e: (any(_bad(x) for _, x in self._operands(e)), e.seq), default=None)

    def _is_bad(self, e: Any) -> bool:
        if e not in self._bad_values:
            self._bad_values[e] = _bad(self.records[e.seq].value)
        return self._bad_values[e]

    def _parents(self, e: Any) -> Sequence[Any]:
        parents: Sequence[Any] = (self.steps[e][0] if e in self.steps else e.parents) or ()
        return parents

    def _operands(self, e: Any) -> list[tuple[str, Any]]:
        """Names and values of what an equation read, as far as they are known."""
        record = self.records.get(e.seq)
        if record is None:
            saved = self.steps[e][1] if e in self.steps else ()
            return [(name, x) for name, x in zip(e.op.saves, saved, strict=False) if arrays_of(x)]
        if len(record.inputs):
            names = [f"{e.op.sequence}[{i}]" for i in range(len(record.inputs))] if e.op.sequence else e.op.inputs
            return [(name, x) for name, x in zip(names, record.inputs, strict=False) if x is not None]
        before = [n for parent in self._parents(e) for n in self.recorded(parent)]
        return [(f"value of {n.op.name}", self.records[n.seq].value) for n in dict.fromkeys(before)]

    # --- backward and pushed ---

    def raise_pulled(self, start: Mapping[Any, Any], found: Mapping[Any, Any]) -> NoReturn:
        """Raise the error for the first cotangent that is not finite, of those that lead to one in `found`."""
        self._refuse_start("cotangent", start)
        wanted = {*self.steps, *found}
        at = {n: _raw(x) for n, x in start.items()}
        sources: dict[Any, list[Any]] = defaultdict(list)
        for e in reversed(self.steps):
            if e not in at:
                continue
            one: dict[Any, Any] = {e: at[e]}
            if _bad(at[e]):
                pull([e], one, wanted=wanted)
            else:
                self._alone(lambda tape, one: pull(tape, one, wanted=wanted), e, one)
            for n, x in one.items():
                if _bad(x):
                    sources[n].append(e)
                at[n] = at[n] + x if n in at else x
        pairs = self._first(found, sources, {e: _bad(x) for e, x in at.items()})
        if not pairs:
            raise NonFiniteError(
                "detect_nonfinite: the walk found numbers that are not finite, and found none when it was done again: "
                "something in it differs from run to run"
            )
        first, n = max(pairs, key=lambda pair: int(pair[0].seq))
        given, places = at[first], [i for i, parent in enumerate(self._parents(first)) if parent is n]
        names = " and ".join(input_name(first.op, i) for i in places)
        one = {first: given}
        pull([first], one, wanted={n})
        result = (f"cotangent of {names}", one[n]) if _bad(one[n]) else (f"sum of cotangents of {names}", at[n])
        self._raise_derivative(
            "backward", first, [("cotangent", given)], result,
            lambda: _wide_pull(first, given, places[0]),
        )  # fmt: skip

    def _first(
        self, found: Iterable[Any], sources: Mapping[Any, Sequence[Any]], bad: Mapping[Any, bool]
    ) -> list[tuple[Any, Any]]:
        """Pairs (equation, parent): the pull of the equation made a cotangent of the parent that is not finite, from
        one that is, and it leads to one in `found`. Where only a sum is not finite, the last that was added."""
        chain = [n for n in found if bad.get(n)]
        seen, pairs = set(chain), []
        for n in chain:  # it grows while it is read
            made = sources.get(n) or [next(e for e in self.steps if n in self._parents(e) and e in bad)]
            pairs += [(e, n) for e in made if not bad[e]]
            new = [e for e in made if bad[e] and e not in seen]
            seen.update(new)
            chain += new
        return pairs

    def raise_pushed(self, start: Mapping[Any, Any], found: Mapping[Any, Any], ends: Iterable[Any]) -> NoReturn:
        """Raise the error for the first tangent that is not finite, of those that lead to the tangents of `ends`."""
        self._refuse_start("tangent", start)
        chain = [e for e in ends if _bad(found[e])]
        seen, begins = set(chain), []
        for e in chain:  # it grows while it is read
            before = dict.fromkeys(n for n in self._parents(e) if n in found and _bad(found[n]))
            chain += [n for n in before if n not in seen]
            seen.update(before)
            if not before:
                begins.append(e)
        first = min(begins, key=lambda e: int(e.seq))
        tangents = {n: _raw(found[n]) for n in self._parents(first) if n in found}
        self._alone(push, first, dict(tangents))
        names = [(input_name(first.op, i), n) for i, n in enumerate(self._parents(first))]
        given = [(f"tangent of {name}", tangents[n]) for name, n in names if n in tangents]
        self._raise_derivative("forward-mode", first, given, ("tangent of out", _raw(found[first])), lambda: None)

    def _raise_derivative(
        self, mode: str, e: Any, given: list[tuple[str, Any]], result: tuple[str, Any], wide: Callable[[], Any]
    ) -> NoReturn:
        operands = self._operands(e)
        then = f"finite values came of it, and then derivatives that are not, in the {mode} pass of {e.op.name}"
        self.raise_forward([e, *self._parents(e)], then)
        operands = [*given, *operands, result]
        self._refuse(f"made by {e.op.name} in the {mode} pass", e, operands, _cause(e, operands, wide))

    def _refuse_start(self, what: str, start: Mapping[Any, Any]) -> None:
        if _bad([*start.values()]):
            raise NonFiniteError(f"detect_nonfinite: the {what} that the walk starts from is not finite")

    @staticmethod
    def _alone(walk: Callable[[list[Any], Any], None], e: Any, found: dict[Any, Any]) -> None:
        """Walk along one equation; where it walks along a tape of its own, as checkpoints do, that one is looked at."""
        token = depth.set(-1)
        try:
            walk([e], found)
        finally:
            depth.reset(token)

    def _refuse(self, what: str, e: Any, operands: Sequence[tuple[str, Any]], *words: str) -> NoReturn:
        """Raise the error: what happened, where, with which operands, and why."""
        record = self.records.get(e.seq)
        counts = _Facts(operands[-1][1])
        lines = [f"detect_nonfinite: {counts.nan} NaN and {counts.infinite} infinite numbers, {what}"]
        if record is None:
            lines += ["recorded before detect_nonfinite began, so its line is not known"]
        else:
            layer = layer_of(record.call)
            lines += [f"in layer {layer}"] if layer else []
            lines += [f"at {source_of(record.line)}"]
        lines += [f"{name}: {_Facts(x)}" for name, x in operands]
        raise NonFiniteError("\n  ".join([*lines, *filter(None, words)]))


class _Facts:
    """Shape, dtype and range of an operand, in words."""

    def __init__(self, x: Any) -> None:
        self.arrays = [_host(array) for array in arrays_of(x)]
        self.x = x
        self.nan = sum(int(np.isnan(a).sum()) for a in self.arrays)
        self.infinite = sum(int(np.isinf(a).sum()) for a in self.arrays)

    def __str__(self) -> str:
        if not self.arrays:
            array = self.x.data if isinstance(self.x, Tensor) else self.x
            return f"shape {tuple(array.shape)} {array.dtype}" if hasattr(array, "shape") else repr(self.x)
        form = " and ".join(f"shape {tuple(a.shape)} {a.dtype}" for a in arrays_of(self.x))
        finite = np.concatenate([a[np.isfinite(a)] for a in self.arrays])
        ends = f"min {finite.min():.6g}, max {finite.max():.6g}" if finite.size else "no finite number"
        return f"{form}, {ends}, {self.nan} NaN, {self.infinite} infinite"


def _host(array: Any) -> np.ndarray:
    return np.asarray(BACKENDS[array.__class__].inspected(array), dtype=np.float64)


def _ones_like(array: Any) -> Any:
    return BACKENDS[array.__class__].beside(array).ones_like(array)


# --- why --------------------------------------------------------------------------------------------------------------


def _cause(e: Any, operands: Sequence[tuple[str, Any]], wide: Callable[[], Any]) -> str:
    """What can be told of the reason: the numbers at the first place, and whether a wider dtype would have held it."""
    said = []
    result = operands[-1][1]
    arrays = arrays_of(result)
    if e.op.kind == "elementwise" and len(arrays) == 1 and not isinstance(result, tuple):
        out = _host(arrays[0])
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(out))[0])
        numbers = [f"{name} = {_at(x, out.shape, place)}" for name, x in operands]
        said.append(f"first at {list(place)}: {', '.join(numbers)}")
    narrow = [a.dtype for a in arrays if a.dtype.itemsize < 8]
    widened = _finite(wide) if narrow and OPS.get(e.op.name) is e.op else None
    if widened is not None:
        most = max((float(np.max(np.abs(a), initial=0.0)) for a in widened), default=0.0)
        said.append(
            f"in float64 it is finite, up to {most:.3g}: too much for {narrow[0]}; scale it, or widen the dtype"
        )
    elif e.op.kind == "elementwise":
        said.append(f"{e.op.name} has no finite value or slope there: keep its inputs away, or replace them before it")
    return "\n  ".join(said)


def _at(x: Any, shape: Sequence[int], place: tuple[int, ...]) -> Any:
    """The number of an operand that meets `place` of a result of this shape."""
    array = x if isinstance(x, bool | int | float) else BACKENDS[x.__class__].inspected(x)
    try:
        return np.broadcast_to(array, shape)[place].item()
    except ValueError:
        return "?"  # of another shape: a cotangent that was summed


def _finite(wide: Callable[[], Any]) -> list[np.ndarray] | None:
    """What `wide` gives, if it can be had and is finite."""
    try:
        arrays = [np.asarray(a) for a in arrays_of(wide())]
    except Exception:
        return None  # a body may refuse another dtype; then there is nothing to tell
    return arrays if arrays and all(np.isfinite(a).all() for a in arrays) else None


def _widened(x: Any) -> Any:
    """Arrays as float64 in host memory; all else as it is."""
    if isinstance(x, list | tuple):
        return type(x)(map(_widened, x))
    if hasattr(x, "dtype") and hasattr(x, "shape"):
        return _host(x) if is_floating(x.dtype) else BACKENDS[x.__class__].inspected(x)
    return x


def _wide_value(e: Any, operands: Sequence[tuple[str, Any]]) -> Any:
    """The value of an op without parameters in float64."""
    op: Op = e.op
    if op.params or op.sequence:
        return None
    given = dict(operands)
    value = op.bodies[np.ndarray](*[_widened(given.get(name)) for name in op.inputs])
    return value[0] if op.kept else value


def _wide_pull(e: Any, given: Any, position: int) -> Any:
    """The cotangent of an input of an equation, pulled in float64."""
    wide = Equation()
    wide.seq, wide.op, wide.saved = e.seq, e.op, tuple(map(_widened, e.saved))
    wide.parents, wide.fit = tuple(n if i == position else None for i, n in enumerate(e.parents)), None
    found = {wide: _widened(given)}
    pull([wide], found)
    return list(found.values())
