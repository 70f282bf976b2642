"""Dropout: `kernels/dropout.cu`, whose masks are those of `backends.philox`."""

from collections.abc import Iterator
from typing import Any

import cupy
import numpy as np

from ..philox import DECISIONS, scale_of, threshold_of
from .fused import fused
from .launching import THREADS, blocks_for, ctype, kernel
from .rows import FLOATS, taken, wide

__all__ = ["advance", "dropped", "expressions", "keyed_dropout"]

FILE = "dropout.cu"
_ADVANCE = "pullback::advance"
_WORDS = 2**64


def expressions() -> Iterator[tuple[str, str]]:
    """Every file and name expression that can be launched from here."""
    for name in FLOATS:
        yield FILE, _instance(np.dtype(name))
    yield FILE, _ADVANCE


@fused
def keyed_dropout(plain: Any, x: Any, rate: float, key: int, step: int) -> Any:
    """The op `keyed_dropout`: one launch. No mask is kept: its rules call it again on cotangents and tangents."""
    if not taken(x) or not (0 <= rate <= 1 and 0 <= key < _WORDS and 0 <= step < _WORDS):
        return plain(x, rate, key, step)
    return dropped(x, rate, key, step), None


def dropped(x: Any, rate: float, key: int, step: int, counter: Any = None) -> Any:
    """`x` times the mask of a step.

    Args:
        x: Contiguous.
        counter: A uint64 in device memory that is added to the step when the kernel runs, so that the launches of a
            captured graph draw different masks; `advance` moves it.
    """
    out = cupy.empty(x.shape, x.dtype)
    blocks = blocks_for(-(-x.size // DECISIONS))
    factor = wide(x.dtype)(scale_of(rate, x.dtype))
    threshold = np.uint32(threshold_of(rate))
    kernel(FILE, _instance(x.dtype))(
        blocks, THREADS, x, out, np.int64(x.size), np.uint64(key), np.uint64(step), counter, threshold, factor
    )
    return out


def advance(counter: Any, steps: int) -> None:
    """Add to a counter in device memory: at the end of a captured step, the number of masks that it drew."""
    kernel(FILE, _ADVANCE)(1, 1, counter, np.uint64(steps))


def _instance(dtype: np.dtype) -> str:
    return f"pullback::dropout<{ctype(dtype)}>"
