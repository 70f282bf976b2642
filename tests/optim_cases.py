"""What the tests of optimizers share: one maker for each kind, and a tree of parameters of every sort."""

import numpy as np
import pytest

import pullback as pb

MAKERS = {
    "sgd": lambda params, **rest: pb.optim.SGD(params, 0.1, **rest),
    "momentum": lambda params, **rest: pb.optim.SGD(params, 0.1, momentum=0.9, weight_decay=0.01, **rest),
    "nesterov": lambda params, **rest: pb.optim.SGD(params, 0.1, momentum=0.9, nesterov=True, **rest),
    "dampened": lambda params, **rest: pb.optim.SGD(params, 0.1, momentum=0.8, dampening=0.3, **rest),
    "adam": lambda params, **rest: pb.optim.Adam(params, 0.01, weight_decay=0.1, **rest),
    "adamw": lambda params, **rest: pb.optim.AdamW(params, 0.01, betas=(0.8, 0.95), eps=1e-3, **rest),
}
SHAPES = {"layer": {"weight": (3, 4), "bias": (4,)}, "scale": (), "empty": (0, 2), "large": (200, 170)}
each_optimizer = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def leaves(seed=0, dtype="float64"):
    rng = np.random.default_rng(seed)
    return map_shapes(lambda shape: pb.tensor(rng.standard_normal(shape), dtype=dtype, requires_grad=True))


def map_shapes(f, shapes=None):
    """`f(shape)` for each shape of a tree."""
    shapes = SHAPES if shapes is None else shapes
    return {k: map_shapes(f, s) if isinstance(s, dict) else f(s) for k, s in shapes.items()}


def flat(tree):
    return [x for v in tree.values() for x in (flat(v) if isinstance(v, dict) else [v])]


def give_gradients(params, step, scale=1.0):
    """The same random gradients for the same step."""
    rng = np.random.default_rng(1000 + step)
    for x in flat(params):
        x.grad = scale * rng.standard_normal(x.shape)


def numbers(params):
    return [x.numpy().copy() for x in flat(params)]


def same(left, right):
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)
