"""First floor: what an op is, the table of all ops, and the two namespaces in which rules run.

A *body* is the forward function over a backend's native namespace. A *rule* is a linear map from a cotangent (or a
tangent) of one side to the other. It is a function of named values, and its names say what the tape must keep:

    xp          the namespace of ops (`ARRAYS[...]` over raw arrays, or `TENSORS` over Tensors)
    g, t        the cotangent (in a VJP rule), the tangent (in a JVP rule)
    i           the position of the input asked for (of a sequence of inputs)
    wanted      in `Op.first`: for each input what its cotangent is for, None where none is asked for
    <input>     an input's value        <input>_shape, <input>_dtype    what keeps no array alive
    out         the op's value          out_shape, out_dtype
    kept        a second value of the body (see `Op.kept`)
    <param>     a parameter
"""

from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import Parameter, signature
from operator import itemgetter
from types import MethodType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from weakref import ref

from ..backends import BACKENDS, Backend
from ..errors import ArgumentError

__all__ = [
    "ARRAYS",
    "MISSING",
    "OPS",
    "TENSORS",
    "UNWATCHED",
    "Array",
    "ArrayOps",
    "Arrays",
    "Op",
    "Rule",
    "Sample",
    "TensorOps",
    "named",
    "names_of",
    "wrapped_bodies",
]

Rule = Callable[..., Any]
BoundRule = Callable[[Any, Any, Any, tuple[Any, ...]], Any]
MISSING: Any = Parameter.empty
_ENVIRONMENT = {"xp", "g", "t", "i", "wanted"}

if TYPE_CHECKING:
    Array: TypeAlias = Any
    Arrays: TypeAlias = Sequence[Any]
else:

    class Array:
        """Marks a parameter of a body as an input: an array; every other parameter is a parameter of the op."""

    class Arrays:
        """Marks the input that is a sequence of arrays."""


@dataclass(frozen=True)
class Sample:
    """One generated call of an op: `op(*args, **kwargs)`; arrays among `args` at input positions are the primals."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)


class Op:
    """All that is known of one op. Instances are made by the decorators in `core.define` and read everywhere.

    Attributes:
        name: The public name.
        kind: "elementwise", "op", or "composite" (a body over other ops, with no rule of its own).
        forward: The body, `forward(xp, *inputs, **params)`.
        inputs, params: Names of the array arguments and of the others, in the order of the signature.
        sequence: The input that is a sequence of arrays, if there is one.
        rules: One VJP rule per input; None where an input has no derivative.
        pushes: One JVP rule per input; None where the JVP is the transposed VJP.
        outputs: Names of the outputs where there are several.
        gather: Makes a named tuple of the outputs (a plain one where their number is not fixed).
        kept: The op of the first inputs, by name, that the body computes anyway; the body then returns (out, kept),
            where `kept` is that op's value, a tuple if it has several outputs. Parameters of one name are the same.
        is_view: Whether the output may share the buffer of an input.
        is_elementwise: Whether its arrays meet number by number: kind "elementwise", and slopes of such ops.
        standard: Whether the body needs only the array API standard.
        promotes: Whether integers beside floating-point inputs take their dtype.
        cost: What the body does, where it calls functions without a known cost: see `core.define.op`.
        formula: What `pb.explain` writes in place of a call of the op: see `core.define.op`.
        jacobian: The Jacobian of a vector by the first input, where it is had at once: see `core.define.op`.
        batching: How it is done for many examples at once: see `core.define.op`.
        samples: A generator of `Sample`s from a `numpy.random.Generator`.
        first: What is done to the cotangent once, before the rules of all inputs, which see its value as `g`.
        bodies: The body for each class of array, with the namespace bound, or what the backend runs instead of it.
        call: The public function.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        kind: Literal["elementwise", "op", "composite"],
        rules: Sequence[Rule | None] = (),
        pushes: Sequence[Rule | None] | None = None,
        *,
        outputs: tuple[str, ...] = (),
        kept: str | None = None,
        first: Rule | None = None,
        is_view: bool = False,
        is_elementwise: bool = False,
        standard: bool = True,
        samples: Callable[[Any], Any] | None = None,
        promotes: bool = False,
        cost: Callable[..., Any] | None = None,
        jacobian: Rule | None = None,
        formula: Callable[..., Any] | None = None,
        batching: Callable[..., Any] | None = None,
    ) -> None:
        self.name, self.forward, self.kind = forward.__name__, forward, kind
        self.outputs, self.kept, self.is_view, self.standard, self.samples = outputs, kept, is_view, standard, samples
        self.first, self.promotes, self.cost = first, promotes or kind == "elementwise", cost
        self.jacobian, self.formula, self.batching = jacobian, formula, batching
        self.is_elementwise = is_elementwise or kind == "elementwise"
        self.bodies = _Bodies(self)
        fixed = len(outputs) > 1 and all(name.isidentifier() for name in outputs)
        kind_of_result: Any = namedtuple(f"{self.name}_result", outputs) if fixed else None
        self.gather: Callable[..., Any] = kind_of_result._make if fixed else tuple
        self.call: Callable[..., Any] = forward
        arguments = list(signature(forward).parameters.values())[1:]
        self.arguments = arguments
        self.inputs = tuple(a.name for a in arguments if "Array" in str(a.annotation))
        self.params = tuple(a.name for a in arguments if a.name not in self.inputs)
        sequences = [a for a in arguments if "Arrays" in str(a.annotation) or a.kind is Parameter.VAR_POSITIONAL]
        self.sequence = sequences[0].name if sequences else None
        self.rules = tuple(rules)
        if kind != "composite" and len(self.rules) != len(self.inputs):
            raise ArgumentError(
                f"op {self.name}: {len(self.rules)} rules for the inputs {', '.join(self.inputs) or '(none)'}; "
                "give one per input, None where there is no derivative"
            )
        self.pushes = tuple(pushes) if pushes is not None else (None,) * len(self.rules)
        self.differentiable = kind == "composite" or any(self.rules)
        self._lay_out()

    def _lay_out(self) -> None:
        """Fix which values an equation keeps, in which order, and how each rule picks its own."""
        wants = [
            {*(names_of(self.first) if rule else ()), *names_of(rule), *names_of(push)}
            for rule, push in zip(self.rules, self.pushes, strict=True)
        ]
        used = set().union(*wants) - _ENVIRONMENT
        self._places = {name: self._place(name) for name in used}
        unknown = [name for name, (place, _) in self._places.items() if not place]
        if unknown:
            raise ArgumentError(f"op {self.name}: a rule names {', '.join(sorted(unknown))}, which is no value of it")
        self.saves = sorted(used, key=self._places.__getitem__)
        self.extras = any(place > len(self.inputs) + 1 for place, _ in self._places.values())
        self._users = {name: [i for i, want in enumerate(wants) if name in want] for name in self.saves}
        kind = _Every if self.sequence else tuple
        self.bound_first = _bind(self.first, self.saves) if self.first else None
        self.bound_jacobian = _bind(self.jacobian, self.saves) if self.jacobian else None
        self.bound_rules = kind([_bind(rule, self.saves) if rule else None for rule in self.rules])
        self.bound_pushes = self.bound_rules
        if self.pushes != self.rules:
            self.bound_pushes = kind([_bind(push, self.saves) if push else None for push in self.pushes])

    def _place(self, name: str) -> tuple[int, str]:
        """The place of a value among all (see `keeper`; 0: nowhere), and which fact of it is meant."""
        known = ("", *self.inputs, "out", *self.params, "kept")
        base, _, what = name.rpartition("_")
        if what in ("shape", "dtype") and base in known[1 : len(self.inputs) + 2]:
            return known.index(base), what
        return (known.index(name), "") if name in known else (0, "")

    def keeper(self, tracked: Sequence[bool]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
        """A function from all values to those that the rules of tracked inputs name.

        All values are `(None, *inputs, out)` and, when `extras` is true, the parameters and `kept` after them.
        """
        picks = [self._places[name] if any(tracked[i] for i in self._users[name]) else (0, "") for name in self.saves]
        if not picks:
            return lambda values: ()
        if any(what for _, what in picks):
            fact = _fact_of_each if self.sequence else getattr
            return lambda values: tuple(
                [fact(values[place], what, None) if what else values[place] for place, what in picks]
            )
        return itemgetter(*[place for place, _ in picks], *([0] if len(picks) == 1 else []))

    def body_on(self, backend: Backend, ops: Any = None) -> Callable[..., Any]:
        """What runs this op on raw arrays of `backend`; a composite runs over `ops`."""
        run = self.unwrapped_on(backend, ops)
        for wrap in _wraps:
            run = wrap(self, backend, run)
        return run

    def unwrapped_on(self, backend: Backend, ops: Any = None) -> Callable[..., Any]:
        """`body_on`, that nobody watches."""
        forward = self._on_shapes if backend.absorbs and self.cost else self.forward
        plain = MethodType(forward, ops if self.kind == "composite" else backend.xp)  # `partial` takes longer
        run = backend.fused(self.name, plain)
        if self.is_elementwise:
            return backend.elementwise(len(self.inputs), run, lambda kind: getattr(UNWATCHED[kind], self.name))
        if self.batching is None:
            return run
        names = [a.name for a in self.arguments]
        return backend.by_rule(self.batching, names, self.inputs, run, UNWATCHED.__getitem__)

    def _on_shapes(self, xp: Any, *args: Any, **kwargs: Any) -> Any:
        """What runs instead of the body where there are no numbers, if `cost` says what the body does."""
        named = dict(zip([a.name for a in self.arguments], args, strict=False)) | kwargs
        specs, flops = self.cost(*args, **kwargs)  # type: ignore[misc]
        operands = [named[name] for name in self.inputs if hasattr(named.get(name), "dtype")]
        return xp.described(self.name, operands, specs, flops)

    def __repr__(self) -> str:
        return f"<op {self.name}({', '.join((*self.inputs, *self.params))})>"


def named(rule: Any, names: Sequence[str]) -> Any:
    """`rule` with `names` for its arguments, where its own code does not say them."""
    rule.names = names
    return rule


def names_of(rule: Any) -> Sequence[str]:
    """The argument names of a rule (of None, none); `inspect.signature` would take a third of `import pullback`."""
    if rule is None:
        return ()
    given: Sequence[str] | None = getattr(rule, "names", None)
    return given or rule.__code__.co_varnames[: rule.__code__.co_argcount]


def _bind(rule: Rule, saves: list[str]) -> BoundRule:
    """`rule` as a function of (xp, g, i, saved); `t` stands for `g`, `wanted` for `i`. Common forms are spelled out."""
    names = [{"t": "g", "wanted": "i"}.get(name, name) for name in names_of(rule)]
    places = [saves.index(name) for name in names if name not in _ENVIRONMENT]
    form = [name if name in _ENVIRONMENT else "v" for name in names]
    a, b = (*places, 0, 0)[:2]
    match form:
        case ["xp", "g", "v"] if hasattr(rule, "op"):  # a fused slope: the op itself is called
            name = rule.op
            return lambda xp, g, i, saved: getattr(xp, name)(g, saved[a])
        case ["g"]:
            return lambda xp, g, i, saved: rule(g)
        case ["g", "v"]:
            return lambda xp, g, i, saved: rule(g, saved[a])
        case ["xp", "g", "v"]:
            return lambda xp, g, i, saved: rule(xp, g, saved[a])
        case ["g", "v", "v"]:
            return lambda xp, g, i, saved: rule(g, saved[a], saved[b])
        case ["xp", "g"]:
            return lambda xp, g, i, saved: rule(xp, g)
        case ["xp", "g", "v", "v"]:
            return lambda xp, g, i, saved: rule(xp, g, saved[a], saved[b])
        case ["xp", "g", "i", "v", "v"]:
            return lambda xp, g, i, saved: rule(xp, g, i, saved[a], saved[b])
    all_names = ("xp", "g", "i", *saves)
    pick = itemgetter(*[all_names.index(name) for name in names])
    return lambda xp, g, i, saved: rule(*pick((xp, g, i, *saved)))


def _fact_of_each(value: Any, what: str, default: Any) -> Any:
    """The shape or dtype of an array; of a sequence of arrays, a tuple of theirs."""
    return tuple(getattr(v, what) for v in value) if isinstance(value, list | tuple) else getattr(value, what, default)


class _Every(tuple[Any, ...]):
    """The one rule of a sequence of inputs, at every position."""

    __slots__ = ()

    def __getitem__(self, position: Any) -> Any:
        return tuple.__getitem__(self, 0)


class _Bodies(dict[type, Callable[..., Any]]):
    """Array class -> the body of `op` on the backend that owns it.

    It refers to the op weakly: an op that is made for one call, as by `checkpoint`, is freed with its equation.
    """

    def __init__(self, op: Op) -> None:
        self._op = ref(op)

    def __missing__(self, kind: type) -> Callable[..., Any]:
        op: Any = self._op()
        wraps = _wraps[:]
        body = self[kind] = op.body_on(BACKENDS[kind])
        if wraps != _wraps:  # another thread changed them meanwhile: this body is not kept
            self.pop(kind, None)
        return body


OPS: dict[str, Op] = {}


class TensorOps:
    """The namespace of public ops over Tensors: what they do is recorded, so every order of derivative is free.

    `wrap(array, node)` makes a Tensor; `core.tensor`, which stands on this module, gives it.
    """

    wrap: Callable[[Any, Any], Any]

    def __getattr__(self, name: str) -> Any:
        try:
            call = OPS[name].call
        except KeyError:
            raise AttributeError(f"no op is called {name!r}") from None
        setattr(self, name, call)
        return call


class ArrayOps:
    """The namespace of the same ops over raw arrays of one backend: nothing is recorded, nothing is wrapped.

    Who watches bodies (see `wrapped_bodies`) is told of calls, unless it is not `watched`. An op that keeps something
    has what gives (out, kept) as its attribute `body`.
    """

    def __init__(self, backend: Backend, watched: bool = True) -> None:
        self.backend, self.watched = backend, watched

    def __getattr__(self, name: str) -> Any:
        try:
            op = OPS[name]
        except KeyError:
            raise AttributeError(f"no op is called {name!r}") from None
        wraps = _wraps[:]
        run: Any = (op.body_on if self.watched else op.unwrapped_on)(self.backend, self)
        function = _without_kept(run) if op.kept else run
        setattr(self, name, function)
        if wraps != _wraps:
            vars(self).pop(name, None)
        return function


def _without_kept(body: Callable[..., Any]) -> Any:
    """A body that gives (out, kept) as a function that gives `out`."""

    def function(*args: Any, **kwargs: Any) -> Any:
        return body(*args, **kwargs)[0]

    made: Any = function
    made.body = body
    return made


class _ArrayOpsByClass(dict[type, ArrayOps]):
    def __init__(self, watched: bool) -> None:
        self._watched = watched

    def __missing__(self, kind: type) -> ArrayOps:
        backend = BACKENDS[kind]
        ops = next((ops for ops in self.values() if ops.backend is backend), None) or ArrayOps(backend, self._watched)
        return self.setdefault(kind, ops)


TENSORS = TensorOps()
ARRAYS = _ArrayOpsByClass(watched=True)
UNWATCHED = _ArrayOpsByClass(watched=False)

_wraps: list[Callable[[Op, Backend, Callable[..., Any]], Callable[..., Any]]] = []


@contextmanager
def wrapped_bodies(wrap: Callable[[Op, Backend, Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """A context in which `wrap(op, backend, body)` is what runs an op on raw arrays, in all threads.

    Outside of it bodies run bare: whoever measures costs nothing when nobody measures.
    """
    _wraps.append(wrap)
    _forget_bodies()
    try:
        yield
    finally:
        _wraps.remove(wrap)
        _forget_bodies()


def _forget_bodies() -> None:
    """Bodies are bound anew when they are next asked for."""
    for op in OPS.values():
        op.bodies.clear()
    for ops in ARRAYS.values():
        for name in OPS:
            vars(ops).pop(name, None)
