"""Jacobians in blocks: functions whose rows do not depend on each other, against rows of VJPs."""

import numpy as np
import pytest

import pullback as pb
from pullback.errors import ArgumentError, DeviceMemoryError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 3))
WEIGHTS = RNG.normal(size=(3, 4)), RNG.normal(size=(4, 2))


def net(x):
    return pb.tanh(pb.tanh(x @ WEIGHTS[0]) @ WEIGHTS[1])


def by_reverse(f, *args, argnums=0):
    return [x.numpy() for x in pb.trees.flatten(pb.jacobian(f, argnums, mode="reverse")(*args))[0]]


APART = {
    "a net": net,
    "more outputs than inputs": lambda x: pb.tanh(pb.sin(x) @ RNG_WIDE),
    "softmax": lambda x: pb.softmax(x, axis=1),
    "norms": lambda x: pb.layer_norm(x, RNG_WIDE[0, :3]),
    "one number in a row": lambda x: pb.sum(x**3, axis=1),
    "matrices in rows": lambda x: pb.reshape(x, (6, 3, 1)) * pb.reshape(pb.sin(x), (6, 1, 3)),
    "branches": lambda x: pb.where(x > 0, pb.exp(x), pb.sum(x, axis=1, keepdims=True)),
    "all rows, but not differentiated": lambda x: pb.sum(x, axis=1, keepdims=True) * x + pb.sum(x.detach()),
    "several values": lambda x: {"a": net(x), "b": (pb.softmax(x, axis=1), x * 2)},
    "mapped": pb.vmap(lambda row: pb.outer(row, pb.sin(row))),
    "checkpointed": pb.checkpoint(net),
}
RNG_WIDE = RNG.normal(size=(3, 7))


@pytest.mark.parametrize("name", APART)
def test_rows_that_do_not_meet_have_blocks(name):
    f = APART[name]
    found = pb.trees.flatten(pb.jacobian(f, mode="blocks")(X))[0]
    for block, expected in zip(found, by_reverse(f, X), strict=True):
        assert block.shape == expected.shape
        np.testing.assert_allclose(block.numpy(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rows", [2, 3, 8, 33])
def test_any_number_of_rows(rows):
    x = RNG.normal(size=(rows, 3))
    np.testing.assert_allclose(pb.jacobian(net, mode="blocks")(x).numpy(), by_reverse(net, x)[0], rtol=1e-12)


def test_several_arguments():
    f, y = (lambda x, y: (pb.softmax(x, axis=1) @ WEIGHTS[0] * y, pb.sum(y, axis=1))), RNG.normal(size=(6, 4))
    found = pb.trees.flatten(pb.jacobian(f, (0, 1), mode="blocks")(X, y))[0]
    for block, expected in zip(found, by_reverse(f, X, y, argnums=(0, 1)), strict=True):
        np.testing.assert_allclose(block.numpy(), expected, rtol=1e-12, atol=1e-14)


MEETING = {
    "a mean over rows": lambda x: x - pb.mean(x, axis=0),
    "the next row": lambda x: pb.concat([x[1:], x[:1]], axis=0),
    "one row alone": lambda x: x.at[5].set(pb.sin(x[4])),
    "attention": lambda x: pb.softmax(x @ x.T, axis=1) @ x,
    "sorted": lambda x: pb.sort(x, axis=0),
    "by zero": lambda x: pb.sum(x, axis=0) * 0 + x,
    "another first axis": lambda x: x.T @ x,
    "a number": lambda x: pb.sum(net(x)),
    "constant": lambda x: pb.asarray(np.ones((6, 2))),
}


@pytest.mark.parametrize("name", MEETING)
def test_rows_that_meet_have_none(name):
    f = MEETING[name]
    with pytest.raises(ArgumentError, match="mode='blocks' is for functions of arrays"):
        pb.jacobian(f, mode="blocks")(X)
    plan = pb.plan_jacobian(f, X)
    assert "blocks" not in plan.modes
    np.testing.assert_array_equal(pb.jacobian(f)(X).numpy(), by_reverse(f, X)[0])


@pytest.mark.parametrize("pair", [(i, j) for i in range(5) for j in range(5) if i != j])
def test_every_single_link_between_rows_is_seen(pair):
    row, other = pair
    f = lambda x: x.at[row].set(x[row] + 1e-30 * x[other])  # noqa: E731
    with pytest.raises(ArgumentError, match="blocks"):
        pb.jacobian(f, mode="blocks")(X[:5])


def test_auto_takes_blocks_where_they_are_cheapest():
    x = RNG.normal(size=(32, 3))
    plan = pb.plan_jacobian(net, x)
    assert plan.choice == "blocks"
    assert plan.modes["blocks"].flops * 2 < plan.modes["reverse"].flops
    np.testing.assert_allclose(pb.jacobian(net)(x).numpy(), by_reverse(net, x)[0], rtol=1e-12)
    assert pb.plan_jacobian(pb.sin, x).choice == "diagonal"
    square = RNG.normal(size=(32, 32))
    assert "blocks" not in pb.plan_jacobian(lambda x: x @ square, x[:, 0]).modes  # numbers of a vector: not tried


def test_what_is_true_of_these_numbers_only_is_tried_each_time():
    """Whether row 0 meets another row is decided by an array of integers, of which shapes say nothing."""
    x = RNG.normal(size=(32, 3))
    for order in (np.arange(32), np.roll(np.arange(32), 1), np.arange(32)):
        f = lambda x, order=order: pb.tanh(x @ WEIGHTS[0])[order]  # noqa: E731
        assert ("blocks" in pb.plan_jacobian(f, x).modes) == (order[0] == 0)
        np.testing.assert_allclose(pb.jacobian(f)(x).numpy(), by_reverse(f, x)[0], rtol=1e-12)


def test_it_nests():
    many = RNG.normal(size=(2, 32, 3))
    found = pb.vmap(pb.jacobian(net))(many).numpy()
    np.testing.assert_allclose(found, np.stack([by_reverse(net, x)[0] for x in many]), rtol=1e-10, atol=1e-14)
    for mode in ("blocks", "auto"):
        size = lambda x, mode=mode: pb.sum(pb.jacobian(net, mode=mode)(x) ** 2)  # noqa: E731
        expected = pb.grad(lambda x: pb.sum(pb.jacobian(net, mode="reverse")(x) ** 2))(X).numpy()
        np.testing.assert_allclose(pb.grad(size)(X).numpy(), expected, rtol=1e-10)
    for f in (net, lambda x: pb.tanh(x @ WEIGHTS[0].astype("float32"))):
        dtypes = {pb.jacobian(f, mode=mode)(X.astype("float32")).dtype for mode in ("blocks", "reverse")}
        assert dtypes == {np.dtype("float32")}


def test_trying_is_not_watched():
    """The cotangents with NaN are no business of who looks for NaN, nor of a profile."""
    with pb.detect_nonfinite():
        pb.jacobian(net, mode="blocks")(X)


@pytest.mark.parametrize("wide", [False, True])
def test_chunks_and_limits(wide):
    f = (lambda x: pb.tanh(x @ WEIGHTS[0] @ WEIGHTS[0].T @ RNG_WIDE)) if wide else net
    x = RNG.normal(size=(40, 3))
    expected = by_reverse(f, x)[0]
    for chunk in (1, 2, 100):
        found = pb.jacobian(f, mode="blocks", chunk_size=chunk)(x).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
    limit = 2 * expected.nbytes
    np.testing.assert_allclose(pb.jacobian(f, memory_limit=limit)(x).numpy(), expected, rtol=1e-12, atol=1e-14)
    assert pb.plan_jacobian(f, x, memory_limit=limit).modes["blocks"].nbytes <= limit
    with pytest.raises(DeviceMemoryError, match="with the result itself"):
        pb.jacobian(f, mode="blocks", memory_limit=expected.nbytes)(x)


def test_arrays_without_numbers_are_planned_without_blocks():
    plan = pb.plan_jacobian(net, pb.zeros((32, 3), dtype="float64", device="meta"))
    assert "blocks" not in plan.modes
    assert plan.choice == "reverse"
