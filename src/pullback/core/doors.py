"""Second floor: the doors, what runs on every call of an op: unwrap, run the body, write one line on the tape.

Three forms, because this is the hot path: a general door costs a microsecond more than one made for the arity.
"""

from collections.abc import Callable, Sequence
from inspect import Parameter
from typing import Any

import numpy as np

from ..backends import BACKENDS, Backend, is_floating
from ..errors import (
    ArgumentError,
    DeviceError,
    DtypeError,
    IndexingError,
    LinearAlgebraError,
    PullbackError,
    ShapeError,
)
from .op import MISSING, Op
from .tape import Equation, equation, part_tensors, recording, tick
from .tensor import WEAK, Tensor, as_array, new_tensor

__all__ = ["door"]

new = object.__new__


def door(op: Op) -> Callable[..., Any]:
    """The public call of `op`, by the fastest door that its form allows."""
    special = op.params or op.extras or op.outputs or op.kept or op.sequence
    mixed = op.differentiable and (None in op.rules or None in op.pushes)
    return (_general if special or mixed else {1: _unary, 2: _binary}.get(len(op.inputs), _general))(op)


def _unary(op: Op) -> Callable[..., Any]:
    """The call of an op of one array and no parameters."""
    forward = op.forward
    keep = op.keeper([True])
    recorded = op.differentiable

    def call(x: Any) -> Any:
        if x.__class__ is Tensor:
            array, node = x.data, x.node
        else:
            array, node = as_array(x), None
        try:
            data = forward(BACKENDS[array.__class__].xp, array)
        except Exception as error:
            raise explained(op, (array,), error) from error
        out = new(Tensor)
        out.data = data
        if node is None or not recorded or not (on := recording()):
            out.node = None
        else:
            out.node = e = new(Equation)
            e.seq, e.op, e.parents, e.saved, e.fit = tick(), op, (node,), keep((None, array, data)), None
            if on is not True:
                on(e, data)
        return out

    return call


def _binary(op: Op) -> Callable[..., Any]:
    """The call of an op of two arrays and no parameters; for elementwise ops, with broadcasting and promotion."""
    forward = op.forward
    keep_x, keep_y, keep_both = op.keeper([True, False]), op.keeper([False, True]), op.keeper([True, True])
    recorded = op.differentiable
    broadcasts = op.kind == "elementwise"

    def call(x: Any, y: Any) -> Any:
        if x.__class__ is Tensor:
            a, m = x.data, x.node
        else:
            a, m = operand(x), None
        if y.__class__ is Tensor:
            b, n = y.data, y.node
        else:
            b, n = operand(y), None
        if a.__class__ is not b.__class__ or a.dtype != b.dtype:
            (a, b), backend = together(op, (a, b), True)
        else:
            backend = BACKENDS[a.__class__]
        try:
            data = forward(backend.xp, a, b)
        except Exception as error:
            raise explained(op, (a, b), error) from error
        out = new(Tensor)
        out.data = data
        if (m is None and n is None) or not recorded or not (on := recording()):
            out.node = None
        else:
            out.node = e = new(Equation)
            keep = keep_y if m is None else keep_x if n is None else keep_both
            e.seq, e.op, e.parents, e.saved = tick(), op, (m, n), keep((None, a, b, data))
            e.fit = fit_of(op, (a, b), data) if broadcasts else cast_of((a, b), data)
            if on is not True:
                on(e, data)
        return out

    return call


def _general(op: Op) -> Callable[..., Any]:
    """The call of any op: sequences of arrays, optional arrays, parameters, several outputs."""
    bind = _binder(op)
    order = [a.name for a in op.arguments]
    forward, name_of_sequence = op.forward, op.sequence
    keepers: dict[tuple[bool, ...], Any] = {}
    variadic = any(a.kind is Parameter.VAR_POSITIONAL for a in op.arguments)
    promotes = op.kind == "elementwise" or bool(op.sequence)

    def call(*args: Any, **kwargs: Any) -> Any:
        given = bind(args, kwargs)
        inputs = given[name_of_sequence] if name_of_sequence else [given[name] for name in op.inputs]
        raw = [x.data if x.__class__ is Tensor else operand(x) for x in _listed(op, inputs)]
        nodes = tuple(x.node if x.__class__ is Tensor else None for x in inputs)
        arrays, backend = together(op, raw, promotes)
        given.update({name_of_sequence: arrays} if name_of_sequence else zip(op.inputs, arrays, strict=True))
        try:
            if variadic:
                plain = [given[n] for n in order if n != name_of_sequence]
                value = forward(backend.xp, *plain, *arrays)
            else:
                value = forward(backend.xp, *[given[n] for n in order])
        except Exception as error:
            raise explained(op, arrays, error) from error
        data, side = value if op.kept else (value, None)
        if not op.sequence:
            nodes = tuple(n if rule else None for n, rule in zip(nodes, op.rules, strict=True))
        tracked = tuple(n is not None for n in nodes)
        if not op.differentiable or True not in tracked or not (on := recording()):
            return tuple(new_tensor(d, None) for d in data) if op.outputs else new_tensor(data, None)
        if op.sequence:
            tracked = (True,)
        keep = keepers.get(tracked) or keepers.setdefault(tracked, op.keeper(tracked))
        values = [None, *([arrays] if op.sequence else arrays), data, *(given[p] for p in op.params), side]
        values.append(getattr(data, "shape", None))
        if op.extras:
            values += _extras(op, arrays)
        e = equation(op, nodes, keep(tuple(values)), fit_of(op, arrays, data, always=True))
        if on is not True:
            on(e, data)
        return part_tensors(data, e) if op.outputs else new_tensor(data, e)

    return call


def _extras(op: Op, arrays: Sequence[Any]) -> list[Any]:
    if op.sequence:
        return [tuple(a.shape for a in arrays), tuple(a.dtype for a in arrays)]
    return [getattr(a, what, None) for a in arrays for what in ("shape", "dtype")]


def _binder(op: Op) -> Callable[[tuple[Any, ...], dict[str, Any]], dict[str, Any]]:
    """A light `Signature.bind` with defaults (a sixth of its time)."""
    positional = [a.name for a in op.arguments if a.kind not in (Parameter.KEYWORD_ONLY, Parameter.VAR_POSITIONAL)]
    rest = next((a.name for a in op.arguments if a.kind is Parameter.VAR_POSITIONAL), None)
    defaults = {a.name: a.default for a in op.arguments if a.name != rest}
    size = len(positional)

    def bind(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        given = defaults | dict(zip(positional, args, strict=False)) | kwargs
        if rest is not None:
            given[rest] = args[size:]
        elif len(args) > size:
            raise ArgumentError(f"{op.name}: takes at most {size} positional arguments ({', '.join(positional)})")
        if len(given) > len(op.arguments):
            unknown = ", ".join(sorted(kwargs.keys() - defaults.keys()))
            raise ArgumentError(f"{op.name}: no argument is called {unknown}; it has {', '.join(defaults)}")
        for name, value in given.items():
            if value is MISSING:
                raise ArgumentError(f"{op.name}: argument {name} is missing")
        return given

    return bind


def _listed(op: Op, inputs: Any) -> Sequence[Any]:
    if op.sequence and (not isinstance(inputs, list | tuple) or not inputs):
        raise ArgumentError(f"{op.name}: {op.sequence} is a non-empty list or tuple of arrays; got {inputs!r}")
    return list(inputs)


def operand(x: Any) -> Any:
    """What is no Tensor, as an op takes it: Python numbers stay (they are weak), None stays, the rest are arrays."""
    if x is None or x.__class__ in WEAK:
        return x
    if isinstance(x, float):  # numpy.float64 is a Python float, and as weak
        return float(x)
    return as_array(x)


def together(op: Op, arrays: Sequence[Any], promotes: bool) -> tuple[Sequence[Any], Backend]:
    """Arrays that may meet in one op, and their backend.

    One device is required. Python numbers stay weak beside an array and become arrays where none is. For elementwise
    ops, integers and booleans beside floating-point arrays take the floating-point dtype.
    """
    present = [a for a in arrays if a is not None and a.__class__ not in WEAK]
    if not present:
        arrays = [a if a is None else as_array(a) for a in arrays]
        present = [a for a in arrays if a is not None]
    backend = BACKENDS[present[0].__class__]
    if any(BACKENDS[a.__class__] is not backend for a in present[1:]):
        raise DeviceError(f"{op.name}: its inputs are on different devices; move them with .to(): {_met(op, arrays)}")
    if promotes and len({a.dtype for a in present}) > 1:
        floating = [a.dtype for a in present if is_floating(a.dtype)]
        if floating and len(floating) < len(present):
            kind = np.result_type(*floating) if len(set(floating)) > 1 else floating[0]
            arrays = [
                a if a is None or a.__class__ in WEAK or is_floating(a.dtype) or _is_condition(op, i)
                else backend.xp.astype(a, kind)
                for i, a in enumerate(arrays)
            ]  # fmt: skip
    return arrays, backend


def _is_condition(op: Op, position: int) -> bool:
    return op.differentiable and not op.sequence and op.rules[position] is None


def fit_of(op: Op, arrays: Sequence[Any], data: Any, always: bool = False) -> Any:
    """What each cotangent must be brought back to (None where it comes right), and the output's shape and dtype."""
    if op.outputs:
        return *(None for _ in arrays), tuple((d.shape, d.dtype) for d in data)
    shape, dtype = data.shape, data.dtype
    specs: list[Any] = []
    for a in arrays:
        if a is None or a.__class__ in WEAK:
            specs.append(None)
        elif op.kind == "elementwise" and (a.shape != shape or a.dtype != dtype):
            specs.append((a.shape, a.dtype))
        else:
            specs.append(None if a.dtype == dtype else (a.shape, a.dtype))
    if not always and specs[0] is None and specs[1] is None:
        return None
    return *specs, (shape, dtype)


def cast_of(arrays: Sequence[Any], data: Any) -> Any:
    """`fit_of` for two arrays that are not broadcast: only a dtype can differ."""
    dtype = data.dtype
    if arrays[0].dtype is dtype and arrays[1].dtype is dtype:
        return None
    return *((a.shape, a.dtype) for a in arrays), (data.shape, dtype)


# --- errors -----------------------------------------------------------------------------------------------------------


def _met(op: Op, arrays: Sequence[Any]) -> str:
    names = [f"{op.sequence}[{i}]" for i in range(len(arrays))] if op.sequence else op.inputs
    return ", ".join(
        f"{name} {tuple(a.shape)} {a.dtype} on {BACKENDS[a.__class__].device_of(a)}" if hasattr(a, "shape") else
        f"{name} {a!r}" for name, a in zip(names, arrays, strict=False)
        if a is not None
    )  # fmt: skip


def explained(op: Op, arrays: Sequence[Any], error: Exception) -> Exception:
    """The named error for a body that failed. It is looked into only now: a check before each call would cost more."""
    if isinstance(error, MemoryError):
        return error
    text = str(error)
    if isinstance(error, PullbackError):
        kind: type[PullbackError] = type(error)
        if text.startswith(f"{op.name}:"):
            return error
    elif isinstance(error, np.linalg.LinAlgError):
        square = all(a.ndim >= 2 and a.shape[-1] == a.shape[-2] for a in arrays[:1])
        kind = LinearAlgebraError if square and "dimensional" not in text else ShapeError
    elif isinstance(error, IndexError) and not isinstance(error, ValueError):
        kind = IndexingError
    elif isinstance(error, TypeError | AttributeError):
        kind = DtypeError
    elif isinstance(error, ValueError | IndexError):
        kind = ShapeError
    else:
        kind = PullbackError
    return kind(f"{op.name}: {text}; met {_met(op, arrays)}")
