"""What NumPy runs by a function of its own gives what the plain body gives, on every kind of input."""

from functools import partial

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pullback as pb
from pullback.backends import BACKENDS
from pullback.backends.numpy_fused import fused
from pullback.core.op import ARRAYS, OPS
from pullback.errors import IndexingError, PullbackError

DTYPES = st.sampled_from([np.float16, np.float32, np.float64])
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e30]
MATRIX = st.tuples(st.integers(0, 5), st.integers(0, 6))


def plain(name):
    op, backend = OPS[name], BACKENDS[np.ndarray]
    xp = ARRAYS[np.ndarray] if op.kind == "composite" else backend.xp
    return lambda *args, **kwargs: op.forward(xp, *args, **kwargs)


def quick(name):
    """The function that NumPy's backend runs, with a plain body that must be asked for what it does not take."""
    return fused(name, plain(name))


LAYOUTS = [np.array, partial(np.array, order="F"), lambda x: np.repeat(x, 2, axis=-1)[..., ::2] if x.ndim else x]


def numbers(dtype, shape):
    """Arrays, in row-major order, in column-major order, or with gaps."""
    elements = st.one_of(st.sampled_from(SPECIAL), st.floats(-9, 9, width=16))
    drawn = st.tuples(arrays.arrays(np.float64, shape, elements=elements), st.sampled_from(LAYOUTS))
    return drawn.map(lambda pair: pair[1](pair[0].astype(dtype)))


def same(found, expected, tolerance=0.0):
    for a, b in zip(*(x if isinstance(x, tuple) else (x,) for x in (found, expected)), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@settings(max_examples=60, deadline=None)
@given(st.data(), DTYPES, st.one_of(MATRIX, st.just(()), st.just((3,)), st.just((2, 3, 2))))
def test_the_slope_of_relu(data, dtype, shape):
    with np.errstate(all="ignore"):
        g, out = (data.draw(numbers(dtype, shape)) for _ in range(2))
        same(quick("relu_slope")(g, out), plain("relu_slope")(g, out))
        if shape:
            bias = np.zeros(shape[-1:], dtype)
            same(quick("bias_slope")(g, out, bias, "relu"), plain("bias_slope")(g, out, bias, "relu"))


def test_the_slope_of_relu_of_views_and_of_two_dtypes():
    g, out = np.arange(24.0).reshape(4, 6)[::2, ::-2], np.arange(-11.0, 13.0).reshape(4, 6).T[:3, :2].T
    same(quick("relu_slope")(g, out), g * (out > 0))
    same(quick("relu_slope")(g.astype("f4"), out), plain("relu_slope")(g.astype("f4"), out))
    assert quick("relu_slope")(np.float32(3), np.float32(2)) == 3


@settings(max_examples=60, deadline=None)
@given(st.data(), DTYPES, MATRIX, st.integers(0, 4), st.booleans())
def test_layers(data, dtype, shape, width, has_bias):
    with np.errstate(all="ignore"):
        x, w = data.draw(numbers(dtype, shape)), data.draw(numbers(dtype, (shape[1], width)))
        b = data.draw(numbers(dtype, (width,))) if has_bias else None
        tolerance = 4 * float(np.finfo(dtype).eps) * 60
        for name in ("linear", "linear_relu"):
            same(quick(name)(x, w, b), plain(name)(x, w, b), tolerance)
            for row in (*x[:2], *x[:2, ::-1]):
                same(quick(name)(row, w, b), plain(name)(row, w, b), tolerance)


@pytest.mark.parametrize("name", ["linear", "linear_relu"])
@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 3), (4, 5), (5,)),
        ((3,), (4, 5), (5,)),
        ((2, 3), (3, 5), (1,)),
        ((2, 3), (3,), (3,)),
        ((2, 3), (3, 5), (2, 5)),
    ],
)
def test_layers_refuse_what_does_not_fit(name, shapes):
    x, w, b = (pb.tensor(np.ones(shape, "f4")) for shape in shapes)
    with pytest.raises(PullbackError, match=name):
        getattr(pb, name)(x, w, b)


@settings(max_examples=60, deadline=None)
@given(st.data(), DTYPES, arrays.array_shapes(min_dims=0, max_dims=2), st.integers(1, 7), st.sampled_from("bhilBHIL"))
def test_cross_entropy(data, dtype, rows, classes, kind):
    with np.errstate(all="ignore"):
        logits = data.draw(numbers(dtype, (*rows, classes)))
        labels = data.draw(arrays.arrays(kind, rows, elements=st.integers(0, classes - 1)))
        tolerance = 8 * float(np.finfo(dtype).eps)
        probabilities = np.abs(logits) / dtype(9)  # laid out as the logits are
        for reduction, shape in (("mean", ()), ("none", rows), ("sum", ())):
            loss, slope = (f"cross_entropy{end}" for end in ("", "_slope"))
            found = quick(loss)(logits, labels, reduction=reduction)
            same(found, plain(loss)(logits, labels, reduction=reduction), tolerance)
            g = data.draw(arrays.arrays(dtype, shape, elements=st.floats(-2, 2, width=16)))
            found = quick(slope)(g, probabilities, labels, reduction=reduction)
            same(found, plain(slope)(g, probabilities, labels, reduction=reduction), tolerance)


@pytest.mark.parametrize("label", [-1, 4, 2**40, -(2**63)])
def test_a_label_out_of_range_is_named(label):
    logits = pb.tensor(np.zeros((3, 4), "f4"), requires_grad=True)
    with pytest.raises(IndexingError, match=rf"label {label} \(number 1\) is out of range for 4 classes"):
        pb.cross_entropy(logits, np.array([0, label, 3]))


def test_the_common_case_is_not_left_to_the_plain_body():
    def refused(*_, **__):
        raise AssertionError("the plain body ran")

    rng = np.random.default_rng(0)
    x, w, b = (rng.normal(size=shape).astype("f4") for shape in ((4, 3), (3, 5), (5,)))
    labels = np.array([0, 4, 2, 1])
    hidden = fused("linear_relu", refused)(x, w, b)
    fused("linear", refused)(x, w)
    fused("linear", refused)(x[0], w)
    fused("relu_slope", refused)(hidden, hidden)
    fused("bias_slope", refused)(hidden, hidden, b, "relu")
    _, probabilities = fused("cross_entropy", refused)(hidden, labels)
    fused("cross_entropy_slope", refused)(np.float32(1), probabilities, labels)
    losses, _ = fused("cross_entropy", refused)(hidden, labels, reduction="none")
    fused("cross_entropy_slope", refused)(losses, probabilities, labels, reduction="none")


@settings(max_examples=60, deadline=None)
@given(st.data(), DTYPES, MATRIX)
def test_sums_of_columns(data, dtype, shape):
    with np.errstate(all="ignore"):
        x = data.draw(numbers(dtype, shape))
        same(quick("sum")(x, 0), plain("sum")(x, 0), 8 * float(np.finfo(dtype).eps))
        same(quick("sum")(x.T, 0), plain("sum")(x.T, 0), 8 * float(np.finfo(dtype).eps))


def test_sums_over_other_axes_and_of_other_arrays_are_left_to_the_plain_body():
    for x in (np.arange(6).reshape(2, 3), np.ones((2, 3, 4)), np.ones(3), np.ones((128, 128), "f4")):
        for options in ({}, {"axis": 0}, {"axis": (0,)}, {"axis": 0, "keepdims": True}):
            same(pb.sum(x, **options).numpy(), x.sum(**options))


def test_a_single_zero_times_infinity_is_not_a_number():
    for x, w in (([[np.inf], [1.0]], [[0.0]]), ([[0.0]], [[np.inf, 1.0]])):
        x, w = np.array(x), np.array(w)
        with np.errstate(all="ignore"):
            same(quick("linear")(x, w), np.einsum("ij,jk->ik", x, w))
            assert np.isnan(quick("linear")(x, w)).sum() == 1
