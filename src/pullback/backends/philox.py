"""Philox 4x32-10 on the host: the random bits of `kernels/philox.cuh`, so that a mask is the same on every device.

The bits are a function of a key and a counter (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2,
3", 2011). The key has two words of 32 bits, the low one first. Of the counter's four words, 0 and 1 are the number of a
block, low word first, and 2 and 3 the step: each step has 2^64 blocks of four words.

For decisions a block is cut into eight numbers of 16 bits, low halves first. Number i of an array is kept where
decision i % 8 of block i / 8 is below an integer threshold: in every dtype the same, and at half the price of words of
32 bits.
"""

import sys
from threading import local
from typing import Any

import numpy as np

__all__ = ["DECISIONS", "blocks", "kept", "scale_of", "threshold_of"]

DECISIONS = 8  # of a block
_CHUNK = 1 << 13  # blocks that are computed together: their rows take 400 KB
_LOW, _HIGH = (0, 1) if sys.byteorder == "little" else (1, 0)
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_WORD = 0xFFFFFFFF
_WORDS = np.dtype("<u4")  # so that their halves lie low ones first
_HALVES = np.dtype("<u2")
_scratch = local()  # ufuncs let other threads run, so each thread has its own


def blocks(key: int, step: int, first: int, count: int) -> np.ndarray:
    """The blocks `first` to `first + count - 1` of a step: words of 32 bits, of shape (count, 4)."""
    out = np.empty((count, 4), np.uint32)
    for start in range(0, count, _CHUNK):
        part = out[start : start + _CHUNK]
        _fill(part, key, np.uint64(step), np.uint64(first + start) + np.arange(len(part), dtype=np.uint64))
    return out


def threshold_of(rate: float) -> int:
    """What decisions are compared with: the chance to be kept, `1 - rate`, in units of 2^-16."""
    return round((1.0 - rate) * 2**16)


def scale_of(rate: float, dtype: Any) -> Any:
    """What is kept is multiplied by this number of the dtype: `1 / (1 - rate)`, or 0 where nothing is kept."""
    return dtype.type(0.0 if rate == 1 else 1.0 / (1.0 - rate))


def kept(key: int, step: int, count: int, threshold: int) -> np.ndarray:
    """Whether each of `count` numbers is kept at a step."""
    if threshold == 0 or count == 0:
        return np.zeros(count, np.bool)
    words = _of_step(key, step, -(-count // DECISIONS)).astype(_WORDS, copy=False)
    return words.reshape(-1).view(_HALVES)[:count] <= np.uint16(threshold - 1)


def _of_step(key: int, step: int, count: int) -> np.ndarray:
    """The first blocks of a step. Where they are few, those of the steps that follow are computed with them.

    A ufunc takes a microsecond to begin, and sixty of them run for one block as for a thousand.
    """
    if count > _CHUNK // 2:
        return blocks(key, step, 0, count)
    nothing: Any = None, 0, np.empty((0, 0, 4))
    of_key, begin, ahead = getattr(_scratch, "ahead", nothing)
    place = step - begin
    if of_key != key or not 0 <= place < len(ahead) or count > ahead.shape[1]:
        if of_key == key:
            count = max(count, ahead.shape[1])  # layers of several sizes take turns
        steps = np.uint64(step) + np.arange(_CHUNK // count, dtype=np.uint64)
        ahead, place = np.empty((len(steps), count, 4), np.uint32), 0
        numbers = np.arange(count, dtype=np.uint64)
        _fill(ahead.reshape(-1, 4), key, np.repeat(steps, count), np.tile(numbers, len(steps)))
        _scratch.ahead = key, step, ahead
    return ahead[place, :count]


def _fill(out: np.ndarray, key: int, steps: Any, numbers: np.ndarray) -> None:
    """At most _CHUNK blocks, given by their counters.

    Words 0 and 2 of the counters are held as 64-bit numbers. Their products with the multipliers hold the words 1 and 3
    of the next round in their low halves, and stay there until they are needed. Scalars are arrays of no dimensions,
    with which ufuncs begin fastest.
    """
    if not hasattr(_scratch, "rows"):
        _scratch.rows = np.zeros((6, _CHUNK), np.uint64)
    rows = _scratch.rows[:, : len(out)]
    low, high = (rows.view(np.uint32)[:, half::2] for half in (_LOW, _HIGH))
    words, products, last = (0, 1), (2, 3), (4, 5)
    for word, counter in zip((0, 1), (numbers, steps), strict=True):
        np.bitwise_and(counter, _WORD, rows[word])
        np.right_shift(counter, 32, rows[last[1 - word]])
    for number in range(10):
        for word in words:
            np.multiply(rows[word], np.array(_MULTIPLIERS[word], np.uint64), rows[products[word]])
        for word in words:
            round_key = np.array((key >> 32 * word) + number * _KEY_STEPS[word] & _WORD, np.uint64)
            other = 1 - word
            np.bitwise_xor(high[products[other]], low[last[other]], low[word])
            np.bitwise_xor(rows[word], round_key, rows[word])
        products, last = last, products
    for column, row in enumerate((0, last[1], 1, last[0])):
        out[:, column] = low[row]
