"""What the device was given to do, in order."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

LOG: list["Operation"] = []
on_gpu = False  # whether tests run on a GPU, with CuPy itself; then the log holds launches of our kernels only


@dataclass(frozen=True)
class Operation:
    """One piece of work for the device.

    Attributes:
        kind: "kernel" (ours), "elementwise", "reduction" and "other" (CuPy's own kernels, at least one each), "library"
            (cuBLAS, cuSOLVER), "copy" and "fill" (memory only), "upload", "download".
        name: The kernel's expression, or the function of CuPy.
        grid, block: Of our kernels.
    """

    kind: str
    name: str
    grid: tuple[int, ...] = ()
    block: tuple[int, ...] = ()

    @property
    def is_launch(self) -> bool:
        """Whether it is a kernel that is neither a matrix product nor a plain copy or fill."""
        return self.kind in ("kernel", "elementwise", "reduction", "other")


@contextmanager
def watched() -> Iterator[list[Operation]]:
    """The work given inside the block; the list is complete when the block ends."""
    start = len(LOG)
    found: list[Operation] = []
    try:
        yield found
    finally:
        found += LOG[start:]
