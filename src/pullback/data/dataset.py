"""Labelled examples: what every reader of files returns, the split into parts, and standardisation."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import ArgumentError, ShapeError
from ..random import Generator

__all__ = ["Dataset", "Standardization", "split"]


@dataclass(frozen=True)
class Dataset:
    """Examples with class labels, in host memory.

    Attributes:
        inputs: Shape (examples, features), of any dtype of real numbers.
        labels: Shape (examples,), int64: positions in `classes`.
        classes: The names of the classes.
        one_unit: Whether all features are measured in one unit, as pixels are; they are then standardised alike.
    """

    inputs: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    one_unit: bool = False

    def __post_init__(self) -> None:
        if self.inputs.ndim != 2 or self.labels.shape != self.inputs.shape[:1]:
            raise ShapeError(
                "a data set has inputs of shape (examples, features) and labels of shape (examples,); "
                f"got {self.inputs.shape} and {self.labels.shape}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, positions: Any) -> "Dataset":
        """The examples at `positions`, in that order."""
        return replace(self, inputs=self.inputs[positions], labels=self.labels[positions])


def split(dataset: Dataset, held_out: float = 0.2, seed: int = 0) -> tuple[Dataset, Dataset]:
    """A training part and a held-out part, the latter stratified: every class is in it by its share, give or take one.

    Args:
        dataset: What to split.
        held_out: The fraction held out, between 0 and 1; at least one example stays on either side.
        seed: Which examples; the same seed and data give the same split on every machine.

    Raises:
        ArgumentError: the fraction is not between 0 and 1, or there are fewer than two examples.
    """
    total = len(dataset)
    if not 0 < held_out < 1 or total < 2:
        raise ArgumentError(
            f"split: cannot hold out {held_out} of {total} examples; the fraction is between 0 and 1, of at least 2"
        )
    count = min(max(round(held_out * total), 1), total - 1)
    shuffled = Generator(seed).permutation(total).numpy()
    by_class = shuffled[np.argsort(dataset.labels[shuffled], kind="stable")]
    evenly = ((np.arange(count) + 0.5) * total / count).astype(np.int64)
    is_held = np.zeros(total, dtype=bool)
    is_held[by_class[evenly]] = True
    return dataset.take(np.flatnonzero(~is_held)), dataset.take(np.flatnonzero(is_held))


@dataclass(frozen=True)
class Standardization:
    """`x -> (x - mean) / scale`, which gives the part it was made of mean 0 and deviation 1."""

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, part: Dataset) -> "Standardization":
        """The map for `part`, the training part: nothing of the held-out part may be known to it.

        Each feature has its own mean and deviation unless the data are in one unit: then there is one of either, for a
        pixel that is nearly always blank must not be blown up. Features that never change are only centred.
        """
        axis = None if part.one_unit else 0
        mean = np.mean(part.inputs, axis=axis, dtype=np.float64)
        scale = np.std(part.inputs, axis=axis, dtype=np.float64)
        return cls(np.asarray(mean), np.where(scale > 0, scale, 1.0))

    def __call__(self, inputs: np.ndarray, dtype: Any = np.float32) -> np.ndarray:
        """`inputs` standardised, in a floating-point dtype."""
        return np.asarray((inputs - self.mean) / self.scale, dtype=dtype)
