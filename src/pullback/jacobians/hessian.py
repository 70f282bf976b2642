"""pb.hessian: the whole Hessian, by pushing many unit tangents through the gradient at once."""

from collections.abc import Callable
from copy import copy
from typing import Any

from .. import trees
from ..backends import BACKENDS
from ..core.op import TENSORS
from ..core.tensor import Tensor
from ..errors import ArgumentError
from ..transforms.reverse import argument_numbers, grad
from ..transforms.trace import Trace, require_function
from .jacobian import check_limits
from .planning import close
from .walks import announce, columns_by, jacobian_bytes, values_of

__all__ = ["hessian"]


def hessian(
    f: Callable[..., Any], argnums: int = 0, *, chunk_size: int | None = None, memory_limit: int | None = None
) -> Callable[..., Any]:
    """A function that gives the Hessian of `f` (to one number) with respect to one argument.

    Forward over reverse: f and its gradient run once, and unit tangents are pushed through both, many at once. Of a
    tree only one of each pair of blocks (w, x) and (x, w) is pushed, the other one is its transpose: where the second
    leaf comes in late, as the weights of a last layer do, only what lies behind it is walked. What a push gives above
    the diagonal of a leaf's own block is not taken either, so that the Hessian is exactly symmetric.

    Args:
        f: A function of trees of tensors to a tensor of one number.
        argnums: Which argument to differentiate by.
        chunk_size: How many tangents are pushed at once. None: as many as fit into `memory_limit`.
        memory_limit: Bytes that arrays may take at once, those of the Hessian included and those that the gradient
            saved not. None: half of the memory that is free.

    Returns:
        A function of the arguments of f. For an argument of shape s it gives a tensor of shape (*s, *s); for a tree, a
        tree of trees of such blocks, the outer one for the row.

    Raises:
        ArgumentError: a chunk or a limit that holds nothing. When called, as `grad`; ArgumentError when `argnums` is
        not one int; DeviceMemoryError: one tangent at a time is more than `memory_limit`.
    """
    require_function("hessian", f)
    check_limits("hessian", chunk_size=chunk_size, memory_limit=memory_limit)

    def second_derivative(*args: Any, **kwargs: Any) -> Any:
        if not hasattr(argnums, "__index__"):
            raise ArgumentError(f"hessian: argnums is one int; got {argnums!r}; put several arguments into one tree")
        (number,) = argument_numbers("hessian", argnums, len(args))
        trace = Trace("hessian", lambda *a: grad(f, number)(*a, **kwargs), args, [number])
        form = close(trace)
        announce(trace)
        blocks = _blocks(trace, chunk_size, memory_limit)
        return trees.unflatten(form, [trees.unflatten(form, row) for row in blocks])

    return second_derivative


def _blocks(trace: Trace, chunk_size: int | None, memory_limit: int | None) -> list[list[Tensor]]:
    """The blocks of the derivative of a gradient: for each row one for each column."""
    heads, gradients = trace.flat_heads, values_of(trace)
    found: dict[tuple[int, int], Tensor] = {}
    order = _order(trace)
    room = 2 * jacobian_bytes(trace) + max((x.size**2 for x in heads), default=0)  # that of _symmetric besides
    for place, j in enumerate(order):
        rows = order[place:]
        part = copy(trace)
        part.close([gradients[k] for k in rows])
        for k, columns in zip(rows, columns_by(part, j, chunk_size, memory_limit, room), strict=True):
            m, n = heads[k].size, heads[j].size
            flat = TENSORS.reshape(columns, (n, m))
            if k == j:
                found[j, j] = TENSORS.reshape(_symmetric(flat), (*heads[j].shape, *heads[j].shape))
                continue
            found[k, j] = TENSORS.reshape(flat.mT, (*heads[k].shape, *heads[j].shape))
            other = TENSORS.reshape(columns, (*heads[j].shape, *heads[k].shape))
            found[j, k] = other if other.dtype == heads[j].dtype else TENSORS.astype(other, heads[j].dtype)
    return [[found[k, j] for j in range(len(heads))] for k in range(len(heads))]


def _order(trace: Trace) -> list[int]:
    """The leaves, that first whose columns are taken of all rows: of the narrowest dtype, since a row has the dtype of
    its leaf, and of these the one that the tape reads first."""
    first: dict[Any, int] = {}
    for i, e in enumerate(trace.tape):
        for n in e.parents:
            first.setdefault(n, i)
    heads = trace.flat_heads
    return sorted(range(len(heads)), key=lambda j: (heads[j].dtype.itemsize, first.get(heads[j].node, len(trace.tape))))


def _symmetric(columns: Tensor) -> Tensor:
    """A square matrix, given by its columns, of what stands on its diagonal and below."""
    xp = BACKENDS[columns.data.__class__].beside(columns.data)
    places = Tensor(xp.arange(columns.shape[0]))
    is_above = TENSORS.expand_dims(places, axis=1) > places
    return TENSORS.where(is_above, columns, columns.mT)
