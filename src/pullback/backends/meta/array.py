"""An array of a shape, a dtype and a layout, without numbers."""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ...errors import DeviceError
from ..native import NativeArray
from .metering import Meter, current_meter

__all__ = ["MetaArray", "fresh", "iterated", "joined", "kept", "nbytes_of", "outside", "view", "work"]


class _Buffer:
    """Memory that would be there, for as long as an array of it lives."""

    __slots__ = ("meter", "nbytes")

    def __init__(self, nbytes: int, meter: Meter | None, shape: tuple[int, ...] = ()) -> None:
        self.nbytes, self.meter = nbytes, meter
        if meter is not None:
            meter.allocate(nbytes, shape)

    def __del__(self) -> None:
        if self.meter is not None:
            self.meter.release(self.nbytes)


class MetaArray(NativeArray):
    """An array without numbers, with the layout that NumPy would give it.

    Attributes:
        ghost: A NumPy array of the same shape, strides and dtype over memory that is not there. NumPy's views of it
            (transposes, slices, reshapes that need no copy) are right; its numbers must never be read, and an index of
            integers alone reads one: put an Ellipsis behind it.
        buffer: What it is, or is a view of.
        base: None, or the buffer if this is a view of another array.
        known: The integers or booleans of an array that came from outside: what they choose has a known shape.
        origin: The array from outside that it stands for; None for others.
    """

    __slots__ = ("__weakref__", "base", "buffer", "dtype", "ghost", "known", "ndim", "origin", "shape", "size")

    def __init__(self, ghost: np.ndarray, buffer: _Buffer, owner: bool, known: np.ndarray | None = None) -> None:
        self.ghost, self.buffer, self.base, self.known = ghost, buffer, None if owner else buffer, known
        self.shape, self.dtype, self.ndim, self.size = ghost.shape, ghost.dtype, ghost.ndim, ghost.size
        self.origin: Any = None

    @property
    def device(self) -> str:
        """Where it would be: "meta"."""
        return "meta"

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers."""
        return self.size * self.dtype.itemsize

    @property
    def mT(self) -> "MetaArray":
        """The last two axes swapped."""
        return view(self, self.ghost.mT)

    @property
    def T(self) -> "MetaArray":
        """All axes reversed."""
        return view(self, self.ghost.T)

    def __repr__(self) -> str:
        return f"MetaArray({self.shape}, {self.dtype})"

    def __len__(self) -> int:
        return len(self.ghost)

    def __bool__(self) -> bool:
        """False: bodies of ops look at numbers only to refuse them, and there is nothing to refuse."""
        return False

    def __float__(self) -> float:
        """1: a body that divides by a number has one that it can divide by."""
        return 1.0

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise DeviceError("a tensor on 'meta' has a shape and a dtype and no numbers; give one on 'cpu' to compute")

    def __reduce__(self) -> Any:
        return _rebuilt, (self.shape, self.dtype, self.ghost.strides, self.known)

    def __dlpack__(self, **_: Any) -> Any:
        raise DeviceError("a tensor on 'meta' has no memory that another library could read")

    __dlpack_device__ = __dlpack__


@lru_cache(maxsize=64)
def _cell(dtype: Any) -> np.ndarray:
    return np.zeros(1, dtype)


# --- the layouts that NumPy gives ---
# The order of the axes of a new array, the outer first. NumPy's iterator and its `concatenate` sort axes by insertion,
# stably, with the same comparison from opposite ends; where arrays disagree row-major order wins.


def iterated(like: Sequence[np.ndarray]) -> list[int] | None:
    """The order in which NumPy's iterator goes through `like`, arrays of one rank, and lays out what it makes."""
    strides = [[0 if n == 1 else abs(step) for n, step in zip(g.shape, g.strides, strict=True)] for g in like]

    def inner(i: int, j: int) -> bool | None:
        """Whether axis i belongs inside of j; None if no array tells."""
        told = [s[j] > s[i] for s in strides if s[i] and s[j]]
        return all(told) if told else None

    return _inserted(range(like[0].ndim - 1, -1, -1), inner)[::-1] if like else None


def joined(like: Sequence[np.ndarray]) -> list[int]:
    """The order of axes that `np.concatenate` gives its result."""

    def outer(i: int, j: int) -> bool | None:
        told = [abs(g.strides[i]) > abs(g.strides[j]) for g in like if g.shape[i] != 1 and g.shape[j] != 1]
        return all(told) if told else None

    return _inserted(range(like[0].ndim), outer)


def kept(like: np.ndarray) -> list[int]:
    """The order of axes of a copy that keeps the order of `like`, and of `np.zeros_like` and others of that name."""
    if like.flags.c_contiguous:
        return list(range(like.ndim))
    if like.flags.f_contiguous:
        return list(range(like.ndim))[::-1]
    return sorted(range(like.ndim), key=lambda axis: -abs(like.strides[axis]))


def _inserted(axes: Iterable[int], before: Callable[[int, int], bool | None]) -> list[int]:
    """`axes` sorted: each before those that it belongs before, past those of which nobody can tell."""
    found: list[int] = []
    for i in axes:
        place = len(found)
        for at in range(len(found) - 1, -1, -1):
            told = before(i, found[at])
            if told is False:
                break
            if told:
                place = at
        found.insert(place, i)
    return found


def ghost_of(shape: Sequence[int], dtype: Any, order: Sequence[int] | None = None) -> np.ndarray:
    """A ghost of a fresh array, its axes in row-major order or in the one given, the outer first."""
    strides, step = [0] * len(shape), dtype.itemsize
    for axis in reversed(range(len(shape)) if order is None else order):
        strides[axis] = step
        step *= max(shape[axis], 1)
    return as_strided(_cell(dtype), tuple(shape), strides)


def fresh(
    shape: Sequence[int], dtype: Any, order: Sequence[int] | None = None, known: np.ndarray | None = None
) -> MetaArray:
    """A new array, in memory of its own."""
    ghost = ghost_of(shape, dtype, order)
    return MetaArray(ghost, _Buffer(prod(shape) * dtype.itemsize, current_meter(), ghost.shape), True, known)


def _rebuilt(shape: Sequence[int], dtype: Any, strides: Sequence[int], known: np.ndarray | None) -> MetaArray:
    """What was copied or pickled, in memory of its own."""
    return fresh(shape, dtype, kept(as_strided(_cell(dtype), shape, strides)), known)


def outside(array: Any) -> MetaArray:
    """What stands for an array of numbers: its memory is not counted."""
    is_host = isinstance(array, np.ndarray | np.generic)
    strides = array.strides if is_host else ghost_of(array.shape, np.dtype(array.dtype)).strides
    ghost = as_strided(_cell(np.dtype(array.dtype)), array.shape, strides)
    known = np.asarray(array) if is_host and array.dtype.kind in "biu" else None
    made = MetaArray(ghost, _Buffer(0, None), True, known)
    made.origin = array
    return made


def view(x: MetaArray, ghost: np.ndarray) -> MetaArray:
    """A view of `x`."""
    return MetaArray(ghost, x.buffer, False)


def nbytes_of(x: Any) -> int:
    """Bytes of different numbers in an array: those along a broadcast axis are read once."""
    if not isinstance(x, MetaArray):
        return getattr(x, "nbytes", 0)
    lengths = [n for n, step in zip(x.shape, x.ghost.strides, strict=True) if step or n == 0]
    return prod(lengths) * x.dtype.itemsize


def work(
    name: str, out: Any, operands: Sequence[Any], flops: int = 0, multiply_adds: int = 0,
    read: int = 0, written: int | None = None,
) -> Any:  # fmt: skip
    """Tell the meter of a function that read `operands`, and `read` bytes more, and made `out`, which is given back.

    What writes nothing does nothing.
    """
    meter = current_meter()
    written = out.nbytes if written is None else written
    if meter is not None and written:
        meter.work(name, flops, multiply_adds, read + sum(map(nbytes_of, operands)), written)
    return out
