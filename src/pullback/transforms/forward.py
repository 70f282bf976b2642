"""Forward mode: jvp, linearize; and forward over reverse: hvp, hessian."""

from collections.abc import Callable, Sequence
from typing import Any

from .. import trees
from ..backends import BACKENDS
from ..core.op import TENSORS
from ..core.tensor import Tensor, asarray
from ..errors import ArgumentError, ShapeError
from .reverse import argument_numbers, grad
from .trace import Trace, checked_like, require_function, zeros_like

__all__ = ["hessian", "hvp", "jvp", "linearize"]


def linearize(f: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., Any]]:
    """The value of `f` and its pushforward, the Jacobian-vector product, at one point.

    Returns:
        (out, push). `push(*tangents)` takes one tree like each primal and gives a tree like `out`, and may be called
        any number of times: f itself ran once.

    Raises:
        DtypeError: a primal does not hold floating-point numbers. ShapeError: a tangent does not fit its primal.
    """
    return _linearize("linearize", f, primals)


def jvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """The value of `f` at `primals` and its derivative along `tangents` (one tree like each primal).

    Raises: as `linearize`; ArgumentError when primals or tangents are not given as tuples or lists.
    """
    return _pushed("jvp", f, primals, tangents)


def _pushed(name: str, f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    if not isinstance(primals, tuple | list) or not isinstance(tangents, tuple | list):
        raise ArgumentError(
            f"{name}: primals and tangents are tuples, one entry per argument of f: {name}(f, (x,), (t,))"
        )
    out, push = _linearize(name, f, primals)
    return out, push(*tangents)


def _linearize(name: str, f: Callable[..., Any], primals: Sequence[Any]) -> tuple[Any, Callable[..., Any]]:
    trace = Trace(name, f, primals)
    leaves, spec = trees.flatten(trace.out)
    trace.close(leaves)

    def push(*tangents: Any) -> Any:
        if len(tangents) != len(trace.specs):
            raise ShapeError(f"{name}: {len(tangents)} tangents for {len(trace.specs)} primals; give one each")
        flat = [
            x
            for tangent, s, heads in zip(tangents, trace.specs, trace.heads, strict=True)
            for x in checked_like(name, "tangent", tangent, s, heads)
        ]
        return trees.unflatten(spec, trace.push(flat))

    return trace.leave(trace.out), push


def hvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, ...]:
    """The Hessian of `f` (to one number) at `primals`, times `tangents`: a tuple of trees like `primals`.

    Forward over reverse: the pullback is pushed. No Hessian is formed.

    Raises: as `jvp` and `grad`.
    """
    require_function("hvp", f)

    def gradient(*xs: Any) -> Any:
        return grad(f, range(len(xs)))(*xs)

    out: tuple[Any, ...] = _pushed("hvp", gradient, primals, tangents)[1]
    return out


def hessian(f: Callable[..., Any], argnums: int = 0) -> Callable[..., Any]:
    """A function that gives the Hessian of `f` (to one number) with respect to one argument.

    Returns:
        For an argument of shape s, a tensor of shape (*s, *s); for a tree, a tree of trees of such blocks, the outer
        one for the row. One push of the gradient per number of the argument.

    Raises (when called): as `grad`; ArgumentError when `argnums` is not one int.
    """
    require_function("hessian", f)

    def second_derivative(*args: Any, **kwargs: Any) -> Any:
        if not hasattr(argnums, "__index__"):
            raise ArgumentError(f"hessian: argnums is one int; got {argnums!r}; put several arguments into one tree")
        (number,) = argument_numbers("hessian", argnums, len(args))

        def gradient(x: Any) -> Any:
            return grad(f, number)(*args[:number], x, *args[number + 1 :], **kwargs)

        leaves, spec = trees.flatten(args[number])
        primals = [x if isinstance(x, Tensor) else asarray(x) for x in leaves]
        _, push = _linearize("hessian", gradient, (trees.unflatten(spec, list(primals)),))
        columns = [[trees.flatten(push(unit))[0] for unit in _units(spec, primals, k)] for k in range(len(primals))]
        rows = [
            trees.unflatten(spec, [_block([c[j] for c in columns[k]], x, primals[j]) for k, x in enumerate(primals)])
            for j in range(len(primals))
        ]
        return trees.unflatten(spec, rows)

    return second_derivative


def _units(spec: Any, primals: list[Tensor], k: int) -> Any:
    """Trees that are 1 at one number of leaf `k` and 0 elsewhere."""
    zeros = [zeros_like(x) for x in primals]
    xp = BACKENDS[primals[k].data.__class__].beside(primals[k].data)
    for position in range(primals[k].size):
        flat = xp.reshape(xp.zeros_like(primals[k].data), (-1,))
        xp.scatter_set(flat, position, 1)
        unit = [*zeros]
        unit[k] = Tensor(xp.reshape(flat, primals[k].shape))
        yield trees.unflatten(spec, unit)


def _block(columns: list[Tensor], x: Tensor, row: Tensor) -> Tensor:
    """Pushes along each number of `x`, joined to shape (*row.shape, *x.shape)."""
    if not columns:
        xp = BACKENDS[row.data.__class__].beside(row.data)
        return Tensor(xp.zeros((*row.shape, *x.shape), dtype=row.dtype))
    made: Tensor = TENSORS.reshape(TENSORS.stack(columns, axis=-1), (*row.shape, *x.shape))
    return made
