"""Layer normalisation: one launch forward, one backward."""

from collections.abc import Iterator
from functools import cache
from math import isqrt, prod
from typing import Any

import cupy
import numpy as np

from ...shapes import Axis, Shape
from .fused import fused
from .launching import THREADS, Kernel, counters, ctype, kernel, workspace
from .rows import FLOATS, blocks_of_rows, last_axes, taken, team, too_few, wide, width

__all__ = ["expressions", "layer_norm", "layer_norm_slope", "standardize"]

FILE = "layer_norm.cu"
_NEARBY = 32768  # bytes that a block sums columns in
_SCRATCH = 2**23  # numbers that all blocks together write their sums of columns to, if one does not need more


@cache
def _instance(template: str, dtype: np.dtype, step: int) -> Kernel:
    return kernel(FILE, f"pullback::{template}<{ctype(dtype)}, {step}>")


def expressions() -> Iterator[tuple[str, str]]:
    """Every file and name expression that can be launched from here."""
    for name, most in FLOATS.items():
        for step in (1, most):
            for template in ("layer_norm", "layer_norm_slope"):
                yield FILE, _instance(template, np.dtype(name), step).expression


def _row_length(axis: Axis, x: Any, *along: Any) -> int:
    """The length of the rows that `axis` makes of `x`; 0 where the kernels do not take it and what lies along a row."""
    along = tuple([array for array in along if array is not None])
    named = last_axes(axis, x.ndim) if taken(x, *along) and x.size else 0
    if not named or any(array.shape != x.shape[-named:] for array in along):
        return 0
    n = prod(x.shape[-named:])
    return 0 if too_few(x.size // n, x) else n


def _standardized(n: int, x: Any, weight: Any, bias: Any, axis: Axis, eps: float) -> tuple[Any, Any, Any]:
    """The output (None without weight and bias), x brought to mean 0 and variance 1, and the inverse deviations."""
    named = last_axes(axis, x.ndim)
    rows, step = x.size // n, width(n, x, weight, bias)
    lanes, threads = team(n, step)
    out = None if weight is None and bias is None else cupy.empty(x.shape, x.dtype)
    standardized = cupy.empty(x.shape, x.dtype)
    inverse_deviation = cupy.empty(x.shape[:-named] + (1,) * named, x.dtype)
    _instance("layer_norm", x.dtype, step)(
        blocks_of_rows(rows, lanes, threads), threads, out, standardized, inverse_deviation, x, weight, bias,
        np.int64(rows), np.int64(n), np.int32(lanes), wide(x.dtype)(eps),
    )  # fmt: skip
    return out, standardized, inverse_deviation


@fused
def layer_norm(
    plain: Any, x: Any, weight: Any = None, bias: Any = None, axis: Axis = -1, eps: float = 1e-5
) -> tuple[Any, tuple[Any, Any]]:
    """The op `layer_norm` over the last axes, with what it keeps: one launch."""
    n = _row_length(axis, x, weight, bias) if eps > 0 else 0
    if not n:
        return plain(x, weight, bias, axis, eps)
    out, standardized, inverse_deviation = _standardized(n, x, weight, bias, axis, eps)
    return standardized if out is None else out, (standardized, inverse_deviation)


@fused
def standardize(plain: Any, x: Any, axis: Axis = -1, eps: float = 1e-5) -> tuple[Any, Any]:
    """The op `standardize` over the last axes: one launch."""
    n = _row_length(axis, x) if eps > 0 else 0
    return _standardized(n, x, None, None, axis, eps)[1:] if n else plain(x, axis, eps)


@fused
def layer_norm_slope(
    plain: Any,
    g: Any,
    standardized: Any,
    inverse_deviation: Any,
    weight: Any = None,
    axis: Axis = -1,
    bias_shape: Shape | None = None,
) -> tuple[Any, Any, Any]:
    """The op `layer_norm_slope` over the last axes, for a weight and a bias in the shape of a row: one launch."""
    n = _row_length(axis, g, weight)
    along = g.shape[-last_axes(axis, g.ndim) :] if n else ()
    if (
        not n
        or not taken(g, standardized, inverse_deviation)
        or standardized.shape != g.shape
        or bias_shape not in (None, along)
    ):
        return plain(g, standardized, inverse_deviation, weight, axis, bias_shape)
    dtype, rows, step = g.dtype, g.size // n, width(n, g, standardized, weight)
    real = wide(dtype)
    lanes, threads = team(n, step)
    if lanes == THREADS or 2 * n * (threads // lanes) * np.dtype(real).itemsize > _NEARBY:
        lanes = threads = min(THREADS, 32 * -(-n // (32 * step)))
    blocks = min(blocks_of_rows(rows, lanes, threads), max(_SCRATCH // (2 * n), 1))
    crowd = isqrt(blocks - 1) + 1
    dx, dweight, dbias = cupy.empty(g.shape, dtype), None, None
    if weight is not None or bias_shape is not None:
        dweight, dbias = cupy.empty(along, dtype), cupy.empty(along, dtype)
    _instance("layer_norm_slope", dtype, step)(
        blocks, threads, dx, dweight, dbias, g, standardized, inverse_deviation, weight,
        np.int64(rows), np.int64(n), np.int32(lanes), np.uint32(crowd),
        workspace("column sums", 2 * n * blocks, real), counters(1 + -(-blocks // crowd)),
    )  # fmt: skip
    return dx, dx if weight is None else dweight, dx if bias_shape is None else dbias
