"""An array of many examples that looks like one of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from ...errors import ArgumentError
from ..base import Backend
from ..native import NativeArray

__all__ = ["BatchedArray", "Frame", "Operand", "Place", "beneath", "innermost", "leaked", "lowered", "within"]


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
    """

    size: int
    level: int
    outer: "Frame | None"
    backend: Backend
    kind: type["BatchedArray"]
    join: Callable[["Frame", Any, Any], tuple[Any, Any]]

    def array(self, data: Any, batched: bool) -> "BatchedArray":
        """An array of this frame."""
        return self.kind(data, batched, self)


_frame: ContextVar[Frame | None] = ContextVar("frame", default=None)
current_frame = _frame.get
"""The innermost call of `vmap` in this thread and async context: what arrays that a body makes belong to."""


@contextmanager
def within(frame: Frame) -> Iterator[None]:
    """A context in which `frame` is the innermost."""
    token = _frame.set(frame)
    try:
        yield
    finally:
        _frame.reset(token)


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

    def __init__(self, data: Any, batched: bool, frame: Frame) -> None:
        self.data, self.batched, self.frame = data, batched, frame

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        shape: tuple[int, ...] = self.data.shape
        return shape[1:] if self.batched else shape

    @property
    def ndim(self) -> int:
        """Of one example."""
        return int(self.data.ndim) - self.batched

    @property
    def size(self) -> int:
        """Of one example."""
        return int(self.data.size) // (self.data.shape[0] or 1) if self.batched else int(self.data.size)

    @property
    def dtype(self) -> Any:
        """Of the numbers."""
        return self.data.dtype

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
        return self.frame.array(self.data.mT, self.batched)

    @property
    def T(self) -> Any:
        """All axes reversed."""
        return self.call("permute_dims", self, tuple(reversed(range(self.ndim))))

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"BatchedArray({self.frame.size} x {self.shape}, {self.dtype})"

    def __bool__(self) -> bool:
        """Whether it holds of any example: bodies of ops look at numbers only to refuse them."""
        return bool(self.call("any_example", self))

    def __float__(self) -> float:
        if self.batched:
            raise ArgumentError("vmap: a number that differs by example is needed as a Python number")
        return float(self.data)


@dataclass(slots=True)
class Operand:
    """What a function of the namespace beneath takes: `data`, with the examples along axis 0 if `batched`."""

    data: Any
    batched: bool

    @property
    def ndim(self) -> int:
        """Of one example."""
        return getattr(self.data, "ndim", 0) - self.batched

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        return tuple(getattr(self.data, "shape", ()))[int(self.batched) :]


def lowered(args: Sequence[Any], frame: Frame | None = None) -> tuple[Frame, list[Operand]]:
    """The innermost frame that arguments are of (if it is not given), and each as it stands beneath."""
    if frame is None:
        frames = [x.frame for x in args if isinstance(x, BatchedArray)]
        frame = max(frames, key=lambda frame: frame.level) if frames else innermost()
    return frame, [
        Operand(x.data, x.batched) if isinstance(x, BatchedArray) and x.frame is frame else Operand(x, False)
        for x in args
    ]


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


def beneath(frame: Frame, *arrays: Any) -> Any:
    """The namespace in which arrays without this frame meet: that of outer frames, or of the device."""
    if any(isinstance(x, BatchedArray) for x in arrays):
        return BatchedArray.space
    return frame.backend.xp
