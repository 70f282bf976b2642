"""check_gradients: right functions pass, and a wrong derivative is found and its place and cause named."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from op_cases import DIFFERENTIABLE, cases

import pullback as pb
from pullback.core.define import Array
from pullback.core.doors import door
from pullback.core.op import Op

X = np.array([0.3, -0.7, 1.2])
A = np.array([[1.0, -2.0, 0.5], [0.3, 0.8, -1.1]])
Error = pb.errors.GradientCheckError


def cubed(xp, x: Array):
    """The body of private ops that are right or wrong in their rules."""
    return x * x * x


def op_with(rule, push=None):
    return door(Op(cubed, "op", [rule], [push]))


def slope(g, x):
    return 3.0 * x * x * g


def wrong_slope(g, x):
    return 2.0 * x * x * g


# --- right functions --------------------------------------------------------------------------------------------------

RIGHT = {
    "a layer": lambda x: pb.tanh(A @ x),
    "a loss": lambda x: pb.sum(pb.exp(x) * pb.sin(x)),
    "a tree": lambda x: {"y": x * 2.0, "z": (pb.sum(x), None), "count": pb.tensor([1, 2])},
    "linear": lambda x: 3.0 * x,
    "constant": lambda x: pb.tensor([1.0, 2.0]) + 0.0 * pb.sum(x),
    "a private op": op_with(slope, slope),
    "a gradient": pb.grad(lambda x: pb.sum(pb.tanh(x) * x)),
    "a checkpoint": pb.checkpoint(lambda x: pb.tanh(A @ x)),
    "far from zero": lambda x: pb.sum((x * 1e4) ** 2),
}


@pytest.mark.parametrize("f", RIGHT.values(), ids=RIGHT)
def test_right_functions_pass(f):
    pb.check_gradients(f, X)
    pb.check_gradients(f, X, order=3, seed=5)
    pb.check_gradients(f, pb.tensor(X, requires_grad=True))


@pytest.mark.parametrize("f", RIGHT.values(), ids=RIGHT)
def test_right_functions_pass_in_float32(f):
    pb.check_gradients(f, X.astype("float32"), order=1)


def test_trees_and_several_arguments_pass():
    pb.check_gradients(lambda t, y: pb.tanh(t["w"] @ y) * t["b"][0], {"w": A, "b": [A[:, 0]]}, X)
    pb.check_gradients(lambda x, y: x * y, 2.0, X)


def test_every_differentiable_op_passes_at_its_first_sample():
    for op in DIFFERENTIABLE:
        case = next(case for case in cases([op]) if case.primals)
        pb.check_gradients(case, *case.primals, order=1)


# --- wrong rules ------------------------------------------------------------------------------------------------------

WRONG = {
    "both modes": (op_with(wrong_slope, wrong_slope), r"the JVP disagrees.*the JVP rule of op cubed"),
    "the VJP alone": (op_with(wrong_slope, slope), r"the VJP disagrees.*the VJP rule for input x of op cubed"),
    "the JVP alone": (op_with(slope, wrong_slope), r"the JVP disagrees.*the JVP rule of op cubed"),
    "a transposed VJP": (op_with(wrong_slope), r"the JVP disagrees.*op cubed"),
    "a reversed sign": (op_with(lambda g, x: -slope(g, x), lambda t, x: -slope(t, x)), r"op cubed"),
    "a VJP that is zero": (op_with(lambda g, x: 0.0 * g, slope), r"the VJP rule for input x of op cubed"),
    "a cut through detach": (lambda x: x * pb.tanh(x).detach(), r"op multiply.*cut from the tape \(detach, numpy\)"),
    "a cut through NumPy": (lambda x: 0.0 * x + pb.tensor(2.0 * x.numpy()), r"op add.*cut from the tape"),
    "cut altogether": (lambda x: 2.0 * x.detach(), r"the derivative is zero: something cuts the tape"),
    "a kink": (lambda x: pb.relu(x - X), r"op relu \(equation 2 of the tape\) has a kink"),
}  # fmt: skip


@pytest.mark.parametrize(("f", "cause"), WRONG.values(), ids=WRONG)
def test_a_wrong_derivative_is_found_and_its_cause_named(f, cause):
    with pytest.raises(
        Error, match=rf"^check_gradients: the [JV]+P disagrees .*\(order 1\).*{cause.split('disagrees.*')[-1]}"
    ):
        pb.check_gradients(f, X)
    with pytest.raises(Error, match=cause):
        pb.check_gradients(lambda x: pb.sum(pb.tanh(f(x) * 0.5)), X, order=1)


@pytest.mark.parametrize("f", [f for f, _ in WRONG.values()], ids=WRONG)
def test_a_wrong_derivative_is_found_in_float32(f):
    with pytest.raises(Error, match="disagrees"):
        pb.check_gradients(f, X.astype("float32"), order=1)


def test_a_wrong_factor_and_a_wrong_sign_are_recognised_in_a_rule_of_ones_own():
    def ruled(factor):
        return pb.custom_rule(pb.sum, vjp=lambda g, out, x: (factor * g * pb.ones_like(x),))

    pb.check_gradients(ruled(1.0), X)
    with pytest.raises(Error, match="off by a factor of 2"):
        pb.check_gradients(ruled(2.0), X)
    with pytest.raises(Error, match="the sign is reversed"):
        pb.check_gradients(ruled(-1.0), X)


def test_a_step_of_the_function_is_told_from_a_wrong_rule():
    for f in (lambda x: x * 2.0 if x[0].item() > X[0] else x * 3.0, lambda x: pb.abs(x - X)):
        with pytest.raises(Error, match="the function has a kink or a jump near this point"):
            pb.check_gradients(f, X)


def test_a_function_that_differs_from_run_to_run_is_told():
    runs = []

    def f(x):
        runs.append(1)
        return x * float(len(runs))

    with pytest.raises(Error, match="differs from run to run"):
        pb.check_gradients(f, X)


# --- where it says the error is ---------------------------------------------------------------------------------------


@dataclass
class Layer:
    weight: Any
    bias: Any = None


WRONG_CUBE = op_with(wrong_slope, wrong_slope)


@pytest.mark.parametrize(
    ("f", "arguments", "place"),
    [
        (WRONG_CUBE, (1.5,), r"argument 0:"),
        (WRONG_CUBE, (X,), r"argument 0\[2\]:"),
        (lambda x, y: x + WRONG_CUBE(y), (X, X), r"argument 1\[2\]:"),
        (lambda x: pb.sum(WRONG_CUBE(x)), (np.array([[0.1, 2.0], [0.2, 0.3]]),), r"argument 0\[0, 1\]:"),
        (lambda t: t["a"] + WRONG_CUBE(t["b"][1]), ({"a": X, "b": [X, X]},), r"argument 0\.b\.1\[2\]:"),
        (lambda t: pb.sum(t[0].bias) + WRONG_CUBE(t[0].weight), ([Layer(X, X)],), r"argument 0\.0\.weight\[2\]:"),
        (lambda x: WRONG_CUBE(x[1]) + x[0], (X,), r"argument 0\[1\]:"),
    ],
    ids=["a number", "a vector", "the second argument", "a matrix", "a tree", "a dataclass", "one entry"],
)
def test_the_argument_and_the_index_are_named(f, arguments, place):
    # a sum of equal weights, so that the worst entry is the one of the largest number
    with pytest.raises(Error, match=f"worst at {place} derivative .*, difference "):
        pb.check_gradients(lambda *xs: pb.sum(f(*xs)), *arguments)


def test_both_numbers_are_given():
    with pytest.raises(Error) as caught:
        pb.check_gradients(WRONG_CUBE, np.array(2.0), seed=3)
    text = str(caught.value)
    against, worst = text.split("; ")[:2]
    found, expected = (float(n) for n in against.split("(order 1): ")[1].split(", allowed")[0].split(" against "))
    np.testing.assert_allclose(found / expected, 2 / 3, rtol=1e-6)
    derivative, difference = (float(part.split(" ")[-1]) for part in worst.split(", "))
    np.testing.assert_allclose(derivative / difference, 2 / 3, rtol=1e-6)


# --- the second order -------------------------------------------------------------------------------------------------


def held(x):
    """x as a constant where rules run over Tensors: the first order is right, the second is not."""
    return x.detach() if hasattr(x, "detach") else x


SECOND = {
    "an op": op_with(lambda g, x: 3.0 * x * held(x) * g),
    "a rule of one's own": pb.custom_rule(lambda x: x * x * x, vjp=lambda g, out, x: (3.0 * x * x.detach() * g,)),
}


@pytest.mark.parametrize("f", SECOND.values(), ids=SECOND)
def test_a_wrong_second_derivative_is_found_by_the_second_order(f):
    pb.check_gradients(f, X, order=1)
    with pytest.raises(Error, match=r"disagrees with central differences \(order 2\)"):
        pb.check_gradients(f, X)


# --- what is refused --------------------------------------------------------------------------------------------------

REFUSED = {
    "integers": ((lambda x: x, np.arange(3)), {}, pb.errors.DtypeError, "an argument holds int64"),
    "text": ((lambda x: x, "abc"), {}, pb.errors.DtypeError, "not supported"),
    "no argument": ((lambda: pb.tensor(1.0),), {}, pb.errors.ArgumentError, "at least one argument"),
    "no order": ((pb.tanh, X), {"order": 0}, pb.errors.ArgumentError, "order is at least 1"),
    "no tensor in the result": ((lambda x: 3.0, X), {}, pb.errors.ArgumentError, "returns no floating-point tensor"),
    "integers in the result": ((lambda x: x > 0, X), {}, pb.errors.ArgumentError, "returns no floating-point tensor"),
    "no function": ((X, X), {}, pb.errors.DtypeError, "check_gradients: its first argument is a function"),
}


@pytest.mark.parametrize(("arguments", "options", "kind", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_checked_is_refused(arguments, options, kind, message):
    with pytest.raises(kind, match=message):
        pb.check_gradients(*arguments, **options)


def test_a_check_changes_nothing_and_a_looser_tolerance_may_be_asked_for():
    x = pb.tensor(X, requires_grad=True)
    pb.check_gradients(lambda v: v * v, x)
    assert x.grad is None
    assert x.tolist() == X.tolist()
    slightly = op_with(lambda g, x: 1.0001 * slope(g, x))
    with pytest.raises(Error):
        pb.check_gradients(slightly, X)
    pb.check_gradients(slightly, X, tolerance=1e-3)
    pb.check_gradients(slightly, X, order=1, tolerance=1e-3, step=1e-4)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_point_outside_of_the_domain_is_told():
    with pytest.raises(Error, match="not finite"):
        pb.check_gradients(pb.log, np.array([-1.0]))
