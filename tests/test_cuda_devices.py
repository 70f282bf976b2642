"""A second CUDA device, on the stand-in for CuPy: what belongs to it runs there, whichever is the current one."""

from collections import namedtuple

import emulator
import numpy as np
import pytest
import stand_in_cupy

import pullback as pb
from pullback import trees
from pullback.errors import DeviceError, IndexingError

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


# --- everything on the device that is not the current one -------------------------------------------------------------

NUMBERS = np.linspace(-1.5, 2.0, 6).reshape(2, 3)
Point = namedtuple("Point", "x y w")  # two constants and a leaf


def f(v):
    return pb.sum(pb.tanh(v) * pb.gelu(v * v) + 2.0 * v)


def parts(v):
    """A function whose value is in part untouched by its argument, with an op of two outputs of which one is used."""
    return pb.sin(v), pb.linalg.qr(v.T @ v + pb.ones_like(v).T @ v)[1], v.detach()


def backwards(loss_of, *leaves, cotangent=None):
    loss_of().backward(cotangent)
    return [x.grad for x in leaves]


def grown(p):
    p.w.backward(p.y)
    (p.w * p.x).backward(p.y)  # adds up
    p.w.grad = [[1.0, 2.0, 3.0]] * 2
    set_by_numbers = p.w.grad
    p.w.grad = p.x
    return set_by_numbers, p.w.grad


def assigned(p):
    constant = p.x * 1.0
    constant.assign_([[1.0, 2.0, 3.0]] * 2)
    p.w.assign_(p.x)
    with pb.no_grad():
        p.w[0] = 7.0
    return constant, p.w, p.w.at[1].set(3.0), p.w.at[:, [0, 2]].add(p.y[:, :2]), p.w[[1, 0]], p.w[p.w > 0]


def checked(p):
    pb.check_gradients(f, p.x)
    return ()


def wrong_rule(p):
    wrong = pb.custom_rule(lambda v: v * v, vjp=lambda g, out, v: (g * v,))
    with pytest.raises(pb.errors.GradientCheckError, match="disagrees"):
        pb.check_gradients(lambda v: pb.sum(wrong(pb.sin(v))), p.x)
    return ()


def ruled(p):
    square = pb.custom_rule(
        lambda a, b: (a * a, b * 3.0),
        vjp=lambda g, out, a, b: (None if g[0] is None else 2.0 * a * g[0], None if g[1] is None else 3.0 * g[1]),
        jvp=lambda t, out, a, b: (2.0 * a * t[0], 3.0 * t[1]),
    )
    return (
        pb.grad(lambda v: pb.sum(square(v, p.y)[0]))(p.x),
        pb.jvp(lambda v: square(v, p.y), (p.x,), (p.y,))[1],
        pb.hvp(lambda v: pb.sum(square(v, v)[0] * v), (p.x,), (p.y,)),
        backwards(lambda: pb.sum(square(p.w, p.y)[0]), p.w),
    )


def checkpointed(p):
    part = pb.checkpoint(lambda v: pb.tanh(v @ v.T) * pb.mean(p.w))
    return backwards(lambda: pb.sum(part(p.w) ** 2), p.w), pb.hvp(lambda v: pb.sum(part(v)), (p.x,), (p.y,))


def batched(p):
    found = []
    for generator in (None, pb.random.Generator(3)):
        batches = pb.data.Batches([p.x.T, p.y.T], 2, generator)
        found += [x for batch in batches for x in batch]
    return found


def stepped(p):
    """Each kind of parameter in steps with state kept and loaded, with tapes' gradients and with given ones."""
    found = []
    for kind, dtype in ((pb.optim.AdamW, "float64"), (pb.optim.SGD, "float32"), (pb.optim.Adam, "float16")):
        options = {"momentum": 0.9} if kind is pb.optim.SGD else {}
        w = pb.tensor(p.w.detach(), dtype=dtype, device=p.w.device, requires_grad=True)
        narrow = p.x.astype(dtype)
        optimizer = kind({"w": w}, lr=0.1, **options)
        for turn in range(4):
            (w * w * narrow).backward(narrow)
            optimizer.step(skip_if_nonfinite=turn == 1, error_if_nonfinite=turn == 2)
            optimizer.zero_grad()
            optimizer.step({"w": narrow * 0.5})
        state = optimizer.state_dict()
        optimizer = kind({"w": w}, lr=0.5, **options)
        optimizer.load_state_dict(state)
        w.assign_(narrow)
        optimizer.step({"w": narrow})
        found.append(w.astype("float64"))
    one = pb.tensor(1.0, device=p.w.device, requires_grad=True)
    pb.optim.SGD([one], lr=0.25).step([2.0])
    return *found, one


def trained(p):
    """A net with dropout and integer weights beside its parameters, saved and loaded."""
    net = pb.nn.MLP((3, 4, 2), "relu", generator=0, dtype="float64", dropout=0.25).to(p.x.device)
    adam = pb.optim.Adam(net.parameters(), lr=0.1)
    for _ in range(3):
        loss = pb.mse_loss(net(p.x), p.y[:, :2])
        adam.zero_grad()
        loss.backward()
        pb.optim.clip_grad_norm(net.parameters(), 0.5, error_if_nonfinite=True)
        adam.step(skip_if_nonfinite=True)
    net.load_state_dict(net.state_dict())
    return loss, *net.parameters().values()


def jacobians(p):
    """In every mode, whole and within a limit that sweeps keep by chunks."""

    def waist(v):
        return pb.tanh(pb.tanh(v @ p.x.T) @ p.x)

    found = [pb.jacobian(waist, mode=mode)(p.x[0]) for mode in ("auto", "reverse", "forward", "planned")]
    found += [pb.jacobian(pb.sin, mode=mode)(p.x) for mode in ("auto", "diagonal")]
    found += [pb.jacobian(lambda v: pb.softmax(v, axis=1), mode=mode)(p.x) for mode in ("auto", "blocks")]
    wide = pb.sin(pb.reshape(pb.arange(200.0, dtype="float64", device=p.x.device), (2, 100)))
    for mode in ("auto", "reverse", "planned", "blocks"):
        derivative = pb.jacobian(lambda v: pb.softmax(v * 2, axis=1), mode=mode, memory_limit=2_600_000)
        found.append(derivative(wide))
    return found


PROGRAMS = {
    "detach": lambda p: (p.w.detach(), p.w.T.detach(), pb.tensor(p.x), pb.asarray(p.x, copy=True)),
    "backward": lambda p: backwards(lambda: f(p.w), p.w),
    "backward_with_a_cotangent": lambda p: backwards(lambda: pb.tanh(p.w), p.w, cotangent=p.y),
    "backward_through_outputs": lambda p: backwards(lambda: pb.sum(parts(p.w)[1]), p.w),
    "leaves": grown,
    "assign": assigned,
    "grad": lambda p: (pb.grad(f)(p.x), pb.value_and_grad(lambda v, u: f(v) * f(u), (0, 1))(p.x, p.y)),
    "grad_of_what_is_not_used": lambda p: pb.grad(lambda v, u: f(v), (0, 1))(p.x, p.y),
    "vjp": lambda p: pb.vjp(parts, p.x)[1]((p.y, pb.ones_like(p.x.T @ p.x), p.x)),
    "vjp_with_numbers": lambda p: pb.vjp(f, p.x)[1](2.0),
    "jvp": lambda p: pb.jvp(parts, (p.x,), (p.y,)),
    "linearize": lambda p: pb.linearize(lambda v, u: f(v) * u, p.x, p.y)[1](p.y, p.x),
    "hvp": lambda p: pb.hvp(f, (p.x,), (p.y,)),
    "vmap": lambda p: pb.vmap(lambda v: pb.broadcast_to(v[0], (2,)) + pb.zeros_like(v[:2]) + pb.sum(pb.tanh(v)))(p.x),
    "jacobian": jacobians,
    "hessian": lambda p: pb.hessian(lambda t: f(t["a"]) * pb.sum(t["b"]))({"a": p.x, "b": p.y}),
    "hessian_of_nothing": lambda p: pb.hessian(pb.sum)(p.x[:0]),
    "checkpoint": checkpointed,
    "custom_rule": ruled,
    "check_gradients": checked,
    "check_gradients_finds": wrong_rule,
    "batches": batched,
    "optimizers": stepped,
    "net": trained,
    "weak_numbers": lambda p: (
        (p.x > 0) + 1.5, (p.x > 0) * p.y, pb.concat([p.x.reshape(-1), p.y.reshape(-1)]), pb.where(p.x > 0, 1.0, 2.0),
        pb.where(p.x > 0, 1, p.y), 2.5 * pb.astype(p.x, "int32"), pb.stack([p.x, p.y]), pb.stack([p.x[0, 0], 2.0]),
    ),
    "random": lambda p: (pb.dropout(p.x, 0.5, pb.random.Generator(1)), pb.dropout_mask(p.x, 0.5, 1, 2)),
}  # fmt: skip


@pytest.mark.parametrize("kernels_on", [True, False])
@pytest.mark.parametrize("name", PROGRAMS)
def test_on_the_second_device_everything_is_as_on_the_cpu(name, kernels_on):
    found = {}
    for place in ("cpu", "cuda:1"):
        with stand_in_cupy.device(kernels_on):
            x, y = (pb.asarray(a).to(place) for a in (NUMBERS, np.cos(NUMBERS)))
            point = Point(x, y, pb.tensor(NUMBERS + 0.3, device=place, requires_grad=True))
            leaves, spec = trees.flatten(PROGRAMS[name](point))
            assert all(v.device == place for v in leaves)
            found[place] = str(spec), [v.numpy() for v in leaves]
    assert found["cuda:1"][0] == found["cpu"][0]
    for a, b in zip(found["cuda:1"][1], found["cpu"][1], strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


def test_what_a_kernel_of_the_second_device_complains_of_is_told():
    with stand_in_cupy.device():
        logits, labels = pb.tensor(NUMBERS, device="cuda:1"), pb.tensor([0, 9], device="cuda:1")
        loss = pb.cross_entropy(logits, labels)
        with pytest.raises(IndexingError, match="label 9"):
            loss.item()


def test_one_optimizer_steps_on_both_devices_or_on_none():
    found = {}
    for places in (("cpu", "cpu"), ("cuda:0", "cuda:1")):
        with stand_in_cupy.device():
            params = [
                pb.tensor(NUMBERS, dtype=dtype, device=place, requires_grad=True)
                for place in places for dtype in ("float32", "float64")
            ]  # fmt: skip
            adam = pb.optim.Adam(params, lr=0.1)
            for bad in (None, 1, 2, None):
                gradients = [x.detach() * (np.inf if i == bad else 0.5) for i, x in enumerate(params)]
                with stand_in_cupy.watched() as work:
                    adam.step(gradients, skip_if_nonfinite=True)
                names = [w.name for w in work if w.name.startswith("pullback::adam")]
                assert len(names) == (0 if places[0] == "cpu" or bad is not None else 4)
            found[places] = [x.numpy() for x in params]
    for a, b in zip(*found.values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
