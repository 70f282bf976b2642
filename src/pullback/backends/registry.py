"""Which backend owns an array or a device name, and the dtype that Python numbers become."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import DeviceError, DtypeError
from .base import Backend
from .numpy_backend import NumpyBackend

__all__ = [
    "BACKENDS",
    "backend_for",
    "canonical_dtype",
    "default_dtype",
    "device_kinds",
    "is_floating",
    "register",
    "set_default_dtype",
]

_INSTALL = "pip install 'pullback[cuda12]' or 'pullback[cuda13]', by the CUDA version of the driver"


class _ByClass(dict[type, Backend]):
    """Array class -> its backend; a class met for the first time is looked up among its bases."""

    def __missing__(self, kind: type) -> Backend:
        for base in kind.__mro__:
            if base in self:
                return self.setdefault(kind, self[base])
        if kind.__module__.partition(".")[0] == "cupy":
            backend_for("cuda")
            if kind in self:
                return self[kind]
        raise DtypeError(f"no backend holds values of {kind.__module__}.{kind.__qualname__}; convert with pb.asarray")


BACKENDS = _ByClass()
_by_device: dict[str, Backend] = {}


def register(backend: Backend) -> Backend:
    """Make `backend` the owner of its array classes and of its device name."""
    _by_device[backend.name] = backend
    BACKENDS.update(dict.fromkeys(backend.array_types, backend))
    return backend


def _cuda() -> Backend:
    try:
        from .cuda.backend import CudaBackend
    except ImportError as error:
        raise DeviceError(f"device 'cuda' needs CuPy ({error}): {_INSTALL}") from error
    return CudaBackend()


def _meta() -> Backend:
    from .meta.backend import MetaBackend  # few ask for it, and every import would pay

    return MetaBackend()


_makers: dict[str, Callable[[], Backend]] = {"cuda": _cuda, "meta": _meta}


def backend_for(device: str) -> Backend:
    """The backend of a device string: "cpu", "cuda", "cuda:1". Raises DeviceError when it cannot be had here."""
    kind = str(device).partition(":")[0]
    if kind in _by_device:
        return _by_device[kind]
    if kind not in _makers:
        raise DeviceError(f"no device {device!r}; devices are {', '.join(device_kinds())}")
    return register(_makers[kind]())


def device_kinds() -> list[str]:
    """The kinds of device that strings can name, such as "cpu" and "cuda", whether or not they are there."""
    return sorted({*_by_device, *_makers})


register(NumpyBackend())

_default = np.dtype("float32")


def default_dtype() -> np.dtype:
    """The dtype that Python floats and lists of them become."""
    return _default


def set_default_dtype(dtype: Any) -> None:
    """Set the dtype that Python floats become: "float16", "float32" (at start) or "float64"."""
    global _default
    chosen = canonical_dtype(dtype)
    if chosen.kind != "f":
        raise DtypeError(f"set_default_dtype: the default is a floating-point type; got {chosen}")
    _default = chosen


_canonical: dict[Any, np.dtype] = {}  # what was answered before: this is asked of every array operand


def canonical_dtype(dtype: Any) -> np.dtype:
    """A NumPy dtype for a name, a NumPy dtype, or another library's dtype of the same name.

    Raises:
        DtypeError: it is no dtype, or one that tensors do not hold (complex, text, objects, dates, records).
    """
    try:
        return _canonical[dtype]
    except (KeyError, TypeError):
        pass
    try:
        found = np.dtype("" if dtype is None else dtype)  # of None NumPy would make float64
    except TypeError:
        try:
            found = np.dtype(str(dtype).rpartition(".")[2])
        except TypeError:
            raise DtypeError(f"{dtype!r} is not a dtype; use a name such as 'float32' or 'int64'") from None
    if found.kind not in "biuf" and found.name != "bfloat16":
        raise DtypeError(f"{found} is not supported: tensors hold real numbers, integers and booleans")
    if found.isnative:
        found = np.dtype(found.type)  # the one object of its kind; a dtype that was pickled is another
    return _canonical.setdefault(dtype, found)


def is_floating(dtype: Any) -> bool:
    """Whether `dtype` is a real floating-point type (float16, bfloat16, float32, float64)."""
    kind = canonical_dtype(dtype)
    return kind.kind == "f" or kind.name == "bfloat16"
