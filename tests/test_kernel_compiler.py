"""Finding, compiling and keeping the CUDA sources: what is right, and every way it goes wrong. No driver is needed."""

import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest

import pullback
from pullback import errors

pytest.importorskip("cupy")
compiler = pytest.importorskip("pullback.backends.cuda.compiler")
sources = pytest.importorskip("pullback.backends.cuda.sources")

ROOT = Path(__file__).parents[1]
FILE = "twice.cu"
TWICE = "pullback::twice<float>"
TEXT = """
#include "types.cuh"
#include "factor.cuh"
#include "types.cuh"
namespace pullback {
template <class T> __global__ void twice(T* x) { x[threadIdx.x] = narrow<T>(widen(x[threadIdx.x]) * factor); }
}
"""


def nvrtc_is_here() -> bool:
    try:
        compiler.nvrtc.getVersion()
    except Exception:
        return False
    return True


needs_nvrtc = pytest.mark.skipif(not nvrtc_is_here(), reason="NVRTC cannot be loaded")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of sources with one kernel, and an empty cache beside it."""
    place = tmp_path / "kernels"
    place.mkdir()
    (place / "types.cuh").write_text((ROOT / "kernels" / "types.cuh").read_text())
    (place / "factor.cuh").write_text("#pragma once\nnamespace pullback { constexpr int factor = 2; }\n")
    (place / FILE).write_text(TEXT)
    monkeypatch.setenv("PULLBACK_KERNELS_DIR", str(place))
    monkeypatch.setenv("PULLBACK_CACHE_DIR", str(tmp_path / "cache"))
    forget()
    yield place
    forget()


def forget():
    sources.folder.cache_clear()
    sources.source.cache_clear()
    compiler._warn_once.cache_clear()


def entries(folder):
    return sorted((folder.parent / "cache").iterdir())


@pytest.fixture
def compilations(monkeypatch):
    """What NVRTC is asked for."""
    asked = []
    inner = compiler._compile
    monkeypatch.setattr(compiler, "_compile", lambda *args: asked.append(args) or inner(*args))
    return asked


# --- sources ----------------------------------------------------------------------------------------------------------


def test_an_include_is_put_in_once_and_lines_keep_their_numbers(folder):
    text = sources.source(FILE)
    assert text.count("constexpr int factor") == 1
    assert text.count("struct float16") == 1
    assert "#pragma once" not in text
    assert "#include" not in text
    lines = text.splitlines()
    marker = max(i for i, line in enumerate(lines) if line.endswith(f'"{FILE}"'))
    start = int(lines[marker].split()[1])
    original = TEXT.splitlines()
    assert lines[marker + 1 :] == ["" if "#include" in line else line for line in original[start - 1 :]]


def test_the_sources_of_a_checkout_and_of_a_wheel_are_found(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("PULLBACK_KERNELS_DIR")
    forget()
    installed, checkout = tmp_path / "site" / "pullback", tmp_path / "repository" / "src" / "pullback"
    for package, kernels in ((installed, installed / "kernels"), (checkout, checkout.parents[1] / "kernels")):
        kernels.mkdir(parents=True)
        (kernels / "types.cuh").write_text("")
        monkeypatch.setattr(sources, "_PACKAGE", package)
        sources.folder.cache_clear()
        assert sources.folder() == kernels


def test_the_wheel_and_the_sdist_hold_the_sources():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert "kernels" in build["wheel"]["only-include"]
    assert build["wheel"]["sources"]["kernels"] == "pullback/kernels"
    assert "kernels" in build["sdist"]["include"]
    assert Path(pullback.__file__).parent == sources._PACKAGE


def test_missing_sources_are_an_error_that_names_the_places(tmp_path, monkeypatch):
    monkeypatch.delenv("PULLBACK_KERNELS_DIR", raising=False)
    monkeypatch.setattr(sources, "_PACKAGE", tmp_path / "a" / "b" / "pullback")
    forget()
    with pytest.raises(errors.KernelError, match=r"b/pullback/kernels or in .*a/kernels; install pullback again"):
        sources.source(FILE)
    forget()


def test_a_missing_file_is_an_error_that_names_what_includes_it(folder):
    (folder / "factor.cuh").unlink()
    with pytest.raises(errors.KernelError, match=r"factor\.cuh, included by twice\.cu, cannot be read"):
        sources.source(FILE)


# --- compiling --------------------------------------------------------------------------------------------------------


@needs_nvrtc
@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_a_known_architecture_gets_machine_code(folder, architecture):
    found = compiler.compile_cubin(FILE, [TWICE], architecture)
    assert found.code[:4] == b"\x7fELF"
    assert found.names[TWICE].encode() in found.code
    assert "0 bytes spill stores" in found.log


@needs_nvrtc
def test_an_architecture_newer_than_the_compiler_gets_ptx_of_the_newest_it_knows(folder):
    found = compiler.compile_cubin(FILE, [TWICE], 9999)
    newest = max(compiler.nvrtc.getSupportedArchs())
    assert f".target sm_{newest}".encode() in found.code
    assert found.names[TWICE].encode() in found.code


@needs_nvrtc
def test_an_architecture_older_than_the_compiler_is_refused_by_name(folder):
    with pytest.raises(errors.KernelError, match=r"does not compile for compute capability 2\.0; it knows .*9\.0"):
        compiler.compile_cubin(FILE, [TWICE], 20)
    assert not (folder.parent / "cache").exists()


@needs_nvrtc
def test_a_source_that_does_not_compile_is_an_error_with_the_compilers_words(folder):
    (folder / "factor.cuh").write_text("\nnamespace pullback { constexpr int factor = two; }\n")
    message = r"(?s)twice\.cu does not compile for sm_90 \(pullback::twice<float>\).*factor\.cuh\(2\): error: .*\"two\""
    with pytest.raises(errors.KernelError, match=message):
        compiler.compile_cubin(FILE, [TWICE], 90)
    assert not (folder.parent / "cache").exists()


@needs_nvrtc
@pytest.mark.parametrize("expression", ["pullback::thrice<float>", "pullback::twice<", "pullback::twice<void>"])
def test_a_kernel_that_is_not_in_the_file_is_an_error(folder, expression):
    with pytest.raises(errors.KernelError, match="does not compile for sm_90"):
        compiler.compile_cubin(FILE, [expression], 90)


def test_a_compiler_library_that_is_missing_is_an_error_that_says_what_to_install(folder, monkeypatch):
    def missing():
        raise RuntimeError("Failure finding libnvrtc.so")

    compiler._version.cache_clear()
    monkeypatch.setattr(compiler.nvrtc, "getVersion", missing)
    with pytest.raises(errors.KernelError, match=r"libnvrtc.*install pullback\[cuda12\] or \[cuda13\]"):
        compiler.compile_cubin(FILE, [TWICE], 90)


# --- the cache --------------------------------------------------------------------------------------------------------


@needs_nvrtc
def test_what_was_compiled_is_not_compiled_again(folder, compilations):
    first = compiler.compile_cubin(FILE, [TWICE], 90)
    assert compiler.compile_cubin(FILE, [TWICE], 90) == first
    assert len(compilations) == len(entries(folder)) == 1


@needs_nvrtc
def test_another_source_kernel_architecture_or_compiler_is_another_entry(folder, compilations, monkeypatch):
    compiler.compile_cubin(FILE, [TWICE], 90)
    compiler.compile_cubin(FILE, [TWICE], 80)
    compiler.compile_cubin(FILE, [TWICE, "pullback::twice<double>"], 90)
    (folder / "factor.cuh").write_text("namespace pullback { constexpr int factor = 3; }\n")
    sources.source.cache_clear()
    compiler.compile_cubin(FILE, [TWICE], 90)
    monkeypatch.setattr(compiler, "_version", lambda: (99, 0))
    compiler.compile_cubin(FILE, [TWICE], 90)
    assert len(compilations) == len(entries(folder)) == 5


@needs_nvrtc
@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: b"",
        lambda entry: entry[:20],
        lambda entry: entry[:-1],
        lambda entry: entry[:100] + bytes([entry[100] ^ 1]) + entry[101:],
        lambda entry: b"not a kernel at all" * 99,
    ],
)
def test_a_damaged_entry_is_compiled_again_and_mended(folder, compilations, damage):
    first = compiler.compile_cubin(FILE, [TWICE], 90)
    (entry,) = entries(folder)
    entry.write_bytes(damage(entry.read_bytes()))
    for _ in range(2):
        again = compiler.compile_cubin(FILE, [TWICE], 90)
        assert (len(again.code), again.names) == (len(first.code), first.names)  # a hash in it is of the time
    assert len(compilations) == 2


@needs_nvrtc
def test_a_cache_that_cannot_be_written_costs_one_warning_and_nothing_else(folder):
    (folder.parent / "cache").write_text("a file stands where the folder should be")
    with pytest.warns(UserWarning, match="compiled kernels are not kept .*PULLBACK_CACHE_DIR"):
        first = compiler.compile_cubin(FILE, [TWICE], 90)
    assert compiler.compile_cubin(FILE, [TWICE], 90).names == first.names  # a second warning would be an error


@needs_nvrtc
def test_an_entry_that_cannot_be_moved_into_place_leaves_nothing_behind(folder, monkeypatch):
    def full(self, target):
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        compiler.compile_cubin(FILE, [TWICE], 90)
    assert entries(folder) == []


@needs_nvrtc
def test_writers_at_the_same_time_leave_one_whole_entry(folder):
    first = compiler.compile_cubin(FILE, [TWICE], 90)
    (entry,) = entries(folder)
    whole = entry.read_bytes()
    for _round in range(20):
        writers = [threading.Thread(target=compiler._write, args=(entry.name, first)) for _ in range(4)]
        for writer in writers:
            writer.start()
        while any(writer.is_alive() for writer in writers):
            assert entry.read_bytes() == whole
    assert entries(folder) == [entry]


def test_the_cache_is_in_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("PULLBACK_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiler.cache_folder("kernels") == tmp_path / "pullback" / "kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compiler.cache_folder("kernels") == tmp_path / ".cache" / "pullback" / "kernels"


@needs_nvrtc
def test_two_processes_share_what_one_of_them_compiled(folder):
    program = (
        "from pullback.backends.cuda import compiler\n"
        f"print(len(compiler.compile_cubin({FILE!r}, [{TWICE!r}], 90).code))\n"
        "print(compiler._compile.__module__)\n"
    )
    outputs = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(outputs) == len(entries(folder)) == 1
