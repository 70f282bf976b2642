"""Second floor: the doors, what runs on every call of an op: unwrap, run the body, write one line on the tape.

Several forms, because this is the hot path: the general door costs a few microseconds more than those made for one or
two arrays.
"""

from collections.abc import Callable, Sequence
from inspect import Parameter
from itertools import product
from operator import itemgetter
from typing import Any

import numpy as np

from ..backends import BACKENDS, default_dtype, is_floating
from ..errors import ArgumentError, PullbackError
from .explain import explained
from .op import MISSING, OPS, TENSORS, Op
from .operands import array_of, operand, together
from .recording import recording
from .tape import Equation, part_tensors, tick
from .tensor import WEAK, Tensor, new_tensor

__all__ = ["door"]

new = object.__new__
INTEGRAL = frozenset(map(np.dtype, np.typecodes["AllInteger"] + "?"))


def door(op: Op) -> Callable[..., Any]:
    """The public call of `op`, by the fastest door that its form allows."""
    if op.kind == "composite":
        return _composite(op)
    if op.sequence:
        return _sequence(op)
    if len(op.inputs) == 1 and op.arguments[0].name == op.inputs[0]:
        return (_single if op.params or op.outputs or op.kept or None in op.pushes else _unary)(op)
    plain = not (op.params or op.outputs or op.kept)
    mixed = op.differentiable and (None in op.rules or None in op.pushes)
    if not plain or mixed or (len(op.inputs) == 3 and op.promotes):
        return _general(op)
    return {2: _binary, 3: _ternary}.get(len(op.inputs), _general)(op)


def _unary(op: Op) -> Callable[..., Any]:
    """The call of an op of one array and no parameters."""
    bodies = op.bodies
    keep = op.keeper([True])
    keeps_out = op.saves == ["out"]
    recorded = op.differentiable

    def call(x: Any) -> Any:
        if x.__class__ is Tensor:
            array, node = x.data, x.node
        else:
            array, node = array_of(op, x, op.inputs[0]), None
        try:
            data = bodies[array.__class__](array)
        except Exception as error:
            raise explained(op, (array,), error) from error
        out = new(Tensor)
        out.data = data
        if node is None or not recorded or not (on := recording()):
            out.node = None
        else:
            out.node = e = new(Equation)
            e.seq, e.op, e.parents, e.fit = tick(), op, (node,), None
            e.saved = (data,) if keeps_out else keep((None, array, data))
            if on is not True:
                on.recorded(e, (array,), data)
        return out

    return _with_names(call, op)


def _binary(op: Op) -> Callable[..., Any]:
    """The call of an op of two arrays and no parameters; for elementwise ops, with broadcasting and promotion."""
    bodies = op.bodies
    keep_x, keep_y, keep_both = op.keeper([True, False]), op.keeper([False, True]), op.keeper([True, True])
    recorded = op.differentiable
    broadcasts = op.kind == "elementwise"

    def call(x: Any, y: Any) -> Any:
        if x.__class__ is Tensor:
            a, m = x.data, x.node
        else:
            a, m = operand(op, x, op.inputs[0]), None
        if y.__class__ is Tensor:
            b, n = y.data, y.node
        else:
            b, n = operand(op, y, op.inputs[1]), None
        if a.__class__ is b.__class__ and a.__class__ not in WEAK and a.dtype == b.dtype:
            body = bodies[a.__class__]
            fits = not broadcasts or a.shape == b.shape
        elif (a.__class__ in WEAK) is not (b.__class__ in WEAK):
            body = bodies[(b if a.__class__ in WEAK else a).__class__]
            fits = True  # a Python number takes the array's dtype, but a fraction beside integers needs another
            if recorded:
                if a.__class__ is float and b.dtype in INTEGRAL:
                    b = BACKENDS[b.__class__].beside(b).astype(b, default_dtype())
                elif b.__class__ is float and a.dtype in INTEGRAL:
                    a = BACKENDS[a.__class__].beside(a).astype(a, default_dtype())
        else:
            (a, b), kind, (m, n) = together(op, (a, b), True, (m, n))
            body, fits = bodies[kind], False
        try:
            data = body(a, b)
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
            e.fit = None if fits else fit_of(op, (m, n), (a, b), data)
            if on is not True:
                on.recorded(e, (a, b), data)
        return out

    return _with_names(call, op)


def _ternary(op: Op) -> Callable[..., Any]:
    """The call of an op of three arrays and no parameters, without promotion; the last array may be None."""
    bodies = op.bodies
    keepers = {missing: op.keeper([not m for m in missing]) for missing in product((False, True), repeat=3)}
    recorded = op.differentiable

    def call(x: Any, y: Any, z: Any = None) -> Any:
        m = n = o = None
        if x.__class__ is Tensor:
            a, m = x.data, x.node
        else:
            a = operand(op, x, op.inputs[0])
        if y.__class__ is Tensor:
            b, n = y.data, y.node
        else:
            b = operand(op, y, op.inputs[1])
        if z.__class__ is Tensor:
            c, o = z.data, z.node
        else:
            c = operand(op, z, op.inputs[2])
        kind = a.__class__
        if kind is not b.__class__ or (c is not None and kind is not c.__class__) or kind in WEAK:
            (a, b, c), kind, (m, n, o) = together(op, (a, b, c), False, (m, n, o))
        body = bodies[kind]
        try:
            data = body(a, b, c)
        except Exception as error:
            raise explained(op, (a, b, c), error) from error
        out = new(Tensor)
        out.data = data
        if (m is None and n is None and o is None) or not recorded or not (on := recording()):
            out.node = None
        else:
            out.node = e = new(Equation)
            keep = keepers[m is None, n is None, o is None]
            e.seq, e.op, e.parents, e.saved = tick(), op, (m, n, o), keep((None, a, b, c, data))
            dtype = data.dtype
            fits = a.dtype is dtype and b.dtype is dtype and (c is None or c.dtype is dtype)
            e.fit = None if fits else fit_of(op, e.parents, (a, b, c), data)
            if on is not True:
                on.recorded(e, (a, b, c), data)
        return out

    call.__defaults__ = tuple(a.default for a in op.arguments if a.default is not MISSING)
    return _with_names(call, op)


def _with_names(call: Any, op: Op) -> Any:
    """`call` with its arguments named as those of the op: they can be given by name, at no cost for the others."""
    code = call.__code__
    call.__code__ = code.replace(co_varnames=(*op.inputs, *code.co_varnames[len(op.inputs) :]))
    return call


def _single(op: Op) -> Callable[..., Any]:
    """The call of an op of one array, with parameters: they are bound only when the tape asks for them."""
    bodies = op.bodies
    bind = _binder(op)
    record = _recorder(op)
    recorded = op.differentiable
    needs_params = any(name in op.saves for name in op.params)

    def call(*args: Any, **kwargs: Any) -> Any:
        if not args:
            bind(args, kwargs)  # a wrong call is told as such
            args = (kwargs.pop(op.inputs[0]),)
        x = args[0]
        if x.__class__ is Tensor:
            array, node = x.data, x.node
        else:
            array, node = array_of(op, x, op.inputs[0]), None
        try:
            value = bodies[array.__class__](array, *args[1:], **kwargs)
        except Exception as error:
            bind(args, kwargs)
            raise explained(op, (array,), error) from error
        if node is None or not recorded or not (on := recording()):
            return _constant(op, value)
        return record(on, (node,), 1, (array,), value, bind(args, kwargs)[1:] if needs_params else ())

    return call


def _general(op: Op) -> Callable[..., Any]:
    """The call of an op of a fixed number of arrays (some may be None), with parameters and any number of outputs."""
    bodies, bind, run = op.bodies, _binder(op), _runner(op)
    record = _recorder(op)
    names = [a.name for a in op.arguments]
    rules = op.rules if op.differentiable else [None] * len(op.inputs)
    places = [(names.index(name), 1 << i if rules[i] else 0) for i, name in enumerate(op.inputs)]
    params = _picker([names.index(name) for name in op.params])
    promotes = op.promotes and len(places) > 1

    def call(*args: Any, **kwargs: Any) -> Any:
        given = bind(args, kwargs)
        nodes: Any = []
        arrays: Any = []
        kind: Any = None
        tracked, mixed = 0, promotes
        for place, bit in places:
            x, node = given[place], None
            if x.__class__ is Tensor:
                if bit and x.node is not None:
                    node = x.node
                    tracked |= bit
                x = given[place] = x.data
            elif x is not None:
                x = given[place] = operand(op, x, names[place])
            nodes.append(node)
            arrays.append(x)
            if x is not None and x.__class__ is not kind:
                mixed = mixed or kind is not None
                kind = x.__class__
        if kind is not None and kind not in WEAK and not mixed:
            body = bodies[kind]
        else:
            arrays, kind, nodes = together(op, arrays, op.promotes, nodes)
            body = bodies[kind]
            for (place, _), array in zip(places, arrays, strict=True):
                given[place] = array
        try:
            value = run(body, given)
        except Exception as error:
            raise explained(op, arrays, error) from error
        if tracked and (on := recording()):
            return record(on, tuple(nodes), tracked, arrays, value, params(given))
        return _constant(op, value)

    return call


def _sequence(op: Op) -> Callable[..., Any]:
    """The call of an op of a sequence of arrays, given as one list or as the last arguments."""
    bodies, bind, run = op.bodies, _binder(op), _runner(op)
    record = _recorder(op)
    names = [a.name for a in op.arguments]
    place = names.index(op.inputs[0])
    params = _picker([names.index(name) for name in op.params])

    def call(*args: Any, **kwargs: Any) -> Any:
        given = bind(args, kwargs)
        inputs = given[place]
        if not isinstance(inputs, list | tuple) or not inputs:
            raise ArgumentError(f"{op.name}: {names[place]} is a non-empty list or tuple of arrays; got {inputs!r}")
        nodes: Any = tuple(x.node if x.__class__ is Tensor else None for x in inputs)
        raw = [
            x.data if x.__class__ is Tensor else operand(op, x, f"{names[place]}[{i}]") for i, x in enumerate(inputs)
        ]
        arrays, kind, nodes = together(op, raw, True, nodes)
        given[place] = arrays
        try:
            value = run(bodies[kind], given)
        except Exception as error:
            raise explained(op, arrays, error) from error
        if op.differentiable and any(nodes) and (on := recording()):
            return record(on, nodes, 1, tuple(arrays), value, params(given))
        return _constant(op, value)

    return call


def _composite(op: Op) -> Callable[..., Any]:
    """The call of a body over other ops: arrays and lists come in as tensors, Python numbers stay beside them."""
    forward = op.forward
    rest = next((i for i, a in enumerate(op.arguments) if a.kind is Parameter.VAR_POSITIONAL), len(op.arguments) - 1)
    is_array = [a.name in op.inputs and "Arrays" not in str(a.annotation) for a in op.arguments]
    names = [a.name for a in op.arguments]
    named = {name for name, yes in zip(names, is_array, strict=True) if yes}
    weak = WEAK if len(op.inputs) > 1 or op.sequence else frozenset()

    def entered(x: Any, name: str) -> Any:
        return x if x.__class__ is Tensor or x is None or x.__class__ in weak else Tensor(array_of(op, x, name))

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            given = [entered(x, names[min(i, rest)]) if is_array[min(i, rest)] else x for i, x in enumerate(args)]
            return forward(TENSORS, *given, **{k: entered(x, k) if k in named else x for k, x in kwargs.items()})
        except Exception as error:
            if isinstance(error, PullbackError) and str(error).split(":")[0] in OPS:
                raise  # by an op inside, which said all there is to say
            arrays = [x.data if x.__class__ is Tensor else x for i, x in enumerate(args) if is_array[min(i, rest)]]
            raise explained(op, arrays, error) from error

    return call


def _binder(op: Op) -> Callable[[tuple[Any, ...], dict[str, Any]], list[Any]]:
    """A light `Signature.bind` with defaults: all arguments in the order of the signature, the rest as one tuple."""
    size = sum(a.kind not in (Parameter.KEYWORD_ONLY, Parameter.VAR_POSITIONAL) for a in op.arguments)
    has_rest = any(a.kind is Parameter.VAR_POSITIONAL for a in op.arguments)
    place = {a.name: i for i, a in enumerate(op.arguments)}
    defaults = [a.default for a in op.arguments]
    required = sum(a.default is MISSING for a in op.arguments)

    def bind(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        count = len(args)
        if required <= count <= size and not kwargs and not has_rest:
            return [*args, *defaults[count:]]
        given = [*args[:size], *defaults[min(count, size) :]]
        if has_rest:
            given[size] = args[size:]
        elif count > size:
            raise ArgumentError(f"{op.name}: takes at most {size} positional arguments: {', '.join(place)}")
        for name, value in kwargs.items():
            if name not in place:
                raise ArgumentError(f"{op.name}: no argument is called {name}; it has {', '.join(place)}")
            given[place[name]] = value
        for name, value in zip(place, given, strict=True):
            if value is MISSING:
                raise ArgumentError(f"{op.name}: argument {name} is missing")
        return given

    return bind


def _picker(places: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """What takes the values at `places`, as one tuple."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda values: [values[place] for place in places]


def _runner(op: Op) -> Callable[[Any, list[Any]], Any]:
    """How a body is called with all arguments in order."""
    rest = [i for i, a in enumerate(op.arguments) if a.kind is Parameter.VAR_POSITIONAL]
    named = [a.name for a in op.arguments if a.kind is Parameter.KEYWORD_ONLY]
    size = len(op.arguments) - len(named)
    if rest:
        return lambda body, given: body(
            *given[: rest[0]], *given[rest[0]], **dict(zip(named, given[size:], strict=True))
        )
    if named:
        return lambda body, given: body(*given[:size], **dict(zip(named, given[size:], strict=True)))
    return lambda body, given: body(*given)


def _recorder(op: Op) -> Callable[..., Any]:
    """What writes a call of `op` on the tape and wraps its value; the bits of `tracked` say which inputs are."""
    keepers: dict[int, Any] = {}
    always = any(rule and not push for rule, push in zip(op.rules, op.pushes, strict=True))
    converts, kept, extras, sequence = "dtype" in op.params, op.kept, op.extras, op.sequence
    by_dtype = not (always or op.outputs or sequence or op.kind == "elementwise")  # the shape is the rule's affair

    def record(
        on: Any, nodes: Sequence[Any], tracked: int, arrays: Sequence[Any], value: Any, params: Sequence[Any]
    ) -> Any:
        data, side = value if kept else (value, None)
        if converts and not is_floating(data.dtype):  # steps have no slope
            return _constant(op, value)
        keep = keepers.get(tracked)
        if keep is None:
            keep = keepers[tracked] = op.keeper([bool(tracked >> i & 1) for i in range(len(op.inputs))])
        values = (None, arrays, data) if sequence else (None, *arrays, data)
        if extras:
            values = (*values, *params, side)
        e = new(Equation)
        e.seq, e.op, e.parents, e.saved = tick(), op, nodes, keep(values)
        fits = by_dtype and tracked == 1 and arrays[0].dtype is data.dtype
        e.fit = None if fits else fit_of(op, nodes, arrays, data, always)
        if on is not True:
            on.recorded(e, arrays, data)
        if op.outputs:
            return part_tensors(data, e)
        out = new(Tensor)
        out.data, out.node = data, e
        return out

    return record


def _constant(op: Op, value: Any) -> Any:
    """The value of a call that is not recorded."""
    data = value[0] if op.kept else value
    return op.gather(new_tensor(d, None) for d in data) if op.outputs else new_tensor(data, None)


def fit_of(op: Op, nodes: Sequence[Any], arrays: Sequence[Any], data: Any, always: bool = False) -> Any:
    """What each cotangent must be brought back to (None where it comes right), and the output's shape and dtype.

    None altogether when every cotangent comes right, unless `always` asks for the output's.
    """
    if op.outputs:
        return *(None for _ in nodes), tuple((d.shape, d.dtype) for d in data)
    dtype = data.dtype
    shape = data.shape if op.kind == "elementwise" else None  # other rules bring the shape right
    for n, a in zip(nodes, arrays, strict=True):
        if n is not None and (a.dtype is not dtype or (shape is not None and a.shape != shape)):
            break
    else:
        if not always:
            return None
    specs = [
        None if n is None or (a.dtype == dtype and (shape is None or a.shape == shape)) else (a.shape, a.dtype)
        for n, a in zip(nodes, arrays, strict=True)
    ]
    return (*specs, (data.shape, dtype)) if always or any(specs) else None
