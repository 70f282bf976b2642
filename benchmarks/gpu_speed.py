"""What the kernels take: the host's time for each kind of call, and the memory bandwidth that each kernel reaches."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import pullback as pb
from pullback.core.op import ARRAYS

from . import gpu_kernels
from .gpu_device import Clock, Report, Scale, backend, host_seconds, kernels_on, watched
from .runner import spread, table

__all__ = ["bandwidth", "launch_overhead"]

N = 32  # numbers of the arrays whose work is as good as none


# --- launch overhead --------------------------------------------------------------------------------------------------


def launch_overhead(report: Report, scale: Scale) -> None:
    """Microseconds of the host, and of the device, for each kind of call with next to nothing to do."""
    clock, rows = Clock(scale.spacer), {}

    def measure(calls: Iterator[tuple[str, Callable[[], Any]]], which: str = "") -> None:
        for name, call in calls:
            row = {
                "host, us": spread(host_seconds(call, scale.rounds, scale.calls) * 1e6),
                "device, us": spread(clock.seconds(call, scale.rounds) * 1e6),
            }
            rows[name + which] = row
            report.add(name + which, row | {"rounds that waited for the host": clock.waited})

    measure(_raw_calls())
    for on in (True, False):
        with kernels_on(on):
            measure(_public_calls(), "" if on else ", plain formula")
    table(rows, f"a call on {N} float32 numbers")


def _raw_calls() -> Iterator[tuple[str, Callable[[], Any]]]:
    import cupy

    x, out, square = cupy.ones(N, np.float32), cupy.empty(N, np.float32), cupy.ones((N, N), np.float32)
    with watched() as launches:
        ARRAYS[cupy.ndarray].tanh(x)
    (launch,) = launches
    yield "our kernel, launched again", launch
    yield "CuPy's ufunc into an array", lambda: cupy.tanh(x, out=out)
    yield "CuPy's ufunc", lambda: cupy.tanh(x)
    yield "allocation", lambda: cupy.empty(N, np.float32)
    yield "product of matrices", lambda: square @ square
    stream = cupy.cuda.get_current_stream()
    yield "wait for the device", stream.synchronize


def _public_calls() -> Iterator[tuple[str, Callable[[], Any]]]:
    import cupy

    ops, raw = ARRAYS[cupy.ndarray], cupy.ones(N, np.float32)
    x, leaf = pb.asarray(raw), pb.tensor(raw, requires_grad=True)
    square, w, b = (cupy.ones(shape, np.float32) for shape in ((N, N), (N, N), (N,)))
    yield "fused op on arrays", lambda: ops.gelu(raw)
    yield "fused op, public function", lambda: pb.gelu(x)
    yield "fused op, recorded", lambda: pb.gelu(leaf)

    def pulled() -> None:
        y = pb.gelu(leaf)
        leaf.zero_grad()
        y.backward(raw)

    yield "fused op, recorded and pulled", pulled
    weight, bias, rows = (pb.tensor(a, requires_grad=True) for a in (w, b, square))

    def layer() -> None:
        y = pb.linear_gelu(rows, weight, bias)
        for leaf in (rows, weight, bias):
            leaf.zero_grad()
        y.backward(square)

    yield "linear_gelu, recorded and pulled", layer


# --- bandwidth --------------------------------------------------------------------------------------------------------


def bandwidth(report: Report, scale: Scale) -> None:
    """GB/s of each kernel, by the bytes that it must move, and their share of a copy between arrays of that size.

    What fits into the cache of the device (L2) stays there between two launches, for the copy as for the kernel.
    """
    import cupy

    clock, rows = Clock(scale.spacer), {}
    for size in scale.sizes:
        for dtype in scale.types:
            cupy.get_default_memory_pool().free_all_blocks()
            copied = _copied(clock, size, dtype, scale.rounds)
            report.add("copy, GB/s", dtype, str(size), spread(copied))
            shares = []
            for case in gpu_kernels.cases(dtype, max(1, size // scale.row), scale.row):
                if not case.grows:
                    continue
                try:
                    found = _measured(clock, case, scale.rounds)
                except Exception as failure:  # out of memory, say: the others are still of use
                    report.add("failed", f"{case.name}, {dtype}, {size}", f"{type(failure).__name__}: {failure}"[:500])
                    cupy.get_default_memory_pool().free_all_blocks()
                    backend().synchronize()
                    continue
                expression, count, seconds = found
                speed = count / seconds / 1e9
                share = float(np.median(speed) / np.median(copied))
                quartiles = [round(float(us), 2) for us in np.quantile(seconds * 1e6, (0.25, 0.5, 0.75))]
                row = {"us, quartiles": quartiles, "GB/s": round(float(np.median(speed)), 1)}
                row["of copy"] = round(share, 3)
                if clock.waited:  # the time may be the host's
                    row["rounds that waited for the host"] = clock.waited
                report.add("kernels", expression, case.name, str(size), row)
                shares.append(share)
            report.add(
                "copy after the kernels, GB/s", dtype, str(size), spread(_copied(clock, size, dtype, scale.rounds))
            )
            low, middle, high = np.quantile(shares, (0.0, 0.5, 1.0))
            rows[f"{dtype}, {size}"] = {
                "copy, GB/s": spread(copied, 1), "least": float(low), "median": float(middle), "most": float(high),
            }  # fmt: skip
    table(rows, "kernels, as a share of a copy")


def _copied(clock: Clock, size: int, dtype: str, rounds: int) -> np.ndarray:
    """GB/s of a copy from one array into another, read and written."""
    import cupy

    source = gpu_kernels.given(gpu_kernels.Array((size,), gpu_kernels.uniform(0, 1)), dtype)
    target = cupy.empty_like(source)
    return 2 * source.nbytes / clock.seconds(lambda: cupy.copyto(target, source), rounds) / 1e9


def _measured(clock: Clock, case: gpu_kernels.Case, rounds: int) -> tuple[str, int, np.ndarray]:
    """The kernel of a call, the bytes that it must move, and its seconds in each round."""
    arrays = [gpu_kernels.given(array, case.dtype) for array in case.arrays]
    with watched() as launches:
        results = case.body(backend(), arrays)
    launch = launches[-1]
    return launch.kernel.expression, case.bytes(arrays, gpu_kernels.flat(results)), clock.seconds(launch, rounds)
