"""pb.jacobian: the whole Jacobian, by rows, by columns, or by a plan between."""

from collections.abc import Callable, Sequence
from typing import Any

from .. import trees
from ..backends import BACKENDS
from ..core.tensor import Tensor
from ..errors import ArgumentError, DeviceMemoryError
from ..transforms.reverse import argument_numbers
from ..transforms.trace import Trace, require_function
from .planning import chunks_of_blocks, close, compare, planned
from .remembering import remembered
from .structure import by_blocks, by_diagonals, has_blocks, is_diagonal, rows_of_all
from .walks import announce, by_columns, by_rows, half_of_free, too_little, values_of

__all__ = ["MODES", "check_limits", "jacobian"]

_SMALL = 1 << 24  # bytes that there are, so that nobody need be asked
MODES = ("auto", "reverse", "forward", "planned", "diagonal", "blocks")


def jacobian(
    f: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    mode: str = "auto",
    *,
    chunk_size: int | None = None,
    memory_limit: int | None = None,
) -> Callable[..., Any]:
    """A function that gives the Jacobian of `f`.

    Args:
        f: A function of trees of tensors to a tree of tensors.
        argnums: Which arguments to differentiate by, as in `grad`.
        mode: "reverse" pulls a unit cotangent for each output number, "forward" pushes a unit tangent for each input
            number, many at once. "planned" cuts the tape into a chain and takes for each part the cheapest of tangents,
            cotangents and products (see `plan_jacobian`). "diagonal" is for functions whose every op is elementwise,
            with nothing broadcast that is differentiated: one cotangent is pulled for each output. "blocks" is for
            functions of arrays (B, ...) to arrays (B, ...) of whose values row i depends on row i alone, as of a net on
            a batch: one cotangent is pulled for each number in a row, or one tangent pushed, for all B rows at once.
            Whether a function is so is tried on its tape, by 2 log2(B) cotangents with NaN in half of their rows: the
            other rows have to stay zero. "auto" takes the mode of fewest operations; to count them takes some
            milliseconds, once for a function and shapes.
        chunk_size: How many vectors are walked at once. None: as many as fit into `memory_limit`.
        memory_limit: Bytes that arrays may take at once, those of the Jacobian included and those that the forward pass
            saved not. None: half of the memory that is free.

    Returns:
        A function of the arguments of f. For one output of shape s and one argument of shape t it gives a tensor of
        shape (*s, *t); else a tree like the value of f of trees like the arguments.

    Raises:
        ArgumentError: no such mode, or a chunk that holds nothing. When called, as `vjp`; DtypeError: a value is not of
        floating point; DeviceMemoryError: one vector at a time is more than `memory_limit`, or what "diagonal" makes.
    """
    require_function("jacobian", f)
    if mode not in MODES:
        raise ArgumentError(f"jacobian: mode is one of {', '.join(map(repr, MODES))}; got {mode!r}")
    check_limits("jacobian", chunk_size=chunk_size, memory_limit=memory_limit)

    def derivative(*args: Any, **kwargs: Any) -> Any:
        numbers = argument_numbers("jacobian", argnums, len(args))
        trace = Trace("jacobian", lambda *a: f(*a, **kwargs), args, numbers)
        form = close(trace)
        announce(trace)
        chosen = compare(trace, memory_limit).choice if mode == "auto" else mode
        if chosen == "planned":
            blocks = [[_by_plan(trace, memory_limit)]]
        elif chosen == "diagonal":
            blocks = _by_diagonals(trace, memory_limit)
        elif chosen == "blocks":
            blocks = _by_blocks(trace, chunk_size, memory_limit, tried=mode == "auto")
        else:
            blocks = (by_columns if chosen == "forward" else by_rows)(trace, chunk_size, memory_limit)
        return trees.unflatten(form, [_like_arguments(trace, row, argnums) for row in blocks])

    return derivative


def check_limits(name: str, **limits: int | None) -> None:
    """Raise ArgumentError where a limit is no whole number above 0, nor None."""
    for limit, value in limits.items():
        if value is not None and (not hasattr(value, "__index__") or value < 1):
            raise ArgumentError(f"{name}: {limit} is a whole number above 0, or None; got {value!r}")


def _by_plan(trace: Trace, memory_limit: int | None) -> Tensor:
    found = planned(trace, memory_limit)
    if found is None:
        raise ArgumentError(
            "jacobian: mode='planned' takes one array to another of the same dtype by a chain of ops, and is not "
            "differentiated again; take mode='reverse' or 'forward'"
        )
    (end,), (head,), (out,) = trace.ends, trace.flat_heads, values_of(trace)
    if memory_limit is None and found.nbytes > _SMALL and found.nbytes > (half := half_of_free(head)):
        found = planned(trace, half) or found
    elif memory_limit is not None and found.nbytes > memory_limit:
        raise too_little(trace, found.nbytes, memory_limit)
    with trace.walking():
        matrix = found.execute(trace.tape, end, head.data)
        xp = BACKENDS[head.data.__class__].beside(head.data)
        return Tensor(xp.reshape(matrix, (*out.shape, *head.shape)))


def _by_diagonals(trace: Trace, memory_limit: int | None) -> list[list[Tensor]]:
    if not is_diagonal(trace):
        raise ArgumentError(
            "jacobian: mode='diagonal' is for functions whose every op is elementwise, and broadcasts nothing that is "
            "differentiated; take mode='auto'"
        )
    if memory_limit is not None and (needed := compare(trace).modes["diagonal"].nbytes) > memory_limit:
        raise DeviceMemoryError(
            f"jacobian: mode='diagonal' takes {needed:,} bytes at once, and memory_limit is {memory_limit:,}; "
            "raise it, or take mode='reverse' or 'forward', which go in chunks"
        )
    return by_diagonals(trace)


def _by_blocks(trace: Trace, chunk_size: int | None, memory_limit: int | None, tried: bool) -> list[list[Tensor]]:
    refused = ArgumentError(
        "jacobian: mode='blocks' is for functions of arrays (B, ...) to arrays (B, ...), B > 1, each row of whose "
        "values depends on the same row of the arguments alone; take mode='auto'"
    )
    if not rows_of_all(trace):
        raise refused
    limit = memory_limit or half_of_free(trace.flat_heads[0])
    chunks, _, nbytes = remembered(("blocks", limit), trace, lambda: chunks_of_blocks(trace, limit))
    if memory_limit is not None and nbytes > memory_limit:
        raise too_little(trace, nbytes, memory_limit)
    if not tried and not has_blocks(trace):
        raise refused
    return by_blocks(trace, [chunk_size] * len(chunks) if chunk_size else chunks)


def _like_arguments(trace: Trace, row: Sequence[Tensor], argnums: int | Sequence[int]) -> Any:
    """The blocks of one output as trees like the arguments."""
    found = iter(row)
    made = [
        trees.unflatten(spec, [next(found) for _ in heads])
        for spec, heads in zip(trace.specs, trace.heads, strict=True)
    ]
    return made[0] if hasattr(argnums, "__index__") else tuple(made)
