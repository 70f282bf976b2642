"""Tensor: how numbers leave the tape, are assigned, moved between dtypes and devices, and copied as Python copies."""

import copy
import pickle

import numpy as np
import pytest

import pullback as pb
from pullback.backends import BACKENDS, Backend, Namespace, register
from pullback.backends.registry import _by_device
from pullback.core.op import OPS
from pullback.core.tape import Leaf


def leaf(values, dtype="float64"):
    return pb.tensor(np.asarray(values, dtype), requires_grad=True)


# --- leaving the tape -------------------------------------------------------------------------------------------------


def test_detach_gives_a_constant_and_copies_what_a_leaf_may_write():
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    y = x * 2.0
    assert not y.detach().requires_grad
    assert np.shares_memory(y.detach().numpy(), y.numpy())
    kept = [x.detach(), x.T.detach(), pb.reshape(x, (4,)).detach(), x[0].detach()]
    before = [k.tolist() for k in kept]
    x.assign_(np.zeros((2, 2)))
    assert [k.tolist() for k in kept] == before


def test_a_detached_factor_gets_no_gradient():
    x = leaf([1.0, 2.0])
    pb.sum(x * x.detach()).backward()
    np.testing.assert_array_equal(x.grad.numpy(), x.numpy())


def test_numpy_is_a_read_only_view():
    x = leaf([1.0, 2.0])
    array = x.numpy()
    assert np.shares_memory(array, x.data)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 5.0
    assert x.data.flags.writeable
    assert (x * 2.0).numpy().tolist() == [2.0, 4.0]


def test_numpy_functions_take_constants_and_refuse_to_cut_the_tape():
    x = leaf([1.0, 4.0])
    constant = pb.tensor([1.0, 4.0])
    np.testing.assert_array_equal(np.asarray(constant), [1.0, 4.0])
    assert np.asarray(constant, dtype="int64").dtype == np.int64
    assert np.array(constant).flags.writeable
    np.testing.assert_array_equal(np.concatenate([constant, constant]), [1.0, 4.0, 1.0, 4.0])
    for turn in (np.asarray, np.array, lambda t: np.concatenate([t, t]), np.from_dlpack):
        with pytest.raises(pb.errors.TapeError, match="cut the tape"):
            turn(x)
        with pytest.raises(pb.errors.TapeError, match="cut the tape"):
            turn(x * 2.0)
    with pb.no_grad():
        np.testing.assert_array_equal(np.asarray(x), [1.0, 4.0])
    with pytest.raises(TypeError, match="ufunc"):
        np.sqrt(x)


def test_dlpack_shares_constants():
    array = np.arange(3.0)
    np.testing.assert_array_equal(np.from_dlpack(pb.asarray(array)), array)
    assert np.shares_memory(np.from_dlpack(pb.asarray(array)), array)
    assert pb.asarray(array).__dlpack_device__() == array.__dlpack_device__()
    np.testing.assert_array_equal(np.from_dlpack(pb.sum(pb.tensor([1.0, 2.0]))), 3.0)  # a NumPy scalar inside


def test_transposes():
    x = leaf(np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(x.T.numpy(), x.numpy().T)
    stack = pb.tensor(np.arange(24.0).reshape(2, 3, 4))
    np.testing.assert_array_equal(stack.mT.numpy(), np.swapaxes(stack.numpy(), -1, -2))
    for values in (np.ones(3), np.ones((2, 3, 4))):
        with pytest.raises(pb.errors.ShapeError, match=r"T: .*use \.mT or pb\.permute_dims"):
            pb.tensor(values).T  # noqa: B018
    with pytest.raises(pb.errors.ShapeError, match="matrix_transpose"):
        pb.tensor(np.ones(3)).mT  # noqa: B018


def test_methods_are_the_ops_of_their_names():
    x = pb.tensor(np.arange(6.0).reshape(2, 3))
    for name in ("sum", "mean", "max", "min"):
        method, function = getattr(x, name), getattr(pb, name)
        np.testing.assert_array_equal(method().numpy(), function(x).numpy())
        np.testing.assert_array_equal(method(axis=1, keepdims=True).numpy(), function(x, axis=1, keepdims=True).numpy())
    for shape in ((3, 2), ((3, 2),), ([3, 2],), (-1,), (2, -1)):
        np.testing.assert_array_equal(x.reshape(*shape).numpy(), x.numpy().reshape(*shape))


# --- assignment -------------------------------------------------------------------------------------------------------


def test_a_leaf_is_assigned_in_place():
    x = leaf([1.0, 2.0])
    buffer, node = x.data, x.node
    assert x.assign_([5.0, 6.0]) is x
    assert x.data is buffer
    assert x.node is node
    assert x.tolist() == [5.0, 6.0]
    x.assign_(pb.tensor([7, 8]))
    assert (x.tolist(), x.dtype) == ([7.0, 8.0], np.float64)


def test_any_other_tensor_becomes_a_constant_with_the_new_numbers():
    array = np.array([1.0, 2.0], "float32")
    x = pb.asarray(array)
    x.assign_(np.array([5.0, 6.0]))
    assert (x.tolist(), x.dtype) == ([5.0, 6.0], np.float32)
    assert array.tolist() == [1.0, 2.0]
    y = leaf([1.0]) * 2.0
    assert not y.assign_([3.0]).requires_grad


def test_an_assigned_array_is_copied():
    mine = np.array([5.0, 6.0])
    for x in (leaf([1.0, 2.0]), leaf([1.0, 2.0]) * 1.0, pb.tensor(np.zeros(2))):
        x.assign_(mine)
        assert not np.shares_memory(x.numpy(), mine)


def test_a_gradient_can_be_set():
    x = leaf([1.0, 2.0], "float32")
    mine = np.array([3.0, 4.0])
    x.grad = mine
    assert (x.grad.tolist(), x.grad.dtype) == ([3.0, 4.0], np.float32)
    pb.sum(x).backward()
    assert x.grad.tolist() == [4.0, 5.0]
    assert mine.tolist() == [3.0, 4.0]
    x.grad = pb.tensor([1, 2])
    assert x.grad.dtype == np.float32
    x.grad = None
    assert x.grad is None
    scalar = leaf(1.0)
    for value in (2.0, np.float32(2.0), pb.tensor(2.0)):
        scalar.grad = value
        assert scalar.grad.item() == 2.0
    with pytest.raises(pb.errors.ShapeError, match=r"\.grad: the tensor has shape \(2,\), the value \(3,\)"):
        x.grad = np.ones(3)
    assert x.grad is None


# --- moving and converting --------------------------------------------------------------------------------------------


def test_astype_and_to_convert_on_the_tape():
    x = leaf([1.5, 2.5], "float32")
    assert x.astype("float32") is x
    assert x.to("cpu") is x
    y = x.to("float64") * np.array([2.0, 3.0])
    assert y.dtype == np.float64
    pb.sum(y).backward()
    assert (x.grad.tolist(), x.grad.dtype) == ([2.0, 3.0], np.float32)
    assert x.astype("int64").tolist() == [1, 2]
    assert not x.astype("int64").requires_grad
    assert pb.sum(x).astype("float64").item() == 4.0


@pytest.mark.parametrize("dtype", [None, "complex64", "object", "U3", "float33", object, "datetime64[s]"], ids=str)
def test_only_dtypes_of_real_numbers_are_taken(dtype):
    x = pb.tensor([1.0, 2.0])
    with pytest.raises(pb.errors.DtypeError):
        x.astype(dtype)
    if dtype is not None:
        for make in (pb.tensor, pb.asarray):
            with pytest.raises(pb.errors.DtypeError):
                make([1.0, 2.0], dtype=dtype)


class ElsewhereArray(np.ndarray):
    """Arrays of a device of their own, to try what happens between devices."""


class Elsewhere(Backend):
    name = "elsewhere"
    array_types = (ElsewhereArray,)
    xp = Namespace(np)

    def asarray(self, data, dtype=None, device=None, copy=None):
        return np.array(data, dtype=dtype, copy=copy).view(ElsewhereArray)

    def to_numpy(self, array):
        return np.asarray(array)


@pytest.fixture
def elsewhere():
    register(Elsewhere())
    yield "elsewhere"
    del _by_device["elsewhere"], BACKENDS[ElsewhereArray]


def test_a_tensor_moves_between_devices_on_the_tape(elsewhere):
    x = leaf([1.0, 2.0])
    there = x.to(elsewhere)
    assert (there.device, x.device) == (elsewhere, "cpu")
    assert there.to(elsewhere) is there
    pb.sum(there * 3.0).backward()
    assert x.grad.tolist() == [3.0, 3.0]
    assert x.grad.device == "cpu"
    assert pb.tensor([1.0], device=elsewhere).device == elsewhere
    assert "device='elsewhere'" in repr(there)


def test_tensors_of_two_devices_never_mix_silently(elsewhere):
    here, there = leaf([1.0, 2.0]), pb.tensor(np.ones(2), device=elsewhere)
    for mix in (
        lambda: here * there,
        lambda: there @ here,
        lambda: np.ones(2) + there,
        lambda: here.backward(there),
        lambda: here.assign_(there),
        lambda: setattr(here, "grad", there),
    ):
        with pytest.raises(pb.errors.DeviceError, match=r"\.to\(\)"):
            mix()
    assert (there * 2.0).device == elsewhere
    with pytest.raises(pb.errors.DeviceError, match=r"\.numpy\(\) or \.to\('cpu'\)"):
        np.asarray(there)
    assert there.numpy().tolist() == [1.0, 1.0]


# --- copies of the Python kind ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("clone", [copy.deepcopy, copy.copy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copied_leaf_is_a_leaf_of_its_own(clone):
    x = leaf([1.0, 2.0])
    pb.sum(x * 3.0).backward()
    twin = clone(x)
    assert twin.is_leaf
    assert twin.node is not x.node
    assert (twin.tolist(), twin.grad.tolist()) == ([1.0, 2.0], [3.0, 3.0])
    twin.assign_([5.0, 6.0])
    pb.sum(twin).backward()
    assert (x.tolist(), x.grad.tolist()) == ([1.0, 2.0], [3.0, 3.0])
    constant = clone(pb.tensor([1.0, 2.0]))
    assert (constant.tolist(), constant.requires_grad) == ([1.0, 2.0], False)


def test_a_copied_leaf_forgets_when_the_old_one_was_written():
    x = leaf([1.0, 2.0])
    x.assign_([3.0, 4.0])
    twin = copy.deepcopy(x)
    assert isinstance(twin.node, Leaf)
    assert twin.node.mutated == 0


@pytest.mark.parametrize("clone", [copy.deepcopy, pickle.dumps])
def test_a_recorded_tensor_is_not_copied_with_its_tape(clone):
    with pytest.raises(pb.errors.TapeError, match=r"call \.detach\(\) first"):
        clone(leaf([1.0]) * 2.0)


def test_ops_and_layers_are_pickled_by_name():
    ours = [op for op in OPS.values() if op.forward.__module__.startswith("pullback.ops")]
    assert len(ours) > 200
    assert [op.name for op in ours if pickle.loads(pickle.dumps(op.call)) is not op.call] == []
    net = pb.nn.MLP((3, 4, 2), activation="gelu", generator=0)
    x = np.linspace(-1, 1, 6).reshape(2, 3)
    assert pickle.loads(pickle.dumps(net))(x).tolist() == copy.deepcopy(net)(x).tolist() == net(x).tolist()
