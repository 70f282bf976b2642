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
from ..registry import backend_for
from .array import BatchedArray, Frame, Place, beneath, have_examples, innermost, lowered, of_frame

__all__ = ["FUNCTIONS", "aligned", "with_examples"]

Function = Callable[..., Any]


# --- one by one -------------------------------------------------------------------------------------------------------


def aligned(space: Any, operands: Sequence[BatchedArray]) -> tuple[list[Any], bool]:
    """Arrays that broadcast as their examples do, and whether there are any: those with fewer axes get more behind that
    of the examples."""
    arrays, most, batched, even = [], -1, False, True
    for o in operands:
        data = o.data
        ndim = getattr(data, "ndim", 0)
        if o.batched:
            batched = True
            ndim -= 1
        if ndim != most:
            even = even and most < 0
            most = max(most, ndim)
        arrays.append(data)
    if batched and not even:
        for i, o in enumerate(operands):
            if o.batched and o.data.ndim <= most:
                size, *rest = o.data.shape
                arrays[i] = space.reshape(o.data, (size, *(1,) * (most - len(rest)), *rest))
    return arrays, batched


def _elementwise(name: str) -> Function:
    def call(*args: Any, **kwargs: Any) -> Any:
        frame, operands = lowered(args)
        space = beneath(frame, operands)
        arrays, batched = aligned(space, operands)
        return frame.kind(getattr(space, name)(*arrays, **kwargs), batched, frame)

    return call


def _in_place(name: str, x: BatchedArray, other: Any) -> Any:
    """`x += other` and its like: in place where the result has the shape of what is there."""
    frame, (own, given) = lowered((x, other))
    if (given.batched and not own.batched) or given.ndim > own.ndim or x.frame is not frame:
        return FUNCTIONS[name](x, other)
    space = beneath(frame, [own, given])
    (_, value), _ = aligned(space, [own, given])
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
        own = of_frame(x)
        return own.like(getattr(own.beneath, name)(own.data, *args, **kwargs))

    return call


def _with_dtype(frame: Frame, options: dict[str, Any]) -> dict[str, Any]:
    """Options with the dtype as the array library beneath names it."""
    if options.get("dtype") is not None:
        options["dtype"] = frame.backend.xp.dtype(options["dtype"])
    return options


def _astype(x: Any, dtype: Any, *, copy: bool = True) -> Any:
    own = of_frame(x)
    return own.like(own.beneath.astype(own.data, own.frame.backend.xp.dtype(dtype), copy=copy))


# --- along axes -------------------------------------------------------------------------------------------------------


def _reduction(name: str) -> Function:
    def call(x: Any, axis: Any = None, keepdims: bool = False, **kwargs: Any) -> Any:
        own = of_frame(x)
        axes: Any = axis
        kwargs = _with_dtype(own.frame, kwargs) if kwargs else kwargs
        if own.batched:
            axes = tuple(a + 1 for a in normalize_axes(axis, own.ndim))
            if not axes and own.ndim == 0:  # of numbers: the sum of one is itself
                flat = own.beneath.reshape(own.data, (-1, 1))
                return own.like(getattr(own.beneath, name)(flat, axis=1, **kwargs))
            if name in ("argmax", "argmin", "count_nonzero") and len(axes) != 1:
                return _flat_reduction(name, own, axis, keepdims, kwargs)
            axes = axes[0] if len(axes) == 1 else axes
        data = getattr(own.beneath, name)(own.data, axis=axes, keepdims=keepdims, **kwargs)
        return own.like(data)

    return call


def _flat_reduction(name: str, own: BatchedArray, axis: Any, keepdims: bool, kwargs: Any) -> BatchedArray:
    """Over several axes, of a function that takes one: they are joined first."""
    space = own.beneath
    axes = normalize_axes(axis, own.ndim)
    stay = [a for a in range(own.ndim) if a not in axes]
    moved = space.permute_dims(own.data, (0, *(a + 1 for a in stay), *(a + 1 for a in axes)))
    kept = [own.shape[a] for a in stay]
    flat = space.reshape(moved, (own.data.shape[0], *kept, prod(own.shape[a] for a in axes)))
    data = getattr(space, name)(flat, axis=-1, **kwargs)
    if keepdims:
        data = space.reshape(data, (own.data.shape[0], *(1 if a in axes else n for a, n in enumerate(own.shape))))
    return own.like(data)


def _along(name: str, default: int | None) -> Function:
    """A function along one axis whose result has the same axes: scans and sorts."""

    def call(x: Any, *args: Any, axis: int | None = default, **kwargs: Any) -> Any:
        own = of_frame(x)
        place = normalize_axis(0 if axis is None else axis, own.ndim) + own.batched
        function = getattr(own.beneath, name)
        return own.like(function(own.data, *args, axis=place, **kwargs))

    return call


def _roll(x: Any, shift: Any, axis: Any = None) -> Any:
    own = of_frame(x)
    space = own.beneath
    if not own.batched:
        return own.like(space.roll(own.data, shift, axis=axis))
    if axis is None:
        flat = space.reshape(own.data, (own.data.shape[0], -1))
        return own.like(space.reshape(space.roll(flat, shift, axis=1), own.data.shape))
    axes = tuple(a + 1 for a in normalize_axes(axis, own.ndim))
    return own.like(space.roll(own.data, shift, axis=axes if isinstance(shift, tuple) else axes[0]))


def _flip(x: Any, axis: Any = None) -> Any:
    own = of_frame(x)
    axes = tuple(a + own.batched for a in normalize_axes(axis, own.ndim))
    return own.like(own.beneath.flip(own.data, axis=axes))


# --- shapes -----------------------------------------------------------------------------------------------------------


def _reshape(x: Any, shape: Any, copy: bool | None = None) -> Any:
    own = of_frame(x)
    lengths = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    if own.batched:
        if -1 in lengths:
            known = prod(n for n in lengths if n != -1)
            lengths = tuple((prod(own.shape) // known if known else 0) if n == -1 else n for n in lengths)
        lengths = (own.data.shape[0], *lengths)
    options = {} if copy is None else {"copy": copy}
    return own.like(own.beneath.reshape(own.data, lengths, **options))


def _permute_dims(x: Any, axes: Sequence[int]) -> Any:
    own = of_frame(x)
    order = tuple(axes)
    if own.batched:
        order = (0, *(normalize_axis(a, own.ndim) + 1 for a in axes))
    return own.like(own.beneath.permute_dims(own.data, order))


def _moveaxis(x: Any, source: Any, destination: Any) -> Any:
    own = of_frame(x)
    places = [tuple(a + own.batched for a in normalize_axes(given, own.ndim)) for given in (source, destination)]
    return own.like(own.beneath.moveaxis(own.data, *places))


def _expand_dims(x: Any, *args: int, axis: int = 0) -> Any:
    own = of_frame(x)
    place = normalize_axis(args[0] if args else axis, own.ndim + 1) + own.batched
    return own.like(own.beneath.expand_dims(own.data, axis=place))


def _squeeze(x: Any, axis: Any) -> Any:
    own = of_frame(x)
    axes = tuple(a + own.batched for a in normalize_axes(axis, own.ndim))
    return own.like(own.beneath.squeeze(own.data, axis=axes))


def _broadcast_to(x: Any, shape: Sequence[int]) -> Any:
    own = of_frame(x)
    space, lengths = own.beneath, tuple(shape)
    if own.batched:
        size, *rest = own.data.shape
        data = space.reshape(own.data, (size, *(1,) * (len(lengths) - own.ndim), *rest))
        return own.like(space.broadcast_to(data, (size, *lengths)))
    return own.like(space.broadcast_to(own.data, lengths))


def _broadcast_arrays(*args: Any) -> list[Any]:
    shape = np.broadcast_shapes(*(getattr(x, "shape", ()) for x in args))
    return [_broadcast_to(x, shape) for x in args]


def _together(args: Sequence[Any]) -> tuple[Frame, Any, list[Any], bool]:
    """Arrays for one function of several: if one has examples, all of them get some."""
    frame, operands = lowered(args)
    space, batched = beneath(frame, operands), have_examples(operands)
    return frame, space, [with_examples(space, frame, o) if batched else o.data for o in operands], batched


def with_examples(space: Any, frame: Frame, own: BatchedArray) -> Any:
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
    own = of_frame(x)
    place = normalize_axis(axis, own.ndim) + own.batched
    parts = own.beneath.unstack(own.data, axis=place)
    return tuple(own.like(part) for part in parts)


def _repeat(x: Any, repeats: Any, axis: int | None = None) -> Any:
    _, (own, count) = lowered((x, repeats))
    if count.batched:
        raise ArgumentError("vmap: how often to repeat differs by example, and so would the shapes")
    if own.batched and axis is None:
        return _repeat(_reshape(x, (-1,)), repeats, 0)
    place = axis if axis is None else normalize_axis(axis, own.ndim) + own.batched
    return own.like(own.beneath.repeat(own.data, count.data, axis=place))


def _tile(x: Any, repetitions: Sequence[int]) -> Any:
    own = of_frame(x)
    space = own.beneath
    if not own.batched:
        return own.like(space.tile(own.data, repetitions))
    size, *rest = own.data.shape
    times = (*(1,) * (own.ndim - len(repetitions)), *repetitions)
    data = space.reshape(own.data, (size, *(1,) * (len(times) - own.ndim), *rest))
    return own.like(space.tile(data, (1, *times)))


# --- new arrays -------------------------------------------------------------------------------------------------------


def _new(name: str) -> Function:
    """An array that a body makes: the same for all examples."""

    def call(*args: Any, device: Any = None, **kwargs: Any) -> Any:
        frame = device.frame if isinstance(device, Place) else innermost()
        while isinstance(device, Place):  # that of the array with numbers
            device = device.device
        options = _with_dtype(frame, kwargs if device is None else kwargs | {"device": device})
        backend = backend_for("meta") if device == "meta" else frame.backend  # a twin of the tape is walked on shapes
        return frame.array(getattr(backend.xp, name)(*args, **options), False)

    return call


def _new_like(name: str) -> Function:
    def call(x: Any, *args: Any, **kwargs: Any) -> Any:
        own = of_frame(x)
        data = getattr(own.beneath, name)(own.data, *args, **_with_dtype(own.frame, kwargs))
        return own.like(data)

    return call


def _asarray(x: Any, dtype: Any = None, copy: bool | None = None, **_: Any) -> Any:
    if not hasattr(x, "dtype"):
        return _new("asarray")(x, dtype=dtype)
    own = of_frame(x)
    options = {"dtype": dtype} | ({} if copy is None else {"copy": copy})
    return own.like(own.beneath.asarray(own.data, **_with_dtype(own.frame, options)))


# --- the table; `indexing` and `products` have their own --------------------------------------------------------------

FUNCTIONS: dict[str, Function] = {name: _elementwise(name) for name in ELEMENTWISE} | {
    "in_place": _in_place,
    "astype": _astype,
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
