"""A backend that allows nothing beyond the array API standard 2024.12: `array_api_strict`, as device "strict"."""

from itertools import product
from typing import Any

import array_api_strict
import numpy as np

from pullback.backends import Backend, Namespace, canonical_dtype, register

__all__ = ["StrictBackend"]


def _dtype(dtype: Any) -> Any:
    """The strict dtype of a name, of a NumPy dtype, or of a strict one."""
    return getattr(array_api_strict, canonical_dtype(dtype).name)


def _places(array: Any, index: Any) -> Any:
    """The positions that an index of integer arrays (slices of all, and Ellipsis, beside them) chooses, one by one."""
    numbers = np.arange(array.size).reshape(array.shape)
    entries = index if isinstance(index, tuple) else (index,)
    chosen = numbers[tuple(np.asarray(entry) if hasattr(entry, "dtype") else entry for entry in entries)]
    return chosen.shape, [tuple(map(int, np.unravel_index(place, array.shape))) for place in chosen.reshape(-1)]


def _scatter(array: Any, index: Any, values: Any, adds: bool) -> Any:
    """Write or add `values` at an index, one number at a time: the standard assigns at integers and slices."""
    shape, places = _places(array, index)
    if not hasattr(values, "dtype"):
        values = array_api_strict.asarray(values, dtype=array.dtype)
    values = array_api_strict.broadcast_to(values, shape)
    for place, own in zip(places, product(*map(range, shape)), strict=True):
        array[place] = array[place] + values[own] if adds else values[own]
    return array


class StrictBackend(Backend):
    """Arrays of `array_api_strict`. What the standard lacks and cannot express is missing: `erf` and `erfc`."""

    name = "strict"
    array_types = (type(array_api_strict.zeros(1)),)

    def __init__(self) -> None:
        self.xp = Namespace(
            array_api_strict,
            linalg=array_api_strict.linalg,
            dtype=_dtype,
            scatter_add=lambda array, index, values: _scatter(array, index, values, adds=True),
            scatter_set=lambda array, index, values: _scatter(array, index, values, adds=False),
        )

    def asarray(self, data: Any, dtype: Any = None, device: str | None = None, copy: bool | None = None) -> Any:
        with self.on(device):
            return array_api_strict.asarray(data, dtype=None if dtype is None else _dtype(dtype), copy=copy)

    def to_numpy(self, array: Any) -> np.ndarray:
        return np.asarray(array)


array_api_strict.set_array_api_strict_flags(api_version="2024.12")
register(StrictBackend())
