"""Choosing between numbers on the CPU, without a branch for each of them.

On an irregular mask `np.where` mispredicts a branch at every other number and takes 20 times as long as a product.
Large arrays of floating point are chosen by their bits instead: an integer times 0 or 1, exact for infinities and NaN.
"""

from math import copysign
from typing import Any

import numpy as np

__all__ = ["where"]

_INTEGERS = {np.dtype(f"f{size}"): np.dtype(f"i{size}") for size in (2, 4, 8)}
_LARGE = 1 << 12  # numbers from which choosing by bits is faster


def where(condition: Any, x: Any, y: Any) -> Any:
    """As `np.where`: `x` where `condition` holds, else `y`."""
    if y.__class__ is float and y == 0 and condition.__class__ is x.__class__ is np.ndarray and copysign(1.0, y) > 0:
        integers = _INTEGERS.get(x.dtype)  # the rule of many activations: a cotangent, or 0
        if integers is not None and condition.dtype == bool:
            chosen = condition.astype(integers)
            fits = chosen.shape == x.shape
            return np.multiply(chosen, x.view(integers), out=chosen if fits else None).view(x.dtype)
    if condition.__class__ is np.ndarray and condition.size >= _LARGE and condition.dtype == bool:
        dtypes = {value.dtype for value in (x, y) if hasattr(value, "dtype")}
        dtype = dtypes.pop() if len(dtypes) == 1 else None
        if dtype in _INTEGERS:
            return _by_bits(condition, _bits(x, dtype), _bits(y, dtype)).view(dtype)
    return np.where(condition, x, y)


def _bits(value: Any, dtype: np.dtype) -> Any:
    """An array's numbers as integers of the same size; a Python number's in `dtype`."""
    return (value if hasattr(value, "dtype") else dtype.type(value)).view(_INTEGERS[dtype])


def _by_bits(condition: np.ndarray, x: Any, y: Any) -> Any:
    if y.ndim == 0 and y == 0:
        return x * condition
    if x.ndim == 0 and x == 0:
        return y * ~condition
    out = x ^ y
    out = np.multiply(out, condition, out=out if out.shape == condition.shape else None)
    out ^= y
    return out
