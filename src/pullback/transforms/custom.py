"""Functions with derivative rules written by the user."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np

from .. import trees
from ..backends import is_floating
from ..core.op import TENSORS
from ..core.recording import enable_recording, no_grad, recording
from ..core.tensor import Tensor, asarray
from ..errors import ArgumentError, RuleError
from .packed import record_function
from .trace import require_function, zeros_like

__all__ = ["custom_rule"]


def custom_rule(
    f: Callable[..., Any],
    vjp: Callable[..., Any] | None = None,
    jvp: Callable[..., Any] | None = None,
    example: Sequence[Any] | None = None,
) -> Callable[..., Any]:
    """`f` with derivative rules of your own, in place of the chain rule through its body.

    Args:
        f: A function of tensors to a tensor or a tuple of tensors. What it does inside is not recorded, so a recorded
            tensor that it closes over would get no gradient: that is refused at the first call.
        vjp: `vjp(cotangent, out, *primals)`, a tuple of one cotangent (or None for zero) per primal. `cotangent` and
            `out` are tensors, or tuples of tensors if f gives a tuple.
        jvp: `jvp(tangents, out, *primals)`, the tangent of `out`; `tangents` holds one tensor per primal. Without it
            the VJP is transposed; without `vjp` the reverse mode raises RuleError.
        example: Primals at which both rules are compared now. Without it they are compared at the first call.

    Both rules are written with ops of pullback, so that higher derivatives follow from them. When both are given, they
    must be transposes: <u, jvp(t)> = <vjp(u), t> is checked for random u and t.

    Raises:
        RuleError: the rules disagree, one returns the wrong number of results or a wrong shape, f closes over a
            recorded tensor or returns something else than tensors.
        ArgumentError: no rule is given. DtypeError: f is no function.
    """
    require_function("custom_rule", f)
    if vjp is None and jvp is None:
        raise ArgumentError("custom_rule: give vjp=, jvp= or both")
    name = getattr(f, "__name__", "custom_rule")
    unchecked = [True]

    def run(constants: Sequence[Tensor]) -> tuple[Any, Any]:
        """The value of f, as a tree of constants, and its form; at the first time f and its rules are looked at."""
        with enable_recording() if unchecked[0] else no_grad():
            out = f(*constants)
        leaves, spec = trees.flatten(out)
        if not all(isinstance(x, Tensor) for x in leaves):
            raise RuleError(f"{name}: a function with rules returns a tensor or a tuple of tensors")
        if unchecked[0]:
            if any(x.node is not None for x in leaves):
                raise RuleError(
                    f"{name}: a function with rules closes over a recorded tensor, which would get no gradient; "
                    "pass it as an argument, or detach it"
                )
            if vjp is not None and jvp is not None:
                _compare(_Rules(name, vjp, jvp, constants, spec), leaves)
            unchecked[0] = False
        return trees.unflatten(spec, [Tensor(x.data) for x in leaves]), spec

    @wraps(f)
    def ruled(*args: Any) -> Any:
        primals = [Tensor(x.data, x.node) if isinstance(x, Tensor) else asarray(x) for x in args]
        out, spec = run([Tensor(x.data) for x in primals])
        if not recording() or all(x.node is None for x in primals):
            return out
        rules = _Rules(name, vjp, jvp, primals, spec)
        return record_function(
            name, [x.node for x in primals], out, rules.pull if vjp else None, rules.push if jvp else None
        )

    if example is not None:
        run([Tensor(asarray(x).data) for x in example])
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
            zeros_like(x) if t is None else t if higher else Tensor(t)
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


def _compare(rules: _Rules, out: Sequence[Tensor]) -> None:
    """Refuse rules that are not transposes of each other: <u, J t> = <J' u, t> for random u and t."""
    rng = np.random.default_rng(0)
    u, t = (
        [asarray(rng.standard_normal(x.shape), dtype=x.dtype, device=x.device) for x in xs]
        for xs in (out, rules.primals)
    )
    values = [x.data for x in out]
    pushed, pulled = rules.push(None, [x.data for x in t], values), rules.pull(None, [x.data for x in u], values)
    sides = []
    for given, found in ((u, pushed), (t, pulled)):
        pairs = [(a.numpy(), Tensor(b).numpy()) for a, b in zip(given, found, strict=True) if b is not None]
        sides.append(np.concatenate([[0.0], *(np.ravel(a.astype(np.float64) * b) for a, b in pairs)]))
    forward, backward = (float(np.sum(side)) for side in sides)
    scale = sum(float(np.sum(np.abs(side))) for side in sides) + 1e-30
    floating = [x.dtype for x in (*out, *rules.primals) if is_floating(x.dtype)]
    precision = max((float(np.finfo(dtype).eps) for dtype in floating), default=0.0)
    if not abs(forward - backward) <= 100 * precision * scale:
        raise RuleError(
            f"{rules.name}: its jvp and vjp are not transposes of each other: <u, jvp(t)> = {forward:.9g} but "
            f"<vjp(u), t> = {backward:.9g} for random u and t; one of them is wrong"
        )
