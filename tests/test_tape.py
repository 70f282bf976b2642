"""The tape: how a pull adds up, what an equation keeps, which rules run and in which order."""

import numpy as np
import pytest
from op_cases import cases

import pullback as pb
from pullback.core.define import Array
from pullback.core.doors import door
from pullback.core.op import OPS, TENSORS, ArrayOps, Op


def leaf(values, dtype="float64"):
    return pb.tensor(np.asarray(values, dtype), requires_grad=True)


def copied(xp, x: Array):
    """The body of private ops: the same numbers."""
    return x + 0.0


def copied_with_rule(*rule):
    """The public call of an op outside the table, with a rule that may be watched."""
    return door(Op(copied, "op", rule))


def kept_arrays(y):
    """The arrays that the equation of y keeps alive."""
    return [value for value in y.node.saved if isinstance(value, np.ndarray)]


# --- fan-out ----------------------------------------------------------------------------------------------------------


def test_a_value_used_twice_gets_both_cotangents_added():
    x = leaf([1.0, -2.0, 3.0])
    pb.sum(x * x + 5.0 * x).backward()
    np.testing.assert_array_equal(x.grad.numpy(), 2 * x.numpy() + 5)


def test_the_same_value_as_both_inputs_of_one_op():
    x = leaf([1.0, -2.0, 3.0])
    pb.sum(x + x).backward()
    np.testing.assert_array_equal(x.grad.numpy(), [2.0, 2.0, 2.0])
    a = leaf([[1.0, 2.0], [3.0, 4.0]])
    pb.sum(a @ a).backward()
    ones = np.ones((2, 2))
    np.testing.assert_array_equal(a.grad.numpy(), ones @ a.numpy().T + a.numpy().T @ ones)


def test_paths_are_shared_and_not_walked_one_by_one():
    h = x = leaf(1.0)
    for _ in range(100):
        h = h + h
    h.backward()  # 2 ** 100 paths, 100 equations
    assert x.grad.item() == 2.0**100


def test_fan_out_over_many_consumers_adds_all_of_them():
    x = leaf(np.arange(4.0))
    total = x * 0.0
    for k in range(1, 10):
        total = total + x * float(k)
    pb.sum(total).backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.full(4, 45.0))


def test_a_value_and_what_is_made_of_it_may_both_be_outputs():
    x = leaf([0.5, -1.5])
    y = pb.tanh(x)
    pb.sum(y + y * y).backward()
    t = np.tanh(x.numpy())
    np.testing.assert_allclose(x.grad.numpy(), (1 + 2 * t) * (1 - t * t), rtol=1e-15)


# --- nothing of the caller's is written -------------------------------------------------------------------------------

PASSING_ON = {
    "itself": lambda x: x,
    "positive": lambda x: +x,
    "added to itself": lambda x: x + x,
    "reshaped twice": lambda x: pb.reshape(pb.reshape(x, (3, 2)), (2, 3)) + x,
    "transposed twice": lambda x: pb.matrix_transpose(pb.matrix_transpose(x)) + x,
    "broadcast": lambda x: pb.broadcast_to(x, (2, 3)) + x + x,
}


@pytest.mark.parametrize("f", PASSING_ON.values(), ids=PASSING_ON)
def test_backward_leaves_the_cotangent_it_was_given_alone(f):
    x = leaf(np.arange(6.0).reshape(2, 3))
    cotangent = np.arange(1.0, 7.0).reshape(2, 3)
    before = cotangent.copy()
    f(x).backward(cotangent)
    f(x).backward(pb.asarray(cotangent))
    np.testing.assert_array_equal(cotangent, before)
    assert not np.shares_memory(x.grad.numpy(), cotangent)


@pytest.mark.parametrize("f", PASSING_ON.values(), ids=PASSING_ON)
def test_results_of_a_pull_are_not_written_by_the_next(f):
    cotangent = np.arange(1.0, 7.0).reshape(2, 3)
    _, pull = pb.vjp(f, np.arange(6.0).reshape(2, 3))
    (first,) = pull(cotangent)
    numbers = first.numpy().copy()
    (second,) = pull(cotangent)
    np.testing.assert_array_equal(first.numpy(), numbers)
    np.testing.assert_array_equal(second.numpy(), numbers)
    np.testing.assert_array_equal(cotangent, np.arange(1.0, 7.0).reshape(2, 3))


def test_accumulation_never_writes_an_array_that_a_rule_handed_over():
    mine = np.ones(3)
    call = copied_with_rule(lambda g: mine)
    x = leaf(np.zeros(3))
    for _ in range(2):
        pb.sum(call(x) + x).backward()
    np.testing.assert_array_equal(mine, np.ones(3))
    np.testing.assert_array_equal(x.grad.numpy(), np.full(3, 4.0))


def test_saved_values_are_the_same_after_a_pull():
    x = leaf([0.5, -1.5])
    y = pb.tanh(x)
    numbers = y.numpy().copy()
    total = pb.sum(y * y + y)
    total.backward(retain=True)
    total.backward()
    np.testing.assert_array_equal(y.numpy(), numbers)
    t = np.tanh(x.numpy())
    np.testing.assert_allclose(x.grad.numpy(), 2 * (1 + 2 * t) * (1 - t * t), rtol=1e-15)


def test_a_gradient_that_was_read_keeps_its_numbers():
    x = leaf([1.0, 2.0])
    pb.sum(3.0 * x).backward()
    first = x.grad
    pb.sum(3.0 * x).backward()
    np.testing.assert_array_equal(first.numpy(), [3.0, 3.0])
    np.testing.assert_array_equal(x.grad.numpy(), [6.0, 6.0])


# --- gradients of leaves ----------------------------------------------------------------------------------------------


def test_gradients_add_up_until_they_are_zeroed():
    x = leaf([1.0, 2.0])
    assert x.grad is None
    for k in range(1, 4):
        pb.sum(3.0 * x).backward()
        np.testing.assert_array_equal(x.grad.numpy(), np.full(2, 3.0 * k))
    x.zero_grad()
    assert x.grad is None
    pb.sum(3.0 * x).backward()
    np.testing.assert_array_equal(x.grad.numpy(), [3.0, 3.0])


def test_gradients_add_up_in_place_and_zeroing_keeps_the_buffer():
    x = leaf([1.0, 2.0])
    pb.sum(3.0 * x).backward()
    address = x.node.grad.ctypes.data
    pb.sum(3.0 * x).backward()
    assert x.node.grad.ctypes.data == address
    x.zero_grad()
    assert x.node.grad.ctypes.data == address


def test_leaves_that_the_output_does_not_depend_on_keep_their_gradients():
    x, other = leaf([1.0]), leaf([2.0])
    pb.sum(other * 7.0).backward()
    pb.sum(x * 3.0).backward()
    np.testing.assert_array_equal(other.grad.numpy(), [7.0])
    untouched = leaf([1.0])
    pb.sum(x * untouched.detach()).backward()
    assert untouched.grad is None


def test_only_leaves_have_a_gradient():
    x = leaf([1.0, 2.0])
    y = x * 2.0
    pb.sum(y).backward()
    assert y.grad is None
    assert pb.tensor([1.0]).grad is None
    with pytest.raises(pb.errors.TapeError, match="only a leaf"):
        y.grad = [1.0, 1.0]


def test_backward_on_a_leaf_itself():
    x = leaf(4.0)
    x.backward()
    x.backward(2.0)
    assert x.grad.item() == 3.0


@pytest.mark.parametrize(
    ("x_dtype", "w_dtype"), [("float32", "float64"), ("float64", "float32"), ("float16", "float32")]
)
@pytest.mark.parametrize("f", [lambda x, w: x * w, lambda x, w: w + x, lambda x, w: x @ w.mT, lambda x, w: x / w])
def test_a_gradient_has_the_dtype_of_its_primal(f, x_dtype, w_dtype):
    x, w = leaf([[1.0, 2.0]], x_dtype), leaf([[3.0, 4.0]], w_dtype)
    y = f(x, w)
    assert y.dtype == np.result_type(x_dtype, w_dtype)
    pb.sum(y).backward()
    assert (x.grad.dtype, w.grad.dtype) == (np.dtype(x_dtype), np.dtype(w_dtype))
    assert (x.grad.shape, w.grad.shape) == (x.shape, w.shape)
    pb.sum(f(x, w)).backward()  # adding up does not widen
    assert (x.grad.dtype, w.grad.dtype) == (np.dtype(x_dtype), np.dtype(w_dtype))


BROADCASTS = [((4, 3), (3,)), ((4, 3), (1, 3)), ((4, 1), (1, 3)), ((), (2, 2)), ((2, 1, 3), (4, 1)), ((1,), (2, 3))]


@pytest.mark.parametrize(("left", "right"), BROADCASTS)
def test_cotangents_are_summed_over_broadcast_axes(left, right):
    rng = np.random.default_rng(0)
    x, y = leaf(rng.normal(size=left)), leaf(rng.normal(size=right))
    out = x * y
    g = rng.normal(size=out.shape)
    out.backward(g)
    for primal, other in ((x, y), (y, x)):
        product = np.broadcast_to(g * other.numpy(), out.shape)
        lead = product.ndim - primal.ndim
        stretched = (*range(lead), *(i + lead for i, n in enumerate(primal.shape) if n == 1))
        expected = product.sum(axis=stretched, keepdims=True).reshape(primal.shape)
        np.testing.assert_allclose(primal.grad.numpy(), expected, rtol=1e-14)


# --- what is kept, and which rules run --------------------------------------------------------------------------------


def test_tanh_keeps_its_value_and_nothing_else():
    x = leaf([1.0, 2.0])
    h = x * 2.0
    y = pb.tanh(h)
    assert len(kept_arrays(y)) == 1
    assert kept_arrays(y)[0] is y.data


def test_multiply_keeps_what_the_tracked_sides_rule_names():
    x, constant = leaf([1.0, 2.0]), np.array([3.0, 4.0])
    y = x * constant
    assert len(kept_arrays(y)) == 1
    assert kept_arrays(y)[0] is constant
    assert kept_arrays(x * 2.0) == []
    both = x * leaf([5.0, 6.0])
    assert len(kept_arrays(both)) == 2


@pytest.mark.parametrize(
    "f", [lambda x: x + np.ones(2), lambda x: 1.0 - x, lambda x: -x, pb.sum, lambda x: pb.reshape(x, (2, 1))]
)
def test_linear_ops_keep_no_array(f):
    assert kept_arrays(f(leaf([1.0, 2.0]))) == []


def test_matmul_with_a_constant_keeps_the_constant_only():
    x, constant = leaf(np.ones((2, 3))), np.ones((3, 4))
    y = x @ constant
    assert len(kept_arrays(y)) == 1
    assert kept_arrays(y)[0] is constant


def test_nothing_is_recorded_of_constants():
    assert (pb.tensor([1.0]) * 2.0).node is None


def watched_product():
    """A product whose rules count their calls."""
    calls = {"x": 0, "y": 0}

    def for_x(g, y):
        calls["x"] += 1
        return g * y

    def for_y(g, x):
        calls["y"] += 1
        return g * x

    def product(xp, x: Array, y: Array):
        return x * y

    return door(Op(product, "elementwise", [for_x, for_y], [for_x, for_y])), calls


def test_an_input_that_needs_no_gradient_does_not_run_its_rule():
    product, calls = watched_product()
    x = leaf([1.0, 2.0])
    pb.sum(product(x, np.ones(2))).backward()
    assert calls == {"x": 1, "y": 0}
    pb.sum(product(np.ones(2), x)).backward()
    assert calls == {"x": 1, "y": 1}


def test_a_pull_runs_each_rule_once_however_often_the_value_is_used():
    product, calls = watched_product()
    x, w = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    h = product(x, w)
    pb.sum(h * h + h + pb.tanh(h)).backward()
    assert calls == {"x": 1, "y": 1}


def test_a_transform_runs_only_rules_that_lead_to_its_arguments():
    product, calls = watched_product()
    w = leaf([3.0, 4.0])
    with pb.no_grad():
        pb.grad(lambda x: pb.sum(product(x, w)))(np.ones(2))
        assert calls == {"x": 1, "y": 0}
        pb.jvp(lambda x: product(x, w), (np.ones(2),), (np.ones(2),))
        assert calls == {"x": 2, "y": 0}


def test_rules_see_raw_arrays_in_the_first_order_and_tensors_in_the_second():
    seen = []

    def rule(xp, g):
        seen.append(xp)
        return g

    call = copied_with_rule(rule)
    pb.sum(call(leaf([1.0, 2.0]))).backward()
    assert [type(xp) for xp in seen] == [ArrayOps]
    seen.clear()
    pb.grad(lambda x: pb.sum(pb.grad(lambda y: pb.sum(call(y) * y))(x)))(np.ones(2))
    assert TENSORS in seen


def test_equations_are_pulled_in_the_reverse_of_the_order_they_ran():
    order = []

    def step(name):
        def rule(g):
            order.append(name)
            return g

        return copied_with_rule(rule)

    first, second, third, fourth = (step(name) for name in "abcd")
    x = leaf([1.0])
    early = first(x)
    late = second(x)
    other = third(x)
    pb.sum((fourth(late) + early) + other).backward()
    assert order == ["d", "c", "b", "a"]


def test_running_numbers_rise_along_the_tape():
    x = leaf([1.0])
    y = pb.tanh(x)
    z = y * x
    assert x.node.seq < y.node.seq < z.node.seq


# --- ops with several outputs -----------------------------------------------------------------------------------------


def doubled_and_squared(xp, x: Array):
    return x + x, x * x


TWO = door(Op(doubled_and_squared, "op", [lambda g, x: 2.0 * g[0] + 2.0 * g[1] * x], outputs=("doubled", "squared")))
POINT = np.array([1.0, -2.0, 3.0])


@pytest.mark.parametrize(
    ("f", "slope"),
    [
        (lambda x: pb.sum(TWO(x)[0]), np.full(3, 2.0)),
        (lambda x: pb.sum(TWO(x)[1]), 2 * POINT),
        (lambda x: pb.sum(TWO(x)[0] * TWO(x)[1]), 6 * POINT**2),
        (lambda x: pb.sum(TWO(TWO(x)[1])[1]), 4 * POINT**3),
    ],
    ids=["the first alone", "the second alone", "both", "chained"],
)
def test_ops_with_several_outputs(f, slope):
    x = leaf(POINT)
    f(x).backward()
    np.testing.assert_allclose(x.grad.numpy(), slope, rtol=1e-15)
    np.testing.assert_allclose(pb.grad(f)(POINT).numpy(), slope, rtol=1e-15)
    np.testing.assert_allclose(pb.jvp(f, (POINT,), (np.ones(3),))[1].item(), slope.sum(), rtol=1e-14)
    second = pb.jvp(pb.grad(f), (POINT,), (np.ones(3),))[1].numpy()
    difference = (pb.grad(f)(POINT + 1e-5).numpy() - pb.grad(f)(POINT - 1e-5).numpy()) / 2e-5
    np.testing.assert_allclose(second, difference, atol=1e-6)
    np.testing.assert_allclose(pb.grad(lambda v: pb.sum(pb.grad(f)(v)))(POINT).numpy(), second, rtol=1e-14)


def test_one_output_of_several_can_be_held_after_the_other_is_gone():
    x = leaf(POINT)
    second = TWO(x)[1]
    second.backward(np.ones(3))
    np.testing.assert_array_equal(x.grad.numpy(), 2 * POINT)


# --- ops whose value is their input's buffer --------------------------------------------------------------------------


def test_ops_whose_value_may_share_the_buffer_of_an_input_say_so():
    """Accumulation and the search for mutations rest on it."""
    wrong = []
    for case in cases([op for op in OPS.values() if op.kind != "composite"]):
        arrays = [x for arg in case.sample.args for x in (arg if isinstance(arg, list | tuple) else [arg])]
        arrays = [x for x in arrays if isinstance(x, np.ndarray)]
        out = case.op.call(*case.sample.args, **case.sample.kwargs)
        values = [y for y in (out if isinstance(out, tuple | list) else [out]) if isinstance(y, pb.Tensor)]
        if any(np.shares_memory(x, y.numpy()) for x in arrays for y in values) and not case.op.is_view:
            wrong.append(case)
    assert wrong == []
