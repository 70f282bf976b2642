"""Philox and the kernel of dropout on the emulator: bit for bit what the host computes."""

from typing import Any

import numpy as np
import pytest
from emulator import EmulatorError, build, missing
from kernel_rows import TYPES, dtype, real
from test_philox import KNOWN

from pullback.backends import philox

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

ALL = [f"pullback::dropout<{c}>" for c, _, _ in TYPES.values()]
ADVANCE = "pullback::advance"
WORDS = """
#include "philox.cuh"
namespace pullback {
__global__ void words(uint64 key, uint64 step, uint64 first, uint32* out) {
    const Words words = philox(key, step, first + threadIdx.x);
    for (int i = 0; i < 4; ++i) out[4 * threadIdx.x + i] = words.at[i];
}
}
"""
KEY, STEP = 0x0123456789ABCDEF, 0xFEDCBA9876543210


def words(key: int, step: int, first: int, count: int) -> np.ndarray:
    out = np.zeros((count, 4), np.uint32)
    build(WORDS, ["pullback::words"])["pullback::words"](1, count, *map(np.uint64, (key, step, first)), out)
    return out


def dropped(
    x: np.ndarray, rate: float, key: int = KEY, step: int = STEP, counter: np.ndarray | None = None,
    geometry: tuple[int, int] = (2, 64), order: int = 0, checked: bool = False, misaligned: bool = False,
    threshold: int | None = None,
) -> np.ndarray:  # fmt: skip
    name = x.dtype.name
    threshold = philox.threshold_of(rate) if threshold is None else threshold
    buffer = np.full(misaligned + x.size + 16, np.nan, x.dtype)
    out = buffer[int(misaligned) : misaligned + x.size]
    build("dropout.cu", [*ALL, ADVANCE], checked=checked)[f"pullback::dropout<{TYPES[name][0]}>"](
        *geometry, x, out, np.int64(x.size), np.uint64(key), np.uint64(step), counter,
        np.uint32(threshold), real(name)(philox.scale_of(rate, x.dtype)),
        order=order, uninitialised=[out],
    )  # fmt: skip
    assert np.isnan(buffer[misaligned + x.size :].astype(float)).all(), "written behind the end"
    return out


def expected(x: np.ndarray, rate: float, key: int = KEY, step: int = STEP) -> np.ndarray:
    mask = philox.kept(key, step, x.size, philox.threshold_of(rate)).astype(x.dtype)
    return x * (mask * philox.scale_of(rate, x.dtype))


def assert_same_bits(found: np.ndarray, wanted: np.ndarray, of: Any = "") -> None:
    assert found.dtype == wanted.dtype
    assert found.tobytes() == wanted.tobytes(), of


def drawn(name: str, size: int) -> np.ndarray:
    return np.random.default_rng(size).normal(size=size).astype(dtype(name))


@pytest.mark.parametrize(("key", "step", "block", "published"), KNOWN)
def test_words_of_the_kernels_are_the_published_ones(key: int, step: int, block: int, published: list[int]) -> None:
    assert words(key, step, block, 1).tolist() == [published]


def test_words_of_the_kernels_are_those_of_the_host() -> None:
    for key, step, first in [(0, 0, 0), (KEY, STEP, 2**32 - 50), (2**64 - 1, 2**63, 2**63 - 7)]:
        np.testing.assert_array_equal(words(key, step, first, 100), philox.blocks(key, step, first, 100))


@pytest.mark.parametrize("name", TYPES)
def test_dropout_is_what_the_host_computes_bit_for_bit(name: str) -> None:
    for size in (1, 2, 7, 8, 9, 63, 100, 1025, 4099):
        for rate in (0.1, 0.5, 0.77):
            x = drawn(name, size)
            assert_same_bits(dropped(x, rate), expected(x, rate), (size, rate))


@pytest.mark.parametrize("name", TYPES)
def test_dropout_takes_arrays_at_odd_places(name: str) -> None:
    x = drawn(name, 203)
    for source, misaligned in [(x[1:], False), (x[1:], True), (x[:-1], True), (x[3:], True)]:
        assert_same_bits(dropped(source, 0.3, misaligned=misaligned), expected(source, 0.3))


def test_decisions_do_not_depend_on_the_dtype_nor_on_the_geometry() -> None:
    masks = [dropped(np.ones(500, dtype(name)), 0.4, geometry=(1 + i, 32 << i)) != 0 for i, name in enumerate(TYPES)]
    assert all(np.array_equal(mask, masks[0]) for mask in masks)


def test_a_decision_at_the_threshold_drops() -> None:
    halves = philox.blocks(KEY, STEP, 0, 3).view(np.uint16).reshape(-1)
    for place in (0, 7, 23):
        found = dropped(np.ones(24, np.float32), 0.5, threshold=int(halves[place])) != 0
        assert not found[place]
        assert np.array_equal(found, halves < halves[place])


@pytest.mark.parametrize("name", TYPES)
def test_ends_of_the_rate_and_numbers_that_are_not_finite(name: str) -> None:
    x = drawn(name, 40)
    assert_same_bits(dropped(x, 0.0), x)
    assert not np.any(dropped(x, 1.0))
    odd = np.tile(np.array([np.inf, -np.inf, np.nan, -0.0, 0.0]), 8).astype(x.dtype)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(dropped(odd, 0.5).astype(float), expected(odd, 0.5).astype(float))
    assert np.array_equal(np.signbit(dropped(odd, 0.5)[3::5]), np.ones(8, bool))


def test_the_step_in_device_memory_is_added_and_advances() -> None:
    x, counter = drawn("float32", 300), np.array([5], np.uint64)
    advance = build("dropout.cu", [*ALL, ADVANCE])[ADVANCE]
    for passed in (5, 8, 11):
        assert_same_bits(dropped(x, 0.5, step=7, counter=counter), expected(x, 0.5, step=7 + passed))
        advance(2, 32, counter, np.uint64(3))
    assert_same_bits(dropped(x, 0.5, step=2**64 - 14, counter=counter), expected(x, 0.5, step=0))


@pytest.mark.parametrize("name", TYPES)
def test_no_order_of_threads_changes_a_bit(name: str) -> None:
    x = drawn(name, 700)
    found = [dropped(x, 0.3, order=order).tobytes() for order in (0, 1, 7)]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("name", TYPES)
def test_a_checked_run_finds_nothing(name: str) -> None:
    for size, misaligned in [(203, False), (77, True), (8, False)]:
        x = drawn(name, size)
        x.flags.writeable = False
        counter = np.zeros(1, np.uint64)
        found = dropped(x, 0.3, counter=counter, checked=True, misaligned=misaligned)
        assert_same_bits(found, expected(x, 0.3))


def test_the_checked_build_would_notice_a_wrong_size() -> None:
    x = drawn("float32", 16)
    with pytest.raises(EmulatorError, match="memory"):
        build("dropout.cu", [*ALL, ADVANCE], checked=True)[ALL[1]](
            1, 32, x, np.zeros(16, np.float32), np.int64(24), *map(np.uint64, (KEY, STEP)), None,
            np.uint32(100), np.float32(1),
        )  # fmt: skip
