"""The conventions of the counts, executed: NumPy's functions run on objects that count each operation on them."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from counting_backend import CountedArray, CountingBackend, Counts, counting

from pullback.backends.meta.backend import FUNCTIONS
from pullback.backends.meta.metering import metering
from pullback.backends.registry import backend_for

DONE: Counter[str] = Counter()


class Number:
    """A number that counts what is done with it."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __bool__(self) -> bool:
        return bool(self.value)

    def conjugate(self) -> "Number":
        """Of a real number, itself: `vecdot` asks for it."""
        return self


def _counted(name: str) -> Any:
    def call(self: Number, *others: Any) -> Number:
        DONE[name] += 1
        return self

    return call


for _name in ("add", "radd", "sub", "mul", "rmul", "truediv", "floordiv", "mod", "pow", "neg", "abs"):
    setattr(Number, f"__{_name}__", _counted(_name.removeprefix("r")))
FUNCTIONS_OF_NUMBERS = [
    "exp", "log", "sin", "cos", "tan", "tanh", "sinh", "cosh", "arctan", "sqrt", "expm1", "log1p", "log2", "log10",
    "floor", "ceil", "trunc",
]  # fmt: skip
for _name in FUNCTIONS_OF_NUMBERS:  # NumPy calls the method of that name of an object
    setattr(Number, _name, _counted(_name))
    setattr(Number, f"__{_name}__", _counted(_name))


def _compared(self: Number, other: Number) -> bool:
    DONE["compare"] += 1
    return self.value < other.value


Number.__lt__ = Number.__gt__ = Number.__le__ = Number.__ge__ = _compared  # type: ignore[method-assign, assignment]


def objects(x: np.ndarray) -> np.ndarray:
    """The same array of counting numbers."""
    out = np.empty(x.shape, object)
    out[...] = np.vectorize(Number, otypes=[object])(x) if x.size else out
    return out


def executed(function: Any, *arrays: np.ndarray, **options: Any) -> Counter[str]:
    DONE.clear()
    function(*map(objects, arrays), **options)
    return Counter(DONE)


def predicted(name: str, *arrays: np.ndarray, **options: Any) -> Counts:
    """What "meta" says of a function; the counting backend must say the same."""
    counts, truth = Counts(), Counts()
    meta, real = backend_for("meta"), CountingBackend()
    with metering(counts):
        getattr(meta.xp, name)(*map(meta.asarray, arrays), **options)
    with counting(truth):
        getattr(real.xp, name)(*map(CountedArray, arrays), **options)
    assert counts == truth
    return counts


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.5, 1.0, shape)


PRODUCTS = {
    "matmul": [
        ((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 1, 3, 4), (3, 4, 2)), ((4,), (4, 5)), ((3, 4), (4,)), ((4,), (4,)),
    ],
    "vecdot": [((4,), (4,)), ((3, 4), (3, 4)), ((2, 3, 4), (3, 4))],
    "tensordot": [((3, 4), (4, 5)), ((2, 3, 4), (4, 5))],
}  # fmt: skip
CASES = [(name, *shapes) for name, pairs in PRODUCTS.items() for shapes in pairs]


@pytest.mark.parametrize(("name", "left", "right"), CASES, ids=str)
def test_a_product_executes_as_many_multiplications_as_multiply_adds_are_counted(name: str, left: Any, right: Any):
    options = {"axes": 1} if name == "tensordot" else {}
    a, b = random(*left), random(*right)
    done, counts = executed(getattr(np, name), a, b, **options), predicted(name, a, b, **options)
    assert done["mul"] == counts.multiply_adds > 0
    assert counts.flops == 2 * counts.multiply_adds
    out = getattr(np, name)(a, b, **options)
    assert done["mul"] - np.size(out) <= done["add"] <= done["mul"]  # the first product of a sum is added to nothing
    assert done.total() == done["mul"] + done["add"]


REDUCTIONS = [((5,), None), ((3, 4), 0), ((3, 4), 1), ((2, 3, 4), (0, 2)), ((2, 3, 4), None), ((1, 3), 0)]


@pytest.mark.parametrize(("shape", "axis"), REDUCTIONS, ids=str)
@pytest.mark.parametrize(
    ("name", "operation"), [("sum", "add"), ("prod", "mul"), ("max", "compare"), ("min", "compare")]
)
def test_a_reduction_of_n_numbers_executes_n_minus_1_operations(name: str, operation: str, shape: Any, axis: Any):
    x = random(*shape)
    reduce = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}[name].reduce
    done, counts = executed(reduce, x, axis=axis), predicted(name, x, axis=axis)
    results = np.size(np.sum(x, axis=axis))
    started = results if name in ("sum", "prod") and done[operation] == x.size else 0  # from the neutral element
    assert done[operation] - started == counts.flops == x.size - results
    assert done.total() == done[operation]


@pytest.mark.parametrize(("name", "operation"), [("cumulative_sum", "add"), ("cumulative_prod", "mul")])
@pytest.mark.parametrize(("shape", "axis"), [((5,), 0), ((3, 4), 0), ((3, 4), 1), ((2, 1, 3), 1)], ids=str)
def test_a_scan_executes_one_operation_for_each_number_but_the_first(name: str, operation: str, shape: Any, axis: int):
    x = random(*shape)
    done, counts = executed(getattr(np, name), x, axis=axis), predicted(name, x, axis=axis)
    assert done.total() == done[operation] == counts.flops == x.size - x.size // shape[axis]


BINARY = ["add", "subtract", "multiply", "divide", "floor_divide", "remainder", "pow"]


@pytest.mark.parametrize(
    "shapes", [((3,), (3,)), ((2, 3), (3,)), ((2, 1), (1, 3)), ((), (2,)), ((0, 3), (3,))], ids=str
)
@pytest.mark.parametrize("name", BINARY)
def test_a_function_of_two_numbers_is_executed_once_for_each_result(name: str, shapes: Any):
    a, b = (random(*shape) for shape in shapes)
    done, counts = executed(getattr(np, name), a, b), predicted(name, a, b)
    assert done.total() == counts.flops == np.broadcast(a, b).size


@pytest.mark.parametrize("name", [*FUNCTIONS_OF_NUMBERS, "negative", "abs"])
def test_a_function_of_a_number_is_executed_once_for_each(name: str):
    x = random(2, 3)
    standard = {"arctan": "atan"}.get(name, name)
    assert executed(getattr(np, name), x).total() == predicted(standard, x).flops == 6


@pytest.mark.parametrize("bounds", [((3,), (2, 1)), ((2, 3), (2, 3)), ((), ())], ids=str)
def test_clipping_is_one_function_of_each_number(bounds: Any):
    assert predicted("clip", random(2, 3), *[random(*shape) for shape in bounds]).flops == 6


def test_cross_executes_two_products_and_a_difference_for_each_number():
    a, b = random(4, 3), random(4, 3)
    counts = Counts()
    meta = backend_for("meta")
    with metering(counts):
        meta.xp.linalg.cross(meta.asarray(a), meta.asarray(b))
    done = executed(np.cross, a, b)
    assert done["mul"] == 2 * 12
    assert done["sub"] == 12
    assert counts.flops == done.total()


@pytest.mark.parametrize("name", ["permute_dims", "concat", "sort", "where", "equal", "astype", "isnan"])
def test_what_computes_no_floating_point_numbers_takes_no_operations(name: str):
    x = random(3, 4)
    arguments = {
        "permute_dims": (x, (1, 0)), "concat": ([x, x],), "where": (x > 0.7, x, x), "equal": (x, x),
        "astype": (x, np.dtype("float32")),
    }.get(name, (x,))  # fmt: skip
    counts, meta = Counts(), backend_for("meta")
    with metering(counts):
        FUNCTIONS[name](*[meta.asarray(a) if isinstance(a, np.ndarray) else a for a in arguments])
    assert counts.flops == 0
    assert (counts.written > 0) == (name != "permute_dims")


@pytest.mark.parametrize(
    ("name", "dtypes", "expected"),
    [
        ("add", ("int64", "int64"), 0),
        ("divide", ("int64", "int64"), 6),
        ("add", ("int64", "float32"), 6),
        ("less", ("float32", "float32"), 0),
        ("sqrt", ("int64",), 6),
        ("mean", ("int64",), 6),
        ("sum", ("int64",), 0),
        ("matmul", ("int64", "int64"), 0),
    ],
)  # fmt: skip
def test_operations_count_where_the_arithmetic_is_of_floating_point(name: str, dtypes: Any, expected: int):
    shapes = [(2, 3), (3, 2)] if name == "matmul" else [(2, 3)] * len(dtypes)
    arrays = [np.ones(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    assert predicted(name, *arrays).flops == expected
