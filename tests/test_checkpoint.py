"""checkpoint: the same values and derivatives of every order, in less memory, for one more run."""

import numpy as np
import pytest
from traced_memory import traced_memory

import pullback as pb

X = np.array([0.3, -0.7, 1.2])
W = np.array([[1.0, -2.0, 0.5], [0.3, 0.8, -1.1], [0.2, 0.1, -0.4]])


def leaf(values):
    return pb.tensor(np.asarray(values, "float64"), requires_grad=True)


def block(x, w=W):
    return pb.tanh(w @ pb.tanh(x)) * x


class Counted:
    """A function that counts its runs."""

    def __init__(self, f):
        self.f, self.runs = f, 0

    def __call__(self, *args, **kwargs):
        self.runs += 1
        return self.f(*args, **kwargs)


def test_values_and_gradients_are_those_of_the_function():
    x, same = leaf(X), leaf(X)
    y, plain = pb.checkpoint(block)(x), block(same)
    np.testing.assert_array_equal(y.numpy(), plain.numpy())
    y.backward(np.ones(3))
    plain.backward(np.ones(3))
    np.testing.assert_allclose(x.grad.numpy(), same.grad.numpy(), rtol=1e-14)
    tangent = pb.jvp(pb.checkpoint(block), (X,), (X,))[1]
    np.testing.assert_allclose(tangent.numpy(), pb.jvp(block, (X,), (X,))[1].numpy(), rtol=1e-14)


def test_tensors_that_it_closes_over_get_their_gradients():
    w, same = leaf(W), leaf(W)
    x = leaf(X)
    pb.sum(pb.checkpoint(lambda v: block(v, w))(x)).backward()
    pb.sum(block(pb.tensor(X), same)).backward()
    np.testing.assert_allclose(w.grad.numpy(), same.grad.numpy(), rtol=1e-14)
    assert x.grad is not None
    w.zero_grad()
    pb.sum(pb.checkpoint(lambda v: block(v, w * 2.0))(X)).backward()  # nothing but the closure is tracked
    assert w.grad is not None


def test_intermediate_values_that_it_closes_over_get_their_gradients():
    def loss(x, f):
        h = pb.sin(x)
        return pb.sum(f(lambda v: v * h)(x) * h)

    np.testing.assert_allclose(
        pb.grad(lambda x: loss(x, pb.checkpoint))(X).numpy(),
        pb.grad(lambda x: loss(x, lambda f: f))(X).numpy(),
        rtol=1e-14,
    )


def test_higher_orders_and_nested_checkpoints():
    def f(x):
        return pb.sum(block(block(x)))

    def g(x):
        return pb.sum(pb.checkpoint(lambda v: pb.checkpoint(block)(pb.checkpoint(block)(v)))(x))

    np.testing.assert_allclose(pb.grad(g)(X).numpy(), pb.grad(f)(X).numpy(), rtol=1e-13)
    np.testing.assert_allclose(pb.hessian(g)(X).numpy(), pb.hessian(f)(X).numpy(), rtol=1e-12)
    third = [pb.grad(lambda x, h=h: pb.sum(pb.hvp(h, (x,), (X,))[0]))(X).numpy() for h in (f, g)]
    np.testing.assert_allclose(third[1], third[0], rtol=1e-11)
    pb.check_gradients(pb.checkpoint(block), X)


def test_the_function_runs_once_more_for_each_walk():
    f = Counted(block)
    y = pb.sum(pb.checkpoint(f)(leaf(X)))
    assert f.runs == 1
    y.backward(retain=True)
    assert f.runs == 2
    y.backward()
    assert f.runs == 3
    f.runs = 0
    pb.jvp(pb.checkpoint(f), (X,), (X,))
    assert f.runs == 2


def test_without_recording_it_is_the_function():
    f = Counted(block)
    with pb.no_grad():
        y = pb.checkpoint(f)(leaf(X))
    assert f.runs == 1
    assert not y.requires_grad
    assert not pb.checkpoint(f)(pb.tensor(X)).requires_grad


def test_arguments_and_results_may_be_trees_and_keywords():
    def f(tree, *, scale):
        return {"y": tree["a"] * tree["b"][0] * scale, "z": (pb.tanh(tree["a"]), None)}

    a, b = leaf(X), leaf(X + 1.0)
    out = pb.checkpoint(f)({"a": a, "b": [b]}, scale=3.0)
    assert out["z"][1] is None
    pb.sum(out["y"] + out["z"][0]).backward()
    np.testing.assert_allclose(a.grad.numpy(), 3 * (X + 1) + 1 - np.tanh(X) ** 2, rtol=1e-14)
    np.testing.assert_allclose(b.grad.numpy(), 3 * X, rtol=1e-14)


def test_one_result_of_several_may_be_pulled_alone():
    x = leaf(X)
    constant, doubled = pb.checkpoint(lambda v: (pb.tensor([1.0]), v * 2.0))(x)
    constant.backward()
    assert x.grad.tolist() == [0.0, 0.0, 0.0]
    pb.sum(pb.checkpoint(lambda v: (pb.tensor([1.0]), v * 2.0))(x)[1]).backward()
    assert x.grad.tolist() == [2.0, 2.0, 2.0]
    assert doubled.tolist() == (2 * X).tolist()


def test_an_argument_given_back_and_a_value_used_twice():
    x = leaf(X)
    same, again = pb.checkpoint(lambda v: (v, v))(x)
    pb.sum(same * again).backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * X, rtol=1e-15)


def test_the_name_and_docstring_are_kept():
    assert pb.checkpoint(block).__name__ == "block"


def test_an_error_in_the_second_run_leaves_gradients_as_they_were():
    fails = []

    def f(v):
        if fails:
            raise ZeroDivisionError
        return v * v

    x = leaf(X)
    y = pb.sum(pb.checkpoint(f)(x))
    fails.append(True)
    with pytest.raises(ZeroDivisionError):
        y.backward()
    assert x.grad is None


def peak_of(f, x):
    """Peak of memory, in arrays like x, of a gradient of the sum of f."""
    _, peak, _ = traced_memory(lambda: pb.grad(lambda v: pb.sum(f(v)))(x))
    return peak / x.nbytes


def test_the_peak_of_memory_falls_from_all_parts_to_one_part_and_the_arguments():
    parts, steps = 8, 8

    def part(x):
        for _ in range(steps):
            x = pb.tanh(x)
        return x

    def chain(piece):
        def f(x):
            for _ in range(parts):
                x = piece(x)
            return x

        return f

    x = np.linspace(-1.0, 1.0, 100_000)
    whole, checkpointed = peak_of(chain(part), x), peak_of(chain(pb.checkpoint(part)), x)
    assert whole >= parts * steps
    assert checkpointed <= parts + steps + 4, "arguments of the parts, one part, and a few cotangents"
