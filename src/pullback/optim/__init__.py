"""Optimizers: SGD, Adam, AdamW, learning-rate schedules, and clipping of gradients.

A step of training:

    optimizer = pb.optim.AdamW(model.parameters(), lr=pb.optim.WarmUp(100, pb.optim.CosineDecay(1e-3, 10_000)))
    loss.backward()
    pb.optim.clip_grad_norm(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
"""

from .adam import Adam, AdamW
from .clipping import clip_grad_norm
from .schedules import Chain, ConstantRate, CosineDecay, LinearRamp, Schedule, StepDecay, WarmUp
from .sgd import SGD

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Chain",
    "ConstantRate",
    "CosineDecay",
    "LinearRamp",
    "Schedule",
    "StepDecay",
    "WarmUp",
    "clip_grad_norm",
]
