"""The same derivatives by other libraries, on the CPU; a pull is compiled or recorded before it is timed."""

import os
from collections.abc import Callable
from typing import Any

from .strategies import Net

__all__ = ["PEERS"]

Runs = dict[str, Callable[[], Any]]  # strategy -> a function that comes back when the work is done


def by_jax(net: Net) -> Runs:
    """Compiled and warm."""
    if os.environ.get("OMP_NUM_THREADS") == "1":  # which XLA does not read: it takes all cores or one
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    import jax
    import jax.numpy as jnp

    if net.x.dtype == "float64":
        config: Any = jax.config
        config.update("jax_enable_x64", True)
    weights, x, cotangent = [jnp.asarray(w) for w in net.weights], jnp.asarray(net.x), jnp.asarray(net.cotangent)

    def f(x: Any, weights: Any) -> Any:
        for w in weights:
            x = jnp.tanh(x @ w)
        return x

    def transformed(transform: Any) -> Callable[[], Any]:
        derivative = transform(f)
        compiled = jax.jit(derivative if net.batch == 1 else jax.vmap(derivative, in_axes=(0, None)))
        return lambda: compiled(x, weights).block_until_ready()

    pull = jax.vjp(lambda x: f(x, weights), x)[1]
    pulled = jax.jit(lambda pull, g: pull(g)[0])
    return {
        "vjp": lambda: pulled(pull, cotangent).block_until_ready(),
        "jacrev": transformed(jax.jacrev),
        "jacfwd": transformed(jax.jacfwd),
    }


def by_torch(net: Net) -> Runs:
    """Eager, by `torch.func`."""
    import torch

    weights, x, cotangent = [torch.tensor(w) for w in net.weights], torch.tensor(net.x), torch.tensor(net.cotangent)

    def f(x: Any) -> Any:
        for w in weights:
            x = torch.tanh(x @ w)
        return x

    def transformed(transform: Any) -> Callable[[], Any]:
        derivative = transform(f)
        whole = derivative if net.batch == 1 else torch.func.vmap(derivative)
        return lambda: whole(x)

    leaf = x.clone().requires_grad_()
    out = f(leaf)
    return {
        "vjp": lambda: torch.autograd.grad(out, leaf, cotangent, retain_graph=True)[0],
        "jacrev": transformed(torch.func.jacrev),
        "jacfwd": transformed(torch.func.jacfwd),
    }


def by_autograd(net: Net) -> Runs:
    """HIPS autograd; its Jacobian pulls one row after another, and one example after another."""
    import autograd
    import autograd.numpy as anp

    def f(x: Any) -> Any:
        for w in net.weights:
            x = anp.tanh(anp.dot(x, w))
        return x

    pull = autograd.make_vjp(f)(net.x)[0]
    derivative = autograd.jacobian(f)
    if net.batch == 1:
        return {"vjp": lambda: pull(net.cotangent), "jacrev": lambda: derivative(net.x)}
    return {"vjp": lambda: pull(net.cotangent), "jacrev": lambda: anp.stack([derivative(x) for x in net.x])}


PEERS: dict[str, Callable[[Net], Runs]] = {"jax": by_jax, "torch": by_torch, "autograd": by_autograd}
