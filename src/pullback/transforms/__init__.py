"""Fourth floor: functions of functions. Each takes a function of trees of tensors and gives a derivative of it."""

from .checkpoint import checkpoint
from .custom import custom_rule
from .forward import hvp, jvp, linearize
from .reverse import grad, value_and_grad, vjp

__all__ = ["checkpoint", "custom_rule", "grad", "hvp", "jvp", "linearize", "value_and_grad", "vjp"]
