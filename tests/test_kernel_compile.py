"""Every kernel, compiled by NVRTC for three architectures: no warnings, no spills, launchable, wide memory accesses.

NVRTC needs no driver and no GPU. What was compiled is kept by the hash of its source in the user's cache folder.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path.name for path in (ROOT / "kernels").glob("*.cu"))
ARCHITECTURES = (80, 90, 100)
REGISTERS = 65536  # of a multiprocessor, and so the most that a block can have

REPORT = re.compile(
    r"entry function '(?P<name>\S+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers",
    re.DOTALL,
)
ENTRY = re.compile(r"\.visible \.entry (?P<name>\w+)\(.*?\.maxntid (?P<threads>\d+).*?\n\{(?P<body>.*?)\n\}", re.DOTALL)
LOADS_16 = re.compile(r"\bld\.global(?:\.\w+)*\.(?:v4\.[bfus]32|v2\.[bfus]64)\b")
STORES_16 = re.compile(r"\bst\.global(?:\.\w+)*\.(?:v4\.[bfus]32|v2\.[bfus]64)\b")

# Of all others every instance reads and writes 16 bytes at a time.
READ_ONLY_WIDE = {"column_sum", "nonfinite", "norm"}
NEVER_WIDE = {"advance", "cross_entropy_total"}


class Entry(NamedTuple):
    """A kernel in PTX."""

    threads: int
    body: str


def kernels_of(file: str) -> list[str]:
    pytest.importorskip("cupy")
    from kernel_list import kernels

    return kernels().get(file, [])


def compiled(file: str, architecture: int, monkeypatch: pytest.MonkeyPatch):
    cupy_compiler = pytest.importorskip("pullback.backends.cuda.compiler")
    try:
        cupy_compiler.nvrtc.getVersion()
    except Exception as error:
        pytest.skip(f"NVRTC cannot be loaded: {error}")
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    monkeypatch.setenv("PULLBACK_CACHE_DIR", str(Path(root) / "pullback-tests" / "nvrtc"))
    return cupy_compiler.compile_cubin(file, kernels_of(file), architecture)


def in_ptx(file: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Entry]:
    """Every kernel as PTX, which a device that is newer than the compiler gets."""
    found = compiled(file, 91, monkeypatch)
    entries = {m["name"]: Entry(int(m["threads"]), m["body"]) for m in ENTRY.finditer(found.code.decode())}
    return {expression: entries[name] for expression, name in found.names.items()}


def test_every_source_has_kernels_that_are_launched():
    assert FILES
    assert [file for file in FILES if not kernels_of(file)] == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("file", FILES)
def test_kernels_compile_without_warnings_and_spills_and_fit_on_the_device(file, architecture, monkeypatch):
    found = compiled(file, architecture, monkeypatch)
    threads = {found.names[expression]: entry.threads for expression, entry in in_ptx(file, monkeypatch).items()}
    assert found.code[:4] == b"\x7fELF"
    assert "warning" not in found.log.lower()
    reports = {m["name"]: m for m in REPORT.finditer(found.log)}
    assert reports.keys() == threads.keys()
    for name, report in reports.items():
        assert (report["stores"], report["loads"]) == ("0", "0"), f"{name} spills"
        assert report["stack"] == "0", f"{name} keeps an array in memory"
        assert int(report["registers"]) * threads[name] <= REGISTERS, name


def template_of(expression: str) -> str:
    return expression.partition("<")[0].rpartition("::")[2]


def is_wide(expression: str) -> bool:
    """Whether an instance moves 16 bytes at a time; those with the template argument 1 are for the other addresses."""
    return template_of(expression) not in NEVER_WIDE and not re.search(r"\w, 1\b", expression)


@pytest.mark.parametrize("file", FILES)
def test_kernels_read_and_write_sixteen_bytes_at_a_time(file, monkeypatch):
    entries = in_ptx(file, monkeypatch)
    for expression, entry in entries.items():
        if is_wide(expression):
            assert LOADS_16.search(entry.body), expression
            assert template_of(expression) in READ_ONLY_WIDE or STORES_16.search(entry.body), expression


def test_the_lists_of_narrow_kernels_are_not_out_of_date(monkeypatch):
    bodies = {name: entry.body for file in FILES for name, entry in in_ptx(file, monkeypatch).items()}
    templates = {template_of(name) for name in bodies}
    assert templates >= READ_ONLY_WIDE | NEVER_WIDE
    assert [
        name for name, body in bodies.items() if template_of(name) in READ_ONLY_WIDE and STORES_16.search(body)
    ] == []
    narrow = {name: body for name, body in bodies.items() if template_of(name) in NEVER_WIDE}
    assert [name for name, body in narrow.items() if LOADS_16.search(body)] == []
