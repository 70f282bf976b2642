"""Fourth floor: what a computation costs, exactly, and what it looks like."""

from .explain import Explanation, Step, explain
from .graph import Tape, TracedEquation, trace
from .profile import Profile, profile
from .report import CostReport, cost

__all__ = [
    "CostReport", "Explanation", "Profile", "Step", "Tape", "TracedEquation", "cost", "explain", "profile", "trace",
]  # fmt: skip
