"""Where arrays live. A backend is found by the class of an array or by the name of a device; nothing above this floor
names NumPy or CuPy."""

from .base import Backend, Namespace
from .registry import (
    BACKENDS,
    backend_for,
    canonical_dtype,
    default_dtype,
    device_kinds,
    is_floating,
    register,
    set_default_dtype,
)

__all__ = [
    "BACKENDS",
    "Backend",
    "Namespace",
    "backend_for",
    "canonical_dtype",
    "default_dtype",
    "device_kinds",
    "is_floating",
    "register",
    "set_default_dtype",
]
