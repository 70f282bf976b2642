"""Derivatives of the elementwise ops where they are delicate: singular slopes, kinks, ties, extremes, numbers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

import pullback as pb

INF = math.inf


def slope(f, x, dtype=np.float64):
    """The derivative of `f` at each number of `x`, by both modes, which must agree; nothing may be widened."""
    x = np.asarray(x, dtype)
    with np.errstate(all="ignore"):
        _, pull = pb.vjp(f, x)
        out, tangent = pb.jvp(f, (x,), (np.ones_like(x),))
        (back,) = pull(np.ones(out.shape, out.dtype))
    assert back.dtype == tangent.dtype == out.dtype == dtype
    np.testing.assert_array_equal(back.numpy(), tangent.numpy())
    return back.numpy()


def gradients(f, *primals):
    """Gradients of the sum of `f`."""
    with np.errstate(all="ignore"):
        return [g.numpy() for g in pb.grad(lambda *p: pb.sum(f(*p)), argnums=tuple(range(len(primals))))(*primals)]


# --- a zero cotangent stays zero --------------------------------------------------------------------------------------

# A function whose slope is infinite or undefined at the point, and the point.
SINGULAR = {
    "sqrt at 0": (pb.sqrt, 0.0),
    "sqrt below 0": (pb.sqrt, -1.0),
    "log at 0": (pb.log, 0.0),
    "log1p at -1": (pb.log1p, -1.0),
    "log2 at 0": (pb.log2, 0.0),
    "log10 at 0": (pb.log10, 0.0),
    "exp past overflow": (pb.exp, 1e4),
    "expm1 past overflow": (pb.expm1, 1e4),
    "sinh past overflow": (pb.sinh, 1e4),
    "cosh past overflow": (pb.cosh, -1e4),
    "reciprocal at 0": (pb.reciprocal, 0.0),
    "quotient of a number": (lambda x: 2.0 / x, 0.0),
    "quotient of a tensor": (lambda x: pb.tensor(np.float64(3)) / x, 0.0),
    "quotient by 0": (lambda x: x / 0.0, 1.0),
    "quotient by a tensor of 0": (lambda x: x / pb.tensor(np.float64(0)), 1.0),
    "asin at 1": (pb.asin, 1.0),
    "asin above 1": (pb.asin, 2.0),
    "acos at -1": (pb.acos, -1.0),
    "acosh at 1": (pb.acosh, 1.0),
    "acosh below 1": (pb.acosh, 0.0),
    "atanh at 1": (pb.atanh, 1.0),
    "root as a power": (lambda x: x**0.5, 0.0),
    "root of a negative number": (lambda x: x**0.5, -1.0),
    "other root": (lambda x: x**0.3, 0.0),
    "negative power": (lambda x: x**-1, 0.0),
    "inverse root": (lambda x: x**-0.5, 0.0),
    "power by a tensor": (lambda x: x ** pb.tensor(np.float64(0.5)), 0.0),
    "cube past overflow": (lambda x: x**3, 1e200),
    "fifth power past overflow": (lambda x: x**5, 1e200),
    "exponent of a number": (lambda x: 2.0**x, 1e5),
    "exponent of 0": (lambda x: 0.0**x, -1.0),
    "exponent of a negative number": (lambda x: (-1.0) ** x, 0.5),
    "exponent of a tensor": (lambda x: pb.tensor(np.float64(0)) ** x, 0.0),
    "remainder by 0": (lambda x: 1.0 % x, 0.0),
    "xlogy at y = 0": (lambda x: pb.xlogy(x, 0.0), 1.0),
    "xlogy in y": (lambda y: pb.xlogy(2.0, y), 0.0),
    "hypot at the origin": (lambda x: pb.hypot(x, 0.0), 0.0),
    "atan2 at the origin": (lambda x: pb.atan2(x, 0.0), 0.0),
    "norm": (lambda x: pb.sqrt(pb.square(x) + pb.square(x)), 0.0),
    "norm by powers": (lambda x: (x**2 + x**2) ** 0.5, 0.0),
    "logarithm of relu": (lambda x: pb.log(pb.relu(x)), -1.0),
}


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", SINGULAR)
def test_an_untaken_branch_gives_no_nan(name, order):
    """The branch of `where` that is not taken has no say in any derivative, in any mix of modes."""
    f, point = SINGULAR[name]
    x = np.array([point, point])

    def derivative(x):
        return pb.where(pb.tensor(np.array([False, False])), f(x), 2.0 * x)

    with np.errstate(all="ignore"):
        for _ in range(order):
            derivative = pb.grad(lambda x, f=derivative: pb.sum(f(x)))
        value, tangent = pb.jvp(derivative, (x,), (np.array([0.0, 1.0]),))
    assert value.tolist() == ([2, 2] if order == 1 else [0, 0])
    assert tangent.tolist() == [0, 0]


@pytest.mark.parametrize("size", [2, 5000])
def test_where_gives_each_branch_its_own_cotangent_even_if_infinite(size):
    rng = np.random.default_rng(0)
    taken = rng.random(size) < 0.5
    a, b = np.where(taken, 0.0, 1.0), np.ones(size)
    left, right = gradients(lambda a, b: pb.sqrt(pb.where(taken, a, b)), a, b)
    np.testing.assert_array_equal(left, np.where(taken, INF, 0.0))
    np.testing.assert_array_equal(right, np.where(taken, 0.0, 0.5))


@pytest.mark.parametrize("flat", [pb.relu, pb.relu6, lambda x: pb.clip(x, 0, 6), lambda x: pb.maximum(x, 0)])
def test_a_flat_piece_stays_flat_under_an_infinite_cotangent(flat):
    (g,) = gradients(lambda x: pb.sqrt(flat(x)), np.array([-1.0, 4.0]))
    assert g.tolist() == [0.0, 0.25]


# --- kinks and ties ---------------------------------------------------------------------------------------------------


def test_maximum_and_minimum_split_ties_equally():
    x, y = np.array([1.0, 2.0, 3.0, INF, np.nan]), np.array([2.0, 2.0, 2.0, INF, 1.0])
    assert [g.tolist() for g in gradients(pb.maximum, x, y)] == [[0, 0.5, 1, 0.5, 0], [1, 0.5, 0, 0.5, 0]]
    assert [g.tolist() for g in gradients(pb.minimum, x, y)] == [[1, 0.5, 0, 0.5, 0], [0, 0.5, 1, 0.5, 0]]
    assert slope(lambda x: pb.maximum(x, 0.0), [-1, 0, 1]).tolist() == [0, 0.5, 1]
    assert slope(lambda x: pb.minimum(2, x), [1, 2, 3]).tolist() == [1, 0.5, 0]


def test_clip_gives_its_cotangent_to_what_was_taken():
    x = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    assert slope(lambda x: pb.clip(x, -1, 1), x).tolist() == [0, 1, 1, 1, 0]
    assert slope(lambda x: pb.clip(x, max=0), x).tolist() == [1, 1, 1, 0, 0]
    assert slope(pb.clip, x).tolist() == [1] * 5
    low, high = np.full(5, -1.0), np.full(5, 1.0)
    assert [g.tolist() for g in gradients(pb.clip, x, low, high)] == [[0, 1, 1, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 1]]
    assert [g.tolist() for g in gradients(pb.clip, x, high, low)] == [[0] * 5, [0] * 5, [1] * 5]
    (g,) = gradients(lambda low: pb.clip(pb.tensor(x), min=low), np.float64(0.5))
    assert g == 3


def test_kinks_have_the_slopes_that_their_docstrings_state():
    assert slope(pb.abs, [-2, -0.0, 0, 3]).tolist() == [-1, 0, 0, 1]
    assert slope(lambda x: pb.copysign(x, -1.0), [-2, 0, 3]).tolist() == [1, 0, -1]
    assert [g.tolist() for g in gradients(pb.hypot, np.zeros(1), np.zeros(1))] == [[0], [0]]
    assert [g.tolist() for g in gradients(pb.atan2, np.zeros(1), np.zeros(1))] == [[0], [0]]


def test_powers_at_their_boundaries():
    assert slope(lambda x: x**0, [0.0, 2.0]).tolist() == [0, 0]
    assert slope(lambda x: x**1, [0.0, -2.0]).tolist() == [1, 1]
    assert slope(lambda x: x**2, [0.0, -2.0]).tolist() == [0, -4]
    assert slope(lambda x: x**3, [0.0, -2.0]).tolist() == [0, 12]
    assert slope(lambda x: x**0.5, [0.0, 4.0]).tolist() == [INF, 0.25]
    base, exponent = np.array([0.0, 0.0, 0.0, -2.0, 2.0]), np.array([0.0, 2.0, 1.0, 3.0, 0.0])
    by_base, by_exponent = gradients(pb.pow, base, exponent)
    assert by_base.tolist() == [0, 0, 1, 12, 0]
    np.testing.assert_array_equal(by_exponent, [-INF, 0, 0, np.nan, math.log(2)])
    assert slope(lambda y: 0.0**y, [-1.0, 0.0, 2.0]).tolist() == [-INF, -INF, 0]
    assert slope(lambda y: 1**y, [-1.0, 2.0]).tolist() == [0, 0]


def test_logaddexp_weighs_its_arguments():
    x, y = np.array([-INF, INF, INF, -INF, 1.0, 1e4]), np.array([-INF, INF, 0.0, 2.0, 1.0, -1e4])
    assert [g.tolist() for g in gradients(pb.logaddexp, x, y)] == [[0.5, 0.5, 1, 0, 0.5, 1], [0.5, 0.5, 0, 1, 0.5, 0]]
    curvature = pb.grad(pb.grad(lambda x: pb.logaddexp(x, 1.0)))(np.float64(1.0))
    assert curvature.item() == 0.25


def test_xlogy_of_a_probability_with_itself():
    p = np.array([0.0, 0.25, 1.0])
    by_x, by_y = gradients(pb.xlogy, p, p)
    np.testing.assert_allclose(by_x, [-INF, math.log(0.25), 0])
    np.testing.assert_allclose(by_y, [0, 1, 1])


# --- extremes ---------------------------------------------------------------------------------------------------------

FAR = np.array([-1e30, -1e4, -50.0, -1e-30, 0.0, 1e-30, 50.0, 1e4, 1e30])
SLOPES = {
    "sigmoid": lambda x: special.expit(x) * special.expit(-x),
    "softplus": special.expit,
    "logsigmoid": lambda x: special.expit(-x),
    "tanh": lambda x: 1 / np.cosh(np.clip(x, -300, 300)) ** 2,
    "atan": lambda x: 1 / (1 + x * x),
    "asinh": lambda x: 1 / np.hypot(1, x),
    "erf": lambda x: 2 / math.sqrt(math.pi) * np.exp(-x * x),
    "erfc": lambda x: -2 / math.sqrt(math.pi) * np.exp(-x * x),
    "abs": np.sign,
    "square": lambda x: 2 * x,
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", SLOPES)
def test_slopes_far_out(name, dtype):
    actual = slope(getattr(pb, name), FAR, dtype)
    expected = SLOPES[name](FAR.astype(dtype).astype(np.float64))
    np.testing.assert_allclose(actual, expected, rtol=2e-6 if dtype is np.float32 else 1e-13, atol=np.finfo(dtype).eps)


def test_slopes_that_squares_would_spoil():
    big, small = np.float32([1e25, 3e30]), np.float32([1e-30, 2e-35])
    for x in (big, small):
        by_x, by_y = gradients(pb.hypot, x, x)
        np.testing.assert_allclose([by_x, by_y], math.sqrt(0.5), rtol=1e-6)
        by_x, by_y = gradients(pb.atan2, x, x)
        np.testing.assert_allclose(by_x, 0.5 / x, rtol=1e-6)
        np.testing.assert_allclose(by_y, -0.5 / x, rtol=1e-6)
    near = np.float64(1) - 2.0 ** -np.arange(1, 50)
    np.testing.assert_allclose(slope(pb.asin, near), 1 / np.sqrt((1 - near) * (1 + near)), rtol=1e-14)
    np.testing.assert_allclose(slope(pb.acosh, [1e200]), [1e-200], rtol=1e-12)


# --- Python numbers and dtypes ----------------------------------------------------------------------------------------

X = np.array([0.6, 1.7, 2.4])
WITH_NUMBERS = {
    "x + 2": (lambda x: x + 2, np.ones(3)),
    "2 - x": (lambda x: 2 - x, -np.ones(3)),
    "x * True": (lambda x: x * True, np.ones(3)),
    "3 * x": (lambda x: 3 * x, 3 * np.ones(3)),
    "x / 4": (lambda x: x / 4, np.full(3, 0.25)),
    "4 / x": (lambda x: 4 / x, -4 / X**2),
    "x ** 2": (lambda x: x**2, 2 * X),
    "x ** 3.0": (lambda x: x**3.0, 3 * X**2),
    "x ** 4": (lambda x: x**4, 4 * X**3),
    "x ** 7": (lambda x: x**7, 7 * X**6),
    "x ** -0.5": (lambda x: x**-0.5, -0.5 * X**-1.5),
    "x ** np.float64(1.5)": (lambda x: x ** np.float64(1.5), 1.5 * X**0.5),
    "2.0 ** x": (lambda x: 2.0**x, 2**X * math.log(2)),
    "3 ** x": (lambda x: 3**x, 3**X * math.log(3)),
    "x % 0.5": (lambda x: x % 0.5, np.ones(3)),
    "5.0 % x": (lambda x: 5.0 % x, -np.floor(5 / X)),
    "maximum": (lambda x: pb.maximum(2, x), np.array([0.0, 0, 1])),
    "minimum": (lambda x: pb.minimum(x, 2.0), np.array([1.0, 1, 0])),
    "hypot": (lambda x: pb.hypot(x, 1), X / np.hypot(X, 1)),
    "atan2(x, 1)": (lambda x: pb.atan2(x, 1), 1 / (1 + X**2)),
    "atan2(1, x)": (lambda x: pb.atan2(1, x), -1 / (1 + X**2)),
    "logaddexp": (lambda x: pb.logaddexp(0, x), special.expit(X)),
    "xlogy(x, 3)": (lambda x: pb.xlogy(x, 3), np.full(3, math.log(3))),
    "xlogy(3, x)": (lambda x: pb.xlogy(3, x), 3 / X),
    "copysign": (lambda x: pb.copysign(x, -2), -np.ones(3)),
    "where": (lambda x: pb.where(np.array([True, False, True]), x, 1), np.array([1.0, 0, 1])),
    "clip": (lambda x: pb.clip(x, 1, 2), np.array([0.0, 1, 0])),
    "clip of a number": (lambda x: pb.clip(2, x, None), np.array([0.0, 0, 1])),
    "safe_divide": (lambda x: pb.safe_divide(2, x), -2 / X**2),
    "safe_multiply": (lambda x: pb.safe_multiply(x, 2), np.full(3, 2.0)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", WITH_NUMBERS)
def test_slopes_beside_python_numbers(name, dtype):
    """To the precision of the dtype: a number must neither widen float32 nor cut float64 to the default dtype."""
    f, expected = WITH_NUMBERS[name]
    np.testing.assert_allclose(slope(f, X, dtype), expected, rtol=1e-6 if dtype is np.float32 else 1e-14)
    with np.errstate(invalid="ignore"):
        second = pb.grad(lambda x: pb.sum(pb.grad(lambda x: pb.sum(f(x)))(x)))(X.astype(dtype))
    assert second.dtype == dtype
    assert np.isfinite(second.numpy()).all()


@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from(["add", "subtract", "multiply", "divide", "maximum", "pow", "hypot", "atan2", "logaddexp"]),
    left=st.sampled_from([np.float32, np.float64, np.int64, np.bool_]),
    right=st.sampled_from([np.float32, np.float64, np.int64, np.bool_]),
    shapes=st.sampled_from([((3,), (2, 3)), ((2, 1), (3,)), ((), (2,)), ((2, 3), (2, 3)), ((1,), ())]),
)
def test_a_gradient_has_the_shape_and_dtype_of_its_argument(name, left, right, shapes):
    arguments = [np.ones(shape, dtype) for shape, dtype in zip(shapes, (left, right), strict=True)]
    if all(a.dtype.kind != "f" for a in arguments):
        return
    tensors = [pb.tensor(a, requires_grad=a.dtype.kind == "f") for a in arguments]
    pb.sum(getattr(pb, name)(*tensors)).backward()
    for tensor, argument in zip(tensors, arguments, strict=True):
        if argument.dtype.kind == "f":
            assert tensor.grad.shape == argument.shape
            assert tensor.grad.dtype == argument.dtype
        else:
            assert tensor.grad is None


def test_functions_without_a_derivative_give_constants():
    x = pb.tensor([0.5, -1.5], requires_grad=True)
    for name in ("floor", "ceil", "trunc", "round", "sign", "signbit", "isnan", "isinf", "isfinite", "step"):
        assert not getattr(pb, name)(x).requires_grad
    for name in ("floor_divide", "nextafter", "equal", "less", "greater_equal", "logical_and"):
        assert not getattr(pb, name)(x, x).requires_grad
    assert not pb.copysign(pb.tensor([1.0, 1.0]), x).requires_grad
    pb.sum(x * pb.floor(x)).backward()
    assert x.grad.tolist() == [0.0, -2.0]
