"""Softmax cross-entropy of logits and labels: one launch forward, one backward.

A label that is out of range is found by the kernel, which never uses it as an index: the loss, and the slope of that
row, are NaN. The IndexingError that names it is raised by the next call that waits for the device (`complaints.py`).
"""

from collections.abc import Iterator
from functools import cache
from math import prod
from typing import Any

import cupy
import numpy as np

from ...errors import IndexingError
from .complaints import complaint, launched
from .fused import fused
from .launching import THREADS, Kernel, blocks_for, counters, ctype, kernel, workspace
from .rows import FLOATS, blocks_of_rows, gapless, taken, team, too_few, wide, width

__all__ = ["cross_entropy", "cross_entropy_slope", "expressions"]

FILE = "cross_entropy.cu"
_REDUCTIONS = {"none": np.int32(0), "sum": np.int32(1), "mean": np.int32(2)}
_LABELS = ("int32", "int64")
_FEW_ROWS = 4096  # that each block can count by itself; of more, a launch of its own counts them once


def _wrong_label(position: int, label: int, classes: int) -> Exception:
    return IndexingError(
        f"label {label} (number {position - 1}) is out of range for {classes} classes; labels are 0 to "
        f"{classes - 1} (cross_entropy leaves out rows labelled with its ignore_index)"
    )


@cache
def _instance(template: str, dtype: np.dtype, step: int) -> Kernel:
    return kernel(FILE, f"pullback::{template}<{ctype(dtype)}, {step}>")


@cache
def _total(dtype: np.dtype) -> Kernel:
    return kernel(FILE, f"pullback::cross_entropy_total<{ctype(dtype)}>")


def expressions() -> Iterator[tuple[str, str]]:
    """Every file and name expression that can be launched from here."""
    for name, most in FLOATS.items():
        for step in (1, most):
            for template in ("cross_entropy", "cross_entropy_slope"):
                yield FILE, _instance(template, np.dtype(name), step).expression
    for name in ("float32", "float64"):
        yield FILE, _total(np.dtype(name)).expression


def _applies(scores: Any, labels: Any, smoothing: Any, ignored: Any, weights: Any, reduction: Any) -> bool:
    """Whether the kernels take these arguments; they take none that the op would refuse."""
    return bool(
        taken(scores)
        and scores.size
        and scores.ndim
        and isinstance(labels, cupy.ndarray)
        and labels.dtype.name in _LABELS
        and labels.shape == scores.shape[:-1]
        and labels.flags.c_contiguous
        and isinstance(smoothing, int | float)
        and 0 <= smoothing <= 1
        and (ignored is None or (isinstance(ignored, int) and -(2**63) <= ignored < 2**63))
        and (
            weights is None
            or (
                isinstance(weights, cupy.ndarray)
                and weights.dtype.name in FLOATS
                and weights.shape == scores.shape[-1:]
            )
        )
        and reduction in _REDUCTIONS
    )


def _targets(labels: Any, weights: Any, dtype: np.dtype) -> tuple[Any, Any, Any]:
    """The labels as the one or the other of two pointers, and the weights in the type that kernels compute in."""
    if weights is not None:
        weights = cupy.ascontiguousarray(weights, dtype=wide(dtype))
    return (labels, None, weights) if labels.dtype.name == "int32" else (None, labels, weights)


@fused
def cross_entropy(
    plain: Any,
    logits: Any,
    labels: Any,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    class_weights: Any = None,
    reduction: str = "mean",
) -> Any:
    """The op `cross_entropy`: the loss and the probabilities in one launch."""
    if not _applies(logits, labels, label_smoothing, ignore_index, class_weights, reduction) or too_few(
        labels.size, logits
    ):
        return plain(logits, labels, label_smoothing, ignore_index, class_weights, reduction)
    dtype, classes, real = logits.dtype, logits.shape[-1], wide(logits.dtype)
    rows, step = prod(labels.shape), width(classes, logits)
    lanes, threads = team(classes, step)
    blocks = blocks_of_rows(rows, lanes, threads)
    loss = cupy.empty(labels.shape if reduction == "none" else (), dtype)
    probabilities = cupy.empty(logits.shape, dtype)
    _instance("cross_entropy", dtype, step)(
        blocks, threads, loss, probabilities, logits, *_targets(labels, class_weights, dtype),
        np.int64(rows), np.int64(classes), np.int32(lanes),
        real(label_smoothing), np.int32(ignore_index is not None), np.int64(ignore_index or 0), _REDUCTIONS[reduction],
        workspace("losses", 2 * blocks, real), workspace("wrong places", blocks, np.int64), counters(1),
        complaint("cross_entropy", _wrong_label),
    )  # fmt: skip
    launched()
    return loss, probabilities


@fused
def cross_entropy_slope(
    plain: Any,
    cotangent: Any,
    probabilities: Any,
    labels: Any,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    class_weights: Any = None,
    reduction: str = "mean",
) -> Any:
    """The op `cross_entropy_slope`: one launch, the cotangent read on the device.

    The mean over more than 4096 rows of which some are ignored or have weights takes a second, small one.
    """
    cotangent = gapless(cotangent, probabilities)
    shape = getattr(cotangent, "shape", ())
    if not (
        _applies(probabilities, labels, label_smoothing, ignore_index, class_weights, reduction)
        and (isinstance(cotangent, int | float) or taken(cotangent, probabilities))
        and (shape == () or (reduction == "none" and shape == labels.shape))
    ):
        return plain(cotangent, probabilities, labels, label_smoothing, ignore_index, class_weights, reduction)
    dtype, classes, real = probabilities.dtype, probabilities.shape[-1], wide(probabilities.dtype)
    rows, step, share = prod(labels.shape), width(classes, probabilities), 1.0
    lanes, threads = team(classes, step)
    targets, total = _targets(labels, class_weights, dtype), None
    ignoring, ignored = np.int32(ignore_index is not None), np.int64(ignore_index or 0)
    dividing = reduction == "mean" and (ignore_index is not None or class_weights is not None)
    if reduction == "mean" and not dividing:
        share /= rows
    if isinstance(cotangent, int | float):
        share, cotangent = share * cotangent, None
    if dividing and rows > _FEW_ROWS:
        total, blocks = workspace("total", 1, real), blocks_for(rows)
        _total(np.dtype(real))(
            blocks, THREADS, total, *targets, np.int64(rows), np.int64(classes), ignoring, ignored,
            workspace("losses", blocks, real), counters(1),
        )  # fmt: skip
    out = cupy.empty(probabilities.shape, dtype)
    _instance("cross_entropy_slope", dtype, step)(
        blocks_of_rows(rows, lanes, threads), threads,
        out, probabilities, cotangent, np.int32(shape != ()), real(share), *targets,
        np.int64(rows), np.int64(classes), np.int32(lanes),
        real(label_smoothing), ignoring, ignored, np.int32(dividing), total,
    )  # fmt: skip
    return out
