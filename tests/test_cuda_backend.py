"""The CUDA backend's own code on the stand-in for CuPy: numbers, what is launched, what is refused, what fails."""

import importlib

import emulator
import numpy as np
import op_cases
import pytest
import stand_in_cupy
from op_cases import Case, cases, random_like
from stand_in_cupy import log

import pullback as pb
from pullback.core.op import OPS

pytestmark = pytest.mark.skipif(emulator.missing() is not None, reason=str(emulator.missing()))

PRECISION = {"float64": 1e-11, "float32": 2e-5, "float16": 2e-2, "bfloat16": 1e-1}  # of whole formulas, not of one op


def module(name):
    return importlib.import_module(f"pullback.backends.cuda.{name}" if name else "cupy")


@pytest.fixture(autouse=True)
def _kernel_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(op_cases, "DEVICE", "cpu")  # with --device cuda too
    if not log.on_gpu:
        monkeypatch.setenv("PULLBACK_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def cuda():
    with stand_in_cupy.device() as backend:
        yield backend


@pytest.fixture
def cupy(cuda):
    return module("")


@pytest.fixture
def launching(cuda):
    return module("launching")


def launched(work):
    """The kernels among the work given to the device."""
    return [w for w in work if w.kind == "kernel"]


# --- every op ---------------------------------------------------------------------------------------------------------


def measured(case: Case, place=lambda x: x):
    """Values, and where there is a derivative the VJP and the JVP; `place` puts the primals where the op shall run."""
    primals = [place(x) for x in case.primals]
    value = case.run(*primals)
    found = [x.numpy() for x in (value if isinstance(value, tuple | list) else (value,))]
    if case.op.differentiable and primals:
        rng = np.random.default_rng(0)
        out, pull = pb.vjp(case, *primals)
        cotangents = [np.asarray(g, x.dtype) for g, x in zip(random_like(rng, out), out, strict=True)]
        found += [x.numpy() for x in pull(tuple(cotangents))]
        directions = [np.asarray(t, x.dtype) for t, x in zip(random_like(rng, case.primals), case.primals, strict=True)]
        found += [x.numpy() for x in pb.jvp(case, primals, [place(t) for t in directions])[1]]
    return found


def close(found, expected, tolerance):
    assert len(found) == len(expected)
    for x, y in zip(found, expected, strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        finite = np.abs(y[np.isfinite(y)])
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * (1 + np.max(finite, initial=0.0)))


@pytest.mark.parametrize("kernels_on", [False, True], ids=["plain", "kernels"])
@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_every_op_gives_on_the_device_what_it_gives_on_the_cpu(op, kernels_on, monkeypatch):
    everywhere = cases([op])
    expected = [measured(case) for case in everywhere]
    monkeypatch.setattr(op_cases, "DEVICE", "cuda")
    with stand_in_cupy.device(kernels_on), stand_in_cupy.watched() as work:
        for case, numbers in zip(everywhere, expected, strict=True):
            found = measured(case)
            assert [x.dtype for x in found] == [x.dtype for x in numbers]
            close(found, numbers, PRECISION["float64"])
    assert kernels_on or launched(work) == []


FUSED = [
    "add", "bias_slope", "cross_entropy", "cross_entropy_slope", "gelu", "gelu_slope", "keyed_dropout", "layer_norm",
    "layer_norm_slope", "linear_gelu", "log_softmax", "mse_loss", "pow", "softmax", "softmax_slope", "sum",
]  # fmt: skip


@pytest.mark.parametrize("name", FUSED)
def test_kernels_take_the_narrow_types(name, monkeypatch):
    """Those that float64 has shown to be right, in types whose packing differs."""
    everywhere = [case for case in cases([OPS[name]]) if case.primals]
    for dtype in ("float32", "float16", "bfloat16"):
        kinds = set()
        for case in everywhere:
            rounded = [x.astype(narrow(dtype)).astype(np.float64) for x in case.primals]
            expected = [x.numpy() for x in outputs(case.run(*rounded))]
            with stand_in_cupy.device() as backend, stand_in_cupy.watched() as work, monkeypatch.context() as here:
                here.setattr(op_cases, "DEVICE", "cuda")
                found = outputs(case.run(*[backend.asarray(x.astype(narrow(dtype))) for x in rounded]))
                close([x.numpy().astype(np.float64) for x in found], expected, PRECISION[dtype])
            kinds |= {w.kind for w in work}
        assert "kernel" in kinds, dtype


def narrow(name):
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16) if name == "bfloat16" else np.dtype(name)


def outputs(value):
    return value if isinstance(value, tuple | list) else (value,)
