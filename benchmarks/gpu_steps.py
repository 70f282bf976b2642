"""Seconds for an eager training step of an MLP on the GPU, and what it launches: beside PyTorch and JAX.

Forward, cross-entropy, backward, AdamW; gelu (the exact one) between the layers. Each contender lives in a process of
its own and they take turns. Products of float32 are in float32: TF32 is off everywhere. In bfloat16 pullback keeps
master weights and the optimizer's state in float32, PyTorch and JAX as written here keep all in bfloat16.
"""

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np

import pullback as pb
from pullback.backends import backend_for

from .gpu_device import TINY, Report, Scale, set_kernels, watched
from .runner import _apart, _in_turns, race, spread, table
from .steps import Step

__all__ = ["CONTENDERS", "by_jax", "by_pullback", "by_torch", "launches", "training_steps"]

RATE, DECAY = 1e-3, 1e-2
TYPES = ("float32", "bfloat16")
Maker = Callable[..., Step]


class Problem:
    """A batch `x` with `labels`, and the first weights of a net."""

    def __init__(self, sizes: tuple[int, ...], batch: int) -> None:
        rng, kind = np.random.default_rng(0), np.float32
        self.sizes = sizes
        self.x = rng.standard_normal((batch, sizes[0]), kind)
        self.labels = rng.integers(0, sizes[-1], size=batch)
        self.weights = [rng.standard_normal(pair, kind) * kind((2 / pair[0]) ** 0.5) for pair in pairwise(sizes)]
        self.biases = [np.zeros(n, kind) for n in sizes[1:]]

    def parameters(self) -> list[np.ndarray]:
        """Weight, bias, weight, bias, ..."""
        return [p for pair in zip(self.weights, self.biases, strict=True) for p in pair]


def training_steps(report: Report, scale: Scale) -> None:
    """Microseconds per step of each contender, our time as a multiple of each, and our launches."""
    for net, (sizes, batch, together) in scale.nets.items():
        for dtype in [dtype for dtype in TYPES if dtype in scale.types]:
            name = f"{net}, {dtype}"
            narrow = tuple(min(n, 256) for n in sizes)  # it launches as much
            report.add(name, "launches of our kernels", launches(Problem(narrow, 32), dtype))
            try:
                times = _race(report, name, partial(Problem, sizes, batch), dtype, together, scale)
            except EOFError:
                report.add(name, "failed", "a process died in the middle of the race")
                continue
            own = times.get("pullback")
            rows: dict[str, dict[str, Any]] = {}
            for contender, seconds in times.items():
                rows[contender] = {"us per step": spread(seconds * 1e6, 1)}
                if own is not None:
                    rows[contender]["ours / theirs"] = spread(own / seconds)
                report.add(name, contender, rows[contender])
            table(rows, name)


def launches(problem: Problem, dtype: str) -> dict[str, int]:
    """The kernels of ours that a step launches, by their templates; products and CuPy's own kernels come on top."""
    step = by_pullback(problem, dtype)
    step()  # makes what is made once
    with watched() as found:
        step()
    return dict(Counter(launch.kernel.expression for launch in found))


def _race(
    report: Report, name: str, problem: Callable[[], Problem], dtype: str, together: int, scale: Scale
) -> dict[str, np.ndarray]:
    """Seconds per step of those contenders that are installed and run."""
    if scale is TINY:
        return race({"pullback": repeated(by_pullback, problem, dtype, 1)}, scale.rounds, scale.turn)
    turns = {}
    with ExitStack() as stack, ThreadPoolExecutor() as starting:
        started = {}
        for contender, make in CONTENDERS.items():
            if contender.partition(",")[0] != "pullback" and not find_spec(contender):
                report.add(name, contender, "not installed")
                continue
            process = _apart(partial(repeated, make, problem, dtype, together), scale.turn)
            started[contender] = process, starting.submit(process.__enter__)
        for contender, (process, ready) in started.items():
            try:
                turns[contender] = ready.result()
                stack.push(process)
            except (EOFError, OSError) as error:  # its process died, and has said why
                report.add(name, contender, f"did not run: {type(error).__name__}")
        return {contender: t / together for contender, t in _in_turns(turns, scale.rounds).items()}


def repeated(make: Maker, problem: Callable[[], Problem], dtype: str, together: int) -> Callable[[], None]:
    """Several steps, and the wait until the device has done them."""
    step = make(problem(), dtype)

    def run() -> None:
        for _ in range(together):
            loss = step()
        float(loss)

    return run


# --- contenders: each gives a step whose value is the loss before it, on the device -----------------------------------


def by_pullback(problem: Problem, dtype: str, device: str = "cuda") -> Step:
    """As the README shows it."""
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    net = pb.nn.MLP(problem.sizes, activation="gelu", dtype=kind)
    given = [p.astype(kind) for p in problem.parameters()]
    net.load_state_dict(dict(zip(net.parameters(), given, strict=True)))
    net = net.to(device)
    adam = pb.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY)
    x, labels = pb.tensor(problem.x.astype(kind), device=device), pb.tensor(problem.labels, device=device)

    def step() -> Any:
        loss = pb.nn.cross_entropy(net(x), labels)
        adam.zero_grad()
        loss.backward()
        adam.step()
        return loss

    return step


def by_pullback_plain(problem: Problem, dtype: str, device: str = "cuda") -> Step:
    """The same by plain formulas, as PULLBACK_KERNELS=off runs it."""
    backend_for(device)
    set_kernels(False)  # for the rest of this process
    return by_pullback(problem, dtype, device)


def by_torch(problem: Problem, dtype: str, device: str = "cuda") -> Step:
    """Op by op, with the fused AdamW."""
    import torch

    torch.set_float32_matmul_precision("highest")
    kind = getattr(torch, dtype)
    layers: list[Any] = []
    for w, b in zip(problem.weights, problem.biases, strict=True):
        linear = torch.nn.Linear(*w.shape)
        linear.weight.data, linear.bias.data = torch.tensor(w.T.copy()), torch.tensor(b)
        layers += [linear, torch.nn.GELU()]
    net = torch.nn.Sequential(*layers[:-1]).to(device, kind)
    adam = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    x, labels = torch.tensor(problem.x, device=device).to(kind), torch.tensor(problem.labels, device=device)

    def step() -> Any:
        loss = torch.nn.functional.cross_entropy(net(x), labels)
        adam.zero_grad()
        loss.backward()
        adam.step()
        return loss.detach()

    return step


def by_jax(problem: Problem, dtype: str, device: str = "") -> Step:
    """The whole step compiled, AdamW written out."""
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # others live on the device too
    import jax
    from jax import numpy as jnp

    jax.config.update("jax_default_matmul_precision", "float32" if dtype == "float32" else "default")
    parameters = [jnp.asarray(p, dtype) for p in problem.parameters()]
    x, labels = jnp.asarray(problem.x, dtype), jnp.asarray(problem.labels)
    state = [[jnp.zeros_like(p) for p in parameters] for _ in range(2)]

    def loss_of(parameters: Any) -> Any:
        h = x
        for i in range(0, len(parameters) - 2, 2):
            h = jax.nn.gelu(h @ parameters[i] + parameters[i + 1], approximate=False)
        logits = h @ parameters[-2] + parameters[-1]
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
        return -jnp.mean(chosen)

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(parameters: Any, state: Any, t: Any) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(parameters)
        first = [0.9 * m + 0.1 * g for m, g in zip(state[0], gradients, strict=True)]
        second = [0.999 * v + 0.001 * g * g for v, g in zip(state[1], gradients, strict=True)]
        a, b = (jnp.asarray(1 - beta**t, dtype) for beta in (0.9, 0.999))
        moved = [
            (1 - RATE * DECAY) * p - RATE * (m / a) / (jnp.sqrt(v / b) + 1e-8)
            for p, m, v in zip(parameters, first, second, strict=True)
        ]
        return loss, moved, [first, second]

    steps = 0

    def step() -> Any:
        nonlocal parameters, state, steps
        steps += 1
        loss, parameters, state = update(parameters, state, jnp.float32(steps))
        return loss

    return step


CONTENDERS: dict[str, Maker] = {
    "pullback": by_pullback, "pullback, plain formulas": by_pullback_plain, "torch": by_torch, "jax": by_jax,
}  # fmt: skip
