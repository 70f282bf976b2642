"""vmap: a function of one example, mapped over many at once."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from typing import Any

from .. import trees
from ..backends import BACKENDS, backend_for
from ..backends.batched.array import BatchedArray, Frame, as_of, leaked, numbers
from ..backends.batched.backend import batched_backend
from ..backends.batched.current import current_frame
from ..backends.meta.metering import current_meter
from ..core.op import ARRAYS, TENSORS, Array, Op
from ..core.recording import recording
from ..core.tape import equation
from ..core.tensor import Tensor, asarray
from ..errors import ArgumentError, DeviceError, ShapeError
from ..shapes import normalize_axis
from .trace import as_it_was, require_function

__all__ = ["new_frame", "vmap"]


# --- into a frame and out of it ---------------------------------------------------------------------------------------
# Both are linear. A cotangent of an array that all examples share is the sum of what the examples give it.


def _moved(array: Any, source: int, destination: int) -> Any:
    return (
        array if source == destination else BACKENDS[array.__class__].beside(array).moveaxis(array, source, destination)
    )


def _enter(x: Any, axis: int | None, frame: Frame) -> Any:
    frame = _around(x, frame)
    x = _on_its_device(x, frame)
    return frame.array(x, False) if axis is None else frame.array(_moved(x, axis, 0), True)


def _around(x: Any, frame: Frame) -> Frame:
    """`frame`, or its twin in the frame of `x`, where `x` comes from a mapped walk."""
    if not isinstance(x, BatchedArray):
        owner = BACKENDS[x.__class__]
        if owner.absorbs and not frame.backend.absorbs and current_meter() is not None:  # a walk on shapes alone
            return replace(frame, backend=owner, twin_of=frame.origin)
        return frame
    if x.frame is frame.outer:
        return frame
    here = current_frame()
    walks = () if here is None else here.chain
    if not any(around.owns(x) for around in walks) and not (frame.outer is not None and frame.outer.owns(x)):
        raise leaked()
    level, backend = x.frame.level + 1, x.frame.backend if x.frame.backend.absorbs else frame.backend
    kind = batched_backend(level).array_types[0]
    return replace(frame, level=level, outer=x.frame, backend=backend, kind=kind, twin_of=frame.origin)


def _on_its_device(x: Any, frame: Frame) -> Any:
    """An array from around the frame, where the arrays of the frame are."""
    if isinstance(x, BatchedArray):
        return x
    owner = BACKENDS[x.__class__]
    if owner is frame.backend:
        return x
    if owner.rank < frame.backend.rank:
        return frame.backend.asarray(x)
    raise DeviceError(
        f"vmap: an array on {owner.device_of(x)} meets examples on {frame.backend.name}; move one of them with .to()"
    )


def _leave(x: Any, axis: int, frame: Frame) -> Any:
    """All examples of an array of the frame, along `axis`: an array of the frame around it, where there is one."""
    if not frame.owns(x):
        x = _enter(x, None, frame)
    outer = x.frame.outer
    if x.batched:
        data = _moved(x.data, 0, axis)
    else:
        space = BACKENDS[x.data.__class__].beside(x.data)
        shape = (*x.data.shape[:axis], frame.size, *x.data.shape[axis:])
        data = space.broadcast_to(space.expand_dims(x.data, axis=axis), shape)
    return data if outer is None else as_of(outer, data)


def vmap_enter(xp: Any, x: Array, axis: int | None, frame: Frame) -> Any:
    """The body of `ENTER`: an array of examples along `axis`, or one that all share, as one example sees it."""
    return _enter(x, axis, frame)


def vmap_leave(xp: Any, x: Array, axis: int, frame: Frame) -> Any:
    """The body of `LEAVE`: all examples, along `axis`."""
    return _leave(x, axis, frame)


def _entering(xp: Any, g: Any, axis: int | None, frame: Frame) -> Any:
    return entered(g, axis, frame) if xp is TENSORS else _enter(g, axis, frame)


def _leaving(xp: Any, g: Any, axis: int, frame: Frame) -> Any:
    return left(g, axis, frame) if xp is TENSORS else _leave(g, axis, frame)


def _pull_of_enter(xp: Any, g: Any, axis: int | None, frame: Frame) -> Any:
    if axis is not None:
        return _leaving(xp, g, axis, frame)
    out = _leaving(xp, g, 0, frame)
    return (xp if xp is TENSORS else ARRAYS[out.__class__]).sum(out, axis=0)


ENTER = Op(vmap_enter, "op", [_pull_of_enter], [_entering], is_view=True)
LEAVE = Op(vmap_leave, "op", [_entering], [_leaving], is_view=True)


def _between(x: Any, source: Frame, target: Frame) -> Any:
    """An array of `source`, or of a twin of it in a walk that goes on, as one of `target`, a twin of `source`.

    The examples of a frame that is only around the source are added up, those of one only around the target share it.
    """
    if not source.owns(x):
        x = _enter(x, None, source)
    ours, theirs = ({f.origin for f in frame.chain} for frame in (source, target))
    frames: list[Frame] = x.frame.chain
    for frame in frames:
        x = _leave(x, 0, frame)
    frames.reverse()  # so do the first axes stand
    if gone := tuple(i for i, f in enumerate(frames) if f.origin in ours - theirs):
        x = ARRAYS[x.__class__].sum(x, axis=gone)
    for frame in frames:
        if frame.origin not in ours:
            x = _enter(x, 0, frame)
    for frame in reversed(target.chain):
        x = _enter(x, 0 if frame.origin in ours else None, frame)
    return x


def vmap_between(xp: Any, x: Array, source: Frame, target: Frame) -> Any:
    """The body of `BETWEEN`."""
    return _between(x, source, target)


def _pull_of_between(xp: Any, g: Any, source: Frame, target: Frame) -> Any:
    return _twin(g, target, source) if xp is TENSORS else _between(g, target, source)


def _push_of_between(xp: Any, t: Any, source: Frame, target: Frame) -> Any:
    return _twin(t, source, target) if xp is TENSORS else _between(t, source, target)


BETWEEN = Op(vmap_between, "op", [_pull_of_between], [_push_of_between])


def _crossed(op: Op, x: Tensor, data: Any, **given: Any) -> Tensor:
    """A tensor of `data`, which `op` made of `x` with the parameters `given`."""
    if x.node is None or not recording():
        return Tensor(data)
    saved = tuple([given[name] for name in op.saves])
    return Tensor(data, equation(op, (x.node,), saved, (None, (data.shape, data.dtype))))


def _twin(x: Tensor, source: Frame, target: Frame) -> Tensor:
    """A tensor of a frame as one of its twin."""
    if not source.owns(x.data):
        x = shared(x, source)
    data = _between(x.data, source, target)
    return _crossed(BETWEEN, x, data, source=x.data.frame, target=data.frame)


def entered(x: Tensor, axis: int | None, frame: Frame) -> Tensor:
    """`x` as a tensor of one example: its examples stand along `axis`; None: all share it.

    Where it comes from a walk that goes on inside of the frame around, it enters a twin around which the walk is.
    """
    outer = frame.outer
    if outer is not None and not (
        isinstance(x.data, BatchedArray) and any(f.origin is outer.origin for f in x.data.frame.chain)
    ):
        x = shared(x, outer)
    data = _enter(x.data, axis, frame)
    return _crossed(ENTER, x, data, axis=axis, frame=data.frame)


def shared(x: Tensor, frame: Frame) -> Tensor:
    """`x`, from around a frame or from one that it is a twin of, as a tensor of this frame and no other.

    It goes through all frames between: each adds up the cotangents of its examples.
    """
    if isinstance(x.data, BatchedArray) and frame.owns(x.data):
        return x if x.data.frame is frame else _twin(x, x.data.frame, frame)
    if frame.outer is not None:
        x = shared(x, frame.outer)
    return _crossed(ENTER, x, _enter(x.data, None, frame), axis=None, frame=frame)


def left(x: Tensor, axis: int, frame: Frame) -> Tensor:
    """The tensor of all examples of `x`, along `axis`."""
    if not frame.owns(x.data):
        x = shared(x, frame)
    return _crossed(LEAVE, x, _leave(x.data, axis, frame), axis=axis, frame=x.data.frame)


def _joined(frame: Frame, array: Any, node: Any) -> tuple[Any, Any]:
    made = shared(Tensor(array, node), frame)
    return made.data, made.node


def new_frame(size: int, like: Any) -> Frame:
    """A frame inside of the innermost one, for raw arrays beside `like`; without numbers where someone meters."""
    outer = current_frame()
    level = 1 if outer is None else outer.level + 1
    backend = BACKENDS[numbers(like).__class__] if current_meter() is None else backend_for("meta")
    return Frame(size, level, outer, backend, batched_backend(level).array_types[0], _joined)


# --- the transform ----------------------------------------------------------------------------------------------------


def vmap(f: Callable[..., Any], in_axes: Any = 0, out_axes: Any = 0) -> Callable[..., Any]:
    """`f`, a function of one example, as a function of many: the ops inside do all of them in one call.

    Args:
        f: A function of trees of tensors to a tree of tensors.
        in_axes: Along which axis the examples stand: an int for all arguments, or a tuple with an entry for each, which
            is an int, None (all examples share the argument) or a tree of them that begins as the argument does.
        out_axes: Along which axis they stand in the results: an int, or a tree that begins as the result does.

    Keyword arguments, and tensors and arrays that f closes over, are shared by all examples; gradients go to them as
    the sum over examples. It nests with itself and with every transform: `vmap(grad(loss), in_axes=(None, 0, 0))` gives
    gradients by example. Random numbers that f draws are the same for all examples, masks of dropout too: where they
    shall differ draw them before and map over them. A branch on a number, and a shape that depends on numbers, are
    refused: they would differ by example.

    Raises (when called):
        ArgumentError: `in_axes` or `out_axes` do not fit, or name no axis of examples at all. ShapeError: arguments
        have other numbers of examples, or an axis that is not there.
    """
    require_function("vmap", f)

    @wraps(f)
    def mapped(*args: Any, **kwargs: Any) -> Any:
        flat, spec = trees.flatten(args)
        axes = _axes("in_axes", in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args), args, "arguments")
        tensors = [
            x if isinstance(x, Tensor) else asarray(x) if a is not None else x for x, a in zip(flat, axes, strict=True)
        ]
        size, like = _size(tensors, axes)
        frame = new_frame(size, like)
        given = [_given(x, a, frame) for x, a in zip(tensors, axes, strict=True)]
        beneath = numbers(like)
        owner = BACKENDS[beneath.__class__]
        with _inside(frame), owner.on(owner.device_of(beneath)):
            out = f(*trees.unflatten(spec, given), **kwargs)
        leaves, form = trees.flatten(out)
        places = _axes("out_axes", out_axes, out, "result")
        return trees.unflatten(form, [_result(x, a, frame) for x, a in zip(leaves, places, strict=True)])

    return mapped


@contextmanager
def _inside(frame: Frame) -> Iterator[None]:
    """A context in which arrays that are made belong to `frame`, and derivatives are by example."""

    def by_example(x: Tensor) -> Tensor:
        return shared(x, frame)

    with as_it_was((frame, by_example)):
        yield


def _given(x: Any, axis: int | None, frame: Frame) -> Any:
    if not isinstance(x, Tensor):
        return x
    return entered(x, axis if axis is None else _place("in_axes", axis, x.ndim), frame)


def _result(x: Any, axis: int | None, frame: Frame) -> Tensor:
    out = x if isinstance(x, Tensor) else asarray(x)
    if axis is None:
        if isinstance(out.data, BatchedArray) and out.data.frame is frame and out.data.batched:
            raise ArgumentError("vmap: out_axes is None for a result that differs by example")
        return left(out, 0, frame)[0]
    return left(out, _place("out_axes", axis, out.ndim + 1), frame)


def _axes(name: str, axes: Any, tree: Any, of: str) -> list[int | None]:
    """An axis for each leaf of `tree`, from a tree that begins as it does."""
    found: list[int | None] = []

    def spread(axis: Any, part: Any) -> None:
        if axis is None or (hasattr(axis, "__index__") and not isinstance(axis, bool)):
            found.extend([axis if axis is None else axis.__index__()] * len(trees.flatten(part)[0]))
            return
        if type(axis) is type(part) and isinstance(axis, dict) and axis.keys() == part.keys():
            for key in sorted(part):  # the order of leaves in a tree
                spread(axis[key], part[key])
            return
        if isinstance(axis, list | tuple) and isinstance(part, list | tuple) and len(axis) == len(part):
            for a, p in zip(axis, part, strict=True):
                spread(a, p)
            return
        raise ArgumentError(f"vmap: {name} {axes!r} does not fit the {of}; give an int, None, or a tree like it")

    spread(axes, tree)
    return found


def _place(name: str, axis: int, ndim: int) -> int:
    try:
        return normalize_axis(axis, ndim)
    except ShapeError as error:
        raise ShapeError(f"vmap: {name}: {error}") from None


def _size(tensors: Sequence[Any], axes: Sequence[int | None]) -> tuple[int, Any]:
    """How many examples there are, and an array of them."""
    sizes: dict[int, Any] = {}
    for x, axis in zip(tensors, axes, strict=True):
        if axis is not None:
            if x.ndim == 0:
                raise ShapeError("vmap: an argument of one number has no axis of examples; give None in in_axes")
            sizes.setdefault(x.shape[_place("in_axes", axis, x.ndim)], x.data)
    if len(sizes) > 1:
        raise ShapeError(f"vmap: arguments have {' and '.join(map(str, sizes))} examples; they must agree")
    if not sizes:
        raise ArgumentError("vmap: in_axes names no axis of examples; give an int for at least one argument")
    return next(iter(sizes.items()))
