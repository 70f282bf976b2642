"""Launching on the stand-in for CuPy: what is loaded and when, scratch memory, what no kernel takes."""

import importlib
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import emulator
import numpy as np
import pytest
import stand_in_cupy
from stand_in_cupy import kernels, nvrtc, streams

import pullback as pb
from pullback import errors

pytestmark = pytest.mark.skipif(emulator.missing() is not None, reason=str(emulator.missing()))

TANH = "pullback::map<pullback::op::tanh, float, const float*>"
rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _kernel_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PULLBACK_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def cuda():
    with stand_in_cupy.device() as backend:
        yield backend


@pytest.fixture
def cupy(cuda):
    return importlib.import_module("cupy")


@pytest.fixture
def launching(cuda):
    return importlib.import_module("pullback.backends.cuda.launching")


@pytest.fixture
def tanh(launching):
    """A kernel that no device has loaded yet."""
    return launching.Kernel("elementwise.cu", TANH)


def launched(work):
    return [w for w in work if w.kind == "kernel"]


# --- kernels ----------------------------------------------------------------------------------------------------------


def test_a_kernel_is_compiled_and_loaded_once_for_each_device(cupy, tanh):
    nvrtc.compiled.clear()
    for device in (0, 1, 0, 1):
        with cupy.cuda.Device(device):
            x, out = cupy.ones(4, np.float32), cupy.empty(4, np.float32)
            tanh(1, 32, out, np.int64(4), x)
            np.testing.assert_allclose(out.get(), np.tanh(1.0), rtol=1e-6)
    ((file, expressions, options),) = nvrtc.compiled  # the second device finds it on disk
    assert (file, expressions) == ("elementwise.cu", (TANH,))
    assert "--gpu-architecture=sm_90" in options
    assert "--std=c++17" in options


def test_no_blocks_no_launch(cupy, tanh):
    with stand_in_cupy.watched() as work:
        tanh(0, 256, None, np.int64(0), None)
        tanh((3, 0), 256, None, np.int64(0), None)
    assert work == []


@pytest.mark.parametrize("number", [4, 4.0, True])
def test_python_numbers_are_refused_since_c_would_guess_their_type(cupy, tanh, number):
    x = cupy.ones(4, np.float32)
    with pytest.raises(errors.DtypeError, match="arguments are arrays, None and NumPy scalars"):
        tanh(1, 32, x, number, x)


def test_a_launch_that_the_driver_refuses_is_a_kernel_error(cupy, tanh, monkeypatch):
    x = cupy.ones(4, np.float32)

    def refused(*args):
        raise cupy.cuda.driver.CUDADriverError("CUDA_ERROR_INVALID_VALUE: invalid argument")

    tanh._functions[0] = refused
    with pytest.raises(errors.KernelError, match=r"op::tanh.* not launched on \(1,\) blocks of \(2048,\): CUDA_ERROR"):
        tanh(1, 2048, x, np.int64(4), x)


def test_code_that_does_not_load_is_a_kernel_error(cupy, tanh, monkeypatch):
    compiler = importlib.import_module("pullback.backends.cuda.compiler")
    launching = importlib.import_module("pullback.backends.cuda.launching")
    broken = compiler.Compiled(b"not a cubin", {TANH: "tanh"}, "")
    monkeypatch.setattr(launching, "compile_cubin", lambda *args: broken)
    with pytest.raises(errors.KernelError, match=r"op::tanh.* of elementwise\.cu cannot be loaded on .*INVALID_IMAGE"):
        tanh(1, 32, None, np.int64(0), None)


def test_types_of_numbers_have_names_in_cpp(launching):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert launching.ctype(np.dtype(np.float64)) == "double"
    assert launching.ctype(np.dtype(ml_dtypes.bfloat16)) == "pullback::bfloat16"
    with pytest.raises(errors.DtypeError, match="kernels do not take complex64; they take float64"):
        launching.ctype(np.dtype(np.complex64))


def test_a_grid_is_as_large_as_its_work_and_no_larger_than_the_device(cupy, launching):
    most = cupy.cuda.Device().attributes["MultiProcessorCount"] * 8
    assert [launching.blocks_for(n) for n in (0, 1, 256, 257, 10**12)] == [0, 1, 1, 2, most]


# --- scratch ----------------------------------------------------------------------------------------------------------


def test_scratch_belongs_to_a_stream_and_a_device_and_what_was_handed_out_stays(cupy, launching):
    first = launching.workspace("test", 100, np.float32)
    assert first.size >= 100
    assert launching.workspace("test", 50, np.float32) is first
    assert launching.workspace("other", 50, np.float32) is not first
    assert launching.workspace("test", 50, np.float64).dtype == np.float64
    address = first.data.ptr
    larger = launching.workspace("test", 10**5, np.float32)
    assert larger.size >= 10**5
    del first
    assert cupy.empty(100, np.float32).data.ptr != address  # a captured graph may still write there
    with cupy.cuda.Stream(non_blocking=True):
        assert launching.workspace("test", 50, np.float32) is not larger
    with cupy.cuda.Device(1):
        assert launching.workspace("test", 50, np.float32).device.id == 1
    assert launching.workspace("test", 50, np.float32) is larger


def test_a_stream_of_each_threads_own_has_scratch_for_each_thread(cupy, launching, monkeypatch):
    own = streams.Stream()
    own.ptr = cupy.cuda.runtime.streamPerThread
    found = []

    def ask():
        with own:
            found.append(launching.workspace("test", 10))

    for _ in range(2):
        ask()
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    assert found[0] is found[2]
    assert found[1] is not found[0]


def test_counters_are_zero_and_cannot_be_made_while_capturing(cupy, launching):
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with pytest.raises(errors.KernelError, match="run the step once before"):
            launching.counters(3)
        stream.end_capture()
        made = launching.counters(3)
        assert made.dtype == np.uint32
        assert made.get().max() == 0
        stream.begin_capture()
        assert launching.counters(2) is made
        stream.end_capture()


def test_counters_are_zero_after_every_kernel_that_counts(cupy, launching):
    logits = pb.tensor(rng.normal(size=(70, 33)), device="cuda", dtype="float32", requires_grad=True)
    labels = pb.tensor(rng.integers(0, 33, 70), device="cuda")
    weight, bias = pb.tensor(np.ones(33, np.float32), device="cuda"), pb.tensor(np.ones(33, np.float32), device="cuda")
    for _ in range(2):
        pb.cross_entropy(pb.layer_norm(logits, weight=weight, bias=bias), labels).backward()
        assert launching.counters(1).get().max() == 0


def test_launches_of_a_dense_layer_stay_within_the_arrays_they_are_given(cuda, monkeypatch):
    """In the emulator's checked build: memory, races, initialisation."""
    monkeypatch.setitem(kernels.settings, "checked", True)
    x = pb.tensor(rng.normal(size=(37, 9)), dtype="float32", device="cuda", requires_grad=True)
    with stand_in_cupy.watched() as work:
        out = pb.linear_gelu(x, x[:9].mT, x[0])
        out.backward(pb.ones_like(out.detach()))
    assert len(launched(work)) >= 2


def test_a_step_stays_within_the_arrays_of_its_table(cuda, monkeypatch):
    monkeypatch.setitem(kernels.settings, "checked", True)
    parameters = [pb.tensor(np.ones(n), dtype="float32", device="cuda", requires_grad=True) for n in (5000, 1)]
    optimizer = pb.optim.Adam(parameters)
    pb.add(*(pb.sum(p * p) for p in parameters)).backward()
    with stand_in_cupy.watched() as work:
        optimizer.step()
    assert [w.name for w in launched(work)] == ["pullback::adam<float>"]


# --- what no kernel takes ---------------------------------------------------------------------------------------------


def strided(cupy, x):
    wide = cupy.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    wide[..., ::2] = cupy.asarray(x)
    return wide[..., ::2]


def shifted(cupy, x):
    """Contiguous, one number beyond a 16-byte boundary."""
    flat = cupy.empty(x.size + 1, x.dtype)[1:]
    flat[...] = cupy.asarray(x.reshape(-1))
    assert flat.data.ptr % 16
    return flat.reshape(x.shape)


CALLS = {
    "gelu": pb.gelu,
    "gelu_slope": lambda x: pb.gelu_slope(x, x),
    "add": lambda x: x + x,
    "softmax": lambda x: pb.softmax(x, axis=-1),
    "softmax of columns": lambda x: pb.softmax(x, axis=0),
    "layer_norm": pb.layer_norm,
    "sum": lambda x: pb.sum(x, axis=0),
    "mse_loss": lambda x: pb.mse_loss(x, x * 0.5),
    "cross_entropy": lambda x: pb.cross_entropy(x, pb.asarray(np.arange(x.shape[0]) % 3).to(x.device)),
}


@pytest.mark.parametrize("place", [strided, shifted], ids=["not contiguous", "misaligned"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_layouts_do_not_change_numbers(cupy, call, place):
    for dtype in (np.float32, np.float16):
        x = rng.normal(size=(7, 24)).astype(dtype)
        expected = call(pb.asarray(x)).numpy()
        found = call(pb.asarray(place(cupy, x))).numpy()
        np.testing.assert_allclose(
            found, expected, rtol=2e-3 if dtype is np.float16 else 1e-5, atol=1e-2 if dtype is np.float16 else 1e-5
        )


@pytest.mark.parametrize("call", [CALLS[name] for name in ("gelu", "gelu_slope", "add", "softmax", "layer_norm")])
@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0, 5)])
def test_no_numbers_no_launch(cupy, call, shape):
    x = np.zeros(shape, np.float32)
    with stand_in_cupy.watched() as work:
        found = call(pb.asarray(cupy.asarray(x)))
        assert found.shape == shape
        assert found.dtype == np.float32
    assert launched(work) == []


def test_integers_and_mixed_dtypes_get_the_plain_formula(cupy):
    n, x, y = cupy.asarray([1, -2]), cupy.asarray([0.5, 1.5]), cupy.asarray([1.0, 2.0], dtype=np.float32)
    with stand_in_cupy.watched() as work:
        assert pb.add(n, n).numpy().tolist() == [2, -4]
        assert pb.abs(n).numpy().tolist() == [1, 2]
        np.testing.assert_allclose(pb.multiply(x, y).numpy(), [0.5, 3.0])
    assert launched(work) == []


def test_kernels_can_be_switched_off():
    found = {}
    for kernels_on in (True, False):
        with stand_in_cupy.device(kernels_on) as backend, stand_in_cupy.watched() as work:
            value = pb.gelu(backend.asarray(np.ones((2, 3), np.float32))).numpy()
        found[kernels_on] = value, len(launched(work))
    assert (found[True][1], found[False][1]) == (1, 0)
    np.testing.assert_allclose(found[True][0], found[False][0], rtol=1e-6)


@pytest.mark.parametrize(("value", "expected"), [("off", "False"), ("OFF", "False"), ("on", "True"), ("", "True")])
def test_the_variable_that_switches_kernels_off(value, expected):
    program = "from pullback.backends.cuda import fused; print(fused.enabled)"
    environment = os.environ | {"PULLBACK_KERNELS": value}
    asked = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == expected


@pytest.mark.parametrize("value", ["on", "off"])
def test_missing_sources_are_named_and_not_needed_without_kernels(tmp_path, value):
    program = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import pullback as pb, stand_in_cupy\n"
        f"with stand_in_cupy.device({value == 'on'}):\n"
        "    print(pb.relu(pb.tensor([-1.0, 2.0], device='cuda')).numpy().tolist())\n"
    )
    environment = os.environ | {"PULLBACK_KERNELS": value, "PULLBACK_KERNELS_DIR": str(tmp_path)}
    asked = subprocess.run(
        [sys.executable, "-c", program],
        env=environment, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    if value == "off":
        assert asked.stdout.strip() == "[0.0, 2.0]"
    else:
        assert re.search(r"KernelError: the CUDA sources are missing: .*PULLBACK_KERNELS=off to work", asked.stderr)
