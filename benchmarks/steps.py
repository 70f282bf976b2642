"""Seconds for a training step of an MLP: forward, cross-entropy, backward, Adam; float32, relu.

Each contender is written as its own users would write it, and all start from the same weights. Before anything is
timed, all must give the same losses for several steps. autograd and MyGrad run twice: with Adam as the books,
`autograd.misc.optimizers` and MyGrad's companion MyNN write it, and with `InPlaceAdam`, the fastest that we know of in
NumPy, which neither offers. The targets are for the former; the latter shows what of the difference is not the
optimizer. "numpy" is the step written out by hand: no library can be much faster without fusing its operations.
"""

import os
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

import pullback as pb

from .runner import race_problem, spread, table

RATE = 1e-3
NETS = {"64-32-10, batch 32": ((64, 32, 10), 32), "784-512-512-10, batch 128": ((784, 512, 512, 10), 128)}
TARGETS = {  # at most this many times the peer's time
    "64-32-10, batch 32": {"autograd": 0.2, "mygrad": 0.5},
    "784-512-512-10, batch 128": {"autograd": 0.5, "mygrad": 0.8},
}
Step = Callable[[], Any]  # one training step; its value is the loss before it


class Problem:
    """A batch of images `x` with `labels` (and the same as `one_hot` rows), and the first weights of a net."""

    def __init__(self, sizes: tuple[int, ...], batch: int) -> None:
        rng = np.random.default_rng(0)
        self.sizes, self.batch = sizes, batch
        self.x = rng.normal(size=(batch, sizes[0])).astype("float32")
        self.labels = rng.integers(0, sizes[-1], size=batch)
        self.one_hot = np.eye(sizes[-1], dtype="float32")[self.labels]
        self.weights = [rng.normal(scale=(2 / n) ** 0.5, size=(n, m)).astype("float32") for n, m in pairwise(sizes)]
        self.biases = [np.zeros(m, "float32") for m in sizes[1:]]

    def parameters(self) -> list[np.ndarray]:
        """Weight, bias, weight, bias, ... as fresh arrays."""
        return [p.copy() for pair in zip(self.weights, self.biases, strict=True) for p in pair]


def answer(quick: bool) -> dict[str, Any]:
    """Microseconds per step and our time as a multiple of each peer's."""
    answers = {}
    for net, (sizes, batch) in NETS.items():
        problem = Problem(sizes, batch)
        # a processor that had to wait takes milliseconds to come back to its pace: turns are long beside that
        times = race_problem(problem, CONTENDERS, check, rounds=6 if quick else 40, turn=0.05 if quick else 0.25)
        rows = {
            name: {
                "us per step": spread(t * 1e6, 1),
                "minimum": float(t.min() * 1e6),
                "ours / theirs": spread(times["pullback"] / t),
                "target": TARGETS[net].get(name, ""),
            }
            for name, t in times.items()
        }
        table(rows, net)
        print()
        answers[net] = rows
    return answers


def check(steps: dict[str, Step], count: int = 10) -> None:
    """Raise AssertionError unless all contenders give the same losses."""
    losses = {name: [float(step()) for _ in range(count)] for name, step in steps.items()}
    for name, found in losses.items():
        np.testing.assert_allclose(found, losses["numpy"], rtol=1e-3, err_msg=f"{name} computes something else")


class TextbookAdam:
    """Adam for NumPy arrays by the formulas of Kingma and Ba (2015), as `autograd.misc.optimizers` computes them."""

    def __init__(self, arrays: list[np.ndarray], rate: float = RATE) -> None:
        self.rate, self.steps, self.arrays = rate, 0, list(arrays)
        self.first, self.second = [np.zeros_like(a) for a in arrays], [np.zeros_like(a) for a in arrays]

    def step(self, gradients: list[np.ndarray]) -> None:
        """One update of `arrays`."""
        self.steps += 1
        for i, g in enumerate(gradients):
            m = self.first[i] = (1 - 0.9) * g + 0.9 * self.first[i]
            v = self.second[i] = (1 - 0.999) * g**2 + 0.999 * self.second[i]
            m_hat, v_hat = m / (1 - 0.9**self.steps), v / (1 - 0.999**self.steps)
            self.arrays[i] -= self.rate * m_hat / (np.sqrt(v_hat) + 1e-8)


class InPlaceAdam:
    """Adam for NumPy arrays: small ones packed into one buffer (`arrays` are views), in chunks that stay in cache."""

    chunk = 1 << 16

    def __init__(self, arrays: list[np.ndarray], rate: float = RATE) -> None:
        self.rate, self.steps = rate, 0
        self.arrays = list(arrays)
        small = [i for i, a in enumerate(arrays) if a.size < self.chunk]
        self.groups = []
        for places in [*([i] for i, a in enumerate(arrays) if a.size >= self.chunk), *([small] if small else [])]:
            flat = np.concatenate([arrays[i].ravel() for i in places])
            ends = np.cumsum([arrays[i].size for i in places])
            for i, part in zip(places, np.split(flat, ends[:-1]), strict=True):
                self.arrays[i] = part.reshape(arrays[i].shape)
            self.groups.append((places, flat, np.empty_like(flat), np.zeros_like(flat), np.zeros_like(flat)))
        self.scratch = np.empty(self.chunk, arrays[0].dtype)

    def step(self, gradients: list[np.ndarray]) -> None:
        """One update of `arrays`. The moments are kept divided by (1 - beta), which saves two passes over memory."""
        self.steps += 1
        root = ((1 - 0.999**self.steps) / (1 - 0.999)) ** 0.5
        rate, epsilon = self.rate * (1 - 0.9) / (1 - 0.9**self.steps) * root, 1e-8 * root
        for places, flat, packed, first, second in self.groups:
            if len(places) == 1:
                gradient = gradients[places[0]].reshape(-1)
            else:
                gradient = np.concatenate([gradients[i].reshape(-1) for i in places], out=packed)
            for start in range(0, flat.size, self.chunk):
                part = slice(start, start + self.chunk)
                p, g, m, v = flat[part], gradient[part], first[part], second[part]
                t = self.scratch[: p.size]
                m *= 0.9
                m += g
                v *= 0.999
                np.multiply(g, g, t)
                v += t
                np.sqrt(v, t)
                t += epsilon
                np.divide(m, t, t)
                t *= rate
                p -= t


def by_numpy(problem: Problem) -> Step:
    """Written out by hand: what no library can be faster than without fusing."""
    adam = InPlaceAdam(problem.parameters())
    weights, biases = adam.arrays[::2], adam.arrays[1::2]
    rows, last = np.arange(problem.batch), len(weights) - 1

    def step() -> Any:
        h, inputs = problem.x, []
        for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
            inputs.append(h)
            h = h @ w
            h += b
            if i < last:
                np.maximum(h, 0, out=h)
        h -= h.max(axis=1, keepdims=True)
        p = np.exp(h)
        total = p.sum(axis=1, keepdims=True)
        loss = (np.log(total).sum() - h[rows, problem.labels].sum()) / problem.batch
        p /= total
        p[rows, problem.labels] -= 1
        p /= problem.batch
        g, gradients = p, []
        for i in range(last, -1, -1):
            gradients += [g.sum(axis=0), inputs[i].T @ g]
            if i:
                g = g @ weights[i].T
                g *= inputs[i] > 0
        adam.step(gradients[::-1])
        return loss

    return step


def by_pullback(problem: Problem) -> Step:
    """As the README shows it."""
    net = pb.nn.MLP(problem.sizes, activation="relu")
    net.load_state_dict(dict(zip(net.parameters(), problem.parameters(), strict=True)))
    adam = pb.optim.Adam(net.parameters(), lr=RATE)
    x, labels = pb.tensor(problem.x), pb.tensor(problem.labels)

    def step() -> Any:
        loss = pb.nn.cross_entropy(net(x), labels)
        adam.zero_grad()
        loss.backward()
        adam.step()
        return loss

    return step


def by_autograd(problem: Problem, optimizer: Any = TextbookAdam) -> Step:
    """`h * (h > 0)` takes less than `maximum`, whose derivative shares ties out in float64."""
    import autograd.numpy as anp
    from autograd import value_and_grad
    from autograd.scipy.special import logsumexp

    adam = optimizer(problem.parameters())

    def loss_of(parameters: list[Any]) -> Any:
        h = problem.x
        for i in range(0, len(parameters) - 2, 2):
            h = anp.dot(h, parameters[i]) + parameters[i + 1]
            h = h * (h > 0)
        logits = anp.dot(h, parameters[-2]) + parameters[-1]
        return (anp.sum(logsumexp(logits, axis=1)) - anp.sum(logits * problem.one_hot)) / problem.batch

    both = value_and_grad(loss_of)

    def step() -> Any:
        loss, gradients = both(adam.arrays)
        adam.step(gradients)
        return loss

    return step


def by_mygrad(problem: Problem, optimizer: Any = TextbookAdam) -> Step:
    """With its own fused loss, and its memory guard off as its documentation advises for speed."""
    import mygrad
    from mygrad.nnet import relu, softmax_crossentropy

    mygrad.turn_memory_guarding_off()
    adam = optimizer(problem.parameters())
    parameters = [mygrad.tensor(a, copy=False) for a in adam.arrays]

    def step() -> Any:
        h = problem.x
        for i in range(0, len(parameters) - 2, 2):
            h = relu(mygrad.matmul(h, parameters[i]) + parameters[i + 1])
        loss = softmax_crossentropy(mygrad.matmul(h, parameters[-2]) + parameters[-1], problem.labels)
        loss.backward()
        adam.step([p.grad for p in parameters])
        return loss.data

    return step


def by_torch(problem: Problem) -> Step:
    """With the fused Adam, on the CPU the fastest of its three."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    layers: list[Any] = []
    for w, b in zip(problem.weights, problem.biases, strict=True):
        linear = torch.nn.Linear(*w.shape)
        linear.weight.data, linear.bias.data = torch.tensor(w.T.copy()), torch.tensor(b)
        layers += [linear, torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers[:-1])
    adam = torch.optim.Adam(net.parameters(), lr=RATE, fused=True)
    x, labels = torch.tensor(problem.x), torch.tensor(problem.labels)

    def step() -> Any:
        loss = torch.nn.functional.cross_entropy(net(x), labels)
        adam.zero_grad()
        loss.backward()
        adam.step()
        return loss.detach()

    return step


CONTENDERS = {
    "numpy": by_numpy,
    "pullback": by_pullback,
    "autograd": by_autograd,
    "mygrad": by_mygrad,
    "autograd, Adam in place": partial(by_autograd, optimizer=InPlaceAdam),
    "mygrad, Adam in place": partial(by_mygrad, optimizer=InPlaceAdam),
    "torch": by_torch,
}
