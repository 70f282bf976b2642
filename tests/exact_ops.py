"""Ops and their rules as the op table has them, in long double: what kernels are measured against."""

from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import scipy.special

from pullback.backends.base import Namespace
from pullback.backends.cuda.scalars import Scalar
from pullback.backends.numpy_backend import NumpyBackend
from pullback.core import op as op_module
from pullback.core.op import OPS, ArrayOps, Op

EXACT = np.longdouble
EPS = {name: float(np.finfo(name).eps) for name in ("float64", "float32", "float16")} | {"bfloat16": 2.0**-7}
TINY = {name: float(np.finfo(name).tiny) for name in ("float64", "float32", "float16")} | {"bfloat16": 2.0**-126}
CTYPES = {
    "float64": "double", "float32": "float", "float16": "pullback::float16", "bfloat16": "pullback::bfloat16",
}  # fmt: skip
DTYPES = {name: np.dtype(getattr(ml_dtypes, name) if name == "bfloat16" else name) for name in CTYPES}


def wide(dtype: str) -> str:
    """The dtype that kernels compute in."""
    return "float64" if dtype == "float64" else "float32"


class _Exact(NumpyBackend):
    """NumPy, with an error function that takes long double (but is exact to float64 only)."""

    def __init__(self) -> None:
        super().__init__()
        self.xp = Namespace(
            SimpleNamespace(**vars(self.xp)),
            erf=lambda x: scipy.special.erf(x.astype(np.float64)).astype(x.dtype),
            erfc=lambda x: scipy.special.erfc(x.astype(np.float64)).astype(x.dtype),
        )


_BACKEND = _Exact()
_OPS = ArrayOps(_BACKEND)


def op_of(scalar: Scalar) -> Op:
    """The op of a function, or of the variant of one."""
    return OPS[scalar.name.partition("_by_")[0]]


def names_of(rule: Any) -> tuple[str, ...]:
    """The arguments of a rule without the namespace."""
    return tuple(name for name in op_module.names_of(rule) if name != "xp")


def rule_of(scalar: Scalar, function: str) -> Any:
    """The rule that a slope is: that of the first array, or of the second."""
    return op_of(scalar).rules[function == "slope_y"]


def exact(scalar: Scalar, function: str, *given: Any) -> np.ndarray:
    """The value of a function of scalar.cuh by the op table: arrays, then numbers, in the order of its declaration."""
    op, names = op_of(scalar), scalar.functions[function]
    values = {a.name: a.default for a in op.arguments}
    values |= {name: x.astype(EXACT) if isinstance(x, np.ndarray) else x for name, x in zip(names, given, strict=True)}
    if scalar.is_variant:
        values["approximate"] = scalar.name.partition("_by_")[2]
    with np.errstate(all="ignore"):
        if function == "value":
            return np.asarray(op.forward(_BACKEND.xp, *[values[a.name] for a in op.arguments]))
        rule = rule_of(scalar, function)
        before = [_OPS] if "xp" in op_module.names_of(rule) else []
        return np.asarray(rule(*before, *[values[name] for name in names_of(rule)]))


def condition(scalar: Scalar, function: str, *given: Any) -> np.ndarray:
    """By how much a relative error of the arguments grows: the sum over arrays of |x f'(x) / f(x)|, by differences."""
    value = exact(scalar, function, *given)
    total = np.zeros(value.shape, EXACT)
    step = EXACT(2.0) ** -30
    with np.errstate(all="ignore"):
        for i, x in enumerate(given):
            if isinstance(x, np.ndarray):
                moved = list(given)
                moved[i] = x.astype(EXACT) * (1 + step)
                total = total + np.abs((exact(scalar, function, *moved) - value) / (step * value))
    return np.where(np.isfinite(total), total, 0)


def measured(scalar: Scalar, function: str, dtype: str, *given: Any) -> tuple[np.ndarray, np.ndarray]:
    """The exact value, and how far a kernel of that type may be off.

    That is 2.5 eps of the type that kernels compute in, of the value and of each argument, half an eps of a narrower
    type that stores it, the smallest numbers of that type, and what rounding in long double does to the rule itself.
    """
    expected = exact(scalar, function, *given)
    error = 2.5 * EPS[wide(dtype)] * (1 + condition(scalar, function, *given))
    if dtype != wide(dtype):
        error += 0.5 * EPS[dtype]
    sizes = [(1 + np.abs(x.astype(EXACT))) ** 3 for x in given if isinstance(x, np.ndarray)]
    with np.errstate(all="ignore"):
        return expected, error * np.maximum(np.abs(expected), TINY[dtype]) + 8 * np.finfo(EXACT).eps * np.prod(
            sizes, axis=0
        )
