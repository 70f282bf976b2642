"""Reductions, scans and softmax against NumPy and SciPy, and their gradients against closed forms."""

import warnings

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import pullback as pb
from pullback.errors import ArgumentError, DtypeError, ShapeError

SOME = settings(deadline=None, max_examples=60)
finite = st.floats(-4, 4, width=32)


@st.composite
def reductions(draw, least=0):
    """An array, axes of it in any of the ways they may be named, and keepdims."""
    shape = draw(st.lists(st.integers(least, 4), max_size=3).map(tuple))
    x = draw(arrays(np.float64, shape, elements=finite))
    ndim = len(shape)
    chosen = draw(st.lists(st.integers(0, ndim - 1), unique=True) if ndim else st.just([]))
    signed = tuple(a - ndim if draw(st.booleans()) else a for a in chosen)
    ways = [None, signed, list(signed), *signed[:1]]
    return x, draw(st.sampled_from(ways)), draw(st.booleans())


def plain(axis):
    return tuple(axis) if isinstance(axis, list) else axis


def gradient(f, x):
    """The gradient of the sum of f(x)."""
    return pb.grad(lambda x: pb.sum(f(x)))(np.asarray(x, float)).numpy()


# --- values -----------------------------------------------------------------------------------------------------------


@SOME
@given(reductions())
@pytest.mark.parametrize("name", ["sum", "prod", "any", "all", "count_nonzero"])
def test_reductions_agree_with_numpy_over_all_axes(name, case):
    x, axis, keepdims = case
    actual = getattr(pb, name)(x, axis=axis, keepdims=keepdims)
    expected = np.asarray(getattr(np, name)(x, axis=plain(axis), keepdims=keepdims))
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12)


@SOME
@given(reductions(least=1))
@pytest.mark.parametrize("name", ["max", "min"])
def test_extremes_agree_with_numpy_over_all_axes(name, case):
    x, axis, keepdims = case
    actual = getattr(pb, name)(x, axis=axis, keepdims=keepdims)
    np.testing.assert_array_equal(actual.numpy(), getattr(np, name)(x, axis=plain(axis), keepdims=keepdims))


@SOME
@given(reductions(), st.sampled_from([0, 1, 0.5, 3]))
def test_mean_var_and_std_agree_with_numpy_and_are_nan_where_there_is_nothing_to_divide_by(case, correction):
    x, axis, keepdims = case
    options = {"axis": plain(axis), "keepdims": keepdims}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        mean, var = np.mean(x, **options), np.var(x, ddof=correction, **options)
    joined = x.size if axis is None else np.prod([x.shape[a] for a in np.atleast_1d(np.asarray(axis, int))])
    if joined <= correction:
        var = np.full(np.shape(var), np.nan)
    np.testing.assert_allclose(pb.mean(x, axis=axis, keepdims=keepdims).numpy(), mean, rtol=1e-12, atol=1e-12)
    actual = pb.var(x, axis=axis, correction=correction, keepdims=keepdims).numpy()
    np.testing.assert_allclose(actual, var, rtol=1e-9, atol=1e-12)
    actual = pb.std(x, axis=axis, correction=correction, keepdims=keepdims).numpy()
    np.testing.assert_allclose(actual, np.sqrt(var), rtol=1e-9, atol=1e-12)


@SOME
@given(reductions(least=1), st.sampled_from([0, 1, 2, 3, 1.5, 0.5, np.inf, -np.inf]))
def test_vector_norm_agrees_with_numpy(case, order):
    x, axis, keepdims = case
    rows = x
    if axis is not None and not isinstance(axis, int):
        axes = tuple(a % x.ndim for a in axis)
        rows = np.moveaxis(x, axes, range(x.ndim - len(axes), x.ndim))
        rows = rows.reshape(*rows.shape[: x.ndim - len(axes)], -1)
        expected = np.linalg.norm(rows, order, axis=-1)
    else:
        expected = np.linalg.norm(x.reshape(-1) if axis is None else x, order, axis=axis)
    actual = pb.vector_norm(x, axis=axis, keepdims=keepdims, ord=order)
    assert actual.shape == np.sum(x, axis=plain(axis), keepdims=keepdims).shape
    np.testing.assert_allclose(actual.numpy().reshape(expected.shape), expected, rtol=1e-10)


def test_the_norm_of_no_numbers_is_zero():
    assert [pb.vector_norm(np.zeros(0), ord=order).item() for order in (0, 1, 2, 3, np.inf)] == [0.0] * 5


@SOME
@given(reductions(least=1))
def test_logsumexp_and_softmax_agree_with_scipy(case):
    x, axis, keepdims = case
    if axis is not None and not isinstance(axis, int) and not axis:
        return  # SciPy takes no empty tuple of axes
    expected = scipy.special.logsumexp(x, axis=plain(axis), keepdims=keepdims)
    np.testing.assert_allclose(pb.logsumexp(x, axis=axis, keepdims=keepdims).numpy(), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(pb.softmax(x, axis=axis).numpy(), scipy.special.softmax(x, plain(axis)), rtol=1e-12)
    expected = scipy.special.log_softmax(x, plain(axis))
    np.testing.assert_allclose(pb.log_softmax(x, axis=axis).numpy(), expected, rtol=1e-12, atol=1e-12)


@SOME
@given(reductions(), st.booleans())
@pytest.mark.parametrize("name", ["cumulative_sum", "cumulative_prod"])
def test_scans_agree_with_numpy(name, case, include_initial):
    x, axis, _ = case
    if not isinstance(axis, int):
        axis = None
        x = x.reshape(-1)
    actual = getattr(pb, name)(x, axis=axis, include_initial=include_initial).numpy()
    np.testing.assert_allclose(actual, getattr(np, name)(x, axis=axis, include_initial=include_initial), rtol=1e-12)


@SOME
@given(st.integers(0, 9), st.integers(0, 2))
def test_a_linear_recurrence_agrees_with_its_definition(size, axis):
    rng = np.random.default_rng(size)
    shape = [2, 3, 1]
    shape[axis] = size
    x, a = rng.normal(size=shape), rng.normal(size=shape)
    steps_x, steps_a = np.moveaxis(x, axis, 0), np.moveaxis(a, axis, 0)
    expected = np.zeros_like(steps_x)
    for i in range(size):
        expected[i] = steps_x[i] + (steps_a[i] * expected[i - 1] if i else 0)
    actual = pb.linear_recurrence(x, a, axis=axis).numpy()
    np.testing.assert_allclose(np.moveaxis(actual, axis, 0), expected, rtol=1e-10, atol=1e-12)


def test_differences_agree_with_numpy():
    x, first, last = np.arange(12.0).reshape(3, 4) ** 2, np.ones((3, 1)), np.full((3, 2), 7.0)
    for n in range(5):
        np.testing.assert_array_equal(pb.diff(x, n=n).numpy(), np.diff(x, n=n))
        joined = pb.diff(x, axis=1, n=n, prepend=first, append=last).numpy()
        np.testing.assert_array_equal(joined, np.diff(x, axis=1, n=n, prepend=first, append=last))
    pulled = pb.vjp(lambda p: pb.diff(x, prepend=p), first)[1](np.ones((3, 4)))[0]
    np.testing.assert_array_equal(pulled.numpy(), -np.ones((3, 1)))


# --- dtypes -----------------------------------------------------------------------------------------------------------


def test_sums_and_products_take_a_dtype_and_widen_small_integers():
    x = np.full((2, 3), 100, np.int8)
    assert pb.sum(x).item() == 600
    assert pb.sum(x).dtype == pb.sum(x > 0).dtype == pb.prod(x).dtype == np.int64
    assert pb.cumulative_sum(x, axis=0).dtype == np.int64
    for f in (pb.sum, pb.prod, lambda x, dtype: pb.cumulative_prod(x, axis=0, dtype=dtype)):
        assert f(x.astype(np.float32), dtype="float64").dtype == np.float64
        assert f(x, dtype=np.float32).dtype == np.float32


def test_a_wider_sum_gives_a_gradient_in_the_dtype_of_the_primal():
    x = np.ones(3, np.float32)
    for f in (pb.sum, pb.prod):
        assert pb.grad(lambda x, f=f: f(x, dtype="float64"))(x).dtype == np.float32


def test_values_in_integers_are_constants():
    x = pb.tensor([1.5, 2.5], requires_grad=True)
    assert not pb.sum(x, dtype="int64").requires_grad
    assert not pb.astype(x, "int32").requires_grad
    assert not pb.cumulative_sum(x, dtype="int64").requires_grad
    y = pb.sum(x * pb.astype(x, "int32"))
    y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), [1.0, 2.0])


def test_integers_and_booleans_are_averaged_in_the_default_dtype():
    right = np.array([True, False, True, True])
    for f in (pb.mean, pb.var, pb.std, pb.vector_norm, pb.logsumexp, pb.softmax, pb.log_softmax):
        assert f(right).dtype == f(right.astype(int)).dtype == np.float32
    assert pb.mean(right).item() == 0.75


def test_the_mean_of_half_precision_does_not_overflow():
    x = np.full(2000, 100, np.float16)
    assert pb.mean(x).dtype == np.float16
    assert pb.mean(x).item() == 100.0


# --- gradients at ties, zeros and kinks -------------------------------------------------------------------------------


@pytest.mark.parametrize("f", [pb.max, lambda x, **axis: -pb.min(-x, **axis)])
def test_the_gradient_of_an_extreme_is_split_equally_among_ties(f):
    np.testing.assert_array_equal(gradient(f, [3.0, 1.0, 3.0, 3.0]), np.array([1, 0, 1, 1]) / 3)
    x = [[2.0, 2.0], [0.0, 5.0]]
    np.testing.assert_array_equal(gradient(lambda x: f(x, axis=1), x), [[0.5, 0.5], [0, 1]])
    np.testing.assert_array_equal(gradient(lambda x: f(x, axis=(0, 1), keepdims=True), x), [[0, 0], [0, 1]])


def test_an_extreme_of_nan_is_nan():
    assert np.isnan(pb.max([1.0, np.nan]).item())
    assert np.isnan(pb.min([1.0, np.nan]).item())


def products_of_others(x):
    return np.array([np.prod(np.delete(x, i)) for i in range(x.size)])


@pytest.mark.parametrize("x", [[2.0, 5, 3], [2.0, 0, 3], [0.0, 0, 3], [0.0, 0, 0], [4.0], []])
def test_derivatives_of_a_product_are_exact_with_zeros(x):
    x = np.array(x)
    np.testing.assert_array_equal(pb.grad(pb.prod)(x).numpy(), products_of_others(x))
    hessian = pb.hessian(pb.prod)(x).numpy()
    pairs = [[np.prod(np.delete(x, [i, j])) if i != j else 0.0 for j in range(x.size)] for i in range(x.size)]
    np.testing.assert_array_equal(hessian, np.reshape(pairs, hessian.shape))


def test_the_gradient_of_products_over_several_axes():
    x = np.arange(-3.0, 9.0).reshape(2, 3, 2)
    expected = np.stack([products_of_others(x[:, i].ravel()).reshape(2, 2) for i in range(3)], axis=1)
    np.testing.assert_array_equal(gradient(lambda x: pb.prod(x, axis=(2, 0)), x), expected)


@pytest.mark.parametrize("x", [[2.0, 5, 3, -1], [2.0, 0, 3, 4], [0.0, 2, 0, 3], [0.0, 0, 0, 0]])
def test_derivatives_of_running_products_are_exact_with_zeros(x):
    x = np.array(x)
    jacobian = [[np.prod(np.delete(x[: k + 1], i)) if i <= k else 0.0 for i in range(4)] for k in range(4)]
    _, pull = pb.vjp(pb.cumulative_prod, x)
    np.testing.assert_array_equal([pull(row)[0].numpy() for row in np.eye(4)], jacobian)
    push = pb.linearize(pb.cumulative_prod, x)[1]
    np.testing.assert_array_equal([push(column).numpy() for column in np.eye(4)], np.transpose(jacobian))
    hessian = pb.hessian(lambda x: pb.sum(pb.cumulative_prod(x)))(x).numpy()
    second = [
        [sum(np.prod(np.delete(x[: k + 1], [i, j])) for k in range(max(i, j), 4)) if i != j else 0 for j in range(4)]
        for i in range(4)
    ]
    np.testing.assert_array_equal(hessian, second)


def test_a_cotangent_of_zero_stays_zero_past_a_product_that_overflows():
    x = np.full(4, 1e20, np.float32)
    with np.errstate(over="ignore"):
        _, pull = pb.vjp(pb.cumulative_prod, x)
    np.testing.assert_array_equal(pull(np.array([1, 0, 0, 0], np.float32))[0].numpy(), [1, 0, 0, 0])


@pytest.mark.parametrize("order", [0.5, 1, 1.5, 2, 3, np.inf])
def test_the_gradient_of_a_norm_at_the_zero_vector_is_zero(order):
    np.testing.assert_array_equal(gradient(lambda x: pb.vector_norm(x, ord=order), np.zeros(3)), np.zeros(3))
    rows = gradient(lambda x: pb.vector_norm(x, ord=order, axis=1), [[0.0, 0.0], [3.0, 0.0]])
    np.testing.assert_allclose(rows, [[0, 0], [1, 0]])


def test_gradients_of_norms_in_closed_form():
    x = np.array([3.0, -4.0, 0.0])
    np.testing.assert_allclose(gradient(pb.vector_norm, x), x / 5)
    np.testing.assert_array_equal(gradient(lambda x: pb.vector_norm(x, ord=1), x), [1, -1, 0])
    np.testing.assert_array_equal(gradient(lambda x: pb.vector_norm(x, ord=np.inf), x), [0, -1, 0])
    np.testing.assert_array_equal(gradient(lambda x: pb.vector_norm(x, ord=np.inf), [2.0, -2.0]), [0.5, -0.5])
    np.testing.assert_array_equal(gradient(lambda x: pb.vector_norm(x, ord=-np.inf), x[:2]), [1, 0])
    np.testing.assert_array_equal(gradient(lambda x: pb.vector_norm(x, ord=0), x), [0, 0, 0])


def test_the_standard_deviation_of_equal_numbers_has_gradient_zero():
    np.testing.assert_array_equal(gradient(pb.std, np.full(3, 2.0)), np.zeros(3))


# --- softmax, far out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_is_stable_far_from_zero(dtype):
    x = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, -1e4]], dtype)
    third = 1 / 3
    expected = np.array([[1, 0, 0], [third, third, third], [0.5, 0.5, 0]], dtype)
    np.testing.assert_allclose(pb.softmax(x).numpy(), expected, rtol=1e-6)
    logs = [[0, -2e4, -1e4], [-np.log(3)] * 3, [-np.log(2), -np.log(2), -2e4 - np.log(2)]]
    np.testing.assert_allclose(pb.log_softmax(x).numpy(), logs, rtol=1e-6)
    np.testing.assert_allclose(pb.logsumexp(x, axis=1).numpy(), [1e4, -1e4 + np.log(3), 1e4 + np.log(2)], rtol=1e-6)
    pulled = pb.vjp(lambda x: pb.logsumexp(x, axis=1), x)[1](np.ones(3, dtype))[0].numpy()
    np.testing.assert_allclose(pulled, expected, rtol=1e-6)


def test_numbers_of_minus_infinity_count_for_nothing():
    x = np.array([[0.0, -np.inf, 0.0], [-np.inf, 5.0, -np.inf]])
    weights = np.array([[0.5, 0, 0.5], [0, 1, 0]])
    np.testing.assert_allclose(pb.softmax(x).numpy(), weights)
    np.testing.assert_allclose(pb.logsumexp(x, axis=1).numpy(), [np.log(2), 5])
    log_half = np.log(0.5)
    expected = [[log_half, -np.inf, log_half], [-np.inf, 0, -np.inf]]
    np.testing.assert_allclose(pb.log_softmax(x).numpy(), expected)
    np.testing.assert_allclose(gradient(lambda x: pb.logsumexp(x, axis=1), x), weights)
    np.testing.assert_allclose(gradient(lambda x: pb.softmax(x)[0, 0], x), [[0.25, 0, -0.25], [0, 0, 0]])
    chosen = gradient(lambda x: pb.log_softmax(x)[1, 1] + pb.log_softmax(x)[0, 0], x)
    np.testing.assert_allclose(chosen, [[0.5, 0, -0.5], [0, 0, 0]])


def test_rows_without_a_limit_are_nan_and_their_logsumexp_is_minus_infinity():
    x = np.full((1, 3), -np.inf)
    assert np.isnan(pb.softmax(x).numpy()).all()
    assert np.isnan(pb.log_softmax(x).numpy()).all()
    assert pb.logsumexp(x).item() == -np.inf
    assert pb.logsumexp([1.0, np.inf]).item() == np.inf
    masked = gradient(lambda x: pb.logsumexp(x, axis=1)[1], [[-np.inf, -np.inf], [0.0, 0.0]])
    np.testing.assert_array_equal(masked, [[0, 0], [0.5, 0.5]])


# --- nothing, and one number ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("f", "shape", "expected"),
    [
        (pb.sum, (0,), 0.0),
        (pb.prod, (0,), 1.0),
        (pb.mean, (0,), np.nan),
        (pb.var, (0,), np.nan),
        (pb.std, (0,), np.nan),
        (pb.logsumexp, (0,), -np.inf),
        (lambda x: pb.mean(x, axis=0), (0, 2), [np.nan, np.nan]),
        (lambda x: pb.max(x, axis=1), (0, 2), []),
        (lambda x: pb.logsumexp(x, axis=1), (2, 0), [-np.inf, -np.inf]),
        (pb.softmax, (2, 0), np.zeros((2, 0))),
        (pb.log_softmax, (0, 2), np.zeros((0, 2))),
        (lambda x: pb.cumulative_sum(x, axis=1), (2, 0), np.zeros((2, 0))),
        (lambda x: pb.cumulative_sum(x, axis=1, include_initial=True), (2, 0), np.zeros((2, 1))),
        (lambda x: pb.cumulative_prod(x, axis=1, include_initial=True), (2, 0), np.ones((2, 1))),
        (lambda x: pb.cumulative_prod(x, axis=0), (2, 0), np.zeros((2, 0))),
    ],
)
def test_arrays_without_elements_give_values_and_gradients_without_a_warning(f, shape, expected):
    x = np.zeros(shape)
    out, pull = pb.vjp(f, x)
    np.testing.assert_array_equal(out.numpy(), expected)
    assert pull(np.ones(out.shape))[0].shape == shape
    assert pb.jvp(f, (x,), (x,))[1].shape == out.shape


def test_reductions_of_one_number_without_an_axis():
    for f in (pb.sum, pb.prod, pb.mean, pb.max, pb.min, pb.logsumexp, pb.vector_norm):
        assert f(3.0).item() == pytest.approx(3.0)
        assert gradient(f, 3.0) == pytest.approx(1.0)
    assert pb.var(3.0).item() == pb.std(3.0).item() == 0.0
    assert pb.softmax(3.0, axis=None).item() == 1.0


# --- bad arguments ----------------------------------------------------------------------------------------------------

X = np.ones((2, 3))


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda: pb.sum(X, axis=2), ShapeError, "sum: axis 2 is out of"),
        (lambda: pb.mean(X, axis=-3), ShapeError, "mean: axis -3 is out of range"),
        (lambda: pb.sum(X, axis=(0, -2)), ShapeError, "sum: axis .* names the same axis twice"),
        (lambda: pb.prod(X, axis=[1, 1]), ShapeError, "twice"),
        (lambda: pb.max(X, axis=1.5), ArgumentError, "max: an axis is an int; got 1.5"),
        (lambda: pb.min(X, axis="rows"), ArgumentError, "an axis is an int"),
        (lambda: pb.sum(1.0, axis=0), ShapeError, "axis 0 is out of range .* 0 dimensions; it has none"),
        (lambda: pb.softmax(1.0), ShapeError, "softmax: axis -1 is out of range"),
        (lambda: pb.log_softmax(X, axis=2), ShapeError, "log_softmax: axis 2 is out of"),
        (lambda: pb.logsumexp(X, axis=(0, 0)), ShapeError, "twice"),
        (lambda: pb.sum(X, 0, True), ArgumentError, "at most 2 positional arguments"),
        (lambda: pb.sum(X, keepdim=True), ArgumentError, "no argument is called keepdim"),
        (lambda: pb.sum(X, dtype="float31"), DtypeError, "float31"),
        (lambda: pb.max(np.zeros((2, 0)), axis=1), ShapeError, "max: zero-size"),
        (lambda: pb.min(np.zeros(0)), ShapeError, "min: zero-size"),
        (lambda: pb.vector_norm(X, ord="fro"), ArgumentError, "ord is a real number"),
        (lambda: pb.vector_norm(X, ord=float("nan")), ArgumentError, "ord is a real number"),
        (lambda: pb.cumulative_sum(X), ShapeError, "needs an axis"),
        (lambda: pb.cumulative_prod(2.0), ShapeError, "needs an axis"),
        (lambda: pb.cumulative_sum(X, axis=2), ShapeError, "axis 2 is out of range"),
        (lambda: pb.linear_recurrence(X, X[0]), ShapeError, "the same shape"),
        (lambda: pb.diff(X, n=-1), ArgumentError, "n is at least 0"),
        (lambda: pb.diff(X, axis=5), ShapeError, "axis 5 is out of range"),
    ],
)
def test_bad_arguments_are_named(call, kind, says):
    with pytest.raises(kind, match=says):
        call()
