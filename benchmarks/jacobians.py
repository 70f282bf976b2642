"""Seconds for a whole Jacobian: our modes beside JAX (jitted, warm) and HIPS autograd, one interleaved run.

The nets take one vector to another. In the first, layers of 1024 and 32 take turns: a plan multiplies through the
waists, where both pure modes carry 1024 vectors through every layer. In the second all layers have one width.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

import pullback as pb

from .runner import installed, race, spread, table

NETS = {
    "1024-32-1024, 8 layers": [1024, *[32, 1024] * 4],
    "8 layers of 128": [128] * 9,
}
Weights = list[np.ndarray]
Maker = Callable[[Weights, np.ndarray], dict[str, Callable[[], Any]]]


def answer(quick: bool) -> dict[str, Any]:
    """Milliseconds by mode, and ratios."""
    answers = {}
    for net, sizes in NETS.items():
        rng = np.random.default_rng(0)
        weights = [(rng.normal(size=shape) / np.sqrt(shape[0])).astype("float32") for shape in pairwise(sizes)]
        x = rng.normal(size=sizes[0]).astype("float32")
        makers = installed(MAKERS)
        contenders = {name: run for make in makers.values() for name, run in make(weights, x).items()}
        check(contenders)
        times = race(contenders, rounds=4 if quick else 30, turn=0.05 if quick else 0.3)
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
    expected = found["pullback, reverse"]
    for name, jacobian in found.items():
        np.testing.assert_allclose(jacobian, expected, atol=1e-4 * np.abs(expected).max(), err_msg=name)


def by_pullback(weights: Weights, x: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Every mode."""
    layers, given = [pb.asarray(w) for w in weights], pb.asarray(x)

    def f(x: Any) -> Any:
        for w in layers:
            x = pb.linear_tanh(x, w)
        return x

    def run(mode: str) -> Callable[[], Any]:
        derivative = pb.jacobian(f, mode=mode)
        return lambda: derivative(given).numpy()

    return {f"pullback, {mode}": run(mode) for mode in ("reverse", "forward", "planned", "auto")}


def by_jax(weights: Weights, x: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Both transforms, compiled."""
    import jax
    import jax.numpy as jnp

    layers, given = [jnp.asarray(w) for w in weights], jnp.asarray(x)

    def f(x: Any) -> Any:
        for w in layers:
            x = jnp.tanh(x @ w)
        return x

    def run(transform: Any) -> Callable[[], Any]:
        compiled = jax.jit(transform(f))
        return lambda: compiled(given).block_until_ready()

    return {"jax, jacrev": run(jax.jacrev), "jax, jacfwd": run(jax.jacfwd)}


def by_autograd(weights: Weights, x: np.ndarray) -> dict[str, Callable[[], Any]]:
    """A VJP at a time."""
    import autograd
    import autograd.numpy as anp

    def f(x: Any) -> Any:
        for w in weights:
            x = anp.tanh(anp.dot(x, w))
        return x

    derivative = autograd.jacobian(f)
    return {"autograd, jacobian": lambda: derivative(x)}


MAKERS: dict[str, Maker] = {"pullback": by_pullback, "jax": by_jax, "autograd": by_autograd}
