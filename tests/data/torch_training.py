"""Training runs in PyTorch, from starts that NumPy makes: run this file to write `torch_training.json` beside it.

The trace stands in for PyTorch where it is not installed.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

TRACE = Path(__file__).with_suffix(".json")
SIZES = (4, 6, 5, 3)
STEPS, EVERY = 50, 7
CLASS_WEIGHTS = (0.5, 2.0, 1.0)

# Name of the run -> loss, optimizer with its options, and what else happens in a step.
RUNS: dict[str, dict[str, Any]] = {
    **{f"loss-{name}": {"loss": name, "optimizer": ("Adam", {"lr": 0.01})} for name in (
        "mse", "l1", "huber", "cross_entropy", "smoothed", "weighted", "ignoring", "binary", "logistic", "kl_div",
    )},
    **{f"optimizer-{name}": {"loss": "cross_entropy", "optimizer": options} for name, options in {
        "sgd": ("SGD", {"lr": 0.1}),
        "sgd-decay": ("SGD", {"lr": 0.1, "weight_decay": 0.05}),
        "momentum": ("SGD", {"lr": 0.05, "momentum": 0.9}),
        "momentum-decay": ("SGD", {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.05}),
        "dampening": ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.4, "weight_decay": 0.01}),
        "nesterov": ("SGD", {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.01}),
        "adam": ("Adam", {}),
        "adam-decay": ("Adam", {"lr": 0.02, "betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": 0.05}),
        "adamw": ("AdamW", {}),
        "adamw-decay": ("AdamW", {"lr": 0.02, "weight_decay": 0.3}),
    }.items()},
    **{f"schedule-{name}": {"loss": "smoothed", "optimizer": ("AdamW", {"lr": 0.03}), "schedule": name} for name in (
        "step", "cosine", "linear", "warm_up", "chain",
    )},
    "clipped": {"loss": "mse", "optimizer": ("SGD", {"lr": 0.5, "momentum": 0.5}), "clip": 0.2},
}  # fmt: skip


def start() -> dict[str, np.ndarray]:
    """First weights, by pullback's names and in its layout (in, out)."""
    rng = np.random.default_rng(0)
    found = {}
    for i, (m, n) in enumerate(pairwise(SIZES)):
        found[f"layers.{i}.weight"] = rng.standard_normal((m, n)) / np.sqrt(m)
        found[f"layers.{i}.bias"] = rng.standard_normal(n) / 10
    for i, n in enumerate(SIZES[1:-1]):
        found[f"norms.{i}.weight"] = rng.uniform(0.5, 1.5, n)
        found[f"norms.{i}.bias"] = rng.standard_normal(n) / 10
    return found


def batch() -> dict[str, np.ndarray]:
    """Inputs and the targets of all losses."""
    rng = np.random.default_rng(1)
    probabilities = rng.uniform(size=(16, 3))
    return {
        "inputs": rng.standard_normal((16, 4)),
        "values": rng.standard_normal((16, 3)),
        "labels": rng.integers(0, 3, 16),
        "bits": rng.integers(0, 2, (16, 3)).astype("float64"),
        "probabilities": probabilities / probabilities.sum(axis=1, keepdims=True),
    }


def train(run: dict[str, Any]) -> dict[str, Any]:
    """Losses and last weights of a run in PyTorch."""
    import torch

    torch.set_num_threads(1)  # what is this small runs slower on more
    functional = torch.nn.functional
    data = {name: torch.tensor(x) for name, x in batch().items()}
    losses = {
        "mse": lambda out: functional.mse_loss(out, data["values"]),
        "l1": lambda out: functional.l1_loss(out, data["values"]),
        "huber": lambda out: functional.huber_loss(out, data["values"], delta=0.7),
        "cross_entropy": lambda out: functional.cross_entropy(out, data["labels"]),
        "smoothed": lambda out: functional.cross_entropy(out, data["labels"], label_smoothing=0.1),
        "weighted": lambda out: functional.cross_entropy(
            out, data["labels"], weight=torch.tensor(CLASS_WEIGHTS, dtype=torch.float64), label_smoothing=0.2
        ),
        "ignoring": lambda out: functional.cross_entropy(out, data["labels"], ignore_index=2),
        "binary": lambda out: functional.binary_cross_entropy_with_logits(out, data["bits"]),
        "logistic": lambda out: functional.soft_margin_loss(out, 2 * data["bits"] - 1),
        "kl_div": lambda out: functional.kl_div(out.log_softmax(1), data["probabilities"], reduction="batchmean"),
    }
    layers: list[torch.nn.Module] = []
    for m, n in pairwise(SIZES):
        layers += [torch.nn.Linear(m, n), torch.nn.LayerNorm(n), torch.nn.GELU()]
    model = torch.nn.Sequential(*layers[:-2]).double()
    named = {}
    for i in range(len(SIZES) - 1):
        named |= {f"layers.{i}.weight": model[3 * i].weight, f"layers.{i}.bias": model[3 * i].bias}
    for i in range(len(SIZES) - 2):
        named |= {f"norms.{i}.weight": model[3 * i + 1].weight, f"norms.{i}.bias": model[3 * i + 1].bias}
    with torch.no_grad():
        for name, x in start().items():
            named[name].copy_(torch.tensor(x.T))
    kind, options = run["optimizer"]
    optimizer = getattr(torch.optim, kind)(model.parameters(), **options)
    rates = torch.optim.lr_scheduler
    schedules = {
        None: lambda: rates.ConstantLR(optimizer, 1.0),
        "step": lambda: rates.StepLR(optimizer, 20, 0.3),
        "cosine": lambda: rates.CosineAnnealingLR(optimizer, STEPS, eta_min=0.001),
        "linear": lambda: rates.LinearLR(optimizer, 1.0, 0.1, total_iters=30),
        "warm_up": lambda: rates.SequentialLR(
            optimizer,
            [rates.LinearLR(optimizer, 0.25, total_iters=10), rates.CosineAnnealingLR(optimizer, STEPS - 10)],
            [10],
        ),
        "chain": lambda: rates.SequentialLR(
            optimizer, [rates.ConstantLR(optimizer, 1.0, 15), rates.StepLR(optimizer, 10, 0.5)], [15]
        ),
    }
    schedule = schedules[run.get("schedule")]()
    history = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = losses[run["loss"]](model(data["inputs"]))
        loss.backward()
        if "clip" in run:
            torch.nn.utils.clip_grad_norm_(model.parameters(), run["clip"])
        optimizer.step()
        schedule.step()
        history.append(loss.item())
    weights = {name: x.detach().numpy().T.tolist() for name, x in named.items()}
    return {"losses": history[::EVERY], "weights": weights}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(x) for key, x in value.items()}
    return [_rounded(x) for x in value] if isinstance(value, list) else round(value, 9)


if __name__ == "__main__":
    TRACE.write_text(
        json.dumps({name: _rounded(train(run)) for name, run in RUNS.items()}, separators=(",", ":")) + "\n"
    )
