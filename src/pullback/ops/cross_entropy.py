"""Cross-entropy of logits and integer labels: the loss of classification, forward in one op and backward in one."""

from math import prod
from typing import Any

import numpy as np

from ..backends import BACKENDS, canonical_dtype, default_dtype, is_floating
from ..core.define import Array, Sample, op
from ..errors import ArgumentError, DtypeError, IndexingError, NonFiniteError, ShapeError
from .losses import check_predictions, constant_weights, widened

__all__ = ["cross_entropy", "cross_entropy_slope", "cross_entropy_weights", "one_hot"]


def _flat_labels(xp: Any, labels: Any, classes: int, ignore_index: int | None, check: bool = True) -> tuple[Any, Any]:
    """Labels in a row, 0 where they are ignored, and a mask of those that count (None: all do)."""
    if canonical_dtype(labels.dtype).kind not in "iu":
        raise _no_labels(xp, labels)
    if labels.ndim != 1:
        labels = xp.reshape(labels, (-1,))
    counted = None
    if ignore_index is not None:
        counted = labels != ignore_index
        labels = xp.where(counted, labels, xp.zeros_like(labels))
    if check and labels.shape[0] and (xp.min(labels) < 0 or xp.max(labels) >= classes):
        raise _wrong_label(BACKENDS[labels.__class__].inspected(labels).ravel(), classes)
    return labels, counted


def _wrong_label(labels: np.ndarray, classes: int) -> Exception:
    """What is said of the first label that is no class; inside of `vmap` labels are those of all examples."""
    position = int(np.argmax((labels < 0) | (labels >= classes)))
    return IndexingError(
        f"label {labels[position]} (number {position}) is out of range for {classes} classes; labels are 0 to "
        f"{classes - 1} (cross_entropy leaves out rows labelled with its ignore_index)"
    )


def _no_labels(xp: Any, labels: Any) -> Exception:
    """What is said of labels that are not integers."""
    if is_floating(labels.dtype) and bool(xp.any(xp.isnan(labels))):
        return NonFiniteError(
            "labels hold NaN; drop those rows, or give them an integer of their own and name it as ignore_index"
        )
    return DtypeError(f"labels hold {labels.dtype}, and are class numbers; convert them with .astype('int64')")


def _labels(rng: Any) -> Any:
    yield Sample((rng.integers(0, 4, 3), 4))
    yield Sample((rng.integers(0, 3, (2, 2)), 3), {"dtype": "float64"})


@op(None, samples=_labels)
def one_hot(xp: Any, labels: Array, classes: int, dtype: Any = None) -> Any:
    """Rows of the identity: 1 at each label and 0 elsewhere, of shape `(*labels.shape, classes)`; no derivative.

    `dtype` is the default floating-point dtype where None. Raises IndexingError for a label outside 0 to classes - 1,
    DtypeError for labels that are not integers.
    """
    labels = xp.asarray(labels)
    flat, _ = _flat_labels(xp, labels, classes, None)
    rows = flat.shape[0]
    out = xp.zeros((rows, classes), dtype=xp.dtype(dtype or default_dtype()), device=flat.device)
    out = xp.scatter_set(out, (xp.arange(rows, device=flat.device), flat), 1)
    return xp.reshape(out, (*labels.shape, classes))


def _rows(xp: Any, scores: Any, labels: Any, ignore_index: int | None, check: bool = True) -> tuple[Any, Any, Any]:
    """`scores` (logits or probabilities) as a matrix of one row per label, labels in a row, and which of them count."""
    shape = scores.shape
    if ignore_index is None and len(shape) == 2 and shape[1] and getattr(labels, "shape", None) == shape[:1]:
        return scores, _flat_labels(xp, labels, shape[1], None)[0] if check else labels, None
    if not hasattr(labels, "shape"):
        labels = xp.asarray(labels)
    if not shape or not shape[-1] or labels.shape != shape[:-1]:
        hint = "the last axis of the logits is the classes, the others are those of the labels"
        if labels.shape == shape:
            hint += "; from one-hot rows take pb.argmax(labels, axis=-1)"
        elif shape and labels.shape == (shape[0], *shape[2:]):
            hint += "; move the classes last with pb.moveaxis(logits, 1, -1)"
        raise ShapeError(f"logits of shape {tuple(shape)} beside labels of shape {tuple(labels.shape)}: {hint}")
    flat, counted = _flat_labels(xp, labels, shape[-1], ignore_index, check)
    return (scores if len(shape) == 2 else xp.reshape(scores, (flat.shape[0], shape[-1]))), flat, counted


class _Weights:
    """What each row counts: the loss is `hit * nll[label] + rest * sum(spread * nll)`, for `nll = -ln softmax`.

    Attributes:
        hit, rest: Of each row, (n,).
        spread: Of each class, (C,); None without smoothing.
        total: What the mean divides by, in float32 or wider; `share` is its inverse in the dtype of the scores.
    """

    def __init__(
        self, xp: Any, labels: Any, counted: Any, class_weights: Any, label_smoothing: float, classes: int, dtype: Any
    ) -> None:
        if not 0 <= label_smoothing <= 1:
            raise ArgumentError(f"label_smoothing is a number from 0 to 1; got {label_smoothing!r}")
        self.rest = (
            xp.ones(labels.shape, dtype=dtype, device=labels.device) if counted is None else xp.astype(counted, dtype)
        )
        row, weights = self.rest, xp.ones((classes,), dtype=dtype, device=labels.device)
        if class_weights is not None:
            if class_weights.shape != (classes,):
                raise ShapeError(f"class_weights has shape {class_weights.shape}, and there are {classes} classes")
            weights = xp.astype(class_weights, dtype)
            row = row * weights[labels]
        self.hit = row * (1.0 - label_smoothing)
        self.spread = weights * (label_smoothing / classes) if label_smoothing else None
        total = xp.sum(widened(xp, row))
        self.total = xp.where(total == 0, xp.ones_like(total), total)
        self.share = xp.astype(1.0 / self.total, dtype, copy=False)

    def coefficient(self, xp: Any) -> Any:
        """What the softmax of each row is multiplied by in the gradient, (n,)."""
        return self.hit if self.spread is None else self.hit + self.rest * xp.sum(self.spread)


def _slope_by_logits(
    xp: Any, g: Any, kept: Any, labels: Any,
    label_smoothing: Any, ignore_index: Any, class_weights: Any, reduction: Any,
) -> Any:  # fmt: skip
    return xp.cross_entropy_slope(g, kept, labels, label_smoothing, ignore_index, class_weights, reduction)


def _push_of_logits(
    xp: Any, t: Any, kept: Any, labels: Any,
    label_smoothing: Any, ignore_index: Any, class_weights: Any, reduction: Any,
) -> Any:  # fmt: skip
    slope = xp.cross_entropy_slope(1.0, kept, labels, label_smoothing, ignore_index, class_weights, reduction)
    return xp.sum(slope * t, axis=-1 if reduction == "none" else None)


def _labelled(rng: Any) -> Any:
    """Scores, labels and options of each kind."""
    weights, labels = rng.uniform(0.5, 2.0, size=5), np.array([3, 0, 4, 2])
    yield rng.normal(size=(4, 5)), labels, {}
    yield rng.normal(size=(2, 2, 5)), labels.reshape(2, 2), {"reduction": "sum"}
    yield rng.normal(size=(4, 5)), labels, {"reduction": "none"}
    yield rng.normal(size=5), np.asarray(3), {}
    yield rng.normal(size=5), np.asarray(1), {"label_smoothing": 0.2}
    yield rng.normal(size=(4, 5)), labels, {"reduction": "none", "class_weights": weights, "ignore_index": 4}
    yield rng.normal(size=(4, 5)), labels, {"label_smoothing": 0.1, "class_weights": weights, "ignore_index": 0}


def _is_plain(scores: Any, labels: Any, label_smoothing: Any, ignore_index: Any, class_weights: Any) -> bool:
    """Whether each row of scores has a label and counts the same."""
    return labels.shape == scores.shape[:-1] and not label_smoothing and ignore_index is None and class_weights is None


def _losses_of_examples(
    xp: Any, logits: Any, labels: Any,
    label_smoothing: Any = 0.0, ignore_index: Any = None, class_weights: Any = None, reduction: Any = "mean",
) -> Any:  # fmt: skip
    """Batching: the rows of all examples in one call, and then the sum of each example's."""
    check_predictions(logits, "logits", reduction)
    several = labels.ndim > 1 and reduction != "none"
    if not _is_plain(logits, labels, label_smoothing, ignore_index, class_weights):
        return None
    if several and logits.dtype.itemsize < 4:  # the body adds up in float32
        return None
    losses, kept = xp.cross_entropy.body(logits, labels, reduction="none")
    if several:
        losses = xp.sum(losses, axis=tuple(range(1, labels.ndim)))
        if reduction == "mean":
            losses = losses / max(prod(labels.shape[1:]), 1)
    return losses, kept


@op(
    _slope_by_logits,
    None,
    constant_weights,
    jvp=(_push_of_logits, None, constant_weights),
    batching=_losses_of_examples,
    kept="softmax",
    samples=lambda rng: [Sample((scores, labels), options) for scores, labels, options in _labelled(rng)],
)
def cross_entropy(
    xp: Any,
    logits: Array,
    labels: Array,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    class_weights: Array | None = None,
    reduction: str = "mean",
) -> Any:
    """`-ln softmax(logits)[label]`, averaged over the rows.

    Args:
        logits: Scores of any size, of shape (..., C): the classes are the LAST axis (PyTorch has them second).
        labels: Class numbers 0 to C - 1 of an integer dtype, of shape (...).
        label_smoothing: The part e of each row's weight that is spread evenly over all classes: the target is
            `(1 - e) * one_hot + e / C` (Szegedy et al., "Rethinking the Inception architecture", 2016).
        ignore_index: Rows with this label, whatever number it is, count nothing and get no gradient.
        class_weights: What each class counts, (C,); a constant. The mean is then divided by the sum of the weights of
            the labels that are not ignored.
        reduction: "mean", "sum", or "none" for the losses in the shape of the labels. The mean of no rows is 0.

    Raises:
        IndexingError: A label is out of range. On a CUDA device a kernel finds it: the loss is NaN, and the error is
            raised by the next call that waits for the device (`item`, `numpy`); at once with the
            variable CUDA_LAUNCH_BLOCKING=1.
        DtypeError: labels are not integers, or logits not floating-point. NonFiniteError: labels hold NaN.
        ShapeError: the shapes do not belong together.
    """
    check_predictions(logits, "logits", reduction)
    scores, flat, counted = _rows(xp, logits, labels, ignore_index)
    z = widened(xp, scores)
    z = z - xp.max(z, axis=-1, keepdims=True)
    picked = z[xp.arange(flat.shape[0], device=flat.device), flat]
    p = xp.exp(z)
    sums = xp.sum(p, axis=-1, keepdims=True)
    p /= sums
    log_sums = xp.log(sums)[:, 0]
    losses = log_sums - picked
    divisor: float = flat.shape[0] or 1
    if label_smoothing or counted is not None or class_weights is not None:
        weights = _Weights(xp, flat, counted, class_weights, label_smoothing, z.shape[1], z.dtype)
        none = xp.zeros_like(losses)  # an ignored row counts nothing, even where its loss is infinite
        losses = weights.hit * xp.where(weights.hit == 0, none, losses)
        if weights.spread is not None:
            all_classes = xp.sum(weights.spread) * log_sums - z @ weights.spread
            losses += weights.rest * xp.where(weights.rest == 0, none, all_classes)
        divisor = xp.astype(weights.total, z.dtype, copy=False)
    if reduction == "none":
        out = losses if losses.shape == labels.shape else xp.reshape(losses, logits.shape[:-1])
    else:
        out = xp.sum(losses)
        if reduction == "mean":
            out = out / divisor
    if z.dtype != logits.dtype:
        out, p = xp.astype(out, logits.dtype), xp.astype(p, logits.dtype)
    return out, p if p.shape == logits.shape else xp.reshape(p, logits.shape)


def _slope_by_cotangent(
    xp: Any, g: Any, cotangent_shape: Any, probabilities: Any, labels: Any,
    label_smoothing: Any, ignore_index: Any, class_weights: Any, reduction: Any,
) -> Any:  # fmt: skip
    slope = xp.cross_entropy_slope(1.0, probabilities, labels, label_smoothing, ignore_index, class_weights, reduction)
    return xp.sum(g * slope, axis=-1 if cotangent_shape else None)


def _slope_by_probabilities(
    xp: Any, g: Any, cotangent: Any, probabilities_shape: Any, probabilities_dtype: Any, labels: Any,
    label_smoothing: Any, ignore_index: Any, class_weights: Any, reduction: Any,
) -> Any:  # fmt: skip
    weights = xp.cross_entropy_weights(
        labels, probabilities_shape[-1], probabilities_dtype, label_smoothing, ignore_index, class_weights, reduction
    )
    if getattr(cotangent, "shape", ()):
        cotangent = xp.reshape(cotangent, (*cotangent.shape, 1))
    return g * (cotangent * weights)


def _push_of_cotangent(
    xp: Any, t: Any, probabilities: Any, labels: Any,
    label_smoothing: Any, ignore_index: Any, class_weights: Any, reduction: Any,
) -> Any:  # fmt: skip
    return xp.cross_entropy_slope(t, probabilities, labels, label_smoothing, ignore_index, class_weights, reduction)


def _slope_samples(rng: Any) -> Any:
    for _, labels, options in _labelled(rng):
        shape = labels.shape if options.get("reduction") == "none" else ()
        cotangent, probabilities = np.asarray(rng.normal(size=shape)), rng.dirichlet(np.ones(5), size=labels.shape)
        yield Sample((cotangent, probabilities, labels), options)


def _softmax_minus_target(
    xp: Any, cotangent: Any, probabilities: Any, labels: Any,
    label_smoothing: float = 0.0, ignore_index: Any = None, class_weights: Any = None, reduction: str = "mean",
) -> Any:  # fmt: skip
    if label_smoothing or ignore_index is not None or class_weights is not None or reduction == "none":
        return None
    share = cotangent * (1.0 / max(prod(labels.shape), 1)) if reduction == "mean" else cotangent
    return share * (probabilities - xp.one_hot(labels, probabilities.shape[-1]))


def _slopes_of_examples(
    xp: Any, cotangent: Any, probabilities: Any, labels: Any,
    label_smoothing: Any = 0.0, ignore_index: Any = None, class_weights: Any = None, reduction: Any = "mean",
) -> Any:  # fmt: skip
    """Batching: the cotangent of an example is shared out among its rows."""
    if not _is_plain(probabilities, labels, label_smoothing, ignore_index, class_weights):
        return None
    if reduction != "none":
        if getattr(cotangent, "shape", ()) != labels.shape[:1]:
            return None
        rows = prod(labels.shape[1:])
        if reduction == "mean" and rows > 1:
            cotangent = cotangent * (1.0 / rows)
        if labels.ndim > 1:
            cotangent = xp.reshape(cotangent, (*cotangent.shape, *(1,) * (labels.ndim - 1)))
            cotangent = xp.broadcast_to(cotangent, labels.shape)
    return xp.cross_entropy_slope(cotangent, probabilities, labels, reduction="none")


@op(
    _slope_by_cotangent,
    _slope_by_probabilities,
    None,
    constant_weights,
    formula=_softmax_minus_target,
    jvp=(_push_of_cotangent, _slope_by_probabilities, None, constant_weights),
    batching=_slopes_of_examples,
    samples=_slope_samples,
)
def cross_entropy_slope(
    xp: Any,
    cotangent: Array,
    probabilities: Array,
    labels: Array,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    class_weights: Array | None = None,
    reduction: str = "mean",
) -> Any:
    """`cotangent` times the derivative of `cross_entropy`: softmax minus target, row by row.

    `probabilities` is the softmax of the logits, `cotangent` has the shape of the loss, and the rest is as there (the
    range of the labels is checked there and not again). This is one pass over the probabilities and one number changed
    per row, where a one-hot target would be three passes.
    """
    p, flat, counted = _rows(xp, probabilities, labels, ignore_index, check=False)
    rows, classes = p.shape
    if getattr(cotangent, "shape", ()):
        cotangent = xp.reshape(cotangent, (rows, 1))
    if label_smoothing or counted is not None or class_weights is not None:
        weights = _Weights(xp, flat, counted, class_weights, label_smoothing, classes, p.dtype)
        scale = cotangent * weights.share if reduction == "mean" else cotangent
        out = p * (scale * weights.coefficient(xp)[:, None])
        if weights.spread is not None:
            out -= scale * (weights.rest[:, None] * weights.spread)
        hit = scale * weights.hit[:, None]
    else:
        hit = cotangent * (1.0 / max(rows, 1)) if reduction == "mean" else cotangent
        out = p * hit
    at = (xp.arange(rows, device=flat.device), flat)
    out = xp.scatter_set(out, at, out[at] - (hit[:, 0] if getattr(hit, "ndim", 0) else hit))
    return out if out.shape == probabilities.shape else xp.reshape(out, probabilities.shape)


def _weighted(rng: Any) -> Any:
    for scores, labels, options in _labelled(rng):
        yield Sample((labels, scores.shape[-1], "float64"), options)


@op(None, None, samples=_weighted)
def cross_entropy_weights(
    xp: Any,
    labels: Array,
    classes: int,
    dtype: Any,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    class_weights: Array | None = None,
    reduction: str = "mean",
) -> Any:
    """What each row of logits counts in `cross_entropy`, of shape `(*labels.shape, 1)`; no derivative."""
    labels = xp.asarray(labels)
    flat, counted = _flat_labels(xp, labels, classes, ignore_index)
    weights = _Weights(xp, flat, counted, class_weights, label_smoothing, classes, xp.dtype(dtype))
    coefficient = weights.coefficient(xp)
    return xp.reshape(coefficient * weights.share if reduction == "mean" else coefficient, (*labels.shape, 1))
