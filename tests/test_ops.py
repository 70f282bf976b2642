"""The op table against mathematics: every op, every sample, from the table alone. Adding an op adds its tests."""

import numpy as np
import pytest
from op_cases import DIFFERENTIABLE, Case, cases, inner, random_like

import pullback as pb
from pullback.core.op import OPS

DERIVATIVES = [case for case in cases(DIFFERENTIABLE) if case.primals]
STEP = 1e-6


def numbers(case: Case, primals):
    return [x.numpy() for x in case(*primals)]


def ahead_and_behind(f, primals, direction, step=STEP):
    """Central difference of f (to a list of arrays) along a direction."""
    ahead = f([np.asarray(x + step * d) for x, d in zip(primals, direction, strict=True)])
    behind = f([np.asarray(x - step * d) for x, d in zip(primals, direction, strict=True)])
    return [(a - b) / (2 * step) for a, b in zip(ahead, behind, strict=True)]


def close(actual, expected, tolerance=1e-6):
    scale = max((float(np.max(np.abs(e), initial=0.0)) for e in expected), default=0.0)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(np.asarray(a), e, rtol=tolerance, atol=tolerance * (1 + scale))


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_the_record_of_every_op_is_complete(op):
    assert op.forward.__doc__
    assert op.call.__doc__ == op.forward.__doc__
    if op.differentiable:
        assert any(case.primals for case in cases([op])), f"{op.name} is differentiable but no sample has a primal"


@pytest.mark.parametrize("case", DERIVATIVES, ids=repr)
def test_jvp_is_the_central_difference(case):
    rng = np.random.default_rng(1)
    direction = random_like(rng, case.primals)
    _, tangents = pb.jvp(case, case.primals, direction)
    expected = ahead_and_behind(lambda primals: numbers(case, primals), case.primals, direction)
    close([t.numpy() for t in tangents], expected)


@pytest.mark.parametrize("case", DERIVATIVES, ids=repr)
def test_vjp_is_the_transpose_of_jvp(case):
    rng = np.random.default_rng(2)
    tangents = random_like(rng, case.primals)
    out, pull = pb.vjp(case, *case.primals)
    cotangents = random_like(rng, out)
    pulled = pull(tuple(cotangents))
    assert [g.shape for g in pulled] == [x.shape for x in case.primals]
    left = inner(cotangents, pb.jvp(case, case.primals, tangents)[1])
    right = inner(pulled, tangents)
    scale = 1 + sum(float(np.sum(np.abs(g.numpy() * t))) for g, t in zip(pulled, tangents, strict=True))
    assert abs(left - right) <= 1e-10 * scale, (left, right)


@pytest.mark.parametrize("case", DERIVATIVES, ids=repr)
def test_the_second_order_in_both_mixes(case):
    """The derivative of the VJP, by a push and by a pull of it, against the central difference of the VJP."""
    rng = np.random.default_rng(3)
    direction = random_like(rng, case.primals)
    cotangents = tuple(random_like(rng, case(*case.primals)))

    def gradient(*primals):
        return pb.vjp(case, *primals)[1](cotangents)

    expected = ahead_and_behind(lambda primals: [g.numpy() for g in gradient(*primals)], case.primals, direction)
    pushed = pb.jvp(gradient, case.primals, direction)[1]
    close([t.numpy() for t in pushed], expected, 2e-6)
    pulled = pb.vjp(gradient, *case.primals)[1](tuple(direction))  # the Hessian of <cotangents, f> is symmetric
    close([t.numpy() for t in pulled], expected, 2e-6)


@pytest.mark.parametrize("case", DERIVATIVES, ids=repr)
def test_rules_over_arrays_agree_with_rules_over_tensors(case):
    cotangents = random_like(np.random.default_rng(4), case(*case.primals))
    _, pull = pb.vjp(case, *case.primals)
    raw = pull(tuple(cotangents))
    recorded = pull(tuple(pb.tensor(g, requires_grad=True) for g in cotangents))
    for a, b in zip(raw, recorded, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", DERIVATIVES, ids=repr)
def test_layout_of_the_inputs_does_not_matter(case):
    """Non-contiguous, read-only and reversed inputs give the same numbers and stay as they were."""
    expected = numbers(case, case.primals)
    strided = []
    for x in case.primals:
        wide = np.full((*x.shape[:-1], 2 * x.shape[-1] + 1), np.nan) if x.ndim else np.asarray(x).copy()
        view = wide[..., 1::2][..., ::-1] if x.ndim else wide
        view[...] = x
        view.flags.writeable = False
        strided.append(view)
    out, pull = pb.vjp(case, *strided)
    close([y.numpy() for y in out], expected, 1e-12)
    cotangents = tuple(random_like(np.random.default_rng(5), out))
    close([g.numpy() for g in pull(cotangents)], [g.numpy() for g in pb.vjp(case, *case.primals)[1](cotangents)], 1e-10)
    for view, x in zip(strided, case.primals, strict=True):
        np.testing.assert_array_equal(view, x)


@pytest.mark.parametrize("case", DERIVATIVES, ids=repr)
def test_float32_stays_float32(case):
    if case.op.name == "astype":
        return
    primals = [x.astype(np.float32) for x in case.primals]

    def narrow(*given):
        out = case.run(*given, convert=lambda x: x.astype(np.float32) if x.dtype.kind == "f" else x)
        outputs = out if isinstance(out, tuple | list) else (out,)
        return tuple(x for x in outputs if x.dtype.kind == "f")

    out, pull = pb.vjp(narrow, *primals)
    assert [y.dtype for y in out] == [np.float32] * len(out)
    cotangents = tuple(np.ones(y.shape, np.float32) for y in out)
    assert [g.dtype for g in pull(cotangents)] == [np.float32] * len(primals)
    assert [t.dtype for t in pb.jvp(narrow, primals, primals)[1]] == [np.float32] * len(out)
    close([y.numpy() for y in out], numbers(case, case.primals), 2e-5)


@pytest.mark.parametrize("op", [op for op in OPS.values() if op.kind == "elementwise" and not op.params], ids=repr)
def test_elementwise_ops_take_arrays_without_elements(op):
    whole = cases([op])[0].sample.args
    empty = [np.zeros((0, 3), dtype=x.dtype) for x in whole]
    assert op.call(*empty).shape == (0, 3)
    assert op.call(*[pb.tensor(x) for x in empty]).shape == (0, 3)
    if op.differentiable and all(op.rules):
        out, pull = pb.vjp(op.call, *empty)
        assert [g.shape for g in pull(np.zeros(out.shape))] == [(0, 3)] * len(empty)
