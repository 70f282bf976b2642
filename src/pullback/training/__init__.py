"""Training that can stop at any step and go on as if it had not."""

from .curves import draw_curves
from .trainer import Metrics, Trainer, read_checkpoint

__all__ = ["Metrics", "Trainer", "draw_curves", "read_checkpoint"]
