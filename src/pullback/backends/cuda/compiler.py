"""CUDA source to machine code by NVRTC, kept on disk."""

import hashlib
import json
import os
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from threading import get_ident

from cupy.cuda import nvrtc

from ...errors import KernelError
from ..cache import cache_folder
from .sources import source

__all__ = ["Compiled", "compile_cubin", "target"]

OPTIONS = ("--std=c++17", "--ptxas-options=-v")
_DIGEST = hashlib.sha256
_HEAD = struct.Struct("<I")


@dataclass(frozen=True)
class Compiled:
    """What a device loads.

    Attributes:
        code: The machine code (cubin), or PTX where the compiler does not know the architecture yet.
        names: The symbol in `code` of each name expression.
        log: What the compiler said: warnings, and registers and spills of each kernel.
    """

    code: bytes
    names: dict[str, str]
    log: str


def compile_cubin(file: str, expressions: Sequence[str], architecture: int) -> Compiled:
    """Compile templates of a source file, or take them from the cache.

    Args:
        file: Name of the file in the folder of the kernels.
        expressions: C++ names of the instances, such as "pullback::map<pullback::op::tanh, float>".
        architecture: Compute capability of the device, such as 90.

    Raises:
        KernelError: the source is missing or does not compile, or NVRTC is missing or does not know such devices. It
            holds the compiler's own log.
    """
    text, option = source(file), target(architecture)
    version = _version()
    key = _DIGEST(json.dumps([text, list(expressions), [*OPTIONS, option], version]).encode()).hexdigest()
    kept = _read(key)
    if kept is not None:
        return kept
    compiled = _compile(file, text, expressions, option)
    _write(key, compiled)
    return compiled


@cache
def _version() -> tuple[int, int]:
    try:
        return nvrtc.getVersion()
    except (ImportError, RuntimeError, OSError) as error:
        raise KernelError(
            f"NVRTC, CUDA's compiler library, cannot be loaded ({error}); install pullback[cuda12] or [cuda13], or set "
            "PULLBACK_KERNELS=off"
        ) from error


@cache
def target(architecture: int) -> str:
    """NVRTC's option for a device: its own machine code, or PTX of the newest architecture that both know."""
    _version()
    known = sorted(nvrtc.getSupportedArchs())
    if architecture in known:
        return f"--gpu-architecture=sm_{architecture}"
    older = [number for number in known if number < architecture]
    if not older:
        raise KernelError(
            f"NVRTC {'.'.join(map(str, _version()))} does not compile for compute capability {architecture / 10}; it "
            f"knows {', '.join(str(number / 10) for number in known)}. PULLBACK_KERNELS=off works without the kernels"
        )
    return f"--gpu-architecture=compute_{older[-1]}"


def _compile(file: str, text: str, expressions: Sequence[str], option: str) -> Compiled:
    program = nvrtc.createProgram(text, file, (), ())
    try:
        try:
            for expression in expressions:
                nvrtc.addNameExpression(program, expression)
            nvrtc.compileProgram(program, (*OPTIONS, option))
        except nvrtc.NVRTCError as error:
            log = nvrtc.getProgramLog(program).strip("\0\n")
            wanted = ", ".join(expressions)
            raise KernelError(f"{file} does not compile for {option.rpartition('=')[2]} ({wanted}):\n{log}") from error
        names = {expression: nvrtc.getLoweredName(program, expression) for expression in expressions}
        code = nvrtc.getCUBIN(program) if "=sm_" in option else nvrtc.getPTX(program)
        return Compiled(code, names, nvrtc.getProgramLog(program).strip("\0"))
    finally:
        nvrtc.destroyProgram(program)


# --- the cache on disk: a file per program: sha256 of the rest, length of the names and log, names and log, code ------


def _read(key: str) -> Compiled | None:
    """An entry; None if there is none or it is not what was written."""
    try:
        entry = (cache_folder("kernels") / key).read_bytes()
    except OSError:
        return None
    digest, rest = entry[:32], entry[32:]
    if _DIGEST(rest).digest() != digest:
        return None
    start = _HEAD.size + _HEAD.unpack_from(rest)[0]
    facts = json.loads(rest[_HEAD.size : start])
    return Compiled(rest[start:], facts["names"], facts["log"])


def _write(key: str, compiled: Compiled) -> None:
    """Keep an entry. It appears whole or not at all; where it cannot be written, the next process compiles again."""
    facts = json.dumps({"names": compiled.names, "log": compiled.log}).encode()
    rest = _HEAD.pack(len(facts)) + facts + compiled.code
    try:
        folder = cache_folder("kernels")
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{key}.{os.getpid()}.{get_ident()}"  # no other writer's
        try:
            file.write_bytes(_DIGEST(rest).digest() + rest)
            file.replace(folder / key)
        finally:
            file.unlink(missing_ok=True)
    except OSError as error:
        _warn_once(str(error))


@cache
def _warn_once(reason: str) -> None:
    warnings.warn(f"compiled kernels are not kept ({reason}); set PULLBACK_CACHE_DIR to a folder", stacklevel=2)
