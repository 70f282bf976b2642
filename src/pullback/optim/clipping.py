"""Gradients held within a norm."""

from typing import Any

from ..backends import BACKENDS, canonical_dtype
from ..core.tape import unread
from ..core.tensor import Tensor, new_tensor
from ..errors import ArgumentError, DeviceError, NonFiniteError
from .parameters import current_gradients, named_parameters

__all__ = ["clip_grad_norm"]


def clip_grad_norm(params: Any, max_norm: float, *, error_if_nonfinite: bool = False) -> Tensor:
    """Scale the gradients of all parameters, in place, so that together they are no longer than `max_norm`.

    Args:
        params: A tensor, a tree or an iterable of leaf tensors, `model.parameters()`.
        max_norm: The longest Euclidean norm of all gradients as one vector. They are multiplied by
            `min(1, max_norm / (norm + 1e-6))`, as in PyTorch.
        error_if_nonfinite: Refuse a norm that is NaN or infinite. Without it such a norm makes zeros and NaNs of the
            gradients.

    Returns:
        The norm before clipping, a tensor of one number on the device of the gradients; 0 when there is no gradient.

    Raises:
        NonFiniteError: see above. ArgumentError: `max_norm` is negative or NaN, or there are no parameters.
        ShapeError, DtypeError: a gradient does not fit its parameter. DeviceError: they are on different devices. The
        gradients are as they were then.
    """
    who = "clip_grad_norm"
    if not isinstance(max_norm, int | float) or not max_norm >= 0:
        raise ArgumentError(f"{who}: max_norm is a number of at least 0; got {max_norm!r}")
    named = named_parameters(who, params)
    current_gradients(who, named)
    leaves = [x.node for x in named.values() if not x.node.stale]
    backend = BACKENDS[next(iter(named.values())).data.__class__]
    if any(BACKENDS[leaf.grad.__class__] is not backend for leaf in leaves):
        raise DeviceError(f"{who}: the gradients are on different devices; clip those of each device apart")
    xp = backend.xp
    with backend.quiet():
        total = sum((_squares(xp, leaf.grad) for leaf in leaves), start=xp.asarray(0.0, dtype=xp.float32))
        norm = xp.sqrt(total)
        if error_if_nonfinite and not bool(xp.isfinite(norm)):
            raise NonFiniteError(f"{who}: the norm of the gradients is {float(norm)}")
        factor = xp.minimum(max_norm / (norm + 1e-6), xp.ones_like(norm))
        for leaf in leaves:
            if unread(leaf):
                leaf.grad *= xp.astype(factor, leaf.grad.dtype)
            else:
                leaf.grad = leaf.grad * xp.astype(factor, leaf.grad.dtype)
    return new_tensor(norm, None)


def _squares(xp: Any, g: Any) -> Any:
    """The sum of squares of an array, in float32 or wider."""
    flat = xp.reshape(g, (-1,))
    if canonical_dtype(flat.dtype).itemsize < 4:
        flat = xp.astype(flat, xp.float32)
    return xp.vecdot(flat, flat)
