"""Bias kernels and column sums on the CPU emulator: against the op table in long double, in the launchers' geometry."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("cupy")  # the launchers say which kernels there are

from emulator import Kernel, build, missing
from exact_ops import CTYPES, DTYPES, EPS, EXACT, exact, measured, wide

from pullback.backends.cuda.columns import expressions, geometry
from pullback.backends.cuda.scalars import Scalar, activations, scalars

pytestmark = pytest.mark.skipif(bool(missing()), reason=str(missing()))

ACTIVATIONS = [scalar for scalar in activations() if not scalar.is_variant]
KERNELS = build("columns.cu", [name for _, name in expressions()])  # all that are launched
SHAPES = [(1, 1), (1, 8), (5, 1), (3, 7), (9, 16), (40, 33), (300, 3), (2, 530), (61, 128)]
SPLITS = [1, 2, 5]  # blocks that share the rows


def expression(template: str, scalar: Scalar | None, dtype: str) -> str:
    if scalar is None:
        return f"pullback::{template}<{CTYPES[dtype]}>"
    numbers = [CTYPES[wide(dtype)]] * len(scalar.parameters("value"))
    return f"pullback::{template}<{', '.join([scalar.struct, CTYPES[dtype], *numbers])}>"


def numbers_of(scalar: Scalar, dtype: str) -> list[Any]:
    """The parameters at their defaults, rounded to the type as the launchers do."""
    values = [DTYPES[dtype].type(scalar.defaults[name]) for name in scalar.parameters("value")]
    return [np.dtype(wide(dtype)).type(value) for value in values]


def drawn(seed: int, dtype: str, *shape: int) -> np.ndarray:
    """Numbers of moderate size, none so near to a kink that rounding a sum would move it across."""
    x = np.random.default_rng(seed).normal(size=shape) * 2
    return (np.round(x * 8) / 8 + 1 / 32).astype(DTYPES[dtype])


def placed(x: np.ndarray, offset: int) -> np.ndarray:
    """A copy that begins `offset` numbers behind an address that 16 bytes divide."""
    buffer = np.zeros(x.size + 32, x.dtype)
    start = (-buffer.ctypes.data % 16) // x.itemsize + offset
    buffer[start : start + x.size] = x.ravel()
    return buffer[start : start + x.size].reshape(x.shape)


def summing(
    kernel: Kernel, outs: list[np.ndarray], shape: tuple[int, int], inputs: list[Any], *,
    split: int | None = None, order: int = 0,
) -> None:  # fmt: skip
    """Launch a kernel with column sums as the launchers do; the scratch memory holds what an earlier launch left."""
    rows, columns = shape
    dtype = outs[-1].dtype
    strips, blocks, lanes = geometry(rows, columns, dtype, 8)
    blocks = blocks if split is None else split
    partial = np.full(blocks * columns, np.nan, wide(dtype.name)) if blocks > 1 else None
    counters = np.zeros(strips, np.uint32) if blocks > 1 else None
    sizes = np.int64(rows), np.int64(columns), np.int32(lanes)
    kernel((strips, blocks), 256, *outs, partial, counters, *sizes, *inputs, order=order)
    assert counters is None or not counters.any()


def sum_error(dtype: str, of: np.ndarray) -> np.ndarray:
    """How far a sum of columns may be off: of its type half an eps, and a chain of additions in the wide one."""
    total = np.abs(of.astype(EXACT)).sum(axis=0)
    return (0 if dtype == wide(dtype) else 0.51) * EPS[dtype] * total + (4 + len(of)) * EPS[wide(dtype)] * total


@pytest.mark.parametrize("dtype", CTYPES)
def test_columns_are_summed_in_every_shape_split_and_order(dtype):
    kernel = KERNELS[expression("column_sum", None, dtype)]
    for shape in SHAPES:
        g = drawn(shape[1], dtype, *shape)
        expected = g.astype(EXACT).sum(axis=0)
        for split in SPLITS:
            totals = []
            for offset, order in [(0, 0), (0, 1), (1, 7)]:
                total = np.full(shape[1], np.nan, DTYPES[dtype])
                summing(kernel, [total], shape, [placed(g, offset)], split=split, order=order)
                totals.append(total)
            assert np.all(np.abs(totals[0].astype(EXACT) - expected) <= sum_error(dtype, g)), (shape, split)
            assert totals[0].tobytes() == totals[1].tobytes() == totals[2].tobytes(), (shape, split)


def test_sums_of_half_precision_do_not_stop_at_its_largest_integer():
    ones = np.ones((3000, 5), np.float16)
    total = np.empty(5, np.float16)
    summing(KERNELS[expression("column_sum", None, "float16")], [total], ones.shape, [ones])
    assert np.array_equal(total, np.full(5, 3000, np.float16))


def test_no_rows_sum_to_zero():
    total = np.full(5, np.nan, np.float32)
    kernel = KERNELS[expression("column_sum", None, "float32")]
    summing(kernel, [total], (0, 5), [np.empty((0, 5), np.float32)])
    assert np.array_equal(total, np.zeros(5))


@pytest.mark.parametrize("dtype", CTYPES)
@pytest.mark.parametrize("scalar", ACTIVATIONS, ids=[scalar.name for scalar in ACTIVATIONS])
def test_bias_and_activation_are_one(scalar, dtype):
    kernel, numbers = KERNELS[expression("bias_map", scalar, dtype)], numbers_of(scalar, dtype)
    for shape in SHAPES:
        z, bias = drawn(1, dtype, *shape), drawn(2, dtype, shape[1])
        shifted = z.astype(wide(dtype)) + bias.astype(wide(dtype))
        expected, error = measured(scalar, "value", dtype, shifted, *map(float, numbers))
        results = []
        for offset, order in [(0, 0), (0, 1), (1, 9)]:
            out = placed(np.zeros(shape, DTYPES[dtype]), offset)
            sizes = np.int64(shape[0]), np.int64(shape[1])
            kernel(3, 32, out, *sizes, placed(z, offset), placed(bias, offset), *numbers, order=order)
            results.append(out)
        assert np.all(np.abs(results[0].astype(EXACT) - expected) <= error), shape
        assert results[0].tobytes() == results[1].tobytes() == results[2].tobytes(), shape


@pytest.mark.parametrize("dtype", CTYPES)
@pytest.mark.parametrize("scalar", ACTIVATIONS, ids=[scalar.name for scalar in ACTIVATIONS])
def test_slope_and_bias_gradient_are_one_launch(scalar, dtype):
    kernel, numbers = KERNELS[expression("bias_slope", scalar, dtype)], numbers_of(scalar, dtype)
    reads_value = "out" in scalar.functions["slope"]
    for shape, split in [((1, 1), 1), ((7, 16), None), ((50, 24), 3), ((33, 5), 2)]:
        g, z, bias = drawn(3, dtype, *shape), drawn(1, dtype, *shape), drawn(2, dtype, shape[1])
        at = z.astype(wide(dtype)) + bias.astype(wide(dtype))
        if reads_value:
            z = exact(scalar, "value", at, *map(float, numbers)).astype(DTYPES[dtype])
            at, bias = z, None
        expected, error = measured(scalar, "slope", dtype, g, at, *map(float, numbers))
        _, of_sum = measured(scalar, "slope", wide(dtype), g, at, *map(float, numbers))
        results = []
        for offset, order in [(0, 0), (0, 1), (1, 5)]:
            dz, dbias = placed(np.zeros(shape, DTYPES[dtype]), offset), np.full(shape[1], np.nan, DTYPES[dtype])
            inputs = [placed(g, offset), placed(z, offset), None if bias is None else placed(bias, offset), *numbers]
            summing(kernel, [dz, dbias], shape, inputs, split=split, order=order)
            results.append(dz.tobytes() + dbias.tobytes())
        assert np.all(np.abs(dz.astype(EXACT) - expected) <= error)
        off = np.abs(dbias.astype(EXACT) - expected.sum(axis=0))
        assert np.all(off <= of_sum.sum(axis=0) + sum_error(dtype, expected))
        assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("dtype", CTYPES)
def test_each_array_alone_may_begin_where_no_16_bytes_can_be_moved(dtype):
    silu, shape = scalars()["silu"], (7, 16)
    slope, value = (KERNELS[expression(name, silu, dtype)] for name in ("bias_slope", "bias_map"))
    g, z, bias = drawn(3, dtype, *shape), drawn(1, dtype, *shape), drawn(2, dtype, shape[1])
    found = set()
    for offsets in [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]:
        dz, out = (placed(np.zeros(shape, DTYPES[dtype]), offsets[0]) for _ in range(2))
        dbias = np.zeros(shape[1], DTYPES[dtype])
        inputs = [placed(array, offset) for array, offset in zip((g, z, bias), offsets[1:], strict=True)]
        summing(slope, [dz, dbias], shape, inputs, split=1)
        value(1, 32, out, np.int64(shape[0]), np.int64(shape[1]), *inputs[1:])
        found.add(dz.tobytes() + dbias.tobytes() + out.tobytes())
    assert len(found) == 1


def test_nothing_is_read_or_written_out_of_bounds_and_no_thread_races():
    """Every loop in every type once, memory, races and initialisation watched."""
    silu, tanh = scalars()["silu"], scalars()["tanh"]
    templates = [("column_sum", None), ("bias_map", silu), ("bias_slope", silu), ("bias_slope", tanh)]
    every = {(*key, dtype): expression(*key, dtype) for dtype in CTYPES for key in templates}
    checked = build("columns.cu", sorted(every.values()), checked=True)
    for (template, scalar, dtype), name in every.items():
        for shape, split, offset in [((5, 8), 1, 0), ((37, 16), 3, 0), ((9, 13), 2, 1)]:
            g, z, bias = [placed(drawn(1, dtype, *s), offset) for s in (shape, shape, shape[1:])]
            out, total = placed(np.zeros(shape, DTYPES[dtype]), offset), np.zeros(shape[1], DTYPES[dtype])
            if template == "bias_map":
                checked[name](2, 32, out, np.int64(shape[0]), np.int64(shape[1]), z, bias)
            elif template == "column_sum":
                summing(checked[name], [total], shape, [g], split=split)
            else:
                summing(checked[name], [out, total], shape, [g, z, bias if scalar is silu else None], split=split)
