"""Modules and functions: the emulator runs the kernels that `nvrtc.py` names.

A real device reads whatever the arguments' bytes happen to be. Here their number, the dtypes of arrays, the exact types
of numbers, contiguity and the device are checked against the kernel's own declaration.
"""

import json
from typing import Any

import emulator
import numpy as np

from .arrays import ndarray
from .devices import CUDADriverError, current_device
from .log import LOG, Operation
from .memory import live
from .streams import enqueue

MANY = 50
settings: dict[str, Any] = {"checked": False, "order": 0}


class Module:
    """As `cupy.cuda.function.Module`: it belongs to the device that was current when it was loaded."""

    def load(self, cubin: bytes) -> None:
        try:
            self.file, self.expressions = json.loads(cubin)
        except ValueError as error:
            raise CUDADriverError("CUDA_ERROR_INVALID_IMAGE: device kernel image is invalid") from error
        self.device = current_device()

    def get_function(self, name: str) -> "Function":
        if name.removeprefix("_Z") not in self.expressions:
            raise CUDADriverError("CUDA_ERROR_NOT_FOUND: named symbol not found")
        return Function(self, name.removeprefix("_Z"))


class Function:
    """As `cupy.cuda.function.Function`."""

    def __init__(self, module: Module, expression: str) -> None:
        self.module, self.expression = module, expression
        self._kernels: dict[bool, Any] = {}

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: Any, shared_mem: int = 0, stream: Any = None
    ) -> None:
        assert isinstance(grid, tuple)
        assert isinstance(block, tuple)
        if self.module.device != current_device():
            raise CUDADriverError("CUDA_ERROR_INVALID_HANDLE: the function was loaded on another device")
        kernel = self._kernel()
        geometry = tuple(max(1, n) for n in grid), tuple(max(1, n) for n in block)
        values = [self._argument(a) for a in args]
        for position, (value, code) in enumerate(zip(values, kernel.signature, strict=False)):
            wrong = emulator.launching.mismatch(value, code)
            if wrong:
                raise TypeError(f"{self.expression}: argument {position} must be {code}, not {wrong}")
        if len(values) != len(kernel.signature):
            raise TypeError(f"{self.expression} takes {len(kernel.signature)} arguments, not {len(values)}")
        LOG.append(Operation("kernel", self.expression, *geometry))
        used = [a._lease.block for a in args if isinstance(a, ndarray)]
        enqueue(lambda: self._run(kernel, geometry, values), used)

    def _run(self, kernel: Any, geometry: tuple[Any, Any], values: list[Any]) -> None:
        reads_addresses = kernel.checked and "r*u8" in kernel.signature  # a table of arrays, which may be any
        reachable = [block.bytes for block in live] if reads_addresses else []
        kernel(*geometry, *values, order=settings["order"], reachable=reachable)

    def _kernel(self) -> Any:
        checked = settings["checked"]
        if checked not in self._kernels:
            kernels = emulator.build(self.module.file, companions(self.module.file, self.expression, checked), checked)
            self._kernels[checked] = kernels[self.expression]
        return self._kernels[checked]

    def _argument(self, value: Any) -> Any:
        """What CuPy would hand over: the memory of an array, and the bytes of a number as they are."""
        if isinstance(value, ndarray):
            if value._device != current_device():
                raise CUDADriverError("CUDA_ERROR_ILLEGAL_ADDRESS: an array of another device")
            return value._host
        if isinstance(value, np.generic) or value is None:
            return value
        raise TypeError(f"{self.expression}: CuPy would guess the C type of {value!r}")


listed: list[tuple[str, str]] = []  # the kernels that there are, with their files


def companions(file: str, expression: str, checked: bool) -> list[str]:
    """The kernels that are built with one: all of its file, as in the kernels' own tests, which so share the build.

    Checked builds take long, so where there are many kernels it is built alone.
    """
    all_kernels = {name for where, name in listed if where == file}
    return [expression] if checked and len(all_kernels) > MANY else sorted({*all_kernels, expression})
