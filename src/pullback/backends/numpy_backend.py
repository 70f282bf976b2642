"""NumPy on the CPU. Reductions go straight to the ufuncs (a third of the time of `np.sum` on small arrays)."""

from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from ..errors import DeviceError
from .base import Backend, Namespace
from .numpy_updates import update_adam, update_sgd

__all__ = ["NumpyBackend"]

_add: Any = np.add.reduce
_maximum: Any = np.maximum.reduce
_minimum: Any = np.minimum.reduce


def _sum(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return _add(x, axis, None, None, keepdims)


def _max(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return _maximum(x, axis, None, None, keepdims)


def _min(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return _minimum(x, axis, None, None, keepdims)


def _scatter_add(array: np.ndarray, index: Any, values: Any) -> np.ndarray:
    """Add `values` into `array[index]` in place; repeated positions add up."""
    np.add.at(array, index, values)
    return array


def _scatter_set(array: np.ndarray, index: Any, values: Any) -> np.ndarray:
    """Write `values` into `array[index]` in place."""
    array[index] = values
    return array


def _erf(x: Any) -> Any:
    from scipy.special import erf  # here and not above: importing SciPy takes longer than importing pullback

    return erf(x)


def _erfc(x: Any) -> Any:
    from scipy.special import erfc

    return erfc(x)


class NumpyBackend(Backend):
    """Arrays in host memory. NumPy's scalars count as arrays of no dimension."""

    name = "cpu"
    array_types = (np.ndarray, np.generic)
    update_sgd = staticmethod(update_sgd)
    update_adam = staticmethod(update_adam)

    def __init__(self) -> None:
        extras: dict[str, Any] = {"sum": _sum, "max": _max, "min": _min, "erf": _erf, "erfc": _erfc}
        self.xp = Namespace(np, scatter_add=_scatter_add, scatter_set=_scatter_set, **extras)

    def asarray(self, data: Any, dtype: Any = None, device: str | None = None, copy: bool | None = None) -> Any:
        if device not in (None, "cpu"):
            raise DeviceError(f"the CPU is called 'cpu'; got {device!r}")
        return np.array(data, dtype=dtype, copy=copy)

    def to_numpy(self, array: Any) -> np.ndarray:
        return np.asarray(array)

    def quiet(self) -> AbstractContextManager[Any]:
        return np.errstate(all="ignore")
