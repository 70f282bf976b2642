"""pb.hessian: against central differences of the gradient, symmetric, in chunks, within the memory asked for."""

import numpy as np
import pytest
from traced_memory import traced_memory

import pullback as pb
from pullback.backends.meta.metering import metering
from pullback.costs.ledger import Ledger
from pullback.errors import ArgumentError, DeviceMemoryError, DtypeError, ShapeError, TapeError

RNG = np.random.default_rng(0)
X = RNG.normal(size=6)
W = RNG.normal(size=(6, 6)) / 2
LABELS = RNG.integers(0, 3, 7)
EXAMPLES = RNG.normal(size=(7, 4))
PARAMETERS = {
    "first": {"w": RNG.normal(size=(4, 5)), "b": RNG.normal(size=5)},
    "last": {"w": RNG.normal(size=(5, 3)), "b": RNG.normal(size=3)},
    "scale": np.float64(0.7),
}


def smooth(x):
    return pb.sum(pb.exp(-(pb.tanh(x @ W) ** 2))) * pb.sum(x**3)


def mlp(p):
    h = pb.tanh(pb.asarray(EXAMPLES) @ p["first"]["w"] + p["first"]["b"])
    return pb.nn.cross_entropy((h @ p["last"]["w"] + p["last"]["b"]) * p["scale"], LABELS)


def differences(f, x, step=1e-5):
    """Central differences of the gradient, (*x, *x)."""
    rows = []
    for i in range(x.size):
        e = np.zeros(x.size)
        e[i] = step
        e = e.reshape(x.shape)
        rows.append((pb.grad(f)(x + e).numpy() - pb.grad(f)(x - e).numpy()) / (2 * step))
    return np.stack(rows).reshape(*x.shape, *x.shape)


def packed(blocks, tree):
    """The blocks of a tree as one matrix."""
    leaves, spec = pb.trees.flatten(tree)
    rows = [spec.flatten_up_to(row) for row in spec.flatten_up_to(blocks)]
    sizes = [np.size(leaf) for leaf in leaves]
    return np.block(
        [[b.numpy().reshape(m, n) for b, n in zip(row, sizes, strict=True)] for row, m in zip(rows, sizes, strict=True)]
    )


def flat_mlp(v):
    spec = pb.trees.flatten(PARAMETERS)[1]
    leaves, start = [], 0
    for leaf in pb.trees.flatten(PARAMETERS)[0]:
        shape, size = np.shape(leaf), np.size(leaf)
        leaves.append(pb.reshape(v[start : start + size], shape))
        start += size
    return mlp(pb.trees.unflatten(spec, leaves))


FLAT = np.concatenate([np.ravel(leaf) for leaf in pb.trees.flatten(PARAMETERS)[0]])


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("f", [smooth, lambda x: pb.logsumexp(x * x), lambda x: pb.prod(x[:3]) * x[4], pb.sum])
def test_it_is_the_central_difference_of_the_gradient(f):
    found = pb.hessian(f)(X).numpy()
    np.testing.assert_allclose(found, differences(f, X), atol=1e-7)
    assert (found == found.T).all()


def test_axes_of_the_argument_are_kept():
    x = RNG.normal(size=(2, 1, 3))

    def f(x):
        return smooth(pb.reshape(x, (6,)))

    found = pb.hessian(f)(x).numpy()
    assert found.shape == (2, 1, 3, 2, 1, 3)
    np.testing.assert_allclose(found, differences(f, x), atol=1e-6)
    assert pb.hessian(lambda x: x**3)(2.0).item() == 12.0


@pytest.mark.parametrize("chunk", [None, 1, 4])
def test_a_tree_is_the_blocks_of_one_vector_and_exactly_symmetric(chunk):
    found = packed(pb.hessian(mlp, chunk_size=chunk)(PARAMETERS), PARAMETERS)
    np.testing.assert_allclose(found, differences(flat_mlp, FLAT), atol=1e-7)
    np.testing.assert_allclose(found, pb.hessian(flat_mlp)(FLAT).numpy(), rtol=1e-10, atol=1e-13)
    assert (found == found.T).all()


def test_leaves_in_any_order_give_the_same_blocks():
    """The leaf that comes first in the tree comes last on the tape."""

    def f(t):
        return pb.sum(pb.tanh(pb.tanh(t[1] @ W) @ t[0]) ** 2)

    late, early = RNG.normal(size=(6, 2)), X
    (ll, le), (el, ee) = pb.hessian(f)((late, early))
    np.testing.assert_allclose(ee.numpy(), differences(lambda x: f((late, x)), early), atol=1e-7)
    np.testing.assert_allclose(ll.numpy(), differences(lambda x: f((x, early)), late), atol=1e-7)
    assert le.shape == (6, 2, 6)
    assert (le.numpy().reshape(12, 6) == el.numpy().reshape(6, 12).T).all()


def test_rows_have_the_dtype_of_their_leaf_and_its_precision():
    def f(t):
        return pb.sum(pb.astype(t["narrow"], "float64") * t["wide"] ** 3)

    tree = {"wide": X, "narrow": X.astype("float32")}
    found = pb.hessian(f)(tree)
    assert {(i, j): found[i][j].dtype for i in found for j in found} == {
        (i, j): np.dtype("float32" if i == "narrow" else "float64") for i in found for j in found
    }
    np.testing.assert_allclose(found["wide"]["narrow"].numpy(), np.diag(3 * X**2), rtol=1e-15)
    np.testing.assert_allclose(found["narrow"]["wide"].numpy(), np.diag(3 * X**2), rtol=1e-6)
    assert pb.hessian(smooth)(X.astype("float32")).dtype == np.float32


def test_it_nests_with_derivatives_and_vmap():
    def size(x):
        return pb.sum(pb.hessian(smooth)(x) ** 2) / 100

    step = 1e-6 * np.eye(6)
    slopes = [(size(X + e).item() - size(X - e).item()) / 2e-6 for e in step]
    np.testing.assert_allclose(pb.grad(size)(X).numpy(), slopes, rtol=1e-5)
    many = RNG.normal(size=(3, 6))
    expected = np.stack([pb.hessian(smooth)(x).numpy() for x in many])
    np.testing.assert_allclose(pb.vmap(pb.hessian(smooth))(many).numpy(), expected, rtol=1e-9, atol=1e-10)


def test_nothing_to_differentiate():
    assert pb.hessian(lambda x: pb.asarray(1.0))(X).tolist() == np.zeros((6, 6)).tolist()
    assert pb.hessian(pb.sum)(np.ones(0)).shape == (0, 0)
    assert pb.hessian(lambda t: pb.sum(t["a"] ** 2))({"a": X, "b": X})["b"]["a"].tolist() == np.zeros((6, 6)).tolist()


def test_late_leaves_are_not_walked_through_what_comes_before():
    """Half of the pushes' operations go where blocks are transposes of others."""
    depth, width = 6, 8
    weights = [pb.zeros((width, width), dtype="float64", device="meta") for _ in range(depth)]

    def deep(ws):
        h = pb.ones((16, width), dtype="float64", device="meta")
        for w in ws:
            h = pb.tanh(h @ w)
        return pb.sum(h)

    def flops(derivative):
        ledger = Ledger()
        with metering(ledger):
            derivative(weights)
        return ledger.total("forward").flops

    assert flops(pb.hessian(deep)) < 0.75 * flops(pb.jacobian(pb.grad(deep), mode="forward"))


# --- memory and bad input ---------------------------------------------------------------------------------------------


def test_a_limit_of_memory_is_kept():
    w = RNG.normal(size=(200, 200)) / 14

    def f(x):
        return pb.sum(pb.tanh(pb.tanh(pb.tanh(x @ w) @ w) @ w) ** 2)

    x = RNG.normal(size=200)
    whole = pb.hessian(f)(x).numpy()
    for limit in (3_000_000, 1_300_000):
        found, peak, _ = traced_memory(lambda limit=limit: pb.hessian(f, memory_limit=limit)(x))
        assert peak <= limit
        np.testing.assert_allclose(found.numpy(), whole, rtol=1e-9, atol=1e-12)
    with pytest.raises(DeviceMemoryError, match=r"hessian: one vector .* memory_limit is 1,000"):
        pb.hessian(f, memory_limit=1000)(x)


BAD = {
    "chunk": (lambda: pb.hessian(smooth, chunk_size=0), ArgumentError, "hessian: chunk_size is a whole number above 0"),
    "limit": (lambda: pb.hessian(smooth, memory_limit="1 GB"), ArgumentError, "hessian: memory_limit is a whole"),
    "no function": (lambda: pb.hessian(X), DtypeError, "hessian: its first argument is a function"),
    "argnums": (lambda: pb.hessian(smooth, (0, 1))(X, X), ArgumentError, "argnums is one int"),
    "integers": (lambda: pb.hessian(smooth)(np.arange(6)), DtypeError, "argument 0 holds int64"),
    "many numbers": (lambda: pb.hessian(pb.tanh)(X), ShapeError, "the value is one number"),
    "no tensor": (lambda: pb.hessian(lambda x: 3.0)(X), TapeError, "not a tensor"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    run, kind, message = BAD[case]
    with pytest.raises(kind, match=message):
        run()
