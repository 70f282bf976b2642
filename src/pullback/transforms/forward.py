"""Forward mode: jvp, linearize; and forward over reverse: hvp."""

from collections.abc import Callable, Sequence
from typing import Any

from .. import trees
from ..errors import ArgumentError, ShapeError
from .reverse import grad
from .trace import Trace, checked_like, require_function

__all__ = ["hvp", "jvp", "linearize"]


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
