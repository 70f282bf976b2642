"""Calls of ops by the shapes that they met, and what such a call does: it runs again on arrays without numbers."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import Context
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..backends import BACKENDS, Backend, backend_for, canonical_dtype, is_floating
from ..backends.batched.array import BatchedArray, Frame, frame_among
from ..backends.batched.backend import batched_backend
from ..backends.batched.current import within
from ..backends.meta.array import MetaArray, fresh
from ..backends.meta.metering import metering
from ..core.op import ARRAYS, OPS, Op
from ..core.tape import Bundle, Equation, Leaf, equation, pull, push
from ..core.tensor import Tensor
from .ledger import Count, Ledger

__all__ = [
    "BODY",
    "PULL",
    "PUSH",
    "Work",
    "owner",
    "pulled_facts",
    "pushed_facts",
    "sketch",
    "sketches",
    "works_of",
]

BODY, PULL, PUSH = "body", "vjp", "jvp"

_PLAIN = frozenset({int, str, type(None)})
_ARRAY, _EXAMPLES, _FRAME, _SEVERAL, _NUMBER = object(), object(), object(), object(), object()
_NOTHING = id(None)


def sketch(x: Any) -> Any:
    """`x` without its numbers: for an array its shape, strides and dtype; lists are looked into. No array is held."""
    kind = x.__class__
    if kind in _PLAIN:
        return x
    if kind in BACKENDS:
        if isinstance(x, BatchedArray):
            return _EXAMPLES, x.batched, _frame_facts(x.frame), sketch(x.data)
        return _ARRAY, x.shape, getattr(x, "strides", None), x.dtype
    if kind is float or kind is bool:
        return _NUMBER, kind, x  # an equal integer is not the same
    if kind is Tensor:
        return sketch(x.data)
    if kind is Frame:
        return _FRAME, _frame_facts(x)
    if isinstance(x, tuple | list):
        for part in x:
            if part.__class__ not in _PLAIN:
                return _SEVERAL, kind, *[sketch(part) for part in x]
    return x


def _frame_facts(frame: Frame | None) -> Any:
    """What a call in a frame depends on: how many examples there are, also of the frames around it and its twin."""
    return frame and (frame.size, frame.join, _frame_facts(frame.outer), _frame_facts(frame.twin_of))


@lru_cache(maxsize=256)
def _frame(size: int, join: Any, outer: Any, twin: Any) -> Frame:
    """The frame of such facts, one for all, with arrays without numbers."""
    around, origin = (facts and _frame(*facts) for facts in (outer, twin))
    level = 1 + (around.level if around else 0)
    return Frame(size, level, around, backend_for("meta"), batched_backend(level).array_types[0], join, origin)


def owner(value: Any) -> Backend:
    """The backend of the numbers of a cotangent or tangent: an array, a Tensor, or a Bundle of them."""
    if value.__class__ is np.ndarray:
        return BACKENDS[np.ndarray]
    while value.__class__ is Bundle:
        value = next(part for part in value if part is not None)
    array = value.data if value.__class__ is Tensor else value
    return BACKENDS[array.__class__].holder((array,))


def sketches(values: Sequence[Any]) -> tuple[Any, ...]:
    """The `sketch` of each value: what is most often asked is written out."""
    return tuple(
        [(_ARRAY, x.shape, x.strides, x.dtype) if x.__class__ is np.ndarray else sketch(x) for x in values]
    )  # fmt: skip


def pulled_facts(e: Equation, g: Any, found: dict[Any, Any]) -> tuple[Any, ...]:
    """All that the work of pulling `e` depends on, but for which parents are reached: that shows when it is done."""
    parents, before = e.parents, None
    for n in parents:
        if n in found:
            before = tuple([sketch(found[n]) if n in found else None for n in parents])
            break
    recorded = g.__class__ not in BACKENDS and _is_recorded(g)
    return recorded, e.fit, sketches(e.saved), sketch(g), tuple(map(id, parents)), before


def pushed_facts(e: Equation, tangents: dict[Any, Any]) -> tuple[Any, ...]:
    """All that the work of pushing `e` depends on."""
    given = tuple([sketch(tangents[n]) if n in tangents else None for n in e.parents])
    recorded = any(_is_recorded(tangents[n]) for n in e.parents if n in tangents)
    return recorded, e.fit, sketches(e.saved), given, tuple(map(id, e.parents))


def settled(what: str, facts: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same facts for all calls that do the same: each parent by the first position where it stands."""
    if what == BODY:
        args, named = facts
        return args, tuple(named.items())
    recorded, fit, saved, given, parents, *rest = facts
    return recorded, fit, saved, given, tuple([None if n == _NOTHING else parents.index(n) for n in parents]), *rest


def _is_recorded(value: Any) -> bool:
    """Whether a cotangent or tangent is a Tensor, or a Bundle of Tensors."""
    while value.__class__ is Bundle:
        value = next(part for part in value if part is not None)
    return value.__class__ is Tensor


def _arrays(facts: Any) -> Iterator[tuple[Any, Any]]:
    """Shape and dtype of every array in the facts of a call."""
    if facts.__class__ is tuple and facts and facts[0] is _ARRAY:
        yield facts[1], facts[3]
    elif isinstance(facts, tuple | list):
        for part in facts:
            yield from _arrays(part)


@dataclass(frozen=True, slots=True)
class Work:
    """What a call did.

    Attributes:
        count: As `pb.cost` counts it; None where that is not known.
        dtype: The name of the first floating-point dtype that it met; empty where there was none.
        arrays: All that it met, such as "float32 128 x 784".
    """

    count: Count | None = None
    dtype: str = ""
    arrays: tuple[str, ...] = ()


def works_of(calls: Iterable[tuple[str, Op, Any]]) -> Iterator[Work]:
    """What each call did, given as (what, op, facts); equal calls run once."""
    known: dict[Any, Work] = {}
    for what, op, given in calls:
        if given is None:
            # what a function with rules of its own does is told op by op; of an update nothing is known
            yield Work(Count() if what in (PULL, PUSH) else None)
            continue
        facts = settled(what, given)
        key: Any = what, op, facts
        try:
            work = known.get(key)
        except TypeError:  # lists and slices have no hash
            key = what, op, repr(facts)
            work = known.get(key)
        if work is None:
            work = known[key] = _work(what, op, facts)
        yield work


def _work(what: str, op: Op, facts: tuple[Any, ...]) -> Work:
    met = [(shape, canonical_dtype(dtype)) for shape, dtype in _arrays(facts)]
    arrays = tuple(f"{dtype} {' x '.join(map(str, shape)) or 'of one number'}" for shape, dtype in met)
    return Work(_count(what, op, facts), next((str(dtype) for _, dtype in met if is_floating(dtype)), ""), arrays)


def _count(what: str, op: Op, facts: tuple[Any, ...]) -> Count | None:
    """The ledger's count of a call; None where it depends on numbers, or does not run on shapes."""
    ledger = Ledger()

    def run() -> None:
        with metering(None):
            work = _REPLAYS[what](op, *facts)
        with metering(ledger), within(_innermost(facts)):
            work()

    backend_for("meta")
    try:
        Context().run(run)  # whoever watches the computation that asks is told of nothing
    except Exception:  # whatever a body says to arrays without numbers: it is the user's that runs here
        return None
    return ledger.total("forward")


def _innermost(facts: Any) -> Frame | None:
    """The innermost frame of arrays in the facts of a call: new arrays belong to it."""
    if facts.__class__ is not tuple or not facts:
        return None
    if facts[0] is _EXAMPLES:
        return _frame(*facts[2])
    return max(filter(None, map(_innermost, facts)), key=lambda frame: frame.level, default=None)


def _body(op: Op, args: Sequence[Any], kwargs: Sequence[tuple[str, Any]]) -> Callable[[], Any]:
    if OPS.get(op.name) is not op:
        raise LookupError(op.name)
    given, named = [_stand_in(x) for x in args], {name: _stand_in(x) for name, x in kwargs}
    frame = frame_among(given)
    run = getattr(ARRAYS[frame.kind if frame else MetaArray], op.name)
    return lambda: run(*given, **named)


def _pull(
    op: Op, recorded: bool, fit: Any, saved: Any, g: Any, pattern: Any, before: Any, reached: Any
) -> Callable[[], Any]:
    parents = _parents([place if there else None for place, there in zip(pattern, reached, strict=True)])
    e = equation(op, parents, tuple([_stand_in(x) for x in saved]), fit)
    found: dict[Any, Any] = {e: _as_given(g, recorded)}
    found |= {
        n: _as_given(x, recorded)
        for n, x in zip(parents, before or (), strict=before is not None)
        if n is not None and x is not None
    }  # fmt: skip
    return lambda: pull([e], found, recorded)


def _push(op: Op, recorded: bool, fit: Any, saved: Any, tangents: Any, pattern: Any) -> Callable[[], Any]:
    parents = _parents(pattern)
    e = equation(op, parents, tuple([_stand_in(x) for x in saved]), fit)
    found = {n: _as_given(t, recorded) for n, t in zip(parents, tangents, strict=True) if t is not None}
    return lambda: push([e], found, recorded)


_REPLAYS: dict[str, Callable[..., Callable[[], Any]]] = {BODY: _body, PULL: _pull, PUSH: _push}


def _parents(pattern: Sequence[int | None]) -> tuple[Any, ...]:
    leaves: dict[int, Leaf] = {}
    return tuple([None if place is None else leaves.setdefault(place, Leaf()) for place in pattern])


def _as_given(facts: Any, recorded: bool) -> Any:
    """A cotangent or tangent from its sketch."""
    value = _stand_in(facts)
    if not recorded:
        return value
    if value.__class__ is Bundle:
        return Bundle(part if part is None else Tensor(part) for part in value)
    return Tensor(value)


def _stand_in(facts: Any) -> Any:
    """What `sketch` was given, with arrays without numbers for its arrays."""
    if facts.__class__ is not tuple or not facts:
        return facts
    if facts[0] is _ARRAY:
        _, shape, strides, dtype = facts
        made = fresh(shape, canonical_dtype(dtype))
        if strides is None or strides == made.ghost.strides:
            return made
        return MetaArray(as_strided(made.ghost, shape, strides), made.buffer, True)
    if facts[0] is _EXAMPLES:
        _, batched, frame, data = facts
        return _frame(*frame).array(_stand_in(data), batched)
    if facts[0] is _FRAME:
        return _frame(*facts[1])
    if facts[0] is _NUMBER:
        return facts[2]
    if facts[0] is _SEVERAL:
        _, kind, *parts = facts
        inside = [_stand_in(part) for part in parts]
        return kind._make(inside) if hasattr(kind, "_make") else kind(inside)
    return facts
