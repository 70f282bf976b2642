"""Memory that NumPy's arrays let go stays at hand for the next ones."""

import os
import platform
import subprocess
import sys

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

jacobian, x = pb.jacobian(f, mode="reverse"), pb.asarray(np.ones(900, "float32"))
for _ in range(3):
    jacobian(x)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    jacobian(x)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 5)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that gives freed memory back")
def test_a_jacobian_made_again_takes_no_new_pages():
    def new_pages(**variables):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | variables
        command = [sys.executable, "-c", PROGRAM]
        return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)

    assert new_pages() < 100
    held = new_pages(MALLOC_TRIM_THRESHOLD_=str(1 << 17))  # what a user says holds
    assert held > 1000
