"""Device memory: pools of blocks. What is freed is poisoned and handed out again, and a pool has a limit."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

UNIT = 512  # bytes: sizes are rounded up to it and blocks start at multiples of it
POISON = 0xFF  # NaN in every floating-point type, -1 in integers


class OutOfMemoryError(MemoryError):
    """As `cupy.cuda.memory.OutOfMemoryError`."""

    def __init__(self, size: int, total: int, limit: int) -> None:
        super().__init__(
            f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes, limit set to: {limit:,} "
            "bytes)."
        )


class Block:
    """A piece of a pool. `generation` counts how often it was handed out."""

    def __init__(self, pool: "MemoryPool", size: int) -> None:
        room = np.empty(size + UNIT, np.uint8)
        start = -room.ctypes.data % UNIT
        self.bytes = room[start : start + size]
        self.pool, self.generation, self.live = pool, 0, False


live: set[Block] = set()  # what is handed out, of all pools


class MemoryPool:
    """As `cupy.cuda.MemoryPool`; `malloc` gives the memory of one array."""

    def __init__(self) -> None:
        self._free: dict[int, list[Block]] = {}
        self._used = self._total = self._limit = 0

    def malloc(self, size: int) -> "Lease":
        return Lease(self._block(max(UNIT, -(-size // UNIT) * UNIT)))

    def _block(self, size: int) -> Block:
        waiting = self._free.setdefault(size, [])
        if waiting:
            block = waiting.pop()
        elif self._limit and self._total + size > self._limit:
            raise OutOfMemoryError(size, self._total, self._limit)
        else:
            block = Block(self, size)
            self._total += size
        block.bytes[:] = POISON
        live.add(block)
        block.live, block.generation = True, block.generation + 1
        self._used += size
        return block

    def release(self, block: Block) -> None:
        live.discard(block)
        block.live = False
        block.bytes[:] = POISON
        self._used -= block.bytes.size
        self._free[block.bytes.size].append(block)

    def used_bytes(self) -> int:
        return self._used

    def total_bytes(self) -> int:
        return self._total

    def free_bytes(self) -> int:
        return self._total - self._used

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        self._limit = size or 0

    def get_limit(self) -> int:
        return self._limit

    def free_all_blocks(self, stream: Any = None) -> None:
        self._total -= sum(size * len(blocks) for size, blocks in self._free.items())
        self._free = {size: [] for size in self._free}


class Lease:
    """One allocation; all views of an array share it, and the last one to go gives the block back."""

    def __init__(self, block: Block) -> None:
        self.block = block

    def __del__(self) -> None:
        self.block.pool.release(self.block)


default_pool = MemoryPool()
_allocators: list[Callable[[int], Lease]] = [default_pool.malloc]


def allocate(size: int) -> Lease:
    """Memory from the allocator in use."""
    return _allocators[-1](size)


def set_allocator(allocator: Callable[[int], Lease] | None = None) -> None:
    """As `cupy.cuda.set_allocator`; without one, which is no pool on a device, memory is that of the default pool."""
    _allocators[:] = [allocator or default_pool.malloc]


@contextmanager
def using_allocator(allocator: Callable[[int], Lease]) -> Iterator[None]:
    """As `cupy.cuda.using_allocator`."""
    _allocators.append(allocator)
    try:
        yield
    finally:
        _allocators.pop()
