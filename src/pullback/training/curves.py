"""The training curves as a picture."""

from os import PathLike
from typing import TYPE_CHECKING

from ..errors import ArgumentError
from ..io import replacing

if TYPE_CHECKING:
    from .trainer import Metrics

__all__ = ["draw_curves"]


def draw_curves(path: str | PathLike[str], history: "list[Metrics]", title: str = "") -> None:
    """Draw loss and held-out accuracy over the epochs into a PNG file.

    Raises:
        ImportError: matplotlib is not installed. ArgumentError: there is no epoch to draw.
        CheckpointError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    if not history:
        raise ArgumentError("draw_curves: there is no epoch in the history")
    epochs = [m["epoch"] for m in history]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy = figure.subplots(1, 2)
    marker = "o" if len(epochs) == 1 else None
    loss.plot(epochs, [m["train_loss"] for m in history], label="training", marker=marker)
    loss.plot(epochs, [m["held_out_loss"] for m in history], label="held out", marker=marker)
    loss.set(xlabel="epoch", ylabel="loss")
    loss.legend(frameon=False)
    percent = [100 * m["held_out_accuracy"] for m in history]
    accuracy.plot(epochs, percent, color="C1", marker=marker)
    accuracy.set(xlabel="epoch", ylabel="held-out accuracy, %")
    accuracy.annotate(
        f"{percent[-1]:.2f} %", (epochs[-1], percent[-1]), xytext=(-4, -14), textcoords="offset points", ha="right"
    )
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(title)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
