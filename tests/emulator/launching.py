"""Calling compiled kernels from Python: exact argument types, declared memory, errors that name a line."""

import ctypes
import functools
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .compiling import library

SCALARS = {
    "b1": ctypes.c_bool, "i1": ctypes.c_int8, "u1": ctypes.c_uint8, "i2": ctypes.c_int16, "u2": ctypes.c_uint16,
    "i4": ctypes.c_int32, "u4": ctypes.c_uint32, "i8": ctypes.c_int64, "u8": ctypes.c_uint64,
    "f4": ctypes.c_float, "f8": ctypes.c_double,
}  # fmt: skip
MOST_THREADS = 1024
MOST_BLOCKS = (2**31 - 1, 65535, 65535)

Geometry = int | tuple[int, ...]


class EmulatorError(Exception):
    """A launch that a GPU would not survive, or would answer with chance.

    `check` says what found it: "launch", "barrier", "collective", "memory", "race", "initialisation", "arithmetic",
    "trap".
    """

    def __init__(self, check: str, message: str) -> None:
        super().__init__(f"{check}: {message}")
        self.check = check


class Buffer(NamedTuple):
    """Memory that a launch may touch. A checked launch fails on any other, and on a write where it is not writable.

    Where it is not `initialised`, a byte must be written before it is read.
    """

    address: int
    nbytes: int
    writable: bool = True
    initialised: bool = True


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("address", ctypes.c_void_p),
        ("nbytes", ctypes.c_uint64),
        ("writable", ctypes.c_int),
        ("initialised", ctypes.c_int),
    )


class Kernel:
    """One instantiation of a kernel.

    Attributes:
        name: its name expression.
        signature: a code for every parameter: "r*f4" is `const float*`, "w*bf16" a `bfloat16*`, "i8" a `long long`,
            "f8" a `double`.
        checked: whether its memory is watched.
        most_threads: how many a block may have, by the kernel's launch bounds.
    """

    def __init__(
        self, path: Path, loaded: ctypes.CDLL, number: int, name: str, checked: bool, most_threads: int
    ) -> None:
        self.name = name
        self.most_threads = most_threads
        self.checked = checked
        self.signature = [code for code in loaded.emulator_signature(number).decode().split(",") if code]
        self._path, self._loaded, self._number = path, loaded, number

    def __repr__(self) -> str:
        return f"Kernel({self.name!r}, {', '.join(self.signature)})"

    def __call__(
        self,
        grid: Geometry,
        block: Geometry,
        *arguments: Any,
        order: int = 0,
        uninitialised: Iterable[np.ndarray] = (),
        reachable: Iterable[np.ndarray] = (),
    ) -> None:
        """Runs the kernel on NumPy arrays (None is a null pointer) and NumPy scalars of exactly its types.

        Args:
            order: 0 runs threads and blocks forward, 1 in reverse, others are seeds of a shuffle.
            uninitialised: arguments whose contents a checked kernel must not read before it writes them.
            reachable: arrays that the kernel finds through addresses in its arguments.

        Raises:
            TypeError: an argument too many or too few, or not of the parameter's type.
            EmulatorError: the launch, or what the kernel does, is not allowed.
        """
        if len(arguments) != len(self.signature):
            raise TypeError(f"{self.name} takes {len(self.signature)} arguments, not {len(arguments)}")
        empty = {array.ctypes.data for array in uninitialised}
        values, buffers = [], []
        for position, (argument, code) in enumerate(zip(arguments, self.signature, strict=True)):
            wrong = mismatch(argument, code)
            if wrong:
                raise TypeError(f"{self.name}: argument {position} must be {code}, not {wrong}")
            if "*" not in code:
                values.append(scalar(argument, code))
            elif argument is None:
                values.append(ctypes.c_void_p(None))
            else:
                address = argument.ctypes.data
                values.append(ctypes.c_void_p(address))
                buffers.append(Buffer(address, argument.nbytes, code[0] == "w", address not in empty))
        buffers += [Buffer(array.ctypes.data, array.nbytes, array.flags.writeable) for array in reachable]
        self.launch(grid, block, values, buffers, order)

    def launch(
        self, grid: Geometry, block: Geometry, values: Sequence[Any], buffers: Iterable[Buffer] = (), order: int = 0
    ) -> None:
        """Runs the kernel on ctypes values of its parameters' types, in the memory that `buffers` declare."""
        geometry = (*three(grid), *three(block))
        within = all(
            0 < n <= most for n, most in zip(geometry, (*MOST_BLOCKS, MOST_THREADS, MOST_THREADS, 64), strict=True)
        )
        if not within or geometry[3] * geometry[4] * geometry[5] > MOST_THREADS:
            raise EmulatorError("launch", f"{self.name}: no device takes grid {geometry[:3]} of blocks {geometry[3:]}")
        threads = geometry[3] * geometry[4] * geometry[5]
        if threads > self.most_threads:
            bounds = f"blocks of {threads} threads, launch bounds say {self.most_threads}"
            raise EmulatorError("launch", f"{self.name}: {bounds}")
        declared = [_Buffer(*buffer) for buffer in buffers] if self.checked else []
        message = ctypes.create_string_buffer(4096)
        failed = self._loaded.emulator_launch(
            ctypes.c_int(self._number),
            (ctypes.c_uint * 6)(*geometry),
            (ctypes.c_void_p * max(1, len(values)))(*map(ctypes.addressof, values)),
            ctypes.c_uint(order),
            (_Buffer * len(declared))(*declared),
            ctypes.c_size_t(len(declared)),
            message,
            ctypes.c_size_t(len(message)),
        )
        if failed:
            check, text = message.value.decode().split("\n", 1)
            raise EmulatorError(check, f"{self.name}: {re.sub(r'{pc (0x[0-9a-f]+)}', self._line_of, text)}")

    def _line_of(self, offset: re.Match[str]) -> str:
        """The source line of an instruction: the innermost that is not the emulator's own."""
        command = ["addr2line", "-Cie", str(self._path), hex(int(offset[1], 16) - 1)]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
        places = [os.path.basename(line.split(" (")[0]) for line in lines if line]
        return next((place for place in places if not place.startswith(("cuda.h:", "runtime.h:"))), places[0])


def build(source: str | Path, expressions: Iterable[str], checked: bool = False) -> Mapping[str, Kernel]:
    """Kernels by their expressions, compiled when they are first asked for, unless they are found compiled.

    A process reads the files of a source once.

    Args:
        source: the name of a file in kernels/, a path, or (anything with a line break) the text itself.
        expressions: NVRTC name expressions, such as "pullback::map<pullback::op::tanh, float>".
        checked: watch memory, races, initialisation and arithmetic; some ten times slower.

    Raises:
        CompileError: when a kernel is asked for, with the compiler's message.
    """
    return _kernels(source, tuple(sorted(set(expressions))), checked)


class Kernels(Mapping[str, Kernel]):
    """What `build` gives: one run of g++ makes all kernels of a dtype, the first that their expressions name."""

    def __init__(self, source: str | Path, expressions: tuple[str, ...], checked: bool) -> None:
        self._source, self._expressions, self._checked = source, expressions, checked
        self._compiled: dict[str, Mapping[str, Kernel]] = {}

    def __getitem__(self, expression: str) -> Kernel:
        dtype = first_dtype(expression)
        if dtype not in self._compiled:
            together = tuple(name for name in self._expressions if first_dtype(name) == dtype)
            self._compiled[dtype] = _load(library(self._source, together, self._checked), together, self._checked)
        return self._compiled[dtype][expression]

    def __iter__(self) -> Iterator[str]:
        return iter(self._expressions)

    def __len__(self) -> int:
        return len(self._expressions)


_kernels = functools.cache(Kernels)


def first_dtype(expression: str) -> str:
    """`float16` of `pullback::cast<pullback::float16, float>`; nothing where none is named."""
    found = re.search(r"\b(?:double|float|float16|bfloat16)\b", expression)
    return found[0] if found else ""


@functools.cache
def _load(path: Path, expressions: tuple[str, ...], checked: bool) -> Mapping[str, Kernel]:
    loaded = ctypes.PyDLL(str(path))  # holds the interpreter's lock: one launch at a time
    loaded.emulator_signature.restype = ctypes.c_char_p
    bounds = launch_bounds(next(path.parent.glob("*.cu")).read_text())
    return {
        name: Kernel(path, loaded, number, name, checked, bounds.get(unqualified(name), MOST_THREADS))
        for number, name in enumerate(expressions)
    }


def launch_bounds(text: str) -> dict[str, int]:
    """The threads that a block may have, for the kernels of a source that say so."""
    found = re.findall(r"__launch_bounds__\((\d+)[^()]*\)\s*(\w+)\s*\(", text)
    return {name: int(threads) for threads, name in found}


def unqualified(expression: str) -> str:
    """`softmax` of `pullback::softmax<float, 4>`."""
    return expression.split("<", 1)[0].rsplit("::", 1)[-1].strip()


def three(extent: Geometry) -> tuple[int, int, int]:
    x, y, z, *_rest = (*(extent if isinstance(extent, tuple) else (extent,)), 1, 1, 1)[:6]
    return int(x), int(y), int(z)


def type_code(dtype: np.dtype) -> str:
    """The code of a dtype in signatures."""
    return "bf16" if dtype.name == "bfloat16" else dtype.str[1:]


def mismatch(argument: Any, code: str) -> str | None:
    """What is wrong with an argument for a parameter, None where it fits."""
    if "*" in code:
        if argument is None:
            return None
        if not isinstance(argument, np.ndarray):
            return f"a {type(argument).__name__}"
        if code[2:] not in ("void", type_code(argument.dtype)):
            return f"an array of {argument.dtype}"
        if not argument.flags.c_contiguous:
            return "an array that is not contiguous"
        if code[0] == "w" and not argument.flags.writeable:
            return "a read-only array"
        return None
    if not isinstance(argument, np.generic):
        return f"a {type(argument).__name__} (scalars must be NumPy's)"
    if code[0] == "V":
        return (
            None if argument.dtype.itemsize == int(code[1:]) else f"{argument.dtype.itemsize} bytes of {argument.dtype}"
        )
    return None if type_code(argument.dtype) == code else f"{argument.dtype}"


def scalar(argument: np.generic, code: str) -> Any:
    """A NumPy scalar as the ctypes value of a parameter."""
    if code in SCALARS:
        return SCALARS[code](argument.item())
    return (ctypes.c_char * argument.dtype.itemsize).from_buffer_copy(argument.tobytes())
