"""A profile of what `vmap` maps, and of Jacobians, which walk so: all examples count, on the device that ran them."""

import numpy as np
import pytest
import stand_in_cupy

import pullback as pb

X, W = np.linspace(-1, 1, 48).reshape(6, 8), np.linspace(-2, 2, 64).reshape(8, 8)


def f(x):
    return pb.tanh(pb.tanh(x @ W) @ W)


def loss(w, x):
    return pb.sum(pb.tanh(x @ w))


def profiled(run):
    with pb.profile() as p:
        run()
    return p


@pytest.mark.parametrize(("mode", "phase"), [("reverse", "vjp"), ("forward", "jvp")])
def test_a_jacobian_does_what_its_plan_says(mode, phase):
    x = pb.tensor(X[0])
    p = profiled(lambda: pb.jacobian(f, mode=mode)(x))
    done = sum(line.timing.count.flops for line in p.lines if line.phase == phase)
    assert done == pb.plan_jacobian(f, x).modes[mode].flops


WALKS = {
    "gradients by example": lambda: pb.vmap(pb.grad(loss), in_axes=(None, 0))(W, X),
    "a vmap in a vmap": lambda: pb.vmap(lambda a: pb.vmap(lambda b: f(a * b))(X))(X),
    "Jacobians by example": lambda: pb.vmap(pb.jacobian(f, mode="reverse"))(X),
    "Hessians by example": lambda: pb.vmap(pb.hessian(lambda x: pb.sum(f(x))))(X),
    "a Jacobian of gradients by example": lambda: pb.jacobian(
        lambda w: pb.vmap(pb.grad(loss), in_axes=(None, 0))(w, X), mode="reverse"
    )(pb.tensor(W)),
    "a gradient of Jacobians by example": lambda: pb.grad(
        lambda w: pb.sum(pb.vmap(pb.jacobian(lambda x: pb.tanh(x @ w)))(X) ** 2)
    )(pb.tensor(W)),
}


@pytest.mark.parametrize("name", WALKS)
def test_what_is_done_is_known_of_all_walks(name):
    p = profiled(WALKS[name])
    assert {line.device for line in p.lines} == {"cpu"}
    assert [line for line in p.lines if line.timing.count is None] == []
    assert sum(line.timing.count.flops for line in p.lines) > 6 * 2 * 8 * 8


def test_the_cost_of_a_mapped_function_asked_for_inside_is_not_measured():
    assert profiled(lambda: pb.cost(pb.vmap(f), X)).lines == []


def test_on_cuda_it_is_measured_by_events():
    with stand_in_cupy.device(kernels_on=False):
        import cupy

        x, w = pb.tensor(X, device="cuda"), pb.tensor(W, device="cuda")
        p = profiled(lambda: pb.vmap(pb.grad(loss), in_axes=(None, 0))(w, x))
        assert {line.device for line in p.lines} == {"cuda"}
        assert all(isinstance(mark, cupy.cuda.Event) for event in p.events for mark in (event.start, event.end))
        assert p.by_op["matmul"]["forward"].count.multiply_adds == 6 * 8 * 8
