"""What a mutant is, and a copy of the project to plant it in."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("src", "kernels", "tests", "pyproject.toml", "README.md")
INVALID = "does not compile"
TIMEOUT = 300  # seconds; a kernel that never ends is caught too


class Mutant(NamedTuple):
    """One bug.

    Attributes:
        file: where it is planted.
        old: text that occurs there exactly once.
        new: what takes its place.
        breaks: what is wrong then.
        tests: what pytest is to run in the folder of tests to see it: a file, perhaps `-k` and words.
    """

    file: str
    old: str
    new: str
    breaks: str
    tests: tuple[str, ...]

    def __str__(self) -> str:
        return f"{Path(self.file).name}: {self.breaks}"

    def fault(self) -> str | None:
        """Why it cannot be planted: its text is not there exactly once."""
        count = (ROOT / self.file).read_text().count(self.old)
        return None if count == 1 else f"{self}: its text occurs {count} times in {self.file}, not once:\n{self.old}"


class Outcome(NamedTuple):
    """What the tests said; `caught_by` is None if they passed, INVALID if the mutant did not even compile."""

    caught_by: str | None
    message: str
    seconds: float


class Copy:
    """A copy of the project, the home of one mutant at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder / name)

    @contextmanager
    def planted(self, mutant: Mutant) -> Iterator[None]:
        file = self.folder / mutant.file
        text = file.read_text()
        file.write_text(text.replace(mutant.old, mutant.new))
        try:
            yield
        finally:
            file.write_text(text)

    def run(self, tests: Sequence[str]) -> Outcome:
        """Runs tests until the first one fails."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", "--tb=no"]
        paths = os.pathsep.join([str(self.folder / "src"), str(self.folder / "tests")])
        environment = os.environ | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "1000"}
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        started = time.monotonic()
        try:
            finished = subprocess.run(
                [*command, *tests], cwd=self.folder / "tests", env=environment,
                capture_output=True, text=True, timeout=TIMEOUT, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Outcome("time", f"not done after {TIMEOUT} seconds", TIMEOUT)
        seconds = time.monotonic() - started
        if finished.returncode == 0:
            return Outcome(None, finished.stdout.strip().rpartition("\n")[2], seconds)
        return Outcome(*caught_by(finished.stdout + finished.stderr), seconds)


def caught_by(output: str) -> tuple[str, str]:
    """The kind of check that failed, and the line that says so."""
    failures = re.findall(r"^(?:FAILED|ERROR) .*$", output, re.MULTILINE)
    line = failures[0] if failures else output.strip().rpartition("\n")[2]
    error = re.search(r"EmulatorError: (\w+):", line)
    if error:
        return f"emulator: {error[1]}", line
    if "CompileError" in line:
        return INVALID, line
    raised = re.search(r" - (?:\w+\.)*(\w+)", line)
    return ("numbers" if raised is None or raised[1] in ("AssertionError", "assert") else raised[1]), line


def planted_in(file: str, tests: tuple[str, ...], *bugs: tuple[str, str, str]) -> Iterator[Mutant]:
    """Mutants of one file: (old text, new text, what it breaks)."""
    for old, new, breaks in bugs:
        yield Mutant(file, old, new, breaks, tests)
