"""Ops that NumPy runs by a function of their own: what a training step of a small net spends its time in.

On arrays of a few thousand numbers a call of NumPy costs more than its arithmetic, and so does a Python number beside
an array. Each function takes the common case, says so, and leaves every other (and every error) to the plain body.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np

__all__ = ["fused"]

Plain = Callable[..., Any]

_add: Any = np.add.reduce
_largest: Any = np.maximum.reduce
_union: Any = np.bitwise_or.reduce
_ZEROS = {np.dtype(f"f{size}"): np.zeros((), f"f{size}") for size in (4, 8)}
_INTEGERS = {np.dtype(f"f{size}"): np.dtype(f"i{size}") for size in (4, 8)}


def fused(name: str, plain: Plain) -> Plain:
    """The function for the op `name`, with `plain` to fall back on; `plain` itself where there is none."""
    function = _FUSED.get(name)
    return plain if function is None else partial(function, plain)


@lru_cache(maxsize=16)
def _counted(n: int) -> np.ndarray:
    """0 to n - 1, not to be written."""
    numbers = np.arange(n)
    numbers.flags.writeable = False
    return numbers


def relu_slope(plain: Plain, g: Any, out: Any) -> Any:
    """`g` times 1 or 0 as integers: exact for infinities and NaN, and without a branch for each number."""
    integers = _INTEGERS.get(out.dtype)
    if integers is None or g.dtype != out.dtype or g.shape != out.shape or g.__class__ is not np.ndarray or not g.ndim:
        return plain(g, out)
    chosen = (out > _ZEROS[out.dtype]).astype(integers)
    return np.multiply(chosen, g.view(integers), chosen).view(g.dtype)


def linear_relu(plain: Plain, x: Any, w: Any, b: Any = None) -> Any:
    """Bias and activation in the buffer of the product, for matrices of one dtype."""
    zero = _ZEROS.get(w.dtype)
    if b is None or x.ndim != 2 or x.shape[1:] != w.shape[:1] or b.shape != w.shape[1:]:
        return plain(x, w, b)
    if zero is None or x.dtype != w.dtype or b.dtype != w.dtype:
        return plain(x, w, b)
    y = x @ w
    y += b
    return np.maximum(y, zero, out=y)


def cross_entropy(
    plain: Plain, logits: Any, labels: Any, label_smoothing: Any = 0.0, ignore_index: Any = None,
    class_weights: Any = None, reduction: Any = "mean",
) -> Any:  # fmt: skip
    """The mean over rows of logits, each with an integer label."""
    shape = logits.shape
    if label_smoothing or ignore_index is not None or class_weights is not None or reduction != "mean":
        return plain(logits, labels, label_smoothing, ignore_index, class_weights, reduction)
    if len(shape) != 2 or logits.dtype not in _ZEROS or not logits.size or not _are_labels(labels, shape):
        return plain(logits, labels)
    rows = _counted(shape[0])
    p = logits - _largest(logits, 1, None, None, True)
    losses = p[rows, labels]
    np.exp(p, p)
    sums = _add(p, 1, None, None, True)
    p /= sums
    np.subtract(np.log(sums, sums)[:, 0], losses, losses)
    return _add(losses) / logits.dtype.type(shape[0]), p


def _are_labels(labels: Any, shape: tuple[int, int]) -> bool:
    """Whether `labels` is a row of class numbers for logits of that shape."""
    if labels.__class__ is not np.ndarray or labels.shape != shape[:1] or labels.dtype.kind not in "iu":
        return False
    bits = _union(labels)  # below 0 if any is, and never less than the largest
    return bool(0 <= bits < shape[1] or (bits >= 0 and _largest(labels) < shape[1]))


def cross_entropy_slope(
    plain: Plain, g: Any, probabilities: Any, labels: Any, label_smoothing: Any = 0.0, ignore_index: Any = None,
    class_weights: Any = None, reduction: Any = "mean",
) -> Any:  # fmt: skip
    """The slope of the same; the labels were looked at there."""
    if label_smoothing or ignore_index is not None or class_weights is not None or reduction != "mean":
        return plain(g, probabilities, labels, label_smoothing, ignore_index, class_weights, reduction)
    if probabilities.ndim != 2 or labels.ndim != 1 or probabilities.dtype not in _ZEROS or not labels.size:
        return plain(g, probabilities, labels)
    share = probabilities.dtype.type(g / labels.shape[0])
    slope = probabilities * share
    slope[_counted(labels.shape[0]), labels] -= share
    return slope


_FUSED: dict[str, Callable[..., Any]] = {
    f.__name__: f for f in (relu_slope, linear_relu, cross_entropy, cross_entropy_slope)
}
