"""Checkpointing: trade the saved values of a function for a second run of it."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from .. import trees
from ..core.op import TENSORS
from ..core.recording import enable_recording, recording
from ..core.tape import Equation, pull, push, tape_of, tick
from ..core.tensor import Tensor
from .packed import record_function
from .trace import as_it_was, require_function, where_it_is

__all__ = ["checkpoint"]


def checkpoint(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f`, keeping only its arguments for the backward pass; f runs again when it is pulled or pushed.

    Values saved inside f are freed when f returns, so the peak of a chain of n checkpointed parts falls from n parts to
    one part and n arguments, for one more forward. Tensors that f closes over get their gradients too. f must do the
    same when it runs again (a dropout inside needs a generator seeded inside).
    """
    require_function("checkpoint", f)

    @wraps(f)
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        if not recording():
            return f(*args, **kwargs)

        # Tensors as they are now: an assignment to one of them gives its name another value.
        place = where_it_is()
        given, named = trees.map(lambda x: Tensor(x.data, x.node) if isinstance(x, Tensor) else x, (args, kwargs))

        def run() -> tuple[Any, list[Any], list[Equation], list[Any]]:
            """The value of f, the nodes of its leaves, the stretch of tape, and the earlier nodes that it stands on."""
            mark = tick()
            with enable_recording(), as_it_was(place):
                out = trees.map(lambda x: x if isinstance(x, Tensor) else Tensor(x), f(*given, **named))
            nodes = [x.node for x in trees.flatten(out)[0]]
            tape = tape_of(nodes, since=mark)
            before = dict.fromkeys(n for e in tape for n in e.parents if n is not None and n.seq <= mark)
            return out, nodes, tape, list(before | {n: None for n in nodes if n is not None and n.seq <= mark})

        out, _, tape, outer = run()
        del tape
        value = trees.map(lambda x: Tensor(x.data), out)
        if not outer:
            return value

        def pulled(xp: Any, cotangents: Any, _: Any) -> list[Any]:
            _, nodes, tape, _ = run()
            found: dict[Any, Any] = {}
            for n, g in zip(nodes, cotangents, strict=True):
                if n is not None:
                    found[n] = found[n] + g if n in found else g
            pull(tape, found, xp is TENSORS, free=xp is not TENSORS)
            return [found.get(n) for n in outer]

        def pushed(xp: Any, tangents: Any, _: Any) -> list[Any]:
            _, nodes, tape, _ = run()
            found = {n: t for n, t in zip(outer, tangents, strict=True) if t is not None}
            push(tape, found, xp is TENSORS)
            return [found.get(n) for n in nodes]

        return record_function("checkpoint", outer, value, pulled, pushed)

    return checkpointed
