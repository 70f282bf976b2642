"""Arrays put together, taken apart and repeated.

Each op here is linear. Axes may be negative; one that is out of range is a ShapeError.
"""

from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from itertools import repeat as times
from math import prod
from typing import Any

from ..core.define import Array, Arrays, Sample, composite, op
from ..core.tape import Bundle
from ..errors import ArgumentError, ShapeError
from ..shapes import Shape, along, normalize_axis

__all__ = ["concat", "pad", "repeat", "split", "stack", "tile", "unstack"]


# --- together ---------------------------------------------------------------------------------------------------------


def _place(i: int, shapes: Sequence[Shape], axis: int | None) -> Any:
    """Where array `i` lies in the joined one."""
    if axis is None:
        before = sum(prod(shape) for shape in shapes[:i])
        return slice(before, before + prod(shapes[i]))
    before = sum(shape[axis] for shape in shapes[:i])
    return along(axis, len(shapes[i]), slice(before, before + shapes[i][axis]))


def _joined(rng: Any) -> Any:
    yield Sample(([rng.normal(size=(2,)), rng.normal(size=(3,))],))
    yield Sample(([rng.normal(size=(2, 1)), rng.normal(size=(2, 3)), rng.normal(size=(2, 0))],), {"axis": -1})
    yield Sample(([rng.normal(size=(2, 1)), rng.normal(size=())],), {"axis": None})


@op(
    lambda xp, g, i, arrays_shape, axis: xp.reshape(g[_place(i, arrays_shape, axis)], arrays_shape[i]),
    jvp=lambda xp, t, i, arrays_shape, axis, out_shape: xp.scatter(
        t if axis is not None else xp.reshape(t, (prod(arrays_shape[i]),)), _place(i, arrays_shape, axis), out_shape
    ),
    samples=_joined,
)
def concat(xp: Any, arrays: Arrays, axis: int | None = 0) -> Any:
    """Arrays of one rank joined along `axis`; with None they are flattened first.

    Raises:
        ShapeError: they differ along another axis, or have none.
    """
    return xp.concat(arrays, axis=axis)


def _stacked(rng: Any) -> Any:
    for axis in (0, 1, -1):
        yield Sample(([rng.normal(size=(2, 3)), rng.normal(size=(2, 3))],), {"axis": axis})
    yield Sample(([rng.normal(size=()), rng.normal(size=())],))


@op(
    lambda g, i, axis: g[along(axis, g.ndim, i)],
    jvp=lambda xp, t, i, axis, out_shape: xp.scatter(t, along(axis, len(out_shape), i), out_shape),
    samples=_stacked,
)
def stack(xp: Any, arrays: Arrays, axis: int = 0) -> Any:
    """Arrays of one shape along a new axis, at position `axis` of the result.

    Raises:
        ShapeError: their shapes differ.
    """
    return xp.stack(arrays, axis=axis)


def _whole_numbers(given: Any) -> int | list[int] | None:
    """An int, or the list of ints that a sequence, an array or a tensor holds; None for anything else."""
    found = given.tolist() if hasattr(given, "tolist") else given
    if isinstance(found, Sequence):
        return list(found) if all(isinstance(n, int) for n in found) else None
    return found if isinstance(found, int) else None


# --- apart ------------------------------------------------------------------------------------------------------------


def _taken_apart(rng: Any) -> Any:
    for axis in (0, 1, -1):
        yield Sample((rng.normal(size=(2, 3, 2)),), {"axis": axis})


@op(
    lambda xp, g, axis: xp.stack(list(g), axis=axis),
    jvp=lambda xp, t, axis: Bundle(xp.unstack(t, axis=axis)),
    outputs=("parts",),
    view=True,
    samples=_taken_apart,
)
def unstack(xp: Any, x: Array, axis: int = 0) -> Any:
    """The slices of `x` along `axis`, each without that axis: a tuple."""
    return tuple([x[along(axis, x.ndim, i)] for i in range(x.shape[normalize_axis(axis, x.ndim)])])


def _cuts(size: int, indices_or_sections: Any) -> list[int]:
    """The positions between which the parts lie, from 0 to `size`."""
    found = _whole_numbers(indices_or_sections)
    if found is None:
        raise ArgumentError(f"a number of parts is an int, positions are several; got {indices_or_sections!r}")
    if not isinstance(found, list):
        if found < 1 or size % found:
            raise ShapeError(f"{size} numbers along the axis do not make {found} equal parts")
        return list(range(0, size + 1, size // found)) if size else [0] * (found + 1)
    cuts = [0, *[slice(position).indices(size)[1] for position in found], size]
    if any(a > b for a, b in pairwise(cuts)):
        raise ArgumentError(f"positions to cut at are in ascending order; got {found}")
    return cuts


def _parts(rng: Any) -> Any:
    yield Sample((rng.normal(size=(4,)), 2))
    yield Sample((rng.normal(size=(2, 6)), [1, 1, -2]), {"axis": -1})


@op(
    lambda xp, g, axis: xp.concat(list(g), axis=axis),
    jvp=lambda xp, t, indices_or_sections, axis: Bundle(xp.split(t, indices_or_sections, axis=axis)),
    outputs=("parts",),
    view=True,
    samples=_parts,
)
def split(xp: Any, x: Array, indices_or_sections: int | Sequence[int], axis: int = 0) -> Any:
    """`x` cut along `axis` into that many equal parts, or at the given positions: a tuple.

    Raises:
        ShapeError: the length cannot be divided. ArgumentError: the positions are not in ascending order.
    """
    axis = normalize_axis(axis, x.ndim)
    cuts = _cuts(x.shape[axis], indices_or_sections)
    return tuple([x[along(axis, x.ndim, slice(a, b))] for a, b in pairwise(cuts)])


# --- repeated ---------------------------------------------------------------------------------------------------------


def _counts(name: str, given: Any) -> list[int]:
    found = _whole_numbers(given)
    counts = found if isinstance(found, list) else [-1 if found is None else found]
    if any(n < 0 for n in counts):
        raise ArgumentError(f"{name} are integers, 0 or more; got {given!r}")
    return counts


def _tiles(rng: Any) -> Any:
    for shape, repetitions in (((3,), 2), ((2, 3), (2,)), ((2, 3), (3, 1, 2)), ((), (2, 2)), ((2, 1), (0, 2))):
        yield Sample((rng.normal(size=shape), repetitions))


@composite(samples=_tiles)
def tile(xp: Any, x: Array, repetitions: int | Sequence[int]) -> Any:
    """`x` as a tile, laid `repetitions` times along the last axes (an int counts for the last axis alone).

    Raises:
        ArgumentError: repetitions are no ints, or negative.
    """
    counts = _counts("repetitions", repetitions)
    ndim = max(x.ndim, len(counts))
    counts = [*(1,) * (ndim - len(counts)), *counts]
    lengths = (*(1,) * (ndim - x.ndim), *x.shape)
    apart = xp.reshape(x, tuple([m for n in lengths for m in (1, n)]))
    laid = xp.broadcast_to(apart, tuple([m for pair in zip(counts, lengths, strict=True) for m in pair]))
    return xp.reshape(laid, tuple([r * n for r, n in zip(counts, lengths, strict=True)]))


def _repeats(rng: Any) -> Any:
    yield Sample((rng.normal(size=(2, 3)), 2))
    yield Sample((rng.normal(size=(2, 3)), 3), {"axis": 1})
    yield Sample((rng.normal(size=(2, 3)), [2, 0, 1]), {"axis": -1})
    yield Sample((rng.normal(size=(3,)), [0, 1, 2]))


@composite(samples=_repeats, standard=False)
def repeat(xp: Any, x: Array, repeats: Any, axis: int | None = None) -> Any:
    """Each number of `x` (or slice along `axis`) `repeats` times in a row: an int, or integers, one for each.

    Without an axis x is flattened first.

    Raises:
        ShapeError: there is neither one count nor one for each. ArgumentError: a count is no int, or negative.
    """
    if axis is None:
        x, axis = xp.reshape(x, (x.size,)), 0
    axis = normalize_axis(axis, x.ndim)
    size = x.shape[axis]
    counts = _counts("repeats", repeats)
    if len(counts) == 1:
        shape = (*x.shape[: axis + 1], counts[0], *x.shape[axis + 1 :])
        repeated = xp.broadcast_to(xp.expand_dims(x, axis=axis + 1), shape)
        return xp.reshape(repeated, (*shape[:axis], size * counts[0], *shape[axis + 2 :]))
    if len(counts) != size:
        raise ShapeError(f"{len(counts)} repeats for {size} slices along axis {axis}; give one, or one for each")
    positions = list(chain.from_iterable(map(times, range(size), counts)))
    return xp.getitem(x, along(axis, x.ndim, positions))


# --- wider ------------------------------------------------------------------------------------------------------------

_REFLECTIONS: dict[str, Callable[[int, int], int]] = {
    "edge": lambda i, n: min(max(i, 0), n - 1),
    "wrap": lambda i, n: i % n,
    "reflect": lambda i, n: abs((i + n - 1) % (2 * n - 2 or 1) - n + 1),
    "symmetric": lambda i, n: min(i % (2 * n), (-1 - i) % (2 * n)),
}
"""For each mode, which position of an axis of length n stands at position i outside of it."""


def _widths(pad_width: Any, ndim: int) -> list[tuple[int, int]]:
    """How many numbers come before and after, for each axis."""
    given = pad_width if isinstance(pad_width, Sequence) else (pad_width, pad_width)
    pairs = list(given) if given and isinstance(given[0], Sequence) else [given] * ndim
    if len(pairs) == 1:
        pairs *= ndim
    if len(pairs) != ndim or not all(len(pair) == 2 for pair in pairs):
        raise ArgumentError(f"pad_width is an int, a pair (before, after), or {ndim} such pairs; got {pad_width}")
    if not all(isinstance(n, int) and n >= 0 for pair in pairs for n in pair):
        raise ArgumentError(f"widths are integers, 0 or more; got {pad_width}")
    return [(before, after) for before, after in pairs]


def _inside(widths: Sequence[tuple[int, int]], shape: Shape) -> tuple[slice, ...]:
    return tuple([slice(before, before + n) for (before, _), n in zip(widths, shape, strict=True)])


def _sources(widths: Sequence[tuple[int, int]], shape: Shape, mode: str) -> Any:
    """For each axis that grows, the positions that its new entries come from."""
    for axis, ((before, after), n) in enumerate(zip(widths, shape, strict=True)):
        if before or after:
            yield axis, [_REFLECTIONS[mode](i, n) for i in range(-before, n + after)]


def _pull_pad(xp: Any, g: Any, x_shape: Shape, pad_width: Any, mode: str) -> Any:
    widths = _widths(pad_width, len(x_shape))
    if mode == "constant":
        return g[_inside(widths, x_shape)]
    for axis, positions in _sources(widths, x_shape, mode):
        g = xp.scatter(g, along(axis, g.ndim, positions), (*g.shape[:axis], x_shape[axis], *g.shape[axis + 1 :]))
    return g


def _padded(rng: Any) -> Any:
    yield Sample((rng.normal(size=(2, 3)), 1))
    yield Sample((rng.normal(size=(2, 3)), (0, 2)), {"constant_value": -1.5})
    for mode in _REFLECTIONS:
        yield Sample((rng.normal(size=(3, 4)), ((4, 0), (1, 2))), {"mode": mode})


@op(
    _pull_pad,
    jvp=lambda xp, t, pad_width, mode: xp.pad(t, pad_width, mode=mode),
    samples=_padded,
)
def pad(xp: Any, x: Array, pad_width: Any, *, mode: str = "constant", constant_value: float = 0.0) -> Any:
    """`x` with more numbers around it.

    Args:
        pad_width: An int; a pair (before, after) for all axes; or such a pair for each axis.
        mode: "constant" (with `constant_value`), "edge" (the last number again), "reflect" (mirrored at the last
            number), "symmetric" (mirrored behind it), or "wrap" (from the other side).

    Raises:
        ArgumentError: another mode, or widths that are none. ShapeError: a mode needs numbers where an axis has none.
    """
    widths = _widths(pad_width, x.ndim)
    if mode == "constant":
        shape = tuple([before + n + after for (before, after), n in zip(widths, x.shape, strict=True)])
        out = xp.full(shape, constant_value, dtype=x.dtype)
        out[_inside(widths, x.shape)] = x
        return out
    if mode not in _REFLECTIONS:
        raise ArgumentError(f"mode is one of constant, {', '.join(_REFLECTIONS)}; got {mode!r}")
    for axis, (n, (before, after)) in enumerate(zip(x.shape, widths, strict=True)):
        if not n and (before or after):
            raise ShapeError(f'axis {axis} has no numbers to pad with; use mode="constant"')
    for axis, positions in _sources(widths, x.shape, mode):
        x = xp.take(x, xp.asarray(positions), axis=axis)
    return +x
