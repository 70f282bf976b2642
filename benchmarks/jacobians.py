"""Seconds for a whole Jacobian: our modes beside JAX (jitted, warm) and HIPS autograd, in interleaved turns.

The nets take one vector to another. In the first, layers of 1024 and 32 take turns: a plan multiplies through the
waists, where both pure modes carry 1024 vectors through every layer. In the second all layers have one width. With
NumPy the layers' Jacobians are written out by hand, and `multi_dot` finds the order to multiply them in.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

import pullback as pb

from .runner import race_problem, spread, table

NETS = {
    "1024-32-1024, 8 layers": [1024, *[32, 1024] * 4],
    "8 layers of 128": [128] * 9,
}


class Chain:
    """The weights of dense layers of these sizes, each followed by tanh, and an input `x`."""

    def __init__(self, sizes: list[int]) -> None:
        rng = np.random.default_rng(0)
        self.weights = [(rng.normal(size=pair) / np.sqrt(pair[0])).astype("float32") for pair in pairwise(sizes)]
        self.x = rng.normal(size=sizes[0]).astype("float32")


def answer(quick: bool) -> dict[str, Any]:
    """Milliseconds by mode, and ratios."""
    answers = {}
    for net, sizes in NETS.items():
        times = race_problem(Chain(sizes), CONTENDERS, check, rounds=4 if quick else 30, turn=0.05 if quick else 0.3)
        rows: dict[str, dict[str, Any]] = {name: {"ms": spread(t * 1e3)} for name, t in times.items()}
        jax = [t for name, t in times.items() if name.startswith("jax")]
        for name, t in times.items():
            if jax and name.startswith("pullback"):
                rows[name]["of the better of JAX"] = spread(t / np.minimum.reduce(jax))
            if "autograd, jacobian" in times and name.startswith("pullback"):
                rows[name]["of autograd"] = spread(t / times["autograd, jacobian"])
        table(rows, net)
        print()
        answers[net] = rows
    return answers


def check(contenders: dict[str, Callable[[], Any]]) -> None:
    """All give the same numbers."""
    found = {name: np.asarray(run()) for name, run in contenders.items()}
    expected = found["numpy, multi_dot"]
    for name, jacobian in found.items():
        np.testing.assert_allclose(jacobian, expected, atol=1e-4 * np.abs(expected).max(), err_msg=name)


def by_pullback(mode: str, chain: Chain) -> Callable[[], Any]:
    """As the README shows it."""
    layers, x = [pb.asarray(w) for w in chain.weights], pb.asarray(chain.x)

    def f(x: Any) -> Any:
        for w in layers:
            x = pb.linear_tanh(x, w)
        return x

    derivative = pb.jacobian(f, mode=mode)
    return lambda: derivative(x).numpy()


def by_numpy(chain: Chain) -> Callable[[], Any]:
    """The chain rule as a product of matrices."""

    def run() -> Any:
        x, jacobians = chain.x, []
        for w in chain.weights:
            x = np.tanh(x @ w)
            jacobians.append((1 - x * x)[:, None] * w.T)
        return np.linalg.multi_dot(jacobians[::-1])

    return run


def by_jax(transform: str, chain: Chain) -> Callable[[], Any]:
    """Compiled for these shapes before it is timed."""
    import jax
    import jax.numpy as jnp

    layers, x = [jnp.asarray(w) for w in chain.weights], jnp.asarray(chain.x)

    def f(x: Any) -> Any:
        for w in layers:
            x = jnp.tanh(x @ w)
        return x

    compiled = jax.jit(getattr(jax, transform)(f))
    return lambda: compiled(x).block_until_ready()


def by_autograd(chain: Chain) -> Callable[[], Any]:
    """A VJP at a time."""
    import autograd
    import autograd.numpy as anp

    def f(x: Any) -> Any:
        for w in chain.weights:
            x = anp.tanh(anp.dot(x, w))
        return x

    derivative = autograd.jacobian(f)
    return lambda: derivative(chain.x)


CONTENDERS: dict[str, Callable[[Chain], Callable[[], Any]]] = {
    **{f"pullback, {mode}": partial(by_pullback, mode) for mode in ("reverse", "forward", "planned", "auto")},
    "numpy, multi_dot": by_numpy,
    **{f"jax, {transform}": partial(by_jax, transform) for transform in ("jacrev", "jacfwd")},
    "autograd, jacobian": by_autograd,
}
