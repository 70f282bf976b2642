"""Layers, their first values, and the activations and losses that pb.nn offers."""

from itertools import pairwise

import numpy as np
import pytest

import pullback as pb
from pullback import nn, trees
from pullback.core.op import OPS
from pullback.errors import ArgumentError, DtypeError, ShapeError
from pullback.ops import activations, losses

X = np.random.default_rng(0).standard_normal((5, 3)).astype("float32")


def same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


# --- layers -----------------------------------------------------------------------------------------------------------


def test_linear_is_x_times_weight_plus_bias():
    layer = nn.Linear(3, 2)
    w, b = layer.weight.numpy(), layer.bias.numpy()
    assert (w.shape, b.shape, w.dtype) == ((3, 2), (2,), np.float32)
    for x in (X, X[0], np.stack([X, X])):
        np.testing.assert_allclose(layer(x).numpy(), x @ w + b, rtol=1e-6)
    assert list(nn.Linear(3, 2, bias=False).parameters()) == ["weight"]


@pytest.mark.parametrize("shape", [4, (3, 4), [4]])
def test_layer_norm_brings_the_last_axes_to_mean_0_and_variance_1(shape):
    layer = nn.LayerNorm(shape, eps=1e-12, dtype="float64")
    x = np.random.default_rng(0).normal(3.0, 2.0, (5, 3, 4))
    axes = (1, 2) if shape == (3, 4) else (2,)
    out = layer(x).numpy()
    np.testing.assert_allclose(out.mean(axes), 0.0, atol=1e-9)
    np.testing.assert_allclose(out.var(axes), 1.0, atol=1e-9)
    layer.weight.assign_(2 * layer.weight.numpy())
    layer.bias.assign_(layer.bias.numpy() + 3)
    np.testing.assert_allclose(layer(x).numpy(), 2 * out + 3, atol=1e-9)
    assert not nn.LayerNorm(shape, affine=False).parameters()


def test_layer_norm_of_large_float16_numbers_does_not_overflow():
    x = np.random.default_rng(0).normal(0.0, 1000.0, (4, 64))
    expected = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    out = nn.LayerNorm(64, dtype="float16")(x.astype("float16"))
    assert out.dtype == "float16"
    np.testing.assert_allclose(out.numpy().astype("float64"), expected, atol=1e-2)


def test_dropout_acts_in_training_only_and_keeps_the_mean():
    layer = nn.Dropout(0.25, generator=0)
    x = np.ones((100, 100), "float32")
    first, second = layer(x).numpy(), layer(x).numpy()
    assert not np.array_equal(first, second)
    assert set(np.unique(first)) == {0.0, np.float32(1 / 0.75)}
    assert abs(first.mean() - 1.0) < 0.02
    layer.eval()
    assert layer(x) is x


def test_mlp_is_what_its_parts_make():
    model = nn.MLP((3, 8, 8, 2), "gelu", layer_norm=True, generator=0)
    x = pb.asarray(X)
    for layer, norm in zip(model.layers[:-1], model.norms, strict=True):
        x = pb.gelu(norm(layer(x)))
    np.testing.assert_array_equal(model(X).numpy(), model.layers[-1](x).numpy())
    sizes = [layer.weight.shape for layer in model.layers]
    assert sizes == list(pairwise((3, 8, 8, 2)))


@pytest.mark.parametrize("name", nn.ACTIVATIONS)
def test_a_layer_with_its_activation_is_one_op_and_its_parts(name):
    """Value, gradients and second derivatives, with and without a bias."""
    for bias in (True, False):
        layer = nn.Linear(3, 4, bias, name, generator=0, dtype="float64")
        bare = nn.Linear(3, 4, bias, generator=0, dtype="float64")
        x = np.random.default_rng(0).normal(size=(5, 3))

        def parts(params, x, bare=bare):
            return getattr(pb, name)(bare.apply(params, x))

        def whole(params, x, layer=layer):
            return layer.apply(params, x)

        params, direction = layer.parameters(), trees.map(lambda p: pb.cos(p.detach()), layer.parameters())
        np.testing.assert_allclose(layer(x).numpy(), parts(bare.parameters(), x).numpy(), rtol=1e-14)
        assert layer(x).node.op.name == f"linear_{name}"
        first = [pb.grad(lambda *a, g=g: pb.sum(g(*a) ** 2), argnums=(0, 1))(params, x) for g in (whole, parts)]
        second = [pb.hvp(lambda p, g=g, x=x: pb.sum(g(p, x) ** 3), (params,), (direction,)) for g in (whole, parts)]
        for found, expected in (first, second):
            for a, b in zip(trees.flatten(found)[0], trees.flatten(expected)[0], strict=True):
                np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-10, atol=1e-12)


def test_mlp_takes_a_function_and_drops_hidden_values_in_training():
    model = nn.MLP((3, 2000, 1), lambda x: x, dropout=0.5, init="ones", bias=False, generator=0)
    ones = np.ones((1, 3), "float32")
    assert model.eval()(ones).item() == 6000.0
    dropped = model.train()(ones).item()
    assert dropped != 6000.0
    assert abs(dropped - 6000.0) < 600.0


def test_one_seed_gives_one_network():
    def make(seed):
        return nn.MLP((3, 8, 2), dropout=0.5, generator=seed)

    same(make(5).state_dict(), make(5).state_dict())
    assert not np.array_equal(make(5).layers[0].weight.numpy(), make(6).layers[0].weight.numpy())
    np.testing.assert_array_equal(make(5)(X).numpy(), make(5)(X).numpy())  # the masks too
    model = make(5)
    assert not np.array_equal(model.layers[0].weight.numpy()[:2, :2], model.layers[1].weight.numpy()[:2, :2])


def test_sequential_chains_modules_and_functions():
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.tanh, nn.Linear(4, 2))
    x = np.random.default_rng(0).standard_normal((5, 2, 3)).astype("float32")
    expected = model[3](pb.tanh(model[1](x.reshape(5, 6))))
    np.testing.assert_array_equal(model(x).numpy(), expected.numpy())
    assert len(model) == 4
    assert list(model) == [model[k] for k in range(4)]
    assert list(model.parameters()) == ["layers.1.weight", "layers.1.bias", "layers.3.weight", "layers.3.bias"]


BAD_LAYERS = [
    (lambda: nn.Linear(0, 3), "above 0"),
    (lambda: nn.Linear(3, -1), "above 0"),
    (lambda: nn.Linear(3.0, 3), "above 0"),
    (lambda: nn.Linear(True, 3), "above 0"),
    (lambda: nn.Linear(3, 3, init="kaimin"), "kaimin.*kaiming_normal"),
    (lambda: nn.Linear(2, 3, init=lambda shape, **rest: pb.zeros(3)), "init gave shape"),
    (lambda: nn.Linear(2, 3, dtype="int64"), "int64"),
    (lambda: nn.Linear(2, 3, activation="rellu"), "Linear.*'rellu'.*gelu.*relu.*tanh"),
    (lambda: nn.Linear(2, 3, generator=-1), "seed"),
    (lambda: nn.MLP([3]), "sizes"),
    (lambda: nn.MLP(3), "sizes"),
    (lambda: nn.MLP((3, 0, 2)), "above 0"),
    (lambda: nn.MLP((3, 2), "rellu"), "'rellu'.*gelu.*relu.*tanh"),
    (lambda: nn.MLP((3, 2), "step"), "'step'"),
    (lambda: nn.MLP((3, 3, 2), dropout=1.5), "rate"),
    (lambda: nn.Dropout(-0.1), "rate"),
    (lambda: nn.Dropout("half"), "rate"),
    (lambda: nn.LayerNorm(0), "above 0"),
    (lambda: nn.LayerNorm(4, eps=0.0)(np.ones((2, 4))), "eps"),
    (lambda: nn.LayerNorm(4)(np.ones((2, 3))), r"\(4,\).*\(2, 3\)"),
    (lambda: nn.LayerNorm(1)(np.ones((2, 3))), r"\(1,\).*\(2, 3\)"),
    (lambda: nn.LayerNorm(4)(np.ones(())), r"\(4,\)"),
    (nn.Sequential, "at least one"),
    (lambda: nn.Sequential([nn.relu]), "no module or function"),
    (lambda: nn.MLP((3, 2))(np.ones((4, 5), "float32")), r"linear.*\(4, 5\)"),
]


@pytest.mark.parametrize(("make", "message"), BAD_LAYERS)
def test_layers_refuse_what_they_cannot_use(make, message):
    with pytest.raises((ArgumentError, ShapeError, DtypeError), match=message):
        make()


# --- names ------------------------------------------------------------------------------------------------------------


def test_nn_offers_every_activation_and_loss():
    for name in (*activations.__all__, *losses.__all__, "cross_entropy", "softmax", "tanh", "sigmoid", "layer_norm"):
        assert getattr(nn, name) is getattr(pb, name) is OPS[name].call
        assert name in nn.__all__


@pytest.mark.parametrize("name", nn.ACTIVATIONS)
def test_every_activation_trains_a_network(name):
    model = nn.MLP((3, 8, 2), name, generator=0)
    optimizer = pb.optim.Adam(model.parameters(), lr=0.01)
    target = np.sin(X[:, :2])
    history = []
    for _ in range(60):
        loss = nn.mse_loss(model(X), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.5 * history[0]


# --- first values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("init", "deviation"),
    [
        (nn.init.kaiming_uniform, np.sqrt(2 / 300)),
        (nn.init.kaiming_normal, np.sqrt(2 / 300)),
        (nn.init.xavier_uniform, np.sqrt(2 / 500)),
        (nn.init.xavier_normal, np.sqrt(2 / 500)),
        (lambda shape, **rest: nn.init.kaiming_uniform(shape, mode="fan_out", **rest), np.sqrt(2 / 200)),
        (lambda shape, **rest: nn.init.kaiming_normal(shape, nonlinearity="tanh", **rest), 5 / 3 / np.sqrt(300)),
        (lambda shape, **rest: nn.init.kaiming_uniform(shape, a=5**0.5, **rest), np.sqrt(1 / 3 / 300)),
        (lambda shape, **rest: nn.init.xavier_normal(shape, gain=2.0, **rest), 2 * np.sqrt(2 / 500)),
        (lambda shape, **rest: nn.Linear(*shape, **rest).weight, np.sqrt(1 / 3 / 300)),
    ],
)
def test_first_values_have_the_deviation_they_promise(init, deviation):
    x = init((300, 200), generator=pb.random.Generator(0), dtype="float64").numpy()
    assert x.dtype == np.float64
    assert abs(x.mean()) < 5 * deviation / np.sqrt(x.size)
    assert x.std() == pytest.approx(deviation, rel=0.02)
    bound = deviation * np.sqrt(3)
    is_uniform = np.abs(x).max() <= bound
    expected = 0.5 if is_uniform else 0.5834  # the share within 0.866 or 0.8136 deviations
    within = np.mean(np.abs(x) < (bound / 2 if is_uniform else 0.8136 * deviation))
    assert within == pytest.approx(expected, abs=0.01)


def test_fans_of_more_axes_count_those_before():
    x = nn.init.xavier_normal((5, 2, 30, 20), generator=pb.random.Generator(0), dtype="float64").numpy()
    assert x.std() == pytest.approx(np.sqrt(2 / (10 * 50)), rel=0.05)


def test_lengths_may_be_numpys_integers():
    labels = np.array([0, 2, 1])
    model = nn.MLP((np.int32(3), labels.max() + 1), generator=0)
    assert model.layers[0].weight.shape == (3, 3)
    assert repr(model).startswith("MLP(3 -> 3, relu), 12 parameters")


def test_linear_takes_first_values_by_name_or_function():
    assert np.all(nn.Linear(3, 2, init="ones").weight.numpy() == 1)
    assert np.all(nn.Linear(3, 2, init="ones").bias.numpy() == 0)
    sevens = lambda shape, generator, dtype, device: pb.full(shape, 7.0, dtype=dtype)  # noqa: E731
    layer = nn.Linear(3, 2, init=sevens, dtype="float64")
    assert np.all(layer.weight.numpy() == 7)
    assert layer.weight.requires_grad
    assert np.all(np.abs(nn.Linear(100, 50).bias.numpy()) <= 0.1)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.init.kaiming_uniform((3,)), ShapeError, "two axes"),
        (lambda: nn.init.xavier_normal(()), ShapeError, "two axes"),
        (lambda: nn.init.kaiming_normal((3, 2), mode="fan"), ArgumentError, "fan_in"),
        (lambda: nn.init.kaiming_normal((3, 2), nonlinearity="swish"), ArgumentError, "swish.*relu"),
        (lambda: nn.init.calculate_gain("swish"), ArgumentError, "swish.*relu"),
    ],
)
def test_first_values_refuse_what_they_cannot_use(make, error, message):
    with pytest.raises(error, match=message):
        make()
