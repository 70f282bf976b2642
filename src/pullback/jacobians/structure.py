"""Jacobians whose zeros are known: diagonals, and a block for each row."""

from collections.abc import Sequence
from math import prod

import numpy as np

from ..backends import BACKENDS
from ..backends.batched.array import BatchedArray
from ..core.op import TENSORS
from ..core.recording import unobserved
from ..core.tensor import Tensor, asarray
from ..transforms.trace import Trace
from ..transforms.vmap import vmap
from .walks import Booked, pulled_on_meta, pushed_on_meta, stacked, values_of

__all__ = ["block_walks", "by_blocks", "by_diagonals", "has_blocks", "is_diagonal", "probes", "rows_of_all"]


# --- diagonals --------------------------------------------------------------------------------------------------------


def is_diagonal(trace: Trace) -> bool:
    """Whether every op takes what is differentiated number by number: then the Jacobian of an output by an input of its
    shape is a diagonal, and by others zero."""
    return bool(trace.tape) and all(
        e.op.kind == "elementwise"
        and (e.fit is None or all(n not in trace.wanted or e.fit[i] is None for i, n in enumerate(e.parents)))
        for e in trace.tape
    )


def by_diagonals(trace: Trace) -> list[list[Tensor]]:
    """For each output the Jacobian by each input, of a trace that `is_diagonal`: ones are pulled, once for each."""
    outputs = values_of(trace)
    found = []
    for k, out in enumerate(outputs):
        one = Tensor(BACKENDS[out.data.__class__].beside(out.data).ones_like(out.data))
        slopes = trace.pull([one if i == k else None for i in range(len(outputs))])
        found.append([_diagonal(slope, out.shape) for slope in slopes])
    return found


def _diagonal(slope: Tensor, shape: tuple[int, ...]) -> Tensor:
    xp = BACKENDS[slope.data.__class__].beside(slope.data)
    if slope.shape != shape:
        return Tensor(xp.zeros((*shape, *slope.shape), dtype=slope.dtype))
    n = slope.size
    flat = TENSORS.scatter(TENSORS.reshape(slope, (n,)), xp.arange(0, n * n, n + 1), (n * n,))
    square: Tensor = TENSORS.reshape(flat, (*shape, *shape))
    return square


# --- blocks -----------------------------------------------------------------------------------------------------------
# Of a function of (B, n) to (B, m) whose row i depends on row i alone, as of a net on a batch, all B blocks (m, n) come
# from m cotangents, each of which is a unit cotangent in every row.


def rows_of_all(trace: Trace) -> int:
    """The number of rows that all inputs and outputs have, where it is above 1 and all have numbers; else 0.

    It is 0 too where an output depends on no input.
    """
    arrays = [*values_of(trace), *trace.flat_heads]
    counts = {x.shape[0] if x.ndim else 0 for x in arrays}
    if len(counts) != 1 or not all(x.size for x in arrays) or any(x.node not in trace.wanted for x in values_of(trace)):
        return 0
    return rows if (rows := counts.pop()) > 1 else 0


def has_blocks(trace: Trace) -> bool:
    """Whether each row of every output depends on the same row of the inputs alone, at the numbers of this trace.

    It is tried on the tape: in the place of numbers some rows of a cotangent hold NaN, which no product and no sum
    loses, and the other rows zero; then those rows of what comes out must be zero. Any two rows are told apart by a bit
    of their numbers, so two cotangents for each bit prove it for all pairs.
    """
    rows = rows_of_all(trace)
    if not rows or not all(map(_has_numbers, (*values_of(trace), *trace.flat_heads))):
        return False
    bits = np.arange(rows) >> np.arange((rows - 1).bit_length())[:, None] & 1
    marked = np.concatenate([bits, 1 - bits]).astype(bool)
    with unobserved():
        found = vmap(lambda *g: trace.pull(list(g)))(*[_marks(out, marked) for out in values_of(trace)])
        return not any(_is_reached(x, ~marked) for x in found)


def probes(rows: int) -> int:
    """How many cotangents `has_blocks` pulls."""
    return 2 * (rows - 1).bit_length()


def _marks(out: Tensor, marked: np.ndarray) -> Tensor:
    """Cotangents of an output, NaN in the rows that are marked and 0 in others."""
    backend = BACKENDS[out.data.__class__]
    xp = backend.beside(out.data)
    each = xp.astype(xp.asarray(np.where(marked, np.nan, 0.0)), out.dtype)
    lines = xp.reshape(each, (*marked.shape, *[1] * (out.ndim - 1)))
    return Tensor(xp.broadcast_to(lines, (marked.shape[0], *out.shape)))


def _has_numbers(x: Tensor) -> bool:
    """Whether numbers can be looked at: they are neither shapes alone nor those of many examples."""
    return not isinstance(x.data, BatchedArray) and not BACKENDS[x.data.__class__].absorbs


def _is_reached(x: Tensor, where: np.ndarray) -> bool:
    """Whether something else than zero stands in these rows, or may: what cannot be looked at."""
    if not _has_numbers(x):
        return True
    rows = asarray(where.reshape(*where.shape, *[1] * (x.ndim - 2)), device=x.device)
    return bool(TENSORS.any(TENSORS.logical_and(TENSORS.not_equal(x, 0), rows)))


def block_walks(trace: Trace) -> tuple[bool, list[Tensor], Booked]:
    """Whether blocks are made by pulls, from which arrays, and what counts such a walk: the fewer numbers in a row."""
    outputs, heads = values_of(trace), trace.flat_heads
    pulls = sum(prod(x.shape[1:]) for x in outputs) <= sum(prod(x.shape[1:]) for x in heads)
    return (True, outputs, pulled_on_meta) if pulls else (False, heads, pushed_on_meta)


def by_blocks(trace: Trace, chunks: Sequence[int]) -> list[list[Tensor]]:
    """The same as `by_diagonals`, of a trace that `has_blocks`; `chunks`: for each array of `block_walks` how many of
    the numbers in a row are walked at once."""
    pulls, sources, _ = block_walks(trace)
    walk, others = (trace.pull, trace.flat_heads) if pulls else (trace.push, values_of(trace))
    found = []
    for k, source in enumerate(sources):

        def walked(unit: Tensor, k: int = k, shape: tuple[int, ...] = source.shape) -> list[Tensor]:
            vector = TENSORS.broadcast_to(unit, shape)
            return walk([vector if i == k else None for i in range(len(sources))])

        xp = BACKENDS[source.data.__class__].beside(source.data)
        row = Tensor(xp.zeros(source.shape[1:], dtype=source.dtype))
        made = stacked(vmap(walked), row, chunks[k], [x.shape for x in others])
        found.append([_spread(x, source, other, pulls) for x, other in zip(made, others, strict=True)])
    return found if pulls else [list(row) for row in zip(*found, strict=True)]


def _spread(blocks: Tensor, source: Tensor, other: Tensor, pulls: bool) -> Tensor:
    """The Jacobian of blocks (numbers in a row of `source`, *other.shape): zeros, and the block of each row."""
    rows, by = source.shape[0], prod(source.shape[1:])
    flat = TENSORS.reshape(blocks, (by, rows, prod(other.shape[1:])))
    values = TENSORS.moveaxis(flat, 0, 1 if pulls else 2)  # (row, number of the output, number of the input)
    out, head = (source, other) if pulls else (other, source)
    xp = BACKENDS[values.data.__class__].beside(values.data)
    places = xp.arange(rows)
    spread = TENSORS.scatter(values, (places, slice(None), places), (rows, values.shape[1], rows, values.shape[2]))
    jacobian: Tensor = TENSORS.reshape(spread, (*out.shape, *head.shape))
    return jacobian
