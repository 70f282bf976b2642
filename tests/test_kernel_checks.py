"""The kernels of norm, scaling and finite check on the emulator, against float64."""

from math import inf, nan
from typing import Any

import numpy as np
import pytest
from emulator import EmulatorError, build, missing
from kernel_pieces import SIZES, of_type, reached, table_of
from kernel_rows import TYPES, dtype, real

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

ALL = [f"pullback::{template}<{c}>" for template in ("norm", "scale", "nonfinite") for c, _, _ in TYPES.values()]


def kernel(template: str, name: str, checked: bool = False) -> Any:
    return build("checks.cu", ALL, checked=checked)[f"pullback::{template}<{TYPES[name][0]}>"]


def norm(
    arrays: list[np.ndarray], most: float = 1.0, blocks: int = 3, order: int = 0, checked: bool = False
) -> np.ndarray:
    """Norm and factor."""
    number, rows = real(arrays[0].dtype.name), [(array,) for array in arrays]
    table, owners, pieces = table_of(rows)
    sums, counter, results = np.full(max(1, pieces), nan), np.zeros(1, np.uint32), np.full(2, nan, number)
    length, factor = results[:1], results[1:]
    kernel("norm", arrays[0].dtype.name, checked)(
        blocks, 64, table, owners, pieces, number(most), sums, counter, length, factor,
        order=order, reachable=reached(rows), uninitialised=[sums, length, factor],
    )  # fmt: skip
    assert counter[0] == 0, "the next launch finds the counter at zero"
    return results


def scale(pairs: list[Any], factor: float, order: int = 0, checked: bool = False) -> None:
    name = pairs[0][0].dtype.name
    kernel("scale", name, checked)(
        3, 64, *table_of(pairs), np.full(1, factor, real(name)), order=order, reachable=reached(pairs)
    )


def nonfinite(arrays: list[np.ndarray], blocks: int = 3, order: int = 0, checked: bool = False) -> int:
    rows = [(array,) for array in arrays]
    counters, flag = np.zeros(2, np.uint32), np.full(1, -1, np.int32)
    kernel("nonfinite", arrays[0].dtype.name, checked)(
        blocks, 64, *table_of(rows), counters, flag, order=order, reachable=reached(rows), uninitialised=[flag]
    )
    assert not counters.any(), "the next launch finds the counters at zero"
    return int(flag[0])


def arrays_of(name: str, offset: int = 0) -> list[np.ndarray]:
    return [of_type(name, size, seed=1, offset=offset) for size in SIZES]


def norm_in_float64(arrays: list[np.ndarray]) -> float:
    return float(np.linalg.norm(np.concatenate([array.astype(np.float64).reshape(-1) for array in arrays])))


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("name", TYPES)
def test_the_norm_of_all_arrays_and_the_factor_that_holds_it(name: str, offset: int) -> None:
    arrays = arrays_of(name, offset)
    wanted, eps = norm_in_float64(arrays), np.finfo(real(name)).eps
    for most in (0.5, 1e6, 0.0):
        found, factor = norm(arrays, most)
        assert abs(found - wanted) <= eps * wanted
        assert abs(factor - min(1.0, most / (wanted + 1e-6))) <= 3 * eps


@pytest.mark.parametrize(
    ("name", "size"), [("float32", 1e30), ("float16", 6e4), ("bfloat16", 1e30), ("float64", 1e150)]
)
def test_the_norm_of_large_numbers_does_not_overflow(name: str, size: float) -> None:
    x = np.full(3000, size, dtype(name))
    wanted = norm_in_float64([x])
    np.testing.assert_allclose(norm([x, x])[0], wanted * 2**0.5, rtol=1e-6)
    tiny = np.full(30, 1e-30 if name != "float16" else 6e-8, dtype(name))
    np.testing.assert_allclose(norm([tiny])[0], norm_in_float64([tiny]), rtol=1e-6)


@pytest.mark.parametrize("name", TYPES)
def test_a_norm_that_is_not_finite_is_said(name: str) -> None:
    x = np.ones(20, dtype(name))
    x[7] = inf
    assert norm([x]).tolist() == [inf, 0.0]
    x[9] = nan
    assert np.isnan(norm([x])).all()
    assert norm([np.zeros(0, dtype(name))]).tolist() == [0.0, 1.0]
    assert norm([np.zeros(5, dtype(name))], 0.5).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("name", TYPES)
def test_neither_blocks_nor_the_order_of_threads_change_a_bit_of_the_norm(name: str) -> None:
    arrays = arrays_of(name)
    found = {norm(arrays, blocks=blocks, order=order).tobytes() for blocks, order in [(1, 0), (2, 1), (5, 7), (9, 3)]}
    assert len(found) == 1


@pytest.mark.parametrize("offset", [0, 3])
@pytest.mark.parametrize("name", TYPES)
def test_scaling_is_a_product_with_the_rounded_factor(name: str, offset: int) -> None:
    arrays = arrays_of(name, offset)
    with np.errstate(all="ignore"):
        for factor in (0.3, 1.0, 0.0, nan):
            rounded = np.full((), factor, real(name)).astype(dtype(name))
            wanted = [(array * rounded).astype(float) for array in arrays]
            outs = [np.full_like(array, nan) for array in arrays]
            scale(list(zip(arrays, outs, strict=True)), factor)
            these = [array.copy() for array in arrays]
            scale([(array, array) for array in these], factor, order=7)
            for out, same, expected in zip(outs, these, wanted, strict=True):
                np.testing.assert_array_equal(out.astype(float), expected)
                np.testing.assert_array_equal(same.astype(float), expected)


@pytest.mark.parametrize("bad", [inf, -inf, nan])
@pytest.mark.parametrize("name", TYPES)
def test_one_number_that_is_not_finite_is_found_wherever_it_stands(name: str, bad: float) -> None:
    arrays = arrays_of(name)
    arrays[3][0] = np.finfo(dtype(name)).max if "bfloat" not in name else 3e38
    assert nonfinite(arrays) == 0
    for which, place in [(1, 0), (4, 32), (6, 4095), (7, 4096), (7, 4999)]:
        kept, arrays[which][place] = arrays[which][place], bad
        assert {nonfinite(arrays, blocks, order) for blocks, order in [(1, 0), (3, 1), (9, 7)]} == {1}
        arrays[which][place] = kept
    assert nonfinite(arrays) == 0
    assert nonfinite([np.zeros(0, dtype(name))]) == 0


@pytest.mark.parametrize("name", TYPES)
def test_a_checked_run_finds_nothing(name: str) -> None:
    for offset in (0, 1):
        arrays = [of_type(name, size, offset=offset) for size in (0, 3, 70, 33)]
        for array in arrays:
            array.flags.writeable = False
        wanted = norm_in_float64(arrays)
        np.testing.assert_allclose(norm(arrays, checked=True)[0], wanted, rtol=1e-6)
        assert nonfinite(arrays, checked=True) == 0
        everywhere = [np.full_like(array, nan) for array in arrays]  # many threads, of several blocks, find one
        assert nonfinite(everywhere, checked=True) == 1
        outs = [np.empty_like(array) for array in arrays]
        scale(list(zip(arrays, outs, strict=True)), 0.5, checked=True)
        assert all(np.array_equal(out, array * array.dtype.type(0.5)) for out, array in zip(outs, arrays, strict=True))


def test_the_checked_build_would_notice_a_write_to_what_is_only_read() -> None:
    x = of_type("float32", 20)
    x.flags.writeable = False
    with pytest.raises(EmulatorError, match="memory"):
        scale([(x, x)], 0.5, checked=True)
