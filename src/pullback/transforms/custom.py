"""Functions with derivative rules written by the user."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np

from .. import trees
from ..core.op import TENSORS
from ..core.tape import no_grad, recording
from ..core.tensor import Tensor, asarray
from ..errors import ArgumentError, RuleError
from .packed import record_function
from .trace import require_function

__all__ = ["custom_rule"]


def custom_rule(
    f: Callable[..., Any],
    vjp: Callable[..., Any] | None = None,
    jvp: Callable[..., Any] | None = None,
    example: Sequence[Any] | None = None,
) -> Callable[..., Any]:
    """`f` with derivative rules of your own, in place of the chain rule through its body.

    Args:
        f: A function of tensors to a tensor or a tuple of tensors. What it does inside is not recorded.
        vjp: `vjp(cotangent, out, *primals)`, a tuple of one cotangent (or None for zero) per primal. `cotangent` and
            `out` are tensors, or tuples of tensors if f gives a tuple.
        jvp: `jvp(tangents, out, *primals)`, the tangent of `out`; `tangents` holds one tensor per primal. Without it
            the VJP is transposed; without `vjp` the reverse mode raises RuleError.
        example: Primals at which both rules are compared now. Without it they are compared at the first call.

    Both rules are written with ops of pullback, so that higher derivatives follow from them. When both are given, they
    must be transposes: <u, jvp(t)> = <vjp(u), t> is checked for random u and t.

    Raises:
        RuleError: the rules disagree, or one returns the wrong number of results or a wrong shape.
        ArgumentError: no rule is given.
    """
    require_function("custom_rule", f)
    if vjp is None and jvp is None:
        raise ArgumentError("custom_rule: give vjp=, jvp= or both")
    name = getattr(f, "__name__", "custom_rule")
    unchecked = [vjp is not None and jvp is not None]

    def check(primals: Sequence[Tensor]) -> None:
        unchecked[0] = False
        try:
            _compare(name, f, vjp, jvp, primals)
        except BaseException:
            unchecked[0] = True
            raise

    @wraps(f)
    def ruled(*args: Any) -> Any:
        primals = [Tensor(x.data, x.node) if isinstance(x, Tensor) else asarray(x) for x in args]
        constants = [Tensor(x.data) for x in primals]
        if unchecked[0]:
            check(constants)
        with no_grad():
            out = f(*constants)
        leaves, spec = trees.flatten(out)
        if not all(isinstance(x, Tensor) for x in leaves):
            raise RuleError(f"{name}: a function with rules returns a tensor or a tuple of tensors")
        out = trees.map(lambda x: Tensor(x.data), out)
        if not recording() or all(x.node is None for x in primals):
            return out
        rules = _Rules(name, vjp, jvp, primals, spec)
        return record_function(
            name, [x.node for x in primals], out, rules.pull if vjp else None, rules.push if jvp else None
        )

    if example is not None and unchecked[0]:
        check([Tensor(asarray(x).data) for x in example])
    return ruled


class _Rules:
    """The user's two rules, over raw arrays (nothing is recorded) or over Tensors."""

    def __init__(self, name: str, vjp: Any, jvp: Any, primals: Sequence[Tensor], spec: Any) -> None:
        self.name, self.vjp, self.jvp, self.primals, self.spec = name, vjp, jvp, primals, spec

    def pull(self, xp: Any, cotangents: Sequence[Any], values: Sequence[Any]) -> list[Any]:
        found = self._run(xp, lambda g, out, primals: self.vjp(g, out, *primals), cotangents, values)
        found = found if isinstance(found, tuple | list) else (found,)
        return self._checked(xp, "vjp", "primals", found, [x.data for x in self.primals])

    def push(self, xp: Any, tangents: Sequence[Any], values: Sequence[Any]) -> list[Any]:
        higher = xp is TENSORS
        full = [
            Tensor(np.zeros(x.shape, x.dtype)) if t is None else t if higher else Tensor(t)
            for t, x in zip(tangents, self.primals, strict=True)
        ]
        found = self._run(
            xp, lambda _, out, primals: self.jvp(tuple(full), out, *primals), (None,) * len(values), values
        )
        raw = [getattr(v, "data", v) if higher else v for v in values]
        return self._checked(xp, "jvp", "outputs", trees.flatten(found)[0], raw)

    def _run(self, xp: Any, rule: Any, entries: Sequence[Any], values: Sequence[Any]) -> Any:
        if xp is TENSORS:
            return rule(
                trees.unflatten(self.spec, list(entries)), trees.unflatten(self.spec, list(values)), self.primals
            )
        wrapped = [g if g is None else Tensor(g) for g in entries]
        with no_grad():
            primals = [Tensor(x.data) for x in self.primals]
            return rule(
                trees.unflatten(self.spec, wrapped), trees.unflatten(self.spec, [Tensor(v) for v in values]), primals
            )

    def _checked(self, xp: Any, rule: str, what: str, found: Sequence[Any], like: Sequence[Any]) -> list[Any]:
        if len(found) != len(like):
            raise RuleError(f"{self.name}: its {rule} gave {len(found)} results for {len(like)} {what}")
        made = []
        for k, (x, v) in enumerate(zip(found, like, strict=True)):
            if x is not None:
                x = x if isinstance(x, Tensor) else asarray(x)
                if x.shape != tuple(v.shape):
                    raise RuleError(
                        f"{self.name}: its {rule} gave shape {x.shape} for {what}[{k}] of shape {tuple(v.shape)}"
                    )
                x = x.astype(v.dtype)
            made.append(x if x is None or xp is TENSORS else x.data)
        return made


def _compare(name: str, f: Any, vjp: Any, jvp: Any, primals: Sequence[Tensor]) -> None:
    """Refuse rules that are not transposes of each other: <u, J t> = <J' u, t> for random u and t."""
    rng = np.random.default_rng(0)
    with no_grad():
        out = f(*primals)
        leaves, spec = trees.flatten(out)
        u, t = (
            [asarray(rng.standard_normal(x.shape), dtype=x.dtype, device=x.device) for x in xs]
            for xs in (leaves, primals)
        )
        rules = _Rules(name, vjp, jvp, primals, spec)
        pushed = rules.push(None, [x.data for x in t], [x.data for x in leaves])
        pulled = rules.pull(None, [x.data for x in u], [x.data for x in leaves])
    left = [(a.numpy(), Tensor(b).numpy()) for a, b in zip(u, pushed, strict=True) if b is not None]
    right = [(a.numpy(), Tensor(b).numpy()) for a, b in zip(t, pulled, strict=True) if b is not None]
    forward, backward = (sum(float(np.vdot(a, b)) for a, b in pairs) for pairs in (left, right))
    scale = sum(float(np.sum(np.abs(a * b))) for a, b in (*left, *right)) + 1e-30
    precision = max(float(np.finfo(x.dtype).eps) for x in (*leaves, *primals) if x.dtype.kind == "f")
    if not abs(forward - backward) <= 100 * precision * scale:
        raise RuleError(
            f"{name}: its jvp and vjp are not transposes of each other: <u, jvp(t)> = {forward:.9g} but "
            f"<vjp(u), t> = {backward:.9g} for random u and t; one of them is wrong"
        )
