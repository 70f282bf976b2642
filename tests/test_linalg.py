"""Solving and decompositions against closed forms, SciPy and central differences."""

from itertools import product

import numpy as np
import pytest
import scipy.linalg

import pullback as pb
from pullback.errors import ArgumentError, DtypeError, LinearAlgebraError, RuleError, ShapeError

rng = np.random.default_rng(0)


def normal(*shape):
    return rng.normal(size=shape)


def definite(n):
    x = normal(n, 3 * n)
    return x @ x.T / (3 * n)


def central_gradient(f, x, step=1e-6):
    """The gradient of a NumPy function to a number, one central difference per number of x."""
    out = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        unit = np.zeros_like(x)
        unit[index] = step
        out[index] = (f(x + unit) - f(x - unit)) / (2 * step)
    return out


def gradient(f, x):
    return pb.grad(f)(x).numpy()


def test_the_namespace_is_the_linalg_extension_of_the_standard():
    extension = """cholesky cross det diagonal eigh eigvalsh inv matmul matrix_norm matrix_power matrix_rank
    matrix_transpose outer pinv qr slogdet solve svd svdvals tensordot trace vecdot vector_norm"""
    assert pb.linalg.__all__ == extension.split()
    same = [name for name in pb.linalg.__all__ if getattr(pb.linalg, name) is getattr(pb, name)]
    assert same == [name for name in pb.linalg.__all__ if name != "trace"]  # pb.trace takes functions too
    assert pb.trace(np.diag([1.0, 2.0]), offset=0).item() == 3.0


def test_several_outputs_have_names_and_take_plain_tuples_of_cotangents():
    x = definite(3)
    assert pb.linalg.qr(x)._fields == ("Q", "R")
    assert pb.linalg.svd(x)._fields == ("U", "S", "Vh")
    assert pb.linalg.eigh(pb.tensor(x, requires_grad=True))._fields == ("eigenvalues", "eigenvectors")
    out, pull = pb.vjp(pb.linalg.slogdet, x)
    by_name = pull(out._replace(sign=0.0, logabsdet=1.0))[0].numpy()
    np.testing.assert_array_equal(pull((0.0, 1.0))[0].numpy(), by_name)
    for wrong in ((1.0,), (1.0, (1.0,)), {"sign": 0.0, "logabsdet": 1.0}):
        with pytest.raises(ShapeError, match="form of its value"):
            pull(wrong)


# --- solve, inv, pinv -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((3, 3), (3,)),
        ((3, 3), (3, 2)),
        ((4, 3, 3), (3,)),
        ((3, 3), (4, 3, 2)),
        ((2, 1, 3, 3), (4, 3, 2)),
        ((0, 3, 3), (3,)),
    ],
)
def test_solve_solves_and_its_cotangents_are_y_and_minus_y_x(left, right):
    a, b = normal(*left) + 4 * np.eye(3), normal(*right)
    x, pull = pb.vjp(pb.solve, a, b)
    is_vector = len(right) == 1
    columns = x.numpy()[..., None] if is_vector else x.numpy()
    np.testing.assert_allclose(
        a @ columns, np.broadcast_to(b[..., None] if is_vector else b, columns.shape), atol=1e-12
    )
    g = normal(*x.shape)
    y = np.linalg.inv(a).swapaxes(-1, -2) @ (g[..., None] if is_vector else g)
    by_a, by_b = pull(g)
    np.testing.assert_allclose(by_a.numpy(), summed(-(y @ columns.swapaxes(-1, -2)), a), atol=1e-12)
    np.testing.assert_allclose(by_b.numpy(), summed(y[..., 0] if is_vector else y, b), atol=1e-12)


def summed(x, like):
    """x summed to the shape of an array that was broadcast to it."""
    lead = x.ndim - like.ndim
    units = tuple(i for i, n in enumerate(like.shape) if n == 1 != x.shape[i + lead])
    return x.sum(axis=tuple(range(lead))).sum(axis=units, keepdims=True)


def test_the_derivative_of_the_inverse_is_minus_inverse_dx_inverse():
    x, t = normal(2, 3, 3) + 4 * np.eye(3), normal(2, 3, 3)
    out, tangent = pb.jvp(pb.inv, (x,), (t,))
    inverse = np.linalg.inv(x)
    np.testing.assert_allclose(out.numpy(), inverse, rtol=1e-13)
    np.testing.assert_allclose(tangent.numpy(), -inverse @ t @ inverse, rtol=1e-12)


@pytest.mark.parametrize("shape", [(4, 3), (3, 4), (3, 3)])
def test_pinv_of_full_rank_has_the_derivative_of_its_closed_form(shape):
    x, g = normal(*shape), normal(*shape[::-1])
    tall = shape[0] >= shape[1]

    def closed(y):
        return pb.inv(y.mT @ y) @ y.mT if tall else y.mT @ pb.inv(y @ y.mT)

    np.testing.assert_allclose(pb.pinv(x).numpy(), scipy.linalg.pinv(x), atol=1e-12)
    by_rule, by_closed = (gradient(lambda y, f=f: (f(y) * g).sum(), x) for f in (pb.pinv, closed))
    np.testing.assert_allclose(by_rule, by_closed, atol=1e-10)


def test_pinv_at_lower_rank_is_differentiated_along_matrices_of_that_rank():
    left, right, d_left, d_right = normal(4, 2), normal(2, 5), normal(4, 2), normal(2, 5)
    _, tangent = pb.jvp(lambda u, v: pb.pinv(u @ v, rtol=1e-8), (left, right), (d_left, d_right))
    ahead, behind = (scipy.linalg.pinv((left + h * d_left) @ (right + h * d_right), rtol=1e-8) for h in (1e-6, -1e-6))
    np.testing.assert_allclose(tangent.numpy(), (ahead - behind) / 2e-6, atol=1e-6)


def test_matrix_rank_and_the_cutoff_of_pinv_follow_rtol():
    x = np.diag([1.0, 1e-3, 1e-20])
    assert pb.matrix_rank(x).item() == 2
    assert pb.matrix_rank(x, rtol=1e-2).item() == 1
    np.testing.assert_allclose(pb.pinv(x, rtol=1e-2).numpy(), np.diag([1.0, 0, 0]), atol=1e-15)
    assert not pb.matrix_rank(pb.tensor(x, requires_grad=True)).requires_grad


# --- det, slogdet, trace ----------------------------------------------------------------------------------------------


def minors(x):
    """Cofactors by their definition."""
    n = len(x)
    out = np.empty((n, n))
    for i, j in product(range(n), repeat=2):
        rest = np.delete(np.delete(x, i, 0), j, 1)
        out[i, j] = (-1) ** (i + j) * np.linalg.det(rest)
    return out


@pytest.mark.parametrize("rank", [4, 3, 2, 0])
def test_the_gradient_of_det_is_the_matrix_of_cofactors_at_any_rank(rank):
    x = normal(4, rank) @ normal(rank, 4)
    np.testing.assert_allclose(gradient(pb.det, x), minors(x), atol=1e-12)
    np.testing.assert_allclose(pb.cofactor(x).numpy(), minors(x), atol=1e-12)


def test_jacobis_formula_and_the_second_derivative_of_log_det():
    """d log|det x| = tr(x^-1 dx), and its derivative along e is -tr(x^-1 e x^-1 dx)."""
    x, e = normal(3, 3), normal(3, 3)
    inverse = np.linalg.inv(x)

    def log_det(y):
        return pb.slogdet(y).logabsdet

    np.testing.assert_allclose(gradient(log_det, x), inverse.T, rtol=1e-12)
    np.testing.assert_allclose(gradient(lambda y: pb.log(pb.abs(pb.det(y))), x), inverse.T, rtol=1e-10)
    np.testing.assert_allclose(pb.hvp(log_det, (x,), (e,))[0].numpy(), -(inverse @ e @ inverse).T, rtol=1e-10)


def test_slogdet_does_not_overflow_and_its_sign_has_a_zero_gradient():
    x = np.eye(400) * 1e3
    x[0, 0] *= -1
    sign, log_det = pb.slogdet(x)
    assert (sign.item(), log_det.item()) == (-1, pytest.approx(400 * np.log(1e3)))
    assert not gradient(lambda y: pb.slogdet(y).sign, definite(3)).any()


def test_singular_matrices_have_no_log_det_gradient_but_a_value():
    x = np.ones((2, 2))
    assert pb.slogdet(x).logabsdet.item() == -np.inf
    with pytest.raises(LinearAlgebraError, match="singular"):
        pb.grad(lambda y: pb.slogdet(y).logabsdet)(x)
    with pytest.raises(LinearAlgebraError, match="singular"):
        pb.hessian(pb.det)(x)


def test_trace_takes_offsets_and_batches():
    x = normal(2, 3, 4)
    for offset in (-3, -1, 0, 2, 5):
        np.testing.assert_allclose(pb.trace(x, offset=offset).numpy(), np.trace(x, offset, -2, -1), atol=1e-14)
    np.testing.assert_array_equal(gradient(lambda y: pb.trace(y, offset=1), x[0]), np.eye(3, 4, k=1))
    assert pb.trace(np.eye(2, dtype="float32"), dtype="float64").dtype == np.float64


# --- norms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["fro", "nuc", 1, -1, 2, -2, np.inf, -np.inf])
@pytest.mark.parametrize("keepdims", [True, False])
def test_matrix_norms_are_numpys(order, keepdims):
    x = normal(2, 3, 4)
    expected = np.linalg.norm(x, order, axis=(-2, -1), keepdims=keepdims)
    np.testing.assert_allclose(pb.matrix_norm(x, ord=order, keepdims=keepdims).numpy(), expected, rtol=1e-12)
    slope = gradient(lambda y: pb.matrix_norm(y, ord=order), x[0])
    np.testing.assert_allclose(slope, central_gradient(lambda y: np.linalg.norm(y, order), x[0]), atol=1e-7)


def test_norms_at_their_kinks_have_finite_gradients():
    zero = np.zeros((2, 3))
    for order in ("fro", "nuc", 1, 2, np.inf):
        slope = gradient(lambda y, order=order: pb.matrix_norm(y, ord=order), zero)
        assert np.isfinite(slope).all()
    assert not gradient(pb.matrix_norm, zero).any()
    low = np.outer([1.0, 2.0], [2.0, 1.0, 2.0])
    slope = gradient(lambda y: pb.matrix_norm(y, ord="nuc"), low)
    assert np.linalg.norm(slope, 2) <= 1 + 1e-12  # a subgradient of the nuclear norm has norm at most 1
    assert np.sum(slope * low) == pytest.approx(np.linalg.norm(low, "nuc"))


# --- Cholesky and QR --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upper", [False, True])
def test_cholesky_rebuilds_its_matrix_and_so_does_its_derivative(upper):
    x, t = definite(4), definite(4)
    factor, tangent = (y.numpy() for y in pb.jvp(lambda y: pb.cholesky(y, upper=upper), (x,), (t,)))
    if upper:
        factor, tangent = factor.T, tangent.T
    np.testing.assert_allclose(factor, scipy.linalg.cholesky(x, lower=True), atol=1e-13)
    np.testing.assert_allclose(factor @ tangent.T + tangent @ factor.T, t, atol=1e-12)
    np.testing.assert_allclose(tangent, np.tril(tangent))


def test_log_det_through_cholesky_has_the_symmetric_gradient():
    x = definite(4)
    slope = gradient(lambda y: 2 * pb.log(pb.diagonal(pb.cholesky(y))).sum(), x)
    np.testing.assert_allclose(slope, np.linalg.inv(x), rtol=1e-10)


def test_factors_of_the_symmetric_part_ignore_the_rest():
    x, skew = definite(3), normal(3, 3)
    skew = skew - skew.T
    for f in (pb.cholesky, pb.eigvalsh, lambda y: pb.eigh(y).eigenvectors):
        np.testing.assert_allclose(f(x + skew).numpy(), f(x).numpy(), atol=1e-13)


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5), (2, 4, 3)])
def test_qr_rebuilds_its_matrix_and_so_does_its_derivative(shape):
    x, t = normal(*shape), normal(*shape)
    (q, r), (dq, dr) = pb.jvp(pb.qr, (x,), (t,))
    q, r, dq, dr = (y.numpy() for y in (q, r, dq, dr))
    np.testing.assert_allclose(q @ r, x, atol=1e-13)
    np.testing.assert_allclose(dq @ r + q @ dr, t, atol=1e-11)
    np.testing.assert_allclose(dr, np.triu(dr), atol=1e-11)
    inside = q.swapaxes(-1, -2) @ dq
    np.testing.assert_allclose(inside, -inside.swapaxes(-1, -2), atol=1e-11)


def test_complete_qr_has_a_derivative_only_where_it_is_the_reduced_one():
    tall = normal(4, 2)
    assert pb.qr(tall, mode="complete").Q.shape == (4, 4)
    with pytest.raises(RuleError, match="use 'reduced'"):
        pb.grad(lambda y: pb.qr(y, mode="complete").R.sum())(tall)
    for mode in ("complete", "reduced"):
        slope = gradient(lambda y, mode=mode: pb.qr(y, mode=mode).R.sum(), tall.T)
        np.testing.assert_allclose(slope, central_gradient(lambda y: np.linalg.qr(y).R.sum(), tall.T), atol=1e-7)


# --- eigenvalues and singular values ----------------------------------------------------------------------------------


def test_eigh_rebuilds_its_matrix_and_so_does_its_derivative():
    x, t = definite(4), definite(4)
    (w, v), (dw, dv) = pb.jvp(pb.eigh, (x,), (t,))
    w, v, dw, dv = (y.numpy() for y in (w, v, dw, dv))
    np.testing.assert_allclose(v * w @ v.T, x, atol=1e-13)
    np.testing.assert_allclose(dv * w @ v.T + v * dw @ v.T + v * w @ dv.T, t, atol=1e-10)
    np.testing.assert_allclose(dw, np.diag(v.T @ t @ v), atol=1e-12)


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5), (2, 4, 3)])
def test_svd_rebuilds_its_matrix_and_so_does_its_derivative(shape):
    x, t = normal(*shape), normal(*shape)
    out, tangents = pb.jvp(lambda y: pb.svd(y, full_matrices=False), (x,), (t,))
    (u, s, vh), (du, ds, dvh) = ([y.numpy() for y in group] for group in (out, tangents))
    s, ds = s[..., None, :], ds[..., None, :]
    np.testing.assert_allclose(u * s @ vh, x, atol=1e-13)
    np.testing.assert_allclose(du * s @ vh + u * ds @ vh + u * s @ dvh, t, atol=1e-10)
    inside = u.swapaxes(-1, -2) @ du
    np.testing.assert_allclose(inside, -inside.swapaxes(-1, -2), atol=1e-11)


def test_values_alone_have_the_gradient_they_have_beside_their_vectors():
    x, g = normal(3, 4), normal(3)
    by_values = gradient(lambda y: (pb.svdvals(y) * g).sum(), x)
    by_svd = gradient(lambda y: (pb.svd(y, full_matrices=False).S * g).sum(), x)
    np.testing.assert_allclose(by_values, by_svd, atol=1e-13)
    x = definite(3)
    by_values = gradient(lambda y: (pb.eigvalsh(y) * g).sum(), x)
    np.testing.assert_allclose(by_values, gradient(lambda y: (pb.eigh(y).eigenvalues * g).sum(), x), atol=1e-13)


def test_full_svd_has_a_derivative_for_square_matrices_only():
    with pytest.raises(RuleError, match="full_matrices=False"):
        pb.grad(lambda y: pb.svd(y).S.sum())(normal(2, 3))
    x = normal(3, 3)
    full, reduced = (gradient(lambda y, f=f: pb.svd(y, full_matrices=f).U[0, 0], x) for f in (True, False))
    np.testing.assert_array_equal(full, reduced)


@pytest.mark.parametrize("seed", range(60))
def test_equal_eigenvalues_do_not_disturb_what_does_not_depend_on_the_choice_of_vectors(seed):
    """The projector onto the plane of a double eigenvalue is smooth where the vectors are not."""
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3))).Q
    x = turn * [1.0, 3.0, 3.0] @ turn.T
    weight = normal(3, 3)

    def projector(y):
        _, v = np.linalg.eigh((y + y.T) / 2)
        return float(np.sum(weight * (v[:, 1:] @ v[:, 1:].T)))

    def f(y):
        v = pb.eigh(y).eigenvectors[:, 1:]
        return (weight * (v @ v.mT)).sum()

    np.testing.assert_allclose(gradient(f, x), central_gradient(projector, x), atol=1e-7)
    np.testing.assert_allclose(gradient(lambda y: pb.eigh(y).eigenvalues.sum(), x), np.eye(3), atol=1e-12)
    assert np.isfinite(gradient(lambda y: pb.eigh(y).eigenvectors.sum(), np.eye(3))).all()


def test_equal_and_zero_singular_values_do_not_disturb_what_does_not_depend_on_the_choice_of_vectors():
    left, right = np.linalg.qr(normal(4, 4)).Q, np.linalg.qr(normal(3, 3)).Q
    x = left[:, :3] * [2.0, 2.0, 0.0] @ right
    weight = normal(4, 4)

    def projector(y):
        u, _, _ = np.linalg.svd(y)
        return float(np.sum(weight * (u[:, :2] @ u[:, :2].T)))

    def f(y):
        u = pb.svd(y, full_matrices=False).U[:, :2]
        return (weight * (u @ u.mT)).sum()

    np.testing.assert_allclose(gradient(f, x), central_gradient(projector, x), atol=1e-7)
    square = gradient(lambda y: (pb.svd(y, full_matrices=False).S ** 2).sum(), x)
    np.testing.assert_allclose(square, 2 * x, atol=1e-12)


def test_the_reciprocal_of_a_rounding_error_is_zero_with_a_zero_slope():
    x = np.asarray([2.0, 1e-18, 0.0, -1e-18])
    np.testing.assert_array_equal(pb.safe_reciprocal(x, 1.0).numpy(), [0.5, 0, 0, 0])
    np.testing.assert_array_equal(gradient(lambda y: pb.safe_reciprocal(y, 1.0).sum(), x), [-0.25, 0, 0, 0])


# --- no numbers, few bits, bad input ----------------------------------------------------------------------------------


SQUARE = ["inv", "det", "cofactor", "slogdet", "eigh", "eigvalsh", "cholesky"]


@pytest.mark.parametrize("shape", [(0, 2, 2), (0, 0), (2, 0, 0)])
@pytest.mark.parametrize("name", [*SQUARE, "svdvals", "qr", "pinv", "trace", "matrix_norm"])
def test_batches_of_no_matrices_and_matrices_of_no_numbers_are_differentiated(name, shape):
    out, pull = pb.vjp(getattr(pb, name), np.zeros(shape))
    leaves = out if isinstance(out, tuple) else (out,)
    cotangents = tuple(np.ones(y.shape) for y in leaves)
    assert pull(cotangents if isinstance(out, tuple) else cotangents[0])[0].shape == shape


def test_the_determinant_of_no_numbers_is_one():
    assert pb.det(np.zeros((0, 0))).item() == 1
    assert pb.slogdet(np.zeros((2, 0, 0))).sign.tolist() == [1, 1]


def test_equal_singular_values_in_float32_are_found_with_its_own_precision():
    x = np.eye(3, dtype="float32") * 3
    x[2, 2] = 3 + 1e-6
    slope = gradient(lambda y: pb.svd(y, full_matrices=False).U.sum(), x)
    assert slope.dtype == np.float32
    assert np.abs(slope).max() < 1e3


@pytest.mark.parametrize("name", SQUARE)
def test_what_is_not_square_is_named(name):
    for shape in ((2, 3), (3,), ()):
        with pytest.raises(ShapeError, match=f"{name}: takes square matrices"):
            getattr(pb, name)(np.ones(shape))


@pytest.mark.parametrize("name", ["qr", "svd", "svdvals", "pinv", "matrix_rank", "matrix_norm"])
def test_what_is_no_matrix_is_named(name):
    with pytest.raises(ShapeError, match=f"{name}: takes matrices"):
        getattr(pb, name)(np.ones(3))


def test_singular_and_indefinite_matrices_are_named():
    with pytest.raises(LinearAlgebraError, match="inv: a matrix is singular"):
        pb.inv(np.ones((2, 2)))
    with pytest.raises(LinearAlgebraError, match="solve: a matrix is singular"):
        pb.solve(np.zeros((3, 2, 2)), np.ones(2))
    with pytest.raises(LinearAlgebraError, match=r"cholesky: .*positive definite"):
        pb.cholesky(-np.eye(2))
    with pytest.raises(LinearAlgebraError, match=r"svd: .*converge"):
        pb.svd(np.full((2, 2), np.nan))


def test_other_bad_input_is_named():
    with pytest.raises(ShapeError, match=r"solve: a \(3, 3\) has 3 rows"):
        pb.solve(np.eye(3), np.ones(2))
    with pytest.raises(ShapeError, match=r"solve: .*broadcast"):
        pb.solve(np.eye(2) + np.zeros((2, 1, 1)), np.ones((3, 2, 1)))
    with pytest.raises(ArgumentError, match="qr: mode"):
        pb.qr(np.eye(2), mode="full")
    with pytest.raises(ArgumentError, match="matrix_norm: ord is one of"):
        pb.matrix_norm(np.eye(2), ord="two")
    with pytest.raises(DtypeError, match=r"inv: .*float16"):
        pb.inv(np.eye(2, dtype="float16"))
