"""vmap of every op, read off the op table: values and derivatives at all examples are those of a Python loop."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import pullback as pb
from pullback.core.define import all_samples
from pullback.core.op import OPS, Op, Sample

EXAMPLES = 3
# The shapes of their results depend on numbers.
BY_NUMBERS = {
    "nonzero",
    "unique_all",
    "unique_counts",
    "unique_inverse",
    "unique_values",
}
OF_ARRAYS = [op for op in OPS.values() if op.inputs]

Place = tuple[int, int | None]  # of an array among the arguments, and in a list there


@dataclass(frozen=True)
class Mapped:
    """One sample of an op as a function of the arrays at some places, of which every example has its own."""

    op: Op
    sample: Sample
    places: tuple[Place, ...]

    def __call__(self, *arrays: Any) -> tuple[Any, ...]:
        lists = {i for i, j in self.places if j is not None}
        args = [list(x) if i in lists else x for i, x in enumerate(self.sample.args)]
        for (i, j), x in zip(self.places, arrays, strict=True):
            if j is None:
                args[i] = x
            else:
                args[i][j] = x
        out = self.op.call(*args, **self.sample.kwargs)
        return tuple(out) if isinstance(out, tuple | list) else (out,)

    def examples(self) -> list[np.ndarray]:
        """Arrays of examples; those of numbers are scaled, those of labels and masks rolled."""
        return [_varied(np.asarray(_at(self.sample, place))) for place in self.places]

    def loop(self, *columns: Any) -> list[tuple[Any, ...]]:
        """The values example by example."""
        return [self(*[column[i, ...] for column in columns]) for i in range(EXAMPLES)]


def _varied(x: np.ndarray) -> np.ndarray:
    if x.dtype.kind == "f":
        return np.stack([x * (1 + 0.05 * i) for i in range(EXAMPLES)])
    return np.stack([np.roll(x.reshape(-1), i).reshape(x.shape) for i in range(EXAMPLES)])


def _at(sample: Sample, place: Place) -> Any:
    i, j = place
    return sample.args[i] if j is None else sample.args[i][j]


def _places(op: Op, sample: Sample) -> list[Place]:
    found: list[Place] = []
    for i, x in enumerate(sample.args):
        if op.arguments[min(i, len(op.arguments) - 1)].name not in op.inputs:
            continue
        if isinstance(x, np.ndarray):
            found.append((i, None))
        elif isinstance(x, list | tuple):
            found += [(i, j) for j, y in enumerate(x) if isinstance(y, np.ndarray)]
    return found


def mapped(op: Op) -> Iterator[Mapped]:
    """Every sample with all of its arrays mapped, and with each alone."""
    for sample in all_samples(op):
        places = _places(op, sample)
        choices = [tuple(places)] if len(places) == 1 else [tuple(places), *((place,) for place in places)]
        yield from (Mapped(op, sample, chosen) for chosen in choices if chosen)


def looped(f: Mapped, columns: list[np.ndarray]) -> list[tuple[Any, ...]] | None:
    """The values by a loop; None where the op refuses what a varied sample became."""
    try:
        return f.loop(*columns)
    except (pb.errors.PullbackError, np.linalg.LinAlgError):
        return None


@pytest.fixture(autouse=True)
def _quiet():
    with np.errstate(all="ignore"):
        yield


@pytest.mark.parametrize("op", OF_ARRAYS, ids=lambda op: op.name)
def test_values_of_all_examples_at_once_are_those_of_a_loop(op: Op):
    met = 0
    for f in mapped(op):
        columns = f.examples()
        one_by_one = looped(f, columns)
        if one_by_one is None or len({tuple(y.shape for y in out) for out in one_by_one}) > 1:
            continue
        met += 1
        if op.name in BY_NUMBERS:
            with pytest.raises(pb.errors.ArgumentError, match="another shape"):
                pb.vmap(f)(*columns)
            continue
        for found, expected in zip(pb.vmap(f)(*columns), zip(*one_by_one, strict=True), strict=True):
            wanted = np.stack([y.numpy() for y in expected])
            assert found.dtype == wanted.dtype
            np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-10, atol=1e-12, err_msg=repr(f))
    assert met, "no sample of this op can be mapped"


def _weighted(outputs: Any, weights: list[np.ndarray]) -> Any:
    return sum((pb.sum(y * w) for y, w in zip(outputs, weights, strict=True)), pb.asarray(0.0, dtype="float64"))


def sums(f: Mapped) -> tuple[Any, Any, list[np.ndarray]] | None:
    """The same weighted sum over all examples, by vmap and by a loop, as functions of the floating-point columns, and
    those; None where there is nothing to differentiate."""
    columns = f.examples()
    floating = [i for i, column in enumerate(columns) if column.dtype.kind == "f"]
    one_by_one = looped(f, columns)
    if not floating or one_by_one is None or not all(pb.isdtype(y.dtype, "real floating") for y in one_by_one[0]):
        return None
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(EXAMPLES, *y.shape)) for y in one_by_one[0]]

    def filled(primals: Any) -> list[Any]:
        given: list[Any] = list(columns)
        for i, x in zip(floating, primals, strict=True):
            given[i] = x
        return given

    def at_once(*primals: Any) -> Any:
        return _weighted(pb.vmap(f)(*filled(primals)), weights)

    def by_loop(*primals: Any) -> Any:
        outputs = f.loop(*filled(primals))
        return sum((_weighted(y, [w[i] for w in weights]) for i, y in enumerate(outputs)), pb.asarray(0.0, "float64"))

    return at_once, by_loop, [columns[i] for i in floating]


def same(found: Any, expected: Any, tolerance: float = 1e-8) -> None:
    for a, b in zip(found, expected, strict=True):
        scale = 1 + np.max(np.abs(b.numpy()), initial=0.0)
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("op", [op for op in OF_ARRAYS if op.differentiable], ids=lambda op: op.name)
def test_derivatives_through_vmap_are_those_of_a_loop(op: Op):
    """VJP and JVP at all examples, and once for every op the derivative of the VJP."""
    met = 0
    for f in mapped(op):
        found = sums(f)
        if found is None:
            continue
        at_once, by_loop, primals = found
        where = tuple(range(len(primals)))
        same(pb.grad(at_once, where)(*primals), pb.grad(by_loop, where)(*primals))
        tangents = tuple(np.cos(x) for x in primals)
        same([pb.jvp(at_once, tuple(primals), tangents)[1]], [pb.jvp(by_loop, tuple(primals), tangents)[1]])
        if not met:
            same(pb.hvp(at_once, tuple(primals), tangents), pb.hvp(by_loop, tuple(primals), tangents), 1e-7)
        met += 1
    assert met, "no sample of this op can be differentiated"


@pytest.mark.parametrize("op", [op for op in OF_ARRAYS if op.differentiable], ids=lambda op: op.name)
def test_gradients_by_example_are_those_of_each_example(op: Op):
    """The derivative is taken inside: its rules run on arrays of many examples."""
    met = 0
    for f in mapped(op):
        columns = f.examples()
        floating = tuple(i for i, column in enumerate(columns) if column.dtype.kind == "f")
        one_by_one = looped(f, columns)
        if not floating or one_by_one is None:
            continue
        kinds = [pb.isdtype(y.dtype, "real floating") for y in one_by_one[0]]
        if not all(kinds):
            continue

        def loss(*arrays: Any, f: Mapped = f) -> Any:
            return sum((pb.sum(pb.sin(y) * 0.5) for y in f(*arrays)), pb.asarray(0.0, dtype="float64"))

        gradient = pb.grad(loss, floating)
        found = pb.vmap(gradient)(*columns)
        expected = [gradient(*[column[i, ...] for column in columns]) for i in range(EXAMPLES)]
        for g, parts in zip(found, zip(*expected, strict=True), strict=True):
            same([g], [pb.stack(list(parts))])
        met += 1
        if met == 4:
            break
    assert met, "no sample of this op can be differentiated"
