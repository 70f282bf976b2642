"""`python -m benchmarks.gpu`: the op suite on a CUDA device, and training steps there, into `benchmarks/results/`.

What it writes names the GPU, its driver and the versions of libraries, and nothing else of the machine.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pullback as pb
from pullback.backends import backend_for
from pullback.errors import DeviceError

from .runner import race, spread, table
from .steps import RATE, Problem, Step

ROOT = Path(__file__).parents[1]
NETS = {
    "64-32-10, batch 32": ((64, 32, 10), 32),
    "784-512-512-10, batch 128": ((784, 512, 512, 10), 128),
    "1024-4096-4096-10, batch 1024": ((1024, 4096, 4096, 10), 1024),
}
LIBRARIES = r"(pullback|numpy|cupy.*|torch|nvidia-cublas.*|nvidia-cuda-runtime.*)"


def main() -> int:
    """Run all of it; the exit status is 0 only when every test passed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds: shows that it runs, no figures")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the result")
    options = parser.parse_args()
    try:
        device = backend_for("cuda").devices()["cuda:0"]
    except DeviceError as error:
        print(f"no GPU to measure: {error}", file=sys.stderr)
        return 1
    print(f"device  {device}\n")
    tests = op_suite()
    print(f"op suite  {tests['passed']} passed, {len(tests['failed'])} failed, {tests['skipped']} skipped", end="\n\n")
    result = {
        "device": device,
        "driver": _driver(),
        "libraries": _libraries(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "quick": options.quick,
        "op_suite": tests,
        "microseconds_per_step": steps(rounds=3 if options.quick else 30),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    gpu = re.sub(r"[^a-z0-9]+", "-", device.partition(",")[0].lower()).strip("-")
    path = options.out / f"{gpu}-{result['date']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nwrote {path}")
    return 1 if tests["failed"] else 0


def op_suite() -> dict[str, Any]:
    """tests/test_ops.py on the device: how many cases passed, and the names of those that failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "tests/test_ops.py", "--device", "cuda", f"--junitxml={report}"]
        subprocess.run([*command, "-q", "--tb=line", "-p", "no:cacheprovider"], cwd=ROOT, check=False)
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = [c.get("name", "") for c in cases if c.find("failure") is not None or c.find("error") is not None]
    skipped = sum(c.find("skipped") is not None for c in cases)
    return {"passed": len(cases) - len(failed) - skipped, "failed": failed, "skipped": skipped}


def steps(rounds: int) -> dict[str, Any]:
    """A training step of each net (forward, cross-entropy, backward, Adam; float32) on the device and on the CPU."""
    answers = {}
    for net, (sizes, batch) in NETS.items():
        problem = Problem(sizes, batch)
        contenders = {"pullback on cuda": by_pullback(problem, "cuda"), "pullback on cpu": by_pullback(problem, "cpu")}
        if _torch_has_cuda():
            contenders["torch on cuda"] = by_torch(problem)
        times = race(contenders, rounds, turn=0.1)
        answers[net] = {name: spread(t * 1e6, 1) for name, t in times.items()}
        table({name: {"us per step": t} for name, t in answers[net].items()}, net)
    return answers


def by_pullback(problem: Problem, device: str) -> Step:
    """One step, and the wait until the device has done it."""
    net = pb.nn.MLP(problem.sizes, activation="relu").to(device)
    adam = pb.optim.Adam(net.parameters(), lr=RATE)
    x, labels = pb.tensor(problem.x, device=device), pb.tensor(problem.labels, device=device)
    wait = backend_for(device).synchronize

    def step() -> None:
        loss = pb.nn.cross_entropy(net(x), labels)
        adam.zero_grad()
        loss.backward()
        adam.step()
        wait()

    return step


def by_torch(problem: Problem) -> Callable[[], Any]:
    """The same in PyTorch, run op by op, with its fused Adam."""
    import torch

    layers: list[Any] = []
    for inputs, outputs in zip(problem.sizes, problem.sizes[1:], strict=False):
        layers += [torch.nn.Linear(inputs, outputs, device="cuda"), torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers[:-1])
    adam = torch.optim.Adam(net.parameters(), lr=RATE, fused=True)
    x, labels = torch.tensor(problem.x, device="cuda"), torch.tensor(problem.labels, device="cuda")

    def step() -> None:
        loss = torch.nn.functional.cross_entropy(net(x), labels)
        adam.zero_grad()
        loss.backward()
        adam.step()
        torch.cuda.synchronize()

    return step


def _torch_has_cuda() -> bool:
    if not find_spec("torch"):
        return False
    import torch

    return bool(torch.cuda.is_available())


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]


def _libraries() -> dict[str, str]:
    found = {str(d.metadata["Name"]): d.version for d in distributions()}
    return {name: found[name] for name in sorted(found) if re.fullmatch(LIBRARIES, name)}


if __name__ == "__main__":
    sys.exit(main())
