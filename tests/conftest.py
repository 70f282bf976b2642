"""Options and fixtures of the test suite."""

import emulator
import op_cases
import pytest
import separate_device as separate
from stand_in_cupy import log

from pullback.backends import BACKENDS, registry


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where tests/test_ops.py runs the ops: cpu, cuda, cuda:1")
    parser.addoption("--every-kernel", action="store_true", help="compile all kernels for all architectures")


def pytest_configure(config: pytest.Config) -> None:
    op_cases.DEVICE = config.getoption("--device")
    if op_cases.DEVICE != "cpu":  # what tests the CUDA backend needs neither the stand-in nor the emulator then
        log.on_gpu, emulator.missing = True, lambda: None


@pytest.fixture
def every_kernel(request: pytest.FixtureRequest) -> bool:
    """Whether all kernels are compiled for all architectures."""
    return bool(request.config.getoption("--every-kernel"))


@pytest.fixture
def separate_device(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a device whose arrays are not the CPU's."""
    monkeypatch.setitem(registry._by_device, "cuda", separate.BACKEND)
    monkeypatch.setitem(BACKENDS, separate.DeviceArray, separate.BACKEND)
    return "cuda"
