"""Second floor: the operators of a Tensor. Each is the op of that name, looked up in the table."""

from typing import Any, Self

from ..errors import DtypeError
from .op import OPS, TENSORS

__all__ = ["Operators"]

_OF_NUMPY = {name: name for name in ("add", "subtract", "multiply", "divide", "floor_divide", "remainder", "matmul")}
_OF_NUMPY |= {name: name for name in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")}
_OF_NUMPY |= {f"bitwise_{name}": f"bitwise_{name}" for name in ("and", "or", "xor")}
_OF_NUMPY |= {"power": "pow", "left_shift": "bitwise_left_shift", "right_shift": "bitwise_right_shift"}


class Operators:
    """Python's operators as ops; the other operand may be a Tensor, an array of the same device, or a number."""

    __slots__ = ()
    __hash__ = object.__hash__  # by identity, since == is elementwise

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """`array + tensor` and the other operators of NumPy are ours; its functions are refused: they know no tape."""
        name = ufunc.__name__
        if name in _OF_NUMPY and method == "__call__" and not options:
            return getattr(TENSORS, _OF_NUMPY[name])(*inputs)
        ours = "a" + name[3:] if name.startswith("arc") else name
        known = ours in OPS and method == "__call__" and not options
        advice = f"use pb.{ours}" if known else "take the numbers with .numpy()"
        raise DtypeError(f"numpy.{name} is a NumPy ufunc, which would leave the tape; {advice}")

    def __add__(self, other: Any) -> Self:
        return TENSORS.add(self, other)

    def __radd__(self, other: Any) -> Self:
        return TENSORS.add(other, self)

    def __sub__(self, other: Any) -> Self:
        return TENSORS.subtract(self, other)

    def __rsub__(self, other: Any) -> Self:
        return TENSORS.subtract(other, self)

    def __mul__(self, other: Any) -> Self:
        return TENSORS.multiply(self, other)

    def __rmul__(self, other: Any) -> Self:
        return TENSORS.multiply(other, self)

    def __truediv__(self, other: Any) -> Self:
        return TENSORS.divide(self, other)

    def __rtruediv__(self, other: Any) -> Self:
        return TENSORS.divide(other, self)

    def __floordiv__(self, other: Any) -> Self:
        return TENSORS.floor_divide(self, other)

    def __rfloordiv__(self, other: Any) -> Self:
        return TENSORS.floor_divide(other, self)

    def __mod__(self, other: Any) -> Self:
        return TENSORS.remainder(self, other)

    def __rmod__(self, other: Any) -> Self:
        return TENSORS.remainder(other, self)

    def __pow__(self, other: Any) -> Self:
        return TENSORS.pow(self, other)

    def __rpow__(self, other: Any) -> Self:
        return TENSORS.pow(other, self)

    def __matmul__(self, other: Any) -> Self:
        return TENSORS.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Self:
        return TENSORS.matmul(other, self)

    def __neg__(self) -> Self:
        return TENSORS.negative(self)

    def __pos__(self) -> Self:
        return TENSORS.positive(self)

    def __abs__(self) -> Self:
        return TENSORS.abs(self)

    def __invert__(self) -> Self:
        return TENSORS.bitwise_invert(self)

    def __and__(self, other: Any) -> Self:
        return TENSORS.bitwise_and(self, other)

    def __rand__(self, other: Any) -> Self:
        return TENSORS.bitwise_and(other, self)

    def __or__(self, other: Any) -> Self:
        return TENSORS.bitwise_or(self, other)

    def __ror__(self, other: Any) -> Self:
        return TENSORS.bitwise_or(other, self)

    def __xor__(self, other: Any) -> Self:
        return TENSORS.bitwise_xor(self, other)

    def __rxor__(self, other: Any) -> Self:
        return TENSORS.bitwise_xor(other, self)

    def __lshift__(self, other: Any) -> Self:
        return TENSORS.bitwise_left_shift(self, other)

    def __rlshift__(self, other: Any) -> Self:
        return TENSORS.bitwise_left_shift(other, self)

    def __rshift__(self, other: Any) -> Self:
        return TENSORS.bitwise_right_shift(self, other)

    def __rrshift__(self, other: Any) -> Self:
        return TENSORS.bitwise_right_shift(other, self)

    def __eq__(self, other: Any) -> Self:  # type: ignore[override]
        return TENSORS.equal(self, other)

    def __ne__(self, other: Any) -> Self:  # type: ignore[override]
        return TENSORS.not_equal(self, other)

    def __lt__(self, other: Any) -> Self:
        return TENSORS.less(self, other)

    def __le__(self, other: Any) -> Self:
        return TENSORS.less_equal(self, other)

    def __gt__(self, other: Any) -> Self:
        return TENSORS.greater(self, other)

    def __ge__(self, other: Any) -> Self:
        return TENSORS.greater_equal(self, other)
