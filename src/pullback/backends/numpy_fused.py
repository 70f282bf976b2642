"""Ops that NumPy runs by a function of their own: what a training step of a small net spends its time in.

On arrays of a few thousand numbers a call of NumPy costs more than its arithmetic, and so does a Python number beside
an array. Each function takes the common case, says so, and leaves every other (and every error) to the plain body.
"""

from collections.abc import Callable
from functools import lru_cache
from types import MethodType
from typing import Any

import numpy as np

__all__ = ["fused"]

Plain = Callable[..., Any]

_add: Any = np.add.reduce
_largest: Any = np.maximum.reduce
_FLOAT32, _FLOAT64 = np.dtype("f4"), np.dtype("f8")
_ZEROS = {np.dtype(f"f{size}"): np.zeros((), f"f{size}") for size in (4, 8)}
_INTEGERS = {np.dtype(f"f{size}"): np.dtype(f"i{size}") for size in (4, 8)}
_SMALL = 1 << 12  # numbers for which a new buffer costs less than a keyword
_UNSIGNED = {
    np.dtype(f"{kind}{size}"): np.dtype(f"u{size}") for kind in "iu" for size in (1, 2, 4, 8) if kind == "i" or size < 8
}


def fused(name: str, plain: Plain) -> Plain:
    """The function for the op `name`, with `plain` to fall back on; `plain` itself where there is none."""
    function = _FUSED.get(name)
    return plain if function is None else MethodType(function, plain)


_ONES = {dtype: np.ones(_SMALL, dtype) for dtype in (_FLOAT32, _FLOAT64)}
for _buffer in _ONES.values():
    _buffer.flags.writeable = False


@lru_cache(maxsize=16)
def _counted(n: int, by: int) -> np.ndarray:
    """0, `by`, ... below `n * by`, not to be written."""
    numbers = np.arange(0, n * by, by)
    numbers.flags.writeable = False
    return numbers


def relu_slope(plain: Plain, g: Any, out: Any) -> Any:
    """`g` times 1 or 0 as integers: exact for infinities and NaN, and without a branch for each number."""
    if g.dtype is not out.dtype or g.shape != out.shape or g.__class__ is not np.ndarray or out.dtype not in _ZEROS:
        return plain(g, out)
    return _where_positive(out, g) if g.ndim else plain(g, out)


def _where_positive(out: Any, g: Any) -> Any:
    integers = _INTEGERS[g.dtype]
    chosen = (out > _ZEROS[g.dtype]).astype(integers)
    return np.multiply(chosen, g.view(integers), chosen).view(g.dtype)


def linear(plain: Plain, x: Any, w: Any, b: Any = None) -> Any:
    """A vector or a matrix, and a matrix, of one dtype; `dot` starts sooner than `@`."""
    dtype = w.dtype
    if not 0 < x.ndim < 3 or w.ndim != 2 or x.dtype is not dtype or (dtype is not _FLOAT32 and dtype is not _FLOAT64):
        return plain(x, w, b)
    if b is not None and (b.shape != w.shape[1:] or b.dtype is not dtype):
        return plain(x, w, b)
    if x.size == 1 or w.size == 1:  # `dot` of a single 0 is 0, whatever it is multiplied with
        return plain(x, w, b)
    try:
        y = x.dot(w)
    except ValueError:
        return plain(x, w, b)
    if b is not None:
        y += b
    return y


def linear_relu(plain: Plain, x: Any, w: Any, b: Any = None) -> Any:
    """The same, and the activation in the buffer of the sum."""
    y = linear(_nothing, x, w, b)
    if y is None:
        return plain(x, w, b)
    zero = _ZEROS[y.dtype]
    return np.maximum(y, zero) if y.size < _SMALL else np.maximum(y, zero, out=y)


def _nothing(*args: Any) -> None:
    """The plain body of a part of another function, which falls back as a whole."""


def column_sums(plain: Plain, x: Any, axis: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Of a small matrix, as a product with ones: it starts sooner."""
    if axis.__class__ is not int or axis or args or kwargs:
        return plain(x, axis, *args, **kwargs)
    if x.ndim != 2 or x.dtype not in _ONES or not 0 < x.size < _SMALL:
        return plain(x, axis)
    return x.T.dot(_ONES[x.dtype][: x.shape[0]])


def bias_slope(plain: Plain, g: Any, value: Any, bias: Any, activation: str) -> Any:
    """Of relu, for a matrix."""
    if activation != "relu" or bias is None or g.__class__ is not np.ndarray or g.ndim != 2:
        return plain(g, value, bias, activation)
    dtype = value.dtype
    if dtype not in _ZEROS or g.dtype is not dtype or g.shape != value.shape:
        return plain(g, value, bias, activation)
    dz = _where_positive(value, g)
    return dz, dz.T.dot(_ONES[dtype][: dz.shape[0]]) if 0 < dz.size < _SMALL else _add(dz, 0)


def cross_entropy(
    plain: Plain, logits: Any, labels: Any, label_smoothing: Any = 0.0, ignore_index: Any = None,
    class_weights: Any = None, reduction: Any = "mean",
) -> Any:  # fmt: skip
    """Of rows of logits, each with an integer label: one by one, or their mean."""
    shape = logits.shape
    if label_smoothing or ignore_index is not None or class_weights is not None or reduction not in ("mean", "none"):
        return plain(logits, labels, label_smoothing, ignore_index, class_weights, reduction)
    if len(shape) != 2 and _are_rows(shape, labels):
        out, p = cross_entropy(plain, logits.reshape(-1, shape[-1]), labels.reshape(-1), reduction=reduction)
        return out.reshape(labels.shape) if reduction == "none" else out, p.reshape(shape)
    dtype = logits.dtype
    if len(shape) != 2 or (dtype is not _FLOAT32 and dtype is not _FLOAT64) or not _are_labels(labels, shape):
        return plain(logits, labels, reduction=reduction)
    rows, classes = shape
    p = np.subtract(logits, _largest(logits, 1, None, None, True), order="C")  # read and written through a flat view
    losses = p.reshape(-1)[_counted(rows, classes) + labels]
    np.exp(p, p)
    sums = p.dot(_ONES[dtype][:classes, None]) if p.size < _SMALL else _add(p, 1, None, None, True)
    p /= sums
    np.subtract(np.log(sums, sums)[:, 0], losses, losses)
    return losses if reduction == "none" else _add(losses) / rows, p


def _are_rows(shape: tuple[int, ...], labels: Any) -> bool:
    """Whether there is a label for each row of scores of any other number of dimensions."""
    return shape[-1:] not in ((), (0,)) and getattr(labels, "shape", None) == shape[:-1]


def _are_labels(labels: Any, shape: tuple[int, int]) -> bool:
    """Whether `labels` is a row of class numbers for logits of that shape."""
    if labels.__class__ is not np.ndarray or labels.ndim != 1 or labels.size != shape[0] or not labels.size:
        return False
    unsigned = _UNSIGNED.get(labels.dtype)
    return unsigned is not None and bool(_largest(labels.view(unsigned)) < shape[1])  # below 0 is very large here


def cross_entropy_slope(
    plain: Plain, g: Any, probabilities: Any, labels: Any, label_smoothing: Any = 0.0, ignore_index: Any = None,
    class_weights: Any = None, reduction: Any = "mean",
) -> Any:  # fmt: skip
    """The slope of the same; the labels were looked at there."""
    if label_smoothing or ignore_index is not None or class_weights is not None or reduction not in ("mean", "none"):
        return plain(g, probabilities, labels, label_smoothing, ignore_index, class_weights, reduction)
    dtype, shape = probabilities.dtype, probabilities.shape
    if len(shape) != 2 and _are_rows(shape, labels):
        given = g.reshape(-1) if reduction == "none" and hasattr(g, "shape") else g
        flat = probabilities.reshape(-1, shape[-1])
        return cross_entropy_slope(plain, given, flat, labels.reshape(-1), reduction=reduction).reshape(shape)
    if len(shape) != 2 or dtype not in _ZEROS or not labels.size or labels.dtype not in _UNSIGNED:
        return plain(g, probabilities, labels, reduction=reduction)
    if g.__class__ is float or g.dtype is not dtype or g.shape != (labels.shape if reduction == "none" else ()):
        return plain(g, probabilities, labels, reduction=reduction)
    share = g if reduction == "none" else g / labels.shape[0]
    slope = np.multiply(
        probabilities, share[:, None] if share.ndim else share, order="C"
    )  # written through a flat view
    slope.reshape(-1)[_counted(*slope.shape) + labels] -= share
    return slope


_FUSED: dict[str, Callable[..., Any]] = {
    f.__name__: f for f in (relu_slope, bias_slope, linear, linear_relu, cross_entropy, cross_entropy_slope)
} | {"sum": column_sums}
