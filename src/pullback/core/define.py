"""Second floor: the ways to define an op, each from one block: `@elementwise`, `@op` and `@composite`.

    @elementwise(lambda g, out: g * (1.0 - out * out), domain=(-2, 2))
    def tanh(xp, x: Array):
        '''Hyperbolic tangent of `x`, elementwise.'''
        return xp.tanh(x)

The decorated name is the public function over Tensors; `OPS["tanh"]` holds the record. Of the arguments of a body,
those annotated `Array` (or `Arrays`, a sequence) are inputs, the others are parameters. In a body `xp` is the backend's
native namespace; in a rule, and in the body of a composite, it is the namespace of ops, over raw arrays or over
Tensors.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from inspect import Parameter, Signature, signature
from itertools import product
from types import FunctionType
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

import numpy as np

from ..backends import backend_for
from ..errors import ArgumentError
from .doors import door
from .op import OPS, Array, Arrays, Op, Rule, Sample, named, names_of
from .tensor import Tensor

__all__ = ["Array", "Arrays", "Sample", "all_samples", "composite", "elementwise", "op"]

P = ParamSpec("P")
R = TypeVar("R")
Body = Callable[Concatenate[Any, P], Any]
Cost = Callable[..., tuple[Any, int]]
Samples = Callable[["np.random.Generator"], Any]  # quoted: NumPy imports `random` when it is first named


def elementwise(
    *rules: Rule | None,
    domain: tuple[float, float] | Sequence[tuple[float, float]] = (-2.0, 2.0),
    samples: Samples | None = None,
    standard: bool = True,
    fused: bool = False,
    cost: Cost | None = None,
) -> Callable[[Body[P]], Callable[P, Tensor]]:
    """Define an op that works number by number, with broadcasting: `vmap` runs it on arrays with one more axis.

    Args:
        rules: For each input the product of `g` with the partial derivative: the map is diagonal, so the same text is
            the VJP and the JVP. None for an input without a derivative.
        domain: Where samples are drawn, one interval for all inputs or one each.
        samples: Replaces the generated samples.
        standard: False when the body needs more than the array API standard.
        fused: Makes the rule of an op of one input an op too, `<name>_slope`, which a backend may run in one kernel. It
            is a composite: derivatives of every order go through the formula. The rule takes `xp` first.
        cost: As in `op`.
    """

    def decorate(forward: Body[P]) -> Callable[P, Tensor]:
        slopes = [_slope(forward, rules[0], standard)] if fused and rules[0] else rules
        made = Op(forward, "elementwise", slopes, slopes, standard=standard, cost=cost)
        made.samples = samples or partial(_elementwise_samples, len(made.inputs), domain)
        return _publish(made, door(made))

    return decorate


@overload
def op(
    *rules: Rule | None,
    outputs: None = None,
    jvp: Any = None,
    samples: Samples | None = None,
    kept: str | None = None,
    first: Rule | None = None,
    view: bool = False,
    standard: bool = True,
    promotes: bool = False,
    cost: Cost | None = None,
    formula: Callable[..., Any] | None = None,
    jacobian: Rule | None = None,
    batching: Callable[..., Any] | None = None,
) -> Callable[[Body[P]], Callable[P, Tensor]]: ...
@overload
def op(
    *rules: Rule | None,
    outputs: tuple[str, ...],
    jvp: Any = None,
    samples: Samples | None = None,
    kept: str | None = None,
    first: Rule | None = None,
    view: bool = False,
    standard: bool = True,
    promotes: bool = False,
    cost: Cost | None = None,
    formula: Callable[..., Any] | None = None,
    jacobian: Rule | None = None,
    batching: Callable[..., Any] | None = None,
) -> Callable[[Body[P]], Callable[P, tuple[Tensor, ...]]]: ...
def op(
    *rules: Rule | None,
    outputs: tuple[str, ...] | None = None,
    jvp: Any = None,
    samples: Samples | None = None,
    kept: str | None = None,
    first: Rule | None = None,
    view: bool = False,
    standard: bool = True,
    promotes: bool = False,
    cost: Cost | None = None,
    formula: Callable[..., Any] | None = None,
    jacobian: Rule | None = None,
    batching: Callable[..., Any] | None = None,
) -> Any:
    """Define an op from its body and its rules.

    Args:
        rules: One VJP rule per input (None: no derivative). For a sequence of inputs one rule, called for each tracked
            position `i`. With several outputs, `g` is the tuple of their cotangents.
        outputs: Names of the outputs, when the body returns a tuple of arrays.
        jvp: One JVP rule per input; or "linear" when the op is linear in its only input; or None, and the VJP is
            transposed.
        samples: A function of a `numpy.random.Generator` that yields `Sample`s. Every differentiable op has it.
        kept: The name of an op of the first input whose value the body has anyway: the body returns (out, kept).
        first: What is done to the cotangent once for all inputs; their VJP rules get its value as `g`.
        view: Whether the output may share the buffer of an input.
        standard: False when the body needs more than the array API standard.
        promotes: Whether integers beside floating-point inputs take their dtype, as in elementwise ops.
        cost: What a body that calls functions without a known cost does. It takes the arguments of the op, arrays
            without numbers for its inputs, and gives ((shape, dtype) of the value, a list of them for several outputs,
            floating-point operations). The body of every other op is its own formula: see `pb.cost`.
        formula: What `pb.explain` writes for the op where other rules call it: a body over other ops, or None where
            there is none for these parameters. Without it the op is written as a call.
        jacobian: For an op of a vector, the Jacobian by its first input where that is had for no more than writing it:
            a rule of saved values that gives (scale, matrix) where it is diag(scale) matrix, and (None, matrix) where
            it is the matrix; `g` is what `first` makes of ones.
        batching: How the op is done for many examples in one call, for an op that vmap would take many calls for. The
            rule takes the arguments of the body; `xp` is the namespace of ops, and all arrays have examples along their
            first axis. It gives what the body gives, with examples, or None where it does not take such arguments. What
            an op gives and keeps is `xp.<name>.body(...)`.
    """

    def decorate(forward: Any) -> Any:
        pushes = (jvp,) if callable(jvp) else jvp
        if jvp == "linear":
            pushes = (_linear_push(forward),)
        made = Op(
            forward, "op", rules, pushes,
            outputs=outputs or (), kept=kept, first=first, is_view=view, standard=standard, samples=samples,
            promotes=promotes, cost=cost, formula=formula, jacobian=jacobian, batching=batching,
        )  # fmt: skip
        return _publish(made, door(made))

    return decorate


def composite(
    samples: Samples | None = None, standard: bool = True, batching: Callable[..., Any] | None = None
) -> Callable[[Callable[Concatenate[Any, P], R]], Callable[P, R]]:
    """Define an op as a body over other ops; its derivatives are theirs, by the chain rule. Arguments as in `op`."""

    def decorate(forward: Callable[Concatenate[Any, P], R]) -> Callable[P, R]:
        made = Op(forward, "composite", samples=samples, standard=standard, batching=batching)
        return _publish(made, door(made))

    return decorate


def _publish(made: Op, call: Any) -> Any:
    """Enter an op into the table and dress its public function."""
    if made.name in OPS:
        raise ArgumentError(f"op {made.name!r} is already defined; give the new one another name")
    if not made.forward.__doc__:
        raise ArgumentError(f"op {made.name!r} has no docstring; it is the documentation users see")
    if made.cost is None and not made.forward.__module__.startswith(__package__.partition(".")[0] + "."):
        _refuse_unknown_cost(made)  # of our own ops tests see to it

    for attribute in ("__name__", "__qualname__", "__doc__", "__module__"):
        setattr(call, attribute, getattr(made.forward, attribute))
    call.__signature__ = Signature(made.arguments, return_annotation=made.forward.__annotations__.get("return"))
    call.op = made
    made.call = call
    OPS[made.name] = made
    if made.forward.__qualname__ == made.name:  # pickle looks there, and no statement binds an op made from another
        made.forward.__globals__.setdefault(made.name, call)
    return call


def _refuse_unknown_cost(made: Op) -> None:
    """Raise ArgumentError for a body that calls native functions of which nobody knows what they cost."""
    known: Any = backend_for("meta").xp
    native: Any = backend_for("cpu").xp
    names = set(made.forward.__code__.co_names)
    spaces = [(native, known), *([(native.linalg, known.linalg)] if "linalg" in names else [])]
    for name, (space, ours) in product(sorted(names), spaces):
        if made.kind != "composite" and name in vars(space) and name not in vars(ours):
            raise ArgumentError(f"op {made.name!r}: nobody knows what xp.{name} costs; give the op its cost=")


def _slope(forward: Any, rule: Any, standard: bool) -> Rule:
    """Publish the rule of `forward` as the op `<name>_slope`, and give the rule that calls it."""
    arguments, (_, g, value, *params) = signature(forward).parameters, names_of(rule)
    name = f"{forward.__name__}_slope"
    defaults = tuple(arguments[n].default for n in params)
    body = FunctionType(rule.__code__, rule.__globals__, name, defaults, rule.__closure__)
    kind, reads = Parameter.POSITIONAL_OR_KEYWORD, "argument" if value in arguments else "value"
    inputs = [Parameter("xp", kind)] + [Parameter(n, kind, annotation=Array) for n in (g, value)]
    body.__signature__ = Signature([*inputs, *(arguments[n] for n in params)])  # type: ignore[attr-defined]
    body.__qualname__, body.__module__ = name, forward.__module__
    body.__doc__ = f"`g` times the derivative of `{forward.__name__}` where its {reads} is `{value}`, elementwise."

    def samples(rng: "np.random.Generator") -> Iterator[Sample]:
        for sample in all_samples(OPS[forward.__name__]):
            yield Sample((rng.normal(size=sample.args[0].shape), *sample.args), sample.kwargs)

    made = Op(body, "composite", samples=samples, standard=standard, is_elementwise=True)
    _publish(made, door(made))

    def fused(xp: Any, *values: Any) -> Any:
        return getattr(xp, name)(*values)

    fused.op = name  # type: ignore[attr-defined]
    return named(fused, names_of(rule))


def _linear_push(forward: Any) -> Rule:
    """The JVP rule of an op that is linear in its first argument: the op itself, with the same parameters."""
    names = list(signature(forward).parameters)[2:]
    name = forward.__name__

    def push(xp: Any, t: Any, *params: Any) -> Any:
        return getattr(xp, name)(t, **dict(zip(names, params, strict=True)))

    return named(push, ["xp", "t", *names])


def _elementwise_samples(arity: int, domain: Any, rng: Any) -> Iterator[Sample]:
    """One shape of each kind of broadcasting."""
    domains = domain if isinstance(domain[0], Sequence) else [domain] * arity
    shapes: dict[int, Any] = {1: [((),), ((3,),), ((2, 3),)], 2: [((2, 3), (3,)), ((), (2,)), ((2, 1), (1, 3))]}
    for shape in shapes.get(arity, [((2, 3),) * arity, ((2, 1), *((1, 3),) * (arity - 1))]):
        yield Sample(tuple(np.asarray(rng.uniform(*d, size=s)) for s, d in zip(shape, domains, strict=True)))


def all_samples(op: Op, seed: int = 0) -> list[Sample]:
    """The samples of an op, always the same for a seed."""
    if op.samples is None:
        return []
    return list(op.samples(np.random.default_rng(seed)))
