"""NumPy on the CPU, by the signatures of the standard where NumPy's differ.

Reductions go straight to the ufuncs: a third of the time of `np.sum` on small arrays.
"""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from math import isfinite, prod
from time import perf_counter
from typing import Any

import numpy as np

from ..errors import DeviceError
from .base import Backend, Namespace, isdtype
from .numpy_choice import where
from .numpy_fused import fused
from .numpy_updates import update_adam, update_sgd

__all__ = ["NumpyBackend"]

_add: Any = np.add.reduce
_multiply: Any = np.multiply.reduce
_maximum: Any = np.maximum.reduce
_minimum: Any = np.minimum.reduce

SMALL_BROADCAST = 1 << 13  # numbers up to which a broadcast copy is faster than `np.broadcast_to`
SMALL_SCATTER = 1 << 10  # numbers up to which `np.add.at` by itself is faster
MAPPED = (1 << 25) - (1 << 13)  # bytes of the largest block that moves glibc's threshold, which is 32 MiB at the most


@cache
def _keep_freed_memory() -> None:
    """Have malloc keep freed arrays of up to 32 MiB at hand, 64 MiB in all, as after a large array was let go.

    glibc gives what lies above a threshold back to the system, and takes it again page by page: more than half the time
    of a Jacobian of 1024 by 1024. The threshold follows the largest block that was freed (mallopt(3)), so one is made,
    which takes no page, and let go. `MALLOC_TRIM_THRESHOLD_` or `MALLOC_MMAP_THRESHOLD_` in the environment hold it.
    """
    np.empty(MAPPED, "u1")


def _sum(x: Any, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Any:
    return _add(x, axis, dtype, None, keepdims)


def _prod(x: Any, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Any:
    return _multiply(x, axis, dtype, None, keepdims)


def _max(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return _maximum(x, axis, None, None, keepdims)


def _min(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return _minimum(x, axis, None, None, keepdims)


def _reshape(x: Any, shape: Any, copy: bool | None = None) -> Any:
    return x.reshape(shape) if copy is None else np.reshape(x, shape, copy=copy)


def _ones_like(x: Any, dtype: Any = None, device: Any = None) -> Any:
    """As `np.ones_like`; the 1 that every backward starts from is a scalar (a sixth of the time)."""
    return x.dtype.type(1) if x.ndim == 0 and dtype is None else np.ones_like(x, dtype=dtype, device=device)


def _broadcast_to(x: Any, shape: Any) -> Any:
    """As `np.broadcast_to`; a small result is a copy."""
    if x.ndim <= len(shape) and prod(shape) <= SMALL_BROADCAST:
        out = np.empty(shape, x.dtype)
        out[...] = x
        return out
    return np.broadcast_to(x, shape)


def _sort(x: Any, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
    found = np.sort(x, axis=axis, stable=stable)
    return np.flip(found, axis) if descending else found


def _argsort(x: Any, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
    if not descending:
        return np.argsort(x, axis=axis, stable=stable)
    last = x.shape[axis] - 1  # sorted backwards, so that equal numbers keep their order
    return last - np.flip(np.argsort(np.flip(x, axis), axis=axis, stable=stable), axis)


def _scatter_add(array: np.ndarray, index: Any, values: Any) -> np.ndarray:
    """Add `values` into `array[index]` in place; repeated positions add up.

    Slices chosen along one axis are added number by number at flat positions, five times as fast as slice by slice.
    """
    if np.size(values) < SMALL_SCATTER or not array.flags.c_contiguous:
        np.add.at(array, index, values)
        return array
    *before, chosen = index if index.__class__ is tuple else (index,)
    if chosen is ... and before:
        *before, chosen = before
    whole = all(i.__class__ is slice and i == slice(None) for i in before)
    if whole and chosen.__class__ is np.ndarray and chosen.dtype.kind in "iu" and array.ndim > 1:
        axis, shape = len(before), array.shape
        try:
            places = np.arange(shape[axis])[chosen]  # counted from the front
        except IndexError:
            np.add.at(array, index, values)  # which names the axis
        around, within = np.arange(prod(shape[:axis])), np.arange(prod(shape[axis + 1 :]))
        rows = around[:, None] * shape[axis] + places.reshape(-1)
        positions = rows[..., None] * within.size + within
        spread = np.broadcast_to(values, (*shape[:axis], *chosen.shape, *shape[axis + 1 :]))
        np.add.at(array.reshape(-1), positions.reshape(-1), spread.reshape(-1))
    else:
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
    packs = True
    mark = staticmethod(perf_counter)
    update_sgd = staticmethod(update_sgd)
    update_adam = staticmethod(update_adam)
    fused = staticmethod(fused)
    keep_freed_memory = staticmethod(_keep_freed_memory)

    def __init__(self) -> None:
        self.xp = Namespace(
            np,
            sum=_sum,
            prod=_prod,
            max=_max,
            min=_min,
            reshape=_reshape,
            ones_like=_ones_like,
            broadcast_to=_broadcast_to,
            sort=_sort,
            argsort=_argsort,
            scatter_add=_scatter_add,
            scatter_set=_scatter_set,
            where=where,
            erf=_erf,
            erfc=_erfc,
            isdtype=isdtype,
        )

    def asarray(self, data: Any, dtype: Any = None, device: str | None = None, copy: bool | None = None) -> Any:
        if device not in (None, "cpu"):
            raise DeviceError(f"the CPU is called 'cpu'; got {device!r}")
        return np.array(data, dtype=dtype, copy=copy)

    def to_numpy(self, array: Any) -> np.ndarray:
        return np.asarray(array)

    def to_dlpack(self, array: Any, **options: Any) -> Any:
        """A read-only export, or one of a copy for consumers of versions below 1, which cannot be told to only read."""
        view = np.asarray(array).view()
        view.flags.writeable = False
        if (options.get("max_version") or (0,))[0] < 1 and options.get("copy") is not False:
            view = view.copy()
        return view.__dlpack__(**options)

    def nonfinite(self, arrays: Sequence[Any]) -> bool:
        """The sum of squares tells, in one pass without an array of booleans, unless it is itself too large."""
        for array in arrays:
            if array.dtype.itemsize >= 4 and array.flags.c_contiguous and isfinite(np.vdot(array, array)):
                continue
            if not np.isfinite(array).all():
                return True
        return False

    def free_memory(self) -> int | None:
        try:
            return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):
            return None

    def quiet(self) -> AbstractContextManager[Any]:
        return np.errstate(all="ignore")

    def walking(self, array: Any) -> AbstractContextManager[Any]:
        return np.errstate(all="ignore")
