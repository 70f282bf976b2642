"""Lists of arrays for kernels that take many in one launch: the table of `kernels/pieces.cuh`, made once and kept."""

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from threading import Lock
from typing import Any, NamedTuple

import cupy
import numpy as np

from .launching import THREADS, blocks_for

__all__ = ["Pieces", "by_dtype", "pieces_of"]

PIECE = 4096  # numbers of a piece, and
ROW = 7  # words of a row, as the kernels know them
ARRAYS = 5
_KEPT = 64  # tables; a step needs a few, and others when its gradients lie elsewhere


class Pieces(NamedTuple):
    """What a kernel reads of a list of arrays.

    Attributes:
        table, owners: In device memory, see `kernels/pieces.cuh`.
        total: How many pieces there are.
        blocks: That a launch takes; none for no pieces.
    """

    table: Any
    owners: Any
    total: int
    blocks: int

    def arguments(self) -> tuple[Any, Any, Any]:
        """The first arguments of the kernel."""
        return self.table, self.owners, np.int64(self.total)


_kept: OrderedDict[Hashable, Pieces] = OrderedDict()
_captured: list[Pieces] = []  # graphs hold their addresses
_changing = Lock()


def pieces_of(rows: Sequence[Sequence[Any]]) -> Pieces:
    """The pieces of contiguous arrays: rows of up to five that go together, of one size, None where there is none.

    A table is kept as long as the same addresses come again. While a stream is captured it is written on another one,
    and what the capture has seen stays for ever.
    """
    stream = cupy.cuda.get_current_stream()
    addresses = tuple(tuple(0 if a is None else a.data.ptr for a in row) for row in rows)
    sizes = tuple(row[0].size for row in rows)
    key = (cupy.cuda.get_device_id(), stream.ptr, addresses, sizes)
    capturing = stream.is_capturing()
    with _changing:
        found = _kept.get(key)
        if found is None:
            found = _kept[key] = _uploaded(addresses, sizes, capturing)
            if len(_kept) > _KEPT:
                _kept.popitem(last=False)
        else:
            _kept.move_to_end(key)
        if capturing:
            _captured.append(found)
    return found


def _uploaded(addresses: Sequence[Sequence[int]], sizes: Sequence[int], capturing: bool) -> Pieces:
    counts = [-(-size // PIECE) for size in sizes]
    total, words = sum(counts), len(sizes) * ROW
    host = np.zeros(words + -(-total // 2), np.uint64)
    table = host[:words].reshape(-1, ROW)
    for row, values in zip(table, addresses, strict=True):
        row[: len(values)] = values
    table[:, ARRAYS] = sizes
    table[:, ARRAYS + 1] = np.cumsum([0, *counts])[: len(counts)]
    host[words:].view(np.int32)[:total] = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    if capturing:
        with cupy.cuda.Stream(non_blocking=True) as other:
            device = cupy.asarray(host)
            other.synchronize()
    else:
        device = cupy.asarray(host)
    return Pieces(device[:words], device[words:].view(np.int32), total, blocks_for(total * THREADS))


def by_dtype(rows: Iterable[Any], array_of: Any) -> dict[np.dtype, list[Any]]:
    """Rows by the dtype of their array `array_of(row)`: each takes a launch."""
    found: dict[np.dtype, list[Any]] = {}
    for row in rows:
        found.setdefault(array_of(row).dtype, []).append(row)
    return found
