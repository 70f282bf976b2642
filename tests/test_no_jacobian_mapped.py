"""`no_jacobian` and `vmap`: many walks of one function are a Jacobian, one of each example's function is none."""

import numpy as np
import pytest

import pullback as pb
from pullback.errors import RuleError

SQUARE = np.random.default_rng(0).normal(size=(5, 4))


def of_a_vector(x):
    return pb.tanh(SQUARE @ x)


@pytest.mark.parametrize("f", [of_a_vector, lambda x: SQUARE @ x], ids=["tanh", "linear"])
@pytest.mark.parametrize("early", [False, True])
def test_a_mapped_pull_of_as_many_rows_as_there_are_is_refused(f, early):
    x = np.ones(4)
    before = pb.vjp(f, x)[1] if early else None
    with pb.no_jacobian():
        pull = before or pb.vjp(f, x)[1]
        assert pb.vmap(pull)(np.eye(5)[:4])[0].shape == (4, 4)
        with pytest.raises(RuleError, match="vmap: no_jacobian: it makes 5 VJPs of 4 numbers each by one function"):
            pb.vmap(pull)(np.eye(5))


def test_a_mapped_push_of_as_many_columns_is_refused():
    with pb.no_jacobian():
        _, push = pb.linearize(of_a_vector, np.ones(4))
        pb.vmap(push)(np.eye(4)[:3])
        with pytest.raises(RuleError, match="it makes 4 JVPs of 5 numbers"):
            pb.vmap(push)(np.eye(4))
        with pytest.raises(RuleError, match="it makes 4 JVPs of 5 numbers"):
            pb.vmap(lambda t: pb.jvp(of_a_vector, (np.ones(4),), (t,))[1])(np.eye(4))


def test_rows_from_several_mapped_pulls_are_not_joined():
    with pb.no_jacobian():
        _, pull = pb.vjp(of_a_vector, np.ones(4))
        parts = [pb.vmap(pull)(np.eye(5)[rows])[0] for rows in (slice(0, 2), slice(2, 4), slice(4, 5))]
        pb.concat(parts[:2])
        with pytest.raises(RuleError, match=r"concat: no_jacobian: its value of shape \(5, 4\) holds 5 VJPs"):
            pb.concat(parts)


def test_functions_of_each_example_are_not_rows_of_one():
    many, weights = np.random.default_rng(1).normal(size=(9, 4)), pb.tensor(SQUARE.T, requires_grad=True)
    with pb.no_jacobian():
        pb.vmap(pb.grad(lambda x: pb.sum(of_a_vector(x))))(many)
        pb.vmap(lambda x: pb.vjp(of_a_vector, x)[1](np.ones(5)))(many)
        pb.vmap(lambda x, g: pb.vjp(lambda x: SQUARE @ x, x)[1](g))(many, np.ones((9, 5)))
        pb.vmap(lambda x, t: pb.jvp(lambda x: x * 2, (x,), (t,))[1])(many, many)
        pb.sum(pb.vmap(lambda x: pb.gelu(x @ weights))(many)).backward()
        pb.vmap(pb.grad(lambda w, x: pb.sum(pb.gelu(x @ w))), in_axes=(None, 0))(weights.detach(), many)


def test_a_guard_inside_of_a_mapped_function():
    def inside(x):
        y = 3 * x
        with pb.no_jacobian():
            return pb.vjp(lambda x: SQUARE @ x + 0 * y[0], x)[1](np.ones(5))[0]

    assert pb.vmap(inside)(np.ones((9, 4))).shape == (9, 4)
