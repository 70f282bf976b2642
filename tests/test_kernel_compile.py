"""Every kernel, compiled by NVRTC for three architectures: no warnings, no spills, launchable, wide memory accesses.

NVRTC needs no driver and no GPU. Machine code takes some 100 ms for each instance, so the dtypes of each kernel are
dealt out to the architectures; `--every-kernel` compiles all for all. What was compiled is kept, by the hash of its
source, in the user's cache folder.
"""

import hashlib
import json
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
ENTRY = re.compile(r"\.entry (?P<name>\w+)\(.*?\.maxntid (?P<threads>\d+).*?\n\{(?P<body>.*?)\n\}", re.DOTALL)
LOADS_16 = re.compile(r"\bld(?:\.\w+)*\.(?:v4\.[bfus]32|v2\.[bfus]64)\b")
STORES_16 = re.compile(r"\bst(?:\.\w+)*\.(?:v4\.[bfus]32|v2\.[bfus]64)\b")
DTYPES = re.compile(r"\b(?:float|double|pullback::float16|pullback::bfloat16)\b")

# Of all others every instance reads and writes 16 bytes at a time.
READ_ONLY_WIDE = {"column_sum", "nonfinite", "norm"}
NEVER_WIDE = {"advance", "cross_entropy_total"}
TABLES = re.compile(r"op::(?:cos|sin|tan)\b")  # CUDA's own reduction of large arguments reads a table in memory


class Built(NamedTuple):
    """What NVRTC says of a kernel."""

    registers: int
    spilled: int
    stack: int
    threads: int
    loads_16: bool
    stores_16: bool


def kernels_of(file: str) -> list[str]:
    pytest.importorskip("cupy")
    from kernel_list import kernels

    return kernels().get(file, [])


def kernel_of(expression: str) -> str:
    """What instances of a kernel in other dtypes share; how many numbers 16 bytes hold depends on the dtype."""
    return re.sub(r"\b[248](?=[,>])", "W", DTYPES.sub("T", expression))


def share_of(architecture: int, expressions: list[str]) -> list[str]:
    """One or two instances of each kernel: over all architectures every one comes up."""
    instances: dict[str, list[str]] = {}
    for expression in expressions:
        instances.setdefault(kernel_of(expression), []).append(expression)
    turn, turns, found = ARCHITECTURES.index(architecture), len(ARCHITECTURES), []
    for number, group in enumerate(instances.values()):
        found += group if len(group) < turns else group[(turn + number) % turns :: turns]
    return found


def built(file: str, architecture: int, everything: bool) -> dict[str, Built]:
    """Kernels of a file by their expressions: all, or the share of an architecture."""
    compiler = pytest.importorskip("pullback.backends.cuda.compiler")
    try:
        version = compiler.nvrtc.getVersion()
    except Exception as error:
        pytest.skip(f"NVRTC cannot be loaded: {error}")
    text = compiler.source(file)
    expressions = kernels_of(file)
    if not everything:
        expressions = share_of(architecture, expressions)
    options = (*compiler.OPTIONS, compiler.target(architecture))
    key = hashlib.sha256(json.dumps([Path(__file__).read_text(), text, expressions, options, version]).encode())
    kept = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pullback-tests" / "nvrtc"
    kept.mkdir(parents=True, exist_ok=True)
    kept /= key.hexdigest()
    if not kept.exists():
        found = compiled(compiler.nvrtc, file, text, expressions, options)
        unfinished = kept.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(found))
        unfinished.replace(kept)
    return {expression: Built(*facts) for expression, facts in json.loads(kept.read_text()).items()}


def compiled(nvrtc, file: str, text: str, expressions: list[str], options: tuple[str, ...]) -> dict[str, Built]:
    program = nvrtc.createProgram(text, file, (), ())
    try:
        for expression in expressions:
            nvrtc.addNameExpression(program, expression)
        try:
            nvrtc.compileProgram(program, options)
        except nvrtc.NVRTCError:
            pytest.fail(nvrtc.getProgramLog(program), pytrace=False)
        log, ptx = nvrtc.getProgramLog(program), nvrtc.getPTX(program).decode()
        names = {expression: nvrtc.getLoweredName(program, expression) for expression in expressions}
    finally:
        nvrtc.destroyProgram(program)
    assert "warning" not in log.lower(), log
    reports = {m["name"]: m for m in REPORT.finditer(log)}
    entries = {m["name"]: m for m in ENTRY.finditer(ptx)}
    assert reports.keys() == entries.keys() == set(names.values())
    found = {}
    for expression, name in names.items():
        report, entry = reports[name], entries[name]
        found[expression] = Built(
            registers=int(report["registers"]),
            spilled=int(report["stores"]) + int(report["loads"]),
            stack=int(report["stack"]),
            threads=int(entry["threads"]),
            loads_16=bool(LOADS_16.search(entry["body"])),
            stores_16=bool(STORES_16.search(entry["body"])),
        )
    return found


def test_every_source_has_kernels_that_are_launched():
    assert FILES
    assert [file for file in FILES if not kernels_of(file)] == []


@pytest.mark.parametrize("file", FILES)
def test_every_instance_is_compiled_for_one_architecture_and_every_kernel_for_all(file):
    expressions = kernels_of(file)
    shares = [share_of(architecture, expressions) for architecture in ARCHITECTURES]
    assert set().union(*shares) == set(expressions)
    kernels = set(map(kernel_of, expressions))
    assert all(set(map(kernel_of, share)) == kernels for share in shares)


def template_of(expression: str) -> str:
    return expression.partition("<")[0].rpartition("::")[2]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("file", FILES)
def test_kernels_do_not_spill_fit_on_the_device_and_move_sixteen_bytes_at_a_time(file, architecture, every_kernel):
    for expression, kernel in built(file, architecture, every_kernel).items():
        assert kernel.spilled == 0, expression
        assert kernel.stack == 0 or TABLES.search(expression), f"{expression} keeps an array in memory"
        assert kernel.registers * kernel.threads <= REGISTERS, expression
        template = template_of(expression)
        if template == "cast":  # 16 bytes of the wider type
            assert kernel.loads_16 or kernel.stores_16, expression
        elif template in NEVER_WIDE or re.search(r"\w, 1\b", expression):  # 1 number at a time, for other addresses
            assert not kernel.loads_16, expression
        else:
            assert kernel.loads_16, expression
            assert kernel.stores_16 is (template not in READ_ONLY_WIDE), expression


def test_the_lists_of_narrow_kernels_are_not_out_of_date():
    templates = {template_of(expression) for file in FILES for expression in kernels_of(file)}
    assert templates >= READ_ONLY_WIDE | NEVER_WIDE
