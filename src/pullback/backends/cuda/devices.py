"""Several GPUs: work runs on the one that holds its arrays, whichever is the current one."""

from collections.abc import Callable
from typing import Any

import cupy

from ...errors import DeviceError
from ..base import Namespace

__all__ = ["There", "where_its_arrays_are"]


def where_its_arrays_are(run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`run(*args, **kwargs)` with the device of its arrays as the current one. Raises DeviceError if there are two."""
    device = None
    for given in args:
        for x in given if given.__class__ in (list, tuple) else (given,):
            if isinstance(x, cupy.ndarray):
                if device is None:
                    device = x.device
                elif x.device != device:
                    raise DeviceError(f"its arrays are on cuda:{device.id} and cuda:{x.device.id}; move one with .to()")
    if device is None or device.id == cupy.cuda.get_device_id():
        return run(*args, **kwargs)
    with device:
        return run(*args, **kwargs)


class There(Namespace):
    """The functions of a namespace, each with `device` as the current one."""

    def __init__(self, xp: Namespace, device: Any) -> None:
        self._xp, self._device = xp, device

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._xp, name)

        def run(*args: Any, **kwargs: Any) -> Any:
            with self._device:
                return function(*args, **kwargs)

        return run
