"""Floating-point operations of a 12-layer net and its derivatives: our ledger beside the counters of PyTorch and JAX.

Nothing is timed. The net is `x = tanh(x @ w + b)`, twelve times, differentiated by x. What each counter counts:

    by hand     the products of matrices that are needed, 2 m k n each
    pullback    `pb.cost`: products, and all operations (one for each number that a function or an operator computes);
                each phase by itself, so the forward pass is added where a peer's call runs it too
    torch       `torch.utils.flop_counter.FlopCounterMode`: products only
    jax         `cost_analysis` of the compiled program: operations, and beside them `transcendentals` (each tanh)

Where they differ:

    torch, JVP                3 products a layer, not 2: its counter meets the primal product twice (so 258 walks, not
                              257, in the forward Jacobian)
    jax, VJP and JVP          the slope of tanh in 4 operations a number, ours in 3
    jax, both Jacobians       3 operations a number and walk, as ours, and beside them 1 - tanh^2 once (3,072) and two
                              for each number of the identity matrix that its batch of walks starts from (131,072)
    Jacobian, product         no peer has it
"""

from collections.abc import Callable
from typing import Any

import numpy as np

import pullback as pb

from .runner import installed, table

WIDTH, LAYERS, BATCH = 64, 12, 4
FORMS = ("forward", "VJP", "JVP", "Jacobian, reverse", "Jacobian, forward", "Jacobian, product")
Counts = dict[str, dict[str, int]]  # form -> kind of count -> number


class Net:
    """The weights, biases and input."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.weights = [rng.normal(size=(WIDTH, WIDTH)).astype("float32") / 8 for _ in range(LAYERS)]
        self.biases = [rng.normal(size=WIDTH).astype("float32") for _ in range(LAYERS)]
        self.x = rng.normal(size=(BATCH, WIDTH)).astype("float32")


def by_hand(net: Net) -> Counts:
    """Products alone: a walk makes one product per layer, a dense Jacobian two (by the input, and of tanh)."""
    size = BATCH * WIDTH
    forward = 2 * BATCH * WIDTH * WIDTH * LAYERS
    numbers = (forward, 2 * forward, 2 * forward, (size + 1) * forward, (size + 1) * forward)
    dense = forward + (LAYERS - 1) * 2 * size**3
    return {form: {"products": n} for form, n in zip(FORMS, (*numbers, dense), strict=True)}


def by_pullback(net: Net) -> Counts:
    """Each form with the forward pass that it needs."""

    def f(x: Any) -> Any:
        for w, b in zip(net.weights, net.biases, strict=True):
            x = pb.linear_tanh(x, w, b)
        return x

    report = pb.cost(f, net.x, argnums=0)
    counts = [report.forward.count, *(report.forward.count + phase.count for phase in (report.vjp, report.jvp))]
    counts += [report.jacobian[name].count for name in ("reverse", "forward", "product")]
    return {form: {"products": c.matmul_flops, "all": c.flops} for form, c in zip(FORMS, counts, strict=True)}


def by_torch(net: Net) -> Counts:
    """The calls of `torch.func`."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    weights, biases = map(torch.tensor, net.weights), map(torch.tensor, net.biases)
    layers, x = list(zip(weights, biases, strict=True)), torch.tensor(net.x)

    def f(x: Any) -> Any:
        for w, b in layers:
            x = torch.tanh(torch.nn.functional.linear(x, w.mT, b))
        return x

    def counted(run: Callable[[], Any]) -> dict[str, int]:
        with FlopCounterMode(display=False) as counter:
            run()
        return {"products": counter.get_total_flops()}

    calls: list[Callable[[], Any]] = [
        lambda: f(x),
        lambda: torch.func.vjp(f, x)[1](x),
        lambda: torch.func.jvp(f, (x,), (x,)),
        lambda: torch.func.jacrev(f)(x),
        lambda: torch.func.jacfwd(f)(x),
    ]
    return {form: counted(call) for form, call in zip(FORMS, calls, strict=False)}


def by_jax(net: Net) -> Counts:
    """The programs that XLA compiles."""
    import jax
    import jax.numpy as jnp

    layers = [(jnp.asarray(w), jnp.asarray(b)) for w, b in zip(net.weights, net.biases, strict=True)]
    x = jnp.asarray(net.x)

    def f(x: Any, layers: Any) -> Any:
        for w, b in layers:
            x = jnp.tanh(x @ w + b)
        return x

    def counted(program: Callable[..., Any]) -> dict[str, int]:
        analysis = jax.jit(program).lower(x, layers, x).compile().cost_analysis()
        flops, functions = int(analysis["flops"]), int(analysis.get("transcendentals", 0))
        return {"without functions": flops, "all": flops + functions}

    programs: list[Callable[..., Any]] = [
        lambda x, layers, _: f(x, layers),
        lambda x, layers, g: jax.vjp(lambda y: f(y, layers), x)[1](g),
        lambda x, layers, t: jax.jvp(lambda y: f(y, layers), (x,), (t,)),
        lambda x, layers, _: jax.jacrev(f)(x, layers),
        lambda x, layers, _: jax.jacfwd(f)(x, layers),
    ]
    return {form: counted(program) for form, program in zip(FORMS, programs, strict=False)}


COUNTERS: dict[str, Callable[[Net], Counts]] = {"pullback": by_pullback, "torch": by_torch, "jax": by_jax}


def answer(quick: bool) -> dict[str, Any]:
    """All counts, by counter and form."""
    net = Net()
    counts = {"by hand": by_hand(net)} | {name: count(net) for name, count in installed(COUNTERS).items()}
    columns = [(name, kind) for name, forms in counts.items() for kind in next(iter(forms.values()))]
    rows = {
        form: {f"{name}, {kind}": counts[name].get(form, {}).get(kind, "") for name, kind in columns} for form in FORMS
    }
    print(f"{LAYERS} layers of {WIDTH}, batch {BATCH}, by x: operations, forward pass included\n")
    table(rows, "form")
    return counts
