"""Optimizers against their formulas written out number by number, and what they do to the arrays."""

import threading

import array_api_strict
import numpy as np
import pytest
from optim_cases import MAKERS, each_optimizer, flat, give_gradients, leaves, map_shapes, numbers, same
from strict_backend import StrictBackend
from traced_memory import traced_memory

import pullback as pb
from pullback import trees
from pullback.backends import BACKENDS, Backend, numpy_updates
from pullback.errors import (
    DeviceError,
    MutationError,
)
from pullback.optim import optimizer as optimizer_module

# --- formulas ---------------------------------------------------------------------------------------------------------


def textbook(p, gradients, kind, lr, betas=(0.9, 0.999), eps=1e-8, decay=0.0, momentum=0.0, dampening=0.0):
    """The numbers of one parameter after all steps, as the papers write the steps."""
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(gradients, 1):
        if kind != "adamw":
            g = g + decay * p
        if kind in ("sgd", "nesterov"):
            m = g if t == 1 else momentum * m + (1 - dampening) * g
            p = p - lr * (g + momentum * m if kind == "nesterov" else m)
            continue
        if kind == "adamw":
            p = p - lr * decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        p = p - lr * (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
    return p


FORMULAS = {
    "sgd": {"kind": "sgd", "lr": 0.1},
    "momentum": {"kind": "sgd", "lr": 0.1, "momentum": 0.9, "decay": 0.01},
    "nesterov": {"kind": "nesterov", "lr": 0.1, "momentum": 0.9},
    "dampened": {"kind": "sgd", "lr": 0.1, "momentum": 0.8, "dampening": 0.3},
    "adam": {"kind": "adam", "lr": 0.01, "decay": 0.1},
    "adamw": {"kind": "adamw", "lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-3, "decay": 0.01},
}


@pytest.mark.parametrize("name", MAKERS)
def test_steps_follow_the_textbook(name):
    params = leaves()
    start = numbers(params)
    optimizer = MAKERS[name](params)
    gradients = []
    for step in range(12):
        give_gradients(params, step)
        gradients.append([x.grad.numpy().copy() for x in flat(params)])
        optimizer.step()
    for i, (p, x) in enumerate(zip(start, flat(params), strict=True)):
        expected = textbook(p, [g[i] for g in gradients], **FORMULAS[name])
        np.testing.assert_allclose(x.numpy(), expected, rtol=1e-12, atol=1e-13)


@each_optimizer
def test_float32_and_float16_stay_what_they_are(make):
    expected = leaves()
    reference = make(expected)
    for dtype, tolerance in (("float32", 1e-5), ("float16", 2e-2)):
        params = leaves(dtype=dtype)
        optimizer = make(params)
        for step in range(5):
            give_gradients(params, step)
            optimizer.step()
            if dtype == "float32":
                give_gradients(expected, step)
                reference.step()
        for x, e in zip(flat(params), flat(expected), strict=True):
            assert x.dtype == dtype
            np.testing.assert_allclose(x.numpy().astype("float64"), e.numpy(), rtol=tolerance, atol=tolerance)


def test_the_state_of_float16_parameters_does_not_overflow():
    x = pb.tensor(np.zeros(3), dtype="float16", requires_grad=True)
    optimizer = pb.optim.Adam([x], lr=1.0)
    x.grad = np.full(3, 3e4)  # its square is no float16
    optimizer.step()
    np.testing.assert_allclose(x.numpy(), -1.0, rtol=1e-3)


@pytest.mark.parametrize("xp", [np, array_api_strict], ids=["numpy", "array_api_strict"])
@pytest.mark.parametrize("size", [0, 1, 7, 8, 21])
def test_chunks_give_what_the_plain_formulas_give(monkeypatch, xp, size):
    """The plain formulas need nothing but the standard; NumPy's chunks of 8 numbers give the same bits."""
    monkeypatch.setattr(numpy_updates, "CHUNK", 8)
    monkeypatch.setattr(numpy_updates, "_scratch", threading.local())
    rng = np.random.default_rng(size)
    arrays = [rng.standard_normal(size) for _ in range(3)] + [rng.uniform(0, 1, size)]
    adam = {"rate": 0.1, "betas": (0.9, 0.99), "eps": 1e-3}
    sgd = {"rate": 0.1, "momentum": 0.5}
    cases = [(True, {**adam, "decay": d, "shrink": s}) for d, s in ((0.0, 1.0), (0.2, 1.0), (0.0, 0.9))]
    cases += [
        (False, {**sgd, "decay": d, "dampening": c, "nesterov": n})
        for d, c, n in ((0.0, 0.0, False), (0.2, 0.3, False), (0.1, 0.0, True))
    ]
    backend = Backend()
    backend.name, backend.xp = "here", xp
    for is_adam, options in cases:
        for velocity in (True,) if is_adam else (True, False):
            chunked, plain = [[a.copy() for a in arrays] for _ in range(2)]
            standard = [xp.asarray(a, copy=True) for a in plain]
            if is_adam:
                numpy_updates.update_adam([(*chunked, None)], **options)
                Backend.update_adam(backend, [(*standard, None)], **options)
            else:
                numpy_updates.update_sgd([(*chunked[:2], chunked[2] if velocity else None, None)], **options)
                Backend.update_sgd(backend, [(*standard[:2], standard[2] if velocity else None, None)], **options)
            for a, b in zip(chunked, standard, strict=True):
                np.testing.assert_allclose(a, np.asarray(b), rtol=1e-13, atol=1e-15)
            same([chunked[1]], [arrays[1]])  # a gradient is only read


@each_optimizer
def test_packs_change_no_bit(monkeypatch, make):
    """Each parameter alone, all in one pack, and the usual mixture give the same numbers."""
    runs = []
    for alone in (1, 1 << 15, 1 << 30):
        monkeypatch.setattr(optimizer_module, "ALONE", alone)
        params = leaves(dtype="float32")
        optimizer = make(params)
        for step in range(4):
            give_gradients(params, step)
            optimizer.step()
        runs.append(numbers(params))
    same(runs[0], runs[1])
    same(runs[0], runs[2])


# --- which gradients --------------------------------------------------------------------------------------------------


@each_optimizer
def test_gradients_of_backward_and_of_grad_give_the_same_steps(make):
    x = np.random.default_rng(0).standard_normal((5, 3))

    def loss(params):
        return pb.mean((x @ params["w"] + params["b"]) ** 2)

    def start():
        rng = np.random.default_rng(1)
        return map_shapes(lambda s: pb.tensor(rng.standard_normal(s), requires_grad=True), {"w": (3, 2), "b": 2})

    stepped, functional = start(), start()
    by_backward, by_grad = make(stepped), make(functional)
    for _ in range(5):
        by_backward.zero_grad()
        loss(stepped).backward()
        by_backward.step()
        by_grad.step(pb.grad(loss)(functional))
    same(numbers(stepped), numbers(functional))
    assert all(x.grad is None for x in functional.values())


@each_optimizer
def test_parameters_without_a_gradient_are_passed_by(make):
    """Whatever the pattern, each parameter goes as if it were alone with the steps in which it has a gradient."""
    together = [pb.tensor(np.full(3, float(i)), requires_grad=True) for i in range(4)]
    alone = [pb.tensor(np.full(3, float(i)), requires_grad=True) for i in range(4)]
    optimizer, each = make(together), [make([x]) for x in alone]
    patterns = [(0, 1), (0, 1), (1, 2), (0, 1, 2), (2,), (0, 1, 2), (1, 2, 0)]
    for step, active in enumerate(patterns):
        optimizer.zero_grad()
        for i in active:
            together[i].grad = alone[i].grad = np.random.default_rng(step).standard_normal(3)
            each[i].step()
        optimizer.step()
    same([x.numpy() for x in together], [x.numpy() for x in alone])
    assert optimizer.state_dict()["parameters"]["3"] == {"age": 0, "state": {}}
    assert optimizer.steps == len(patterns)


def test_given_gradients_may_leave_parameters_out_and_need_no_order():
    params = leaves()
    before = numbers(params)
    optimizer = pb.optim.SGD(params, lr=1.0)
    optimizer.step({"scale": 2.0, "layer": {"bias": np.ones(4), "weight": None}})
    same([params["layer"]["weight"].numpy()], [before[0]])
    np.testing.assert_allclose(params["layer"]["bias"].numpy(), before[1] - 1)
    np.testing.assert_allclose(params["scale"].numpy(), before[2] - 2)


@pytest.mark.parametrize(
    "params",
    [lambda a, b: [a, b], lambda a, b: (a, b), lambda a, b: {"a": a, "b": b}, lambda a, b: iter([a, b]),
     lambda a, b: {"a": a, "b": b}.values(), lambda a, b: [{"x": [a]}, b]],
)  # fmt: skip
def test_parameters_come_in_any_container(params):
    a, b = pb.tensor([1.0], requires_grad=True), pb.tensor([2.0], requires_grad=True)
    optimizer = pb.optim.SGD(params(a, b), lr=1.0)
    (a * b).sum().backward()
    optimizer.step()
    assert (a.item(), b.item()) == (-1.0, 1.0)


def test_a_single_tensor_is_a_parameter():
    x = pb.tensor([3.0], requires_grad=True)
    optimizer = pb.optim.SGD(x, lr=0.5)
    optimizer.step(np.float32([2.0]))
    assert x.item() == 2.0


# --- arrays under the optimizer's feet --------------------------------------------------------------------------------


@each_optimizer
def test_what_happens_to_the_arrays_between_steps_is_seen(make):
    """assign_, arrays that are replaced, and a second optimizer, against the same numbers without packs."""

    def run(change):
        params = leaves()
        optimizer = make(params)
        for step in range(3):
            give_gradients(params, step)
            optimizer.step()
        change(params)
        give_gradients(params, 3)
        optimizer.step()
        return numbers(params)

    def replace(params):
        for x in flat(params):
            x.data = (x.data + 1).copy()

    def assign(params):
        for x in flat(params):
            x.assign_(x.numpy() + 1)

    def repack(params):
        assign(params)
        other = pb.optim.SGD(params, lr=0.0)
        give_gradients(params, 0)
        other.step()

    expected = run(replace)
    same(run(assign), expected)
    same(run(repack), expected)


@each_optimizer
def test_a_change_of_dtype_takes_the_state_along(make):
    narrow, wide = leaves(dtype="float32"), leaves(dtype="float32")
    optimizers = make(narrow), make(wide)
    for step in range(3):
        for params, optimizer in zip((narrow, wide), optimizers, strict=True):
            give_gradients(params, step)
            optimizer.step()
    for x in flat(wide):
        x.data = x.data.astype("float64")
    for step in range(3, 6):
        for params, optimizer in zip((narrow, wide), optimizers, strict=True):
            give_gradients(params, step)
            optimizer.step()
    for a, b in zip(flat(narrow), flat(wide), strict=True):
        assert b.dtype == "float64"
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:You are comparing a array_api_strict dtype")  # where devices meet
@each_optimizer
def test_optimizers_need_nothing_beyond_the_standard_and_follow_to_another_device(make):
    """Three steps on the CPU, three on array_api_strict, and three on the CPU again are nine on the CPU."""
    params, expected = leaves(), leaves()
    optimizer, reference = make(params), make(expected)
    for step in range(9):
        device = StrictBackend.name if 3 <= step < 6 else "cpu"
        for x in flat(params):
            x.data = x.detach().to(device).data
        give_gradients(expected, step)
        for x, e in zip(flat(params), flat(expected), strict=True):
            x.grad = e.grad.to(device)
        norms = [pb.optim.clip_grad_norm(tree, 20.0).item() for tree in (params, expected)]
        assert norms[0] == pytest.approx(norms[1], rel=1e-6)
        optimizer.step(error_if_nonfinite=True)
        reference.step()
        assert all(x.device == device for x in flat(params))
    for x, e in zip(flat(params), flat(expected), strict=True):
        np.testing.assert_allclose(x.numpy(), e.numpy(), rtol=1e-6, atol=1e-7)


@pytest.mark.filterwarnings("ignore:You are comparing a array_api_strict dtype")
def test_a_gradient_on_another_device_is_refused():
    params = leaves()
    optimizer = pb.optim.SGD(params)
    with pytest.raises(DeviceError, match=r"'scale' is on cpu.*strict"):
        optimizer.step({"scale": pb.tensor(1.0, dtype="float64", device=StrictBackend.name)})


def test_read_only_and_strided_parameters_are_trained_and_foreign_memory_is_not_written():
    rows = np.arange(12.0).reshape(3, 4)
    kept = rows.copy()
    fixed = np.broadcast_to(2.0, (3,))
    a, b = pb.tensor(rows.T, requires_grad=True), pb.Tensor(fixed, pb.tensor(0.0, requires_grad=True).node)
    c = pb.Tensor(rows[:, 1], pb.tensor(0.0, requires_grad=True).node)
    optimizer = pb.optim.SGD([a, b, c], lr=1.0)
    for x in (a, b, c):
        x.grad = np.ones(x.shape)
    optimizer.step()
    np.testing.assert_array_equal(a.numpy(), kept.T - 1)
    np.testing.assert_array_equal(b.numpy(), [1, 1, 1])
    np.testing.assert_array_equal(c.numpy(), kept[:, 1] - 1)
    np.testing.assert_array_equal(rows, kept)


def test_a_tape_from_before_a_step_refuses_to_be_pulled():
    w = pb.tensor([1.0, 2.0], requires_grad=True)
    optimizer = pb.optim.Adam([w])
    for _ in range(2):  # the first step packs, the second one writes in place
        loss = pb.sum(w * w)
        w.grad = np.ones(2, "float32")
        optimizer.step()
        with pytest.raises(MutationError, match="multiply"):
            loss.backward()


def test_a_gradient_is_only_read():
    params = leaves()
    optimizer = pb.optim.Adam(params, weight_decay=0.5)
    give_gradients(params, 0)
    before = [x.grad.numpy().copy() for x in flat(params)]
    optimizer.step()
    same([x.grad.numpy() for x in flat(params)], before)


def test_a_step_allocates_next_to_nothing():
    x = pb.tensor(np.zeros(1 << 20, "float32"), requires_grad=True)
    x.grad = np.ones(1 << 20, "float32")
    optimizer = pb.optim.AdamW([x])
    _, peak, _ = traced_memory(optimizer.step)
    assert peak < 50_000, peak


def test_optimizers_in_threads_do_not_disturb_each_other():
    def run(seed, results):
        x = pb.tensor(np.zeros(1 << 17), requires_grad=True)
        optimizer = pb.optim.Adam([x], weight_decay=0.1)
        for step in range(10):
            x.grad = np.random.default_rng(seed + step).standard_normal(1 << 17)
            optimizer.step()
        results[seed] = x.numpy()

    serial, parallel = {}, {}
    for seed in (0, 100):
        run(seed, serial)
    threads = [threading.Thread(target=run, args=(seed, parallel)) for seed in (0, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    same([parallel[0], parallel[100]], [serial[0], serial[100]])


def test_the_repr_says_what_is_optimized():
    assert repr(pb.optim.SGD([pb.tensor(np.ones((30, 50)), requires_grad=True)], lr=0.5)).startswith("SGD(lr=0.5, ")
    assert "1,500 parameters" in repr(pb.optim.SGD([pb.tensor(np.ones((30, 50)), requires_grad=True)]))


def test_the_backend_of_the_cpu_brings_its_own_updates():
    assert BACKENDS[np.ndarray].update_adam is numpy_updates.update_adam


@each_optimizer
def test_steps_too_small_for_16_bits_add_up_in_a_master(make):
    """The same steps in float32, rounded at the end, give the same parameters of 16 bits."""
    narrow = {"w": pb.tensor(np.linspace(1, 2, 5, dtype="float16"), requires_grad=True)}
    wide = {"w": pb.tensor(np.linspace(1, 2, 5, dtype="float16").astype("float32"), requires_grad=True)}
    few, many = make(narrow), make(wide)
    few.lr = many.lr = 1e-4  # a tenth of the distance of numbers of float16 above 1
    for _ in range(50):
        for params in (narrow, wide):
            params["w"].grad = np.full(5, 0.5)
        few.step()
        many.step()
    assert narrow["w"].dtype == np.float16
    np.testing.assert_array_equal(narrow["w"].numpy(), wide["w"].numpy().astype("float16"))
    assert (narrow["w"].numpy() != np.linspace(1, 2, 5, dtype="float16")).all()


def test_what_others_write_into_a_parameter_of_16_bits_counts_more_than_its_master():
    w = pb.tensor(np.ones(3, "float16"), requires_grad=True)
    optimizer = pb.optim.SGD([w], lr=1e-5)
    for _ in range(3):
        w.grad = np.ones(3)
        optimizer.step()
    state = optimizer.state_dict()
    w.assign_(np.array([5.0, 1.0, 6.0]))
    w.grad = np.ones(3)
    optimizer.step()
    np.testing.assert_array_equal(w.numpy(), np.array([5.0, 1.0, 6.0], "float16"))
    again = pb.tensor(np.array([7.0, 1.0, 1.0], "float16"), requires_grad=True)
    other = pb.optim.SGD([again], lr=1e-5)
    other.load_state_dict(state)  # of other numbers than the parameter has now in one place
    again.grad = np.zeros(3)
    other.step()
    np.testing.assert_array_equal(other.state_dict()["parameters"]["0"]["state"]["master"][0], np.float32(7))
    assert other.state_dict()["parameters"]["0"]["state"]["master"][1] == pytest.approx(1 - 3e-5, abs=1e-7)


@each_optimizer
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_step_with_a_nonfinite_gradient_is_skipped_if_asked(make, bad):
    params = leaves(dtype="float32")
    optimizer = make(params)
    give_gradients(params, 0)
    optimizer.step(skip_if_nonfinite=True)
    before, state = numbers(params), optimizer.state_dict()["parameters"]
    gradients = trees.map(lambda x: np.ones(x.shape, "float32"), params)
    trees.flatten(gradients)[0][-1].reshape(-1)[-1] = bad
    optimizer.step(gradients, skip_if_nonfinite=True)
    same(numbers(params), before)
    for name, entry in optimizer.state_dict()["parameters"].items():
        assert entry["age"] == state[name]["age"] + 1
        for slot, array in entry["state"].items():
            np.testing.assert_array_equal(array, state[name]["state"][slot])
    give_gradients(params, 1)
    optimizer.step(skip_if_nonfinite=True)
    assert any(not np.array_equal(a, b) for a, b in zip(numbers(params), before, strict=True))
