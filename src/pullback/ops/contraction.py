"""Einstein summation: subscripts and shapes make a plan, kept for the next call: other ops that contract pair by pair.

So a contraction runs as a matrix product wherever it is one, and the derivative of n operands costs about twice the
forward pass, not n times, because the intermediate products are shared.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain, combinations
from math import prod
from typing import Any

from ..core.define import Array, Sample, composite
from ..errors import ArgumentError, ShapeError

__all__ = ["einsum"]

Labels = tuple[str, ...]  # an index per axis: a letter, or "...k" for the k-th axis from the end under an ellipsis


def _samples(rng: Any) -> Any:
    cases: list[tuple[Any, ...]] = [
        ("ij,jk->ik", (2, 3), (3, 4)),
        ("ij,kj", (2, 3), (4, 3)),
        ("bij,bkj->bki", (2, 3, 4), (2, 1, 4)),
        ("ij->ji", (2, 3)),
        ("ij->j", (2, 3)),
        ("ii", (3, 3)),
        ("iij->ji", (3, 3, 2)),
        ("...ij,...j->...i", (4, 2, 3), (3,)),
        ("i...,i...->...", (3, 1, 2), (3, 4, 2)),
        ("i,j,k->kij", (2,), (3,), (2,)),
        ("ab,bc,cd,d->a", (2, 3), (3, 4), (4, 2), (2,)),
        ("ij,kl->", (2, 3), (3, 2)),
        ("ii,ij,jj->i", (2, 2), (2, 3), (3, 3)),
        ("ij,ij->ij", (1, 3), (2, 3)),
        ("ij,jk->ik", (0, 3), (3, 2)),
    ]
    for subscripts, *shapes in cases:
        yield Sample((subscripts, *(rng.normal(size=shape) for shape in shapes)))


@composite(samples=_samples)
def einsum(xp: Any, subscripts: str, *operands: Array) -> Any:
    """The sum of products of `operands` that `subscripts` describes (Einstein's convention).

    Args:
        subscripts: A letter per axis, operands separated by commas: "ij,jk->ik" is the matrix product. An index that is
            missing after the arrow is summed over; a repeated index in one operand takes its diagonal ("ii->i"); "..."
            stands for any further axes, which broadcast. Without an arrow the output holds the axes of the ellipsis and
            then, in alphabetical order, every index that occurs once.
        operands: Any number of arrays. An axis of length 1 broadcasts against the same index of another operand.

    Shapes: as named after the arrow.

    Raises:
        ArgumentError: the subscripts cannot be read, or name another number of operands. ShapeError: an operand has
        other axes than its subscripts name, or one index has two lengths.
    """
    if not isinstance(subscripts, str):
        raise ArgumentError(f"the first argument is the text of subscripts, such as 'ij,jk->ik'; got {subscripts!r}")
    for i, x in enumerate(operands):
        if not hasattr(x, "shape"):
            raise ArgumentError(f"subscripts {subscripts!r}: operand {i} is an array; got {x!r}")
    values = list(operands)
    for name, slots, params in _plan(subscripts, tuple([tuple(x.shape) for x in operands])):
        values.append(getattr(xp, name)(*[values[slot] for slot in slots], *params))
    return values[-1]


# --- reading ----------------------------------------------------------------------------------------------------------


def _read(subscripts: str, ranks: tuple[int, ...]) -> tuple[tuple[Labels, ...], Labels]:
    """The indices of each operand's axes, and those of the output."""

    def refused(why: str) -> ArgumentError:
        return ArgumentError(f"subscripts {subscripts!r}: {why}")

    given, arrow, wanted = subscripts.replace(" ", "").partition("->")
    names = given.split(",")
    if len(names) != len(ranks):
        raise refused(f"the subscripts name {len(names)} operands, {len(ranks)} were given")
    split = [name.partition("...") for name in (*names, wanted)]
    for name, (head, _, tail) in zip((*names, wanted), split, strict=True):
        letters = head + tail
        if letters and not (letters.isascii() and letters.isalpha()):
            raise refused(f"{name!r} is not made of letters and at most one '...'")
    widths = []
    for i, (name, rank) in enumerate(zip(names, ranks, strict=True)):
        head, dots, tail = split[i]
        width = rank - len(head + tail)
        if width < 0 or (width and not dots):
            raise ShapeError(
                f"subscripts {subscripts!r}: operand {i} has {rank} axes, its subscripts {name!r} name "
                f"{'at least ' if dots else ''}{len(head + tail)}"
            )
        widths.append(width)

    def labels(head: str, dots: str, tail: str, width: int) -> Labels:
        return (*head, *(f"...{k}" for k in range(width if dots else 0, 0, -1)), *tail)

    terms = tuple(labels(*term, width) for term, width in zip(split, widths, strict=False))
    if not arrow:
        once = sorted(c for c in set(given) if c.isalpha() and given.count(c) == 1)
        return terms, labels("", "...", "".join(once), max(widths))
    output = labels(*split[-1], max(widths))
    if max(widths) and not split[-1][1]:
        raise refused(f"the output {wanted!r} needs '...' for the axes that broadcast")
    if len(set(output)) != len(output):
        raise refused(f"the output {wanted!r} names an index twice")
    if unknown := set(output) - set(chain(*terms)):
        raise refused(f"the output {wanted!r} names {', '.join(sorted(unknown))}, which no operand has")
    return terms, output


def _lengths(subscripts: str, terms: Sequence[Labels], shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
    """The length of every index; 1 broadcasts between operands."""
    lengths: dict[str, int] = {}
    for i, (labels, shape) in enumerate(zip(terms, shapes, strict=True)):
        for label, n in zip(labels, shape, strict=True):
            known = lengths.get(label, 1)
            own = {m for other, m in zip(labels, shape, strict=True) if other == label}
            if n != known and 1 not in (n, known):
                raise ShapeError(
                    f"subscripts {subscripts!r}: index {label[:3]} has length {n} in operand {i} {shape}, "
                    f"and {known} in an operand before it"
                )
            if len(own) > 1:
                raise ShapeError(
                    f"subscripts {subscripts!r}: index {label} is repeated in operand {i} {shape} with lengths "
                    f"{' and '.join(map(str, sorted(own)))}; a diagonal needs equal ones"
                )
            lengths[label] = known if n == 1 else n
    return lengths


# --- planning ---------------------------------------------------------------------------------------------------------

Part = tuple[int, Labels]  # the slot of a value and the indices of its axes
Step = tuple[str, tuple[int, ...], tuple[Any, ...]]  # an op, the slots of its inputs, its parameters


@lru_cache(maxsize=1024)
def _plan(subscripts: str, shapes: tuple[tuple[int, ...], ...]) -> tuple[Step, ...]:
    """The ops to run, in order. Operands have the first slots, each value gets the next; the last is the result."""
    terms, output = _read(subscripts, tuple(len(shape) for shape in shapes))
    plan = _Plan(_lengths(subscripts, terms, shapes), len(shapes), output)
    parts = [plan.without_repeats((i, labels), shapes[i]) for i, labels in enumerate(terms)]
    parts = [plan.summed(part, _needed(parts, output, i)) for i, part in enumerate(parts)]
    while len(parts) > 1:
        i, j = min(combinations(range(len(parts)), 2), key=lambda pair: plan.growth(parts, pair))
        right, left = parts.pop(j), parts.pop(i)
        parts.append(plan.contracted(left, right, _needed(parts, output)))
    plan.permuted(parts[0], output)
    return tuple(plan.steps or [("positive", (0,), ())])


def _needed(parts: Sequence[Part], output: Labels, *but: int) -> set[str]:
    """The indices of the output and of all parts but some."""
    return set(output).union(*(labels for k, (_, labels) in enumerate(parts) if k not in but))


class _Plan:
    """Steps so far, and what adds to them."""

    def __init__(self, lengths: dict[str, int], slots: int, output: Labels) -> None:
        self.lengths, self.slots, self.output = lengths, slots, output
        self.steps: list[Step] = []

    def add(self, name: str, slots: tuple[int, ...], *params: Any) -> int:
        """One more step; the slot of its value."""
        self.steps.append((name, slots, params))
        self.slots += 1
        return self.slots - 1

    def size(self, labels: Iterable[str]) -> int:
        """How many numbers the axes of `labels` span."""
        return prod(self.lengths[label] for label in labels)

    def permuted(self, part: Part, order: Labels) -> int:
        """A part with its axes in another order."""
        slot, labels = part
        if labels == order:
            return slot
        return self.add("permute_dims", (slot,), tuple(labels.index(label) for label in order))

    def without_repeats(self, part: Part, shape: tuple[int, ...]) -> Part:
        """The diagonal along repeated indices, without the axes that broadcast."""
        slot, labels = part
        length = dict(zip(labels, shape, strict=True))
        for label in dict.fromkeys(labels):
            while labels.count(label) > 1:
                first = labels.index(label)
                second = labels.index(label, first + 1)
                rest = tuple(k for k in range(len(labels)) if k not in (first, second))
                slot = self.add("diagonal", (self.add("permute_dims", (slot,), (*rest, first, second)),))
                labels = (*(labels[k] for k in rest), label)
        stays = tuple(label for label in labels if length[label] == self.lengths[label])
        if stays != labels:
            slot = self.add("reshape", (slot,), tuple(length[label] for label in stays))
        return slot, stays

    def summed(self, part: Part, needed: set[str]) -> Part:
        """A part summed over the indices that nothing else needs."""
        slot, labels = part
        axes = tuple(k for k, label in enumerate(labels) if label not in needed)
        return self.add("sum", (slot,), axes) if axes else slot, tuple(x for x in labels if x in needed)

    def growth(self, parts: Sequence[Part], pair: tuple[int, int]) -> tuple[int, int]:
        """How much larger the product of a pair is than its factors, then how many products it takes."""
        left, right = (set(parts[k][1]) for k in pair)
        made = (left | right) & _needed(parts, self.output, *pair)
        return self.size(made) - self.size(left) - self.size(right), self.size(left | right)

    def contracted(self, a: Part, b: Part, needed: set[str]) -> Part:
        """The product of two parts, summed over the indices that nothing else needs."""
        left, right = a[1], b[1]
        batch = tuple(x for x in left if x in right and x in needed)
        inner = tuple(x for x in left if x in right and x not in needed)
        rows = tuple(x for x in left if x not in right)
        columns = tuple(x for x in right if x not in left)
        labels = (*batch, *rows, *columns)
        if not inner:
            labels = (*(x for x in self.output if x in labels), *(x for x in labels if x not in self.output))
            return self.add("multiply", (self.spread(a, labels), self.spread(b, labels))), labels
        if not rows and not columns:
            return self.add("vecdot", (self.joined(a, batch, inner), self.joined(b, batch, inner))), labels
        slot = self.add("matmul", (self.joined(a, batch, rows, inner), self.joined(b, batch, inner, columns)))
        if len(rows) != 1 or len(columns) != 1:
            slot = self.add("reshape", (slot,), tuple(self.lengths[x] for x in labels))
        return slot, labels

    def spread(self, part: Part, order: Labels) -> int:
        """A part with its axes in another order and an axis of length 1 for every index that it lacks."""
        slot = self.permuted(part, tuple(x for x in order if x in part[1]))
        if len(part[1]) == len(order):
            return slot
        return self.add("reshape", (slot,), tuple(self.lengths[x] if x in part[1] else 1 for x in order))

    def joined(self, part: Part, batch: Labels, *groups: Labels) -> int:
        """A part with its axes in the order of batch and groups, each group joined to one axis."""
        slot = self.permuted(part, (*batch, *chain(*groups)))
        if all(len(group) == 1 for group in groups):
            return slot
        return self.add("reshape", (slot,), (*(self.lengths[x] for x in batch), *map(self.size, groups)))
