"""Second floor: what an op takes for an array, and the device and dtype that arrays meet in."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backends import BACKENDS, Backend, canonical_dtype, default_dtype, is_floating
from ..errors import DeviceError, PullbackError
from .explain import inputs_met
from .op import Op
from .tensor import WEAK, as_array

__all__ = ["array_of", "operand", "together"]


def operand(op: Op, x: Any, name: str) -> Any:
    """What is no Tensor, as an op takes it: Python numbers stay (they are weak), and None where it is the default; the
    rest are arrays."""
    if x.__class__ in WEAK:
        return x
    if isinstance(x, float):  # numpy.float64 is a Python float, and as weak
        return float(x)
    if x is None and any(a.name == name and a.default is None for a in op.arguments):
        return x
    return array_of(op, x, name)


def array_of(op: Op, x: Any, name: str) -> Any:
    """The array of the argument `name` of an op. Raises as `as_array`, and names both."""
    try:
        return as_array(x)
    except PullbackError as error:
        raise type(error)(f"{op.name}: argument {name}: {error}") from error


def together(
    op: Op, arrays: Sequence[Any], promotes: bool, nodes: Sequence[Any]
) -> tuple[Sequence[Any], type, Sequence[Any]]:
    """Arrays that may meet in one op, the class of one of them, and the nodes that they come from.

    One device is required. Python numbers stay weak beside an array and become arrays where none is, and in a sequence.
    For elementwise ops, integers and booleans beside floating-point arrays take their dtype; beside nothing but a
    Python float, the default one.
    """
    present = [a for a in arrays if a is not None and a.__class__ not in WEAK]
    if not present:
        arrays = [a if a is None else as_array(a) for a in arrays]
        present = [a for a in arrays if a is not None]
    backends = {BACKENDS[a.__class__] for a in present}
    backend = max(backends, key=lambda backend: backend.rank)
    if len(backends) > 1:
        arrays, nodes = _joined(op, arrays, nodes, backend)
        present = [a for a in arrays if a is not None and a.__class__ not in WEAK]
    if op.sequence and len(present) < len(arrays):
        arrays = present = [_like(present, a, backend) if a.__class__ in WEAK else a for a in arrays]
    fraction = op.differentiable and not op.sequence and any(a.__class__ is float for a in arrays)
    if promotes and (fraction or len({a.dtype for a in present}) > 1):
        values = [a for i, a in enumerate(arrays) if hasattr(a, "dtype") and not _is_condition(op, i)]
        floating = [a.dtype for a in values if is_floating(a.dtype)]
        if fraction and not values:
            kind, place = default_dtype(), backend.device_of(present[0])
            arrays = [backend.asarray(a, dtype=kind, device=place) if a.__class__ in WEAK else a for a in arrays]
        elif (floating or fraction) and len(floating) < len(values):
            kind = _joint_dtype(floating)
            arrays = [
                a
                if not hasattr(a, "dtype") or is_floating(a.dtype) or _is_condition(op, i)
                else backend.beside(a).astype(a, kind)
                for i, a in enumerate(arrays)
            ]
    return arrays, present[0].__class__, nodes


def _joined(op: Op, arrays: Sequence[Any], nodes: Sequence[Any], backend: Backend) -> tuple[list[Any], tuple[Any, ...]]:
    """Arrays of several backends as arrays of the one of highest rank, if there is one."""
    other = next(a for a in arrays if a.__class__ not in WEAK and a is not None and BACKENDS[a.__class__] is backend)
    found = []
    for a, node in zip(arrays, nodes, strict=True):
        owner = backend if a is None or a.__class__ in WEAK else BACKENDS[a.__class__]
        if owner is not backend and owner.rank == backend.rank:
            raise DeviceError(
                f"{op.name}: its inputs are on different devices; move them with .to(): {inputs_met(op, arrays)}"
            )
        found.append((a, node) if owner is backend else backend.joined(a, node, other))
    return [a for a, _ in found], tuple([node for _, node in found])


def _joint_dtype(floating: Sequence[Any]) -> Any:
    """The dtype that numbers of these floating-point dtypes meet in; the default one where there are none."""
    if not floating:
        return default_dtype()
    return floating[0] if len(set(floating)) == 1 else np.result_type(*floating)


def _like(present: Sequence[Any], number: Any, backend: Backend) -> Any:
    """A Python number as an array of the dtype that it takes beside those that are present."""
    floating = [a.dtype for a in present if is_floating(a.dtype)]
    if not floating and isinstance(number, float):
        kind = default_dtype()
    else:
        kind = floating[0] if floating else np.result_type(canonical_dtype(present[0].dtype), number)
    return backend.asarray(number, dtype=kind, device=backend.device_of(present[0]))


def _is_condition(op: Op, position: int) -> bool:
    return op.differentiable and not op.sequence and op.rules[position] is None
