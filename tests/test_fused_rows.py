"""The launchers of the kernels by rows on the stand-in for CuPy: numbers, launches, what is left to plain bodies."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from emulator import missing
from kernel_rows import assert_near, body
from stand_in_cupy import device, watched

import pullback as pb
from pullback.errors import ArgumentError, IndexingError, KernelError, NonFiniteError

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

NAME = "float32"  # the kernels of the others are tested alone; launchers differ in the names of kernels only
CASES: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("softmax", ((7, 40),), {}),
    ("softmax", ((2, 3, 5),), {"axis": (1, 2)}),
    ("log_softmax", ((3, 1100),), {"axis": 1}),
    ("log_softmax", ((6,),), {"axis": None}),
    ("layer_norm", ((5, 24), (24,), (24,)), {}),
    ("layer_norm", ((2, 3, 4), (3, 4)), {"axis": (-2, -1), "eps": 0.1}),
    ("layer_norm", ((5, 3),), {}),
    ("mse_loss", ((7, 40), (7, 40)), {}),
    ("l1_loss", ((7, 4), (7, 4)), {"reduction": "sum"}),
    ("huber_loss", ((45,), (45,)), {"delta": 0.5, "reduction": "none"}),
    ("binary_cross_entropy_with_logits", ((9, 3), (9, 3)), {}),
    ("binary_cross_entropy_with_logits", ((9, 3), (9, 3)), {"pos_weight": 2.5, "reduction": "none"}),
]


@pytest.fixture(scope="module", autouse=True)
def cuda() -> Iterator[Any]:
    with device() as backend:
        yield backend


def drawn(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(sum(map(len, shapes)))
    return [(2 * rng.normal(size=shape)).astype(np.float32) for shape in shapes]


def refused(*args: Any, **options: Any) -> Any:
    raise AssertionError("the plain body ran")


def fused(name: str, plain: Any = refused) -> Any:
    from pullback.backends.cuda.fused import bound

    return bound(name, plain)


def on_device(*arrays: Any) -> list[Any]:
    import cupy

    return [cupy.asarray(array) if isinstance(array, np.ndarray) else array for array in arrays]


@pytest.mark.parametrize(("op", "shapes", "options"), CASES)
def test_an_op_on_the_device_is_one_launch_with_the_numbers_of_float64(op: str, shapes: Any, options: Any) -> None:
    arrays = drawn(*shapes)
    expected = body(op, *(array.astype(np.float64) for array in arrays), **options)
    expected = expected[0] if isinstance(expected, tuple) else expected
    tensors = [pb.tensor(array, device="cuda") for array in arrays]
    with watched() as work:
        found = getattr(pb, op)(*tensors, **options)
    assert [operation.kind for operation in work if operation.is_launch] == ["kernel"]
    assert found.dtype == arrays[0].dtype
    assert found.shape == expected.shape
    assert_near(found.numpy(), expected, NAME)


def test_a_step_of_cross_entropy_is_two_launches_of_ours() -> None:
    (logits,), labels = drawn((9, 10)), np.arange(9)
    weights = np.linspace(0.5, 2, 10).astype(np.float32)
    for options in [{}, {"label_smoothing": 0.1, "ignore_index": 4}, {"reduction": "sum", "class_weights": weights}]:
        wide = {k: v.astype(np.float64) if isinstance(v, np.ndarray) else v for k, v in options.items()}
        expected, kept = body("cross_entropy", logits.astype(np.float64), labels, **wide)
        slope = body("cross_entropy_slope", np.float64(1), kept.astype(np.float32).astype(np.float64), labels, **wide)
        given = {k: pb.tensor(v, device="cuda") if isinstance(v, np.ndarray) else v for k, v in options.items()}
        x, classes = pb.tensor(logits, device="cuda"), pb.tensor(labels, device="cuda")
        with watched() as work:
            loss, gradient = pb.value_and_grad(lambda x, y=classes, o=given: pb.cross_entropy(x, y, **o))(x)
        assert [operation.kind for operation in work if operation.is_launch] == ["kernel"] * 2
        assert_near(loss.numpy(), expected, NAME)
        assert_near(gradient.numpy(), slope, NAME)


def test_the_mean_over_very_many_counted_rows_takes_one_launch_more() -> None:
    from pullback.backends.cuda import cross_entropy

    (p,), labels = drawn((40, 3)), np.arange(40) % 3
    arrays = on_device(np.asarray(2, np.float32), p, labels)
    slope = fused("cross_entropy_slope")
    with watched() as work:
        expected = slope(*arrays, ignore_index=1)
    assert len(work) == 1
    few, cross_entropy._FEW_ROWS = cross_entropy._FEW_ROWS, 39
    try:
        with watched() as work:
            found = slope(*arrays, ignore_index=1)
    finally:
        cross_entropy._FEW_ROWS = few
    assert len(work) == 2
    assert_near(found.get(), expected.get(), "float32")


def test_slopes_are_one_launch_each() -> None:
    g, out, weight = drawn((23, 40), (23, 40), (40,))
    r = np.abs(out[:, :1]) + np.float32(1)
    wide_g, wide_out, wide_weight, wide_r = (a.astype(np.float64) for a in (g, out, weight, r))
    gw = wide_g * wide_weight
    d = wide_g - wide_out
    expected: dict[str, tuple[Any, Any]] = {
        "softmax_slope": ((g, out), wide_out * (wide_g - np.sum(wide_g * wide_out, axis=1, keepdims=True))),
        "log_softmax_slope": ((g, out), wide_g - np.exp(wide_out) * np.sum(wide_g, axis=1, keepdims=True)),
        "layer_norm_slope": (
            (g, out, r, weight, -1, (40,)),
            (
                wide_r * (gw - gw.mean(1, keepdims=True) - wide_out * (gw * wide_out).mean(1, keepdims=True)),
                (wide_g * wide_out).sum(0),
                wide_g.sum(0),
            ),
        ),
        "mse_loss_slope": ((2.0, g, out), 2 * 2 * d / d.size),
        "l1_loss_slope": ((2.0, g, out, "sum"), 2 * np.sign(d)),
        "huber_loss_slope": ((out, g, out, 0.5, "none"), wide_out * np.clip(d, -0.5, 0.5)),
    }
    for slope, (arrays, value) in expected.items():
        with watched() as work:
            found = fused(slope)(*on_device(*arrays))
        assert [operation.kind for operation in work if operation.is_launch] == ["kernel"], slope
        for part, of in zip(*((found, value) if isinstance(found, tuple) else ((found,), (value,))), strict=True):
            assert_near(part.get(), of, NAME, slope)


def test_slopes_of_the_losses_of_two_classes_are_those_of_float64() -> None:
    x, t = drawn((5, 9), (5, 9))
    x, t = x * np.float32(4), (t > 0).astype(np.float32)
    z, y = x.astype(np.float64), t.astype(np.float64)
    s, negative = 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(z))
    signs = (2 * y - 1).astype(np.float32)
    for slope, arrays, expected in [
        ("binary_cross_entropy_with_logits_slope", (3.0, x, t), ((1 - y) * s - y * negative) * 3 / z.size),
        ("binary_cross_entropy_with_logits_slope", (1.0, x, t, 2.5, "sum"), (1 - y) * s - 2.5 * y * negative),
        ("logistic_loss_slope", (1.0, x, signs, "sum"), -(2 * y - 1) / (1 + np.exp((2 * y - 1) * z))),
    ]:
        assert_near(fused(slope)(*on_device(*arrays)).get(), expected, NAME, slope)
    found = fused("logistic_loss")(*on_device(x, signs))
    assert_near(found.get(), np.mean(np.logaddexp(0, -(2 * y - 1) * z)), NAME)


def test_a_step_of_layer_norm_is_two_launches_whatever_is_there() -> None:
    x, g, weight, bias = drawn((23, 40), (23, 40), (40,), (40,))
    for there in [(weight, bias), (weight, None), (None, bias), (None, None)]:
        arrays = [array for array in (x, *there) if array is not None]
        names = [name for name, array in zip(("x", "weight", "bias"), (x, *there), strict=True) if array is not None]

        def loss(*inputs: Any, names: Any = names) -> Any:
            return pb.layer_norm(**dict(zip(names, inputs, strict=True)))

        expected = pb.vjp(loss, *(array.astype(np.float64) for array in arrays))[1](g.astype(np.float64))
        tensors = [pb.tensor(array, device="cuda") for array in arrays]
        with watched() as work:
            found = pb.vjp(loss, *tensors)[1](pb.tensor(g, device="cuda"))
        assert len([operation for operation in work if operation.kind == "kernel"]) == 2
        assert not [operation for operation in work if operation.is_launch and operation.kind != "kernel"]
        for part, of in zip(found, expected, strict=True):
            assert_near(part.numpy(), of.numpy(), NAME)


@pytest.mark.parametrize(("n", "block"), [(3, 256), (500, 256), (520, 160), (1100, 256), (4100, 256), (521, 256)])
def test_rows_of_layer_norm_have_as_many_threads_as_their_sums_have_room_for(n: int, block: int) -> None:
    g, z, weight = drawn((9, n), (9, n), (n,))
    r = np.ones((9, 1), np.float32)
    wide, wide_z, gw = (array.astype(np.float64) for array in (g, z, g * weight))
    with watched() as work:
        dx, dweight, dbias = fused("layer_norm_slope")(*on_device(g, z, r, weight), -1, (n,))
    launch = next(operation for operation in work if operation.kind == "kernel")
    assert launch.block[0] == block
    assert_near(dx.get(), gw - gw.mean(1, keepdims=True) - wide_z * (gw * wide_z).mean(1, keepdims=True), NAME)
    assert_near(dweight.get(), (wide * wide_z).sum(0), NAME)
    assert_near(dbias.get(), wide.sum(0), NAME)


def test_what_a_kernel_does_not_take_is_left_to_the_plain_body() -> None:
    (x,) = drawn((6, 8))
    (a,) = on_device(x)
    (labels, small) = on_device(np.arange(6), np.arange(6, dtype=np.int8))
    (mixed,) = on_device(x.astype(np.float64))
    (gap,) = on_device(np.zeros((6, 16), np.float32))
    gap = gap[:, ::2]
    (empty,) = on_device(x[:0])
    (whole,) = on_device(np.arange(48).reshape(6, 8))
    (long, one) = on_device(np.zeros((1, 70000), np.float32), np.zeros(1, np.int64))

    def plain(*args: Any, **options: Any) -> str:
        return "plain"

    for name, args, options in [
        ("softmax", (a,), {"axis": 0}), ("softmax", (gap,), {}), ("softmax", (empty,), {}), ("softmax", (whole,), {}),
        ("softmax", (long,), {}), ("cross_entropy", (long, one), {}), ("layer_norm", (long,), {}),
        ("log_softmax", (a.T,), {}), ("softmax_slope", (a, mixed), {}), ("log_softmax_slope", (a, a[:3]), {}),
        ("cross_entropy", (a, small), {}), ("cross_entropy", (a, labels[:3]), {}),
        ("cross_entropy", (empty, labels[:0]), {}),
        ("cross_entropy", (a, labels), {"label_smoothing": 1.5}), ("cross_entropy", (a, labels), {"reduction": "most"}),
        ("cross_entropy", (a, labels), {"class_weights": a[0, :3]}), ("cross_entropy", (whole, labels), {}),
        ("cross_entropy_slope", (mixed[0, 0], a, labels), {}), ("cross_entropy_slope", (a[:, 0], a, labels), {}),
        ("layer_norm", (a, a[0], mixed[0]), {}), ("layer_norm", (a,), {"axis": 0}), ("layer_norm", (a,), {"eps": -1.0}),
        ("layer_norm", (a, a[:, :1]), {}), ("layer_norm_slope", (a, mixed, a[:, :1], None), {}),
        ("layer_norm_slope", (a, a, a[:, :1], None, -1, (6, 8)), {}),
        ("mse_loss", (a, a[:3]), {}), ("mse_loss_slope", (a, a, a), {}),
        ("l1_loss", (a, mixed), {}),
        ("huber_loss", (a, a), {"delta": -1.0}), ("logistic_loss", (a, whole), {}),
        ("binary_cross_entropy_with_logits", (a, a), {"pos_weight": a[0]}), ("mse_loss_slope", (mixed[0, 0], a, a), {}),
    ]:  # fmt: skip
        with watched() as work:
            assert fused(name, plain)(*args, **options) == "plain", (name, options)
        assert not [operation for operation in work if operation.kind == "kernel"]


def test_misaligned_rows_are_taken_one_number_at_a_time() -> None:
    (x,) = drawn((49,))
    (a,) = on_device(x)
    with watched() as work:
        found = fused("softmax")(a[1:].reshape(6, 8))
    assert [operation.name for operation in work] == ["pullback::softmax<float, 1, false>"]
    assert_near(found.get(), body("softmax", x[1:].reshape(6, 8).astype(np.float64)), "float32")


def test_a_wrong_label_is_raised_by_the_next_call_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    from pullback.backends.cuda import complaints

    x, labels = pb.ones((3, 4), device="cuda"), pb.tensor([0, 9, -1], device="cuda")
    loss = pb.cross_entropy(x, labels)
    with pytest.raises(IndexingError, match=r"^cross_entropy: label 9 \(number 1\) is out of range for 4 .*earlier"):
        float(loss)
    assert np.isnan(float(loss)), "it is said once"
    assert float(pb.cross_entropy(x, pb.tensor([0, 1, 2], device="cuda"))) == pytest.approx(np.log(4))

    monkeypatch.setattr(complaints, "at_once", True)
    with pytest.raises(IndexingError, match=r"^cross_entropy: label 9(?!.*earlier)"):
        pb.cross_entropy(x, labels)


def test_a_wrong_label_of_a_replayed_graph_is_raised_as_well() -> None:
    import cupy

    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        x, labels = pb.ones((3, 4), device="cuda"), pb.tensor([0, 1, 2], device="cuda")
        stream.begin_capture()
        with pytest.raises(KernelError, match="run the step once before"):
            pb.cross_entropy(x, labels)
        stream.end_capture()
        pb.cross_entropy(x, labels)
        pool = cupy.cuda.MemoryPool()
        with cupy.cuda.using_allocator(pool.malloc):
            stream.begin_capture()
            loss = pb.cross_entropy(x, labels)
            graph = stream.end_capture()
        graph.launch(stream)
        assert float(loss) == pytest.approx(np.log(4))
        labels.data[1] = 7
        graph.launch(stream)
        with pytest.raises(IndexingError, match=r"label 7 \(number 1\)"):
            float(loss)


def test_wrong_signs_are_raised_by_the_next_call_that_waits() -> None:
    scores = pb.ones(3, device="cuda")
    for labels, error in [([1.0, 0.0, -1.0], ArgumentError), ([1.0, -1.0, float("nan")], NonFiniteError)]:
        loss = pb.logistic_loss(scores, pb.tensor(labels, dtype=scores.dtype, device="cuda"))
        with pytest.raises(error, match=r"labels"):
            loss.numpy()


def test_every_launcher_lists_what_it_can_launch() -> None:
    from pullback.backends.cuda import cross_entropy, layer_norm, losses, rows

    for module, kernels in [(rows, 4 * 8), (cross_entropy, 2 * 8 + 2), (layer_norm, 2 * 8), (losses, 6 * 2 * 4)]:
        listed = list(module.expressions())
        assert len(set(listed)) == len(listed) == kernels
        assert {file for file, _ in listed} == {module.FILE}
