"""A profile of work on CUDA, on the stand-in for CuPy: events on the stream, no waiting, a row of its own."""

import json

import numpy as np
import pytest
import stand_in_cupy

import pullback as pb
from pullback.costs import rates


@pytest.fixture
def cupy(tmp_path, monkeypatch):
    monkeypatch.setenv("PULLBACK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(rates, "SIDES", {"cpu": 128})
    monkeypatch.setattr(rates, "BYTES", {"cpu": 1 << 16})
    monkeypatch.setattr(rates, "_found", {})
    with stand_in_cupy.device(kernels_on=False):
        import cupy

        yield cupy


def test_nothing_waits_before_the_profile_is_read(cupy, monkeypatch):
    waited, plain = [], cupy.cuda.Event.synchronize
    monkeypatch.setattr(cupy.cuda.Event, "synchronize", lambda event: (waited.append(event), plain(event))[1])
    x = pb.tensor(np.ones((4, 5)), device="cuda", requires_grad=True)
    with pb.profile() as p:
        pb.sum(pb.tanh(x) @ x.mT).backward()
        pb.sum(pb.tanh(pb.tensor([1.0, 2.0])))
    assert waited == []
    calls = {(line.op, line.rules, line.device): line.timing.calls for line in p.lines}
    assert waited != []
    assert calls["matmul", "", "cuda"] == calls["matmul", "vjp", "cuda"] == calls["tanh", "", "cpu"] == 1
    assert p.unaccounted.keys() == {"cuda", "cpu"}
    assert p.by_op["matmul"]["forward"].count.multiply_adds == 4 * 5 * 4
    assert all(isinstance(mark, cupy.cuda.Event) for event in p.events[:4] for mark in (event.start, event.end))
    assert "unaccounted on cuda" in str(p)


def test_a_training_step_does_on_cuda_what_pb_cost_says(cupy):
    net = pb.nn.MLP((6, 5, 3), device="cuda")
    adam = pb.optim.Adam(net.parameters())
    x, labels = pb.tensor(np.ones((4, 6)), "float32", device="cuda"), pb.tensor([0, 1, 2, 0], device="cuda")

    def loss(x, labels):
        return pb.nn.cross_entropy(net(x), labels)

    with pb.profile() as p:
        loss(x, labels).backward()
        adam.step()
    expected = pb.cost(loss, x, labels)
    for phase in ("forward", "vjp"):
        found = [line.timing.count for line in p.lines if line.phase == phase]
        assert sum(count.flops for count in found) == expected.phases[phase].count.flops
        assert sum(count.multiply_adds for count in found) == expected.phases[phase].count.multiply_adds
    assert p.by_op["Adam"]["update"].calls == 1
    assert {line.device for line in p.lines} == {"cuda"}


def test_each_kind_of_device_is_a_row_of_the_trace(cupy, tmp_path):
    net = pb.nn.Linear(3, 2)
    with pb.profile() as p:
        for device in ("cpu", "cuda"):
            net.to(device)
            pb.sum(net(pb.tensor(np.ones((4, 3)), "float32", device=device))).backward()
    p.to_chrome(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    rows = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert sorted(rows.values()) == ["cpu", "cuda"]
    for row in rows:
        mine = [e for e in events if e["ph"] == "X" and e["tid"] == row]
        (module,) = [e for e in mine if e["name"] == "Linear"]
        (op,) = [e for e in mine if e["name"] == "linear" and e["cat"] == "forward"]
        assert module["ts"] <= op["ts"]
        assert op["ts"] + op["dur"] <= module["ts"] + module["dur"] + 1e-4
        assert [e["ts"] for e in mine] == sorted(e["ts"] for e in mine)
