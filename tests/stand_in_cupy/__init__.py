"""A stand-in for CuPy: the CUDA backend's own code runs on it without a GPU.

    with stand_in_cupy.device() as backend:      # `import cupy` finds the stand-in; `device="cuda"` is this backend
        ...

Memory is the host's, arithmetic is NumPy's, and kernels run in the emulator. It is strict where a mistake would show
only on a device, or not even there:

- arrays of the host are refused; results are arrays, never scalars; reading one waits for the device;
- freed memory is poisoned and handed out again; a pool has a limit and an out-of-memory error (`memory`);
- kernels check the number, dtypes, contiguity and exact types of their arguments (`kernels`);
- everything the device is given is written down, for tests to count (`log`);
- a captured stream runs nothing, refuses what cannot be captured, and its graph replays on the same memory (`streams`).

It cannot show what only hardware has: asynchrony, rounding of the device's functions, speed.
"""

from .installing import device
from .log import LOG, Operation, watched

__all__ = ["LOG", "Operation", "device", "watched"]
