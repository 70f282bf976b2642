"""The same work on arrays without numbers under a meter, and on arrays with numbers that count."""

from collections.abc import Callable
from difflib import unified_diff
from typing import Any

import numpy as np
from counting_backend import Counts, counting

import pullback as pb
from pullback.backends import backend_for
from pullback.backends.meta.metering import metering

__all__ = ["measured", "same_counts", "tensor"]

Work = Callable[[], Any]


def tensor(x: Any, device: str, requires_grad: bool = False) -> Any:
    """A NumPy array, alone or in a list, as a tensor on a device; anything else as it is."""
    if isinstance(x, list | tuple):
        return [tensor(y, device, requires_grad) for y in x]
    if not isinstance(x, np.ndarray):
        return x
    made = pb.Tensor(backend_for(device).asarray(x))
    return pb.tensor(made, requires_grad=True) if requires_grad else made


def measured(device: str, work: Work) -> tuple[Any, Counts]:
    """Shapes and dtypes of the arrays that `work()` gives on a device, and the counts while it ran."""
    counts = Counts()
    with metering(counts) if device == "meta" else counting(counts):
        leaves, _ = pb.trees.flatten(work())
        counts.kept = counts.live  # by the results
    return [(x.shape, x.dtype) for x in leaves], counts


def same_counts(setup: Callable[[str], Work]) -> Counts:
    """Assert that the work that `setup(device)` gives costs the same both ways, and give the counts."""
    found = {device: measured(device, setup(device)) for device in ("meta", "counting")}
    (results, predicted), (real_results, executed) = found["meta"], found["counting"]
    assert results == real_results, f"meta gives {results}, the truth is {real_results}"
    difference = "\n".join(unified_diff(predicted.log, executed.log, "meta", "truth", n=0, lineterm=""))
    assert predicted == executed, f"meta: {predicted}\ntruth: {executed}\n{difference}"
    return executed
