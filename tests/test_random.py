"""Random numbers: distributions, streams, states and dropout."""

import copy
import json
import math
import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
from scipy import stats

import pullback as pb
from pullback import errors
from pullback.random import Generator

N = 200_000
DRAWS = {
    "uniform": lambda g: g.uniform((5,)),
    "uniform float64": lambda g: g.uniform((2, 3), -1.0, 1.0, dtype="float64"),
    "normal": lambda g: g.normal((3,), dtype="float64"),
    "normal float32": lambda g: g.normal((4, 1)),
    "bernoulli": lambda g: g.bernoulli(0.3, (9,)),
    "integers": lambda g: g.integers(-3, 100, (7,)),
    "permutation": lambda g: g.permutation(11),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_seed_gives_the_same_numbers_each_time_and_each_draw_others(name):
    first, second = Generator(5), Generator(5)
    once, again = DRAWS[name](first).numpy(), DRAWS[name](second).numpy()
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, DRAWS[name](first).numpy())
    assert not np.array_equal(once, DRAWS[name](Generator(6)).numpy())


def test_numbers_are_what_they_were_when_this_was_written():
    """Checkpoints and published seeds live as long as this stays."""
    g = Generator(2024)
    assert g.get_state()["key"] == [5514401882974304769, 18299549282331608904]
    assert g.integers(1000, shape=6).tolist() == [368, 843, 582, 579, 987, 684]
    assert g.uniform(3).tolist() == [0.32975417375564575, 0.03629779815673828, 0.8208147287368774]
    normal = [1.2155537632789302, -1.3217636003402518, -0.6387879986953721, -0.9528071708341904]
    np.testing.assert_allclose(g.normal(4, dtype="float64").numpy(), normal, rtol=1e-14)
    assert g.permutation(6).tolist() == [4, 1, 3, 0, 2, 5]


def test_words_are_those_of_philox_at_the_position():
    """By NumPy's own Philox: block `position` of the stream, whatever was drawn before."""
    g = Generator(3)
    g.uniform(5)
    state = g.get_state()
    words = np.random.Philox(key=np.array(state["key"], np.uint64), counter=state["position"]).random_raw(2)
    np.testing.assert_array_equal(g.uniform(2, dtype="float64").numpy(), (words >> np.uint64(11)) * 2.0**-53)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_uniform_numbers_are_uniform(dtype):
    x = Generator(0).uniform((N,), -2.0, 3.0, dtype=dtype).numpy()
    assert x.dtype == np.dtype(dtype)
    assert x.min() >= -2.0
    assert stats.kstest(x.astype(float), stats.uniform(-2, 5).cdf).statistic < 0.005
    if dtype != "float16":
        assert x.max() < 3.0


def test_uniform_numbers_stay_below_the_upper_end_where_rounding_would_reach_it():
    x = Generator(0).uniform((N,), 1.0, 1.0 + 2.0**-22).numpy()
    assert set(np.unique(x)) == {np.float32(1), np.float32(1 + 2.0**-23)}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normal_numbers_are_normal_and_independent_of_their_neighbours(dtype):
    x = Generator(1).normal((N,), dtype=dtype).numpy().astype(float)
    assert stats.kstest(x, stats.norm.cdf).statistic < 0.005
    half = N // 2
    assert abs(np.corrcoef(x[:half], x[half:])[0, 1]) < 0.01
    assert abs(np.corrcoef(x[:half] ** 2, x[half:] ** 2)[0, 1]) < 0.01
    assert 4 < np.abs(x).max() < 7
    y = Generator(1).normal((N,), 3.0, 0.5, dtype=dtype).numpy()
    np.testing.assert_allclose(y, 3 + x / 2, rtol=1e-5)


def test_bernoulli_is_true_as_often_as_asked():
    g = Generator(2)
    assert abs(g.bernoulli(0.3, (N,)).numpy().mean() - 0.3) < 0.005
    assert not g.bernoulli(0.0, (100,)).numpy().any()
    assert g.bernoulli(1.0, (100,)).numpy().all()
    assert set(np.unique(g.bernoulli(0.5, (50,), dtype="float32").numpy())) == {0.0, 1.0}


def test_integers_fill_their_range_evenly():
    x = Generator(3).integers(-2, 5, (N,)).numpy()
    counts = np.bincount(x + 2, minlength=7)
    assert x.min() == -2
    assert stats.chisquare(counts).pvalue > 1e-3
    assert Generator(3).integers(10, shape=3, dtype="uint8").dtype == np.uint8
    wide = Generator(3).integers(-(2**63), 2**63, (1000,)).numpy()
    assert (wide < 0).any()
    assert (wide > 0).any()
    assert Generator(3).integers(0, 2**64, (9,), dtype="uint64").numpy().max() > 2**63


def test_permutations_are_each_as_likely():
    g = Generator(4)
    counts = {}
    for _ in range(6000):
        order = tuple(g.permutation(3).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == math.factorial(3)
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


@pytest.mark.parametrize("name", DRAWS)
def test_a_state_through_json_goes_on_bit_for_bit(name):
    g = Generator(8)
    g.uniform(3)
    g.spawn(2)
    text = json.dumps(g.get_state())
    expected = [DRAWS[name](g).numpy() for _ in range(3)]
    other = Generator(0)
    other.set_state(json.loads(text))
    for x in expected:
        np.testing.assert_array_equal(DRAWS[name](other).numpy(), x)
    assert other.get_state() == g.get_state()
    np.testing.assert_array_equal(other.spawn(1)[0].uniform(4).numpy(), g.spawn(1)[0].uniform(4).numpy())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))])
def test_a_copy_of_a_generator_has_a_stream_of_its_own(copied):
    g = Generator(9)
    g.uniform(2)
    other = copied(g)
    np.testing.assert_array_equal(other.normal(5).numpy(), g.normal(5).numpy())


def test_a_far_position_is_kept():
    g = Generator(0)
    g.set_state({**g.get_state(), "position": 2**70})
    g.uniform(1)
    assert g.get_state()["position"] == 2**70 + 1


def test_spawned_streams_differ_from_each_other_and_from_their_parent():
    g = Generator(10)
    children = [*g.spawn(3), *g.spawn(2)]
    draws = [tuple(c.integers(2**60, shape=4).tolist()) for c in [g, *children]]
    assert len(set(draws)) == 6
    again = [tuple(c.integers(2**60, shape=4).tolist()) for c in Generator(10).spawn(5)]
    assert again == draws[1:]


def test_the_default_generator_is_seeded_for_the_whole_process():
    pb.random.seed(11)
    first = pb.random.uniform(4).numpy(), pb.random.permutation(9).numpy(), pb.dropout(np.ones(40), 0.5).numpy()
    state = pb.random.get_state()
    pb.random.normal(3)
    pb.random.seed(11)
    np.testing.assert_array_equal(pb.random.uniform(4).numpy(), first[0])
    np.testing.assert_array_equal(pb.random.permutation(9).numpy(), first[1])
    np.testing.assert_array_equal(pb.random.dropout(np.ones(40), 0.5).numpy(), first[2])
    assert pb.random.get_state() == state
    np.testing.assert_array_equal(Generator(11).uniform(4).numpy(), first[0])


def test_threads_that_share_a_generator_get_different_numbers():
    g = Generator(12)
    with ThreadPoolExecutor(4) as pool:
        draws = list(pool.map(lambda _: g.integers(2**60, shape=50).tolist(), range(40)))
    assert len({number for draw in draws for number in draw}) == 2000


def test_first_draws_of_threads_from_a_generator_without_a_seed_are_of_one_stream():
    for _ in range(20):
        g, start = Generator(), Barrier(4)

        def draw(_: int, g: Generator = g, start: Barrier = start) -> list[int]:
            start.wait()
            return g.integers(2**60, shape=4).tolist()

        with ThreadPoolExecutor(4) as pool:
            draws = list(pool.map(draw, range(4)))
        assert len({number for draw in draws for number in draw}) == 16
        assert g.get_state()["position"] == 4
        assert g.spawn(1)[0].get_state()["key"] != g.get_state()["key"] != Generator().get_state()["key"]


def test_draws_of_no_numbers_are_empty():
    g = Generator(0)
    for out in (g.uniform((0, 3)), g.normal(0), g.bernoulli(0.5, (2, 0)), g.integers(5, shape=0), g.permutation(0)):
        assert out.size == 0
    assert g.uniform().shape == g.normal().shape == g.integers(3).shape == ()


def test_draws_can_be_leaves_and_follow_the_default_dtype():
    assert Generator(0).normal(2, requires_grad=True).is_leaf
    try:
        pb.set_default_dtype("float64")
        assert Generator(0).uniform(2).dtype == np.float64
    finally:
        pb.set_default_dtype("float32")


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda g: Generator(-1), errors.ArgumentError, "seed"),
        (lambda g: Generator("a"), errors.ArgumentError, "seed"),
        (lambda g: g.uniform(2, 1.0, 0.0), errors.ArgumentError, "low is at most high"),
        (lambda g: g.uniform(2, dtype="int32"), errors.DtypeError, "uniform: .* floating-point dtype; got int32"),
        (lambda g: g.uniform(-2), errors.ShapeError, "uniform"),
        (lambda g: g.normal(2, 0.0, -1.0), errors.ArgumentError, "std"),
        (lambda g: g.bernoulli(1.5), errors.ArgumentError, "from 0 to 1"),
        (lambda g: g.integers(5, 5), errors.ArgumentError, "no number from 5 to below 5"),
        (lambda g: g.integers(300, dtype="int8"), errors.ArgumentError, "int8"),
        (lambda g: g.integers(3, dtype="float32"), errors.DtypeError, "float32"),
        (lambda g: g.set_state({"key": [1, 2]}), errors.ArgumentError, "no state"),
        (lambda g: g.set_state({**g.get_state(), "algorithm": "mt19937"}), errors.ArgumentError, "another algorithm"),
        (lambda g: g.set_state({**g.get_state(), "position": -1}), errors.ArgumentError, "no state"),
        (lambda g: g.normal(2, device="cpu:3"), errors.DeviceError, "cpu:3"),
        (lambda g: pb.dropout(np.ones(3), 1.5), errors.ArgumentError, "dropout: rate .* from 0 to 1"),
        (lambda g: pb.dropout(np.ones(3, int), 0.5), errors.DtypeError, "dropout: x holds int64"),
    ],
)
def test_what_cannot_be_drawn_is_named(call, kind, message):
    g = Generator(0)
    before = g.get_state()
    with pytest.raises(kind, match=message):
        call(g)
    assert g.get_state() == before


# --- dropout ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dropout_keeps_the_mean_and_the_dtype(dtype):
    out = pb.dropout(np.ones(N, dtype), 0.2, Generator(1))
    assert out.dtype == np.dtype(dtype)
    values, counts = np.unique(out.numpy(), return_counts=True)
    np.testing.assert_array_equal(values, np.array([0, 1.25], dtype))
    assert abs(counts[1] / N - 0.8) < 0.005


def test_the_gradient_of_dropout_is_its_mask_and_one_array_is_kept():
    x = pb.tensor(np.arange(1.0, 101.0), requires_grad=True)
    out = pb.dropout(x, 0.5, Generator(2))
    assert [x.shape for x in out.node.saved if hasattr(x, "shape")] == [(100,)]
    mask = out.numpy() / x.numpy()
    out.backward(np.full(100, 3.0))
    np.testing.assert_array_equal(x.grad.numpy(), 3 * mask)
    assert set(np.unique(mask)) == {0.0, 2.0}


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_dropout_of_an_array_without_numbers_is_one(rate):
    assert pb.dropout(pb.zeros((0, 3)), rate).shape == (0, 3)


def test_dropout_of_nothing_and_of_everything():
    x = pb.tensor([1.0, 2.0], requires_grad=True)
    np.testing.assert_array_equal(pb.dropout(x, 0.0).numpy(), [1.0, 2.0])
    out = pb.dropout(x, 1.0)
    np.testing.assert_array_equal(out.numpy(), [0.0, 0.0])
    out.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [0.0, 0.0])


def test_a_seed_in_place_of_a_generator_gives_the_same_mask_at_each_call():
    x = np.ones(64)
    np.testing.assert_array_equal(pb.dropout(x, 0.5, 7).numpy(), pb.dropout(x, 0.5, 7).numpy())
    np.testing.assert_array_equal(pb.dropout(x, 0.5, 7).numpy(), pb.dropout(x, 0.5, Generator(7)).numpy())
    f = pb.checkpoint(lambda x: pb.sum(pb.dropout(x, 0.5, 7) ** 2))
    np.testing.assert_array_equal(pb.grad(f)(x).numpy(), 2 * pb.dropout(x, 0.5, 7).numpy() * 2)
