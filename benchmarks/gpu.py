"""`python -m benchmarks.gpu`: numbers, tests and times of the kernels on a CUDA device, into `benchmarks/results/`.

Each part runs in a process of its own, under a time limit, and writes what it finds as it finds it: a part that crashes
or hangs costs nothing but the rest of itself. All together stay under ten minutes. What is written names the GPU, its
driver and the versions of libraries, and nothing else of the machine.
"""

import argparse
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

from pullback.backends import backend_for
from pullback.errors import DeviceError

from .gpu_device import FULL, TINY, Report

ROOT = Path(__file__).parents[1]
TOGETHER = 570.0  # seconds
LINE = 200  # characters
LIBRARIES = r"(pullback|numpy|cupy.*|torch|jax|jaxlib|ml[-_]dtypes|nvidia-(cublas|cuda-runtime|cuda-nvrtc).*)"


class Part(NamedTuple):
    """A part: where its function is (module and name), and the seconds that it may take."""

    module: str
    function: str
    limit: float


PARTS = {  # in the order in which they run
    "compilation": Part("gpu_checks", "compiled", 90),
    "numbers": Part("gpu_checks", "numbers", 60),
    "op suite, kernels": Part("gpu_checks", "op_suite", 100),
    "bandwidth": Part("gpu_speed", "bandwidth", 130),
    "training steps": Part("gpu_steps", "training_steps", 110),
    "launch overhead": Part("gpu_speed", "launch_overhead", 30),
    "sanitizer": Part("gpu_checks", "sanitizer", 100),
    "tests of the backend": Part("gpu_checks", "tests_on_device", 60),
    "op suite, plain formulas": Part("gpu_checks", "op_suite_plain", 100),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all of it; the exit status is 0 only when every part ended well and found nothing wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part (may be repeated)")
    results = ROOT / "benchmarks" / "results"
    parser.add_argument("--out", type=Path, help="folder of the result: benchmarks/results, or of a dry run a new one")
    parser.add_argument("--dry-run", action="store_true", help="few numbers, on the stand-in for CuPy of the tests")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)  # of a part's own process
    options = parser.parse_args(arguments)
    options.out = options.out or (Path(tempfile.mkdtemp()) if options.dry_run else results)
    if options.dry_run:
        sys.path.insert(0, str(ROOT / "tests"))
        with importlib.import_module("stand_in_cupy").device():
            return _run(options)
    return _run(options)


def _run(options: argparse.Namespace) -> int:
    try:
        device = backend_for("cuda").devices()["cuda:0"]
    except DeviceError as error:
        print(f"no GPU to measure: {error}", file=sys.stderr)
        return 1
    if options.into:
        _function(PARTS[options.part[0]])(Report(options.into), FULL)
        return 0
    print(f"device  {device}")
    result = {"device": device, **_versions(), "date": f"{datetime.now(UTC):%Y-%m-%d}", "parts": {}}
    options.out.mkdir(parents=True, exist_ok=True)
    gpu = re.sub(r"[^a-z0-9]+", "-", device.partition(",")[0].lower()).strip("-")
    path = options.out / f"{gpu}-{result['date']}.json"
    result["parts"] = _kept(path, result)
    end = monotonic() + TOGETHER
    for name in options.part or PARTS:
        print(f"\n== {name}\n", flush=True)
        limit = min(PARTS[name].limit, end - monotonic())
        found = _here(PARTS[name]) if options.dry_run else run_part(_command(name), limit)
        result["parts"][name] = found
        print(f"{name}: {found['state']}, {found['seconds']} s", flush=True)
        path.write_text(compact(result))
    print(f"\nwrote {path}")
    return int(any(found["state"] != "done" or wrong(found) for found in result["parts"].values()))


def _function(part: Part) -> Callable[..., None]:
    return getattr(importlib.import_module(f".{part.module}", __package__), part.function)


def _kept(path: Path, result: dict[str, Any]) -> dict[str, Any]:
    """The parts of an earlier run of the same day on the same device with the same versions."""
    earlier = json.loads(path.read_text()) if path.exists() else {}
    parts = earlier.pop("parts", {})
    return dict(parts) if earlier == {name: fact for name, fact in result.items() if name != "parts"} else {}


def _command(name: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.gpu", "--part", name]


def run_part(command: Sequence[str], limit: float) -> dict[str, Any]:
    """What a part has found, how it ended and in how many seconds.

    Args:
        command: What runs it; `--into` and a file come on top.
        limit: Seconds after which it is stopped, with all processes that it has started.
    """
    start = monotonic()
    if limit <= 0:
        return {"state": "no time was left", "seconds": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder) / "found"
        process = subprocess.Popen([*command, "--into", str(into)], cwd=ROOT, start_new_session=True)
        try:
            status = process.wait(limit)
            state = "done" if status == 0 else f"failed with exit status {status}"
        except subprocess.TimeoutExpired:
            state = f"stopped after {limit:.0f} s"
        finally:
            _end(process)
        return {"state": state, "seconds": round(monotonic() - start, 1), **Report.read(into)}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process, and the others of its session, which it has begun."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _here(part: Part) -> dict[str, Any]:
    """A part in this process, for few numbers."""
    start = monotonic()
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder) / "found"
        _function(part)(Report(into), TINY)
        return {"state": "done", "seconds": round(monotonic() - start, 1), **Report.read(into)}


def wrong(found: dict[str, Any]) -> bool:
    """Whether a part has found what should not be."""
    unclean = any(isinstance(value, dict) and value.get("clean") is False for value in found.values())
    return unclean or any(found.get(name) for name in ("failed", "wrong", "error", "kernels that did not run"))


def compact(result: dict[str, Any]) -> str:
    """JSON with a line for each innermost object or list that is short enough."""

    def joined(match: re.Match[str]) -> str:
        line = re.sub(r"\n\s*", " ", match[0])
        return line if len(line) < LINE else match[0]

    text = json.dumps(result, indent=1)
    for inner in (r"\[[^{}\[\]]*\]", r"\{[^{}]*\}"):
        text = re.sub(inner, joined, text)
    return text + "\n"


def _versions() -> dict[str, Any]:
    """Of the driver, CUDA as CuPy and NVRTC see it, and libraries."""
    import cupy
    from cupy.cuda import nvrtc

    found = {str(d.metadata["Name"]): d.version for d in distributions()}
    return {
        "driver": _driver(),
        "CUDA": {
            "driver": cupy.cuda.runtime.driverGetVersion(),
            "runtime": cupy.cuda.runtime.runtimeGetVersion(),
            "NVRTC": ".".join(map(str, nvrtc.getVersion())),
        },
        "python": sys.version.partition(" ")[0],
        "libraries": {name: found[name] for name in sorted(found) if re.fullmatch(LIBRARIES, name)},
    }


def _driver() -> str:
    """The driver's version; empty where nvidia-smi does not say it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    if shutil.which(command[0]) is None:
        return ""
    return (subprocess.run(command, capture_output=True, text=True, check=False).stdout.split() or [""])[0]


if __name__ == "__main__":
    sys.exit(main())
