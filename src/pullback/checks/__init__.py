"""Fourth floor: checks that users run on their own functions."""

from .gradients import check_gradients

__all__ = ["check_gradients"]
