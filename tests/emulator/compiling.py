"""From `.cu` to a library of the host: g++ with the emulator's headers forced in, cached by content."""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
KERNELS = HERE.parents[1] / "kernels"

HEADERS = ("cuda.h", "runtime.h", "export.h")
RUNTIME = ("runtime.cpp", "library.cpp", "checker.cpp", "sanitizer.cpp")
COMMON_FLAGS = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique", "-U_FORTIFY_SOURCE", "-w"]
KERNEL_FLAGS = [
    *COMMON_FLAGS,
    "-fno-exceptions", "-fno-rtti", "-fno-strict-aliasing", "-ffp-contract=off",
    "-ftrivial-auto-var-init=pattern",  # a local variable that is read before it is written is never zero by luck
    "-fno-ipa-reference", "-fno-ipa-modref", "-fno-ipa-pure-const",  # shared memory changes across a barrier
]  # fmt: skip
# Compiling takes far longer than running what was compiled, so both optimise little.
PLAIN_FLAGS = ["-Og", "-g1", "-gdwarf-4", "-fsanitize=alignment"]
CHECKED_FLAGS = [
    "-Og", "-g1", "-gdwarf-4",
    "-fsanitize=thread,alignment,bounds,bounds-strict,shift,integer-divide-by-zero,signed-integer-overflow",
]  # fmt: skip
KEPT_DAYS = 30


class CompileError(Exception):
    """g++ refused a kernel; the message is the compiler's."""


def missing() -> str | None:
    """Why kernels cannot be emulated on this machine, None where they can."""
    for tool in ("g++", "addr2line"):
        if shutil.which(tool) is None:
            return f"the emulator of CUDA kernels needs {tool}"
    return None


def library(source: str | Path, expressions: Sequence[str], checked: bool) -> Path:
    """The compiled library of these kernels, from the cache if it is there.

    Args:
        source: the name of a file in kernels/, a path, or (anything with a line break) the text itself.
        expressions: NVRTC name expressions, one kernel each.
        checked: with the instrumentation that finds errors of memory, races and undefined arithmetic.
    """
    inline = "\n" in str(source)
    path = Path("source.cu") if inline else KERNELS / source
    text = str(source) if inline else path.read_text()
    folders = [path.resolve().parent, KERNELS]
    exports = "".join(f"    EXPORT({expression})\n" for expression in expressions)
    unit = (
        f'#include "{path.name}"\n'
        f"namespace emulator {{\nextern const bool checked = {str(checked).lower()};\n"
        f"static const Kernel kernels[] = {{\n{exports}}};\n"
        "const Kernel& kernel(size_t number) { return kernels[number]; }\n}\n"
    )
    flags = [*KERNEL_FLAGS, *(CHECKED_FLAGS if checked else PLAIN_FLAGS)]
    contents = [*texts(*HEADERS), *(file.read_text() for file in included(text, folders)), *runtime_texts()]
    built = entry(f"{path.stem}-{digest(text, unit, *flags, *contents)}") / "kernels.so"
    with locked(built):
        if not built.exists():
            (built.parent / path.name).write_text(text)  # for its name in messages
            (built.parent / "unit.cpp").write_text(unit)
            includes = ["-include", str(prelude(flags)), *(f"-I{folder}" for folder in (*folders, HERE))]
            with ThreadPoolExecutor() as pool:
                objects = [*pool.map(runtime_object, RUNTIME)]
            compile_([*flags, *includes, "-c", str(built.parent / "unit.cpp")], built.with_suffix(".o"))
            compile_(["-shared", "-Wl,-Bsymbolic", str(built.with_suffix(".o")), *map(str, objects), "-ldl"], built)
            built.with_suffix(".o").unlink()
    return built


def prelude(flags: Sequence[str]) -> Path:
    """What goes before every source: CUDA as host C++, precompiled once for all libraries of these flags."""
    header = entry(f"prelude-{digest(*texts(*HEADERS), *flags)}") / "prelude.h"
    built = header.with_suffix(".h.gch")
    with locked(built):
        if not built.exists():
            header.write_text('#include "export.h"\n')
            compile_([*flags, f"-I{HERE}", "-x", "c++-header", str(header)], built)
    return header


def runtime_texts() -> list[str]:
    return texts("runtime.h", "checker.h", *RUNTIME)


def texts(*names: str) -> list[str]:
    return [(HERE / name).read_text() for name in names]


def runtime_object(name: str) -> Path:
    """The runtime itself, compiled without instrumentation; once for all libraries."""
    flags = [*COMMON_FLAGS, "-O2"]
    built = entry(f"runtime-{digest(*runtime_texts(), *flags)}") / f"{Path(name).stem}.o"
    with locked(built):
        if not built.exists():
            compile_([*flags, "-c", str(HERE / name)], built)
    return built


def compile_(arguments: Sequence[str], output: Path) -> None:
    """Runs g++; the output appears when it is complete."""
    command = ["g++", *arguments, "-o", f"{output}.new"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise CompileError(f"g++ failed:\n{finished.stderr[:6000]}")
    Path(f"{output}.new").replace(output)


def included(text: str, folders: Sequence[Path]) -> list[Path]:
    """The files that a text includes, and those that they include."""
    found: list[Path] = []
    texts = [text]
    while texts:
        for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', texts.pop(), re.MULTILINE):
            file = next((folder / name for folder in folders if (folder / name).exists()), None)
            if file is not None and file not in found:
                found.append(file)
                texts.append(file.read_text())
    return found


def entry(name: str) -> Path:
    """A folder of the cache, which is in XDG_CACHE_HOME, else ~/.cache; those not used for long are removed."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pullback-tests" / "emulator"
    folder = cache / name
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        for old in cache.iterdir():
            if time.time() - old.stat().st_mtime > KEPT_DAYS * 86400:
                shutil.rmtree(old, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    os.utime(folder)
    return folder


def digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:24]


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Only one process makes a file at a time; the others wait for it."""
    with open(f"{file}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
