"""The cases of the op suite, read off the op table: which arguments of a sample are primals, and a call of the rest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import pullback as pb
from pullback import trees
from pullback.core.define import all_samples
from pullback.core.op import OPS, Op, Sample

DEVICE = "cpu"  # set by the option --device: the ops then run there, and the tests around them on the host
DIFFERENTIABLE = [op for op in OPS.values() if op.differentiable]


@dataclass(frozen=True)
class Case:
    """One sample of an op, as a function of its primals alone."""

    op: Op
    number: int
    sample: Sample

    @property
    def primals(self) -> list[np.ndarray]:
        """Floating-point arrays at input positions that have a derivative, in order."""
        return [x for x, is_primal in _flat(self.op, self.sample) if is_primal]

    def __call__(self, *primals: Any) -> tuple[Any, ...]:
        """The op at other primals; its floating-point outputs, always as a tuple."""
        out = self.run(*primals)
        outputs = out if isinstance(out, tuple | list) else (out,)
        return tuple(x for x in outputs if np.dtype(str(x.dtype).rpartition(".")[2]).kind == "f")

    def run(self, *primals: Any, convert: Callable[[Any], Any] = lambda x: x) -> Any:
        """The op's own value at other primals; `convert` is applied to every other array argument."""
        left = iter(primals)

        def fill(x: Any, is_primal: bool) -> Any:
            return next(left) if is_primal else convert(x) if isinstance(x, np.ndarray) else x

        args: list[Any] = []
        for position, x in enumerate(self.sample.args):
            if _is_sequence(self.op, position, x):
                args.append([moved(fill(y, _is_float(y)), DEVICE) for y in x])
            else:
                value = fill(x, _is_primal(self.op, position, x))
                args.append(moved(value, DEVICE) if _is_input(self.op, position) else value)
        kwargs = {k: moved(x, DEVICE) if k in self.op.inputs else x for k, x in self.sample.kwargs.items()}
        out = self.op.call(*args, **kwargs)
        return trees.map(lambda x: moved(x, "cpu"), out)

    def __repr__(self) -> str:
        return f"{self.op.name}-{self.number}"


def moved(x: Any, device: str) -> Any:
    """An array or a tensor on another device, on the tape; anything else, and all of it on the CPU, as it is."""
    return pb.asarray(x).to(device) if DEVICE != "cpu" and isinstance(x, np.ndarray | pb.Tensor) else x


def cases(ops: Sequence[Op]) -> list[Case]:
    """Every sample of every op."""
    return [Case(op, number, sample) for op in ops for number, sample in enumerate(all_samples(op))]


def _is_float(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind == "f"


def _is_input(op: Op, position: int) -> bool:
    return op.arguments[min(position, len(op.arguments) - 1)].name in op.inputs


def _is_sequence(op: Op, position: int, x: Any) -> bool:
    return isinstance(x, list | tuple) and position < len(op.arguments) and op.arguments[position].name == op.sequence


def _is_primal(op: Op, position: int, x: Any) -> bool:
    if not _is_float(x):
        return False
    if not _is_input(op, position):
        return False
    name = op.arguments[min(position, len(op.arguments) - 1)].name
    return op.kind == "composite" or bool(op.sequence) or op.rules[op.inputs.index(name)] is not None


def _flat(op: Op, sample: Sample) -> list[tuple[Any, bool]]:
    found = []
    for position, x in enumerate(sample.args):
        if _is_sequence(op, position, x):
            found += [(y, _is_float(y)) for y in x]
        else:
            found.append((x, _is_primal(op, position, x)))
    return found


def random_like(rng: np.random.Generator, values: Sequence[Any]) -> list[np.ndarray]:
    """Random float64 arrays of the shapes of `values`."""
    return [np.asarray(rng.standard_normal(tuple(x.shape))) for x in values]


def inner(left: Sequence[Any], right: Sequence[Any]) -> float:
    """The inner product of two lists of arrays or tensors."""
    return sum(float(np.vdot(_host(a), _host(b))) for a, b in zip(left, right, strict=True))


def _host(x: Any) -> np.ndarray:
    return x.numpy() if isinstance(x, pb.Tensor) else np.asarray(x)
