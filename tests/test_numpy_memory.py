"""Memory that NumPy's arrays let go stays at hand for the next ones, once a Jacobian was made by rows or columns."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource
import numpy as np
import pullback as pb

weights = [pb.asarray(np.ones(shape, "float32") / 900) for shape in [(900, 30), (30, 900)] * 3]

def f(x):
    for w in weights:
        x = pb.linear_tanh(x, w)
    return x

def arrays():
    made = [np.ones((900, 900), "float32") for _ in range(4)]

jacobian, x = pb.jacobian(f, mode="reverse"), pb.asarray(np.ones(900, "float32"))
run = {"jacobian": lambda: jacobian(x), "arrays": arrays}["%s"]
for _ in range(3):
    run()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    run()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 5)
"""
HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
pytestmark = [
    pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that gives freed memory back"),
    pytest.mark.skipif(HUGE.exists() and "[always]" in HUGE.read_text(), reason="pages are huge, so there are few"),
]


def new_pages(run, **variables):
    """How many pages a call of `run` takes from the system, in a process of its own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", PROGRAM % run]
    return int(subprocess.run(command, env=inherited | variables, capture_output=True, text=True, check=True).stdout)


def test_a_jacobian_made_again_takes_no_new_pages():
    assert new_pages("jacobian") < 100


@pytest.mark.parametrize("variable", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"])
def test_what_the_environment_says_of_malloc_holds(variable):
    assert new_pages("jacobian", **{variable: str(1 << 17)}) > 1000


def test_who_only_imports_keeps_malloc_as_it_was():
    assert new_pages("arrays") > 1000
