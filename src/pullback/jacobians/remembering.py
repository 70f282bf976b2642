"""What is found out about a tape once, for all tapes of the same ops on the same shapes."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar, cast

from ..core.op import OPS
from ..core.tape import PART
from ..transforms.trace import Trace

__all__ = ["remembered"]

T = TypeVar("T")
_known: OrderedDict[Any, Any] = OrderedDict()
_MOST, _UNKNOWN = 256, object()


def remembered(what: Any, trace: Trace, make: Callable[[], T]) -> T:
    """What `make` gives: once for `what` and all tapes of the same ops on the same shapes.

    Only of ops of the table: a checkpointed or mapped function, or one with rules of its own, writes an op or a frame
    that is never met again and holds the arrays of its call.
    """
    if any(OPS.get(e.op.name) is not e.op and e.op is not PART for e in trace.tape):
        return make()
    key = what, _form(trace)
    try:
        found: Any = _known.get(key, _UNKNOWN)
    except TypeError:  # a parameter of an op is not hashable
        return make()
    if found is _UNKNOWN:
        found = _known[key] = make()
        while len(_known) > _MOST:
            _known.popitem(last=False)
    return cast(T, found)


def _form(trace: Trace) -> Any:
    """All that the costs of walks along a tape depend on, to be hashed and compared."""
    places: dict[Any, int] = {n: i for i, n in enumerate((*trace.ends, *trace.tape))}
    place = places.get
    return (
        trace.joined,
        tuple([(e.op, tuple([place(n) for n in e.parents]), _facts(e.saved)) for e in trace.tape]),
        tuple([(place(getattr(x, "node", None)), _facts(getattr(x, "data", None))) for x in trace.outputs]),
        tuple([_facts(head.data) for head in trace.flat_heads]),
    )


def _facts(value: Any) -> Any:
    """Class, shape, dtype and layout of an array; parameters as they are."""
    kind = value.__class__
    if kind is tuple or kind is list:
        return tuple([_facts(entry) for entry in value])
    try:
        return kind, value.shape, value.dtype, value.strides
    except AttributeError:
        return (
            (kind, value.shape, value.dtype) if hasattr(value, "dtype") and hasattr(value, "shape") else (kind, value)
        )
