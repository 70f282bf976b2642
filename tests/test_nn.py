"""Modules: names, modes, state, moving, running as functions of their parameters, and first values."""

import copy
import threading

import numpy as np
import pytest
from strict_backend import StrictBackend

import pullback as pb
from pullback import io, nn
from pullback.errors import ArgumentError, CheckpointError, DeviceError, DtypeError, MutationError, ShapeError


class Everything(nn.Module):
    """A module with something in each place where things may be."""

    def __init__(self, seed=0):
        self.first = nn.Linear(3, 4, generator=seed)
        self.blocks = [nn.Linear(4, 4, generator=seed + 1), nn.MLP((4, 5, 4), generator=seed + 2)]
        self.table = {"gain": pb.tensor(np.ones(4, "float32"), requires_grad=True), "deeper": (nn.LayerNorm(4),)}
        self.mean = pb.tensor([0.5, 0.5, 0.5])
        self.counts = np.arange(4)
        self.history = [np.zeros(2, "float32")]
        self.eps = np.float32(1e-5)
        self.names = np.array(["a", "b"])
        self.tied = self.first.weight
        self.activation = nn.relu

    def forward(self, x):
        x = self.activation(self.first(x - self.mean))
        for block in self.blocks:
            x = x + block(x)
        x = self.table["deeper"][0](x) * self.table["gain"]
        return x @ self.tied.mT


PARAMETERS = [
    "first.weight", "first.bias", "blocks.0.weight", "blocks.0.bias",
    "blocks.1.layers.0.weight", "blocks.1.layers.0.bias", "blocks.1.layers.1.weight", "blocks.1.layers.1.bias",
    "table.gain", "table.deeper.0.weight", "table.deeper.0.bias",
]  # fmt: skip
BUFFERS = ["mean", "counts", "history.0"]
X = np.random.default_rng(0).standard_normal((5, 3)).astype("float32")


def numbers(tensors):
    return {name: np.array(x.numpy() if isinstance(x, pb.Tensor) else x) for name, x in tensors.items()}


def same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


# --- what is inside ---------------------------------------------------------------------------------------------------


def test_parameters_and_buffers_have_dotted_names_in_a_fixed_order():
    model = Everything()
    assert list(model.parameters()) == PARAMETERS
    assert list(model.buffers()) == BUFFERS
    assert list(model.state_dict()) == [*PARAMETERS, *BUFFERS]


def test_named_modules_holds_each_module_once():
    model = Everything()
    model.again = model.first
    model.myself = model
    names = ["", "first", "blocks.0", "blocks.1", "blocks.1.layers.0", "blocks.1.layers.1", "table.deeper.0"]
    assert list(model.named_modules()) == names
    assert model.named_modules()[""] is model
    assert "Everything" in repr(model)


def test_what_is_added_and_removed_later_counts():
    model = nn.Sequential(nn.Linear(2, 2))
    model.extra = [pb.tensor([1.0], requires_grad=True)]
    assert "extra.0" in model.parameters()
    model.extra.append(nn.Linear(2, 1))
    assert "extra.1.weight" in model.parameters()
    del model.extra
    assert list(model.parameters()) == ["layers.0.weight", "layers.0.bias"]


def test_a_value_in_the_middle_of_a_tape_is_neither_parameter_nor_buffer():
    model = nn.Linear(3, 2)
    model.last = model(X)
    assert list(model.state_dict()) == ["weight", "bias"]


def test_two_names_that_read_the_same_are_refused():
    model = nn.Sequential(nn.relu)
    model.table = {"a.b": pb.tensor([1.0]), "a": {"b": pb.tensor([2.0])}}
    with pytest.raises(ArgumentError, match=r"table\.a\.b"):
        model.state_dict()
    model.table = {"a.b": nn.Dropout(0.5), "a": {"b": nn.Dropout(0.5)}}
    with pytest.raises(ArgumentError, match=r"table\.a\.b"):
        model.eval()


def test_training_mode_reaches_every_module():
    model = Everything()
    assert all(m.training for m in model.named_modules().values())
    assert model.eval() is model
    assert not any(m.training for m in model.named_modules().values())
    assert model.train() is model
    assert all(m.training for m in model.named_modules().values())


def test_a_module_without_forward_says_so():
    class Empty(nn.Module):
        pass

    with pytest.raises(ArgumentError, match="Empty defines no forward"):
        Empty()(X)


def test_zero_grad_reaches_every_parameter():
    model = Everything()
    pb.sum(model(X)).backward()
    assert all(x.grad is not None for x in model.parameters().values())
    model.zero_grad()
    assert all(x.grad is None for x in model.parameters().values())


def test_the_repr_is_a_tree_with_counts():
    lines = repr(nn.Sequential(nn.Linear(64, 32), nn.tanh, nn.MLP((32, 10), dropout=0.5), nn.LayerNorm(10))).split("\n")
    assert lines == [
        "Sequential(Linear, tanh, MLP, LayerNorm), 2,430 parameters",
        "  layers.0: Linear(64, 32), 2,080 parameters",
        "  layers.2: MLP(32 -> 10, relu), 330 parameters",
        "    layers.0: Linear(32, 10), 330 parameters",
        "    dropout: Dropout(0.5)",
        "  layers.3: LayerNorm(10), 20 parameters",
    ]


def test_a_copy_is_independent():
    model = Everything()
    twin = copy.deepcopy(model)
    before = numbers(model.parameters())
    optimizer = pb.optim.SGD(twin.parameters(), lr=1.0)
    pb.sum(twin(X)).backward()
    optimizer.step()
    same(numbers(model.parameters()), before)
    assert not np.array_equal(twin.first.weight.numpy(), model.first.weight.numpy())
    assert twin.tied is twin.first.weight


# --- state ------------------------------------------------------------------------------------------------------------


def test_a_state_is_a_copy_and_goes_into_another_model(tmp_path):
    model, other = Everything(0), Everything(10)
    state = model.state_dict()
    expected = {name: x.copy() for name, x in state.items()}
    tensors = other.parameters()
    io.save(tmp_path / "model.safetensors", state)
    other.load_state_dict(io.load(tmp_path / "model.safetensors"))
    same(other.state_dict(), expected)
    assert all(other.parameters()[name] is x for name, x in tensors.items())
    np.testing.assert_array_equal(other(X).numpy(), model(X).numpy())
    other.first.weight.assign_(np.zeros((3, 4)))
    same(model.state_dict(), expected)
    same(state, expected)


def test_a_loaded_state_does_not_share_memory_with_what_was_given():
    model = Everything()
    state = model.state_dict()
    model.load_state_dict(state)
    expected = {name: x.copy() for name, x in state.items()}
    for x in state.values():
        x[...] = 7
    same(model.state_dict(), expected)


def spoiled(change):
    state = Everything(10).state_dict()
    change(state)
    return state


BAD_STATES = [
    (lambda s: s.pop("blocks.0.bias"), r"missing: blocks\.0\.bias"),
    (lambda s: s.pop("mean"), "missing: mean"),
    (lambda s: s.update(stray=np.ones(2)), "unexpected: stray"),
    (lambda s: s.update({"first.weight": np.ones((4, 3), "float32")}), r"first.weight is \(3, 4\) .* and \(4, 3\)"),
    (lambda s: s.update({"first.bias": np.ones(4)}), r"first\.bias is \(4,\) float32 here and \(4,\) float64"),
    (lambda s: s.update({"history.0": np.ones(3, "float32")}), r"history\.0 is"),
    (lambda s: s.update({"first.bias": "text"}), r"first\.bias is no array"),
    (lambda s: (s.pop("mean"), s.update(stray=1.0, counts=np.ones(4))), "missing: mean; unexpected: stray; counts is"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD_STATES)
def test_a_state_that_does_not_fit_is_refused_and_nothing_is_written(change, message):
    model = Everything()
    before = model.state_dict()
    with pytest.raises(CheckpointError, match=message):
        model.load_state_dict(spoiled(change))
    same(model.state_dict(), before)


@pytest.mark.parametrize("state", [None, [np.ones(3)], "state"])
def test_a_state_that_is_no_dict_is_refused(state):
    with pytest.raises(CheckpointError, match="dict of arrays"):
        Everything().load_state_dict(state)


def test_without_strict_only_common_names_are_written():
    model, other = Everything(0), Everything(10)
    before = model.state_dict()
    state = other.state_dict()
    del state["first.weight"]
    state["stray"] = np.ones(3)
    model.load_state_dict(state, strict=False)
    after = model.state_dict()
    np.testing.assert_array_equal(after["first.weight"], before["first.weight"])
    np.testing.assert_array_equal(after["blocks.0.weight"], state["blocks.0.weight"])
    with pytest.raises(CheckpointError, match="mean"):
        model.load_state_dict({"mean": np.ones(9)}, strict=False)


def test_loading_between_forward_and_backward_is_noticed():
    model = Everything()
    loss = pb.sum(model(X))
    model.load_state_dict(model.state_dict())
    with pytest.raises(MutationError):
        loss.backward()


# --- moving -----------------------------------------------------------------------------------------------------------


def test_a_dtype_reaches_all_floating_point_numbers_and_training_goes_on():
    model, reference = Everything(), Everything()
    optimizers = [pb.optim.Adam(m.parameters(), lr=0.1) for m in (model, reference)]

    def train(m, optimizer):
        optimizer.zero_grad()
        pb.mean(m(X) ** 2).backward()
        optimizer.step()

    for m, optimizer in zip((model, reference), optimizers, strict=True):
        train(m, optimizer)
    tensors = model.parameters()
    assert model.to("float64") is model
    assert all(model.parameters()[name] is x for name, x in tensors.items())
    assert {str(x.dtype) for name, x in model.state_dict().items() if name != "counts"} == {"float64"}
    assert model.counts.dtype == np.arange(4).dtype
    assert all(x.grad.dtype == "float64" for x in tensors.values())
    for m, optimizer in zip((model, reference), optimizers, strict=True):
        train(m, optimizer)
    for name, x in reference.parameters().items():
        np.testing.assert_allclose(model.parameters()[name].numpy(), x.numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:You are comparing a array_api_strict dtype")
def test_a_model_moves_to_another_device_and_back():
    model = Everything()
    before, out = model.state_dict(), model(X).numpy()
    optimizer = pb.optim.SGD(model.parameters(), lr=0.0)
    model.to(StrictBackend.name)
    assert {x.device for x in model.parameters().values()} == {"strict"}
    assert model.mean.device == "strict"
    moved = model(pb.tensor(X, device="strict"))
    np.testing.assert_allclose(moved.numpy(), out, rtol=1e-5)
    pb.sum(moved * moved).backward()
    optimizer.step()
    model.load_state_dict(before)
    assert {x.device for x in model.parameters().values()} == {"strict"}
    model.to("cpu")
    assert all(x.grad.device == "cpu" for x in model.parameters().values())
    same(model.state_dict(), before)


@pytest.mark.parametrize(
    ("target", "error"), [("int64", DtypeError), ("bool", DtypeError), ("no dtype", DtypeError), ("cuda", DeviceError)]
)
def test_a_move_that_fails_changes_nothing(target, error):
    if target == "cuda" and _has_cuda():
        pytest.skip("a CUDA device is here")
    model = Everything()
    before = model.state_dict()
    with pytest.raises(error):
        model.to(target)
    same(model.state_dict(), before)


def _has_cuda():
    try:
        pb.tensor(1.0, device="cuda")
    except DeviceError:
        return False
    return True


def test_a_move_to_where_it_is_changes_no_array():
    model = Everything()
    arrays = [x.data for x in model.parameters().values()]
    model.to("cpu").to("float32")
    assert all(x.data is a for x, a in zip(model.parameters().values(), arrays, strict=True))


# --- as a function of its parameters ----------------------------------------------------------------------------------


def loss_of(model, params, x=X):
    return pb.mean(model.apply(params, x) ** 2)


def test_the_gradient_by_apply_is_that_of_backward():
    model = Everything()
    params = model.parameters()
    gradients = pb.grad(lambda p: loss_of(model, p))(params)
    pb.mean(model(X) ** 2).backward()
    assert gradients.keys() == params.keys()
    for name, x in params.items():
        np.testing.assert_array_equal(gradients[name].numpy(), x.grad.numpy(), err_msg=name)


def test_apply_replaces_what_is_named_everywhere_and_changes_nothing():
    model = Everything()
    before = model.state_dict()
    other = {"first.weight": np.zeros((3, 4), "float32"), "mean": np.zeros(3, "float32")}
    assert not np.any(model.apply(other, X).numpy())  # first.weight is tied to the last product
    same(model.state_dict(), before)
    np.testing.assert_array_equal(model.apply({}, X).numpy(), model(X).numpy())
    model.apply({"history.0": np.ones(2)}, X)


def test_apply_takes_trees():
    model = nn.MLP((3, 4, 2))
    tree = {"layers": [{"weight": np.ones((3, 4), "float32")}, {"weight": np.ones((4, 2)), "bias": np.zeros(2)}]}
    layers = tree["layers"]
    flat = {f"layers.{i}.{name}": x for i, layer in enumerate(layers) for name, x in layer.items()}
    np.testing.assert_array_equal(model.apply(tree, X).numpy(), model.apply(flat, X).numpy())


def test_apply_nests_in_transforms():
    model = nn.MLP((3, 4, 1), "tanh", dtype="float64", generator=3)
    params = {name: x.detach() for name, x in model.parameters().items()}
    x = X.astype("float64")
    pb.check_gradients(lambda p: loss_of(model, p, x), params)
    direction = {name: pb.ones_like(p) for name, p in params.items()}
    (product,) = pb.hvp(lambda p: loss_of(model, p, x), (params,), (direction,))
    step = 1e-5
    ahead, behind = ({k: p + s * step for k, p in params.items()} for s in (1, -1))
    gradient = pb.grad(lambda p: loss_of(model, p, x))
    for name in params:
        expected = (gradient(ahead)[name] - gradient(behind)[name]).numpy() / (2 * step)
        np.testing.assert_allclose(product[name].numpy(), expected, atol=1e-8)


def test_gradients_with_respect_to_inputs_and_parameters_nest():
    """The gradient penalty: d/dp |df/dx|^2, by two grads and by grad within backward."""
    model = nn.MLP((3, 4, 1), "tanh", dtype="float64", generator=3)
    x = X.astype("float64")

    def penalty(p):
        slope = pb.grad(lambda x: pb.sum(model.apply(p, x)))(x)
        return pb.sum(slope * slope)

    nested = pb.grad(penalty)(model.parameters())
    slope = pb.grad(lambda x: pb.sum(model(x)))(x)
    pb.sum(slope * slope).backward()
    for name, p in model.parameters().items():
        found = p.grad.numpy() if p.grad is not None else 0.0
        np.testing.assert_allclose(nested[name].numpy(), found, atol=1e-12)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"layers.0.wait": np.ones((3, 4))}, ArgumentError, r"layers\.0\.wait is not among .*layers\.0\.weight"),
        ({"layers.0.weight": np.ones((4, 3))}, ShapeError, r"layers\.0\.weight has shape \(3, 4\)"),
        ([np.ones(3)], ArgumentError, "0 is not among"),
        ({"tied": np.ones((3, 4))}, ArgumentError, "tied is not among"),
    ],
)
def test_apply_refuses_parameters_that_do_not_fit(params, error, message):
    model = nn.MLP((3, 4, 2))
    model.tied = model.layers[0].weight
    with pytest.raises(error, match=message):
        model.apply(params, X)


def test_apply_leaves_the_module_alone_when_forward_fails():
    model = nn.MLP((3, 4, 2))
    weight = model.layers[0].weight
    with pytest.raises(ShapeError):
        model.apply({"layers.0.weight": np.ones((3, 4), "float32")}, np.ones((2, 7), "float32"))
    assert model.layers[0].weight is weight


def test_threads_may_apply_one_module_at_once():
    model = nn.MLP((3, 64, 2), generator=0)
    sets = [{name: x.numpy() * k for name, x in model.parameters().items()} for k in range(4)]
    expected = [model.apply(p, X).numpy() for p in sets]
    wrong = []

    def run(k):
        for _ in range(50):
            if not np.array_equal(model.apply(sets[k], X).numpy(), expected[k]):
                wrong.append(k)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_weight_of_layer_norm_may_be_a_number():
    x = np.random.default_rng(0).normal(size=(3, 4))
    found = pb.grad(lambda x: pb.sum(pb.layer_norm(x, 6, 1.0) ** 2))(x)
    expected = pb.grad(lambda x: pb.sum(pb.layer_norm(x, np.full(4, 6.0), np.ones(4)) ** 2))(x)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-12)
    with pytest.raises(pb.errors.PullbackError, match="layer_norm"):
        pb.layer_norm(x, np.ones(3))
