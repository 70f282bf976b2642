"""Learning rates as functions of the step."""

from math import cos, nan, pi

import numpy as np
import pytest

import pullback as pb
from pullback.errors import (
    ArgumentError,
)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (pb.optim.ConstantRate(0.3), lambda k: 0.3),
        (pb.optim.StepDecay(1.0, 3, 0.5), lambda k: 0.5 ** (k // 3)),
        (pb.optim.CosineDecay(1.0, 8, 0.2), lambda k: 0.2 + 0.4 * (1 + cos(pi * min(k, 8) / 8))),
        (pb.optim.LinearRamp(1.0, 4, 3.0), lambda k: 1 + min(k, 4) / 2),
        (pb.optim.WarmUp(4, pb.optim.StepDecay(1.0, 2, 0.5)), lambda k: k / 4 if k < 4 else 0.5 ** ((k - 4) // 2)),
        (pb.optim.WarmUp(2, lambda k: 2.0 + k, start=0.5), lambda k: [1.0, 1.5][k] if k < 2 else float(k)),
        (
            pb.optim.Chain((2, pb.optim.LinearRamp(0.0, 2, 1.0)), (3, lambda k: 1.0), (1, lambda k: 1 / (k + 2))),
            lambda k: k / 2 if k < 2 else 1.0 if k < 5 else 1 / (k - 3),
        ),
    ],
    ids=lambda x: type(x).__name__,
)  # fmt: skip
def test_schedules_are_the_functions_they_say(schedule, expected):
    assert [schedule(k) for k in range(12)] == pytest.approx([expected(k) for k in range(12)], abs=1e-15)


def test_an_optimizer_asks_its_schedule_with_the_steps_taken():
    x = pb.tensor([0.0], requires_grad=True)
    asked = []
    optimizer = pb.optim.SGD([x], lr=lambda step: asked.append(step) or float(step))
    asked.clear()
    moves = []
    for _ in range(4):
        before = x.item()
        optimizer.step([np.float32([-1.0])])
        moves.append(x.item() - before)
    assert asked == [0, 1, 2, 3]
    assert moves == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pb.optim.ConstantRate(-1.0), "rate"),
        (lambda: pb.optim.ConstantRate(nan), "rate"),
        (lambda: pb.optim.StepDecay(0.1, 0), "every"),
        (lambda: pb.optim.StepDecay(0.1, 5, -0.5), "factor"),
        (lambda: pb.optim.CosineDecay(0.1, 0), "steps"),
        (lambda: pb.optim.CosineDecay(0.1, 2.5), "steps"),
        (lambda: pb.optim.CosineDecay("0.1", 2), "rate"),
        (lambda: pb.optim.LinearRamp(0.1, 5, -0.1), "final"),
        (lambda: pb.optim.WarmUp(5, 0.1), "no schedule"),
        (lambda: pb.optim.WarmUp(0, pb.optim.ConstantRate(0.1)), "steps"),
        (pb.optim.Chain, "parts"),
        (lambda: pb.optim.Chain(pb.optim.ConstantRate(0.1)), "parts"),
        (lambda: pb.optim.Chain((5, 0.1)), "no schedule"),
    ],
)
def test_schedules_refuse_what_makes_no_learning_rate(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()
