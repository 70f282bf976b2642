"""Second floor: what is said of a call that failed: which op, why, and the inputs that it met."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backends import BACKENDS
from ..errors import ArgumentError, DtypeError, IndexingError, LinearAlgebraError, PullbackError, ShapeError
from .op import Op

__all__ = ["explained", "inputs_met"]


def inputs_met(op: Op, arrays: Sequence[Any]) -> str:
    """The inputs of a call in words: name, shape, dtype and device."""
    names = [f"{op.sequence}[{i}]" for i in range(len(arrays))] if op.sequence else op.inputs
    return ", ".join(
        f"{name} {tuple(a.shape)} {a.dtype} on {BACKENDS[a.__class__].device_of(a)}" if hasattr(a, "shape") else
        f"{name} {a!r}" for name, a in zip(names, arrays, strict=False)
        if a is not None
    )  # fmt: skip


def explained(op: Op, arrays: Sequence[Any], error: Exception) -> Exception:
    """The named error for a body that failed. It is looked into only now: a check before each call would cost more."""
    if isinstance(error, MemoryError):
        error = _out_of_memory(error)
    if isinstance(error, MemoryError | Warning) and not isinstance(error, PullbackError):
        return error  # a warning is an exception here where the caller made it one
    text = str(error)
    if isinstance(error, PullbackError):
        kind: type[PullbackError] = type(error)
        if text.startswith(f"{op.name}:"):
            return error
    elif isinstance(error, np.linalg.LinAlgError):
        square = all(a.ndim >= 2 and a.shape[-1] == a.shape[-2] for a in arrays[:1])
        kind = LinearAlgebraError if square and "dimensional" not in text else ShapeError
    elif isinstance(error, IndexError) and not isinstance(error, ValueError):
        kind = IndexingError
    elif isinstance(error, TypeError | AttributeError):
        kind = DtypeError
    elif isinstance(error, OverflowError):
        kind = ArgumentError
    elif isinstance(error, ValueError | IndexError):
        kind = ShapeError
    else:
        kind = PullbackError
    return kind(f"{op.name}: {text}; met {inputs_met(op, arrays)}")


def _out_of_memory(error: MemoryError) -> MemoryError:
    """What a backend has to say of an allocation that failed; the error itself if it is none's."""
    for backend in {*BACKENDS.values()}:
        named = backend.out_of_memory(error)
        if named is not error:
            return named
    return error
