"""Bias and activation in one launch, the slope with the gradient of the bias in another, and sums over rows."""

from collections.abc import Callable, Iterator
from functools import cache
from math import prod
from typing import Any

import cupy
import numpy as np

from ...shapes import Axis, normalize_axes
from .elementwise import Call, rounded, with_slopes
from .fused import FUSED, fused
from .launching import THREADS, Kernel, blocks_for, counters, ctype, kernel, workspace
from .rows import FLOATS, taken, wide
from .scalars import Scalar, scalars

__all__ = ["bias_slope", "expressions", "sum"]

FILE = "columns.cu"
_LANES = 32  # of a strip of columns, at most
_ROWS = 4  # that a thread sums before more blocks share them


@cache
def _instance(template: str, struct: str, dtype: np.dtype, numbers: int) -> Kernel:
    types = [*([struct] if struct else []), ctype(dtype), *[ctype(np.dtype(wide(dtype)))] * numbers]
    return kernel(FILE, f"pullback::{template}<{', '.join(types)}>")


def _fuse_bias(scalar: Scalar) -> None:
    call = Call(scalar, "value", arrays=2)

    def value(plain: Callable[..., Any], z: Any, bias: Any, *given: Any, **named: Any) -> Any:
        fits = taken(z, bias) and z.ndim > 0 and z.shape[-1:] == bias.shape
        read = call.read(plain, z.dtype, given, named) if fits else None
        if read is None:
            return plain(z, bias, *given, **named)
        out = cupy.empty(z.shape, z.dtype)
        if out.size:
            blocks = blocks_for(-(-z.size // FLOATS[z.dtype.name]))
            sizes = np.int64(z.size // bias.size), np.int64(bias.size)
            _instance("bias_map", read[0], z.dtype, len(read[1]))(blocks, THREADS, out, *sizes, z, bias, *read[1])
        return out

    FUSED[f"bias_{scalar.name}"] = value


for _scalar in with_slopes():
    if not _scalar.is_variant:
        _fuse_bias(_scalar)


@fused
def bias_slope(plain: Callable[..., Any], g: Any, value: Any, bias: Any, activation: str) -> Any:
    """The op `bias_slope`: the cotangents of z and bias in `activation(z + bias)`, in one launch."""
    fits = f"bias_{activation}" in FUSED and taken(g, value, bias)
    if not fits or g.ndim == 0 or g.shape != value.shape or g.shape[-1:] != bias.shape:
        return plain(g, value, bias, activation)
    scalar = scalars()[activation]
    dz, dbias = cupy.empty(g.shape, g.dtype), cupy.empty(bias.shape, g.dtype)
    numbers = [rounded(scalar.defaults[name], g.dtype) for name in scalar.parameters("slope")]
    rows, columns = prod(g.shape[:-1]), bias.size
    kept = (value, None if "out" in scalar.functions["slope"] else bias)
    launch = _instance("bias_slope", scalar.struct, g.dtype, len(numbers))
    launch(*_geometry(rows, columns, g.dtype), dz, *_summed(dbias, rows, columns), g, *kept, *numbers)
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
    launch = _instance("column_sum", "", x.dtype, 0)
    launch(*_geometry(rows, columns, x.dtype), *_summed(total, rows, columns), x)
    return total


def _geometry(rows: int, columns: int, dtype: np.dtype) -> tuple[tuple[int, int], tuple[int, int]]:
    """Grid and block of a sum of columns: strips of columns, by blocks that share the rows."""
    packs = -(-columns // FLOATS[dtype.name])
    lanes = min(_LANES, 1 << max(packs - 1, 0).bit_length())
    strips, height = -(-packs // lanes), THREADS // lanes
    at_once = blocks_for(2**62) // max(strips, 1)
    return (strips, max(1, min(at_once, -(-rows // (height * _ROWS))))), (lanes, height)


def _summed(total: Any, rows: int, columns: int) -> tuple[Any, ...]:
    """The arguments that every kernel with sums of columns has."""
    (strips, blocks), _ = _geometry(rows, columns, total.dtype)
    shared = blocks > 1 and strips > 0
    partial = workspace("column sums", blocks * columns, wide(total.dtype)) if shared else None
    return total, partial, counters(strips) if shared else None, np.int64(rows), np.int64(columns)


def expressions() -> Iterator[tuple[str, str]]:
    """Every file and name expression that can be launched from here."""
    for dtype in map(np.dtype, FLOATS):
        yield FILE, _instance("column_sum", "", dtype, 0).expression
        for scalar in with_slopes():
            numbers = len(scalar.parameters("value"))
            yield FILE, _instance("bias_map", scalar.struct, dtype, numbers).expression
            if not scalar.is_variant:  # `bias_slope` is of default parameters
                yield FILE, _instance("bias_slope", scalar.struct, dtype, numbers).expression
