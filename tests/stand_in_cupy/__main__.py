"""How much a device is given by common layers, losses and a step, with the kernels off and on: `make launches`.

Matrix products, and fills and copies of memory, are counted by themselves.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

import pullback as pb
from pullback import nn

from . import device, watched

ROWS, COLUMNS = 128, 256
STEPS: dict[str, Any] = {
    "step of Adam": pb.optim.Adam,
    "step of AdamW": pb.optim.AdamW,
    "step of SGD, momentum": partial(pb.optim.SGD, lr=0.1, momentum=0.9),
}
Counts = tuple[int, int, int]


def on_device(*shape: int) -> pb.Tensor:
    values = np.random.default_rng(0).normal(size=shape)
    return pb.tensor(values, dtype="float32", device="cuda")


def layers() -> dict[str, Callable[[], tuple[Any, tuple[Any, ...]]]]:
    """By name: a function, and what it is called with; they are made on the device that is current then."""

    @cache
    def labels() -> pb.Tensor:
        return pb.tensor(np.arange(ROWS) % COLUMNS, device="cuda")

    @cache
    def target() -> pb.Tensor:
        return on_device(ROWS, COLUMNS)

    def activation(f: Any) -> Any:
        return lambda: (f, (on_device(ROWS, COLUMNS),))

    def dense(f: Any) -> Any:
        return lambda: (f, (on_device(ROWS, 64), on_device(64, COLUMNS), on_device(COLUMNS)))

    found = {name: activation(f) for name, f in sorted(nn.ACTIVATIONS.items())}
    found |= {f"linear_{name}": dense(getattr(pb, f"linear_{name}")) for name in sorted(nn.ACTIVATIONS)}
    return found | {
        "softmax": activation(pb.softmax),
        "log_softmax": activation(pb.log_softmax),
        "cross_entropy": activation(lambda x: pb.cross_entropy(x, labels())),
        "cross_entropy, smoothed": activation(lambda x: pb.cross_entropy(x, labels(), label_smoothing=0.1)),
        "mse_loss": activation(lambda x: pb.mse_loss(x, target())),
        "layer_norm": lambda: (
            lambda x, w, b: pb.layer_norm(x, weight=w, bias=b),
            (on_device(ROWS, COLUMNS), on_device(COLUMNS), on_device(COLUMNS)),
        ),
        "dropout": activation(lambda x: pb.dropout(x, 0.5)),
        "linear": dense(pb.linear),
    }


def counted(work: list[Any]) -> Counts:
    """Launches; matrix products; fills and copies."""
    products = sum(w.kind == "library" for w in work)
    memory = sum(w.kind in ("fill", "copy", "upload", "download") for w in work)
    return sum(w.is_launch for w in work), products, memory


def of_layer(make: Callable[[], tuple[Any, tuple[Any, ...]]]) -> tuple[Counts, Counts]:
    """Counts of a layer forward and backward, after a first call that loads what is loaded once."""
    for _ in range(2):
        function, args = make()
        with watched() as forward:
            out, pull = pb.vjp(function, *args)
        cotangent = pb.ones_like(out)
        with watched() as backward:
            pull(cotangent)
    return counted(forward), counted(backward)


def of_step(kind: Any) -> Counts:
    """Counts of the second step of an optimizer over the parameters of a net of three layers."""
    model = nn.Sequential(nn.Linear(64, 32, activation="gelu"), nn.Linear(32, 32), nn.Linear(32, 10)).to("cuda")
    optimizer = kind(model.parameters())
    x = pb.tensor(np.ones((8, 64), np.float32), device="cuda")
    for _ in range(3):
        optimizer.zero_grad()
        pb.sum(model(x)).backward()
        with watched() as work:
            optimizer.step()
    return counted(work)


def table() -> dict[str, dict[str, Counts]]:
    """Row -> column -> counts. Columns are "forward off", "forward on", "backward off", "backward on"."""
    rows: dict[str, dict[str, Counts]] = {}
    for kernels_on in (False, True):
        word = "on" if kernels_on else "off"
        with device(kernels_on):
            for name, make in layers().items():
                forward, backward = of_layer(make)
                rows.setdefault(name, {}).update({f"forward {word}": forward, f"backward {word}": backward})
            for name, kind in STEPS.items():
                rows.setdefault(name, {})[f"forward {word}"] = of_step(kind)
    return rows


def show() -> None:
    columns = ("forward off", "forward on", "backward off", "backward on")
    print("launches + matrix products (+ fills and copies), kernels off and on\n")
    print(f"{'':26}" + "".join(f"{column:>16}" for column in columns))
    for name, row in table().items():
        cells = ["{} + {} (+ {})".format(*row[column]) if column in row else "" for column in columns]
        print(f"{name:26}" + "".join(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    show()
