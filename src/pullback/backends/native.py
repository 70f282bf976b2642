"""What arrays of our own classes have in common: Python's operators, by the functions of a namespace."""

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["CONSTANTS", "ELEMENTWISE", "NativeArray"]

ELEMENTWISE = [
    "abs", "acos", "acosh", "add", "asin", "asinh", "atan", "atan2", "atanh", "bitwise_and", "bitwise_invert",
    "bitwise_left_shift", "bitwise_or", "bitwise_right_shift", "bitwise_xor", "ceil", "clip", "copysign", "cos",
    "cosh", "divide", "equal", "erf", "erfc", "exp", "expm1", "floor", "floor_divide", "greater", "greater_equal",
    "hypot", "isfinite", "isinf", "isnan", "less", "less_equal", "log", "log10", "log1p", "log2", "logaddexp",
    "logical_and", "logical_not", "logical_or", "logical_xor", "maximum", "minimum", "multiply", "negative",
    "nextafter", "not_equal", "positive", "pow", "reciprocal", "remainder", "round", "sign", "signbit", "sin",
    "sinh", "sqrt", "square", "subtract", "tan", "tanh", "trunc", "where",
]  # fmt: skip
"""Functions of numbers one by one, with broadcasting, by their names in the array API standard; and erf, erfc."""
CONSTANTS: dict[str, Any] = {
    name: getattr(np, name)
    for name in (
        "bool", "e", "finfo", "float16", "float32", "float64", "iinfo", "inf", "int16", "int32", "int64", "int8",
        "nan", "newaxis", "pi", "result_type", "uint16", "uint32", "uint64", "uint8",
    )
}  # fmt: skip
"""What namespaces have beside functions of arrays."""

_OPERATORS = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "floordiv": "floor_divide",
    "mod": "remainder", "pow": "pow", "matmul": "matmul", "and": "bitwise_and", "or": "bitwise_or",
    "xor": "bitwise_xor", "lshift": "bitwise_left_shift", "rshift": "bitwise_right_shift",
}  # fmt: skip
_COMPARISONS = {
    "eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal",
}  # fmt: skip
_UNARY = {"neg": "negative", "pos": "positive", "abs": "abs", "invert": "bitwise_invert"}


class NativeArray:
    """An array whose operators, methods and indices are calls of the functions of its namespace.

    A subclass gives `call(name, *args)`, the function of that name called; `in_place(name, x, other)`, `getitem` and
    `setitem` are among them.
    """

    __slots__ = ()
    __array_ufunc__ = None  # NumPy's arrays and scalars leave operators to this class
    __hash__ = object.__hash__

    call: Callable[..., Any]
    takes_others = False  # whether its functions take arrays of the other classes: operators with those are left to it

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.call("to_numpy", self)

    def reshape(self, *shape: Any) -> Any:
        """As NumPy's method."""
        return self.call("reshape", self, shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)

    def __getitem__(self, index: Any) -> Any:
        return self.call("getitem", self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.call("setitem", self, index, value)


def _leaves_it(x: NativeArray, other: Any) -> bool:
    return not x.takes_others and getattr(other, "takes_others", False)


def _operator(name: str) -> Callable[[NativeArray, Any], Any]:
    return lambda self, other: NotImplemented if _leaves_it(self, other) else self.call(name, self, other)


def _reflected(name: str) -> Callable[[NativeArray, Any], Any]:
    return lambda self, other: self.call(name, other, self)


def _in_place(name: str) -> Callable[[NativeArray, Any], Any]:
    return lambda self, other: NotImplemented if _leaves_it(self, other) else self.call("in_place", name, self, other)


def _unary(name: str) -> Callable[[NativeArray], Any]:
    return lambda self: self.call(name, self)


for _short, _name in _OPERATORS.items():
    setattr(NativeArray, f"__{_short}__", _operator(_name))
    setattr(NativeArray, f"__r{_short}__", _reflected(_name))
    setattr(NativeArray, f"__i{_short}__", _in_place(_name))
for _short, _name in _COMPARISONS.items():
    setattr(NativeArray, f"__{_short}__", _operator(_name))
for _short, _name in _UNARY.items():
    setattr(NativeArray, f"__{_short}__", _unary(_name))
