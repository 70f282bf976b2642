"""The stand-in as the modules `cupy` and `cupyx`, for the length of a block."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import ml_dtypes  # noqa: F401  (as CuPy does: it gives NumPy the name "bfloat16")
import numpy as np

from pullback.backends import BACKENDS, Backend, registry
from pullback.core.op import ARRAYS, OPS, UNWATCHED

from . import devices, functions, kernels, log, memory, nvrtc, streams
from .arrays import ndarray

REPLACED = ("cupy", "cupyx", "cupy_backends", "array_api_compat.cupy", "pullback.backends.cuda")
_FOLDERS = tuple(f"{name}." for name in REPLACED)
_ours: dict[str, ModuleType] = {}  # the modules of the stand-in, and those that were imported over it


@contextmanager
def device(kernels_on: bool = True) -> Iterator[Backend]:
    """`import cupy` gives the stand-in and the device "cuda" is the CUDA backend on it; afterwards all is as before.

    With `--device cuda` it is CuPy itself, and the GPU that is there.
    """
    if log.on_gpu:
        with _gpu(kernels_on) as backend:
            yield backend
        return
    theirs = {name: module for name, module in sys.modules.items() if _replaced(name)}
    registered = registry._by_device.get("cuda")
    _swap(theirs, _ours or _modules())
    try:
        module = importlib.import_module("pullback.backends.cuda.backend")
        importlib.import_module("pullback.backends.cuda.fused").enabled = kernels_on
        backend = registry.register(module.CudaBackend())
        if kernels_on and not kernels.listed:
            launchers = [m for name, m in sys.modules.items() if _replaced(name) and hasattr(m, "expressions")]
            kernels.listed += sorted({pair for launcher in launchers for pair in launcher.expressions()})
        yield backend
    finally:
        for op in OPS.values():
            op.bodies.pop(ndarray, None)
        ARRAYS.pop(ndarray, None)
        UNWATCHED.pop(ndarray, None)
        BACKENDS.pop(ndarray, None)
        registry._by_device.pop("cuda", None)
        if registered is not None:
            registry._by_device["cuda"] = registered
        _ours.update({name: module for name, module in sys.modules.items() if _replaced(name)})
        _swap(_ours, theirs)


@contextmanager
def _gpu(kernels_on: bool) -> Iterator[Backend]:
    """The CUDA backend on a GPU; of what it is given to do, launches of our kernels are written down."""
    backend = registry.backend_for("cuda")
    fused, launching = (importlib.import_module(f"pullback.backends.cuda.{name}") for name in ("fused", "launching"))
    enabled, launch = fused.enabled, launching.Kernel.__call__

    def noted(kernel: Any, grid: Any, block: Any, *args: Any) -> None:
        launch(kernel, grid, block, *args)
        grid, block = (n if isinstance(n, tuple) else (n,) for n in (grid, block))
        if 0 not in grid:
            log.LOG.append(log.Operation("kernel", kernel.expression, grid, block))

    def rebind() -> None:
        for op in OPS.values():
            op.bodies.pop(backend.array_types[0], None)
        ARRAYS.pop(backend.array_types[0], None)
        UNWATCHED.pop(backend.array_types[0], None)

    fused.enabled, launching.Kernel.__call__ = kernels_on, noted
    rebind()
    try:
        yield backend
    finally:
        fused.enabled, launching.Kernel.__call__ = enabled, launch
        rebind()


def _replaced(name: str) -> bool:
    return f"{name}.".startswith(_FOLDERS)


def _swap(old: dict[str, ModuleType], new: dict[str, ModuleType]) -> None:
    """Put modules in the place of others, in `sys.modules` and in the packages around them."""
    for name in old:
        sys.modules.pop(name, None)
    sys.modules.update(new)
    for name in REPLACED:
        parent, _, last = name.rpartition(".")
        if parent in sys.modules:
            package = sys.modules[parent]
            if name in new:
                setattr(package, last, new[name])
            elif hasattr(package, last):
                delattr(package, last)


def _modules() -> dict[str, ModuleType]:
    """The modules of the stand-in by their names."""
    linalg = _module("cupy.linalg", **functions.functions_of(np.linalg, "linalg."))
    fft = _module("cupy.fft", **functions.functions_of(np.fft, "fft."))
    cuda = _cuda()
    numpy_names = functions.functions_of(np) | functions.CREATION
    cupy = _module("cupy", **numpy_names | {"ndarray": ndarray, "linalg": linalg, "fft": fft, "cuda": cuda})
    cupy.__version__ = "14.2.0"  # type: ignore[attr-defined]
    cupy.__path__ = []  # type: ignore[attr-defined]
    cupy.get_default_memory_pool = lambda: memory.default_pool  # type: ignore[attr-defined]
    special = _module("cupyx.scipy.special", erf=functions.special("erf"), erfc=functions.special("erfc"))
    scipy = _module("cupyx.scipy", special=special)
    cupyx = _module("cupyx", scipy=scipy, scatter_add=functions.scatter_add)
    parts = (cuda.device, cuda.function, cuda.memory, cuda.nvrtc)
    return {module.__name__: module for module in (cupy, linalg, fft, cuda, cupyx, scipy, special, *parts)}


def _cuda() -> ModuleType:
    runtime = SimpleNamespace(
        CUDARuntimeError=streams.CUDARuntimeError,
        getDeviceCount=lambda: devices.COUNT,
        getDeviceProperties=devices.properties,
        driverGetVersion=lambda: 13000,
        runtimeGetVersion=lambda: 12090,
        streamPerThread=2,
    )
    return _module(
        "cupy.cuda",
        Device=devices.Device,
        Event=streams.Event,
        Graph=streams.Graph,
        MemoryPool=memory.MemoryPool,
        Stream=streams.Stream,
        device=_module("cupy.cuda.device", Device=devices.Device),
        driver=SimpleNamespace(CUDADriverError=devices.CUDADriverError),
        function=_module("cupy.cuda.function", Module=kernels.Module, Function=kernels.Function),
        get_current_stream=streams.current_stream,
        get_device_id=devices.current_device,
        get_elapsed_time=streams.get_elapsed_time,
        is_available=lambda: True,
        memory=_module("cupy.cuda.memory", OutOfMemoryError=memory.OutOfMemoryError),
        nvrtc=_module("cupy.cuda.nvrtc", **vars(nvrtc)),
        runtime=runtime,
        set_allocator=memory.set_allocator,
        using_allocator=memory.using_allocator,
    )


def _module(name: str, **names: Any) -> ModuleType:
    made = ModuleType(name)
    made.__dict__.update({key: value for key, value in names.items() if not key.startswith("__")})
    made.__path__ = []  # type: ignore[attr-defined]
    return made
