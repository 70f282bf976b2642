"""The stand-in for CuPy: what it refuses, what it counts, how its streams are captured, and that it leaves no trace."""

import importlib
import subprocess
import sys

import emulator
import numpy as np
import pytest
import stand_in_cupy
from stand_in_cupy import arrays, devices, functions, memory, streams

import pullback as pb
from pullback import backends
from pullback.core.op import OPS

KERNEL = "pullback::map<pullback::op::tanh, float, const float*>"
emulated = pytest.mark.skipif(emulator.missing() is not None, reason=str(emulator.missing()))


@pytest.fixture
def cupy():
    with stand_in_cupy.device():
        yield importlib.import_module("cupy")


@pytest.fixture
def tanh(cupy):
    return importlib.import_module("pullback.backends.cuda.launching").kernel("elementwise.cu", KERNEL)


# --- where it is ------------------------------------------------------------------------------------------------------


def traces():
    modules = {name: id(module) for name, module in sys.modules.items() if "cupy" in name or "cuda" in name}
    packages = [getattr(sys.modules[name], last, None) for name, last in (("pullback.backends", "cuda"),)]
    by_class = {kind: id(backend) for kind, backend in backends.BACKENDS.items()}
    bodies = {op.name: set(op.bodies) for op in OPS.values()}
    return modules, [id(package) for package in packages], by_class, dict(backends.registry._by_device), bodies


def test_it_leaves_no_trace():
    before = traces()
    for _ in range(2):
        with stand_in_cupy.device() as backend:
            assert backends.backend_for("cuda") is backend
            assert sys.modules["cupy"].ndarray is arrays.ndarray
            np.testing.assert_array_equal(OPS["add"].call(backend.asarray([1.0]), 1.0).numpy(), [2.0])
        assert traces() == before


def test_the_real_cupy_is_found_after_it():
    pytest.importorskip("cupy")
    program = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import stand_in_cupy\n"
        "with stand_in_cupy.device(): import cupy as one\n"
        "import cupy as other, array_api_compat.cupy, pullback.backends.cuda.backend\n"
        "assert other.cuda.nvrtc.__file__ and array_api_compat.cupy.ndarray is other.ndarray is not one.ndarray\n"
        "assert pullback.backends.cuda.backend.cupy is other\n"
        "with stand_in_cupy.device(): import cupy as again\n"
        "assert again is one and sys.modules['cupy'] is other\n"
    )
    root = functions.__file__.rpartition("/tests/")[0]
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root)


# --- arrays -----------------------------------------------------------------------------------------------------------


def test_host_arrays_are_refused_beside_device_arrays(cupy):
    x = cupy.ones(3)
    for mixed in (
        lambda: x + np.ones(3),
        lambda: np.ones(3) * x,
        lambda: cupy.exp(np.ones(3)),
        lambda: np.add(x, [1.0]),
    ):
        with pytest.raises(TypeError):
            mixed()
    with pytest.raises(TypeError, match="Unsupported type"):
        x[...] = np.ones(3)
    with pytest.raises(TypeError, match=r"Implicit conversion to a NumPy array is not allowed.*\.get\(\)"):
        np.asarray(x)


def test_results_are_arrays_and_never_scalars(cupy):
    x = cupy.asarray([1.0, 2.0])
    for value in (x.sum(), x[0], cupy.max(x), x[0] + 1.0, cupy.exp(2.0), np.float64(2.0) * x[1]):
        assert type(value) is arrays.ndarray
        assert value.shape == ()
    assert x.sum().item() == float(x.sum()) == 3.0


def test_numbers_are_weak_and_dtypes_are_numpys(cupy):
    x = cupy.asarray([1, 2], dtype=np.float32)
    assert (x * 2.0).dtype == (2**x).dtype == np.float32
    assert (x + np.float64(1)).dtype == np.float64
    assert (x > 1).dtype == bool
    x += 1
    np.testing.assert_array_equal(x.get(), np.asarray([2, 3], np.float32))
    with pytest.raises(TypeError, match="could not be coerced"):
        cupy.asarray([1, 2]).__iadd__(1.5)


def test_views_share_memory_and_copies_do_not(cupy):
    x = cupy.zeros((2, 3))
    x.T[0, 1] = 5.0
    x.reshape(-1)[0] = 7.0
    np.testing.assert_array_equal(x.get(), [[7, 0, 0], [5, 0, 0]])
    copied = x.copy()
    copied[...] = 1.0
    assert x.get().max() == 7.0
    assert x.astype(float, copy=False) is x


def test_freed_memory_is_poisoned_and_used_again(cupy):
    x = cupy.ones(100, np.float32)
    address = x.data.ptr
    assert address % memory.UNIT == 0
    y = x[50:]
    del x
    assert y.get().min() == 1.0  # a view keeps its memory
    del y
    z = cupy.empty(100, np.float32)
    assert z.data.ptr == address
    assert np.isnan(z.get()).all()


def test_a_pool_has_a_limit(cupy):
    pool = cupy.cuda.MemoryPool()
    pool.set_limit(4096)
    with cupy.cuda.using_allocator(pool.malloc):
        x = cupy.empty(1000, np.float32)
        assert (pool.used_bytes(), pool.total_bytes()) == (4096, 4096)
        with pytest.raises(cupy.cuda.memory.OutOfMemoryError, match=r"allocating 512 bytes \(allocated so far: 4,096"):
            cupy.empty(1)
        del x
        assert pool.free_bytes() == 4096
        pool.free_all_blocks()
        assert (pool.used_bytes(), pool.total_bytes(), pool.free_bytes()) == (0, 0, 0)
        cupy.empty(1)


def test_arrays_of_two_devices_do_not_meet(cupy):
    x = cupy.ones(2)
    with cupy.cuda.Device(1):
        y = cupy.ones(2)
        assert y.device.id == 1
        with pytest.raises(ValueError, match="Array device must be same"):
            x + y
        with pytest.raises(ValueError, match="Array device must be same"):
            x[...] = 1.0
        assert cupy.asarray(x).device.id == 1  # as CuPy does, it brings the array here
        assert cupy.asarray(y) is y
    with pytest.raises(streams.CUDARuntimeError, match="invalid device ordinal"):
        cupy.cuda.Device(devices.COUNT)


# --- what is counted --------------------------------------------------------------------------------------------------


def test_work_is_written_down_in_order(cupy):
    x = cupy.asarray(np.ones((2, 2)))
    with stand_in_cupy.watched() as work:
        y = cupy.tanh(x.T @ x + 1.0)
        y.sum(axis=0)
        y[0, 1:]
        y.get()
    assert [(w.kind, w.name) for w in work] == [
        ("library", "matmul"), ("elementwise", "add"), ("elementwise", "tanh"), ("reduction", "sum"),
        ("download", "get"),
    ]  # fmt: skip
    assert sum(w.is_launch for w in work) == 3


# --- capture ----------------------------------------------------------------------------------------------------------


def test_a_capture_runs_nothing_and_its_graph_runs_on_the_same_memory(cupy):
    stream, pool, rate = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool(), 0.5
    x = cupy.asarray([1.0, 2.0])
    with stream, cupy.cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        y = x * rate
        x += y
        total = (x + y).sum()
        graph = stream.end_capture()
    assert np.isnan(y.get()).all()
    np.testing.assert_array_equal(x.get(), [1.0, 2.0])
    rate = 100.0  # numbers are those of the capture
    for expected in (6.0, 9.0):
        graph.launch(stream)
        assert total.item() == expected
    x.set(np.zeros(2))
    graph.launch(stream)
    assert total.item() == 0.0


def test_a_capture_refuses_what_cuda_refuses(cupy):
    stream, x = cupy.cuda.Stream(non_blocking=True), cupy.ones((2, 2))
    with stream:
        stream.begin_capture()
        for waits in (x.get, lambda: bool(x[0, 0] > 0), lambda: float(x.sum()), stream.synchronize):
            with pytest.raises(streams.CUDARuntimeError, match="StreamCaptureUnsupported"):
                waits()
        for waits in (lambda: x[x > 0], lambda: cupy.nonzero(x), lambda: cupy.cuda.Device().synchronize()):
            with pytest.raises(streams.CUDARuntimeError, match="StreamCaptureUnsupported"):
                waits()
        with pytest.raises(NotImplementedError, match="cuBLAS"):
            x @ x
        with pytest.raises(RuntimeError, match="from the host"):
            cupy.asarray([1.0])
        stream.end_capture()
    with pytest.raises(streams.CUDARuntimeError, match="default stream"):
        cupy.cuda.Stream.null.begin_capture()


def test_a_graph_whose_memory_went_back_to_the_pool_is_refused(cupy):
    stream, x = cupy.cuda.Stream(non_blocking=True), cupy.ones(3)
    with stream:
        stream.begin_capture()
        y = (x + 1.0) * 2.0  # the sum is given back at once, to the pool that all use
        graph = stream.end_capture()
    assert y.shape == (3,)
    with pytest.raises(streams.CUDARuntimeError, match="taken back"):
        graph.launch(stream)


# --- kernels ----------------------------------------------------------------------------------------------------------


@emulated
def test_kernels_run_and_are_written_down_with_their_geometry(cupy, tanh):
    x = cupy.asarray(np.linspace(-1, 1, 1000), dtype=np.float32)
    out = cupy.empty(1000, np.float32)
    with stand_in_cupy.watched() as work:
        tanh(2, 128, out, np.int64(1000), x)
    (launch,) = work
    assert (launch.kind, launch.name, launch.grid, launch.block) == ("kernel", KERNEL, (2,), (128,))
    np.testing.assert_allclose(out.get(), np.tanh(x.get()), rtol=1e-6)


@emulated
def test_arguments_of_kernels_are_checked(cupy, tanh):
    x, n = cupy.ones(8, np.float32), np.int64(8)
    out = cupy.empty(8, np.float32)
    for args, message in (
        ((out, n), "takes 3 arguments, not 2"),
        ((out, n, x, x), "takes 3 arguments, not 4"),
        ((out, np.int32(8), x), "argument 1 must be i8, not int32"),
        ((out, np.float64(8), x), "argument 1 must be i8, not float64"),
        ((out, n, x.astype(np.float64)), r"argument 2 must be r\*f4, not an array of float64"),
        ((cupy.empty(16, np.float32)[::2], n, x), r"argument 0 must be w\*f4, not an array that is not contiguous"),
        ((out, n, np.ones(8, np.float32)), "CuPy would guess the C type"),
    ):
        with pytest.raises(TypeError, match=message):
            tanh(1, 128, *args)


@emulated
def test_captured_kernels_run_when_the_graph_does(cupy, tanh):
    stream, x, out = cupy.cuda.Stream(non_blocking=True), cupy.ones(8, np.float32), cupy.zeros(8, np.float32)
    with stream:
        stream.begin_capture()
        tanh(1, 128, out, np.int64(8), x)
        graph = stream.end_capture()
    assert out.get().max() == 0.0
    graph.launch(stream)
    np.testing.assert_allclose(out.get(), np.tanh(1.0), rtol=1e-6)


# --- beside the real one ----------------------------------------------------------------------------------------------


def look_up(real, name):
    if name == "cupyx":
        return importlib.import_module(name)
    for part in name.split(".")[1:]:
        real = getattr(real, part)
    return real


def test_the_real_cupy_has_every_name_that_the_stand_in_has():
    real = pytest.importorskip("cupy")
    with stand_in_cupy.device():
        ours = {
            name: [key for key in vars(sys.modules[name]) if not key.startswith("_")]
            for name in ("cupy", "cupy.cuda", "cupy.cuda.memory", "cupy.cuda.nvrtc", "cupy.cuda.function", "cupyx")
        }
    of_numpy = set(np.__all__)  # handed on whole; those that were called are looked up below
    for name, keys in ours.items():
        module = look_up(real, name)
        keys = [key for key in keys if not (name == "cupy" and key in of_numpy - functions.CREATION.keys())]
        missing = [key for key in keys if not hasattr(module, key)]
        assert set(missing) <= NVRTC_TYPES, name
    for ours_of, real_of in (
        (arrays.ndarray, real.ndarray),
        (devices.Device, real.cuda.Device),
        (memory.MemoryPool, real.cuda.MemoryPool),
        (streams.Stream, real.cuda.Stream),
        (streams.Graph, real.cuda.Graph),
        (streams.Event, real.cuda.Event),
    ):
        public = [key for key in vars(ours_of) if not key.startswith("_")]
        assert [key for key in public if not hasattr(real_of, key) and key not in {"multiprocessors", "release"}] == []
    assert [method for method in arrays.METHODS if not hasattr(real.ndarray, method)] == []
    for path in sorted(functions.USED):
        module, _, name = path.rpartition(".")
        assert hasattr(getattr(real, module) if module else real, name), path


NVRTC_TYPES = {"Program", "Sequence", "compiled", "json", "KNOWN_ARCHITECTURES"}


@emulated
def test_kernels_that_were_off_run_rules_as_well_when_they_are_on_again():
    for on in (False, True):
        with stand_in_cupy.device(kernels_on=on):
            x = pb.tensor(np.ones((2, 3), np.float32), device="cuda")
            with stand_in_cupy.watched() as work:
                pb.grad(lambda x: pb.sum(pb.softmax(x) ** 2))(x)
        assert any("softmax_slope" in operation.name for operation in work) is on
