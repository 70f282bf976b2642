"""Every nesting of the modes against closed forms: no mode confuses the derivatives of another."""

import itertools

import numpy as np
import pytest

import pullback as pb
from pullback.core.recording import enable_recording

X = np.array([0.3, -0.7, 1.2])
ONES = np.ones(3)
RNG = np.random.default_rng(7)


def leaf(values):
    return pb.tensor(np.asarray(values, "float64"), requires_grad=True)


# --- elementwise functions: each mode maps a function to its derivative, so modes compose ----------------------------

MODES = {
    "reverse": lambda f: pb.grad(lambda x: pb.sum(f(x))),
    "forward": lambda f: lambda x: pb.jvp(f, (x,), (ONES,))[1],
    "vjp": lambda f: lambda x: pb.vjp(f, x)[1](ONES)[0],
    "linearize": lambda f: lambda x: pb.linearize(f, x)[1](ONES),
    "checkpointed reverse": lambda f: pb.grad(lambda x: pb.sum(pb.checkpoint(f)(x))),
    "checkpointed forward": lambda f: lambda x: pb.jvp(pb.checkpoint(f), (x,), (ONES,))[1],
}


def tanh_derivatives(x):
    t = np.tanh(x)
    s = 1 - t * t
    return [t, s, -2 * t * s, s * (6 * t * t - 2)]


def wave_derivatives(x):
    e, s, c = np.exp(x), np.sin(x), np.cos(x)
    return [e * s, e * (s + c), 2 * e * c, 2 * e * (c - s)]


def quotient_derivatives(x):
    d = 2 + x
    return [1 / d, -1 / d**2, 2 / d**3, -6 / d**4]


FUNCTIONS = {
    "tanh": (pb.tanh, tanh_derivatives),
    "exp times sin": (lambda x: pb.exp(x) * pb.sin(x), wave_derivatives),
    "a quotient": (lambda x: 1.0 / (2.0 + x), quotient_derivatives),
}


@pytest.mark.parametrize(("f", "derivatives"), FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("names", list(itertools.product(MODES, repeat=2)), ids=" over ".join)
def test_two_modes(names, f, derivatives):
    outer, inner = (MODES[name] for name in names)
    np.testing.assert_allclose(outer(inner(f))(X).numpy(), derivatives(X)[2], rtol=1e-12)


@pytest.mark.parametrize("names", list(itertools.product(MODES, repeat=3)), ids=" over ".join)
def test_three_modes(names):
    outer, middle, inner = (MODES[name] for name in names)
    f, derivatives = FUNCTIONS["exp times sin"]
    np.testing.assert_allclose(outer(middle(inner(f)))(X).numpy(), derivatives(X)[3], rtol=1e-12)


@pytest.mark.parametrize("name", MODES)
def test_five_derivatives_of_one_mode(name):
    f = pb.exp
    for _ in range(5):
        f = MODES[name](f)
    np.testing.assert_allclose(f(X).numpy(), np.exp(X), rtol=1e-12)


@pytest.mark.parametrize("name", MODES)
def test_backward_through_every_mode(name):
    x = leaf(X)
    pb.sum(MODES[name](pb.tanh)(x)).backward()
    np.testing.assert_allclose(x.grad.numpy(), tanh_derivatives(X)[2], rtol=1e-13)


@pytest.mark.parametrize("name", MODES)
def test_every_mode_gives_the_same_inside_no_grad(name):
    with pb.no_grad():
        np.testing.assert_allclose(MODES[name](MODES[name](pb.tanh))(X).numpy(), tanh_derivatives(X)[2], rtol=1e-13)


def test_a_mode_inside_no_grad_inside_a_mode_is_a_constant():
    def f(x):
        with pb.no_grad():
            slope = pb.grad(lambda y: pb.sum(pb.tanh(y)))(x)
        return pb.sum(slope * x)

    np.testing.assert_allclose(pb.grad(f)(X).numpy(), tanh_derivatives(X)[1], rtol=1e-14)


# --- functions of vectors ---------------------------------------------------------------------------------------------

A = RNG.normal(size=(4, 3))
H = A.T @ np.diag(tanh_derivatives(A @ X)[2]) @ A
T = RNG.normal(size=3)
U = RNG.normal(size=3)


def energy(x):
    return pb.sum(pb.tanh(A @ x))


PRODUCTS = {
    "forward over reverse": lambda f, x, t: pb.jvp(pb.grad(f), (x,), (t,))[1],
    "reverse over forward": lambda f, x, t: pb.grad(lambda v: pb.jvp(f, (v,), (t,))[1])(x),
    "reverse over reverse": lambda f, x, t: pb.grad(lambda v: pb.sum(pb.grad(f)(v) * t))(x),
    "a vjp of a gradient": lambda f, x, t: pb.vjp(pb.grad(f), x)[1](t)[0],
    "hvp": lambda f, x, t: pb.hvp(f, (x,), (t,))[0],
    "hvp of a checkpoint": lambda f, x, t: pb.hvp(pb.checkpoint(f), (x,), (t,))[0],
}


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS)
def test_products_with_the_hessian(product):
    np.testing.assert_allclose(product(energy, X, T).numpy(), H @ T, rtol=1e-12)


def test_forward_over_forward_is_a_quadratic_form():
    second = pb.jvp(lambda v: pb.jvp(energy, (v,), (T,))[1], (X,), (U,))[1]
    np.testing.assert_allclose(second.item(), U @ H @ T, rtol=1e-12)


def test_the_derivative_of_a_product_with_the_hessian():
    expected = A.T @ (tanh_derivatives(A @ X)[3] * (A @ T) * (A @ U))
    for product in PRODUCTS.values():
        found = pb.grad(lambda x, product=product: pb.sum(product(energy, x, T) * U))(X)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-11)


def test_hvp_of_several_arguments_and_trees():
    def f(x, tree):
        return pb.sum(x * x * tree["y"]) + pb.sum(tree["y"] ** 3)

    y, t, s = X + 2.0, T, {"y": U}
    first, second = pb.hvp(f, (X, {"y": y}), (t, s))
    np.testing.assert_allclose(first.numpy(), 2 * y * T + 2 * X * U, rtol=1e-13)
    np.testing.assert_allclose(second["y"].numpy(), 2 * X * T + 6 * y * U, rtol=1e-13)


def test_the_hessian_of_one_tensor():
    np.testing.assert_allclose(pb.hessian(energy)(X).numpy(), H, rtol=1e-12)
    found = pb.hessian(lambda m: pb.sum(pb.tanh(A @ pb.reshape(m, (3,)))))(X.reshape(3, 1))
    assert found.shape == (3, 1, 3, 1)
    np.testing.assert_allclose(found.numpy().reshape(3, 3), H, rtol=1e-12)


def test_the_hessian_of_a_quadratic_form_and_of_less():
    m = RNG.normal(size=(3, 3))
    np.testing.assert_allclose(pb.hessian(lambda x: x @ (m @ x))(X).numpy(), m + m.T, rtol=1e-13)
    assert pb.hessian(lambda x: pb.sum(x * T))(X).tolist() == np.zeros((3, 3)).tolist()
    assert pb.hessian(lambda x: pb.tensor(1.0))(X).tolist() == np.zeros((3, 3)).tolist()
    assert pb.hessian(lambda x: x**3)(2.0).item() == 12.0


def test_the_hessian_of_a_tree_has_blocks_that_are_each_others_transposes():
    def f(tree):
        return pb.sum(tree["w"] @ tree["x"] * pb.tanh(tree["w"] @ tree["x"]))

    w = RNG.normal(size=(2, 3))
    blocks = pb.hessian(f)({"w": w, "x": X})
    assert {(i, j): blocks[i][j].shape for i in "wx" for j in "wx"} == {
        ("w", "w"): (2, 3, 2, 3),
        ("w", "x"): (2, 3, 3),
        ("x", "w"): (3, 2, 3),
        ("x", "x"): (3, 3),
    }
    packed = pb.hessian(lambda v: f({"w": pb.reshape(v[:6], (2, 3)), "x": v[6:]}))(
        np.concatenate([w.ravel(), X])
    ).numpy()
    np.testing.assert_allclose(packed, packed.T, rtol=1e-12)
    np.testing.assert_allclose(blocks["w"]["w"].numpy().reshape(6, 6), packed[:6, :6], rtol=1e-12)
    np.testing.assert_allclose(blocks["w"]["x"].numpy().reshape(6, 3), packed[:6, 6:], rtol=1e-12)
    np.testing.assert_allclose(blocks["x"]["w"].numpy().reshape(3, 6), packed[6:, :6], rtol=1e-12)


@pytest.mark.parametrize(("argnums", "power"), [(0, 2), (1, 3), (-1, 3), (-2, 2)])
def test_the_hessian_with_respect_to_any_argument(argnums, power):
    def f(x, y, scale=1.0):
        return pb.sum(x**2 + y**3) * scale

    expected = np.diag([10 * power * (power - 1) * x ** (power - 2) for x in X])
    np.testing.assert_allclose(pb.hessian(f, argnums)(X, X, scale=10.0).numpy(), expected, rtol=1e-13)


@pytest.mark.parametrize("argnums", [2, -3, (0, 1), None, "x"], ids=repr)
def test_the_hessian_refuses_what_is_no_argument(argnums):
    with pytest.raises(pb.errors.ArgumentError, match="hessian: argnums"):
        pb.hessian(lambda x, y: pb.sum(x * y), argnums)(X, X)


def test_the_hessian_is_differentiable():
    def f(x):
        return pb.sum(pb.hessian(lambda y: pb.sum(y**4))(x))

    np.testing.assert_allclose(pb.grad(f)(X).numpy(), 24 * X, rtol=1e-12)


# --- perturbation confusion -------------------------------------------------------------------------------------------

SCALAR = {
    "reverse": pb.grad,
    "forward": lambda f: lambda x: pb.jvp(f, (x,), (1.0,))[1],
    "vjp": lambda f: lambda x: pb.vjp(f, x)[1](1.0)[0],
    "linearize": lambda f: lambda x: pb.linearize(f, x)[1](1.0),
}
PAIRS = list(itertools.product(SCALAR.values(), repeat=2))
PAIR_NAMES = [" over ".join(names) for names in itertools.product(SCALAR, repeat=2)]


@pytest.mark.parametrize(("d", "e"), PAIRS, ids=PAIR_NAMES)
def test_the_inner_derivative_does_not_see_the_outer_variable_move(d, e):
    """The examples of Siskind and Pearlmutter, "Perturbation confusion and referential transparency" (2005)."""
    assert d(lambda x: x * e(lambda y: x + y)(1.0))(3.0).item() == 1.0
    assert d(lambda x: x * e(lambda y: x * y)(2.0))(3.0).item() == 6.0
    assert d(lambda x: e(lambda y: x * y * y)(x))(3.0).item() == 12.0
    assert d(lambda x: x * e(lambda y: x * e(lambda z: x * y * z)(1.0))(5.0))(2.0).item() == 12.0


@pytest.mark.parametrize(("d", "e"), PAIRS, ids=PAIR_NAMES)
def test_a_tangent_may_depend_on_the_outer_variable(d, e):
    def f(x):
        return pb.jvp(lambda y: y * y * x, (x,), (x * x,))[1]  # 2 x y x^2 at y = x: 2 x^4

    assert d(f)(2.0).item() == 64.0
    assert d(e(f))(2.0).item() == 96.0


@pytest.mark.parametrize("d", SCALAR.values(), ids=SCALAR)
def test_a_cotangent_may_depend_on_the_outer_variable(d):
    def f(x):
        return pb.vjp(lambda y: y * y, x)[1](x)[0]  # 2 x x

    assert d(f)(3.0).item() == 12.0


@pytest.mark.parametrize("d", SCALAR.values(), ids=SCALAR)
def test_a_pull_made_inside_may_be_used_again_and_again(d):
    def f(x):
        _, pull = pb.vjp(lambda y: y**3, x)
        return pull(1.0)[0] * pull(x)[0]  # 3x^2 * 3x^3

    assert d(f)(2.0).item() == 9 * 5 * 16.0


def test_a_pull_made_outside_is_differentiable_in_its_cotangent():
    _, pull = pb.vjp(pb.tanh, X)
    found = pb.grad(lambda u: pb.sum(pull(u)[0] * T))(ONES)
    np.testing.assert_allclose(found.numpy(), tanh_derivatives(X)[1] * T, rtol=1e-14)
    _, push = pb.linearize(pb.tanh, X)
    found = pb.grad(lambda t: pb.sum(push(t) * U))(ONES)
    np.testing.assert_allclose(found.numpy(), tanh_derivatives(X)[1] * U, rtol=1e-14)


# --- closures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", list(itertools.product(MODES, repeat=2)), ids=" over ".join)
def test_a_closure_over_an_outer_tracked_value(names):
    """The derivative in y of sin(x y) at y = 2, as a function of x."""
    outer, inner = (MODES[name] for name in names)
    found = outer(lambda x: inner(lambda y: pb.sin(x * y))(2.0 * ONES))(X)
    np.testing.assert_allclose(found.numpy(), np.cos(2 * X) - 2 * X * np.sin(2 * X), rtol=1e-12)


@pytest.mark.parametrize("name", MODES)
def test_a_closure_over_a_leaf(name):
    w = leaf(T)
    found = MODES[name](lambda x: pb.sin(w * x))(X)
    np.testing.assert_allclose(found.numpy(), T * np.cos(T * X), rtol=1e-13)
    pb.sum(found).backward()
    np.testing.assert_allclose(w.grad.numpy(), np.cos(T * X) - T * X * np.sin(T * X), rtol=1e-12)


def test_recording_is_turned_on_by_a_transform_and_left_as_it_was():
    with pb.no_grad():
        assert pb.grad(lambda x: pb.sum(x * x))(X).tolist() == (2 * X).tolist()
        assert not (leaf(X) * 2.0).requires_grad
        with enable_recording():
            assert (leaf(X) * 2.0).requires_grad


def test_mixed_dtypes_and_broadcasting_in_the_second_order():
    a, c = RNG.uniform(size=(4, 3)), RNG.uniform(size=3)

    def f(x):
        return pb.sum(pb.tanh(a * x) * (x / (a + 1.0)))

    d = RNG.normal(size=3)
    product = pb.grad(lambda x: pb.sum(pb.grad(f)(x) * d))(c)
    ahead, behind = pb.grad(f)(c + 1e-5 * d).numpy(), pb.grad(f)(c - 1e-5 * d).numpy()
    np.testing.assert_allclose(product.numpy(), (ahead - behind) / 2e-5, rtol=1e-7)
    narrow = c.astype("float32")
    second = pb.grad(lambda x: pb.sum(pb.grad(f)(x) * d))(narrow)
    assert second.dtype == np.float32
    np.testing.assert_allclose(second.numpy(), product.numpy(), rtol=1e-5)
