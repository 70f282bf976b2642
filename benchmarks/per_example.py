"""Seconds for the gradients of an MLP by its parameters, one for each example: float32, relu, cross-entropy.

By `pb.vmap`, by a Python loop over `pb.grad`, by the vmap of grad of `torch.func` and JAX where they are installed, and
written out by hand in NumPy, where all that is left are the products and the writing of the gradients. Before anything
is timed, all must give the same numbers.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

import pullback as pb

from .runner import race_problem, spread, table
from .steps import Problem

NETS = {"64-32-10, batch 32": ((64, 32, 10), 32), "784-256-10, batch 128": ((784, 256, 10), 128)}
TARGETS = {"torch": 1.0}  # at most this many times the peer's time
Gradients = Callable[[], list[Any]]  # for each parameter, those of all examples


def answer(quick: bool) -> dict[str, Any]:
    """Microseconds for all examples and our time as a multiple of each contender's."""
    answers = {}
    for net, (sizes, batch) in NETS.items():
        problem = Problem(sizes, batch)
        times = race_problem(problem, CONTENDERS, check, rounds=6 if quick else 30, turn=0.05 if quick else 0.3)
        rows = {
            name: {
                "us for all": spread(t * 1e6, 1),
                "ours / theirs": spread(times["pullback"] / t),
                "target": TARGETS.get(name, ""),
            }
            for name, t in times.items()
        }
        table(rows, net)
        print()
        answers[net] = rows
    return answers


def check(contenders: dict[str, Gradients]) -> None:
    """Raise AssertionError unless all contenders give the same gradients."""
    expected = [np.asarray(g) for g in contenders["numpy"]()]
    for name, gradients in contenders.items():
        for found, wanted in zip(gradients(), expected, strict=True):
            numbers = found.numpy() if hasattr(found, "numpy") else np.asarray(found)
            np.testing.assert_allclose(numbers, wanted, rtol=1e-3, atol=1e-5, err_msg=f"{name} computes something else")


def _loss(parameters: list[Any], x: Any, label: Any) -> Any:
    """Of one example."""
    for w, b in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
        x = pb.relu(x @ w + b)
    return pb.cross_entropy(x @ parameters[-2] + parameters[-1], label)


def by_vmap(problem: Problem) -> Gradients:
    """As the README shows it."""
    parameters = [pb.asarray(p) for p in problem.parameters()]
    x, labels = pb.asarray(problem.x), pb.asarray(problem.labels)
    gradients = pb.vmap(pb.grad(_loss), in_axes=(None, 0, 0))
    return lambda: list(gradients(parameters, x, labels))


def by_loop(problem: Problem) -> Gradients:
    """One gradient after the other, and the gradients of each parameter stacked."""
    parameters = [pb.asarray(p) for p in problem.parameters()]
    examples = [(pb.asarray(x), pb.asarray(label)) for x, label in zip(problem.x, problem.labels, strict=True)]
    gradient = pb.grad(_loss)

    def run() -> list[Any]:
        found = [gradient(parameters, x, label) for x, label in examples]
        return [pb.stack(list(parts)) for parts in zip(*found, strict=True)]

    return run


def by_numpy(problem: Problem) -> Gradients:
    """One backward pass that stops before the sums over examples."""
    parameters = problem.parameters()
    weights, biases = parameters[::2], parameters[1::2]
    rows, last = np.arange(problem.batch), len(weights) - 1

    def run() -> list[Any]:
        h, inputs = problem.x, []
        for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
            inputs.append(h)
            h = h @ w
            h += b
            if i < last:
                np.maximum(h, 0, out=h)
        h -= h.max(axis=1, keepdims=True)
        g = np.exp(h)
        g /= g.sum(axis=1, keepdims=True)
        g[rows, problem.labels] -= 1
        found: list[Any] = []
        for i in range(last, -1, -1):
            found += [g, inputs[i][:, :, None] * g[:, None]]
            if i:
                g = g @ weights[i].T
                g *= inputs[i] > 0
        return found[::-1]

    return run


def by_torch(problem: Problem) -> Gradients:
    """By `torch.func`, as its tutorial on per-sample gradients writes it."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    parameters = [torch.tensor(p) for p in problem.parameters()]
    x, labels = torch.tensor(problem.x), torch.tensor(problem.labels)

    def loss(parameters: list[Any], x: Any, label: Any) -> Any:
        for w, b in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
            x = torch.relu(x @ w + b)
        return torch.nn.functional.cross_entropy(x @ parameters[-2] + parameters[-1], label)

    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    return lambda: list(gradients(parameters, x, labels))


def by_jax(problem: Problem) -> Gradients:
    """Compiled for these shapes before it is timed."""
    import jax

    parameters = [jax.numpy.asarray(p) for p in problem.parameters()]
    x, labels = jax.numpy.asarray(problem.x), jax.numpy.asarray(problem.labels)

    def loss(parameters: list[Any], x: Any, label: Any) -> Any:
        for w, b in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
            x = jax.nn.relu(x @ w + b)
        scores = x @ parameters[-2] + parameters[-1]
        return jax.nn.logsumexp(scores) - scores[label]

    gradients = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0, 0)))
    return lambda: list(jax.block_until_ready(gradients(parameters, x, labels)))


CONTENDERS = {
    "numpy": by_numpy,
    "pullback": by_vmap,
    "pullback, a loop": by_loop,
    "torch": by_torch,
    "jax": by_jax,
}
