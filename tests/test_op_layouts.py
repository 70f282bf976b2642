"""Every op, both ways, on arrays that do not lie in row-major order: the numbers are those of arrays that do."""

import numpy as np
import pytest
from op_cases import DIFFERENTIABLE, cases

import pullback as pb


def column_major(x):
    return np.array(x, order="F")


def gapped(x):
    return np.repeat(x, 2, axis=-1)[..., ::2] if x.ndim else x


def backwards(x):
    return np.flip(np.flip(x).copy())


@pytest.mark.parametrize("laid", [column_major, gapped, backwards])
@pytest.mark.parametrize("op", [op for op in DIFFERENTIABLE if op.samples], ids=lambda op: op.name)
def test_an_op_and_its_vjp_do_not_depend_on_the_layout(op, laid):
    rng = np.random.default_rng(0)
    for case in cases([op]):
        if not case.primals:
            continue
        expected, pull = pb.vjp(case, *case.primals)
        cotangents = [rng.normal(size=x.shape).astype(str(x.dtype)) for x in expected]
        found, pull_laid = pb.vjp(case, *map(laid, case.primals))
        gradients, gradients_laid = pull(tuple(cotangents)), pull_laid(tuple(map(laid, cotangents)))
        for a, b in zip((*found, *gradients_laid), (*expected, *gradients), strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-10, atol=1e-12, err_msg=str(case))
