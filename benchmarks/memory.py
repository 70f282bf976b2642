"""Bytes of a 12-layer MLP: what each layer keeps for its backward, and the peak during backward, by tracemalloc.

The bound: parameters + gradients + the activations that the rules name + two temporaries of the size of an activation.
NumPy tells tracemalloc of every buffer, so the peak is measured, not computed.
"""

import tracemalloc
from itertools import pairwise
from typing import Any

import numpy as np

import pullback as pb
from pullback.core.recording import observe

from .runner import table

LAYERS, WIDTH, BATCH, CLASSES = 12, 256, 512, 10
ALLOWANCE = 64 * 1024  # for Python objects: tensors, equations, the dictionary of cotangents


def answer(quick: bool) -> dict[str, Any]:
    """The bound, the measured peaks and the bytes saved per layer, for relu and tanh."""
    return {activation: _measure(activation) for activation in ("relu", "tanh")}


def _measure(activation: str) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    x = pb.tensor(rng.normal(size=(BATCH, WIDTH)).astype("float32"))
    labels = pb.tensor(rng.integers(0, CLASSES, size=BATCH))
    _network(activation, rng, 1)(x, labels)[0].backward()  # whatever is made once, at the first use

    tracemalloc.start()
    forward = _network(activation, rng, LAYERS)
    parameters = tracemalloc.get_traced_memory()[0]
    loss, tape = forward(x, labels)
    after_forward = tracemalloc.get_traced_memory()[0]
    rows = _saved(tape, x.data)
    del tape
    tracemalloc.reset_peak()
    loss.backward()
    after_backward, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    saved = sum(row["bytes saved"] for row in rows.values())
    activations = BATCH * WIDTH * 4
    bound = 2 * parameters + saved + 2 * activations + ALLOWANCE
    found = {
        "parameters": parameters,
        "kept by the tape": after_forward - parameters,
        "gradients": after_backward - parameters,
        "one activation": activations,
        "peak in backward": peak,
        "bound": bound,
        "peak / bound": peak / bound,
    }
    table(rows, f"{LAYERS} layers of {WIDTH}, batch {BATCH}, {activation}")
    table({name: {"": value} for name, value in found.items()}, "bytes")
    print()
    return {"saved per layer": rows, **found}


def _network(activation: str, rng: np.random.Generator, layers: int) -> Any:
    """An MLP with weights of its own, as a function of (x, labels) that gives the loss and its tape, layer by layer."""
    sizes = [WIDTH] * layers + [CLASSES]
    shapes = list(pairwise(sizes))
    weights = [pb.tensor((rng.normal(size=s) / s[0] ** 0.5).astype("float32"), requires_grad=True) for s in shapes]
    biases = [pb.tensor(np.zeros(s[1], "float32"), requires_grad=True) for s in shapes]
    act = getattr(pb, activation)

    def forward(x: Any, labels: Any) -> tuple[Any, dict[str, list[Any]]]:
        tape: dict[str, list[Any]] = {}
        h = x
        for k, (w, b) in enumerate(zip(weights, biases, strict=True)):
            with observe(_collector(tape, f"layer {k + 1}")):
                h = pb.linear(h, w, b)
                if k < len(weights) - 1:
                    h = act(h)
        with observe(_collector(tape, "loss")):
            return pb.cross_entropy(h, labels), tape

    return forward


def _collector(tape: dict[str, list[Any]], part: str) -> Any:
    """An observer that puts each equation under the name of a part of the net."""
    seen = tape[part] = []
    return lambda e, inputs, value: seen.append(e)


def _saved(tape: dict[str, list[Any]], x: np.ndarray) -> dict[str, dict[str, Any]]:
    """For each layer the bytes that its equations name and that no earlier layer named, without x and parameters."""
    seen = {id(x)}
    rows = {}
    for layer, equations in tape.items():
        size = 0
        for e in equations:
            leaves = [n.__class__.__name__ == "Leaf" for n in e.parents]
            for name, value in zip(e.op.saves, e.saved, strict=False):
                is_parameter = name in e.op.inputs and leaves[e.op.inputs.index(name)]
                if isinstance(value, np.ndarray) and not is_parameter and id(value) not in seen:
                    seen.add(id(value))
                    size += value.nbytes
        rows[layer] = {"equations": ", ".join(e.op.name for e in equations), "bytes saved": size}
    return rows
