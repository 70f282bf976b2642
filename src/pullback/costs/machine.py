"""The machine that figures depend on: its processor, the cores to use, and what multiplies matrices."""

import os
from functools import cache
from typing import Any

__all__ = ["blas", "cores", "processor"]


@cache
def processor() -> str:
    """The model of the processor, and its family where Linux tells it."""
    import platform

    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as listing:
            lines = (line.partition(":") for line in listing if ":" in line)
            facts = {name.strip(): value.strip() for name, _, value in lines}
    except OSError:
        return f"{platform.processor() or platform.machine()} of {platform.system()}"
    model, family = facts.get("model name", platform.machine()), facts.get("cpu family")
    return f"{model}, family {family}" if family else model


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def blas() -> str:
    """The library that multiplies matrices for NumPy."""
    import numpy as np

    facts: Any = np.show_config(mode="dicts")
    found = facts["Build Dependencies"]["blas"]
    return f"{found.get('name')} {found.get('version')}"
