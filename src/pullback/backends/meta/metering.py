"""Who is told of the work that arrays without numbers stand for.

It is the work of the bodies of ops as they are written, each native function they call by itself: reads of every number
of its operands once (those along a broadcast axis are one), and writes of its results. Not told are temporaries inside
one native function, and what a backend saves by fused kernels. Views cost nothing, and filling a new array reads
nothing. Choosing at positions reads the positions and each number chosen. Memory lives as long as arrays of it do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["Meter", "current_meter", "metering"]


class Meter:
    """What is told of work; a method that is left as it is does not listen. All numbers are exact Python integers."""

    def work(self, name: str, flops: int, multiply_adds: int, read: int, written: int) -> None:
        """A native function ran, with so many floating-point operations, of which two for each multiply-add of a
        product of matrices are counted; it read and wrote so many bytes of arrays."""

    def allocate(self, nbytes: int, shape: tuple[int, ...] = ()) -> None:
        """A new buffer, for an array of this shape."""

    def release(self, nbytes: int) -> None:
        """The last array of a buffer is gone."""

    def enter(self, name: str) -> None:
        """What follows belongs to the op `name`."""

    def leave(self) -> None:
        """The op that was entered last is done."""


_current: ContextVar[Meter | None] = ContextVar("meter", default=None)
current_meter = _current.get


@contextmanager
def metering(meter: Meter | None) -> Iterator[None]:
    """A context (of this thread and async context) in which `meter` is told of all work; None: nobody is."""
    token = _current.set(meter)
    try:
        yield
    finally:
        _current.reset(token)
