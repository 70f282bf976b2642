"""Elementwise kernels on the CPU emulator: every function in every type against the op table in long double."""

from functools import cache
from itertools import chain, permutations
from typing import Any

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("cupy")  # the launchers say which kernels there are

from emulator import Kernel, build, missing
from exact_ops import CTYPES, DTYPES, EPS, EXACT, exact, measured, names_of, op_of, rule_of, wide

from pullback.backends.cuda.elementwise import expressions
from pullback.backends.cuda.scalars import Scalar, activations, scalars
from pullback.core.define import all_samples
from pullback.core.op import OPS

pytestmark = pytest.mark.skipif(bool(missing()), reason=str(missing()))

NUMBERS = {"clip": (-0.5, 1.5), "leaky_relu": (0.25,), "elu": (1.5,), "celu": (0.75,)}  # exact in every type
FUNCTIONS = [(scalar, function) for scalar in scalars().values() for function in scalar.functions]
IDS = [f"{scalar.name}.{function}" for scalar, function in FUNCTIONS]
LAUNCHED = {expression for _, expression in expressions()}
SIZES = [1, 2, 7, 8, 9, 31, 64, 203]


# --- launching --------------------------------------------------------------------------------------------------------


def is_binary(scalar: Scalar, function: str) -> bool:
    return function == "value" and "y" in scalar.functions["value"]


def expression(scalar: Scalar, function: str, dtype: str) -> str:
    stored, number = CTYPES[dtype], CTYPES[wide(dtype)]
    if is_binary(scalar, function):
        return f"pullback::binary<{scalar.struct}, {stored}>"
    operands = [f"const {stored}*" for _ in scalar.arrays(function)] + [number for _ in scalar.parameters(function)]
    return f"pullback::map<{', '.join([scalar.functor(function), stored, *operands])}>"


@cache
def kernels(dtype: str) -> dict[str, Kernel]:
    """All that is launched in a type, and in those that kernels compute in the other slopes too."""
    own = [expression(scalar, function, dtype) for scalar, function in FUNCTIONS if is_tested(scalar, function, dtype)]
    casts = [name for _, name in expressions() if name.startswith(f"pullback::cast<{CTYPES[dtype]},")]
    launched, others = build("elementwise.cu", LAUNCHED), build("elementwise.cu", {*own} - LAUNCHED)
    return {name: (launched if name in LAUNCHED else others)[name] for name in (*own, *casts)}


def is_tested(scalar: Scalar, function: str, dtype: str) -> bool:
    launched = function == "value" or (function == "slope" and scalar in activations())
    return launched or dtype == wide(dtype)


def number(value: float, dtype: str) -> Any:
    return np.dtype(wide(dtype)).type(value)


def strided(x: Any, row: int, column: int) -> tuple[Any, np.int64, np.int64]:
    return x, np.int64(row), np.int64(column)


def launch(
    found: dict[str, Kernel], scalar: Scalar, function: str, arrays: list[np.ndarray], numbers: tuple[float, ...] = (),
    *, out: np.ndarray | None = None, grid: int = 2, block: int = 64, order: int = 0,
) -> np.ndarray:  # fmt: skip
    """The function over arrays of one shape."""
    dtype, n = arrays[0].dtype.name, arrays[0].size
    out = np.empty_like(arrays[0]) if out is None else out
    kernel = found[expression(scalar, function, dtype)]
    if is_binary(scalar, function):
        operands = [part for x in arrays for part in strided(x, n, 1)]
        kernel(grid, block, out, np.int64(1), np.int64(n), *operands, number(0, dtype), order=order)
    else:
        operands = [*arrays, *[number(value, dtype) for value in numbers]]
        kernel(grid, block, out, np.int64(n), *operands, order=order)
    return out


def placed(x: np.ndarray, offset: int) -> np.ndarray:
    """A copy that begins `offset` numbers behind an address that 16 bytes divide."""
    buffer = np.zeros(x.size + 32, x.dtype)
    start = (-buffer.ctypes.data % 16) // x.itemsize + offset
    buffer[start : start + x.size] = x
    return buffer[start : start + x.size]


# --- the table --------------------------------------------------------------------------------------------------------


def is_closed_form(op: Any) -> bool:
    """Whether an op makes floating-point numbers of nothing but floating-point numbers, one by one."""
    calls = [(sample, op.call(*sample.args, **sample.kwargs)) for sample in all_samples(op)]
    return op.kind == "elementwise" and all(
        out.dtype.kind == "f" and all(x.dtype.kind == "f" for x in sample.args if isinstance(x, np.ndarray))
        for sample, out in calls
    )


def test_every_elementwise_op_of_floating_point_has_its_functions():
    closed = {name for name, op in OPS.items() if op.kind == "elementwise" and is_closed_form(op)}
    by_type = {name for name in closed if {"finfo", "nextafter"} & {*OPS[name].forward.__code__.co_names}}
    assert by_type == {"nextafter", "safe_reciprocal"}  # their values hang on the stored type, not on the numbers
    assert {scalar.name for scalar in scalars().values() if not scalar.is_variant} == closed - by_type


@pytest.mark.parametrize(("scalar", "function"), FUNCTIONS, ids=IDS)
def test_functions_name_the_arguments_of_the_body_and_of_the_rules(scalar, function):
    op = op_of(scalar)
    if function == "value":
        defaults = {a.name: a.default for a in op.arguments if isinstance(a.default, float)}
        assert list(scalar.functions["value"]) == [a.name for a in op.arguments if a.name != "approximate"]
        assert scalar.defaults == defaults
    else:
        named = [name for name in names_of(rule_of(scalar, function)) if name != "approximate"]
        assert list(scalar.functions[function]) == named


def test_every_rule_has_its_slope():
    for scalar in scalars().values():
        slopes = [function for function in scalar.functions if function != "value"]
        inputs = 2 if "y" in scalar.functions["value"] else 1  # the bounds of `clip` are numbers
        assert len(slopes) == sum(rule is not None for rule in op_of(scalar).rules[:inputs]), scalar.name


# --- numbers ----------------------------------------------------------------------------------------------------------


def inputs(scalar: Scalar, function: str, dtype: str, base: list[np.ndarray], g: np.ndarray) -> list[np.ndarray]:
    """The arrays that a function takes, of the cotangent and of the arguments, all of which are exact in the type."""
    values = dict(zip(("x", "y"), base, strict=False)) | {"g": g}
    if "out" in scalar.functions[function]:
        with np.errstate(all="ignore"):
            numbers = NUMBERS.get(scalar.name, ())
            values["out"] = exact(scalar, "value", *base[: 1 + is_binary(scalar, "value")], *numbers).astype(g.dtype)
    return [values[name] for name in scalar.arrays(function)]


def drawn(rng: np.random.Generator, dtype: str, n: int) -> np.ndarray:
    """Numbers of many sizes, within the range of every function's intermediate results."""
    x = rng.normal(size=n) * np.exp(rng.uniform(np.log(1e-3), np.log(12), n))
    return np.clip(x, -25, 25).astype(DTYPES[dtype])


CASES = [
    (scalar, function, dtype)
    for scalar, function in FUNCTIONS
    for dtype in CTYPES
    if is_tested(scalar, function, dtype)
]


@pytest.mark.parametrize(
    ("scalar", "function", "dtype"),
    CASES,
    ids=[f"{scalar.name}.{function}-{dtype}" for scalar, function, dtype in CASES],
)
def test_functions_are_as_exact_as_rounding_their_arguments(scalar, function, dtype):
    """2.5 eps of the type that they compute in, of value and arguments; half an eps of a narrower stored type."""
    rng = np.random.default_rng(len(scalar.name))
    base, g = [drawn(rng, dtype, 400) for _ in range(2)], drawn(rng, dtype, 400)
    arrays, numbers = inputs(scalar, function, dtype, base, g), NUMBERS.get(scalar.name, ())
    numbers = numbers if scalar.parameters(function) else ()
    out = launch(kernels(dtype), scalar, function, arrays, numbers).astype(EXACT)
    expected, error = measured(scalar, function, dtype, *arrays, *numbers)
    most = float(ml_dtypes.finfo(DTYPES[dtype]).max)
    finite = np.isfinite(expected) & (np.abs(expected) < 0.99 * most)
    assert np.array_equal(np.isnan(out), np.isnan(expected))
    assert np.array_equal(np.isfinite(out), finite)
    assert np.all((np.abs(out - expected) <= error)[finite])


SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -2.0, 3.0, -3.0, 6.0, -6.0, np.inf, -np.inf, np.nan]


@pytest.mark.parametrize("dtype", CTYPES)
def test_special_values_are_those_of_the_op_table(dtype):
    """NaN, infinities, zeros, kinks, of values the largest and smallest numbers, of slopes each kind of cotangent."""
    info = ml_dtypes.finfo(DTYPES[dtype])
    extremes = [float(x) for x in (info.max, -info.max, info.tiny, -info.tiny, info.smallest_subnormal)]
    wrong = []
    for scalar, function in FUNCTIONS:
        if not is_tested(scalar, function, dtype):
            continue
        points = np.array(SPECIAL + extremes * (len(scalar.arrays(function)) == 1 or is_binary(scalar, function)))
        grids = np.meshgrid(points, points, [0.0, 1.0, -2.0, np.inf, np.nan])
        x, y, g = [grid.ravel().astype(DTYPES[dtype]) for grid in grids]
        numbers = NUMBERS.get(scalar.name, ()) if scalar.parameters(function) else ()
        arrays = inputs(scalar, function, dtype, [x, y], g)
        out = launch(kernels(dtype), scalar, function, arrays, numbers).astype(EXACT)
        with np.errstate(all="ignore"):
            expected = exact(scalar, function, *arrays, *numbers).astype(DTYPES[dtype]).astype(EXACT)
            same = (np.isnan(out) & np.isnan(expected)) | (out == expected)
            near = np.abs(out - expected) <= 64 * EPS[dtype] * np.abs(expected) + 8 * EPS[dtype]
            if "g" in scalar.functions[function]:  # inf * 0 where a slope below an eps is 0 in this type
                slope = exact(scalar, function, np.ones_like(g), *arrays[1:], *numbers)
                near |= np.isinf(arrays[0]) & (np.abs(slope) < EPS[dtype])
        for i in np.flatnonzero(~(same | near))[:3]:
            wrong.append((scalar.name, function, [float(a[i]) for a in arrays], float(out[i]), float(expected[i])))
    assert wrong == []


# --- shapes and memory ------------------------------------------------------------------------------------------------


def sample_of(name: str, dtype: str, n: int, offset: int = 0) -> tuple[Scalar, str, list[np.ndarray]]:
    name, _, function = name.partition(".")
    scalar, rng = scalars()[name], np.random.default_rng(n)
    base, g = [drawn(rng, dtype, n) for _ in range(2)], drawn(rng, dtype, n)
    return scalar, function, [placed(x, offset) for x in inputs(scalar, function, dtype, base, g)]


@pytest.mark.parametrize("dtype", CTYPES)
@pytest.mark.parametrize("name", ["mish.value", "gelu.slope", "divide.value"])
def test_every_size_place_and_order_of_threads_gives_the_same_numbers(name, dtype):
    for n in SIZES:
        scalar, function, arrays = sample_of(name, dtype, n)
        expected = launch(kernels(dtype), scalar, function, arrays, grid=1, block=256)
        for offset, out_offset in [(0, 0), (1, 0), (0, 1), (1, 1), (3, 2)]:
            moved = [placed(x, offset) for x in arrays]
            around = placed(np.zeros(n + 2, DTYPES[dtype]), out_offset)
            for order in (0, 1, 7):
                around[:] = 99
                launch(kernels(dtype), scalar, function, moved, out=around[:n], grid=3, block=32, order=order)
                assert around[:n].tobytes() == expected.tobytes(), (n, offset, out_offset, order)
                assert np.all(around[n:] == 99)


PATTERNS = [
    ((5, 7), (5, 7)), ((5, 7), (1, 7)), ((1, 7), (5, 7)), ((5, 7), (5, 1)), ((5, 1), (5, 7)), ((5, 1), (1, 7)),
    ((4, 16), (1, 16)), ((4, 16), (4, 1)), ((1, 16), (3, 1)), ((1, 33), (1, 33)), ((1, 33), (1, 1)), ((1, 1), (9, 8)),
    ((9, 1), (9, 1)), ((1, 1), (1, 1)), ((3, 40), (3, 40)),
]  # fmt: skip


def broadcast(
    found: dict[str, Kernel], x: np.ndarray, y: np.ndarray, offset: int = 0, order: int = 0, grid: int = 2
) -> np.ndarray:
    """x - y of matrices, one of which may have one row or column, at addresses behind those that 16 bytes divide."""
    dtype = x.dtype.name
    rows, columns = np.broadcast_shapes(x.shape, y.shape)
    operands = []
    for array in (x, y):
        steps = [0 if n == 1 else step for n, step in zip(array.shape, (array.shape[1], 1), strict=True)]
        operands += strided(placed(array.ravel(), offset), *steps)
    out = np.empty(rows * columns, x.dtype)
    kernel = found[f"pullback::binary<pullback::op::subtract, {CTYPES[dtype]}>"]
    kernel(grid, 32, out, np.int64(rows), np.int64(columns), *operands, number(0, dtype), order=order)
    return out.reshape(rows, columns)


@pytest.mark.parametrize("dtype", CTYPES)
def test_rows_columns_and_single_numbers_are_repeated(dtype):
    rng = np.random.default_rng(1)
    for shapes in PATTERNS:
        x, y = [drawn(rng, dtype, a * b).reshape(a, b) for a, b in shapes]
        expected = (x.astype(EXACT) - y.astype(EXACT)).astype(DTYPES[dtype])
        for offset, order in [(0, 0), (1, 1), (0, 5)]:
            assert np.array_equal(broadcast(kernels(dtype), x, y, offset, order), expected), (shapes, offset)


@pytest.mark.parametrize("dtype", CTYPES)
def test_a_number_stands_on_either_side(dtype):
    kernel = kernels(dtype)[f"pullback::binary<pullback::op::subtract, {CTYPES[dtype]}>"]
    for n in (1, 13, 64):
        x, out = drawn(np.random.default_rng(n), dtype, n), np.empty(n, DTYPES[dtype])
        for operands, expected in [((x, None), x - x.dtype.type(2)), ((None, x), x.dtype.type(2) - x)]:
            arguments = [part for operand in operands for part in strided(operand, n, 1)]
            kernel(1, 32, out, np.int64(1), np.int64(n), *arguments, number(2, dtype))
            assert np.array_equal(out, expected)


# --- casts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "target"), [*permutations(CTYPES, 2)])
def test_casts_round_once(source, target):
    rng = np.random.default_rng(3)
    half = 2.0 ** -(11 if target == "float16" else 8)
    ties = [
        1 + half,
        1 + half + 2.0**-45,
        1 + half - 2.0**-45,
        1 + 3 * half,
        -1 - half - 2.0**-45,
        65519.99999,
        3.4e38,
        1e300,
    ]
    numbers = np.array([*SPECIAL, *ties, 2.0**-24, 2.0**-25, 3e-41, *rng.normal(size=60)])
    with np.errstate(all="ignore"):
        x = numbers.astype(DTYPES[source])
        expected = rounded(x, target)
    kernel = kernels(source)[f"pullback::cast<{CTYPES[source]}, {CTYPES[target]}>"]
    for offset, n in [(0, x.size), (1, x.size), (0, 5)]:
        out = np.zeros(n, DTYPES[target])
        kernel(2, 32, out, np.int64(n), placed(x[:n], offset), order=offset)
        assert np.array_equal(out, expected[:n], equal_nan=True)
        assert np.array_equal(np.signbit(out), np.signbit(expected[:n]))


def rounded(x: np.ndarray, target: str) -> np.ndarray:
    """The cast by NumPy; float64 to bfloat16, which it rounds twice, is put right by comparing the neighbours."""
    once = x.astype(DTYPES[target])
    if (x.dtype.name, target) != ("float64", "bfloat16"):
        return once
    bits = once.view(np.uint16)
    for step in (1, -1):
        other = (bits + np.uint16(step % 2**16)).view(DTYPES[target])
        with np.errstate(all="ignore"):
            closer = np.abs(other.astype(np.float64) - x) < np.abs(once.astype(np.float64) - x)
        once = np.where(closer & np.isfinite(once.astype(np.float64)), other, once)
    return once


# --- the checker ------------------------------------------------------------------------------------------------------


def test_nothing_is_read_or_written_out_of_bounds():
    """Every loop in every type once, at sizes with a tail, with memory and races watched."""
    functions = [(scalars()[name], function) for name, function in (("silu", "value"), ("elu", "slope"))]
    names = {dtype: [expression(*found, dtype) for found in functions] for dtype in CTYPES}
    casts = {
        dtype: f"pullback::cast<{CTYPES[dtype]}, {CTYPES[other]}>"
        for dtype, other in zip(CTYPES, [*CTYPES][::-1], strict=True)
    }
    binaries = {dtype: f"pullback::binary<pullback::op::subtract, {CTYPES[dtype]}>" for dtype in CTYPES}
    every = [*chain(*names.values()), *casts.values(), *binaries.values()]
    checked = dict(build("elementwise.cu", every, checked=True))
    for (dtype, cast), other in zip(casts.items(), [*CTYPES][::-1], strict=True):
        for n, offset in [(21, 0), (21, 1), (1, 0)]:
            for scalar, function in functions:
                _, _, arrays = sample_of(f"{scalar.name}.{function}", dtype, n, offset)
                numbers = NUMBERS["elu"] if function == "slope" else ()
                out = placed(np.zeros(n, DTYPES[dtype]), offset)
                launch(checked, scalar, function, arrays, numbers, out=out, block=32)
            out = placed(np.zeros(n, DTYPES[other]), offset)
            checked[cast](1, 32, out, np.int64(n), placed(np.ones(n, DTYPES[dtype]), offset))
        for shapes in PATTERNS[:10]:
            x, y = [np.ones(shape, DTYPES[dtype]) for shape in shapes]
            assert not broadcast(checked, x, y, offset=len(shapes[0]) % 2, grid=1).any()
