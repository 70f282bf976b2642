"""Arrays rearranged, joined, cut, repeated and padded: against NumPy, on the tape, and with bad arguments."""

import inspect

import array_api_strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pullback as pb
from pullback.core.op import OPS
from pullback.core.recording import observe
from pullback.errors import ArgumentError, DtypeError, ShapeError

SOME = settings(deadline=None, max_examples=60)
shapes = st.lists(st.integers(0, 3), max_size=4).map(tuple)


def numbered(shape):
    return np.arange(float(np.prod(shape))).reshape(shape)


@st.composite
def arrays_and_axes(draw, least=0):
    """An array and distinct axes of it, some counted from the end."""
    shape = draw(st.lists(st.integers(0, 3), min_size=least, max_size=4).map(tuple))
    chosen = draw(st.lists(st.integers(0, len(shape) - 1), unique=True, min_size=least) if shape else st.just([]))
    return numbered(shape), tuple(a - len(shape) if draw(st.booleans()) else a for a in chosen)


def same(actual, expected):
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual.numpy(), expected)


def equations(f, *args):
    """The names of the ops that f records."""
    names = []
    with observe(lambda equation, _, value: names.append(equation.op.name)):
        f(*[pb.tensor(x, requires_grad=True) for x in args])
    return names


FILES = {"indexing", "joining", "reductions", "scans", "searching", "shaping"}
STANDARD = {**vars(array_api_strict.linalg), **vars(array_api_strict)}
NAMES = [n for n, op in OPS.items() if n in STANDARD and op.forward.__module__.rpartition(".")[2] in FILES]


@pytest.mark.parametrize("name", NAMES)
def test_signatures_are_those_of_the_standard(name):
    """Arguments of the standard are there, in their places, by their names and with their defaults."""
    ours = inspect.signature(getattr(pb, name)).parameters
    theirs = inspect.signature(STANDARD[name]).parameters
    first = [n for n, p in theirs.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert list(ours)[: len(first)] == first
    for n, p in theirs.items():
        if (name, n) != ("astype", "device"):  # there is Tensor.to
            assert ours[n].default == p.default or p.default is p.empty


# --- axes and shapes --------------------------------------------------------------------------------------------------


@SOME
@given(st.permutations(range(4)), st.lists(st.booleans(), min_size=4, max_size=4))
def test_permuted_axes_agree_with_numpy(order, from_end):
    x = numbered((2, 3, 1, 2))
    axes = [a - 4 if negative else a for a, negative in zip(order, from_end, strict=True)]
    same(pb.permute_dims(x, axes), np.transpose(x, axes))


@SOME
@given(arrays_and_axes(), st.data())
def test_moved_axes_agree_with_numpy(case, data):
    x, source = case
    destination = tuple(data.draw(st.permutations(range(x.ndim)))[: len(source)])
    same(pb.moveaxis(x, source, destination), np.moveaxis(x, source, destination))


@SOME
@given(arrays_and_axes())
def test_new_and_dropped_unit_axes_agree_with_numpy(case):
    x, axes = case
    axes = tuple(a % x.ndim for a in axes)
    wide = np.expand_dims(x, axes)
    same(pb.expand_dims(x, axis=axes), wide)
    same(pb.expand_dims(x, axis=tuple(a - wide.ndim for a in axes)), wide)
    same(pb.squeeze(wide, axes), np.squeeze(wide, axes))
    same(pb.squeeze(wide), np.squeeze(wide))


@SOME
@given(arrays_and_axes())
def test_flipped_arrays_agree_with_numpy(case):
    x, axes = case
    same(pb.flip(x, axis=axes), np.flip(x, axes))
    same(pb.flip(x), np.flip(x))


@SOME
@given(arrays_and_axes(), st.integers(-5, 5))
def test_rolled_arrays_agree_with_numpy(case, shift):
    x, axes = case
    same(pb.roll(x, shift), np.roll(x, shift))
    shifts = tuple(range(shift, shift + len(axes)))
    same(pb.roll(x, shift, axis=axes), np.roll(x, shift, axes) if axes else x)
    same(pb.roll(x, shifts, axis=axes), np.roll(x, shifts, axes) if axes else x)


@pytest.mark.parametrize("shape", [(), (2,), (2, 3), (0, 3), (2, 3, 4)])
def test_reshaped_arrays_agree_with_numpy(shape):
    x = numbered(shape)
    same(pb.reshape(x, (x.size,)), x.reshape(-1))
    same(pb.tensor(x).reshape(1, x.size), x.reshape(1, x.size))
    assert not np.shares_memory(pb.reshape(x, shape, copy=True).numpy(), x)
    if x.size:
        same(pb.reshape(x, (-1, 1)), x.reshape(-1, 1))
        same(pb.reshape(x, -1), x.reshape(-1))


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (3, 2), (0, 3), (2, 0), (2, 3, 4)])
@pytest.mark.parametrize("k", range(-4, 5))
def test_triangles_and_diagonals_agree_with_numpy(shape, k):
    x = numbered(shape) + 1
    same(pb.tril(x, k=k), np.tril(x, k))
    same(pb.triu(x, k=k), np.triu(x, k))
    same(pb.diagonal(x, offset=k), np.diagonal(x, k, -2, -1))
    for axis1, axis2 in ((0, 1), (1, 0), (-1, 0)):
        same(pb.diagonal(x, offset=k, axis1=axis1, axis2=axis2), np.diagonal(x, k, axis1, axis2))


@pytest.mark.parametrize("indexing", ["xy", "ij"])
@pytest.mark.parametrize("lengths", [(), (2,), (2, 3), (2, 0), (2, 3, 4), (1, 2, 1, 3)])
def test_grids_agree_with_numpy(lengths, indexing):
    vectors = [numbered((n,)) for n in lengths]
    actual = pb.meshgrid(*vectors, indexing=indexing)
    expected = np.meshgrid(*vectors, indexing=indexing)
    assert isinstance(actual, tuple)
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        same(a, e)


@pytest.mark.parametrize("met", [((2, 1), (3,), ()), ((0, 1), (1, 3)), ((4,),), ((1, 2, 1), (3, 1, 5))])
def test_arrays_broadcast_together_as_in_numpy(met):
    given_arrays = [numbered(shape) for shape in met]
    for a, e in zip(pb.broadcast_arrays(*given_arrays), np.broadcast_arrays(*given_arrays), strict=True):
        same(a, e)


@SOME
@given(st.data())
def test_broadcasting_is_undone_by_its_gradient(data):
    wide = data.draw(st.lists(st.integers(0, 3), max_size=4).map(tuple))
    lead = data.draw(st.integers(0, len(wide)))
    small = tuple(n if data.draw(st.booleans()) else 1 for n in wide[lead:])
    x = numbered(small)
    out, pull = pb.vjp(lambda x: pb.broadcast_to(x, wide), x)
    same(out, np.broadcast_to(x, wide))
    times = np.prod(wide) / max(np.prod(small), 1)
    same(pull(np.ones(wide))[0], np.full(small, times))


def test_numbers_broadcast_beside_arrays():
    same(pb.broadcast_arrays(X, 2)[1], np.full((2, 3), 2))


def test_a_large_array_broadcasts_without_a_copy():
    x = np.ones(1000)
    assert np.shares_memory(pb.broadcast_to(x, (100, 1000)).numpy(), x)


# --- joined and cut ---------------------------------------------------------------------------------------------------


@SOME
@given(st.data())
def test_joined_arrays_agree_with_numpy(data):
    shape = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    lengths = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
    parts = [np.random.default_rng(n).normal(size=(*shape[:axis], n, *shape[axis:][1:])) for n in lengths]
    same(pb.concat(parts, axis=axis), np.concatenate(parts, axis))
    same(pb.concat(parts, axis=None), np.concatenate(parts, None))
    out, pull = pb.vjp(lambda parts: pb.concat(parts, axis=axis), parts)
    for pulled, part in zip(pull(out)[0], parts, strict=True):
        same(pulled, part)


@SOME
@given(arrays_and_axes(least=1), st.integers(1, 3))
def test_stacked_arrays_come_apart_again(case, count):
    x, axes = case
    axis = axes[0]
    layers = [x + 100 * i for i in range(count)]
    stacked = pb.stack(layers, axis=axis)
    same(stacked, np.stack(layers, axis))
    apart = pb.unstack(stacked, axis=axis)
    assert isinstance(apart, tuple)
    for a, layer in zip(apart, layers, strict=True):
        same(a, layer)


@pytest.mark.parametrize("sections", [1, 2, 3, 6, [], [2], [1, 4], [0, 0, 6], [-2], [2, 9], np.array([3])])
@pytest.mark.parametrize("axis", [1, -1])
def test_parts_agree_with_numpy_and_join_again(sections, axis):
    x = numbered((2, 6))
    parts = pb.split(x, sections, axis=axis)
    assert isinstance(parts, tuple)
    for a, e in zip(parts, np.split(x, sections, axis), strict=True):
        same(a, e)
    same(pb.concat(parts, axis=axis), x)


def test_an_axis_of_length_zero_splits_and_unstacks():
    assert [part.shape for part in pb.split(np.zeros((2, 0)), 3, axis=1)] == [(2, 0)] * 3
    assert pb.unstack(np.zeros((0, 2))) == ()
    assert pb.unstack(pb.zeros((0, 2))) == ()


def test_a_part_that_nothing_uses_has_gradient_zero():
    x = numbered((4,))
    same(pb.grad(lambda x: pb.sum(pb.split(x, 2)[1] ** 2))(x), np.array([0.0, 0, 4, 6]))
    same(pb.grad(lambda x: pb.unstack(x)[2] ** 2)(x), np.array([0.0, 0, 4, 0]))


def test_the_same_array_joined_twice_gets_both_cotangents():
    x = numbered((2,))
    weights = np.array([1.0, 10, 100, 1000])
    same(pb.grad(lambda x: pb.sum(pb.concat([x, x]) * weights))(x), np.array([101.0, 1010]))
    same(pb.grad(lambda x: pb.sum(pb.stack([x, x]) * weights.reshape(2, 2)))(x), np.array([101.0, 1010]))


def test_unstacking_is_one_line_of_the_tape_however_many_parts():
    names = equations(pb.unstack, numbered((50, 2)))
    assert names == ["unstack"]


def test_numbers_among_joined_arrays_take_their_dtype():
    for dtype in (np.float32, np.float64):
        x = pb.tensor(np.array(2.0, dtype), requires_grad=True)
        out = pb.stack([x * 3, 0.1, 7])
        assert out.dtype == dtype
        np.testing.assert_array_equal(out.numpy(), np.array([6, 0.1, 7], dtype))
        out.backward(np.ones(3, dtype))
        assert x.grad.item() == 3.0
    assert pb.stack([1, 2]).dtype == np.int64
    assert pb.stack([1.5, 2]).dtype == np.float32
    assert pb.stack([np.array(1), 2.5]).dtype == np.float32
    assert pb.stack([np.array(1, np.int8), 2]).dtype == np.int8


def test_joining_promotes_as_arithmetic_does_and_pulls_back_each_dtype():
    single, double, whole = np.ones(2, np.float32), np.ones(2), np.ones(2, int)
    assert pb.concat([single, whole]).dtype == np.float32
    assert pb.concat([single, double]).dtype == np.float64
    pulled = pb.vjp(lambda a, b: pb.concat([a, b]), single, double)[1](np.ones(4))
    assert [g.dtype for g in pulled] == [np.float32, np.float64]


# --- repeated and padded ----------------------------------------------------------------------------------------------


@SOME
@given(shapes, st.one_of(st.integers(0, 3), st.lists(st.integers(0, 3), max_size=4)))
def test_tiles_agree_with_numpy(shape, repetitions):
    same(pb.tile(numbered(shape), repetitions), np.tile(numbered(shape), repetitions))


@SOME
@given(arrays_and_axes(least=1), st.integers(0, 3), st.data())
def test_repeats_agree_with_numpy(case, times, data):
    x, axes = case
    axis = axes[0]
    same(pb.repeat(x, times), np.repeat(x, times))
    same(pb.repeat(x, times, axis=axis), np.repeat(x, times, axis))
    size = x.shape[axis]
    each = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    if each:
        for counts in (each, np.array(each), pb.asarray(np.array(each))):
            same(pb.repeat(x, counts, axis=axis), np.repeat(x, each, axis))


@SOME
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 9), st.integers(0, 9)), max_size=3), st.floats(-2, 2))
@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "symmetric", "wrap"])
def test_padding_agrees_with_numpy(mode, axes, value):
    x = numbered([n for n, _, _ in axes])
    widths = [(before, after) for _, before, after in axes]
    options = {"constant_values": value} if mode == "constant" else {}
    actual = pb.pad(x, widths, mode=mode, constant_value=value)
    same(actual, np.pad(x, widths, mode=mode, **options) if x.ndim else x)


def test_padding_widths_may_be_given_once_for_all_axes():
    x = numbered((2, 3))
    same(pb.pad(x, 1), np.pad(x, 1))
    same(pb.pad(x, (0, 2)), np.pad(x, (0, 2)))
    same(pb.pad(x, [(1, 2)]), np.pad(x, [(1, 2)]))
    same(pb.pad(np.zeros((0, 2)), 1), np.zeros((2, 4)))
    filled = pb.pad(x, 1, constant_value=-np.inf)
    assert np.isneginf(filled.numpy()).sum() == 14
    same(pb.vjp(lambda x: pb.pad(x, 1, constant_value=-np.inf), x)[1](filled)[0], x)


@pytest.mark.parametrize(("mode", "gradient"), [("edge", [3, 1, 2]), ("reflect", [1, 3, 2]), ("wrap", [2, 2, 2])])
def test_the_gradient_of_padding_counts_how_often_each_number_is_used(mode, gradient):
    x = np.zeros(3)
    same(pb.vjp(lambda x: pb.pad(x, (2, 1), mode=mode), x)[1](np.ones(6))[0], np.array(gradient, float))


# --- types ------------------------------------------------------------------------------------------------------------


def test_casts_differentiate_between_floating_point_types():
    x = np.array([1.5, 2.5], np.float32)
    pulled = pb.grad(lambda x: pb.sum(pb.astype(x, "float64") ** 2))(x)
    same(pulled, 2 * x)
    same(pb.astype(x, "int64"), np.array([1, 2]))
    assert np.shares_memory(pb.astype(x, np.float32, copy=False).numpy(), x)
    assert not np.shares_memory(pb.astype(x, np.float32).numpy(), x)


# --- nothing, and one number ------------------------------------------------------------------------------------------

NOTHING = {
    "astype": lambda x: pb.astype(x, "float32"),
    "at_add": lambda x: pb.at_add(x, x[:0], np.zeros(0, int)),
    "at_set": lambda x: pb.at_set(x, 2 * x, slice(None)),
    "broadcast_arrays": lambda x: pb.broadcast_arrays(x, x[..., :1])[0],
    "broadcast_to": lambda x: pb.broadcast_to(x, (2, *x.shape)),
    "concat": lambda x: pb.concat([x, x], axis=-1),
    "cumulative_prod": lambda x: pb.cumulative_prod(x, axis=1),
    "cumulative_sum": lambda x: pb.cumulative_sum(x, axis=0),
    "diagonal": lambda x: pb.diagonal(x, offset=1),
    "diff": lambda x: pb.diff(x, axis=0, prepend=x),
    "expand_dims": lambda x: pb.expand_dims(x, axis=1),
    "flip": pb.flip,
    "getitem": lambda x: x[:, None, ::-1],
    "linear_recurrence": lambda x: pb.linear_recurrence(x, x),
    "log_softmax": pb.log_softmax,
    "logsumexp": lambda x: pb.logsumexp(x, axis=-1),
    "matrix_transpose": pb.matrix_transpose,
    "max": lambda x: pb.max(x, axis=0 if x.shape[0] else 1),
    "mean": lambda x: pb.mean(x, axis=0),
    "meshgrid": lambda x: pb.meshgrid(x[:, 0], x[:, 0])[0] if x.shape[1] else pb.meshgrid(x[0], x[0])[0],
    "min": lambda x: pb.min(x, axis=0 if x.shape[0] else 1),
    "moveaxis": lambda x: pb.moveaxis(x, 0, 1),
    "pad": lambda x: pb.pad(x, 1),
    "permute_dims": lambda x: pb.permute_dims(x, (1, 0)),
    "prod": lambda x: pb.prod(x, axis=1),
    "repeat": lambda x: pb.repeat(x, 2),
    "reshape": lambda x: pb.reshape(x, (3, 0)),
    "roll": lambda x: pb.roll(x, 2, axis=0),
    "scatter": lambda x: pb.scatter(x, ..., x.shape),
    "scatter_along_axis": lambda x: pb.scatter_along_axis(x, np.zeros(x.shape, int), 0, (2, x.shape[1])),
    "softmax": pb.softmax,
    "sort": pb.sort,
    "split": lambda x: pb.split(x, [1, 2], axis=1)[2],
    "squeeze": pb.squeeze,
    "stack": lambda x: pb.stack([x, x]),
    "std": lambda x: pb.std(x, axis=1),
    "sum": pb.sum,
    "sum_to": lambda x: pb.sum_to(x, (1, 1)),
    "take": lambda x: pb.take(x, np.zeros(0, int), axis=1),
    "take_along_axis": lambda x: pb.take_along_axis(x, np.zeros((0, x.shape[1]), int), axis=0),
    "tile": lambda x: pb.tile(x, 2),
    "to_device": lambda x: pb.tensor(x).to("cpu") if isinstance(x, np.ndarray) else x.to("cpu"),
    "tril": pb.tril,
    "triu": pb.triu,
    "unstack": lambda x: pb.unstack(x, axis=0 if x.shape[0] else 1)[0],
    "var": lambda x: pb.var(x, axis=0),
    "vector_norm": lambda x: pb.vector_norm(x, axis=1),
}


def test_every_op_of_these_files_is_tried_on_nothing():
    files = {*FILES, "softmax"}
    assert {
        n
        for n, op in OPS.items()
        if op.forward.__module__.rpartition(".")[2] in files and op.differentiable and not n.endswith("_slope")
    } == set(NOTHING)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
@pytest.mark.parametrize("name", NOTHING)
def test_ops_and_their_derivatives_take_arrays_without_elements(name, shape):
    x = np.zeros(shape)
    out, pull = pb.vjp(NOTHING[name], x)
    same(pull(np.zeros(out.shape))[0], x)
    assert pb.jvp(NOTHING[name], (x,), (x,))[1].shape == out.shape


@pytest.mark.parametrize(
    ("f", "expected"),
    [
        (lambda x: pb.reshape(x, (1, 1)), [[2.0]]),
        (lambda x: pb.expand_dims(x, axis=0), [2.0]),
        (pb.squeeze, 2.0),
        (lambda x: pb.broadcast_to(x, (2,)), [2.0, 2.0]),
        (lambda x: pb.permute_dims(x, ()), 2.0),
        (pb.flip, 2.0),
        (lambda x: pb.roll(x, 3), 2.0),
        (lambda x: pb.stack([x, x]), [2.0, 2.0]),
        (lambda x: pb.concat([x, x], axis=None), [2.0, 2.0]),
        (lambda x: pb.tile(x, 2), [2.0, 2.0]),
        (lambda x: pb.repeat(x, 2), [2.0, 2.0]),
        (lambda x: pb.pad(x, 1), 2.0),
        (lambda x: x[...], 2.0),
        (lambda x: x[None], [2.0]),
        (lambda x: x[x > 0], [2.0]),
        (lambda x: x.at[...].add(x), 4.0),
        (lambda x: x.at[()].set(3 * x), 6.0),
        (lambda x: pb.sum(x, keepdims=True), 2.0),
        (lambda x: pb.prod(x, axis=()), 2.0),
    ],
)
def test_ops_and_their_derivatives_take_a_number(f, expected):
    x = np.array(2.0)
    out, pull = pb.vjp(f, x)
    same(out, np.array(expected))
    assert pull(out)[0].item() == np.sum(np.square(expected)) / 2
    same(pb.jvp(f, (x,), (x,))[1], np.array(expected))


# --- bad arguments ----------------------------------------------------------------------------------------------------

X = np.ones((2, 3))


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda: pb.reshape(X, (4, 2)), ShapeError, r"reshape: cannot reshape array of size 6 into shape \(4,\s*2\)"),
        (lambda: pb.reshape(X.T, (6,), copy=False), ShapeError, "reshape: Unable to avoid creating a copy"),
        (lambda: pb.reshape(X, (-1, -1)), ShapeError, "one unknown dimension"),
        (lambda: pb.reshape(X, (2.0, 3)), DtypeError, "reshape: .*float"),
        (lambda: pb.permute_dims(X, (0,)), ShapeError, "permute_dims: axes .* name 1 of 2 axes"),
        (lambda: pb.permute_dims(X, (0, 0)), ShapeError, "twice"),
        (lambda: pb.permute_dims(X, (0, 2)), ShapeError, "axis 2 is out of range"),
        (lambda: pb.matrix_transpose(X[0]), ShapeError, "matrix_transpose: a matrix has two axes"),
        (lambda: pb.matrix_transpose(1.0), ShapeError, "a matrix has two axes"),
        (lambda: pb.tril(X[0]), ShapeError, "tril: a matrix has two axes"),
        (lambda: pb.triu(2.0), ShapeError, "triu: a matrix has two axes"),
        (lambda: pb.moveaxis(X, (0, 1), 0), ShapeError, "2 axes cannot move to 1 positions"),
        (lambda: pb.moveaxis(X, 2, 0), ShapeError, "axis 2 is out of range"),
        (lambda: pb.expand_dims(X, axis=4), ShapeError, "expand_dims: axis 4 is out of range"),
        (lambda: pb.expand_dims(X, axis=(0, 0)), ShapeError, "twice"),
        (lambda: pb.squeeze(X, 0), ShapeError, "squeeze: axis 0 has length 2"),
        (lambda: pb.broadcast_to(X, (3, 3)), ShapeError, "broadcast_to: .*broadcast"),
        (lambda: pb.broadcast_to(X, (3,)), ShapeError, "broadcast_to: .*more dimensions"),
        (lambda: pb.broadcast_arrays(X, X.T), ShapeError, r"shapes \(2, 3\), \(3, 2\) do not broadcast"),
        (lambda: pb.flip(X, axis=2), ShapeError, "flip: axis 2 is out of range"),
        (lambda: pb.roll(X, (1, 2), axis=0), ShapeError, "roll: 2 shifts for 1 axes"),
        (lambda: pb.roll(X, 1, axis=3), ShapeError, "axis 3 is out of range"),
        (lambda: pb.concat([X, X.T]), ShapeError, "concat: all the input array dimensions"),
        (lambda: pb.concat([X, X[0]]), ShapeError, "concat: all the input arrays must have same number of dimensions"),
        (lambda: pb.concat([]), ArgumentError, "concat: arrays is a non-empty list"),
        (lambda: pb.concat([X, None]), DtypeError, r"concat: argument arrays\[1\]: cannot make a tensor of NoneType"),
        (lambda: pb.concat([X], axis=2), ShapeError, "axis 2 is out of bounds"),
        (lambda: pb.concat([1.0, 2.0]), ShapeError, "zero-dimensional arrays cannot be concatenated"),
        (lambda: pb.stack([X, X[0]]), ShapeError, "stack: all input arrays must have the same shape"),
        (lambda: pb.stack(X), ArgumentError, "stack: arrays is a non-empty list"),
        (lambda: pb.unstack(X, axis=2), ShapeError, "unstack: axis 2 is out of range"),
        (lambda: pb.unstack(1.0), ShapeError, "unstack: axis 0 is out of range"),
        (lambda: pb.split(X, 2, axis=1), ShapeError, "split: 3 numbers along the axis do not make 2 equal parts"),
        (lambda: pb.split(X, 0), ShapeError, "do not make 0 equal parts"),
        (lambda: pb.split(X, [2, 1], axis=1), ArgumentError, "ascending order"),
        (lambda: pb.split(X, 1.5), ArgumentError, "a number of parts is an int, positions are several"),
        (lambda: pb.repeat(X, -1), ArgumentError, "repeats are integers, 0 or more"),
        (lambda: pb.repeat(X, 1.5), ArgumentError, "repeats are integers, 0 or more"),
        (lambda: pb.repeat(X, [1, 2], axis=1), ShapeError, "2 repeats for 3 slices along axis 1"),
        (lambda: pb.tile(X, -1), ArgumentError, "tile: repetitions are integers, 0 or more"),
        (lambda: pb.pad(X, (1, 2, 3)), ArgumentError, "pad_width is an int"),
        (lambda: pb.pad(X, [(1, 2)] * 3), ArgumentError, "pad_width is an int"),
        (lambda: pb.pad(X, -1), ArgumentError, "widths are integers, 0 or more"),
        (lambda: pb.pad(X, 1, mode="mirror"), ArgumentError, "mode is one of constant, edge, wrap"),
        (lambda: pb.pad(np.zeros((0, 2)), 1, mode="edge"), ShapeError, "axis 0 has no numbers"),
        (lambda: pb.diagonal(X[0]), ShapeError, "diagonal: axis -2 is out of range"),
        (lambda: pb.diagonal(X, axis1=0, axis2=-2), ShapeError, "twice"),
        (lambda: pb.meshgrid(X), ShapeError, "meshgrid: coordinates are vectors"),
        (lambda: pb.meshgrid(X[0], 1.0), ShapeError, "meshgrid: coordinates are vectors"),
        (lambda: pb.meshgrid(X[0], indexing="yx"), ArgumentError, 'indexing is "xy" or "ij"'),
        (lambda: pb.astype(X, "float31"), DtypeError, "float31"),
        (lambda: pb.astype(X, "complex64"), DtypeError, "complex64"),
    ],
)
def test_bad_arguments_are_named(call, kind, says):
    with pytest.raises(kind, match=says):
        call()
