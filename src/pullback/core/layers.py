"""Second floor: which module of a net a computation is in."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Layers"]


class Layers:
    """The dotted names of modules as they are called: "MLP", "MLP.layers.0"; a second MLP is "MLP 2"."""

    def __init__(self) -> None:
        self._modules: list[Any] = []  # kept: the name of a module holds as long as it lives
        self._names: dict[int, str] = {}
        self._roots: dict[str, int] = {}
        self._stack: list[str] = []

    @property
    def current(self) -> str:
        """The innermost module that is being called; empty outside of all."""
        return self._stack[-1] if self._stack else ""

    @contextmanager
    def calling(self, module: Any) -> Iterator[None]:
        """Around the call of a module."""
        self._stack.append(self.name_of(module))
        try:
            yield
        finally:
            self._stack.pop()

    def name_of(self, module: Any) -> str:
        """The name of a module that is called now, or was."""
        if id(module) not in self._names:
            self._name(module)
        return self._names[id(module)]

    def _name(self, module: Any) -> None:
        """Name a module that is inside of no other that was called, and all inside of it."""
        kind = type(module).__name__
        number = self._roots[kind] = self._roots.get(kind, 0) + 1
        root = kind if number == 1 else f"{kind} {number}"
        for name, inside in module.named_modules().items():
            self._modules.append(inside)
            self._names.setdefault(id(inside), f"{root}.{name}" if name else root)
