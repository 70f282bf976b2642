"""Philox 4x32-10 on the host, and dropout by it."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import pullback as pb
from pullback import errors
from pullback.backends import philox
from pullback.random import Generator

# Random123's known answers for philox4x32_10: key, step (words 3 and 2 of the counter), block (words 1 and 0), words.
KNOWN = [
    (0, 0, 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    (2**64 - 1, 2**64 - 1, 2**64 - 1, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        0x299F31D0_A4093822,
        0x03707344_13198A2E,
        0x85A308D3_243F6A88,
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def by_the_book(key: int, step: int, block: int) -> list[int]:
    """Salmon et al. 2011, section 3.3, in Python's whole numbers."""
    word = 2**32
    a, b, c, d = block % word, block // word, step % word, step // word
    low, high = key % word, key // word
    for _ in range(10):
        first, second = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = second // word ^ b ^ low, second % word, first // word ^ d ^ high, first % word
        low, high = (low + 0x9E3779B9) % word, (high + 0xBB67AE85) % word
    return [a, b, c, d]


@pytest.mark.parametrize(("key", "step", "block", "words"), KNOWN)
def test_words_are_the_published_ones(key, step, block, words):
    assert philox.blocks(key, step, block, 1).tolist() == [words]
    assert by_the_book(key, step, block) == words


@pytest.mark.parametrize("first", [0, 5, 2**32 - 3, 2**63 + 1, 2**64 - 40_000])
def test_words_are_those_of_the_book_at_any_counter(first):
    key, step = 0x0123456789ABCDEF, 0xFEDCBA9876543210
    words = philox.blocks(key, step, first, 20_000)
    for i in (0, 1, 2, 3, 4, 8191, 8192, 16384, 19_999):
        assert words[i].tolist() == by_the_book(key, step, first + i)


def test_decisions_are_the_halves_of_words_low_ones_first():
    halves = [half for block in range(3) for word in by_the_book(3, 4, block) for half in (word % 2**16, word >> 16)]
    for threshold in (30_000, halves[4], halves[4] + 1):
        assert philox.kept(3, 4, 21, threshold).tolist() == [half < threshold for half in halves[:21]]


@pytest.mark.parametrize("count", [1, 8, 100, 5_000, 40_000, 70_001])
def test_decisions_of_a_step_do_not_depend_on_what_was_asked_before(count):
    """Steps of few blocks are computed ahead: in turns, at jumps, backwards, for other keys and sizes."""
    calls = [(1, 7), (1, 8), (1, 9), (2, 9), (1, 10), (1, 10), (1, 3), (1, 2**64 - 1), (1, 0), (1, 500)]
    for key, step in calls:
        for size in (count, count // 2 + 1):
            words = philox.blocks(key, step, 0, -(-size // 8))
            halves = np.stack([words & 0xFFFF, words >> 16], axis=-1).reshape(-1)[:size]
            np.testing.assert_array_equal(philox.kept(key, step, size, 40_000), halves < 40_000)


def test_threads_compute_the_same():
    expected = [philox.kept(5, step, 3000, 20_000).tobytes() for step in range(64)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda step: philox.kept(5, step, 3000, 20_000).tobytes(), range(64))) == expected


def test_ends_of_the_rate():
    assert philox.kept(1, 1, 1000, philox.threshold_of(0.0)).all()
    assert not philox.kept(1, 1, 1000, philox.threshold_of(1.0)).any()
    assert philox.kept(1, 1, 0, 5).size == 0
    assert philox.threshold_of(0.5) == 2**15
    assert philox.scale_of(0.75, np.dtype(np.float16)) == 4


def test_decisions_are_independent_between_neighbours_blocks_and_steps():
    a, b = (philox.kept(9, step, 400_000, 2**15) * 2.0 - 1.0 for step in (0, 1))
    for x, y in [(a[1:], a[:-1]), (a[8:], a[:-8]), (a, b)]:
        assert abs(np.mean(x * y)) < 5 / np.sqrt(len(x))
    assert abs(np.mean(a)) < 5 / np.sqrt(len(a))


# --- keyed dropout ----------------------------------------------------------------------------------------------------


def test_the_mask_of_dropout_is_that_of_its_step_in_every_dtype():
    kept = philox.kept(11, 12, 60, philox.threshold_of(0.25)).reshape(5, 12)
    for dtype in ("float16", "float32", "float64"):
        x = np.arange(1.0, 61.0).reshape(5, 12).astype(dtype)
        scale = np.dtype(dtype).type(1 / 0.75)
        np.testing.assert_array_equal(pb.keyed_dropout(x, 0.25, 11, 12).numpy(), np.where(kept, x * scale, 0))
        np.testing.assert_array_equal(pb.dropout_mask(x, 0.25, 11, 12).numpy(), np.where(kept, scale, 0))


def test_dropout_takes_key_and_step_from_its_generator():
    g, x = Generator(4), np.ones(100)
    for position in range(3):
        state = g.get_state()
        assert state["position"] == position
        out = pb.dropout(x, 0.5, g).numpy()
        np.testing.assert_array_equal(out, pb.keyed_dropout(x, 0.5, state["key"][0], position).numpy())
    g.set_state({**g.get_state(), "position": 2**64 + 1})
    np.testing.assert_array_equal(pb.dropout(x, 0.5, g).numpy(), pb.dropout(x, 0.5, _at(4, 1)).numpy())


def _at(seed: int, position: int) -> Generator:
    g = Generator(seed)
    g.set_state({**g.get_state(), "position": position})
    return g


def test_a_refused_dropout_takes_no_step():
    g = Generator(4)
    for call in (lambda: pb.dropout(np.ones(3), 2.0, g), lambda: pb.dropout(np.ones(3, int), 0.5, g)):
        with pytest.raises(errors.PullbackError):
            call()
    pb.dropout(np.ones(3), 0.0, g)
    assert g.get_state()["position"] == 0


def test_threads_that_share_a_generator_take_different_steps():
    g = Generator(4)
    with ThreadPoolExecutor(8) as pool:
        steps = list(pool.map(lambda _: g.take_step(), range(400)))
    assert len(set(steps)) == 400


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ((1.5, 0, 0), errors.ArgumentError),
        ((0.5, -1, 0), errors.ArgumentError),
        ((0.5, 0, 2**64), errors.ArgumentError),
    ],
)
def test_a_key_or_step_or_rate_out_of_range_is_named(arguments, kind):
    with pytest.raises(kind, match="keyed_dropout"):
        pb.keyed_dropout(np.ones(3), *arguments)


def test_integers_are_refused():
    with pytest.raises(errors.DtypeError, match="keyed_dropout: x holds int64"):
        pb.keyed_dropout(np.ones(3, np.int64), 0.5, 0, 0)


def test_gradients_of_every_order_multiply_by_the_same_mask():
    x = np.linspace(-1, 1, 30)
    mask = pb.dropout_mask(x, 0.4, 5, 6).numpy()

    def f(x):
        return pb.sum(pb.keyed_dropout(x, 0.4, 5, 6) ** 3)

    np.testing.assert_allclose(pb.grad(f)(x).numpy(), 3 * x**2 * mask**3, rtol=1e-14)
    np.testing.assert_allclose(pb.grad(lambda x: pb.sum(pb.grad(f)(x)))(x).numpy(), 6 * x * mask**3, rtol=1e-14)
    out, slope = pb.jvp(lambda x: pb.keyed_dropout(x, 0.4, 5, 6), (x,), (np.full(30, 2.0),))
    np.testing.assert_array_equal(out.numpy(), x * mask)
    np.testing.assert_array_equal(slope.numpy(), 2 * mask)
