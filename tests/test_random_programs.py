"""Programs drawn at random: all modes agree with each other and with central differences, whatever is composed."""

import numpy as np
import pytest

import pullback as pb

ROWS, COLUMNS = 3, 4
WEIGHTS = np.random.default_rng(99).normal(size=(COLUMNS, COLUMNS)) / 2
MASK = np.random.default_rng(98).uniform(size=(ROWS, COLUMNS)) > 0.5

# Each takes and gives matrices of one shape, so that any composition is a program.
ONE = [
    pb.tanh,
    pb.sin,
    lambda x: x * 0.7,
    lambda x: -x,
    lambda x: x,
    lambda x: x @ WEIGHTS,
    lambda x: pb.softmax(x, axis=-1),
    lambda x: x - pb.mean(x, axis=0),
    lambda x: x / (1.0 + pb.sum(x * x, axis=1, keepdims=True)),
    lambda x: pb.reshape(pb.reshape(x, (COLUMNS, ROWS)), (ROWS, COLUMNS)),
    lambda x: pb.reshape(x.T, (ROWS, COLUMNS)),
    lambda x: x[::-1],
    lambda x: x[[2, 0, 2]],
    lambda x: x.at[1].set(x[0] * 2.0),
    lambda x: x.at[[0, 0]].add(x[1:]),
    lambda x: pb.concat([x[1:], x[:1]]),
    lambda x: pb.stack(pb.unstack(x, axis=1), axis=1),
    lambda x: pb.broadcast_to(pb.sum(x, axis=0), (ROWS, COLUMNS)) * 0.3,
    lambda x: pb.where(MASK, x, pb.sin(x)),
    pb.checkpoint(lambda x: pb.tanh(x) * x),
    pb.checkpoint(lambda x: pb.checkpoint(pb.sin)(x) + x),
    pb.custom_rule(pb.sin, vjp=lambda g, out, x: (g * pb.cos(x),), jvp=lambda t, out, x: t[0] * pb.cos(x)),
    pb.grad(lambda v: pb.sum(pb.sin(v) * v)),
    lambda x: pb.jvp(pb.tanh, (x,), (x * 0.5,))[1],
]
TWO = [
    lambda x, y: x + y,
    lambda x, y: x - y,
    lambda x, y: x * y,
    lambda x, y: pb.where(MASK, x, y),
    lambda x, y: x @ (y.T @ y) * 0.1,
    lambda x, y: x + y[:1],
    lambda x, y: pb.tanh(x) * pb.sum(y, axis=1, keepdims=True),
    pb.checkpoint(lambda x, y: pb.sin(x * y) + x),
    lambda x, y: pb.vjp(pb.sin, x)[1](y)[0],
]


def program(seed, length=12):
    """A function of two matrices to one number, whose lines use values that were made before, old and new."""
    rng = np.random.default_rng(seed)
    lines = []
    for k in range(2, 2 + length):
        if rng.uniform() < 0.5:
            lines.append((ONE[rng.integers(len(ONE))], (max(0, k - 1 - int(rng.exponential(1.5))),)))
        else:
            lines.append(
                (TWO[rng.integers(len(TWO))], tuple(max(0, k - 1 - int(rng.exponential(2.0))) for _ in range(2)))
            )

    def f(x, y):
        values = [pb.asarray(x), pb.asarray(y)]
        for step, places in lines:
            values.append(pb.tanh(step(*[values[place] for place in places])))
        return pb.sum(values[-1] * values[-2] + values[len(values) // 2] + pb.sin(values[0] * values[1]))

    return f


@pytest.mark.parametrize("seed", range(60))
def test_modes_agree_on_a_random_program(seed):
    f = program(seed)
    rng = np.random.default_rng(1000 + seed)
    point = [rng.normal(size=(ROWS, COLUMNS)) for _ in range(2)]
    direction = [rng.normal(size=(ROWS, COLUMNS)) for _ in range(2)]
    gradient = pb.grad(f, (0, 1))
    first = [g.numpy() for g in gradient(*point)]
    slope = sum(float(np.sum(g * d)) for g, d in zip(first, direction, strict=True))
    assert pb.jvp(f, point, direction)[1].item() == pytest.approx(slope, rel=1e-9, abs=1e-9)

    leaves = [pb.tensor(x, requires_grad=True) for x in point]
    for times in (1, 2):
        f(*leaves).backward(retain=True)
        for x, g in zip(leaves, first, strict=True):
            np.testing.assert_allclose(x.grad.numpy(), times * g, rtol=1e-9, atol=1e-10)

    pushed = pb.hvp(f, point, direction)
    pulled = pb.grad(lambda *v: sum(pb.sum(g * d) for g, d in zip(gradient(*v), direction, strict=True)), (0, 1))(
        *point
    )
    for a, b in zip(pushed, pulled, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-8, atol=1e-9)

    step = 1e-5
    ahead, behind = ([x + s * d for x, d in zip(point, direction, strict=True)] for s in (step, -step))
    assert (f(*ahead).item() - f(*behind).item()) / (2 * step) == pytest.approx(slope, rel=1e-6, abs=1e-6)
    for a, b, h in zip(gradient(*ahead), gradient(*behind), pushed, strict=True):
        np.testing.assert_allclose((a.numpy() - b.numpy()) / (2 * step), h.numpy(), rtol=1e-5, atol=1e-5)
