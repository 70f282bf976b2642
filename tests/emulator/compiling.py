"""From `.cu` to a library of the host: g++ with the emulator's headers forced in, cached by content."""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
KERNELS = HERE.parents[1] / "kernels"

INSTRUMENTATION = ["-fsanitize=thread,bounds,shift,integer-divide-by-zero,signed-integer-overflow"]
COMMON_FLAGS = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique", "-U_FORTIFY_SOURCE", "-w"]
KERNEL_FLAGS = [
    *COMMON_FLAGS,
    "-x", "c++", "-fno-exceptions", "-fno-rtti", "-fno-strict-aliasing", "-ffp-contract=off",
    "-ftrivial-auto-var-init=pattern",  # a local variable that is read before it is written is never zero by luck
    "-fno-ipa-reference", "-fno-ipa-modref", "-fno-ipa-pure-const",  # shared memory changes across a barrier
]  # fmt: skip


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
    if "\n" in str(source):
        path, text = Path("source.cu"), str(source)
    else:
        path = KERNELS / source
        text = path.read_text()
    exports = "".join(f"    EXPORT({expression})\n" for expression in expressions)
    unit = (
        f'#line 1 "{path}"\n{text}\n#include "export.h"\n'
        f"namespace emulator {{\nextern const bool checked = {str(checked).lower()};\n"
        f"static const Kernel kernels[] = {{\n{exports}}};\n"
        "const Kernel& kernel(size_t number) { return kernels[number]; }\n}\n"
    )
    folders = [path.resolve().parent, KERNELS]
    flags = [*KERNEL_FLAGS, *(["-O1", "-g", *INSTRUMENTATION] if checked else ["-O2", "-g1"])]
    headers = [(HERE / name).read_text() for name in ("cuda.h", "runtime.h", "export.h")]
    key = digest(unit, *flags, *headers, *(file.read_text() for file in included(text, folders)), *runtime_texts())
    built = cache() / f"{path.stem}-{key}.so"
    with locked(built):
        if not built.exists():
            compile_library(unit, flags, folders, built)
    return built


def compile_library(unit: str, flags: Sequence[str], folders: Sequence[Path], built: Path) -> None:
    """Compiles one translation unit and links it with the runtime, into place at the end."""
    runtime = [runtime_object(name) for name in ("runtime.cpp", "checker.cpp")]
    includes = [f"-I{folder}" for folder in (*folders, HERE)]
    object_file = built.with_suffix(".o")
    run(["g++", *flags, *includes, "-include", "cuda.h", "-c", "-", "-o", str(object_file)], unit)
    run(["g++", "-shared", "-Wl,-Bsymbolic", "-o", f"{built}.new", str(object_file), *map(str, runtime), "-ldl"])
    object_file.unlink()
    Path(f"{built}.new").replace(built)


def runtime_texts() -> list[str]:
    return [(HERE / name).read_text() for name in ("runtime.h", "runtime.cpp", "checker.cpp")]


def runtime_object(name: str) -> Path:
    """The runtime itself, compiled without instrumentation; once for all libraries."""
    flags = [*COMMON_FLAGS, "-O2"]
    built = cache() / f"{Path(name).stem}-{digest(*runtime_texts(), *flags)}.o"
    with locked(built):
        if not built.exists():
            run(["g++", *flags, "-c", str(HERE / name), "-o", f"{built}.new"])
            Path(f"{built}.new").replace(built)
    return built


def run(command: list[str], text: str | None = None) -> None:
    finished = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise CompileError(f"{command[0]} failed:\n{finished.stderr[:6000]}")


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


def cache() -> Path:
    """Where compiled kernels are kept: XDG_CACHE_HOME, else ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(root) / "pullback-tests" / "emulator"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:24]


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Only one process makes a file at a time; the others wait for it."""
    with open(f"{file}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
