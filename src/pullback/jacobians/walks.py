"""A Jacobian by many walks along one tape at once: rows by VJPs, columns by JVPs, in chunks that fit the memory."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from ..backends import BACKENDS, backend_for
from ..backends.meta.metering import metering
from ..core.op import TENSORS
from ..core.recording import observing
from ..core.tape import Equation, pull, push
from ..core.tensor import Tensor
from ..costs.ledger import Ledger
from ..costs.tracing import stand_in
from ..errors import DeviceMemoryError
from ..transforms.trace import Trace
from ..transforms.vmap import new_frame, vmap
from .remembering import remembered

__all__ = [
    "Booked",
    "announce",
    "by_columns",
    "by_rows",
    "columns_by",
    "columns_of",
    "fitting",
    "half_of_free",
    "jacobian_bytes",
    "pulled_on_meta",
    "pushed_on_meta",
    "rows_of",
    "stacked",
    "too_little",
    "twin",
    "units",
    "values_of",
]


Booked = Callable[[Trace, Tensor, int], Ledger]
"""What a walk of so many vectors of an array of a trace does."""


def values_of(trace: Trace) -> list[Tensor]:
    """The outputs of a trace whose value holds tensors only."""
    return [x for x in trace.outputs if x is not None]


def announce(trace: Trace) -> None:
    """Tell who watches that the Jacobian of a trace is about to be formed."""
    observer = observing()
    if observer is not None:
        sizes = (sum(x.size for x in tensors) for tensors in (values_of(trace), trace.flat_heads))
        observer.forming(trace.name, *sizes)


def by_rows(trace: Trace, chunk_size: int | None, memory_limit: int | None) -> list[list[Tensor]]:
    """For each output the Jacobian by each input, of shape (*output, *input): unit cotangents are pulled."""
    outputs, found = values_of(trace), []
    for k, out in enumerate(outputs):
        size = chunk_size or _chunk(trace, out, memory_limit, pulled_on_meta)

        def pulled(g: Tensor, k: int = k) -> list[Tensor]:
            return trace.pull([g if i == k else None for i in range(len(outputs))])

        blocks = stacked(vmap(pulled), out, size, [head.shape for head in trace.flat_heads])
        shapes = [(*out.shape, *head.shape) for head in trace.flat_heads]
        found.append([TENSORS.reshape(block, shape) for block, shape in zip(blocks, shapes, strict=True)])
    return found


def by_columns(trace: Trace, chunk_size: int | None, memory_limit: int | None) -> list[list[Tensor]]:
    """The same: unit tangents are pushed."""
    outputs, heads = values_of(trace), trace.flat_heads
    columns = [columns_by(trace, j, chunk_size, memory_limit) for j in range(len(heads))]
    return [
        [
            TENSORS.reshape(TENSORS.moveaxis(columns[j][k], 0, -1), (*out.shape, *head.shape))
            for j, head in enumerate(heads)
        ]
        for k, out in enumerate(outputs)
    ]


def columns_by(
    trace: Trace, j: int, chunk_size: int | None, memory_limit: int | None, room: int | None = None
) -> list[Tensor]:
    """Pushes along each number of input `j`: for each output an array (input.size, *output).

    Args:
        room: Bytes that are taken besides the walk; None: twice those of the Jacobian.
    """
    head, heads = trace.flat_heads[j], trace.flat_heads
    size = chunk_size or _chunk(trace, head, memory_limit, pushed_on_meta, room)

    def pushed(t: Tensor) -> list[Tensor]:
        return trace.push([t if i == j else None for i in range(len(heads))])

    return stacked(vmap(pushed), head, size, [out.shape for out in values_of(trace)])


def stacked(walk: Callable[..., Any], like: Tensor, chunk: int, shapes: Sequence[Any]) -> list[Tensor]:
    """What `walk` makes of all unit vectors of the shape of `like`, `chunk` at a time: arrays (like.size, *shape)."""
    size, backend = like.size, BACKENDS[like.data.__class__]
    backend.keep_freed_memory()
    if not size:
        xp = backend.beside(like.data)
        return [Tensor(xp.zeros((0, *shape), dtype=like.dtype)) for shape in shapes]
    parts = [walk(Tensor(units(like.data, start, min(chunk, size - start)))) for start in range(0, size, chunk)]
    if len(parts) == 1:
        return list(parts[0])
    return [TENSORS.concat(list(column), axis=0) for column in zip(*parts, strict=True)]


def units(like: Any, start: int, count: int) -> Any:
    """The unit vectors from number `start` on, (count, *shape), beside a raw array of that shape."""
    xp = BACKENDS[like.__class__].beside(like)
    size = prod(like.shape)
    flat = xp.zeros((count * size,), dtype=like.dtype)
    positions = xp.arange(start, start + count * (size + 1), size + 1)
    return xp.reshape(xp.scatter_set(flat, positions, 1), (count, *like.shape))


# --- raw walks of many vectors at once --------------------------------------------------------------------------------


def rows_of(tape: Sequence[Equation], out: Any, end: Any, rows: Any, wanted: set[Any]) -> Any:
    """Raw cotangents (r, *shape) of the node `out`, pulled along `tape` to the node `end`: (r, *shape) of it.

    None where nothing leads there.
    """
    frame = new_frame(rows.shape[0], rows)
    found = {out: frame.array(rows, True)}
    with BACKENDS[frame.kind].walking(found[out]):
        pull(list(tape), found, wanted=wanted)
    g = found.get(end)
    return None if g is None else _with_rows(g, rows.shape[0])


def columns_of(tape: Sequence[Equation], start: Any, out: Any, columns: Any) -> Any:
    """Raw tangents (r, *shape) of the node `start`, pushed along `tape` to the node `out`: (r, *shape) of it."""
    frame = new_frame(columns.shape[0], columns)
    found = {start: frame.array(columns, True)}
    with BACKENDS[frame.kind].walking(found[start]):
        push(tape, found)
    t = found.get(out)
    return None if t is None else _with_rows(t, columns.shape[0])


def _with_rows(x: Any, count: int) -> Any:
    xp = BACKENDS[x.data.__class__].beside(x.data)
    return x.data if x.batched else xp.broadcast_to(xp.expand_dims(x.data, axis=0), (count, *x.data.shape))


# --- memory -----------------------------------------------------------------------------------------------------------


def twin(tape: Sequence[Equation]) -> tuple[list[Equation], dict[Any, Any]]:
    """The tape on arrays without numbers, and the node that stands for each equation."""
    nodes: dict[Any, Any] = {}
    for e in tape:
        made = nodes[e] = Equation()
        made.seq, made.op, made.fit, made.saved = e.seq, e.op, e.fit, stand_in(e.saved)
        made.parents = tuple([nodes.get(n, n) for n in e.parents])
    return list(nodes.values()), nodes


def pulled_on_meta(trace: Trace, out: Tensor, count: int) -> Ledger:
    """What a pull of so many rows of `out` does."""
    tape, nodes = twin(trace.tape)
    wanted = {*trace.ends, *nodes.values()}
    return _booked(lambda rows: pull(tape, {nodes.get(out.node, out.node): rows}, wanted=wanted), out, count)


def pushed_on_meta(trace: Trace, head: Tensor, count: int) -> Ledger:
    """What a push of so many columns of `head` does."""
    tape, _ = twin(trace.tape)
    return _booked(lambda columns: push(tape, {head.node: columns}), head, count)


def _booked(walk: Callable[[Any], None], like: Tensor, count: int) -> Ledger:
    ledger, meta = Ledger(), backend_for("meta")
    with metering(ledger):
        given = meta.xp.zeros((count, *like.shape), dtype=like.dtype)
        frame = new_frame(count, given)
        vectors = frame.array(given, True)
        with BACKENDS[frame.kind].walking(vectors):
            walk(vectors)
    return ledger


def _chunk(trace: Trace, like: Tensor, memory_limit: int | None, booked: Booked, room: int | None = None) -> int:
    """How many vectors are walked at once: all of them, if that and what takes `room` fit into the memory."""
    size = like.size
    if not size or (like.node not in trace.wanted and like.node not in trace.ends):
        return 1
    limit = memory_limit
    if limit is None:
        taken = 2 * jacobian_bytes(trace) if room is None else room
        limit = half_of_free(like)
        if size * _at_most(trace) + taken < limit:
            return size
    place = [id(x) for x in (*values_of(trace), *trace.flat_heads)].index(id(like))
    key = "chunk", place, booked, limit, room
    count, needed = remembered(key, trace, lambda: fitting(trace, like, limit, booked, room))
    if needed > limit and memory_limit is not None:
        raise too_little(trace, needed, limit)
    return count


def fitting(
    trace: Trace, like: Tensor, limit: int | None, booked: Booked, room: int | None = None, most: int | None = None
) -> tuple[int, int]:
    """How many vectors are walked at once within a limit, at least 1, and the bytes that this takes.

    Args:
        room: Bytes that are taken besides the walk where there is a limit; None: twice those of the Jacobian.
        most: How many there are; None: as many as numbers in `like`.
    """
    count = most or like.size
    if limit is None:
        return count, booked(trace, like, count).peaks["forward"]
    if room is None:
        room = 2 * jacobian_bytes(trace)
    while (needed := booked(trace, like, count).peaks["forward"] + room) > limit and count > 1:
        count = -(-count // 2)
    return count, needed


def half_of_free(like: Tensor) -> int:
    """Half of the bytes that are free where `like` is, rounded down to a power of two: what is found out for such a
    limit is remembered, so there are few of them."""
    backend = BACKENDS[like.data.__class__]
    with backend.on(like.device):
        free = backend.free_memory()
    return 1 << (62 if free is None else max((free // 2).bit_length() - 1, 0))


def too_little(trace: Trace, needed: int, limit: int) -> DeviceMemoryError:
    """The error where even one vector at a time does not fit."""
    return DeviceMemoryError(
        f"{trace.name}: one vector at a time takes {needed:,} bytes with the result itself, and memory_limit is "
        f"{limit:,}; raise it, or ask for a part of it"
    )


def _at_most(trace: Trace) -> int:
    """A generous guess at the bytes of a walk of one vector: two arrays of float64 for each equation, as large as the
    largest that is known. Where so much is free, and no limit is asked for, nothing is counted."""
    known = [x for e in trace.tape for x in (e.saved or ()) if hasattr(x, "dtype") and hasattr(x, "size")]
    largest = max((x.size for x in (*known, *trace.flat_heads, *values_of(trace))), default=0)
    return 16 * largest * (len(trace.tape) + 1)


def jacobian_bytes(trace: Trace) -> int:
    """How many bytes the Jacobian of all outputs by all inputs takes."""
    return sum(out.size for out in values_of(trace)) * sum(x.size * x.dtype.itemsize for x in trace.flat_heads)
