"""The command line as a new user meets it: it learns, resumes in every bit, and says in one line what went wrong."""

import gzip
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pullback as pb
from pullback.backends import backend_for
from pullback.cli import main
from pullback.errors import DeviceError

FEW = ["--epochs", "2", "--sizes", "8", "--quiet"]


@pytest.fixture
def table(tmp_path):
    """A file of 120 rows of 5 numbers and a class with a name."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((120, 5))
    kinds = np.where(inputs[:, 0] * inputs[:, 1] > 0, "same", "other")
    rows = [",".join([*map(str, row), kind]) for row, kind in zip(inputs, kinds, strict=True)]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["a,b,c,d,e,kind", *rows]) + "\n")
    return path


def run(capsys, *arguments):
    """Exit status, standard output, standard error."""
    capsys.readouterr()
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as error:  # from argparse
        status = error.code
    found = capsys.readouterr()
    return status, found.out, found.err


def train(capsys, *arguments):
    status, out, err = run(capsys, "train", *arguments)
    assert (status, err) == (0, "")
    return out


# --- it learns --------------------------------------------------------------------------------------------------------


def test_the_real_digits_are_learned_to_97_percent(tmp_path, capsys):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    out = tmp_path / "digits"
    text = train(capsys, "--out", out, "--device", "cpu")
    assert text.startswith("device     cpu\n")
    assert "digits: 1,438 examples to train on, 359 held out, 64 features, 10 classes" in text
    assert "64-128-64-10 relu, 17,226 parameters, float32" in text
    assert sorted(p.name for p in out.iterdir()) == [
        "checkpoint.safetensors",
        "curves.png",
        "metrics.jsonl",
        "model.safetensors",
    ]
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [m["epoch"] for m in metrics] == list(range(1, 41))
    assert metrics[-1]["held_out_accuracy"] >= 0.97
    assert text.count("\nepoch ") == 40

    kept = pb.io.load(out / "model.safetensors")  # all that is needed to use the model
    model = pb.nn.MLP(kept["network"]["sizes"], kept["network"]["activation"])
    model.load_state_dict(kept["parameters"])
    _, held_out = pb.data.split(pb.data.load_digits())
    inputs = pb.data.Standardization(**kept["standardization"])(held_out.inputs)
    found = model(inputs).numpy().argmax(1)
    assert np.mean(found == held_out.labels) == metrics[-1]["held_out_accuracy"]


def test_a_table_is_learned_and_quiet_prints_one_line(table, tmp_path, capsys):
    out = tmp_path / "run"
    text = train(capsys, "--data", "csv", "--csv", table, "--out", out, "--epochs", 30, "--quiet")
    assert text.count("\n") == 1
    assert pb.io.load(out / "model.safetensors")["classes"] == ("other", "same")
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["held_out_accuracy"] > 0.8


def test_mnist_is_read_from_a_folder(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 60), ("t10k", 20)):
        images = rng.integers(0, 256, (count, 28, 28)).astype("u1")
        labels = rng.integers(0, 10, count).astype("u1")
        images_head = struct.pack(">4B3I", 0, 0, 8, 3, count, 28, 28)
        labels_head = struct.pack(">4BI", 0, 0, 8, 1, count)
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images_head + images.tobytes()))
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(labels_head + labels.tobytes())
    for name in ("mnist", "fashion-mnist"):
        train(capsys, "--data", name, "--data-dir", tmp_path, "--out", tmp_path / name, *FEW)
        assert pb.io.load(tmp_path / name / "model.safetensors")["network"]["sizes"] == (784, 8, 10)


@pytest.mark.parametrize(
    "options",
    [
        ["--optimizer", "sgd", "--schedule", "constant", "--momentum", "0.5"],
        ["--optimizer", "adamw", "--schedule", "step", "--weight-decay", "0.1", "--activation", "gelu"],
        ["--schedule", "linear", "--warm-up", "0.5", "--clip", "1", "--dtype", "float64"],
        ["--sizes", "none", "--dropout", "0", "--label-smoothing", "0", "--batch", "1000"],
        ["--label-column", "kind", "--held-out", "0.5", "--sizes", "4-4-4", "--seed", "3", "--lr", "0.01"],
    ],
)
def test_every_option_trains(table, tmp_path, capsys, options):
    train(capsys, "--data", "csv", "--csv", table, "--out", tmp_path / "run", *FEW, *options)
    if "float64" in options:
        parameters = pb.io.load(tmp_path / "run" / "model.safetensors")["parameters"]
        assert {a.dtype for a in parameters.values()} == {np.dtype("float64")}


def test_equal_seeds_give_equal_bytes_and_other_seeds_others(table, tmp_path, capsys):
    files = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(capsys, "--data", "csv", "--csv", table, "--out", tmp_path / name, *FEW, "--seed", seed)
        files.append((tmp_path / name / "model.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]


def test_without_matplotlib_it_says_so_and_goes_on(table, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    text = train(capsys, "--data", "csv", "--csv", table, "--out", tmp_path / "run", *FEW)
    assert "pip install 'pullback[plot]'" in text
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert not (tmp_path / "run" / "curves.png").exists()


# --- Ctrl-C and --resume ----------------------------------------------------------------------------------------------


def stopped(command, epoch, number):
    """Run a command until it has printed an epoch, send it a signal, and give its exit status and all it printed.

    The pipe holds one page, so the command is never far ahead of what was read of it.
    """
    import fcntl

    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("epoch") and line.split()[1].startswith(f"{epoch}/"):
            break
    process.send_signal(number)
    rest, errors = process.communicate()
    return process.returncode, "".join(lines) + rest, errors


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_a_run_that_is_interrupted_twice_gives_the_same_bytes_as_one_that_is_not(table, tmp_path, capsys):
    options = ["--data", "csv", "--csv", str(table), "--sizes", "16-8", "--epochs", "150", "--warm-up", "2"]
    options += ["--clip", "1", "--optimizer", "adamw", "--weight-decay", "0.01", "--device", "cpu"]
    train(capsys, *options, "--out", tmp_path / "whole", "--quiet")

    command = [sys.executable, "-m", "pullback", "train", "--out", str(tmp_path / "cut")]
    status, text, errors = stopped([*command, *options], 3, signal.SIGINT)
    assert (status, errors) == (130, "")
    assert f"go on with: pullback train --resume --out {tmp_path / 'cut'}" in text
    status, text, errors = stopped([*command, "--resume"], 70, signal.SIGTERM)
    assert (status, errors) == (130, "")
    assert "resumed    after epoch" in text
    train(capsys, "--resume", "--out", tmp_path / "cut", "--quiet")

    whole, cut = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert whole == cut

    def timeless(name):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in m.items() if k not in ("seconds", "examples_per_second")} for m in lines]

    assert len(timeless("cut")) == 150
    assert timeless("whole") == timeless("cut")


def test_a_finished_run_can_be_given_more_epochs(table, tmp_path, capsys):
    train(capsys, "--data", "csv", "--csv", table, "--out", tmp_path / "run", *FEW)
    text = train(capsys, "--resume", "--out", tmp_path / "run", "--epochs", 4)
    assert text.count("\nepoch ") == 2
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4


def test_a_table_that_was_moved_is_fine_and_one_that_was_changed_is_not(table, tmp_path, capsys):
    out, moved = tmp_path / "run", tmp_path / "moved.csv"
    train(capsys, "--data", "csv", "--csv", table, "--out", out, *FEW)
    table.rename(moved)
    train(capsys, "--resume", "--out", out, "--csv", moved, "--epochs", 3, "--quiet")
    moved.write_text(moved.read_text().replace("0.", "1.", 1))
    assert_fails(capsys, 1, "other data", "train", "--resume", "--out", out, "--csv", moved)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def assert_fails(capsys, status, reason, *arguments):
    """One line on standard error that says why, and nothing of Python."""
    found, _, err = run(capsys, *arguments)
    assert found == status, err
    assert reason in err
    assert "Traceback" not in err
    if not err.startswith("usage"):
        assert err.startswith("pullback: ")
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "the following arguments are required"),
        (["learn"], "invalid choice: 'learn'"),
        (["train", "--data", "cifar"], "invalid choice: 'cifar'"),
        (["train", "--activation", "step"], "invalid choice: 'step'"),
        (["train", "--sizes", "12x4"], "'12x4' is not like 128-64"),
        (["train", "--sizes", "64-0"], "'64-0' is not like 128-64"),
        (["train", "--lr", "0"], "'0' is no number above 0"),
        (["train", "--lr", "nan"], "'nan' is no number above 0"),
        (["train", "--dropout", "1"], "'1' is no number at least 0 and below 1"),
        (["train", "--epochs", "0"], "'0' is no whole number of at least 1"),
        (["train", "--batch", "many"], "'many' is no whole number of at least 1"),
        (["train", "--seed", "-1"], "'-1' is no whole number of at least 0"),
        (["train", "--held-out", "1"], "'1' is no number above 0 and below 1"),
        (["train", "--data", "mnist"], "--data-dir is needed with --data mnist"),
        (["train", "--data", "csv"], "--csv is needed with --data csv"),
        (["train", "--data-dir", "."], "--data-dir goes with --data mnist or fashion-mnist"),
        (["train", "--csv", "x.csv"], "--csv goes with --data csv"),
        (["train", "--warm-up", "40"], "--warm-up 40 leaves nothing of --epochs 40"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(capsys, monkeypatch, tmp_path, arguments, reason):
    monkeypatch.chdir(tmp_path)
    assert_fails(capsys, 2, reason, *arguments)
    assert not list(tmp_path.iterdir())


def test_files_that_are_missing_or_malformed_are_one_line_and_status_1(table, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    csv = ["train", "--data", "csv", "--csv"]
    assert_fails(capsys, 1, "there is no such file", *csv, "missing.csv")
    (tmp_path / "text.csv").write_text("1,2,0\n1,two,1\n")
    assert_fails(capsys, 1, "text.csv, line 2, column 2: 'two'", *csv, "text.csv")
    assert_fails(capsys, 2, "no column is called 'species'", *csv, table, "--label-column", "species")
    mnist = ["train", "--data", "mnist", "--data-dir"]
    assert_fails(capsys, 1, "there is no train-images-idx3-ubyte", *mnist, "nowhere")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\x89PNG")
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"")
    assert_fails(capsys, 1, "no IDX file", *mnist, ".")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, 9, 28, 28))[:-4])
    assert_fails(capsys, 1, "cannot be read", *mnist, ".")
    assert not (tmp_path / "runs").exists()


def test_a_device_that_is_not_there_says_what_to_install(table, tmp_path, capsys):
    try:
        backend_for("cuda")
    except DeviceError:
        start = ["train", "--data", "csv", "--csv", table, "--out", tmp_path / "run"]
        assert_fails(capsys, 1, "device 'cuda' needs", *start, "--device", "cuda")
    assert_fails(capsys, 1, "no device 'tpu'", "train", "--device", "tpu")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_found_before_training(table, tmp_path, capsys):
    start = ["train", "--data", "csv", "--csv", table, *FEW, "--out"]
    assert_fails(capsys, 1, "cannot make the folder", *start, table)
    assert_fails(capsys, 1, "cannot make the folder", *start, table / "below")
    (tmp_path / "run" / "metrics.jsonl").mkdir(parents=True)
    assert_fails(capsys, 1, "metrics.jsonl: ", *start, tmp_path / "run")


def test_a_run_that_cannot_be_resumed_says_why_and_stays_as_it_is(table, tmp_path, capsys):
    out = tmp_path / "run"
    resume = ["train", "--resume", "--out", out]
    assert_fails(capsys, 1, "there is no such file", *resume)
    train(capsys, "--data", "csv", "--csv", table, "--out", out, *FEW)
    checkpoint = out / "checkpoint.safetensors"
    good = checkpoint.read_bytes()
    assert_fails(capsys, 1, "begun with --sizes 8, not 16", *resume, "--sizes", "16")
    assert_fails(capsys, 1, "begun with --lr None, not 0.1", *resume, "--lr", "0.1")
    assert_fails(capsys, 1, "begun with --data csv, not digits", *resume, "--data", "digits")
    assert checkpoint.read_bytes() == good
    for content in (b"", good[:-7], good[:100], b"\xff" * 64, good.replace(b"settings", b"sittings")):
        checkpoint.write_bytes(content)
        assert_fails(capsys, 1, "checkpoint", *resume)
    shutil.copy(out / "model.safetensors", checkpoint)
    assert_fails(capsys, 1, "no checkpoint of a Trainer", *resume)


def test_damaged_settings_in_a_checkpoint_are_one_line(table, tmp_path, capsys):
    out = tmp_path / "run"
    train(capsys, "--data", "csv", "--csv", table, "--out", out, *FEW)
    good = pb.io.load(out / "checkpoint.safetensors")
    for name, bad in (("batch", "x"), ("sizes", (0,)), ("lr", -1.0), ("data", "x"), ("epochs", True), ("device", None)):
        pb.io.save(out / "checkpoint.safetensors", {**good, "settings": {**good["settings"], name: bad}})
        assert_fails(capsys, 1, f"no good --{name}", "train", "--resume", "--out", out)
    for part in good["state"]:
        pb.io.save(out / "checkpoint.safetensors", {**good, "state": {**good["state"], part: "x"}})
        assert_fails(capsys, 1, "state", "train", "--resume", "--out", out)


def test_a_diverging_run_says_what_to_try(table, tmp_path, capsys):
    start = ["train", "--data", "csv", "--csv", table, "--out", tmp_path / "run", *FEW]
    assert_fails(capsys, 1, "a lower learning rate", *start, "--lr", "1e30", "--optimizer", "sgd")


# --- info and the module ----------------------------------------------------------------------------------------------


def test_info_names_versions_devices_and_threads(capsys):
    status, out, _ = run(capsys, "info")
    assert status == 0
    facts = dict(line.split(None, 1) for line in out.splitlines())
    assert facts["numpy"] == np.__version__
    assert facts["pullback"] == pb.__version__
    assert {"python", "scipy", "cupy", "device", "blas", "OMP_NUM_THREADS"} <= facts.keys()


@pytest.mark.parametrize("command", [[sys.executable, "-m", "pullback"], [Path(sys.executable).with_name("pullback")]])
def test_it_runs_as_a_module_and_as_a_command(command):
    found = subprocess.run([*command, "train", "--help"], capture_output=True, text=True, check=True)
    for option in (
        "--data",
        "--data-dir",
        "--sizes",
        "--activation",
        "--optimizer",
        "--schedule",
        "--batch",
        "--epochs",
    ):
        assert option in found.stdout
    for option in ("--seed", "--dtype", "--device", "--resume", "--lr"):
        assert option in found.stdout


def test_output_that_nobody_reads_ends_quietly(table, tmp_path):
    command = [sys.executable, "-m", "pullback", "train", "--data", "csv", "--csv", table, "--out", tmp_path / "run"]
    process = subprocess.Popen([*map(str, command), "--epochs", "500"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 1
