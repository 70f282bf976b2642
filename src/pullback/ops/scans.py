"""Running sums, products and differences along one axis.

`axis` is an int; it may be left out (None) for a vector. An axis that is out of range or missing is a ShapeError.
"""

from typing import Any

from ..core.define import Array, Sample, composite, op
from ..errors import ArgumentError, ShapeError
from ..shapes import along, normalize_axis

__all__ = ["cumulative_prod", "cumulative_sum", "diff", "linear_recurrence"]


def _axis(axis: int | None, ndim: int) -> int:
    if axis is None:
        if ndim != 1:
            raise ShapeError(f"an array of {ndim} dimensions needs an axis; None is for vectors")
        return 0
    return normalize_axis(axis, ndim)


def _scanned(rng: Any) -> Any:
    yield Sample((rng.normal(size=(4,)),))
    yield Sample((rng.normal(size=(2, 3)),), {"axis": 0})
    yield Sample((rng.normal(size=(2, 3, 2)),), {"axis": -2, "include_initial": True})
    yield Sample((rng.normal(size=(1, 5)),), {"axis": 1})


def _tail(xp: Any, g: Any, axis: int, include_initial: bool) -> Any:
    """The cotangents of a scan without that of the initial value."""
    return g[along(axis, g.ndim, slice(1, None))] if include_initial else g


def _after_zero(xp: Any, x: Any, axis: int, length: int) -> Any:
    """`x` moved on by one along `axis`, a zero before it, cut to `length`."""
    shape = (*x.shape[:axis], length, *x.shape[axis + 1 :])
    front = x[along(axis, x.ndim, slice(0, length - 1 if length else 0))]
    return xp.scatter(front, along(axis, x.ndim, slice(1, None)), shape)


# --- sums -------------------------------------------------------------------------------------------------------------


def _pull_sum(xp: Any, g: Any, axis: int | None, include_initial: bool) -> Any:
    axis = _axis(axis, g.ndim)
    backwards = xp.flip(_tail(xp, g, axis, include_initial), axis=axis)
    return xp.flip(xp.cumulative_sum(backwards, axis=axis), axis=axis)


@op(_pull_sum, jvp="linear", samples=_scanned)
def cumulative_sum(
    xp: Any, x: Array, axis: int | None = None, *, dtype: Any = None, include_initial: bool = False
) -> Any:
    """The sums of the first 1, 2, ... n numbers along `axis`; with `include_initial` also of the first 0.

    Dtypes as for `sum`.
    """
    kind = None if dtype is None else xp.dtype(dtype)
    return xp.cumulative_sum(x, axis=_axis(axis, x.ndim), dtype=kind, include_initial=include_initial)


# --- products ---------------------------------------------------------------------------------------------------------


def _backwards(xp: Any, g: Any, a: Any, axis: int) -> Any:
    """The transpose of `linear_recurrence` in its first argument: s[i] = g[i] + a[i + 1] s[i + 1]."""
    factors = xp.flip(xp.roll(a, -1, axis=axis), axis=axis)
    return xp.flip(xp.linear_recurrence(xp.flip(g, axis=axis), factors, axis=axis), axis=axis)


def _recurrent(rng: Any) -> Any:
    yield Sample((rng.normal(size=(5,)), rng.normal(size=(5,))))
    yield Sample((rng.normal(size=(3, 2)), rng.normal(size=(3, 2))), {"axis": 0})
    yield Sample((rng.normal(size=(2, 1)), rng.normal(size=(2, 1))))


@op(
    _backwards,
    lambda xp, g, a, out, axis: (
        _backwards(xp, g, a, axis) * _after_zero(xp, out, normalize_axis(axis, g.ndim), g.shape[axis])
    ),
    jvp=(
        lambda xp, t, a, axis: xp.linear_recurrence(t, a, axis=axis),
        lambda xp, t, a, out, axis: xp.linear_recurrence(
            t * _after_zero(xp, out, normalize_axis(axis, t.ndim), t.shape[axis]), a, axis=axis
        ),
    ),
    samples=_recurrent,
)
def linear_recurrence(xp: Any, x: Array, a: Array, axis: int = -1) -> Any:
    """The solution of `y[i] = x[i] + a[i] * y[i - 1]` along `axis`, from `y[-1] = 0` (so `a[0]` does not matter).

    Maps y -> x + a y compose to maps of the same form, so partial results double in length, log2(n) times (Hillis and
    Steele, "Data parallel algorithms", 1986). A partial sum of 0 stays 0, even if a product of factors overflows.

    Shapes: x and a have the same; so has y.

    Raises:
        ShapeError: the shapes differ, or `axis` is out of range.
    """
    if x.shape != a.shape:
        raise ShapeError(f"x and a have the same shape; got {x.shape} and {a.shape}")
    axis = normalize_axis(axis, x.ndim)
    size, step = x.shape[axis], 1
    while step < size:
        first, last = along(axis, x.ndim, slice(0, step)), along(axis, x.ndim, slice(step, None))
        before = along(axis, x.ndim, slice(0, size - step))
        factors = a[last]
        carried = factors * x[before]
        carried = xp.where(x[before] == 0, xp.zeros_like(carried), carried)
        x = xp.concat([x[first], x[last] + carried], axis=axis)
        a = xp.concat([a[first], factors * a[before]], axis=axis)
        step *= 2
    return +x


def _products_before(xp: Any, x: Any, axis: int) -> Any:
    """At each number, the product of those before it."""
    return xp.cumulative_prod(x, axis=axis, include_initial=True)[along(axis, x.ndim, slice(0, -1))]


def _pull_prod(xp: Any, g: Any, x: Any, axis: int | None, include_initial: bool) -> Any:
    """With p[i] the product before x[i]: p[i] times the sum over k >= i of g[k] x[i+1] ... x[k], without a division."""
    axis = _axis(axis, x.ndim)
    pulled = _backwards(xp, _tail(xp, g, axis, include_initial), x, axis)
    return xp.safe_multiply(pulled, _products_before(xp, x, axis))


def _push_prod(xp: Any, t: Any, x: Any, axis: int | None, include_initial: bool) -> Any:
    """y[i] = x[i] y[i-1] differentiates to a recurrence for its tangent."""
    axis = _axis(axis, x.ndim)
    pushed = xp.linear_recurrence(xp.safe_multiply(t, _products_before(xp, x, axis)), x, axis=axis)
    return _after_zero(xp, pushed, axis, x.shape[axis] + 1) if include_initial else pushed


def _factors(rng: Any) -> Any:
    yield from _scanned(rng)
    yield Sample((rng.normal(size=(5,)) * [1, 0, 1, 1, 1],))
    yield Sample((rng.normal(size=(2, 4)) * [[1, 0, 1, 0], [0, 0, 1, 1]],), {"axis": 1})


@op(_pull_prod, jvp=_push_prod, samples=_factors)
def cumulative_prod(
    xp: Any, x: Array, axis: int | None = None, *, dtype: Any = None, include_initial: bool = False
) -> Any:
    """The products of the first 1, 2, ... n numbers along `axis`; with `include_initial` also of the first 0, a 1.

    Dtypes as for `sum`. The gradient is exact with any number of zeros among the factors. A zero cotangent stays zero
    past an overflow.
    """
    kind = None if dtype is None else xp.dtype(dtype)
    return xp.cumulative_prod(x, axis=_axis(axis, x.ndim), dtype=kind, include_initial=include_initial)


# --- differences ------------------------------------------------------------------------------------------------------


def _differences(rng: Any) -> Any:
    yield Sample((rng.normal(size=(4,)),))
    yield Sample((rng.normal(size=(2, 5)),), {"axis": 1, "n": 2})
    yield Sample((rng.normal(size=(3, 2)), 0))


@composite(samples=_differences)
def diff(
    xp: Any, x: Array, axis: int = -1, *, n: int = 1, prepend: Array | None = None, append: Array | None = None
) -> Any:
    """The differences of neighbours along `axis`, taken `n` times; `prepend` and `append` are joined to x before
    the first.

    Raises:
        ShapeError: `axis` is out of range, or what is joined does not fit. ArgumentError: `n` is negative.
    """
    if n < 0:
        raise ArgumentError(f"diff: n is at least 0; got {n}")
    parts = [part for part in (prepend, x, append) if part is not None]
    x = xp.concat(parts, axis=axis) if n and len(parts) > 1 else x
    for _ in range(n):
        x = x[along(axis, x.ndim, slice(1, None))] - x[along(axis, x.ndim, slice(0, -1))]
    return x
