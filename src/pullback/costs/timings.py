"""Measured times, summed and set beside what was done and what this machine can do."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any

from ..backends import backend_for
from .ledger import Count
from .rates import Rate, copy_rate, matmul_rate
from .signatures import Work
from .tables import count_text, table
from .timeline import PREFIXES, Event

__all__ = ["Line", "Timing", "lines_of", "rates_of", "summed", "text_of"]

TOP = 10  # lines that are printed


@dataclass(frozen=True, slots=True)
class Timing:
    """What several calls took and did.

    Attributes:
        calls: How many there were.
        seconds: The time of all of them.
        count: What they did, as `pb.cost` counts it; None where that is not known of all: it depends on numbers, or
            an optimizer's update.
    """

    calls: int
    seconds: float
    count: Count | None

    def __add__(self, other: "Timing") -> "Timing":
        known = None if self.count is None or other.count is None else self.count + other.count
        return Timing(self.calls + other.calls, self.seconds + other.seconds, known)

    @property
    def flop_rate(self) -> float | None:
        """Floating-point operations per second."""
        return None if self.count is None or not self.seconds else self.count.flops / self.seconds

    @property
    def byte_rate(self) -> float | None:
        """Bytes read and written per second."""
        return None if self.count is None or not self.seconds else (self.count.read + self.count.written) / self.seconds


@dataclass(frozen=True, slots=True)
class Line:
    """What one op took in one layer and phase.

    Attributes:
        op: The name of the op, or of an optimizer.
        rules: Whether it was not the op but its rules: "vjp" or "jvp"; else empty.
        layer: The dotted name of the module.
        phase: "forward", "vjp", "jvp", or "update" of an optimizer.
        device: The kind of device.
        dtype: The first floating-point dtype that it met; empty where there was none.
        timing: The sum.
    """

    op: str
    rules: str
    layer: str
    phase: str
    device: str
    dtype: str
    timing: Timing

    def to_dict(self, rates: Mapping[tuple[str, str], Rate]) -> dict[str, Any]:
        """The facts by name, with shares of `rates_of`."""
        matmul, copy = self.shares(rates)
        count = self.timing.count
        return {
            "op": self.op, "rules": self.rules, "layer": self.layer, "phase": self.phase, "device": self.device,
            "dtype": self.dtype, "calls": self.timing.calls, "seconds": self.timing.seconds,
            "count": None if count is None else count.to_dict(),
            "flops_per_second": self.timing.flop_rate, "bytes_per_second": self.timing.byte_rate,
            "of_matmul_rate": matmul, "of_copy_rate": copy,
        }  # fmt: skip

    def shares(self, rates: Mapping[tuple[str, str], Rate]) -> tuple[float | None, float | None]:
        """The flops as a share of the matmul rate, the bytes as one of the copy rate."""
        return (
            _share(self.timing.flop_rate, rates.get((self.device, self.dtype)) if self.dtype else None),
            _share(self.timing.byte_rate, rates.get((self.device, ""))),
        )


def _share(amount: float | None, rate: Rate | None) -> float | None:
    return None if amount is None or rate is None else amount / rate.amount


def lines_of(events: Sequence[Event], places: Sequence[tuple[float, float]], works: Sequence[Work]) -> list[Line]:
    """One line for each op, layer, phase, device and dtype, by falling time. What is inside of an event is not its."""
    sums: dict[tuple[str, str, str, str, str, str], tuple[list[float], Counter[Count | None]]] = {}
    for i, (event, (start, end), work) in enumerate(zip(events, places, works, strict=True)):
        seconds, inside = end - start, i - 1
        while inside >= event.first:
            if events[inside].backend is event.backend:
                seconds -= places[inside][1] - places[inside][0]
            inside = events[inside].first - 1
        rules = event.what if event.what in PREFIXES else ""
        key = event.name, rules, event.layer, event.phase, event.backend.name, work.dtype
        times, counts = sums.setdefault(key, ([], Counter()))
        times.append(max(seconds, 0.0))
        counts[work.count] += 1
    lines = [Line(*key, Timing(len(times), fsum(times), _sum(counts))) for key, (times, counts) in sums.items()]
    return sorted(lines, key=lambda line: -line.timing.seconds)


def _sum(counts: Counter[Count | None]) -> Count | None:
    """All counts as often as they are there; None if one is not known."""
    total = Count()
    for count, times in counts.items():
        if count is None:
            return None
        total += count * times
    return total


def summed(lines: Sequence[Line], key: Callable[[Line], str]) -> dict[str, dict[str, Timing]]:
    """Key -> phase -> the sum of the lines."""
    found: dict[str, dict[str, Timing]] = {}
    for line in lines:
        phases = found.setdefault(key(line), {})
        phases[line.phase] = phases[line.phase] + line.timing if line.phase in phases else line.timing
    return found


def rates_of(lines: Sequence[Line]) -> dict[tuple[str, str], Rate]:
    """(device, dtype) -> the matmul rate, and (device, "") -> the copy rate, of all that is known on the lines."""
    found: dict[tuple[str, str], Rate | None] = {}
    for device, dtype in sorted({(x.device, x.dtype) for x in lines if x.dtype and x.timing.count is not None}):
        backend = backend_for(device)
        found[device, dtype] = matmul_rate(backend, dtype)
        if (device, "") not in found:
            found[device, ""] = copy_rate(backend)
    return {key: rate for key, rate in found.items() if rate is not None}


# --- text -------------------------------------------------------------------------------------------------------------

HEAD = ["op", "layer", "phase", "calls", "time", "share", "flops", "GFLOP/s", "of matmul", "GB/s", "of copy"]


def text_of(lines: Sequence[Line], seconds: float, unaccounted: Mapping[str, float]) -> str:
    """The lines that took longest, the phases, and the rates that they are set against."""
    rates = rates_of(lines)
    rows = [_row(line, seconds, rates) for line in lines[:TOP]]
    if len(lines) > TOP:
        rest = [line.timing for line in lines[TOP:]]
        took = sum(timing.seconds for timing in rest)
        calls = f"{sum(timing.calls for timing in rest):,}"
        rows.append([f"({len(rest)} more)", "", "", calls, _time(took), _percent(took / seconds), *[""] * 5])
    parts = [table(HEAD, rows)] if rows else []
    phases = summed(lines, lambda line: "").get("", {})
    totals = [_total(phase, timing, seconds) for phase, timing in phases.items()]
    for device, left in unaccounted.items():
        name = "unaccounted" if len(unaccounted) == 1 else f"unaccounted on {device}"
        totals.append([name, "", _time(left), _percent(left / seconds), "", ""])
    totals.append(["all", "", _time(seconds), "", "", ""])
    parts.append(table(["phase", "calls", "time", "share", "flops", "GFLOP/s"], totals))
    said = [
        f"{'matmul' if dtype else 'copy'} rate of {device}: {rate.amount / 1e9:,.4g} "
        f"{'GFLOP' if dtype else 'GB'}/s ({rate.of})"
        for (device, dtype), rate in rates.items()
    ]
    return "\n\n".join([*parts, *(["\n".join(said)] if said else [])])


def _row(line: Line, seconds: float, rates: Mapping[tuple[str, str], Rate]) -> list[str]:
    timing = line.timing
    matmul, copy = line.shares(rates)
    return [
        PREFIXES.get(line.rules, "") + line.op, line.layer, line.phase, f"{timing.calls:,}", _time(timing.seconds),
        _percent(timing.seconds / seconds), "" if timing.count is None else count_text(timing.count.flops),
        _giga(timing.flop_rate), _percent(matmul), _giga(timing.byte_rate), _percent(copy),
    ]  # fmt: skip


def _total(phase: str, timing: Timing, seconds: float) -> list[str]:
    return [
        phase, f"{timing.calls:,}", _time(timing.seconds), _percent(timing.seconds / seconds),
        "" if timing.count is None else count_text(timing.count.flops), _giga(timing.flop_rate),
    ]  # fmt: skip


def _time(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.4g} {unit}"
    return f"{seconds * 1e6:.4g} us"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _giga(amount: float | None) -> str:
    return "" if amount is None else f"{amount / 1e9:.4g}"
