"""The CPU's `where` by bits, against NumPy's own, to the bit."""

import numpy as np
import pytest

from pullback.backends.numpy_choice import where

ODD = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-42, -1.5]


def bits(x):
    return x.view(f"u{x.itemsize}")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(7,), (64, 64), (5000,), (3, 7, 500)])
def test_it_chooses_every_number_exactly(dtype, shape):
    rng = np.random.default_rng(0)
    with np.errstate(under="ignore"):
        x, y = rng.choice(np.array(ODD).astype(dtype), size=(2, *shape))
    condition = rng.random(shape) < 0.5
    np.testing.assert_array_equal(bits(where(condition, x, y)), bits(np.where(condition, x, y)))
    for number in (0, 0.0, -0.0, 1, -2.5, np.inf):
        for pair in ((x, number), (number, y)):
            out = where(condition, *pair)
            assert out.dtype == dtype
            np.testing.assert_array_equal(bits(out), bits(np.where(condition, *pair)))


@pytest.mark.parametrize(
    ("condition", "x", "y"),
    [
        ((100, 100), (100,), (100, 1)),
        ((1, 5000), (3, 1), (3, 5000)),
        ((5000,), (), (5000,)),
        ((5000,), (4, 5000), ()),
        ((0, 5000), (0, 5000), (5000,)),
    ],
)
def test_it_broadcasts_as_numpy_does_and_writes_no_input(condition, x, y):
    rng = np.random.default_rng(1)
    arguments = rng.random(condition) < 0.5, rng.normal(size=x), rng.normal(size=y)
    before = [a.copy() for a in arguments]
    np.testing.assert_array_equal(where(*arguments), np.where(*arguments))
    for argument, old in zip(arguments, before, strict=True):
        np.testing.assert_array_equal(argument, old)


def test_it_takes_what_numpy_takes():
    wide = np.arange(20000.0)
    condition = np.arange(20000) % 3 == 0
    strided = np.flip(wide)[::2]
    np.testing.assert_array_equal(
        where(condition[::2], wide[::2], strided), np.where(condition[::2], wide[::2], strided)
    )
    for x, y in [
        (wide, wide.astype(np.float32)),
        (np.arange(20000), 0),
        (condition, True),
        (1, 2.5),
        (wide, np.float32(1)),
    ]:
        out, expected = where(condition, x, y), np.where(condition, x, y)
        assert out.dtype == expected.dtype
        np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(where(np.arange(20000), wide, 0.0), np.where(np.arange(20000), wide, 0.0))
    assert where(np.True_, np.float32(2), 3.0) == 2
