"""A second CUDA device, on the stand-in for CuPy: what belongs to it runs there, whichever is the current one."""

import emulator
import numpy as np
import pytest
import stand_in_cupy

import pullback as pb
from pullback.errors import DeviceError

pytestmark = pytest.mark.skipif(emulator.missing() is not None, reason=str(emulator.missing()))


@pytest.mark.parametrize("kernels_on", [True, False])
def test_a_training_step_stays_on_the_device_of_its_arrays(kernels_on):
    losses = {}
    for place in ("cpu", "cuda:1"):
        with stand_in_cupy.device(kernels_on):
            net = pb.nn.MLP((6, 8, 3), "gelu", layer_norm=False, generator=0, dtype="float64").to(place)
            adam = pb.optim.AdamW(net.parameters(), lr=0.1)
            x = pb.asarray(np.random.default_rng(0).normal(size=(5, 6))).to(place)
            labels = pb.asarray(np.arange(5) % 3).to(place)
            losses[place] = []
            for _ in range(4):
                loss = pb.cross_entropy(net(x), labels)
                adam.zero_grad()
                loss.backward()
                norm = pb.optim.clip_grad_norm(net.parameters(), 0.5)
                adam.step()
                losses[place].append(loss.item())
                where = {loss.device, norm.device, *(p.grad.device for p in net.parameters().values())}
                assert where == {place} == {p.device for p in net.parameters().values()}
    np.testing.assert_allclose(losses["cuda:1"], losses["cpu"], rtol=1e-12)
    assert losses["cpu"][-1] < losses["cpu"][0]


def test_transforms_and_walks_of_the_second_device():
    with stand_in_cupy.device():
        x = pb.asarray(np.linspace(-2, 2, 7)).to("cuda:1")
        (gradient,) = pb.vjp(lambda v: pb.sum(pb.gelu(v) * pb.tanh(v)), x)[1](1.0)
        tangent = pb.jvp(lambda v: pb.gelu(v) * 2.0, (x,), (x,))[1]
        assert gradient.device == tangent.device == "cuda:1"


def test_the_cotangent_of_a_sum_costs_the_slope_of_an_activation_one_copy():
    """It is a view without strides, which no kernel reads."""
    expected = pb.grad(lambda v: pb.sum(pb.gelu(v)))(np.linspace(-2, 2, 12).reshape(3, 4)).numpy()
    with stand_in_cupy.device():
        x = pb.tensor(np.linspace(-2, 2, 12).reshape(3, 4), device="cuda", requires_grad=True)
        loss = pb.sum(pb.gelu(x))
        with stand_in_cupy.watched() as work:
            loss.backward()
        found = x.grad.numpy()
    assert [w.name.partition("<")[0] for w in work if w.is_launch or w.kind == "copy"][-2:] == [
        "ascontiguousarray", "pullback::map",
    ]  # fmt: skip
    np.testing.assert_allclose(found, expected, rtol=1e-12)


# --- arrays of two devices --------------------------------------------------------------------------------------------

APART = {
    "add": lambda x, y: x + y,
    "add_to_a_constant": lambda x, y: x + y.data,
    "matmul": pb.matmul,
    "where": lambda x, y: pb.where(x > 0, x, y),
    "concat": lambda x, y: pb.concat([x, y]),
    "mse_loss": pb.mse_loss,
    "linear": pb.linear,
    "gelu_slope": pb.gelu_slope,
    "take": lambda x, y: pb.take(x, pb.astype(y, "int64"), axis=0),
    "getitem": lambda x, y: x[pb.astype(y, "int64")],
    "getitem_of_several": lambda x, y: x[:, pb.astype(y, "int64")],
    "at_add": lambda x, y: x.at[0].add(y[0]),
}


@pytest.mark.parametrize("kernels_on", [True, False])
@pytest.mark.parametrize("name", APART)
def test_arrays_of_two_devices_in_one_op_are_refused_by_name(name, kernels_on):
    with stand_in_cupy.device(kernels_on):
        x, y = (pb.tensor(np.eye(3), device=f"cuda:{i}", requires_grad=True) for i in (0, 1))
        for first, second in ((x, y), (y, x)):
            with pytest.raises(DeviceError, match=r"on cuda:\d.* cuda:\d; move one with \.to\(\)") as told:
                APART[name](first, second)
            assert all(place in str(told.value).partition("; move")[0] for place in ("cuda:0", "cuda:1"))
        assert (x + y.to("cuda:0")).device == "cuda:0"


def test_what_comes_to_a_tensor_from_another_device_is_refused():
    with stand_in_cupy.device():
        here, there = (pb.tensor(np.ones(3), device=f"cuda:{i}", requires_grad=True) for i in (0, 1))
        with pytest.raises(DeviceError, match=r"on cuda:0 where cuda:1 is needed; move it with \.to\(\)"):
            there.grad = here
        with pytest.raises(DeviceError, match=r"on cuda:0 where cuda:1 is needed; move it with \.to\(\)"):
            there.assign_(here)
        with pytest.raises(DeviceError, match="on cuda:1, its gradient on cuda:0; move one"):
            pb.optim.SGD([there], lr=0.1).step([here.detach()])
        assert there.grad is None
        np.testing.assert_array_equal(there.numpy(), np.ones(3))
