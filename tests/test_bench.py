"""`pullback bench`: what is raced is the same derivative, what is written is what was measured, also after Ctrl-C."""

import csv
import json
import sys
from itertools import pairwise
from time import sleep
from types import SimpleNamespace

import numpy as np
import pytest

from pullback.bench import chains, products, racing, strategies
from pullback.bench.fitting import fitted
from pullback.bench.peers import PEERS
from pullback.cli import main
from pullback.errors import GradientCheckError, RuleError

TINY = ["--widths", "4,6,8,3-5", "--depth", "3", "--quick"]


@pytest.fixture(autouse=True)
def rates_of_a_slow_machine(monkeypatch):
    """Rates are measured elsewhere; here a product of 1e9 operations takes a second. No time is told, so no garbage
    has to be collected before each turn."""
    monkeypatch.setattr(racing, "gc", SimpleNamespace(collect=lambda: None))
    rate = products.matmul_rate.__globals__["Rate"]
    monkeypatch.setattr(products, "matmul_rate", lambda backend, dtype: rate(1e9, "nothing"))
    monkeypatch.setattr(products, "copy_rate", lambda backend: rate(2e9, "nothing"))


def run(capsys, *arguments):
    """Exit status, standard output, standard error."""
    try:
        status = main([str(argument) for argument in ("bench", *arguments)])
    except SystemExit as error:  # from argparse
        status = error.code
    found = capsys.readouterr()
    return status, found.out, found.err


# --- what is raced ----------------------------------------------------------------------------------------------------


def by_hand(net):
    """The Jacobian of each example, and the cotangent pulled through it, in float64."""
    whole = np.eye(net.sizes[0])
    x = net.x.astype("f8")
    for w in net.weights:
        x = np.tanh(x @ w)
        whole = (1 - x * x)[..., None] * (w.T.astype("f8") @ whole)
    return x, whole, (net.cotangent[..., None, :] @ whole)[..., 0, :]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_strategy_gives_what_is_computed_by_hand(batch, dtype):
    net = strategies.Net.random((4, 6, 5, 4), batch, dtype)
    value, whole, pulled = by_hand(net)
    expected = {"forward pass": value, "vjp": pulled}
    for name, call in strategies.by_pullback(net, "cpu", list(strategies.STRATEGIES)).items():
        found = call().numpy()
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected.get(name, whole), rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("batch", [1, 2])
def test_peers_give_what_is_computed_by_hand(batch):
    pytest.importorskip("autograd")
    net = strategies.Net.random((4, 6, 4), batch, "float32")
    _, whole, pulled = by_hand(net)
    for strategy, call in PEERS["autograd"](net).items():
        expected = pulled if strategy == "vjp" else whole
        np.testing.assert_allclose(np.asarray(call()), expected, rtol=1e-4, atol=1e-6, err_msg=strategy)


def test_predicted_operations_are_those_of_the_closed_forms():
    """A layer of a vector pulls with 2 D^2, a product of Jacobians takes 2 D^3, beside elementwise work."""
    d, depth = 64, 4
    works = strategies.work_of([d] * (depth + 1), 1, "float32")
    assert 2 * depth * d**2 <= works["vjp"].flops <= 2 * depth * d**2 + 8 * depth * d
    for name in ("forward order", "preaccumulation"):
        assert works[name].flops == 2 * (depth - 1) * d**3 + depth * (d**2 + 2 * d)
    assert 2 * depth * d**3 <= works["jacrev"].flops <= 2.1 * depth * d**3
    assert works["planned"].flops < works["jacrev"].flops
    many = strategies.work_of([d] * (depth + 1), 5, "float32")
    assert {name: many[name].flops for name in works} == {name: 5 * work.flops for name, work in works.items()}


def test_the_best_order_of_products_is_found():
    sizes = (2, 50, 3, 40, 2)
    works = strategies.work_of(sizes, 1, "float32")
    writing = sum(m * n + 2 * n for m, n in pairwise(sizes))
    assert works["forward order"].flops == 2 * (3 * 50 * 2 + 40 * 3 * 2 + 2 * 40 * 2) + writing
    assert works["preaccumulation"].flops == 2 * (3 * 50 * 2 + 2 * 40 * 3 + 2 * 3 * 2) + writing
    assert list(strategies.by_pullback(strategies.Net.random(sizes, 1, "float64"), "cpu", ["vjp"])) == ["vjp"]


def test_other_numbers_are_refused():
    net = strategies.Net.random((4, 4), 1, "float64")
    whole = by_hand(net)[1]
    products._check({"a, jacrev": whole, "b, jacfwd": whole}, net)
    with pytest.raises(GradientCheckError, match="b, jacfwd gives other numbers than a, jacrev"):
        products._check({"a, jacrev": whole, "b, jacfwd": whole + 1e-4}, net)
    with pytest.raises(GradientCheckError, match="a, vjp gives other numbers than the cotangent"):
        products._check({"a, jacrev": whole, "a, vjp": net.cotangent}, net)


def test_exponents_of_exact_powers_are_found():
    power = fitted({d: 3e-9 * d**2.5 for d in (64, 128, 512)})
    assert power.exponent == pytest.approx(2.5, abs=1e-12)
    assert power.factor == pytest.approx(3e-9, rel=1e-9)
    bent = {d: max(1e-4, 1e-9 * d**2) for d in (2, 4, 8, 512, 1024, 2048, 4096)}
    assert fitted(bent, most=4).exponent == pytest.approx(2, abs=1e-12)
    assert fitted(bent, most=4).widths == (512, 1024, 2048, 4096)
    assert fitted(bent).exponent < 1.9
    assert fitted({64: 1.0}) is None


def test_a_slow_contender_is_called_once_a_turn():
    calls = []
    turn = racing.turn_of(lambda: calls.append(0) or sum(range(10000)), 1e-9)
    calls.clear()
    assert turn() > 0
    assert len(calls) == 1


def test_what_is_compiled_at_the_first_call_is_no_part_of_a_turn():
    calls = []

    def contender():
        if not calls:
            sleep(0.2)
        calls.append(sum(range(1000)))

    turn = racing.turn_of(contender, 0.02)
    before = len(calls)
    turn()
    assert len(calls) - before > 3


# --- files ------------------------------------------------------------------------------------------------------------


def test_files_hold_what_was_measured(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    status, out, err = run(capsys, "products", *TINY, "--out", tmp_path)
    assert (status, err) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["products.csv", "products.json", "products.png"]
    figures = json.loads((tmp_path / "products.json").read_text())
    assert [(row["width"], row["strategy"]) for row in figures["rows"]] == [
        (width, strategy) for width in ("4", "6", "8", "3-5") for strategy in strategies.STRATEGIES
    ]
    assert figures["settings"]["depth"] == 3
    assert figures["environment"]["numpy"] == np.__version__
    for row in figures["rows"]:
        ms = row["ms"]
        assert 0 < ms["min"] <= ms["quartile 1"] <= ms["median"] <= ms["quartile 3"]
        assert row["rounds"] == 3
        assert row["of matmul rate"] == pytest.approx(row["GFLOP/s"], abs=2e-3)  # of one GFLOP/s
        assert ("of our vjp" in row) == (row["strategy"] in strategies.JACOBIANS)
        assert f"{row['width']:<10} pullback, {row['strategy']} " in out
    for power in figures["exponents"].values():
        assert power["widths"] == [4, 6, 8]
    with (tmp_path / "products.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(row["ms median"]) for row in table] == [row["ms"]["median"] for row in figures["rows"]]
    assert table[-1]["sizes"] == "3-5-3-5"
    assert (tmp_path / "products.png").read_bytes().startswith(b"\x89PNG")


def test_peers_are_paired_and_one_that_is_missing_is_named(tmp_path, capsys, monkeypatch):
    pytest.importorskip("autograd")
    monkeypatch.setitem(PEERS, "no_such_library", None)
    arguments = ["--widths", "4,6", "--depth", "2", "--quick", "--strategies", "vjp,jacrev"]
    status, out, err = run(capsys, "products", *arguments, "--against", "autograd,no_such_library", "--out", tmp_path)
    assert (status, err) == (0, "")
    assert out.startswith("without no_such_library: not installed\n")
    figures = json.loads((tmp_path / "products.json").read_text())
    assert figures["left out"] == {"no_such_library": "not installed"}
    assert {row["library"] for row in figures["rows"]} == {"pullback", "autograd"}
    for row in figures["rows"]:
        assert ("of autograd" in row) == (row["library"] == "pullback")


def test_what_takes_too_long_is_left_out_and_named(tmp_path, capsys):
    arguments = ["--widths", "64", "--depth", "2", "--quick", "--strategies", "vjp,forward order"]
    status, out, _ = run(capsys, "products", *arguments, "--longest", "0.0005", "--out", tmp_path)
    assert status == 0
    assert "left out: forward order at 64: " in out
    assert [row["strategy"] for row in json.loads((tmp_path / "products.json").read_text())["rows"]] in (["vjp"], [])


def test_without_matplotlib_it_says_so_and_writes_the_rest(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    status, out, _ = run(capsys, "products", *TINY, "--strategies", "vjp", "--out", tmp_path)
    assert status == 0
    assert "pip install 'pullback[plot]'" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["products.csv", "products.json"]


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("after", "rows"), [(0, []), (1, [1]), (9, [2, 2, 2, 2]), (14, [3, 3, 3, 3, 1, 1])])
def test_ctrl_c_keeps_the_rounds_that_are_whole(tmp_path, capsys, monkeypatch, after, rows):
    """Four contenders and three rounds: 12 turns a width."""

    def until(turns, rounds):
        for measured in racing.in_turns(turns, rounds):
            if not left:
                raise KeyboardInterrupt
            left.pop()
            yield measured

    left = list(range(after))
    monkeypatch.setattr(products, "in_turns", until)
    names = "vjp,forward order,jacrev,planned"
    status, out, err = run(capsys, "products", *TINY, "--strategies", names, "--out", tmp_path)
    assert (status, err) == (130, "")
    assert "stopped" in out
    figures = json.loads((tmp_path / "products.json").read_text())
    assert [row["rounds"] for row in figures["rows"]] == rows
    with (tmp_path / "products.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(rows)


def test_ctrl_c_keeps_the_chains_that_are_planned(tmp_path, capsys, monkeypatch):
    calls = iter(range(26))

    def plan(chain):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return chain_plan(chain)

    chain_plan = chains.chain_plan
    monkeypatch.setattr(chains, "chain_plan", plan)
    status, _, _ = run(capsys, "chain", "--quick", "--lengths", "2-3", "--out", tmp_path)
    assert status == 130
    assert [row["chains"] for row in json.loads((tmp_path / "chain.json").read_text())["rows"]] == [20, 6]


# --- chains -----------------------------------------------------------------------------------------------------------


def test_shares_and_factors_of_chains(tmp_path, capsys):
    status, out, err = run(capsys, "chain", "--chains", 150, "--lengths", "1-3,9", "--seed", 3, "--out", tmp_path)
    assert (status, err) == (0, "")
    assert len(out.splitlines()) == 6
    rows = {row["length"]: row for row in json.loads((tmp_path / "chain.json").read_text())["rows"]}
    assert [*rows] == [1, 2, 3, 9]
    assert rows[1]["mixed wins"] == 0
    assert rows[1]["times fewer, max"] == 1
    assert 0.15 < rows[2]["mixed wins"] < 0.5 < rows[9]["mixed wins"]
    assert [row["checked"] for row in rows.values()] == [150, 150, 150, 0]
    for row in rows.values():
        assert 1 <= row["times fewer, mean"] <= row["times fewer, mean of wins"] <= row["times fewer, max"]
    assert run(capsys, "chain", "--chains", 150, "--lengths", "1-3,9", "--seed", 3, "--out", tmp_path)[1] == out


def test_the_number_of_plans_is_that_of_the_search():
    for length in range(1, 6):
        chain = [(2, 2, 5)] * length
        assert len(list(chains.every_cost(chain))) == chains._plans(length)


def test_a_wrong_optimum_is_told(monkeypatch):
    monkeypatch.setattr(chains, "every_cost", lambda chain: iter([1]))
    with pytest.raises(RuleError, match="an exhaustive search 1"):
        chains.Chains([2], 1).run(lambda found: None, lambda: None)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["products", "--widths", "64,x"], "'x' is no width of at least 1"),
        (["products", "--depth", "0"], "'0' is no whole number of at least 1"),
        (["products", "--strategies", "magic"], "'magic' is none of forward pass, vjp"),
        (["products", "--against", "numpy"], "'numpy' is none of jax, torch, autograd"),
        (["products", "--longest", "-1"], "'-1' is no time above 0"),
        (["products", "--device", "meta"], "nothing can be timed there"),
        (["products", "--device", "abacus"], "abacus"),
        (["chain", "--lengths", "5-2"], "'5-2' ends before it begins"),
        (["chain", "--sizes", "0-9"], "'0' is no number of at least 1"),
        (["chain", "--chains", "none"], "'none' is no whole number of at least 1"),
        (["chain", "--out", "/dev/null/there"], "cannot make the folder"),
    ],
)
def test_mistakes_are_named(capsys, arguments, message):
    status, out, err = run(capsys, *arguments)
    assert status in (1, 2)
    assert message in err
    assert out == ""


def test_the_help_names_every_strategy_and_peer(capsys):
    status, out, _ = run(capsys, "products", "--help")
    assert status == 0
    assert [name for name in (*strategies.STRATEGIES, *PEERS) if name not in out] == []
