"""The innermost call of `vmap`, for those who need no more of it than that."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

__all__ = ["current_frame", "within"]

_frame: ContextVar[Any] = ContextVar("frame", default=None)
current_frame = _frame.get
"""The innermost call of `vmap` in this thread and async context, a `Frame` or None: new arrays belong to it."""


@contextmanager
def within(frame: Any) -> Iterator[None]:
    """A context in which `frame` is the innermost; None: there is none."""
    token = _frame.set(frame)
    try:
        yield
    finally:
        _frame.reset(token)
