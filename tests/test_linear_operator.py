"""pb.linear_operator: against dense matrices made by pb.jacobian and pb.hessian, and in SciPy's solvers."""

import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator, cg, eigsh, lsqr

import pullback as pb
from pullback.errors import ArgumentError, DtypeError, ShapeError, TapeError

RNG = np.random.default_rng(0)
A = RNG.normal(size=(5, 4))
TREE = {"a": RNG.normal(size=4), "b": np.float64(1.3)}
FLAT = np.append(TREE["a"], TREE["b"])
TARGET = RNG.normal(size=5)


def f(tree):
    return pb.tanh(A @ tree["a"]) * tree["b"]


def flat_f(v):
    return f({"a": v[:4], "b": v[4]})


def loss(y):
    return pb.sum((y - TARGET) ** 4) + pb.prod(y)


def dense(operator):
    return operator @ np.eye(operator.shape[1])


JACOBIAN = pb.jacobian(flat_f)(FLAT).numpy()
MIDDLE = pb.hessian(loss)(flat_f(FLAT)).numpy()


def fisher(distribution):
    y = flat_f(FLAT).numpy()
    if distribution == "normal":
        return JACOBIAN.T @ JACOBIAN
    if distribution == "bernoulli":
        p = 1 / (1 + np.exp(-y))
        return JACOBIAN.T @ np.diag(p * (1 - p)) @ JACOBIAN
    p = np.exp(y) / np.exp(y).sum()
    return JACOBIAN.T @ (np.diag(p) - np.outer(p, p)) @ JACOBIAN


CASES = {
    "J": (lambda: pb.linear_operator(f, TREE).J, JACOBIAN),
    "JT": (lambda: pb.linear_operator(f, TREE).JT, JACOBIAN.T),
    "H": (
        lambda: pb.linear_operator(lambda t: loss(f(t)), TREE).H,
        pb.hessian(lambda v: loss(flat_f(v)))(FLAT).numpy(),
    ),
    "H of a loss": (
        lambda: pb.linear_operator(f, TREE, loss=loss).H,
        pb.hessian(lambda v: loss(flat_f(v)))(FLAT).numpy(),
    ),
    "GN": (lambda: pb.linear_operator(f, TREE).GN, JACOBIAN.T @ JACOBIAN),
    "GN of a loss": (lambda: pb.linear_operator(f, TREE, loss=loss).GN, JACOBIAN.T @ MIDDLE @ JACOBIAN),
    "F": (lambda: pb.linear_operator(f, TREE).F, fisher("categorical")),
    "F, bernoulli": (lambda: pb.linear_operator(f, TREE, distribution="bernoulli").F, fisher("bernoulli")),
    "F, normal": (lambda: pb.linear_operator(f, TREE, distribution="normal").F, fisher("normal")),
}


@pytest.mark.parametrize("name", CASES)
def test_products_are_those_of_the_dense_matrix(name):
    make, matrix = CASES[name]
    operator = make()
    assert isinstance(operator, LinearOperator)
    assert operator.shape == matrix.shape
    assert operator.dtype == np.float64
    m, n = matrix.shape
    v, u, many, left = (RNG.normal(size=s) for s in (n, m, (n, 7), (m, 3)))
    for found, expected in (
        (operator @ v, matrix @ v),
        (operator @ v.reshape(n, 1), matrix @ v.reshape(n, 1)),
        (operator.rmatvec(u), matrix.T @ u),
        (operator @ many, matrix @ many),
        (operator @ np.asfortranarray(many)[:, ::2], matrix @ many[:, ::2]),
        (operator @ many[:, :0], matrix @ many[:, :0]),
        (operator.rmatmat(left), matrix.T @ left),
        (operator.H @ left, matrix.T @ left),
        (operator.T @ u, matrix.T @ u),
        ((2 * operator) @ v, 2 * matrix @ v),
        (operator @ np.arange(n), matrix @ np.arange(n)),
    ):
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    if name[0] != "J":
        assert operator.H is operator
        assert operator.T is operator
        np.testing.assert_allclose(dense(operator), dense(operator).T, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_chunks_of_columns_give_the_same_numbers(chunk):
    operators = pb.linear_operator(f, TREE, loss=loss, chunk_size=chunk)
    np.testing.assert_allclose(dense(operators.J), JACOBIAN, rtol=1e-12)
    np.testing.assert_allclose(dense(operators.GN), CASES["GN of a loss"][1], rtol=1e-9, atol=1e-12)


def test_jacobian_products_are_central_differences():
    operators, t, h = pb.linear_operator(flat_f, FLAT), RNG.normal(size=5), 1e-6
    slope = (flat_f(FLAT + h * t).numpy() - flat_f(FLAT - h * t).numpy()) / (2 * h)
    np.testing.assert_allclose(operators.J @ t, slope, atol=1e-8)
    np.testing.assert_array_equal(operators.out.numpy(), flat_f(FLAT).numpy())


def test_the_function_runs_once():
    calls = []

    def counted(tree):
        calls.append(tree)
        return f(tree)

    operators = pb.linear_operator(counted, TREE, loss=loss)
    for operator in (operators.J, operators.JT, operators.H, operators.GN, operators.F):
        operator @ np.ones(5)
        dense(operator)
    assert len(calls) == 1
    assert operators.J is operators.J


def test_values_that_are_trees():
    def parts(x):
        return {"y": pb.sin(x), "z": (pb.sum(x), pb.reshape(x[:4], (2, 2)) ** 2)}

    found = dense(pb.linear_operator(parts, FLAT).J)
    assert found.shape == (10, 5)
    np.testing.assert_allclose(found[:5], np.diag(np.cos(FLAT)))
    np.testing.assert_allclose(found[5], np.ones(5))
    np.testing.assert_allclose(found[6:], np.diag(2 * FLAT)[:4])
    blocks = pb.linear_operator(parts, FLAT, loss=lambda t: pb.sum(t["y"] ** 2) + t["z"][0] ** 2).GN
    np.testing.assert_allclose(dense(blocks), 2 * np.diag(np.cos(FLAT) ** 2) + 2 * np.ones((5, 5)), rtol=1e-12)


def test_dtypes():
    narrow = pb.linear_operator(pb.tanh, FLAT.astype("float32"))
    for operator in (narrow.J, narrow.JT, narrow.GN, narrow.F):
        assert operator.dtype == (operator @ np.ones(5)).dtype == dense(operator).dtype == np.float32
    mixed = pb.linear_operator(lambda t: t[0] * pb.astype(t[1], "float64"), (FLAT, FLAT.astype("float32"))).J
    assert mixed.dtype == np.float64
    np.testing.assert_allclose(dense(mixed), np.hstack([np.diag(FLAT), np.diag(FLAT)]), rtol=1e-6)


def test_the_fisher_of_logits_is_the_gauss_newton_matrix_of_cross_entropy():
    x, labels = RNG.normal(size=(8, 4)), RNG.integers(0, 3, 8)
    model = lambda w: x @ w  # noqa: E731
    w = RNG.normal(size=(4, 3))
    operators = pb.linear_operator(model, w, loss=lambda y: pb.cross_entropy(y, labels, reduction="sum"))
    np.testing.assert_allclose(dense(operators.F), dense(operators.GN), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(dense(operators.F), dense(operators.H), rtol=1e-9, atol=1e-12)  # the model is linear
    assert np.linalg.eigvalsh(dense(operators.F)).min() > -1e-12


def test_parameters_in_closures_are_left_alone():
    model = pb.nn.MLP((5, 4, 3), "tanh", dtype="float64", generator=0)
    found = dense(pb.linear_operator(model, FLAT).J)
    np.testing.assert_allclose(found, pb.jacobian(model)(FLAT).numpy(), rtol=1e-12)
    assert all(p.grad is None for p in model.parameters().values())


def test_a_cotangent_that_all_examples_share_meets_one_by_example():
    _, pull = pb.vjp(lambda x: (pb.sin(x), pb.cos(x)), FLAT)
    found = pb.vmap(lambda g: pull((np.ones(5), g))[0])(np.eye(5))
    np.testing.assert_allclose(found.numpy(), np.cos(FLAT) - np.diag(np.sin(FLAT)), rtol=1e-12)
    found = pb.vmap(lambda g: pull((g, np.ones(5)))[0])(np.eye(5))
    np.testing.assert_allclose(found.numpy(), np.diag(np.cos(FLAT)) - np.sin(FLAT), rtol=1e-12)


# --- SciPy's solvers --------------------------------------------------------------------------------------------------


def test_conjugate_gradients_take_a_newton_step():
    w = np.eye(5) + 0.1 * RNG.normal(size=(5, 5))

    def convex(x):
        return pb.sum(pb.exp(w @ x)) + pb.sum(x**2)

    b = RNG.normal(size=5)
    step, info = cg(pb.linear_operator(convex, FLAT).H, b, rtol=1e-12)
    assert info == 0
    np.testing.assert_allclose(step, np.linalg.solve(pb.hessian(convex)(FLAT).numpy(), b), rtol=1e-8)


def test_least_squares_with_the_jacobian():
    b = RNG.normal(size=5)
    found = lsqr(pb.linear_operator(f, TREE).J, b, atol=1e-14, btol=1e-14, iter_lim=500)[0]
    np.testing.assert_allclose(found, np.linalg.lstsq(JACOBIAN, b)[0], rtol=1e-5)


def test_eigenvalues_of_the_hessian():
    def g(x):
        return pb.sum(pb.sin(x) * pb.exp(pb.flip(x, axis=0)))

    x = RNG.normal(size=12)
    found = eigsh(pb.linear_operator(g, x).H, 3, which="LA", return_eigenvectors=False, v0=np.ones(12))
    np.testing.assert_allclose(np.sort(found), np.linalg.eigvalsh(pb.hessian(g)(x).numpy())[-3:], rtol=1e-9)


# --- bad input --------------------------------------------------------------------------------------------------------

BAD = {
    "no function": (lambda: pb.linear_operator(X, X), DtypeError, "linear_operator: its first argument is a function"),
    "no loss": (lambda: pb.linear_operator(f, TREE, loss="mse"), DtypeError, "loss: its first argument"),
    "distribution": (
        lambda: pb.linear_operator(f, TREE, distribution="poisson"),
        ArgumentError,
        "one of 'categorical'",
    ),
    "chunk": (lambda: pb.linear_operator(f, TREE, chunk_size=0), ArgumentError, "chunk_size is a whole number above 0"),
    "integers": (lambda: pb.linear_operator(pb.tanh, np.arange(3)), DtypeError, "argument 0 holds int64"),
    "nothing": (lambda: pb.linear_operator(lambda t: pb.ones(2), {}), ArgumentError, "x holds no tensor"),
    "no tensor": (lambda: pb.linear_operator(lambda x: 3, FLAT), TapeError, "return tensors"),
    "H of many": (lambda: pb.linear_operator(pb.tanh, FLAT).H, ShapeError, r"H is of one .* shape \(5,\)"),
    "F of one": (lambda: pb.linear_operator(pb.sum, FLAT).F, ShapeError, "along the last axis"),
    "complex": (lambda: pb.linear_operator(f, TREE).J @ (1j * FLAT), DtypeError, "a vector holds complex128"),
}
X = FLAT


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    run, kind, message = BAD[case]
    with pytest.raises(kind, match=message):
        run()
