"""Losses of pairs of numbers: one op each, from predictions and targets to one number, without overflow anywhere.

`reduction` is "mean" (the default), "sum", or "none" for the losses one by one. The mean of no losses is 0, with a zero
gradient: a batch whose rows are all ignored moves nothing. Sums of float16 numbers are accumulated in float32.
"""

from collections.abc import Callable, Sequence
from inspect import Parameter, Signature, signature
from math import isnan, prod
from typing import Any, Concatenate, ParamSpec

import numpy as np

from ..backends import canonical_dtype, is_floating
from ..core.define import Array, Sample, composite, op
from ..core.op import named, names_of
from ..core.tensor import Tensor
from ..errors import ArgumentError, DtypeError, NonFiniteError, RuleError, ShapeError

__all__ = [
    "binary_cross_entropy_with_logits",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "logistic_loss",
    "mse_loss",
]

P = ParamSpec("P")
Body = Callable[Concatenate[Any, P], Any]

REDUCTIONS = ("mean", "sum", "none")
_FLOAT32 = np.dtype("float32")
_DIVISORS: dict[str, Callable[[tuple[int, ...]], int]] = {
    "mean": prod,
    "batchmean": lambda shape: shape[0] if shape else 1,
    "sum": lambda shape: 1,
    "none": lambda shape: 1,
}


def _pointwise(*slopes: Any, samples: Any, fused: bool = False) -> Callable[[Body[P]], Callable[P, Tensor]]:
    """A loss that is a function of each pair of numbers, then reduced.

    A slope is written as a rule of an elementwise op: `g` times the partial derivative. With the share of the cotangent
    that falls to each pair it is the VJP; with a tangent, and then reduced as the loss is, it is the JVP. If `fused`,
    the VJP by the first input is an op too, `<name>_slope`, which a backend may run in one kernel.
    """

    def decorate(forward: Body[P]) -> Callable[P, Tensor]:
        first = list(signature(forward).parameters)[1]

        def rules(slope: Any) -> tuple[Any, Any]:
            names = names_of(slope)[2:]

            def pull(xp: Any, g: Any, reduction: str, shape: Any, *values: Any) -> Any:
                return slope(xp, _share(g, reduction, shape), *values)

            def push(xp: Any, t: Any, reduction: str, *values: Any) -> Any:
                return _reduced(xp, slope(xp, t, *values), reduction)

            return (
                named(pull, ["xp", "g", "reduction", f"{first}_shape", *names]),
                named(push, ["xp", "t", "reduction", *names]),
            )

        both = [rules(slope) if slope else (None, None) for slope in slopes]
        pulls, pushes = [pull for pull, _ in both], tuple(push for _, push in both)
        if fused:
            pulls[0] = _slope_op(forward, slopes[0], samples)
        return op(*pulls, jvp=pushes, samples=samples, promotes=True)(forward)

    return decorate


def _slope_op(forward: Any, slope: Any, samples: Any) -> Any:
    """Publish the VJP of a loss by its first input as an op; the rule that calls it."""
    name, arguments = f"{forward.__name__}_slope", list(signature(forward).parameters.values())[1:]
    kind = Parameter.POSITIONAL_OR_KEYWORD
    form = Signature([Parameter("xp", kind), Parameter("g", kind, annotation=Array), *arguments])

    def body(*given: Any, **named: Any) -> Any:
        if named or len(given) < len(form.parameters):
            bound = form.bind(*given, **named)
            bound.apply_defaults()
            given = bound.args
        xp, g, x, *values, reduction = given
        return slope(xp, _share(g, reduction, x.shape), x, *values)

    def slope_samples(rng: Any) -> Any:
        for sample in samples(rng):
            bound = form.bind(None, None, *sample.args, **sample.kwargs)
            shape = sample.args[0].shape if bound.arguments.get("reduction") == "none" else ()
            yield Sample((np.asarray(rng.normal(size=shape)), *sample.args), sample.kwargs)

    body.__name__ = body.__qualname__ = name
    body.__module__ = forward.__module__
    body.__doc__ = f"`g` times the derivative of `{forward.__name__}` by its first argument."
    body.__signature__ = form  # type: ignore[attr-defined]
    composite(samples=slope_samples)(body)
    return named(lambda xp, *values: getattr(xp, name)(*values), list(form.parameters))


def _share(g: Any, reduction: str, shape: Any) -> Any:
    """The share of the cotangent of a loss that falls to each pair."""
    divisor = _divisor(reduction, shape or ())
    return g if divisor == 1 else g * (1.0 / divisor)  # 1e5 is more than float16 holds, and 1e-5 is not


def _divisor(reduction: str, shape: tuple[int, ...]) -> int:
    """What the sum of losses of this shape is divided by, and at least 1."""
    return max(_DIVISORS[reduction](shape), 1)


def _reduced(xp: Any, losses: Any, reduction: str) -> Any:
    """Losses one by one, summed, or averaged."""
    if reduction == "none":
        return losses
    dtype = losses.dtype
    total = xp.sum(widened(xp, losses)) / _divisor(reduction, losses.shape)
    return total if total.dtype == dtype else xp.astype(total, dtype)


def widened(xp: Any, x: Any) -> Any:
    """`x`, in float32 if it is narrower."""
    return xp.astype(x, _FLOAT32) if canonical_dtype(x.dtype).itemsize < 4 else x


def _check_pairs(x: Any, y: Any, names: tuple[str, str], reduction: str, known: Sequence[str] = REDUCTIONS) -> None:
    """Refuse what no pair of predictions and targets is: integers, two shapes, a reduction that does not exist."""
    check_predictions(x, names[0], reduction, known)
    if getattr(x, "shape", ()) != getattr(y, "shape", ()):
        raise ShapeError(f"{' and '.join(names)} have one shape; they are not broadcast, so reshape one of them")


def check_predictions(x: Any, name: str, reduction: str, known: Sequence[str] = REDUCTIONS) -> None:
    """Refuse predictions that are no floating-point numbers, and a reduction that is not one of `known`."""
    if reduction not in known:
        raise ArgumentError(f"reduction is one of {', '.join(map(repr, known))}; got {reduction!r}")
    if hasattr(x, "dtype") and not is_floating(x.dtype):
        raise DtypeError(f"{name} holds {x.dtype}; convert it with .astype('float32')")


def _pairs(rng: Any) -> Any:
    yield Sample((rng.normal(size=(3, 4)), rng.normal(size=(3, 4))))
    yield Sample((rng.normal(size=5), rng.normal(size=5), "sum"))
    yield Sample((rng.normal(size=(2, 1, 3)), rng.normal(size=(2, 1, 3))), {"reduction": "none"})
    yield Sample((np.asarray(rng.normal()), np.asarray(rng.normal())))


@_pointwise(
    lambda xp, g, prediction, target: (2.0 * g) * (prediction - target),
    lambda xp, g, prediction, target: (2.0 * g) * (target - prediction),
    samples=_pairs,
    fused=True,
)
def mse_loss(xp: Any, prediction: Array, target: Array, reduction: str = "mean") -> Any:
    """Squared error `(prediction - target) ** 2`, averaged over all numbers.

    `prediction` and `target` have one shape: (n, 1) beside (n,) would broadcast to (n, n), and is a ShapeError.
    """
    _check_pairs(prediction, target, ("prediction", "target"), reduction)
    difference = prediction - target
    return _reduced(xp, difference * difference, reduction)


@_pointwise(
    lambda xp, g, prediction, target: g * xp.sign(prediction - target),
    lambda xp, g, prediction, target: g * xp.sign(target - prediction),
    samples=_pairs,
    fused=True,
)
def l1_loss(xp: Any, prediction: Array, target: Array, reduction: str = "mean") -> Any:
    """Absolute error `|prediction - target|`, averaged over all numbers; the slope at equality is 0.

    `prediction` and `target` have one shape.
    """
    _check_pairs(prediction, target, ("prediction", "target"), reduction)
    return _reduced(xp, xp.abs(prediction - target), reduction)


@_pointwise(
    lambda xp, g, prediction, target, delta: g * xp.clip(prediction - target, -delta, delta),
    lambda xp, g, prediction, target, delta: g * xp.clip(target - prediction, -delta, delta),
    samples=lambda rng: [
        Sample((np.array([0.3, -0.4, 2.0, -3.0]), np.array([0.1, 0.2, -0.5, 1.0]))),
        Sample((np.array([[0.3], [-3.0]]), np.array([[1.1], [0.2]])), {"delta": 0.5, "reduction": "none"}),
        Sample((np.array([0.3, -4.0]), np.array([1.1, 0.2])), {"delta": 2.0, "reduction": "sum"}),
    ],
    fused=True,
)
def huber_loss(xp: Any, prediction: Array, target: Array, delta: float = 1.0, reduction: str = "mean") -> Any:
    """`d ** 2 / 2` where `|d| <= delta`, else `delta * (|d| - delta / 2)`, for `d = prediction - target`, averaged.

    Source: Huber, "Robust estimation of a location parameter" (1964). `prediction` and `target` have one shape.
    """
    _check_pairs(prediction, target, ("prediction", "target"), reduction)
    if not delta > 0:
        raise ArgumentError(f"delta is a positive number; got {delta!r}")
    distance = xp.abs(prediction - target)
    bounded = xp.minimum(distance, delta)
    return _reduced(xp, bounded * (distance - 0.5 * bounded), reduction)


def constant_weights(g: Any) -> Any:
    """The rule of the weights of a loss."""
    raise RuleError("the weights of a loss are constants: no derivative is defined; give them detached")


def _positive_weight(xp: Any, targets: Any, pos_weight: Any, logits: Any) -> Any:
    """`targets`, times what a positive one counts."""
    if pos_weight is None:
        return targets
    if hasattr(pos_weight, "dtype") and pos_weight.dtype != logits.dtype:
        pos_weight = xp.astype(pos_weight, logits.dtype)
    return pos_weight * targets


def _slope_of_logits(xp: Any, g: Any, logits: Any, targets: Any, pos_weight: Any) -> Any:
    weight = _positive_weight(xp, targets, pos_weight, logits)
    return g * ((1.0 - targets) * xp.sigmoid(logits) - weight * xp.sigmoid(-logits))  # 1 - sigmoid(x) would cancel


def _slope_of_targets(xp: Any, g: Any, logits: Any, pos_weight: Any) -> Any:
    if pos_weight is None:
        return -(g * logits)
    return g * (_positive_weight(xp, xp.softplus(-logits), pos_weight, logits) - xp.softplus(logits))


@_pointwise(
    _slope_of_logits,
    _slope_of_targets,
    lambda xp, g: constant_weights(g),
    samples=lambda rng: [
        Sample((rng.normal(size=(3, 2)), rng.uniform(size=(3, 2)))),
        Sample((rng.normal(size=4), rng.uniform(size=4)), {"reduction": "sum"}),
        Sample((rng.normal(size=(2, 3)), rng.uniform(size=(2, 3))), {"pos_weight": 2.5, "reduction": "none"}),
        Sample((rng.normal(size=(2, 3)), rng.uniform(size=(2, 3))), {"pos_weight": np.array([0.5, 1.0, 4.0])}),
    ],
    fused=True,
)
def binary_cross_entropy_with_logits(
    xp: Any, logits: Array, targets: Array, pos_weight: Array | None = None, reduction: str = "mean"
) -> Any:
    """`-(w t ln s + (1 - t) ln(1 - s))` for `s = sigmoid(logits)`, targets t in [0, 1] and w = pos_weight, averaged.

    `logits` and `targets` have one shape. `pos_weight` (1 where None) is a constant that broadcasts with them: above 1
    it weighs recall, below 1 precision. Integer and boolean targets take the dtype of the logits. It is computed as
    `max(x, 0) - t x + ln(1 + exp(-|x|))`, which neither overflows nor cancels at targets 0 and 1.
    """
    _check_pairs(logits, targets, ("logits", "targets"), reduction)
    tail = xp.log1p(xp.exp(-xp.abs(logits)))
    if pos_weight is None:
        losses = xp.maximum(logits, 0.0) - logits * targets + tail
    else:
        positive = _positive_weight(xp, targets, pos_weight, logits)
        negative = 1.0 - targets
        losses = positive * (xp.maximum(-logits, 0.0) + tail) + negative * (xp.maximum(logits, 0.0) + tail)
    return _reduced(xp, losses, reduction)


def _margin_slope(xp: Any, g: Any, scores: Any, labels: Any) -> Any:
    labels = xp.astype(labels, scores.dtype)
    return -(g * labels) * xp.sigmoid(-(labels * scores))


@_pointwise(
    _margin_slope,
    None,
    samples=lambda rng: [
        Sample((rng.normal(size=5), np.array([1, -1, -1, 1, 1]))),
        Sample((rng.normal(size=(2, 2)), np.array([[1.0, -1.0], [-1.0, 1.0]]), "none")),
        Sample((rng.normal(size=3), np.array([1, 1, -1])), {"reduction": "sum"}),
    ],
    fused=True,
)
def logistic_loss(xp: Any, scores: Array, labels: Array, reduction: str = "mean") -> Any:
    """`ln(1 + exp(-y s))` for scores s and labels y of -1 or +1, averaged: logistic regression has `s = X @ w`.

    `scores` and `labels` have one shape; labels are integers or floating-point numbers and have no derivative. Any
    other label is an ArgumentError, NaN a NonFiniteError (on a CUDA device raised by the next call that waits for it,
    and the loss is NaN). For labels 0 and 1 there is `binary_cross_entropy_with_logits`.
    """
    _check_pairs(scores, labels, ("scores", "labels"), reduction)
    labels = xp.astype(xp.asarray(labels), scores.dtype)
    if bool(xp.any(xp.abs(labels) != 1)):
        raise _wrong_sign(xp, labels)
    margins = labels * scores
    return _reduced(xp, xp.maximum(-margins, 0.0) + xp.log1p(xp.exp(-xp.abs(margins))), reduction)


def _wrong_sign(xp: Any, labels: Any) -> Exception:
    labels = xp.reshape(labels, (-1,))
    position = int(xp.argmax(xp.astype(xp.abs(labels) != 1, xp.int64)))
    found = float(labels[position])
    if isnan(found):
        return NonFiniteError(f"labels[{position}] is NaN; drop the rows without a label")
    return ArgumentError(
        f"labels are -1 and +1; number {position} is {found:g}. From labels 0 and 1 make 2 * labels - 1, "
        "or use binary_cross_entropy_with_logits"
    )


def _slope_of_target(xp: Any, g: Any, log_prediction: Any, target: Any, log_target: bool) -> Any:
    if log_target:
        return xp.safe_multiply(g * xp.exp(target), target - log_prediction + 1.0)
    return xp.safe_multiply(g, xp.log(target) - log_prediction + 1.0)


def _distributions(rng: Any) -> Any:
    log_prediction = np.log(rng.dirichlet(np.ones(4), size=3))
    target = rng.dirichlet(np.ones(4), size=3)
    yield Sample((log_prediction, target))
    yield Sample((log_prediction, target), {"reduction": "batchmean"})
    yield Sample((log_prediction, np.log(target), "sum"), {"log_target": True})
    yield Sample((log_prediction[0], target[0], "none"))


@_pointwise(
    lambda xp, g, target, log_target: -(g * (xp.exp(target) if log_target else target)),
    _slope_of_target,
    samples=_distributions,
)
def kl_div(xp: Any, log_prediction: Array, target: Array, reduction: str = "mean", log_target: bool = False) -> Any:
    """`target * (ln target - log_prediction)`: the Kullback-Leibler divergence of the prediction from the target.

    `log_prediction` holds logarithms (of `log_softmax`), `target` probabilities, or logarithms too if `log_target`. The
    divergence of distributions is reduction="batchmean", the sum divided by the length of the first axis; "mean" also
    divides by the number of classes. A target of probability 0 counts 0, whatever is predicted; its slope there is
    minus infinity, and stays 0 for a zero cotangent.
    """
    _check_pairs(log_prediction, target, ("log_prediction", "target"), reduction, (*REDUCTIONS, "batchmean"))
    weight = xp.exp(target) if log_target else target
    absent = weight == 0
    one, zero = xp.ones_like(weight), xp.zeros_like(weight)
    log_weight = xp.where(absent, zero, target) if log_target else xp.log(xp.where(absent, one, target))
    return _reduced(xp, weight * (log_weight - xp.where(absent, zero, log_prediction)), reduction)
