"""A tape as a chain, cut where everything passes through one value; and the Jacobian of a chain, step by step."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
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

__all__ = ["Link", "Route", "route_of"]

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Link:
    """A stretch of tape from one value to another, with nothing that passes by.

    Attributes:
        start, stop: Where its equations stand on the tape; the last one makes its value.
        before, after: The shapes of the values.
        work: Multiply-adds of a VJP.
        is_explicit: Whether its Jacobian is had by writing it: it is one dense op of a vector.
    """

    start: int
    stop: int
    before: Shape
    after: Shape
    work: int
    is_explicit: bool

    @property
    def size(self) -> tuple[int, int]:
        """How many numbers come out and go in."""
        return prod(self.after), prod(self.before)


@dataclass(frozen=True, slots=True)
class Step:
    """One matrix of a plan, made from those on a stack.

    Attributes:
        segment: The part of the plan whose Jacobian it is.
        way: "product" of two matrices, "written" of an explicit link, or "pull" or "push" of rows or columns.
        along: What is written, or walked along: explicit links, and stretches between them; the innermost first.
        shape: Of each vector that is walked.
        count, length: How many vectors there are, and how many numbers each has when it arrives.
        takes: Whether the vectors are those of a matrix; else they are unit vectors.
        chunk: How many are walked at once.
    """

    segment: Segment
    way: str
    along: tuple[Link, ...] = ()
    shape: Shape = ()
    count: int = 0
    length: int = 0
    takes: bool = False
    chunk: int = 0


@dataclass(frozen=True, slots=True)
class Route:
    """A plan of a chain, and how it is carried out within a limit of memory.

    Attributes:
        links: The chain, that one first which begins at the argument.
        plan: The plan.
        steps: The same, step by step.
        dtype: That of all matrices.
        flops, nbytes: What it does, and the most bytes of arrays that live at once.
    """

    links: tuple[Link, ...]
    plan: ChainPlan
    steps: tuple[Step, ...]
    dtype: Any
    flops: int
    nbytes: int

    def execute(self, tape: Sequence[Equation], end: Any, like: Any) -> Any:
        """The Jacobian, (outputs, inputs), as a raw array of the class and device of `like`.

        Args:
            tape: Equations that lead from the node `end` to the value.
        """
        return _Execution(tape, end, like, self.dtype, lambda step, walk: step.chunk).matrix(self.steps)


# --- carrying it out --------------------------------------------------------------------------------------------------


def _steps_of(plan: Segment, links: Sequence[Link]) -> Iterator[Step]:
    """A plan in order: each part before what is made of it."""
    waiting = [(plan, False)]
    while waiting:
        segment, ready = waiting.pop()
        if not ready:
            waiting.append((segment, True))
            waiting.extend((part, False) for part in reversed(segment.parts))
            continue
        if segment.way == "product":
            yield Step(segment, "product")
            continue
        along = _stretches(links[k] for k in segment.swept or [segment.first])
        m, n = along[-1].size[0], along[0].size[1]
        if segment.way == "elementary" and along[0].is_explicit:
            yield Step(segment, "written", along)
        elif segment.way == "adjoint" or (segment.way == "elementary" and m <= n):
            count = m if segment.outer is None else segment.outer.size // m
            yield Step(segment, "pull", along, along[-1].after, count, n, segment.outer is not None, count)
        else:
            count = n if segment.inner is None else segment.inner.size // n
            yield Step(segment, "push", along, along[0].before, count, m, segment.inner is not None, count)


def _stretches(links: Iterable[Link]) -> tuple[Link, ...]:
    """Links of a chain, those that are not explicit joined to their neighbours of that kind."""
    found: list[Link] = []
    for link in links:
        if found and not found[-1].is_explicit and not link.is_explicit:
            before = found.pop()
            link = replace(link, start=before.start, before=before.before, work=before.work + link.work)
        found.append(link)
    return tuple(found)


Walk = Callable[[int], Any]  # how many of the first vectors -> where they arrive


class _Execution:
    """Steps carried out along a tape.

    Args:
        tape, end: Equations that lead from the node `end` to the value.
        like: A raw array of the class and device of all matrices.
        chunk_of: How many vectors of a step are walked at once.
    """

    def __init__(
        self, tape: Sequence[Equation], end: Any, like: Any, dtype: Any, chunk_of: Callable[[Step, Walk], int]
    ) -> None:
        self.tape, self.end, self.dtype, self.chunk_of = tape, end, dtype, chunk_of
        self.xp, self.ops = BACKENDS[like.__class__].beside(like), ARRAYS[like.__class__]
        self.ones: dict[Shape, Any] = {}

    def matrix(self, steps: Sequence[Step]) -> Any:
        """The matrix that the last step makes."""
        stack: list[Any] = []
        for step in steps:
            if step.way == "product":
                _multiply(stack, step.segment.outer_first)
            elif step.way == "written":
                stack.append(self._written(step.along[0]))
            else:
                matrix = stack.pop() if step.takes else None
                stack.append(self._walked(step, matrix))
                matrix = None  # it would live on until the next walk
        return stack.pop()

    def _factors(self, link: Link) -> tuple[Any, Any]:
        """(scale, matrix) of an explicit link: its Jacobian is diag(scale) matrix, without a scale the matrix."""
        e, g = self.tape[link.start], None
        if e.op.bound_first is not None:
            g = self.ones.get(link.after)
            if g is None:
                g = self.ones[link.after] = self.xp.ones(link.after, dtype=self.dtype)
            g = e.op.bound_first(self.ops, g, [e] + [None] * (len(e.parents) - 1), e.saved)
        scale, matrix = e.op.bound_jacobian(self.ops, g, 0, e.saved)  # type: ignore[misc]
        return scale if scale is None or scale.ndim == 1 else self.xp.reshape(scale, (-1,)), matrix

    def _written(self, link: Link) -> Any:
        """The Jacobian of an explicit link."""
        scale, matrix = self._factors(link)
        if scale is None:
            return self.xp.asarray(matrix, copy=True)
        return self.xp.reshape(scale, (-1, 1)) * matrix

    def _walked(self, step: Step, matrix: Any) -> Any:
        """Rows of a matrix pulled along a stretch, or its columns pushed; None stands for unit vectors."""
        xp, pulls, count, length = self.xp, step.way == "pull", step.count, step.length
        given = matrix if pulls or matrix is None else matrix.mT
        stretch = [(link, self._factors(link) if link.is_explicit else None) for link in step.along]
        if pulls:
            stretch.reverse()

        def walk(start: int, stop: int) -> Any:
            if given is None:
                vectors = units(xp.zeros(step.shape, dtype=self.dtype), start, stop - start)
            else:
                vectors = given if stop - start == count else given[start:stop, :]
            for link, factors in stretch:
                if factors is None:
                    vectors = self._through(link, vectors, pulls)
                else:
                    vectors = _scaled_product(self._as_rows(vectors), *factors, pulls)
            return self._as_rows(vectors)

        chunk = self.chunk_of(step, lambda size: walk(0, size))
        if chunk >= count:
            out = walk(0, count)
        else:
            out = xp.empty((count, length), dtype=self.dtype)
            for start in range(0, count, chunk):
                stop = min(start + chunk, count)
                out = xp.scatter_set(out, slice(start, stop), walk(start, stop))
        return out if pulls else out.mT

    def _through(self, link: Link, vectors: Any, pulls: bool) -> Any:
        """Vectors walked along equations."""
        part, before = self.tape[link.start : link.stop], self.tape[link.start - 1] if link.start else self.end
        vectors = self.xp.reshape(vectors, (vectors.shape[0], *(link.after if pulls else link.before)))
        if pulls:
            return rows_of(part, part[-1], before, vectors, {before, *part})
        return columns_of(part, before, part[-1], vectors)

    def _as_rows(self, vectors: Any) -> Any:
        """Vectors of any shape, as the rows of a matrix."""
        if vectors.ndim == 2:
            return vectors
        return self.xp.reshape(vectors, (vectors.shape[0], prod(vectors.shape[1:])))


def _multiply(stack: list[Any], outer_first: bool) -> None:
    """The product of the two matrices on top of the stack, in their place."""
    second, first = stack.pop(), stack.pop()
    stack.append(first @ second if outer_first else second @ first)


def _scaled_product(vectors: Any, scale: Any, matrix: Any, pulls: bool) -> Any:
    """Rows pulled, or pushed, through diag(scale) matrix."""
    if pulls:
        return (vectors if scale is None else vectors * scale) @ matrix
    pushed = vectors @ matrix.mT
    return pushed if scale is None else pushed * scale


# --- planning ---------------------------------------------------------------------------------------------------------


def route_of(tape: Sequence[Equation], end: Any, out: Any, like: Any, limit: int | None) -> Route | None:
    """The plan of fewest operations from the node `end` to the tensor `out` whose arrays stay within `limit` bytes; if
    there is none, that of least memory. None where the tape is no chain.

    Args:
        tape: Equations that lead from the one to the other, oldest first.
        like: The raw array of the argument.
    """
    links = _links_of(tape, end, out)
    if links is None:
        return None
    double, like = twin(tape)[0], backend_for("meta").asarray(like)
    factors = [(*link.size, link.work) for link in links]
    elementary = [m * n if link.is_explicit else work * min(m, n)
                  for link, (m, n, work) in zip(links, factors, strict=True)]  # fmt: skip

    def carried_out(plan: ChainPlan) -> Route:
        return _carried_out(links, plan, double, end, like, out.dtype, limit)

    if limit is None:
        return carried_out(cheapest(factors, elementary))
    least, itemsize = factors[-1][0] * factors[0][1], like.dtype.itemsize
    numbers = limit // itemsize
    while True:
        found = carried_out(cheapest(factors, elementary, max(numbers, least)))
        if found.nbytes <= limit or numbers <= least:
            return found
        numbers = min(numbers, found.plan.peak) - -(-(found.nbytes - limit) // itemsize)


def _carried_out(
    links: tuple[Link, ...], plan: ChainPlan, double: Sequence[Equation], end: Any, like: Any, dtype: Any,
    limit: int | None,
) -> Route:  # fmt: skip
    """A plan carried out without numbers: as many vectors are walked at once as the limit allows."""
    ledger, chunks = Ledger(), {}

    def fitting(step: Step, walk: Walk) -> int:
        chunk = step.count
        while limit is not None and chunk > 1:
            alone = Ledger()
            with metering(alone):
                walk(chunk)
            result = step.count * step.length * like.dtype.itemsize if chunk < step.count else 0
            if ledger.live + alone.peaks["forward"] + result <= limit:
                break
            chunk = -(-chunk // 2)
        chunks[id(step)] = chunk
        return chunk

    steps = tuple(_steps_of(plan.plan, links))
    with metering(ledger):
        _Execution(double, end, like, dtype, fitting).matrix(steps)
    steps = tuple(replace(step, chunk=chunks.get(id(step), 0)) for step in steps)
    return Route(links, plan, steps, dtype, ledger.total("forward").flops, ledger.peaks["forward"])


def _links_of(tape: Sequence[Equation], end: Any, out: Any) -> tuple[Link, ...] | None:
    """A tape cut into links, the argument first.

    None where it has no equation, values of two dtypes, or a function that is mapped: it has a value for each example.
    """
    if not tape or out.node is not tape[-1] or any(isinstance(x, Frame) for e in tape for x in e.saved):
        return None
    shapes, work, dtypes = _booked(tape, out)
    if len(dtypes) > 1:
        return None
    last = {n: i for i, e in enumerate(tape) for n in e.parents}
    reach, before, start = last[end], end, 0
    found = []
    for i, e in enumerate(tape):
        passes_by = i < len(tape) - 1 and (reach > i or e not in shapes)
        reach = max(reach, last.get(e, i))
        if not passes_by:
            part = tape[start : i + 1]
            flops = sum(work[x] for x in part)
            explicit = _is_explicit(part, before, shapes)
            found.append(Link(start, i + 1, shapes[before], shapes[e], -(-flops // 2), explicit))
            start, before = i + 1, e
    return tuple(found)


def _is_explicit(part: Sequence[Equation], before: Any, shapes: dict[Any, Shape]) -> bool:
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


def _booked(tape: Sequence[Equation], out: Any) -> tuple[dict[Any, Shape], dict[Any, int], set[Any]]:
    """Shapes of the values that a chain may be cut at, operations of each equation's VJP, and the dtypes of cotangents.

    Of an op of several outputs there is no one value.
    """
    pairs, nodes = twin(tape)
    wanted = {*nodes.values(), *(n for e in pairs for n in e.parents if n is not None)}
    meta = backend_for("meta").xp
    found = {nodes[out.node]: meta.zeros(out.shape, dtype=out.dtype)}
    shapes: dict[Any, Shape] = {}
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
