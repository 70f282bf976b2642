"""An array of many examples that looks like one of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from types import SimpleNamespace
from typing import Any

from ...errors import ArgumentError
from ..base import Backend
from ..meta.metering import current_meter
from ..native import NativeArray
from ..registry import BACKENDS
from .current import current_frame, within

__all__ = [
    "BatchedArray", "Frame", "Inside", "Place", "as_of", "beneath", "frame_among", "frame_of", "have_examples",
    "innermost", "leaked", "lowered", "numbers", "of_frame",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Frame:
    """One call of `vmap`.

    Attributes:
        size: How many examples there are.
        level: How many calls of `vmap` it is inside of.
        outer: The frame around it, or None.
        backend: Of the arrays with numbers, beneath all frames.
        kind: The class of its arrays: each level has one, so that an array of an outer frame is seen to be another's.
        join: An array from outside of it and its node of the tape -> the same inside, shared by all examples.
        twin_of: The frame that this one stands for where a mapped walk goes through it: the walk's frame is around it
            then. Arrays of both may meet; those of the first are the same for all examples of the walk.
    """

    size: int
    level: int
    outer: "Frame | None"
    backend: Backend
    kind: type["BatchedArray"]
    join: Callable[["Frame", Any, Any], tuple[Any, Any]]
    twin_of: "Frame | None" = None

    @property
    def origin(self) -> "Frame":
        """The frame itself, or that which it is a twin of."""
        return self.twin_of or self

    @property
    def chain(self) -> "list[Frame]":
        """The frame and those around it."""
        found: list[Frame] = []
        frame: Frame | None = self
        while frame is not None:
            found.append(frame)
            frame = frame.outer
        return found

    def owns(self, x: Any) -> bool:
        """Whether `x` is an array of this frame or of a twin."""
        return isinstance(x, BatchedArray) and x.frame.origin is self.origin

    def array(self, data: Any, batched: bool) -> "BatchedArray":
        """An array of this frame."""
        return self.kind(data, batched, self)


class Inside:
    """A namespace whose new arrays belong to a frame, wherever its functions are called."""

    def __init__(self, frame: Frame, space: Any) -> None:
        self._frame, self._space = frame, space

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._space, name)
        if isinstance(found, SimpleNamespace):
            return Inside(self._frame, found)
        if not callable(found) or isinstance(found, type):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            with within(self._frame):
                return found(*args, **kwargs)

        return call


@dataclass(frozen=True)
class Place:
    """A device, and the frame that arrays made there belong to."""

    frame: Frame
    device: Any


class BatchedArray(NativeArray):
    """An array of `frame`: `data` with the examples along its first axis or, where all are the same, one of them.

    Shape, dtype and layout are those of one example.
    """

    __slots__ = ("__weakref__", "batched", "data", "frame")
    call: Callable[..., Any]  # `functions` gives both
    space: Any
    takes_others = True

    def __init__(self, data: Any, batched: bool, frame: Frame) -> None:
        self.data, self.batched, self.frame = data, batched, frame

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        shape: tuple[int, ...] = getattr(self.data, "shape", ())
        return shape[1:] if self.batched else shape

    @property
    def ndim(self) -> int:
        """Of one example."""
        ndim: int = getattr(self.data, "ndim", 0)  # of a Python number: a function may be given one
        return ndim - self.batched

    @property
    def size(self) -> int:
        """Of one example."""
        return prod(self.shape)

    @property
    def dtype(self) -> Any:
        """Of the numbers."""
        return self.data.dtype

    @property
    def beneath(self) -> Any:
        """The namespace of the array beneath: that of outer frames, or of the device."""
        return beneath(self.frame, (self,))

    def like(self, data: Any) -> "BatchedArray":
        """An array of the same frame, that has examples if this one does."""
        return self.__class__(data, self.batched, self.frame)

    @property
    def device(self) -> "Place":
        """Where arrays are made that stand beside this one."""
        return Place(self.frame, self.data.device)

    @property
    def base(self) -> Any:
        """What the array beneath is a view of, or None."""
        return getattr(self.data, "base", None)

    @property
    def mT(self) -> "BatchedArray":
        """The last two axes swapped."""
        return self.like(self.data.mT)

    @property
    def T(self) -> Any:
        """All axes reversed."""
        return self.call("permute_dims", self, tuple(reversed(range(self.ndim))))

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"BatchedArray({self.frame.size} x {self.shape}, {self.dtype})"

    def __reduce__(self) -> Any:
        raise ArgumentError("vmap: an array of examples cannot be copied or pickled where the function sees one")

    def __bool__(self) -> bool:
        """Whether it holds of any example: bodies of ops look at numbers only to refuse them."""
        return bool(self.call("any_example", self))

    def __float__(self) -> float:
        if self.batched:
            raise ArgumentError("vmap: a number that differs by example is needed as a Python number")
        return float(self.data)


def of_frame(x: Any) -> BatchedArray:
    """`x`, or what all examples of the innermost frame share."""
    return x if isinstance(x, BatchedArray) else innermost().array(x, False)


def lowered(args: Sequence[Any]) -> tuple[Frame, list[BatchedArray]]:
    """The innermost frame that arguments are of, and all of them as arrays of it; Python numbers too.

    Raises ArgumentError if one is of another call of `vmap` that this one is not inside of.
    """
    frame = frame_of(args) or innermost()
    kind = frame.kind
    return frame, [
        (x if x.frame is frame else as_of(frame, x)) if isinstance(x, BatchedArray) else kind(x, False, frame)
        for x in args
    ]


def frame_of(args: Sequence[Any]) -> Frame | None:
    """The innermost frame that arguments are of."""
    frame = None
    for x in args:
        if isinstance(x, BatchedArray) and (frame is None or x.frame.level > frame.level):
            frame = x.frame
    return frame


def frame_among(values: Sequence[Any]) -> Frame | None:
    """The same, where arrays may stand in lists too."""
    frame = frame_of(values)
    for given in values:
        if isinstance(given, list | tuple):
            inner = frame_of(given)
            if inner is not None and (frame is None or inner.level > frame.level):
                frame = inner
    return frame


def as_of(frame: Frame, x: Any) -> BatchedArray:
    """`x` as an array of `frame`: it is one, or all examples share it."""
    if not isinstance(x, BatchedArray):
        return frame.kind(x, False, frame)
    if x.frame is frame:
        return x
    if frame.owns(x):
        return frame.kind(x.data, x.batched, frame)
    if x.frame.level >= frame.level:
        raise leaked()
    return frame.kind(x, False, frame)


def innermost() -> Frame:
    """The frame of this thread and async context. Raises ArgumentError where there is none."""
    frame = current_frame()
    if frame is None:
        raise leaked()
    return frame


def leaked() -> ArgumentError:
    """The error for an array that outlived the frame it is of."""
    return ArgumentError(
        "vmap: an array of examples is used outside of the function that was mapped; return it from there"
    )


def have_examples(operands: Sequence[BatchedArray]) -> bool:
    """Whether any of them differs by example."""
    for o in operands:  # noqa: SIM110 - `any` takes three times as long
        if o.batched:
            return True
    return False


def numbers(x: Any) -> Any:
    """The array with numbers beneath all frames."""
    while isinstance(x, BatchedArray):
        x = x.data
    return x


def beneath(frame: Frame, operands: Sequence[BatchedArray]) -> Any:
    """The namespace in which what stands beneath operands meets: that of outer frames, or of the device."""
    if frame.outer is not None and any(isinstance(o.data, BatchedArray) for o in operands):
        return Inside(frame.outer, BatchedArray.space)
    if current_meter() is not None and not frame.backend.absorbs:  # what runs again here has numbers
        for o in operands:
            if hasattr(o.data, "shape") and BACKENDS[o.data.__class__].absorbs:
                return BACKENDS[o.data.__class__].xp
    return frame.backend.xp
