"""The exponent of a power law from measured times."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

__all__ = ["Power", "fitted"]


@dataclass(frozen=True, slots=True)
class Power:
    """seconds = factor * width ** exponent, by least squares of the logarithms over `widths`."""

    exponent: float
    factor: float
    widths: tuple[int, ...]


def fitted(seconds: Mapping[int, float], most: int | None = None) -> Power | None:
    """The power law of times by width, of the `most` widest alone where that is given; None for less than two."""
    widths = sorted(seconds)[-(most or len(seconds)) :]
    if len(widths) < 2:
        return None
    exponent, logarithm = np.polyfit(np.log(widths), np.log([seconds[width] for width in widths]), 1)
    return Power(float(exponent), float(np.exp(logarithm)), tuple(widths))
