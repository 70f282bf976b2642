"""Reductions over one, several or all axes.

In every op here `axis` is an int, a tuple of ints, or None for all axes; negative axes count from the end. With
`keepdims` the reduced axes stay, with length 1. An axis that is out of range or named twice is a ShapeError.

Integers and booleans are averaged in the default dtype (`set_default_dtype`). The mean, the variance and the standard
deviation of no numbers are NaN, without a warning.
"""

from math import inf, isnan, nan
from typing import Any

from ..backends import canonical_dtype, default_dtype, is_floating
from ..core.define import Array, Sample, op
from ..errors import ArgumentError
from ..shapes import Axis, count, kept, normalize_axes, reduced_axes

__all__ = [
    "all", "any", "count_nonzero", "max", "mean", "min", "prod", "std", "sum", "var", "vector_norm",
]  # fmt: skip


def _floating(xp: Any, x: Any) -> Any:
    return x if is_floating(x.dtype) else xp.astype(x, xp.dtype(default_dtype()))


def _kept(xp: Any, g: Any, x_shape: Any, axis: Any, keepdims: bool) -> Any:
    """A value of the shape of a reduction of x, in a shape that broadcasts against x."""
    return g if keepdims or axis is None else xp.reshape(g, kept(x_shape, axis))


def _spread(xp: Any, g: Any, x_shape: Any, axis: Any, keepdims: bool) -> Any:
    """`g` repeated over the axes that a reduction joined."""
    return xp.broadcast_to(_kept(xp, g, x_shape, axis, keepdims), x_shape)


def _reduced(rng: Any) -> Any:
    yield Sample((rng.normal(size=(2, 3)),))
    yield Sample((rng.normal(size=(2, 3, 4)),), {"axis": (0, -1)})
    yield Sample((rng.normal(size=(2, 3)),), {"axis": 1, "keepdims": True})
    yield Sample((rng.normal(size=(2, 3, 2)),), {"axis": -2})
    yield Sample((rng.normal(size=(3, 2)),), {"axis": (), "keepdims": True})
    yield Sample((rng.normal(size=()),))


# --- sums and means ---------------------------------------------------------------------------------------------------


@op(
    _spread,
    jvp="linear",
    samples=lambda rng: [*_reduced(rng), Sample((rng.normal(size=(0, 3)),), {"axis": 0})],
)
def sum(xp: Any, x: Array, axis: Axis = None, *, dtype: Any = None, keepdims: bool = False) -> Any:
    """The sum over `axis`; 0 where there is nothing to add.

    The result has the dtype of x if that is of floating point, the default integer for small integers and booleans, or
    `dtype`, in which it is then summed.
    """
    axis = reduced_axes(axis, x.ndim)
    if dtype is None:
        return xp.sum(x, axis=axis, keepdims=keepdims)
    return xp.sum(x, axis=axis, dtype=xp.dtype(dtype), keepdims=keepdims)


@op(
    lambda xp, g, x_shape, axis, keepdims: _spread(xp, g * _weight(count(x_shape, axis)), x_shape, axis, keepdims),
    jvp="linear",
    samples=_reduced,
)
def mean(xp: Any, x: Array, axis: Axis = None, *, keepdims: bool = False) -> Any:
    """The arithmetic mean over `axis`; NaN where there are no numbers. float16 is summed in float32."""
    return _mean(xp, x, reduced_axes(axis, x.ndim), keepdims)


def _weight(numbers: float) -> float:
    return 1.0 / numbers if numbers > 0 else nan


def _mean(xp: Any, x: Any, axis: Any, keepdims: bool) -> Any:
    numbers = count(x.shape, axis)
    if not is_floating(x.dtype):
        total = xp.astype(xp.sum(x, axis=axis, keepdims=keepdims), xp.dtype(default_dtype()))
    elif canonical_dtype(x.dtype).itemsize == 2:
        total = xp.sum(x, axis=axis, dtype=xp.float32, keepdims=keepdims)
        return xp.astype(total / numbers if numbers else total * nan, x.dtype)
    else:
        total = xp.sum(x, axis=axis, keepdims=keepdims)
    return total / numbers if numbers else total * nan


# --- variances --------------------------------------------------------------------------------------------------------


def _deviation(xp: Any, x: Any, axis: Any) -> Any:
    """`x` less its mean."""
    return x - xp.mean(x, axis=axis, keepdims=True)


def _variance(xp: Any, x: Any, axis: Any, correction: float, keepdims: bool) -> Any:
    x = _floating(xp, x)
    axis = reduced_axes(axis, x.ndim)
    d = x - _mean(xp, x, axis, True)
    total = xp.sum(d * d, axis=axis, keepdims=keepdims)
    freedom = count(x.shape, axis) - correction
    return total / freedom if freedom > 0 else total * nan


def _corrected(rng: Any) -> Any:
    yield Sample((rng.normal(size=(2, 3)),))
    yield Sample((rng.normal(size=(2, 3, 4)),), {"axis": (0, -1), "correction": 1})
    yield Sample((rng.normal(size=(2, 3)),), {"axis": 1, "correction": 0.5, "keepdims": True})
    yield Sample((rng.normal(size=(3, 2, 2)),), {"axis": -3})


@op(
    lambda xp, g, x, axis, correction, keepdims: (
        _kept(xp, g * (2 * _weight(count(x.shape, axis) - correction)), x.shape, axis, keepdims)
        * _deviation(xp, x, axis)
    ),
    jvp=lambda xp, t, x, axis, correction, keepdims: (
        xp.sum(t * _deviation(xp, x, axis), axis=axis, keepdims=keepdims)
        * (2 * _weight(count(x.shape, axis) - correction))
    ),
    samples=_corrected,
)
def var(xp: Any, x: Array, axis: Axis = None, *, correction: float = 0.0, keepdims: bool = False) -> Any:
    """The variance over `axis`: the sum of squared deviations from the mean, divided by N - correction.

    `correction` 0 gives the population's variance, 1 the unbiased estimate. NaN where N - correction is not positive.
    """
    return _variance(xp, x, axis, correction, keepdims)


def _standardized(xp: Any, x: Any, out: Any, axis: Any, correction: float, keepdims: bool) -> Any:
    """The gradient of the standard deviation; 0 where all numbers are equal."""
    scale = _kept(xp, out, x.shape, axis, keepdims)
    return xp.safe_divide(_deviation(xp, x, axis), scale) * _weight(count(x.shape, axis) - correction)


@op(
    lambda xp, g, x, out, axis, correction, keepdims: (
        _kept(xp, g, x.shape, axis, keepdims) * _standardized(xp, x, out, axis, correction, keepdims)
    ),
    jvp=lambda xp, t, x, out, axis, correction, keepdims: xp.sum(
        t * _standardized(xp, x, out, axis, correction, keepdims), axis=axis, keepdims=keepdims
    ),
    samples=_corrected,
)
def std(xp: Any, x: Array, axis: Axis = None, *, correction: float = 0.0, keepdims: bool = False) -> Any:
    """The standard deviation over `axis`, the square root of `var`. Its gradient is 0 where all numbers are equal."""
    return xp.sqrt(_variance(xp, x, axis, correction, keepdims))


# --- largest and smallest ---------------------------------------------------------------------------------------------


def _share(xp: Any, x: Any, out: Any, axis: Any, keepdims: bool) -> Any:
    """The slope of a maximum or minimum: 1 at the number that is it, or 1/k at each of k that tie."""
    ties = xp.astype(x == _kept(xp, out, x.shape, axis, keepdims), x.dtype)
    return ties / xp.sum(ties, axis=axis, keepdims=True)


def _to_ties(xp: Any, g: Any, x: Any, out: Any, axis: Any, keepdims: bool) -> Any:
    return _kept(xp, g, x.shape, axis, keepdims) * _share(xp, x, out, axis, keepdims)


def _from_ties(xp: Any, t: Any, x: Any, out: Any, axis: Any, keepdims: bool) -> Any:
    return xp.sum(t * _share(xp, x, out, axis, keepdims), axis=axis, keepdims=keepdims)


@op(_to_ties, jvp=_from_ties, samples=_reduced)
def max(xp: Any, x: Array, axis: Axis = None, *, keepdims: bool = False) -> Any:
    """The largest number over `axis`; NaN if there is one. The gradient is split equally among numbers that tie.

    Raises:
        ShapeError: there are no numbers to choose from.
    """
    return xp.max(x, axis=reduced_axes(axis, x.ndim), keepdims=keepdims)


@op(_to_ties, jvp=_from_ties, samples=_reduced)
def min(xp: Any, x: Array, axis: Axis = None, *, keepdims: bool = False) -> Any:
    """The smallest number over `axis`; NaN if there is one. The gradient is split equally among numbers that tie.

    Raises:
        ShapeError: there are no numbers to choose from.
    """
    return xp.min(x, axis=reduced_axes(axis, x.ndim), keepdims=keepdims)


# --- products ---------------------------------------------------------------------------------------------------------


def _others(xp: Any, x: Any, axis: Any) -> Any:
    """At each number, the product of the others that `prod` joins it with.

    It is the product of those before times the product of those after: no division, so zeros need no care.
    """
    axes = normalize_axes(axis, x.ndim)
    rest = tuple([a for a in range(x.ndim) if a not in axes])
    order = (*rest, *axes)
    lengths = tuple([x.shape[a] for a in order])
    rows = xp.reshape(xp.permute_dims(x, order), (*lengths[: len(rest)], count(x.shape, axis)))
    before = xp.cumulative_prod(rows, axis=-1, include_initial=True)[..., :-1]
    after = xp.flip(xp.cumulative_prod(xp.flip(rows, axis=-1), axis=-1, include_initial=True)[..., :-1], axis=-1)
    back = tuple(sorted(range(x.ndim), key=order.__getitem__))
    return xp.permute_dims(xp.reshape(before * after, lengths), back)


def _with_zeros(x: Any, number: int) -> Any:
    x.flat[:number] = 0.0
    return x


def _factors(rng: Any) -> Any:
    yield from _reduced(rng)
    yield Sample((_with_zeros(rng.normal(size=(3, 4)), 1),), {"axis": 1})
    yield Sample((_with_zeros(rng.normal(size=(2, 3)), 2),))


@op(
    lambda xp, g, x, axis, keepdims: xp.safe_multiply(_kept(xp, g, x.shape, axis, keepdims), _others(xp, x, axis)),
    jvp=lambda xp, t, x, axis, keepdims: xp.sum(
        xp.safe_multiply(t, _others(xp, x, axis)), axis=axis, keepdims=keepdims
    ),
    samples=_factors,
)
def prod(xp: Any, x: Array, axis: Axis = None, *, dtype: Any = None, keepdims: bool = False) -> Any:
    """The product over `axis`; 1 where there is nothing to multiply. Dtypes as for `sum`.

    The gradient is exact with any number of zeros among the factors. A zero cotangent stays zero past an overflow.
    """
    axis = reduced_axes(axis, x.ndim)
    if dtype is None:
        return xp.prod(x, axis=axis, keepdims=keepdims)
    return xp.prod(x, axis=axis, dtype=xp.dtype(dtype), keepdims=keepdims)


# --- norms ------------------------------------------------------------------------------------------------------------


def _norm_slope(xp: Any, x: Any, out: Any, axis: Any, keepdims: bool, ord: float) -> Any:
    """The gradient of a norm: |x / out| ** (ord - 1), with the sign of x."""
    out = _kept(xp, out, x.shape, axis, keepdims)
    if ord == 2:
        return xp.safe_divide(x, out)
    sign = xp.sign(x)
    if ord in (0, 1):
        return sign * float(ord)
    if ord in (inf, -inf):
        return sign * _share(xp, xp.abs(x), out, axis, True)
    return xp.safe_multiply(sign, xp.safe_divide(xp.abs(x), out) ** (ord - 1))


def _norms(rng: Any) -> Any:
    for ord in (2, 1, inf, -inf, 3, 1.5, 0.5, -1, 0):
        yield Sample((rng.normal(size=(2, 3)),), {"axis": -1, "ord": ord})
    for sample in _reduced(rng):
        yield Sample((sample.args[0] + 0.1,), {**sample.kwargs, "ord": 2.5})
        yield sample


@op(
    lambda xp, g, x, out, axis, keepdims, ord: (
        _kept(xp, g, x.shape, axis, keepdims) * _norm_slope(xp, x, out, axis, keepdims, ord)
    ),
    jvp=lambda xp, t, x, out, axis, keepdims, ord: xp.sum(
        t * _norm_slope(xp, x, out, axis, keepdims, ord), axis=axis, keepdims=keepdims
    ),
    samples=_norms,
)
def vector_norm(xp: Any, x: Array, axis: Axis = None, *, keepdims: bool = False, ord: float = 2) -> Any:
    """The norm of the numbers over `axis`, (sum |x| ** ord) ** (1 / ord).

    `ord` inf gives the largest, -inf the smallest |x|, 0 the count of numbers that are not 0. The gradient is 0 at each
    number that is 0 (so for the zero vector) and for `ord` 0; it is split equally among |x| that tie for the extreme.

    Raises:
        ArgumentError: `ord` is not a real number.
    """
    if not isinstance(ord, int | float) or isnan(ord):
        raise ArgumentError(f"ord is a real number, inf or -inf; got {ord!r}")
    x, axis = _floating(xp, x), reduced_axes(axis, x.ndim)
    if ord == 2:
        return xp.sqrt(xp.sum(x * x, axis=axis, keepdims=keepdims))
    if ord == 0:
        return xp.sum(xp.astype(x != 0, x.dtype), axis=axis, keepdims=keepdims)
    size = xp.abs(x)
    if ord == 1 or not count(x.shape, axis):
        return xp.sum(size, axis=axis, keepdims=keepdims)
    if ord == inf:
        return xp.max(size, axis=axis, keepdims=keepdims)
    if ord == -inf:
        return xp.min(size, axis=axis, keepdims=keepdims)
    return xp.sum(size**ord, axis=axis, keepdims=keepdims) ** (1 / ord)


# --- truth ------------------------------------------------------------------------------------------------------------


def _truths(rng: Any) -> Any:
    for options in ({}, {"axis": 0}, {"axis": (0, -1), "keepdims": True}):
        yield Sample((rng.integers(0, 2, (2, 3, 4)),), options)


@op(None, samples=_truths)
def any(xp: Any, x: Array, axis: Axis = None, *, keepdims: bool = False) -> Any:
    """Whether something over `axis` is true (not 0); False where there is nothing. It has no derivative."""
    return xp.any(x, axis=reduced_axes(axis, x.ndim), keepdims=keepdims)


@op(None, samples=_truths)
def all(xp: Any, x: Array, axis: Axis = None, *, keepdims: bool = False) -> Any:
    """Whether everything over `axis` is true (not 0); True where there is nothing. It has no derivative."""
    return xp.all(x, axis=reduced_axes(axis, x.ndim), keepdims=keepdims)


@op(None, samples=_truths)
def count_nonzero(xp: Any, x: Array, axis: Axis = None, *, keepdims: bool = False) -> Any:
    """How many numbers over `axis` are not 0. It has no derivative."""
    return xp.asarray(xp.count_nonzero(x, axis=reduced_axes(axis, x.ndim), keepdims=keepdims))
