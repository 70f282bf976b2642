"""Jacobians within a limit of memory: what is allocated is measured, and the numbers are the same."""

from itertools import pairwise

import numpy as np
import pytest
from traced_memory import traced_memory

import pullback as pb
from pullback.errors import DeviceMemoryError

PYTHON = 50_000  # bytes of Python's own objects; beside arrays of megabytes


def net(*sizes, op=pb.linear_tanh):
    """Layers of float32, and an input."""
    rng = np.random.default_rng(2)
    weights = [(rng.normal(size=shape) / np.sqrt(shape[0])).astype("float32") for shape in pairwise(sizes)]

    def f(x):
        for w in weights:
            x = op(x, w)
        return x

    return f, rng.normal(size=sizes[0]).astype("float32"), 2 * 4 * sum(sizes)  # what two ops for a layer save


def ops_apart(x, w):
    return pb.tanh(x @ w)


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_walks_go_in_chunks_that_fit(mode):
    f, x, _ = net(*[200] * 5, op=ops_apart)
    whole = pb.jacobian(f, mode=mode)(x).numpy()
    for limit in (2_000_000, 600_000):
        found, peak, _ = traced_memory(lambda limit=limit: pb.jacobian(f, mode=mode, memory_limit=limit)(x))
        assert peak <= limit
        np.testing.assert_allclose(found.numpy(), whole, rtol=1e-4, atol=1e-6)
    with pytest.raises(DeviceMemoryError, match="memory_limit is 1,000"):
        pb.jacobian(f, mode=mode, memory_limit=1000)(x)


CHAINS = {
    "waists": net(512, 16, 512, 16, 512),
    "waists and long rows": net(256, 4096, 256, 4096, 256, 2048),
    "a broad middle": net(128, 2800, 3600, 2800, 128),
    "ops apart": net(64, 2800, 64, 2800, 64, 2048, op=ops_apart),
}


@pytest.mark.parametrize("name", CHAINS)
def test_plans_are_made_for_the_memory_that_there_is(name):
    f, x, saved = CHAINS[name]
    free = pb.plan_jacobian(f, x).modes["planned"]
    whole = pb.jacobian(f, mode="planned")(x).numpy()
    with pytest.raises(DeviceMemoryError) as error:
        pb.jacobian(f, mode="planned", memory_limit=whole.nbytes)(x)
    least = int(str(error.value).split(" bytes")[0].split()[-1].replace(",", ""))
    assert whole.nbytes < least < free.nbytes
    flops = []
    for share in (1.0, 0.6, 0.3, 0.1, 0.0):
        limit = least + int(share * (free.nbytes - least))
        planned = pb.plan_jacobian(f, x, memory_limit=limit).modes["planned"]
        assert planned.nbytes <= limit
        flops.append(planned.flops)
        found, peak, _ = traced_memory(lambda limit=limit: pb.jacobian(f, mode="planned", memory_limit=limit)(x))
        assert peak <= limit + saved + PYTHON
        np.testing.assert_allclose(found.numpy(), whole, rtol=1e-4, atol=1e-5)
    assert flops == sorted(flops)  # less memory, more work
    assert flops[0] == free.flops < flops[-1]
    with pytest.raises(DeviceMemoryError, match=f"takes {least:,} bytes with the result itself"):
        pb.jacobian(f, mode="planned", memory_limit=least - 1)(x)


def rows_apart(rows=64):
    """A net on a batch, and how many bytes its Jacobian has."""
    rng = np.random.default_rng(3)
    w = rng.normal(size=(300, 4)).astype("float32")
    return (lambda x: pb.tanh(x @ w)), rng.normal(size=(rows, 300)).astype("float32"), (rows * 4) * (rows * 300) * 4


@pytest.mark.parametrize("mode", ["blocks", "auto"])
def test_blocks_stay_within_a_limit(mode):
    f, x, whole = rows_apart()
    limit = whole + 2_000_000
    assert pb.plan_jacobian(f, x, memory_limit=limit).choice == "blocks"
    found, peak, _ = traced_memory(lambda: pb.jacobian(f, mode=mode, memory_limit=limit)(x))
    assert peak <= limit
    np.testing.assert_allclose(found.numpy(), pb.jacobian(f, mode="reverse")(x).numpy(), rtol=1e-5, atol=1e-6)


def test_whether_there_are_blocks_is_not_tried_where_they_would_not_fit():
    batches = [64, 65, 66]  # what is found out is remembered for the shape

    def refused():
        f, x, _ = rows_apart(batches.pop())
        with pytest.raises(DeviceMemoryError, match="with the result itself"):
            pb.jacobian(f, mode="blocks", memory_limit=200_000)(x)
        return x

    x, peak, _ = traced_memory(refused)
    assert peak < 6 * x.nbytes  # to try it pulls twelve cotangents of the size of x


def test_auto_takes_the_cheapest_of_what_fits():
    f, x, _ = CHAINS["a broad middle"]
    modes = pb.plan_jacobian(f, x).modes
    tight = pb.plan_jacobian(f, x, memory_limit=800_000)
    assert all(cost.nbytes <= 800_000 for cost in tight.modes.values())
    assert tight.modes["planned"].flops > modes["planned"].flops
    assert tight.modes[tight.choice].flops == min(cost.flops for cost in tight.modes.values())
    least = min(cost.nbytes for cost in pb.plan_jacobian(f, x, memory_limit=200_000).modes.values())
    with pytest.raises(DeviceMemoryError, match="plan_jacobian: one vector at a time takes"):
        pb.plan_jacobian(f, x, memory_limit=least // 4)


def test_auto_says_what_does_not_fit():
    plan = pb.plan_jacobian(lambda x: pb.sin(x) * pb.cos(x), np.ones(300, "float32"), memory_limit=730_000)
    assert plan.choice == "diagonal"
    plan = pb.plan_jacobian(CHAINS["waists"][0], CHAINS["waists"][1], memory_limit=1_300_000)
    assert plan.choice == "planned"
    assert "reverse, forward would take more than memory_limit" in plan.why


def test_a_diagonal_is_refused_where_it_does_not_fit():
    x = np.random.default_rng(2).normal(size=900).astype("float32")
    f = lambda x: pb.sin(x) * pb.cos(x)  # noqa: E731
    most = pb.plan_jacobian(f, x).modes["diagonal"].nbytes
    _, peak, _ = traced_memory(lambda: pb.jacobian(f, mode="diagonal", memory_limit=most)(x))
    assert peak <= most + PYTHON
    with pytest.raises(DeviceMemoryError, match=f"mode='diagonal' takes {most:,} bytes"):
        pb.jacobian(f, mode="diagonal", memory_limit=most - 1)(x)
