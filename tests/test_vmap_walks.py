"""Walks that `vmap` maps over a tape with mapped functions on it, and derivatives of what they give: any order."""

import numpy as np
import pytest

import pullback as pb
from pullback.core.op import ARRAYS
from pullback.transforms.vmap import new_frame

RNG = np.random.default_rng(3)
X = RNG.normal(size=(3, 4)) / 2
MANY = RNG.normal(size=(2, 3, 4)) / 2
W = RNG.normal(size=(4, 2)) / 2


def row(x):
    return pb.tanh(x @ W) * x[0]


def number(x):
    return pb.sin(x) * x


# a function with `vmap` inside, and the same without
PAIRS = {
    "one": (pb.vmap(row), lambda x: pb.tanh(x @ W) * x[:, :1]),
    "one, shared": (lambda x: pb.vmap(lambda r: row(r) * x[0, 1])(x), lambda x: pb.tanh(x @ W) * x[:, :1] * x[0, 1]),
    "two": (pb.vmap(pb.vmap(number)), number),
    "two, shared": (lambda x: pb.vmap(lambda r: pb.vmap(lambda v: v * pb.sum(r))(x[0]))(x),
                    lambda x: pb.sum(x, axis=1, keepdims=True) * x[0]),
    "a gradient": (pb.vmap(pb.grad(lambda r: pb.sum(r**3))), lambda x: 3 * x * x),
    "a checkpoint": (pb.checkpoint(pb.vmap(row)), lambda x: pb.tanh(x @ W) * x[:, :1]),
    "checkpoints": (pb.vmap(pb.checkpoint(row)), lambda x: pb.tanh(x @ W) * x[:, :1]),
    "a mapped pull": (lambda x: pb.vmap(lambda g: pb.vjp(number, x[0])[1](g)[0])(x),
                      lambda x: x * (pb.cos(x[0]) * x[0] + pb.sin(x[0]))),
}  # fmt: skip


def size(f):
    return lambda x: pb.sum(f(x) ** 2)


def pulled(f):
    """The mapped pull of rows at X."""
    return lambda rows: pb.vmap(pb.vjp(f, X)[1])(pb.vmap(f)(rows))[0]


def pushed(f):
    return pb.vmap(pb.linearize(f, X)[1])


WALKS = {
    "grad of a mapped pull": lambda f: pb.grad(size(pulled(f)))(MANY),
    "jvp of a mapped pull": lambda f: pb.jvp(pulled(f), (MANY,), (MANY,))[1],
    "grad of a mapped push": lambda f: pb.grad(size(pushed(f)))(MANY),
    "hvp through a mapped pull": lambda f: pb.hvp(size(pulled(f)), (MANY,), (MANY,))[0],
    "grad of jacobian": lambda f: pb.grad(size(pb.jacobian(f)))(X),
    "grad of jacobian, reverse": lambda f: pb.grad(size(pb.jacobian(f, mode="reverse")))(X),
    "grad of jacobian, forward": lambda f: pb.grad(size(pb.jacobian(f, mode="forward")))(X),
    "jacobian of jacobian": lambda f: pb.jacobian(pb.jacobian(f))(X),
    "jacobian of hessian": lambda f: pb.jacobian(pb.hessian(size(f)))(X),
    "mapped jacobian": lambda f: pb.vmap(pb.jacobian(f))(MANY),
    "mapped hessian": lambda f: pb.vmap(pb.hessian(size(f)))(MANY),
    "grad of mapped jacobian": lambda f: pb.grad(size(pb.vmap(pb.jacobian(f))))(MANY),
    "hessian of jacobian": lambda f: pb.hessian(size(pb.jacobian(f, mode="forward")))(X[:1]),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("walk", WALKS)
def test_it_is_what_it_is_without_vmap_inside(walk, pair):
    mapped, plain = PAIRS[pair]
    found, expected = WALKS[walk](mapped), WALKS[walk](plain)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_leaves_get_their_gradients_through_it(mode):
    gradients = []
    for inner in (pb.vmap, lambda f: f):
        w = pb.tensor(W, requires_grad=True)
        f = inner(lambda r, w=w: pb.tanh(r @ w))
        size(pb.jacobian(f, mode=mode))(X).backward()
        gradients.append(w.grad.numpy())
    np.testing.assert_allclose(*gradients, rtol=1e-10)


def test_derivatives_by_differences():
    f = PAIRS["one, shared"][0]
    third = pb.jacobian(lambda x: pb.sum(pb.jacobian(pb.jacobian(f))(x), axis=(0, 1)))
    pb.check_gradients(size(pb.jacobian(f, mode="forward")), X, order=2)
    assert third(X).shape == (3, 4, 3, 4, 3, 4)


def test_a_result_that_all_examples_share_has_the_gradient_of_all():
    w, x = np.arange(3.0), np.ones((4, 2))
    found = pb.grad(lambda w: pb.sum(pb.vmap(lambda x: w * w)(x)))(w)
    assert found.numpy().tolist() == (8 * w).tolist()
    found = pb.grad(lambda w: pb.sum(pb.vmap(pb.vmap(lambda x: w * w))(x)))(w)
    assert found.numpy().tolist() == (16 * w).tolist()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_elementwise_ops_take_what_a_sum_of_all_is(kind):
    """NumPy gives a number that is no array for the sum of an array; here one that all examples share."""
    frame = new_frame(2, X)
    number, ops = frame.array(kind(0.5), False), ARRAYS[frame.kind]
    assert float(ops.tanh(number).data) == pytest.approx(np.tanh(0.5))
    assert float(ops.tanh_slope(number, number).data) == pytest.approx(0.375)
    rows = ops.add(frame.array(np.ones((2, 3), kind), True), number)
    assert rows.batched
    assert rows.data.tolist() == [[1.5] * 3] * 2
