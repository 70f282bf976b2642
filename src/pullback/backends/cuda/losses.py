"""Losses of pairs of numbers: one launch for the sum, one for the slope by the predictions."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import cupy
import numpy as np

from ...errors import ArgumentError, NonFiniteError
from .complaints import complaint, launched
from .fused import fused
from .launching import THREADS, Kernel, blocks_for, counters, ctype, kernel, workspace
from .rows import FLOATS, taken, wide

__all__ = [
    "binary_cross_entropy_with_logits", "binary_cross_entropy_with_logits_slope", "expressions", "huber_loss",
    "huber_loss_slope", "l1_loss", "l1_loss_slope", "logistic_loss", "logistic_loss_slope", "mse_loss",
    "mse_loss_slope",
]  # fmt: skip

FILE = "losses.cu"
_LOSSES = ("mse", "l1", "huber", "binary_cross_entropy", "weighted_binary_cross_entropy", "logistic")
_REDUCTIONS = ("none", "sum", "mean")


@cache
def _instance(template: str, loss: str, dtype: np.dtype) -> Kernel:
    return kernel(FILE, f"pullback::{template}<pullback::losses::{loss}, {ctype(dtype)}, {FLOATS[dtype.name]}>")


def expressions() -> Iterator[tuple[str, str]]:
    """Every file and name expression that can be launched from here."""
    for name in FLOATS:
        for loss in _LOSSES:
            for template in ("pair_loss", "pair_loss_slope"):
                yield FILE, _instance(template, loss, np.dtype(name)).expression


def _wrong_target(position: int, bits: int, _: int) -> Exception:
    found = float(np.int64(bits).view(np.float64))
    if np.isnan(found):
        return NonFiniteError(f"labels[{position - 1}] is NaN; drop the rows without a label")
    return ArgumentError(
        f"labels are -1 and +1; number {position - 1} is {found:g}. From labels 0 and 1 make "
        f"2 * labels - 1, or use binary_cross_entropy_with_logits"
    )


def _applies(x: Any, y: Any, parameter: Any, reduction: Any) -> bool:
    return bool(
        taken(x, y)
        and x.size
        and x.shape == y.shape
        and isinstance(parameter, int | float)
        and reduction in _REDUCTIONS
    )


def _value(loss: str, x: Any, y: Any, parameter: float, reduction: str) -> Any:
    """The losses of all pairs, or their sum or mean; None where the kernel does not apply."""
    if not _applies(x, y, parameter, reduction):
        return None
    each, real = reduction == "none", wide(x.dtype)
    blocks, out = blocks_for(-(-x.size // FLOATS[x.dtype.name])), cupy.empty(x.shape if each else (), x.dtype)
    _instance("pair_loss", loss, x.dtype)(
        blocks, THREADS, out, x, y, np.int64(x.size), real(parameter), np.int32(each),
        real(x.size if reduction == "mean" else 1), workspace("losses", blocks, real),
        workspace("wrong places", blocks, np.int64), counters(1),
        complaint("logistic_loss", _wrong_target) if loss == "logistic" else None,
    )  # fmt: skip
    launched()
    return out


def _slope(loss: str, g: Any, x: Any, y: Any, parameter: float, reduction: str) -> Any:
    """`g` times the derivative by the predictions; None where the kernel does not apply."""
    number, shape = isinstance(g, int | float), getattr(g, "shape", ())
    if not _applies(x, y, parameter, reduction) or not (number or taken(g, x)):
        return None
    if shape != () and (reduction != "none" or shape != x.shape):
        return None
    out, share = cupy.empty(x.shape, x.dtype), 1 / x.size if reduction == "mean" else 1.0
    if number:
        share, g = share * g, None
    _instance("pair_loss_slope", loss, x.dtype)(
        blocks_for(-(-x.size // FLOATS[x.dtype.name])), THREADS, out, g, np.int32(shape != ()), wide(x.dtype)(share),
        x, y, np.int64(x.size), wide(x.dtype)(parameter),
    )  # fmt: skip
    return out


@fused
def mse_loss(plain: Any, prediction: Any, target: Any, reduction: str = "mean") -> Any:
    """The op `mse_loss`: one launch."""
    out = _value("mse", prediction, target, 0.0, reduction)
    return plain(prediction, target, reduction) if out is None else out


@fused
def mse_loss_slope(plain: Any, g: Any, prediction: Any, target: Any, reduction: str = "mean") -> Any:
    """`g` times the derivative of `mse_loss` by the predictions: one launch."""
    out = _slope("mse", g, prediction, target, 0.0, reduction)
    return plain(g, prediction, target, reduction) if out is None else out


@fused
def l1_loss(plain: Any, prediction: Any, target: Any, reduction: str = "mean") -> Any:
    """The op `l1_loss`: one launch."""
    out = _value("l1", prediction, target, 0.0, reduction)
    return plain(prediction, target, reduction) if out is None else out


@fused
def l1_loss_slope(plain: Any, g: Any, prediction: Any, target: Any, reduction: str = "mean") -> Any:
    """`g` times the derivative of `l1_loss` by the predictions: one launch."""
    out = _slope("l1", g, prediction, target, 0.0, reduction)
    return plain(g, prediction, target, reduction) if out is None else out


@fused
def huber_loss(plain: Any, prediction: Any, target: Any, delta: float = 1.0, reduction: str = "mean") -> Any:
    """The op `huber_loss`: one launch."""
    out = _value("huber", prediction, target, delta, reduction) if delta > 0 else None
    return plain(prediction, target, delta, reduction) if out is None else out


@fused
def huber_loss_slope(
    plain: Any, g: Any, prediction: Any, target: Any, delta: float = 1.0, reduction: str = "mean"
) -> Any:
    """`g` times the derivative of `huber_loss` by the predictions: one launch."""
    out = _slope("huber", g, prediction, target, delta, reduction)
    return plain(g, prediction, target, delta, reduction) if out is None else out


def _weighted(pos_weight: Any) -> tuple[str, Any]:
    """The kernel for a weight of positive targets, and its parameter."""
    return ("binary_cross_entropy", 1.0) if pos_weight is None else ("weighted_binary_cross_entropy", pos_weight)


@fused
def binary_cross_entropy_with_logits(
    plain: Any, logits: Any, targets: Any, pos_weight: Any = None, reduction: str = "mean"
) -> Any:
    """The op `binary_cross_entropy_with_logits`, if `pos_weight` is a number: one launch."""
    loss, weight = _weighted(pos_weight)
    out = _value(loss, logits, targets, weight, reduction)
    return plain(logits, targets, pos_weight, reduction) if out is None else out


@fused
def binary_cross_entropy_with_logits_slope(
    plain: Any, g: Any, logits: Any, targets: Any, pos_weight: Any = None, reduction: str = "mean"
) -> Any:
    """`g` times the derivative of `binary_cross_entropy_with_logits` by the logits: one launch."""
    loss, weight = _weighted(pos_weight)
    out = _slope(loss, g, logits, targets, weight, reduction)
    return plain(g, logits, targets, pos_weight, reduction) if out is None else out


@fused
def logistic_loss(plain: Any, scores: Any, labels: Any, reduction: str = "mean") -> Any:
    """The op `logistic_loss`, if the labels have the dtype of the scores: one launch.

    A label that is neither -1 nor +1 makes the loss NaN, and is reported (`complaints.py`).
    """
    out = _value("logistic", scores, labels, 0.0, reduction)
    return plain(scores, labels, reduction) if out is None else out


@fused
def logistic_loss_slope(plain: Any, g: Any, scores: Any, labels: Any, reduction: str = "mean") -> Any:
    """`g` times the derivative of `logistic_loss` by the scores: one launch."""
    out = _slope("logistic", g, scores, labels, 0.0, reduction)
    return plain(g, scores, labels, reduction) if out is None else out
