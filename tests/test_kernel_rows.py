"""The kernels of softmax and log_softmax on the emulator, against the ops' own bodies in float64."""

from typing import Any

import numpy as np
import pytest
from emulator import build, missing
from kernel_rows import CHECKED, SIZES, TYPES, assert_near, body, chosen, dtype, geometries, instances, widths

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

FORWARD = {"softmax": "softmax<{}, false>", "log_softmax": "softmax<{}, true>"}
SLOPE = {"softmax": "softmax_slope<{}, false>", "log_softmax": "softmax_slope<{}, true>"}
ALL = instances(*FORWARD.values(), *SLOPE.values())
WATCHED = instances(*FORWARD.values(), *SLOPE.values(), types=CHECKED)


def run(template: str, width: int, geometry: tuple[int, int, int], *arrays: np.ndarray, order: int = 0,
        checked: bool = False) -> Any:  # fmt: skip
    x, (lanes, threads, blocks) = arrays[0], geometry
    rows, n = x.shape
    out = np.full_like(x, np.nan)
    kernels = build("rows.cu", WATCHED if checked else ALL, checked=checked)
    kernels[chosen(template, x.dtype.name, width)](
        blocks, threads, out, *arrays, np.int64(rows), np.int64(n), np.int32(lanes),
        order=order, uninitialised=[out],
    )  # fmt: skip
    return out


def slope(op: str, g: np.ndarray, out: np.ndarray) -> np.ndarray:
    g, out = g.astype(np.float64), out.astype(np.float64)
    if op == "softmax":
        return out * (g - np.sum(g * out, axis=-1, keepdims=True))
    return g - np.exp(out) * np.sum(g, axis=-1, keepdims=True)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("op", FORWARD)
def test_rows_of_every_length_are_what_the_body_gives_in_float64(op: str, name: str) -> None:
    rng = np.random.default_rng(1)
    for rows, n in SIZES:
        x = (4 * rng.normal(size=(rows, n))).astype(dtype(name))
        g = rng.normal(size=(rows, n)).astype(dtype(name))
        expected = body(op, x.astype(np.float64))
        kept = expected.astype(dtype(name))
        for geometry in geometries(rows, n):
            for width in widths(name, n):
                of = f"{rows} x {n}, {width} at a time, {geometry}"
                assert_near(run(FORWARD[op], width, geometry, x), expected, name, of)
                assert_near(run(SLOPE[op], width, geometry, g, kept), slope(op, g, kept), name, of)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("op", FORWARD)
def test_large_and_infinite_numbers_are_what_the_body_makes_of_them(op: str, name: str) -> None:
    inf, nan = np.inf, np.nan
    rows = [
        [1e4, -1e4, 0, 1e4], [-1e4, -1e4, -1e4, -1e4], [-inf, 1, 2, -inf], [-inf, -inf, -inf, -inf],
        [inf, 1, 2, 3], [inf, inf, -inf, 0], [nan, 1, 2, 3], [-inf, -inf, -inf, nan], [-inf, -inf, 3, -inf],
        [nan, inf, 0, -inf],
    ]  # fmt: skip
    x = np.repeat(np.array(rows), 10, axis=1).astype(dtype(name))  # some threads of a row see -inf alone
    expected = body(op, x.astype(np.float64))
    for geometry in [(4, 64, 1), (32, 64, 2), (64, 64, 2)]:
        for width in widths(name, x.shape[1]):
            assert_near(run(FORWARD[op], width, geometry, x), expected, name)


def test_a_constant_row_of_one_number_is_one() -> None:
    for name in TYPES:
        x = np.array([[-3.0], [1e4]]).astype(dtype(name))
        assert np.all(run(FORWARD["softmax"], 1, (1, 32, 1), x) == 1)
        assert np.all(run(FORWARD["log_softmax"], 1, (1, 32, 1), x) == 0)


def test_the_order_of_threads_changes_no_bit() -> None:
    rng = np.random.default_rng(2)
    x, g = rng.normal(size=(2, 7, 40)).astype(np.float32)
    for template, arrays in [(FORWARD["softmax"], (x,)), (SLOPE["log_softmax"], (g, x)), (SLOPE["softmax"], (g, x))]:
        for geometry in geometries(*x.shape):
            first, *others = [run(template, 4, geometry, *arrays, order=order).tobytes() for order in (0, 1, 7)]
            assert all(other == first for other in others)


@pytest.mark.parametrize("template", [*FORWARD.values(), *SLOPE.values()])
def test_memory_races_and_initialisation_hold_in_a_checked_run(template: str) -> None:
    rng = np.random.default_rng(3)
    for name in CHECKED:
        x, g = rng.normal(size=(2, 5, 24)).astype(dtype(name))
        arrays = (g, x) if "slope" in template else (x,)
        for geometry in [(8, 64, 1), (64, 64, 2)]:
            for width in widths(name, 24):
                found = run(template, width, geometry, *arrays, checked=True)
                assert np.array_equal(found, run(template, width, geometry, *arrays))
        for width, misaligned in [(1, x.reshape(-1)[1:118].reshape(9, 13))]:
            arrays = (misaligned, misaligned) if "slope" in template else (misaligned,)
            assert np.all(np.isfinite(run(template, width, (16, 64, 1), *arrays, checked=True).astype(np.float64)))
