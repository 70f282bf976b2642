"""Every op on a backend that allows nothing beyond the array API standard: the record's `standard` does not lie."""

import numpy as np
import op_cases
import pytest
import strict_backend
from op_cases import Case, cases, random_like

import pullback as pb
from pullback.core.op import OPS, Op

pytestmark = pytest.mark.filterwarnings("ignore:You are comparing a array_api_strict dtype")  # where devices meet

MOVER = "to_device"  # moves every argument below there and back
OWN = [op for op in OPS.values() if op.standard and op.name != MOVER]
BEYOND = [op for op in OPS.values() if not op.standard]


def outputs(out):
    return [x.numpy() for x in (out if isinstance(out, tuple | list) else (out,))]


def measured(case: Case):
    """Values, and where there is a derivative the VJP and the JVP, at fixed cotangents and tangents."""
    found = outputs(case.run(*case.primals))
    if case.op.differentiable and case.primals:
        rng = np.random.default_rng(0)
        out, pull = pb.vjp(case, *case.primals)
        found += outputs(pull(tuple(random_like(rng, out))))
        found += outputs(pb.jvp(case, case.primals, random_like(rng, case.primals))[1])
    return found


def check(op: Op, monkeypatch, refused: tuple[type[Exception], ...] = ()) -> int:
    """Measure every sample of an op here and there; returns how many were refused there."""
    everywhere, count = cases([op]), 0
    expected = [measured(case) for case in everywhere]
    monkeypatch.setattr(op_cases, "DEVICE", strict_backend.StrictBackend.name)
    for case, numbers in zip(everywhere, expected, strict=True):
        try:
            found = measured(case)
        except refused:
            count += 1
            continue
        for x, y in zip(found, numbers, strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12, err_msg=repr(case))
    return count


@pytest.mark.parametrize("op", OWN, ids=lambda op: op.name)
def test_an_op_of_the_standard_gives_the_same_on_a_backend_that_has_only_the_standard(op: Op, monkeypatch):
    check(op, monkeypatch)


@pytest.mark.parametrize("op", BEYOND, ids=lambda op: op.name)
def test_an_op_that_says_it_needs_more_does_not_run_there_and_is_right_where_it_does(op: Op, monkeypatch):
    assert check(op, monkeypatch, (pb.errors.PullbackError, IndexError, AttributeError, TypeError)) > 0


def test_every_body_of_the_standard_ran():
    """The cases above are those of the table, each with at least one call."""
    assert {op.name for op in OWN} | {op.name for op in BEYOND} | {MOVER} == set(OPS)
    assert [op.name for op in OPS.values() if not cases([op])] == []
