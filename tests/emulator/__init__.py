"""CUDA kernels on the CPU: g++ compiles them, fibers run them, a checker watches them.

    kernels = build("elementwise.cu", ["pullback::map<pullback::op::tanh, float>"])
    kernels[expression](grid, block, *arrays_and_numpy_scalars, order=0)

`build(..., checked=True)` makes every launch fail on an access outside the arrays it was given, a write to a const one,
a misaligned access, a race, a read of memory that nobody wrote, an index out of an array's bounds, a shift or signed
arithmetic that overflows. Divergent barriers and wrong collective operations of a warp fail in every build.
"""

from .compiling import CompileError, missing
from .launching import Buffer, EmulatorError, Kernel, build

__all__ = ["Buffer", "CompileError", "EmulatorError", "Kernel", "build", "missing"]
