"""pb.jacobian and pb.plan_jacobian: every mode against central differences."""

import gc
import weakref
from itertools import pairwise

import numpy as np
import pytest

import pullback as pb
from pullback.errors import ArgumentError, DtypeError, TapeError

MODES = ("auto", "reverse", "forward", "planned")
RNG = np.random.default_rng(0)
WEIGHTS = [RNG.normal(size=shape) / 3 for shape in ((6, 5), (5, 2), (2, 7), (7, 4))]
X = RNG.normal(size=6)


def net(x):
    for w in WEIGHTS:
        x = pb.linear_tanh(x, w)
    return x


def ops_apart(x):
    for w in WEIGHTS:
        x = pb.tanh(x @ w)
    return x


def branches(x):
    h = pb.tanh(x @ WEIGHTS[0])
    h = pb.sin(h) * pb.cos(h) + h
    return pb.sum(pb.reshape(pb.exp(h @ WEIGHTS[1]), (2, 1)) * pb.asarray(np.ones((2, 3))), axis=0)


def skips(x):
    return pb.tanh(x @ WEIGHTS[0]) @ WEIGHTS[0].T + x


def matrices(x):
    return pb.reshape(pb.sum(pb.reshape(x, (2, 3)) ** 2, axis=0, keepdims=True), (3, 1))


def parts(x):
    first, second = pb.split(pb.tanh(x), 2)
    return first * second


FUNCTIONS = [net, ops_apart, branches, skips, matrices, parts, lambda x: pb.sum(net(x)), lambda x: pb.flip(x, axis=0)]


def differences(f, x, step=1e-6):
    """Central differences, (*out, *x)."""
    columns = []
    for i in range(x.size):
        e = np.zeros(x.size)
        e[i] = step
        columns.append((f(x + e.reshape(x.shape)).numpy() - f(x - e.reshape(x.shape)).numpy()) / (2 * step))
    return np.stack(columns, axis=-1).reshape(*columns[0].shape, *x.shape)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("f", FUNCTIONS)
def test_every_mode_is_the_central_difference(f, mode):
    found = pb.jacobian(f, mode=mode)(X)
    np.testing.assert_allclose(found.numpy(), differences(f, X), atol=2e-8)


@pytest.mark.parametrize("mode", ["reverse", "forward"])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunks_give_the_same_numbers(mode, chunk):
    x = RNG.normal(size=(3, 6))
    whole = pb.jacobian(net, mode=mode)(x)
    assert whole.shape == (3, 4, 3, 6)
    np.testing.assert_allclose(pb.jacobian(net, mode=mode, chunk_size=chunk)(x).numpy(), whole.numpy(), rtol=1e-12)


@pytest.mark.parametrize("mode", ["auto", "reverse", "forward"])
def test_trees_of_arguments_and_values(mode):
    def f(p, x):
        return {"y": pb.sum(p["w"] * x), "z": (p["b"] ** 2, x[:2])}

    p, x = {"w": np.arange(3.0), "b": np.ones((2, 2))}, np.arange(3.0)
    found = pb.jacobian(f, argnums=(0, 1), mode=mode)(p, x)
    assert found["y"][0]["w"].numpy().tolist() == x.tolist()
    assert found["y"][1].numpy().tolist() == [0.0, 1.0, 2.0]
    assert found["z"][0][0]["b"].shape == (2, 2, 2, 2)
    assert found["z"][0][0]["b"].numpy().reshape(4, 4).tolist() == (2 * np.eye(4)).tolist()
    assert found["z"][1][1].numpy().tolist() == np.eye(3)[:2].tolist()
    assert found["z"][1][0]["w"].numpy().tolist() == np.zeros((2, 3)).tolist()
    only = pb.jacobian(f, argnums=1, mode=mode)(p, x)
    assert only["z"][1].shape == (2, 3)


def test_dtypes_stay():
    x = X.astype("float32")
    for mode in MODES:
        assert pb.jacobian(lambda x: pb.tanh(x * 2), mode=mode)(x).dtype == np.float32


@pytest.mark.parametrize("mode", ["auto", "reverse", "forward"])
def test_it_nests_with_derivatives_and_vmap(mode):
    def size(x):
        return pb.sum(pb.jacobian(net, mode=mode)(x) ** 2)

    np.testing.assert_allclose(pb.grad(size)(X).numpy(), differences(size, X), rtol=1e-6, atol=1e-8)
    many = RNG.normal(size=(3, 6))
    found = pb.vmap(pb.jacobian(net, mode=mode))(many).numpy()
    np.testing.assert_allclose(found, np.stack([pb.jacobian(net)(x).numpy() for x in many]), rtol=1e-10)
    second = pb.jacobian(pb.grad(lambda x: pb.sum(net(x))), mode=mode)(X)
    np.testing.assert_allclose(second.numpy(), pb.hessian(lambda x: pb.sum(net(x)))(X).numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", ["auto", "reverse", "forward"])
def test_a_function_that_is_mapped_inside(mode):
    inner = np.arange(12.0).reshape(3, 4) / 10

    def f(x):
        rows = pb.vmap(lambda row: pb.tanh(row @ inner) * pb.sin(row[0]))(pb.reshape(pb.tanh(x), (2, 3)))
        return pb.sum(pb.tanh(rows), axis=0)

    np.testing.assert_allclose(pb.jacobian(f, mode=mode)(X).numpy(), differences(f, X), atol=1e-8)
    with pytest.raises(ArgumentError, match="mode='planned' takes"):
        pb.jacobian(f, mode="planned")(X)


def test_the_jacobian_by_leaves_in_closures_is_left_out():
    model = pb.nn.MLP((6, 4, 3), "tanh", dtype="float64", generator=0)
    for mode in MODES:
        found = pb.jacobian(model, mode=mode)(X) if mode != "planned" else None
        if found is not None:
            np.testing.assert_allclose(found.numpy(), differences(model, X), atol=1e-8)
    assert all(p.grad is None for p in model.parameters().values())


# --- diagonals --------------------------------------------------------------------------------------------------------

SCALES = RNG.normal(size=6)
ELEMENTWISE = {
    "a chain": (lambda x: pb.exp(-(pb.sin(x) ** 2)), 1),
    "branches": (lambda x: pb.tanh(x) * pb.cos(x) + x / 3, 1),
    "other arrays": (lambda x: pb.where(SCALES > 0, x * SCALES, pb.sigmoid(x) + 2), 1),
    "several values": (lambda x: {"a": x * x, "b": (pb.sin(x), pb.asarray(SCALES))}, 1),
    "one value twice": (lambda x: (pb.sin(x),) * 2, 1),
    "several arguments": (lambda x, y: (x * y, pb.exp(y)), 2),
    "arguments that do not meet": (lambda x, y: (pb.sin(x), pb.cos(y)), 2),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("shape", [(6,), (1, 6)])
def test_elementwise_functions_have_diagonals_from_one_pull(name, shape):
    f, count = ELEMENTWISE[name]
    args = [RNG.normal(size=shape) for _ in range(count)]
    if name == "arguments that do not meet":
        args[1] = np.ones((2, 2))
    numbers = tuple(range(count))
    assert pb.plan_jacobian(f, *args, argnums=numbers).choice == "diagonal"
    expected = pb.trees.flatten(pb.jacobian(f, numbers, mode="reverse")(*args))[0]
    for mode in ("auto", "diagonal"):
        found = pb.trees.flatten(pb.jacobian(f, numbers, mode=mode)(*args))[0]
        assert [x.shape for x in found] == [x.shape for x in expected]
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12)


def test_a_diagonal_is_differentiable_and_maps():
    f = ELEMENTWISE["branches"][0]
    jacobian = pb.jacobian(f, mode="diagonal")
    second = pb.jacobian(lambda x: pb.sum(jacobian(x), axis=0))(X).numpy()
    np.testing.assert_allclose(second, np.diag(np.diag(differences(pb.grad(lambda x: pb.sum(f(x))), X))), atol=1e-8)
    many = RNG.normal(size=(3, 6))
    np.testing.assert_allclose(pb.vmap(jacobian)(many).numpy(), np.stack([jacobian(x).numpy() for x in many]))
    assert jacobian(X.astype("float32")).dtype == np.float32


NOT_ELEMENTWISE = {
    "broadcast": lambda x: pb.asarray(SCALES) * x[:1],
    "a sum": lambda x: x - pb.sum(x),
    "flipped": lambda x: pb.sin(pb.flip(x, axis=0)),
    "broadcast by an op": lambda x: pb.reshape(x, (6, 1)) * x,
    "the argument itself": pb.asarray,
}


@pytest.mark.parametrize("f", NOT_ELEMENTWISE.values(), ids=NOT_ELEMENTWISE)
def test_what_is_not_elementwise_is_no_diagonal(f):
    with pytest.raises(ArgumentError, match="mode='diagonal' is for functions whose every op is elementwise"):
        pb.jacobian(f, mode="diagonal")(X)
    np.testing.assert_allclose(pb.jacobian(f)(X).numpy(), differences(f, X), atol=1e-8)


def test_a_number_that_is_broadcast_is_no_diagonal():
    assert "diagonal" not in pb.plan_jacobian(lambda x: x * SCALES, 2.0).modes


# --- plans ------------------------------------------------------------------------------------------------------------


def test_a_plan_says_what_each_mode_costs_and_why():
    plan = pb.plan_jacobian(net, X)
    assert set(plan.modes) == {"reverse", "forward", "planned"}
    assert plan.choice == min(plan.modes, key=lambda mode: plan.modes[mode].flops)
    assert len(plan.links) == 4
    assert plan.chain.optimum <= min(plan.chain.tangent, plan.chain.adjoint, plan.chain.preaccumulation)
    text = str(plan)
    assert plan.bracketing in text
    assert "linear_tanh, 6 -> 5" in text


def test_a_waist_is_planned_around():
    rng = np.random.default_rng(1)
    sizes = (64, 4, 64, 4, 64)
    weights = [rng.normal(size=shape) / 8 for shape in pairwise(sizes)]

    def waist(x):
        for w in weights:
            x = pb.linear_tanh(x, w)
        return x

    plan = pb.plan_jacobian(waist, rng.normal(size=64))
    assert plan.choice == "planned"
    assert plan.modes["planned"].flops * 3 < min(plan.modes["reverse"].flops, plan.modes["forward"].flops)


def test_the_predicted_operations_of_walks_are_the_ledgers():
    report = pb.cost(ops_apart, X, argnums=0)
    plan = pb.plan_jacobian(ops_apart, X)
    slopes = 2 * 4 * sum(w.shape[1] for w in WEIGHTS)  # 1 - out^2, once for all rows and not for each
    assert abs(plan.modes["reverse"].flops - 4 * report.vjp.count.flops) <= slopes
    assert plan.modes["reverse"].flops <= 4 * report.vjp.count.flops


def test_auto_takes_the_cheaper_walk_where_there_is_no_chain():
    wide, tall = np.ones((50, 3)), np.ones((3, 50))
    assert pb.plan_jacobian(lambda x: (pb.tanh(x @ tall), x), np.ones(3)).choice == "forward"
    assert pb.plan_jacobian(lambda x: (pb.tanh(x @ wide), pb.sum(x)), np.ones(50)).choice == "reverse"


def test_equal_tapes_are_planned_once(monkeypatch):
    from pullback.jacobians import remembering, segments

    calls = []
    kept = segments.cheapest
    monkeypatch.setattr(segments, "cheapest", lambda *args: calls.append(args) or kept(*args))
    remembering._known.clear()
    for scale in (1.0, 2.0):
        np.testing.assert_allclose(
            pb.jacobian(net, mode="planned")(X * scale).numpy(), differences(net, X * scale), atol=2e-8
        )
    assert len(calls) == 1
    pb.jacobian(net, mode="planned")(X.astype("float32"))
    assert len(calls) == 2


BAD = {
    "mode": (lambda: pb.jacobian(net, mode="backwards"), ArgumentError, "mode is one of 'auto', 'reverse'"),
    "chunk": (lambda: pb.jacobian(net, chunk_size=0), ArgumentError, "chunk_size is a whole number above 0"),
    "limit": (lambda: pb.jacobian(net, memory_limit=1.5), ArgumentError, "memory_limit is a whole number"),
    "no function": (lambda: pb.jacobian(3), DtypeError, "function"),
    "argnums": (lambda: pb.jacobian(net, argnums=1)(X), ArgumentError, "argnums 1"),
    "integers": (lambda: pb.jacobian(net)(np.arange(6)), DtypeError, "int64"),
    "no tensor": (lambda: pb.jacobian(lambda x: 3)(X), TapeError, "return tensors"),
    "no chain": (lambda: pb.jacobian(lambda x: (x, x), mode="planned")(X), ArgumentError, "mode='planned' takes one"),
    "an integer": (lambda: pb.jacobian(pb.argmax)(X), DtypeError, "jacobian: the value holds int64, and derivatives"),
    "booleans": (
        lambda: pb.jacobian(lambda x: (x, x > 0), mode="forward")(X),
        DtypeError,
        "leaf 1 of the value holds bool",
    ),
    "plan of integers": (lambda: pb.plan_jacobian(pb.argmax, X), DtypeError, "plan_jacobian: the value holds int64"),
    "plan of no tensor": (lambda: pb.plan_jacobian(lambda x: None, X), TapeError, "return tensors"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    run, kind, message = BAD[case]
    with pytest.raises(kind, match=message):
        run()


def test_nothing_to_differentiate():
    for mode in ("auto", "reverse", "forward"):
        assert pb.jacobian(lambda x: pb.asarray(np.ones(2)), mode=mode)(X).numpy().tolist() == np.zeros((2, 6)).tolist()
        assert pb.jacobian(pb.tanh, mode=mode)(np.ones(0)).shape == (0, 0)


def test_what_is_remembered_of_a_tape_holds_no_arrays():
    """A checkpointed function has an op of its own at every call, which holds its arguments."""
    seen = []

    def f(x):
        seen.append(weakref.ref(x))
        return pb.tanh(x * 2.0)

    for _ in range(3):
        pb.jacobian(pb.checkpoint(f))(X.copy())
    gc.collect()
    assert [r() for r in seen if r() is not None] == []
