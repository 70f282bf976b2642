"""Values of the elementwise ops against NumPy and SciPy, in every dtype, shape and mix of Python numbers and arrays."""

import warnings

import array_api_strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special

import pullback as pb
from pullback.core.define import all_samples
from pullback.core.op import OPS
from pullback.errors import ArgumentError, DtypeError, ShapeError

INTEGER_OPS = [name for name in OPS if name.startswith("bitwise_")]

# The reference, and where the function is defined.
UNARY = {
    "abs": (np.abs, -np.inf, np.inf),
    "acos": (np.arccos, -1, 1),
    "acosh": (np.arccosh, 1, np.inf),
    "asin": (np.arcsin, -1, 1),
    "asinh": (np.arcsinh, -np.inf, np.inf),
    "atan": (np.arctan, -np.inf, np.inf),
    "atanh": (np.arctanh, -0.999, 0.999),
    "ceil": (np.ceil, -np.inf, np.inf),
    "cos": (np.cos, -1e4, 1e4),
    "cosh": (np.cosh, -80, 80),
    "erf": (special.erf, -np.inf, np.inf),
    "erfc": (special.erfc, -np.inf, 9),
    "exp": (np.exp, -np.inf, 80),
    "expm1": (np.expm1, -np.inf, 80),
    "floor": (np.floor, -np.inf, np.inf),
    "isfinite": (np.isfinite, -np.inf, np.inf),
    "isinf": (np.isinf, -np.inf, np.inf),
    "isnan": (np.isnan, -np.inf, np.inf),
    "log": (np.log, 1e-30, np.inf),
    "log10": (np.log10, 1e-30, np.inf),
    "log1p": (np.log1p, -0.999, np.inf),
    "log2": (np.log2, 1e-30, np.inf),
    "logical_not": (np.logical_not, -np.inf, np.inf),
    "logsigmoid": (special.log_expit, -np.inf, np.inf),
    "negative": (np.negative, -np.inf, np.inf),
    "positive": (np.positive, -np.inf, np.inf),
    "reciprocal": (lambda x: 1 / x, 1e-30, np.inf),
    "round": (np.round, -np.inf, np.inf),
    "sigmoid": (special.expit, -np.inf, np.inf),
    "sign": (np.sign, -np.inf, np.inf),
    "signbit": (np.signbit, -np.inf, np.inf),
    "sin": (np.sin, -1e4, 1e4),
    "sinh": (np.sinh, -80, 80),
    "softplus": (lambda x: np.logaddexp(x, 0), -np.inf, np.inf),
    "sqrt": (np.sqrt, 0, np.inf),
    "square": (np.square, -1e15, 1e15),
    "step": (lambda x: np.where(x > 0, 1, 0), -np.inf, np.inf),
    "tan": (np.tan, -1.5, 1.5),
    "tanh": (np.tanh, -np.inf, np.inf),
    "trunc": (np.trunc, -np.inf, np.inf),
}
BINARY = {
    "add": np.add,
    "atan2": np.arctan2,
    "copysign": np.copysign,
    "divide": np.divide,
    "equal": np.equal,
    "floor_divide": np.floor_divide,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "hypot": np.hypot,
    "less": np.less,
    "less_equal": np.less_equal,
    "logaddexp": np.logaddexp,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "multiply": np.multiply,
    "nextafter": np.nextafter,
    "not_equal": np.not_equal,
    "pow": np.power,
    "remainder": np.remainder,
    "safe_divide": lambda x, y: np.divide(x, y, out=np.zeros_like(x + y), where=x != 0),
    "safe_multiply": lambda x, y: np.multiply(x, y, out=np.zeros_like(x + y), where=x != 0),
    "subtract": np.subtract,
    "xlogy": special.xlogy,
}
HALF = np.array(
    [np.inf, 1e300, 1e30, 1e4, 104.5, 88.8, 20.5, 3.0, 2.5, 1.0, 0.5, 0.1, 1e-3, 1e-8, 1e-40, 5e-324, 0.0]
)  # fmt: skip
GRID = np.concatenate([-HALF, HALF[::-1], [np.nan]])
PLAIN = {np.float32: 1e-6, np.float64: 1e-13}  # tolerances: 8 and 450 units in the last place


def test_every_function_of_the_standard_is_an_op():
    """The elementwise functions of the array API standard 2024.12, all but those of complex numbers."""
    standard = {n for n, f in vars(array_api_strict).items() if "elementwise" in getattr(f, "__module__", "")}
    assert "nextafter" in standard
    assert standard - OPS.keys() <= {"conj", "imag", "real"}


def test_the_lists_of_references_are_complete():
    elementwise = {n for n, op in OPS.items() if op.kind == "elementwise" and not op.params and len(op.inputs) < 3}
    modules = ("elementwise", "transcendental", "special", "comparison")
    ours = {n for n in elementwise if OPS[n].forward.__module__.rpartition(".")[2] in modules}
    assert ours - set(INTEGER_OPS) <= UNARY.keys() | BINARY.keys()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", UNARY)
def test_values_on_the_whole_range(name, dtype):
    """From denormals to infinities and NaN, without a warning: those are errors here."""
    reference, low, high = UNARY[name]
    with np.errstate(over="ignore"):
        x = np.unique(GRID.astype(dtype))
    x = x[np.isnan(x) | ((x >= low) & (x <= high))]
    out = getattr(pb, name)(pb.tensor(x))
    with np.errstate(invalid="ignore"):
        expected = reference(x.astype(np.float64))
    assert out.dtype == (dtype if expected.dtype.kind == "f" or name == "step" else bool)
    np.testing.assert_allclose(out.numpy(), expected.astype(out.dtype), rtol=PLAIN[dtype], atol=1e-37)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", sorted(BINARY.keys() - {"pow"}))
def test_values_of_two_arguments(name, dtype):
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-4, 4, size=(2, 50)).astype(dtype)
    x[:5], y[3:8] = 0, x[3:8]
    if name == "xlogy":
        y = np.abs(y)
    y[y == 0] = 1
    out = getattr(pb, name)(pb.tensor(x), pb.tensor(y))
    expected = BINARY[name](x, y)
    assert out.dtype == expected.dtype
    np.testing.assert_allclose(out.numpy(), expected, rtol=PLAIN[dtype], atol=PLAIN[dtype])


def test_values_of_the_functions_of_bits():
    x, y = np.array([-8, 5, 12, 127], np.int8), np.array([1, 2, 3, 4], np.int8)
    for name in INTEGER_OPS:
        arguments = (x,) if len(OPS[name].inputs) == 1 else (x, y)
        out = getattr(pb, name)(*map(pb.tensor, arguments))
        np.testing.assert_array_equal(out.numpy(), getattr(np, name)(*arguments))
        assert out.dtype == np.int8
    a, b = pb.tensor([True, False]), pb.tensor([True, True])
    assert (a & b).tolist() == [True, False]
    assert (a ^ b).tolist() == [False, True]
    assert (~a | False).tolist() == [False, True]
    assert (pb.tensor(x) >> 1).tolist() == (x >> 1).tolist()
    with pytest.raises(DtypeError, match="bitwise_and"):
        pb.tensor([1.0]) & 1


# --- broadcasting and dtypes ------------------------------------------------------------------------------------------

DTYPES = [np.bool_, np.int8, np.uint8, np.int32, np.int64, np.float32, np.float64]
ARITHMETIC = ["add", "multiply", "subtract", "divide", "maximum", "minimum", "hypot", "less", "equal", "atan2"]


@settings(max_examples=150, deadline=None)
@given(data=st.data(), name=st.sampled_from(ARITHMETIC), shapes=hnp.mutually_broadcastable_shapes(num_shapes=2))
def test_broadcasting_is_that_of_numpy(data, name, shapes):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x, y = (np.asarray(rng.uniform(0.5, 4, size=shape)) for shape in shapes.input_shapes)
    out = getattr(pb, name)(pb.asarray(x), pb.asarray(y))
    assert out.shape == shapes.result_shape
    np.testing.assert_array_equal(out.numpy(), BINARY[name](x, y))


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(ARITHMETIC), left=st.sampled_from(DTYPES), right=st.sampled_from(DTYPES))
def test_dtypes_are_those_of_numpy_but_integers_never_widen_floats(name, left, right):
    if name == "subtract" and left is right is np.bool_:
        return
    x, y = np.ones(3, left), np.ones(3, right)
    out = getattr(pb, name)(pb.asarray(x), pb.asarray(y))
    floats = [t for t in (left, right) if issubclass(t, np.floating)]
    expected = BINARY[name](x, y).dtype
    if expected.kind == "f" and floats:
        expected = np.result_type(*floats)
    assert out.dtype == expected
    np.testing.assert_allclose(out.numpy(), BINARY[name](x, y), rtol=1e-7)


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from(ARITHMETIC), dtype=st.sampled_from(DTYPES), number=st.sampled_from([2, 2.5, np.float64(0.5)])
)
def test_a_python_number_takes_the_dtype_of_the_array(name, dtype, number):
    x = np.ones(3, dtype)
    weak = float(number) if isinstance(number, float) else number
    op, reference = getattr(pb, name), BINARY[name]
    fraction = isinstance(number, float) and x.dtype.kind in "biu"  # it takes the default dtype
    for out, expected in [
        (op(pb.asarray(x), number), reference(x, weak)),
        (op(number, pb.asarray(x)), reference(weak, x)),
    ]:
        assert out.dtype == (np.float32 if fraction and expected.dtype.kind == "f" else expected.dtype)
        np.testing.assert_allclose(out.numpy(), expected, rtol=1e-6 if fraction else 0)


@pytest.mark.parametrize(
    "name", ["sin", "exp", "log", "sqrt", "sigmoid", "softplus", "logsigmoid", "erf", "reciprocal", "tanh"]
)
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_integers_become_floating_point_as_in_numpy(name, dtype):
    x = np.array([1, 2, 3], dtype)
    out = getattr(pb, name)(pb.asarray(x))
    assert out.dtype == np.float64
    np.testing.assert_allclose(out.numpy(), UNARY[name][0](x.astype(np.float64)), rtol=1e-13)


@pytest.mark.parametrize("op", [op for op in OPS.values() if op.kind == "elementwise" and any(op.rules)], ids=repr)
def test_half_precision_is_not_widened(op):
    """Neither the value nor the gradient, to any argument."""
    sample = all_samples(op)[0]
    primals = [x.astype(np.float16) if getattr(x, "dtype", None) == np.float64 else x for x in sample.args]
    tensors = [pb.tensor(x, requires_grad=x.dtype.kind == "f") if hasattr(x, "dtype") else x for x in primals]
    out = op.call(*tensors, **sample.kwargs)
    assert out.dtype == np.float16
    out.backward(np.ones(out.shape, np.float16))
    gradients = [x.grad for x, rule in zip(tensors, op.rules, strict=False) if rule and hasattr(x, "grad")]
    assert {g.dtype for g in gradients} == {np.dtype(np.float16)}


def test_booleans_count_as_masks_beside_floating_point():
    x, mask = pb.tensor([1.5, 2.5]), pb.tensor([True, False])
    assert (x * mask).dtype == np.float32
    assert (x * mask).tolist() == [1.5, 0.0]
    assert pb.where(mask, x, 0).tolist() == [1.5, 0.0]


def test_two_python_numbers_make_a_tensor_of_the_default_dtype():
    assert pb.add(1.0, 2.0).dtype == np.float32
    assert pb.maximum(1, 2).dtype == np.int64
    chosen = pb.where(pb.tensor([True, False]), 1.0, 0)
    assert chosen.dtype == np.float32
    assert chosen.tolist() == [1.0, 0.0]
    assert pb.where(pb.tensor([True, False]), 3, 4).dtype == np.int64
    assert pb.where(pb.tensor([True, False]), False, True).dtype == bool


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ShapeError, match=r"add: .*\(2, 3\).*\(4,\)"):
        pb.add(pb.tensor(np.ones((2, 3))), pb.tensor(np.ones(4)))


# --- single functions -------------------------------------------------------------------------------------------------


def test_clip_takes_numbers_arrays_or_no_bound():
    x = np.array([-2.0, -0.5, 0.0, 0.5, np.nan, 2.0], np.float32)
    low, high = np.float32([-1, -1, 1, 1, 1, 1]), np.float32([1, 1, 1, 0, 1, 1])
    t = pb.tensor(x)
    np.testing.assert_array_equal(pb.clip(t, -1, 1).numpy(), np.clip(x, -1, 1))
    np.testing.assert_array_equal(pb.clip(t, max=0.25).numpy(), np.clip(x, None, np.float32(0.25)))
    np.testing.assert_array_equal(pb.clip(t, low, pb.tensor(high)).numpy(), np.clip(x, low, high))
    np.testing.assert_array_equal(pb.clip(t).numpy(), x)
    assert pb.clip(t, -1.5, 1).dtype == np.float32
    assert pb.clip(pb.tensor([1, 5]), 2, 3).dtype == np.int64


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 4, 5, -1, -2, -3, 0.5, -0.5, 1.5, 2.0, 3.0, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_powers_by_python_numbers(exponent, dtype):
    x = np.array([0.3, 1.0, 2.5, 7.0], dtype)
    if exponent == int(exponent):
        x = np.concatenate([x, -x])
    out = pb.tensor(x) ** exponent
    assert out.dtype == dtype
    np.testing.assert_allclose(out.numpy(), x.astype(np.float64) ** exponent, rtol=PLAIN[dtype])
    if exponent > 0:
        back = exponent ** pb.tensor(x[:4])
        assert back.dtype == dtype
        np.testing.assert_allclose(back.numpy(), exponent ** x[:4].astype(np.float64), rtol=PLAIN[dtype])


def test_powers_of_integers_stay_integers_and_negative_ones_are_refused():
    x = pb.tensor([-2, 3])
    assert (x**3).tolist() == [-8, 27]
    assert (x**3).dtype == np.int64
    assert (x**3.0).dtype == np.float32
    for exponent in (-2, pb.tensor([-1, 2])):
        with pytest.raises(ArgumentError, match="negative integer powers"):
            x**exponent
    with pytest.raises(ShapeError, match="pow"):
        x ** pb.tensor([1, 2, 3])


def test_logaddexp_and_xlogy_at_their_limits():
    inf = np.inf
    x, y = np.array([-inf, inf, -inf, inf, 1e4]), np.array([-inf, inf, 3.0, -inf, 1e4])
    np.testing.assert_allclose(pb.logaddexp(x, y).numpy(), [-inf, inf, 3.0, inf, 1e4 + np.log(2)])
    np.testing.assert_allclose(pb.logaddexp(pb.tensor(x), -inf).numpy(), x)
    zeros = np.zeros(4)
    assert pb.xlogy(zeros, np.array([0.0, inf, np.nan, 2.0])).tolist() == [0.0] * 4
    assert pb.xlogy(pb.tensor(zeros), 0.0).tolist() == [0.0] * 4
    assert pb.xlogy(0.0, np.array([0.0, inf])).tolist() == [0.0] * 2
    np.testing.assert_allclose(pb.xlogy(2.0, np.array([3.0])).numpy(), [2 * np.log(3)])
    np.testing.assert_allclose(pb.xlogy(pb.tensor([2]), 3.0).numpy(), [2 * np.log(3)])


def test_safe_quotients_and_products_are_zero_where_the_first_is():
    odd = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 2.0])
    for dtype in (np.float32, np.float64):
        y = odd.astype(dtype)
        zero = pb.tensor(np.zeros(6, dtype))
        for made in (
            pb.safe_divide(zero, y),
            pb.safe_multiply(zero, y),
            pb.safe_divide(0.0, y),
            pb.safe_multiply(0.0, y),
        ):
            assert made.tolist() == [0.0] * 6
            assert made.dtype == dtype
        for number in odd.tolist():
            for made in (pb.safe_divide(zero, number), pb.safe_multiply(zero, number)):
                assert made.tolist() == [0.0] * 6
                assert made.dtype == dtype
    one = pb.tensor([1.0, -1.0])
    with np.errstate(divide="ignore"):
        assert pb.safe_divide(one, 0.0).tolist() == [np.inf, -np.inf]
        assert pb.safe_divide(one, -0.0).tolist() == [-np.inf, np.inf]
    assert pb.safe_multiply(one, np.inf).tolist() == [np.inf, -np.inf]
    assert pb.safe_divide(one, np.float32([2, 4])).tolist() == [0.5, -0.25]


def test_copysign_takes_a_sign_from_integers_without_widening():
    out = pb.copysign(pb.tensor([1.0, -2.0]), pb.tensor([-1, 1]))
    assert out.dtype == np.float32
    assert out.tolist() == [-1.0, 2.0]
    assert pb.copysign(pb.tensor([1.0, -2.0]), -1).tolist() == [-1.0, -2.0]


def test_values_are_not_views_of_their_inputs():
    x = np.array([1.0, 2.0])
    for made in (pb.positive(x), pb.clip(x), pb.where(np.array([True, True]), x, x), pb.pow(x, 1), pb.round(x)):
        assert not np.shares_memory(made.numpy(), x)


def test_what_overflows_warns_as_numpy_does_and_what_does_not_is_silent():
    big = pb.tensor([1e4, -1e4])
    with pytest.warns(RuntimeWarning, match="overflow"):
        pb.exp(big)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pb.sigmoid(big).tolist() == [1.0, 0.0]
        assert pb.softplus(big).tolist() == [1e4, 0.0]
        assert pb.logsigmoid(big).tolist() == [0.0, -1e4]
        assert pb.tanh(big).tolist() == [1.0, -1.0]
        assert pb.erfc(big).tolist() == [0.0, 2.0]
