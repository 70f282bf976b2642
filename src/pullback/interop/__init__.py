"""Fifth floor: arrays of other libraries, in and out without a copy."""

from .dlpack import from_dlpack

__all__ = ["from_dlpack"]
