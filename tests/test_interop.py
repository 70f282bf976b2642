"""Arrays of other libraries beside tensors: operators, conversions, DLPack, devices."""

import operator
import sys

import numpy as np
import pytest

import pullback as pb
from pullback import errors
from pullback.backends import Backend, backend_for

ARRAY, VALUES = np.array([[3.0, 4.0], [5.0, 6.0]]), np.array([[1.0, 2.0], [2.0, 3.0]])
ARITHMETIC = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"]
COMPARISONS = ["eq", "ne", "lt", "le", "gt", "ge"]
BITWISE = ["and_", "or_", "xor", "lshift", "rshift"]


@pytest.mark.parametrize("name", ARITHMETIC + COMPARISONS)
def test_arrays_mix_with_tensors_on_either_side(name):
    apply = getattr(operator, name)
    x = pb.tensor(VALUES)
    for left, right in ((ARRAY, x), (x, ARRAY), (2.0 * np.ones(()), x), (x, np.float64(2.0))):
        if name == "matmul" and np.ndim(np.asarray(left)) * np.ndim(np.asarray(right)) == 0:
            continue
        out = apply(left, right)
        assert isinstance(out, pb.Tensor)
        expected = apply(np.asarray(left), np.asarray(right))
        np.testing.assert_allclose(out.numpy(), expected, rtol=1e-15)
        assert out.dtype == expected.dtype


@pytest.mark.parametrize("name", BITWISE)
def test_integer_operators_mix_too(name):
    apply = getattr(operator, name)
    a, b = np.array([6, 5, 3]), np.array([1, 2, 3])
    for left, right in ((a, pb.tensor(b)), (pb.tensor(a), b), (6, pb.tensor(b)), (pb.tensor(a), 2)):
        out = apply(left, right)
        assert isinstance(out, pb.Tensor)
        np.testing.assert_array_equal(out.numpy(), apply(np.asarray(left), np.asarray(right)))


def test_gradients_pass_through_mixed_operators():
    x = pb.tensor([1.0, 2.0], requires_grad=True)
    a = np.array([3.0, 5.0], np.float32)
    pb.sum(a * x + x / a - a @ x + a**x).backward()
    expected = a + 1 / a - 2 * a + a ** x.numpy() * np.log(a)
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("scalar", [2, 2.0, True, np.float64(2.0)])
def test_numbers_of_python_are_weak(scalar):
    x = pb.tensor(np.ones(2, np.float32))
    assert (scalar * x).dtype == (x * scalar).dtype == np.float32
    half = pb.tensor(np.ones(2, np.float16))
    assert (scalar * half).dtype == (half - scalar).dtype == np.float16


def test_functions_of_numpy_are_refused_with_advice():
    x = pb.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(TypeError, match=r"numpy\.tanh is a NumPy ufunc.*leave the tape; use pb\.tanh"):
        np.tanh(x)
    with pytest.raises(TypeError, match=r"use pb\.atan$"):
        np.arctan(x)
    with pytest.raises(TypeError, match=r"numpy\.nextafter .* \.numpy\(\)|use pb\.nextafter"):
        np.nextafter(x, 0.0)
    with pytest.raises(TypeError, match=r"numpy\.add .* take the numbers with \.numpy\(\)"):
        np.add.reduce(x)


def test_an_array_is_not_written_with_a_tensor_behind_its_back():
    a = np.zeros(2, np.float32)
    x = pb.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(TypeError, match="would leave the tape"):
        a += x
    with pytest.raises(errors.TapeError, match="cut the tape"):
        a[:] = x
    np.testing.assert_array_equal(a, [0.0, 0.0])


def test_conversions_of_constants_to_numpy_share_memory_and_recorded_tensors_are_not_cut():
    constant, leaf = pb.tensor(ARRAY), pb.tensor(ARRAY, requires_grad=True)
    assert np.shares_memory(np.asarray(constant), constant.data)
    assert not np.shares_memory(np.array(constant, copy=True), constant.data)
    for convert in (np.asarray, np.from_dlpack, lambda x: np.stack([x, x])):
        with pytest.raises(errors.TapeError, match=r"\.detach\(\) or \.numpy\(\)"):
            convert(leaf)
        np.testing.assert_array_equal(convert(leaf.detach())[0], convert(constant)[0])
    with pb.no_grad():
        np.testing.assert_array_equal(np.asarray(leaf), ARRAY)


def test_numbers_and_lists_come_out_as_python_has_them():
    assert pb.tensor(2.5).item() == 2.5
    assert type(pb.tensor(2.5).item()) is float
    assert type(pb.tensor([3]).item()) is int
    assert pb.tensor([[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]
    assert pb.tensor(True).tolist() is True


# --- DLPack -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64", "float16", "float32", "float64"])
def test_a_round_trip_with_numpy_shares_memory(dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    x = pb.from_dlpack(array)
    assert (x.dtype, x.shape, x.device) == (array.dtype, (2, 3), "cpu")
    assert np.shares_memory(x.numpy(), array)
    back = np.from_dlpack(x)
    assert np.shares_memory(back, array)
    np.testing.assert_array_equal(back, array)


def test_layouts_survive_dlpack():
    array = np.arange(24.0).reshape(2, 3, 4)[:, ::2, ::-1]
    for a in (array.transpose(2, 0, 1), np.zeros((0, 3)), np.array(2.0)):
        np.testing.assert_array_equal(pb.from_dlpack(a).numpy(), a)
        np.testing.assert_array_equal(np.from_dlpack(pb.asarray(a)), a)


def test_what_is_handed_out_is_read_only():
    x = pb.tensor([1.0, 2.0])
    out = np.from_dlpack(x)
    assert not out.flags.writeable
    assert x.data.flags.writeable


class OldConsumer:
    """Asks as libraries did before version 1 of the protocol, which cannot mark memory as read-only."""

    def __init__(self, x, **options):
        self.x, self.options = x, options

    def __dlpack__(self, **_):
        return self.x.__dlpack__(**self.options)

    def __dlpack_device__(self):
        return self.x.__dlpack_device__()


def test_a_consumer_that_cannot_be_told_to_only_read_gets_a_copy():
    x = pb.tensor([1.0, 2.0])
    for options in ({}, {"stream": None}, {"max_version": (0, 8)}):
        out = np.from_dlpack(OldConsumer(x, **options))
        np.testing.assert_array_equal(out, [1.0, 2.0])
        assert not np.shares_memory(out, x.data)
    with pytest.raises(BufferError):
        x.__dlpack__(copy=False)


def test_copies_are_made_where_they_are_asked_for():
    array = np.arange(3.0)
    assert not np.shares_memory(pb.from_dlpack(array, copy=True).numpy(), array)
    assert np.shares_memory(pb.from_dlpack(array, copy=False).numpy(), array)
    assert np.shares_memory(pb.from_dlpack(array, device="cpu").numpy(), array)
    frozen = array.view()
    frozen.flags.writeable = False
    assert np.shares_memory(pb.from_dlpack(frozen).numpy(), array)


def test_a_tensor_is_taken_from_another_and_a_recorded_one_refused():
    x = pb.tensor([1.0, 2.0], requires_grad=True)
    np.testing.assert_array_equal(pb.from_dlpack(x.detach()).numpy(), [1.0, 2.0])
    with pytest.raises(errors.TapeError, match="cut the tape"):
        pb.from_dlpack(x * 2.0)


class Foreign:
    """An array somewhere else."""

    def __init__(self, kind, number=0):
        self.where = kind, number

    def __dlpack_device__(self):
        return self.where

    def __dlpack__(self, **_):
        raise BufferError("it is in use")


@pytest.mark.parametrize(
    ("x", "kind", "message"),
    [
        ([1.0], errors.DtypeError, "list has no __dlpack__; there is pb.asarray"),
        (Foreign(8), errors.DeviceError, "DLPack's kind 8"),
        (Foreign(1), errors.ArgumentError, "Foreign is not handed over: it is in use"),
        (np.zeros(2, complex), errors.DtypeError, "complex128"),
    ],
)
def test_what_dlpack_cannot_bring_is_named(x, kind, message):
    with pytest.raises(kind, match=message):
        pb.from_dlpack(x)


def test_pytorch_and_tensors_share_memory_both_ways():
    torch = pytest.importorskip("torch")
    theirs = torch.arange(6.0).reshape(2, 3).T
    ours = pb.from_dlpack(theirs)
    assert np.shares_memory(ours.numpy(), theirs.numpy())
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    back = torch.from_dlpack(pb.exp(ours))
    np.testing.assert_allclose(back.numpy(), np.exp(theirs.numpy()), rtol=1e-6)
    x = pb.tensor([1.0, 2.0])
    assert np.shares_memory(torch.from_dlpack(x).numpy(), x.data)
    with pytest.raises(errors.ArgumentError, match=r"detach\(\)"):
        pb.from_dlpack(torch.ones(2, requires_grad=True))


def test_jax_and_tensors_exchange_arrays():
    jax = pytest.importorskip("jax")
    theirs = jax.numpy.arange(4.0)
    ours = pb.from_dlpack(theirs)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours.numpy(), np.arange(4.0))
    np.testing.assert_array_equal(np.asarray(jax.numpy.from_dlpack(ours)), np.arange(4.0))


# --- devices ----------------------------------------------------------------------------------------------------------


def test_a_cuda_device_that_is_not_here_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.delitem(sys.modules, "pullback.backends.cuda.backend", raising=False)
    message = r"needs CuPy .*pip install 'pullback\[cuda12\]' or 'pullback\[cuda13\]'"
    for call in (
        lambda: pb.tensor([1.0], device="cuda"),
        lambda: pb.zeros(3, device="cuda:1"),
        lambda: pb.tensor([1.0]).to("cuda"),
        lambda: pb.random.uniform(3, device="cuda"),
        lambda: pb.from_dlpack(Foreign(2)),
    ):
        with pytest.raises(errors.DeviceError, match=message):
            call()


def test_cupy_without_a_gpu_says_so():
    cupy = pytest.importorskip("cupy")
    if cupy.cuda.is_available():
        assert backend_for("cuda").name == "cuda"
        return
    with pytest.raises(errors.DeviceError, match="needs an NVIDIA GPU and its driver"):
        pb.zeros(2, device="cuda")


@pytest.mark.parametrize("device", ["gpu", "CUDA", "cuda0", "tpu:1", "cpu:0", ""])
def test_devices_of_unknown_names_are_refused(device):
    with pytest.raises(errors.DeviceError, match=r"no device|is called 'cpu'"):
        pb.tensor([1.0], device=device)
    with pytest.raises(errors.DeviceError, match=r"no device|is called 'cpu'"):
        pb.ones(2, device=device)


def test_every_backend_tells_where_its_arrays_are():
    backend: Backend = backend_for("cpu")
    assert backend.device_of(np.ones(2)) == "cpu"
    assert "cpu" in backend.devices()
    with pytest.raises(errors.DeviceError), backend.on("cpu:7"):
        pass
