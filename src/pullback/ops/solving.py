"""Linear systems and what belongs to them: inverses, determinants, traces, ranks and norms of matrices.

All of it works on batches: matrices lie in the last two axes. The derivatives are those of M. Giles, "An extended
collection of matrix derivative results for forward and reverse mode algorithmic differentiation" (2008), unless an op
says otherwise. The CPU backend finds singular matrices; CuPy does not look, and gives numbers that are not finite.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.define import Array, Sample, composite, op
from ..errors import ArgumentError, LinearAlgebraError, ShapeError
from .products import summed

__all__ = [
    "cofactor",
    "det",
    "inv",
    "matrix_norm",
    "matrix_rank",
    "pinv",
    "slogdet",
    "solve",
]


def require_square(x: Any) -> None:
    """Raise ShapeError unless the last two axes of `x` are equally long."""
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise ShapeError(f"takes square matrices (..., n, n); got shape {tuple(x.shape)}")


def require_matrix(x: Any) -> None:
    """Raise ShapeError unless `x` has two axes or more."""
    if x.ndim < 2:
        raise ShapeError(f"takes matrices (..., m, n); got shape {tuple(x.shape)}")


def definite(rng: Any, *shape: int) -> Any:
    """A sample of well-conditioned positive definite matrices."""
    wide = rng.normal(size=(*shape[:-1], 3 * shape[-1]))
    return wide @ wide.mT / max(3 * shape[-1], 1)


def _invertible(rng: Any, *shape: int) -> Any:
    return definite(rng, *shape) + 0.2 * rng.normal(size=shape)


def _regular(name: str, compute: Callable[..., Any], *arrays: Any) -> Any:
    """`compute(*arrays)`, with the error for a singular matrix under its own name, also where a rule is running."""
    try:
        return compute(*arrays)
    except ValueError as error:
        if "ingular" not in str(error):
            raise
        raise LinearAlgebraError(
            f"{name}: a matrix is singular, so the result or its derivative does not exist; pinv takes any matrix"
        ) from error


# --- solve and inv ----------------------------------------------------------------------------------------------------


def _column(xp: Any, x: Any, is_vector: bool) -> Any:
    return xp.expand_dims(x, axis=-1) if is_vector else x


def _solve_samples(rng: Any) -> Any:
    systems = [((3, 3), (3,)), ((3, 3), (3, 2)), ((2, 3, 3), (3,)), ((2, 1, 2, 2), (3, 2, 2)), ((2, 2), (4, 2, 1))]
    for left, right in [*systems, ((0, 2, 2), (2,)), ((0, 0), (0, 2))]:
        yield Sample((_invertible(rng, *left), rng.normal(size=right)))


def _pull_matrix(xp: Any, g: Any, a: Any, out: Any, b_shape: Any) -> Any:
    is_vector = len(b_shape) == 1
    back = xp.solve(a.mT, _column(xp, g, is_vector))
    return summed(xp, -(back @ _column(xp, out, is_vector).mT), a.shape)


def _pull_side(xp: Any, g: Any, a: Any, b_shape: Any) -> Any:
    is_vector = len(b_shape) == 1
    back = xp.solve(a.mT, _column(xp, g, is_vector))
    return summed(xp, xp.reshape(back, back.shape[:-1]) if is_vector else back, b_shape)


def _push_matrix(xp: Any, t: Any, a: Any, out: Any, b_shape: Any) -> Any:
    is_vector = len(b_shape) == 1
    ahead = -xp.solve(a, t @ _column(xp, out, is_vector))
    return xp.reshape(ahead, ahead.shape[:-1]) if is_vector else ahead


@op(
    _pull_matrix,
    _pull_side,
    jvp=(_push_matrix, lambda xp, a, t: xp.solve(a, t)),
    samples=_solve_samples,
)
def solve(xp: Any, a: Array, b: Array) -> Any:
    """The solution x of `a @ x = b`.

    With y = a^-T g, the cotangent of b is y, and that of a is -y x^T (Giles, 2.3.1).

    Shapes: a (..., n, n); b (n,), which gives (..., n), or (..., n, k), which gives the same. Batches broadcast.

    Raises:
        ShapeError: the matrices are not square, or b has not n rows. LinearAlgebraError: a matrix is singular.
    """
    require_square(a)
    rows = b.shape[-2] if b.ndim > 1 else b.shape[0] if b.ndim else None
    if rows != a.shape[-1]:
        raise ShapeError(f"a {a.shape} has {a.shape[-1]} rows, so b is ({a.shape[-1]},) or (..., {a.shape[-1]}, k)")
    x = xp.expand_dims(b, axis=-1) if b.ndim == 1 else b
    if x.shape[:-2] != a.shape[:-2]:
        batch = np.broadcast_shapes(a.shape[:-2], x.shape[:-2])
        a, x = xp.broadcast_to(a, (*batch, *a.shape[-2:])), xp.broadcast_to(x, (*batch, *x.shape[-2:]))
    x = _regular("solve", xp.linalg.solve, a, x)
    return xp.squeeze(x, axis=-1) if b.ndim == 1 else x


@op(
    lambda g, out: -(out.mT @ g @ out.mT),
    jvp=lambda t, out: -(out @ t @ out),
    samples=lambda rng: [Sample((_invertible(rng, 3, 3),)), Sample((_invertible(rng, 2, 2, 2),))],
)
def inv(xp: Any, x: Array) -> Any:
    """The inverse matrix: d(x^-1) = -x^-1 dx x^-1 (Giles, 2.2.3). To solve a system, `solve` is faster and more exact.

    Shapes: x (..., n, n) gives the same.

    Raises:
        ShapeError: the matrices are not square. LinearAlgebraError: a matrix is singular.
    """
    require_square(x)
    return _regular("inv", xp.linalg.inv, x)


def _pull_pinv(xp: Any, g: Any, x: Any, out: Any) -> Any:
    transposed, gt = out.mT, g.mT
    on_rows = (gt - x @ (out @ gt)) @ (out @ transposed)
    on_columns = (transposed @ out) @ (gt - (gt @ out) @ x)
    return on_rows + on_columns - transposed @ g @ transposed


@op(
    _pull_pinv,
    samples=lambda rng: [
        Sample((rng.normal(size=(4, 2)),)),
        Sample((rng.normal(size=(2, 4)),), {"rtol": 1e-8}),
        Sample((_invertible(rng, 2, 3, 3),)),
    ],
)
def pinv(xp: Any, x: Array, rtol: Any = None) -> Any:
    """The Moore-Penrose pseudo-inverse p. Its derivative, where the rank does not change, is

        dp = -p dx p + p p^T dx^T (1 - x p) + (1 - p x) dx^T p^T p

    (G. Golub and V. Pereyra, "The differentiation of pseudo-inverses and nonlinear least squares problems whose
    variables separate", 1973, theorem 4.3). At a matrix of less than full rank it holds for changes that keep the rank.

    Args:
        rtol: Singular values of at most `rtol` times the largest count as zero, one number for all matrices or one
            each; None is max(m, n) times the precision of the dtype.

    Shapes: x (..., m, n) gives (..., n, m).

    Raises:
        ShapeError: x is no matrix. LinearAlgebraError: no convergence.
    """
    require_matrix(x)
    return xp.linalg.pinv(x, rtol=rtol)


# --- determinants -----------------------------------------------------------------------------------------------------


def _on_matrices(xp: Any, x: Any) -> Any:
    """One number per matrix, as a factor of the matrices."""
    return xp.expand_dims(xp.expand_dims(x, axis=-1), axis=-1)


@op(
    lambda xp, g, x: _on_matrices(xp, g) * xp.cofactor(x),
    jvp=lambda xp, t, x: xp.sum(t * xp.cofactor(x), axis=(-2, -1)),
    samples=lambda rng: [Sample((rng.normal(size=(3, 3)),)), Sample((rng.normal(size=(2, 2, 2)),))],
)
def det(xp: Any, x: Array) -> Any:
    """The determinant. Its gradient is the matrix of cofactors (Jacobi's formula), also where x is singular.

    Shapes: x (..., n, n) gives (...).

    Raises:
        ShapeError: the matrices are not square. LinearAlgebraError: the second derivative at a singular matrix.
    """
    require_square(x)
    return xp.linalg.det(x)


def _vary_cofactor(xp: Any, g: Any, x: Any, out: Any) -> Any:
    """The derivative of the cofactors: a Hessian of det, so that VJP and JVP are one map."""
    inverse = xp.inv(x).mT
    return _on_matrices(xp, xp.sum(g * out, axis=(-2, -1))) * inverse - out @ g.mT @ inverse


@op(
    _vary_cofactor,
    jvp=_vary_cofactor,
    samples=lambda rng: [Sample((rng.normal(size=(3, 3)),)), Sample((rng.normal(size=(2, 2, 2)),))],
)
def cofactor(xp: Any, x: Array) -> Any:
    """The matrix of cofactors, det(x) x^-T where x has an inverse.

    From the singular values, x = U S V^T: det(U V^T) U diag(the product of all other singular values) V^T, which needs
    no inverse. Its own derivative is taken through the inverse.

    Shapes: x (..., n, n) gives the same.

    Raises:
        ShapeError: the matrices are not square. LinearAlgebraError: the derivative at a singular matrix.
    """
    require_square(x)
    u, s, vh = xp.linalg.svd(x, full_matrices=False)
    eye = xp.eye(x.shape[-1], dtype=s.dtype, device=x.device)
    others = xp.prod(eye + (1 - eye) * xp.expand_dims(s, axis=-2), axis=-1)
    sign = xp.linalg.det(u) * xp.linalg.det(vh)
    return (u * xp.expand_dims(xp.expand_dims(sign, axis=-1) * others, axis=-2)) @ vh


@op(
    lambda xp, g, x: _on_matrices(xp, g[1]) * xp.inv(x).mT,
    outputs=("sign", "logabsdet"),
    samples=lambda rng: [Sample((rng.normal(size=(3, 3)),)), Sample((rng.normal(size=(2, 2, 2)),))],
)
def slogdet(xp: Any, x: Array) -> Any:
    """The sign of the determinant (its derivative is 0) and the logarithm of its absolute value, without overflow.

    Shapes: x (..., n, n) gives two arrays (...). A singular matrix gives 0 and -inf.

    Raises:
        ShapeError: the matrices are not square. LinearAlgebraError: the derivative at a singular matrix.
    """
    require_square(x)
    return tuple(xp.linalg.slogdet(x))


# --- numbers of a matrix ----------------------------------------------------------------------------------------------


@composite(
    samples=lambda rng: [
        Sample((rng.normal(size=(3, 3)),)),
        Sample((rng.normal(size=(2, 3, 4)),), {"offset": 1}),
    ]
)
def trace(xp: Any, x: Array, offset: int = 0, dtype: Any = None) -> Any:
    """The sum of a diagonal of each matrix: the main one, or the one `offset` places to its right.

    Shapes: x (..., m, n) gives (...). `dtype` is that of the sum.
    """
    diagonal = xp.diagonal(x, offset=offset)
    return xp.sum(diagonal if dtype is None else xp.astype(diagonal, dtype), axis=-1)


def _ranked(rng: Any) -> Any:
    yield Sample((rng.normal(size=(2, 3, 2)) @ rng.normal(size=(2, 2, 4)),))
    yield Sample((np.diag([1.0, 0.1, 0.001]), 0.01))


@op(None, samples=_ranked)
def matrix_rank(xp: Any, x: Array, rtol: Any = None) -> Any:
    """How many singular values are larger than `rtol` times the largest; an integer, without a derivative.

    Args:
        rtol: One number for all matrices or one each; None is max(m, n) times the precision of the dtype.

    Shapes: x (..., m, n) gives (...).

    Raises:
        ShapeError: x is no matrix. LinearAlgebraError: no convergence.
    """
    require_matrix(x)
    return xp.linalg.matrix_rank(x, rtol=rtol)


_NORMS: dict[Any, Callable[[Any, Any], Any]] = {
    "fro": lambda xp, x: xp.vector_norm(x, axis=(-2, -1)),
    "nuc": lambda xp, x: xp.sum(xp.svdvals(x), axis=-1),
    2: lambda xp, x: xp.max(xp.svdvals(x), axis=-1),
    -2: lambda xp, x: xp.min(xp.svdvals(x), axis=-1),
    1: lambda xp, x: xp.max(xp.sum(xp.abs(x), axis=-2), axis=-1),
    -1: lambda xp, x: xp.min(xp.sum(xp.abs(x), axis=-2), axis=-1),
    float("inf"): lambda xp, x: xp.max(xp.sum(xp.abs(x), axis=-1), axis=-1),
    float("-inf"): lambda xp, x: xp.min(xp.sum(xp.abs(x), axis=-1), axis=-1),
}


def _norm_samples(rng: Any) -> Any:
    for order in _NORMS:
        yield Sample((rng.normal(size=(3, 2)),), {"ord": order})
    yield Sample((rng.normal(size=(2, 2, 3)),), {"keepdims": True})
    yield Sample((rng.normal(size=(2, 2, 3)),), {"ord": "nuc", "keepdims": True})


@composite(samples=_norm_samples)
def matrix_norm(xp: Any, x: Array, keepdims: bool = False, ord: Any = "fro") -> Any:
    """A norm of each matrix.

    Args:
        keepdims: Whether the last two axes stay, with length 1.
        ord: "fro", the root of the sum of squares; "nuc", the sum of singular values; 2 and -2, the largest and
            smallest singular value; 1 and -1, the largest and smallest sum of absolute values of a column; inf and
            -inf, of a row.

    Shapes: x (..., m, n) gives (...). The derivative at ties is that of `max` and `min`, at a zero singular value of
    "nuc" that of the formula for positive ones (a subgradient), and at 0 of "fro" it is 0.

    Raises:
        ShapeError: x is no matrix. ArgumentError: no such norm.
    """
    if ord not in tuple(_NORMS):
        raise ArgumentError(f"ord is one of {', '.join(map(repr, _NORMS))}; got {ord!r}")
    require_matrix(x)
    norm = _NORMS[ord](xp, x)
    return _on_matrices(xp, norm) if keepdims else norm
