"""Second floor: Tensor, an array and its place on the tape."""

import sys
from collections.abc import Iterator
from types import EllipsisType
from typing import Any

import numpy as np

from ..backends import BACKENDS, backend_for, canonical_dtype, default_dtype, device_kinds, is_floating
from ..errors import ArgumentError, DeviceError, DtypeError, ShapeError, TapeError
from ..shapes import Shape
from .op import ARRAYS, TENSORS
from .operators import Operators
from .recording import recording
from .tape import Equation, Leaf, commit, mutate, pull, tape_of

__all__ = ["Tensor", "TensorLike", "as_array", "asarray", "new_tensor", "tensor"]

TensorLike = Any  # a Tensor, an array of any backend, a Python number, or nested lists of numbers
WEAK = {float, int, bool}
_Index = int | slice | EllipsisType | None | tuple[Any, ...] | list[Any] | Any


class Tensor(Operators):
    """An array and its place on the tape: `node` is None (a constant), a Leaf, or the Equation that made it.

    Tensors are values: an op never changes its inputs, and `x[index]` is a value, not a view. They mix with Python
    numbers (which are weak: they take the tensor's dtype) and with arrays of the same device in every operator.
    """

    __slots__ = ("__weakref__", "data", "node")
    data: Any
    node: Any

    def __init__(self, data: Any, node: Any = None) -> None:
        BACKENDS[data.__class__]  # an array; what else there is, `tensor` and `asarray` make into one
        self.data, self.node = data, node

    # --- what it is ---

    @property
    def shape(self) -> Shape:
        """Lengths of the axes."""
        return tuple(self.data.shape)

    @property
    def ndim(self) -> int:
        """How many axes."""
        return int(self.data.ndim)

    @property
    def size(self) -> int:
        """How many numbers."""
        return int(self.data.size)

    @property
    def dtype(self) -> Any:
        """The dtype of the numbers."""
        return self.data.dtype

    @property
    def device(self) -> str:
        """The device that holds the numbers: "cpu", "cuda:0"."""
        return BACKENDS[self.data.__class__].device_of(self.data)

    @property
    def requires_grad(self) -> bool:
        """Whether what is computed from this tensor is recorded."""
        return self.node is not None

    @property
    def is_leaf(self) -> bool:
        """Whether gradients end here: a tensor made with `requires_grad=True`."""
        return self.node.__class__ is Leaf

    def __repr__(self) -> str:
        body = BACKENDS[self.data.__class__].shown(self.data, prefix="Tensor(")
        device = "" if self.device == "cpu" else f", device={self.device!r}"
        return f"Tensor({body}, dtype={self.dtype}{device}{', requires_grad=True' if self.requires_grad else ''})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)

    def __reduce__(self) -> Any:
        """A copied or pickled leaf is a leaf of its own; the tape of any other tensor cannot be copied with it."""
        if self.node.__class__ is Equation:
            raise TapeError("a recorded tensor cannot be copied or pickled with its tape; call .detach() first")
        return _rebuilt, (self.data, self.is_leaf, None if self.grad is None else self.grad.data)

    def __len__(self) -> int:
        if not self.ndim:
            raise ShapeError("len: a tensor of no dimension has no length; use .item() for its number")
        return self.shape[0]

    def __iter__(self) -> Iterator["Tensor"]:
        return (self[i] for i in range(len(self)))

    # --- leaving the tape ---

    def detach(self) -> "Tensor":
        """The same numbers as a constant. Those of a leaf, or a view of one, are copied: optimizers write in place."""
        node = self.node
        may_be_written = node.__class__ is Leaf or (node is not None and node.op.is_view)
        return Tensor(_copy(self.data) if may_be_written else self.data)

    def numpy(self) -> np.ndarray:
        """The numbers as a NumPy array in host memory, off the tape.

        On the CPU it is a read-only view: copy it to write, or to keep a parameter's numbers through its next update.
        """
        array = BACKENDS[self.data.__class__].to_numpy(self.data).view()
        array.flags.writeable = False
        return array

    def item(self) -> Any:
        """The one number as a Python scalar. Raises ShapeError when there is not exactly one."""
        if self.size != 1:
            raise ShapeError(f"item: only a tensor of one number has it; this one has shape {self.shape}")
        return BACKENDS[self.data.__class__].to_numpy(self.data).item()

    def tolist(self) -> Any:
        """The numbers as nested Python lists."""
        return self.numpy().tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        self._refuse_cut("a NumPy array")
        if not self.device.startswith("cpu"):
            raise DeviceError(f"this tensor is on {self.device}; call .numpy() or .to('cpu') to copy it to the host")
        array = self.numpy()
        return np.array(array, dtype=dtype, copy=copy) if copy or dtype is not None else array

    def _refuse_cut(self, what: str) -> None:
        if self.node is not None and recording():
            raise TapeError(
                f"turning a recorded tensor into {what} would cut the tape; call .detach() or .numpy() first"
            )

    def __dlpack__(self, **options: Any) -> Any:
        """The numbers for another library, shared where it can be told not to write them (see `Backend.to_dlpack`)."""
        self._refuse_cut("a DLPack capsule")
        return BACKENDS[self.data.__class__].to_dlpack(self.data, **options)

    def __dlpack_device__(self) -> tuple[int, int]:
        array = np.asarray(self.data) if isinstance(self.data, np.generic) else self.data
        device: tuple[int, int] = array.__dlpack_device__()
        return device

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return sys.modules[__name__.partition(".")[0]]

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ShapeError(f"the truth of a tensor of shape {self.shape} is not defined; use pb.any or pb.all")
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if canonical_dtype(self.dtype).kind not in "iu":
            raise DtypeError(f"only a tensor of integers can be an index; this one is {self.dtype}")
        return int(self.item())

    # --- gradients ---

    @property
    def grad(self) -> "Tensor | None":
        """The gradient that `backward` added up here since the last `zero_grad`; None for all but leaves."""
        node = self.node
        return None if node.__class__ is not Leaf or node.stale else Tensor(node.grad)

    @grad.setter
    def grad(self, value: "TensorLike | None") -> None:
        node = self.node
        if node.__class__ is not Leaf:
            raise TapeError("only a leaf (made with requires_grad=True) has a .grad to set")
        if value is None:
            node.stale = True
            return
        array = as_array(value, BACKENDS[self.data.__class__], self.device)
        if tuple(array.shape) != self.shape:
            raise ShapeError(
                f".grad: the tensor has shape {self.shape}, the value {tuple(array.shape)}; they must agree"
            )
        node.grad, node.stale = ARRAYS[self.data.__class__].astype(array, self.dtype, copy=True), False

    def zero_grad(self) -> None:
        """Mark the gradient as none; its buffer is kept for the next one."""
        if self.node.__class__ is Leaf:
            self.node.stale = True

    def backward(self, cotangent: TensorLike = None, *, retain: bool = False) -> None:
        """Add the gradient of this value to the `.grad` of every leaf that it was computed from.

        Args:
            cotangent: What to pull, of this tensor's shape; 1 for a tensor of one number.
            retain: Keep the tape, so that it can be pulled again.

        Raises:
            TapeError: No recorded op made this value, or its tape was freed. MutationError: a value that the tape
            needs was changed in place. ShapeError: the cotangent is missing or has another shape. Whatever is raised
            before the walk leaves tape and gradients as they were; gradients are only written after a whole walk.
        """
        data, node = self.data, self.node
        if node is None:
            raise TapeError(
                "backward: no recorded op made this value; compute it from a tensor with requires_grad=True"
            )
        backend = BACKENDS[data.__class__]
        if cotangent is None:
            if data.size != 1:
                raise ShapeError(
                    f"backward: a value of shape {self.shape} needs a cotangent of that shape; or sum it first"
                )
        else:
            cotangent = as_array(cotangent, backend, backend.device_of(data))
            if cotangent.shape != data.shape:
                raise ShapeError(
                    f"backward: the cotangent has shape {cotangent.shape}, the value {self.shape}; they must agree"
                )
        tape, xp = tape_of((node,)), backend.xp
        with backend.walking(data):
            found = {node: xp.ones_like(data) if cotangent is None else xp.astype(cotangent, data.dtype, copy=False)}
            pull(tape, found, free=not retain)
            commit(found)

    # --- in place ---

    def assign_(self, value: TensorLike) -> "Tensor":
        """Give this tensor new numbers of the same shape and dtype, outside the tape.

        A leaf is written in place: tensors that share its buffer (`w.mT`, `w[2:]`) see it, and a tape that still needs
        its old numbers refuses to be pulled (MutationError). Any other tensor just becomes a constant with the new
        numbers; tapes keep the old ones.
        """
        array = as_array(value, BACKENDS[self.data.__class__], self.device)
        if array.shape != self.data.shape:
            raise ShapeError(
                f"assign_: the tensor has shape {self.shape}, the value {tuple(array.shape)}; they must agree"
            )
        if self.is_leaf:
            if array.dtype.kind == "c":
                raise DtypeError(f"assign_: cannot write {array.dtype} into {self.dtype}")
            BACKENDS[array.__class__].beside(array).scatter_set(self.data, ..., array)
            mutate((self.node,))
        else:
            self.data, self.node = ARRAYS[self.data.__class__].astype(array, self.dtype, copy=True), None
        return self

    def __setitem__(self, index: _Index, value: TensorLike) -> None:
        """`x[index] = value` makes x the value `x.at[index].set(value)`, on the tape."""
        if self.is_leaf:
            if recording():
                raise TapeError(
                    "x[index] = value on a tensor with requires_grad=True would lose its gradient; "
                    "use y = x.at[index].set(value), or write inside pb.no_grad()"
                )
            self.assign_(TENSORS.at_set(self.detach(), value, index))
            return
        made = TENSORS.at_set(_beside_index(self, index), value, index)
        self.data, self.node = made.data, made.node

    @property
    def at(self) -> "At":
        """Differentiable functional updates: `x.at[index].set(v)`, `x.at[index].add(v)`; x keeps its numbers."""
        return At(self)

    def __getitem__(self, index: _Index) -> "Tensor":
        return TENSORS.getitem(_beside_index(self, index), index)

    # --- moving ---

    def to(self, target: Any) -> "Tensor":
        """On another device ("cpu", "cuda:1") or in another dtype; differentiable; itself when nothing changes."""
        if isinstance(target, str) and target.partition(":")[0] in device_kinds():
            return self if target == self.device else TENSORS.to_device(self, target, self.device)
        try:
            dtype = canonical_dtype(target)
        except DtypeError as error:
            raise DtypeError(f"to: {error}; devices are {', '.join(device_kinds())}") from None
        return self.astype(dtype)

    def astype(self, dtype: Any) -> "Tensor":
        """In another dtype; differentiable between floating-point types; itself when nothing changes."""
        dtype = canonical_dtype(dtype)
        return self if self.dtype == dtype else TENSORS.astype(self, dtype)

    # --- the ops most used as methods ---

    @property
    def T(self) -> "Tensor":
        """A matrix transposed. Raises ShapeError for other than two axes; `mT` swaps the last two of any number."""
        if self.ndim != 2:
            raise ShapeError(
                f"T: a matrix has two axes, this tensor has shape {self.shape}; use .mT or pb.permute_dims"
            )
        return TENSORS.matrix_transpose(self)

    @property
    def mT(self) -> "Tensor":
        """The last two axes swapped."""
        return TENSORS.matrix_transpose(self)

    def sum(self, axis: Any = None, keepdims: bool = False) -> "Tensor":
        """As `pb.sum`."""
        return TENSORS.sum(self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> "Tensor":
        """As `pb.mean`."""
        return TENSORS.mean(self, axis=axis, keepdims=keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> "Tensor":
        """As `pb.max`."""
        return TENSORS.max(self, axis=axis, keepdims=keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> "Tensor":
        """As `pb.min`."""
        return TENSORS.min(self, axis=axis, keepdims=keepdims)

    def reshape(self, *shape: Any) -> "Tensor":
        """As `pb.reshape`; the lengths may also stand as separate arguments."""
        return TENSORS.reshape(self, shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)


class At:
    """`x.at[index]`, waiting for what to do there."""

    __slots__ = ("index", "tensor")

    def __init__(self, tensor: Tensor, index: Any = None) -> None:
        self.tensor, self.index = tensor, index

    def __getitem__(self, index: _Index) -> "At":
        return At(self.tensor, index)

    def set(self, value: TensorLike) -> Tensor:
        """x with `value` at the index. Where positions repeat, which one is written last is not defined."""
        return TENSORS.at_set(_beside_index(self.tensor, self.index), value, self.index)

    def add(self, value: TensorLike) -> Tensor:
        """x with `value` added at the index; repeated positions add up."""
        return TENSORS.at_add(_beside_index(self.tensor, self.index), value, self.index)


def _beside_index(x: Tensor, index: Any) -> Tensor:
    """`x` as a tensor of the backend of tensors in its index, where that is one of higher rank."""
    for entry in index if index.__class__ is tuple else (index,):
        if entry.__class__ is Tensor and entry.data.__class__ is not x.data.__class__:
            backend = BACKENDS[entry.data.__class__]
            if backend.rank > BACKENDS[x.data.__class__].rank:
                x = Tensor(*backend.joined(x.data, x.node, entry.data))
    return x


def new_tensor(data: Any, node: Any) -> Tensor:
    """A Tensor without a look at its arguments."""
    made = _new(Tensor)
    made.data, made.node = data, node
    return made


_new = object.__new__
TENSORS.wrap = new_tensor


def _copy(array: Any) -> Any:
    return BACKENDS[array.__class__].beside(array).asarray(array, copy=True)


def as_array(value: TensorLike, backend: Any = None, device: str | None = None) -> Any:
    """The raw array of a Tensor, an array, a number or nested lists. Python floats take the default dtype.

    Raises:
        DtypeError: the value is no array of numbers (text, objects, complex, ragged lists).
        DeviceError: it is an array of another backend, or on another device, than the one given.
    """
    array = value.data if isinstance(value, Tensor) else value
    kind = array.__class__
    if kind in BACKENDS or (hasattr(array, "dtype") and hasattr(array, "shape")):
        owner = BACKENDS[kind]
        if backend is not None and (owner is not backend or device not in (None, owner.device_of(array))):
            if backend.rank > owner.rank:
                return backend.asarray(array)
            raise DeviceError(
                f"an array on {owner.device_of(array)} where {device or backend.name} is needed; move it with .to()"
            )
        dtype = canonical_dtype(array.dtype)
        if array.dtype is dtype or array.dtype.__class__ is not dtype.__class__:
            return array
        return array.view(dtype)  # what was unpickled has a dtype of its own; fast paths know one object of each
    try:
        host = np.asarray(array)
    except (ValueError, TypeError) as error:
        raise DtypeError(f"cannot make a tensor of {kind.__name__}: {error}") from error
    if host.dtype.kind == "O":
        raise DtypeError(f"cannot make a tensor of {kind.__name__}: it does not hold numbers only")
    if canonical_dtype(host.dtype).kind == "f":
        dtypes = {d for d in _dtypes_in(value) if is_floating(d)}
        host = host.astype(np.result_type(*dtypes) if dtypes else default_dtype(), copy=False)
    return host if backend is None else backend.asarray(host, device=device)


def _dtypes_in(value: Any) -> Iterator[Any]:
    """The dtypes of arrays and NumPy scalars in nested lists; Python numbers have none."""
    if isinstance(value, list | tuple):
        for v in value:
            yield from _dtypes_in(v)
    elif hasattr(value, "dtype"):
        yield value.dtype


def tensor(data: TensorLike, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A new tensor with a copy of `data` (Tensor, array, number, nested lists).

    Args:
        dtype: Its dtype; an array keeps its own, Python floats take the default (`set_default_dtype`).
        device: "cpu", "cuda", "cuda:1"; None keeps an array where it is.
        requires_grad: Whether `backward` shall collect a gradient here; needs a floating-point dtype.

    Raises:
        DtypeError, DeviceError: see `as_array` and `backend_for`. TapeError: it is recorded.
    """
    if isinstance(data, Tensor):
        data._refuse_cut("a new tensor")
        data = data.data
    made = asarray(data, dtype=dtype, device=device, copy=True).data
    if requires_grad and not is_floating(made.dtype):
        raise DtypeError(f"tensor: requires_grad needs a floating-point dtype; got {made.dtype}, pass dtype='float32'")
    return Tensor(made, Leaf() if requires_grad else None)


def asarray(data: TensorLike, dtype: Any = None, device: str | None = None, copy: bool | None = None) -> Tensor:
    """`data` as a tensor, on the tape if it is a recorded tensor; arrays share their memory unless `copy` is true.

    An array that is shared and later written by its owner changes the values that a tape kept: copy it then.

    Raises:
        DtypeError: not an array of numbers. DeviceError: no such device here. ArgumentError: `copy=False` cannot hold.
    """
    wanted = None if dtype is None else canonical_dtype(dtype)
    if isinstance(data, Tensor):
        moved = data if device is None else data.to(device)
        moved = moved if wanted is None else moved.astype(wanted)
        if copy is False and moved is not data:
            raise ArgumentError(f"asarray: copy=False, but {data.dtype} on {data.device} must be copied to convert it")
        if moved is not data or not copy:
            return moved
        return Tensor(_copy(data.data)) if data.node is None else TENSORS.positive(data)
    array = as_array(data)
    owner = BACKENDS[array.__class__]
    target = owner if device is None else backend_for(device)
    if target is not owner:
        array = owner.to_numpy(array)
    try:
        made = target.asarray(array, dtype=wanted, device=device, copy=copy)
    except ValueError as error:
        raise ArgumentError(f"asarray: {error}") from error
    return Tensor(made)


def _rebuilt(data: Any, is_leaf: bool, grad: Any) -> Tensor:
    """A tensor from what `Tensor.__reduce__` gave away."""
    made = Tensor(_copy(data), Leaf() if is_leaf else None)
    if grad is not None:
        made.grad = grad
    return made
