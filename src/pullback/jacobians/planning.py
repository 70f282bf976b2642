"""Which way to a Jacobian is the cheapest: every way is run on arrays without numbers, and counted."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .. import trees
from ..backends import backend_for
from ..backends.meta.metering import metering
from ..core.op import OPS
from ..core.tape import PART
from ..core.tensor import Tensor, asarray
from ..costs.ledger import Ledger
from ..costs.tables import bytes_text, count_text, table
from ..errors import TapeError
from ..transforms.chain import ChainPlan, cheapest
from ..transforms.reverse import argument_numbers
from ..transforms.trace import Trace, require_function
from .segments import Chain, Cuts, chain_of, cuts_of
from .walks import is_diagonal, jacobian_bytes, pulled_on_meta, pushed_on_meta, values_of

__all__ = ["JacobianPlan", "ModeCost", "close", "compare", "plan_jacobian", "planned"]


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
        modes: Mode -> what it costs; "planned" is missing where the function is no chain, and "diagonal" where an op
            is not elementwise.
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
    """Fix the outputs of a trace; the form of its value. Raises TapeError where there is something else than arrays."""
    leaves, form = trees.flatten(trace.out)
    if not leaves or not all(hasattr(x, "dtype") for x in leaves):
        raise TapeError(f"{trace.name}: the function has to return tensors; return the tensors themselves")
    trace.close([x if isinstance(x, Tensor) else asarray(x) for x in leaves])
    return form


def planned(trace: Trace) -> tuple[Chain, ChainPlan] | None:
    """The chain between the only argument and the only value of a trace, and its plan; None where there is no chain."""
    if len(trace.flat_heads) != 1 or len(values_of(trace)) != 1 or trace.joined:
        return None
    tape, end, out = trace.tape, trace.ends[0], values_of(trace)[0]
    cuts: Cuts | None = _remembered("cuts", trace, lambda: cuts_of(tape, end, out))
    chain = chain_of(tape, end, out, cuts)
    return None if chain is None else (chain, _remembered("plan", trace, lambda: cheapest(*chain.factors())))


_known: OrderedDict[Any, Any] = OrderedDict()
_MOST = 256


def _remembered(what: str, trace: Trace, make: Callable[[], Any]) -> Any:
    """What `make` gives: once for all tapes of the same ops on the same shapes.

    Only of ops of the table: a checkpointed or mapped function, or one with rules of its own, writes an op or a frame
    that is never met again and holds the arrays of its call.
    """
    if any(OPS.get(e.op.name) is not e.op and e.op is not PART for e in trace.tape):
        return make()
    try:
        key = what, _form(trace)
        hash(key)
    except TypeError:  # a parameter of an op is not hashable
        return make()
    found = _known.get(key)
    if found is None:
        found = _known[key] = make()
        while len(_known) > _MOST:
            _known.popitem(last=False)
    return found


def _form(trace: Trace) -> Any:
    """All that the costs of walks along a tape depend on, to be hashed and compared."""
    places: dict[Any, int] = {n: i for i, n in enumerate((*trace.ends, *trace.tape))}
    return (
        trace.joined,
        tuple((e.op, tuple(places.get(n) for n in e.parents), _facts(e.saved)) for e in trace.tape),
        tuple((places.get(getattr(x, "node", None)), _facts(getattr(x, "data", None))) for x in trace.outputs),
        tuple(_facts(head.data) for head in trace.flat_heads),
    )


def _facts(value: Any) -> Any:
    """Shape, dtype, class and layout of an array; parameters as they are."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return value.__class__, value.shape, value.dtype, getattr(value, "strides", None)
    return tuple(map(_facts, value)) if isinstance(value, tuple | list) else (value.__class__, value)


def compare(trace: Trace, memory_limit: int | None = None) -> JacobianPlan:
    """The modes for a trace that is closed."""
    found: JacobianPlan = _remembered(f"modes within {memory_limit}", trace, lambda: _compared(trace, memory_limit))
    return found


def _compared(trace: Trace, memory_limit: int | None) -> JacobianPlan:
    modes = {
        "reverse": _total(pulled_on_meta(trace, out, out.size) for out in values_of(trace) if out.node in trace.wanted),
        "forward": _total(pushed_on_meta(trace, head, head.size) for head in trace.flat_heads if head.size),
    }
    if is_diagonal(trace):
        one = _total(pulled_on_meta(trace, out, 1) for out in values_of(trace))
        modes["diagonal"] = ModeCost(one.flops, one.nbytes + jacobian_bytes(trace))
    found = planned(trace)
    links: tuple[str, ...] = ()
    if found is not None:
        chain, plan = found
        ledger, meta = Ledger(), backend_for("meta")
        like = meta.asarray(trace.flat_heads[0].data)
        with metering(ledger):
            chain.on_meta().execute(plan.plan, like)
        modes["planned"] = _total([ledger])
        links = tuple(
            f"{' '.join(e.op.name for e in link.tape)}, {link.size[1]} -> {link.size[0]}" for link in chain.links
        )
    fits = {m: c for m, c in modes.items() if memory_limit is None or c.nbytes <= memory_limit}
    choice = min(fits or {"reverse": modes["reverse"]}, key=lambda mode: modes[mode].flops)
    others = [c.flops / max(modes[choice].flops, 1) for m, c in modes.items() if m != choice]
    why = f"fewest operations, {min(others):.3g} times fewer than the next" if len(fits) == len(modes) else (
        "fewest operations of what fits into the memory, in chunks where nothing does"
    )  # fmt: skip
    return JacobianPlan(choice, why, modes, None if found is None else found[1], links)


def _total(ledgers: Any) -> ModeCost:
    books = list(ledgers)
    return ModeCost(
        sum(book.total("forward").flops for book in books), max((book.peaks["forward"] for book in books), default=0)
    )


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
