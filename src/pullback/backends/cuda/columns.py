"""Bias and activation in one launch, the slope with the gradient of the bias in another, and sums over rows."""

from collections.abc import Callable, Iterator
from functools import cache
from math import prod
from typing import Any

import cupy
import numpy as np

from ...shapes import Axis, normalize_axes
from .elementwise import rounded
from .fused import FUSED, fused
from .launching import THREADS, Kernel, blocks_for, counters, ctype, kernel, workspace
from .rows import FLOATS, gapless, taken, wide
from .scalars import Scalar, activations, scalars

__all__ = ["bias_slope", "expressions", "geometry", "sum"]

FILE = "columns.cu"
_LANES = 32  # of a strip of columns, at most
_ROWS = 4  # that a thread sums before more blocks share them


@cache
def _instance(template: str, struct: str, dtype: np.dtype, numbers: int) -> Kernel:
    types = [*([struct] if struct else []), ctype(dtype), *[ctype(np.dtype(wide(dtype)))] * numbers]
    return kernel(FILE, f"pullback::{template}<{', '.join(types)}>")


def _fuse_linear(scalar: Scalar) -> None:
    """`linear_<activation>`: the product, and bias and activation in one launch after it."""
    reads_value = "out" in scalar.functions["slope"]

    def linear(plain: Callable[..., Any], x: Any, w: Any, b: Any = None) -> Any:
        fits = b is not None and taken(b) and w.ndim == 2 and x.ndim > 0 and x.dtype == w.dtype == b.dtype
        if not fits or x.shape[-1] != w.shape[0] or b.shape != w.shape[1:]:
            return plain(x, w, b)
        z = (x if x.ndim == 2 else x.reshape(-1, x.shape[-1])) @ w
        out = cupy.empty(z.shape, z.dtype)
        if out.size:
            numbers = [rounded(scalar.defaults[name], z.dtype) for name in scalar.parameters("value")]
            launch = _instance("bias_map", scalar.functor("value"), z.dtype, len(numbers))
            blocks = blocks_for(-(-z.size // FLOATS[z.dtype.name]))
            launch(blocks, THREADS, out, np.int64(z.shape[0]), np.int64(z.shape[1]), z, b, *numbers)
        shape = (*x.shape[:-1], w.shape[1])
        out, z = out.reshape(shape), z.reshape(shape)
        return out if reads_value else (out, z)  # the op keeps the product where the slope reads the argument

    FUSED[f"linear_{scalar.name}"] = linear


for _scalar in activations():
    if not _scalar.is_variant:
        _fuse_linear(_scalar)


@fused
def bias_slope(plain: Callable[..., Any], g: Any, value: Any, bias: Any, activation: str) -> Any:
    """The op `bias_slope`: the cotangents of z and bias in `activation(z + bias)`, in one launch."""
    g = gapless(g, value)
    fits = f"linear_{activation}" in FUSED and taken(g, value, bias)
    if not fits or g.ndim == 0 or g.shape != value.shape or g.shape[-1:] != bias.shape:
        return plain(g, value, bias, activation)
    scalar = scalars()[activation]
    dz, dbias = cupy.empty(g.shape, g.dtype), cupy.empty(bias.shape, g.dtype)
    numbers = [rounded(scalar.defaults[name], g.dtype) for name in scalar.parameters("slope")]
    rows, columns = prod(g.shape[:-1]), bias.size
    kept = (value, None if "out" in scalar.functions["slope"] else bias)
    launch = _instance("bias_slope", scalar.struct, g.dtype, len(numbers))
    _launch(launch, (dz, dbias), rows, columns, g, *kept, *numbers)
    return dz, dbias


@fused
def sum(plain: Callable[..., Any], x: Any, axis: Axis = None, *, dtype: Any = None, keepdims: bool = False) -> Any:
    """The op `sum`, over the first axes: a sum of columns."""
    axes = sorted(normalize_axes(axis, x.ndim)) if axis is not None and dtype is None and taken(x) else []
    if not 0 < len(axes) < x.ndim or axes != list(range(len(axes))):
        return plain(x, axis, dtype=dtype, keepdims=keepdims)
    shape, kept = x.shape[: len(axes)], x.shape[len(axes) :]
    rows, columns = prod(shape), prod(kept)
    total = cupy.empty((1,) * len(shape) * keepdims + kept, x.dtype)
    _launch(_instance("column_sum", "", x.dtype, 0), (total,), rows, columns, x)
    return total


def geometry(rows: int, columns: int, dtype: np.dtype, at_once: int) -> tuple[int, int, int]:
    """How many strips of columns there are for a sum of columns, how many blocks share the rows, and lanes of a strip.

    `at_once` is how many blocks the device runs; more are not worth their partial sums.
    """
    packs = -(-columns // FLOATS[dtype.name])
    lanes = min(_LANES, 1 << max(packs - 1, 0).bit_length())
    strips, height = -(-packs // lanes), THREADS // lanes
    return strips, max(1, min(at_once // max(strips, 1), -(-rows // (height * _ROWS)))), lanes


def _launch(launch: Kernel, outs: tuple[Any, ...], rows: int, columns: int, *inputs: Any) -> None:
    """Launch a kernel with column sums, the last of its outputs, with the scratch memory that it needs."""
    dtype = outs[-1].dtype
    strips, blocks, lanes = geometry(rows, columns, dtype, blocks_for(2**62))
    shared = blocks > 1 and strips > 0
    partial = workspace("column sums", blocks * columns, wide(dtype)) if shared else None
    arrived = counters(strips) if shared else None
    sizes = np.int64(rows), np.int64(columns), np.int32(lanes)
    launch((strips, blocks), THREADS, *outs, partial, arrived, *sizes, *inputs)


def expressions() -> Iterator[tuple[str, str]]:
    """Every file and name expression that can be launched from here."""
    for dtype in map(np.dtype, FLOATS):
        yield FILE, _instance("column_sum", "", dtype, 0).expression
        for scalar in activations():
            if not scalar.is_variant:
                numbers = len(scalar.parameters("value"))
                yield FILE, _instance("bias_map", scalar.struct, dtype, numbers).expression
                yield FILE, _instance("bias_slope", scalar.struct, dtype, numbers).expression
