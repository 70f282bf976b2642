"""The race of vector-matrix against matrix-matrix: how long each way to a derivative takes as layers grow."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from time import perf_counter
from typing import Any

import numpy as np

from ..backends import backend_for
from ..costs.rates import copy_rate, matmul_rate
from ..errors import ArgumentError, GradientCheckError
from .fitting import fitted
from .peers import PEERS
from .racing import in_turns, installed, spread, turn_of
from .strategies import JACOBIANS, STRATEGIES, Net, Work, by_pullback, work_of

__all__ = ["Case", "Products", "Row"]

WIDEST = 4  # how many widths exponents are fitted on: below them calls cost as much as numbers


@dataclass(frozen=True, slots=True)
class Case:
    """A width: `name` as it was given, and the widths that layers take in turns."""

    name: str
    widths: tuple[int, ...]

    def sizes(self, depth: int) -> tuple[int, ...]:
        """The sizes of so many layers."""
        return tuple(self.widths[i % len(self.widths)] for i in range(depth + 1))


@dataclass
class Row:
    """One contender at one width: seconds per call in each round, and what the ledger predicts."""

    case: str
    sizes: tuple[int, ...]
    library: str
    strategy: str
    work: Work | None
    seconds: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Library and strategy."""
        return f"{self.library}, {self.strategy}"

    @property
    def median(self) -> float:
        """Seconds of a call."""
        return float(np.median(self.seconds))


@dataclass
class Products:
    """A sweep over widths; `run` may be left at any time, and what was measured until then is there.

    Attributes:
        cases, depth, batch, dtype, device, strategies, rounds, turn: What is measured, and how long.
        against: Peers, which have to be installed: see `PEERS`.
        longest: A contender is left out where its first call takes more seconds, or would at the rate of matmul.
        rows: What was measured.
        left_out: Contender and width -> why it is not there.
    """

    cases: Sequence[Case]
    depth: int = 8
    batch: int = 1
    dtype: str = "float32"
    device: str = "cpu"
    strategies: Sequence[str] = tuple(STRATEGIES)
    against: Sequence[str] = ()
    rounds: int = 7
    turn: float = 0.1
    longest: float = 5.0
    rows: list[Row] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.backend = backend_for(self.device)
        if self.backend.name == "meta":
            raise ArgumentError("bench products: arrays on 'meta' have no numbers, so nothing can be timed there")
        if self.against and self.backend.name != "cpu":
            raise ArgumentError("bench products: peers run on the CPU; leave --against out, or take --device cpu")
        there = installed({peer: peer for peer in self.against})
        self.left_out |= {peer: "not installed" for peer in self.against if peer not in there}
        self.against = tuple(there)

    @cached_property
    def rates(self) -> dict[str, Any]:
        """Operations and bytes per second of this machine: measured once, and kept."""
        found = {"matmul": matmul_rate(self.backend, self.dtype), "copy": copy_rate(self.backend)}
        return {name: asdict(rate) for name, rate in found.items() if rate is not None}

    def run(self, done: Callable[[Sequence[Row]], None], progress: Callable[[str, float, float], None]) -> None:
        """Measure every case.

        Args:
            done: Called with the rows of each case when it is measured.
            progress: Called after each turn with what runs, and the predicted seconds that are done and that there are
                in all.
        """
        works = {case.name: work_of(case.sizes(self.depth), self.batch, self.dtype) for case in self.cases}
        wholes = {case.name: self.rounds * sum(self._expected(works[case.name]).values()) for case in self.cases}
        before, whole = 0.0, sum(wholes.values())
        for case in self.cases:
            rows = []
            try:
                progress(f"{case.name}: getting ready", before, whole)
                contenders = self._contenders(case, works[case.name])
                rows = [row for row, _ in contenders]
                share = wholes[case.name] / max(self.rounds * len(rows), 1)
                turns = {row.name: turn_of(call, self.turn) for row, call in contenders}
                by_name = {row.name: row for row in rows}
                for number, (name, seconds) in enumerate(in_turns(turns, self.rounds), 1):
                    by_name[name].seconds.append(seconds)
                    progress(f"{case.name}: {name}", before + number * share, whole)
            finally:  # Ctrl-C may come anywhere
                self.rows += [row for row in _paired(rows) if row.seconds]
            before += wholes[case.name]
            done([row for row in self.rows if row.case == case.name])

    def _expected(self, works: dict[str, Work]) -> dict[str, float]:
        """Seconds that the contenders' turns take, by the machine's rates."""
        found = {f"pullback, {name}": self._least(works[name]) for name in self.strategies}
        for peer in self.against:
            found |= {f"{peer}, {name}": self._least(works[name]) for name in self.strategies}
        return {name: max(self.turn, 2 * seconds) for name, seconds in found.items() if seconds <= self.longest}

    def _least(self, work: Work) -> float:
        """Seconds that so many operations take at the rate of a product of matrices."""
        return work.flops / self.rates["matmul"]["amount"] if "matmul" in self.rates else 0.0

    def _contenders(self, case: Case, works: dict[str, Work]) -> list[tuple[Row, Callable[[], Any]]]:
        """Those that are fast enough; all of them give the same numbers."""
        sizes = case.sizes(self.depth)
        chosen = []
        for name in self.strategies:
            if self._least(works[name]) <= self.longest:
                chosen.append(name)
            else:
                text = f"{self._least(works[name]):.0f} s a call at the least, by its {works[name].flops:.3g} flops"
                self.left_out[f"{name} at {case.name}"] = text
        net = Net.random(sizes, self.batch, self.dtype)
        made = {("pullback", name): run for name, run in by_pullback(net, self.device, chosen).items()}
        for peer in self.against:
            made |= {(peer, name): run for name, run in PEERS[peer](net).items() if name in chosen}
        found, results = [], {}
        for (library, name), run in made.items():
            row = Row(case.name, sizes, library, name, works[name] if library == "pullback" else None)
            start = perf_counter()
            result = run()
            taken = perf_counter() - start
            results[row.name] = _numbers(result)
            if taken > self.longest:
                self.left_out[f"{row.name} at {case.name}"] = f"{taken:.1f} s for its first call"
            else:
                found.append((row, run))
        _check(results, net)
        return found

    # --- what was found ---

    def to_dict(self) -> dict[str, Any]:
        """Everything that was measured, by name."""
        named = {(row.case, row.name): row for row in self.rows}
        return {
            "settings": {
                "widths": [case.name for case in self.cases],
                "depth": self.depth, "batch": self.batch, "dtype": self.dtype, "device": self.device,
                "strategies": list(self.strategies), "against": list(self.against), "rounds": self.rounds,
                "longest": self.longest,
            },
            "rates": self.rates,
            "exponents": self.exponents(),
            "left out": self.left_out,
            "rows": [self.facts(row) | self._ratios(row, named) for row in self.rows],
        }  # fmt: skip

    def facts(self, row: Row) -> dict[str, Any]:
        """A row with what follows from its median."""
        found: dict[str, Any] = {
            "width": row.case, "sizes": list(row.sizes), "library": row.library, "strategy": row.strategy,
            "rounds": len(row.seconds), "ms": spread(np.array(row.seconds) * 1e3, 4),
        }  # fmt: skip
        if row.work is not None:
            rate = row.work.flops / row.median
            found |= {"flops": row.work.flops, "GFLOP/s": round(rate / 1e9, 3)}
            if "matmul" in self.rates:
                found["of matmul rate"] = round(rate / self.rates["matmul"]["amount"], 4)
            if row.work.nbytes is not None and "copy" in self.rates:
                found["bytes"] = row.work.nbytes
                found["of copy rate"] = round(row.work.nbytes / row.median / self.rates["copy"]["amount"], 4)
        return found

    def _ratios(self, row: Row, named: dict[tuple[str, str], Row]) -> dict[str, Any]:
        """Times as multiples of others in the same rounds: of our VJP, and of the peers' time for the same."""
        others = {"of our vjp": "pullback, vjp"} if row.strategy in JACOBIANS else {}
        if row.library == "pullback":
            others |= {f"of {peer}": f"{peer}, {row.strategy}" for peer in self.against}
        found = {}
        for what, name in others.items():
            other = named.get((row.case, name))
            if other is not None and len(other.seconds) == len(row.seconds):
                found[what] = spread(np.array(row.seconds) / np.array(other.seconds))
        return found

    def exponents(self) -> dict[str, Any]:
        """Contender -> the exponent of its time in the width, over the widest and over all widths that have one."""
        found: dict[str, Any] = {}
        for name, seconds in self.by_width().items():
            widest, every = fitted(seconds, WIDEST), fitted(seconds)
            if widest is not None and every is not None:
                found[name] = {
                    "exponent": round(widest.exponent, 3), "factor": widest.factor, "widths": list(widest.widths),
                    "over all widths": round(every.exponent, 3),
                }  # fmt: skip
        return found

    def by_width(self) -> dict[str, dict[int, float]]:
        """Contender -> width -> median seconds, where all layers have one width."""
        found: dict[str, dict[int, float]] = {}
        for row in self.rows:
            if len(set(row.sizes)) == 1:
                found.setdefault(row.name, {})[row.sizes[0]] = row.median
        return found


def _paired(rows: Sequence[Row]) -> Iterator[Row]:
    """The rows with their whole rounds alone, that rounds stay pairs; all there is where not one is whole."""
    whole = min((len(row.seconds) for row in rows), default=0)
    for row in rows:
        row.seconds = row.seconds[: whole or len(row.seconds)]
        yield row


def _numbers(result: Any) -> np.ndarray:
    return result.numpy() if hasattr(result, "numpy") else np.asarray(result)


def _check(results: dict[str, np.ndarray], net: Net) -> None:
    """All Jacobians are one, and a pull gives the cotangent times it."""
    jacobians = {name: result for name, result in results.items() if name.partition(", ")[2] in JACOBIANS}
    pulls = {name: result for name, result in results.items() if name.endswith(", vjp")}
    if jacobians and pulls:
        jacobian = next(iter(jacobians.values()))
        pulls = {"the cotangent times the Jacobian": np.squeeze(net.cotangent[..., None, :] @ jacobian, -2), **pulls}
    tolerance = 1e-3 if net.x.dtype.itemsize == 4 else 1e-8
    for group in (jacobians, pulls):
        expected = next(iter(group.values()), np.zeros(1))
        for name, result in group.items():
            if np.shape(result) != np.shape(expected) or not np.allclose(
                result, expected, rtol=0, atol=tolerance * float(np.abs(expected).max())
            ):
                raise GradientCheckError(f"bench products: {name} gives other numbers than {next(iter(group))}")
