"""Second floor: the tape. Equations in the order they ran, and the two walks along them: pull and push.

An equation holds the nodes of its inputs and the raw arrays that rules name, never Tensors: there are no reference
cycles, and an equation lives exactly as long as something that depends on it.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import count
from operator import attrgetter
from sys import getrefcount
from typing import Any

from ..backends import BACKENDS
from ..errors import MutationError, RuleError, TapeError
from .op import ARRAYS, OPS, TENSORS, Array, ArrayOps, Op
from .recording import Observer, enable_recording, observing

__all__ = [
    "HEAD",
    "Bundle",
    "Equation",
    "Leaf",
    "commit",
    "mutate",
    "pull",
    "push",
    "tape_of",
    "tick",
    "unread",
]

tick: Callable[[], int] = count(1).__next__  # one clock for equations, leaves and mutations


class Leaf:
    """Where cotangents end: the node of a Tensor that requires a gradient.

    `zero_grad` marks the gradient `stale` and keeps its buffer until the next pull reaches this leaf: the heap is not
    given back to the system and faulted in again in every step, and no gradient is there twice.
    """

    __slots__ = ("grad", "mutated", "stale")
    seq = 0  # before every equation: no walk goes past a leaf

    grad: Any
    mutated: int
    stale: bool

    def __init__(self) -> None:
        self.grad, self.mutated, self.stale = None, 0, True


class Equation:
    """One line of a tape: `out = op(*inputs, **params)`.

    Slots: `seq`, its moment on the clock; `op`; `parents`, the nodes of its inputs (None where untracked; the tuple is
    None once freed); `saved`, the values that rules name, in the order of `op.saves`; `fit`, None when every input has
    the shape and dtype of its cotangent, else ((shape, dtype) or None per input, (shape, dtype) of the output).
    """

    __slots__ = ("__weakref__", "fit", "op", "parents", "saved", "seq")

    seq: int
    op: Op
    parents: Any
    saved: Any
    fit: Any


class Bundle(tuple):  # type: ignore[type-arg]
    """The cotangents (or tangents) of an op with several outputs; None stands for zero. Bundles add entry by entry."""

    __slots__ = ()

    def __add__(self, other: Any) -> "Bundle":
        return Bundle(a if b is None else b if a is None else a + b for a, b in zip(self, other, strict=True))


def tape_of(nodes: Iterable[Any], ends: Iterable[Any] = (), since: int = 0) -> list[Equation]:
    """The equations that ran after `since` and that `nodes` depend on, oldest first; leaves and `ends` are left out."""
    seen, tape = set(ends), []
    pending: list[Any] = [nodes]
    for parents in pending:  # it grows while it is read
        for node in parents:
            if node is None or node.seq <= since or node in seen:
                continue
            if node.parents is None:
                raise TapeError(
                    f"{node.op.name} was already pulled and its tape freed; "
                    "call backward(retain=True) the first time to pull a tape twice"
                )
            seen.add(node)
            tape.append(node)
            pending.append(node.parents)
    tape.sort(key=attrgetter("seq"))
    return tape


_last_mutation = 0


def mutate(leaves: Iterable[Leaf]) -> int:
    """Note that the values of `leaves` are changed in place now; the moment on the clock."""
    global _last_mutation
    _last_mutation = moment = tick()
    for leaf in leaves:
        leaf.mutated = moment
    return moment


def refuse_mutated(tape: Sequence[Equation]) -> None:
    """Raise MutationError if a value that `tape` still needs was changed in place after it was used.

    The value of a leaf is needed where an equation kept it, directly or as a view made of it.
    """
    if not tape or _last_mutation < tape[0].seq:
        return
    written: dict[Any, int] = {}
    for e in tape:
        op, latest = e.op, 0
        for i, n in enumerate(e.parents):
            if n is None:
                continue
            moment = written[n] if n in written else _written(n)
            name = op.inputs[min(i, len(op.inputs) - 1)]
            if moment > e.seq and name in op.saves and e.saved[op.saves.index(name)] is not None:
                raise MutationError(
                    f"{op.name}: its input {name} was changed in place after it was used and before its backward; "
                    "pull first, or change a detached copy"
                )
            latest = max(latest, moment)
        written[e] = latest if _is_view(e) else 0


def _written(node: Any) -> int:
    """When the buffer of `node` was last written: that of a leaf, or of the leaves that it is a view of."""
    stack, latest = [node], 0
    while stack:
        n = stack.pop()
        if n.__class__ is Leaf:
            latest = max(latest, n.mutated)
        elif n is not None and _is_view(n):
            stack.extend(n.parents or ())
    return latest


def _is_view(e: Equation) -> bool:
    """Whether the value of `e` may be the buffer of its input: not if it has another dtype."""
    return e.op.is_view and (e.fit is None or e.fit[0] is None)


# --- pull: backwards with cotangents ----------------------------------------------------------------------------------


def _references(found: dict[Any, Any], key: Any) -> int:
    return getrefcount(found[key])


_ALONE = _references({0: object()}, 0)  # what this interpreter answers for "only the dictionary holds it"


def alone(found: dict[Any, Any], node: Any) -> bool:
    """Whether `found` holds the only reference to this cotangent and the cotangent owns its buffer."""
    return _references(found, node) == _ALONE and getattr(found[node], "base", found) is None


def pull(
    tape: list[Equation],
    found: dict[Any, Any],
    higher: bool = False,
    wanted: set[Any] | None = None,
    free: bool = False,
) -> None:
    """Walk `tape` backwards. `found` maps nodes to cotangents: of the outputs before, of leaves and ends after.

    Args:
        tape: Equations, oldest first. It is emptied when `free` is true.
        found: Cotangents by node; each is consumed as its equation is pulled.
        higher: Whether the cotangents are Tensors and what is done to them is recorded; else they are raw arrays.
        wanted: The nodes that lead to an input asked for; None means that all do.
        free: Give up each equation's saved values as soon as it is pulled.
    """
    refuse_mutated(tape)
    steps = tape if free else tape[:]
    observer = observing()
    if observer is None:
        _pull(steps, found, higher, wanted, free)
        return
    with observer.walking(steps, found, False):
        while steps:
            one = [steps.pop()]
            if one[0] in found:
                with observer.pulling(one[0], found):
                    _pull(one, found, higher, wanted, free)
            elif free:
                one[0].parents = one[0].saved = None


def _pull(steps: list[Equation], found: dict[Any, Any], higher: bool, wanted: set[Any] | None, free: bool) -> None:
    """The walk itself: `steps` are consumed from the last to the first."""
    kind: Any = None
    ops: Any = TENSORS
    while steps:
        e = steps.pop()
        g = found.pop(e, None)
        parents, saved = e.parents, e.saved
        if free:
            e.parents = e.saved = None
        if g is None:
            continue
        op, fit = e.op, e.fit
        if wanted is not None:
            parents = [n if n in wanted else None for n in parents]
        if op.outputs:
            g = _filled(g, fit[-1])
        if higher:
            saved = lift(e)
        elif g.__class__ is not kind:
            ops = _ops_of(g)
            kind = None if g.__class__ is Bundle else g.__class__  # the next bundle may live elsewhere
        if op.bound_first is not None:
            g = op.bound_first(ops, g, parents, saved)
        rules: Any = op.bound_rules
        i = -1
        for n in parents:
            i += 1
            if n is None:
                continue
            x = rules[i](ops, g, i, saved)
            if x is None:
                continue
            if fit is not None and fit[i] is not None:
                x = fit_to(ops, x, fit[i])
            if n not in found:
                found[n] = x
                if n.__class__ is Leaf and n.stale:
                    n.grad = None  # its buffer serves the next gradient
            elif alone(found, n) and found[n].__class__ is x.__class__:  # what all examples share takes no example in
                found[n] += x
            else:
                found[n] = found[n] + x
        g = x = None


def _filled(g: Bundle, specs: Any) -> Bundle:
    """A bundle's entries with zeros for None: rules of ops with several outputs see every cotangent."""
    present = next(entry for entry in g if entry is not None)
    return Bundle(_zeros(present, spec) if entry is None else entry for entry, spec in zip(g, specs, strict=True))


def _zeros(like: Any, spec: tuple[Any, Any]) -> Any:
    """Zeros of a (shape, dtype), where `like` lives: a raw array, or a Tensor when `like` is one."""
    array = getattr(like, "data", like) if hasattr(like, "node") else like
    zero = BACKENDS[array.__class__].beside(array).zeros(spec[0], dtype=spec[1])
    return zero if array is like else TENSORS.wrap(zero, None)


def fit_to(ops: Any, x: Any, spec: tuple[Any, Any]) -> Any:
    """`x` summed over broadcast axes and cast: a cotangent has the shape and dtype of its primal."""
    shape, dtype = spec
    if x.shape != shape:
        x = ops.sum_to(x, shape)
    return x if x.dtype == dtype else ops.astype(x, dtype)


def _readers(leaf: Leaf) -> int:
    return getrefcount(leaf.grad)


_unread = Leaf()
_unread.grad = object()
_UNREAD = _readers(_unread)  # "only the leaf holds it"


def unread(leaf: Leaf) -> bool:
    """Whether only `leaf` holds its gradient, so that it may be changed in place: what was read keeps its numbers."""
    return _readers(leaf) == _UNREAD


def commit(found: dict[Any, Any]) -> None:
    """Add the cotangents found for leaves to their `.grad`, in one go after a walk that succeeded.

    It is added in place, unless someone has read the gradient and still holds it: what was read keeps its numbers.
    """
    for leaf in [*found]:
        if leaf.__class__ is not Leaf:
            continue
        x = found.pop(leaf)
        if leaf.stale:
            leaf.grad = x if getrefcount(x) == _SOLE and getattr(x, "base", found) is None else x + 0
            leaf.stale = False
        elif unread(leaf):
            leaf.grad += x
        else:
            leaf.grad = leaf.grad + x


def _taken(found: dict[Any, Any], key: Any) -> int:
    x = found.pop(key)
    return getrefcount(x)


_SOLE = _taken({0: object()}, 0)  # what this interpreter answers when only a local name holds it


# --- lift: saved arrays as Tensors again ------------------------------------------------------------------------------


def lift(e: Equation) -> tuple[Any, ...]:
    """The saved values of `e`, arrays as Tensors joined to the tape where they came from."""
    op = e.op
    lifted = []
    for name, value in zip(op.saves, e.saved, strict=False):
        if name == "out":
            value = part_tensors(value, e) if op.outputs else TENSORS.wrap(value, e)
        elif name == "kept" and value is not None and OPS[op.kept].differentiable:  # type: ignore[index]
            value = _kept_tensors(e, value)
        elif name == op.sequence:
            value = tuple(TENSORS.wrap(x, n) for x, n in zip(value, e.parents, strict=True))
        elif name in op.inputs and hasattr(value, "dtype"):
            value = TENSORS.wrap(value, e.parents[op.inputs.index(name)])
        lifted.append(value)
    return tuple(lifted)


def equation(op: Op, parents: tuple[Any, ...], saved: tuple[Any, ...], fit: Any) -> Equation:
    """A new line on the tape, now."""
    e = Equation()
    e.seq, e.op, e.parents, e.saved, e.fit = tick(), op, parents, saved, fit
    return e


def _kept_tensors(e: Equation, value: Any) -> Any:
    """The second part of a body's value on a line of the op that it is of, at the first inputs of `e`.

    Parameters are those of `e` of the same name that its rules name, else that op's defaults.
    """
    op = OPS[e.op.kept]  # type: ignore[index]
    saved = dict(zip(e.op.saves, e.saved, strict=False))
    known: dict[str, Any] = {a.name: a.default for a in op.arguments}
    known |= {name: x for name, x in saved.items() if name in e.op.params}
    for name, ours in zip(op.inputs, e.op.inputs, strict=False):
        known |= {name: saved.get(ours), f"{name}_shape": getattr(saved.get(ours), "shape", None)}
    known |= {"out": value, "out_shape": getattr(value, "shape", None)}
    specs = tuple((x.shape, x.dtype) for x in value) if op.outputs else (value.shape, value.dtype)
    fit = (*(None for _ in op.inputs), specs)
    line = equation(op, e.parents[: len(op.inputs)], tuple([known.get(name) for name in op.saves]), fit)
    return part_tensors(value, line) if op.outputs else TENSORS.wrap(value, line)


# --- several outputs --------------------------------------------------------------------------------------------------


def part_of(xp: Any, x: Array, index: int, size: int) -> Any:
    """One output of an op that has several."""
    return x[index]


def head_of(xp: Any, x: Array) -> Any:
    """The value itself, under a node of its own: where a transform starts."""
    return x


HEAD = Op(head_of, "op", [lambda g: g], [lambda t: t], is_view=True)
PART = Op(
    part_of,
    "op",
    [lambda g, index, size: Bundle(g if i == index else None for i in range(size))],
    [lambda t, index: t[index]],
    is_view=True,
)


def part_tensors(values: Sequence[Any], e: Equation) -> tuple[Any, ...]:
    """Tensors of the outputs of `e`, each with a line of its own that picks it."""
    size = len(values)
    saved = {"index": 0, "size": size}
    return e.op.gather(
        TENSORS.wrap(value, equation(PART, (e,), tuple({**saved, "index": i}[name] for name in PART.saves), None))
        for i, value in enumerate(values)
    )


# --- push: forwards with tangents -------------------------------------------------------------------------------------


def push(tape: Sequence[Equation], found: dict[Any, Any], higher: bool = False) -> None:
    """Walk `tape` forwards. `found` maps nodes to tangents, of the inputs before, of everything they reach after."""
    refuse_mutated(tape)
    observer = observing()
    if observer is None:
        _push(tape, found, higher, None)
        return
    with observer.walking(tape, found, True):
        _push(tape, found, higher, observer)


def _push(tape: Sequence[Equation], found: dict[Any, Any], higher: bool, observer: Observer | None) -> None:
    """The walk itself."""
    for e in tape:
        tangents = [(i, found[n]) for i, n in enumerate(e.parents) if n is not None and n in found]
        if not tangents:
            continue
        if observer is None:
            total = _pushed(e, tangents, higher)
        else:
            with observer.pushing(e):
                total = _pushed(e, tangents, higher)
        if total is not None:
            found[e] = total


def _pushed(e: Equation, tangents: Sequence[tuple[int, Any]], higher: bool) -> Any:
    """The tangent of the value of `e` for tangents of its inputs, given with their positions; None for zero."""
    op, total = e.op, None
    saved = lift(e) if higher else e.saved
    for i, t in tangents:
        bound = op.bound_pushes[0 if op.sequence else i]
        if bound is None:
            x = transposed(e, i, t, higher)
        else:
            x = bound(TENSORS if higher else _ops_of(t), t, i, saved)
        if x is not None:
            x = Bundle(x) if op.outputs else x
            total = x if total is None else total + x
    return total if total is None or e.fit is None or op.outputs else spread(total, e.fit[-1], higher)


def _ops_of(value: Any) -> ArrayOps:
    """The raw op namespace for a value; for a bundle, that of the first entry that is there."""
    while isinstance(value, Bundle):
        value = next(entry for entry in value if entry is not None)
    return ARRAYS[value.__class__]


def spread(t: Any, spec: tuple[Any, Any], higher: bool) -> Any:
    """A tangent brought to the shape and dtype of its output."""
    shape, dtype = spec
    ops: Any = TENSORS if higher else ARRAYS[t.__class__]
    if t.shape != shape:
        t = ops.broadcast_to(t, shape)
    return t if t.dtype == dtype else ops.astype(t, dtype)


def transposed(e: Equation, i: int, t: Any, higher: bool) -> Any:
    """The tangent of `e` along tangent `t` of its input `i` (None for zero), by transposing the VJP.

    A VJP is linear in its cotangent u, so J t is the gradient of <VJP(u), t> with respect to u, at any u; zero serves.
    """
    op = e.op
    rule = op.bound_rules[0 if op.sequence else i]
    if rule is None or e.fit is None:
        raise RuleError(
            f"{op.name}: no JVP rule for its input {op.inputs[min(i, len(op.inputs) - 1)]}, and no VJP to transpose"
        )
    specs = e.fit[-1] if op.outputs else (e.fit[-1],)
    tangents = t if t.__class__ is Bundle else Bundle((t,))
    like = next(entry for entry in tangents if entry is not None)
    ends = [Leaf() for _ in specs]
    since = tick()
    zeros = [_zeros(like if higher else TENSORS.wrap(like, None), spec) for spec in specs]
    cotangents = tuple(TENSORS.wrap(zero.data, end) for zero, end in zip(zeros, ends, strict=True))
    with enable_recording():
        saved, g = lift(e), cotangents if op.outputs else cotangents[0]
        if op.bound_first is not None:
            g = op.bound_first(TENSORS, g, [e if j == i else None for j in range(len(e.parents))], saved)
        back = rule(TENSORS, g, i, saved)
        if e.fit[i] is not None:
            back = fit_to(TENSORS, back, e.fit[i])
    found: dict[Any, Any] = {}
    for x, entry in zip(back if back.__class__ is Bundle else (back,), tangents, strict=True):
        if x is not None and x.node is not None and entry is not None:
            found[x.node] = found[x.node] + entry if x.node in found else entry
    tape = tape_of(found, ends, since)
    pull(tape, found, higher, reaching(tape, ends))
    entries = Bundle(found.get(end) for end in ends)
    if all(entry is None for entry in entries):
        return None
    return entries if op.outputs else entries[0]


def reaching(tape: Sequence[Equation], ends: Iterable[Any]) -> set[Any]:
    """The nodes of `tape` that depend on one of `ends`, and the ends."""
    live = set(ends)
    for e in tape:
        if not live.isdisjoint(e.parents):
            live.add(e)
    return live
