"""What is asked of all gradients at once: `kernels/checks.cu`, one launch for all arrays of a dtype."""

from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any

import cupy
import numpy as np

from .launching import THREADS, ctype, kernel, workspace
from .launching import counters as zeroed
from .pieces import by_dtype, pieces_of
from .rows import FLOATS, taken, wide

__all__ = ["expressions", "nonfinite", "norm_and_factor", "scale"]

FILE = "checks.cu"


def expressions() -> Iterator[tuple[str, str]]:
    """Every file and name expression that can be launched from here."""
    for name in FLOATS:
        for template in ("norm", "scale", "nonfinite"):
            yield FILE, _instance(template, np.dtype(name))


def norm_and_factor(arrays: Sequence[Any], most: float) -> tuple[Any, Any] | None:
    """The Euclidean norm of arrays as one vector, and `min(1, most / (norm + 1e-6))`: one launch.

    Squares are summed in float64 in an order that does not depend on the device.

    Args:
        arrays: At least one, contiguous, of one dtype.

    Returns:
        Two arrays of one number and no dimension, in float32 (float64 for float64), on the device; None when the kernel
        does not take the arrays.
    """
    if not arrays or not taken(*arrays):
        return None
    dtype, pieces = arrays[0].dtype, pieces_of([(array,) for array in arrays])
    length, factor = cupy.empty((), wide(dtype)), cupy.empty((), wide(dtype))
    sums = workspace("sums of squares", max(1, pieces.total), np.float64)
    kernel(FILE, _instance("norm", dtype))(
        max(1, pieces.blocks), THREADS, *pieces.arguments(), wide(dtype)(most), sums, zeroed(1), length, factor
    )
    return length, factor


def scale(pairs: Sequence[tuple[Any, Any]], factor: Any) -> bool:
    """Write each source times a factor into its destination: pairs of (source, destination), which may be one array.

    Args:
        pairs: Contiguous arrays; both of a pair have one size and dtype.
        factor: An array of one number on the device, in float32 (float64 beside float64), rounded to the dtype of the
            arrays first, as `array * factor.astype(array.dtype)` is.

    Returns:
        Whether the kernel took them; if not, nothing has changed.
    """
    if not all(taken(*pair) and wide(pair[0].dtype) == factor.dtype for pair in pairs):
        return False
    for dtype, rows in by_dtype(pairs, itemgetter(0)).items():
        pieces = pieces_of(rows)
        kernel(FILE, _instance("scale", dtype))(pieces.blocks, THREADS, *pieces.arguments(), factor)
    return True


def nonfinite(arrays: Sequence[Any]) -> Any:
    """Whether a number in contiguous arrays of one dtype is NaN or infinite: one launch.

    Returns:
        1 or 0 in an int32 array of no dimensions on the device, as optimizers take it for `skip`; None when the kernel
        does not take the arrays.
    """
    if not arrays or not taken(*arrays):
        return None
    pieces, flag = pieces_of([(array,) for array in arrays]), cupy.empty((), np.int32)
    kernel(FILE, _instance("nonfinite", arrays[0].dtype))(
        max(1, pieces.blocks), THREADS, *pieces.arguments(), zeroed(2), flag
    )
    return flag


def _instance(template: str, dtype: np.dtype) -> str:
    return f"pullback::{template}<{ctype(dtype)}>"
