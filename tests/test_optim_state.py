"""Steps that fail and change nothing, and the state from which a run goes on."""

import copy
from math import nan

import numpy as np
import pytest
from optim_cases import each_optimizer, flat, give_gradients, leaves, numbers, same

import pullback as pb
from pullback import io
from pullback.errors import (
    ArgumentError,
    CheckpointError,
    DtypeError,
    NonFiniteError,
    ShapeError,
    TapeError,
)

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
    (lambda x: pb.optim.SGD([x], lr="0.1"), ArgumentError, "lr is a number"),
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
