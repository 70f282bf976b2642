"""Kernels as Python functions: compiled and loaded at their first call on a device; the scratch memory they share."""

from functools import cache
from threading import get_ident
from typing import Any

import cupy
import numpy as np
from cupy.cuda import get_current_stream, get_device_id
from cupy.cuda.function import Module

from ...errors import DtypeError, KernelError
from .compiler import compile_cubin

__all__ = ["THREADS", "Kernel", "blocks_for", "counters", "ctype", "kernel", "workspace"]

THREADS = 256  # of a block, unless a kernel says otherwise
_WAVES = 8  # blocks of THREADS threads that a multiprocessor holds at once

_CTYPES = {
    "float64": "double",
    "float32": "float",
    "float16": "pullback::float16",
    "bfloat16": "pullback::bfloat16",
    "int64": "long long",
    "int32": "int",
    "int16": "short",
    "int8": "signed char",
    "uint64": "unsigned long long",
    "uint32": "unsigned int",
    "uint16": "unsigned short",
    "uint8": "unsigned char",
    "bool": "bool",
}
_PYTHON_NUMBERS = {bool, int, float, complex}
_PER_THREAD = cupy.cuda.runtime.streamPerThread


def ctype(dtype: np.dtype) -> str:
    """The C++ type of the numbers of an array, as it is written in name expressions."""
    try:
        return _CTYPES[dtype.name]
    except KeyError:
        raise DtypeError(f"kernels do not take {dtype}; they take {', '.join(_CTYPES)}") from None


class Kernel:
    """An instance of a kernel template. `kernel` makes them."""

    __slots__ = ("_functions", "expression", "file")

    def __init__(self, file: str, expression: str) -> None:
        self.file = file
        self.expression = expression
        self._functions: dict[int, Any] = {}

    def __call__(self, grid: int | tuple[int, ...], block: int | tuple[int, ...], *args: Any) -> None:
        """Launch it on the current device and stream.

        Args:
            grid: Blocks, as a number or up to three of them. With none of them nothing is launched.
            block: Threads of a block.
            args: Arrays, None for a null pointer, and NumPy scalars of exactly the types that the kernel declares.

        Raises:
            DtypeError: an argument is a Python number, whose size in C is a guess. KernelError: the kernel cannot be
                compiled, loaded or launched.
        """
        if isinstance(grid, int):
            grid = (grid,)
        if isinstance(block, int):
            block = (block,)
        if 0 in grid:
            return
        if not _PYTHON_NUMBERS.isdisjoint(map(type, args)):
            raise DtypeError(f"{self.expression}: arguments are arrays, None and NumPy scalars; got {args}")
        function = self._functions.get(get_device_id())
        if function is None:
            function = self._load()
        try:
            function(grid, block, args)
        except cupy.cuda.driver.CUDADriverError as error:
            raise KernelError(f"{self.expression} was not launched on {grid} blocks of {block}: {error}") from error

    def _load(self) -> Any:
        device = cupy.cuda.Device()
        compiled = compile_cubin(self.file, (self.expression,), int(device.compute_capability))
        module = Module()
        try:
            module.load(compiled.code)
            function = module.get_function(compiled.names[self.expression])
        except cupy.cuda.driver.CUDADriverError as error:
            raise KernelError(f"{self.expression} of {self.file} cannot be loaded on {device}: {error}") from error
        self._functions[device.id] = function
        return function


@cache
def kernel(file: str, expression: str) -> Kernel:
    """The instance `expression` of a template in `file`; nothing is compiled before its first call."""
    return Kernel(file, expression)


def blocks_for(items: int, threads: int = THREADS) -> int:
    """Blocks of a loop over `items` that strides by the grid: enough for all, and no more than run at once."""
    return min(-(-items // threads), _multiprocessors(get_device_id()) * _WAVES)


@cache
def _multiprocessors(device: int) -> int:
    return int(cupy.cuda.Device(device).attributes["MultiProcessorCount"])


# --- scratch ----------------------------------------------------------------------------------------------------------
# Kernels of one stream run one after the other, so they share it. What was handed out stays in memory when a larger
# piece takes its place: a captured graph may still write there. Sizes double, so all are at most twice the largest.

_pieces: dict[tuple[Any, ...], Any] = {}
_replaced: list[Any] = []


def workspace(name: str, count: int, dtype: Any = np.uint8) -> Any:
    """At least `count` numbers (bytes, unless `dtype` says otherwise) of scratch memory for kernels of this stream.

    Its contents are left over from whoever used it last. Two pieces that one launch uses need two names.
    """
    key = (name, dtype, *_queue())
    piece = _pieces.get(key)
    if piece is None or piece.size < count:
        piece = _grown(key, cupy.empty(_doubled(count), dtype))
    return piece


def counters(count: int) -> Any:
    """At least `count` unsigned 32-bit counters that are zero between launches: a kernel that counts sets them back.

    Raises:
        KernelError: there are too few and the stream is being captured, when nothing can be set to zero.
    """
    key = ("counters", *_queue())
    piece = _pieces.get(key)
    if piece is None or piece.size < count:
        if get_current_stream().is_capturing():
            raise KernelError("counters cannot be made on a stream that is captured; run the step once before")
        piece = _grown(key, cupy.zeros(_doubled(count), np.uint32))
    return piece


def _queue() -> tuple[int, int, int]:
    """Device, stream, and the thread where the stream is each thread's own."""
    stream = get_current_stream().ptr
    return get_device_id(), stream, get_ident() if stream == _PER_THREAD else 0


def _grown(key: tuple[Any, ...], piece: Any) -> Any:
    if key in _pieces:
        _replaced.append(_pieces[key])
    _pieces[key] = piece
    return piece


def _doubled(count: int) -> int:
    return max(1024, 1 << (count - 1).bit_length())
