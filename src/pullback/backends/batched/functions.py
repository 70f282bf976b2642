"""The functions of the array API on arrays of many examples: each sees one example, and all are done in one call.

The examples stand along the first axis of the array beneath. A function moves its own axes on by one, calls the
function of the namespace beneath, and says whether the result still has examples.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from ...errors import ArgumentError
from ...shapes import normalize_axes, normalize_axis
from ..native import ELEMENTWISE
from .array import BatchedArray, Frame, Operand, Place, beneath, innermost, lowered

__all__ = ["FUNCTIONS", "aligned", "with_examples"]

Function = Callable[..., Any]


# --- one by one -------------------------------------------------------------------------------------------------------


def aligned(xp: Any, operands: Sequence[Operand]) -> list[Any]:
    """Arrays that broadcast as their examples do: those with fewer axes get more behind that of the examples."""
    ndim = max(o.ndim for o in operands)
    found = []
    for o in operands:
        if o.batched and o.ndim < ndim:
            size, *rest = o.data.shape
            found.append(xp.reshape(o.data, (size, *(1,) * (ndim - o.ndim), *rest)))
        else:
            found.append(o.data)
    return found


def _elementwise(name: str) -> Function:
    def call(*args: Any, **kwargs: Any) -> Any:
        frame, operands = lowered(args)
        space = beneath(frame, *(o.data for o in operands))
        data = getattr(space, name)(*aligned(space, operands), **kwargs)
        return frame.array(data, any(o.batched for o in operands))

    return call


def _in_place(name: str, x: BatchedArray, other: Any) -> Any:
    """`x += other` and its like: in place where the result has the shape of what is there."""
    frame, (own, given) = lowered((x, other))
    if (given.batched and not own.batched) or given.ndim > own.ndim or x.frame is not frame:
        return FUNCTIONS[name](x, other)
    space = beneath(frame, own.data, given.data)
    _, value = aligned(space, [own, given])
    x.data = _IN_PLACE[name](x.data, value)
    return x


def _in_place_operators() -> dict[str, Function]:
    import operator

    names = {"divide": "truediv", "floor_divide": "floordiv", "remainder": "mod", "multiply": "mul", "subtract": "sub"}
    names |= {"bitwise_and": "and", "bitwise_or": "or", "bitwise_xor": "xor"}
    names |= {"bitwise_left_shift": "lshift", "bitwise_right_shift": "rshift"}
    return {n: getattr(operator, f"i{names.get(n, n)}") for n in (*names, "add", "pow", "matmul")}


_IN_PLACE = _in_place_operators()


def _unchanged(name: str) -> Function:
    """A function of one array whose result has the same axes."""

    def call(x: Any, *args: Any, **kwargs: Any) -> Any:
        frame, (own,) = lowered((x,))
        return frame.array(getattr(beneath(frame, own.data), name)(own.data, *args, **kwargs), own.batched)

    return call


# --- along axes -------------------------------------------------------------------------------------------------------


def _reduction(name: str) -> Function:
    def call(x: Any, axis: Any = None, keepdims: bool = False, **kwargs: Any) -> Any:
        frame, (own,) = lowered((x,))
        axes: Any = axis
        if own.batched:
            axes = tuple(a + 1 for a in normalize_axes(axis, own.ndim))
            if not axes and own.ndim == 0:  # of numbers: the sum of one is itself
                flat = beneath(frame, own.data).reshape(own.data, (-1, 1))
                return frame.array(getattr(beneath(frame, flat), name)(flat, axis=1, **kwargs), True)
            if name in ("argmax", "argmin", "count_nonzero") and len(axes) != 1:
                return _flat_reduction(name, own, frame, axis, keepdims, kwargs)
            axes = axes[0] if len(axes) == 1 else axes
        data = getattr(beneath(frame, own.data), name)(own.data, axis=axes, keepdims=keepdims, **kwargs)
        return frame.array(data, own.batched)

    return call


def _flat_reduction(name: str, own: Operand, frame: Frame, axis: Any, keepdims: bool, kwargs: Any) -> BatchedArray:
    """Over several axes, of a function that takes one: they are joined first."""
    space = beneath(frame, own.data)
    axes = normalize_axes(axis, own.ndim)
    stay = [a for a in range(own.ndim) if a not in axes]
    moved = space.permute_dims(own.data, (0, *(a + 1 for a in stay), *(a + 1 for a in axes)))
    kept = [own.shape[a] for a in stay]
    flat = space.reshape(moved, (own.data.shape[0], *kept, prod(own.shape[a] for a in axes)))
    data = getattr(space, name)(flat, axis=-1, **kwargs)
    if keepdims:
        data = space.reshape(data, (own.data.shape[0], *(1 if a in axes else n for a, n in enumerate(own.shape))))
    return frame.array(data, True)


def _along(name: str, default: int | None) -> Function:
    """A function along one axis whose result has the same axes: scans and sorts."""

    def call(x: Any, *args: Any, axis: int | None = default, **kwargs: Any) -> Any:
        frame, (own,) = lowered((x,))
        place = normalize_axis(0 if axis is None else axis, own.ndim) + own.batched
        function = getattr(beneath(frame, own.data), name)
        return frame.array(function(own.data, *args, axis=place, **kwargs), own.batched)

    return call


def _roll(x: Any, shift: Any, axis: Any = None) -> Any:
    frame, (own,) = lowered((x,))
    space = beneath(frame, own.data)
    if not own.batched:
        return frame.array(space.roll(own.data, shift, axis=axis), False)
    if axis is None:
        flat = space.reshape(own.data, (own.data.shape[0], -1))
        return frame.array(space.reshape(space.roll(flat, shift, axis=1), own.data.shape), True)
    axes = tuple(a + 1 for a in normalize_axes(axis, own.ndim))
    return frame.array(space.roll(own.data, shift, axis=axes if isinstance(shift, tuple) else axes[0]), True)


def _flip(x: Any, axis: Any = None) -> Any:
    frame, (own,) = lowered((x,))
    axes = tuple(a + own.batched for a in normalize_axes(axis, own.ndim))
    return frame.array(beneath(frame, own.data).flip(own.data, axis=axes), own.batched)


# --- shapes -----------------------------------------------------------------------------------------------------------


def _reshape(x: Any, shape: Any, copy: bool | None = None) -> Any:
    frame, (own,) = lowered((x,))
    lengths = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    if own.batched:
        if -1 in lengths:
            known = prod(n for n in lengths if n != -1)
            lengths = tuple((prod(own.shape) // known if known else 0) if n == -1 else n for n in lengths)
        lengths = (own.data.shape[0], *lengths)
    options = {} if copy is None else {"copy": copy}
    return frame.array(beneath(frame, own.data).reshape(own.data, lengths, **options), own.batched)


def _permute_dims(x: Any, axes: Sequence[int]) -> Any:
    frame, (own,) = lowered((x,))
    order = tuple(axes)
    if own.batched:
        order = (0, *(normalize_axis(a, own.ndim) + 1 for a in axes))
    return frame.array(beneath(frame, own.data).permute_dims(own.data, order), own.batched)


def _moveaxis(x: Any, source: Any, destination: Any) -> Any:
    frame, (own,) = lowered((x,))
    places = [tuple(a + own.batched for a in normalize_axes(given, own.ndim)) for given in (source, destination)]
    return frame.array(beneath(frame, own.data).moveaxis(own.data, *places), own.batched)


def _expand_dims(x: Any, *args: int, axis: int = 0) -> Any:
    frame, (own,) = lowered((x,))
    place = normalize_axis(args[0] if args else axis, own.ndim + 1) + own.batched
    return frame.array(beneath(frame, own.data).expand_dims(own.data, axis=place), own.batched)


def _squeeze(x: Any, axis: Any) -> Any:
    frame, (own,) = lowered((x,))
    axes = tuple(a + own.batched for a in normalize_axes(axis, own.ndim))
    return frame.array(beneath(frame, own.data).squeeze(own.data, axis=axes), own.batched)


def _broadcast_to(x: Any, shape: Sequence[int]) -> Any:
    frame, (own,) = lowered((x,))
    space, lengths = beneath(frame, own.data), tuple(shape)
    if own.batched:
        size, *rest = own.data.shape
        data = space.reshape(own.data, (size, *(1,) * (len(lengths) - own.ndim), *rest))
        return frame.array(space.broadcast_to(data, (size, *lengths)), True)
    return frame.array(space.broadcast_to(own.data, lengths), False)


def _broadcast_arrays(*args: Any) -> list[Any]:
    shape = np.broadcast_shapes(*(getattr(x, "shape", ()) for x in args))
    return [_broadcast_to(x, shape) for x in args]


def _together(args: Sequence[Any]) -> tuple[Frame, Any, list[Any], bool]:
    """Arrays for one function of several: if one has examples, all of them get some."""
    frame, operands = lowered(args)
    space, batched = beneath(frame, *(o.data for o in operands)), any(o.batched for o in operands)
    return frame, space, [with_examples(space, frame, o) if batched else o.data for o in operands], batched


def with_examples(space: Any, frame: Frame, own: Operand) -> Any:
    """The array of an operand with an axis of examples."""
    if own.batched:
        return own.data
    return space.broadcast_to(space.expand_dims(own.data, axis=0), (frame.size, *own.data.shape))


def _concat(args: Sequence[Any], axis: int | None = 0) -> Any:
    if axis is None:
        return _concat([_reshape(x, (-1,)) for x in args], 0)
    frame, space, arrays, batched = _together(args)
    place = normalize_axis(axis, arrays[0].ndim - batched) + batched
    return frame.array(space.concat(arrays, axis=place), batched)


def _stack(args: Sequence[Any], axis: int = 0) -> Any:
    frame, space, arrays, batched = _together(args)
    place = normalize_axis(axis, arrays[0].ndim - batched + 1) + batched
    return frame.array(space.stack(arrays, axis=place), batched)


def _unstack(x: Any, axis: int = 0) -> tuple[Any, ...]:
    frame, (own,) = lowered((x,))
    place = normalize_axis(axis, own.ndim) + own.batched
    parts = beneath(frame, own.data).unstack(own.data, axis=place)
    return tuple(frame.array(part, own.batched) for part in parts)


def _repeat(x: Any, repeats: Any, axis: int | None = None) -> Any:
    frame, (own, count) = lowered((x, repeats))
    if count.batched:
        raise ArgumentError("vmap: how often to repeat differs by example, and so would the shapes")
    if own.batched and axis is None:
        return _repeat(_reshape(x, (-1,)), repeats, 0)
    place = axis if axis is None else normalize_axis(axis, own.ndim) + own.batched
    return frame.array(beneath(frame, own.data).repeat(own.data, count.data, axis=place), own.batched)


def _tile(x: Any, repetitions: Sequence[int]) -> Any:
    frame, (own,) = lowered((x,))
    space = beneath(frame, own.data)
    if not own.batched:
        return frame.array(space.tile(own.data, repetitions), False)
    size, *rest = own.data.shape
    times = (*(1,) * (own.ndim - len(repetitions)), *repetitions)
    data = space.reshape(own.data, (size, *(1,) * (len(times) - own.ndim), *rest))
    return frame.array(space.tile(data, (1, *times)), True)


# --- new arrays -------------------------------------------------------------------------------------------------------


def _new(name: str) -> Function:
    """An array that a body makes: the same for all examples."""

    def call(*args: Any, device: Any = None, **kwargs: Any) -> Any:
        frame = device.frame if isinstance(device, Place) else innermost()
        while isinstance(device, Place):  # that of the array with numbers
            device = device.device
        options = kwargs if device is None else kwargs | {"device": device}
        return frame.array(getattr(frame.backend.xp, name)(*args, **options), False)

    return call


def _new_like(name: str) -> Function:
    def call(x: Any, *args: Any, **kwargs: Any) -> Any:
        frame, (own,) = lowered((x,))
        data = getattr(beneath(frame, own.data), name)(own.data, *args, **kwargs)
        return frame.array(data, own.batched)

    return call


def _asarray(x: Any, dtype: Any = None, copy: bool | None = None, **_: Any) -> Any:
    if not hasattr(x, "dtype"):
        return _new("asarray")(x, dtype=dtype)
    frame, (own,) = lowered((x,))
    options = {} if copy is None else {"copy": copy}
    data = beneath(frame, own.data).asarray(own.data, dtype=dtype, **options)
    return frame.array(data, own.batched)


# --- to be continued in `indexing` and `products` ---------------------------------------------------------------------

FUNCTIONS: dict[str, Function] = {name: _elementwise(name) for name in ELEMENTWISE} | {
    "in_place": _in_place,
    "astype": _unchanged("astype"),
    "tril": _unchanged("tril"),
    "triu": _unchanged("triu"),
    "matrix_transpose": _unchanged("matrix_transpose"),
    "roll": _roll,
    "flip": _flip,
    "reshape": _reshape,
    "permute_dims": _permute_dims,
    "moveaxis": _moveaxis,
    "expand_dims": _expand_dims,
    "squeeze": _squeeze,
    "broadcast_to": _broadcast_to,
    "broadcast_arrays": _broadcast_arrays,
    "concat": _concat,
    "stack": _stack,
    "unstack": _unstack,
    "repeat": _repeat,
    "tile": _tile,
    "asarray": _asarray,
}
FUNCTIONS |= {
    name: _reduction(name)
    for name in ("sum", "prod", "max", "min", "mean", "any", "all", "argmax", "argmin", "count_nonzero")
}
FUNCTIONS |= {name: _along(name, None) for name in ("cumulative_sum", "cumulative_prod")}
FUNCTIONS |= {name: _along(name, -1) for name in ("sort", "argsort")}
FUNCTIONS |= {name: _new(name) for name in ("zeros", "ones", "empty", "full", "arange", "linspace", "eye")}
FUNCTIONS |= {name: _new_like(name) for name in ("zeros_like", "ones_like", "empty_like", "full_like")}
