"""Dtypes by name, and what the array API standard asks about them. They are NumPy's, on every device."""

from typing import Any

import numpy as np

from .backends import base, canonical_dtype, default_dtype, is_floating
from .errors import DtypeError

__all__ = [
    "bool",
    "can_cast",
    "finfo",
    "float16",
    "float32",
    "float64",
    "iinfo",
    "int8",
    "int16",
    "int32",
    "int64",
    "isdtype",
    "result_type",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
]

_WEAK = (float, int, bool)

bool = np.dtype("bool")
int8, int16, int32, int64 = (np.dtype(f"int{bits}") for bits in (8, 16, 32, 64))
uint8, uint16, uint32, uint64 = (np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64))
float16, float32, float64 = (np.dtype(f"float{bits}") for bits in (16, 32, 64))


def _dtype_of(x: Any) -> np.dtype:
    """The dtype of a tensor or array, or what a dtype or its name stands for."""
    return canonical_dtype(getattr(x, "dtype", x))


def finfo(type: Any, /) -> Any:
    """Limits of a floating-point dtype (or of that of an array): `bits`, `eps`, `max`, `min`, `smallest_normal`."""
    dtype = _dtype_of(type)
    if not is_floating(dtype):
        raise DtypeError(f"finfo: {dtype} is no floating-point dtype; there is pb.iinfo for integers")
    return np.finfo(dtype)


def iinfo(type: Any, /) -> Any:
    """Limits of an integer dtype (or of that of an array): `bits`, `max`, `min`."""
    dtype = _dtype_of(type)
    if dtype.kind not in "iu":
        raise DtypeError(f"iinfo: {dtype} is no integer dtype; there is pb.finfo for floating-point numbers")
    return np.iinfo(dtype)


def isdtype(dtype: Any, kind: Any) -> Any:
    """Whether `dtype` is of a kind: another dtype, 'bool', 'integral', 'real floating', 'numeric', or a tuple of these.

    Also known are 'signed integer', 'unsigned integer' and 'complex floating' (which nothing here is).
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    names = {"bool", "signed integer", "unsigned integer", "integral", "real floating", "complex floating", "numeric"}
    wanted = tuple(k if isinstance(k, str) and k in names else canonical_dtype(k) for k in kinds)
    return base.isdtype(canonical_dtype(dtype), wanted)


def can_cast(from_: Any, to: Any, /) -> Any:
    """Whether every number of one dtype (or of an array's) is also one of the other."""
    return np.can_cast(_dtype_of(from_), _dtype_of(to))


def result_type(*arrays_and_dtypes: Any) -> np.dtype:
    """The dtype of an elementwise op on these arrays, dtypes and Python numbers.

    Python numbers are weak, and integers beside floating-point arrays take the floating-point dtype; beside nothing but
    a Python float, the default one.
    """
    weak = [x for x in arrays_and_dtypes if type(x) in _WEAK]
    dtypes = [_dtype_of(x) for x in arrays_and_dtypes if type(x) not in _WEAK]
    floating = [dtype for dtype in dtypes if is_floating(dtype)]
    if not floating and float in map(type, weak):
        return default_dtype()
    return np.result_type(*(floating or dtypes), *weak)
