"""The benchmarks compare equals: all contenders compute the same, and figures are the statistics they say."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def test_all_contenders_take_the_same_steps(load):
    steps = load("steps")
    problem = steps.Problem((5, 8, 6, 3), 7)
    contenders = {name: make for name, make in load("runner").installed(steps.CONTENDERS).items() if name != "torch"}
    steps.check({name: make(problem) for name, make in contenders.items()})

    def wrong():
        return 0.0

    with pytest.raises(AssertionError, match="something else"):
        steps.check({"numpy": steps.by_numpy(problem), "wrong": wrong})


def test_adam_in_place_is_adam(load, monkeypatch):
    steps = load("steps")
    monkeypatch.setattr(steps.InPlaceAdam, "chunk", 5)  # several chunks, a parameter of its own, and a pack
    rng = np.random.default_rng(0)
    start = [rng.normal(size=shape) for shape in ((3, 4), (2,), (1, 2))]
    ours, textbook = steps.InPlaceAdam([a.copy() for a in start]), steps.TextbookAdam([a.copy() for a in start])
    for _ in range(20):
        gradients = [rng.normal(size=a.shape) for a in start]
        ours.step(gradients)
        textbook.step(gradients)
    for a, b in zip(ours.arrays, textbook.arrays, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


def test_contenders_of_one_op_pull_the_same_gradient(load):
    per_op = load("per_op")
    expected = per_op.by_numpy()()
    contenders = {name: make for name, make in load("runner").installed(per_op.CONTENDERS).items() if name != "torch"}
    assert {"numpy", "pullback"} <= contenders.keys()
    for name, make in contenders.items():
        np.testing.assert_allclose(np.asarray(make()()), expected, rtol=1e-5, err_msg=name)


def test_contenders_give_the_same_gradients_by_example(load):
    per_example = load("per_example")
    problem = load("steps").Problem((5, 8, 6, 3), 7)
    slow = {"torch", "jax"}  # to import; they are checked before they are timed
    makers = {name: make for name, make in per_example.CONTENDERS.items() if name not in slow}
    contenders = {name: make(problem) for name, make in makers.items()}
    assert [np.shape(g) for g in contenders["numpy"]()][:2] == [(7, 5, 8), (7, 8)]
    per_example.check(contenders)
    with pytest.raises(AssertionError, match="wrong computes something else"):
        per_example.check({**contenders, "wrong": lambda: [g + 1 for g in contenders["numpy"]()]})


def test_contenders_give_the_same_jacobian(load):
    jacobians = load("jacobians")
    chain = jacobians.Chain([6, 2, 6, 3])
    makers = {name: make for name, make in jacobians.CONTENDERS.items() if name.startswith(("numpy", "pullback"))}
    contenders = {name: make(chain) for name, make in makers.items()}
    assert np.shape(contenders["numpy, multi_dot"]()) == (3, 6)
    jacobians.check(contenders)
    with pytest.raises(AssertionError, match="wrong"):
        jacobians.check({**contenders, "wrong": lambda: contenders["pullback, planned"]() * 1.01})


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are chosen on Linux alone")
def test_one_thread_is_one_core():
    code = "from benchmarks.__main__ import limit_threads; limit_threads(1); from pullback.costs.machine import cores; "
    code += "from pullback.bench.racing import environment; print(cores(), environment(1)['cores'])"
    root = Path(__file__).parents[1]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["1", "1"]


@pytest.mark.parametrize("threads", ["0", "-1"])
def test_less_than_one_thread_is_refused(load, monkeypatch, capsys, threads):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--threads", threads])
    with pytest.raises(SystemExit):
        load("__main__").main()
    assert f"--threads is a whole number above 0; got {threads}" in capsys.readouterr().err


def test_every_contender_runs_in_every_round(load):
    runner = load("runner")
    calls = {"a": 0, "b": 0}

    def contender(name):
        def run():
            calls[name] += 1

        return run

    times = runner.race({name: contender(name) for name in calls}, rounds=3, turn=1e-4)
    assert all(t.shape == (3,) and (t > 0).all() for t in times.values())
    assert min(calls.values()) >= 3
    assert runner.spread([1.0, 2.0, 3.0, 4.0, 10.0]) == {"median": 3, "quartile 1": 2, "quartile 3": 4, "min": 1}


def test_a_table_is_aligned_and_shows_medians_with_quartiles(load, capsys):
    runner = load("runner")
    runner.table({"x": {"us": runner.spread([1.0, 2.0, 3.0]), "n": 7}, "longer": {"n": 123}}, "who")
    lines = capsys.readouterr().out.splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split() == ["x", "2.00", "[1.50", "..", "2.50]", "7"]


def test_the_memory_of_a_deep_net_keeps_its_bound(load, capsys):
    answers = load("memory").answer(quick=True)
    for answer in answers.values():
        assert answer["peak in backward"] <= answer["bound"]
        saved = [row["bytes saved"] for row in answer["saved per layer"].values()]
        assert saved[:11] == [answer["one activation"]] * 11  # one array for both ops of a layer
        assert saved[11] == 0  # the input of the last layer is kept by the one before


def test_our_ledger_counts_the_products_that_are_counted_by_hand(load):
    counts = load("counts")
    net = counts.Net()
    by_hand, ours = counts.by_hand(net), counts.by_pullback(net)
    assert {form: ours[form]["products"] for form in counts.FORMS} == {f: by_hand[f]["products"] for f in counts.FORMS}
