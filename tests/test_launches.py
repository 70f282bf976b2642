"""What layers, losses and steps cost in launches, counted on the stand-in for CuPy: with kernels one each."""

import emulator
import pytest
from stand_in_cupy import device, watched
from stand_in_cupy.__main__ import STEPS, layers, show, table

import pullback as pb

pytestmark = pytest.mark.skipif(emulator.missing() is not None, reason=str(emulator.missing()))

KINDS = ("library", "fill", "copy", "upload")


@pytest.fixture(scope="module")
def counts():
    return table()


def test_every_layer_and_loss_is_one_launch_forward_and_one_backward(counts):
    found = {
        name: (row["forward on"][0], row["backward on"][0]) for name, row in counts.items() if "backward on" in row
    }
    assert len(found) > 40
    assert {name: pair for name, pair in found.items() if pair != (1, 1)} == {}


def test_a_dense_layer_is_three_products_beside_its_two_launches(counts):
    found = [row for name, row in counts.items() if name.startswith("linear")]
    assert len(found) > 15
    assert {(row["forward on"][1], row["backward on"][1]) for row in found} == {(1, 2)}


def test_an_optimizer_is_one_launch_for_all_parameters(counts):
    assert {counts[name]["forward on"][0] for name in STEPS} == {1}
    assert min(counts[name]["forward off"][0] for name in STEPS) > 20


def test_kernels_never_cost_launches(counts):
    for name, row in counts.items():
        for way in ("forward", "backward"):
            if f"{way} on" in row:
                assert row[f"{way} on"][0] <= row[f"{way} off"][0], name
                assert row[f"{way} on"][1] <= row[f"{way} off"][1], name


def test_mapped_activations_are_one_launch_for_all_examples():
    """Both ways, as they are without `vmap`; with kernels off they are more."""
    counts = {}
    for on in (True, False):
        with device(kernels_on=on):
            x = pb.ones((4, 6), dtype="float32", device="cuda")
            for name, f in pb.nn.ACTIVATIONS.items():
                _, pull = pb.vjp(pb.vmap(f), x)
                for way, run in (("forward", pb.vmap(f)), ("backward", pull)):
                    run(x)
                    with watched() as work:
                        run(x)
                    counts[on, name, way] = len(work)
    assert {count for (on, *_), count in counts.items() if on} == {1}
    assert max(counts.values()) > 5


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "cross_entropy", "cross_entropy of several rows"])
def test_mapped_rows_are_one_launch_for_all_examples(name):
    """Forward and backward; an example's mean of losses takes two more, and so does its cotangent shared out."""
    several = name.endswith("rows")
    with device(kernels_on=True):
        x = pb.ones((4, 8, 6) if several else (4, 6), dtype="float32", device="cuda")
        labels = pb.zeros(x.shape[:-1], dtype="int64", device="cuda")
        f = pb.vmap(pb.cross_entropy if name.startswith("cross") else lambda row, _: getattr(pb, name)(row))
        for _ in range(2):  # what is loaded once is loaded first
            with watched() as forward:
                out, pull = pb.vjp(lambda rows: f(rows, labels), x)
            cotangent = pb.ones_like(out)
            with watched() as backward:
                pull(cotangent)
        assert (len(forward), len(backward)) == ((3, 3) if several else (1, 1))


def test_the_table_is_printed(counts, capsys, monkeypatch):
    monkeypatch.setattr("stand_in_cupy.__main__.table", lambda: counts)
    show()
    lines = capsys.readouterr().out.splitlines()
    assert [line[:26].strip() for line in lines[3:]] == list(counts)
    assert "1 + 1 (+ 0)" in next(line for line in lines if line.startswith("linear_gelu"))


def test_the_ledger_counts_what_is_launched_without_kernels():
    """All but the numbers that checks of labels and weights bring to the host."""
    for name, make in layers().items():
        with device(kernels_on=False):
            f, args = make()
            pb.vjp(f, *args)[1](pb.ones_like(f(*args)))  # loads what is loaded once
            with watched() as forward:
                out, pull = pb.vjp(f, *args)
            cotangent = pb.ones_like(out)
            with watched() as backward:
                pull(cotangent)
            report = pb.cost(f, *args, argnums=range(len(args)))
        counted = [sum(w.is_launch or w.kind in KINDS for w in work) for work in (forward, backward)]
        assert [report.forward.count.launches, report.vjp.count.launches] == counted, name
