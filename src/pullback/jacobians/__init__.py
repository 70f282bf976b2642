"""Fourth floor: whole Jacobians, by the cheapest way."""

from .hessian import hessian
from .jacobian import jacobian
from .planning import plan_jacobian

__all__ = ["hessian", "jacobian", "plan_jacobian"]
