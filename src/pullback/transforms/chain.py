"""The cheapest way to the Jacobian of a chain of functions, from sizes alone.

For a chain F = f[q-1] ∘ ... ∘ f[0] the Jacobian of a segment i..j is had in one of four ways: as an elementary Jacobian
(one function), as the product of those of two parts, by sweeping the rows of the outer part backwards through the inner
one (adjoint), or by sweeping the columns of the inner part forwards through the outer one (tangent). Every part is a
segment of the same kind, so dynamic programming over all segments finds the optimum in O(q^3) steps: A. Griewank and
U. Naumann, "Accumulating Jacobians as chained sparse matrix products" (2003); U. Naumann, "A matrix-free exact Newton
method" (2024), for the two sweeps.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ArgumentError, ShapeError

__all__ = ["ChainPlan", "Segment", "chain_plan", "cheapest"]


@dataclass(frozen=True, slots=True)
class Segment:
    """How the Jacobian of the functions `first` to `last` is made.

    Attributes:
        way: "elementary", "product", "adjoint" or "tangent".
        outer, inner: The parts whose Jacobians are made before; the part that is swept through, and the parts of an
            elementary Jacobian, are None.
        split: The last function of the inner part.
        cost: Multiply-adds, those of the parts included.
    """

    first: int
    last: int
    way: str
    cost: int
    split: int = -1
    outer: "Segment | None" = None
    inner: "Segment | None" = None

    def __str__(self) -> str:
        """The bracketing, outermost function first: `*` is a product, `<` an adjoint sweep, `>` a tangent sweep."""
        return "".join(_pieces(self))


@dataclass(frozen=True, slots=True)
class ChainPlan:
    """What the Jacobian of a chain costs, in multiply-adds.

    Attributes:
        optimum: The least.
        tangent: By sweeping all columns forwards through the chain.
        adjoint: By sweeping all rows backwards.
        preaccumulation: By the elementary Jacobians, multiplied in their best order.
        plan: The segments of an optimum.
    """

    optimum: int
    tangent: int
    adjoint: int
    preaccumulation: int
    plan: Segment

    @property
    def bracketing(self) -> str:
        """The optimum as text: `J3` is an elementary Jacobian, `(A * B)` a product, `(A < f1 f0)` rows of A swept
        backwards through f1 and f0, `(f3 f2 > B)` columns of B swept forwards through f2 and f3."""
        return str(self.plan)


def chain_plan(factors: Iterable[Sequence[int]]) -> ChainPlan:
    """The cheapest Jacobian of a chain of functions.

    Args:
        factors: For each function (m, n, tape): how many outputs and inputs it has, and the multiply-adds of one
            tangent or adjoint sweep over its tape; the innermost first.

    An elementary Jacobian costs `tape * min(m, n)`, a dense product of m x k and k x n matrices `m * k * n`, a sweep of
    r rows or columns through a segment r times the sum of its tapes. Numbers are exact at any size; 500 functions take
    seconds.

    Raises:
        ArgumentError: there is no factor, or one is not three whole numbers. ShapeError: the outputs of one are not the
        inputs of the next.
    """
    checked = _checked(factors)
    return cheapest(checked, [tape * min(m, n) for m, n, tape in checked])


def cheapest(factors: Sequence[tuple[int, int, int]], elementary: Sequence[int]) -> ChainPlan:
    """The plan of a chain whose elementary Jacobians cost what is given; the rest is as in `chain_plan`."""
    rows, columns, tapes = ([factor[i] for factor in factors] for i in range(3))
    best, choices = _solved(rows, columns, tapes, elementary, sweeps=True)
    dense, _ = _solved(rows, columns, tapes, elementary, sweeps=False)
    last = len(factors) - 1
    return ChainPlan(
        optimum=int(best[0][last]),
        tangent=columns[0] * sum(tapes),
        adjoint=rows[-1] * sum(tapes),
        preaccumulation=int(dense[0][last]),
        plan=_segment(0, last, best, choices),
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
    q = len(rows)
    before = [0]
    for tape in tapes:
        before.append(before[-1] + tape)
    # every candidate is below this; numbers of 64 bits take a fifth of the time of Python's, where they hold it
    longest = max(*rows, *columns)
    bound = q * (max(elementary) + longest**3 + longest * before[-1])
    kind: Any = np.int64 if bound < 2**62 else object
    m, e, s = (np.array(values, kind) for values in (rows, elementary, before))
    by_first = [np.zeros(q, kind) for _ in range(q)]  # [i][j]: of i..j
    by_last = [np.zeros(q, kind) for _ in range(q)]  # [j][i]
    choices: dict[tuple[int, int], tuple[str, int]] = {}
    for i in range(q):
        by_first[i][i] = by_last[i][i] = e[i]
    for length in range(1, q):
        for i in range(q - length):
            j = i + length
            inner, outer = by_first[i][i:j], by_last[j][i + 1 : j + 1]  # of i..k and k+1..j, for k from i to j - 1
            candidates = [inner + outer + m[i:j] * (rows[j] * columns[i])]
            if sweeps:
                candidates.append(outer + rows[j] * (s[i + 1 : j + 1] - before[i]))
                candidates.append(inner + columns[i] * (before[j + 1] - s[i + 1 : j + 1]))
            places = [int(candidate.argmin()) for candidate in candidates]
            if sweeps:
                places[1] = length - 1 - int(candidates[1][::-1].argmin())  # of equals the longest sweep
            costs = [candidate[place] for candidate, place in zip(candidates, places, strict=True)]
            way = min(reversed(range(len(costs))), key=costs.__getitem__)  # of equals a sweep: it needs least memory
            by_first[i][j] = by_last[j][i] = costs[way]
            choices[i, j] = _WAYS[way], i + places[way]
    return by_first, choices


def _segment(first: int, last: int, best: _Table, choices: dict[tuple[int, int], tuple[str, int]]) -> Segment:
    """The plan of a segment; a chain of hundreds nests deeper than Python's stack, so parts wait in a list."""
    made: dict[tuple[int, int], Segment] = {}
    waiting = [(first, last)]
    while waiting:
        i, j = waiting[-1]
        if i == j:
            made[i, j] = Segment(i, j, "elementary", int(best[i][j]))
            waiting.pop()
            continue
        way, k = choices[i, j]
        parts = [part for part, swept in (((k + 1, j), "tangent"), ((i, k), "adjoint")) if way != swept]
        missing = [part for part in parts if part not in made]
        waiting.extend(missing)
        if not missing:
            outer, inner = made.get((k + 1, j)), made.get((i, k))
            made[i, j] = Segment(
                i, j, way, int(best[i][j]), k, None if way == "tangent" else outer, None if way == "adjoint" else inner
            )
            waiting.pop()
    return made[first, last]


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
            swept = " ".join(f"f{k}" for k in range(*_swept(part)))
            left: Segment | str = part.outer if part.outer is not None else swept
            right: Segment | str = part.inner if part.inner is not None else swept
            sign = {"product": " * ", "adjoint": " < ", "tangent": " > "}[part.way]
            waiting.extend([")", right, sign, left, "("])
    return out


def _swept(segment: Segment) -> tuple[int, int, int]:
    """The functions that are swept through, from the outermost on, as the arguments of a range."""
    if segment.way == "adjoint":
        return segment.split, segment.first - 1, -1
    return segment.last, segment.split, -1
