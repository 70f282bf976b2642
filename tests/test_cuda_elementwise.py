"""Launchers of elementwise kernels and column sums on the stand-in for CuPy: what is one launch, and what is not."""

from collections.abc import Iterator
from typing import Any

import emulator
import ml_dtypes  # noqa: F401  (gives NumPy bfloat16)
import numpy as np
import pytest
import stand_in_cupy

import pullback as pb
from pullback.core.op import ARRAYS, ArrayOps
from pullback.errors import ArgumentError, ShapeError

pytestmark = pytest.mark.skipif(emulator.missing() is not None, reason=str(emulator.missing()))


@pytest.fixture
def cuda() -> Iterator[Any]:
    with stand_in_cupy.device() as backend:
        yield backend


def drawn(*shape: int, dtype: Any = "float32") -> np.ndarray:
    return np.random.default_rng(len(shape)).uniform(0.5, 2.0, shape).astype(dtype)


def run(backend: Any, name: str, *args: Any, **params: Any) -> tuple[np.ndarray, list[str]]:
    """An op over arrays on the device, and the kernels of ours that it launched."""
    given = [backend.asarray(x) if isinstance(x, np.ndarray) else x for x in args]
    with stand_in_cupy.watched() as work:
        out = getattr(ArrayOps(backend), name)(*given, **params)
    return backend.to_numpy(out), [w.name for w in work if w.kind == "kernel"]


def plain(name: str, *args: Any, **params: Any) -> Any:
    return getattr(ARRAYS[np.ndarray], name)(*args, **params)


BROADCASTS = [
    ((3, 4), (3, 4)), ((3, 4), (4,)), ((4,), (3, 4)), ((3, 4), (3, 1)), ((3, 1), (1, 4)), ((2, 3, 4), (4,)),
    ((2, 3, 4), (3, 4)), ((2, 3, 4), (2, 1, 1)), ((2, 3, 4), (2, 3, 1)), ((2, 3, 4), ()), ((), ()), ((1, 5, 1), (5, 1)),
    ((2, 1, 4), (1, 1, 4)), ((2, 1), (3, 2, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), BROADCASTS)
def test_two_arrays_that_fold_into_matrices_are_one_launch(cuda, first, second):
    x, y = drawn(*first), drawn(*second)
    out, launched = run(cuda, "subtract", x, y)
    assert launched == ["pullback::binary<pullback::op::subtract, float>"]
    np.testing.assert_array_equal(out, plain("subtract", x, y))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (drawn(2, 3, 4), drawn(2, 1, 4)),  # three axes
        (drawn(3, 4), drawn(3, 4, dtype="float64")),
        (np.arange(6), np.arange(6)),
        (drawn(3, 0), drawn(0)),
        (drawn(3, 4), True),
        (drawn(3, 4), 10**400),
    ],
)
def test_what_no_kernel_takes_is_left_to_the_plain_body(cuda, x, y):
    try:
        expected = plain("subtract", x, y)
    except (OverflowError, TypeError) as error:
        with pytest.raises(type(error)):
            run(cuda, "subtract", x, y)
        return
    out, launched = run(cuda, "subtract", x, y)
    assert launched == []
    np.testing.assert_array_equal(out, expected)


def test_arrays_with_gaps_are_left_to_the_plain_body(cuda):
    x = cuda.asarray(drawn(4, 3)).T
    with stand_in_cupy.watched() as work:
        out = [ArrayOps(cuda).tanh(x), ArrayOps(cuda).add(x, x), ArrayOps(cuda).sum(x, 0)]
    assert [w.kind for w in work if w.kind == "kernel"] == []
    np.testing.assert_allclose(cuda.to_numpy(out[0]), np.tanh(drawn(4, 3).T), rtol=1e-6)


def test_shapes_that_do_not_fit_are_said_as_ever(cuda):
    with pytest.raises(ShapeError):
        pb.subtract(pb.asarray(drawn(3, 4), device="cuda"), pb.asarray(drawn(3), device="cuda"))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_numbers_take_the_dtype_of_the_array_beside_them(cuda, dtype):
    x = drawn(5, dtype=dtype)
    for args in ((x, 0.1), (0.1, x), (x, 3), (x, np.inf)):
        out, launched = run(cuda, "divide", *args)
        assert len(launched) == 1
        assert out.dtype == x.dtype
        np.testing.assert_array_equal(out, plain("divide", *[np.asarray(v, dtype) for v in args]))


@pytest.mark.parametrize(
    ("name", "params", "functor"),
    [
        ("gelu", {}, "gelu"),
        ("gelu", {"approximate": "tanh"}, "gelu_by_tanh"),
        ("leaky_relu", {}, "leaky_relu"),
        ("leaky_relu", {"negative_slope": 0}, "leaky_relu"),
        ("elu", {"alpha": 2}, "elu"),
        ("clip", {"min": 0.8, "max": None}, "clip"),
        ("clip", {"max": 1}, "clip"),
        ("clip", {}, "clip"),
    ],
)
def test_parameters_choose_the_kernel_or_are_numbers_of_it(cuda, name, params, functor):
    x = drawn(7) - np.float32(1)
    out, launched = run(cuda, name, x, **params)
    assert [name.partition(",")[0] for name in launched] == [f"pullback::map<pullback::op::{functor}"]
    np.testing.assert_allclose(out, plain(name, x, **params), rtol=1e-6)
    if name != "clip":
        g = drawn(7, 1)[:, 0].copy()
        slope, launched = run(cuda, f"{name}_slope", g, x, **params)
        assert [name.partition(",")[0] for name in launched] == [
            f"pullback::map<pullback::slope<pullback::op::{functor}>"
        ]
        np.testing.assert_allclose(slope, plain(f"{name}_slope", g, x, **params), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("gelu", {"approximate": "erf"}),
        ("elu", {"alpha": 0}),
        ("celu", {"alpha": -1.0}),
        ("leaky_relu", {"negative_slope": -0.5}),
    ],
)
def test_parameters_that_the_body_refuses_are_refused(cuda, name, params):
    for _ in range(2):
        with pytest.raises(ArgumentError):
            run(cuda, name, drawn(3), **params)


@pytest.mark.parametrize(("given", "named"), [((1.0,), {"alpha": 2.0}), ((1.0, 2.0), {}), ((), {"beta": 1.0})])
def test_arguments_that_the_body_does_not_have_are_refused(cuda, given, named):
    with pytest.raises(TypeError):
        run(cuda, "elu", drawn(3), *given, **named)


def test_bounds_that_are_arrays_are_left_to_the_plain_body(cuda):
    out, launched = run(cuda, "clip", drawn(6), drawn(6) - np.float32(0.2), 1.5)
    assert launched == []
    np.testing.assert_array_equal(out, plain("clip", drawn(6), drawn(6) - np.float32(0.2), 1.5))


def test_empty_arrays_launch_nothing(cuda):
    for name, args in (
        ("tanh", [drawn(0, 3)]),
        ("add", [drawn(0, 3), drawn(0, 3)]),
        ("tanh_slope", [drawn(0), drawn(0)]),
    ):
        out, launched = run(cuda, name, *args)
        assert launched == []
        assert out.shape == args[0].shape


@pytest.mark.parametrize("source", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("target", ["float64", "float32", "float16", "bfloat16", "int32"])
def test_casts_between_floating_types_are_one_launch(cuda, source, target):
    x = drawn(3, 5, dtype=source)
    out, launched = run(cuda, "astype", x, target)
    assert len(launched) == (source != target != "int32")
    assert out.dtype == np.dtype(target)
    np.testing.assert_array_equal(out, x.astype(target))


@pytest.mark.parametrize(
    ("shape", "axis", "keepdims", "launches"),
    [
        ((5, 3), 0, False, 1), ((5, 3), 0, True, 1), ((5, 3), -2, False, 1), ((2, 5, 3), (0, 1), False, 1),
        ((2, 5, 3), (1, 0), True, 1), ((2, 5, 3), 0, False, 1), ((0, 3), 0, False, 1), ((5, 0), 0, False, 0),
        ((5, 3), 1, False, 0), ((5, 3), None, False, 0), ((2, 5, 3), (0, 2), False, 0), ((5,), 0, False, 0),
    ],
)  # fmt: skip
def test_sums_over_the_first_axes_are_sums_of_columns(cuda, shape, axis, keepdims, launches):
    x = drawn(*shape)
    out, launched = run(cuda, "sum", x, axis, keepdims=keepdims)
    expected = plain("sum", x, axis, keepdims=keepdims)
    assert len(launched) == launches
    assert out.shape == expected.shape
    np.testing.assert_allclose(out, expected, rtol=1e-6)


@pytest.mark.parametrize("activation", ["tanh", "silu", "leaky_relu"])
@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4), (600, 7)])
def test_slope_and_gradient_of_the_bias_are_one_launch(cuda, activation, shape):
    g, value, bias = drawn(*shape), drawn(*shape) - np.float32(1.2), drawn(shape[-1])
    given = [cuda.asarray(x) for x in (g, value, bias)]
    with stand_in_cupy.watched() as work:
        found = ArrayOps(cuda).bias_slope(*given, activation)
    expected = plain("bias_slope", g, value, bias, activation)
    assert [w.name.partition("<")[0] for w in work if w.is_launch] == ["pullback::bias_slope"]
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(cuda.to_numpy(x), y, rtol=1e-4, atol=1e-5)
