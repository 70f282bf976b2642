"""`pullback train`: learn a data set with an MLP."""

import argparse
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np

from .. import data, io, nn, optim
from ..backends import backend_for
from ..core.tensor import Tensor, tensor
from ..data import Dataset
from ..errors import ArgumentError, CheckpointError, DeviceError
from ..optim.optimizer import Optimizer
from ..random import Generator
from ..training import Metrics, Trainer, draw_curves, read_checkpoint
from .settings import Settings, add_options, given_options

__all__ = ["add_to"]


def add_to(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "train",
        help="learn a data set with an MLP",
        description="Learn to classify a data set with an MLP; write model.safetensors, metrics.jsonl and curves.png. "
        "Ctrl-C leaves a checkpoint, from which --resume goes on bit by bit as if nothing had happened.",
    )
    add_options(parser)
    files = parser.add_argument_group("files and output")
    files.add_argument("--out", type=Path, help="folder of the files written (default: runs/DATA)")
    files.add_argument("--resume", action="store_true", help="go on with the run in --out, with its settings")
    files.add_argument("--quiet", action="store_true", help="print the last line only, and show no progress bar")
    parser.set_defaults(run=run)


def run(namespace: argparse.Namespace) -> None:
    """Train as the options say."""
    given = given_options(namespace)
    out: Path = namespace.out or Path("runs") / given.get("data", Settings.data)
    kept = read_checkpoint(out / "checkpoint.safetensors") if namespace.resume else None
    settings = Settings.resumed(kept["settings"], given) if kept else Settings(**given)
    device = _device(settings.device)
    training = _Training(settings, device, out)
    trainer = training.trainer
    if kept:
        training.take_up(kept)
    else:
        _make_folder(out)

    def say(line: str) -> None:
        if not namespace.quiet:
            print(line, flush=True)

    for line in training.summary():
        say(line)
    try:
        history = trainer.fit(settings.epochs, lambda m: say(_row(m, settings.epochs)), not namespace.quiet)
    except KeyboardInterrupt:
        place = (
            f"in epoch {len(trainer.history) + 1} after {trainer.batches.position} of {len(trainer.batches)} batches"
        )
        print(f"\nstopped {place}; go on with: pullback train --resume --out {out}")
        raise
    training.write_model(out / "model.safetensors")
    _draw(out / "curves.png", history, f"{settings.data}, {training.network()}")
    seconds = sum(metrics["seconds"] for metrics in history)
    accuracy = 100 * history[-1]["held_out_accuracy"]
    print(f"held-out accuracy {accuracy:.2f} % after {len(history)} epochs and {seconds:.1f} s of training; see {out}/")


class _Training:
    """A model, its data, its optimizer and its trainer, made from settings."""

    def __init__(self, settings: Settings, device: str, out: Path) -> None:
        self.settings, self.device = settings, device
        self.train, self.held_out = _read(settings)
        self.standardization = data.Standardization.of(self.train)
        self.sizes = (self.train.inputs.shape[1], *settings.sizes, len(self.train.classes))
        for_model, for_batches = Generator(settings.seed).spawn(2)
        self.model = nn.MLP(
            self.sizes,
            settings.activation,
            dropout=settings.dropout,
            generator=for_model,
            dtype=settings.dtype,
            device=device,
        )
        batches = data.Batches(self._on_device(self.train), settings.batch, for_batches)
        self.trainer = Trainer(
            self.model,
            _optimizer(settings, self.model, len(batches)),
            batches,
            self._on_device(self.held_out),
            loss=lambda logits, labels: nn.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing),
            clip=settings.clip or None,
            folder=out,
            settings=asdict(settings) | {"checksum": self._checksum()},
        )

    def _on_device(self, part: Dataset) -> tuple[Tensor, Tensor]:
        inputs = self.standardization(part.inputs, self.settings.dtype)
        return tensor(inputs, device=self.device), tensor(part.labels, device=self.device)

    def _checksum(self) -> int:
        """A number that other data would very likely not have."""
        found = 0
        for part in (self.train, self.held_out):
            for array in (part.inputs, part.labels):
                found = zlib.crc32(np.ascontiguousarray(array).data, found)
        return found

    def take_up(self, kept: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        if kept["settings"].get("checksum") != self.trainer.settings["checksum"]:
            raise CheckpointError(f"the run was begun with other data than --data {self.settings.data} holds now")
        self.trainer.load_state_dict(kept["state"])

    def network(self) -> str:
        """The sizes and the activation."""
        return f"{'-'.join(map(str, self.sizes))} {self.settings.activation}"

    def summary(self) -> Iterator[str]:
        """What is going to be trained, on what, where and how."""
        settings, trainer = self.settings, self.trainer
        hint = "" if self.device != "cpu" or not which("nvidia-smi") else " (a GPU needs CuPy: see pullback info)"
        count = sum(x.size for x in self.model.parameters().values())
        examples = f"{len(self.train):,} examples to train on, {len(self.held_out):,} held out"
        yield f"device     {self.device}{hint}"
        yield f"data       {settings.data}: {examples}, {self.sizes[0]} features, {self.sizes[-1]} classes"
        yield f"network    {self.network()}, {count:,} parameters, {settings.dtype}"
        rate = f"{settings.schedule} rate from {settings.rate:g}"
        yield f"training   {settings.optimizer}, {rate}, batches of {settings.batch}"
        if trainer.history or trainer.batches.position:
            yield f"resumed    after epoch {len(trainer.history)} and {trainer.batches.position} batches"

    def write_model(self, path: Path) -> None:
        """Write all that a use of the trained model needs."""
        model = {
            "network": {"sizes": self.sizes, "activation": self.settings.activation},
            "classes": self.train.classes,
            "standardization": asdict(self.standardization),
            "parameters": self.model.state_dict(),
        }
        io.save(path, model)


def _device(asked: str) -> str:
    """The device asked for; for "auto" a GPU if one can be used."""
    if asked != "auto":
        backend_for(asked)
        return asked
    try:
        backend_for("cuda")
    except DeviceError:
        return "cpu"
    return "cuda"


def _read(settings: Settings) -> tuple[Dataset, Dataset]:
    """The training part and the held-out part."""
    images = {"mnist": data.load_mnist, "fashion-mnist": data.load_fashion_mnist}
    for option, given, uses in (("--data-dir", settings.data_dir, [*images]), ("--csv", settings.csv, ["csv"])):
        if (given is None) == (settings.data in uses):
            need = f"goes with --data {' or '.join(uses)}" if given else f"is needed with --data {settings.data}"
            raise ArgumentError(f"{option} {need}")
    if settings.data_dir is not None:
        return images[settings.data](settings.data_dir)
    whole = data.load_digits() if settings.csv is None else data.read_csv(settings.csv, settings.label_column)
    return data.split(whole, settings.held_out, settings.seed)


def _optimizer(settings: Settings, model: nn.Module, steps: int) -> Optimizer:
    """The optimizer with its schedule, for epochs of so many steps."""
    total, warm = steps * settings.epochs, round(steps * settings.warm_up)
    left, rate = total - warm, settings.rate
    if left < 1:
        raise ArgumentError(f"--warm-up {settings.warm_up:g} leaves nothing of --epochs {settings.epochs}")
    schedules: dict[str, optim.Schedule] = {
        "constant": optim.ConstantRate(rate),
        "cosine": optim.CosineDecay(rate, left),
        "linear": optim.LinearRamp(rate, left),
        "step": optim.StepDecay(rate, max(left // 3, 1)),
    }
    schedule = schedules[settings.schedule]
    lr = optim.WarmUp(warm, schedule, start=1 / warm) if warm else schedule
    parameters, decay = model.parameters(), settings.weight_decay
    if settings.optimizer == "sgd":
        return optim.SGD(parameters, lr, momentum=settings.momentum, weight_decay=decay)
    kind = optim.Adam if settings.optimizer == "adam" else optim.AdamW
    return kind(parameters, lr, weight_decay=decay)


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot make the folder {out}: {error.strerror}") from error


def _row(metrics: Metrics, epochs: int) -> str:
    """The line of an epoch."""
    number = f"{metrics['epoch']:>{len(str(epochs))}}/{epochs}"
    return (
        f"epoch {number}  loss {metrics['train_loss']:.4f}  held out {metrics['held_out_loss']:.4f}  "
        f"accuracy {100 * metrics['held_out_accuracy']:6.2f} %  rate {metrics['learning_rate']:.2e}  "
        f"{metrics['seconds']:.2f} s  {metrics['examples_per_second']:,.0f} examples/s"
    )


def _draw(path: Path, history: list[Metrics], title: str) -> None:
    try:
        draw_curves(path, history, title)
    except ImportError as error:
        print(f"no {path.name}: matplotlib is missing ({error}); pip install 'pullback[plot]'")
