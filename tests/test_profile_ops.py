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


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_an_op_does_in_a_profile_what_the_ledger_says(op):
    """But for bytes: a small array that is broadcast is a copy on NumPy and a view for the ledger."""
    for case in cases([op]):
        if not case.primals:
            continue
        primals = [pb.tensor(x, dtype=x.dtype) for x in case.primals]
        expected = pb.cost(case, *primals, argnums=range(len(primals)))
        with pb.profile() as pulled:
            out, pull = pb.vjp(case, *primals)
            if "vjp" in expected.phases:
                pull(tuple(pb.tensor(np.ones(x.shape), dtype=x.dtype) for x in out))
        found = totals(pulled)
        if "jvp" in expected.phases:
            with pb.profile() as pushed:
                pb.jvp(case, tuple(primals), tuple(primals))
            found["jvp"] = totals(pushed).get("jvp", Count())
        for phase, what in expected.phases.items():
            done = found.get(phase, Count())
            assert (done.flops, done.multiply_adds) == (what.count.flops, what.count.multiply_adds), (case, phase)
