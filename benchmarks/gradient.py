"""What the gradient of an MLP costs as a multiple of its value: operations by the ledger, seconds on this machine.

A gradient costs a small multiple of its function, whatever the number of inputs (A. Griewank and A. Walther,
"Evaluating derivatives", 2008). For products of matrices it is 3, less the cotangent of the first layer's input, which
nobody asks for; in time we allow 4.
"""

from collections.abc import Callable
from typing import Any

import pullback as pb

from .runner import race, spread, table
from .steps import Problem

NETS = {
    "64-32-10, batch 32": ((64, 32, 10), 32),
    "784-512-512-10, batch 128": ((784, 512, 512, 10), 128),
    "12 x 512, batch 256": ((512,) * 13, 256),
}
TARGET = 4.0


def contenders(problem: Problem, activation: str) -> tuple[Callable[[], Any], Callable[[], Any], Any]:
    """The value alone, the value and its gradient by all parameters, and what both cost."""
    net = pb.nn.MLP(problem.sizes, activation)
    x, labels = pb.asarray(problem.x), pb.asarray(problem.labels)

    def loss() -> Any:
        return pb.cross_entropy(net(x), labels)

    def gradient() -> Any:
        net.zero_grad()
        value = loss()
        value.backward()
        return value

    return pb.no_grad()(loss), gradient, pb.cost(loss)


def answer(quick: bool) -> dict[str, Any]:
    """Multiples by net and activation."""
    rows = {}
    for (net, (sizes, batch)), activation in [(n, a) for n in NETS.items() for a in ("relu", "gelu")]:
        value, gradient, report = contenders(Problem(sizes, batch), activation)
        seconds = race({"value": value, "gradient": gradient}, rounds=4 if quick else 30, turn=0.02 if quick else 0.2)
        counts = [report.forward.count, report.vjp.count]
        rows[f"{net}, {activation}"] = {
            "us of the value": spread(seconds["value"] * 1e6, 1),
            "time": spread(seconds["gradient"] / seconds["value"]),
            "products": sum(c.matmul_flops for c in counts) / counts[0].matmul_flops,
            "operations": sum(c.flops for c in counts) / counts[0].flops,
        }
    print(f"value and gradient as a multiple of the value (asked: products at most 3, time at most {TARGET:g})\n")
    table(rows, "net")
    return rows
