"""A whole function as one line of the tape, with rules of its own: what checkpoint and custom_rule are made of."""

from collections.abc import Sequence
from typing import Any

from .. import trees
from ..core.op import Array, Arrays, Op, Rule
from ..core.recording import observing
from ..core.tape import Bundle, equation, part_tensors
from ..errors import RuleError

__all__ = ["record_function"]


def _gathered(xp: Any, arrays: Arrays) -> Any:
    """Several values as one bundle, so that a rule of the whole runs once."""
    return Bundle(arrays)


GATHER = Op(
    _gathered,
    "op",
    [lambda g, i: g[i]],
    [lambda t, i, arrays_shape: Bundle(t if k == i else None for k in range(len(arrays_shape)))],
    is_view=True,
)


def record_function(name: str, nodes: Sequence[Any], out: Any, vjp: Rule | None, jvp: Rule | None) -> Any:
    """`out`, a tree of constant tensors, as the value of one equation whose inputs are `nodes`.

    Args:
        vjp: A rule `(xp, g, ...)` from the tuple of cotangents of the leaves of `out` to a sequence of one cotangent
            (or None) per node. None: the reverse mode refuses with a RuleError.
        jvp: A rule `(xp, t, ...)` from the sequence of one tangent (or None) per node to the tangents of the leaves.
            None: `vjp` is transposed. Both rules may name `out`, the tuple of values.
    """
    leaves, spec = trees.flatten(out)
    values = tuple(x.data for x in leaves)

    # Both rules read the arguments again. That they name them makes the tape refuse arguments written in place since.
    def body(xp: Any, arguments: Array) -> Any:
        return values

    def pulled(xp: Any, g: Any, arguments: Any, out: Any) -> Any:
        if vjp is None:
            raise RuleError(f"{name}: it has a jvp and no vjp, so it can be pushed and not pulled; give it vjp= too")
        return _bundle(vjp(xp, g, out))

    def pushed(xp: Any, t: Any, arguments: Any, out: Any) -> Any:
        return _bundle(jvp(xp, t, out))  # type: ignore[misc]

    body.__name__ = name
    outputs = tuple(str(i) for i in range(len(leaves)))
    op = Op(body, "op", [pulled], [pushed if jvp else None], outputs=outputs)
    gathered = equation(GATHER, tuple(nodes), (((),) * len(nodes),), None)
    e = equation(op, (gathered,), ((), values), (None, tuple((x.shape, x.dtype) for x in values)))
    if (observer := observing()) is not None:
        observer.recorded(e, (), values)
    return trees.unflatten(spec, list(part_tensors(values, e)))


def _bundle(entries: Sequence[Any]) -> Bundle | None:
    return Bundle(entries) if any(entry is not None for entry in entries) else None
