"""`benchmarks.gpu` on the stand-in for CuPy: it reaches every kernel, counts right, and outlives its parts."""

import importlib
import json
import operator
import os
import sys
import time
from functools import partial
from pathlib import Path

import emulator
import numpy as np
import pytest
import stand_in_cupy
from stand_in_cupy import log

pytestmark = pytest.mark.skipif(emulator.missing() is not None, reason=str(emulator.missing()))
ROOT = Path(__file__).parents[1]


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.fixture
def cuda():
    with stand_in_cupy.device() as backend:
        yield backend


@pytest.fixture
def kernels(load, cuda):
    return load("gpu_kernels")


def case_of(kernels, name, dtype="float32"):
    return next(case for case in kernels.small(dtype) if case.name == name)


def given(kernels, case):
    return [kernels.given(array, case.dtype) for array in case.arrays]


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_table_calls_every_kernel(kernels, monkeypatch):
    assert kernels.missing() == set()
    one = next(iter(kernels.listed()))
    monkeypatch.setattr(kernels, "listed", lambda: {one: "", "pullback::forgotten<float>": ""})
    assert kernels.missing() == {"pullback::forgotten<float>"}


@pytest.mark.parametrize("name", ["cross_entropy", "layer_norm_slope", "update_adam", "sum of columns"])
def test_a_wrong_number_is_seen_in_any_result(kernels, cuda, name):
    case = case_of(kernels, name)
    arrays = given(kernels, case)
    before = [array.get() for array in arrays]
    results = [x.get() for x in kernels.flat(case.body(cuda, arrays))]
    error, holds = kernels.compare(case, before, results)
    assert holds
    assert error < 1e-6
    for result in results:
        changed = [x.copy() for x in results]
        place = next(i for i, x in enumerate(results) if x is result)
        changed[place].reshape(-1)[-1] += 1e-4 * np.abs(result).max()
        error, holds = kernels.compare(case, before, changed)
        assert not holds
        assert 5e-5 < error < 2e-4
        changed[place].reshape(-1)[-1] = np.nan
        assert kernels.compare(case, before, changed) == (np.inf, False)


@pytest.mark.parametrize(
    ("name", "dtype", "passes", "beside"),
    [
        ("tanh", "float32", 2, 0),
        ("add", "float16", 3, 0),
        ("add, a row", "float32", 2, 72 * 4),
        ("astype, float64", "float32", 3, 0),
        ("softmax_slope", "bfloat16", 3, 0),
        ("linear_gelu", "float32", 2, 0),
        ("bias_slope, gelu", "float32", 3, 2 * 72 * 4),
        ("layer_norm", "float32", 3, 2 * 72 * 4 + 37 * 4),
        ("cross_entropy", "float64", 2, 37 * 8 + 8),
        ("norm", "float32", 1, 8),
        ("scale", "float32", 2, 4),
        ("update_adam", "float32", 7, 0),
        ("update_adam", "bfloat16", 3 + 6 * 2, 0),  # master weights and state are twice as wide
    ],
)
def test_bytes_that_must_move_are_what_is_read_and_written(load, kernels, cuda, name, dtype, passes, beside):
    case = case_of(kernels, name, dtype)
    arrays = given(kernels, case)
    with load("gpu_device").watched(run=False) as launches:
        results = kernels.flat(case.body(cuda, arrays))
    assert len(launches) == 1
    assert case.bytes(arrays, results) == passes * arrays[0].nbytes + beside


def test_what_is_given_repeats_its_numbers(kernels):
    array = kernels.Array((5, 7), kernels.uniform(1, 2))
    numbers = kernels.given(array, "float64", size=8).get().reshape(-1)
    np.testing.assert_array_equal(numbers, np.resize(numbers[:8], 35))
    assert len(set(numbers[:8])) == 8


def test_kernels_that_are_only_noted_do_not_run(load, cuda):
    with stand_in_cupy.watched() as work:
        assert load("gpu_checks").launch_all(run=False) > 160
    assert not [w for w in work if w.kind == "kernel"]


# --- the whole --------------------------------------------------------------------------------------------------------


def test_a_dry_run_fills_the_report(load, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PULLBACK_CACHE_DIR", str(tmp_path / "cache"))
    parts = ["compilation", "numbers", "bandwidth", "training steps", "launch overhead"]
    chosen = [f"--part={name}" for name in parts]
    assert load("gpu").main(["--dry-run", f"--out={tmp_path}", *chosen]) == 0
    (file,) = tmp_path.glob("stand-in-*.json")
    report = json.loads(file.read_text())
    assert report["CUDA"]["NVRTC"] == "12.9"
    assert list(report["parts"]) == parts
    assert {part["state"] for part in report["parts"].values()} == {"done"}
    compilation, numbers, bandwidth, steps, overhead = report["parts"].values()
    assert compilation["not compiled"] == 0 < compilation["kernels"]
    assert numbers["wrong"] == []
    assert 1e-8 < numbers["worst"]["float32"] < 1e-6
    measured = bandwidth["kernels"]["pullback::map<pullback::op::tanh, float, const float*>"]["tanh"]["96"]
    assert measured["GB/s"] >= 0
    assert len(measured["us, quartiles"]) == 3
    assert len(bandwidth["kernels"]) == numbers["kernels that ran"] - 1  # one is for counting rows
    (net,) = (steps[name] for name in steps if "batch" in name)
    assert net["launches of our kernels"]["pullback::adam<float>"] == 1
    assert net["pullback"]["us per step"]["median"] > 0
    assert {"our kernel, launched again", "fused op, recorded", "fused op, recorded, plain formula"} < overhead.keys()
    assert "kernels, as a share of a copy" in capsys.readouterr().out


def test_a_contender_that_dies_does_not_end_the_race(load, tmp_path, monkeypatch, capfd):
    steps, device = load("gpu_steps"), load("gpu_device")
    ours, dies = partial(steps.by_pullback, device="cpu"), operator.add  # of a problem and a str
    monkeypatch.setattr(steps, "CONTENDERS", {"pullback": ours, "pullback, dying": dies, "no_such_library": dies})
    report, scale = device.Report(tmp_path / "found"), device.FULL._replace(rounds=2, turn=1e-3)
    times = steps._race(report, "net", partial(steps.Problem, (3, 4, 2), 5), "float32", 2, scale)
    assert list(times) == ["pullback"]
    assert times["pullback"].shape == (2,)
    found = device.Report.read(report.path)["net"]
    assert found["no_such_library"] == "not installed"
    assert found["pullback, dying"].startswith("did not run")
    assert "TypeError" in capfd.readouterr().err


def test_kernels_are_switched_for_the_length_of_a_block(load, cuda):
    import pullback as pb

    x = pb.ones(3, device="cuda")
    launched = []
    for on in (True, False):
        with load("gpu_device").kernels_on(on), stand_in_cupy.watched() as work:
            pb.gelu(x)
        launched.append([w.kind for w in work].count("kernel"))
    with stand_in_cupy.watched() as work:
        pb.gelu(x)
    assert [*launched, [w.kind for w in work].count("kernel")] == [1, 0, 1]


def test_contenders_take_the_same_steps(load):
    pytest.importorskip("torch")
    steps, problem = load("gpu_steps"), load("gpu_steps").Problem((5, 8, 6, 3), 7)
    losses = [
        [float(loss) for loss in (step() for _ in range(10))]
        for step in (steps.by_pullback(problem, "float32", "cpu"), steps.by_torch(problem, "float32", "cpu"))
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert losses[0][-1] < losses[0][0]


def test_tests_can_be_given_a_gpu(cuda, monkeypatch):
    import pullback as pb

    monkeypatch.setattr(log, "on_gpu", True)
    x = pb.ones(3, device="cuda")
    for on in (True, False):
        with stand_in_cupy.device(on) as backend, stand_in_cupy.watched() as work:
            assert backend is cuda
            pb.gelu(x)
        assert [w.kind for w in work].count("kernel") == 2 * on  # by the stand-in and by what notes them on a GPU


# --- parts that end badly ---------------------------------------------------------------------------------------------

PROGRAM = """
import os, subprocess, sys, time
with open(sys.argv[-1], "a") as file:
    file.write('["found", "a", 1]\\n["found", "b", 2]\\n["cut sho')
"""


@pytest.mark.parametrize(
    ("end", "state"),
    [
        ("", "done"),
        ("os._exit(3)", "failed with exit status 3"),
        ("os.kill(os.getpid(), 11)", "failed with exit status -11"),
        ("subprocess.run(['sleep', '60'])", "stopped after 2 s"),
    ],
)
def test_a_part_that_ends_badly_loses_only_its_rest(load, end, state):
    start = time.monotonic()
    found = load("gpu").run_part([sys.executable, "-c", PROGRAM + end], 2.0)
    assert found.pop("seconds") < 10
    assert found == {"state": state, "found": {"a": 1, "b": 2}}
    assert time.monotonic() - start < 10
    assert load("gpu").run_part(["no such program"], -1.0)["state"] == "no time was left"


def test_a_later_run_of_the_day_keeps_the_parts_that_it_does_not_run(load, tmp_path, monkeypatch):
    gpu, calls = load("gpu"), []
    monkeypatch.setattr(gpu, "run_part", lambda command, limit: {"state": "done", "seconds": len(calls)})
    with stand_in_cupy.device():
        for part in ("numbers", "bandwidth", "numbers"):
            calls.append(part)
            assert gpu.main([f"--part={part}", f"--out={tmp_path}"]) == 0
        (file,) = tmp_path.glob("*.json")
        assert {name: part["seconds"] for name, part in json.loads(file.read_text())["parts"].items()} == {
            "numbers": 3,
            "bandwidth": 2,
        }
        file.write_text(file.read_text().replace('"NVRTC": "12.9"', '"NVRTC": "12.8"'))
        assert gpu.main(["--part=numbers", f"--out={tmp_path}"]) == 0
    assert list(json.loads(file.read_text())["parts"]) == ["numbers"]


def test_what_tests_have_shown_before_they_are_stopped_is_kept(load, tmp_path, capsys):
    device = load("gpu_device")
    report = device.Report(tmp_path / "found")
    lines = ["collected 3 items\n", "tests/a.py::b[c d] FAILED  [ 1%]\n", "[gw1] [ 12%] ERROR tests/a.py::e\n"]
    lines += ["tests/a.py::f PASSED [ 3%]\n"] * 49 + ["FAILED tests/a.py::b - because\n"]
    load("gpu_checks")._follow(report, lines)
    found = device.Report.read(report.path)
    assert found["so far"] == {"failed": 1, "error": 1, "passed": 48}
    assert list(found["failed so far"].values()) == ["FAILED", "ERROR"]
    assert capsys.readouterr().out == lines[0] + lines[-1]


def test_what_is_wrong_is_told_from_what_is_not(load):
    wrong = load("gpu").wrong
    assert not wrong({"state": "done", "failed": {}, "wrong": [], "memcheck": {"clean": True}, "x": {"clean": None}})
    for found in ({"failed": {"a": "b"}}, {"wrong": ["a"]}, {"error": "a"}, {"memcheck": {"clean": False}}):
        assert wrong(found)


def test_the_result_is_json_with_a_line_for_each_inner_object(load):
    result = {"a": {"b": {"c": 1, "d": [1, 2]}, "e": {"f": "x{ y\n"}, "long": {str(n): n for n in range(99)}}}
    text = load("gpu").compact(result)
    assert json.loads(text) == result
    assert '  "b": { "c": 1, "d": [ 1, 2 ] },\n' in text
    assert max(map(len, text.splitlines())) < 200


# --- the sanitizer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "text", "clean"),
    [
        (0, "launches: 172\n========= ERROR SUMMARY: 0 errors", True),
        (0, "launches: 172\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)", True),
        (9, "========= Invalid __global__ read\n========= ERROR SUMMARY: 1 error", False),
        (0, "launches: 172\n========= RACECHECK SUMMARY: 1 hazard displayed (0 errors, 1 warning)", False),
        (0, "========= ERROR SUMMARY: 0 errors", None),  # the program has not launched anything
        (1, "========= Error: Device not supported", None),
        (None, "launches: 172", None),
    ],
)
def test_the_verdict_of_a_sanitizer(load, state, text, clean):
    assert load("gpu_checks").verdict(state, text)["clean"] is clean


def test_every_tool_of_the_sanitizer_runs_side_by_side(load, tmp_path, monkeypatch):
    checks, device = load("gpu_checks"), load("gpu_device")
    program = tmp_path / "compute-sanitizer"
    lines = ["#!/bin/sh", "[ $2 = synccheck ] && exec sleep 60", "echo launches: 5", "echo == SUMMARY: 0 errors", ""]
    program.write_text("\n".join(lines))
    program.chmod(0o755)
    report = device.Report(tmp_path / "found")
    with monkeypatch.context() as here:
        here.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        checks.sanitizer(report, device.TINY._replace(seconds=1.0))
    found = device.Report.read(report.path)
    assert [found[tool]["clean"] for tool in checks.TOOLS] == [True, True, True, None]
    monkeypatch.setattr(checks, "_compute_sanitizer", lambda: None)
    checks.sanitizer(report, device.TINY)
    assert "not on PATH" in device.Report.read(report.path)["absent"]


def test_without_a_gpu_it_says_so(load, capsys):
    with stand_in_cupy.device():
        importlib.import_module("cupy").cuda.is_available = lambda: False
        try:
            from pullback.backends import registry

            registry._by_device.pop("cuda")
            assert load("gpu").main([]) == 1
        finally:
            importlib.import_module("cupy").cuda.is_available = lambda: True
    assert "no GPU to measure" in capsys.readouterr().err
