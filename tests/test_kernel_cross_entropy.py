"""The kernels of cross-entropy on the emulator, against the op's own body in float64."""

from typing import Any

import numpy as np
import pytest
from emulator import build, missing
from kernel_rows import CHECKED, TYPES, assert_near, body, chosen, dtype, geometries, instances, real, widths

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

TOTALS = {"float32": "pullback::cross_entropy_total<float>", "float64": "pullback::cross_entropy_total<double>"}
ALL = [*instances("cross_entropy<{}>", "cross_entropy_slope<{}>"), *TOTALS.values()]
WATCHED = [*instances("cross_entropy<{}>", "cross_entropy_slope<{}>", types=CHECKED), TOTALS["float32"]]
REDUCTIONS = {"none": 0, "sum": 1, "mean": 2}
IGNORED = -100
OPTIONS = [
    {},
    {"reduction": "sum", "label_smoothing": 0.1},
    {"reduction": "none", "ignore_index": IGNORED},
    {"ignore_index": IGNORED, "class_weights": True},
    {"reduction": "none", "label_smoothing": 0.3, "class_weights": True, "ignore_index": 2},
    {"label_smoothing": 0.2, "class_weights": True, "ignore_index": IGNORED},
    {"label_smoothing": 1.0},
]
GEOMETRY = (8, 64, 2)


def batch(name: str, rows: int, n: int, options: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Logits, labels and options; some labels are ignored where there is an ignore_index, and some weights are 0."""
    rng = np.random.default_rng(rows * n)
    logits, labels = (4 * rng.normal(size=(rows, n))).astype(dtype(name)), rng.integers(0, n, rows)
    options = dict(options)
    if options.get("ignore_index") == IGNORED:
        labels[::3] = IGNORED
    if options.get("class_weights"):
        options["class_weights"] = rng.uniform(0.5, 2.0, n).astype(real(name))
        options["class_weights"][::4] = 0
    return logits, labels, options


def arguments(labels: np.ndarray, options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """What the kernels take for labels and weights."""
    narrow = labels.dtype == np.int32
    return labels if narrow else None, None if narrow else labels, options.get("class_weights")


def settings(name: str, options: dict[str, Any]) -> tuple[Any, Any, Any]:
    ignored = options.get("ignore_index")
    return real(name)(options.get("label_smoothing", 0.0)), np.int32(ignored is not None), np.int64(ignored or 0)


def forward(
    logits: np.ndarray, labels: np.ndarray, options: dict[str, Any], width: int = 1,
    geometry: tuple[int, int, int] = GEOMETRY, order: int = 0, checked: bool = False, complaint: Any = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    name, (rows, n), (lanes, threads, blocks) = logits.dtype.name, logits.shape, geometry
    reduction = options.get("reduction", "mean")
    loss = np.full(rows if reduction == "none" else (), np.nan, logits.dtype)
    probabilities = np.full_like(logits, np.nan)
    sums, wrong, counter = np.full(2 * blocks, np.nan, real(name)), np.full(blocks, -1), np.zeros(1, np.uint32)
    build("cross_entropy.cu", WATCHED if checked else ALL, checked=checked)[chosen("cross_entropy<{}>", name, width)](
        blocks, threads, loss, probabilities, logits, *arguments(labels, options),
        np.int64(rows), np.int64(n), np.int32(lanes), *settings(name, options), np.int32(REDUCTIONS[reduction]),
        sums, wrong, counter, np.zeros(3, np.int64) if complaint is None else complaint,
        order=order, uninitialised=[loss, probabilities, sums, wrong],
    )  # fmt: skip
    assert counter[0] == 0, "the next launch finds the counter at zero"
    return loss, probabilities


def slope(
    g: Any, probabilities: np.ndarray, labels: np.ndarray, options: dict[str, Any], width: int = 1,
    geometry: tuple[int, int, int] = GEOMETRY, order: int = 0, checked: bool = False, counted_before: bool = False,
) -> np.ndarray:  # fmt: skip
    name, (rows, n), (lanes, threads, blocks) = probabilities.dtype.name, probabilities.shape, geometry
    mean = options.get("reduction", "mean") == "mean"
    dividing = mean and ("ignore_index" in options or "class_weights" in options)
    kernels, total = build("cross_entropy.cu", WATCHED if checked else ALL, checked=checked), None
    smoothing, ignoring, ignored = settings(name, options)
    if counted_before:
        total, sums, counter = np.full(1, np.nan, real(name)), np.full(blocks, np.nan, real(name)), np.zeros(1, "u4")
        kernels[TOTALS[np.dtype(real(name)).name]](
            blocks, threads, total, *arguments(labels, options), np.int64(rows), np.int64(n), ignoring, ignored,
            sums, counter, order=order, uninitialised=[total, sums],
        )  # fmt: skip
    out = np.full_like(probabilities, np.nan)
    share = real(name)(1 / rows if mean and not dividing else 1.0)
    kernels[chosen("cross_entropy_slope<{}>", name, width)](
        blocks, threads, out, probabilities, g, np.int32(g is not None and g.ndim), share, *arguments(labels, options),
        np.int64(rows), np.int64(n), np.int32(lanes), smoothing, ignoring, ignored, np.int32(dividing), total,
        order=order, uninitialised=[out],
    )  # fmt: skip
    return out


def in_float64(options: dict[str, Any]) -> dict[str, Any]:
    weights = options.get("class_weights")
    return options if weights is None else options | {"class_weights": weights.astype(np.float64)}


def cotangent(rows: int, name: str, options: dict[str, Any]) -> np.ndarray:
    rng = np.random.default_rng(9)
    return rng.normal(size=rows if options.get("reduction") == "none" else ()).astype(dtype(name))


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "default")
def test_the_loss_and_its_slope_are_what_the_body_gives_in_float64(name: str, options: dict[str, Any]) -> None:
    for rows, n in [(1, 1), (3, 5), (9, 8), (7, 40), (4, 257)]:
        logits, labels, given = batch(name, rows, n, options)
        loss, kept = body("cross_entropy", logits.astype(np.float64), labels, **in_float64(given))
        g = cotangent(rows, name, given)
        kept = kept.astype(dtype(name))
        expected = body(
            "cross_entropy_slope", g.astype(np.float64), kept.astype(np.float64), labels, **in_float64(given)
        )
        for geometry in geometries(rows, n):
            for width in widths(name, n):
                of = f"{rows} x {n}, {width} at a time, {geometry}"
                found, probabilities = forward(logits, labels, given, width, geometry)
                assert_near(found, loss, name, of)
                assert_near(probabilities, kept.astype(np.float64), name, of)
                assert_near(slope(g, kept, labels, given, width, geometry), expected, name, of)


@pytest.mark.parametrize("name", TYPES)
def test_labels_of_32_bits_and_the_cotangent_one_are_taken(name: str) -> None:
    logits, labels, options = batch(name, 7, 10, {"ignore_index": IGNORED})
    loss, kept = forward(logits, labels, options)
    assert forward(logits, labels.astype(np.int32), options)[0] == loss
    one = slope(np.ones((), dtype(name)), kept, labels, options)
    assert np.array_equal(slope(None, kept, labels.astype(np.int32), options), one)


def test_rows_counted_in_a_launch_before_give_the_same_mean() -> None:
    for name in ("float32", "float64"):
        logits, labels, options = batch(name, 50, 5, {"ignore_index": IGNORED, "class_weights": True})
        kept, g = forward(logits, labels, options)[1], cotangent(50, name, options)
        expected = slope(g, kept, labels, options)
        assert_near(slope(g, kept, labels, options, counted_before=True), expected, name)


@pytest.mark.parametrize("name", TYPES)
def test_large_and_infinite_logits_are_what_the_body_makes_of_them(name: str) -> None:
    inf, nan = np.inf, np.nan
    rows = [[1e4, -1e4, 0], [-1e4, 1e4, 0], [-inf, 1, 2], [3, -inf, 2], [inf, 0, 1], [-inf, -inf, -inf], [nan, 0, 0]]
    logits, labels = np.array(rows).astype(dtype(name)), np.array([0, 0, 0, 0, 0, 0, 1])
    for options in [{}, {"label_smoothing": 0.25}, {"ignore_index": 0}, {"class_weights": np.array([0, 1, 2.0])}]:
        options = options | {"reduction": "none"}
        with np.errstate(all="ignore"):
            loss, kept = body("cross_entropy", logits.astype(np.float64), labels, **options)
        if "class_weights" in options:
            options["class_weights"] = options["class_weights"].astype(real(name))
        for geometry in [(1, 32, 1), (4, 32, 2), (64, 64, 2)]:
            found, probabilities = forward(logits, labels, options, 1, geometry)
            assert_near(found, loss, name, str(options))
            assert_near(probabilities, kept, name)


def test_a_batch_of_ignored_rows_alone_has_the_loss_zero_and_no_slope() -> None:
    logits, _, options = batch("float32", 6, 5, {"ignore_index": 3})
    labels = np.full(6, 3)
    loss, kept = forward(logits, labels, options)
    assert loss == 0
    assert not np.any(slope(None, kept, labels, options))


@pytest.mark.parametrize("checked", [False, True])
def test_a_label_out_of_range_is_reported_and_never_read_with(checked: bool) -> None:
    logits, labels, _ = batch("float32", 9, 5, {})
    labels[3], labels[6] = 5, -(2**62)
    for order in (0, 1, 5):
        complaint = np.zeros(3, np.int64)
        loss, kept = forward(logits, labels, {}, order=order, checked=checked, complaint=complaint)
        assert np.isnan(loss)
        assert complaint.tolist() == [1 + 3, 5, 5], "the first row, the label that it has, and the classes"
    forward(logits, np.full(9, -1), {}, complaint=complaint)
    assert complaint.tolist() == [1 + 3, 5, 5], "an earlier complaint stays until it is read"

    weights = np.ones(5, np.float32)
    for options in [{}, {"class_weights": weights}]:
        options = options | {"reduction": "none"}
        losses = forward(logits, labels, options, checked=checked)[0]
        slopes = slope(np.ones(9, np.float32), kept, labels, options, checked=checked)
        for wrong in (np.isnan(losses), np.isnan(slopes).all(axis=1), np.isnan(slopes).any(axis=1)):
            assert np.flatnonzero(wrong).tolist() == [3, 6]


def test_the_order_of_threads_changes_no_bit() -> None:
    for options in (OPTIONS[0], OPTIONS[5]):
        logits, labels, given = batch("float32", 23, 40, options)
        for geometry in [(2, 64, 3), (32, 64, 5), (64, 64, 5)]:
            first, *others = [forward(logits, labels, given, 4, geometry, order) for order in (0, 1, 7)]
            assert all(np.array_equal(a, b) for other in others for a, b in zip(first, other, strict=True))
            slopes = [slope(None, first[1], labels, given, 4, geometry, order) for order in (0, 1, 7)]
            assert all(np.array_equal(slopes[0], other) for other in slopes)


@pytest.mark.parametrize("name", CHECKED)
def test_memory_races_and_initialisation_hold_in_a_checked_run(name: str) -> None:
    for options in (OPTIONS[0], OPTIONS[4], OPTIONS[5]):
        logits, labels, given = batch(name, 7, 24, options)
        g = cotangent(7, name, given)
        for geometry in [(4, 64, 2), (64, 64, 2)]:
            for width in widths(name, 24):
                expected, kept = forward(logits, labels, given, width, geometry)
                found, _ = forward(logits, labels, given, width, geometry, checked=True)
                assert np.array_equal(found, expected)
                found = slope(g, kept, labels, given, width, geometry, checked=True)
                assert np.array_equal(found, slope(g, kept, labels, given, width, geometry))
        if options is OPTIONS[5]:
            slope(g, kept, labels, given, 1, (4, 64, 2), checked=True, counted_before=True)
