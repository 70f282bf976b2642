"""Derivatives of derivatives through ops that run as kernels: what the CPU gives, on the stand-in for CuPy."""

import emulator
import numpy as np
import op_cases
import pytest
import stand_in_cupy
from op_cases import cases, random_like

import pullback as pb
from pullback.core.op import OPS

pytestmark = pytest.mark.skipif(emulator.missing() is not None, reason=str(emulator.missing()))


def names():
    """Differentiable ops of one output that a CUDA device runs by a function of its own."""
    with stand_in_cupy.device():
        from pullback.backends.cuda.fused import FUSED

        fused = {name for name in FUSED if name in OPS and OPS[name].differentiable}
    return sorted(name for name in fused if OPS[name].kind != "composite" and not OPS[name].outputs)


def second_order(case):
    """The derivative of the VJP of a case, by a push and by a pull of it."""
    rng = np.random.default_rng(3)
    direction = random_like(rng, case.primals)
    cotangents = tuple(random_like(rng, case(*case.primals)))

    def gradient(*primals):
        return pb.vjp(case, *primals)[1](cotangents)

    pushed = pb.jvp(gradient, case.primals, direction)[1]
    pulled = pb.vjp(gradient, *case.primals)[1](tuple(direction))
    return [x.numpy() for x in (*pushed, *pulled)]


@pytest.mark.parametrize("name", names() if emulator.missing() is None else [])
def test_the_second_order_through_kernels_is_that_of_the_cpu(name, monkeypatch):
    launched = set()
    for case in cases([OPS[name]]):
        if launched or not case.primals or not all(x.size for x in case.primals):
            continue
        monkeypatch.setattr(op_cases, "DEVICE", "cpu")
        expected = second_order(case)
        monkeypatch.setattr(op_cases, "DEVICE", "cuda")
        with stand_in_cupy.device(), stand_in_cupy.watched() as work:
            for found, number in zip(second_order(case), expected, strict=True):
                np.testing.assert_allclose(found, number, rtol=1e-10, atol=1e-10 * (1 + np.max(np.abs(number))))
        launched |= {w.name for w in work if w.kind == "kernel"}
    assert launched or name in ("astype", "sum")  # whose samples are other casts, other axes
