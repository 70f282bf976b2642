"""Memory of the device on the stand-in for CuPy: when there is too little, and while a stream is captured."""

import gc
import importlib
from contextlib import suppress

import emulator
import numpy as np
import pytest
import stand_in_cupy

import pullback as pb
from pullback import errors, optim, trees

pytestmark = pytest.mark.skipif(emulator.missing() is not None, reason=str(emulator.missing()))

SAYS = r"allocating [\d,]+ bytes .*CuPy's pool holds .* are in use; .* of the device's .* are free"
rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _kernel_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PULLBACK_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(params=[True, False], ids=["kernels", "plain"])
def cupy(request):
    with stand_in_cupy.device(request.param):
        yield importlib.import_module("cupy")


@pytest.fixture
def with_kernels():
    with stand_in_cupy.device():
        yield importlib.import_module("cupy")


@pytest.fixture
def full(cupy):
    """A function that leaves no memory for what comes after it; all is as before when the test ends."""
    pool = cupy.get_default_memory_pool()

    def fill():
        gc.collect()
        pool.free_all_blocks()
        pool.set_limit(pool.total_bytes() + 512)

    yield fill
    pool.set_limit(0)


def on_device(*shape, **options):
    return pb.tensor(rng.normal(size=shape), dtype="float32", device="cuda", **options)


# --- too little of it -------------------------------------------------------------------------------------------------


def test_an_op_that_finds_no_memory_says_which_and_how_much(full):
    x = on_device(300, 5)
    full()
    with pytest.raises(
        errors.DeviceMemoryError, match=rf"^tanh: Out of memory {SAYS}; met x \(300, 5\) float32 on cuda:0"
    ):
        pb.tanh(x)
    assert issubclass(errors.DeviceMemoryError, MemoryError)


def test_a_copy_to_the_device_that_finds_no_memory_says_so(cupy, full):
    full()
    with pytest.raises(errors.DeviceMemoryError, match=SAYS):
        pb.tensor(np.ones(1000), device="cuda")


def test_a_backward_pass_that_finds_no_memory_says_so_and_leaves_gradients_alone(full):
    x, w = on_device(64, 32, requires_grad=True), on_device(32, 16, requires_grad=True)
    pb.sum(pb.tanh(x @ w)).backward()
    before = x.grad.numpy(), w.grad.numpy()
    y = pb.sum(pb.tanh(x @ w))
    full()
    with pytest.raises(errors.DeviceMemoryError, match=SAYS):
        y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), before[0])
    np.testing.assert_array_equal(w.grad.numpy(), before[1])


@pytest.fixture
def trained(cupy):
    """An optimizer after one step, with gradients for the next."""

    def make(kind):
        parameters = [on_device(40, 30, requires_grad=True), on_device(30, requires_grad=True)]
        optimizer = kind(parameters)
        for steps in (1, 0):
            optimizer.zero_grad()
            pb.add(*(pb.sum(p * p) for p in parameters)).backward()
            for _ in range(steps):
                optimizer.step()
        return parameters, optimizer

    return make


@pytest.mark.parametrize("kind", [optim.Adam, lambda params: optim.SGD(params, lr=0.1, momentum=0.9)])
def test_a_step_that_finds_no_memory_changes_nothing_or_all(cupy, trained, full, kind):
    parameters, optimizer = trained(kind)
    before, state = numbers([p.detach() for p in parameters]), numbers(optimizer.state_dict())
    full()
    failed = True
    with suppress(errors.DeviceMemoryError):
        optimizer.step()
        failed = False
    cupy.get_default_memory_pool().set_limit(0)
    after = numbers([p.detach() for p in parameters])
    if failed:
        np.testing.assert_equal(after, before)
        if importlib.import_module("pullback.backends.cuda.fused").enabled:  # plain formulas may have begun with state
            np.testing.assert_equal(numbers(optimizer.state_dict()), state)
    else:
        assert all((x != old).any() for x, old in zip(after, before, strict=True))


def numbers(tree):
    """The leaves of a tree, copied to the host."""
    return [x.numpy().copy() if isinstance(x, pb.Tensor) else x for x in trees.flatten(tree)[0]]


def test_memory_is_given_back_when_tensors_go(cupy):
    gc.collect()
    pool = cupy.get_default_memory_pool()

    def step():
        x = on_device(64, 32, requires_grad=True)
        pb.cross_entropy(pb.gelu(pb.layer_norm(x)), pb.tensor(np.arange(64) % 32, device="cuda")).backward()
        assert x.grad.shape == (64, 32)

    step()  # scratch memory stays
    used = pool.used_bytes()
    step()
    assert pool.used_bytes() == used


# --- capture ----------------------------------------------------------------------------------------------------------


def captured(cupy, step):
    """The graph of a step that was run once before, and the pool that its arrays are in."""
    stream, pool = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool()
    with stream, cupy.cuda.using_allocator(pool.malloc):
        step()
        stream.begin_capture()
        kept = step()
        return stream.end_capture(), pool, kept


def test_a_captured_step_of_kernels_replays_on_new_numbers(with_kernels):
    """All but the matrix products, which CuPy does not capture: activation, normalisation, loss, and their slopes."""
    cupy = with_kernels
    data = rng.normal(size=(12, 10)).astype(np.float32)
    x = cupy.asarray(data)
    labels = cupy.asarray(np.arange(12) % 10)
    weight, bias = cupy.ones(10, np.float32), cupy.zeros(10, np.float32)

    def step(x=x, labels=labels, weight=weight, bias=bias):
        given = pb.asarray(x).detach()
        loss, pull = pb.vjp(
            lambda x: pb.cross_entropy(pb.layer_norm(pb.gelu(x), weight=weight, bias=bias), labels), given
        )
        return loss, pull(pb.ones_like(loss))

    with stand_in_cupy.watched() as work:
        graph, pool, (loss, gradients) = captured(cupy, step)
    assert {w.kind for w in work} <= {"kernel", "fill", "elementwise", "copy"}
    for scale in (1.0, 2.0):
        x.set(data * np.float32(scale))
        graph.launch()
        host = pb.tensor(data * np.float32(scale), requires_grad=True)
        expected = pb.cross_entropy(
            pb.layer_norm(pb.gelu(host), weight=np.ones(10, np.float32), bias=np.zeros(10, np.float32)),
            np.arange(12) % 10,
        )
        expected.backward()
        np.testing.assert_allclose(loss.numpy(), expected.numpy(), rtol=1e-5)
        found = gradients[0] if isinstance(gradients, tuple) else gradients
        np.testing.assert_allclose(found.numpy(), host.grad.numpy(), rtol=1e-4, atol=1e-6)
    assert pool.used_bytes() > 0


def test_a_capture_without_a_step_before_it_is_refused_by_name(with_kernels):
    cupy = with_kernels
    x = pb.asarray(cupy.ones((8, 4), np.float32))
    labels = pb.asarray(cupy.zeros(8, np.int64))
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with pytest.raises(errors.KernelError, match="run the step once before"):
            pb.cross_entropy(x, labels)
        stream.end_capture()
