"""Whether the GPU computes what it should: compilation, numbers, the tests on the device, NVIDIA's sanitizer."""

import importlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from itertools import cycle, zip_longest
from multiprocessing import get_context
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any
from xml.etree import ElementTree

import numpy as np

from . import gpu_kernels
from .gpu_device import TINY, Report, Scale, backend, watched

__all__ = ["compiled", "launch_all", "numbers", "op_suite", "op_suite_plain", "sanitizer", "tests_on_device"]

ROOT = Path(__file__).parents[1]
TESTS = ("test_cuda_backend.py", "test_cuda_elementwise.py", "test_cuda_lists.py", "test_fused_rows.py")
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
OUTCOME = re.compile(r"(?:^\[gw\d+\] \[ *\d+%\] |::.* )(PASSED|FAILED|ERROR|SKIPPED)\b")  # a line of `pytest -v`
FOUND = 9  # the exit status by which the sanitizer says that it has found something


# --- compilation ------------------------------------------------------------------------------------------------------


def compiled(report: Report, scale: Scale) -> None:
    """Every kernel compiled for this GPU by several processes, so that later parts find it on disk."""
    import cupy

    architecture = int(cupy.cuda.Device().compute_capability)
    work = [(file, expression, architecture) for expression, file in gpu_kernels.listed().items()]
    start = perf_counter()
    if scale.jobs == 1:
        found = list(map(_compile, work))
    else:
        with ProcessPoolExecutor(scale.jobs, get_context("spawn")) as pool:
            found = list(pool.map(_compile, work, chunksize=4))
    failed = {expression: error for (_, expression, _), error in zip(work, found, strict=True) if error}
    report.add("kernels", len(work))
    report.add("processes", scale.jobs)
    report.add("seconds", round(perf_counter() - start, 1))
    report.add("not compiled", len(failed))
    report.add("failed", dict(list(failed.items())[:20]))


def _compile(what: tuple[str, str, int]) -> str:
    """Compile a kernel; the error, if there is one."""
    file, expression, architecture = what
    try:
        compiler: Any = importlib.import_module("pullback.backends.cuda.compiler")
        compiler.compile_cubin(file, (expression,), architecture)
    except Exception as error:  # reported, whatever it is
        return f"{type(error).__name__}: {error}"[:2000]
    return ""


# --- numbers ----------------------------------------------------------------------------------------------------------


def numbers(report: Report, scale: Scale) -> None:
    """Every kernel beside float64 on the CPU: the largest error, relative to the largest number of the result."""
    wrong: list[str] = []
    launched: set[str] = set()
    for dtype in scale.types:
        worst = 0.0
        for case, (rows, columns) in [(case, s) for s in scale.shapes for case in gpu_kernels.small(dtype, s)]:
            name = f"{case.name}, {dtype}, {rows} x {columns}"
            try:
                error, holds, kernels = _compared(case)
            except Exception as failure:  # the others are still of use
                report.add("failed", name, f"{type(failure).__name__}: {failure}"[:1000])
                wrong.append(name)
                backend().synchronize()  # raises, and ends this part, where the device can do no more
                continue
            report.add("errors", name, float(f"{error:.2e}"))
            worst = worst if case.name.startswith("astype") else max(worst, error)
            launched |= kernels
            if not holds or not kernels:
                wrong.append(name)
        report.add("worst", dtype, float(f"{worst:.2e}"))
    report.add("kernels that ran", len(launched))
    if set(scale.types) == gpu_kernels.LIMITS.keys():
        report.add("kernels that did not run", sorted(gpu_kernels.listed().keys() - launched))
    report.add("wrong", wrong)


def _compared(case: gpu_kernels.Case) -> tuple[float, bool, set[str]]:
    """The largest error of a call, whether all are within the limit, and the kernels that it launched."""
    arrays = [gpu_kernels.given(array, case.dtype) for array in case.arrays]
    before = [array.get() for array in arrays]
    _poison(arrays)
    with watched() as launches:
        results = case.body(backend(), arrays)
    error, holds = gpu_kernels.compare(case, before, results)
    return error, holds, {launch.kernel.expression for launch in launches}


def _poison(like: Sequence[Any]) -> None:
    """Leave NaN in memory that the next arrays of such sizes are made of: a number that no kernel writes shows."""
    import cupy

    for size in {array.nbytes for array in like}:
        taken = [cupy.full(size, 0xFF, np.uint8) for _ in range(4)]
        del taken


# --- tests ------------------------------------------------------------------------------------------------------------


def op_suite(report: Report, scale: Scale) -> None:
    """tests/test_ops.py on the device, with the kernels."""
    _tests(report, scale, ["test_ops.py"], "on")


def op_suite_plain(report: Report, scale: Scale) -> None:
    """tests/test_ops.py on the device, by plain formulas."""
    _tests(report, scale, ["test_ops.py"], "off")


def tests_on_device(report: Report, scale: Scale) -> None:
    """The tests of the CUDA backend that otherwise run on the stand-in for CuPy."""
    _tests(report, scale, TESTS, "on")


def _tests(report: Report, scale: Scale, files: Any, kernels: str) -> None:
    """How many tests passed, and the names and messages of those that failed."""
    if find_spec("pytest") is None:
        report.add("error", "pytest is not installed")
        return
    command = [sys.executable, "-m", "pytest", *(f"tests/{file}" for file in files), "-v", "--tb=line"]
    command += ["-p", "no:cacheprovider", "-W", "default"]  # what CuPy warns of is no failure
    if scale.jobs > 1 and find_spec("xdist"):
        command += ["-n", str(min(scale.jobs, 8))]
    command += ["-k", "tanh and jvp or slopes_are_one_launch_each"] if scale is TINY else ["--device", "cuda"]
    start = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder) / "report.xml"
        environment = os.environ | {"PULLBACK_KERNELS": kernels, "PYTHONUNBUFFERED": "1"}
        options: dict[str, Any] = {"cwd": ROOT, "env": environment, "text": True, "stdout": subprocess.PIPE}
        with subprocess.Popen([*command, f"--junitxml={xml}"], **options) as done:
            _follow(report, done.stdout or ())
        cases = list(ElementTree.parse(xml).getroot().iter("testcase")) if xml.exists() else []
    failed = {}
    for case in cases:
        for wrong in (*case.iterfind("failure"), *case.iterfind("error")):
            failed[f"{case.get('classname')}::{case.get('name')}"] = (wrong.get("message") or "")[:400]
    skipped = sum(case.find("skipped") is not None for case in cases)
    report.add("passed", len(cases) - len(failed) - skipped)
    report.add("skipped", skipped)
    report.add("seconds", round(perf_counter() - start, 1))
    report.add("failed", failed)
    if done.returncode not in (0, 1):
        report.add("error", f"pytest ended with {done.returncode}")


def _follow(report: Report, lines: Iterable[str]) -> None:
    """Report how tests of pytest's verbose output ended, now and then: where time runs out, that is what there is."""
    counts: Counter[str] = Counter()
    for line in lines:
        match = OUTCOME.search(line)
        if match is None:
            print(line, end="", flush=True)
            continue
        outcome = match[1]
        counts[outcome.lower()] += 1
        if outcome in ("FAILED", "ERROR"):
            report.add("failed so far", line.strip()[:300], outcome)
        if sum(counts.values()) % 50 == 0:
            report.add("so far", dict(counts))


# --- NVIDIA's sanitizer -----------------------------------------------------------------------------------------------


def launch_all(run: bool = True) -> int:
    """Launch every fused function once, in one dtype or another; how many launches that was."""
    import cupy

    cupy.cuda.set_allocator(None)  # each array is an allocation of its own, whose bounds the sanitizer knows
    tables = [gpu_kernels.small(dtype) for dtype in gpu_kernels.LIMITS]
    turns, count = cycle(range(len(tables))), 0
    for together in zip_longest(*tables):
        case = together[next(turns)] or next(filter(None, together))
        with watched(run) as launches:
            case.body(backend(), [gpu_kernels.given(array, case.dtype) for array in case.arrays])
        count += len(launches)
    backend().synchronize()
    return count


def sanitizer(report: Report, scale: Scale) -> None:
    """`launch_all` under each tool of compute-sanitizer, side by side."""
    program = _compute_sanitizer()
    if program is None:
        report.add("absent", "compute-sanitizer is not on PATH, in the CUDA toolkit or in nvidia-cuda-sanitizer-api")
        return
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for tool in TOOLS:
            log = Path(folder) / tool
            command = [program, "--tool", tool, "--error-exitcode", str(FOUND)]
            command += ["--report-api-errors", "no"] if tool == "memcheck" else []
            command += [sys.executable, "-m", __spec__.name]
            with log.open("w") as file:
                process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
            running.append((tool, process, log))
        end = monotonic() + scale.seconds
        for tool, process, log in running:
            try:
                state = process.wait(max(0.1, end - monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                state = None
            report.add(tool, verdict(state, log.read_text(errors="replace")))


def verdict(state: int | None, log: str) -> dict[str, Any]:
    """What a tool's exit status (None: it was stopped) and its output say."""
    lines = log.splitlines()
    summary = [line.strip("= ") for line in lines if "SUMMARY" in line]
    launches = [line for line in lines if line.startswith("launches: ")]
    found = state == FOUND or any(int(n) for line in summary for n in re.findall(r"\d+", line))
    if state == 0 and launches and summary and not found:
        return {"clean": True, "summary": summary[-1], "launches": int(launches[-1].split()[1])}
    if state is None:
        return {"clean": None, "summary": "stopped at its time limit", "log": lines[-10:]}
    if found:
        return {"clean": False, "summary": summary[-1] if summary else "", "log": lines[:80]}
    return {"clean": None, "summary": f"it did not run, exit status {state}", "log": lines[-20:]}


def _compute_sanitizer() -> str | None:
    name = "compute-sanitizer"
    roots = [os.environ.get(variable) for variable in ("CUDA_HOME", "CUDA_PATH")] + ["/usr/local/cuda"]
    places = [Path(root) / folder / name for root in roots if root for folder in ("bin", name)]
    wheels = Path(sysconfig.get_path("purelib")) / "nvidia"
    places += sorted(path for path in wheels.rglob(name) if path.is_file()) if wheels.is_dir() else []
    found = next((str(path) for path in places if path.is_file() and os.access(path, os.X_OK)), None)
    return shutil.which(name) or found


if __name__ == "__main__":
    print(f"launches: {launch_all()}", flush=True)
