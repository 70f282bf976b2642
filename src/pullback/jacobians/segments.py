"""A tape as a chain: cut where everything passes through one value."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from ..backends import BACKENDS, backend_for
from ..backends.batched.array import Frame
from ..backends.meta.metering import metering
from ..core.op import ARRAYS
from ..core.tape import Equation, pull
from ..costs.ledger import Ledger
from ..transforms.chain import ChainPlan, Segment, cheapest
from .walks import columns_of, rows_of, twin, units

__all__ = ["Chain", "Cuts", "Link", "Route", "chain_of", "cuts_of", "route_of"]


ChunkOf = Callable[[Segment, int, int, Callable[[int, int], Any]], int]
"""(segment, how many vectors, numbers of each when it arrives, walk from one to another) -> how many at once."""
Cuts = tuple[tuple[int, tuple[int, ...], int, bool], ...]  # where links end, the shape there, work, is_explicit


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

    def execute(self, plan: Segment, like: Any, chunk_of: ChunkOf | None = None) -> Any:
        """The Jacobian of a plan, (outputs, inputs), as a raw array of the class and device of `like`.

        Args:
            chunk_of: Tells how many rows or columns of a sweep are walked at once; None: all of them.
        """
        done: dict[int, Any] = {}
        waiting = [plan]
        while waiting:
            segment = waiting[-1]
            missing = [part for part in segment.parts if id(part) not in done]
            if missing:
                waiting.append(missing[0])
                continue
            waiting.pop()
            outer, inner = (done.pop(id(part), None) for part in (segment.outer, segment.inner))
            if segment.way == "product":
                done[id(segment)] = outer @ inner
            elif segment.way == "elementary" and self.links[segment.first].is_explicit:
                done[id(segment)] = self._written(self.links[segment.first], like)
            else:
                done[id(segment)] = self._swept(segment, outer, inner, like, chunk_of)
        return done[id(plan)]

    def _written(self, link: Link, like: Any) -> Any:
        """The Jacobian of a link that is explicit."""
        (e,), ops = link.tape, ARRAYS[like.__class__]
        g = BACKENDS[like.__class__].beside(like).ones(link.shape_after, dtype=self.dtype)
        if e.op.bound_first is not None:
            g = e.op.bound_first(ops, g, [e, *(None for _ in e.parents[1:])], e.saved)
        return e.op.bound_jacobian(ops, g, 0, e.saved)  # type: ignore[misc]

    def _swept(self, segment: Segment, outer: Any, inner: Any, like: Any, chunk_of: ChunkOf | None) -> Any:
        """Rows of `outer` pulled, or columns of `inner` pushed, through functions; None stands for unit vectors."""
        xp = BACKENDS[like.__class__].beside(like)
        links = [self.links[k] for k in segment.swept] or [self.links[segment.first]]
        m, n = links[-1].size[0], links[0].size[1]
        pulls = segment.way == "adjoint" or (segment.way == "elementary" and m <= n)
        tape, before, after = [e for link in links for e in link.tape], links[0].before, links[-1].after
        shape, length = (links[-1].shape_after, n) if pulls else (links[0].shape_before, m)
        matrix = outer if pulls or inner is None else inner.mT
        count = prod(shape) if matrix is None else matrix.shape[0]

        def walk(start: int, stop: int) -> Any:
            if matrix is None:
                vectors = units(xp.zeros(shape, dtype=self.dtype), start, stop - start)
            else:
                rows = matrix if stop - start == count else matrix[start:stop, :]
                vectors = xp.reshape(rows, (stop - start, *shape))
            if pulls:
                found = rows_of(tape, after, before, vectors, {before, *tape})
            else:
                found = columns_of(tape, before, after, vectors)
            return xp.reshape(found, (stop - start, length))

        chunk = count if chunk_of is None else chunk_of(segment, count, length, walk)
        if chunk >= count:
            out = walk(0, count)
        else:
            out = xp.empty((count, length), dtype=self.dtype)
            for start in range(0, count, chunk):
                stop = min(start + chunk, count)
                out = xp.scatter_set(out, slice(start, stop), walk(start, stop))
        return out if pulls else out.mT


@dataclass(frozen=True, slots=True)
class Route:
    """A plan of a chain within a limit of memory.

    Attributes:
        cuts: The chain: see `chain_of`.
        plan: The plan.
        chunks: For the first and last function of a segment that is swept, how many vectors are walked at once.
        flops, nbytes: What it does, and the most bytes of arrays that live at once.
    """

    cuts: Cuts
    plan: ChainPlan
    chunks: Mapping[tuple[int, int], int]
    flops: int
    nbytes: int

    def execute(self, chain: Chain, like: Any) -> Any:
        """The Jacobian, (outputs, inputs), as a raw array of the class and device of `like`."""
        return chain.execute(self.plan.plan, like, lambda segment, count, *_: self.chunks[segment.first, segment.last])


def route_of(cuts: Cuts, chain: Chain, like: Any, limit: int | None) -> Route:
    """The plan of fewest operations whose arrays stay within `limit` bytes; if there is none, that of least memory."""
    factors, elementary = chain.factors()
    double, like = chain.on_meta(), backend_for("meta").asarray(like)
    if limit is None:
        return _carried_out(cuts, cheapest(factors, elementary), double, like, None)
    least, itemsize = factors[-1][0] * factors[0][1], like.dtype.itemsize
    numbers = limit // itemsize
    while True:
        found = _carried_out(cuts, cheapest(factors, elementary, max(numbers, least)), double, like, limit)
        if found.nbytes <= limit or numbers <= least:
            return found
        numbers = min(numbers, found.plan.peak) - -(-(found.nbytes - limit) // itemsize)


def _carried_out(cuts: Cuts, plan: ChainPlan, double: Chain, like: Any, limit: int | None) -> Route:
    """A plan carried out without numbers: vectors are walked as many at once as the limit allows."""
    ledger, chunks = Ledger(), {}

    def fitting(segment: Segment, count: int, length: int, walk: Callable[[int, int], Any]) -> int:
        chunk = count
        while limit is not None and chunk > 1:
            alone = Ledger()
            with metering(alone):
                walk(0, chunk)
            result = count * length * double.dtype.itemsize if chunk < count else 0
            if ledger.live + alone.peaks["forward"] + result <= limit:
                break
            chunk = -(-chunk // 2)
        chunks[segment.first, segment.last] = chunk
        return chunk

    with metering(ledger):
        double.execute(plan.plan, like, fitting)
    return Route(cuts, plan, chunks, ledger.total("forward").flops, ledger.peaks["forward"])


def chain_of(tape: Sequence[Equation], end: Any, out: Any, cuts: Cuts) -> Chain:
    """The tape between the node `end` and the tensor `out` as a chain, cut as `cuts_of` says.

    Args:
        tape: Equations that lead from the one to the other, oldest first.
    """
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
