"""Einstein summation: the subscripts are read once, then operands are contracted pair by pair with other ops.

So a contraction runs as a matrix product wherever it is one, and the derivative of n operands costs about twice the
forward pass, not n times, because the intermediate products are shared.
"""

from collections.abc import Sequence
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
    shapes = _shapes(subscripts, operands)
    terms, output = _read(subscripts, tuple(len(shape) for shape in shapes))
    lengths = _lengths(subscripts, terms, shapes)
    parts = [_without_repeats(xp, x, labels, lengths) for x, labels in zip(operands, terms, strict=True)]
    parts = [_summed(xp, *part, {*output, *_others(parts, i)}) for i, part in enumerate(parts)]
    while len(parts) > 1:
        i, j = _smallest(parts, output, lengths)
        right, left = parts.pop(j), parts.pop(i)
        parts.append(_contracted(xp, left, right, {*output, *_others(parts)}, output, lengths))
    x, labels = parts[0]
    if labels != output:
        return _permuted(xp, x, labels, output)
    return xp.positive(x) if x is operands[0] else x


# --- reading ----------------------------------------------------------------------------------------------------------


def _shapes(subscripts: Any, operands: Sequence[Any]) -> list[tuple[int, ...]]:
    if not isinstance(subscripts, str):
        raise ArgumentError(f"the first argument is the text of subscripts, as 'ij,jk->ik'; got {subscripts!r}")
    for i, x in enumerate(operands):
        if not hasattr(x, "shape"):
            raise ArgumentError(f"subscripts {subscripts!r}: operand {i} is an array; got {x!r}")
    return [tuple(x.shape) for x in operands]


@lru_cache(maxsize=1024)
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


# --- contracting ------------------------------------------------------------------------------------------------------

Part = tuple[Any, Labels]  # an array and the indices of its axes


def _others(parts: Sequence[Part], i: int | None = None) -> set[str]:
    """The indices of all parts but the i-th."""
    return set(chain(*(labels for k, (_, labels) in enumerate(parts) if k != i)))


def _permuted(xp: Any, x: Any, labels: Labels, order: Sequence[str]) -> Any:
    return xp.permute_dims(x, tuple(labels.index(label) for label in order))


def _without_repeats(xp: Any, x: Any, labels: Labels, lengths: dict[str, int]) -> Part:
    """The diagonal along repeated indices, without the axes that broadcast."""
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            first = labels.index(label)
            second = labels.index(label, first + 1)
            rest = [k for k in range(len(labels)) if k not in (first, second)]
            x = xp.diagonal(xp.permute_dims(x, (*rest, first, second)))
            labels = (*(labels[k] for k in rest), label)
    stays = [k for k, label in enumerate(labels) if x.shape[k] == lengths[label]]
    if len(stays) < len(labels):
        x = xp.reshape(x, tuple(x.shape[k] for k in stays))
    return x, tuple(labels[k] for k in stays)


def _summed(xp: Any, x: Any, labels: Labels, needed: set[str]) -> Part:
    """`x` summed over the indices that nothing else needs."""
    axes = tuple(k for k, label in enumerate(labels) if label not in needed)
    return (xp.sum(x, axis=axes) if axes else x), tuple(label for label in labels if label in needed)


def _smallest(parts: Sequence[Part], output: Labels, lengths: dict[str, int]) -> tuple[int, int]:
    """The pair whose product grows the least over its factors: the greedy order of contraction."""
    if len(parts) == 2:
        return 0, 1

    def growth(pair: tuple[int, int]) -> int:
        left, right = (set(parts[k][1]) for k in pair)
        needed = set(output).union(*(labels for k, (_, labels) in enumerate(parts) if k not in pair))
        made, *factors = (prod(lengths[label] for label in group) for group in ((left | right) & needed, left, right))
        return made - sum(factors)

    return min(combinations(range(len(parts)), 2), key=growth)


def _contracted(xp: Any, a: Part, b: Part, needed: set[str], output: Labels, lengths: dict[str, int]) -> Part:
    """The product of two parts, summed over the indices that nothing else needs."""
    (x, left), (y, right) = a, b
    batch = [label for label in left if label in right and label in needed]
    inner = [label for label in left if label in right and label not in needed]
    rows = [label for label in left if label not in right]
    columns = [label for label in right if label not in left]
    labels = (*batch, *rows, *columns)
    if not inner:
        labels = (*(label for label in output if label in labels), *(label for label in labels if label not in output))
        return xp.multiply(_spread(xp, x, left, labels), _spread(xp, y, right, labels)), labels
    if not rows and not columns:
        return xp.vecdot(_joined(xp, x, left, batch, inner), _joined(xp, y, right, batch, inner)), labels
    product = xp.matmul(_joined(xp, x, left, batch, rows, inner), _joined(xp, y, right, batch, inner, columns))
    if len(rows) != 1 or len(columns) != 1:
        product = xp.reshape(product, tuple(lengths[label] for label in labels))
    return product, labels


def _spread(xp: Any, x: Any, labels: Labels, order: Labels) -> Any:
    """`x` with its axes in a new order and an axis of length 1 for every index that it lacks."""
    own = tuple(label for label in order if label in labels)
    if own != labels:
        x = _permuted(xp, x, labels, own)
    if len(own) < len(order):
        length = dict(zip(own, x.shape, strict=True))
        x = xp.reshape(x, tuple(length.get(label, 1) for label in order))
    return x


def _joined(xp: Any, x: Any, labels: Labels, batch: list[str], *groups: list[str]) -> Any:
    """`x` with its axes in the order of batch and groups, each group joined to one axis."""
    order = (*batch, *chain(*groups))
    if order != labels:
        x = _permuted(xp, x, labels, order)
    if any(len(group) != 1 for group in groups):
        length = dict(zip(order, x.shape, strict=True))
        x = xp.reshape(x, (*x.shape[: len(batch)], *(prod(length[label] for label in group) for group in groups)))
    return x
