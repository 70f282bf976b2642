"""Gradients held within a norm."""

from math import nan

import emulator
import numpy as np
import pytest
import stand_in_cupy
from optim_cases import flat, give_gradients, leaves

import pullback as pb
from pullback.errors import (
    ArgumentError,
    DeviceError,
    NonFiniteError,
)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_clipping_scales_all_gradients_to_one_norm_and_tells_the_norm_before(dtype):
    params = leaves(dtype=dtype)
    give_gradients(params, 0)
    before = [x.grad.numpy().astype("float64") for x in flat(params)]
    norm = float(np.sqrt(sum((g**2).sum() for g in before)))
    tolerance = {"float64": 1e-7, "float32": 1e-5, "float16": 2e-3}[dtype]
    told = pb.optim.clip_grad_norm(params, 5.0)
    assert told.item() == pytest.approx(norm, rel=tolerance)
    for x, g in zip(flat(params), before, strict=True):
        assert x.grad.dtype == dtype
        np.testing.assert_allclose(x.grad.numpy(), g * 5 / norm, rtol=tolerance, atol=tolerance / 20)


def test_short_gradients_and_missing_ones_are_left_alone():
    x, y = pb.tensor([3.0, 4.0], requires_grad=True), pb.tensor([1.0], requires_grad=True)
    assert pb.optim.clip_grad_norm([x, y], 1.0).item() == 0.0
    x.grad = np.float32([3.0, 4.0])
    assert pb.optim.clip_grad_norm([x, y], 6.0).item() == 5.0
    np.testing.assert_array_equal(x.grad.numpy(), [3.0, 4.0])
    assert y.grad is None


def test_a_gradient_that_was_read_keeps_its_numbers_when_it_is_clipped():
    x = pb.tensor([3.0, 4.0], requires_grad=True)
    x.grad = np.float32([3.0, 4.0])
    read = x.grad
    pb.optim.clip_grad_norm([x], 1.0)
    np.testing.assert_array_equal(read.numpy(), [3.0, 4.0])
    np.testing.assert_allclose(x.grad.numpy(), [0.6, 0.8], rtol=1e-5)


def test_a_norm_that_is_not_finite_is_refused_when_asked():
    x, y = pb.tensor([1.0], requires_grad=True), pb.tensor([1.0], requires_grad=True)
    x.grad, y.grad = np.float32([np.inf]), np.float32([2.0])
    with pytest.raises(NonFiniteError, match="inf"):
        pb.optim.clip_grad_norm([x, y], 1.0, error_if_nonfinite=True)
    assert (x.grad.item(), y.grad.item()) == (np.inf, 2.0)
    assert pb.optim.clip_grad_norm([x, y], 1.0).item() == np.inf
    assert y.grad.item() == 0.0


@pytest.mark.parametrize("max_norm", [-1.0, nan, "1", None])
def test_clipping_needs_a_norm(max_norm):
    with pytest.raises(ArgumentError, match="max_norm"):
        pb.optim.clip_grad_norm(leaves(), max_norm)


@pytest.mark.skipif(emulator.missing() is not None, reason=str(emulator.missing()))
def test_gradients_of_two_devices_are_not_clipped_together():
    with stand_in_cupy.device():
        params = [pb.tensor([3.0, 4.0], device=f"cuda:{i}", requires_grad=True) for i in (0, 1)]
        for x in params:
            x.grad = x * 2.0
        with pytest.raises(DeviceError, match="on cuda:0 and cuda:1; clip those of each device apart"):
            pb.optim.clip_grad_norm(params, 1.0)
        for x in params:
            np.testing.assert_array_equal(x.grad.numpy(), [6.0, 8.0])
            assert pb.optim.clip_grad_norm([x], 5.0).device == x.device
            np.testing.assert_allclose(x.grad.numpy(), [3.0, 4.0], rtol=1e-5)
