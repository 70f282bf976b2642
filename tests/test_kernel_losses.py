"""The kernels of losses of pairs on the emulator, against the ops' own bodies and differences in float64."""

from typing import Any

import numpy as np
import pytest
from emulator import build, missing
from kernel_rows import TYPES, assert_near, body, dtype, real

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

OPS = {
    "mse": ("mse_loss", {}),
    "l1": ("l1_loss", {}),
    "huber": ("huber_loss", {"delta": 0.75}),
    "binary_cross_entropy": ("binary_cross_entropy_with_logits", {}),
    "weighted_binary_cross_entropy": ("binary_cross_entropy_with_logits", {"pos_weight": 2.5}),
    "logistic": ("logistic_loss", {}),
}  # the kernel's name, and the op with the parameter that it is tested with
ALL = [
    f"pullback::{template}<pullback::losses::{loss}, {c}, {most}>"
    for template in ("pair_loss", "pair_loss_slope")
    for loss in OPS
    for c, most, _ in TYPES.values()
]
SAMPLE = [expression for expression in ALL if "logistic" in expression or ", float," in expression]
DIVISORS = {"none": 1, "sum": 1, "mean": None}


def launched(template: str, loss: str, name: str, checked: bool) -> Any:
    c, most, _ = TYPES[name]
    kernels = build("losses.cu", SAMPLE if checked else ALL, checked=checked)
    return kernels[f"pullback::{template}<pullback::losses::{loss}, {c}, {most}>"]


def value(
    loss: str, x: np.ndarray, y: np.ndarray, reduction: str = "mean", blocks: int = 2, order: int = 0,
    checked: bool = False, complaint: Any = None,
) -> np.ndarray:  # fmt: skip
    name, each, n = x.dtype.name, reduction == "none", real(x.dtype.name)
    out = np.full(x.shape if each else (), np.nan, x.dtype)
    sums, wrong, counter = np.full(blocks, np.nan, n), np.full(blocks, -1), np.zeros(1, np.uint32)
    launched("pair_loss", loss, name, checked)(
        blocks, 64, out, x, y, np.int64(x.size), n(next(iter(OPS[loss][1].values()), 0)), np.int32(each),
        n(DIVISORS[reduction] or x.size), sums, wrong, counter, complaint,
        order=order, uninitialised=[out, sums, wrong],
    )  # fmt: skip
    assert counter[0] == 0, "the next launch finds the counter at zero"
    return out


def slope(
    loss: str, g: Any, x: np.ndarray, y: np.ndarray, share: float = 1.0, blocks: int = 2, order: int = 0,
    checked: bool = False,
) -> np.ndarray:  # fmt: skip
    n, out = real(x.dtype.name), np.full_like(x, np.nan)
    launched("pair_loss_slope", loss, x.dtype.name, checked)(
        blocks, 64, out, g, np.int32(g is not None and g.ndim), n(share), x, y, np.int64(x.size),
        n(next(iter(OPS[loss][1].values()), 0)), order=order, uninitialised=[out],
    )  # fmt: skip
    return out


def drawn(loss: str, name: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    x, y = 3 * rng.normal(size=n), rng.normal(size=n)
    y = np.sign(y) if loss == "logistic" else rng.uniform(size=n).round(1) if "entropy" in loss else y
    return x.astype(dtype(name)), y.astype(dtype(name))


def in_float64(loss: str, x: np.ndarray, y: np.ndarray, reduction: str) -> Any:
    op, options = OPS[loss]
    return body(op, x.astype(np.float64), y.astype(np.float64), reduction=reduction, **options)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("loss", OPS)
def test_losses_of_all_sizes_are_what_the_body_gives_in_float64(loss: str, name: str) -> None:
    for n in (1, 7, 8, 100, 1027):
        x, y = drawn(loss, name, n)
        for reduction in DIVISORS:
            for blocks in (1, 3):
                assert_near(
                    value(loss, x, y, reduction, blocks), in_float64(loss, x, y, reduction), name, f"{n} numbers"
                )


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("loss", OPS)
def test_slopes_are_the_derivatives_of_the_losses(loss: str, name: str) -> None:
    step = 1e-6
    for n in (1, 13, 24, 500):
        x, y = drawn(loss, name, n)
        wide, targets = x.astype(np.float64), y.astype(np.float64)
        above, below = (in_float64(loss, wide + d, targets, "none") for d in (step, -step))
        expected = (above - below) / (2 * step)
        g = np.linspace(-2, 2, n).astype(dtype(name))
        tolerant = "float32" if name == "float64" else name  # a difference is not more precise
        for found, of in [
            (slope(loss, None, x, y, 0.5), 0.5 * expected),
            (slope(loss, g[:1].reshape(()), x, y, 0.5), 0.5 * -2 * expected),
            (slope(loss, g, x, y), g.astype(np.float64) * expected),
        ]:
            assert_near(found, of, tolerant, f"{n} numbers")


@pytest.mark.parametrize("name", TYPES)
def test_arrays_that_do_not_begin_at_16_bytes_give_the_same(name: str) -> None:
    x, y = drawn("huber", name, 100)
    g = np.linspace(-2, 2, 100).astype(dtype(name))
    for moved in range(3):
        arrays = [np.concatenate([a[:1], a])[1:] if place == moved else a for place, a in enumerate((x, y, g))]
        assert np.array_equal(value("huber", *arrays[:2], "none"), value("huber", x, y, "none"))
        assert np.array_equal(slope("huber", arrays[2], *arrays[:2]), slope("huber", g, x, y))


@pytest.mark.parametrize("name", TYPES)
def test_logits_far_from_zero_neither_overflow_nor_cancel(name: str) -> None:
    x = np.array([1e4, -1e4, 1e4, -1e4, 40, -40, 0, 0] * 2).astype(dtype(name))
    y = np.array([1, 1, 0, 0] * 4).astype(dtype(name))
    for loss in ("binary_cross_entropy", "weighted_binary_cross_entropy"):
        assert_near(value(loss, x, y, "none"), in_float64(loss, x, y, "none"), name)
    signs = (2 * y - 1).astype(dtype(name))
    assert_near(value("logistic", x, signs, "none"), in_float64("logistic", x, signs, "none"), name)
    wide, targets = x.astype(np.float64), y.astype(np.float64)
    with np.errstate(over="ignore"):
        expected = (1 - targets) / (1 + np.exp(-wide)) - targets / (1 + np.exp(wide))
    assert_near(slope("binary_cross_entropy", None, x, y), expected, name)


@pytest.mark.parametrize("name", ["float64", "float32"])
def test_losses_near_zero_are_precise(name: str) -> None:
    x, ones = np.array([5.0, 10, 15, 20, 30, 40]).astype(dtype(name)), np.ones(6, dtype(name))
    for loss in ("binary_cross_entropy", "weighted_binary_cross_entropy", "logistic"):
        expected = in_float64(loss, x, ones, "none")
        np.testing.assert_allclose(value(loss, x, ones, "none"), expected, rtol=TYPES[name][2])


def test_kinks_and_nan_are_as_the_rules_have_them() -> None:
    x, y = np.array([1.0, 1.0, np.nan, 2.0]), np.array([1.0, np.nan, 0.0, -1.0])
    assert np.array_equal(slope("l1", None, x, y), [0, np.nan, np.nan, 1], equal_nan=True)
    assert np.array_equal(slope("huber", None, x, y), [0, np.nan, np.nan, 0.75], equal_nan=True)
    assert np.array_equal(value("huber", x, y, "none")[1:3], [np.nan, np.nan], equal_nan=True)


@pytest.mark.parametrize("checked", [False, True])
def test_a_label_that_is_no_sign_is_reported_and_counts_nan(checked: bool) -> None:
    x, y = drawn("logistic", "float32", 200)
    y[70], y[150] = 0.5, np.nan
    for order in (0, 1, 5):
        complaint = np.zeros(3, np.int64)
        assert np.isnan(value("logistic", x, y, order=order, checked=checked, complaint=complaint))
        assert complaint[0] == 1 + 70
        assert complaint[1:2].view(np.float64)[0] == 0.5
    assert np.flatnonzero(np.isnan(slope("logistic", None, x, y))).tolist() == [70, 150]


def test_the_order_of_threads_and_blocks_changes_no_bit() -> None:
    for name in ("float32", "float16"):
        x, y = drawn("mse", name, 1027)
        assert len({value("mse", x, y, blocks=3, order=order).tobytes() for order in (0, 1, 7)}) == 1


@pytest.mark.parametrize(("loss", "name"), [("huber", "float32"), *(("logistic", name) for name in TYPES)])
def test_memory_races_and_initialisation_hold_in_a_checked_run(loss: str, name: str) -> None:
    for n in (3, 150):
        x, y = drawn(loss, name, n)
        for reduction in ("mean", "none"):
            expected = value(loss, x, y, reduction)
            assert np.array_equal(value(loss, x, y, reduction, checked=True), expected)
        g = np.ones(n, x.dtype)
        assert np.array_equal(slope(loss, g, x, y, checked=True), slope(loss, g, x, y))
        assert np.array_equal(slope(loss, g[1:], x[1:], y[1:], checked=True), slope(loss, g, x, y)[1:])
