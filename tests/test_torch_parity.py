"""Whole training runs beside PyTorch's: 50 steps in float64 from equal starts, by both habits of training.

Where PyTorch is not installed, the trace in `data/torch_training.json` stands for it.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import pullback as pb
from pullback import nn, optim

_spec = importlib.util.spec_from_file_location("torch_training", Path(__file__).parent / "data" / "torch_training.py")
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

HAS_TORCH = importlib.util.find_spec("torch") is not None
TRACE = json.loads(reference.TRACE.read_text())
DATA = reference.batch()
LOSSES = {
    "mse": lambda out: nn.mse_loss(out, DATA["values"]),
    "l1": lambda out: nn.l1_loss(out, DATA["values"]),
    "huber": lambda out: nn.huber_loss(out, DATA["values"], delta=0.7),
    "cross_entropy": lambda out: nn.cross_entropy(out, DATA["labels"]),
    "smoothed": lambda out: nn.cross_entropy(out, DATA["labels"], label_smoothing=0.1),
    "weighted": lambda out: nn.cross_entropy(
        out, DATA["labels"], class_weights=np.array(reference.CLASS_WEIGHTS), label_smoothing=0.2
    ),
    "ignoring": lambda out: nn.cross_entropy(out, DATA["labels"], ignore_index=2),
    "binary": lambda out: nn.binary_cross_entropy_with_logits(out, DATA["bits"]),
    "logistic": lambda out: nn.logistic_loss(out, 2 * DATA["bits"] - 1),
    "kl_div": lambda out: nn.kl_div(nn.log_softmax(out), DATA["probabilities"], reduction="batchmean"),
}
SCHEDULES = {
    "step": lambda lr: optim.StepDecay(lr, 20, 0.3),
    "cosine": lambda lr: optim.CosineDecay(lr, reference.STEPS, 0.001),
    "linear": lambda lr: optim.LinearRamp(lr, 30, 0.1 * lr),
    "warm_up": lambda lr: optim.WarmUp(10, optim.CosineDecay(lr, reference.STEPS - 10), start=0.25),
    "chain": lambda lr: optim.Chain((15, optim.ConstantRate(lr)), (1, optim.StepDecay(lr, 10, 0.5))),
}


def prepared(run):
    """Model, optimizer and loss of a run."""
    model = nn.MLP(reference.SIZES, "gelu", layer_norm=True, dtype="float64")
    model.load_state_dict(reference.start())
    kind, options = run["optimizer"]
    if "schedule" in run:
        options = {**options, "lr": SCHEDULES[run["schedule"]](options["lr"])}
    return model, getattr(optim, kind)(model.parameters(), **options), LOSSES[run["loss"]]


def train_by_steps(run):
    model, optimizer, loss_of = prepared(run)
    history = []
    for _ in range(reference.STEPS):
        optimizer.zero_grad()
        loss = loss_of(model(DATA["inputs"]))
        loss.backward()
        if "clip" in run:
            optim.clip_grad_norm(model.parameters(), run["clip"])
        optimizer.step()
        history.append(loss.item())
    return history, model.state_dict()


def train_by_functions(run):
    model, optimizer, loss_of = prepared(run)
    params = model.parameters()
    step = pb.value_and_grad(lambda p: loss_of(model.apply(p, DATA["inputs"])))
    history = []
    for _ in range(reference.STEPS):
        loss, gradients = step(params)
        optimizer.step(gradients)
        history.append(loss.item())
    return history, model.state_dict()


@pytest.mark.parametrize("name", reference.RUNS)
def test_losses_and_trained_weights_are_those_of_pytorch(name):
    run = reference.RUNS[name]
    expected = reference.train(run) if HAS_TORCH else TRACE[name]
    history, weights = train_by_steps(run)
    np.testing.assert_allclose(history[:: reference.EVERY], expected["losses"], rtol=1e-7, atol=1e-8)
    assert weights.keys() == expected["weights"].keys()
    for key, x in weights.items():
        np.testing.assert_allclose(x, expected["weights"][key], rtol=1e-6, atol=1e-7, err_msg=key)
    assert history[-1] != history[0]


@pytest.mark.parametrize("name", [name for name, run in reference.RUNS.items() if "clip" not in run])
def test_both_habits_of_training_give_the_same_numbers(name):
    history, weights = train_by_steps(reference.RUNS[name])
    functional_history, functional_weights = train_by_functions(reference.RUNS[name])
    np.testing.assert_allclose(functional_history, history, rtol=1e-10, atol=1e-12)
    for key, x in weights.items():
        np.testing.assert_allclose(functional_weights[key], x, rtol=1e-9, atol=1e-11, err_msg=key)


def test_the_trace_is_that_of_the_runs():
    assert TRACE.keys() == reference.RUNS.keys()
    if HAS_TORCH:
        for name in ("loss-kl_div", "optimizer-adamw-decay", "schedule-chain", "clipped"):
            run = reference.train(reference.RUNS[name])
            np.testing.assert_allclose(TRACE[name]["losses"], run["losses"], rtol=1e-6, atol=2e-9)


@pytest.mark.parametrize("kind", ["kaiming_uniform", "kaiming_normal", "xavier_uniform", "xavier_normal"])
@pytest.mark.parametrize("nonlinearity", ["linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu"])
def test_gains_and_first_values_have_the_scale_of_pytorch(kind, nonlinearity):
    torch = pytest.importorskip("torch")
    gain = torch.nn.init.calculate_gain(nonlinearity, 0.3 if nonlinearity == "leaky_relu" else None)
    assert nn.init.calculate_gain(nonlinearity, 0.3) == pytest.approx(gain, rel=1e-12)
    ours_options = {"a": 0.3, "nonlinearity": nonlinearity} if "kaiming" in kind else {"gain": gain}
    ours = getattr(nn.init, kind)((200, 300), generator=pb.random.Generator(0), dtype="float64", **ours_options).numpy()
    torch.manual_seed(0)
    theirs = getattr(torch.nn.init, f"{kind}_")(torch.empty(300, 200, dtype=torch.float64), **ours_options).numpy()
    assert ours.std() == pytest.approx(theirs.std(), rel=0.02)
    if "uniform" in kind:
        assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=1e-3)


def test_first_values_of_linear_have_the_bounds_of_pytorch():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs, ours = torch.nn.Linear(400, 300), nn.Linear(400, 300, generator=0)
    for name in ("weight", "bias"):
        a, b = getattr(theirs, name).detach().numpy(), getattr(ours, name).numpy()
        assert np.abs(a).max() == pytest.approx(np.abs(b).max(), rel=0.02)
        assert a.std() == pytest.approx(b.std(), rel=0.1)
