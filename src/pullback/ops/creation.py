"""New tensors, by the array API standard, and its constants. Plain functions: nothing goes in that has a derivative.

Everywhere `dtype` is the default floating-point dtype (`set_default_dtype`) where None, or follows from the numbers
given; `device` is "cpu" where None (for the `_like` functions that of their argument); `requires_grad` makes a leaf
that `backward` collects a gradient in. Raises DeviceError for a device that is not here, DtypeError for a dtype that
does not exist or has no gradient, ShapeError for a shape that is none.
"""

from collections.abc import Callable, Sequence
from math import e, inf, nan, pi
from typing import Any

from ..backends import BACKENDS, backend_for, canonical_dtype, default_dtype, is_floating
from ..core.recording import recording
from ..core.tape import Leaf
from ..core.tensor import Tensor, TensorLike, as_array
from ..errors import ArgumentError, DtypeError, ShapeError, TapeError
from ..shapes import Shape

__all__ = [
    "arange",
    "e",
    "empty",
    "empty_like",
    "eye",
    "full",
    "full_like",
    "inf",
    "linspace",
    "nan",
    "newaxis",
    "ones",
    "ones_like",
    "pi",
    "zeros",
    "zeros_like",
]

newaxis = None


def as_leaf(name: str, array: Any, requires_grad: bool) -> Tensor:
    """A tensor of `array`, in which gradients are collected if asked for."""
    if not requires_grad:
        return Tensor(array)
    if not is_floating(array.dtype):
        raise DtypeError(f"{name}: requires_grad needs a floating-point dtype; got {array.dtype}")
    return Tensor(array, Leaf())


def checked_shape(name: str, shape: int | Sequence[int]) -> Shape:
    """`shape` as a tuple of lengths; an int stands for one axis."""
    try:
        lengths = tuple(n.__index__() for n in (shape if isinstance(shape, Sequence) else (shape,)))
    except AttributeError:
        raise ShapeError(f"{name}: a shape is an int or a tuple of ints; got {shape!r}") from None
    if any(n < 0 for n in lengths):
        raise ShapeError(f"{name}: lengths of axes are 0 or more; got {shape!r}")
    return lengths


def _made(name: str, make: Callable[[Any, Any], Any], dtype: Any, device: str | None, requires_grad: bool) -> Tensor:
    """A tensor of `make(xp, dtype)` on a device."""
    backend = backend_for("cpu" if device is None else device)
    kind = canonical_dtype(default_dtype() if dtype is None else dtype)
    try:
        with backend.on(device):
            array = make(backend.xp, backend.xp.dtype(kind))
    except (ValueError, TypeError, ZeroDivisionError, OverflowError) as error:
        raise ArgumentError(f"{name}: {error}") from error
    return as_leaf(name, array, requires_grad)


def _number(name: str, value: Any) -> Any:
    """A Python number."""
    if isinstance(value, Tensor) and value.requires_grad and recording():
        raise TapeError(f"{name}: a recorded number would be cut from the tape; use pb.broadcast_to(value, shape)")
    number = value.item() if getattr(value, "shape", None) == () else value
    if not isinstance(number, float | int):
        raise DtypeError(f"{name}: {value!r} is no number; for arrays there is pb.asarray")
    return number


def _dtype_of_numbers(numbers: Sequence[Any]) -> Any:
    """bool, int64 or the default floating-point dtype, as Python numbers become."""
    if any(isinstance(n, float) for n in numbers):
        return default_dtype()
    return "bool" if all(isinstance(n, bool) for n in numbers) else "int64"


def zeros(
    shape: int | Sequence[int], *, dtype: Any = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """A tensor of zeros."""
    lengths = checked_shape("zeros", shape)
    return _made("zeros", lambda xp, kind: xp.zeros(lengths, dtype=kind), dtype, device, requires_grad)


def ones(
    shape: int | Sequence[int], *, dtype: Any = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """A tensor of ones."""
    lengths = checked_shape("ones", shape)
    return _made("ones", lambda xp, kind: xp.ones(lengths, dtype=kind), dtype, device, requires_grad)


def empty(
    shape: int | Sequence[int], *, dtype: Any = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """A tensor of whatever numbers its memory holds."""
    lengths = checked_shape("empty", shape)
    return _made("empty", lambda xp, kind: xp.empty(lengths, dtype=kind), dtype, device, requires_grad)


def full(
    shape: int | Sequence[int],
    fill_value: float,
    *,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor of one number everywhere; its dtype is that of the number where None: bool, int64 or the default.

    Raises TapeError for a recorded tensor as the number: `broadcast_to` keeps its gradient.
    """
    lengths, number = checked_shape("full", shape), _number("full", fill_value)
    kind = _dtype_of_numbers([number]) if dtype is None else dtype
    return _made("full", lambda xp, kind: xp.full(lengths, number, dtype=kind), kind, device, requires_grad)


def _like(x: TensorLike, dtype: Any, device: str | None) -> dict[str, Any]:
    """Shape, dtype and device of `x`, where they are not given."""
    array = as_array(x)
    return {
        "shape": array.shape,
        "dtype": array.dtype if dtype is None else dtype,
        "device": BACKENDS[array.__class__].device_of(array) if device is None else device,
    }


def zeros_like(
    x: TensorLike, /, *, dtype: Any = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Zeros of the shape, dtype and device of `x`."""
    return zeros(**_like(x, dtype, device), requires_grad=requires_grad)


def ones_like(x: TensorLike, /, *, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Ones of the shape, dtype and device of `x`."""
    return ones(**_like(x, dtype, device), requires_grad=requires_grad)


def empty_like(
    x: TensorLike, /, *, dtype: Any = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Whatever numbers are in memory, in the shape, dtype and device of `x`."""
    return empty(**_like(x, dtype, device), requires_grad=requires_grad)


def full_like(
    x: TensorLike,
    /,
    fill_value: float,
    *,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """One number everywhere, in the shape, dtype and device of `x`."""
    return full(fill_value=fill_value, **_like(x, dtype, device), requires_grad=requires_grad)


def eye(
    n_rows: int,
    n_cols: int | None = None,
    /,
    *,
    k: int = 0,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Ones on the diagonal `k` places above the main one (below it if negative), zeros elsewhere; square by default."""
    rows, columns = checked_shape("eye", (n_rows, n_rows if n_cols is None else n_cols))
    return _made("eye", lambda xp, kind: xp.eye(rows, columns, k=k, dtype=kind), dtype, device, requires_grad)


def arange(
    start: float,
    /,
    stop: float | None = None,
    step: float = 1,
    *,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """`start`, `start + step`, ... before `stop`; from 0 if only one number is given.

    The dtype of None is int64 where all three are ints, else the default floating-point dtype. With steps that are not
    whole, rounding decides whether the last one is there: `linspace` does not have that.
    """
    numbers = [_number("arange", x) for x in ((0, start, step) if stop is None else (start, stop, step))]
    kind = _dtype_of_numbers(numbers) if dtype is None else dtype
    return _made("arange", lambda xp, kind: xp.arange(*numbers, dtype=kind), kind, device, requires_grad)


def linspace(
    start: float,
    stop: float,
    /,
    num: int,
    *,
    dtype: Any = None,
    device: str | None = None,
    endpoint: bool = True,
    requires_grad: bool = False,
) -> Tensor:
    """`num` numbers at equal distances from `start` to `stop`, which is the last one unless `endpoint` is false."""
    first, last = _number("linspace", start), _number("linspace", stop)
    (count,) = checked_shape("linspace", num)
    return _made(
        "linspace",
        lambda xp, kind: xp.linspace(first, last, count, dtype=kind, endpoint=endpoint),
        dtype,
        device,
        requires_grad,
    )
