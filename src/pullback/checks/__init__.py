"""Fourth floor: checks that users run on their own functions."""

from .gradients import check_gradients
from .no_jacobian import no_jacobian
from .nonfinite import detect_nonfinite

__all__ = ["check_gradients", "detect_nonfinite", "no_jacobian"]
