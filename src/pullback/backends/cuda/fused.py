"""The ops that run as kernels here, by name."""

import os
from collections.abc import Callable
from types import MethodType
from typing import Any, TypeVar

__all__ = ["FUSED", "bound", "fused"]

FUSED: dict[str, Callable[..., Any]] = {}
enabled = os.environ.get("PULLBACK_KERNELS", "on").lower() not in ("off", "0", "false", "no")

F = TypeVar("F", bound=Callable[..., Any])


def fused(function: F) -> F:
    """Make `function(plain, *args, **kwargs)` what runs the op of its name, where the kernels are on.

    `plain` is the op's body with its namespace bound and takes the same arguments; what the kernel does not take (a
    dtype, a layout, a shape) is left to it.
    """
    FUSED[function.__name__] = function
    return function


def bound(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    """The fused function of an op bound to its plain body; the plain body where there is none, or kernels are off."""
    function = FUSED.get(name) if enabled else None
    return plain if function is None else MethodType(function, plain)  # `partial` takes longer
