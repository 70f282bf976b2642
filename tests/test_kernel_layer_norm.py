"""The kernels of layer normalisation on the emulator, against the op's own body and rules in float64."""

from typing import Any

import numpy as np
import pytest
from emulator import build, missing
from kernel_rows import CHECKED, SIZES, TYPES, assert_near, body, chosen, dtype, geometries, instances, real, widths

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

ALL = instances("layer_norm<{}>", "layer_norm_slope<{}>")
WATCHED = instances("layer_norm<{}>", "layer_norm_slope<{}>", types=CHECKED)
GEOMETRY = (8, 64, 2)
NEARBY = {"float64": 4096, "float32": 8192, "float16": 8192, "bfloat16": 8192}  # numbers that a block sums columns in


def forward(
    x: np.ndarray, weight: Any, bias: Any, eps: float = 1e-5, width: int = 1,
    geometry: tuple[int, int, int] = GEOMETRY, order: int = 0, checked: bool = False,
) -> tuple[Any, np.ndarray, np.ndarray]:  # fmt: skip
    name, (rows, n), (lanes, threads, blocks) = x.dtype.name, x.shape, geometry
    out = None if weight is None and bias is None else np.full_like(x, np.nan)
    z, r = np.full_like(x, np.nan), np.full((rows, 1), np.nan, x.dtype)
    build("layer_norm.cu", WATCHED if checked else ALL, checked=checked)[chosen("layer_norm<{}>", name, width)](
        blocks, threads, out, z, r, x, weight, bias, np.int64(rows), np.int64(n), np.int32(lanes), real(name)(eps),
        order=order, uninitialised=[z, r] if out is None else [out, z, r],
    )  # fmt: skip
    return out, z, r


def slope(
    g: np.ndarray, z: np.ndarray, r: np.ndarray, weight: Any, width: int = 1,
    geometry: tuple[int, int, int] = GEOMETRY, order: int = 0, checked: bool = False, sums: bool = True,
) -> tuple[np.ndarray, Any, Any]:  # fmt: skip
    name, (rows, n), (lanes, threads, blocks) = g.dtype.name, g.shape, geometry
    crowd = max(1, round(blocks**0.5))
    dx, dweight, dbias = np.full_like(g, np.nan), np.full(n, np.nan, g.dtype), np.full(n, np.nan, g.dtype)
    scratch, counters = np.full(2 * n * blocks, np.nan, real(name)), np.zeros(1 + -(-blocks // crowd), np.uint32)
    build("layer_norm.cu", WATCHED if checked else ALL, checked=checked)[chosen("layer_norm_slope<{}>", name, width)](
        blocks, threads, dx, dweight if sums else None, dbias if sums else None, g, z, r, weight,
        np.int64(rows), np.int64(n), np.int32(lanes), np.uint32(crowd), scratch, counters,
        order=order, uninitialised=[dx, dweight, dbias, scratch],
    )  # fmt: skip
    assert not np.any(counters), "the next launch finds the counters at zero"
    return dx, dweight, dbias


def slope_in_float64(g: np.ndarray, z: np.ndarray, r: np.ndarray, weight: Any) -> tuple[np.ndarray, ...]:
    g, z, r = (array.astype(np.float64) for array in (g, z, r))
    gw = g if weight is None else g * weight.astype(np.float64)
    dx = r * (gw - np.mean(gw, axis=-1, keepdims=True) - z * np.mean(gw * z, axis=-1, keepdims=True))
    return dx, np.sum(g * z, axis=0), np.sum(g, axis=0)


def drawn(name: str, rows: int, n: int) -> list[np.ndarray]:
    """x, the cotangent, weight and bias."""
    rng = np.random.default_rng(rows + n)
    shapes = [(rows, n), (rows, n), n, n]
    return [(3 * rng.normal(size=shape) + 1).astype(dtype(name)) for shape in shapes]


@pytest.mark.parametrize("name", TYPES)
def test_rows_of_every_length_are_what_the_body_gives_in_float64(name: str) -> None:
    for rows, n in SIZES:
        x, _, weight, bias = drawn(name, rows, n)
        for scale, shift in [(weight, bias), (weight, None), (None, bias), (None, None)]:
            wide = [None if array is None else array.astype(np.float64) for array in (x, scale, shift)]
            expected, (z, r) = body("layer_norm", *wide, eps=0.01)
            for geometry in geometries(rows, n):
                for width in widths(name, n):
                    of = f"{rows} x {n}, {width} at a time, {geometry}"
                    out, standardized, inverse = forward(x, scale, shift, 0.01, width, geometry)
                    assert_near(standardized, z, name, of)
                    assert_near(inverse, r, name, of)
                    if out is not None:
                        assert_near(out, expected, name, of)


@pytest.mark.parametrize("name", TYPES)
def test_slopes_of_all_rows_and_their_sums_are_those_of_float64(name: str) -> None:
    for rows, n in [*SIZES, (23, 24)]:
        x, g, weight, _ = drawn(name, rows, n)
        _, z, r = forward(x, None, None)
        for scale in (weight, None):
            expected = slope_in_float64(g, z, r, scale)
            for lanes, threads, blocks in geometries(rows, n):
                if 2 * n * (threads // lanes) > NEARBY[name] and threads > lanes:
                    continue  # the launcher takes a block per row there
                for width in widths(name, n):
                    for sums in (True, False):
                        found = slope(g, z, r, scale, width, (lanes, threads, blocks), sums=sums)
                        for part, of in zip(found[: 3 if sums else 1], expected, strict=False):
                            assert_near(part, of, name, f"{rows} x {n}, {width} at a time, {lanes, threads, blocks}")


def test_columns_that_a_block_has_no_room_for_are_summed_in_scratch() -> None:
    for name, n in [("float64", 2100), ("float32", 4100)]:
        x, g, weight, _ = drawn(name, 5, n)
        _, z, r = forward(x, None, None)
        for width in widths(name, n):
            for part, of in zip(
                slope(g, z, r, weight, width, (64, 64, 3)), slope_in_float64(g, z, r, weight), strict=True
            ):
                assert_near(part, of, name)


def test_the_slope_is_the_derivative_of_the_output() -> None:
    x, g, weight, bias = drawn("float64", 3, 6)
    _, z, r = forward(x, weight, bias)
    dx, dweight, dbias = slope(g, z, r, weight)
    for array, found in [(x, dx), (weight, dweight), (bias, dbias)]:
        for i in np.ndindex(array.shape):
            before, losses = array[i], []
            for step in (1e-5, -1e-5):
                array[i] = before + step
                losses.append(np.sum(g * forward(x, weight, bias)[0]))
            array[i] = before
            assert abs((losses[0] - losses[1]) / 2e-5 - found[i]) < 1e-6


@pytest.mark.parametrize("name", TYPES)
def test_rows_far_from_zero_keep_their_variance(name: str) -> None:
    x = (np.arange(24.0).reshape(2, 12) + (1e3 if name != "bfloat16" else 128)).astype(dtype(name))
    expected, _ = body("layer_norm", x.astype(np.float64))
    for width in widths(name, 12):
        assert_near(forward(x, None, None, width=width)[1], expected, name)


def test_the_order_of_threads_and_blocks_changes_no_bit() -> None:
    x, g, weight, bias = drawn("float32", 23, 40)
    for geometry in [(2, 64, 7), (32, 64, 5), (64, 64, 9)]:
        results = []
        for order in (0, 1, 7):
            kept = forward(x, weight, bias, width=4, geometry=geometry, order=order)
            results.append([*kept, *slope(g, *kept[1:], weight, 4, geometry, order)])
        first, *others = [[array.tobytes() for array in arrays] for arrays in results]
        assert all(other == first for other in others)


@pytest.mark.parametrize("name", CHECKED)
def test_memory_races_and_initialisation_hold_in_a_checked_run(name: str) -> None:
    x, g, weight, bias = drawn(name, 7, 24)
    for geometry in [(4, 64, 2), (64, 64, 5)]:
        for width in widths(name, 24):
            expected = forward(x, weight, bias, width=width, geometry=geometry)
            found = forward(x, weight, bias, width=width, geometry=geometry, checked=True)
            assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
            _, z, r = found
            expected = slope(g, z, r, weight, width, geometry)
            found = slope(g, z, r, weight, width, geometry, checked=True)
            assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    if name == "float32":
        x, g, weight, _ = drawn(name, 2, 4100)
        slope(g, x, x[:, :1].copy(), weight, 4, (64, 64, 2), checked=True)
