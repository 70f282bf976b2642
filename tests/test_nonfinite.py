"""`detect_nonfinite`: what made a NaN or an infinity is named, in all ways of differentiating, and nothing else is."""

import asyncio
import gc
import inspect
import re
import threading
from pathlib import Path

import emulator
import numpy as np
import pytest
import stand_in_cupy

import pullback as pb
from pullback.backends import backend_for
from pullback.core.recording import observe

HERE = inspect.getsourcefile(lambda: None)


@pytest.fixture(autouse=True)
def _quiet():
    """NumPy's own warnings of the numbers that these tests are about are errors here."""
    with np.errstate(all="ignore"):
        yield


def found(f, *args):
    """The message of the error that `f` raises in the context."""
    with pytest.raises(pb.errors.NonFiniteError) as caught, pb.detect_nonfinite():
        f(*args)
    return str(caught.value)


def line_of(text):
    """Where in this file the one line with `text` stands."""
    lines = Path(HERE).read_text().splitlines()
    numbers = [i for i, line in enumerate(lines, 1) if text in line and "line_of(" not in line]
    assert len(numbers) == 1, numbers
    return f"{HERE}:{numbers[0]}: "


def leaf(*numbers, dtype="float64"):
    return pb.tensor(np.array(numbers, dtype), requires_grad=True)


# --- what is named ----------------------------------------------------------------------------------------------------


def test_a_forward_op_is_named_with_its_line_its_operands_and_the_place():
    x = leaf(1.0, 0.0, 2.0)

    def step():
        y = pb.log(x)  # the culprit
        pb.sum(pb.exp(y) + y).backward()

    text = found(step)
    assert "0 NaN and 1 infinite numbers, made by log in the forward pass" in text
    assert "at " + line_of("# the culprit") + "y = pb.log(x)" in text
    assert "x: shape (3,) float64, min 0, max 2, 0 NaN, 0 infinite" in text
    assert "out: shape (3,) float64, min 0, max 0.693147, 0 NaN, 1 infinite" in text
    assert "first at [1]: x = 0.0, out = -inf" in text


def test_a_backward_op_is_named_and_no_gradient_is_written():
    x, z = leaf(1.0, 0.0), leaf(3.0, 4.0)
    z.grad = [1.0, 1.0]
    text = found(lambda: pb.sum(pb.sqrt(x) * z).backward())
    assert "made by sqrt in the backward pass" in text
    assert "cotangent of x: shape (2,) float64, min 1.5, max 1.5, 0 NaN, 1 infinite" in text
    assert x.grad is None
    np.testing.assert_array_equal(z.grad.numpy(), [1.0, 1.0])


def test_the_module_is_named_as_its_parameters_are():
    class Scores(pb.nn.Module):
        def __init__(self):
            self.net = pb.nn.MLP([2, 3, 3, 1], activation="relu", generator=pb.random.Generator(0))
            self.heads = {"scale": Scale()}

        def forward(self, x):
            return self.heads["scale"](self.net(x))

    class Scale(pb.nn.Module):
        def forward(self, x):
            return pb.log(x * 0.0)  # in a module

    model = Scores()
    text = found(lambda: pb.sum(model(np.ones((4, 2), "float32"))).backward())
    assert "made by log" in text
    assert "in layer heads.scale (Scale in Scores)" in text
    assert line_of("# in a module") in text
    model.net.layers[1].weight.data[0, 0] = np.nan
    text = found(lambda: pb.sum(model.net(np.ones((4, 2), "float32"))).backward())
    assert "in layer layers.1 (Linear in MLP)" in text
    text = found(lambda: pb.sum(model.apply({}, np.ones((4, 2), "float32"))).backward())
    assert "in layer net.layers.1 (Linear in Scores)" in text


def test_what_came_from_outside_is_not_blamed_on_an_op():
    x = leaf(1.0, 2.0)
    text = found(lambda: pb.sum(x * np.array([np.nan, 1.0])).backward())
    assert "met by multiply in its input y" in text
    assert "no recorded op made it" in text


def test_the_first_of_many_is_meant():
    x = leaf(0.0, 1.0)

    def step():
        a = pb.log(x)
        b = pb.exp(-a)
        pb.sum(b * pb.sin(b)).backward()

    assert "made by log in the forward pass" in found(step)


def test_a_value_that_was_infinite_and_harmless_until_the_derivative_is_the_one_that_is_named():
    """The arc tangent of infinity is finite and its slope is 0, which meets infinity in the product."""
    x = leaf(800.0, 1.0)

    def step():
        y = pb.exp(x)
        pb.sum(pb.atan(y * y)).backward()

    text = found(step)
    assert "made by exp in the forward pass" in text
    assert "then derivatives that are not, in the backward pass of multiply" in text


def test_a_mask_of_infinities_that_leaves_no_trace_is_no_error():
    x = pb.tensor([[1.0, -1.0, 2.0]], requires_grad=True)
    with pb.detect_nonfinite():
        scores = pb.where(np.array([True, False, True]), x, -np.inf)
        pb.sum(pb.nn.softmax(scores) ** 2).backward()
        del scores
    assert np.isfinite(x.grad.numpy()).all()


def test_too_large_for_the_dtype_is_told_from_a_singularity():
    text = found(lambda: pb.sum(pb.exp(leaf(3.0, 12.0, dtype="float16"))).backward())
    assert "in float64 it is finite, up to 1.63e+05: too much for float16" in text
    text = found(lambda: pb.sum(pb.log(leaf(3.0, 0.0, dtype="float16"))).backward())
    assert "in float64 it is finite" not in text
    w = leaf(300.0, 300.0, dtype="float16")
    text = found(lambda: pb.sum(w * np.float16(0.01) * w * np.float16(300) * w).backward())
    assert "too much for float16" in text


def test_a_slope_too_large_for_the_dtype_is_told_from_a_singularity():
    x = leaf(1e-5, 1.0, dtype="float16")
    text = found(lambda: pb.sum(pb.log(x) * np.float16(2)).backward())
    assert "made by log in the backward pass" in text
    assert "in float64 it is finite" in text


def test_a_sum_of_finite_cotangents_may_be_what_is_too_large():
    x = leaf(1.0, dtype="float16")
    y = pb.concat([x * 4e4, x * 4e4])
    text = found(y.backward, np.ones(2, "float16"))
    assert "made by multiply in the backward pass" in text
    assert "sum of cotangents of x: shape (1,) float16, no finite number, 0 NaN, 1 infinite" in text


def test_the_cotangent_that_is_given_may_be_the_cause():
    x = leaf(1.0, 2.0)
    assert "the cotangent that the walk starts from" in found(lambda: (2.0 * x).backward([np.nan, 1.0]))
    assert "the tangent that the walk starts from" in found(
        lambda: pb.jvp(pb.exp, (np.ones(1),), (np.array([np.inf]),))
    )


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_dtype_is_looked_at(dtype):
    text = found(lambda: pb.sum(pb.log(leaf(1.0, 0.0, dtype=dtype))).backward())
    assert f"shape (2,) {dtype}" in text
    text = found(lambda: pb.sum(pb.sqrt(leaf(1.0, 0.0, dtype=dtype))).backward())
    assert "made by sqrt in the backward pass" in text


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_large_and_finite_is_not_taken_for_infinite(dtype):
    largest = float(np.finfo(dtype).max)
    with pb.detect_nonfinite():
        x = leaf(largest, -largest, dtype=dtype)
        (x * 1.0).backward(np.full(2, largest, dtype))
    np.testing.assert_array_equal(x.grad.numpy(), np.full(2, largest, dtype))
    assert not backend_for("cpu").nonfinite([x.data, x.data[::-1]])
    assert backend_for("cpu").nonfinite([x.data, np.array([1, np.nan], dtype)])
    assert backend_for("cpu").nonfinite([np.array([1, 2, 3, -np.inf], dtype)[1::2]])


# --- every way of differentiating -------------------------------------------------------------------------------------


def root(x):
    return pb.sum(pb.sqrt(x))


def test_transforms_are_looked_at():
    x = np.array([0.0, 1.0])
    assert "made by sqrt in the backward pass" in found(pb.grad(root), x)
    assert "made by sqrt in the backward pass" in found(lambda: pb.vjp(pb.sqrt, x)[1](np.ones(2)))
    assert "made by sqrt in the forward-mode pass" in found(lambda: pb.jvp(pb.sqrt, (x,), (np.ones(2),)))
    with pb.no_grad():
        assert "made by sqrt in the backward pass" in found(pb.grad(root), x)


def test_forward_over_reverse_and_reverse_over_reverse_are_looked_at():
    """The gradient of x^1.5 is finite at 0, its Hessian is not."""

    def f(x):
        return pb.sum(x**1.5)

    x = np.array([0.0, 1.0])
    with pb.detect_nonfinite():
        pb.grad(f)(x)
    text = found(lambda: pb.hvp(f, (x,), (np.ones(2),)))
    assert "made by pow in the forward-mode pass" in text
    assert re.search(r"at .*test_nonfinite.py:\d+: text = found\(lambda: pb.hvp", text)
    text = found(lambda: pb.grad(lambda x: pb.sum(pb.grad(f)(x)))(x))
    assert "made by pow in the backward pass" in text


def test_inside_of_checkpoints_the_op_is_named():
    @pb.checkpoint
    def part(x):
        return pb.sum(pb.log(x * 2.0))  # inside the checkpoint

    @pb.checkpoint
    def slope(x):
        return root(x * 2.0)

    for f, told in ((part, "made by log in the forward pass"), (slope, "made by sqrt in the backward pass")):
        x = leaf(1.0, 0.0)
        text = found(lambda f=f, x=x: f(x * 1.0).backward())
        assert told in text
        assert x.grad is None
        assert told in found(pb.grad(pb.checkpoint(lambda x, f=f: f(x) * 2.0)), np.array([1.0, 0.0]))
    assert line_of("# inside the checkpoint") in found(lambda: part(leaf(0.0)).backward())
    with pb.detect_nonfinite():
        part(leaf(1.0, 2.0)).backward()


def test_custom_rules_are_named_as_their_function():
    def half(x):
        return x * 0.5

    bad = pb.custom_rule(half, vjp=lambda g, out, x: (g / (x - x),))
    assert "made by half in the backward pass" in found(lambda: pb.sum(bad(leaf(1.0, 2.0))).backward())

    def explode(x):
        return x / 0.0

    only_pushed = pb.custom_rule(explode, jvp=lambda t, out, x: t[0])
    assert "made by explode in the forward pass" in found(lambda: pb.jvp(only_pushed, (np.ones(2),), (np.ones(2),)))


def test_a_tape_from_before_the_context_is_walked_as_well():
    x = leaf(0.0, 1.0)
    y = pb.sum(pb.sqrt(x))
    text = found(y.backward)
    assert "made by sqrt in the backward pass" in text
    assert "recorded before detect_nonfinite began" in text


def test_a_long_tape_is_searched_in_no_deep_recursion():
    def long(x):
        for _ in range(3000):
            x = x + 1.0
        return x

    x = leaf(0.0, 1.0)
    before = long(x)
    whole = pb.sum(long(pb.sqrt(long(x) * 0.0)))
    assert "made by sqrt in the backward pass" in found(lambda: pb.sum(long(pb.sqrt(before * 0.0))).backward())
    assert "made by sqrt in the backward pass" in found(whole.backward)


def test_a_retained_tape_can_be_pulled_again_after_the_error():
    x = leaf(0.0, 1.0)
    y = pb.sqrt(x)
    found(lambda: y.backward([1.0, 1.0], retain=True))
    with pb.detect_nonfinite():
        y.backward([0.0, 1.0])
    np.testing.assert_array_equal(x.grad.numpy(), [0.0, 0.5])


# --- without a walk ---------------------------------------------------------------------------------------------------


def test_values_that_are_still_held_are_looked_at_when_the_context_ends():
    x, kept = leaf(1.0, -1.0), []
    text = found(lambda: kept.append(pb.exp(pb.log(x))))
    assert "1 NaN and 0 infinite numbers, made by log in the forward pass" in text
    with pb.detect_nonfinite():
        pb.log(x)  # nobody holds it
        with pb.no_grad():
            kept.append(pb.log(x))


def test_another_error_in_the_context_is_not_hidden():
    x, kept = leaf(0.0), []
    with pytest.raises(ZeroDivisionError), pb.detect_nonfinite():
        kept.append(1 / 0 if kept.append(pb.log(x)) is None else None)


def test_it_does_not_turn_recording_on():
    with pb.no_grad(), pb.detect_nonfinite():
        assert (leaf(1.0) * 2.0).node is None
    with pb.detect_nonfinite():
        assert (leaf(1.0) * 2.0).node is not None


# --- what is watched, and what it keeps -------------------------------------------------------------------------------


def test_records_live_as_long_as_the_tape():
    x = leaf(1.0, 2.0)
    with pb.detect_nonfinite() as watch:
        y = pb.exp(x) * x
        assert len(watch.known) == 2
        pb.sum(y).backward()
        assert len(watch.known) == 1  # y is held, its tape is freed
        del y
        gc.collect()
        assert len(watch.known) == 0
        for _ in range(3):
            pb.sum(pb.exp(x))
        assert len(watch.known) == 0


def test_one_walk_takes_one_flag_however_many_ops_it_has(monkeypatch):
    backend, calls = backend_for("cpu"), []
    plain = backend.nonfinite
    monkeypatch.setattr(backend, "nonfinite", lambda arrays: calls.append(len(arrays)) or plain(arrays))
    model = pb.nn.MLP([4] * 12, activation="tanh", generator=pb.random.Generator(0))
    with pb.detect_nonfinite():
        for _ in range(3):
            pb.mean(model(np.ones((2, 4), "float32")) ** 2).backward()
    assert calls == [1 + len(model.parameters())] * 3


def test_another_observer_sees_what_it_saw_before():
    def names(*contexts):
        seen = []
        with observe(lambda e, _, value: seen.append(e.op.name)):
            for context in contexts:
                context.__enter__()
            pb.sum(pb.exp(leaf(1.0))).backward()
            for context in contexts:
                context.__exit__(None, None, None)
        return seen

    assert names(pb.detect_nonfinite()) == names(pb.detect_nonfinite(), pb.detect_nonfinite()) == names()


def test_other_threads_are_not_watched_and_each_may_watch_itself():
    outcomes = {}

    def step(name, watch):
        x = leaf(0.0, 1.0)
        try:
            if watch:
                with pb.detect_nonfinite():
                    pb.sum(pb.sqrt(x)).backward()
            else:
                pb.sum(pb.sqrt(x)).backward()
            outcomes[name] = x.grad.numpy()[0]
        except pb.errors.NonFiniteError as error:
            outcomes[name] = "sqrt" in str(error)

    with pb.detect_nonfinite():
        threads = [threading.Thread(target=step, args=(i, i % 2)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert outcomes == {i: bool(i % 2) or np.inf for i in range(6)}


def test_tasks_of_one_context_do_not_disturb_each_other():
    async def step(number):
        x = leaf(number, 1.0)
        y = pb.sqrt(x)
        await asyncio.sleep(0)
        try:
            pb.sum(y).backward()
        except pb.errors.NonFiniteError:
            return "caught"
        return x.grad.numpy()[0]

    async def both():
        return await asyncio.gather(step(0.0), step(4.0))

    with pb.detect_nonfinite():
        assert asyncio.run(both()) == ["caught", 0.25]


def test_a_training_run_is_the_same_inside():
    def run(watch):
        model = pb.nn.MLP([3, 8, 2], activation="gelu", generator=pb.random.Generator(0))
        adam = pb.optim.Adam(model.parameters(), lr=0.01)
        x = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
        labels = (x[:, 0] > 0).astype("int64")
        for _ in range(5):
            with pb.detect_nonfinite() if watch else pb.no_grad(), pb.core.recording.enable_recording():
                loss = pb.nn.cross_entropy(model(x), labels)
                adam.zero_grad()
                loss.backward()
            adam.step()
        return model.state_dict()

    for a, b in zip(run(True).values(), run(False).values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_both_checks_may_be_on_and_shapes_without_numbers_pass():
    with pb.detect_nonfinite(), pb.no_jacobian(), pb.detect_nonfinite():
        for device in ("cpu", "meta"):
            x = pb.tensor(np.ones((3, 2)), device=device, requires_grad=True)
            pb.sum(pb.checkpoint(pb.tanh)(x) * pb.sqrt(x)).backward()
            assert x.grad.shape == (3, 2)
    with pb.no_jacobian():
        assert "made by sqrt in the backward pass" in found(lambda: pb.sum(pb.sqrt(leaf(0.0, 1.0))).backward())


# --- on a device ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernels_on", [False, True])
def test_on_a_device_a_pull_reads_one_number(kernels_on):
    if kernels_on and emulator.missing() is not None:
        pytest.skip(str(emulator.missing()))
    with stand_in_cupy.device(kernels_on):

        def step(number):
            x, y = (
                pb.tensor([number, 1.0], dtype=d, device="cuda", requires_grad=True) for d in ("float32", "float64")
            )
            pb.sum(pb.sqrt(x) * 2.0 * pb.cos(y)).backward()
            return x

        with stand_in_cupy.watched() as bare:
            step(4.0)
        with stand_in_cupy.watched() as work, pb.detect_nonfinite():
            x = step(4.0)
        assert np.isfinite(x.grad.numpy()).all()
        reads = [sum(w.kind == "download" for w in log) for log in (bare, work)]
        assert reads[1] - reads[0] == 1
        assert "made by sqrt in the backward pass" in found(step, 0.0)
