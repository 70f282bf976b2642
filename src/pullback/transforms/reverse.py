"""Reverse mode: vjp, grad, value_and_grad."""

from collections.abc import Callable, Sequence
from operator import index
from typing import Any

from .. import trees
from ..backends import BACKENDS, is_floating
from ..core.tensor import Tensor
from ..errors import ArgumentError, DtypeError, ShapeError, TapeError
from .trace import Trace, checked_like, require_function

__all__ = ["grad", "value_and_grad", "vjp"]


def vjp(f: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """The value of `f` and its pullback, the vector-Jacobian product.

    Args:
        f: A function of trees of tensors, to a tree of tensors.
        primals: Its arguments: trees of floating-point tensors, arrays or numbers.

    Returns:
        (out, pull). `pull(cotangent)` takes a tree like `out` and gives a tuple of trees like `primals`. It may be
        called any number of times, and its results are differentiable in turn. No Jacobian is formed.

    Raises:
        DtypeError: a primal does not hold floating-point numbers. ShapeError: a cotangent does not fit the value.
    """
    trace = Trace("vjp", f, primals)
    leaves, spec = trees.flatten(trace.out)
    trace.close(leaves)

    def pull(cotangent: Any) -> tuple[Any, ...]:
        found = iter(trace.pull(checked_like("vjp", "cotangent", cotangent, spec, leaves)))
        return tuple(
            trees.unflatten(s, [next(found) for _ in heads]) for s, heads in zip(trace.specs, trace.heads, strict=True)
        )

    return trace.leave(trace.out), pull


def value_and_grad(
    f: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., tuple[Any, Any]]:
    """A function that gives the value of `f`, one number, and its gradient.

    Args:
        f: A function of trees to a tensor of one number; with `has_aux`, to (that tensor, anything else).
        argnums: Which positional arguments to differentiate: an int (the gradient is a tree like that argument) or
            several (a tuple of such trees).
        has_aux: Whether f returns a second value that is not differentiated.

    Arguments that are leaves (parameters of a module) stay joined to their tape, so that the gradient can be
    differentiated again, and the walk is recorded. Inside `pb.no_grad()` it is not, which is faster.

    Returns:
        A function of the arguments of f, giving (value, gradient), or ((value, aux), gradient).

    Raises (when called):
        ShapeError: f's value is not one number. DtypeError: it, or an argument, is not of floating point.
        ArgumentError: `argnums` names no positional argument.
    """
    require_function("grad", f)

    def value_and_gradient(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        numbers = argument_numbers("grad", argnums, len(args))
        trace = Trace("grad", lambda *a: f(*a, **kwargs), args, numbers)
        value, aux = _split(trace.out, has_aux)
        _check_scalar(value)
        trace.close([value])
        one = Tensor(BACKENDS[value.data.__class__].beside(value.data).ones_like(value.data))
        kept = (trace.leave(value), trace.leave(aux)) if has_aux else trace.leave(value)
        found = iter(trace.pull([one], free=True))
        grads = [
            trees.unflatten(s, [next(found) for _ in heads]) for s, heads in zip(trace.specs, trace.heads, strict=True)
        ]
        return kept, grads[0] if hasattr(argnums, "__index__") else tuple(grads)

    return value_and_gradient


def grad(f: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """A function that gives the gradient of `f`; with `has_aux`, (gradient, aux). See `value_and_grad`."""
    both = value_and_grad(f, argnums, has_aux)

    def gradient(*args: Any, **kwargs: Any) -> Any:
        value, found = both(*args, **kwargs)
        return (found, value[1]) if has_aux else found

    return gradient


def argument_numbers(name: str, argnums: int | Sequence[int], count: int) -> list[int]:
    """The positions named by `argnums`, counted from the front. Raises ArgumentError where it names none."""
    try:
        numbers = [index(argnums)] if hasattr(argnums, "__index__") else [index(n) for n in argnums]
    except TypeError:
        raise ArgumentError(f"{name}: argnums is an int or several; got {argnums!r}") from None
    if not all(-count <= n < count for n in numbers):
        raise ArgumentError(f"{name}: argnums {argnums} does not name one of the {count} positional arguments given")
    found = [n % count for n in numbers]
    if len(set(found)) != len(found) or not found:
        raise ArgumentError(f"{name}: argnums {argnums} must name each argument once, and at least one")
    return found


def _split(out: Any, has_aux: bool) -> tuple[Any, Any]:
    if not has_aux:
        return out, None
    if not isinstance(out, tuple) or len(out) != 2:
        raise ArgumentError(
            f"grad: with has_aux=True the function returns (value, aux); it returned {type(out).__name__}"
        )
    return out


def _check_scalar(value: Any) -> None:
    if not isinstance(value, Tensor):
        raise TapeError(
            f"grad: the function returned {type(value).__name__}, not a tensor; "
            "return the tensor itself (not .item(), .numpy() or a tuple; for a second result pass has_aux=True)"
        )
    if value.size != 1:
        raise ShapeError(f"grad: the value is one number, this one has shape {value.shape}; sum it, or use pb.vjp")
    if not is_floating(value.dtype):
        raise DtypeError(f"grad: the value is of floating point, this one is {value.dtype}")
