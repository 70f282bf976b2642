"""What a training run is made of: one field for each option, with its default, its choices and its help."""

import argparse
import dataclasses
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError
from ..nn import ACTIVATIONS

__all__ = ["Settings", "add_options", "given_options"]

DATA_SETS = ("digits", "mnist", "fashion-mnist", "csv")


def _option(group: str, default: Any, help: str, **rest: Any) -> Any:
    return dataclasses.field(default=default, metadata={"group": group, "help": help, **rest})


def _sizes(text: str) -> tuple[int, ...]:
    """`128-64` as (128, 64); `none` as ()."""
    try:
        sizes = () if text == "none" else tuple(map(int, text.split("-")))
    except ValueError:
        sizes = (0,)
    if any(size < 1 for size in sizes):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 128-64, nor none")
    return sizes


def _number(lowest: float, below: float = float("inf"), above: bool = False) -> Any:
    """A reader of numbers from `lowest` (itself left out if `above`) up to, but not including, `below`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not lowest <= value < below or (above and value == lowest):
            least = f"above {lowest:g}" if above else f"at least {lowest:g}"
            raise argparse.ArgumentTypeError(f"{text!r} is no number {least} and below {below:g}")
        return value

    return read


def _whole(lowest: int) -> Any:
    """A reader of whole numbers from `lowest`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = lowest - 1
        if value < lowest:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least {lowest}")
        return value

    return read


def _column(text: str) -> int | str:
    """A position or a name."""
    try:
        return int(text)
    except ValueError:
        return text


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run's numbers. Equal settings on one machine give equal bits."""

    data: str = _option("data", "digits", "data set", choices=DATA_SETS)
    data_dir: str | None = _option("data", None, "folder of the IDX files (plain or .gz) of mnist or fashion-mnist")
    csv: str | None = _option("data", None, "table for --data csv: numbers, and one column of labels", metavar="FILE")
    label_column: int | str = _option("data", -1, "name or position of the labels in --csv", read=_column)
    held_out: float = _option(
        "data", 0.2, "share of digits or csv that is held out", read=_number(0, 1, above=True), metavar="SHARE"
    )
    sizes: tuple[int, ...] = _option(
        "network", (128, 64), "widths of the hidden layers, or none", read=_sizes, metavar="N-N"
    )
    activation: str = _option(
        "network", "relu", f"activation of the hidden layers: {', '.join(ACTIVATIONS)}", choices=tuple(ACTIVATIONS),
        metavar="NAME",
    )  # fmt: skip
    dropout: float = _option("network", 0.2, "share of hidden values dropped", read=_number(0, 1), metavar="SHARE")
    dtype: str = _option("network", "float32", "type of all numbers", choices=("float32", "float64"))
    optimizer: str = _option("training", "adam", "optimizer", choices=("adam", "adamw", "sgd"))
    lr: float | None = _option(
        "training", None, "learning rate at its peak (default: 0.002, for sgd 0.05)", read=_number(0, above=True),
        metavar="RATE",
    )  # fmt: skip
    schedule: str = _option(
        "training", "cosine", "learning rate over the run", choices=("constant", "cosine", "linear", "step")
    )
    warm_up: float = _option(
        "training", 0.0, "epochs in which the rate rises from 0", read=_number(0), metavar="EPOCHS"
    )
    momentum: float = _option("training", 0.9, "momentum of sgd", read=_number(0, 1))
    weight_decay: float = _option(
        "training", 0.0, "decay of the weights; in adam and sgd a term of the gradient", read=_number(0), metavar="RATE"
    )
    clip: float = _option(
        "training", 0.0, "largest norm of all gradients together; 0 does not clip", read=_number(0), metavar="NORM"
    )
    label_smoothing: float = _option(
        "training", 0.05, "share of each label spread over all classes", read=_number(0, 1), metavar="SHARE"
    )
    batch: int = _option("training", 32, "examples in a batch", read=_whole(1), metavar="N")
    epochs: int = _option("training", 40, "passes over the data", read=_whole(1), metavar="N")
    seed: int = _option("training", 0, "of split, weights, batches and dropout", read=_whole(0), metavar="N")
    device: str = _option("training", "auto", "cpu, cuda, cuda:1, ...; auto takes cuda where a GPU and CuPy are there")

    @property
    def rate(self) -> float:
        """The learning rate, also where none was given."""
        return self.lr or (0.05 if self.optimizer == "sgd" else 0.002)

    @classmethod
    def resumed(cls, kept: dict[str, Any], given: dict[str, Any]) -> "Settings":
        """The settings `kept` in a checkpoint; those given again must be the same, but for a few.

        Raises:
            CheckpointError: another value is given, or `kept` is damaged.
        """
        for field in dataclasses.fields(cls):
            if field.name not in kept or not _is_valid(field, kept[field.name]):
                raise CheckpointError(
                    f"the checkpoint is damaged or of another version: no good {_flag(field.name)} in it"
                )
        kept = {field.name: kept[field.name] for field in dataclasses.fields(cls)}
        for name in given.keys() - _CHANGEABLE:
            if given[name] != kept[name]:
                raise CheckpointError(
                    f"the run was begun with {_flag(name)} {_shown(kept[name])}, not {_shown(given[name])}; "
                    "leave it out to go on with --resume, or begin anew without --resume"
                )
        return cls(**{**kept, **given})


_CHANGEABLE = {"data_dir", "csv", "device", "epochs"}  # the data themselves are compared


def add_options(parser: argparse.ArgumentParser) -> None:
    """One option for each field. What is not given does not appear in the parsed namespace."""
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(Settings):
        options = dict(field.metadata)
        name = options.pop("group")
        if name not in groups:
            groups[name] = parser.add_argument_group(name)
        if "read" in options:
            options["type"] = options.pop("read")
        if "choices" not in options:
            options.setdefault("metavar", field.name.rpartition("_")[2].upper())
        if field.default is not None:
            options["help"] += f" (default: {_shown(field.default)})"
        groups[name].add_argument(_flag(field.name), default=argparse.SUPPRESS, **options)


def given_options(namespace: argparse.Namespace) -> dict[str, Any]:
    """The fields that were given on the command line."""
    names = {field.name for field in dataclasses.fields(Settings)}
    return {name: value for name, value in vars(namespace).items() if name in names}


def _is_valid(field: Any, value: Any) -> bool:
    """Whether a value is one that the option could have given."""
    if value is None:
        return field.default is None
    if "choices" in field.metadata:
        return value in field.metadata["choices"]
    try:
        return field.metadata.get("read", str)(_shown(value)) == value
    except argparse.ArgumentTypeError:
        return False


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _shown(value: Any) -> str:
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return ("-".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)
