"""How much memory a function takes, as `tracemalloc` sees it; NumPy tells it of its arrays."""

import tracemalloc
from collections.abc import Callable
from typing import Any


def traced_memory(run: Callable[[], Any]) -> tuple[Any, int, int]:
    """What `run()` gives, the most bytes that live at once meanwhile, and those that are left with the result.

    Bytes are the least of three runs. The first also makes what is made once; and other threads allocate when they
    like: pytest-xdist's takes 600 kB to give a thousand of this process's tests to another.
    """
    peaks, lefts = [], []
    for _ in range(3):
        found = None
        tracemalloc.start()
        try:
            found = run()
            left, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        peaks.append(peak)
        lefts.append(left)
    return found, min(peaks), min(lefts)
