"""Second floor: where a computation was written: the user's line, and the module that was being called."""

import contextlib
import linecache
import os.path
import sys
from contextvars import ContextVar, Token
from itertools import islice
from types import CodeType
from typing import Any

from .op import Op

__all__ = ["Call", "Line", "current_call", "file_of", "here", "input_name", "layer_of", "source_of"]

PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep
Line = tuple[CodeType, int] | None  # code and the place in it: the number of the line is looked up when it is asked for


class Call:
    """A context: the call of a module, inside of the call `outer` or of none."""

    __slots__ = ("module", "outer", "token")

    def __init__(self, module: Any) -> None:
        self.module, self.outer = module, _call.get()

    def __enter__(self) -> None:
        self.token: Token[Call | None] = _call.set(self)

    def __exit__(self, *_: object) -> None:
        _call.reset(self.token)


_call: ContextVar[Call | None] = ContextVar("call", default=None)
current_call = _call.get
"""The innermost call of a module in this thread and async context."""


def here() -> Line:
    """The innermost line of the caller's stack outside of this package."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE) and code.co_filename != contextlib.__file__:
            return code, frame.f_lasti
        frame = frame.f_back
    return None


def file_of(line: Line) -> tuple[str, int]:
    """The name of a file, and the number of the line in it; empty and 0 where it is not known."""
    if line is None:
        return "", 0
    code, place = line
    return code.co_filename, next(islice(code.co_positions(), place // 2, None))[0] or code.co_firstlineno


def source_of(line: Line) -> str:
    """`file.py:31: the text of the line`."""
    if line is None:
        return "a line that is not known"
    name, number = file_of(line)
    text = linecache.getline(name, number).strip()
    return f"{name}:{number}" + (f": {text}" if text else "")


def layer_of(call: Call | None) -> str:
    """The module in words: its dotted name in the outermost module that was called, and the classes of both."""
    if call is None:
        return ""
    root, kind = call, type(call.module).__name__
    while root.outer is not None:
        root = root.outer
    names = {id(module): name for name, module in root.module.named_modules().items()}
    name = names.get(id(call.module), "")
    return f"{name} ({kind} in {type(root.module).__name__})" if name else kind


def input_name(op: Op, position: int) -> str:
    """The name of the input at a position among the parents of an equation."""
    return f"{op.sequence}[{position}]" if op.sequence else op.inputs[min(position, len(op.inputs) - 1)]
