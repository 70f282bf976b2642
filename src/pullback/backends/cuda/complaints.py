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

from ...errors import KernelError

__all__ = ["complaint", "launched", "raise_complaints"]

at_once = os.environ.get("CUDA_LAUNCH_BLOCKING", "0") not in ("", "0")

Explain = Callable[[int, int, int], Exception]
Key = tuple[str, Explain, int, int]  # op, what its notes mean, device, stream

_notes: dict[Key, Any] = {}
_unread: set[Key] = set()
_captured: set[Key] = set()  # written again by every replay, of which nothing is known here


def complaint(op: str, explain: Explain) -> Any:
    """Three 64-bit integers for a kernel of this stream: 0 while all is well, else what `explain` makes an error of.

    `op` is named by errors that come late.

    Raises:
        KernelError: there are none yet and the stream is being captured, when nothing can be set to zero.
    """
    key, capturing = (op, explain, *_queue()), cupy.cuda.get_current_stream().is_capturing()
    note = _notes.get(key)
    if note is None:
        if capturing:
            raise KernelError("a loss with labels cannot be captured at its first run; run the step once before")
        note = _notes[key] = cupy.zeros(3, np.int64)
    (_captured if capturing else _unread).add(key)
    return note


def launched() -> None:
    """To be called after a launch that was given a complaint."""
    if at_once and not cupy.cuda.get_current_stream().is_capturing():
        raise_complaints(late=False)


def raise_complaints(late: bool = True) -> None:
    """Wait for the current stream, and raise what its kernels have complained about.

    Nothing is asked of the device if none of them was launched since, nor ever captured.
    """
    if not _unread and not _captured:
        return
    queue = _queue()
    for key in [key for key in _unread | _captured if key[2:] == queue]:
        _unread.discard(key)
        found = cupy.asnumpy(_notes[key]).tolist()
        if found[0]:
            _notes[key].fill(0)
            op, explain, *_ = key
            error = explain(*found)
            if late:
                error = type(error)(
                    f"{op}: {error}. It was found on the device and may be of an earlier batch; CUDA_LAUNCH_BLOCKING=1 "
                    "tells at once"
                )
            raise error


def _queue() -> tuple[int, int]:
    return cupy.cuda.get_device_id(), cupy.cuda.get_current_stream().ptr
