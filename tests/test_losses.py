"""Losses against closed forms in float64, against PyTorch where it is installed, and at the edges of their domains."""

import itertools
import re

import numpy as np
import pytest
from scipy import special

import pullback as pb
from pullback import errors

REDUCTIONS = ("mean", "sum", "none")
RNG = np.random.default_rng(7)
LOGITS = 3 * RNG.normal(size=(6, 5))
LABELS = np.array([3, 0, 4, 2, 2, 1])
WEIGHTS = RNG.uniform(0.5, 2.0, size=5)
X, T = 2 * RNG.normal(size=(4, 3)), RNG.normal(size=(4, 3))
U, V = RNG.uniform(0.05, 0.95, size=(4, 3)), RNG.uniform(0.05, 0.95, size=(4, 3))


def reduced(losses, reduction, divisor=None):
    if reduction == "none":
        return losses
    return losses.sum() / (losses.size if divisor is None else divisor) if reduction == "mean" else losses.sum()


def softplus(x):
    return np.logaddexp(0.0, x)


POINTWISE = {
    "mse_loss": ((X, T), {}, (X - T) ** 2),
    "l1_loss": ((X, T), {}, np.abs(X - T)),
    "huber_loss": (
        (X, T),
        {"delta": 0.7},
        np.where(np.abs(X - T) <= 0.7, (X - T) ** 2 / 2, 0.7 * (np.abs(X - T) - 0.35)),
    ),
    "binary_cross_entropy_with_logits": ((X, U), {}, U * softplus(-X) + (1 - U) * softplus(X)),
    "binary_cross_entropy_with_logits weighted": (
        (X, U),
        {"pos_weight": np.array([0.5, 1.0, 3.0])},
        np.array([0.5, 1.0, 3.0]) * U * softplus(-X) + (1 - U) * softplus(X),
    ),
    "logistic_loss": ((X, np.sign(T).astype(int)), {}, softplus(-np.sign(T) * X)),
    "kl_div": ((np.log(U), V), {}, special.rel_entr(V, U)),
    "kl_div of logarithms": ((np.log(U), np.log(V)), {"log_target": True}, special.rel_entr(V, U)),
}


def loss_of(name):
    return getattr(pb, name.split()[0])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", POINTWISE)
def test_a_pointwise_loss_is_its_closed_form(name, reduction):
    args, options, losses = POINTWISE[name]
    out = loss_of(name)(*args, **options, reduction=reduction)
    np.testing.assert_allclose(out.numpy(), reduced(losses, reduction), rtol=1e-13)


def test_batchmean_of_kl_div_is_the_divergence_of_the_rows_averaged():
    p, q = special.softmax(X, axis=1), special.softmax(T, axis=1)
    out = pb.kl_div(np.log(q), p, reduction="batchmean")
    np.testing.assert_allclose(out.numpy(), np.mean([special.rel_entr(a, b).sum() for a, b in zip(p, q, strict=True)]))


def expected_cross_entropy(logits, labels, smoothing, ignored, weights, reduction):
    """Row by row, as it is defined."""
    classes = logits.shape[-1]
    losses, divisor = [], 0.0
    for row, label in zip(logits, labels, strict=True):
        nll = -special.log_softmax(row)
        target = (1 - smoothing) * np.eye(classes)[max(label, 0)] + smoothing / classes
        losses.append(0.0 if label == ignored else float(np.sum(weights * target * nll)))
        divisor += 0.0 if label == ignored else weights[label]
    return reduced(np.array(losses), reduction, divisor)


OPTIONS = list(itertools.product((0.0, 0.1, 1.0), (None, 2, -100), (None, WEIGHTS), REDUCTIONS))


@pytest.mark.parametrize(("smoothing", "ignored", "weights", "reduction"), OPTIONS)
def test_cross_entropy_is_its_definition_with_every_option(smoothing, ignored, weights, reduction):
    labels = np.where(np.arange(6) == 1, -100, LABELS) if ignored == -100 else LABELS
    out = pb.cross_entropy(LOGITS, labels, smoothing, ignored, weights, reduction)
    expected = expected_cross_entropy(
        LOGITS, labels, smoothing, ignored, np.ones(5) if weights is None else weights, reduction
    )
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("smoothing", "ignored", "weights", "reduction"), OPTIONS)
def test_cross_entropy_and_its_gradient_are_those_of_pytorch(smoothing, ignored, weights, reduction, dtype):
    torch = pytest.importorskip("torch")
    labels = np.where(np.arange(6) == 1, -100, LABELS) if ignored == -100 else LABELS
    weights = None if weights is None else weights.astype(dtype)
    mine, theirs = pb.tensor(LOGITS.astype(dtype), requires_grad=True), torch.tensor(LOGITS.astype(dtype))
    theirs.requires_grad = True
    out = pb.cross_entropy(mine, labels, smoothing, ignored, weights, reduction)
    expected = torch.nn.functional.cross_entropy(
        theirs,
        torch.tensor(labels),
        weight=None if weights is None else torch.tensor(weights),
        ignore_index=-1000 if ignored is None else ignored,
        label_smoothing=smoothing,
        reduction=reduction,
    )
    cotangent = np.random.default_rng(0).normal(size=out.shape).astype(dtype)
    out.backward(cotangent)
    expected.backward(torch.tensor(cotangent))
    tolerance = 1e-12 if dtype is np.float64 else 3e-6
    np.testing.assert_allclose(out.numpy(), expected.detach().numpy(), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(mine.grad.numpy(), theirs.grad.numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("reduction", [*REDUCTIONS, "batchmean"])
@pytest.mark.parametrize("name", POINTWISE)
@pytest.mark.filterwarnings("ignore:reduction")
def test_a_pointwise_loss_and_its_gradients_are_those_of_pytorch(name, reduction):
    torch = pytest.importorskip("torch")
    if reduction == "batchmean" and "kl_div" not in name:
        return
    (x, y), options, _ = POINTWISE[name]
    theirs = {"logistic_loss": "soft_margin_loss"}.get(name, name.split()[0])
    their_options = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    a, b = pb.tensor(x, requires_grad=True), pb.tensor(y, requires_grad=y.dtype.kind == "f")
    c, d = torch.tensor(x, requires_grad=True), torch.tensor(y.astype(float), requires_grad=b.requires_grad)
    out = loss_of(name)(a, b, **options, reduction=reduction)
    expected = getattr(torch.nn.functional, theirs)(c, d, **their_options, reduction=reduction)
    out.sum().backward()
    expected.sum().backward()
    np.testing.assert_allclose(out.numpy(), expected.detach().numpy(), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(a.grad.numpy(), c.grad.numpy(), rtol=1e-12, atol=1e-15)
    if b.requires_grad:
        np.testing.assert_allclose(b.grad.numpy(), d.grad.numpy(), rtol=1e-12, atol=1e-15)


# --- the limits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_of_huge_logits_is_exact_in_value_and_gradient(dtype):
    logits = np.array([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]], dtype)
    out, pull = pb.vjp(lambda x: pb.cross_entropy(x, [0, 1, 2], reduction="none"), logits)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out.numpy(), np.array([0.0, 2e4, np.log(dtype(3))], dtype))
    (gradient,) = pull(np.ones(3, dtype))
    third = dtype(1) / dtype(3)
    np.testing.assert_array_equal(gradient.numpy(), np.array([[0, 0, 0], [1, -1, 0], [third, third, third - 1]], dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_losses_of_two_classes_are_exact_far_out_in_value_and_gradient(dtype):
    """ln(1 + exp(-50)) is 2e-22: a form that goes through 1 - sigmoid, or through a difference, gives 0 or noise."""
    x = np.array([1e4, 50.0, 20.0, 0.5, -0.5, -20.0, -50.0, -1e4], dtype)
    wide = x.astype(np.float64)
    for targets in (np.zeros(8, dtype), np.ones(8, dtype)):
        signs = 2 * targets - 1
        value, slope = softplus(-signs * wide), -signs * special.expit(-signs * wide)
        for loss, y in ((pb.binary_cross_entropy_with_logits, targets), (pb.logistic_loss, signs)):
            out, pull = pb.vjp(lambda x, loss=loss, y=y: loss(x, y, reduction="none"), x)
            tolerance = 8 * np.finfo(dtype).eps
            np.testing.assert_allclose(out.numpy(), value, rtol=tolerance)
            np.testing.assert_allclose(pull(np.ones(8, dtype))[0].numpy(), slope, rtol=tolerance)


@pytest.mark.parametrize("weight", [0.25, 8.0])
def test_a_positive_weight_keeps_the_far_ends_exact(weight):
    x, targets = np.array([1e4, -1e4, 1e4, -1e4], np.float32), np.array([1, 1, 0, 0])
    out, pull = pb.vjp(
        lambda x: pb.binary_cross_entropy_with_logits(x, targets, pos_weight=weight, reduction="none"), x
    )
    np.testing.assert_array_equal(out.numpy(), np.array([0, weight * 1e4, 1e4, 0], np.float32))
    np.testing.assert_array_equal(pull(np.ones(4, np.float32))[0].numpy(), np.array([0, -weight, 1, 0], np.float32))


def test_regression_losses_take_differences_of_1e4_in_float32():
    x, y = np.array([1e4, -1e4], np.float32), np.zeros(2, np.float32)
    for loss, value, slope in (
        (pb.mse_loss, 1e8, [1e4, -1e4]),
        (pb.l1_loss, 1e4, [0.5, -0.5]),
        (pb.huber_loss, 1e4 - 0.5, [0.5, -0.5]),
    ):
        out, gradient = pb.value_and_grad(loss)(x, y)
        np.testing.assert_array_equal(out.numpy(), np.float32(value))
        np.testing.assert_array_equal(gradient.numpy(), np.array(slope, np.float32))


def test_kl_div_of_huge_logits_and_of_impossible_classes_is_finite():
    log_prediction = pb.log_softmax(np.array([[1e4, -1e4], [0.0, -1e4]], np.float32))
    out, pull = pb.vjp(lambda q: pb.kl_div(q, np.array([[1.0, 0.0], [1.0, 0.0]], np.float32), "sum"), log_prediction)
    assert out.item() == 0.0
    np.testing.assert_array_equal(pull(np.float32(1))[0].numpy(), [[-1, 0], [-1, 0]])
    never = np.array([-np.inf, 0.0])
    assert pb.kl_div(never, np.array([0.0, 1.0]), "sum").item() == 0.0
    assert pb.kl_div(never, np.array([-np.inf, 0.0]), "sum", log_target=True).item() == 0.0
    assert pb.kl_div(never, np.array([0.5, 0.5]), "sum").item() == np.inf


def test_a_target_of_probability_zero_has_an_infinite_slope_that_a_zero_cotangent_does_not_meet():
    _, pull = pb.vjp(lambda t: pb.kl_div(np.log([0.5, 0.5]), t, "none"), np.array([0.0, 1.0]))
    np.testing.assert_array_equal(pull(np.array([0.0, 1.0]))[0].numpy(), [0.0, 1.0 + np.log(2)])
    assert pull(np.array([1.0, 0.0]))[0].numpy()[0] == -np.inf


def test_a_mean_of_float16_losses_does_not_overflow():
    x = np.full(5000, 100.0, np.float16)
    out = pb.l1_loss(x, np.zeros_like(x))
    assert (out.item(), out.dtype) == (100.0, np.float16)
    logits = np.tile(np.array([20.0, 0.0], np.float16), (5000, 1))
    out = pb.cross_entropy(logits, np.ones(5000, int))
    assert (out.item(), out.dtype) == (20.0, np.float16)


def test_gradients_of_a_mean_over_more_numbers_than_float16_holds_are_not_lost():
    x = np.full(100_000, 3.0, np.float16)
    np.testing.assert_allclose(pb.grad(pb.l1_loss)(x, 0 * x).numpy(), 1e-5, rtol=0.01)
    labels = np.zeros(100_000, int)
    gradient = pb.grad(lambda x: pb.cross_entropy(x, labels))(np.zeros((100_000, 2), np.float16))
    np.testing.assert_allclose(gradient.numpy()[0], [-5e-6, 5e-6], rtol=0.02)


# --- labels -----------------------------------------------------------------------------------------------------------


def test_the_class_axis_is_the_last_and_any_number_of_axes_may_stand_before_it():
    logits, labels = RNG.normal(size=(2, 3, 4, 5)), RNG.integers(0, 5, size=(2, 3, 4))
    out = pb.cross_entropy(logits, labels, reduction="none")
    assert out.shape == (2, 3, 4)
    flat = pb.cross_entropy(logits.reshape(24, 5), labels.reshape(24), reduction="none")
    np.testing.assert_array_equal(out.numpy().ravel(), flat.numpy())
    assert pb.cross_entropy(logits[0, 0, 0], labels[0, 0, 0]).item() == out.numpy()[0, 0, 0]
    assert pb.cross_entropy(logits[0, 0, 0], 3).shape == ()


@pytest.mark.parametrize("lay", [np.asfortranarray, lambda x: np.repeat(x, 2, axis=1)[:, ::2], lambda x: x[::-1][::-1]])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_logits_may_lie_in_any_order(lay, reduction):
    """A slope that was written through a flat copy of itself had no targets."""

    def loss(x):
        return pb.sum(pb.cross_entropy(x, LABELS, reduction=reduction))

    laid = lay(LOGITS)
    np.testing.assert_array_equal(laid, LOGITS)
    np.testing.assert_allclose(pb.grad(loss)(laid).numpy(), pb.grad(loss)(LOGITS).numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint64"])
def test_labels_may_have_any_integer_dtype(dtype):
    expected = pb.cross_entropy(LOGITS, LABELS).item()
    assert pb.cross_entropy(LOGITS, LABELS.astype(dtype)).item() == expected
    assert pb.cross_entropy(LOGITS, LABELS.tolist()).item() == expected


def test_the_mean_of_no_rows_is_zero_and_pulls_zeros_without_a_warning():
    for logits, labels, options in (
        (LOGITS, np.full(6, 2), {"ignore_index": 2}),
        (LOGITS, np.full(6, -1), {"ignore_index": -1, "label_smoothing": 0.1, "class_weights": WEIGHTS}),
        (LOGITS[:0], LABELS[:0], {}),
    ):
        out, gradient = pb.value_and_grad(lambda x, y=labels, o=options: pb.cross_entropy(x, y, **o))(logits)
        assert out.item() == 0.0
        np.testing.assert_array_equal(gradient.numpy(), np.zeros_like(logits))
    empty = np.zeros((0, 3))
    assert pb.mse_loss(empty, empty).item() == 0.0
    assert pb.grad(pb.mse_loss)(empty, empty).shape == (0, 3)


def test_an_ignored_row_may_have_a_class_of_no_probability():
    logits = np.array([[-np.inf, 0.0, 0.0], [1.0, 2.0, 3.0]])
    out, gradient = pb.value_and_grad(lambda x: pb.cross_entropy(x, [7, 2], ignore_index=7))(logits)
    np.testing.assert_allclose(out.numpy(), -special.log_softmax([1.0, 2.0, 3.0])[2])
    np.testing.assert_array_equal(gradient.numpy()[0], 0.0)


def test_the_hessian_of_cross_entropy_is_diag_p_minus_p_p():
    x = LOGITS[0]
    p = special.softmax(x)
    np.testing.assert_allclose(
        pb.hessian(lambda x: pb.cross_entropy(x, 2))(x).numpy(), np.diag(p) - np.outer(p, p), atol=1e-14
    )


def test_cross_entropy_is_one_equation_that_keeps_the_softmax_and_the_labels_alone():
    logits = pb.tensor(LOGITS.astype(np.float32), requires_grad=True)
    loss = pb.cross_entropy(logits, LABELS)
    assert loss.node.op.name == "cross_entropy"
    assert loss.node.parents[0] is logits.node
    kept = [x for x in loss.node.saved if isinstance(x, np.ndarray)]
    assert sorted((x.shape, x.dtype.name) for x in kept) == [((6,), "int64"), ((6, 5), "float32")]


def test_targets_of_integers_and_booleans_take_the_dtype_of_the_predictions():
    x = np.array([0.5, -1.0], np.float32)
    for targets in (np.array([1, 0]), np.array([True, False])):
        for loss in (pb.mse_loss, pb.l1_loss, pb.huber_loss, pb.binary_cross_entropy_with_logits):
            out, gradient = pb.value_and_grad(loss)(x, targets)
            assert (out.dtype, gradient.dtype) == (np.float32, np.float32)
            assert out.item() == loss(x, targets.astype(np.float32)).item()


def test_one_hot_is_rows_of_the_identity():
    np.testing.assert_array_equal(pb.one_hot([[2, 0]], 3).numpy(), [[[0, 0, 1], [1, 0, 0]]])
    assert pb.one_hot([1], 2).dtype == np.float32
    assert pb.one_hot(1, 2, dtype="int8").dtype == np.int8
    assert pb.one_hot(np.zeros((0,), int), 4).shape == (0, 4)
    with pytest.raises(errors.IndexingError, match=r"label 3 .* 3 classes"):
        pb.one_hot([0, 3], 3)


# --- wrong arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "kind", "message"),
    [
        ((LOGITS, [0, 1, 2, 3, 4, 5]), errors.IndexingError, r"label 5 \(number 5\) .* 5 classes.* 0 to 4"),
        ((LOGITS, [0, -1, 2, 3, 4, 4]), errors.IndexingError, r"label -1 \(number 1\)"),
        ((LOGITS, LABELS.astype(float)), errors.DtypeError, r"float64.*astype\('int64'\)"),
        ((LOGITS, np.array([0, 1, np.nan, 1, 1, 1])), errors.NonFiniteError, "labels hold NaN; drop"),
        ((LOGITS, LABELS > 1), errors.DtypeError, "bool"),
        ((LOGITS, LABELS[:5]), errors.ShapeError, r"\(6, 5\) beside labels of shape \(5,\)"),
        ((LOGITS, LABELS[:, None]), errors.ShapeError, "last axis"),
        ((LOGITS, np.eye(5, dtype=int)[LABELS]), errors.ShapeError, "argmax"),
        ((np.zeros((2, 5, 7)), np.zeros((2, 7), int)), errors.ShapeError, "moveaxis"),
        ((np.zeros((2, 0)), [0, 0]), errors.ShapeError, "classes"),
        ((np.zeros((2, 3), int), [0, 0]), errors.DtypeError, "logits holds int64"),
        ((LOGITS, LABELS, 1.5), errors.ArgumentError, "label_smoothing"),
        ((LOGITS, LABELS, 0.0, None, np.ones(4)), errors.ShapeError, "class_weights"),
        ((LOGITS, LABELS, 0.0, None, None, "average"), errors.ArgumentError, "reduction is one of 'mean'"),
    ],
)
def test_what_cross_entropy_cannot_take_is_named(args, kind, message):
    with pytest.raises(kind, match=message) as caught:
        pb.cross_entropy(*args)
    assert str(caught.value).startswith("cross_entropy: ")


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "huber_loss", "binary_cross_entropy_with_logits", "kl_div"])
def test_shapes_that_would_broadcast_are_refused(name):
    with pytest.raises(errors.ShapeError, match=r"one shape.*\(4, 1\).*\(4,\)"):
        loss_of(name)(np.ones((4, 1)), np.ones(4))
    with pytest.raises(errors.DtypeError, match="holds int64; convert"):
        loss_of(name)(np.ones(4, int), np.ones(4, int))
    with pytest.raises(errors.ArgumentError, match=r"'mean', 'sum', 'none'.*got 'batchmin'"):
        loss_of(name)(np.ones(4), np.ones(4), reduction="batchmin")


def test_batchmean_is_known_to_kl_div_alone():
    with pytest.raises(errors.ArgumentError, match="batchmean"):
        pb.mse_loss(np.ones(4), np.ones(4), "batchmean")


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        ([1, 0, 1], errors.ArgumentError, r"number 1 is 0\. From labels 0 and 1 make 2 \* labels - 1"),
        ([1.0, -1.0, 0.5], errors.ArgumentError, r"number 2 is 0\.5"),
        ([1.0, np.nan, 1.0], errors.NonFiniteError, r"labels\[1\] is NaN"),
    ],
)
def test_labels_of_the_logistic_loss_are_signs(labels, kind, message):
    with pytest.raises(kind, match=message):
        pb.logistic_loss(np.zeros(3), labels)


@pytest.mark.parametrize("delta", [0.0, -1.0, np.nan])
def test_the_bend_of_the_huber_loss_is_positive(delta):
    with pytest.raises(errors.ArgumentError, match=re.escape(f"got {delta!r}")):
        pb.huber_loss(np.zeros(2), np.zeros(2), delta)


def test_weights_of_a_loss_are_constants_and_asking_for_their_derivative_says_so():
    weights = pb.tensor(WEIGHTS, requires_grad=True)
    with pytest.raises(errors.RuleError, match="constants"):
        pb.cross_entropy(LOGITS, LABELS, class_weights=weights).backward()
    with pytest.raises(errors.RuleError, match="constants"):
        pb.binary_cross_entropy_with_logits(X, U, pos_weight=pb.tensor(2.0, requires_grad=True)).backward()
