"""The kernels that the launchers can launch, read off the launchers themselves."""

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

from pullback.backends import cuda


def launchers() -> Iterator[ModuleType]:
    """Modules of the CUDA backend that say which kernels they launch."""
    for found in pkgutil.iter_modules(cuda.__path__):
        module = importlib.import_module(f"{cuda.__name__}.{found.name}")
        if hasattr(module, "expressions"):
            yield module


def kernels() -> dict[str, list[str]]:
    """File -> name expressions of the kernels in it, sorted."""
    found: dict[str, set[str]] = {}
    for module in launchers():
        for file, expression in module.expressions():
            found.setdefault(file, set()).add(expression)
    return {file: sorted(expressions) for file, expressions in sorted(found.items())}
