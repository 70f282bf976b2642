"""`check_gradients`: both modes of a function against finite differences, and a search for the op that is wrong."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import trees
from ..backends import BACKENDS, is_floating
from ..core.recording import observe
from ..core.tape import Equation, pull, push
from ..core.tensor import Tensor, asarray
from ..errors import ArgumentError, DtypeError, GradientCheckError
from ..transforms.forward import jvp
from ..transforms.reverse import vjp
from ..transforms.trace import Trace, require_function

__all__ = ["check_gradients"]


def check_gradients(
    f: Callable[..., Any],
    *args: Any,
    order: int = 2,
    step: float | None = None,
    tolerance: float | None = None,
    seed: int = 0,
) -> None:
    """Compare the JVP and the VJP of `f` at `args` with central differences, up to derivatives of `order`.

    One random direction is pushed and one random cotangent is pulled, so the cost is a few runs of f whatever the
    number of arguments. When they disagree, every number of the arguments is looked at, and every equation of the
    tape, to say where.

    Args:
        f: A function of trees of floating-point tensors to a tree of tensors.
        order: 1 checks f, 2 also its gradient, and so on.
        step: Half the width of the difference; from the dtype by default: eps^(1/3) times the scale of the
            arguments, which balances truncation against rounding.
        tolerance: Of the relative error; from the dtype by default: 50 eps^(2/3) for the first order, ten times more
            for each order above. Differences of float32 carry 2e-3 at best: prefer float64 arguments.
        seed: Of the random direction and cotangent.

    Raises:
        GradientCheckError: they disagree. It names the argument, the index, both numbers, the op whose rule is wrong
            if one can be singled out, and a likely cause.
        ArgumentError: `order` is below 1, or there is nothing to check.
        DtypeError: an argument is not of floating point, or f is no function.
    """
    require_function("check_gradients", f)
    leaves, spec = trees.flatten(args)
    primals = [np.asarray(x.numpy() if isinstance(x, Tensor) else asarray(x).numpy()) for x in leaves]
    if order < 1 or not primals:
        raise ArgumentError("check_gradients: order is at least 1, and there is at least one argument")
    for x in primals:
        if not is_floating(x.dtype):
            raise DtypeError(f"check_gradients: an argument holds {x.dtype}; differences need floating-point numbers")
    devices = [x.device if isinstance(x, Tensor) else None for x in leaves]

    def flat(*xs: Any) -> tuple[Any, ...]:
        out = f(*trees.unflatten(spec, list(xs)))
        return tuple(x for x in trees.flatten(out)[0] if isinstance(x, Tensor) and is_floating(x.dtype))

    eps = max(float(np.finfo(x.dtype).eps) for x in primals)
    check = _Check(flat, primals, devices, spec, step, tolerance, eps, seed)
    check.run(order)


@dataclass
class _Check:
    """One comparison: a function of flat arrays, its point, and what counts as equal."""

    f: Callable[..., tuple[Any, ...]]
    primals: list[np.ndarray]
    devices: Sequence[str | None]
    spec: Any
    step: float | None
    tolerance: float | None
    eps: float
    seed: int
    level: int = 1

    def run(self, order: int) -> None:
        rng = np.random.default_rng(self.seed + self.level)
        direction = [rng.standard_normal(x.shape).astype(x.dtype) for x in self.primals]
        differences = self.differences(direction)
        if not differences:
            raise ArgumentError("check_gradients: the function returns no floating-point tensor")
        pushed = [t.numpy() for t in jvp(self.f, self.tensors(self.primals), self.tensors(direction))[1]]
        out, back = vjp(self.f, *self.tensors(self.primals))
        cotangents = [rng.standard_normal(x.shape) for x in out]
        weights = tuple(asarray(u, dtype=x.dtype, device=x.device) for u, x in zip(cotangents, out, strict=True))
        pulled = [g.numpy() for g in back(weights)]
        expected = _inner(cotangents, differences)
        scale = _inner(map(np.abs, cotangents), map(np.abs, differences)) + _scale(self.primals)
        scale += _inner(map(np.abs, pulled), map(np.abs, direction))
        limit = (self.tolerance or 50 * self.eps ** (2 / 3) * 10 ** (self.level - 1)) * scale
        for mode, found in (("JVP", _inner(cotangents, pushed)), ("VJP", _inner(pulled, direction))):
            if not abs(found - expected) <= limit:
                reason = self.unsettled(direction, differences)
                raise GradientCheckError(self.report(mode, pulled, cotangents, found, expected, limit, reason))
        if order > 1:
            self.deeper(weights).run(order - 1)

    def deeper(self, weights: tuple[Any, ...]) -> "_Check":
        """The same for the gradient of <weights, f>."""

        def gradient(*xs: Any) -> tuple[Any, ...]:
            found: tuple[Any, ...] = vjp(self.f, *xs)[1](weights)
            return found

        return _Check(
            gradient,
            self.primals,
            self.devices,
            self.spec,
            self.step,
            self.tolerance,
            self.eps,
            self.seed,
            self.level + 1,
        )

    def tensors(self, arrays: Sequence[np.ndarray]) -> list[Tensor]:
        return [asarray(x, device=device) for x, device in zip(arrays, self.devices, strict=True)]

    def values(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [x.numpy().astype(np.float64) for x in self.f(*self.tensors(arrays))]

    def differences(self, direction: Sequence[np.ndarray], shrink: float = 1.0) -> list[np.ndarray]:
        """Central difference of f along `direction`, with a step `shrink` times shorter."""
        size = max((float(np.max(np.abs(d), initial=0.0)) for d in direction), default=1.0) or 1.0
        h = (self.step or self.eps ** (1 / 3) * _scale(self.primals)) / (size * shrink)
        ahead = self.values([(x + h * d).astype(x.dtype) for x, d in zip(self.primals, direction, strict=True)])
        behind = self.values([(x - h * d).astype(x.dtype) for x, d in zip(self.primals, direction, strict=True)])
        return [(a - b) / (2 * h) for a, b in zip(ahead, behind, strict=True)]

    def unsettled(self, direction: Sequence[np.ndarray], differences: Sequence[np.ndarray]) -> str:
        """Why the differences do not settle as the step shrinks, in words; '' if they do."""
        closer = self.differences(direction, shrink=4.0)
        change = sum(float(np.sum(np.abs(a - b))) for a, b in zip(closer, differences, strict=True))
        if not change > 0.25 * sum(float(np.sum(np.abs(a))) for a in (*closer, *differences)):
            return ""
        return (
            "the differences do not settle as their step shrinks: the function has a kink or a jump near this point, "
            "or differs from run to run"
        )

    def report(
        self,
        mode: str,
        pulled: Sequence[np.ndarray],
        cotangents: Sequence[Any],
        found: float,
        expected: float,
        limit: float,
        reason: str,
    ) -> str:
        """Where the derivatives disagree most, which op it comes from, and why it may be."""
        worst = (-1.0, "", 0.0, 0.0)
        for k, x in enumerate(self.primals):
            for index in np.ndindex(x.shape):
                unit = [np.zeros_like(p) for p in self.primals]
                unit[k][index] = 1
                slope = _inner(cotangents, self.differences(unit))
                off = abs(float(pulled[k][index]) - slope)
                if not off <= worst[0]:
                    name = f"{self.name(k)}{list(index) if index else ''}"
                    worst = (off, name, float(pulled[k][index]), slope)
        lines = [
            f"check_gradients: the {mode} disagrees with central differences (order {self.level}): "
            f"{found:.9g} against {expected:.9g}, allowed difference {limit:.3g}"
        ]
        if mode == "VJP" or worst[0] > limit:
            lines.append(f"worst at {worst[1]}: derivative {worst[2]:.9g}, difference {worst[3]:.9g}")
        lines.append(reason or self.culprit() or self.cause(worst[2], worst[3]))
        return "; ".join(lines)

    def name(self, position: int) -> str:
        """The argument that leaf `position` belongs to, such as `argument 0.weight`."""
        path = self.spec.paths()[position]
        return f"argument {'.'.join(map(str, path))}"

    def culprit(self) -> str:
        """The first equation whose rules disagree with differences of its own value, in words; '' if none does."""
        rng = np.random.default_rng(self.seed)
        direction = [rng.standard_normal(x.shape).astype(x.dtype) for x in self.primals]
        h = self.eps ** (1 / 3) * _scale(self.primals)
        runs = [self.recorded([(x + s * h * d).astype(x.dtype) for x, d in zip(self.primals, direction, strict=True)])
                for s in (0.0, 1.0, -1.0)]  # fmt: skip
        (trace, here), (_, ahead), (_, behind) = runs
        if [e.op.name for e, _ in here] != [e.op.name for e, _ in ahead] or len(here) != len(behind):
            return "the function takes different branches near this point, so it is not smooth there"
        ends = zip(trace.ends, trace.flat_heads, direction, strict=True)
        with trace.walking():
            tangents = {end: _array_like(head.data, d) for end, head, d in ends}
            return self.first_wrong(zip(here, ahead, behind, strict=True), h, tangents)

    def first_wrong(self, equations: Iterable[Any], h: float, tangents: dict[Any, Any]) -> str:
        """The first of equations, each with its values at the point, ahead and behind, that disagrees with them."""
        for number, ((e, value), (_, a), (_, b)) in enumerate(equations, 1):
            known = {n: tangents[n] for n in e.parents if n in tangents}
            if e.op.outputs or not known:
                continue
            where = f"op {e.op.name} (equation {number} of the tape)"
            difference = (_host(a) - _host(b)) / (2 * h)
            scale = 1 + float(np.max(np.abs(difference), initial=0.0)) + _scale([_host(value)])
            bend = float(np.max(np.abs(_host(a) - 2 * _host(value) + _host(b)), initial=0.0)) / h
            if bend > 100 * self.eps ** (1 / 3) * scale:
                return f"{where} has a kink at this point: move away from it"
            push([e], known)
            error = float(np.max(np.abs(_host(known[e]) - difference), initial=0.0)) if e in known else np.inf
            if error > 50 * self.eps ** (2 / 3) * scale:
                cut = ", or an input of it that is cut from the tape (detach, numpy)" if None in e.parents else ""
                return f"the likely cause is the JVP rule of {where}{cut}"
            wrong = self.untransposed(e, tangents)
            if wrong:
                return f"the likely cause is the VJP rule for input {wrong} of {where}"
            tangents[e] = _array_like(value, difference)
        return ""

    def recorded(self, arrays: Sequence[np.ndarray]) -> tuple[Trace, list[tuple[Equation, Any]]]:
        """A run of f with every equation and its value."""
        seen: list[tuple[Equation, Any]] = []
        with observe(lambda e, _, value: seen.append((e, value))):
            trace = Trace("check_gradients", self.f, self.tensors(arrays))
        return trace, seen

    def untransposed(self, e: Equation, tangents: dict[Any, Any]) -> str:
        """The first input for which <u, J t> is not <J' u, t> at this equation; '' when there is none."""
        rng = np.random.default_rng(self.seed)
        for i, n in enumerate(e.parents):
            if n not in tangents:
                continue
            known = {n: tangents[n]}
            push([e], known)
            u = rng.standard_normal(_host(known[e]).shape)
            found: dict[Any, Any] = {e: _array_like(known[e], u)}
            pull([e], found)
            pushed, pulled = u * _host(known[e]), _host(found[n]) * _host(tangents[n])
            scale = float(np.sum(np.abs(pushed)) + np.sum(np.abs(pulled))) + 1
            if abs(float(np.sum(pushed) - np.sum(pulled))) > 1000 * self.eps * scale:
                return e.op.inputs[min(i, len(e.op.inputs) - 1)]
        return ""

    @staticmethod
    def cause(derivative: float, difference: float) -> str:
        """A guess from the two numbers, when no single rule is wrong."""
        if not np.isfinite(derivative) or not np.isfinite(difference):
            return "a value is not finite here: move the point away from the singularity"
        if derivative == 0 and difference != 0:
            return "the derivative is zero: something cuts the tape (detach, numpy, a mask) or the op has no derivative"
        if difference != 0 and abs(derivative / difference + 1) < 1e-3:
            return "the sign is reversed"
        if difference != 0 and abs(derivative / difference - round(derivative / difference)) < 1e-3:
            return f"off by a factor of {derivative / difference:.3g}: a sum counted too often, or a missing one"
        return "no single rule is wrong: the function may have a kink near this point, or differ from run to run"


def _host(x: Any) -> np.ndarray:
    return np.asarray(Tensor(x).numpy(), dtype=np.float64)


def _array_like(array: Any, values: np.ndarray) -> Any:
    backend = BACKENDS[array.__class__]
    return backend.asarray(values, dtype=array.dtype, device=backend.device_of(array))


def _inner(left: Any, right: Any) -> float:
    return float(sum(float(np.vdot(a, b)) for a, b in zip(left, right, strict=True)))


def _scale(arrays: Sequence[np.ndarray]) -> float:
    return max(1.0, *(float(np.max(np.abs(x), initial=0.0)) for x in arrays)) if arrays else 1.0
