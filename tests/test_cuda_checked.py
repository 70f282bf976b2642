"""Launchers on the stand-in for CuPy under the emulator's checker, and what tells launchers' slips from good ones."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import stand_in_cupy
from emulator import missing
from kernel_rows import dtype, real
from stand_in_cupy.kernels import settings

from pullback.backends import BACKENDS, Backend

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

X, Y, G = (np.random.default_rng(seed).normal(size=(7, 24)).astype(np.float32) for seed in range(3))
TALL, WIDE = np.ones((300, 24), np.float32), np.ones((3, 1100), np.float32)
ROW, DEVIATIONS = X[0], np.abs(X[:, :1]) + np.float32(1)
LABELS, SIGNS = np.arange(7), np.sign(Y)
CASES: dict[str, tuple[Any, ...]] = {
    "softmax": (X,),
    "softmax of long rows": (WIDE,),
    "log_softmax_slope": (G, X),
    "layer_norm": (X, ROW, ROW),
    "layer_norm of long rows": (WIDE, WIDE[0], WIDE[0]),
    "layer_norm_slope": (G, X, DEVIATIONS, ROW, -1, (24,)),
    "layer_norm_slope of many rows": (TALL, TALL, TALL[:, :1], ROW, -1, (24,)),
    "layer_norm_slope of long rows": (WIDE, WIDE, WIDE[:, :1], WIDE[0], -1, (1100,)),
    "cross_entropy": (X, LABELS),
    "cross_entropy of each row": (X, LABELS, 0.1, 3, ROW, "none"),
    "cross_entropy_slope": (1.0, X, LABELS, 0.1, 3, ROW),
    "mse_loss": (X, Y),
    "huber_loss_slope": (G, X, Y, 0.5, "none"),
    "logistic_loss": (X, SIGNS),
    "keyed_dropout": (X, 0.3, 7, 2),
    "keyed_dropout of a tail": (X[:5, :3].copy(), 0.3, 7, 2),
    "keyed_dropout of several blocks": (np.ones(5000, np.float32), 0.3, 7, 2),
}


@pytest.fixture
def cuda() -> Iterator[Backend]:
    with stand_in_cupy.device() as backend:
        yield backend


def launcher(name: str) -> Any:
    return import_module(f"pullback.backends.cuda.{name}")


def refused(*args: Any, **options: Any) -> Any:
    raise AssertionError("the plain body ran")


def fused(name: str, plain: Any = refused) -> Any:
    return launcher("fused").bound(name.split(" of ", maxsplit=1)[0], plain)


def on_device(cuda: Backend, values: Any) -> list[Any]:
    return [cuda.asarray(value, copy=True) if isinstance(value, np.ndarray) else value for value in values]


def host(cuda: Backend, found: Any) -> list[np.ndarray]:
    """The arrays in what an op gave."""
    if isinstance(found, tuple):
        return [array for part in found for array in host(cuda, part)]
    return [] if found is None else [cuda.to_numpy(found)]


@pytest.mark.parametrize("name", CASES)
def test_launches_stay_in_their_memory_and_do_not_race(cuda: Backend, name: str, monkeypatch: Any) -> None:
    arguments = on_device(cuda, CASES[name])
    expected = host(cuda, fused(name)(*arguments))
    for order in (0, 3):
        monkeypatch.setitem(settings, "checked", True)
        monkeypatch.setitem(settings, "order", order)
        for mine, theirs in zip(host(cuda, fused(name)(*arguments)), expected, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_deviations_are_kept_in_the_shape_that_rules_multiply_by(cuda: Backend) -> None:
    (x,) = on_device(cuda, (X.reshape(7, 4, 6),))
    _, (standardized, deviations) = fused("layer_norm")(x, axis=(-2, -1))
    assert standardized.shape == (7, 4, 6)
    assert deviations.shape == (7, 1, 1)


def test_rows_at_addresses_that_8_divides_are_not_read_16_bytes_at_once(cuda: Backend, monkeypatch: Any) -> None:
    monkeypatch.setitem(settings, "checked", True)
    x = cuda.asarray(np.ones(49), copy=True)
    np.testing.assert_allclose(cuda.to_numpy(fused("softmax")(x[1:].reshape(6, 8))), 1 / 8)


def test_pairs_of_arrays_of_other_shapes_are_left_to_the_plain_body(cuda: Backend) -> None:
    x, turned = on_device(cuda, (X, Y.T.copy()))
    assert fused("mse_loss", lambda *args: "plain")(x, turned) == "plain"


def test_the_first_of_several_labels_that_are_no_signs_is_the_one_named(cuda: Backend) -> None:
    labels = np.ones(4000, np.float32)
    labels[[333, 334, 3888]] = 3
    fused("logistic_loss")(*on_device(cuda, (np.zeros(4000, np.float32), labels)))
    with pytest.raises(Exception, match=r"number 333 is 3\b"):
        launcher("complaints").raise_complaints()


def test_small_losses_are_as_exact_as_large_ones(cuda: Backend) -> None:
    x = np.array([5.0, 20, 34, 60])
    found = fused("binary_cross_entropy_with_logits")(*on_device(cuda, (x, np.ones(4))), reduction="none")
    np.testing.assert_allclose(cuda.to_numpy(found), np.log1p(np.exp(-x)), rtol=1e-13)


# --- lists of arrays --------------------------------------------------------------------------------------------------


def row(name: str, size: int, state: Any = None) -> list[np.ndarray | None]:
    """Parameter, gradient and two moments, without master weights."""
    rng = np.random.default_rng(size)
    parameter, gradient = (rng.normal(size=size).astype(dtype(name)) for _ in range(2))
    return [parameter, gradient, *(np.ones(size, state or real(name)) for _ in range(2)), None]


ADAM = {"rate": 0.05, "betas": (0.9, 0.99), "eps": 1e-3, "decay": 0.01, "shrink": 0.99}


@pytest.mark.parametrize(("name", "rounding"), [("float16", 1e-3), ("bfloat16", 8e-3)])
def test_parameters_of_16_bits_need_no_master_weights(cuda: Backend, name: str, rounding: float) -> None:
    rows = [row(name, size) for size in (40, 3)]
    device = [on_device(cuda, row) for row in rows]
    launcher("updates").update_adam(refused, device, **ADAM)
    wide = [[None if array is None else array.astype(np.float32) for array in row] for row in rows]
    BACKENDS[np.ndarray].update_adam(wide, **ADAM)
    for mine, theirs in zip(device, wide, strict=True):
        for array, expected in zip(mine[:4], theirs[:4], strict=True):
            np.testing.assert_allclose(cuda.to_numpy(array).astype(np.float32), expected, rtol=rounding)


def test_state_of_another_dtype_is_left_to_the_plain_formulas(cuda: Backend) -> None:
    odd, left = [on_device(cuda, row("float32", 8, np.float64))], []
    launcher("updates").update_adam(lambda rows, **options: left.extend(rows), odd, **ADAM)
    assert left == odd or left[0] is odd[0]


def test_a_shorter_array_at_the_same_address_is_another_list(cuda: Backend) -> None:
    long = cuda.asarray(np.full(9000, 2.0, np.float32), copy=True)
    norm = launcher("checks").norm_and_factor
    assert cuda.to_numpy(norm([long], 1.0)[0]) == pytest.approx(2 * 9000**0.5)
    assert cuda.to_numpy(norm([long[:25]], 1.0)[0]) == pytest.approx(10)
