"""What is found out about a tape once, for all tapes of the same ops on the same shapes."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from ..core.op import OPS
from ..core.tape import PART
from ..transforms.trace import Trace

__all__ = ["remembered"]

T = TypeVar("T")
_known: OrderedDict[Any, Any] = OrderedDict()
_forms: WeakKeyDictionary[Trace, Any] = WeakKeyDictionary()  # mode "auto" asks twice
_MOST, _UNKNOWN, _PLAIN = 256, object(), {type(None), bool, int, float, str}


def remembered(what: Any, trace: Trace, make: Callable[[], T]) -> T:
    """What `make` gives: once for `what` and all tapes of the same ops on the same shapes.

    Only of ops of the table: a checkpointed or mapped function, or one with rules of its own, writes an op or a frame
    that is never met again and holds the arrays of its call.
    """
    form = _forms.get(trace, _UNKNOWN)
    if form is _UNKNOWN:
        form = _forms[trace] = _form(trace)
    if form is None:
        return make()
    key = (what, *form)
    try:
        found: Any = _known.get(key, _UNKNOWN)
    except TypeError:  # a parameter of an op is not hashable
        return make()
    if found is _UNKNOWN:
        found = _known[key] = make()
        while len(_known) > _MOST:
            _known.popitem(last=False)
    return cast(T, found)


def _form(trace: Trace) -> list[Any] | None:
    """All that the costs of walks along a tape depend on, to be hashed and compared; None where an op is not of the
    table. It is one flat list, which takes half the time of a nested one."""
    places: dict[Any, int] = {n: i for i, n in enumerate((*trace.ends, *trace.tape))}
    form: list[Any] = [trace.joined]
    for e in trace.tape:
        op = e.op
        if OPS.get(op.name) is not op and op is not PART:
            return None
        form.append(op)
        form += map(places.get, e.parents)
        for value in e.saved:
            form += _facts(value)
    for x in trace.outputs:
        form.append(places.get(getattr(x, "node", None)))
        form += _facts(getattr(x, "data", None))
    for head in trace.flat_heads:
        form += _facts(head.data)
    return form


def _facts(value: Any) -> tuple[Any, ...]:
    """Class, shape, dtype and layout of an array; parameters as they are."""
    kind = value.__class__
    if kind in _PLAIN:
        return kind, value
    if kind is tuple or kind is list:
        return (kind, *[_facts(entry) for entry in value])
    try:
        return kind, value.shape, value.dtype, value.strides
    except AttributeError:
        return (
            (kind, value.shape, value.dtype) if hasattr(value, "dtype") and hasattr(value, "shape") else (kind, value)
        )
