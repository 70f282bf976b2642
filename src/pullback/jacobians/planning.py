"""Which way to a Jacobian is the cheapest: every way is run on arrays without numbers, and counted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import trees
from ..backends import is_floating
from ..core.tensor import Tensor, asarray
from ..costs.tables import bytes_text, count_text, table
from ..errors import DtypeError, TapeError
from ..transforms.chain import ChainPlan
from ..transforms.reverse import argument_numbers
from ..transforms.trace import Trace, require_function
from .remembering import remembered
from .segments import Route, route_of
from .structure import block_walks, has_blocks, is_diagonal, probes, rows_of_all
from .walks import Booked, fitting, jacobian_bytes, pulled_on_meta, pushed_on_meta, too_little, values_of

__all__ = ["JacobianPlan", "ModeCost", "chunks_of_blocks", "close", "compare", "plan_jacobian", "planned"]


@dataclass(frozen=True, slots=True)
class ModeCost:
    """What a mode does after the forward pass: `flops`, and the most `nbytes` of arrays that live at once."""

    flops: int
    nbytes: int


@dataclass(frozen=True)
class JacobianPlan:
    """Ways to a Jacobian; `print` shows them.

    Attributes:
        choice: The mode of fewest operations, of those that fit into the memory limit.
        why: The reason, in words.
        modes: Mode -> what it costs; "planned" is missing where the function is no chain, "diagonal" where an op is
            not elementwise, and "blocks" where rows depend on each other or another mode takes fewer operations.
        chain: The plan of the chain: see `chain_plan`. None where there is none.
        links: For each function of the chain its ops, outputs and inputs.
    """

    choice: str
    why: str
    modes: Mapping[str, ModeCost]
    chain: ChainPlan | None
    links: tuple[str, ...]

    @property
    def bracketing(self) -> str:
        """The plan as text: see `ChainPlan.bracketing`. Empty where there is none."""
        return "" if self.chain is None else self.chain.bracketing

    def __str__(self) -> str:
        rows = [[mode, count_text(c.flops), bytes_text(c.nbytes)] for mode, c in self.modes.items()]
        parts = [f"{self.choice}: {self.why}", table(["mode", "flops", "peak"], rows)]
        if self.chain is not None:
            parts += [self.bracketing, "\n".join(f"f{i}: {link}" for i, link in enumerate(self.links))]
        return "\n\n".join(parts)


def close(trace: Trace) -> Any:
    """Fix the outputs of a trace; the form of its value.

    Raises TapeError where there is something else than arrays, DtypeError where one is not of floating point.
    """
    leaves, form = trees.flatten(trace.out)
    if not leaves or not all(hasattr(x, "dtype") for x in leaves):
        raise TapeError(f"{trace.name}: the function has to return tensors; return the tensors themselves")
    for i, x in enumerate(leaves):
        if not is_floating(x.dtype):
            which = "the value" if len(leaves) == 1 else f"leaf {i} of the value"
            raise DtypeError(
                f"{trace.name}: {which} holds {x.dtype}, and derivatives are of floating-point numbers; leave it out"
            )
    trace.close([x if isinstance(x, Tensor) else asarray(x) for x in leaves])
    return form


def planned(trace: Trace, memory_limit: int | None = None) -> Route | None:
    """The way along the chain between the only argument and the only value of a trace; None where there is no chain.
    It may take more than the limit: then none takes less."""
    if len(trace.flat_heads) != 1 or len(values_of(trace)) != 1 or trace.joined:
        return None
    (end,), (head,), (out,) = trace.ends, trace.flat_heads, values_of(trace)
    make = lambda: route_of(trace.tape, end, out, head.data, memory_limit)  # noqa: E731
    return remembered(("route", memory_limit), trace, make)


def compare(trace: Trace, memory_limit: int | None = None) -> JacobianPlan:
    """The modes for a trace that is closed."""
    with_blocks, without = remembered(("modes", memory_limit), trace, lambda: _compared(trace, memory_limit))
    return with_blocks if with_blocks is not None and has_blocks(trace) else without


def _compared(trace: Trace, memory_limit: int | None) -> tuple[JacobianPlan | None, JacobianPlan]:
    """The plan if there are blocks, None where they would not be the cheapest of what fits, and the plan if not."""
    outputs, heads = values_of(trace), trace.flat_heads
    modes = {
        "reverse": _walked(trace, [out for out in outputs if out.node in trace.wanted], pulled_on_meta, memory_limit),
        "forward": _walked(trace, heads, pushed_on_meta, memory_limit),
    }
    if is_diagonal(trace):
        modes["diagonal"] = _by_one_pull(trace)
    found = planned(trace, memory_limit)
    links: tuple[str, ...] = ()
    if found is not None:
        modes["planned"] = ModeCost(found.flops, found.nbytes)
        links = tuple(
            f"{' '.join(e.op.name for e in trace.tape[link.start : link.stop])}, {link.size[1]} -> {link.size[0]}"
            for link in found.links
        )
    chain = None if found is None else found.plan
    with_blocks = None
    if rows_of_all(trace) and any(x.ndim > 1 for x in (*outputs, *heads)):
        _, flops, nbytes = chunks_of_blocks(trace, memory_limit)
        fits = memory_limit is None or nbytes <= memory_limit
        if fits and flops < min(cost.flops for cost in modes.values()):
            with_blocks = _plan(trace, modes | {"blocks": ModeCost(flops, nbytes)}, chain, links, memory_limit)
    return with_blocks, _plan(trace, modes, chain, links, memory_limit)


def _plan(
    trace: Trace, modes: Mapping[str, ModeCost], chain: ChainPlan | None, links: tuple[str, ...],
    memory_limit: int | None,
) -> JacobianPlan:  # fmt: skip
    """The mode of fewest operations of those that fit. Raises DeviceMemoryError where none does."""
    fits = {m: c for m, c in modes.items() if memory_limit is None or c.nbytes <= memory_limit}
    if not fits:
        least = min(cost.nbytes for cost in modes.values())
        raise too_little(trace, least, memory_limit or 0)
    choice = min(fits, key=lambda mode: modes[mode].flops)
    others = [c.flops / max(fits[choice].flops, 1) for m, c in fits.items() if m != choice]
    why = f"fewest operations, {min(others):.3g} times fewer than the next" if others else "nothing else fits"
    if len(fits) < len(modes):
        why += f"; {', '.join(m for m in modes if m not in fits)} would take more than memory_limit"
    return JacobianPlan(choice, why, modes, chain, links)


def _by_one_pull(trace: Trace) -> ModeCost:
    """What mode "diagonal" does."""
    ledgers = [pulled_on_meta(trace, out, 1) for out in values_of(trace)]
    peak = max((ledger.peaks["forward"] for ledger in ledgers), default=0)
    return ModeCost(sum(ledger.total("forward").flops for ledger in ledgers), peak + jacobian_bytes(trace))


def chunks_of_blocks(trace: Trace, memory_limit: int | None) -> tuple[list[int], int, int]:
    """How many of the numbers in a row mode "blocks" walks at once, for each array of `block_walks`; and its operations
    and bytes, those of trying whether there are blocks included."""
    _, sources, booked = block_walks(trace)
    rows, whole, chunks = rows_of_all(trace), jacobian_bytes(trace), []
    room = whole + 2 * whole // rows
    trying = [pulled_on_meta(trace, out, probes(rows)) for out in values_of(trace)]
    flops = sum(ledger.total("forward").flops for ledger in trying)
    nbytes = sum(ledger.peaks["forward"] for ledger in trying)
    for source in sources:
        count = source.size // rows
        chunk, needed = fitting(trace, source, memory_limit, booked, room, count)
        flops += booked(trace, source, count).total("forward").flops
        nbytes = max(nbytes, needed if memory_limit is not None else needed + room)
        chunks.append(chunk)
    return chunks, flops, nbytes


def _walked(trace: Trace, sources: Sequence[Tensor], booked: Booked, memory_limit: int | None) -> ModeCost:
    """Walks of all unit vectors of `sources`, as many at once as the limit allows."""
    flops = nbytes = 0
    for like in sources:
        if like.size:
            chunk, needed = fitting(trace, like, memory_limit, booked)
            for count, times in ((chunk, like.size // chunk), (like.size % chunk, 1)):
                flops += times * booked(trace, like, count).total("forward").flops if count else 0
            nbytes = max(nbytes, needed)
    return ModeCost(flops, nbytes)


def plan_jacobian(f: Callable[..., Any], *args: Any, argnums: int = 0, memory_limit: int | None = None) -> JacobianPlan:
    """What the Jacobian of `f` at `args` costs in each mode, and which one `jacobian(f, mode="auto")` takes.

    f runs once; then each mode runs on arrays without numbers and is counted. The planned mode cuts the tape where all
    passes through one value, and finds for each stretch whether tangents, cotangents or products are the cheapest
    (see `chain_plan`); the Jacobian of a dense layer of a vector costs no more than writing it.

    Args:
        argnums: Which argument to differentiate by.
        memory_limit: Bytes that the arrays of a mode may take at once.

    Raises: as `jacobian`.
    """
    require_function("plan_jacobian", f)
    numbers = argument_numbers("plan_jacobian", argnums, len(args))
    trace = Trace("plan_jacobian", f, args, numbers)
    close(trace)
    return compare(trace, memory_limit)
