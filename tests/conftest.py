"""Options of the test suite."""

import op_cases
import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where tests/test_ops.py runs the ops: cpu, cuda, cuda:1")


def pytest_configure(config: pytest.Config) -> None:
    op_cases.DEVICE = config.getoption("--device")
