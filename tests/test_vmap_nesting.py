"""vmap inside and around every transform, and inside itself: against the same written with a loop or in closed form."""

import numpy as np
import pytest

import pullback as pb
from pullback.errors import DtypeError

RNG = np.random.default_rng(1)
X = RNG.normal(size=(4, 5))
T = RNG.normal(size=(4, 5))
W = RNG.normal(size=(5, 3))


def energy(x):
    """A number of a vector, with derivatives of all orders."""
    return pb.sum(pb.tanh(x @ W) ** 2) + pb.sum(x**3) / (1.0 + x[0] * x[0])


cube = pb.custom_rule(lambda x: x**3, vjp=lambda g, out, x: (3.0 * x * x * g,))


def checkpointed(x):
    weights = pb.asarray(W)
    return pb.sum(pb.checkpoint(lambda v: pb.tanh(v @ weights) ** 2)(x)) + x[0]


def ruled(x):
    return pb.sum(cube(pb.sin(x))) + pb.sum(x)


FUNCTIONS = {"ops": energy, "checkpoint": checkpointed, "custom_rule": ruled}
functions = pytest.mark.parametrize("f", FUNCTIONS.values(), ids=FUNCTIONS)


def stacked(f, *columns):
    """f of each example in a loop."""
    return np.stack([f(*[c[i] for c in columns]).numpy() for i in range(len(columns[0]))])


def close(found, expected, tolerance=1e-9):
    np.testing.assert_allclose(found.numpy(), expected, rtol=tolerance, atol=tolerance)


# --- derivatives inside ---


@functions
def test_value_and_derivatives_of_every_example(f):
    close(pb.vmap(f)(X), stacked(f, X))
    close(pb.vmap(pb.grad(f))(X), stacked(pb.grad(f), X))
    value, gradient = pb.vmap(pb.value_and_grad(f))(X)
    close(value, stacked(f, X))
    close(gradient, stacked(pb.grad(f), X))

    def push(x, t):
        return pb.jvp(f, (x,), (t,))[1]

    close(pb.vmap(push)(X, T), stacked(push, X, T))

    def pull(x, g):
        return pb.vjp(f, x)[1](g)[0]

    close(pb.vmap(pull)(X, T[:, 0]), stacked(pull, X, T[:, 0]))


@functions
def test_second_derivatives_of_every_example(f):
    def product(x, t):
        return pb.hvp(f, (x,), (t,))[0]

    close(pb.vmap(product)(X, T), stacked(product, X, T))
    if f is not checkpointed:
        close(pb.vmap(pb.hessian(f))(X), stacked(pb.hessian(f), X))
    twice = pb.grad(lambda x: pb.sum(pb.grad(f)(x) ** 2))
    close(pb.vmap(twice)(X), stacked(twice, X))


def test_many_cotangents_at_one_point_are_a_jacobian():
    def f(x):
        return pb.tanh(x @ W)

    x = X[0]
    expected = (1 - np.tanh(x @ W) ** 2)[:, None] * W.T
    _, pull = pb.vjp(f, x)
    close(pb.vmap(lambda g: pull(g)[0])(np.eye(3)), expected)
    close(pb.vmap(lambda t: pb.jvp(f, (x,), (t,))[1], out_axes=1)(np.eye(5)), expected)
    _, push = pb.linearize(f, x)
    close(pb.vmap(push, out_axes=1)(np.eye(5)), expected)


def test_the_derivative_by_what_all_examples_share_is_by_example_inside():
    """A gradient that is taken inside belongs to one example, though the argument is the same for all."""
    w = np.ones(5)
    found = pb.vmap(lambda x: pb.grad(lambda v: pb.sum(v * v * x))(pb.asarray(w)))(X)
    close(found, 2 * X)
    found = pb.vmap(pb.grad(lambda v, x: pb.sum(v * v * x)), in_axes=(None, 0))(w, X)
    close(found, 2 * X)


# --- derivatives outside ---


@functions
def test_derivatives_through_a_mapped_function(f):
    weights = RNG.normal(size=4)

    def at_once(x):
        return pb.sum(pb.vmap(f)(x) * weights)

    def by_loop(x):
        return sum(f(x[i]) * weights[i] for i in range(4))

    close(pb.grad(at_once)(X), pb.grad(by_loop)(X).numpy())
    close(pb.jvp(at_once, (X,), (T,))[1], pb.jvp(by_loop, (X,), (T,))[1].numpy())
    close(pb.hvp(at_once, (X,), (T,))[0], pb.hvp(by_loop, (X,), (T,))[0].numpy())
    third = [pb.grad(lambda x, g=g: pb.sum(pb.hvp(g, (x,), (T,))[0] ** 2)) for g in (at_once, by_loop)]
    close(third[0](X), third[1](X).numpy(), 1e-8)


@functions
def test_derivatives_outside_of_derivatives_inside(f):
    def penalty(x):
        return pb.sum(pb.vmap(pb.grad(f))(x) ** 2)

    def by_loop(x):
        return sum(pb.sum(pb.grad(f)(x[i]) ** 2) for i in range(4))

    close(pb.grad(penalty)(X), pb.grad(by_loop)(X).numpy())
    close(pb.jvp(penalty, (X,), (T,))[1], pb.jvp(by_loop, (X,), (T,))[1].numpy())


def test_a_mapped_function_inside_a_checkpoint_and_a_rule():
    def f(x):
        return pb.sum(pb.checkpoint(pb.vmap(energy))(x))

    close(pb.grad(f)(X), stacked(pb.grad(energy), X))
    close(pb.hvp(f, (X,), (T,))[0], stacked(lambda x, t: pb.hvp(energy, (x,), (t,))[0], X, T))
    mapped = pb.custom_rule(pb.vmap(pb.sin), vjp=lambda g, out, x: (g * pb.vmap(pb.cos)(x),))
    close(pb.grad(lambda x: pb.sum(mapped(x) * T))(X), np.cos(X) * T)


def test_leaves_and_arguments_beneath_one_frame():
    w = pb.tensor(W, requires_grad=True)

    def f(x):
        return pb.sum(pb.tanh(x @ w))

    gradient = pb.vmap(pb.grad(f))(X)
    pb.sum(gradient * T).backward()
    expected = pb.grad(lambda w: pb.sum((1 - pb.tanh(X @ w) ** 2) @ w.mT * T))(W)
    close(w.grad, expected.numpy())


# --- vmap inside vmap ---


def test_vmap_inside_vmap_with_closures_at_each_level():
    A, B, w = RNG.normal(size=(3, 5)), RNG.normal(size=(2, 5)), RNG.normal(size=5)

    def table(a, b, w):
        def row(x):
            own = pb.tanh(x) * w
            return pb.vmap(lambda y: pb.sum(pb.tanh(own * y + x) * w))(b)

        return pb.vmap(row)(a)

    def reference(a, b, w):
        own = pb.expand_dims(pb.tanh(a) * w, axis=1)
        return pb.tanh(own * b + pb.expand_dims(a, axis=1)) @ w

    close(table(A, B, w), reference(A, B, w).numpy())
    weights = RNG.normal(size=(3, 2))
    f, g = (lambda *args, h=h: pb.sum(h(*args) * weights) for h in (table, reference))
    for found, expected in zip(pb.grad(f, (0, 1, 2))(A, B, w), pb.grad(g, (0, 1, 2))(A, B, w), strict=True):
        close(found, expected.numpy())
    given = (A, B, w)
    for found, expected in zip(pb.hvp(f, given, given), pb.hvp(g, given, given), strict=True):
        close(found, expected.numpy(), 1e-8)


def test_three_levels_and_axes_that_cross():
    x = RNG.normal(size=(2, 3, 4))
    f = pb.vmap(pb.vmap(pb.vmap(lambda a, b: a * b, in_axes=(0, None)), in_axes=(1, 0)), in_axes=(0, None), out_axes=2)
    b = RNG.normal(size=4)
    close(f(x, b), np.moveaxis(np.swapaxes(x, 1, 2) * b[:, None], 0, 2))


def test_gradients_by_example_of_a_batch_of_models():
    models, labels = RNG.normal(size=(2, 5, 3)), np.array([0, 2, 1, 1])

    def loss(w, x, label):
        return pb.cross_entropy(x @ w, label)

    per_example = pb.vmap(pb.grad(loss), in_axes=(None, 0, 0))
    found = pb.vmap(per_example, in_axes=(0, None, None))(models, X, labels)
    for i, w in enumerate(models):
        for j in range(4):
            close(found[i, j], pb.grad(loss)(w, X[j], labels[j]).numpy())


def test_a_derivative_between_two_levels():
    """vmap of the gradient of a sum over an inner vmap."""

    def f(x, rows):
        return pb.sum(pb.vmap(lambda row: pb.tanh(pb.sum(row * x)))(rows))

    rows = RNG.normal(size=(3, 5))
    found = pb.vmap(pb.grad(f), in_axes=(0, None))(X, rows)
    expected = (1 - np.tanh(X @ rows.T) ** 2) @ rows
    close(found, expected)


def test_indices_of_each_level_choose_from_a_shared_table():
    table, rows = RNG.normal(size=(6, 5)), np.array([[0, 3], [5, 3]])
    chosen = pb.vmap(pb.vmap(lambda i: pb.asarray(table)[i] * 2.0))(rows)
    close(chosen, table[rows] * 2)
    columns = np.array([1, 4])
    picked = pb.vmap(lambda i: pb.vmap(lambda j: pb.asarray(table)[i, j])(columns))(rows[:, 0])
    close(picked, table[rows[:, 0]][:, columns])
    gradient = pb.grad(lambda t: pb.sum(pb.vmap(pb.vmap(lambda i: t[i] ** 2))(rows)))(table)
    expected = np.zeros_like(table)
    np.add.at(expected, rows.reshape(-1), 2 * table[rows.reshape(-1)])
    close(gradient, expected)
    written = pb.vmap(lambda i: pb.zeros(6, dtype="float64").at[i].set(1.0))(rows[:, 0])
    close(written, np.eye(6)[rows[:, 0]])


def test_what_is_not_differentiable_is_told_as_without_vmap():
    with pytest.raises(DtypeError, match="floating"):
        pb.vmap(pb.grad(pb.sum))(np.arange(6).reshape(2, 3))


# --- a mapped walk through a frame that was left ---


def by_frames(x):
    return pb.vmap(lambda row: pb.tanh(row @ W))(x)


def without_frames(x):
    return pb.tanh(x @ W)


def test_many_cotangents_and_tangents_go_through_a_mapped_function():
    cotangents, tangents = RNG.normal(size=(6, 4, 3)), RNG.normal(size=(6, 4, 5))
    (_, pull), (_, expected) = pb.vjp(by_frames, X), pb.vjp(without_frames, X)
    close(pb.vmap(lambda g: pull(g)[0])(cotangents), stacked(lambda g: expected(g)[0], cotangents))
    (_, push), (_, expected) = pb.linearize(by_frames, X), pb.linearize(without_frames, X)
    close(pb.vmap(push)(tangents), stacked(expected, tangents))


def test_many_cotangents_go_through_frames_in_frames():
    def table(x):
        return pb.vmap(lambda a: pb.vmap(lambda b: pb.tanh(a * b))(x[:2]))(x)

    def reference(x):
        return pb.tanh(pb.expand_dims(x, axis=1) * x[:2])

    cotangents = RNG.normal(size=(6, 4, 2, 5))
    (_, pull), (_, expected) = pb.vjp(table, X), pb.vjp(reference, X)
    close(pb.vmap(lambda g: pull(g)[0])(cotangents), stacked(lambda g: expected(g)[0], cotangents))


def test_derivatives_outside_of_a_mapped_walk():
    cotangents = RNG.normal(size=(6, 4, 3))

    def total(f):
        return lambda x: pb.sum(pb.vmap(lambda g: pb.vjp(f, x)[1](g)[0])(cotangents) ** 2)

    close(pb.grad(total(by_frames))(X), pb.grad(total(without_frames))(X).numpy())


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_the_jacobian_of_a_mapped_function(mode):
    close(pb.jacobian(by_frames, mode=mode)(X), pb.jacobian(without_frames, mode=mode)(X).numpy())
