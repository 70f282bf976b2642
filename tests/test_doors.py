"""The calls of ops: arguments by position and by name, what is met told in errors, whatever door an op has."""

import inspect

import numpy as np
import pytest
from op_cases import cases

import pullback as pb
from pullback.core.op import OPS

POSITIONAL = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
NAMED = [op for op in OPS.values() if all(p.kind in POSITIONAL for p in inspect.signature(op.call).parameters.values())]


def flat(out):
    return [x.numpy() for x in (out if isinstance(out, tuple | list) else [out])]


@pytest.mark.parametrize("op", NAMED, ids=repr)
def test_every_argument_can_be_given_by_the_name_in_the_signature(op):
    for case in cases([op])[:2]:
        bound = inspect.signature(op.call).bind(*case.sample.args, **case.sample.kwargs)
        for by_name, by_position in zip(flat(op.call(**bound.arguments)), flat(case.run(*case.primals)), strict=True):
            np.testing.assert_array_equal(by_name, by_position)


@pytest.mark.parametrize("op", [op for op in NAMED if op.inputs], ids=repr)
def test_a_call_without_arguments_or_with_an_unknown_one_is_refused(op):
    """Python itself checks the calls of ops of one or two arrays: that costs nothing."""
    with pytest.raises((pb.errors.ArgumentError, TypeError), match=op.name):
        op.call()
    sample = cases([op])[0].sample
    with pytest.raises((pb.errors.ArgumentError, TypeError), match=rf"{op.name}.*colour"):
        op.call(*sample.args, colour="red", **sample.kwargs)


@pytest.mark.parametrize("op", [op for op in NAMED if op.inputs and not op.sequence], ids=repr)
@pytest.mark.parametrize("junk", ["text", [[1.0], [1.0, 2.0]], np.array([None]), np.ones(2, complex)], ids=repr)
def test_an_operand_that_is_no_array_of_numbers_is_named(op, junk):
    sample = cases([op])[0].sample
    names = [p.name for p in op.arguments]
    for position, name in enumerate(names[: len(sample.args)]):
        if name in op.inputs:
            args = [junk if i == position else x for i, x in enumerate(sample.args)]
            with pytest.raises(pb.errors.DtypeError, match=rf"^{op.name}: argument {name}: "):
                op.call(*args, **sample.kwargs)


def test_an_operand_of_a_sequence_is_named_by_its_position():
    for junk in ("text", None, np.array([None])):
        with pytest.raises(pb.errors.DtypeError, match=r"^concat: argument arrays\[1\]: "):
            pb.concat([np.ones(2), junk])


def test_an_operand_that_is_missing_is_told_from_one_that_may_be():
    for call in (lambda: pb.add(None, 1.0), lambda: pb.add(np.ones(2), None), lambda: pb.add(None, None)):
        with pytest.raises(pb.errors.DtypeError, match=r"^add: argument [xy]: cannot make a tensor of NoneType"):
            call()
    assert pb.clip(pb.tensor([1.0, 5.0]), None, 2.0).tolist() == [1.0, 2.0]


def test_the_dtypes_and_shapes_met_are_told():
    with pytest.raises(pb.errors.ShapeError, match=r"x \(3,\) float32 on cpu, y \(2, 2\) float64 on cpu"):
        pb.tensor([1.0, 2.0, 3.0]) * np.ones((2, 2))
    with pytest.raises(
        pb.errors.ArgumentError, match=r"add: Python integer 300 out of bounds for uint8; met x \(2,\) uint8"
    ):
        pb.tensor(np.ones(2, "uint8")) + 300


def test_signatures_and_docstrings_are_those_of_the_bodies():
    assert str(inspect.signature(pb.matmul)).startswith("(a: ")
    assert pb.matmul.__name__ == "matmul"
    assert pb.matmul(b=np.ones((2, 1)), a=np.ones((3, 2))).shape == (3, 1)
    assert pb.sum(x=np.ones((2, 3)), axis=0, keepdims=True).shape == (1, 3)
