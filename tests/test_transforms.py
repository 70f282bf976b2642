"""vjp, jvp, linearize, grad and value_and_grad: values, trees, arguments, and what they leave behind."""

import gc
import threading
import weakref
from collections import namedtuple
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import pullback as pb
from pullback.core.tape import Equation

X = np.array([0.3, -0.7, 1.2])
W = np.array([[1.0, -2.0, 0.5], [0.3, 0.8, -1.1]])


def leaf(values):
    return pb.tensor(np.asarray(values, "float64"), requires_grad=True)


def layer(x):
    return pb.tanh(W @ x)


def layer_slope():
    return (1 - np.tanh(W @ X) ** 2)[:, None] * W


def equations_alive():
    gc.collect()
    return sum(type(thing) is Equation for thing in gc.get_objects())


# --- the four walks against the Jacobian ------------------------------------------------------------------------------


def test_vjp_is_the_transposed_jacobian_times_a_cotangent():
    u = np.array([2.0, -3.0])
    out, pull = pb.vjp(layer, X)
    np.testing.assert_allclose(out.numpy(), np.tanh(W @ X), rtol=1e-15)
    (g,) = pull(u)
    np.testing.assert_allclose(g.numpy(), u @ layer_slope(), rtol=1e-14)


def test_jvp_is_the_jacobian_times_a_tangent():
    t = np.array([2.0, -3.0, 0.1])
    out, pushed = pb.jvp(layer, (X,), (t,))
    np.testing.assert_allclose(out.numpy(), np.tanh(W @ X), rtol=1e-15)
    np.testing.assert_allclose(pushed.numpy(), layer_slope() @ t, rtol=1e-14)


def test_linearize_runs_the_function_once_and_pushes_any_number_of_tangents():
    runs = []

    def counted(x):
        runs.append(1)
        return layer(x)

    out, push = pb.linearize(counted, X)
    np.testing.assert_allclose(out.numpy(), np.tanh(W @ X), rtol=1e-15)
    for t in np.eye(3):
        np.testing.assert_allclose(push(t).numpy(), layer_slope() @ t, rtol=1e-14)
    assert len(runs) == 1


def test_a_pull_may_be_repeated():
    _, pull = pb.vjp(layer, X)
    for u in np.eye(2):
        np.testing.assert_allclose(pull(u)[0].numpy(), u @ layer_slope(), rtol=1e-14)
        np.testing.assert_allclose(pull(u)[0].numpy(), u @ layer_slope(), rtol=1e-14)


def test_grad_and_value_and_grad():
    def loss(x):
        return pb.sum(layer(x))

    value, gradient = pb.value_and_grad(loss)(X)
    np.testing.assert_allclose(value.item(), np.tanh(W @ X).sum(), rtol=1e-15)
    np.testing.assert_allclose(gradient.numpy(), layer_slope().sum(axis=0), rtol=1e-14)
    np.testing.assert_array_equal(pb.grad(loss)(X).numpy(), gradient.numpy())


def test_a_value_of_one_number_may_have_any_number_of_axes():
    assert pb.grad(lambda x: pb.reshape(pb.sum(x), (1, 1)))(X).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("number", [2.0, np.float64(2.0), np.float32(2.0), np.array(2.0), [2.0]], ids=repr)
def test_numbers_and_lists_of_them_are_arguments_too(number):
    gradient = pb.grad(lambda x: pb.sum((x[0] if isinstance(x, list) else x) ** 3))(number)
    found = gradient[0] if isinstance(number, list) else gradient
    assert found.item() == 12.0


def test_results_have_the_dtype_of_what_they_belong_to():
    x, w = X.astype("float32"), W
    out, pull = pb.vjp(lambda a, b: b @ a, x, w)
    assert out.dtype == np.float64
    g_x, g_w = pull(np.ones(2, "float32"))
    assert (g_x.dtype, g_w.dtype) == (np.float32, np.float64)
    assert pb.jvp(lambda a: W @ a, (x,), (X,))[1].dtype == np.float64
    assert pb.jvp(lambda a: a * 2.0, (x,), (X,))[1].dtype == np.float32
    assert pb.grad(lambda a: pb.sum(W @ a))(x).dtype == np.float32


# --- which arguments --------------------------------------------------------------------------------------------------


def three(a, b, c, scale=1.0):
    return pb.sum(a * b * b + c) * scale


@pytest.mark.parametrize(
    ("argnums", "expected"),
    [
        (0, [4.0]),
        (1, [12.0]),
        (2, [1.0]),
        (-1, [1.0]),
        (-3, [4.0]),
        (np.int64(1), [12.0]),
        ((0, 1), ([4.0], [12.0])),
        ([1, 0], ([12.0], [4.0])),
        ((-1, 0), ([1.0], [4.0])),
        ((2,), ([1.0],)),
    ],
    ids=str,
)
def test_argnums_choose_the_arguments(argnums, expected):
    arguments = (np.array([3.0]), np.array([2.0]), np.array([5.0]))
    gradient = pb.grad(three, argnums)(*arguments)
    value, same = pb.value_and_grad(three, argnums)(*arguments)
    assert value.item() == 17.0
    for found in (gradient, same):
        assert isinstance(found, tuple) == isinstance(expected, tuple)
        assert (tuple(g.tolist() for g in found) if isinstance(found, tuple) else found.tolist()) == expected


def test_keyword_arguments_are_passed_on():
    assert pb.grad(three)(np.array([3.0]), 2.0, c=1.0, scale=10.0).tolist() == [40.0]


@pytest.mark.parametrize("argnums", [3, -4, (0, 3), (0, 0), (0, -3), (), "a", None, 1.5, ("a",)], ids=repr)
def test_argnums_that_name_no_argument_are_refused(argnums):
    with pytest.raises(pb.errors.ArgumentError, match="grad: argnums"):
        pb.grad(three, argnums)(1.0, 2.0, 3.0)


def test_other_arguments_may_be_anything():
    assert pb.grad(lambda x, mode, n: pb.sum(x) * n if mode == "sum" else x)(X, "sum", 3).tolist() == [3.0] * 3


def test_an_argument_that_is_ignored_has_a_zero_gradient():
    def first(x, y):
        return pb.sum(x * 2.0)

    g_x, g_y = pb.grad(first, (0, 1))(X, W.astype("float32"))
    assert g_x.tolist() == [2.0, 2.0, 2.0]
    assert (g_y.tolist(), g_y.dtype) == (np.zeros((2, 3)).tolist(), np.float32)
    assert pb.vjp(first, X, W)[1](1.0)[1].tolist() == np.zeros((2, 3)).tolist()
    assert pb.jvp(lambda x: pb.tensor(3.0), (X,), (X,))[1].item() == 0.0
    assert pb.grad(lambda x: pb.tensor(3.0))(X).tolist() == [0.0, 0.0, 0.0]


def test_a_function_may_give_its_argument_back():
    out, pull = pb.vjp(lambda x: x, X)
    assert out.tolist() == X.tolist()
    assert pull(W[0])[0].tolist() == W[0].tolist()
    assert pb.jvp(lambda x: (x, x), (X,), (W[0],))[1][1].tolist() == W[0].tolist()


def test_a_function_may_write_at_an_index_of_its_argument():
    def f(x):
        x[0] = 5.0
        return pb.sum(x * x)

    given = pb.tensor(X)
    assert pb.grad(f)(given).tolist() == [0.0, 2 * X[1], 2 * X[2]]
    assert given.tolist() == X.tolist()
    assert pb.jvp(f, (X,), (np.ones(3),))[1].item() == 2 * (X[1] + X[2])


@pytest.mark.parametrize("x", [3, [1, 2], np.arange(3), True, pb.tensor([1, 2])], ids=repr)
def test_derivatives_with_respect_to_integers_are_refused(x):
    for transform in (
        lambda: pb.grad(pb.sum)(x),
        lambda: pb.vjp(pb.sum, x),
        lambda: pb.jvp(pb.sum, (x,), (x,)),
        lambda: pb.linearize(pb.sum, x),
        lambda: pb.hessian(pb.sum)(x),
        lambda: pb.hvp(pb.sum, (x,), (x,)),
    ):
        with pytest.raises(pb.errors.DtypeError, match=r"argument 0 holds (int64|bool)"):
            transform()


# --- trees ------------------------------------------------------------------------------------------------------------

Point = namedtuple("Point", "x y")


@dataclass
class Layer:
    weight: Any
    bias: Any = None
    rest: dict = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Frozen:
    weight: Any


def tree_loss(tree):
    """The sum of all squares; whatever the form of the tree."""
    total = 0.0
    for x in leaves_of(tree):
        total = total + pb.sum(x * x)
    return total


def leaves_of(tree):
    if isinstance(tree, pb.Tensor):
        return [tree]
    if isinstance(tree, Layer):
        return leaves_of([tree.weight, tree.bias, tree.rest])
    if isinstance(tree, Frozen):
        return leaves_of(tree.weight)
    if isinstance(tree, dict):
        return leaves_of(list(tree.values()))
    return [x for child in tree or () for x in leaves_of(child)]


TREES = {
    "a list": lambda: [X, W],
    "a dict of lists": lambda: {"b": [X, W], "a": (X,)},
    "a named tuple": lambda: Point(X, W),
    "a dataclass": lambda: Layer(W, X, {"extra": [X]}),
    "a dataclass with a None inside": lambda: Layer(W),
    "a frozen dataclass with slots": lambda: Frozen(W),
    "nested": lambda: {"layers": [Layer(W, X), Frozen([X])], "none": None, "point": Point(X, {"w": W})},
    "None and one array": lambda: (None, X),
}


def same_form(a, b):
    if isinstance(a, np.ndarray):
        return isinstance(b, pb.Tensor) and a.shape == b.shape
    if isinstance(a, Layer):
        return type(b) is Layer and same_form(vars(a), vars(b))
    if isinstance(a, Frozen):
        return type(b) is Frozen and same_form(a.weight, b.weight)
    if isinstance(a, dict):
        return type(b) is dict and a.keys() == b.keys() and all(same_form(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same_form, a, b))
    return a is None and b is None


@pytest.mark.parametrize("make", TREES.values(), ids=TREES)
def test_trees_go_wherever_one_tensor_goes(make):
    tree = make()
    arrays = [x.numpy() for x in leaves_of(pb.vjp(lambda t: t, tree)[0])]
    value, gradient = pb.value_and_grad(tree_loss)(tree)
    assert same_form(tree, gradient)
    assert [g.tolist() for g in leaves_of(gradient)] == [(2 * x).tolist() for x in arrays]
    np.testing.assert_allclose(value.item(), sum((x * x).sum() for x in arrays), rtol=1e-14)
    pulled = pb.vjp(tree_loss, tree)[1](2.0)[0]
    assert same_form(tree, pulled)
    assert [g.tolist() for g in leaves_of(pulled)] == [(4 * x).tolist() for x in arrays]
    tangent = pb.jvp(tree_loss, (tree,), (make(),))[1]
    np.testing.assert_allclose(tangent.item(), 2 * value.item(), rtol=1e-14)
    out, pull = pb.vjp(lambda t: t, tree)
    assert same_form(tree, out)
    assert same_form(tree, pull(make())[0])


def test_a_function_may_return_a_tree_with_constants_and_nothing_in_it():
    def f(x):
        return {"y": x * 2.0, "none": None, "constant": pb.tensor([5.0]), "number": 3.0}

    out, pull = pb.vjp(f, X)
    assert (out["y"].tolist(), out["none"], out["number"]) == ((2 * X).tolist(), None, 3.0)
    (g,) = pull({"y": np.ones(3), "none": None, "constant": [1.0], "number": 0.0})
    assert g.tolist() == [2.0, 2.0, 2.0]
    _, tangent = pb.jvp(f, (X,), (np.ones(3),))
    assert tangent["y"].tolist() == [2.0, 2.0, 2.0]
    assert (tangent["none"], tangent["constant"].tolist()) == (None, [0.0])


@pytest.mark.parametrize(
    "cotangent",
    [np.ones(3), {"a": np.ones(3)}, {"a": np.ones(3), "b": np.ones(2)}, {"a": [1.0] * 3, "c": 1.0}, None],
    ids=str,
)
def test_a_cotangent_of_another_form_is_refused(cotangent):
    _, pull = pb.vjp(lambda x: {"a": x, "b": pb.sum(x)}, X)
    with pytest.raises(pb.errors.ShapeError, match=r"vjp: .*cotangent"):
        pull(cotangent)


def test_the_same_array_may_stand_at_two_places_of_a_tree():
    gradient = pb.grad(lambda t: pb.sum(t[0] * 2.0 + t[1] * 3.0))([X, X])
    assert [g.tolist() for g in gradient] == [[2.0] * 3, [3.0] * 3]


# --- a second result --------------------------------------------------------------------------------------------------


def test_has_aux_passes_a_second_result_through():
    def loss(x):
        h = pb.tanh(x)
        return pb.sum(h), {"h": h, "name": "loss", "numbers": [1, None]}

    gradient, aux = pb.grad(loss, has_aux=True)(X)
    np.testing.assert_allclose(gradient.numpy(), 1 - np.tanh(X) ** 2, rtol=1e-14)
    assert (aux["name"], aux["numbers"]) == ("loss", [1, None])
    assert not aux["h"].requires_grad
    (value, aux), same = pb.value_and_grad(loss, has_aux=True)(X)
    np.testing.assert_allclose(value.item(), aux["h"].numpy().sum(), rtol=1e-15)
    assert same.tolist() == gradient.tolist()


@pytest.mark.parametrize("result", [pb.sum, lambda x: (pb.sum(x),), lambda x: (pb.sum(x), 1, 2), lambda x: None])
def test_has_aux_needs_a_pair(result):
    with pytest.raises(pb.errors.ArgumentError, match=r"returns \(value, aux\)"):
        pb.grad(result, has_aux=True)(X)


# --- closures, leaves and the state of recording ----------------------------------------------------------------------


def test_tensors_that_a_function_closes_over_may_be_differentiated_outside():
    w = leaf(W)
    gradient = pb.grad(lambda x: pb.sum(pb.sin(w @ x)))(X)
    assert gradient.requires_grad
    assert w.grad is None
    pb.sum(gradient).backward()
    inner = W @ X
    expected = np.cos(inner)[:, None] * np.ones(3) - np.outer(np.sin(inner) * W.sum(axis=1), X)
    np.testing.assert_allclose(w.grad.numpy(), expected, rtol=1e-13)


def test_a_leaf_given_as_an_argument_is_not_written():
    x = leaf(X)
    gradient = pb.grad(lambda v: pb.sum(v * v * v))(x)
    assert x.grad is None
    np.testing.assert_allclose(gradient.numpy(), 3 * X**2, rtol=1e-15)
    pb.sum(gradient).backward()
    np.testing.assert_allclose(x.grad.numpy(), 6 * X, rtol=1e-14)


def test_backward_may_run_inside_of_a_transformed_function():
    inner = leaf([2.0])

    def f(x):
        pb.sum(inner * inner).backward()
        return pb.sum(x * inner.grad)

    assert pb.grad(f)(np.ones(1)).tolist() == [4.0]


def test_transforms_work_inside_no_grad():
    w = leaf(W)
    with pb.no_grad():
        gradient = pb.grad(lambda x: pb.sum(pb.sin(w @ x)))(X)
        assert not gradient.requires_grad
        np.testing.assert_allclose(gradient.numpy(), np.cos(W @ X) @ W, rtol=1e-14)
        second = pb.grad(lambda x: pb.sum(pb.grad(lambda y: pb.sum(y**3))(x)))(X)
        np.testing.assert_allclose(second.numpy(), 6 * X, rtol=1e-14)
        np.testing.assert_allclose(pb.jvp(layer, (X,), (X,))[1].numpy(), layer_slope() @ X, rtol=1e-14)


def test_no_grad_inside_of_a_function_makes_constants_of_what_it_computes():
    def f(x):
        with pb.no_grad():
            factor = x * x
        return pb.sum(factor * x)

    np.testing.assert_allclose(pb.grad(f)(X).numpy(), X**2, rtol=1e-15)


def test_transforms_run_in_threads_of_their_own():
    found = {}

    def work(k):
        for _ in range(20):
            found[k] = pb.jvp(pb.grad(lambda x: pb.sum(x**3) * float(k)), (X,), (np.ones(3),))[1].numpy()

    with pb.no_grad():
        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for k in range(4):
        np.testing.assert_allclose(found[k], 6 * X * k, rtol=1e-13)


FIRST_ORDER = {
    "grad": lambda f, x: pb.grad(lambda v: pb.sum(f(v)))(x),
    "value_and_grad": lambda f, x: pb.value_and_grad(lambda v: (pb.sum(f(v)), f(v)), has_aux=True)(x),
    "jvp": lambda f, x: pb.jvp(f, (x,), (x,)),
    "a pulled vjp": lambda f, x: (pb.vjp(f, x)[0], pb.vjp(f, x)[1](np.ones(3))),
    "a pushed linearize": lambda f, x: (pb.linearize(f, x)[0], pb.linearize(f, x)[1](np.ones(3))),
    "hvp": lambda f, x: pb.hvp(lambda v: pb.sum(f(v)), (x,), (x,)),
    "hessian": lambda f, x: pb.hessian(lambda v: pb.sum(f(v)))(x),
}


@pytest.mark.parametrize("run", FIRST_ORDER.values(), ids=FIRST_ORDER)
def test_results_are_off_the_tape_and_keep_nothing_alive(run):
    before = equations_alive()
    intermediate = []

    def f(x):
        h = pb.tanh(x)
        intermediate.append(weakref.ref(h))
        return h * h

    results = run(f, pb.tensor(X))
    assert equations_alive() == before
    assert all(ref() is None for ref in intermediate)
    for x in _tensors(results):
        assert not x.requires_grad


def _tensors(results):
    if isinstance(results, pb.Tensor):
        return [results]
    return [x for r in results for x in _tensors(r)]


def test_a_pull_keeps_its_tape_and_lets_go_of_it():
    before = equations_alive()
    _, pull = pb.vjp(layer, X)
    assert equations_alive() > before
    pull(np.ones(2))
    del pull
    assert equations_alive() == before


def test_what_a_function_hides_away_cannot_be_pulled_afterwards():
    hidden = []

    def f(x):
        hidden.append(pb.tanh(x))
        return pb.sum(hidden[-1])

    pb.grad(f)(X)
    with pytest.raises(pb.errors.TapeError, match="freed"):
        pb.sum(hidden[-1]).backward()
