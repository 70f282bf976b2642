"""DLPack: how PyTorch, JAX, CuPy and NumPy hand arrays to each other."""

from typing import Any

from ..backends import backend_for
from ..core.tensor import Tensor, asarray
from ..errors import ArgumentError, DeviceError, DtypeError, PullbackError

__all__ = ["from_dlpack"]

_DEVICES = {1: "cpu", 2: "cuda", 3: "cpu", 13: "cuda"}  # DLDeviceType: host, CUDA, pinned host, CUDA managed


def from_dlpack(x: Any, /, *, device: str | None = None, copy: bool | None = None) -> Tensor:
    """The array of another library (PyTorch, JAX, CuPy, NumPy) as a tensor, in the memory where it lies.

    Args:
        x: Anything with `__dlpack__`; it must not be on the tape of its own library (`detach()` it there).
        device: Where the tensor shall be; moved there by a copy. None leaves it where it is.
        copy: True for memory of its own; False for an ArgumentError where sharing is not possible.

    An owner that later writes memory it shares changes the values that a tape kept: copy it then. The other direction,
    `torch.from_dlpack(tensor)` and the like, shares memory as read-only; a library that heeds no such mark must not
    write it.

    Raises:
        DtypeError: x has no `__dlpack__`, or a dtype that tensors do not hold. DeviceError: it lies on a device that
        cannot be used here. ArgumentError: its library does not export it, or only by a copy.
    """
    if not hasattr(x, "__dlpack__") or not hasattr(x, "__dlpack_device__"):
        raise DtypeError(f"from_dlpack: {type(x).__qualname__} has no __dlpack__; there is pb.asarray for other data")
    kind, number = (int(part) for part in x.__dlpack_device__())
    if kind not in _DEVICES:
        raise DeviceError(f"from_dlpack: the array lies on a device of DLPack's kind {kind}, not on the CPU or on CUDA")
    source = _DEVICES[kind] if _DEVICES[kind] == "cpu" else f"cuda:{number}"
    backend = backend_for(source)
    try:
        with backend.on(source):
            array = backend.xp.from_dlpack(x)
    except PullbackError:
        raise
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise ArgumentError(f"from_dlpack: {type(x).__qualname__} is not handed over: {error}") from error
    shared = asarray(array, copy=True if copy and device in (None, source) else None)
    if device is None or device == shared.device:
        return shared
    if copy is False:
        raise ArgumentError(f"from_dlpack: an array on {source} comes to {device} only by a copy; drop copy=False")
    return shared.to(device)
