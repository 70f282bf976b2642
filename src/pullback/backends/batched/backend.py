"""The backend of arrays of many examples: ops, rules and walks run on them as on one example."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import MethodType, SimpleNamespace
from typing import Any

import numpy as np

from ...errors import ArgumentError
from ..base import Backend, Namespace, isdtype
from ..native import CONSTANTS
from ..registry import BACKENDS, backend_for
from . import functions, indexing, products
from .array import BatchedArray, Frame, Inside, frame_among, have_examples, innermost, leaked, lowered, numbers
from .array import beneath as space_beneath
from .current import current_frame, within

__all__ = ["BatchedBackend", "batched_backend"]

FUNCTIONS = functions.FUNCTIONS | indexing.FUNCTIONS | products.FUNCTIONS


def _to_numpy(x: BatchedArray) -> Any:
    here = current_frame()
    while here is not None and here is not x.frame:
        here = here.outer
    if here is None:
        raise leaked()
    if not x.batched:
        return BACKENDS[x.data.__class__].to_numpy(x.data)
    raise ArgumentError(
        f"vmap: the numbers of {x.frame.size} examples are asked for where the function sees one; "
        "branch by pb.where, and read results outside"
    )


def _any_example(x: BatchedArray) -> Any:
    found = numbers(x)
    return bool(found) if BACKENDS[found.__class__].absorbs else found.any()


FUNCTIONS |= {"to_numpy": _to_numpy, "any_example": _any_example}


def _stayed(x: BatchedArray, device: str, source: str) -> BatchedArray:
    """`x`, if that is where it is."""
    if device != source:
        raise ArgumentError(f"vmap: an array cannot go from {source} to {device} inside; move it before")
    return x


def _in_its_frame(run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`run(*args, **kwargs)` where new arrays belong to the frame of its arrays: walks may run outside of all."""
    frame = frame_among(args)
    if frame is None or frame is current_frame():
        return run(*args, **kwargs)
    with within(frame):
        return run(*args, **kwargs)


def _on_all_examples(known: Any, *args: Any, **kwargs: Any) -> Any:
    """An elementwise op of all examples at once, as it runs on the arrays beneath: fused, where it is there."""
    count, run, beneath = known
    if len(args) < count:
        return run(*args, **kwargs)
    frame, operands = lowered(args[:count])
    kind: Any = None
    for o in operands:
        if not isinstance(o.data, complex | float | int | np.generic):
            if kind not in (None, o.data.__class__):  # of two devices
                return run(*args, **kwargs)
            kind = o.data.__class__
    if kind is None:  # numbers alone, as NumPy's sums of all are
        return run(*args, **kwargs)
    arrays, batched = functions.aligned(space_beneath(frame, operands), operands)
    return frame.kind(beneath(kind)(*arrays, *args[count:], **kwargs), batched, frame)


def _by_rule(known: Any, *args: Any, **kwargs: Any) -> Any:
    """An op of all examples at once, as its batching rule says, with the ops on the arrays beneath."""
    rule, names, inputs, run, beneath = known
    given = dict(zip(names, args, strict=False)) | kwargs
    arrays = {name: x for name in inputs if hasattr(x := given.get(name), "dtype") or isinstance(x, BatchedArray)}
    frame, operands = lowered([*arrays.values()])
    kinds = {np.ndarray if isinstance(o.data, np.generic) else o.data.__class__ for o in operands}
    if len(kinds) != 1 or not have_examples(operands):
        return run(*args, **kwargs)
    space = space_beneath(frame, operands)
    for name, o in zip(arrays, operands, strict=True):
        given[name] = functions.with_examples(space, frame, o)
    found = rule(beneath(*kinds), **given)
    return run(*args, **kwargs) if found is None else _of_examples(frame, found)


def _of_examples(frame: Frame, found: Any) -> Any:
    """Arrays with examples, and tuples of them, as those of a frame."""
    return tuple([_of_examples(frame, x) for x in found]) if found.__class__ is tuple else frame.array(found, True)


class BatchedBackend(Backend):
    """Arrays of many examples that look like one. They stand beside arrays of any device, which all examples share."""

    name = "batched"

    def __init__(self, level: int) -> None:
        self.rank = 1 + level
        kind = type(f"BatchedArray{level}", (BatchedArray,), {"__slots__": ()})
        self.array_types = (kind,)
        self.xp = Namespace(
            SimpleNamespace(**CONSTANTS), **FUNCTIONS, linalg=products.linalg, dtype=np.dtype, isdtype=isdtype
        )

    def asarray(self, data: Any, dtype: Any = None, device: str | None = None, copy: bool | None = None) -> Any:
        if hasattr(data, "dtype") and dtype is None and copy is None:
            return data  # functions take what all examples share as it is
        return FUNCTIONS["asarray"](data, dtype=dtype, copy=copy)

    def joined(self, array: Any, node: Any, other: Any) -> tuple[Any, Any]:
        frame: Frame = other.frame  # not the innermost: walks go through frames that were left
        return frame.join(frame, array, node)

    def fused(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        return MethodType(_in_its_frame, _stayed if name == "to_device" else plain)

    def elementwise(
        self, count: int, run: Callable[..., Any], beneath: Callable[[type], Callable[..., Any]]
    ) -> Callable[..., Any]:
        return MethodType(_on_all_examples, (count, run, beneath))

    def by_rule(
        self, batching: Callable[..., Any], names: Sequence[str], inputs: Sequence[str], run: Callable[..., Any],
        beneath: Callable[[type], Any],
    ) -> Callable[..., Any]:  # fmt: skip
        return MethodType(_by_rule, (batching, names, inputs, run, beneath))

    def to_numpy(self, array: Any) -> np.ndarray:
        found: np.ndarray = _to_numpy(array)
        return found

    def shown(self, array: Any, prefix: str) -> str:
        return f"one of {array.frame.size} examples, shape={array.shape}"

    def inspected(self, array: Any) -> np.ndarray:
        found = numbers(array)
        return BACKENDS[found.__class__].inspected(found)

    def to_dlpack(self, array: Any, **options: Any) -> Any:
        return self.to_numpy(array).__dlpack__(**options)

    def holder(self, values: Sequence[Any]) -> Backend:
        return (frame_among(values) or innermost()).backend

    def device_of(self, array: Any) -> str:
        return str(array.frame.backend.device_of(numbers(array)))

    def on(self, device: str | None) -> Any:
        return (innermost().backend if device is None else backend_for(device)).on(device)

    @contextmanager
    def walking(self, array: Any) -> Iterator[None]:
        here = current_frame()
        stays = here is not None and array.frame in here.chain  # a walk inside of the array's frame
        with within(here if stays else array.frame), array.frame.backend.walking(numbers(array)):
            yield

    def beside(self, array: Any) -> Any:
        return Inside(array.frame, self.xp)

    def nonfinite(self, arrays: Any) -> Any:
        return arrays[0].frame.backend.nonfinite([numbers(x) for x in arrays])


@cache
def batched_backend(level: int) -> BatchedBackend:
    """The backend of arrays of a level; an inner one takes those of outer ones along."""
    made = BatchedBackend(level)
    BACKENDS[made.array_types[0]] = made
    return made


BatchedArray.call = staticmethod(lambda name, *args: FUNCTIONS[name](*args))
BatchedArray.space = batched_backend(1).xp
