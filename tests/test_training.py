"""The Trainer from Python: it learns, and it stops anywhere and goes on in every bit."""

import json
import math
import signal

import numpy as np
import pytest

import pullback as pb
from pullback.data import Batches
from pullback.errors import ArgumentError, CheckpointError, NonFiniteError
from pullback.training import Trainer, draw_curves, read_checkpoint

RNG = np.random.default_rng(0)
INPUTS = RNG.standard_normal((50, 4)).astype("float32")
LABELS = (INPUTS[:, 0] + INPUTS[:, 1] ** 2 > 0.5).astype("int64")


def make(folder=None, sizes=(4, 8, 2), batch=8, optimizer=pb.optim.AdamW, lr=None, generator=1, loss=None, **options):
    generators = pb.random.Generator(generator).spawn(2)
    model = pb.nn.MLP(sizes, "gelu", dropout=0.3, layer_norm=True, generator=generators[0])
    schedule = pb.optim.WarmUp(5, pb.optim.CosineDecay(0.02, 40)) if lr is None else lr
    batches = Batches([INPUTS[:40], LABELS[:40]], batch, generators[1])
    loss = loss or pb.nn.cross_entropy
    return Trainer(
        model,
        optimizer(model.parameters(), schedule),
        batches,
        (INPUTS[40:], LABELS[40:]),
        folder=folder,
        loss=loss,
        **options,
    )


def bits(trainer):
    """All of a state but what a clock told, with arrays as bytes."""

    def plain(value):
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items() if k not in ("seconds", "examples_per_second")}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        return (str(value.dtype), value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value

    return plain(trainer.state_dict())


def interrupting(steps, number=signal.SIGINT):
    """A loss that sends this process a signal in the given steps."""
    count = iter(range(1_000_000))

    def loss(logits, labels):
        if pb.asarray(logits).requires_grad and next(count) in steps:
            signal.raise_signal(number)
        return pb.nn.cross_entropy(logits, labels)

    return loss


@pytest.mark.parametrize("step", [0, 3, 4, 5, 12, 24])  # first, next to last and last of a pass, first of a pass, ...
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_interrupted_goes_on_in_every_bit(tmp_path, step, number):
    pb.random.seed(7)
    whole = make(clip=1.0)
    whole.fit(5, progress=False)

    pb.random.seed(7)
    cut = make(tmp_path, clip=1.0, loss=interrupting({step}, number))
    with pytest.raises(KeyboardInterrupt):
        cut.fit(5, progress=False)
    assert cut.optimizer.steps == step + 1
    pb.random.seed(8)
    resumed = make(tmp_path, clip=1.0, generator=99)  # other weights, other random numbers: all come from the file
    resumed.resume(cut.checkpoint)
    assert bits(resumed) == bits(cut)
    resumed.fit(5, progress=False)
    assert bits(resumed) == bits(whole)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == resumed.history


def test_many_interrupts_in_one_run_and_a_run_that_goes_on_in_the_same_process(tmp_path):
    whole = make()
    whole.fit(4, progress=False)
    cut = make(tmp_path, loss=interrupting({1, 2, 7, 9}))
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            cut.fit(4, progress=False)
    cut.fit(4, progress=False)
    assert bits(cut)["model"] == bits(whole)["model"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_interrupt_acts_at_once():
    trainer = make()

    def twice(logits, labels):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second signal was ignored")

    trainer.loss = twice
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(1, progress=False)


def test_more_epochs_can_be_added_later():
    whole, parts = make(), make()
    whole.fit(4, progress=False)
    parts.fit(1, progress=False)
    parts.fit(4, progress=False)
    assert bits(parts) == bits(whole)
    assert parts.fit(2, progress=False) == parts.history


def test_metrics_are_those_of_the_model_and_the_rate_those_of_the_schedule():
    trainer = make(lr=pb.optim.CosineDecay(0.02, 15))
    seen = []
    history = trainer.fit(3, report=seen.append, progress=False)
    assert seen == history
    assert [m["epoch"] for m in history] == [1, 2, 3]
    assert [m["learning_rate"] for m in history] == [trainer.optimizer.lr(step) for step in (4, 9, 14)]
    trainer.model.eval()
    logits = trainer.model(INPUTS[40:]).numpy().astype("float64")
    rows = np.log(np.exp(logits).sum(1)) - logits[np.arange(10), LABELS[40:]]
    assert history[-1]["held_out_loss"] == pytest.approx(rows.mean(), rel=1e-5)
    assert history[-1]["held_out_accuracy"] == np.mean(logits.argmax(1) == LABELS[40:])


def test_the_training_loss_is_the_mean_over_examples_not_over_batches():
    trainer = make(batch=32, lr=0.0, optimizer=pb.optim.SGD)  # batches of 32 and of 8
    trainer.model.dropout = None
    (metrics,) = trainer.fit(1, progress=False)
    expected = float(pb.nn.cross_entropy(trainer.model(INPUTS[:40]), LABELS[:40]))
    assert metrics["train_loss"] == pytest.approx(expected, rel=1e-5)


def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_the_last_checkpoint(tmp_path):
    trainer = make(tmp_path)
    trainer.fit(1, progress=False)
    before = trainer.checkpoint.read_bytes()
    trainer.loss = lambda logits, labels: pb.nn.cross_entropy(logits, labels) * math.nan
    with pytest.raises(NonFiniteError, match="training loss of epoch 2 is nan"):
        trainer.fit(3, progress=False)
    assert trainer.checkpoint.read_bytes() == before


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"sizes": (4, 9, 2)}, "the state does not fit"),
        ({"sizes": (4, 8, 8, 2)}, "missing: .*layers.2"),
        ({"optimizer": pb.optim.Adam}, "this is the state of AdamW"),
        ({"batch": 7}, "the state is of size 8"),
        ({"lr": 0.1}, "a schedule"),
        ({"settings": {"a": 2, "b": 3}}, "begun with a = 1, and this one with 2"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_nothing_changes(tmp_path, other, reason):
    first = make(tmp_path, settings={"a": 1, "b": 3})
    first.fit(1, progress=False)
    second = make(**({"settings": {"a": 1, "b": 3}} | other))
    before = bits(second)
    with pytest.raises(CheckpointError, match=reason):
        second.resume(first.checkpoint)
    assert bits(second) == before


def test_damage_anywhere_in_a_state_is_an_error_or_harmless_and_never_half_loaded():
    trainer, other = make(), make(generator=5)
    trainer.fit(1, progress=False)
    good, before = trainer.state_dict(), bits(other)
    paths = [(key,) for key in good]
    paths += [(key, inner) for key, value in good.items() if isinstance(value, dict) for inner in value]
    for path in paths:
        for bad in (None, "text", -1, [], {}, np.zeros(3)):
            state = {k: dict(v) if isinstance(v, dict) else v for k, v in good.items()}
            holder = state if len(path) == 1 else state[path[0]]
            holder[path[-1]] = bad
            try:
                other.load_state_dict(state)
            except CheckpointError:
                assert bits(other) == before
            else:
                other.fit(3, progress=False)
                other.load_state_dict(make(generator=5).state_dict())
    for name in good["history"][0]:
        with pytest.raises(CheckpointError, match="damaged"):
            other.load_state_dict({**good, "history": [{**good["history"][0], name: "x"}]})


def test_what_is_no_checkpoint_of_a_trainer_is_refused(tmp_path):
    for tree in (1, {"kind": "else"}, {"kind": "pullback training"}, {"kind": "pullback training", "settings": 1}):
        pb.io.save(tmp_path / "x", tree)
        with pytest.raises(CheckpointError, match="checkpoint"):
            read_checkpoint(tmp_path / "x")


def test_training_on_a_device_never_touches_the_host_and_gives_the_same_numbers(tmp_path, separate_device):
    def on(device):
        model = pb.nn.MLP((4, 8, 2), dropout=0.3, generator=3, device=device)
        arrays = [pb.tensor(x, device=device) for x in (INPUTS, LABELS)]
        batches = Batches([x[:40] for x in arrays], 8, pb.random.Generator(4))
        folder = tmp_path / device
        folder.mkdir()
        return Trainer(
            model, pb.optim.Adam(model.parameters()), batches, [x[40:] for x in arrays], clip=1.0, folder=folder
        )

    host, device = on("cpu"), on(separate_device)
    assert {x.device for x in device.model.parameters().values()} == {"cuda:0"}
    host.fit(3, progress=False)
    device.loss = interrupting({7})
    with pytest.raises(KeyboardInterrupt):
        device.fit(3, progress=False)
    device.resume(device.checkpoint)
    device.fit(3, progress=False)
    assert bits(device) == bits(host)


def test_no_files_are_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = make()
    trainer.fit(1, progress=False)
    assert trainer.checkpoint is None
    assert not list(tmp_path.iterdir())


def test_curves_are_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    trainer = make()
    for epochs in (1, 3):
        draw_curves(tmp_path / "curves.png", trainer.fit(epochs, progress=False), "title")
        assert (tmp_path / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(ArgumentError, match="no epoch"):
        draw_curves(tmp_path / "none.png", [])
    assert [p.name for p in tmp_path.iterdir()] == ["curves.png"]
