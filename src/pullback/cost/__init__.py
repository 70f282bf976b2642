"""Fourth floor: what a computation costs, exactly, and what it looks like."""

from .profile import Profile, profile
from .report import CostReport, cost

__all__ = ["CostReport", "Profile", "cost", "profile"]
