"""Activations: value and slope against closed forms and against PyTorch, on the whole range."""

import warnings

import numpy as np
import pytest
from scipy import special

import pullback as pb
from pullback.core.op import OPS
from pullback.errors import ArgumentError

BELL = 1 / np.sqrt(2 * np.pi)
SCALE, ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717


def between(x, low, high):
    return np.where((x > low) & (x < high), 1.0, 0.0)


def gate(x):
    return np.tanh(np.logaddexp(x, 0))


def silu_slope(x):
    return special.expit(x) * (1 + x * special.expit(-x))


# For each case: the op, its settings, the closed forms of value and slope.
CASES = {
    "relu": ("relu", {}, lambda x: x * (x > 0), lambda x: 1.0 * (x > 0)),
    "relu6": ("relu6", {}, lambda x: np.clip(x, 0, 6), lambda x: between(x, 0, 6)),
    "leaky_relu": ("leaky_relu", {}, lambda x: np.where(x > 0, x, x / 100), lambda x: np.where(x > 0, 1, 0.01)),
    "leaky_relu 0.5": (
        "leaky_relu", {"negative_slope": 0.5}, lambda x: np.where(x > 0, x, x / 2), lambda x: np.where(x > 0, 1, 0.5),
    ),
    "leaky_relu 0": ("leaky_relu", {"negative_slope": 0}, lambda x: np.where(x > 0, x, 0), lambda x: 1.0 * (x > 0)),
    "leaky_relu 2": (
        "leaky_relu", {"negative_slope": 2}, lambda x: np.where(x > 0, x, 2 * x), lambda x: np.where(x > 0, 1, 2),
    ),
    "elu": ("elu", {}, lambda x: np.where(x > 0, x, np.expm1(x)), lambda x: np.where(x > 0, 1, np.exp(x))),
    "elu 1.5": (
        "elu", {"alpha": 1.5},
        lambda x: np.where(x > 0, x, 1.5 * np.expm1(x)), lambda x: np.where(x > 0, 1, 1.5 * np.exp(x)),
    ),
    "celu": ("celu", {}, lambda x: np.where(x > 0, x, np.expm1(x)), lambda x: np.where(x > 0, 1, np.exp(x))),
    "celu 0.5": (
        "celu", {"alpha": 0.5},
        lambda x: np.where(x > 0, x, np.expm1(2 * x) / 2), lambda x: np.where(x > 0, 1, np.exp(2 * x)),
    ),
    "selu": (
        "selu", {},
        lambda x: SCALE * np.where(x > 0, x, ALPHA * np.expm1(x)),
        lambda x: SCALE * np.where(x > 0, 1, ALPHA * np.exp(x)),
    ),
    "gelu": (
        "gelu", {}, lambda x: x * special.ndtr(x), lambda x: special.ndtr(x) + x * BELL * np.exp(-np.square(x) / 2),
    ),
    "gelu tanh": ("gelu", {"approximate": "tanh"}, None, None),
    "silu": ("silu", {}, lambda x: x * special.expit(x), silu_slope),
    "mish": (
        "mish", {}, lambda x: x * gate(x), lambda x: gate(x) + x * special.expit(x) * (1 - gate(x) ** 2),
    ),
    "hardswish": (
        "hardswish", {},
        lambda x: x * np.clip(x + 3, 0, 6) / 6, lambda x: np.where(np.abs(x) < 3, x / 3 + 0.5, x >= 3),
    ),
    "hardsigmoid": ("hardsigmoid", {}, lambda x: np.clip(x + 3, 0, 6) / 6, lambda x: between(x, -3, 3) / 6),
    "softsign": ("softsign", {}, lambda x: x / (1 + np.abs(x)), lambda x: 1 / (1 + np.abs(x)) ** 2),
    "tanhshrink": ("tanhshrink", {}, lambda x: x - np.tanh(x), lambda x: np.tanh(x) ** 2),
}  # fmt: skip
HALF = np.array([1e4, 105, 89, 20, 6, 5.5, 3, 2.5, 1, 0.5, 0.1, 1e-3, 1e-8, 1e-40, 0])
GRID = np.concatenate([-HALF, HALF[::-1]])  # with the kinks at 0, 3 and 6
TOLERANCE = {np.float32: 3e-6, np.float64: 1e-13}
FORMS = [case for case in CASES if CASES[case][2]]


def value_and_slope(case, x):
    """Both at each number of `x`; no warning is allowed, and both modes must agree."""
    name, settings = CASES[case][:2]

    def f(x):
        return getattr(pb, name)(x, **settings)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out, pull = pb.vjp(f, x)
        (slope,) = pull(np.ones_like(x))
        tangent = pb.jvp(f, (x,), (np.ones_like(x),))[1]
    assert out.dtype == slope.dtype == x.dtype
    np.testing.assert_array_equal(slope.numpy(), tangent.numpy())
    return out.numpy(), slope.numpy()


def test_every_activation_has_its_case():
    ours = {
        name for name, op in OPS.items() if op.forward.__module__.endswith(".activations") and op.kind == "elementwise"
    }
    assert ours - {"step"} == {name for name, *_ in CASES.values()}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", FORMS)
def test_value_and_slope_by_closed_form(case, dtype):
    x = GRID.astype(dtype)
    _, _, form, slope_form = CASES[case]
    value, slope = value_and_slope(case, x)
    with np.errstate(over="ignore", under="ignore"):
        exact = form(x.astype(np.float64)), slope_form(x.astype(np.float64))
    np.testing.assert_allclose(value, exact[0], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * 1e-2)
    np.testing.assert_allclose(slope, exact[1], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_value_and_slope_as_pytorch(case, dtype):
    torch = pytest.importorskip("torch")
    name, settings = CASES[case][:2]
    x = GRID.astype(dtype)
    leaf = torch.tensor(x, requires_grad=True)
    out = getattr(torch.nn.functional, name)(leaf, **settings)
    out.sum().backward()
    value, slope = value_and_slope(case, x)
    np.testing.assert_allclose(value, out.detach().numpy(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    loose = 1e-8 if name == "hardsigmoid" else TOLERANCE[dtype]  # PyTorch keeps its slope of 1/6 in float32
    np.testing.assert_allclose(slope, leaf.grad.numpy(), rtol=max(loose, TOLERANCE[dtype]), atol=loose)


@pytest.mark.parametrize("case", sorted(CASES.keys() - {"leaky_relu 0"}))  # 0 at -inf, as relu; NaN in PyTorch
def test_infinities_and_nan_as_pytorch(case):
    torch = pytest.importorskip("torch")
    name, settings = CASES[case][:2]
    x = np.array([-np.inf, np.inf, np.nan])
    expected = getattr(torch.nn.functional, name)(torch.tensor(x), **settings)
    with np.errstate(invalid="ignore"):
        out = getattr(pb, name)(x, **settings)
    np.testing.assert_array_equal(out.numpy(), expected.numpy())


def test_gelu_with_tanh_by_its_formula():
    x = np.linspace(-5, 5, 101)
    expected = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    value, slope = value_and_slope("gelu tanh", x)
    np.testing.assert_allclose(value, expected, rtol=1e-13)
    np.testing.assert_allclose(slope[1:-1], (expected[2:] - expected[:-2]) / 0.2, atol=5e-3)
    far = np.float32([-1e30, -1e12, 1e12, 1e30])
    with np.errstate(over="ignore"):
        (slope,) = pb.vjp(lambda x: pb.gelu(x, "tanh"), far)[1](np.ones_like(far))
    assert slope.tolist() == [0, 0, 1, 1]


def test_the_left_tails_keep_their_precision():
    x = np.array([-40.0, -1e-12])
    for case, index in [("gelu", 0), ("silu", 0), ("mish", 0), ("elu", 1), ("celu", 1), ("selu", 1)]:
        exact = CASES[case][2](x[index])
        assert value_and_slope(case, x)[0][index] == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(
    ("case", "names"),
    [
        ("relu", ["out"]),
        ("relu6", ["out"]),
        ("leaky_relu", ["out", "negative_slope"]),
        ("elu", ["out", "alpha"]),
        ("celu", ["out", "alpha"]),
        ("selu", ["out"]),
        ("hardsigmoid", ["out"]),
        ("softsign", ["out"]),
        ("silu", ["x"]),
    ],
)
def test_a_slope_keeps_one_array(case, names):
    assert OPS[CASES[case][0]].saves == names


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("leaky_relu", {"negative_slope": -0.1}, "negative_slope is -0.1"),
        ("leaky_relu", {"negative_slope": np.nan}, "must not be negative"),
        ("elu", {"alpha": 0.0}, "alpha is 0.0"),
        ("celu", {"alpha": -1.0}, "alpha is -1.0"),
        ("gelu", {"approximate": "erf"}, "'none' or 'tanh'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(name, settings, told):
    with pytest.raises(ArgumentError, match=rf"{name}: .*{told}"):
        getattr(pb, name)(pb.tensor([1.0]), **settings)


def test_integers_stay_integers_only_where_nothing_else_can_come_out():
    x = pb.tensor([-2, 7])
    assert pb.relu(x).dtype == pb.relu6(x).dtype == np.int64
    assert pb.relu6(x).tolist() == [0, 6]
    for name in ("silu", "elu", "selu", "mish", "softsign", "hardswish", "leaky_relu", "gelu", "tanhshrink"):
        assert getattr(pb, name)(x).dtype == np.float64
