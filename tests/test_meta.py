"""Device "meta": arrays with shapes and dtypes and no numbers, and what is refused because there are none."""

import copy
import operator
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from counting_backend import Counts
from traced_memory import traced_memory

import pullback as pb
from pullback.backends.meta.metering import metering
from pullback.cli import main
from pullback.errors import DeviceError, PullbackError

HUGE = 8192


def zeros(*shape: int, **options: Any) -> pb.Tensor:
    return pb.zeros(shape, device="meta", **options)


def facts(x: pb.Tensor) -> tuple[Any, str, str]:
    return x.shape, str(x.dtype), x.device


# --- what there is ----------------------------------------------------------------------------------------------------

CREATION: dict[str, tuple[Callable[[], pb.Tensor], Any]] = {
    "zeros": (lambda: pb.zeros((2, 3), device="meta"), ((2, 3), "float32")),
    "ones": (lambda: pb.ones(4, dtype="float16", device="meta"), ((4,), "float16")),
    "empty": (lambda: pb.empty((), device="meta"), ((), "float32")),
    "full": (lambda: pb.full((2,), 7, device="meta"), ((2,), "int64")),
    "eye": (lambda: pb.eye(2, 3, k=1, device="meta"), ((2, 3), "float32")),
    "arange": (lambda: pb.arange(1, 6, 2, device="meta"), ((3,), "int64")),
    "linspace": (lambda: pb.linspace(0, 1, 5, endpoint=False, device="meta"), ((5,), "float32")),
    "asarray": (lambda: pb.asarray([[1.0, 2.0]], device="meta"), ((1, 2), "float32")),
    "tensor": (lambda: pb.tensor(np.ones((2, 2)), device="meta", requires_grad=True), ((2, 2), "float64")),
    "zeros_like": (lambda: pb.zeros_like(zeros(3)), ((3,), "float32")),
    "to": (lambda: pb.ones((2, 3)).to("meta"), ((2, 3), "float32")),
    "uniform": (lambda: pb.random.uniform((2, 3), device="meta"), ((2, 3), "float32")),
    "normal": (lambda: pb.random.normal((3,), dtype="float64", device="meta"), ((3,), "float64")),
    "integers": (lambda: pb.random.integers(5, shape=(3,), device="meta"), ((3,), "int64")),
    "bernoulli": (lambda: pb.random.bernoulli(0.5, (3,), device="meta"), ((3,), "bool")),
    "permutation": (lambda: pb.random.permutation(4, device="meta"), ((4,), "int64")),
}


@pytest.mark.parametrize("name", CREATION)
def test_every_way_to_make_a_tensor_makes_one_without_numbers(name: str):
    make, (shape, dtype) = CREATION[name]
    assert facts(make()) == (shape, dtype, "meta")


def test_a_tensor_without_numbers_is_shown_by_its_shape():
    x = zeros(2, 3, requires_grad=True)
    assert repr(x) == "Tensor(shape=(2, 3), dtype=float32, device='meta', requires_grad=True)"
    assert f"{zeros()}" == "Tensor(shape=(), dtype=float32, device='meta')"


def test_a_copied_or_pickled_tensor_has_the_layout_of_a_copy():
    x = zeros(3, 4, requires_grad=True)
    for same in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert facts(same) == facts(x)
        assert same.is_leaf
    turned = copy.deepcopy(zeros(3, 4).T)
    assert turned.data.ghost.strides == copy.deepcopy(pb.ones((3, 4)).T).data.strides


# --- what there is not ------------------------------------------------------------------------------------------------

READING: dict[str, Callable[[pb.Tensor], Any]] = {
    "item": lambda x: x.item(),
    "numpy": lambda x: x.numpy(),
    "tolist": lambda x: x.tolist(),
    "bool": bool,
    "float": float,
    "int": int,
    "format": lambda x: f"{x:.3f}",
    "asarray": np.asarray,
    "to cpu": lambda x: x.to("cpu"),
    "asarray on the cpu": lambda x: pb.asarray(x, device="cpu"),
    "full": lambda x: pb.full((2,), x),
    "dlpack": lambda x: x.__dlpack__(),
    "dlpack device": lambda x: x.__dlpack_device__(),
    "from_dlpack": pb.from_dlpack,
    "iteration": lambda x: [float(y) for y in pb.reshape(x, (1,))],
}


@pytest.mark.parametrize("name", READING)
def test_reading_numbers_that_are_not_there_says_so(name: str):
    with pytest.raises(DeviceError, match="meta"):
        READING[name](zeros())


SHAPES_FROM_NUMBERS: dict[str, Callable[[pb.Tensor], Any]] = {
    "mask": lambda x: x[x > 0],
    "mask of rows": lambda x: x[:, x[0] > 0],
    "nonzero": pb.nonzero,
    "unique_values": pb.unique_values,
    "written mask": lambda x: x.at[x > 0].set(0.0),
}


@pytest.mark.parametrize("name", SHAPES_FROM_NUMBERS)
def test_a_shape_that_depends_on_numbers_is_refused_by_name(name: str):
    with pytest.raises(DeviceError, match=r"depends on numbers, and an array on 'meta' has none; met x \(3, 4\)"):
        SHAPES_FROM_NUMBERS[name](zeros(3, 4))


def test_masks_and_positions_from_the_host_have_known_numbers():
    x = zeros(3, 4)
    assert x[[True, False, True]].shape == (2, 4)
    assert x[np.eye(3, 4, dtype=bool)].shape == (3,)
    assert x.at[np.eye(3, 4, dtype=bool)].set(1.0).shape == (3, 4)
    assert pb.asarray([True, False, True], device="meta").shape == (3,)
    assert x[pb.asarray([True, False, True], device="meta")].shape == (2, 4)
    assert x[:, pb.random.integers(4, shape=(7,), device="meta")].shape == (3, 7)


MISTAKES: dict[str, Callable[[Callable[..., pb.Tensor]], Any]] = {
    "add": lambda ones: ones(3, 4) + ones(5),
    "in place": lambda ones: ones(3, 4).at[0].set(ones(5)),
    "matmul": lambda ones: ones(3, 4) @ ones(3, 4),
    "matmul of a number": lambda ones: ones(3, 4) @ ones(),
    "stacks": lambda ones: ones(2, 3, 4) @ ones(3, 4, 2),
    "vecdot": lambda ones: pb.vecdot(ones(3), ones(4)),
    "tensordot": lambda ones: pb.tensordot(ones(3, 4), ones(3, 4), axes=1),
    "einsum": lambda ones: pb.einsum("ij,jk->ik", ones(3, 4), ones(3, 4)),
    "reshape": lambda ones: pb.reshape(ones(3, 4), (5,)),
    "reshape of nothing": lambda ones: pb.reshape(ones(0, 4), (-1, 0)),
    "sum": lambda ones: pb.sum(ones(3, 4), axis=2),
    "sum twice": lambda ones: pb.sum(ones(3, 4), axis=(0, -2)),
    "max of nothing": lambda ones: pb.max(ones(0, 3), axis=0),
    "argmax of nothing": lambda ones: pb.argmax(ones(0, 3), axis=0),
    "argmax": lambda ones: pb.argmax(ones(3, 4), axis=2),
    "cumulative_sum": lambda ones: pb.cumulative_sum(ones(3, 4)),
    "sort": lambda ones: pb.sort(ones(3, 4), axis=3),
    "roll": lambda ones: pb.roll(ones(3, 4), 1, axis=2),
    "repeat": lambda ones: pb.repeat(ones(3, 4), [1, 2], axis=0),
    "concat": lambda ones: pb.concat([ones(3, 4), ones(2, 2)]),
    "concat of ranks": lambda ones: pb.concat([ones(3, 4), ones(4)]),
    "concat axis": lambda ones: pb.concat([ones(3, 4)], axis=2),
    "stack": lambda ones: pb.stack([ones(3), ones(4)]),
    "index": lambda ones: ones(3, 4)[3],
    "negative index": lambda ones: ones(3, 4)[0, -5],
    "indices": lambda ones: ones(3, 4)[0, 0, 0],
    "positions": lambda ones: ones(3, 4)[[0, 3]],
    "mask": lambda ones: ones(3, 4)[[True, False]],
    "index of floats": lambda ones: ones(3, 4)[ones(2)],
    "permute_dims": lambda ones: pb.permute_dims(ones(3, 4), (0,)),
    "broadcast_to": lambda ones: pb.broadcast_to(ones(3, 4), (2, 4)),
    "squeeze": lambda ones: pb.squeeze(ones(3, 4), axis=0),
    "expand_dims": lambda ones: pb.expand_dims(ones(3, 4), axis=4),
    "take": lambda ones: pb.take(ones(3, 4), ones(2), axis=0),
    "dropout": lambda ones: pb.dropout(ones(3, 4), 2.0),
    "keyed_dropout": lambda ones: pb.keyed_dropout(ones(3, 4), 0.5, -1, 0),
    "inverse": lambda ones: pb.linalg.inv(ones(3, 4)),
    "determinant": lambda ones: pb.linalg.det(ones(3)),
    "solve": lambda ones: pb.linalg.solve(ones(3, 3), ones(4, 2)),
    "cross_entropy": lambda ones: pb.nn.cross_entropy(ones(3, 4), ones(3)),
    "layer_norm": lambda ones: pb.layer_norm(ones(3, 4), ones(3)),
    "linear": lambda ones: pb.linear(ones(3, 4), ones(5, 2)),
    "backward": lambda ones: ones(3, 4).backward(),
    "cotangent": lambda ones: pb.vjp(pb.exp, ones(3))[1](ones(4)),
    "no such device": lambda ones: ones(3).to("cuda:x"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_the_error_that_it_is_with_numbers(name: str):
    with pytest.raises(PullbackError) as expected:
        MISTAKES[name](lambda *shape: pb.ones(shape))
    with pytest.raises(PullbackError) as found:
        MISTAKES[name](lambda *shape: pb.ones(shape, device="meta"))
    assert found.type is expected.type


def test_the_device_has_no_numbers_of_devices():
    with pytest.raises(DeviceError, match="meta:1"):
        pb.zeros(3, device="meta:1")


# --- nets -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [pb.optim.SGD, pb.optim.Adam, pb.optim.AdamW])
def test_a_net_trains_without_numbers(optimizer: Any):
    model = pb.nn.Sequential(pb.nn.MLP((4, 8, 8), device="meta"), pb.nn.Dropout(0.5), pb.nn.LayerNorm(8, device="meta"))
    steps = optimizer(model.parameters(), 0.1)
    x, labels = pb.random.uniform((5, 4), device="meta"), pb.random.integers(8, shape=(5,), device="meta")
    before = repr(model)
    for _ in range(2):
        steps.zero_grad()
        loss = pb.nn.cross_entropy(model(x), labels, label_smoothing=0.1)
        loss.backward()
        pb.optim.clip_grad_norm(model.parameters(), 1.0)
        steps.step(skip_if_nonfinite=True)
    assert facts(loss) == ((), "float32", "meta")
    assert all(facts(p.grad) == facts(p) for p in model.parameters().values())
    assert repr(model) == before


def test_a_net_moves_to_meta_and_not_back():
    model = pb.nn.MLP((4, 3, 2)).to("meta")
    assert {p.device for p in model.parameters().values()} == {"meta"}
    assert facts(model(zeros(5, 4))) == ((5, 2), "float32", "meta")
    with pytest.raises(DeviceError, match="meta"):
        model.to("cpu")
    with pytest.raises(DeviceError, match="meta"):
        model.state_dict()["layers.0.weight"].numpy()


def test_numbers_beside_none_give_none():
    host = pb.ones((3, 4))
    for f in (operator.add, operator.mul, lambda x, y: x @ y.mT, lambda x, y: pb.concat([x, y])):
        assert f(zeros(3, 4), host).device == "meta"
        assert f(host, zeros(3, 4)).device == "meta"
    assert facts(pb.where(host > 0, zeros(3, 4), 0.0)) == ((3, 4), "float32", "meta")
    labels = np.array([0, 1, 3])
    assert facts(pb.nn.cross_entropy(zeros(3, 4), labels)) == ((), "float32", "meta")
    x = pb.ones((3, 4), requires_grad=True)
    (x * zeros(3, 4)).sum().backward()
    assert facts(x.grad)[:2] == ((3, 4), "float32")


def test_random_numbers_that_are_not_there_are_not_taken_from_the_stream():
    generator = pb.random.Generator(3)
    before = generator.get_state()
    generator.uniform((HUGE, HUGE), device="meta")
    generator.permutation(10, device="meta")
    assert generator.get_state() == before


def test_what_is_huge_takes_no_memory():
    def run():
        counts = Counts()
        with metering(counts):
            cube = zeros(HUGE, HUGE, HUGE)
            turned = pb.permute_dims(cube, (2, 0, 1))[:, ::-1, ::2]
            total = pb.sum(pb.dropout(turned + 1.0, 0.5, 1) @ zeros(HUGE // 2, 3))
            model = pb.nn.MLP((HUGE,) * 5, device="meta")
            pb.sum(model(pb.random.normal((HUGE, HUGE), device="meta"))).backward()
        return counts, cube, total

    (counts, cube, total), peak, _ = traced_memory(run)
    assert peak < 2_000_000
    assert total.shape == ()
    assert counts.multiply_adds == HUGE * HUGE * (HUGE // 2) * 3 + (4 + 4 + 3) * HUGE**3
    assert cube.data.nbytes == 4 * HUGE**3 <= counts.peak


def test_info_lists_the_device(capsys: pytest.CaptureFixture[str]):
    main(["info"])
    assert "device meta" in capsys.readouterr().out
