"""Gradients held within a norm."""

from typing import Any

from ..backends import BACKENDS
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
    backend = BACKENDS[(leaves[0].grad if leaves else next(iter(named.values())).data).__class__]
    places = dict.fromkeys(BACKENDS[leaf.grad.__class__].device_of(leaf.grad) for leaf in leaves)
    if len(places) > 1:
        raise DeviceError(f"{who}: the gradients are on {' and '.join(places)}; clip those of each device apart")
    with backend.walking(leaves[0].grad) if leaves else backend.quiet():
        norm, factor = backend.norm_and_factor([leaf.grad for leaf in leaves], max_norm)
        if error_if_nonfinite and not bool(backend.xp.isfinite(norm)):
            raise NonFiniteError(f"{who}: the norm of the gradients is {float(norm)}")
        owned = [unread(leaf) for leaf in leaves]
        for leaf, g in zip(leaves, backend.scaled([leaf.grad for leaf in leaves], owned, factor), strict=True):
            leaf.grad = g
    return new_tensor(norm, None)
