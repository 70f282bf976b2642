"""Tensor: what it is made of, what Python asks of it, its operators and its indices."""

import operator
import pickle

import numpy as np
import pytest

import pullback as pb
from pullback.backends import default_dtype, set_default_dtype


def leaf(values, dtype="float64"):
    return pb.tensor(np.asarray(values, dtype), requires_grad=True)


@pytest.fixture
def float64_by_default():
    set_default_dtype("float64")
    yield
    set_default_dtype("float32")


# --- creation and dtypes ----------------------------------------------------------------------------------------------

CREATED = [
    (1.5, "float32"),
    (3, "int64"),
    (True, "bool"),
    ([1.0, 2.0], "float32"),
    ([1, 2], "int64"),
    ([1, 2.5], "float32"),
    ([True, False], "bool"),
    ([[1.0, 2.0], [3.0, 4.0]], "float32"),
    (((1, 2), (3, 4)), "int64"),
    ([], "float32"),
    (range(3), "int64"),
    (np.float64(1.5), "float64"),
    (np.float16(1.5), "float16"),
    (np.ones(2), "float64"),
    (np.ones(2, "float32"), "float32"),
    (np.ones(2, "float16"), "float16"),
    (np.ones(2, "int8"), "int8"),
    (np.ones(2, "uint16"), "uint16"),
    (np.ones(2, "bool"), "bool"),
    ([np.float64(1.0), np.float64(2.0)], "float64"),
    ([np.ones(2), np.ones(2)], "float64"),
    ([np.float32(1.0), 2.0], "float32"),
]


@pytest.mark.parametrize("make", [pb.tensor, pb.asarray])
@pytest.mark.parametrize(("data", "dtype"), CREATED, ids=str)
def test_arrays_keep_their_dtype_and_python_numbers_take_the_default(make, data, dtype):
    x = make(data)
    assert x.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(x.numpy(), np.asarray(data))
    assert x.shape == np.shape(data)
    assert not x.requires_grad


@pytest.mark.usefixtures("float64_by_default")
def test_the_default_dtype_can_be_set():
    assert default_dtype() == np.float64
    assert pb.tensor([1.0, 2.0]).dtype == np.float64
    assert pb.tensor(np.ones(2, "float32")).dtype == np.float32
    assert pb.tensor([1, 2]).dtype == np.int64


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64", None, "fast"])
def test_the_default_dtype_is_a_floating_point_type(dtype):
    with pytest.raises(pb.errors.DtypeError):
        set_default_dtype(dtype)
    assert pb.tensor([1.0]).dtype == np.float32


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "int8", "int64", "uint8", "bool", np.float64, float]
)
def test_a_dtype_can_be_asked_for(dtype):
    assert pb.tensor([1, 0], dtype=dtype).dtype == np.dtype(dtype)
    assert pb.asarray(np.ones(2), dtype=dtype).dtype == np.dtype(dtype)


def test_nested_lists_of_constant_tensors_are_stacked():
    x = pb.tensor([pb.tensor([1.0, 2.0]), pb.tensor([3.0, 4.0])])
    np.testing.assert_array_equal(x.numpy(), [[1.0, 2.0], [3.0, 4.0]])
    assert x.dtype == np.float32


def test_tensor_copies_and_asarray_shares():
    array = np.ones(3)
    copied, shared = pb.tensor(array), pb.asarray(array)
    array[0] = 5.0
    assert copied.tolist() == [1.0, 1.0, 1.0]
    assert shared.tolist() == [5.0, 1.0, 1.0]
    assert not np.shares_memory(pb.asarray(array, copy=True).numpy(), array)


def test_asarray_of_a_tensor_is_that_tensor():
    x = leaf([1.0, 2.0])
    assert pb.asarray(x) is x
    assert pb.asarray(x, dtype="float64") is x
    assert pb.asarray(x, device="cpu") is x


def test_a_recorded_tensor_stays_on_the_tape_through_asarray():
    x = leaf([1.0, 2.0])
    pb.sum(pb.asarray(x, dtype="float32") * pb.asarray(x * 1.0, copy=True)).backward()
    np.testing.assert_array_equal(x.grad.numpy(), 2 * x.numpy())
    with pytest.raises(pb.errors.ArgumentError, match="copy"):
        pb.asarray(x, dtype="float32", copy=False)


def test_a_new_tensor_of_a_recorded_one_would_cut_the_tape():
    x = leaf([1.0, 2.0])
    with pytest.raises(pb.errors.TapeError, match=r"cut the tape; call \.detach\(\)"):
        pb.tensor(x * 2.0)
    fresh = pb.tensor(x.detach(), requires_grad=True)
    assert fresh.is_leaf
    with pb.no_grad():
        assert pb.tensor(x * 2.0).tolist() == [2.0, 4.0]


def test_the_class_itself_takes_arrays_only():
    assert pb.Tensor(np.ones(2)).shape == (2,)
    with pytest.raises(pb.errors.DtypeError, match=r"builtins\.list; convert with pb\.asarray"):
        pb.Tensor([1.0, 2.0])


def test_a_leaf_needs_a_floating_point_dtype():
    assert leaf([1.0]).is_leaf
    assert leaf([1.0]).requires_grad
    assert not (leaf([1.0]) * 2.0).is_leaf
    for data in ([1, 2], [True]):
        with pytest.raises(pb.errors.DtypeError, match="requires_grad needs a floating-point dtype"):
            pb.tensor(data, requires_grad=True)
    assert pb.tensor([1, 2], dtype="float32", requires_grad=True).is_leaf


# --- what Python asks of it -------------------------------------------------------------------------------------------


def test_shape_and_size():
    x = pb.tensor(np.zeros((2, 3)))
    assert (x.shape, x.ndim, x.size, x.device, len(x)) == ((2, 3), 2, 6, "cpu", 2)
    assert isinstance(x.shape, tuple)


def test_repr_shows_numbers_dtype_and_whether_a_gradient_is_kept():
    assert repr(pb.tensor([1.0, 2.5])) == "Tensor([1. , 2.5], dtype=float32)"
    assert repr(leaf([1.0])) == "Tensor([1.], dtype=float64, requires_grad=True)"
    assert repr(pb.tensor(3)) == "Tensor(3, dtype=int64)"
    assert repr(pb.tensor([[1, 2], [3, 4]])) == "Tensor([[1, 2],\n        [3, 4]], dtype=int64)"
    assert len(repr(pb.tensor(np.zeros(10_000)))) < 200


def test_numbers_can_be_formatted():
    assert f"{pb.tensor(1.23456):.2f}" == "1.23"
    assert f"{pb.sum(leaf([1.0, 2.0])):8.3f}" == "   3.000"
    assert f"{pb.tensor([1, 2])}" == "Tensor([1, 2], dtype=int64)"
    with pytest.raises(pb.errors.ShapeError, match="one number"):
        f"{pb.tensor([1.0, 2.0]):.2f}"


def test_tensors_hash_by_identity_and_compare_by_element():
    x, y = pb.tensor([1.0, 2.0]), pb.tensor([1.0, 3.0])
    assert (x == y).tolist() == [True, False]
    assert (x != y).tolist() == [False, True]
    assert {x: "x", y: "y"}[x] == "x"
    assert len({x, y, x}) == 2


def test_a_tensor_is_iterated_along_its_first_axis_on_the_tape():
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    rows = list(x)
    assert [row.tolist() for row in rows] == [[1.0, 2.0], [3.0, 4.0]]
    pb.sum(rows[1] * 5.0).backward()
    np.testing.assert_array_equal(x.grad.numpy(), [[0.0, 0.0], [5.0, 5.0]])
    first, second = pb.tensor([7.0, 8.0])
    assert (first.item(), second.item()) == (7.0, 8.0)


def test_a_tensor_without_dimensions_has_no_length():
    for use in (len, list, iter):
        with pytest.raises(pb.errors.ShapeError, match="no length"):
            use(pb.tensor(1.0))


def test_truth_is_asked_of_one_number_only():
    assert bool(pb.tensor([[3.0]]))
    assert not pb.tensor(0)
    for values in ([1.0, 2.0], []):
        with pytest.raises(pb.errors.ShapeError, match=r"truth.*pb\.any.*pb\.all"):
            bool(pb.tensor(values))


def test_numbers_of_one_element_tensors():
    assert float(pb.tensor([2.5])) == 2.5
    assert int(pb.tensor(2.5)) == 2
    assert [10, 20, 30][pb.tensor(1)] == 20
    assert list(range(pb.tensor(3))) == [0, 1, 2]
    with pytest.raises(pb.errors.DtypeError, match="only a tensor of integers can be an index"):
        operator.index(pb.tensor(1.0))
    for convert in (float, int, lambda x: x.item()):
        with pytest.raises(pb.errors.ShapeError, match=r"one number.*shape \(2,\)"):
            convert(pb.tensor([1.0, 2.0]))


def test_item_and_tolist_give_python_objects():
    assert type(pb.tensor(1.5).item()) is float
    assert type(pb.tensor(1).item()) is int
    assert type(pb.tensor(True).item()) is bool
    assert type(pb.sum(pb.tensor([1.0, 2.0])).item()) is float
    assert pb.tensor([[1, 2]]).tolist() == [[1, 2]]
    assert pb.tensor(2.0).tolist() == 2.0


# --- operators --------------------------------------------------------------------------------------------------------

ARITHMETIC = [operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow]
COMPARISON = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]
A, B = np.array([[1.5, 2.0], [3.0, 4.5]]), np.array([[2.0, 3.0], [0.5, 4.5]])


@pytest.mark.parametrize("f", [*ARITHMETIC, *COMPARISON, operator.matmul], ids=lambda f: f.__name__)
def test_operators_take_tensors_and_arrays_on_either_side(f):
    expected = f(A, B)
    for left, right in ((pb.tensor(A), pb.tensor(B)), (pb.tensor(A), B), (A, pb.tensor(B))):
        got = f(left, right)
        assert isinstance(got, pb.Tensor)
        np.testing.assert_array_equal(got.numpy(), expected)


@pytest.mark.parametrize("f", [*ARITHMETIC, *COMPARISON], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    "number", [2, 2.5, np.float64(2.5), np.float32(2.5), np.int64(2), np.array(2.0, "float32")], ids=repr
)
def test_operators_take_numbers_on_either_side(f, number):
    x = A.astype("float32")
    for left, right, expected in (
        (pb.tensor(x), number, f(x, float(number))),
        (number, pb.tensor(x), f(float(number), x)),
    ):
        got = f(left, right)
        assert isinstance(got, pb.Tensor)
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got.numpy(), expected)


@pytest.mark.parametrize(
    "f", [operator.and_, operator.or_, operator.xor, operator.lshift, operator.rshift], ids=lambda f: f.__name__
)
def test_integer_operators_on_either_side(f):
    a, b = np.array([6, 5]), np.array([1, 3])
    for left, right in (
        (pb.tensor(a), pb.tensor(b)),
        (pb.tensor(a), b),
        (a, pb.tensor(b)),
        (pb.tensor(a), 3),
        (3, pb.tensor(a)),
    ):
        plain = [x.numpy() if isinstance(x, pb.Tensor) else x for x in (left, right)]
        np.testing.assert_array_equal(f(left, right).numpy(), f(*plain))


def test_unary_operators():
    x = pb.tensor([1.0, -2.0])
    assert (-x).tolist() == [-1.0, 2.0]
    assert (+x).tolist() == [1.0, -2.0]
    assert abs(x).tolist() == [1.0, 2.0]
    assert (~pb.tensor([True, False])).tolist() == [False, True]
    assert (~pb.tensor([5])).tolist() == [-6]


def test_an_array_is_not_updated_in_place_with_a_tensor():
    total = np.ones(2)
    with pytest.raises(TypeError, match="ufunc"):
        total += leaf([1.0, 2.0])
    assert total.tolist() == [1.0, 1.0]


def test_an_updated_name_leaves_the_old_value_alone():
    x = old = leaf([1.0, 2.0])
    x += 1.0
    x *= 2.0
    assert old.tolist() == [1.0, 2.0]
    pb.sum(x).backward()
    assert old.grad.tolist() == [2.0, 2.0]


def test_python_scalars_and_float64_scalars_do_not_widen():
    x = leaf([1.0, 2.0], "float32")
    for y in (
        x * 2.0,
        2.0 * x,
        x * np.float64(2.0),
        np.float64(2.0) * x,
        x + 1,
        x / 3,
        1 - x,
        x**2,
        2.0**x,
        x * np.int64(2),
    ):
        assert y.dtype == np.float32
    assert (x * np.ones(2)).dtype == np.float64
    assert (x * np.arange(2)).dtype == np.float32
    assert (x * True).dtype == np.float32


def test_a_python_float_beside_integers_makes_the_default_dtype():
    ints, mask, x = pb.tensor([1, 2]), pb.tensor([True, False]), pb.tensor([1.5, 2.5])
    for y in (
        ints * 0.5,
        0.5 + ints,
        mask * 0.5,
        ints**0.5,
        ints / 2.0,
        pb.where(mask, 1.0, ints),
        pb.where(mask, 1.0, 0),
    ):
        assert y.dtype == np.float32
    assert (x * (mask * 2.0)).dtype == np.float32
    assert pb.result_type(pb.int64, 1.0) == np.float32
    assert pb.where(mask, 1, 0).dtype == np.int64
    assert (pb.tensor([2**53 + 1]) > 2.0**53).item() == (np.array([2**53 + 1]) > 2.0**53).item()  # no detour by float32


def test_gradients_flow_through_operators_with_the_constant_on_the_left():
    x = leaf([1.0, 2.0])
    pb.sum(B[0] * x + B[0] / x + (B[0] - x) + 2.0**x).backward()
    expected = B[0] - B[0] / x.numpy() ** 2 - 1 + np.log(2) * 2 ** x.numpy()
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-14)


# --- indexing ---------------------------------------------------------------------------------------------------------

INDICES = [0, -1, slice(None), slice(None, None, -1), slice(1, None), (1, 2), (slice(None), 1), (..., -1), None,
           (None, 0), [0, 1], ([0, 1], [2, 0]), np.array([1, 1, 0]), np.array([True, False]), (slice(0, 2), [2, 0]),
]  # fmt: skip


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_an_indexed_tensor_is_a_value_with_a_gradient(index):
    values = np.arange(6.0).reshape(2, 3)
    x = leaf(values)
    y = x[index]
    np.testing.assert_array_equal(y.numpy(), values[index])
    weights = np.random.default_rng(0).normal(size=y.shape)
    y.backward(weights)
    expected = np.zeros((2, 3))
    np.add.at(expected, index, weights)
    np.testing.assert_array_equal(x.grad.numpy(), expected)


@pytest.mark.parametrize("index", [0, (1, 2), slice(None, None, 2), np.array([True, False]), [1, 0]], ids=str)
def test_writing_at_an_index_is_on_the_tape(index):
    values = np.arange(6.0).reshape(2, 3)
    x, v = leaf(values), leaf(10.0)
    y = x * 1.0
    before = y
    y[index] = v * 2.0
    assert y is before
    expected = values.copy()
    expected[index] = 20.0
    np.testing.assert_array_equal(y.numpy(), expected)
    np.testing.assert_array_equal(x.numpy(), values)
    weights = np.random.default_rng(0).normal(size=(2, 3))
    y.backward(weights)
    covered = np.zeros((2, 3), bool)
    covered[index] = True
    np.testing.assert_array_equal(x.grad.numpy(), np.where(covered, 0.0, weights))
    np.testing.assert_allclose(v.grad.item(), 2 * weights[covered].sum(), rtol=1e-14)


def test_a_write_gives_the_name_a_new_value_and_leaves_what_was_computed():
    x = leaf([1.0, 2.0, 3.0])
    y = x * 1.0
    doubled = y * 2.0
    y[0] = 0.0
    assert doubled.tolist() == [2.0, 4.0, 6.0]
    pb.sum(doubled + y).backward()
    assert x.grad.tolist() == [2.0, 3.0, 3.0]


def test_a_constant_can_take_a_recorded_value_at_an_index():
    x = leaf([1.0, 2.0])
    buffer = pb.tensor(np.zeros(3))
    buffer[1:] = x * 3.0
    assert buffer.requires_grad
    pb.sum(buffer).backward()
    assert x.grad.tolist() == [3.0, 3.0]


def test_at_gives_a_new_value():
    x = leaf([1.0, 2.0, 3.0])
    assert x.at[0].set(9.0).tolist() == [9.0, 2.0, 3.0]
    assert x.at[[0, 0, 2]].add(1.0).tolist() == [3.0, 2.0, 4.0]
    assert x.tolist() == [1.0, 2.0, 3.0]
    pb.sum(x.at[0].set(9.0) + x.at[[0, 0]].add(x[1] * 5.0)).backward()
    assert x.grad.tolist() == [1.0, 12.0, 2.0]


def test_a_leaf_is_written_at_an_index_only_without_recording():
    x = leaf([1.0, 2.0, 3.0])
    with pytest.raises(pb.errors.TapeError, match=r"x\.at\[index\]\.set\(value\)"):
        x[0] = 5.0
    assert x.tolist() == [1.0, 2.0, 3.0]
    with pb.no_grad():
        x[0] = 5.0
    assert x.tolist() == [5.0, 2.0, 3.0]
    assert x.is_leaf


def test_an_array_that_was_pickled_has_the_dtype_that_all_have():
    """Pickle makes a dtype of its own, which is equal and not identical; fast paths compare by identity."""
    for dtype in ("float32", "float64", "int64", "bool", "float16"):
        array = pickle.loads(pickle.dumps(np.ones((2, 3), dtype)))
        assert array.dtype is not np.dtype(dtype)
        for x in (pb.tensor(array), pb.asarray(array), pb.add(array, array) if dtype != "bool" else pb.asarray(array)):
            assert x.dtype is np.dtype(dtype)
    swapped = np.arange(3, dtype=">f4")
    np.testing.assert_array_equal(pb.asarray(swapped).numpy(), [0, 1, 2])
