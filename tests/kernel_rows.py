"""What the tests of kernels by rows share: types, geometries, and how far from float64 a number may be."""

from collections.abc import Iterable, Iterator
from typing import Any

import ml_dtypes
import numpy as np

from pullback.backends import BACKENDS
from pullback.core.op import OPS

TYPES = {
    "float64": ("double", 2, 1e-13),
    "float32": ("float", 4, 3e-6),
    "float16": ("pullback::float16", 8, 1e-3),
    "bfloat16": ("pullback::bfloat16", 8, 8e-3),
}  # dtype: its name in C++, numbers in 16 bytes, and the relative error that is allowed
CHECKED = ("float32", "bfloat16")  # types of checked runs: what differs between types is one line
SIZES = [(1, 1), (3, 1), (9, 3), (5, 8), (7, 40), (4, 257), (2, 1000)]


def dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def real(name: str) -> Any:
    """The type that kernels compute in."""
    return np.float64 if name == "float64" else np.float32


def instances(*templates: str, types: Iterable[str] = TYPES) -> list[str]:
    """The name expressions of templates such as "softmax<{}, false>", in these types and both widths."""
    return [chosen(template, name, width) for template in templates for name in types for width in (1, TYPES[name][1])]


def chosen(template: str, name: str, width: int) -> str:
    return f"pullback::{template.format(f'{TYPES[name][0]}, {width}')}"


def widths(name: str, n: int) -> Iterator[int]:
    yield 1
    if n % TYPES[name][1] == 0:
        yield TYPES[name][1]


def geometries(rows: int, n: int) -> Iterator[tuple[int, int, int]]:
    """Lanes of a row, threads of a block and blocks: a part of a warp, a warp, several warps; with rows left over."""
    yield min(32, 1 << (n - 1).bit_length()), 64, 2
    yield 32, 96, max(1, rows // 4)
    yield 64, 64, max(1, rows - 1)


def body(op: str, *args: Any, **options: Any) -> Any:
    """The op's own body on NumPy."""
    return OPS[op].forward(BACKENDS[np.ndarray].xp, *args, **options)


def assert_near(found: np.ndarray, expected: Any, name: str, of: str = "") -> None:
    """`found` is what float64 gives, rounded: relative to each number, or to the largest where it is tiny beside it."""
    expected = np.asarray(expected)
    allowed = TYPES[name][2]
    finite = np.abs(expected[np.isfinite(expected)])
    np.testing.assert_allclose(
        found.astype(np.float64),
        expected,
        rtol=allowed,
        atol=allowed * finite.max(initial=0.0) + allowed * 1e-4,
        err_msg=of,
    )
