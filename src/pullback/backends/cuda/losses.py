"""Losses of pairs of numbers: one launch for the sum, one for the slope by the predictions."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import cupy
import numpy as np

from ...errors import ArgumentError, NonFiniteError
from .complaints import complaint, launched
from .fused import FUSED
from .launching import THREADS, Kernel, blocks_for, counters, ctype, kernel, workspace
from .rows import FLOATS, taken, wide

__all__ = ["expressions"]

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


def _value(x: Any, y: Any, loss: str, parameter: Any, reduction: str) -> Any:
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


def _slope(g: Any, x: Any, y: Any, loss: str, parameter: Any, reduction: str) -> Any:
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


# What a call of an op means: the kernel, its number (where that is none, the body is asked), and the reduction.
_CALLS: dict[str, Callable[..., tuple[str, Any, str]]] = {
    "mse_loss": lambda reduction="mean": ("mse", 0.0, reduction),
    "l1_loss": lambda reduction="mean": ("l1", 0.0, reduction),
    "huber_loss": lambda delta=1.0, reduction="mean": ("huber", delta if delta > 0 else None, reduction),
    "binary_cross_entropy_with_logits": lambda pos_weight=None, reduction="mean": (
        ("binary_cross_entropy", 1.0, reduction)
        if pos_weight is None
        else ("weighted_binary_cross_entropy", pos_weight, reduction)
    ),
    # A label that is neither -1 nor +1 makes the loss NaN, and is reported (`complaints.py`).
    "logistic_loss": lambda reduction="mean": ("logistic", 0.0, reduction),
}


def _fuse(op: str, read: Callable[..., tuple[str, Any, str]]) -> None:
    """The op `op`, and `<op>_slope`: `g` times its derivative by the predictions."""

    def value(plain: Callable[..., Any], x: Any, y: Any, *given: Any, **named: Any) -> Any:
        out = _value(x, y, *read(*given, **named))
        return plain(x, y, *given, **named) if out is None else out

    def slope(plain: Callable[..., Any], g: Any, x: Any, y: Any, *given: Any, **named: Any) -> Any:
        out = _slope(g, x, y, *read(*given, **named))
        return plain(g, x, y, *given, **named) if out is None else out

    FUSED[op], FUSED[f"{op}_slope"] = value, slope


for _op, _read in _CALLS.items():
    _fuse(_op, _read)
