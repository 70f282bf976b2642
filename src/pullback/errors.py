"""Every error pullback raises on purpose. Each is also the nearest builtin, so `except ValueError` keeps working."""


class PullbackError(Exception):
    """Base of all errors below."""


class ShapeError(PullbackError, ValueError):
    """Shapes do not fit together, or an axis is out of range."""


class DtypeError(PullbackError, TypeError):
    """An array or argument has a type the op does not take."""


class DeviceError(PullbackError, RuntimeError):
    """A device is missing, or arrays of different devices met in one op."""


class DeviceMemoryError(PullbackError, MemoryError):
    """A device has too little memory left; the message says how much was asked for, is used and is free."""


class KernelError(PullbackError, RuntimeError):
    """A kernel's source is missing, does not compile or cannot be launched."""


class ArgumentError(PullbackError, ValueError):
    """An argument has a value the call does not take."""


class IndexingError(PullbackError, IndexError):
    """An index or a label is out of range."""


class LinearAlgebraError(PullbackError, ArithmeticError):
    """A matrix is singular, not positive definite, or a decomposition did not converge."""


class TapeError(PullbackError, RuntimeError):
    """The tape cannot be pulled: nothing recorded, already freed, or about to be cut silently."""


class MutationError(TapeError):
    """A value that the tape still needs was changed in place."""


class RuleError(PullbackError, NotImplementedError):
    """An op has no rule for the derivative that was asked for, or a rule is wrong."""


class NonFiniteError(PullbackError, ArithmeticError):
    """A value that has to be finite is NaN or infinite."""


class GradientCheckError(PullbackError, AssertionError):
    """A derivative disagrees with finite differences."""


class DataError(PullbackError, ValueError):
    """A data file cannot be read or does not hold what its format promises."""


class CheckpointError(PullbackError, ValueError):
    """A saved file cannot be read, does not fit the model, or could not be written."""
