"""Products of vectors, matrices and tensors, with broadcasting over leading axes.

A rule gives the cotangent in the broadcast shape and sums it down to the shape of its input (`summed`).
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from ..core.define import Array, Sample, composite, op
from ..errors import ArgumentError, ShapeError
from ..shapes import Shape, normalize_axes

__all__ = ["cross", "eye_like", "kron", "linear", "matmul", "matrix_power", "outer", "tensordot", "vecdot"]


def summed(xp: Any, g: Any, shape: Shape) -> Any:
    """`g` summed down to `shape`, untouched where it has it."""
    return g if g.shape == shape else xp.sum_to(g, shape)


def _rows(xp: Any, x: Any) -> Any:
    """`x` as a matrix: all axes but the last joined to one."""
    return xp.reshape(x, (prod(x.shape[:-1]), x.shape[-1]))


def _mismatch(a: Any, b: Any) -> ShapeError:
    """Why `a @ b` is not defined."""
    left, right = getattr(a, "shape", ()), getattr(b, "shape", ())
    if not left or not right:
        return ShapeError("a matrix product takes vectors, matrices or batches of them; multiply by a number with *")
    if left[-1] != right[-2 if len(right) > 1 else 0]:
        axis = "second-last" if len(right) > 1 else "only"
        return ShapeError(
            f"the last axis of the left operand {left} and the {axis} axis of the right one {right} have to agree: "
            f"{left[-1]} is not {right[-2 if len(right) > 1 else 0]}"
        )
    return ShapeError(f"the leading axes {left[:-2]} and {right[:-2]} do not broadcast")


# --- matmul -----------------------------------------------------------------------------------------------------------


def _pull_left(xp: Any, g: Any, b: Any, shape: Shape) -> Any:
    """The cotangent of `a` of `a @ b`, where not both are matrices."""
    if b.ndim == 1:
        return xp.expand_dims(g, axis=-1) * b
    if len(shape) == 1 and b.ndim == 2:
        return g @ b.mT
    if len(shape) == 1:
        g = xp.expand_dims(g, axis=-2)
    return summed(xp, g @ b.mT, shape)


def _pull_right(xp: Any, g: Any, a: Any, shape: Shape) -> Any:
    """The cotangent of `b` of `a @ b`, where not both are matrices."""
    if len(shape) == 1:
        return xp.reshape(g, (g.size,)) @ _rows(xp, a) if a.ndim > 1 else g * a
    if a.ndim == 1:
        return xp.expand_dims(a, axis=-1) * (g if g.ndim == 1 else xp.expand_dims(g, axis=-2))
    if len(shape) == 2:
        return _rows(xp, a).mT @ _rows(xp, g)
    return summed(xp, a.mT @ g, shape)


def _matmul_samples(rng: Any) -> Any:
    shapes = [((2, 3), (3, 4)), ((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 4)), ((5, 2, 3), (3, 4)), ((2, 3), (5, 3, 4))]
    shapes += [((5, 2, 3), (3,)), ((3,), (5, 3, 4)), ((2, 1, 2, 3), (4, 3, 1)), ((0, 3), (3, 2)), ((2, 0), (0, 3))]
    for left, right in shapes:
        yield Sample((rng.normal(size=left), rng.normal(size=right)))


@op(
    lambda xp, g, b, a_shape: g @ b.mT if len(a_shape) == b.ndim == 2 else _pull_left(xp, g, b, a_shape),
    lambda xp, g, a, b_shape: a.mT @ g if len(b_shape) == a.ndim == 2 else _pull_right(xp, g, a, b_shape),
    jvp=(lambda t, b: t @ b, lambda a, t: a @ t),
    samples=_matmul_samples,
    jacobian=lambda g, b: (None, b.mT),
)
def matmul(xp: Any, a: Array, b: Array) -> Any:
    """The matrix product `a @ b`.

    Shapes: (m, k) and (k, n) give (m, n). A vector on the left is a row, on the right a column, and its axis is missing
    in the result. Axes before the last two are batches and broadcast.

    Raises:
        ShapeError: an operand is a number, the inner axes differ, or the batches do not broadcast.
    """
    try:
        return a @ b
    except ValueError as error:
        raise _mismatch(a, b) from error


def _linear_samples(rng: Any) -> Any:
    for shape in [(2, 3), (3,), (2, 4, 3), (0, 3)]:
        yield Sample((rng.normal(size=shape), rng.normal(size=(3, 4)), rng.normal(size=(4,))))
    yield Sample((rng.normal(size=(2, 3)), rng.normal(size=(3, 4))))


def pull_inputs(xp: Any, g: Any, w: Any) -> Any:
    """The cotangent of `x` in `x @ w` for a matrix `w`."""
    return xp.linear(g, w.mT)


def pull_weights(xp: Any, g: Any, x: Any) -> Any:
    """The cotangent of the matrix `w` in `x @ w`."""
    return xp.linear(x.mT, g) if x.ndim == 2 else _pull_right(xp, g, x, (x.shape[-1], g.shape[-1]))


def pull_bias(xp: Any, g: Any) -> Any:
    """The cotangent of `b` in `x @ w + b`."""
    return g if g.ndim == 1 else xp.sum(g, axis=0 if g.ndim == 2 else tuple(range(g.ndim - 1)))


@op(
    pull_inputs,
    pull_weights,
    pull_bias,
    jvp=(lambda t, w: t @ w, lambda x, t: x @ t, lambda xp, t, x: xp.broadcast_to(t, (*x.shape[:-1], *t.shape))),
    samples=_linear_samples,
    jacobian=lambda g, w: (None, w.mT),
)
def linear(xp: Any, x: Array, w: Array, b: Array | None = None) -> Any:
    """`x @ w + b`, the affine map of a dense layer.

    Shapes: x (..., n), w (n, m), b (m,) or None; the result is (..., m).

    Raises:
        ShapeError: w is no matrix, x does not end in n, or b is not (m,).
    """
    if w.ndim != 2:
        raise ShapeError(f"w is a matrix (n, m); got shape {w.shape}")
    try:  # one product of matrices: a batch of small ones takes longer
        y = x @ w if x.ndim < 3 else xp.reshape(_rows(xp, x) @ w, (*x.shape[:-1], w.shape[-1]))
    except ValueError as error:
        raise _mismatch(x, w) from error
    if b is None:
        return y
    if b.shape != y.shape[-1:]:
        raise ShapeError(f"b has one number per column of w, shape {y.shape[-1:]}; got shape {b.shape}")
    if b.dtype != y.dtype:
        return y + b
    y += b  # y is fresh: no second buffer
    return y


# --- products of vectors ----------------------------------------------------------------------------------------------


def _from_the_end(axis: int, a: Any, b: Any) -> int:
    """`axis` counted from the end, where operands of different rank are aligned."""
    if axis >= 0 and a.ndim != b.ndim:
        raise ArgumentError(f"operands of {a.ndim} and {b.ndim} axes are aligned at their ends; use a negative axis")
    from_end = axis - a.ndim if axis >= 0 else axis
    if not -min(a.ndim, b.ndim) <= from_end < 0:
        raise ShapeError(f"axis {axis} is out of range for operands of {a.ndim} and {b.ndim} axes")
    return from_end


def _vecdot_samples(rng: Any) -> Any:
    yield Sample((rng.normal(size=(3,)), rng.normal(size=(3,))))
    yield Sample((rng.normal(size=(4, 2, 3)), rng.normal(size=(1, 3))))
    yield Sample((rng.normal(size=(3, 2)), rng.normal(size=(3, 1))), {"axis": 0})
    yield Sample((rng.normal(size=(3, 2)), rng.normal(size=(4, 3, 1))), {"axis": -2})


@op(
    lambda xp, g, b, a_shape, axis: summed(xp, xp.expand_dims(g, axis=axis) * b, a_shape),
    lambda xp, g, a, b_shape, axis: summed(xp, xp.expand_dims(g, axis=axis) * a, b_shape),
    jvp=(
        lambda xp, t, b, axis: xp.vecdot(t, b, axis=axis),
        lambda xp, t, a, axis: xp.vecdot(a, t, axis=axis),
    ),
    samples=_vecdot_samples,
)
def vecdot(xp: Any, a: Array, b: Array, axis: int = -1) -> Any:
    """The inner products of the vectors that lie along `axis`; the other axes broadcast.

    Raises:
        ShapeError: the vectors differ in length, or the other axes do not broadcast. ArgumentError: a non-negative axis
        for operands of different rank.
    """
    axis = _from_the_end(axis, a, b)
    if a.shape[axis] != b.shape[axis]:
        raise ShapeError(f"vectors along axis {axis} have {a.shape[axis]} and {b.shape[axis]} numbers; they must agree")
    return xp.vecdot(a, b, axis=axis)


@op(
    lambda g, b: g @ b,
    lambda g, a: a @ g,
    jvp=(lambda xp, t, b: xp.outer(t, b), lambda xp, a, t: xp.outer(a, t)),
    samples=lambda rng: [Sample((rng.normal(size=(2,)), rng.normal(size=(3,))))],
)
def outer(xp: Any, a: Array, b: Array) -> Any:
    """All products of a number of the vector `a` with one of the vector `b`: (m,) and (n,) give (m, n).

    Raises:
        ShapeError: an operand is not a vector.
    """
    if a.ndim != 1 or b.ndim != 1:
        raise ShapeError("both operands are vectors; for other shapes use einsum, or * with new axes")
    return a[:, None] * b[None, :]


def _cross_samples(rng: Any) -> Any:
    yield Sample((rng.normal(size=(3,)), rng.normal(size=(3,))))
    yield Sample((rng.normal(size=(4, 2, 3)), rng.normal(size=(2, 3))))
    yield Sample((rng.normal(size=(3, 2)), rng.normal(size=(3, 1))), {"axis": 0})


@op(
    lambda xp, g, b, a_shape, axis: summed(xp, xp.cross(b, g, axis=axis), a_shape),
    lambda xp, g, a, b_shape, axis: summed(xp, xp.cross(g, a, axis=axis), b_shape),
    jvp=(
        lambda xp, t, b, axis: xp.cross(t, b, axis=axis),
        lambda xp, t, a, axis: xp.cross(a, t, axis=axis),
    ),
    samples=_cross_samples,
)
def cross(xp: Any, a: Array, b: Array, axis: int = -1) -> Any:
    """The cross products of the vectors of three numbers that lie along `axis`; the other axes broadcast.

    The scalar triple product is cyclic, <g, a x b> = <a, b x g> = <b, g x a>, which is the rule.

    Raises:
        ShapeError: the vectors do not have three numbers, or the other axes do not broadcast. ArgumentError: a
        non-negative axis for operands of different rank.
    """
    axis = _from_the_end(axis, a, b)
    if a.shape[axis] != 3 or b.shape[axis] != 3:
        raise ShapeError(f"vectors along axis {axis} have three numbers; got {a.shape[axis]} and {b.shape[axis]}")
    return xp.linalg.cross(a, b, axis=axis)


# --- products of tensors ----------------------------------------------------------------------------------------------


def _tensordot_samples(rng: Any) -> Any:
    yield Sample((rng.normal(size=(2, 3, 4)), rng.normal(size=(3, 4, 2))))
    yield Sample((rng.normal(size=(2, 3, 4)), rng.normal(size=(4, 2))), {"axes": 1})
    yield Sample((rng.normal(size=(2, 3)), rng.normal(size=(2,))), {"axes": 0})
    yield Sample((rng.normal(size=(2, 3, 4)), rng.normal(size=(4, 3, 2))), {"axes": ((1, -1), (1, 0))})


@composite(samples=_tensordot_samples)
def tensordot(xp: Any, a: Array, b: Array, axes: int | tuple[Sequence[int], Sequence[int]] = 2) -> Any:
    """The sum of products over pairs of axes, one of `a` and one of `b`.

    Args:
        axes: How many axes to pair, the last ones of `a` with the first ones of `b`, in order; or the axes of `a` and
            the axes of `b`, pair by pair.

    Shapes: the other axes of `a`, then those of `b`.

    Raises:
        ShapeError: paired axes differ in length, or there are no such axes. ArgumentError: not as many axes of `a` as
        of `b`.
    """
    if isinstance(axes, int):
        if not 0 <= axes <= min(a.ndim, b.ndim):
            raise ShapeError(f"cannot pair {axes} axes of operands of {a.ndim} and {b.ndim} axes")
        left, right = tuple(range(a.ndim - axes, a.ndim)), tuple(range(axes))
    else:
        left, right = normalize_axes(tuple(axes[0]), a.ndim), normalize_axes(tuple(axes[1]), b.ndim)
    lengths = [a.shape[i] for i in left]
    if len(left) != len(right):
        raise ArgumentError(f"axes pairs {len(left)} axes of a with {len(right)} of b; give as many")
    if lengths != [b.shape[i] for i in right]:
        raise ShapeError(
            f"axes {left} of a {a.shape} and {right} of b {b.shape} are paired; their lengths have to agree"
        )
    rows = tuple(i for i in range(a.ndim) if i not in left)
    columns = tuple(i for i in range(b.ndim) if i not in right)
    shape = (*(a.shape[i] for i in rows), *(b.shape[i] for i in columns))
    inner = prod(lengths)
    a = xp.reshape(xp.permute_dims(a, (*rows, *left)), (prod(a.shape[i] for i in rows), inner))
    b = xp.reshape(xp.permute_dims(b, (*right, *columns)), (inner, prod(b.shape[i] for i in columns)))
    return xp.reshape(xp.matmul(a, b), shape)


@composite(
    samples=lambda rng: [
        Sample((rng.normal(size=(2, 3)), rng.normal(size=(3, 1)))),
        Sample((rng.normal(size=(2,)), rng.normal(size=(2, 2)))),
    ]
)
def kron(xp: Any, a: Array, b: Array) -> Any:
    """The Kronecker product: every number of `a` times the whole of `b`, laid out in blocks.

    Shapes: axes are aligned at their ends; each axis of the result is the product of the two, so (m, n) and (p, q) give
    (m p, n q).
    """
    ndim = max(a.ndim, b.ndim)
    outer_shape = (1,) * (ndim - a.ndim) + tuple(a.shape)
    inner_shape = (1,) * (ndim - b.ndim) + tuple(b.shape)
    blocks = xp.reshape(a, tuple(n for length in outer_shape for n in (length, 1)))
    block = xp.reshape(b, tuple(n for length in inner_shape for n in (1, length)))
    return xp.reshape(xp.multiply(blocks, block), tuple(m * n for m, n in zip(outer_shape, inner_shape, strict=True)))


@op(None, samples=lambda rng: [Sample((rng.normal(size=(2, 3)),))])
def eye_like(xp: Any, x: Array) -> Any:
    """The identity matrix with a row for each number of the last axis of `x`, in its dtype and on its device."""
    return xp.eye(x.shape[-1], dtype=x.dtype, device=x.device)


@composite(
    samples=lambda rng: [
        Sample((rng.normal(size=(3, 3)), 5)),
        Sample((rng.normal(size=(2, 3, 3)), 2)),
        Sample((rng.normal(size=(2, 2)), -3)),
        Sample((rng.normal(size=(2, 2)), 1)),
        Sample((rng.normal(size=(2, 2)), 0)),
    ]
)
def matrix_power(xp: Any, x: Array, n: int) -> Any:
    """The product of `n` factors `x`; of its inverse for negative n; the identity for n = 0.

    Shapes: x (..., m, m) gives the same. It takes about 2 log2 |n| matrix products (repeated squaring).

    Raises:
        ShapeError: the matrices are not square. ArgumentError: n is no int. LinearAlgebraError: a matrix is singular
        and n is negative.
    """
    if not isinstance(n, int):
        raise ArgumentError(f"the exponent is an int; got {n!r}")
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise ShapeError(f"takes square matrices (..., m, m); got shape {tuple(x.shape)}")
    if n == 0:
        return xp.broadcast_to(xp.eye_like(x), x.shape)
    square = xp.inv(x) if n < 0 else xp.positive(x)
    product, n = None, abs(n)
    while True:
        if n & 1:
            product = square if product is None else xp.matmul(product, square)
        n >>= 1
        if not n:
            return product
        square = xp.matmul(square, square)
