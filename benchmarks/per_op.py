"""What one op costs: a chain of `tanh` on 32 numbers, recorded and pulled, beside NumPy's own calls and the peers.

NumPy's calls are the arithmetic that nobody can leave out: `tanh`, and for the pull a square, a difference from 1 and
a product. What a library takes beyond them is what it takes to write the tape and to walk it.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

import pullback as pb

from .runner import installed, race_apart, spread, table

LENGTH = 200
NUMBERS = 32
X = np.linspace(-1, 1, NUMBERS, dtype="float32")
ONES = np.ones(NUMBERS, "float32")


def answer(quick: bool) -> dict[str, Any]:
    """Microseconds per op, record and pull together."""
    seconds = race_apart(installed(CONTENDERS), rounds=10 if quick else 100)
    times = {name: t / LENGTH * 1e6 for name, t in seconds.items()}
    own = times["numpy"]
    rows = {
        name: {
            "us per op": spread(t),
            "minimum": float(t.min()),
            "beyond NumPy, us": spread(t - own),
            "beyond NumPy, of minima": float(t.min() - own.min()),
        }
        for name, t in times.items()
    }
    table(rows, f"tanh of {NUMBERS} float32 numbers")
    return rows


def by_numpy() -> Callable[[], Any]:
    """The same arithmetic and nothing else."""

    def run() -> Any:
        h, outs = X, []
        for _ in range(LENGTH):
            h = np.tanh(h)
            outs.append(h)
        g = ONES
        while outs:
            out = outs.pop()
            g = g * (1.0 - out * out)
        return g

    return run


def by_pullback() -> Callable[[], Any]:
    """`backward` into a leaf."""
    x, tanh = pb.tensor(X, requires_grad=True), pb.tanh

    def run() -> Any:
        h = x
        for _ in range(LENGTH):
            h = tanh(h)
        x.zero_grad()
        h.backward(ONES)
        return x.grad.numpy()

    return run


def by_autograd() -> Callable[[], Any]:
    """`make_vjp`, what `autograd.grad` stands on."""
    import autograd.numpy as anp
    from autograd import make_vjp

    def chain(x: Any) -> Any:
        tanh = anp.tanh
        for _ in range(LENGTH):
            x = tanh(x)
        return x

    vjp = make_vjp(chain)
    return lambda: vjp(X)[0](ONES)


def by_mygrad() -> Callable[[], Any]:
    """With its memory guard off, as its documentation advises for speed."""
    import mygrad

    mygrad.turn_memory_guarding_off()
    x, tanh = mygrad.tensor(X), mygrad.tanh

    def run() -> Any:
        h = x
        for _ in range(LENGTH):
            h = tanh(h)
        h.backward(ONES)
        return x.grad

    return run


def by_torch() -> Callable[[], Any]:
    """`backward` into a leaf."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    x, ones, tanh = torch.tensor(X, requires_grad=True), torch.tensor(ONES), torch.tanh

    def run() -> Any:
        h = x
        for _ in range(LENGTH):
            h = tanh(h)
        x.grad = None
        h.backward(ones)
        return x.grad.numpy()

    return run


CONTENDERS = {
    "numpy": by_numpy, "pullback": by_pullback, "autograd": by_autograd, "mygrad": by_mygrad, "torch": by_torch,
}  # fmt: skip
