"""Creation functions and dtypes by the array API standard: values, dtypes, devices, and what is refused."""

import inspect

import array_api_strict
import numpy as np
import pytest

import pullback as pb
from pullback import errors

FUNCTIONS = ["arange", "empty", "empty_like", "eye", "full", "full_like", "linspace", "ones", "ones_like", "zeros"]
FUNCTIONS += ["zeros_like", "finfo", "iinfo", "isdtype", "can_cast", "result_type"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signatures_are_those_of_the_standard(name):
    """Each argument of the standard is there, in its place and by its name; we may take more, by name."""
    ours = inspect.signature(getattr(pb, name)).parameters
    theirs = inspect.signature(getattr(array_api_strict, name)).parameters
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    assert [p.name for p in ours.values() if p.kind in positional] == [
        p.name for p in theirs.values() if p.kind in positional
    ]
    assert {p.name for p in theirs.values()} <= {p.name for p in ours.values()}


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (lambda: pb.zeros((2, 3)), np.zeros((2, 3), np.float32)),
        (lambda: pb.zeros(3, dtype="int8"), np.zeros(3, np.int8)),
        (lambda: pb.ones((0, 2), dtype=pb.float64), np.ones((0, 2))),
        (lambda: pb.ones(()), np.float32(1)),
        (lambda: pb.full((2,), 7), np.array([7, 7])),
        (lambda: pb.full(2, 2.5), np.array([2.5, 2.5], np.float32)),
        (lambda: pb.full(2, True), np.array([True, True])),
        (lambda: pb.full(2, 7, dtype="float64"), np.array([7.0, 7.0])),
        (lambda: pb.full((), pb.tensor(4)), np.array(4)),
        (lambda: pb.eye(2), np.eye(2, dtype=np.float32)),
        (lambda: pb.eye(2, 4, k=-1, dtype="int64"), np.eye(2, 4, k=-1, dtype=np.int64)),
        (lambda: pb.arange(4), np.arange(4)),
        (lambda: pb.arange(1, 8, 3), np.array([1, 4, 7])),
        (lambda: pb.arange(1.0), np.zeros(1, np.float32)),
        (lambda: pb.arange(2, 0, -0.5), np.array([2, 1.5, 1, 0.5], np.float32)),
        (lambda: pb.arange(3, dtype="float64"), np.arange(3.0)),
        (lambda: pb.linspace(0, 1, 5), np.linspace(0, 1, 5, dtype=np.float32)),
        (lambda: pb.linspace(0, 1, 4, endpoint=False, dtype="float64"), np.array([0, 0.25, 0.5, 0.75])),
        (lambda: pb.zeros_like(np.ones((2, 1), np.int16)), np.zeros((2, 1), np.int16)),
        (lambda: pb.ones_like([1.0, 2.0]), np.ones(2, np.float32)),
        (lambda: pb.full_like(pb.zeros(2, dtype="float64"), 3), np.array([3.0, 3.0])),
        (lambda: pb.full_like(pb.zeros(2), 3, dtype="int32"), np.array([3, 3], np.int32)),
    ],
)
def test_values_and_dtypes_are_those_of_numpy(made, expected):
    out = made()
    assert isinstance(out, pb.Tensor)
    assert out.dtype == expected.dtype
    np.testing.assert_array_equal(out.numpy(), expected)
    assert out.device == "cpu"
    assert not out.requires_grad


def test_empty_tensors_have_the_shape_and_dtype_asked_for():
    assert (pb.empty((2, 3)).shape, pb.empty((2, 3)).dtype) == ((2, 3), np.float32)
    like = pb.empty_like(np.zeros(4, np.uint8))
    assert (like.shape, like.dtype) == ((4,), np.uint8)


def test_the_default_dtype_is_followed():
    try:
        pb.set_default_dtype("float64")
        for made in (pb.zeros(1), pb.full(1, 0.5), pb.arange(1.0), pb.linspace(0, 1, 2), pb.eye(1), pb.tensor([0.5])):
            assert made.dtype == np.float64
        assert pb.arange(3).dtype == np.int64
        assert pb.result_type(1, 2.0) == np.float64
    finally:
        pb.set_default_dtype("float32")
    assert pb.result_type(1, 2.0) == np.float32


def test_leaves_can_be_made_where_they_are_needed():
    x = pb.full((2,), 3.0, requires_grad=True)
    pb.sum(x * x).backward()
    np.testing.assert_array_equal(x.grad.numpy(), [6.0, 6.0])
    for made in (pb.zeros(2, requires_grad=True), pb.arange(2.0, requires_grad=True), pb.ones_like(x)):
        assert made.is_leaf == made.requires_grad
    with pytest.raises(errors.DtypeError, match="zeros: requires_grad needs a floating-point dtype; got int32"):
        pb.zeros(2, dtype="int32", requires_grad=True)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: pb.zeros(-1), errors.ShapeError, "zeros: lengths of axes are 0 or more; got -1"),
        (lambda: pb.zeros((2, 1.5)), errors.ShapeError, r"a tuple of ints; got \(2, 1.5\)"),
        (lambda: pb.ones("ab"), errors.ShapeError, "ones: a shape is"),
        (lambda: pb.zeros(2, dtype="floaty"), errors.DtypeError, "'floaty' is not a dtype"),
        (lambda: pb.zeros(2, dtype="complex64"), errors.DtypeError, "complex64"),
        (lambda: pb.zeros(2, device="gpu"), errors.DeviceError, "no device 'gpu'; devices are .*cpu, cuda"),
        (lambda: pb.zeros(2, device="cpu:1"), errors.DeviceError, "cpu:1"),
        (lambda: pb.full(2, "a"), errors.DtypeError, "'a' is no number"),
        (lambda: pb.full(2, 1j), errors.DtypeError, "no number"),
        (lambda: pb.full(2, np.ones(3)), errors.DtypeError, "full: .* no number"),
        (lambda: pb.full(2, 300, dtype="int8"), errors.ArgumentError, "300"),
        (lambda: pb.full(2, pb.tensor(1.0, requires_grad=True)), errors.TapeError, "broadcast_to"),
        (lambda: pb.arange(0, 1, 0), errors.ArgumentError, "arange"),
        (lambda: pb.linspace(0, 1, -2), errors.ShapeError, "linspace"),
        (lambda: pb.finfo("int8"), errors.DtypeError, "pb.iinfo"),
        (lambda: pb.iinfo("float32"), errors.DtypeError, "pb.finfo"),
    ],
)
def test_what_cannot_be_made_is_named(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_a_number_may_be_taken_off_the_tape_on_purpose():
    x = pb.tensor(2.0, requires_grad=True)
    with pb.no_grad():
        np.testing.assert_array_equal(pb.full(2, x).numpy(), [2.0, 2.0])
    np.testing.assert_array_equal(pb.full(2, x.detach()).numpy(), [2.0, 2.0])


def test_dtypes_have_the_names_of_the_standard():
    for name in (
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float32",
        "float64",
    ):
        assert getattr(pb, name) == np.dtype(name)
        assert pb.zeros(1, dtype=getattr(pb, name)).dtype == np.dtype(name)
    assert pb.float16 == np.dtype("float16")


def test_limits_and_kinds_of_dtypes():
    assert pb.finfo(pb.float32).eps == 2.0**-23
    assert pb.finfo(pb.zeros(2, dtype="float64")).bits == 64
    assert pb.iinfo("uint8").max == 255
    assert pb.isdtype(pb.float32, "real floating")
    assert not pb.isdtype("int8", ("bool", "unsigned integer", pb.int16))
    assert pb.isdtype("int8", ("bool", pb.int8))
    assert pb.can_cast("int8", pb.int16)
    assert not pb.can_cast(pb.zeros(1), "int32")


@pytest.mark.parametrize(
    "args",
    [
        (np.ones(2, np.float32), np.ones(2, np.int64)),
        (np.ones(2, np.float32), np.ones(2, np.float64), np.ones(2, bool)),
        (np.ones(2, np.int8), np.ones(2, np.uint8)),
        (np.ones(2, np.float16), 2.5),
        (np.ones(2, np.int16), 3),
    ],
)
def test_result_type_is_the_dtype_that_addition_gives(args):
    total = args[0]
    for x in args[1:]:
        total = pb.add(total, x)
    assert pb.result_type(*args) == total.dtype
    assert pb.result_type(*[x.dtype if isinstance(x, np.ndarray) else x for x in args]) == total.dtype


def test_constants_are_there():
    assert (pb.pi, pb.e, pb.inf, pb.newaxis) == (np.pi, np.e, np.inf, None)
    assert np.isnan(pb.nan)
