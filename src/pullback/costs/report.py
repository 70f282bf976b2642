"""`pb.cost`: what a function and its derivatives cost, from shapes alone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

from .. import trees
from ..backends import is_floating
from ..backends.meta.array import fresh
from ..backends.meta.metering import metering
from ..errors import ArgumentError, RuleError
from ..transforms.reverse import argument_numbers
from ..transforms.trace import require_function
from .forms import JacobianForm, dense_products, jacobian_forms
from .ledger import Count, Entry, Ledger
from .plots import plot_report
from .tables import bytes_text, count_text, table
from .tracing import Booking, Trace, booked

__all__ = ["CostReport", "Phase", "cost"]


@dataclass(frozen=True, slots=True)
class Phase:
    """What one phase does.

    Attributes:
        count: Operations, bytes read and written, launches.
        peak: The most bytes of arrays that lived at once, beside the arguments and parameters; in "vjp" and "jvp"
            the values saved by the forward pass are among them.
        allocated: Bytes of all arrays made.
    """

    count: Count
    peak: int
    allocated: int

    def to_dict(self) -> dict[str, int]:
        """The numbers by name."""
        return {**self.count.to_dict(), "peak": self.peak, "allocated": self.allocated}


@dataclass(frozen=True)
class CostReport:
    """What a function costs; `print` shows it as a table. See `cost`.

    Attributes:
        inputs: What it is differentiated by: "parameters", or "arguments 0, 1".
        input_size, output_size: How many numbers it is differentiated by, and how many it gives.
        phases: "forward", "vjp" and "jvp". The VJP and the JVP are without the forward pass; a phase that some op has
            no rule for is missing, and `missing` says why.
        saved: Layer -> bytes that the forward pass saves for the backward pass, beside arguments and parameters.
        entries: One line for each phase, layer and op.
        jacobian: "reverse", "forward", "product" -> what the whole Jacobian costs (see `jacobian_forms`).
        missing: Phase -> why there is none.
    """

    inputs: str
    input_size: int
    output_size: int
    phases: Mapping[str, Phase]
    saved: Mapping[str, int]
    entries: Sequence[Entry]
    jacobian: Mapping[str, JacobianForm]
    missing: Mapping[str, str]

    @property
    def forward(self) -> Phase:
        """The forward pass, recorded."""
        return self.phases["forward"]

    @property
    def vjp(self) -> Phase:
        """One pull of a cotangent. Raises RuleError where there is none."""
        return self._walk("vjp")

    @property
    def jvp(self) -> Phase:
        """One push of a tangent. Raises RuleError where there is none."""
        return self._walk("jvp")

    @property
    def saved_bytes(self) -> int:
        """Bytes saved for the backward pass in all layers."""
        return sum(self.saved.values())

    @property
    def by_layer(self) -> dict[str, dict[str, Count]]:
        """Layer -> phase -> what it does; "" is what stands in no module."""
        return self._summed(lambda entry: entry.layer)

    @property
    def by_op(self) -> dict[str, dict[str, Count]]:
        """Op -> phase -> what it does: in "vjp" and "jvp" what its rules do."""
        return self._summed(lambda entry: entry.op)

    def to_dict(self) -> dict[str, Any]:
        """All of it as numbers and text, as JSON can hold."""
        return {
            "inputs": self.inputs,
            "input_size": self.input_size,
            "output_size": self.output_size,
            "phases": {name: phase.to_dict() for name, phase in self.phases.items()},
            "saved": dict(self.saved),
            "entries": [
                {"phase": e.phase, "layer": e.layer, "op": e.op, "calls": e.calls, **e.count.to_dict()}
                for e in self.entries
            ],
            "jacobian": {name: form.to_dict() for name, form in self.jacobian.items()},
            "missing": dict(self.missing),
        }

    def plot(self, path: Any = None) -> Any:
        """A matplotlib Figure of operations and bytes by layer (by op where there are no layers); saved at `path`.

        Raises ArgumentError without matplotlib: `pip install 'pullback[plot]'`.
        """
        return plot_report(self, path)

    def _walk(self, name: str) -> Phase:
        if name not in self.phases:
            raise RuleError(f"cost: there is no {name}: {self.missing[name]}")
        return self.phases[name]

    def _summed(self, key: Callable[[Entry], str]) -> dict[str, dict[str, Count]]:
        found: dict[str, dict[str, Count]] = {}
        for entry in self.entries:
            line = found.setdefault(key(entry), {})
            line[entry.phase] = line.get(entry.phase, Count()) + entry.count
        return found

    def __str__(self) -> str:
        return "\n\n".join(_sections(self))


def _sections(report: CostReport) -> list[str]:
    """The parts of the printed report."""
    head = (
        f"{report.output_size:,} outputs by {report.input_size:,} inputs ({report.inputs}); "
        f"{bytes_text(report.saved_bytes)} saved for the backward pass"
    )
    rows = [[name, *_cells(phase.count), bytes_text(phase.peak)] for name, phase in report.phases.items()]
    parts = [head + "\n" + table(["", "flops", "of products", "read", "written", "launches", "peak"], rows)]
    for title, lines in (("layer", report.by_layer), ("op", report.by_op)):
        if title == "layer" and set(lines) <= {""}:
            continue
        body = [[name or "(no module)", *_line(phases, report)] for name, phases in lines.items()]
        parts.append(table([title, *(f"{p} flops" for p in report.phases), "read", "written", "launches"], body))
    forms = [
        [name, f"{form.walks:,}", *_cells(form.count), bytes_text(form.nbytes)]
        for name, form in report.jacobian.items()
    ]
    parts.append(table(["Jacobian", "walks", "flops", "of products", "read", "written", "launches", "size"], forms))
    parts += [f"no {name}: {why}" for name, why in report.missing.items()]
    return parts


def _cells(count: Count) -> list[str]:
    return [
        count_text(count.flops), count_text(count.matmul_flops), bytes_text(count.read), bytes_text(count.written),
        f"{count.launches:,}",
    ]  # fmt: skip


def _line(phases: Mapping[str, Count], report: CostReport) -> list[str]:
    total = sum(phases.values(), Count())
    return [
        *(count_text(phases.get(p, Count()).flops) for p in report.phases),
        bytes_text(total.read), bytes_text(total.written), f"{total.launches:,}",
    ]  # fmt: skip


def cost(f: Callable[..., Any], *args: Any, argnums: int | Sequence[int] | None = None) -> CostReport:
    """What `f(*args)`, its VJP, its JVP and its whole Jacobian cost: exact counts, from shapes alone.

    Nothing is computed and no memory is taken: every op runs on arrays without numbers (device "meta"), so that a step
    that fits into no memory can be costed (make its arrays and modules with `device="meta"`). What is counted is what
    the bodies and rules of the ops do, call by call, on NumPy's layouts; a fused kernel does less.

    Args:
        f: A function of trees to a tree of tensors, or a module.
        args: Its arguments: tensors or arrays of any device, and whatever else it takes.
        argnums: Which arguments to differentiate by. None: by the parameters that the value depends on (leaves, such
            as those of a module), or where there are none by all floating-point arguments.

    Costs of matrix decompositions are the leading terms of the textbook (see `backends.meta.products`). New arrays
    that f makes itself (`pb.zeros`) are not counted.

    Raises:
        TapeError: f returns no tensor of floating point. ArgumentError: `argnums` names no argument, or there is
        nothing to differentiate by. DeviceError: f reads numbers, or a shape in it depends on them.
    """
    require_function("cost", f)
    leaves = {} if argnums is not None else _leaves(f, args)
    numbers = [] if leaves else _with_floats(args)
    if argnums is not None:
        numbers = argument_numbers("cost", argnums, len(args))
    ledger = Ledger()
    with booked(ledger) as booking:
        ledger.begin("forward")
        trace = Trace("cost", f, args, numbers)
        specs = trace.heads | {trace.leaves[leaf]: spec for leaf, spec in leaves.items() if leaf in trace.leaves}
        if not specs:
            raise ArgumentError("cost: nothing to differentiate by: no parameter and no floating-point argument")
        saved = _saved(trace, booking)
        ends = {end: prod(shape) for end, (shape, _) in specs.items()}
        itemsize = max(x.dtype.itemsize for x in trace.outputs)
        products = dense_products(trace.tape, ends, partial(booking.size_of, ends), itemsize)
        missing: dict[str, str] = {}
        ledger.begin("jvp")
        try:
            trace.push({end: _tangent(spec) for end, spec in specs.items()})
        except RuleError as error:
            missing["jvp"] = str(error)
        ledger.begin("vjp")
        try:
            trace.pull(specs, free=True)
        except RuleError as error:
            missing["vjp"] = str(error)
    phases = {
        name: Phase(ledger.total(name), ledger.peaks[name], ledger.allocated[name])
        for name in ("forward", "vjp", "jvp")
        if name not in missing
    }
    counts = {name: phase.count for name, phase in phases.items()}
    return CostReport(
        inputs="parameters" if leaves else f"arguments {', '.join(map(str, numbers))}",
        input_size=sum(ends.values()),
        output_size=sum(x.size for x in trace.outputs),
        phases=phases,
        saved=saved,
        entries=[entry for entry in ledger.entries() if entry.phase in phases],
        jacobian=jacobian_forms(counts, products, sum(ends.values()), trace.outputs),
        missing=missing,
    )


def _leaves(f: Callable[..., Any], args: Sequence[Any]) -> dict[Any, tuple[Any, Any]]:
    """The parameters that the value of `f(*args)` depends on, with their shapes and dtypes."""
    with booked(Ledger()):
        trace = Trace("cost", f, args, ())
        found = trace.pull(tuple(trace.leaves.values()), free=True)
        reached = ((leaf, found.get(twin)) for leaf, twin in trace.leaves.items())
        return {leaf: (g.shape, g.dtype) for leaf, g in reached if g is not None}


def _with_floats(args: Sequence[Any]) -> list[int]:
    """The positions of arguments in which there are arrays of floating point."""
    leaves = [trees.flatten(argument)[0] for argument in args]
    return [i for i, found in enumerate(leaves) if any(hasattr(x, "dtype") and is_floating(x.dtype) for x in found)]


def _tangent(spec: tuple[Any, Any]) -> Any:
    """A tangent that was there before: nobody is told of its memory."""
    with metering(None):
        return fresh(*spec)


def _saved(trace: Trace, booking: Booking) -> dict[str, int]:
    """Bytes of the buffers that equations keep, each counted in the first layer that keeps it."""
    seen: set[int] = set()
    found: dict[str, int] = {}
    for e in trace.tape:
        layer = booking.layer_of.get(e.seq, "")
        for buffer in _buffers(e.saved):
            if id(buffer) not in seen and buffer.meter is not None:
                seen.add(id(buffer))
                found[layer] = found.get(layer, 0) + buffer.nbytes
    return found


def _buffers(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple | list):
        for part in value:
            yield from _buffers(part)
    elif hasattr(value, "buffer"):
        yield value.buffer
