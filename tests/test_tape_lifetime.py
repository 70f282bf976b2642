"""How long a tape lives: freeing, long chains, reference counts, and where recording is on."""

import asyncio
import gc
import threading
import weakref

import numpy as np
import pytest

import pullback as pb
from pullback.core.recording import enable_recording
from pullback.core.tape import Equation, Leaf


def leaf(values, dtype="float64"):
    return pb.tensor(np.asarray(values, dtype), requires_grad=True)


def equations_alive():
    return sum(type(thing) is Equation for thing in gc.get_objects())


@pytest.fixture
def without_collector():
    """Only reference counts free anything inside; what was garbage before is gone."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("pulled", [False, True], ids=["dropped", "pulled"])
def test_what_a_checkpoint_holds_is_freed_without_the_collector(pulled, without_collector):
    numbers = np.ones(3)
    held = weakref.ref(numbers)
    x = pb.Tensor(numbers, Leaf())
    y = pb.sum(pb.checkpoint(pb.exp)(x))
    if pulled:
        y.backward()
    del x, y, numbers
    assert held() is None


# --- freeing ----------------------------------------------------------------------------------------------------------


def test_a_tape_is_freed_by_its_backward_and_says_so_the_second_time():
    x = leaf([1.0, 2.0])
    y = pb.sum(pb.tanh(x))
    y.backward()
    numbers = x.grad.numpy().copy()
    with pytest.raises(pb.errors.TapeError, match=r"sum was already pulled and its tape freed.*retain=True"):
        y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), numbers)


def test_a_retained_tape_can_be_pulled_again():
    x = leaf([1.0, 2.0])
    y = pb.sum(x * x)
    y.backward(retain=True)
    y.backward(retain=True)
    y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), 6 * x.numpy())
    with pytest.raises(pb.errors.TapeError, match="freed"):
        y.backward()


def test_two_outputs_of_one_tape_cannot_both_be_pulled_unless_it_is_retained():
    x = leaf([1.0, 2.0])
    h = pb.tanh(x)
    first, second = pb.sum(h), pb.sum(h * h)
    first.backward()
    numbers = x.grad.numpy().copy()
    with pytest.raises(pb.errors.TapeError, match="tanh was already pulled"):
        second.backward()
    np.testing.assert_array_equal(x.grad.numpy(), numbers)
    again = pb.tanh(x)
    pb.sum(again).backward(retain=True)
    pb.sum(again * again).backward()


def test_backward_frees_saved_arrays_but_not_the_values_that_are_held():
    x = leaf([1.0, 2.0])
    h = pb.tanh(x)
    y = pb.sum(h)
    y.backward()
    assert h.node.saved is None
    assert y.node.parents is None
    np.testing.assert_allclose(h.numpy(), np.tanh([1.0, 2.0]))


@pytest.mark.usefixtures("without_collector")
def test_reference_counts_alone_free_a_tape():
    x = leaf(np.ones(4))
    before = equations_alive()
    for _ in range(3):
        pb.sum(pb.tanh(x * x) @ x)  # dropped unused
        pb.sum(pb.tanh(x * x)).backward()
        pb.vjp(lambda v: pb.tanh(v) * x, x)[1](np.ones(4))
        pb.jvp(lambda v: pb.tanh(v) * x, (x,), (np.ones(4),))
        pb.grad(lambda v: pb.sum(pb.grad(lambda u: pb.sum(pb.tanh(u) * v))(v)))(x)
        pb.sum(pb.checkpoint(pb.tanh)(x)).backward()
        pb.sum(pb.custom_rule(pb.tanh, vjp=lambda g, out, v: g * out)(x)).backward()
    assert equations_alive() == before


@pytest.mark.usefixtures("without_collector")
def test_a_failed_backward_leaves_no_cycle_either():
    x = leaf(np.ones(4))
    before = equations_alive()
    with pytest.raises(pb.errors.ShapeError):
        pb.tanh(x).backward()
    with pytest.raises(pb.errors.ShapeError):
        pb.tanh(x) + np.ones(7)
    assert equations_alive() == before


def test_an_equation_lives_while_its_output_does():
    x = leaf(np.ones(4))
    gc.collect()
    before = equations_alive()
    y = pb.tanh(pb.tanh(x))
    assert equations_alive() == before + 2
    detached = y.detach()
    del y
    assert equations_alive() == before
    assert detached.shape == (4,)


# --- long chains ------------------------------------------------------------------------------------------------------


def test_a_chain_of_two_hundred_thousand_equations_is_pulled():
    h = x = leaf(1.0)
    for _ in range(200_000):
        h = -h
    h.backward()
    assert x.grad.item() == 1.0


def test_a_chain_of_a_million_equations_is_dropped_without_recursion():
    h = leaf(1.0)
    for _ in range(1_000_000):
        h = -h
    assert h.item() == 1.0
    del h


def test_a_long_chain_is_pushed_and_pulled_by_the_transforms():
    def f(x):
        for _ in range(20_000):
            x = -x
        return x

    assert pb.grad(f)(1.0).item() == 1.0
    assert pb.jvp(f, (1.0,), (3.0,))[1].item() == 3.0


# --- the state of recording -------------------------------------------------------------------------------------------


def test_no_grad_is_a_context():
    x = leaf([1.0])
    with pb.no_grad():
        assert not (x * 2.0).requires_grad
        with enable_recording():
            assert (x * 2.0).requires_grad
        assert not (x * 2.0).requires_grad
    assert (x * 2.0).requires_grad


def test_no_grad_is_a_decorator_that_keeps_the_name():
    @pb.no_grad()
    def doubled(x):
        """Twice x."""
        return x * 2.0

    x = leaf([1.0])
    assert not doubled(x).requires_grad
    assert not doubled(x).requires_grad
    assert (doubled.__name__, doubled.__doc__) == ("doubled", "Twice x.")
    assert (x * 2.0).requires_grad


def test_recording_is_as_before_after_an_error_inside_no_grad():
    x = leaf([1.0])
    with pytest.raises(ZeroDivisionError), pb.no_grad():
        raise ZeroDivisionError
    assert (x * 2.0).requires_grad


def test_the_same_no_grad_may_be_entered_twice():
    x = leaf([1.0])
    context = pb.no_grad()
    with context, context:
        assert not (x * 2.0).requires_grad
    assert (x * 2.0).requires_grad


def test_backward_runs_inside_no_grad():
    x = leaf([1.0, 2.0])
    y = pb.sum(x * x)
    with pb.no_grad():
        y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), 2 * x.numpy())


def test_recording_is_off_in_one_thread_only():
    x = leaf([1.0])
    seen = []
    with pb.no_grad():
        thread = threading.Thread(target=lambda: seen.append((x * 2.0).requires_grad))
        thread.start()
        thread.join()
        assert not (x * 2.0).requires_grad
    assert seen == [True]


def test_recording_is_off_in_one_async_context_only():
    x = leaf([1.0])

    async def off():
        with pb.no_grad():
            await asyncio.sleep(0.01)
            return (x * 2.0).requires_grad

    async def on():
        await asyncio.sleep(0.005)
        return (x * 2.0).requires_grad

    async def both():
        return await asyncio.gather(off(), on())

    assert asyncio.run(both()) == [False, True]


def test_threads_record_and_pull_their_own_tapes():
    found = {}

    def work(k):
        x = leaf(np.full(8, float(k)))
        for _ in range(50):
            x.zero_grad()
            pb.sum(pb.tanh(x * x)).backward()
        found[k] = x.grad.numpy()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in range(4):
        np.testing.assert_allclose(found[k], np.full(8, 2 * k * (1 - np.tanh(k * k) ** 2)), rtol=1e-12)
