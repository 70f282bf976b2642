"""The backend of the device "meta": arrays without numbers, on which every op runs and nothing is computed."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from ...errors import DeviceError
from ..base import Backend, Namespace, isdtype
from . import elementwise, products, shaping
from .array import MetaArray
from .metering import current_meter

__all__ = ["MetaBackend"]

_CONSTANTS = """e inf nan newaxis pi finfo iinfo result_type bool float16 float32 float64 int8 int16 int32 int64 uint8
uint16 uint32 uint64"""
FUNCTIONS = elementwise.FUNCTIONS | shaping.FUNCTIONS | products.FUNCTIONS
MetaArray.call = staticmethod(lambda name, *args: FUNCTIONS[name](*args))


def _moved(x: Any, device: str, source: str) -> Any:
    """A copy of `x`, wherever it goes."""
    return FUNCTIONS["asarray"](x, copy=True)


class MetaBackend(Backend):
    """Shapes, dtypes and layouts. Whoever meters is told what the same calls would do to arrays of numbers."""

    name = "meta"
    absorbs = True
    array_types = (MetaArray,)

    def __init__(self) -> None:
        constants = {name: getattr(np, name) for name in _CONSTANTS.split()}
        self.xp = Namespace(
            SimpleNamespace(**constants), **FUNCTIONS, linalg=products.linalg, dtype=np.dtype, isdtype=isdtype
        )

    def asarray(self, data: Any, dtype: Any = None, device: str | None = None, copy: bool | None = None) -> Any:
        with self.on(device):
            return FUNCTIONS["asarray"](data, dtype=dtype, copy=copy)

    def to_numpy(self, array: Any) -> np.ndarray:
        raise DeviceError(
            f"a tensor on 'meta' has a shape, {array.shape}, and a dtype, {array.dtype}, but no numbers to read"
        )

    def device_of(self, array: Any) -> str:
        return "meta"

    def devices(self) -> dict[str, str]:
        return {"meta": "shapes and dtypes without numbers"}

    def fused(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        """`plain`, with what it does counted as the op's."""
        if name == "to_device":
            return _moved

        def run(*args: Any, **kwargs: Any) -> Any:
            meter = current_meter()
            if meter is None:
                return plain(*args, **kwargs)
            meter.enter(name)
            try:
                return plain(*args, **kwargs)
            finally:
                meter.leave()

        return run

    def nonfinite(self, arrays: Sequence[Any]) -> Any:
        return False
