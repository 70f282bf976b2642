"""Functions of numbers one by one, and reductions, on arrays without numbers.

What counts as a floating-point operation: one for each number that a function or an operator computes from
floating-point numbers to one, whatever the function; a reduction of n numbers to one takes n - 1. Integers that are
cast to be computed with count. Comparisons, logic, choices, casts, copies and sorting take none.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, reduce
from math import prod
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from ..native import ELEMENTWISE
from .array import MetaArray, fresh, ghost_of, iterated, joined, kept, outside, work

__all__ = ["FUNCTIONS", "arrays", "broadcast", "is_float"]

_MOVES = {"positive", "where"}


def is_float(dtype: Any) -> bool:
    """Whether numbers of the dtype are of floating point."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def arrays(operands: Sequence[Any]) -> list[Any]:
    """Operands as arrays without numbers; Python numbers stay."""
    return [x if isinstance(x, MetaArray) or x.__class__ in (bool, int, float) else outside(x) for x in operands]


def broadcast(operands: Sequence[Any]) -> tuple[tuple[int, ...], list[np.ndarray]]:
    """The shape that operands broadcast to, and their ghosts in it."""
    ghosts = [x.ghost for x in operands if isinstance(x, MetaArray)]
    shape = np.broadcast_shapes(*(g.shape for g in ghosts))
    return shape, [g if g.shape == shape else np.broadcast_to(g, shape) for g in ghosts]


@lru_cache(maxsize=4096)
def _dtype_of(function: Any, kinds: tuple[Any, ...]) -> np.dtype:
    """The dtype NumPy's function gives for arrays of these dtypes and Python numbers of these classes."""
    given = [kind(1) if isinstance(kind, type) else np.ones(0, kind) for kind in kinds]
    found: np.dtype = function(*given).dtype
    return found


def _kinds(operands: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(x.dtype if isinstance(x, MetaArray) else type(x) for x in operands)


def _elementwise(name: str, function: Any) -> Callable[..., Any]:
    def call(*given: Any, **_: Any) -> Any:
        operands = arrays(given)
        shape, ghosts = broadcast(operands)
        dtype = _dtype_of(function, _kinds(operands))
        out = fresh(shape, dtype, iterated(ghosts))
        counts = name not in _MOVES and is_float(dtype)
        return work(name, out, operands, flops=out.size if counts else 0)

    return call


def _in_place(name: str, x: MetaArray, other: Any) -> MetaArray:
    """`x += other` and its like."""
    (operand,) = arrays([other])
    shape, _ = broadcast([x, operand])
    if shape != x.shape:
        raise ValueError(f"non-broadcastable output operand with shape {x.shape} doesn't match the shape {shape}")
    return work(name, x, [x, operand], flops=x.size if is_float(x.dtype) else 0)


def _clip(x: Any, low: Any = None, high: Any = None) -> Any:
    return _clipped(x, *[bound for bound in (low, high) if bound is not None])


_clipped = _elementwise("clip", lambda x, *bounds: reduce(np.maximum, bounds, x))


def _reduced(x: MetaArray, axis: Any, keepdims: bool) -> tuple[tuple[int, ...], list[int]]:
    """The shape of a reduction of `x`, and the order of its axes: that in which NumPy goes through x."""
    gone = range(x.ndim) if axis is None else normalize_axis_tuple(axis, x.ndim)
    order = iterated([x.ghost]) or []
    if keepdims:
        return tuple([1 if a in gone else n for a, n in enumerate(x.shape)]), order
    stay = [a for a in range(x.ndim) if a not in gone]
    return tuple([x.shape[a] for a in stay]), [stay.index(a) for a in order if a in stay]


def _reduction(name: str, function: Any, extra: int = 0, fails_empty: bool = False) -> Callable[..., Any]:
    """`extra`: operations per result beside those that join the numbers."""

    def call(given: Any, axis: Any = None, dtype: Any = None, keepdims: bool = False, **_: Any) -> Any:
        (x,) = arrays([given])
        shape, order = _reduced(x, axis, keepdims)
        kind = _dtype_of(function, (x.dtype,)) if dtype is None else np.dtype(dtype)
        out = fresh(shape, kind, None if name.startswith("arg") else order)
        if fails_empty and out.size and not x.size:
            raise ValueError(f"zero-size array to reduction operation {name} which has no identity")
        return work(name, out, [x], flops=max(x.size - out.size, 0) + extra * out.size if is_float(kind) else 0)

    return call


def _dtype_reduction(kind: str) -> Callable[[Any], Any]:
    return lambda x: np.empty(0, kind)


def _scan(name: str, function: Any) -> Callable[..., Any]:
    def call(given: Any, axis: Any = None, dtype: Any = None, include_initial: bool = False, **_: Any) -> Any:
        (x,) = arrays([given])
        place = normalize_axis_index(axis or 0, x.ndim)
        shape = tuple(n + (include_initial and a == place) for a, n in enumerate(x.shape))
        kind = _dtype_of(function, (x.dtype,)) if dtype is None else np.dtype(dtype)
        order = iterated([x.ghost])
        if include_initial:  # joined to the rest
            order = joined([ghost_of(x.shape, kind, order)])
        out = fresh(shape, kind, order)
        steps = max(x.shape[place] - 1, 0) * prod(n for a, n in enumerate(x.shape) if a != place)
        return work(name, out, [x], flops=steps if is_float(kind) else 0)

    return call


def _where(condition: Any, x: Any, y: Any) -> Any:
    operands = arrays([condition, x, y])
    shape, ghosts = broadcast(operands)
    dtype = _dtype_of(np.add, _kinds(operands[1:])) if any(k is not np.dtype(bool) for k in _kinds(operands[1:])) else (
        np.dtype(bool)
    )  # fmt: skip
    return work("where", fresh(shape, dtype, iterated(ghosts)), operands)


def _astype(given: Any, dtype: Any, copy: bool = True, **_: Any) -> Any:
    (x,) = arrays([given])
    if not copy and x.dtype == dtype:
        return x
    return work("astype", fresh(x.shape, np.dtype(dtype), kept(x.ghost)), [x])


def _error_function(x: Any) -> Any:
    """Of the dtype that SciPy gives: it works on float16 and on integers in float64."""
    return np.tanh(x) if x.dtype.name in ("float32", "bfloat16") else np.empty(0, np.float64)


_extreme = _dtype_reduction("int64")
FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: _elementwise(name, getattr(np, name)) for name in ELEMENTWISE if hasattr(np, name)
} | {
    "in_place": _in_place,
    "clip": _clip,
    "where": _where,
    "astype": _astype,
    "erf": _elementwise("erf", _error_function),
    "erfc": _elementwise("erfc", _error_function),
    "sum": _reduction("sum", np.sum),
    "prod": _reduction("prod", np.prod),
    "max": _reduction("max", lambda x: x, fails_empty=True),
    "min": _reduction("min", lambda x: x, fails_empty=True),
    "mean": _reduction("mean", lambda x: np.divide(x, x), extra=1),
    "any": _reduction("any", _dtype_reduction("bool")),
    "all": _reduction("all", _dtype_reduction("bool")),
    "count_nonzero": _reduction("count_nonzero", _extreme),
    "argmax": _reduction("argmax", _extreme, fails_empty=True),
    "argmin": _reduction("argmin", _extreme, fails_empty=True),
    "cumulative_sum": _scan("cumulative_sum", np.sum),
    "cumulative_prod": _scan("cumulative_prod", np.prod),
}
