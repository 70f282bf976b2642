"""What kernels find wrong with their input, such as a label that is out of range, and when it is said.

A kernel never uses such a number: where it counts, results are NaN. It also leaves a note in device memory. The notes
are read, and raised as the errors that they are, by every call that waits for the device anyway (`to_numpy`,
`synchronize`): asking at each launch would hold up the queue of launches. With the variable CUDA_LAUNCH_BLOCKING=1 it
is asked at once.
"""

import os
from collections.abc import Callable
from typing import Any

import cupy
import numpy as np

__all__ = ["LATE", "complaint", "launched", "raise_complaints"]

LATE = "It was found on the device, and may be of an earlier batch; CUDA_LAUNCH_BLOCKING=1 tells at once"

at_once = os.environ.get("CUDA_LAUNCH_BLOCKING", "0") not in ("", "0")

Explain = Callable[[int, int, int], Exception]

_notes: dict[tuple[Explain, int, int], Any] = {}
_unread: set[tuple[Explain, int, int]] = set()


def complaint(explain: Explain) -> Any:
    """Three 64-bit integers for a kernel of this stream: 0 while all is well, else what `explain` makes an error of."""
    key = (explain, *_queue())
    note = _notes.get(key)
    if note is None:
        note = _notes[key] = cupy.zeros(3, np.int64)
    _unread.add(key)
    return note


def launched() -> None:
    """To be called after a launch that was given a complaint."""
    if at_once:
        raise_complaints()


def raise_complaints() -> None:
    """Wait for the current stream, and raise what its kernels have complained about.

    Nothing is asked of the device if none of them was launched since.
    """
    if not _unread:
        return
    queue = _queue()
    for key in [key for key in _unread if key[1:] == queue]:
        _unread.discard(key)
        found = cupy.asnumpy(_notes[key]).tolist()
        if found[0]:
            _notes[key].fill(0)
            raise key[0](*found)


def _queue() -> tuple[int, int]:
    return cupy.cuda.get_device_id(), cupy.cuda.get_current_stream().ptr
