"""Optimizers against their formulas written out number by number, and everything that may go wrong in a step."""

import copy
import threading
import tracemalloc
from math import cos, nan, pi
from types import SimpleNamespace

import array_api_strict
import numpy as np
import pytest

import pullback as pb
from pullback import io
from pullback.backends import BACKENDS, Backend, numpy_updates
from pullback.errors import (
    ArgumentError,
    CheckpointError,
    DtypeError,
    MutationError,
    NonFiniteError,
    ShapeError,
    TapeError,
)
from pullback.optim import optimizer as optimizer_module

MAKERS = {
    "sgd": lambda params, **rest: pb.optim.SGD(params, 0.1, **rest),
    "momentum": lambda params, **rest: pb.optim.SGD(params, 0.1, momentum=0.9, weight_decay=0.01, **rest),
    "nesterov": lambda params, **rest: pb.optim.SGD(params, 0.1, momentum=0.9, nesterov=True, **rest),
    "dampened": lambda params, **rest: pb.optim.SGD(params, 0.1, momentum=0.8, dampening=0.3, **rest),
    "adam": lambda params, **rest: pb.optim.Adam(params, 0.01, weight_decay=0.1, **rest),
    "adamw": lambda params, **rest: pb.optim.AdamW(params, 0.01, betas=(0.8, 0.95), eps=1e-3, **rest),
}
SHAPES = {"layer": {"weight": (3, 4), "bias": (4,)}, "scale": (), "empty": (0, 2), "large": (200, 170)}
each_optimizer = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def leaves(seed=0, dtype="float64"):
    rng = np.random.default_rng(seed)
    return map_shapes(lambda shape: pb.tensor(rng.standard_normal(shape), dtype=dtype, requires_grad=True))


def map_shapes(f, shapes=None):
    """`f(shape)` for each shape of a tree."""
    shapes = SHAPES if shapes is None else shapes
    return {k: map_shapes(f, s) if isinstance(s, dict) else f(s) for k, s in shapes.items()}


def flat(tree):
    return [x for v in tree.values() for x in (flat(v) if isinstance(v, dict) else [v])]


def give_gradients(params, step, scale=1.0):
    """The same random gradients for the same step."""
    rng = np.random.default_rng(1000 + step)
    for x in flat(params):
        x.grad = scale * rng.standard_normal(x.shape)


def numbers(params):
    return [x.numpy().copy() for x in flat(params)]


def same(left, right):
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)


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
    backend = SimpleNamespace(xp=xp)
    for is_adam, options in cases:
        for velocity in (True,) if is_adam else (True, False):
            chunked, plain = [[a.copy() for a in arrays] for _ in range(2)]
            standard = [xp.asarray(a, copy=True) for a in plain]
            if is_adam:
                numpy_updates.update_adam(*chunked, **options)
                Backend.update_adam(backend, *standard, **options)
            else:
                numpy_updates.update_sgd(*chunked[:2], chunked[2] if velocity else None, **options)
                Backend.update_sgd(backend, *standard[:2], standard[2] if velocity else None, **options)
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
    optimizer.step()
    tracemalloc.start()
    optimizer.step()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
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


# --- steps that fail --------------------------------------------------------------------------------------------------


def spoil_shape(params, optimizer):
    params["scale"].node.grad = np.ones(3)


def spoil_dtype(params, optimizer):
    params["scale"].node.grad = np.float32(1.0)


def spoil_parameter(params, optimizer):
    params["scale"].data = np.ones(2)
    params["scale"].node.grad = np.ones(2)


def spoil_leaf(params, optimizer):
    params["scale"].node = None


def spoil_rate(params, optimizer):
    optimizer.lr = nan


def spoil_schedule(params, optimizer):
    optimizer.lr = lambda step: -1.0


def spoil_numbers(params, optimizer):
    params["large"].node.grad[5, 5] = nan


FAILURES = [
    (spoil_shape, ShapeError, "'scale' has shape .*gradient"),
    (spoil_dtype, DtypeError, "'scale' is float64, its gradient float32"),
    (spoil_parameter, ShapeError, "'scale' had shape"),
    (spoil_leaf, TapeError, "'scale'"),
    (spoil_rate, ArgumentError, "lr has to be finite"),
    (spoil_schedule, ArgumentError, "lr has to be finite"),
    (spoil_numbers, NonFiniteError, "'large'"),
]


@each_optimizer
@pytest.mark.parametrize(("spoil", "error", "message"), FAILURES, ids=[f[0].__name__ for f in FAILURES])
def test_a_step_that_fails_changes_nothing(make, spoil, error, message):
    params = leaves()
    optimizer = make(params)
    give_gradients(params, 0)
    optimizer.step()
    give_gradients(params, 1)
    before, state = numbers(params), copy.deepcopy(optimizer.state_dict())
    spoil(params, optimizer)
    with pytest.raises(error, match=message):
        optimizer.step(error_if_nonfinite=True)
    after = optimizer.state_dict()
    assert after["steps"] == state["steps"] == 1
    same([x.data for x in flat(params) if x is not params["scale"]], [*before[:2], *before[3:]])
    for name, parameter in state["parameters"].items():
        assert after["parameters"][name]["age"] == parameter["age"]
        same(after["parameters"][name]["state"].values(), parameter["state"].values())


def test_non_finite_gradients_pass_unless_they_are_refused():
    x = pb.tensor([1.0, 2.0], requires_grad=True)
    optimizer = pb.optim.SGD([x], lr=1.0)
    x.grad = np.float32([nan, 1.0])
    optimizer.step()
    np.testing.assert_array_equal(x.numpy(), [nan, 1.0])


def test_the_users_floating_point_alarms_do_not_cut_a_step_in_two():
    params = {"a": pb.tensor(np.ones(3, "float32"), requires_grad=True)}
    optimizer = pb.optim.Adam(params)
    params["a"].grad = np.full(3, 1e38, "float32")
    with np.errstate(all="raise"):
        optimizer.step()
    assert optimizer.steps == 1


@pytest.mark.parametrize(
    ("gradients", "error", "message"),
    [
        ({"scale": np.ones(2)}, ShapeError, "'scale' has shape"),
        ({"skale": 1.0}, ArgumentError, "skale"),
        ({}, ArgumentError, "empty"),
        ({"scale": np.float32(1.0)}, DtypeError, "float32"),
        ({"scale": "text"}, DtypeError, "not supported"),
    ],
)
def test_gradients_that_do_not_fit_are_refused(gradients, error, message):
    params = leaves()
    optimizer = pb.optim.Adam(params)
    before = numbers(params)
    with pytest.raises(error, match=message):
        optimizer.step(gradients)
    same(numbers(params), before)


def test_a_step_before_any_backward_says_so():
    with pytest.raises(TapeError, match="backward"):
        pb.optim.SGD(leaves()).step()


BAD_OPTIMIZERS = [
    (lambda x: pb.optim.SGD([]), ArgumentError, "no parameters"),
    (lambda x: pb.optim.SGD({}), ArgumentError, "no parameters"),
    (lambda x: pb.optim.SGD(iter(())), ArgumentError, "no parameters"),
    (lambda x: pb.optim.SGD([x, x]), ArgumentError, "'0' and parameter '1' are the same"),
    (lambda x: pb.optim.SGD({"a": {"b": x}, "a.b": leaves()["scale"]}), ArgumentError, "dotted name"),
    (lambda x: pb.optim.SGD([pb.tensor([1.0])]), TapeError, "requires_grad"),
    (lambda x: pb.optim.SGD([x * 2]), TapeError, "requires_grad"),
    (lambda x: pb.optim.SGD([np.ones(3)]), DtypeError, "ndarray"),
    (lambda x: pb.optim.SGD([1.0]), DtypeError, "float"),
    (lambda x: pb.optim.SGD([x], lr=-0.1), ArgumentError, "lr"),
    (lambda x: pb.optim.SGD([x], lr=nan), ArgumentError, "lr"),
    (lambda x: pb.optim.SGD([x], lr="fast"), ArgumentError, "lr is a number"),
    (lambda x: pb.optim.SGD([x], lr=lambda step: nan), ArgumentError, "lr"),
    (lambda x: pb.optim.SGD([x], momentum=-1), ArgumentError, "momentum"),
    (lambda x: pb.optim.SGD([x], weight_decay=nan), ArgumentError, "weight_decay"),
    (lambda x: pb.optim.SGD([x], nesterov=True), ArgumentError, "nesterov"),
    (lambda x: pb.optim.SGD([x], momentum=0.9, dampening=0.1, nesterov=True), ArgumentError, "nesterov"),
    (lambda x: pb.optim.Adam([x], betas=(0.9, 1.0)), ArgumentError, "betas"),
    (lambda x: pb.optim.Adam([x], betas=0.9), ArgumentError, "betas"),
    (lambda x: pb.optim.Adam([x], eps=-1e-8), ArgumentError, "eps"),
    (lambda x: pb.optim.AdamW([x], weight_decay=-1), ArgumentError, "weight_decay"),
]


@pytest.mark.parametrize(("make", "error", "message"), BAD_OPTIMIZERS)
def test_optimizers_refuse_what_they_cannot_use(make, error, message):
    with pytest.raises(error, match=message):
        make(pb.tensor([1.0], requires_grad=True))


# --- state ------------------------------------------------------------------------------------------------------------


@each_optimizer
def test_a_run_goes_on_bit_by_bit_from_a_saved_state(tmp_path, make):
    params = leaves(dtype="float32")
    optimizer = make(params)
    for step in range(3):
        give_gradients(params, step)
        optimizer.step()
    io.save(tmp_path / "state.safetensors", {"params": params, "optimizer": optimizer.state_dict()})
    loaded = io.load(tmp_path / "state.safetensors")
    resumed = make(loaded["params"])
    resumed.load_state_dict(loaded["optimizer"])
    for step in range(3, 6):
        for tree, each in ((params, optimizer), (loaded["params"], resumed)):
            give_gradients(tree, step)
            each.step()
    same(numbers(params), numbers(loaded["params"]))
    assert resumed.steps == 6


def test_a_state_is_a_copy():
    params = leaves()
    optimizer = pb.optim.Adam(params)
    give_gradients(params, 0)
    optimizer.step()
    state = optimizer.state_dict()
    kept = copy.deepcopy(state)
    give_gradients(params, 1)
    optimizer.step()
    same(state["parameters"]["scale"]["state"].values(), kept["parameters"]["scale"]["state"].values())
    optimizer.load_state_dict(state)
    for parameter in state["parameters"].values():
        for array in parameter["state"].values():
            array[...] = nan
    optimizer.step()
    assert all(np.isfinite(x).all() for x in numbers(params))


def test_hyperparameters_come_from_the_state():
    def steps(optimizer, x):
        for g in (1.0, -2.0, 0.5):
            x.grad = [g]
            optimizer.step()

    x, y = (pb.tensor([1.0], requires_grad=True) for _ in range(2))
    saved = pb.optim.SGD([x], lr=0.3, momentum=0.7)
    steps(saved, x)
    other = pb.optim.SGD([y], lr=0.1)
    y.assign_(x.detach())
    other.load_state_dict(saved.state_dict())
    assert other.lr == 0.3
    assert dict(other.hyperparameters) == dict(saved.hyperparameters)
    steps(saved, x)
    steps(other, y)
    assert x.item() == y.item()


def changed(state, *path, value=None):
    state = copy.deepcopy(state)
    inner = state
    for key in path[:-1]:
        inner = inner[key]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return state


DAMAGE = [
    (("optimizer",), "SGD"),
    (("optimizer",), None),
    (("steps",), None),
    (("steps",), -1),
    (("steps",), "three"),
    (("lr",), "fast"),
    (("lr",), -1.0),
    (("hyperparameters",), None),
    (("hyperparameters", "betas"), None),
    (("hyperparameters", "betas"), (0.9,)),
    (("hyperparameters", "colour"), "red"),
    (("parameters",), None),
    (("parameters",), 5),
    (("parameters", "scale"), None),
    (("parameters", "stray"), {"age": 0, "state": {}}),
    (("parameters", "scale", "age"), None),
    (("parameters", "scale", "age"), 0),
    (("parameters", "scale", "state", "square_sum"), None),
    (("parameters", "scale", "state", "square_sum"), np.ones(7)),
    (("parameters", "scale", "state", "square_sum"), "text"),
    (("parameters", "scale", "state", "other"), np.ones(())),
]


@pytest.mark.parametrize(("path", "value"), DAMAGE)
def test_a_damaged_state_is_refused_and_changes_nothing(path, value):
    params = leaves()
    optimizer = pb.optim.Adam(params)
    give_gradients(params, 0)
    optimizer.step()
    state = optimizer.state_dict()
    with pytest.raises(CheckpointError, match="Adam"):
        optimizer.load_state_dict(changed(state, *path, value=value))
    np.testing.assert_equal(optimizer.state_dict(), state)


def test_a_schedule_is_given_again_and_its_place_is_kept():
    def make():
        x = pb.tensor([1.0], requires_grad=True)
        return x, pb.optim.SGD([x], lr=pb.optim.CosineDecay(1.0, 10))

    (x, first), (y, second) = make(), make()
    for _ in range(4):
        first.step([np.float32([0.1])])
    state = first.state_dict()
    assert state["lr"] is None
    second.load_state_dict(state)
    y.assign_(x.detach())
    for optimizer in (first, second):
        optimizer.step([np.float32([0.1])])
    assert x.item() == y.item()
    with pytest.raises(CheckpointError, match="schedule"):
        pb.optim.SGD([y], lr=0.1).load_state_dict(state)
    with pytest.raises(CheckpointError, match="schedule"):
        second.load_state_dict(pb.optim.SGD([y], lr=0.1).state_dict())


# --- learning rates ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (pb.optim.ConstantRate(0.3), lambda k: 0.3),
        (pb.optim.StepDecay(1.0, 3, 0.5), lambda k: 0.5 ** (k // 3)),
        (pb.optim.CosineDecay(1.0, 8, 0.2), lambda k: 0.2 + 0.4 * (1 + cos(pi * min(k, 8) / 8))),
        (pb.optim.LinearRamp(1.0, 4, 3.0), lambda k: 1 + min(k, 4) / 2),
        (pb.optim.WarmUp(4, pb.optim.StepDecay(1.0, 2, 0.5)), lambda k: k / 4 if k < 4 else 0.5 ** ((k - 4) // 2)),
        (pb.optim.WarmUp(2, lambda k: 2.0 + k, start=0.5), lambda k: [1.0, 1.5][k] if k < 2 else float(k)),
        (
            pb.optim.Chain((2, pb.optim.LinearRamp(0.0, 2, 1.0)), (3, lambda k: 1.0), (1, lambda k: 1 / (k + 2))),
            lambda k: k / 2 if k < 2 else 1.0 if k < 5 else 1 / (k - 3),
        ),
    ],
    ids=lambda x: type(x).__name__,
)  # fmt: skip
def test_schedules_are_the_functions_they_say(schedule, expected):
    assert [schedule(k) for k in range(12)] == pytest.approx([expected(k) for k in range(12)], abs=1e-15)


def test_an_optimizer_asks_its_schedule_with_the_steps_taken():
    x = pb.tensor([0.0], requires_grad=True)
    asked = []
    optimizer = pb.optim.SGD([x], lr=lambda step: asked.append(step) or float(step))
    asked.clear()
    moves = []
    for _ in range(4):
        before = x.item()
        optimizer.step([np.float32([-1.0])])
        moves.append(x.item() - before)
    assert asked == [0, 1, 2, 3]
    assert moves == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pb.optim.ConstantRate(-1.0), "rate"),
        (lambda: pb.optim.ConstantRate(nan), "rate"),
        (lambda: pb.optim.StepDecay(0.1, 0), "every"),
        (lambda: pb.optim.StepDecay(0.1, 5, -0.5), "factor"),
        (lambda: pb.optim.CosineDecay(0.1, 0), "steps"),
        (lambda: pb.optim.CosineDecay(0.1, 2.5), "steps"),
        (lambda: pb.optim.CosineDecay("0.1", 2), "rate"),
        (lambda: pb.optim.LinearRamp(0.1, 5, -0.1), "final"),
        (lambda: pb.optim.WarmUp(5, 0.1), "no schedule"),
        (lambda: pb.optim.WarmUp(0, pb.optim.ConstantRate(0.1)), "steps"),
        (pb.optim.Chain, "parts"),
        (lambda: pb.optim.Chain(pb.optim.ConstantRate(0.1)), "parts"),
        (lambda: pb.optim.Chain((5, 0.1)), "no schedule"),
    ],
)
def test_schedules_refuse_what_makes_no_learning_rate(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


# --- clipping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_clipping_scales_all_gradients_to_one_norm_and_tells_the_norm_before(dtype):
    params = leaves(dtype=dtype)
    give_gradients(params, 0)
    before = [x.grad.numpy().astype("float64") for x in flat(params)]
    norm = float(np.sqrt(sum((g**2).sum() for g in before)))
    tolerance = {"float64": 1e-7, "float32": 1e-5, "float16": 2e-3}[dtype]
    told = pb.optim.clip_grad_norm(params, 5.0)
    assert told.item() == pytest.approx(norm, rel=tolerance)
    for x, g in zip(flat(params), before, strict=True):
        assert x.grad.dtype == dtype
        np.testing.assert_allclose(x.grad.numpy(), g * 5 / norm, rtol=tolerance, atol=tolerance / 20)


def test_short_gradients_and_missing_ones_are_left_alone():
    x, y = pb.tensor([3.0, 4.0], requires_grad=True), pb.tensor([1.0], requires_grad=True)
    assert pb.optim.clip_grad_norm([x, y], 1.0).item() == 0.0
    x.grad = np.float32([3.0, 4.0])
    assert pb.optim.clip_grad_norm([x, y], 6.0).item() == 5.0
    np.testing.assert_array_equal(x.grad.numpy(), [3.0, 4.0])
    assert y.grad is None


def test_a_gradient_that_was_read_keeps_its_numbers_when_it_is_clipped():
    x = pb.tensor([3.0, 4.0], requires_grad=True)
    x.grad = np.float32([3.0, 4.0])
    read = x.grad
    pb.optim.clip_grad_norm([x], 1.0)
    np.testing.assert_array_equal(read.numpy(), [3.0, 4.0])
    np.testing.assert_allclose(x.grad.numpy(), [0.6, 0.8], rtol=1e-5)


def test_a_norm_that_is_not_finite_is_refused_when_asked():
    x, y = pb.tensor([1.0], requires_grad=True), pb.tensor([1.0], requires_grad=True)
    x.grad, y.grad = np.float32([np.inf]), np.float32([2.0])
    with pytest.raises(NonFiniteError, match="inf"):
        pb.optim.clip_grad_norm([x, y], 1.0, error_if_nonfinite=True)
    assert (x.grad.item(), y.grad.item()) == (np.inf, 2.0)
    assert pb.optim.clip_grad_norm([x, y], 1.0).item() == np.inf
    assert y.grad.item() == 0.0


@pytest.mark.parametrize("max_norm", [-1.0, nan, "1", None])
def test_clipping_needs_a_norm(max_norm):
    with pytest.raises(ArgumentError, match="max_norm"):
        pb.optim.clip_grad_norm(leaves(), max_norm)


def test_the_repr_says_what_is_optimized():
    assert repr(pb.optim.SGD([pb.tensor(np.ones((30, 50)), requires_grad=True)], lr=0.5)).startswith("SGD(lr=0.5, ")
    assert "1,500 parameters" in repr(pb.optim.SGD([pb.tensor(np.ones((30, 50)), requires_grad=True)]))


def test_the_backend_of_the_cpu_brings_its_own_updates():
    assert BACKENDS[np.ndarray].update_adam is numpy_updates.update_adam
