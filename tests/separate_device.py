"""A "cuda" without a GPU: NumPy arrays of a class of their own, which mix with those of the CPU as little as CuPy's."""

from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any

import numpy as np

from pullback.backends.numpy_backend import NumpyBackend


class DeviceArray(np.ndarray):
    """An array that counts as being on the device."""


def _on_device(value: Any) -> Any:
    """A NumPy function's result, with host arrays in it moved."""
    if isinstance(value, tuple):
        moved = map(_on_device, value)
        return type(value)(*moved) if hasattr(value, "_fields") else tuple(moved)
    if isinstance(value, np.generic | np.ndarray) and not isinstance(value, DeviceArray):
        return np.asarray(value).view(DeviceArray)
    return value


class _Functions:
    """A namespace whose functions give arrays on the device."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if name == "linalg":
            return _Functions(found)
        if not callable(found) or isinstance(found, type):
            return found
        return wraps(found)(lambda *args, **kwargs: _on_device(found(*args, **kwargs)))


class SeparateBackend(NumpyBackend):
    """What `device="cuda"` means while the fixture `separate_device` is in use."""

    name = "cuda"
    array_types = (DeviceArray,)

    def __init__(self) -> None:
        super().__init__()
        self.xp: Any = _Functions(self.xp)

    def asarray(self, data: Any, dtype: Any = None, device: str | None = None, copy: bool | None = None) -> Any:
        return np.array(data, dtype=dtype, copy=copy).view(DeviceArray)

    def to_numpy(self, array: Any) -> np.ndarray:
        return array.view(np.ndarray)

    def device_of(self, array: Any) -> str:
        return "cuda:0"

    def on(self, device: str | None) -> AbstractContextManager[Any]:
        return nullcontext()


BACKEND = SeparateBackend()
