"""Fourth floor: what a computation costs, exactly, and what it looks like."""

from .report import CostReport, cost

__all__ = ["CostReport", "cost"]
