"""Reading, writing and adding at indices, sorting and searching: against NumPy, and gradients against closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import basic_indices, integer_array_indices

import pullback as pb
from pullback.errors import ArgumentError, DtypeError, IndexingError, ShapeError, TapeError

SOME = settings(deadline=None, max_examples=150)
X = np.arange(24.0).reshape(2, 3, 4)

MASK = X % 5 == 0
INDICES = [
    0, -1, (0, 1), (1, -1, 2), (), ..., None, (None, 0), (..., 0), (0, ...), (..., None), (None, ..., None),
    slice(None), slice(1, None), slice(None, None, -1), slice(5, 9), slice(-1, 0, -1), (slice(None), 1),
    (slice(None), slice(2, 0, -1)), (0, None, slice(None, None, 2)), (..., slice(1, 3)), np.int64(1),
    (np.int32(-1), slice(None)), [0], [1, 0, 1], [[0, 1], [1, 1]], [], ([],), (slice(None), [2, 2, 0]), (..., [3, -4]),
    ([0, 1], [2, -1]), ([[0], [1]], [1, 2]), (0, [1, 1]), ([1, 1], 0), ([1, 1], slice(None), [0, 3]),
    ([0, 1], None, [1, 1]), (slice(None), [0, 1], 2), (0, slice(None), [1, 1]), (None, [0, 1, 1]),
    (np.array(1), slice(None)), np.array([[1], [0]]), np.zeros((2, 0), int), MASK, MASK[:, :, 0], MASK[:, 0, 0],
    [True, False], (slice(None), [True, False, True]), (0, [False, True, True]), ([True, True], [0, 2]),
    (MASK[:, :, 0], [0]), (..., [True, False, False, True]), (MASK[:, :, 0], slice(1, 3)), np.zeros((2, 3), bool), True,
    False, np.True_, (0, True), (slice(None), False),
]  # fmt: skip


def same(actual, expected):
    expected = np.asarray(expected)
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual.numpy(), expected)


def as_tensors(index):
    """An index with its lists and arrays as tensors."""
    if isinstance(index, tuple):
        return tuple(as_tensors(entry) for entry in index)
    if isinstance(index, list) and not index:
        return pb.asarray(np.array([], int))
    return pb.asarray(np.array(index)) if isinstance(index, list | np.ndarray) else index


def check_everything_at(x, index):
    """Reading, writing and adding at an index, and the gradients of all three, against NumPy."""
    rng = np.random.default_rng(0)
    expected = x[index]
    out, pull = pb.vjp(lambda x: x[index], x)
    same(out, expected)
    g = rng.normal(size=np.shape(expected))
    scattered = np.zeros_like(x)
    np.add.at(scattered, index, g)
    np.testing.assert_allclose(pull(g)[0].numpy(), scattered, rtol=1e-14)

    value = rng.normal(size=np.shape(expected))
    written, added = x.copy(), x.copy()
    written[index] = value
    np.add.at(added, index, value)
    set_out, pull_set = pb.vjp(lambda x, v: x.at[index].set(v), x, value)
    add_out, pull_add = pb.vjp(lambda x, v: x.at[index].add(v), x, value)
    same(set_out, written)
    np.testing.assert_allclose(add_out.numpy(), added, rtol=1e-14)

    g = rng.normal(size=x.shape)
    untouched = g.copy()
    untouched[index] = 0
    numbers = np.arange(1, np.size(expected) + 1).reshape(np.shape(expected))
    last = np.zeros(x.shape, int)
    last[index] = numbers
    same(pull_set(g)[0], untouched)
    same(pull_set(g)[1], g[index] * (last[index] == numbers))
    same(pull_add(g)[0], g)
    same(pull_add(g)[1], g[index])


# --- every kind of index ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", INDICES, ids=repr)
def test_indices_of_every_kind_agree_with_numpy(index):
    check_everything_at(X, index)


@pytest.mark.parametrize("index", INDICES, ids=repr)
def test_tensors_serve_as_indices(index):
    same(pb.asarray(X)[as_tensors(index)], X[index])
    same(pb.asarray(X).at[as_tensors(index)].add(1.0), X + (pb.asarray(X * 0).at[index].add(1.0)).numpy())


@SOME
@given(st.data())
def test_basic_indices_agree_with_numpy(data):
    shape = data.draw(st.lists(st.integers(0, 4), max_size=4).map(tuple))
    index = data.draw(basic_indices(shape, allow_newaxis=True, allow_ellipsis=True))
    check_everything_at(np.random.default_rng(1).normal(size=shape), index)


@SOME
@given(st.data())
def test_integer_array_indices_agree_with_numpy(data):
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple))
    index = list(data.draw(integer_array_indices(shape, dtype=np.int64)))
    for position in range(len(index)):
        if data.draw(st.booleans()):
            index[position] = slice(None)
    check_everything_at(np.random.default_rng(1).normal(size=shape), tuple(index))


@SOME
@given(st.data())
def test_masks_agree_with_numpy(data):
    shape = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple))
    axes = data.draw(st.integers(1, len(shape)))
    mask = np.random.default_rng(data.draw(st.integers(0, 9))).random(shape[:axes]) < 0.5
    check_everything_at(np.random.default_rng(1).normal(size=shape), mask)


@pytest.mark.parametrize("x", [X[:, ::2, ::-1], np.asfortranarray(X), X.transpose(2, 0, 1), X[0, 0, :1], np.array(5.0)])
def test_any_layout_is_read_and_never_written(x):
    x = x.view()
    x.flags.writeable = False
    before = x.copy()
    for index in ((..., None), ([0],), ([0, 0],), x > 3) if x.ndim else ((), ..., None, True, np.array(False)):
        check_everything_at(x, index)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("axis", range(3))
def test_slices_of_a_large_table_get_the_sums_of_their_cotangents(axis):
    rng = np.random.default_rng(0)
    table = rng.normal(size=(6, 7, 8)).astype(np.float32)
    chosen = rng.integers(-6, 6, (40, 3))
    read = (slice(None),) * axis + (chosen,)
    g = rng.normal(size=table[read].shape).astype(np.float32)
    expected = np.zeros(table.shape)
    np.add.at(expected, read, g)
    for f in (lambda t: t[read], lambda t: t[(*read, ...)], lambda t: pb.take(t, chosen, axis=axis)):
        pulled = pb.vjp(f, table)[1](g)[0]
        assert pulled.dtype == np.float32
        np.testing.assert_allclose(pulled.numpy(), expected, rtol=1e-5, atol=1e-4)
    same(pb.asarray(table * 0).at[read].add(np.ones(g.shape, np.int8)), counts(table, read))
    with pytest.raises(IndexingError, match=f"index 9 is out of bounds for axis {axis} with size {6 + axis}"):
        pb.at_add(table, g, (slice(None),) * axis + (np.full((40, 3), 9),))


def counts(x, index):
    """How often each place of x is named by an index."""
    found = np.zeros(x.shape, np.float32)
    np.add.at(found, index, 1)
    return found


def test_reading_differentiates_to_any_order():
    x = np.array([1.0, 2.0, 3.0])

    def f(x):
        return pb.sum(x[[0, 0, 2]] ** 4) + x[1:][0] ** 3

    third = pb.grad(lambda x: pb.sum(pb.grad(lambda x: pb.sum(pb.grad(f)(x)))(x)))(x)
    np.testing.assert_allclose(third.numpy(), [2 * 24 * 1.0, 6.0, 24 * 3.0])
    np.testing.assert_allclose(pb.hessian(f)(x).numpy(), np.diag([2 * 12 * 1.0, 12.0, 12 * 9.0]))


# --- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "shape"),
    [
        ((slice(None), 1), ()),
        ((slice(None), 1), (4,)),
        ((slice(None), 1), (2, 1)),
        ((0, slice(None), 0), (1, 1, 3)),
        ((slice(None), [0, 2]), (2, 4)),
        ((slice(None), [0, 0]), ()),
        (MASK, ()),
        (MASK, (1,)),
        (MASK[:, :, 0], (4,)),
    ],
)
def test_written_values_broadcast_and_their_gradients_are_summed(index, shape):
    value = np.random.default_rng(0).normal(size=shape)
    written = X.copy()
    written[index] = value
    out, pull = pb.vjp(lambda v: pb.at_set(X, v, index), value)
    same(out, written)
    g = np.random.default_rng(1).normal(size=X.shape)
    survives = np.zeros(X.shape)
    survives[index] = 1
    ones = np.ones(shape)
    directional = np.sum(g * survives) if shape == () else None
    assert pull(g)[0].shape == shape
    if directional is not None:
        np.testing.assert_allclose(pull(g)[0].numpy(), directional)
    pushed = pb.jvp(lambda v: pb.at_set(X, v, index), (value,), (ones,))[1]
    np.testing.assert_allclose(np.sum(g * pushed.numpy()), np.sum(pull(g)[0].numpy()))
    same(pushed, survives)


def test_of_values_written_to_one_place_the_last_stays_and_has_the_gradient():
    x, v = np.zeros(3), np.array([1.0, 2, 3, 4])
    index = [0, 2, 0, 2]
    out, pull = pb.vjp(lambda v: pb.at_set(x, v, index), v)
    same(out, np.array([3.0, 0, 4]))
    same(pull(np.array([10.0, 20, 30]))[0], np.array([0.0, 0, 10, 30]))
    same(pb.jvp(lambda v: pb.at_set(x, v, index), (v,), (v,))[1], np.array([3.0, 0, 4]))
    out, pull = pb.vjp(lambda v: pb.at_add(x, v, index), v)
    same(out, np.array([4.0, 0, 6]))
    same(pull(np.array([10.0, 20, 30]))[0], np.array([10.0, 30, 10, 30]))


def test_assignment_to_an_index_is_on_the_tape():
    x = pb.tensor(np.array([1.0, 2, 3]), requires_grad=True)
    v = pb.tensor(np.array(5.0), requires_grad=True)
    y = x * 2
    before = y
    y[1] = v * v
    y[[0, 0]] = 7.0
    assert before is y
    pb.sum(y * np.array([1.0, 10, 100])).backward()
    same(x.grad, np.array([0.0, 0, 200]))
    assert v.grad.item() == 10 * 2 * 5
    same(y, np.array([7.0, 25, 6]))


def test_augmented_assignment_to_an_index_is_on_the_tape():
    x = pb.tensor(np.array([1.0, 2, 3]), requires_grad=True)
    y = x * 1.0
    y[1:] *= x[:2]
    pb.sum(y).backward()
    same(x.grad, np.array([1.0 + 2, 1 + 3, 2]))


def test_a_value_used_before_an_assignment_keeps_its_gradient():
    x = pb.tensor(np.array([1.0, 2]), requires_grad=True)
    y = x * 3
    squares = y * y
    y[0] = 0.0
    pb.sum(squares + y).backward()
    same(x.grad, np.array([18.0, 36 + 3]))


def test_a_leaf_is_not_written_while_recording_and_is_under_no_grad():
    x = pb.tensor(np.array([1.0, 2]), requires_grad=True)
    with pytest.raises(TapeError, match=r"at\[index\]\.set"):
        x[0] = 5.0
    same(x, np.array([1.0, 2]))
    with pb.no_grad():
        x[0] = 5.0
    same(x, np.array([5.0, 2]))


def test_written_values_take_the_dtype_of_the_array():
    x = np.zeros(3, np.float32)
    for value in (1, 0.5, np.float64(0.5), np.ones(3), np.ones(3, int), True):
        assert pb.at_set(x, value, slice(None)).dtype == np.float32
        assert pb.at_add(x, value, [0, 1, 2]).dtype == np.float32
    assert pb.grad(lambda v: pb.sum(pb.at_set(x, v, 0)))(np.float64(2)).dtype == np.float64
    same(pb.at_set(np.zeros(2, int), True, 0), np.array([1, 0]))


def test_updates_leave_the_array_as_it_was():
    x = np.zeros(3)
    pb.at_set(x, 1.0, 0), pb.at_add(x, 1.0, [0, 0]), pb.asarray(x).at[...].set(2.0)
    np.testing.assert_array_equal(x, np.zeros(3))


# --- along an axis ----------------------------------------------------------------------------------------------------


@SOME
@given(st.data())
def test_take_agrees_with_numpy(data):
    axis = data.draw(st.integers(-3, 2))
    size = X.shape[axis]
    indices = np.array(data.draw(st.lists(st.integers(-size, size - 1), max_size=5)), int)
    out, pull = pb.vjp(lambda x: pb.take(x, indices, axis=axis), X)
    same(out, np.take(X, indices, axis=axis))
    expected = np.zeros_like(X)
    np.add.at(np.moveaxis(expected, axis, 0), indices, np.moveaxis(out.numpy(), axis, 0))
    np.testing.assert_allclose(pull(out)[0].numpy(), expected, rtol=1e-14)
    same(pb.take(X, indices.reshape(1, -1, 1), axis=axis), np.take(X, indices.reshape(1, -1, 1), axis=axis))


@pytest.mark.parametrize("axis", range(-3, 3))
def test_take_along_axis_agrees_with_numpy_and_undoes_argsort(axis):
    rng = np.random.default_rng(0)
    x = rng.normal(size=X.shape)
    order = np.argsort(x, axis=axis)
    out, pull = pb.vjp(lambda x: pb.take_along_axis(x, order, axis=axis), x)
    same(out, np.sort(x, axis=axis))
    g = rng.normal(size=X.shape)
    expected = np.zeros_like(x)
    np.put_along_axis(expected, order, g, axis=axis)
    same(pull(g)[0], expected)


@pytest.mark.parametrize(("shape", "axis"), [((1, 3, 5), 2), ((2, 1, 1), 1), ((1, 1, 4), 0)])
def test_take_along_axis_broadcasts_its_indices(shape, axis):
    indices = np.random.default_rng(0).integers(-X.shape[axis], X.shape[axis], shape)
    out, pull = pb.vjp(lambda x: pb.take_along_axis(x, indices, axis=axis), X)
    same(out, np.take_along_axis(X, indices, axis=axis))
    assert np.sum(pull(np.ones(out.shape))[0].numpy()) == out.size


# --- order ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("descending", [False, True])
def test_sorting_agrees_with_numpy_and_sends_gradients_home(axis, descending):
    x = np.random.default_rng(0).normal(size=(4, 5))
    sign = -1 if descending else 1
    out, pull = pb.vjp(lambda x: pb.sort(x, axis=axis, descending=descending), x)
    same(out, sign * np.sort(sign * x, axis=axis))
    order = pb.argsort(x, axis=axis, descending=descending)
    same(order, np.argsort(sign * x, axis=axis))
    g = np.random.default_rng(1).normal(size=x.shape)
    expected = np.zeros_like(x)
    np.put_along_axis(expected, order.numpy(), g, axis=axis)
    same(pull(g)[0], expected)


def test_equal_numbers_keep_their_order_both_ways():
    x = np.array([2, 1, 2, 1, 2])
    same(pb.argsort(x), np.array([1, 3, 0, 2, 4]))
    same(pb.argsort(x, descending=True), np.array([0, 2, 4, 1, 3]))
    same(pb.vjp(pb.sort, x * 1.0)[1](np.arange(5.0))[0], np.array([2.0, 0, 3, 1, 4]))
    same(pb.sort(np.array([True, False])), np.array([False, True]))


@pytest.mark.parametrize("axis", [None, 0, -1])
@pytest.mark.parametrize("keepdims", [False, True])
def test_places_of_extremes_agree_with_numpy(axis, keepdims):
    x = np.array([[3, 1, 3], [0, 7, 0]])
    same(pb.argmax(x, axis=axis, keepdims=keepdims), np.argmax(x, axis, keepdims=keepdims))
    same(pb.argmin(x, axis=axis, keepdims=keepdims), np.argmin(x, axis, keepdims=keepdims))


def test_searches_and_sets_agree_with_numpy():
    x = np.array([[3, 0, 3], [0, 7, 1]])
    for a, e in zip(pb.nonzero(x), np.nonzero(x), strict=True):
        same(a, e)
    same(pb.asarray(x)[pb.nonzero(x)], x[np.nonzero(x)])
    same(pb.unique_values(x), np.unique(x))
    for name in ("unique_all", "unique_counts", "unique_inverse"):
        actual, expected = getattr(pb, name)(x), getattr(np, name)(x)
        assert actual._fields == expected._fields
        assert np.all(np.diff(actual.values.numpy()) > 0)
        for a, e in zip(actual, expected, strict=True):
            same(a, e)
    sorted_numbers, wanted = np.array([1, 3, 3, 8]), np.array([[0, 3], [9, 8]])
    for side in ("left", "right"):
        same(pb.searchsorted(sorted_numbers, wanted, side=side), np.searchsorted(sorted_numbers, wanted, side))
    mixed = np.array([3, 1, 8, 3])
    order = np.argsort(mixed)
    same(pb.searchsorted(mixed, wanted, sorter=order), np.searchsorted(mixed, wanted, sorter=order))


def test_what_has_no_derivative_is_a_constant():
    x = pb.tensor(np.array([3.0, 1, 2]), requires_grad=True)
    constants = [pb.argmax(x), pb.argmin(x), pb.argsort(x), pb.unique_values(x), pb.searchsorted(x, x), pb.any(x)]
    assert not any(y.requires_grad for y in (*constants, *pb.nonzero(x), pb.count_nonzero(x), pb.all(x)))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_arrays_without_elements_are_indexed_and_sorted(shape):
    x = np.zeros(shape)
    check_everything_at(x, slice(0, 0))
    check_everything_at(x, x > 0)
    check_everything_at(x, [])
    same(pb.sort(x), x)
    same(pb.grad(lambda x: pb.sum(pb.sort(x, axis=0)))(x), x)
    assert pb.nonzero(x)[0].shape == pb.unique_values(x).shape == (0,)
    same(pb.take_along_axis(x, pb.argsort(x)), x)


# --- bad arguments ----------------------------------------------------------------------------------------------------

T = pb.asarray(X)


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda: T[2], IndexingError, "getitem: index 2 is out of bounds for axis 0 with size 2"),
        (lambda: T[0, 0, -5], IndexingError, "index -5 is out of bounds for axis 2 with size 4"),
        (lambda: T[:, [0, 3]], IndexingError, "index 3 is out of bounds for axis 1 with size 3"),
        (lambda: T[[[0], [-3]]], IndexingError, "index -3 is out of bounds for axis 0 with size 2"),
        (lambda: T[0, 0, 0, 0], IndexingError, "too many indices"),
        (lambda: T[..., ...], IndexingError, "ellipsis"),
        (
            lambda: T[[True, False, True]],
            IndexingError,
            "boolean index did not match .* axis 0; size of axis is 2 .* 3",
        ),
        (lambda: T[pb.asarray(MASK[:, :2])], IndexingError, "boolean index did not match .* axis 1"),
        (lambda: T[[0, 1], [0, 1, 2]], IndexingError, "could not be broadcast"),
        (lambda: T[1.0], DtypeError, "getitem: an index is made of integers.*; got float"),
        (lambda: T[[0.0, 1.0]], DtypeError, "got float"),
        (lambda: T[pb.asarray([0.0])], DtypeError, "got float32"),
        (lambda: T["rows"], DtypeError, "got str"),
        (lambda: T[0, "a":], DtypeError, "slice indices must be integers"),
        (lambda: T[{0}], DtypeError, "got set"),
        (lambda: T.at[2].set(0.0), IndexingError, "at_set: index 2 is out of bounds for axis 0 with size 2"),
        (lambda: T.at[:, 7].add(0.0), IndexingError, "at_add: index 7 is out of bounds for axis 1 with size 3"),
        (lambda: T.at[[5]].add(0.0), IndexingError, "at_add: index 5 is out of bounds for axis 0 with size 2"),
        (lambda: T.at[:, [5]].add(0.0), IndexingError, "at_add: index 5 is out of bounds for axis 1 with size 3"),
        (lambda: T.at[[5]].set(0.0), IndexingError, "at_set: index 5 is out of bounds for axis 0 with size 2"),
        (lambda: T.at[0.5].set(0.0), DtypeError, "at_set: an index is made of"),
        (lambda: T.at[0].set(np.ones(3)), ShapeError, "at_set: could not broadcast"),
        (lambda: T.at[[0, 1]].add(np.ones((3, 3, 4))), ShapeError, "at_add: .*broadcast"),
        (lambda: T.at[MASK].set(np.ones(3)), ShapeError, "at_set: .*assign 3 input values to the 5 output values"),
        (lambda: pb.at_set(np.zeros(2, int), 1.5, 0), DtypeError, "would be cut to fit into int64"),
        (lambda: pb.at_add(np.zeros(2, int), np.ones(1), [0]), DtypeError, "would be cut to fit into int64"),
        (lambda: pb.take(X, [0, 9], axis=1), IndexingError, "take: index 9 is out of bounds for axis 1 with size 3"),
        (lambda: pb.take(X, [0]), ShapeError, "take: an array of 3 dimensions needs an axis"),
        (lambda: pb.take(X, [0.5], axis=0), DtypeError, "take: indices are integers; got float32"),
        (lambda: pb.take(X, [True], axis=0), DtypeError, "take: indices are integers; got bool"),
        (lambda: pb.take(X, [0], axis=3), ShapeError, "take: axis 3 is out of range"),
        (lambda: pb.take_along_axis(X, [0], axis=0), ShapeError, "the same number of axes"),
        (lambda: pb.take_along_axis(X[0, 0], [4]), IndexingError, "index 4 is out of bounds for axis 0 with size 4"),
        (lambda: pb.take_along_axis(X[0, 0], [1.0]), DtypeError, "indices are integers; got float32"),
        (lambda: pb.sort(X, axis=3), ShapeError, "sort: axis 3 is out of range"),
        (lambda: pb.sort(1.0), ShapeError, "sort: axis -1 is out of range"),
        (lambda: pb.argsort(X, axis=-4), ShapeError, "argsort: axis -4 is out of range"),
        (lambda: pb.argmax(X, axis=4), ShapeError, "argmax: axis 4 is out of range"),
        (lambda: pb.argmax(np.zeros(0)), ShapeError, "argmax: attempt to get argmax of an empty"),
        (lambda: pb.searchsorted(X, 1.0), ShapeError, "searchsorted: x1 is a vector"),
        (lambda: pb.searchsorted(X[0, 0], 1.0, side="middle"), ArgumentError, "side is"),
        (lambda: pb.nonzero(3.0), ShapeError, "nonzero: a 0-d array has no positions"),
    ],
)
def test_bad_arguments_are_named(call, kind, says):
    with pytest.raises(kind, match=says):
        call()
