"""The training loop: epochs over batches, held-out accuracy, and checkpoints from which it goes on bit by bit."""

import json
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from os import PathLike
from pathlib import Path
from time import perf_counter
from typing import Any, TypedDict

from .. import io
from ..backends import backend_for
from ..core.recording import no_grad
from ..core.tensor import Tensor
from ..data import Batches
from ..errors import CheckpointError, NonFiniteError, PullbackError
from ..nn import Module, cross_entropy
from ..optim import clip_grad_norm
from ..optim.optimizer import Optimizer
from ..random import Generator, default_generator
from .interrupts import Interrupts

__all__ = ["Metrics", "Trainer", "read_checkpoint"]

_KIND = "pullback training"
_EVALUATED_AT_ONCE = 1024  # examples


class Metrics(TypedDict):
    """What is known of an epoch. Seconds are those of training, without the evaluation."""

    epoch: int
    train_loss: float
    held_out_loss: float
    held_out_accuracy: float
    learning_rate: float
    seconds: float
    examples_per_second: float


class Trainer:
    """Trains a classifier, and can stop after any step and go on later as if it had not stopped.

    Args:
        model: Maps inputs to logits, one for each class.
        optimizer: Over the model's parameters.
        batches: Gives (inputs, labels).
        held_out: Inputs and labels that training does not see.
        loss: Of logits and labels, a mean over the examples; in training and on the held-out examples.
        clip: The largest norm of all gradients together; None does not clip.
        folder: Where `checkpoint.safetensors` and `metrics.jsonl` are kept, after each epoch; None keeps no files.
        settings: Plain values that say how the run was made; a checkpoint is only taken up by a run with the same.

    Attributes:
        history: The metrics of each finished epoch.
    """

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        batches: Batches,
        held_out: Sequence[Any],
        *,
        loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
        clip: float | None = None,
        folder: str | PathLike[str] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.optimizer, self.batches, self.loss, self.clip = model, optimizer, batches, loss, clip
        self.held_out = Batches(held_out, max(batches.size, _EVALUATED_AT_ONCE))
        self.folder = None if folder is None else Path(folder)
        self.settings = dict(settings or {})
        self.history: list[Metrics] = []
        self._losses: Any = 0.0  # the sum over the examples of the running epoch; a tensor once there are any
        self._examples, self._seconds = 0, 0.0

    @property
    def checkpoint(self) -> Path | None:
        """The path of the checkpoint."""
        return self.folder and self.folder / "checkpoint.safetensors"

    # --- training ---

    def fit(self, epochs: int, report: Callable[[Metrics], None] | None = None, progress: bool = True) -> list[Metrics]:
        """Train until `epochs` epochs are in the history, and give it back.

        Ctrl-C, and SIGTERM, let the running step end, write the checkpoint and raise KeyboardInterrupt; a second one
        acts at once.

        Args:
            epochs: In all, those before a `resume` counted.
            report: Called with the metrics after each epoch.
            progress: Whether a bar is shown, where standard error is a terminal.

        Raises:
            NonFiniteError: a loss is NaN or infinite at the end of an epoch; the checkpoint before it stays.
            CheckpointError: a file cannot be written.
        """
        from tqdm import tqdm

        self._write_metrics()
        done = len(self.history) * len(self.batches) + self.batches.position
        hidden = None if progress else True  # None: where it is no terminal
        with (
            backend_for("cpu").quiet(),  # overflow is looked for once an epoch
            Interrupts() as interrupts,
            tqdm(total=epochs * len(self.batches), initial=done, unit="step", disable=hidden, leave=False) as bar,
        ):
            while len(self.history) < epochs:
                bar.set_description(f"epoch {len(self.history) + 1}/{epochs}")
                self._epoch(bar, interrupts)
                metrics = self._measure()
                self._keep(metrics)
                bar.clear()
                if report:
                    report(metrics)
                if interrupts.asked:
                    raise KeyboardInterrupt
        return self.history

    def _epoch(self, bar: Any, interrupts: Interrupts) -> None:
        """What is left of the running pass over the batches."""
        self.model.train()
        parameters = self.model.parameters()
        start = perf_counter()
        for inputs, labels in self.batches:
            loss = self.loss(self.model(inputs), labels)
            loss.backward()
            if self.clip is not None:
                clip_grad_norm(parameters, self.clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self._losses = loss.detach() * len(labels) + self._losses
            self._examples += len(labels)
            bar.update()
            if interrupts.asked:
                break
        self._seconds += perf_counter() - start
        if interrupts.asked:
            if self.checkpoint is not None:
                self.save(self.checkpoint)
            raise KeyboardInterrupt

    def _measure(self) -> Metrics:
        """The metrics of the epoch that ends now."""
        held_out_loss, accuracy = self.evaluate()
        lr = self.optimizer.lr
        metrics = Metrics(
            epoch=len(self.history) + 1,
            train_loss=float(self._losses) / max(self._examples, 1),
            held_out_loss=held_out_loss,
            held_out_accuracy=accuracy,
            learning_rate=float(lr(self.optimizer.steps - 1) if callable(lr) else lr),
            seconds=self._seconds,
            examples_per_second=self._examples / max(self._seconds, 1e-9),
        )
        for part, value in (("training", metrics["train_loss"]), ("held-out", held_out_loss)):
            if not isfinite(value):
                raise NonFiniteError(
                    f"the {part} loss of epoch {metrics['epoch']} is {value}; a lower learning rate or clipped "
                    "gradients may keep it finite"
                )
        return metrics

    def evaluate(self) -> tuple[float, float]:
        """Loss and accuracy on the held-out examples. The model is in evaluation mode afterwards."""
        self.model.eval()
        loss, right, count = 0.0, 0, 0
        with no_grad():
            for inputs, labels in self.held_out:
                logits = self.model(inputs)
                loss += float(self.loss(logits, labels)) * len(labels)
                right += int((logits.numpy().argmax(axis=-1) == labels.numpy()).sum())
                count += len(labels)
        return loss / count, right / count

    # --- files ---

    def _keep(self, metrics: Metrics) -> None:
        """Close an epoch."""
        self.history.append(metrics)
        self._losses, self._examples, self._seconds = 0.0, 0, 0.0
        if self.checkpoint is not None:
            self.save(self.checkpoint)
            self._write_metrics()

    def _write_metrics(self) -> None:
        if self.folder is not None:
            with io.replacing(self.folder / "metrics.jsonl") as temporary:
                temporary.write_text("".join(json.dumps(metrics) + "\n" for metrics in self.history))

    def save(self, path: str | PathLike[str]) -> None:
        """Write a checkpoint. Raises CheckpointError, and leaves the one before, where that cannot be done."""
        io.save(path, {"kind": _KIND, "settings": self.settings, "state": self.state_dict()})

    def resume(self, path: str | PathLike[str]) -> None:
        """Go on from a checkpoint: the next step is the one that would have come.

        Raises:
            CheckpointError: the file cannot be read, is no checkpoint, or was written by a run with another model,
                optimizer, data or settings. Nothing has changed then.
        """
        kept = read_checkpoint(path)
        for name in sorted(self.settings.keys() | kept["settings"].keys()):
            was, now = kept["settings"].get(name), self.settings.get(name)
            if was != now:
                raise CheckpointError(f"{path}: the run was begun with {name} = {was!r}, and this one with {now!r}")
        self.load_state_dict(kept["state"])

    # --- state ---

    def state_dict(self) -> dict[str, Any]:
        """All that training needs to go on bit by bit, between two steps: a tree for `pb.io.save`."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "batches": self.batches.state(),
            "generators": {name: generator.get_state() for name, generator in self._generators().items()},
            "history": [dict(metrics) for metrics in self.history],
            "losses": float(self._losses),
            "examples": self._examples,
            "seconds": self._seconds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave: all of it or, when that raises an error, nothing.

        Raises:
            CheckpointError: it is of another model, optimizer or data, or damaged.
        """
        before = self.state_dict()
        try:
            self._load(state)
        except (PullbackError, LookupError, TypeError, ValueError, OverflowError, AttributeError) as error:
            self._load(before)
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"this is no state of training ({type(error).__name__}: {error})") from error

    def _load(self, state: Mapping[str, Any]) -> None:
        generators = self._generators()
        if state["generators"].keys() != generators.keys():
            raise CheckpointError("the state is of a model with other random generators")
        history: list[Metrics] = [dict(metrics) for metrics in state["history"]]  # type: ignore[misc]
        if any(metrics.keys() != Metrics.__annotations__.keys() for metrics in history):
            raise CheckpointError("the metrics in the state are of another version")
        counts = [state["losses"], state["examples"], state["seconds"], *(x for m in history for x in m.values())]
        if not all(type(x) in (int, float) for x in counts) or state["examples"] < 0 or state["seconds"] < 0:
            raise CheckpointError("the metrics in the state are damaged")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.batches.restore(state["batches"])
        for name, generator in generators.items():
            generator.set_state(state["generators"][name])
        self.history, self._losses = history, state["losses"]
        self._examples, self._seconds = state["examples"], state["seconds"]

    def _generators(self) -> dict[str, Generator]:
        """What training draws from beside the batches: the generators of modules, and the default one."""
        found = {name: getattr(module, "generator", None) for name, module in self.model.named_modules().items()}
        generators = {f"model.{name}": g for name, g in found.items() if isinstance(g, Generator)}
        return generators | {"default": default_generator}


def read_checkpoint(path: str | PathLike[str]) -> dict[str, Any]:
    """The `settings` and the `state` in a checkpoint that a Trainer wrote.

    Raises:
        CheckpointError: the file cannot be read or is no checkpoint.
    """
    kept = io.load(path)
    if not isinstance(kept, dict) or kept.get("kind") != _KIND:
        raise CheckpointError(f"{path}: no checkpoint of a Trainer")
    if not isinstance(kept.get("settings"), dict) or not isinstance(kept.get("state"), dict):
        raise CheckpointError(f"{path}: the checkpoint is damaged")
    return kept
