"""Ways to differentiate a chain of dense layers: one cotangent pulled through it, or its Jacobian.

The net is `x = tanh(x @ w)`, layer after layer. With a batch the Jacobian is that of each example by itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ..backends import backend_for
from ..backends.meta.metering import metering
from ..core.op import OPS
from ..core.tensor import Tensor, tensor
from ..costs.ledger import Count, Ledger
from ..costs.report import cost
from ..jacobians import jacobian, plan_jacobian
from ..ops.creation import zeros
from ..ops.products import matmul
from ..ops.shaping import expand_dims
from ..ops.transcendental import tanh
from ..transforms.chain import Segment, cheapest
from ..transforms.reverse import vjp
from ..transforms.vmap import vmap

__all__ = ["JACOBIANS", "STRATEGIES", "Net", "Work", "by_pullback", "work_of"]

STRATEGIES = {
    "forward pass": "the value alone",
    "vjp": "one cotangent pulled back, after a forward pass that is not timed: vector times matrix, layer by layer",
    "forward order": "the layers' dense Jacobians made and multiplied, the innermost first: matrix times matrix",
    "preaccumulation": "all dense Jacobians made, then multiplied in their best order",
    "jacrev": "pb.jacobian(mode='reverse'): vmapped VJPs, forward pass included",
    "jacfwd": "pb.jacobian(mode='forward'): vmapped JVPs, forward pass included",
    "planned": "pb.jacobian(mode='planned'): the order of fewest operations, forward pass included",
}
JACOBIANS = ("forward order", "preaccumulation", "jacrev", "jacfwd", "planned")
_MODES = {"jacrev": "reverse", "jacfwd": "forward", "planned": "planned"}


@dataclass(frozen=True)
class Net:
    """Weights, an input and a cotangent of the output, in NumPy; `batch` 1 stands for one vector without a batch."""

    sizes: tuple[int, ...]
    batch: int
    weights: list[np.ndarray]
    x: np.ndarray
    cotangent: np.ndarray

    @classmethod
    def random(cls, sizes: Sequence[int], batch: int, dtype: str) -> "Net":
        """Numbers from a fixed seed, at which no tanh is saturated."""
        rng = np.random.default_rng(0)
        shape = () if batch == 1 else (batch,)
        weights = [(rng.normal(size=pair) / np.sqrt(pair[0])).astype(dtype) for pair in pairwise(sizes)]
        x, cotangent = (rng.normal(size=(*shape, size)).astype(dtype) for size in (sizes[0], sizes[-1]))
        return cls(tuple(sizes), batch, weights, x, cotangent)


@dataclass(frozen=True, slots=True)
class Work:
    """What a strategy does: floating-point operations, and bytes read and written where each is counted once."""

    flops: int
    nbytes: int | None = None


def by_pullback(net: Net, device: str, strategies: Sequence[str]) -> dict[str, Callable[[], Tensor]]:
    """A function for each strategy; on a GPU it comes back when the work is done."""
    weights = [tensor(w, device=device) for w in net.weights]
    x, cotangent = tensor(net.x, device=device), tensor(net.cotangent, device=device)
    backend = backend_for(device)
    made = _strategies(weights, x, cotangent)

    def finished(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        if backend.name == "cpu":
            return run

        def waiting() -> Tensor:
            out = run()
            backend.synchronize()
            return out

        return waiting

    return {name: finished(made[name]()) for name in STRATEGIES if name in strategies}


def work_of(sizes: Sequence[int], batch: int, dtype: str) -> dict[str, Work]:
    """What each strategy does by the ledger, from shapes alone."""
    shape = () if batch == 1 else (batch,)
    weights = [zeros(pair, dtype=dtype, device="meta") for pair in pairwise(sizes)]
    x, cotangent = (zeros((*shape, size), dtype=dtype, device="meta") for size in (sizes[0], sizes[-1]))
    f = _net(weights)
    report = cost(f, x, argnums=0)
    found = {"forward pass": _moved(report.forward.count), "vjp": _moved(report.vjp.count)}
    made = _strategies(weights, x, cotangent)
    for name in ("forward order", "preaccumulation"):
        run, ledger = made[name](), Ledger()
        with metering(ledger):
            run()
        found[name] = _moved(ledger.total("forward"))
    modes = plan_jacobian(f, zeros((sizes[0],), dtype=dtype, device="meta")).modes
    once = cost(f, zeros((sizes[0],), dtype=dtype, device="meta"), argnums=0).forward.count.flops
    return found | {name: Work(batch * (once + modes[mode].flops)) for name, mode in _MODES.items()}


def _moved(count: Count) -> Work:
    return Work(count.flops, count.read + count.written)


def _net(weights: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    def f(x: Tensor) -> Tensor:
        for w in weights:
            x = OPS["linear_tanh"].call(x, w)
        return x

    return f


def _strategies(weights: Sequence[Tensor], x: Tensor, cotangent: Tensor) -> dict[str, Callable[[], Any]]:
    """Strategy -> what prepares it and gives the function that is timed."""
    f = _net(weights)

    def pulled() -> Callable[[], Any]:
        _, pull = vjp(f, x)
        return lambda: pull(cotangent)[0]

    def of_mode(mode: str) -> Callable[[], Any]:
        derivative = jacobian(f, mode=mode)
        whole = derivative if x.ndim == 1 else vmap(derivative)
        return lambda: whole(x)

    return {
        "forward pass": lambda: lambda: f(x),
        "vjp": pulled,
        "forward order": lambda: _forward_order(weights, x),
        "preaccumulation": lambda: _preaccumulation(weights, x),
        **{name: lambda mode=mode: of_mode(mode) for name, mode in _MODES.items()},  # type: ignore[misc]
    }


def _values(weights: Sequence[Tensor], x: Tensor) -> list[Tensor]:
    """What each layer gives."""
    found = []
    for w in weights:
        x = tanh(matmul(x, w))
        found.append(x)
    return found


def _elementary(w: Tensor, value: Tensor) -> Tensor:
    """The Jacobian of a layer: diag(1 - tanh²) wᵀ."""
    return expand_dims(1 - value * value, axis=-1) * w.mT


def _forward_order(weights: Sequence[Tensor], x: Tensor) -> Callable[[], Tensor]:
    values = _values(weights, x)

    def run() -> Tensor:
        out = _elementary(weights[0], values[0])
        for w, value in zip(weights[1:], values[1:], strict=True):
            out = matmul(_elementary(w, value), out)
        return out

    return run


def _preaccumulation(weights: Sequence[Tensor], x: Tensor) -> Callable[[], Tensor]:
    values = _values(weights, x)
    never = 10**30  # a tape that no sweep pays for
    factors = [(w.shape[1], w.shape[0], never) for w in weights]
    plan = cheapest(factors, [0] * len(factors)).plan

    def product(segment: Segment, elementary: Sequence[Tensor]) -> Tensor:
        if segment.outer is None or segment.inner is None:
            return elementary[segment.first]
        return matmul(product(segment.outer, elementary), product(segment.inner, elementary))

    return lambda: product(plan, [_elementary(w, value) for w, value in zip(weights, values, strict=True)])
