"""The backend of CUDA devices: arrays by CuPy, fused ops by the kernels."""

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import MethodType
from typing import Any

import array_api_compat.cupy
import cupy
import cupyx
import cupyx.scipy.special
import numpy as np

from ...errors import DeviceError, DeviceMemoryError
from ..base import Backend, Namespace, isdtype
from . import checks, fused, updates
from .complaints import raise_complaints
from .devices import There, where_its_arrays_are

__all__ = ["CudaBackend"]


def _scatter_add(array: Any, index: Any, values: Any) -> Any:
    """Add `values` into `array[index]` in place; repeated positions add up (with atomics: the order is not fixed)."""
    cupyx.scatter_add(array, index, values)
    return array


def _scatter_set(array: Any, index: Any, values: Any) -> Any:
    """Write `values` into `array[index]` in place."""
    array[index] = values
    return array


def _size(count: int) -> str:
    """Bytes in words."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.2f} MiB"


class CudaBackend(Backend):
    """Arrays on NVIDIA GPUs. Devices are "cuda" (the current one) and "cuda:N"."""

    name = "cuda"
    array_types = (cupy.ndarray,)

    def __init__(self) -> None:
        if not cupy.cuda.is_available():
            raise DeviceError("device 'cuda' needs an NVIDIA GPU and its driver; CuPy is installed but found neither")
        if fused.enabled:
            for module in pkgutil.iter_modules([str(Path(__file__).parent)]):  # those with fused ops register them
                importlib.import_module(f"{__package__}.{module.name}")
        self._alone = cupy.cuda.runtime.getDeviceCount() == 1
        self.xp = Namespace(
            array_api_compat.cupy,
            scatter_add=_scatter_add,
            scatter_set=_scatter_set,
            erf=cupyx.scipy.special.erf,
            erfc=cupyx.scipy.special.erfc,
            dtype=np.dtype,
            isdtype=isdtype,
        )

    def asarray(self, data: Any, dtype: Any = None, device: str | None = None, copy: bool | None = None) -> Any:
        with data.device if device is None and isinstance(data, cupy.ndarray) else self.on(device):
            try:
                return cupy.array(data, dtype=dtype, copy=True) if copy else cupy.asarray(data, dtype=dtype)
            except MemoryError as error:
                raise self.out_of_memory(error) from error

    def to_numpy(self, array: Any) -> np.ndarray:
        with array.device:
            copied = np.asarray(cupy.asnumpy(array))
            raise_complaints()
            return copied

    def device_of(self, array: Any) -> str:
        return f"cuda:{array.device.id}"

    def devices(self) -> dict[str, str]:
        runtime, found = cupy.cuda.runtime, {}
        for number in range(runtime.getDeviceCount()):
            facts = runtime.getDeviceProperties(number)
            memory = facts["totalGlobalMem"] / 2**30
            found[f"cuda:{number}"] = (
                f"{facts['name'].decode()}, {memory:.0f} GiB, CUDA driver {runtime.driverGetVersion()}"
            )
        return found

    def on(self, device: str | None) -> AbstractContextManager[Any]:
        return cupy.cuda.Device(self._number(device))

    def beside(self, array: Any) -> Namespace:
        return self.xp if self._alone else There(self.xp, array.device)

    @contextmanager
    def walking(self, array: Any) -> Iterator[None]:
        try:
            with array.device:
                yield
        except MemoryError as error:
            named = self.out_of_memory(error)
            if named is error:
                raise
            raise named from error

    def fused(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        run = fused.bound(name, plain)
        return run if self._alone else MethodType(where_its_arrays_are, run)

    # --- many arrays in one launch ---

    def update_sgd(self, rows: Sequence[Any], **options: Any) -> None:
        self._updated(updates.update_sgd, super().update_sgd, rows, options)

    def update_adam(self, rows: Sequence[Any], **options: Any) -> None:
        self._updated(updates.update_adam, super().update_adam, rows, options)

    def _updated(self, update: Any, plain: Any, rows: Sequence[Any], options: dict[str, Any]) -> None:
        skip = options.pop("skip", None)
        if isinstance(skip, cupy.ndarray):
            options["skip"] = skip
        elif skip:
            return
        with self.walking(rows[0][0]):
            if fused.enabled:
                update(plain, rows, **options)
            else:
                plain(rows, **options)

    def norm_and_factor(self, arrays: Sequence[Any], most: float) -> tuple[Any, Any]:
        found = checks.norm_and_factor(arrays, most) if fused.enabled else None
        return super().norm_and_factor(arrays, most) if found is None else found

    def scaled(self, arrays: Sequence[Any], owned: Sequence[bool], factor: Any) -> list[Any]:
        if fused.enabled:
            targets = [a if own else cupy.empty_like(a) for a, own in zip(arrays, owned, strict=True)]
            if checks.scale(list(zip(arrays, targets, strict=True)), factor):
                return targets
        return super().scaled(arrays, owned, factor)

    def nonfinite(self, arrays: Sequence[Any]) -> Any:
        flag = checks.nonfinite(arrays) if fused.enabled else None
        return super().nonfinite(arrays) if flag is None else flag

    def out_of_memory(self, error: MemoryError) -> MemoryError:
        if not isinstance(error, cupy.cuda.memory.OutOfMemoryError):
            return error
        device, pool = cupy.cuda.Device(), cupy.get_default_memory_pool()
        free, total = device.mem_info
        return DeviceMemoryError(
            f"{str(error).rstrip('.')}; on cuda:{device.id} CuPy's pool holds {_size(pool.total_bytes())} and "
            f"{_size(pool.used_bytes())} of it are in use; {_size(free)} of the device's {_size(total)} are free"
        )

    def free_memory(self) -> int | None:
        pool = cupy.get_default_memory_pool()
        return int(cupy.cuda.Device().mem_info[0]) + int(pool.free_bytes())

    def synchronize(self) -> None:
        cupy.cuda.get_current_stream().synchronize()
        raise_complaints()

    def mark(self) -> Any:
        """An event on the current stream."""
        event = cupy.cuda.Event()
        event.record()
        return event

    def seconds_between(self, start: Any, end: Any) -> float:
        end.synchronize()
        return float(cupy.cuda.get_elapsed_time(start, end)) / 1e3

    def _number(self, device: str | None) -> int:
        if device in (None, "cuda"):
            return int(cupy.cuda.Device().id)
        match = re.fullmatch(r"cuda:(\d+)", str(device))
        found = cupy.cuda.runtime.getDeviceCount()
        if not match or int(match[1]) >= found:
            raise DeviceError(f"no device {device!r}; this machine has {', '.join(f'cuda:{i}' for i in range(found))}")
        return int(match[1])
