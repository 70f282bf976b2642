"""Fourth floor: whole Jacobians, by the cheapest way."""

from .jacobian import jacobian
from .planning import plan_jacobian

__all__ = ["jacobian", "plan_jacobian"]
