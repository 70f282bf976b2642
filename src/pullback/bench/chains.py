"""How often a mixed order beats both pure modes: the planner on random chains, with an exhaustive search beside it."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ..errors import RuleError
from ..transforms.chain import chain_plan

__all__ = ["Chains", "Found", "every_cost", "random_chain"]

PLANS = 200_000  # how many plans of one length are searched
Chain = list[tuple[int, int, int]]


@dataclass
class Found:
    """What the chains of one length show.

    Attributes:
        checked: How many were compared with an exhaustive search.
        factors: For each chain the operations of the better pure mode over those of the optimum.
        best: The plan of the chain with the largest factor.
    """

    length: int
    checked: int = 0
    factors: list[float] = field(default_factory=list)
    best: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Share and factors; "times fewer" are means over all chains and over those where a mixed order wins."""
        wins = [factor for factor in self.factors if factor > 1]
        return {
            "length": self.length,
            "chains": len(self.factors),
            "mixed wins": round(len(wins) / len(self.factors), 4),
            "times fewer, mean": round(sum(self.factors) / len(self.factors), 4),
            "times fewer, mean of wins": round(sum(wins) / len(wins), 4) if wins else 1.0,
            "times fewer, max": round(max(self.factors), 4),
            "checked": self.checked,
            "best": self.best,
        }


@dataclass
class Chains:
    """Random chains; `run` may be left at any time, and what was found until then is there.

    Attributes:
        lengths: How many functions a chain has.
        count: Chains of each length.
        sizes, tapes: Least and most of the sizes between functions, and of the multiply-adds of a sweep over one.
        found: What was found, by length.
    """

    lengths: Sequence[int]
    count: int = 1000
    sizes: tuple[int, int] = (5, 50)
    tapes: tuple[int, int] = (1000, 10000)
    seed: int = 0
    found: list[Found] = field(default_factory=list)

    def run(self, done: Callable[[Found], None], progress: Callable[[], None]) -> None:
        """Plan every chain; `done` is called after each length and `progress` after each chain.

        Raises:
            RuleError: an exhaustive search found another optimum.
        """
        for length in self.lengths:
            found, chance = Found(length), random.Random(f"{self.seed} {length}")
            searched = min(self.count, PLANS // _plans(length))
            for number in range(self.count):
                chain = random_chain(chance, length, self.sizes, self.tapes)
                plan = chain_plan(chain)
                if number < searched:
                    least = min(every_cost(chain))
                    if least != plan.optimum:
                        raise RuleError(f"chain_plan gives {plan.optimum:,}, an exhaustive search {least:,}: {chain}")
                    found.checked += 1
                factor = min(plan.tangent, plan.adjoint) / plan.optimum
                if factor > max(found.factors, default=0):
                    found.best = plan.bracketing
                found.factors.append(factor)
                if number == 0:
                    self.found.append(found)
                progress()
            done(found)

    def to_dict(self) -> dict[str, Any]:
        """Everything that was found."""
        return {
            "settings": {
                "lengths": list(self.lengths), "chains": self.count, "sizes": list(self.sizes),
                "tapes": list(self.tapes), "seed": self.seed,
            },
            "rows": [found.to_dict() for found in self.found],
        }  # fmt: skip


def random_chain(chance: random.Random, length: int, sizes: tuple[int, int], tapes: tuple[int, int]) -> Chain:
    """A chain as `chain_plan` takes it."""
    lengths = [chance.randint(*sizes) for _ in range(length + 1)]
    return [(m, n, chance.randint(*tapes)) for n, m in pairwise(lengths)]


def every_cost(chain: Chain) -> Iterator[int]:
    """The cost of every plan, counted as it is carried out: no table, and no part is looked up."""
    if len(chain) == 1:
        ((m, n, tape),) = chain
        yield tape * min(m, n)
        return
    rows, columns = chain[-1][0], chain[0][1]
    for split in range(1, len(chain)):
        inner, outer = chain[:split], chain[split:]
        inners, outers = list(every_cost(inner)), list(every_cost(outer))
        product = rows * inner[-1][0] * columns
        adjoint, tangent = rows * sum(tape for *_, tape in inner), columns * sum(tape for *_, tape in outer)
        yield from (a + b + product for a in outers for b in inners)
        yield from (a + adjoint for a in outers)
        yield from (b + tangent for b in inners)


def _plans(length: int) -> int:
    """How many plans `every_cost` goes through."""
    counts = [0, 1]
    for n in range(2, length + 1):
        counts.append(sum(counts[k] * counts[n - k] + counts[k] + counts[n - k] for k in range(1, n)))
    return counts[length]
