"""Every op does in a profile what `pb.cost` counts: its body, its VJP rules and its JVP rules."""

import numpy as np
import pytest
from op_cases import DIFFERENTIABLE, cases

import pullback as pb
from pullback.costs.ledger import Count

OPS = [op for op in DIFFERENTIABLE if op.samples]


def totals(p):
    found: dict[str, Count] = {}
    for line in p.lines:
        assert line.timing.count is not None, line
        found[line.phase] = found.get(line.phase, Count()) + line.timing.count
    return found


def assert_costs(f, primals, what):
    """That a profile of `f` and its walks holds what `pb.cost` says.

    But for bytes: a small array that is broadcast is a copy on NumPy and a view for the ledger.
    """
    expected = pb.cost(f, *primals, argnums=range(len(primals)))
    with pb.profile() as pulled:
        out, pull = pb.vjp(f, *primals)
        if "vjp" in expected.phases:
            pull(tuple(pb.tensor(np.ones(x.shape), dtype=x.dtype) for x in out))
    found = totals(pulled)
    if "jvp" in expected.phases:
        with pb.profile() as pushed:
            pb.jvp(f, tuple(primals), tuple(primals))
        found["jvp"] = totals(pushed).get("jvp", Count())
    for phase, wanted in expected.phases.items():
        done = found.get(phase, Count())
        assert (done.flops, done.multiply_adds) == (wanted.count.flops, wanted.count.multiply_adds), (what, phase)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_an_op_does_in_a_profile_what_the_ledger_says(op):
    for case in cases([op]):
        if case.primals:
            assert_costs(case, [pb.tensor(x, dtype=x.dtype) for x in case.primals], case)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_a_mapped_op_does_so_for_all_examples(op):
    for case in cases([op]):
        if case.primals:
            primals = [pb.tensor(np.stack([x] * 3), dtype=x.dtype) for x in case.primals]
            assert_costs(pb.vmap(case), primals, case)
