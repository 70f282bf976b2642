"""Kernels that work row by row: their geometry, and softmax and log_softmax."""

from collections.abc import Iterator
from functools import cache
from math import prod
from typing import Any

import cupy
import numpy as np

from ...shapes import Axis, normalize_axes
from .fused import fused
from .launching import THREADS, Kernel, blocks_for, ctype, kernel

__all__ = [
    "FLOATS", "blocks_of_rows", "expressions", "gapless", "last_axes", "log_softmax", "log_softmax_slope", "softmax",
    "softmax_slope", "taken", "team", "too_few", "wide", "width",
]  # fmt: skip

FILE = "rows.cu"
FLOATS = {"float64": 2, "float32": 4, "float16": 8, "bfloat16": 8}  # dtypes, and their numbers in 16 bytes
_WARP = 32
_LONG, _FEW = 2**18, 64  # bytes, and rows (estimates): fewer rows that are longer would keep too few blocks busy


def taken(*arrays: Any) -> bool:
    """Whether kernels take these arrays together: floating-point numbers of one dtype, without gaps between them."""
    dtype = getattr(arrays[0], "dtype", None)
    return getattr(dtype, "name", None) in FLOATS and all(
        isinstance(array, cupy.ndarray) and array.dtype == dtype and array.flags.c_contiguous for array in arrays
    )


def gapless(g: Any, kept: Any) -> Any:
    """`g` itself, or a copy without gaps if kernels take `kept` beside it: the cotangent that `sum` gives is a view.

    The copy is one launch; the plain formula would be several.
    """
    if isinstance(g, cupy.ndarray) and not g.flags.c_contiguous and taken(kept) and g.dtype == kept.dtype:
        return cupy.ascontiguousarray(g)
    return g


def last_axes(axis: Axis, ndim: int) -> int:
    """How many axes `axis` names, if they are the last ones, so that they make rows; else 0."""
    if axis.__class__ is int:
        return int(ndim > 0 and axis in (-1, ndim - 1))
    axes = normalize_axes(axis, ndim)
    return len(axes) if sorted(axes) == list(range(ndim - len(axes), ndim)) else 0


def too_few(rows: int, x: Any) -> bool:
    """Whether `x` is so few and so long rows that CuPy's own kernels, which share a row among blocks, are faster."""
    return rows < _FEW and x.nbytes > rows * _LONG


def wide(dtype: np.dtype) -> type[np.float32] | type[np.float64]:
    """The type that kernels compute in."""
    return np.float64 if dtype.name == "float64" else np.float32


def width(n: int, *arrays: Any) -> int:
    """Numbers per memory access: 16 bytes of them where every row (of length `n`) begins at such an address."""
    most = FLOATS[arrays[0].dtype.name]
    return 1 if n % most or any(array is not None and array.data.ptr % 16 for array in arrays) else most


def team(n: int, step: int) -> tuple[int, int]:
    """Threads for a row of `n` numbers taken `step` at a time, and threads of a block: some lanes of a warp, or all."""
    accesses = -(-n // step)
    if accesses > THREADS:
        return THREADS, THREADS
    return min(_WARP, 1 << (accesses - 1).bit_length()), THREADS


def blocks_of_rows(rows: int, lanes: int, threads: int) -> int:
    """Blocks for `rows` rows, each the work of `lanes` threads."""
    return blocks_for(rows, threads // lanes)


@cache
def _instance(template: str, dtype: np.dtype, step: int, logarithm: bool) -> Kernel:
    return kernel(FILE, f"pullback::{template}<{ctype(dtype)}, {step}, {'true' if logarithm else 'false'}>")


def expressions() -> Iterator[tuple[str, str]]:
    """Every file and name expression that can be launched from here."""
    for name, most in FLOATS.items():
        for template in ("softmax", "softmax_slope"):
            for step in (1, most):
                for logarithm in (False, True):
                    instance = _instance(template, np.dtype(name), step, logarithm)
                    yield instance.file, instance.expression


def _launched(template: str, logarithm: bool, axis: Axis, *arrays: Any) -> Any:
    """An array like the first, made row by row from all; None where the kernels do not apply."""
    x = arrays[0]
    if not taken(*arrays) or not x.size or any(array.shape != x.shape for array in arrays):
        return None
    named = last_axes(axis, x.ndim)
    if not named:
        return None
    n = prod(x.shape[-named:])
    rows, step = x.size // n, width(n, *arrays)
    if too_few(rows, x):
        return None
    out = cupy.empty(x.shape, x.dtype)
    lanes, threads = team(n, step)
    _instance(template, x.dtype, step, logarithm)(
        blocks_of_rows(rows, lanes, threads), threads, out, *arrays, np.int64(rows), np.int64(n), np.int32(lanes)
    )
    return out


@fused
def softmax(plain: Any, x: Any, axis: Axis = -1) -> Any:
    """The op `softmax`: one launch over the last axes."""
    out = _launched("softmax", False, axis, x)
    return plain(x, axis) if out is None else out


@fused
def log_softmax(plain: Any, x: Any, axis: Axis = -1) -> Any:
    """The op `log_softmax`: one launch over the last axes."""
    out = _launched("softmax", True, axis, x)
    return plain(x, axis) if out is None else out


@fused
def softmax_slope(plain: Any, g: Any, out: Any, axis: Axis = -1) -> Any:
    """`out * (g - sum(g * out))`, the slope of `softmax` times a cotangent (and times a tangent): one launch."""
    slope = _launched("softmax_slope", False, axis, g, out)
    return plain(g, out, axis) if slope is None else slope


@fused
def log_softmax_slope(plain: Any, g: Any, out: Any, axis: Axis = -1) -> Any:
    """`g - exp(out) * sum(g)`, the slope of `log_softmax` times a cotangent: one launch."""
    slope = _launched("softmax_slope", True, axis, g, out)
    return plain(g, out, axis) if slope is None else slope
