"""What the tests of kernels on lists of arrays share: the table of `kernels/pieces.cuh`, written here once more."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from kernel_rows import dtype

SIZES = [0, 1, 7, 8, 33, 255, 4096, 5000]  # with a piece of 4096 numbers: nothing, tails, one piece, two


def table_of(rows: Sequence[Sequence[Any]]) -> tuple[np.ndarray, np.ndarray, np.int64]:
    """The first three arguments of the kernels for rows of arrays, None where there is none."""
    table, owners = [], []
    for number, row in enumerate(rows):
        addresses = [0 if array is None else array.ctypes.data for array in row]
        table.append([*addresses, *[0] * (5 - len(addresses)), row[0].size, len(owners)])
        owners += [number] * -(-row[0].size // 4096)
    return np.array(table, np.uint64), np.array(owners, np.int32), np.int64(len(owners))


def reached(rows: Sequence[Sequence[Any]]) -> list[np.ndarray]:
    """The arrays that the table names, as the emulator wants to know them."""
    return [array for row in rows for array in row if array is not None and array.size]


def drawn(rng: np.random.Generator, size: int, of: Any, offset: int = 0) -> np.ndarray:
    """Random numbers, `offset` numbers behind an address that 16 bytes divide."""
    buffer = np.empty(size + offset + 16, of)
    start = (-buffer.ctypes.data % 16) // buffer.itemsize + offset
    array = buffer[start : start + size]
    array[...] = rng.normal(size=size).astype(of)
    return array


def offsets() -> Iterator[tuple[int, int]]:
    """Where parameter and gradient begin: both at such an address, one, the other, none."""
    yield from [(0, 0), (1, 0), (0, 3), (1, 1)]


def of_type(name: str, size: int, seed: int = 0, offset: int = 0) -> np.ndarray:
    return drawn(np.random.default_rng((seed, size)), size, dtype(name), offset)
