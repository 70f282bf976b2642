"""A tape as a chain: cut where everything passes through one value."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from ..backends import BACKENDS, backend_for
from ..backends.batched.array import Frame
from ..backends.meta.metering import metering
from ..core.op import ARRAYS
from ..core.tape import Equation, pull
from ..costs.ledger import Ledger
from ..transforms.chain import Segment
from .walks import columns_of, rows_of, twin, units

__all__ = ["Chain", "Cuts", "Link", "chain_of", "cuts_of"]


@dataclass(frozen=True, slots=True)
class Link:
    """A stretch of tape from one value to another, with nothing that passes by.

    Attributes:
        tape: Its equations, oldest first.
        before, after: The nodes of the values.
        shape_before, shape_after: Their shapes.
        work: Multiply-adds of a VJP.
        is_explicit: Whether its Jacobian is had by writing it: it is one dense op of a vector.
    """

    tape: tuple[Equation, ...]
    before: Any
    after: Any
    shape_before: tuple[int, ...]
    shape_after: tuple[int, ...]
    work: int
    is_explicit: bool

    @property
    def size(self) -> tuple[int, int]:
        """How many numbers come out and go in."""
        return prod(self.shape_after), prod(self.shape_before)


@dataclass(frozen=True, slots=True)
class Chain:
    """Links from an argument to the value, the first one at the argument; `dtype` is that of both."""

    links: tuple[Link, ...]
    dtype: Any

    def factors(self) -> tuple[list[tuple[int, int, int]], list[int]]:
        """What `chain.cheapest` takes."""
        factors = [(*link.size, link.work) for link in self.links]
        return factors, [m * n if link.is_explicit else work * min(m, n)
                         for link, (m, n, work) in zip(self.links, factors, strict=True)]  # fmt: skip

    def on_meta(self) -> "Chain":
        """The chain on arrays without numbers."""
        _, nodes = twin([e for link in self.links for e in link.tape])
        links = [
            Link(tuple(nodes[e] for e in link.tape), nodes.get(link.before, link.before), nodes[link.after],
                 link.shape_before, link.shape_after, link.work, link.is_explicit)
            for link in self.links
        ]  # fmt: skip
        return Chain(tuple(links), self.dtype)

    def execute(self, plan: Segment, like: Any) -> Any:
        """The Jacobian of a plan, (outputs, inputs), as a raw array of the class and device of `like`."""
        xp = BACKENDS[like.__class__].beside(like)
        done: dict[int, Any] = {}
        waiting = [plan]
        while waiting:
            segment = waiting[-1]
            missing = [part for part in (segment.outer, segment.inner) if part is not None and id(part) not in done]
            if missing:
                waiting.extend(missing)
                continue
            waiting.pop()
            outer, inner = (done.pop(id(part), None) for part in (segment.outer, segment.inner))
            if segment.way == "elementary":
                done[id(segment)] = self._elementary(self.links[segment.first], xp, like)
            elif segment.way == "product":
                done[id(segment)] = outer @ inner
            else:
                done[id(segment)] = self._swept(segment, outer, inner, xp)
        return done[id(plan)]

    def _swept(self, segment: Segment, outer: Any, inner: Any, xp: Any) -> Any:
        if segment.way == "adjoint":
            links = self.links[segment.first : segment.split + 1]
            rows = xp.reshape(outer, (outer.shape[0], *links[-1].shape_after))
            found = rows_of(_joined(links), links[-1].after, links[0].before, rows, _nodes(links))
            return xp.reshape(found, (outer.shape[0], links[0].size[1]))
        links = self.links[segment.split + 1 : segment.last + 1]
        columns = xp.reshape(inner.mT, (inner.shape[1], *links[0].shape_before))
        found = columns_of(_joined(links), links[0].before, links[-1].after, columns)
        return xp.reshape(found, (inner.shape[1], links[-1].size[0])).mT

    def _elementary(self, link: Link, xp: Any, like: Any) -> Any:
        m, n = link.size
        if link.is_explicit:
            (e,), ops = link.tape, ARRAYS[like.__class__]
            g = xp.ones(link.shape_after, dtype=self.dtype)
            if e.op.bound_first is not None:
                g = e.op.bound_first(ops, g, [e, *(None for _ in e.parents[1:])], e.saved)
            return e.op.bound_jacobian(ops, g, 0, e.saved)  # type: ignore[misc]
        if m <= n:
            rows = units(xp.zeros(link.shape_after, dtype=self.dtype), 0, m)
            return xp.reshape(rows_of(link.tape, link.after, link.before, rows, _nodes([link])), (m, n))
        columns = units(xp.zeros(link.shape_before, dtype=self.dtype), 0, n)
        return xp.reshape(columns_of(link.tape, link.before, link.after, columns), (n, m)).mT


def _joined(links: Sequence[Link]) -> list[Equation]:
    return [e for link in links for e in link.tape]


def _nodes(links: Sequence[Link]) -> set[Any]:
    return {links[0].before, *_joined(links)}


Cuts = tuple[tuple[int, tuple[int, ...], int, bool], ...]  # where links end, the shape there, work, is_explicit


def chain_of(tape: Sequence[Equation], end: Any, out: Any, cuts: Cuts | None) -> Chain | None:
    """The tape between the node `end` and the tensor `out` as a chain, cut as `cuts_of` says (None: it is no chain).

    Args:
        tape: Equations that lead from the one to the other, oldest first.
    """
    if cuts is None:
        return None
    links, start, before, shape = [], 0, end, cuts[0][1]
    for stop, after, work, is_explicit in cuts[1:]:
        links.append(Link(tuple(tape[start:stop]), before, tape[stop - 1], shape, after, work, is_explicit))
        start, before, shape = stop, tape[stop - 1], after
    return Chain(tuple(links), out.dtype)


def cuts_of(tape: Sequence[Equation], end: Any, out: Any) -> Cuts | None:
    """Where a tape is cut into links, the argument first.

    None where it has no equation, values of two dtypes, or a function that is mapped: it has a value for each example.
    """
    if not tape or out.node is not tape[-1] or any(isinstance(x, Frame) for e in tape for x in e.saved):
        return None
    shapes, work, dtypes = _booked(tape, out)
    if len(dtypes) > 1:
        return None
    last = {n: i for i, e in enumerate(tape) for n in e.parents}
    reach, before, start = last[end], end, 0
    found = [(0, shapes[end], 0, False)]
    for i, e in enumerate(tape):
        passes_by = i < len(tape) - 1 and (reach > i or e not in shapes)
        reach = max(reach, last.get(e, i))
        if not passes_by:
            part = tape[start : i + 1]
            flops = sum(work[x] for x in part)
            found.append((i + 1, shapes[e], -(-flops // 2), _is_explicit(part, before, shapes)))
            start, before = i + 1, e
    return tuple(found)


def _is_explicit(part: Sequence[Equation], before: Any, shapes: dict[Any, tuple[int, ...]]) -> bool:
    if len(part) != 1 or part[0].op.bound_jacobian is None:
        return False
    (e,) = part
    shape, given = shapes[e], shapes[before]
    matrix = e.saved[e.op.saves.index(e.op.inputs[1])]
    return (
        e.parents[0] is before
        and not any(n in shapes for n in e.parents[1:])
        and bool(shape and given)
        and (prod(shape), prod(given)) == (shape[-1], given[-1])
        and matrix.ndim == 2
    )


def _booked(tape: Sequence[Equation], out: Any) -> tuple[dict[Any, tuple[int, ...]], dict[Any, int], set[Any]]:
    """Shapes of the values that a chain may be cut at, operations of each equation's VJP, and the dtypes of cotangents.

    Of an op of several outputs there is no one value.
    """
    pairs, nodes = twin(tape)
    wanted = {*nodes.values(), *(n for e in pairs for n in e.parents if n is not None)}
    meta = backend_for("meta").xp
    found = {nodes[out.node]: meta.zeros(out.shape, dtype=out.dtype)}
    shapes: dict[Any, tuple[int, ...]] = {}
    work: dict[Any, int] = {}
    dtypes = set()
    for e in reversed(tape):
        g = found[nodes[e]]
        if hasattr(g, "shape"):
            shapes[e] = g.shape
            dtypes.add(g.dtype)
        ledger = Ledger()
        with metering(ledger):
            pull([nodes[e]], found, wanted=wanted)
        work[e] = ledger.total("forward").flops
    shapes |= {n: g.shape for n, g in found.items() if hasattr(g, "shape")}
    return shapes, work, dtypes
