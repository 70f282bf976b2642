"""Decompositions of matrices: Cholesky, QR, eigenvalues of symmetric matrices, singular values.

All of it works on batches: matrices lie in the last two axes. Factors are unique up to signs (or, where eigenvalues or
singular values are equal, rotations). The backend's choice of signs is constant near a matrix, so that the derivatives
below are those of the factors it returns.

Equal values: the derivative of eigenvectors and singular vectors holds the inverse differences 1 / (s_j - s_i), and
does not exist where they are equal, though that of a function which does not depend on the choice of vectors may. There
the inverse is taken as 0: differences of the size of rounding errors drop out, and the derivative stays finite. It is
exact for functions of the values alone, and for functions of the span of all vectors of equal values (such as the
projector onto it), but not for others: a matrix function V f(diag(w)) V^T misses the terms with f'(w) between them.
"""

from typing import Any

from ..core.define import Array, Sample, elementwise, op
from ..errors import ArgumentError, RuleError
from .solving import definite, require_matrix, require_square

__all__ = ["cholesky", "eigh", "eigvalsh", "qr", "safe_reciprocal", "svd", "svdvals"]


def _symmetric(x: Any) -> Any:
    return (x + x.mT) * 0.5


def _matrices(rng: Any, *shapes: tuple[int, ...], **params: Any) -> Any:
    return [Sample((rng.normal(size=shape),), params) for shape in shapes]


@elementwise(
    lambda g, out: -(g * out * out),
    None,
    samples=lambda rng: [Sample((rng.uniform(0.5, 2.0, size=(2, 3)), rng.uniform(size=(2, 1))))],
)
def safe_reciprocal(xp: Any, x: Array, scale: Array) -> Any:
    """`1 / x`, and 0 where `x` is a rounding error beside `scale`: |x| <= 16 eps scale, with eps the dtype's precision.

    (A matrix with a double eigenvalue, and what LAPACK makes of it, are each off by some eps: 3 were seen, of 3,000
    matrices of 3 x 3.) The derivative is 0 there too; `scale` has none.
    """
    tiny = xp.abs(x) <= 16 * xp.finfo(x.dtype).eps * scale
    return xp.where(tiny, xp.zeros_like(x), 1 / xp.where(tiny, xp.ones_like(x), x))


# --- Cholesky ---------------------------------------------------------------------------------------------------------


def _pull_cholesky(xp: Any, g: Any, out: Any, upper: bool) -> Any:
    lower, g = (out.mT, g.mT) if upper else (out, g)
    product = lower.mT @ g
    half = 0.5 * (xp.tril(product) + xp.tril(product, k=-1))
    left = xp.solve(lower.mT, half)
    return _symmetric(xp.solve(lower.mT, left.mT))


@op(
    _pull_cholesky,
    samples=lambda rng: [
        Sample((definite(rng, 3, 3),)),
        Sample((definite(rng, 2, 2, 2),), {"upper": True}),
    ],
)
def cholesky(xp: Any, x: Array, upper: bool = False) -> Any:
    """The lower triangular L with a positive diagonal and `L @ L.mT` = x; with `upper`, its transpose.

    Of x the symmetric part (x + x^T) / 2 is used, so the gradient is symmetric. With P(M) the lower triangle of M, its
    diagonal halved, the cotangent of x is the symmetric part of L^-T P(L^T g) L^-1 (I. Murray, "Differentiation of the
    Cholesky decomposition", 2016, eq. 10).

    Shapes: x (..., n, n) gives the same.

    Raises:
        ShapeError: the matrices are not square. LinearAlgebraError: one is not positive definite (CuPy does not look,
        and gives numbers that are not finite).
    """
    require_square(x)
    return xp.linalg.cholesky(_symmetric(x), upper=upper)


# --- QR ---------------------------------------------------------------------------------------------------------------


def _pull_tall(xp: Any, g_q: Any, g_r: Any, q: Any, r: Any) -> Any:
    m = r @ g_r.mT - g_q.mT @ q
    lower = xp.tril(m)
    copied = lower + xp.tril(m, k=-1).mT
    return xp.solve(r, (g_q + q @ copied).mT).mT


def _pull_qr(xp: Any, g: Any, x: Any, out: Any, mode: str) -> Any:
    (g_q, g_r), (q, r) = g, out
    rows, columns = x.shape[-2:]
    if rows == columns or (rows > columns and mode == "reduced"):
        return _pull_tall(xp, g_q, g_r, q, r)
    if rows > columns:
        raise RuleError("qr: mode='complete' has no derivative for matrices with more rows than columns; use 'reduced'")
    first, rest = (..., slice(None, rows)), (..., slice(rows, None))
    g_rest = xp.getitem(g_r, rest)
    g_q = g_q + xp.getitem(x, rest) @ g_rest.mT
    g_first = _pull_tall(xp, g_q, xp.getitem(g_r, first), q, xp.getitem(r, first))
    return xp.concat([g_first, q @ g_rest], axis=-1)


@op(
    _pull_qr,
    outputs=("Q", "R"),
    samples=lambda rng: [
        *_matrices(rng, (3, 3), (4, 2), (2, 4), (2, 3, 2)),
        *_matrices(rng, (2, 3), mode="complete"),
    ],
)
def qr(xp: Any, x: Array, mode: str = "reduced") -> Any:
    """The factors Q, with orthonormal columns, and R, upper triangular, of x = Q R.

    With M = R gR^T - gQ^T Q, and C(M) the symmetric matrix that has the lower triangle of M, the cotangent of x is
    (gQ + Q C(M)) R^-T for matrices that are not wide (S. Walter and L. Lehmann, "Algorithmic differentiation of linear
    algebra functions with application in optimum experimental design", 2010). A wide x = [y, z] has R = [U, Q^T z] with
    y = Q U, so z gets Q gV and adds z gV^T to gQ (K. Roberts and A. Roberts, "QR and LQ decomposition matrix
    backpropagation algorithms for square, wide, and deep matrices", 2020).

    Args:
        mode: "reduced", or "complete" (Q square).

    Shapes: x (..., m, n) gives Q (..., m, k) and R (..., k, n), with k = min(m, n), or m in mode "complete".

    Raises:
        ArgumentError: another mode. ShapeError: x is no matrix. RuleError: the derivative of "complete" for more rows
        than columns. LinearAlgebraError: the derivative at a matrix whose first k columns are dependent.
    """
    if mode not in ("reduced", "complete"):
        raise ArgumentError(f"mode is 'reduced' or 'complete'; got {mode!r}")
    require_matrix(x)
    return tuple(xp.linalg.qr(x, mode=mode))


# --- eigenvalues of symmetric matrices --------------------------------------------------------------------------------


def _row(xp: Any, x: Any) -> Any:
    """A number for each column of a matrix."""
    return xp.expand_dims(x, axis=-2)


def _column(xp: Any, x: Any) -> Any:
    """A number for each row of a matrix."""
    return xp.expand_dims(x, axis=-1)


def _inverse_differences(xp: Any, x: Any) -> Any:
    """`1 / (x_j - x_i)` at (i, j), 0 where the difference is only a rounding error."""
    scale = xp.sum(xp.abs(x), axis=-1, keepdims=True)
    return xp.safe_reciprocal(_row(xp, x) - _column(xp, x), _column(xp, scale))


def _pull_eigh(xp: Any, g: Any, out: Any) -> Any:
    (g_values, g_vectors), (values, vectors) = g, out
    turned = vectors @ (_inverse_differences(xp, values) * (vectors.mT @ g_vectors))
    return _symmetric((turned + vectors * _row(xp, g_values)) @ vectors.mT)


@op(
    _pull_eigh,
    outputs=("eigenvalues", "eigenvectors"),
    samples=lambda rng: _matrices(rng, (3, 3), (2, 2, 2)),
)
def eigh(xp: Any, x: Array) -> Any:
    """The eigenvalues w, in ascending order, and the eigenvectors, the columns of v, of symmetric matrices.

    Of x the symmetric part (x + x^T) / 2 is used, so the gradient is symmetric: the symmetric part of
    v (diag(gw) + F * (v^T gv)) v^T with F_ij = 1 / (w_j - w_i), 0 where i = j (Giles, 3.1). For equal eigenvalues see
    the head of this module.

    Shapes: x (..., n, n) gives w (..., n) and v (..., n, n).

    Raises:
        ShapeError: the matrices are not square. LinearAlgebraError: no convergence.
    """
    require_square(x)
    return tuple(xp.linalg.eigh(_symmetric(x)))


def _pull_eigvalsh(xp: Any, g: Any, x: Any) -> Any:
    _, vectors = xp.eigh(x)
    return (vectors * _row(xp, g)) @ vectors.mT


@op(
    _pull_eigvalsh,
    samples=lambda rng: _matrices(rng, (3, 3), (2, 2, 2)),
)
def eigvalsh(xp: Any, x: Array) -> Any:
    """The eigenvalues of symmetric matrices, in ascending order, as of `eigh`; only their gradient takes the vectors.

    Shapes: x (..., n, n) gives (..., n).

    Raises:
        ShapeError: the matrices are not square. LinearAlgebraError: no convergence.
    """
    require_square(x)
    return xp.linalg.eigvalsh(_symmetric(x))


# --- singular values --------------------------------------------------------------------------------------------------


def _pull_svd(xp: Any, g: Any, out: Any) -> Any:
    (g_u, g_s, g_vh), (u, s, vh) = g, out
    if u.shape[-1] != s.shape[-1] or vh.shape[-2] != s.shape[-1]:
        raise RuleError(
            "svd: full_matrices=True has no derivative for matrices that are not square, since the vectors beyond the "
            "singular values are arbitrary; use full_matrices=False, or svdvals"
        )
    v, g_v = vh.mT, g_vh.mT
    scale = xp.sum(s, axis=-1, keepdims=True)
    factor = _inverse_differences(xp, s) * xp.safe_reciprocal(_row(xp, s) + _column(xp, s), _column(xp, scale))
    inverse = _row(xp, xp.safe_reciprocal(s, scale))
    on_u, on_v = u.mT @ g_u, vh @ g_v
    turn_u, turn_v = factor * (on_u - on_u.mT), factor * (on_v - on_v.mT)
    left = u @ (turn_u * _row(xp, s) + _column(xp, s) * turn_v) + u * _row(xp, g_s)
    if u.shape[-2] > u.shape[-1]:
        left = left + (g_u - u @ on_u) * inverse
    if vh.shape[-1] > vh.shape[-2]:
        return left @ vh + (u * inverse) @ (g_v - v @ on_v).mT
    return left @ vh


@op(
    _pull_svd,
    outputs=("U", "S", "Vh"),
    samples=lambda rng: [
        *_matrices(rng, (3, 3), (4, 2), (2, 4), (2, 3, 2), full_matrices=False),
        *_matrices(rng, (2, 2)),
    ],
)
def svd(xp: Any, x: Array, full_matrices: bool = True) -> Any:
    """The singular value decomposition x = U diag(S) Vh: U has orthonormal columns, Vh rows; S is in descending order.

    With F_ij = 1 / (s_j^2 - s_i^2), 0 where i = j, and skew(M) = M - M^T, the cotangent of x is

        U ((F * skew(U^T gU)) S + S (F * skew(V^T gV)) + diag(gS)) V^T
            + (1 - U U^T) gU S^-1 V^T + U S^-1 gV^T (1 - V V^T)

    (J. Townsend, "Differentiating the singular value decomposition", 2016, eq. 24 and after). For equal singular values
    see the head of this module; those of 0 are taken alike.

    Args:
        full_matrices: Whether U and Vh are square. Only the reduced form has a derivative, unless x is square.

    Shapes: x (..., m, n) gives U (..., m, k), S (..., k) and Vh (..., k, n), with k = min(m, n); with full_matrices,
    U (..., m, m) and Vh (..., n, n).

    Raises:
        ShapeError: x is no matrix. RuleError: the derivative with full_matrices of matrices that are not square.
        LinearAlgebraError: no convergence.
    """
    require_matrix(x)
    return tuple(xp.linalg.svd(x, full_matrices=full_matrices))


def _pull_svdvals(xp: Any, g: Any, x: Any) -> Any:
    u, _, vh = xp.svd(x, full_matrices=False)
    return (u * _row(xp, g)) @ vh


@op(
    _pull_svdvals,
    samples=lambda rng: _matrices(rng, (3, 3), (4, 2), (2, 2, 3)),
)
def svdvals(xp: Any, x: Array) -> Any:
    """The singular values, in descending order; only their gradient, U diag(g) V^T, takes the vectors.

    Shapes: x (..., m, n) gives (..., min(m, n)).

    Raises:
        ShapeError: x is no matrix. LinearAlgebraError: no convergence.
    """
    require_matrix(x)
    return xp.linalg.svdvals(x)
