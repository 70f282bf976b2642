"""The launchers of dropout, of optimizers and of what is asked of all gradients, on the stand-in for CuPy."""

from importlib import import_module
from math import inf
from typing import Any

import numpy as np
import pytest
import stand_in_cupy
from emulator import missing
from kernel_rows import TYPES, dtype, real
from stand_in_cupy import log

import pullback as pb
from pullback.backends import BACKENDS, philox
from pullback.errors import DtypeError

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

ADAM = {"rate": 0.05, "betas": (0.9, 0.99), "eps": 1e-3, "decay": 0.01, "shrink": 0.99}
SGD = {"rate": 0.05, "momentum": 0.9, "dampening": 0.3, "nesterov": False, "decay": 0.01}


@pytest.fixture
def cuda() -> Any:
    with stand_in_cupy.device() as backend:
        yield backend


def launcher(name: str) -> Any:
    return import_module(f"pullback.backends.cuda.{name}")


def refuse(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("the kernels take these")


def rows_of(cuda: Any, name: str, sizes: list[int], states: int, masters: bool = False) -> tuple[Any, Any]:
    """The same rows on the host and on the device."""
    rng, host = np.random.default_rng(0), []
    for size in sizes:
        p, g = (rng.normal(size=size).astype(dtype(name)) for _ in range(2))
        state = [np.abs(rng.normal(size=size)).astype(real(name)) for _ in range(states)]
        host.append((p, g, *state, p.astype(real(name)) if masters else None))
    device = [tuple(x if x is None else cuda.asarray(x, copy=True) for x in row) for row in host]
    return host, device


def assert_same(cuda: Any, host: Any, device: Any) -> None:
    for row, other in zip(host, device, strict=True):
        for x, y in zip(row, other, strict=True):
            assert (x is None) is (y is None)
            if x is not None:
                rtol = TYPES[x.dtype.name][2] if log.on_gpu else 0.0  # a GPU rounds x * y + z once
                np.testing.assert_allclose(cuda.to_numpy(y).astype(float), x.astype(float), rtol=rtol, atol=rtol)


def kernels(operations: Any) -> list[str]:
    return [operation.name for operation in operations if operation.is_launch]


# --- optimizers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TYPES)
def test_a_step_of_adam_is_one_launch_for_all_parameters(cuda: Any, name: str) -> None:
    update_adam = launcher("updates").update_adam
    host, device = rows_of(cuda, name, [3, 0, 5000, 64], 2, masters="16" in name)
    with stand_in_cupy.watched() as operations:
        update_adam(refuse, device, **ADAM)
    assert kernels(operations) == [f"pullback::adam<{TYPES[name][0]}>"]
    BACKENDS[np.ndarray].update_adam(host, **ADAM)
    assert_same(cuda, host, device)


@pytest.mark.parametrize("name", TYPES)
def test_a_step_of_sgd_is_one_launch_for_all_parameters(cuda: Any, name: str) -> None:
    update_sgd = launcher("updates").update_sgd
    for states, template in [(1, "momentum"), (0, "descent")]:
        host, device = rows_of(cuda, name, [3, 0, 5000, 64], states, masters="16" in name)
        if not states:
            host, device = ([(p, g, None, w) for p, g, w in rows] for rows in (host, device))
        for options in (SGD, {**SGD, "nesterov": True, "dampening": 0.0}):
            with stand_in_cupy.watched() as operations:
                update_sgd(refuse, device, **options)
            assert kernels(operations) == [f"pullback::{template}<{TYPES[name][0]}>"]
            BACKENDS[np.ndarray].update_sgd(host, **options)
        assert_same(cuda, host, device)


@pytest.mark.skipif(log.on_gpu, reason="uploads are written down by the stand-in only")
def test_the_table_goes_to_the_device_once_while_addresses_stay(cuda: Any) -> None:
    update_adam = launcher("updates").update_adam
    host, device = rows_of(cuda, "float32", [3, 5000], 2)
    uploads = []
    for _ in range(3):
        with stand_in_cupy.watched() as operations:
            update_adam(refuse, device, **ADAM)
        uploads.append(sum(operation.kind == "upload" for operation in operations))
        BACKENDS[np.ndarray].update_adam(host, **ADAM)
    assert uploads == [1, 0, 0]
    device = [(p, cuda.asarray(g, copy=True), m, v, w) for p, g, m, v, w in device]
    update_adam(refuse, device, **ADAM)
    BACKENDS[np.ndarray].update_adam(host, **ADAM)
    assert_same(cuda, host, device)


def test_rows_that_no_kernel_takes_are_left_to_the_plain_formulas(cuda: Any) -> None:
    update_adam = launcher("updates").update_adam
    _, device = rows_of(cuda, "float32", [8, 8, 8, 8], 2)
    wide = cuda.asarray(np.ones(16, np.float32))
    odd = [
        (wide[::2], *device[0][1:]),  # not contiguous
        (device[1][0], cuda.asarray(np.ones(8)), *device[1][2:]),  # a gradient of another dtype
        (*device[2][:4], cuda.asarray(np.ones(8, np.float32))),  # master weights of a float32 parameter
    ]
    left: list[Any] = []
    update_adam(lambda rows, **options: left.extend([rows, options]), [*odd, device[3]], **ADAM)
    assert [row[0] for row in left[0]] == [row[0] for row in odd] or all(
        a is b for row, other in zip(left[0], odd, strict=True) for a, b in zip(row, other, strict=True)
    )
    assert left[1] == ADAM
    with pytest.raises(DtypeError, match="contiguous"):
        update_adam(refuse, odd, **ADAM, skip=cuda.asarray(np.zeros(1, np.int32)))
    with pytest.raises(DtypeError, match="skip is read as int32; got an array of float32"):
        update_adam(refuse, device, **ADAM, skip=cuda.asarray(np.zeros(1, np.float32)))


def test_a_captured_step_takes_rate_and_skip_from_device_memory(cuda: Any) -> None:
    import cupy

    updates = launcher("updates")
    host, device = rows_of(cuda, "float32", [8, 70], 2)
    varying, skip = cuda.asarray(np.array([0.5, 1e-3, 1.0])), cuda.asarray(np.zeros(1, np.int32))
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        updates.update_adam(refuse, device, **ADAM, varying=varying, skip=skip)
        graph = stream.end_capture()
    assert_same(cuda, host, device)
    for size in range(100):  # as many other tables as push the oldest out
        launcher("pieces").pieces_of([(cuda.asarray(np.ones(100))[:size],)])
    for rate, skipped in [(0.25, 0), (0.125, 1), (0.0625, 0)]:
        varying[:1] = rate
        skip[:] = skipped
        graph.launch(stream)
        if not skipped:
            BACKENDS[np.ndarray].update_adam(host, **{**ADAM, "rate": rate, "shrink": 1.0})
        assert_same(cuda, host, device)


def test_a_flag_of_the_host_costs_the_kernels_nothing(cuda: Any) -> None:
    """What is asked of gradients of several dtypes comes as a bool: a true one is no step, a false one no matter."""
    for name, states, options in [("update_adam", 2, ADAM), ("update_sgd", 1, SGD)]:
        host, device = rows_of(cuda, "float32", [3, 64], states)
        with stand_in_cupy.watched() as operations:
            getattr(cuda, name)(device, **options, skip=True)
        assert operations == []
        assert_same(cuda, host, device)
        with stand_in_cupy.watched() as operations:
            getattr(cuda, name)(device, **options, skip=False)
        (launch,) = kernels(operations)
        assert launch.startswith("pullback::")
        getattr(BACKENDS[np.ndarray], name)(host, **options)
        assert_same(cuda, host, device)


def test_a_step_of_several_dtypes_that_may_be_skipped_is_still_a_launch_for_each(cuda: Any) -> None:
    params = [pb.tensor([1.0, 2.0], dtype=kind, device="cuda", requires_grad=True) for kind in ("float32", "float64")]
    adam = pb.optim.Adam(params, lr=0.1)
    for factor, launches in [(1.0, 2), (inf, 0), (1.0, 2)]:
        before = [x.numpy() for x in params]
        gradients = [params[0].detach(), params[1].detach() * factor]
        with stand_in_cupy.watched() as operations:
            adam.step(gradients, skip_if_nonfinite=True)
        assert len([name for name in kernels(operations) if name.startswith("pullback::adam")]) == launches
        changed = [bool((x.numpy() != old).all()) for x, old in zip(params, before, strict=True)]
        assert changed == [launches > 0] * 2


# --- norm, scaling, finite check --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TYPES)
def test_clipping_is_two_launches(cuda: Any, name: str) -> None:
    checks = launcher("checks")
    host = [np.full(size, 2, dtype(name)) for size in (7, 0, 5000)]
    device = [cuda.asarray(x) for x in host]
    with stand_in_cupy.watched() as operations:
        norm, factor = checks.norm_and_factor(device, 5.0)
        assert checks.scale([(x, x) for x in device], factor)
    assert len(kernels(operations)) == 2
    wanted = np.sqrt(4.0 * 5007)
    np.testing.assert_allclose(float(norm), wanted, rtol=1e-6)
    np.testing.assert_allclose(float(factor), 5 / wanted, rtol=1e-6)
    rounded = np.full((), float(factor), real(name)).astype(dtype(name))
    for x, y in zip(host, device, strict=True):
        np.testing.assert_array_equal(cuda.to_numpy(y).astype(float), (x * rounded).astype(float))


def test_a_number_that_is_not_finite_is_a_flag_for_the_optimizer(cuda: Any) -> None:
    checks, updates = launcher("checks"), launcher("updates")
    host, device = rows_of(cuda, "float16", [8, 5000], 2, masters=True)
    assert int(checks.nonfinite([row[1] for row in device])) == 0
    device[1][1][4999] = inf
    host[1][1][4999] = inf
    with stand_in_cupy.watched() as operations:
        updates.update_adam(refuse, device, **ADAM, skip=checks.nonfinite([row[1] for row in device]))
    assert len(kernels(operations)) == 2
    assert_same(cuda, host, device)


def test_what_the_checks_do_not_take_is_said(cuda: Any) -> None:
    checks = launcher("checks")
    mixed = [cuda.asarray(np.ones(3, np.float32)), cuda.asarray(np.ones(3))]
    gaps = [cuda.asarray(np.ones(6, np.float32))[::2]]
    factor = cuda.asarray(np.ones(1, np.float32))
    for arrays in ([], mixed, gaps, [cuda.asarray(np.ones(3, np.int32))]):
        assert checks.norm_and_factor(arrays, 1.0) is None
        assert checks.nonfinite(arrays) is None
    assert not checks.scale([(gaps[0], gaps[0])], factor)
    assert not checks.scale([(mixed[1], mixed[1])], factor)


def test_scaling_without_kernels_allocates_its_results_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with stand_in_cupy.device(kernels_on=False) as cuda:
        monkeypatch.setattr(import_module("cupy"), "empty_like", refuse)
        arrays = [cuda.asarray(np.full(3, 2.0)) for _ in range(2)]
        mine, new = cuda.scaled(arrays, [True, False], cuda.asarray(np.asarray(0.5)))
        assert mine is arrays[0]
        assert cuda.to_numpy(mine).tolist() == cuda.to_numpy(new).tolist() == [1.0] * 3
        assert cuda.to_numpy(arrays[1]).tolist() == [2.0] * 3


# --- dropout ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_dropout_is_a_launch_forwards_and_one_backwards_and_keeps_nothing(cuda: Any, name: str) -> None:
    host = np.linspace(-1, 1, 203).reshape(7, 29).astype(name)
    results = []
    for device in ("cpu", "cuda"):
        x = pb.tensor(host, requires_grad=True, device=device)
        with stand_in_cupy.watched() as forwards:
            out = pb.dropout(x, 0.3, pb.random.Generator(5))
        kept = [value for value in out.node.saved if hasattr(value, "shape")]
        with stand_in_cupy.watched() as backwards:
            out.backward(pb.tensor(host, device=device))
        results.append((out.numpy(), x.grad.numpy()))
    ours = [[name for name in kernels(found) if name.startswith("pullback::")] for found in (forwards, backwards)]
    assert ours == [[f"pullback::dropout<{TYPES[name][0]}>"]] * 2
    assert kept == []
    for mine, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_higher_derivatives_of_dropout_multiply_by_the_same_mask(cuda: Any) -> None:
    host = np.linspace(-1, 1, 50)
    mask = pb.dropout_mask(host, 0.4, 5, 6).numpy()
    x = pb.tensor(host, device="cuda")

    def f(x: Any) -> Any:
        return pb.sum(pb.keyed_dropout(x, 0.4, 5, 6) ** 3)

    np.testing.assert_allclose(pb.grad(f)(x).numpy(), 3 * host**2 * mask**3, rtol=1e-14)
    second = pb.grad(lambda x: pb.sum(pb.grad(f)(x)))(x)
    np.testing.assert_allclose(second.numpy(), 6 * host * mask**3, rtol=1e-14)
    _, slope = pb.jvp(lambda x: pb.keyed_dropout(x, 0.4, 5, 6), (x,), (x * 2.0,))
    np.testing.assert_array_equal(slope.numpy(), 2 * host * mask)


def test_an_array_with_gaps_is_dropped_by_the_plain_body_with_the_same_mask(cuda: Any) -> None:
    host = np.linspace(-1, 1, 60).reshape(6, 10)
    wanted = pb.keyed_dropout(host.T.copy(), 0.5, 1, 2).numpy()
    x = cuda.asarray(host).T
    np.testing.assert_array_equal(pb.keyed_dropout(x, 0.5, 1, 2).numpy(), wanted)


def test_a_captured_dropout_draws_a_mask_of_its_own_at_each_launch(cuda: Any) -> None:
    import cupy

    dropout = launcher("dropout")
    host = np.ones(100, np.float32)
    x, counter, seen = cuda.asarray(host), cuda.asarray(np.zeros(1, np.uint64)), []
    pool, stream = cupy.cuda.MemoryPool(), cupy.cuda.Stream(non_blocking=True)
    with stream, cupy.cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        first, second = (dropout.dropped(x, 0.5, 3, step, counter) for step in (10, 11))
        dropout.advance(counter, 2)
        graph = stream.end_capture()
    for launch in range(3):
        graph.launch(stream)
        for step, out in ((10, first), (11, second)):
            seen.append(cuda.to_numpy(out))
            np.testing.assert_array_equal(seen[-1] != 0, philox.kept(3, step + 2 * launch, 100, 2**15))
    assert len({array.tobytes() for array in seen}) == 6


def test_every_kernel_that_is_launched_here_is_listed(cuda: Any) -> None:
    listed = [pair for name in ("dropout", "updates", "checks") for pair in launcher(name).expressions()]
    assert len(listed) == len(set(listed)) == 4 * (1 + 3 + 3) + 1
