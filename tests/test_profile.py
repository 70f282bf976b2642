"""A profile tells what ran, where, for how long and how much: beside the ledger and plain counts of calls."""

import asyncio
import gc
import json
import threading
import weakref
from collections import Counter

import numpy as np
import pytest

import pullback as pb
from pullback.core.op import OPS, wrapped_bodies
from pullback.core.recording import observe
from pullback.costs import rates
from pullback.costs.ledger import Count
from pullback.errors import ArgumentError, CheckpointError


@pytest.fixture(autouse=True)
def _quick_rates(tmp_path, monkeypatch):
    """Small measurements, kept in a folder of this test's own."""
    monkeypatch.setenv("PULLBACK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(rates, "SIDES", {"cpu": 128})
    monkeypatch.setattr(rates, "BYTES", {"cpu": 1 << 16})
    monkeypatch.setattr(rates, "_found", {})


def net_and_batch():
    pb.random.seed(0)
    rng = np.random.default_rng(0)
    x = pb.tensor(rng.normal(size=(20, 12)), dtype="float32")
    return pb.nn.MLP((12, 16, 8, 3), activation="tanh"), x, pb.tensor(rng.integers(0, 3, size=20))


def trained(net, x, labels):
    return pb.nn.cross_entropy(net(x), labels)


def totals(p):
    """What was done in each phase."""
    found: dict[str, Count] = {}
    for line in p.lines:
        if line.phase != "update":
            assert line.timing.count is not None, line
            found[line.phase] = found.get(line.phase, Count()) + line.timing.count
    return found


def matrix(n=6):
    return pb.tensor(np.random.default_rng(1).normal(size=(n, n)) + 4 * np.eye(n), dtype="float64")


# --- what is counted --------------------------------------------------------------------------------------------------


def test_a_training_step_is_told_by_op_layer_and_phase():
    net, x, labels = net_and_batch()
    adam = pb.optim.Adam(net.parameters())
    with pb.profile() as p:
        for _ in range(3):
            adam.zero_grad()
            trained(net, x, labels).backward()
            adam.step()
    found = {(line.op, line.rules, line.layer, line.phase): line.timing.calls for line in p.lines}
    layers = [f"MLP.layers.{i}" for i in range(3)]
    assert found == {
        **{("linear_tanh", "", layer, "forward"): 3 for layer in layers[:2]},
        **{("linear_tanh", "vjp", layer, "vjp"): 3 for layer in layers[:2]},
        ("linear", "", layers[2], "forward"): 3,
        ("linear", "vjp", layers[2], "vjp"): 3,
        ("cross_entropy", "", "", "forward"): 3,
        ("cross_entropy", "vjp", "", "vjp"): 3,
        ("Adam", "", "", "update"): 3,
    }
    assert {line.device for line in p.lines} == {"cpu"}
    assert {line.dtype for line in p.lines if line.phase != "update"} == {"float32"}
    assert p.by_op["linear"].keys() == {"forward", "vjp"}
    assert p.by_layer[layers[0]]["vjp"].calls == 3


def test_a_training_step_does_what_pb_cost_says():
    net, x, labels = net_and_batch()
    with pb.profile() as p:
        trained(net, x, labels).backward()
    expected = pb.cost(trained, net, x, labels)
    assert totals(p) == {phase: expected.phases[phase].count for phase in ("forward", "vjp")}
    by_layer = {layer: phases["vjp"].count for layer, phases in p.by_layer.items()}
    assert by_layer == {layer: phases["vjp"] for layer, phases in expected.by_layer.items()}


FUNCTIONS = {
    "fan out": lambda x: pb.sum(x * x + pb.tanh(x @ x.mT) * x[:, :1]),
    "several outputs": lambda x: pb.sum(pb.linalg.qr(x)[1] * pb.linalg.eigh(x + x.mT)[1]),
    "a sequence": lambda x: pb.sum(pb.concat([x, pb.exp(x / 9), x], axis=0) ** 2),
    "an integer index": lambda x: pb.sum(x[np.array([0, 2, 2])] ** 3),
    "reductions": lambda x: pb.logsumexp(pb.softmax(x, axis=1), axis=0).mean() + pb.var(x),
    "norms": lambda x: pb.sum(pb.nn.layer_norm(x) ** 2),
    "a checkpoint": lambda x: pb.sum(pb.checkpoint(lambda y: pb.tanh(y @ y))(x) + x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_flops_of_pulls_and_pushes_are_those_of_pb_cost(name):
    """Bytes too, but for small broadcast cotangents, which NumPy copies and which the ledger takes for views."""
    f, x = FUNCTIONS[name], matrix()
    with pb.profile() as pulled:
        pb.grad(f)(x)
    with pb.profile() as pushed:
        pb.jvp(f, (x,), (x,))
    expected = pb.cost(f, x)
    for p, phase in ((pulled, "vjp"), (pushed, "jvp")):
        found = totals(p)
        assert found["forward"] == expected.forward.count
        assert found[phase].flops == expected.phases[phase].count.flops
        assert found[phase].multiply_adds == expected.phases[phase].count.multiply_adds
        assert found[phase].written == expected.phases[phase].count.written


def test_second_derivatives_do_what_pb_cost_says():
    f, x = FUNCTIONS["fan out"], matrix()

    def product(x):
        return pb.hvp(f, (x,), (x,))

    with pb.profile() as p:
        product(x)
    expected = pb.cost(product, x, argnums=0).forward.count
    found = totals(p)
    assert found.keys() == {"forward", "vjp", "jvp"}
    assert sum(count.flops for count in found.values()) == expected.flops
    with pb.profile() as p:
        pb.grad(lambda x: pb.sum(pb.grad(f)(x) ** 2))(x)
    expected = pb.cost(pb.grad(lambda x: pb.sum(pb.grad(f)(x) ** 2)), x, argnums=0).forward.count
    assert sum(count.flops for count in totals(p).values()) == expected.flops


def test_every_outermost_body_is_one_call():
    """Counted by another wrap of bodies, of which only those outside of all others and of walks count."""
    seen: Counter[str] = Counter()
    depth = 0

    def counting(op, backend, run):
        def body(*args, **kwargs):
            nonlocal depth
            seen[op.name] += not depth
            depth += 1
            try:
                return run(*args, **kwargs)
            finally:
                depth -= 1

        return body

    x = matrix()
    with wrapped_bodies(counting), pb.no_grad(), pb.profile() as p:
        for f in FUNCTIONS.values():
            f(x)
    assert {op: phases["forward"].calls for op, phases in p.by_op.items()} == dict(seen)
    assert {line.phase for line in p.lines} == {"forward"}


def test_a_checkpoint_runs_again_in_the_phase_of_the_walk_and_times_are_not_counted_twice():
    x = matrix()
    with pb.profile() as p:
        pb.grad(FUNCTIONS["a checkpoint"])(x)
    calls = {(line.op, line.rules, line.phase): line.timing.calls for line in p.lines}
    assert calls["tanh", "", "forward"] == calls["tanh", "", "vjp"] == calls["tanh", "vjp", "vjp"] == 1
    assert calls["checkpoint", "vjp", "vjp"] == 1
    outer = next(event for event in p.events if event.name == "checkpoint")
    inside = sum(event.name in ("tanh", "matmul") and event.phase == "vjp" for event in p.events)
    assert len(p.events) - 1 - p.events[::-1].index(outer) - outer.first == inside == 4
    assert sum(line.timing.seconds for line in p.lines) <= p.seconds


def test_parts_are_no_more_than_the_whole():
    net, x, labels = net_and_batch()
    with pb.profile() as p:
        for _ in range(5):
            trained(net, x, labels).backward()
    parts = sum(line.timing.seconds for line in p.lines)
    assert 0 < parts <= p.seconds
    assert parts + sum(p.unaccounted.values()) == pytest.approx(p.seconds)
    assert all(line.timing.seconds > 0 for line in p.lines)


def test_what_depends_on_numbers_has_a_time_and_no_count():
    x = matrix()
    with pb.profile() as p:
        pb.sum(x[x > 4])
    counts = {line.op: line.timing.count for line in p.lines}
    assert counts["getitem"] is None
    assert counts["greater"] is not None
    assert p.by_op["getitem"]["forward"].flop_rate is None
    assert "getitem" in str(p)


def test_the_layer_of_a_second_derivative_is_that_of_the_op():
    net, x, _ = net_and_batch()
    with pb.profile() as p:
        pb.hvp(lambda x: pb.sum(net(x) ** 2), (x,), (x,))
    assert {line.layer for line in p.lines if line.phase == "jvp"} >= {f"MLP.layers.{i}" for i in range(3)}


# --- where it is used -------------------------------------------------------------------------------------------------


def test_nothing_is_measured_outside_of_the_block_and_bodies_run_bare_there():
    x = matrix()
    bare = OPS["tanh"].bodies[np.ndarray]
    with pb.profile() as p:
        pb.tanh(x)
    pb.tanh(x)
    assert [line.timing.calls for line in p.lines] == [1]
    assert OPS["tanh"].bodies[np.ndarray] == bare


def test_a_profile_does_not_change_what_is_recorded():
    x = pb.tensor([1.0], requires_grad=True)
    with pb.no_grad(), pb.profile() as p:
        assert (x * x).node is None
    with pb.profile(), pb.no_grad():
        assert (x * x).node is None
    with pb.profile():
        assert (x * x).node is not None
    assert p.by_op["multiply"]["forward"].calls == 1


def test_observers_outside_and_inside_of_a_profile_are_told_all():
    x, told = matrix(), []
    for first, second in ((0, 1), (1, 0)):
        contexts = [observe(lambda e, inputs, value: told.append(e.op.name)), pb.profile()]
        told.clear()
        with contexts[first], contexts[second]:
            pb.grad(FUNCTIONS["fan out"])(x)
        assert told.count("matmul") == 1
        assert contexts[1].by_op["matmul"]["vjp"].calls == 1
    with pb.profile() as p, pb.detect_nonfinite():
        pb.grad(FUNCTIONS["fan out"])(x)
    assert p.by_op["matmul"]["vjp"].calls == 1
    with pb.detect_nonfinite(), pb.profile() as p:
        pb.grad(FUNCTIONS["fan out"])(x)
    assert p.by_op["matmul"]["vjp"].calls == 1


def test_costs_asked_for_inside_of_a_profile_are_not_measured():
    x = matrix()
    with pb.profile() as p:
        expected = pb.cost(FUNCTIONS["fan out"], x)
    assert p.lines == []
    assert expected.forward.count == pb.cost(FUNCTIONS["fan out"], x).forward.count


def test_values_and_gradients_are_the_same_bit_by_bit():
    net, x, labels = net_and_batch()
    trained(net, x, labels).backward()
    expected = {name: w.grad.numpy().copy() for name, w in net.parameters().items()}
    net.zero_grad()
    with pb.profile():
        trained(net, x, labels).backward()
    for name, w in net.parameters().items():
        np.testing.assert_array_equal(w.grad.numpy(), expected[name])


def test_no_array_and_no_module_is_held():
    net, x, labels = net_and_batch()
    with pb.profile() as p:
        y = net(x)
        loss = pb.nn.cross_entropy(y, labels)
        loss.backward()
    gone = [weakref.ref(thing) for thing in (net, y.data, x.data)]
    del net, x, y, loss
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3
    assert p.lines


def test_what_a_checkpoint_holds_is_not_held():
    x = matrix()
    with pb.profile() as p:
        pb.grad(FUNCTIONS["a checkpoint"])(x)
    gone = weakref.ref(x.data)
    del x
    assert gone() is None
    assert p.by_op["checkpoint"]["vjp"].calls == 1


def test_two_threads_profile_side_by_side_and_only_themselves():
    x, found, ready = matrix(), {}, threading.Barrier(3)

    def work(name, times):
        ready.wait()
        with pb.profile() as p:
            for _ in range(times):
                pb.grad(FUNCTIONS["fan out"])(x)
        found[name] = p

    threads = [threading.Thread(target=work, args=(n, n)) for n in (40, 70)]
    for thread in threads:
        thread.start()
    ready.wait()
    for _ in range(50):
        pb.grad(FUNCTIONS["fan out"])(x)
    for thread in threads:
        thread.join()
    for n, p in found.items():
        assert p.by_op["matmul"]["forward"].calls == p.by_op["matmul"]["vjp"].calls == n
        assert len(p.by_op) == len(found[40].by_op)


def test_a_thread_that_inherits_the_context_is_not_measured():
    x = matrix()

    async def main():
        with pb.profile() as p:
            await asyncio.gather(*(asyncio.to_thread(pb.grad(FUNCTIONS["fan out"]), x) for _ in range(4)))
            pb.tanh(x)
        return p

    p = asyncio.run(main())
    assert {op: phases["forward"].calls for op, phases in p.by_op.items()} == {"tanh": 1}


# --- bad input --------------------------------------------------------------------------------------------------------


def test_a_profile_measures_one_block():
    with pb.profile() as p:
        pass
    with pytest.raises(ArgumentError, match=r"one block.*another"), p:
        pass
    with pb.profile() as outer, pytest.raises(ArgumentError, match="another one is at work"), pb.profile():
        pass
    assert outer.lines == []
    assert p.lines == []


def test_an_error_leaves_a_profile_that_can_be_read_and_bare_bodies():
    x = matrix()
    bare = OPS["matmul"].bodies[np.ndarray]

    def fails():
        pb.tanh(x)
        pb.matmul(x, x[:2])

    with pytest.raises(pb.errors.ShapeError), pb.profile() as p:
        fails()
    assert OPS["matmul"].bodies[np.ndarray] == bare
    assert p.by_op["tanh"]["forward"].calls == 1
    assert "matmul" not in p.by_op
    with pb.profile() as p:
        with pytest.raises(pb.errors.ShapeError):
            pb.matmul(x, x[:2])
        pb.tanh(x)
    assert p.by_op["tanh"]["forward"].calls == 1


def test_an_error_in_a_rule_leaves_what_follows_measured():
    x = matrix()
    broken = pb.custom_rule(pb.tanh, vjp=lambda g, out, x: 1 / 0)
    with pb.profile() as p:
        with pytest.raises(ZeroDivisionError):
            pb.grad(lambda x: pb.sum(broken(x)))(x)
        pb.grad(FUNCTIONS["fan out"])(x)
    assert p.by_op["matmul"]["forward"].calls == p.by_op["matmul"]["vjp"].calls == 1


def test_before_its_end_a_profile_says_so():
    with pb.profile() as p:
        assert "has not ended" in str(p)
        for read in (lambda: p.lines, lambda: p.by_op, lambda: p.by_layer, p.to_dict, lambda: p.to_chrome("x.json")):
            with pytest.raises(ArgumentError, match="has not ended"):
                read()
    assert p.lines == []


def test_an_empty_block_has_no_lines(tmp_path):
    with pb.profile() as p:
        pass
    assert p.lines == []
    assert p.by_op == {}
    assert p.seconds > 0
    assert "all" in str(p)
    p.to_chrome(tmp_path / "empty.json")
    events = json.loads((tmp_path / "empty.json").read_text())["traceEvents"]
    assert {e["ph"] for e in events} == {"M"}


def test_a_trace_that_cannot_be_written_is_an_error_and_leaves_no_file(tmp_path):
    with pb.profile() as p:
        pb.tanh(matrix())
    with pytest.raises(CheckpointError, match="cannot write"):
        p.to_chrome(tmp_path / "no such folder" / "trace.json")
    with pytest.raises(CheckpointError, match="is a folder"):
        p.to_chrome(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == []


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_the_table_has_the_ten_longest_lines_and_the_totals():
    x = matrix()
    with pb.profile() as p:
        for name in ("fan out", "several outputs", "reductions", "a checkpoint"):
            pb.grad(FUNCTIONS[name])(x)
    text = str(p)
    head, _, *rows = text.partition("\n\n")[0].splitlines()
    assert head.split("  ")[0] == "op"
    assert len(rows) == 11
    assert rows[-1].startswith(f"({len(p.lines) - 10} more)")
    shown = [line.timing.seconds for line in p.lines]
    assert shown == sorted(shown, reverse=True)
    for word in ("forward", "vjp", "unaccounted", "matmul rate of cpu", "copy rate of cpu"):
        assert word in text


def test_rates_and_shares_are_those_of_the_numbers():
    net, x, labels = net_and_batch()
    with pb.profile() as p:
        trained(net, x, labels).backward()
    found = p.to_dict()
    json.dumps(found)
    known = {(rate["device"], rate["dtype"]): rate["amount"] for rate in found["rates"]}
    assert known.keys() == {("cpu", "float32"), ("cpu", "")}
    assert len(found["lines"]) == len(p.lines)
    for line in found["lines"]:
        count = line["count"]
        assert line["flops_per_second"] == pytest.approx(count["flops"] / line["seconds"])
        assert line["bytes_per_second"] == pytest.approx((count["read"] + count["written"]) / line["seconds"])
        assert line["of_matmul_rate"] == pytest.approx(line["flops_per_second"] / known["cpu", "float32"])
        assert line["of_copy_rate"] == pytest.approx(line["bytes_per_second"] / known["cpu", ""])


def test_the_trace_follows_the_format_and_nests(tmp_path):
    net, x, labels = net_and_batch()
    adam = pb.optim.Adam(net.parameters())
    with pb.profile() as p:
        for _ in range(2):
            trained(net, x, labels).backward()
            adam.step()
            pb.grad(FUNCTIONS["a checkpoint"])(x[:12])
    p.to_chrome(tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())
    events = trace["traceEvents"]
    named = [e for e in events if e["ph"] == "M"]
    assert {e["name"] for e in named} == {"process_name", "thread_name"}
    assert all(isinstance(e["args"]["name"], str) for e in named)
    complete = [e for e in events if e["ph"] == "X"]
    assert len(named) + len(complete) == len(events)
    for e in complete:
        assert e.keys() == {"name", "cat", "ph", "ts", "dur", "pid", "tid", "args"}
        assert e["ts"] >= 0
        assert e["dur"] >= 0
        assert isinstance(e["name"], str)
        assert (e["pid"], e["tid"]) in {(m["pid"], m["tid"]) for m in named}
    assert [e["ts"] for e in complete] == sorted(e["ts"] for e in complete)
    parents = nesting(complete)
    for e, stack in zip(complete, parents, strict=True):
        if e["cat"] == "forward" and e["args"]["layer"]:
            assert stack[-1]["name"] == e["args"]["layer"]
            assert stack[0]["name"] == "MLP"
            assert e["args"]["flops"] > 0
            assert e["args"]["arrays"][0].startswith("float32 20 x ")
        if e["name"].startswith("vjp of linear"):
            assert [outer["name"] for outer in stack] == ["pull"]
        if e["name"] == "tanh" and e["cat"] == "vjp":
            assert [outer["name"] for outer in stack] == ["pull", "vjp of checkpoint"]
    assert sum(e["cat"] not in ("module", "walk") for e in complete) == len(p.events)
    assert sum(e["name"] == "MLP.layers.1" for e in complete) == 2


def nesting(complete):
    """The events around each, by their times alone; siblings do not overlap."""
    found, stack = [], []
    for e in complete:
        while stack and stack[-1]["ts"] + stack[-1]["dur"] <= e["ts"] + 1e-4:
            stack.pop()
        for outer in stack:
            assert e["ts"] + e["dur"] <= outer["ts"] + outer["dur"] + 1e-4
        found.append(list(stack))
        stack.append(e)
    return found
