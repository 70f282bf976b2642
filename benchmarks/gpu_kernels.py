"""A call of every kernel, in one table: what it is given, what float64 gives on the CPU, and the bytes it must move.

All that is measured of kernels goes through this table, and `missing` says which kernels it does not reach.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  (gives NumPy bfloat16)
import numpy as np

from pullback.backends import BACKENDS, canonical_dtype
from pullback.core.define import all_samples
from pullback.core.op import ARRAYS, OPS

from .gpu_device import backend, watched

__all__ = ["LIMITS", "Case", "cases", "compare", "flat", "given", "listed", "missing", "small"]

LIMITS = {"float64": 1e-13, "float32": 3e-6, "float16": 1e-3, "bfloat16": 8e-3}  # of the relative error of a kernel
KEY, RATE = 0x5EED, 0.3
LOSSES = ("mse_loss", "l1_loss", "huber_loss", "binary_cross_entropy_with_logits", "logistic_loss")
ADAM = {"rate": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "decay": 0.01, "shrink": 0.999}
SGD = {"rate": 1e-3, "dampening": 0.1, "nesterov": True, "decay": 0.01}

Values = Callable[[np.random.Generator, int], np.ndarray]


class Array(NamedTuple):
    """An array of a call: its shape, how its numbers are drawn, and its dtype where it is not that of the case."""

    shape: tuple[int, ...]
    values: Values
    dtype: Any = None


class Case(NamedTuple):
    """A call that launches a kernel.

    Attributes:
        name: The op, and what else chooses the kernel.
        dtype: Of the kernel.
        arrays: What is made for the call.
        body: `body(backend, arrays)` does it, on either backend; its value is what the kernel wrote.
        streams: How many arrays of the size of the first the kernel reads and writes, where that is not all that it is
            given and all that it gives.
        grows: Whether it is larger for more rows.
    """

    name: str
    dtype: str
    arrays: Sequence[Array]
    body: Callable[[Any, list[Any]], Any]
    streams: int = 0
    grows: bool = True

    def bytes(self, arrays: Sequence[Any], results: Sequence[Any]) -> int:
        """What the kernel must move at least: each array that it reads or writes, once."""
        if self.streams:
            return self.streams * int(arrays[0].nbytes)
        written = {result.data.ptr: result for result in results if hasattr(result, "data")}
        return int(sum(array.nbytes for array in (*arrays, *written.values())))


# --- numbers ----------------------------------------------------------------------------------------------------------


def uniform(low: float, high: float) -> Values:
    return lambda rng, n: rng.uniform(low, high, n)


def _normal(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.normal(size=n)


def _signs(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.choice([-1.0, 1.0], n)


def _classes(classes: int) -> Values:
    return lambda rng, n: rng.integers(0, classes, n)


def _identity(n: int) -> Array:
    return Array((n, n), lambda rng, size: np.eye(n).reshape(-1))


def given(array: Array, dtype: str, size: int = 2**16, seed: int = 0) -> Any:
    """An array on the device, of numbers that repeat after `size` of them."""
    import cupy

    count = int(np.prod(array.shape, dtype=np.int64))
    is_square = len(array.shape) == 2 and array.shape[0] == array.shape[1]  # an identity does not repeat
    values = array.values(np.random.default_rng((seed, count)), count if is_square else min(count, size))
    block = cupy.asarray(values.astype(canonical_dtype(array.dtype or dtype)))
    if block.size == count:
        return block.reshape(array.shape)
    flat, whole = cupy.empty(count, block.dtype), count - count % size
    flat[:whole].reshape(-1, size)[...] = block
    flat[whole:] = block[: count - whole]
    return flat.reshape(array.shape)


@cache
def _drawn_as_samples(op: str, position: int) -> Values:
    """Between the least and the largest number that the op's samples have there."""
    found = [np.ravel(sample.args[position]) for sample in all_samples(OPS[op]) if len(sample.args) > position]
    numbers = np.concatenate(found) if found else np.array([-4.0, 4.0])
    return uniform(float(numbers.min()), float(numbers.max()))


# --- calls ------------------------------------------------------------------------------------------------------------


def _run(name: str, *before: Any, after: Sequence[Any] = (), **params: Any) -> Callable[[Any, list[Any]], Any]:
    """An op over `before`, the arrays, and `after`; with what its body keeps."""

    def body(on: Any, arrays: list[Any]) -> Any:
        ops = ARRAYS[on.array_types[0]]
        return OPS[name].body_on(on, ops)(*before, *arrays, *after, **params)

    return body


def _first(name: str, after: Sequence[Any] = ()) -> Callable[[Any, list[Any]], Any]:
    """An op without what its body keeps: a mask, a product."""
    run = _run(name, after=after)

    def body(on: Any, arrays: list[Any]) -> Any:
        found = run(on, arrays)
        return found[0] if isinstance(found, tuple) else found

    return body


def _update(method: str, states: int, options: dict[str, Any]) -> Callable[[Any, list[Any]], Any]:
    """A step of an optimizer in place: parameter, gradient, state, and master weights if there is one array more."""

    def body(on: Any, arrays: list[Any]) -> Any:
        p, g, *rest = arrays
        state, master = rest[:states], rest[states] if len(rest) > states else None
        getattr(on, method)([(p, g, *(state or [None] * (method == "update_sgd")), master)], **options)
        return p, *rest

    return body


def _cast(target: str) -> Callable[[Any, list[Any]], Any]:
    """The op `astype`; on the CPU the exact value, since NumPy rounds float64 to bfloat16 by way of float32."""
    run = _run("astype", after=(target,))
    return lambda on, arrays: arrays[0] if isinstance(arrays[0], np.ndarray) else run(on, arrays)


def _advanced(on: Any, arrays: list[Any]) -> Any:
    if isinstance(arrays[0], np.ndarray):
        return arrays[0] + np.uint64(3)
    importlib.import_module("pullback.backends.cuda.dropout").advance(arrays[0], 3)
    return arrays[0]


def _scaled(on: Any, arrays: list[Any]) -> Any:
    factor = arrays[1][:1].astype("float64" if arrays[0].dtype == "float64" else "float32").reshape(())
    return on.scaled(arrays[:1], [True], factor)


# --- the table --------------------------------------------------------------------------------------------------------


def cases(dtype: str, rows: int, columns: int) -> Iterator[Case]:
    """Calls that launch every kernel of a dtype.

    Args:
        rows, columns: Of what is given to kernels that work by rows or columns. Half of them have an instance for rows
            that begin at any address; it is launched on rows of one number less.
    """
    case = partial(Case, dtype=dtype)
    yield from _elementwise(case, dtype, (rows, columns))
    yield from _dense(case, dtype, (rows, columns))
    for odd in (0, 1):
        yield from _by_rows(case, (rows, columns - odd), ", any address" * odd)
    yield from _losses(case, (rows, columns))
    yield from _lists(case, dtype, (rows * columns,))
    if dtype in ("float64", "float32"):
        arrays = [Array((4100, 3), uniform(0, 1)), Array((4100,), _classes(3), "int32")]
        body = _run("cross_entropy_slope", 1.0, ignore_index=1)
        yield case("cross_entropy_slope, many rows", arrays=arrays, body=body, grows=False)
    if dtype == "float64":
        yield case("advance", arrays=[Array((1,), _classes(9), "uint64")], body=_advanced, grows=False)


def _elementwise(case: Any, dtype: str, shape: tuple[int, int]) -> Iterator[Case]:
    module: Any = importlib.import_module("pullback.backends.cuda.scalars")
    for scalar in module.scalars().values():
        name, _, variant = scalar.name.partition("_by_")
        params = {"approximate": variant} if variant else {"min": -1.0, "max": 1.0} if name == "clip" else {}
        arrays = [Array(shape, _drawn_as_samples(name, i)) for i in range(len(scalar.arrays("value")))]
        yield case(scalar.name, arrays=arrays, body=_run(name, **params))
    for scalar in module.activations():
        name, _, variant = scalar.name.partition("_by_")
        params = {"approximate": variant} if variant else {}
        arrays = [Array(shape, _drawn_as_samples(f"{name}_slope", i)) for i in range(2)]
        yield case(f"{scalar.name}_slope", arrays=arrays, body=_run(f"{name}_slope", **params))
    rows, columns = shape
    for name, other in (("a row", (columns,)), ("a column", (rows, 1))):
        yield case(f"add, {name}", arrays=[Array(shape, _normal), Array(other, _normal)], body=_run("add"))
    for target in LIMITS:
        if target != dtype:
            yield case(f"astype, {target}", arrays=[Array(shape, _normal)], body=_cast(target))
    yield case("keyed_dropout", arrays=[Array(shape, _normal)], body=_first("keyed_dropout", (RATE, KEY, 1)))


def _dense(case: Any, dtype: str, shape: tuple[int, int]) -> Iterator[Case]:
    x, bias, columns = Array(shape, _normal), Array(shape[1:], _normal), shape[1]
    module: Any = importlib.import_module("pullback.backends.cuda.scalars")
    for name in [scalar.name for scalar in module.activations() if not scalar.is_variant]:
        arrays = [x, _identity(columns), bias]
        yield case(f"linear_{name}", arrays=arrays, body=_first(f"linear_{name}"), streams=2)
        kept = Array(shape, _drawn_as_samples(f"{name}_slope", 1))
        body = _run("bias_slope", after=(name,))
        yield case(f"bias_slope, {name}", arrays=[x, kept, bias], body=body)
    yield case("sum of columns", arrays=[x], body=_run("sum", after=(0,)))


def _by_rows(case: Any, shape: tuple[int, int], which: str) -> Iterator[Case]:
    rows, n = shape
    x, along, by_row = Array(shape, _normal), Array((n,), _normal), Array((rows, 1), uniform(0.5, 2))
    labels, share = Array((rows,), _classes(n), "int64"), Array(shape, uniform(0, 1))
    for name in ("softmax", "log_softmax"):
        out = share if name == "softmax" else Array(shape, uniform(-6, 0))
        yield case(f"{name}{which}", arrays=[x], body=_run(name))
        yield case(f"{name}_slope{which}", arrays=[x, out], body=_run(f"{name}_slope"))
    yield case(f"layer_norm{which}", arrays=[x, along, along], body=_layer_norm)
    yield case(
        f"layer_norm_slope{which}", arrays=[x, x, by_row, along], body=_run("layer_norm_slope", after=(-1, (n,)))
    )
    yield case(f"cross_entropy{which}", arrays=[x, labels], body=_run("cross_entropy", label_smoothing=0.1))
    body = _run("cross_entropy_slope", 1.0, label_smoothing=0.1)
    yield case(f"cross_entropy_slope{which}", arrays=[share, labels], body=body)


def _layer_norm(on: Any, arrays: list[Any]) -> Any:
    out, (standardized, inverse_deviation) = _run("layer_norm")(on, arrays)
    return out, standardized, inverse_deviation


def _losses(case: Any, shape: tuple[int, int]) -> Iterator[Case]:
    for loss in LOSSES:
        logistic, classes = loss == "logistic_loss", loss.startswith("binary")
        y = Array(shape, _signs if logistic else uniform(0, 1) if classes else _normal)
        variants: dict[str, dict[str, Any]] = {"": {}} | ({", weighted": {"pos_weight": 2.5}} if classes else {})
        for which, params in variants.items():
            yield case(f"{loss}{which}", arrays=[Array(shape, _normal), y], body=_run(loss, **params))
            slope = _run(f"{loss}_slope", 1.0, **params, reduction="sum")  # a share of the mean may be too small
            yield case(f"{loss}_slope{which}", arrays=[Array(shape, _normal), y], body=slope)


def _lists(case: Any, dtype: str, shape: tuple[int]) -> Iterator[Case]:
    wide = "float64" if dtype == "float64" else "float32"
    p, g = Array(shape, _normal), Array(shape, uniform(-1, 1))
    states = [Array(shape, uniform(0.5, 2), wide)] * 2
    master = [Array(shape, _normal, wide)] if wide != dtype else []
    still, moving = SGD | {"momentum": 0.0}, SGD | {"momentum": 0.9}
    yield case("update_adam", arrays=[p, g, *states, *master], body=_update("update_adam", 2, ADAM))
    yield case("update_sgd", arrays=[p, g, *master], body=_update("update_sgd", 0, still))
    yield case("update_sgd, momentum", arrays=[p, g, states[0], *master], body=_update("update_sgd", 1, moving))
    yield case("norm", arrays=[p], body=lambda on, arrays: on.norm_and_factor(arrays, 1.0))
    yield case("scale", arrays=[p, Array((1,), uniform(0.5, 1))], body=_scaled)
    yield case("nonfinite", arrays=[p], body=lambda on, arrays: on.nonfinite(arrays))


# --- numbers against float64, and what is not reached -----------------------------------------------------------------


def small(dtype: str, shape: tuple[int, int] = (37, 72)) -> Iterator[Case]:
    """The table for few numbers: rows of several 16-byte accesses, and a last block that is not full."""
    return cases(dtype, *shape)


def compare(case: Case, arrays: Sequence[Any], results: Any) -> tuple[float, bool]:
    """The largest error of a result, relative to its largest number, and whether each is within the limit.

    Args:
        arrays: What was given, on the host, as it was before the call.
        results: What the call gave.
    """
    host = BACKENDS[np.ndarray]
    exact = [x.astype(np.float64) if x.dtype.kind not in "iu" else x.copy() for x in arrays]
    with np.errstate(all="ignore"):
        expected = flat(case.body(host, exact))
    worst, holds = 0.0, True
    results = flat(results)
    assert len(results) == len(expected), case.name
    for result, value in zip(results, expected, strict=True):
        limit = max(LIMITS[case.dtype], LIMITS.get(str(result.dtype), 0.0))  # a cast is as good as the narrower type
        found = np.asarray(result.get() if hasattr(result, "get") else result).astype(np.float64)
        value = np.asarray(value).astype(np.float64)
        largest = float(np.max(np.abs(value), initial=0.0)) or 1.0
        error = np.abs(found - value)
        worst = max(worst, float(np.max(error, initial=0.0)) / largest) if np.isfinite(error).all() else np.inf
        holds = holds and bool(np.all(error <= limit * (np.abs(value) + largest)))
    return worst, holds


def flat(results: Any) -> list[Any]:
    """Arrays and numbers of nested tuples, the absent left out."""
    if isinstance(results, tuple | list):
        return [x for result in results for x in flat(result)]
    return [] if results is None else [results]


def listed() -> dict[str, str]:
    """Every kernel that can be launched, by the launchers' own word: its expression and its file."""
    cuda: Any = importlib.import_module("pullback.backends.cuda")
    found = {}
    for module in pkgutil.iter_modules(cuda.__path__):
        launcher = importlib.import_module(f"{cuda.__name__}.{module.name}")
        for file, expression in getattr(launcher, "expressions", list)():
            found[expression] = file
    return found


def missing() -> set[str]:
    """The kernels that the table does not launch; none is run to find out."""
    reached = set()
    for dtype in LIMITS:
        for case in small(dtype):
            with watched(run=False) as launches:
                case.body(backend(), [given(array, case.dtype) for array in case.arrays])
            reached |= {launch.kernel.expression for launch in launches}
    return listed().keys() - reached
