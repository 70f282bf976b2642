"""Sorting, searching and sets. Only `sort` has a derivative.

Axes may be negative; one that is out of range is a ShapeError.
"""

from math import prod
from typing import Any

import numpy as np

from ..core.define import Array, Sample, op
from ..errors import ArgumentError, ShapeError
from ..shapes import normalize_axis

__all__ = [
    "argmax", "argmin", "argsort", "nonzero", "searchsorted", "sort", "unique_all", "unique_counts", "unique_inverse",
    "unique_values",
]  # fmt: skip


# --- order ------------------------------------------------------------------------------------------------------------


def _unsorted(rng: Any) -> Any:
    for shape, axis, descending in (((5,), -1, False), ((3, 4), 0, True), ((2, 3, 2), 1, False)):
        numbers = rng.permutation(30)[: prod(shape)].reshape(shape) / 10
        yield Sample((numbers,), {"axis": axis, "descending": descending})


@op(
    lambda xp, g, x, axis, descending: xp.scatter_along_axis(
        g, xp.argsort(x, axis=axis, descending=descending), axis, x.shape
    ),
    jvp=lambda xp, t, x, axis, descending: xp.take_along_axis(
        t, xp.argsort(x, axis=axis, descending=descending), axis=axis
    ),
    samples=_unsorted,
)
def sort(xp: Any, x: Array, axis: int = -1, *, descending: bool = False, stable: bool = True) -> Any:
    """The numbers of `x` in order along `axis`.

    Cotangents go back to where the numbers came from; among equal numbers the order is that of a stable `argsort`.
    """
    return xp.sort(x, axis=normalize_axis(axis, x.ndim), descending=descending, stable=stable)


@op(None, samples=_unsorted)
def argsort(xp: Any, x: Array, axis: int = -1, *, descending: bool = False, stable: bool = True) -> Any:
    """The positions along `axis` of the numbers of `x` in order; equal numbers keep theirs if `stable`."""
    return xp.argsort(x, axis=normalize_axis(axis, x.ndim), descending=descending, stable=stable)


# --- places -----------------------------------------------------------------------------------------------------------


def _one_axis(x: Any, axis: int | None) -> int | None:
    return None if axis is None else normalize_axis(axis, x.ndim)


def _extremes(rng: Any) -> Any:
    for options in ({}, {"axis": 1}, {"axis": -1, "keepdims": True}):
        yield Sample((rng.integers(0, 3, (2, 4)),), options)


@op(None, samples=_extremes)
def argmax(xp: Any, x: Array, axis: int | None = None, *, keepdims: bool = False) -> Any:
    """The position of the largest number along `axis`, or in row-major order; the first of those that tie.

    Raises:
        ShapeError: there are no numbers to choose from.
    """
    return xp.argmax(x, axis=_one_axis(x, axis), keepdims=keepdims)


@op(None, samples=_extremes)
def argmin(xp: Any, x: Array, axis: int | None = None, *, keepdims: bool = False) -> Any:
    """The position of the smallest number along `axis`, or in row-major order; the first of those that tie.

    Raises:
        ShapeError: there are no numbers to choose from.
    """
    return xp.argmin(x, axis=_one_axis(x, axis), keepdims=keepdims)


def _repeated(rng: Any) -> Any:
    yield Sample((rng.integers(-1, 2, 6),))
    yield Sample((rng.integers(-1, 2, (2, 3)),))


@op(None, outputs=("positions",), samples=_repeated)
def nonzero(xp: Any, x: Array) -> Any:
    """The positions of the numbers that are not 0, in row-major order: a tuple of one vector per axis, an index of x.

    Raises:
        ShapeError: x is 0-d and has no positions.
    """
    if not x.ndim:
        raise ShapeError("a 0-d array has no positions")
    return tuple(xp.nonzero(x))


def _placed(rng: Any) -> Any:
    numbers = rng.permutation(6)
    yield Sample((np.array([0, 2, 2, 4]), numbers))
    yield Sample((numbers, numbers[:3]), {"side": "right", "sorter": numbers.argsort()})


@op(None, None, None, samples=_placed)
def searchsorted(xp: Any, x1: Array, x2: Array, *, side: str = "left", sorter: Array | None = None) -> Any:
    """Where the numbers of `x2` would go into the sorted vector `x1` so that it stays sorted.

    Before equal numbers with `side` "left", behind them with "right". `sorter` holds the positions that sort x1.

    Raises:
        ArgumentError: another `side`. ShapeError: x1 is no vector.
    """
    if side not in ("left", "right"):
        raise ArgumentError(f'side is "left" or "right"; got {side!r}')
    if x1.ndim != 1:
        raise ShapeError(f"x1 is a vector; got shape {x1.shape}")
    return xp.searchsorted(x1, x2, side=side, sorter=sorter)


# --- sets -------------------------------------------------------------------------------------------------------------


@op(None, outputs=("values", "indices", "inverse_indices", "counts"), samples=_repeated)
def unique_all(xp: Any, x: Array) -> Any:
    """The different numbers of `x` in ascending order, and more of them: (values, indices, inverse_indices, counts).

    `indices` say where in row-major order each is first met, `counts` how often; `values[inverse_indices]` is x.
    """
    return tuple(xp.unique_all(x))


@op(None, outputs=("values", "counts"), samples=_repeated)
def unique_counts(xp: Any, x: Array) -> Any:
    """The different numbers of `x` in ascending order and how often each is met: (values, counts)."""
    return tuple(xp.unique_counts(x))


@op(None, outputs=("values", "inverse_indices"), samples=_repeated)
def unique_inverse(xp: Any, x: Array) -> Any:
    """The different numbers of `x` in ascending order, and which of them stands where: (values, inverse_indices)."""
    return tuple(xp.unique_inverse(x))


@op(None, samples=_repeated)
def unique_values(xp: Any, x: Array) -> Any:
    """The different numbers of `x`, in ascending order."""
    return xp.sort(xp.unique_values(x))
