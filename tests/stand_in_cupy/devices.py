"""Devices, and the runtime's facts about them. There are two, so that what is kept for each device shows."""

from typing import Any

from .memory import default_pool
from .streams import CUDARuntimeError, refuse_in_capture

COUNT = 2
MEMORY = 80 << 30
_current = [0]


class CUDADriverError(RuntimeError):
    """As `cupy.cuda.driver.CUDADriverError`."""


class Device:
    """As `cupy.cuda.Device`."""

    multiprocessors = 2  # few, so that loops by the grid go round on small arrays

    def __init__(self, device: Any = None) -> None:
        self.id = _current[-1] if device is None else int(device)
        if not 0 <= self.id < COUNT:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")

    def __enter__(self) -> "Device":
        _current.append(self.id)
        return self

    def __exit__(self, *error: object) -> None:
        _current.pop()

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def use(self) -> None:
        _current[-1] = self.id

    def synchronize(self) -> None:
        refuse_in_capture("synchronisation")

    @property
    def compute_capability(self) -> str:
        return "90"

    @property
    def attributes(self) -> dict[str, int]:
        return {"MultiProcessorCount": self.multiprocessors, "MaxThreadsPerBlock": 1024}

    @property
    def mem_info(self) -> tuple[int, int]:
        return MEMORY - default_pool.total_bytes(), MEMORY


def current_device() -> int:
    return _current[-1]


def properties(device: int) -> dict[str, Any]:
    """As `cupy.cuda.runtime.getDeviceProperties`."""
    return {"name": b"stand-in", "totalGlobalMem": MEMORY}
