"""The cheapest way to the Jacobian of a chain of functions, from sizes alone.

For a chain F = f[q-1] ∘ ... ∘ f[0] the Jacobian of a segment i..j is had in one of four ways: as an elementary Jacobian
(one function), as the product of those of two parts, by sweeping the rows of the outer part backwards through the inner
one (adjoint), or by sweeping the columns of the inner part forwards through the outer one (tangent). Every part is a
segment of the same kind, so dynamic programming over all segments finds the optimum in O(q^3) steps: A. Griewank and
U. Naumann, "Accumulating Jacobians as chained sparse matrix products" (2003); U. Naumann, "A matrix-free exact Newton
method" (2024), for the two sweeps.

Within a limit of memory the cheapest way to a part may be one that holds too much while another part waits. So a part
keeps all ways of which none is both cheaper and smaller than another (R. Bellman's principle, for two costs at once).
Beside the four there is then a fifth and a sixth way: to sweep unit rows or columns through the whole segment, a few at
a time; it is never the cheapest, and holds nothing but the result.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from ..errors import ArgumentError, DeviceMemoryError, ShapeError

__all__ = ["ChainPlan", "Segment", "chain_plan", "cheapest"]


@dataclass(frozen=True, slots=True)
class Segment:
    """How the Jacobian of the functions `first` to `last` is made.

    Attributes:
        way: "elementary", "product", "adjoint" or "tangent".
        size: How many numbers that Jacobian has.
        cost: Multiply-adds, those of the parts included.
        peak: The most numbers that matrices hold at once while it is made, those of the result included; the few rows
            or columns that are on their way through a sweep are not.
        split: The last function of the inner part.
        outer, inner: The parts whose Jacobians are made before. A part that is swept through is None; where both are,
            unit rows ("adjoint") or columns ("tangent") are swept through all functions of the segment.
        outer_first: Whether the outer part is made before the inner one.
    """

    first: int
    last: int
    way: str
    size: int
    cost: int
    peak: int
    split: int = -1
    outer: "Segment | None" = None
    inner: "Segment | None" = None
    outer_first: bool = False

    @property
    def parts(self) -> list["Segment"]:
        """The parts whose Jacobians are made before, in order."""
        order = (self.outer, self.inner) if self.outer_first else (self.inner, self.outer)
        return [part for part in order if part is not None]

    @property
    def swept(self) -> range:
        """The functions that are swept through, the innermost first."""
        if self.way == "adjoint":
            return range(self.first, self.split + 1)
        return range(self.split + 1, self.last + 1) if self.way == "tangent" else range(0)

    def __str__(self) -> str:
        """The bracketing, outermost function first: `*` is a product, `<` an adjoint sweep, `>` a tangent sweep."""
        return "".join(_pieces(self))


@dataclass(frozen=True, slots=True)
class ChainPlan:
    """What the Jacobian of a chain costs, in multiply-adds.

    Attributes:
        optimum: The least, of what stays within the limit of memory.
        tangent: By sweeping all columns forwards through the chain.
        adjoint: By sweeping all rows backwards.
        preaccumulation: By the elementary Jacobians, multiplied in their best order.
        peak: The most numbers that matrices of an optimum hold at once.
        plan: The segments of an optimum.
    """

    optimum: int
    tangent: int
    adjoint: int
    preaccumulation: int
    peak: int
    plan: Segment

    @property
    def bracketing(self) -> str:
        """The optimum as text: `J3` is an elementary Jacobian, `(A * B)` a product, `(A < f1 f0)` rows of A swept
        backwards through f1 and f0, `(f3 f2 > B)` columns of B swept forwards through f2 and f3; `1` stands for unit
        rows or columns."""
        return str(self.plan)


def chain_plan(factors: Iterable[Sequence[int]], memory_limit: int | None = None) -> ChainPlan:
    """The cheapest Jacobian of a chain of functions.

    Args:
        factors: For each function (m, n, tape): how many outputs and inputs it has, and the multiply-adds of one
            tangent or adjoint sweep over its tape; the innermost first.
        memory_limit: The most numbers that matrices may hold at once: elementary Jacobians, products, and what sweeps
            begin and end with. None: no limit.

    An elementary Jacobian costs `tape * min(m, n)`, a dense product of m x k and k x n matrices `m * k * n`, a sweep of
    r rows or columns through a segment r times the sum of its tapes. Numbers are exact at any size; 500 functions take
    seconds. A limit that the cheapest plan does not keep takes longer: 100 functions some 15 seconds.

    Raises:
        ArgumentError: there is no factor, or one is not three whole numbers, or the limit is no whole number.
        ShapeError: the outputs of one are not the inputs of the next. DeviceMemoryError: the Jacobian itself is larger
        than the limit; within any other there is a plan.
    """
    checked = _checked(factors)
    if memory_limit is not None:
        if not hasattr(memory_limit, "__index__"):
            raise ArgumentError(f"chain_plan: memory_limit is a whole number, or None; got {memory_limit!r}")
        least = checked[-1][0] * checked[0][1]
        if memory_limit.__index__() < least:
            raise DeviceMemoryError(
                f"chain_plan: the Jacobian itself is {least:,} numbers, and memory_limit is {memory_limit:,}; raise it"
            )
    return cheapest(checked, [tape * min(m, n) for m, n, tape in checked], memory_limit)


def cheapest(
    factors: Sequence[tuple[int, int, int]], elementary: Sequence[int], memory_limit: int | None = None
) -> ChainPlan:
    """The plan of a chain whose elementary Jacobians cost what is given; the rest is as in `chain_plan`.

    The limit must not be smaller than the Jacobian.
    """
    rows, columns, tapes = ([factor[i] for factor in factors] for i in range(3))
    best, choices = _solved(rows, columns, tapes, elementary, sweeps=True)
    dense, _ = _solved(rows, columns, tapes, elementary, sweeps=False)
    last = len(factors) - 1
    plan = _segment(0, last, rows, columns, best, choices)
    if memory_limit is not None and plan.peak > memory_limit:
        plan = _within(memory_limit, rows, columns, tapes, elementary)
    return ChainPlan(
        optimum=plan.cost,
        tangent=columns[0] * sum(tapes),
        adjoint=rows[-1] * sum(tapes),
        preaccumulation=int(dense[0][last]),
        peak=plan.peak,
        plan=plan,
    )


def _checked(factors: Iterable[Sequence[int]]) -> list[tuple[int, int, int]]:
    found: list[tuple[int, int, int]] = []
    if not isinstance(factors, Iterable):
        raise ArgumentError(f"chain_plan: factors are (outputs, inputs, tape), one for each function; got {factors!r}")
    for i, factor in enumerate(factors):
        try:
            m, n, tape = (number.__index__() for number in factor)
        except (TypeError, ValueError, AttributeError):
            raise ArgumentError(
                f"chain_plan: factor {i} is (outputs, inputs, tape), three whole numbers; got {factor!r}"
            ) from None
        if m < 1 or n < 1 or tape < 0:
            raise ArgumentError(f"chain_plan: factor {i}: lengths are at least 1 and tapes at least 0; got {factor!r}")
        if found and found[-1][0] != n:
            raise ShapeError(f"chain_plan: factor {i} has {n} inputs, the one before it {found[-1][0]} outputs")
        found.append((m, n, tape))
    if not found:
        raise ArgumentError("chain_plan: give at least one factor (outputs, inputs, tape)")
    return found


_WAYS = ("product", "adjoint", "tangent")
_Table = list[Any]  # of segments: first function -> array by last function


def _solved(
    rows: Sequence[int], columns: Sequence[int], tapes: Sequence[int], elementary: Sequence[int], sweeps: bool
) -> tuple[_Table, dict[tuple[int, int], tuple[str, int]]]:
    """The least cost of every segment; and how its Jacobian is had: the way, the last function of the inner part."""
    q, before = len(rows), [0, *accumulate(tapes)]
    # every candidate is below this; numbers of 64 bits take a fifth of the time of Python's, where they hold it
    longest = max(*rows, *columns)
    bound = q * (max(elementary) + longest**3 + longest * before[-1])
    kind: Any = np.int64 if bound < 2**62 else object
    m, e, s = (np.array(values, kind) for values in (rows, elementary, before))
    by_first = [np.zeros(q, kind) for _ in range(q)]  # [i][j]: of i..j
    by_last = [np.zeros(q, kind) for _ in range(q)]  # [j][i]
    choices: dict[tuple[int, int], tuple[str, int]] = {}
    rough = _Rough(rows, columns, before, sweeps) if kind is object and bound < 10**300 else None
    for i in range(q):
        by_first[i][i] = by_last[i][i] = e[i]
        if rough is not None:
            rough.keep(i, i, elementary[i])
    for length in range(1, q):
        for i in range(q - length):
            j = i + length
            places = np.arange(i, j) if rough is None else rough.near(i, j)  # the last functions of the inner part
            inner, outer = by_first[i][places], by_last[j][places + 1]
            candidates = [inner + outer + m[places] * (rows[j] * columns[i])]
            if sweeps:
                candidates.append(outer + rows[j] * (s[places + 1] - before[i]))
                candidates.append(inner + columns[i] * (before[j + 1] - s[places + 1]))
            best = [int(candidate.argmin()) for candidate in candidates]
            if sweeps:
                best[1] = len(places) - 1 - int(candidates[1][::-1].argmin())  # of equals the longest sweep
            costs = [candidate[place] for candidate, place in zip(candidates, best, strict=True)]
            way = min(reversed(range(len(costs))), key=costs.__getitem__)  # of equals a sweep: it needs least memory
            by_first[i][j] = by_last[j][i] = costs[way]
            choices[i, j] = _WAYS[way], int(places[best[way]])
            if rough is not None:
                rough.keep(i, j, costs[way])
    return by_first, choices


class _Rough:
    """The same costs in floating point, each off by some rounding errors: they tell which places may be the best, so
    that Python's integers are added up for those alone."""

    def __init__(self, rows: Sequence[int], columns: Sequence[int], before: Sequence[int], sweeps: bool) -> None:
        q = len(rows)
        self._rows, self._columns, self._sweeps = np.array(rows, float), np.array(columns, float), sweeps
        self._first, self._last, self._work = np.zeros((q, q)), np.zeros((q, q)), np.zeros((q, q))
        for i in range(q):
            self._work[i, i:] = [float(end - before[i]) for end in before[i + 1 :]]  # no difference of rounded numbers

    def keep(self, i: int, j: int, cost: int) -> None:
        """The least cost of a segment."""
        self._first[i, j] = self._last[j, i] = float(cost)

    def near(self, i: int, j: int) -> Any:
        """The last functions of inner parts for which some way to the segment may cost least."""
        inner, outer = self._first[i, i:j], self._last[j, i + 1 : j + 1]
        least = inner + outer + self._rows[i:j] * (self._rows[j] * self._columns[i])
        if self._sweeps:
            least = np.minimum(least, outer + self._rows[j] * self._work[i, i:j])
            least = np.minimum(least, inner + self._columns[i] * self._work[i + 1 : j + 1, j])
        return i + np.flatnonzero(least <= least.min() * (1 + 1e-9))


def _segment(
    first: int, last: int, rows: Sequence[int], columns: Sequence[int], best: _Table,
    choices: dict[tuple[int, int], tuple[str, int]],
) -> Segment:  # fmt: skip
    """The plan of a segment; a chain of hundreds nests deeper than Python's stack, so parts wait in a list."""
    made: dict[tuple[int, int], Segment] = {}
    waiting = [(first, last)]
    while waiting:
        i, j = waiting[-1]
        size, cost = rows[j] * columns[i], int(best[i][j])
        if i == j:
            made[i, j] = Segment(i, j, "elementary", size, cost, size)
            waiting.pop()
            continue
        way, k = choices[i, j]
        parts = [part for part, swept in (((k + 1, j), "tangent"), ((i, k), "adjoint")) if way != swept]
        missing = [part for part in parts if part not in made]
        waiting.extend(missing)
        if not missing:
            outer = made[k + 1, j] if way != "tangent" else _SWEPT
            inner = made[i, k] if way != "adjoint" else _SWEPT
            made[i, j] = _joined(i, j, way, size, cost - outer.cost - inner.cost, k, outer, inner)
            waiting.pop()
    return made[first, last]


_SWEPT = Segment(-1, -1, "swept", 0, 0, 0)  # stands for a part that is swept through: nothing is made of it before


def _joined(
    first: int, last: int, way: str, size: int, own: int, split: int, outer: Segment, inner: Segment
) -> Segment:
    """A segment of two parts; `own` is what it costs without them. That part is first after which less is held."""
    ahead, behind = max(outer.peak, outer.size + inner.peak), max(inner.peak, inner.size + outer.peak)
    return Segment(
        first, last, way, size,
        cost=own + outer.cost + inner.cost,
        peak=max(min(ahead, behind), outer.size + inner.size + size),
        split=split,
        outer=None if outer is _SWEPT else outer,
        inner=None if inner is _SWEPT else inner,
        outer_first=ahead < behind,
    )  # fmt: skip


def _within(
    limit: int, rows: Sequence[int], columns: Sequence[int], tapes: Sequence[int], elementary: Sequence[int]
) -> Segment:
    """The cheapest plan that holds no more numbers than `limit`; the Jacobian itself fits."""
    q, before = len(rows), [0, *accumulate(tapes)]
    kept: dict[tuple[int, int], list[Segment]] = {}  # of each segment: ascending in cost, descending in peak

    def ways(i: int, j: int) -> Iterator[Segment]:
        """Plans of a segment whose parts have been planned; of any worth."""
        m, n = rows[j], columns[i]
        size, work = m * n, before[j + 1] - before[i]
        if i == j:
            yield Segment(i, i, "elementary", size, elementary[i], size)
            return
        most = min(m, n) * work
        yield _joined(i, j, *(("adjoint", size, most, j) if m <= n else ("tangent", size, most, i - 1)), _SWEPT, _SWEPT)
        for k in range(i, j):
            inside = before[k + 1] - before[i]
            for way, own, outers, inners in (
                ("adjoint", m * inside, kept[k + 1, j], [_SWEPT]),
                ("tangent", n * (work - inside), [_SWEPT], kept[i, k]),
                ("product", size * rows[k], kept[k + 1, j], kept[i, k]),
            ):
                for outer in outers:
                    for inner in inners:
                        if own + outer.cost + inner.cost >= most:  # what costs more than a sweep is no smaller
                            break
                        yield _joined(i, j, way, size, own, k, outer, inner)

    for length in range(q):
        for i in range(q - length):
            fits = rows[i + length] * columns[i] <= limit
            kept[i, i + length] = _front(way for way in ways(i, i + length) if way.peak <= limit) if fits else []
    return kept[0, q - 1][0]


def _front(segments: Iterable[Segment]) -> list[Segment]:
    """Those of which no other is as cheap and as small."""
    found: list[Segment] = []
    for segment in sorted(segments, key=lambda x: (x.cost, x.peak)):
        if not found or segment.peak < found[-1].peak:
            found.append(segment)
    return found


def _pieces(segment: Segment) -> list[str]:
    """The text of a bracketing in pieces, without recursion."""
    out: list[str] = []
    waiting: list[Segment | str] = [segment]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            out.append(part)
        elif part.way == "elementary":
            out.append(f"J{part.first}")
        else:
            swept = " ".join(f"f{k}" for k in reversed(part.swept))
            outer, inner = (swept, "1") if part.way == "tangent" else ("1", swept)
            sign = {"product": " * ", "adjoint": " < ", "tangent": " > "}[part.way]
            waiting.extend([")", part.inner or inner, sign, part.outer or outer, "("])
    return out
