"""The ledger as a picture."""

from collections.abc import Mapping
from typing import Any

from ..errors import ArgumentError
from .ledger import Count
from .tables import bytes_text, count_text

__all__ = ["plot_report"]

COLOURS = {"forward": "#4878a8", "vjp": "#c8553d", "jvp": "#6a9955"}


def plot_report(report: Any, path: Any = None) -> Any:
    """Bars by layer (by op where there are no layers): operations, bytes moved, bytes saved. See `CostReport.plot`."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ArgumentError(f"plot: matplotlib is missing ({error}): pip install 'pullback[plot]'") from error
    layers = report.by_layer
    lines = layers if set(layers) - {""} else report.by_op
    names = list(lines)
    saved = [report.saved.get(name, 0) for name in names] if lines is layers else None
    panels = 3 if saved else 2
    figure = Figure(figsize=(4.2 * panels, 1.2 + 0.32 * len(names)), layout="constrained")
    axes = figure.subplots(1, panels, sharey=True)
    figure.suptitle(f"{report.output_size:,} outputs by {report.input_size:,} inputs ({report.inputs})", fontsize=10)
    _bars(axes[0], lines, lambda count: count.flops, "floating-point operations", count_text)
    _bars(axes[1], lines, lambda count: count.read + count.written, "bytes read and written", bytes_text)
    if saved:
        axes[2].barh(range(len(names)), saved, color="#8a6fb0")
        _finish(axes[2], "bytes saved for the backward pass", bytes_text)
    axes[0].set_yticks(range(len(names)), [name or "(no module)" for name in names], fontsize=8)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=3, fontsize=8, frameon=False)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _bars(axis: Any, lines: Mapping[str, Mapping[str, Count]], of: Any, title: str, text: Any) -> None:
    left = [0] * len(lines)
    for phase, colour in COLOURS.items():
        values = [of(phases.get(phase, Count())) for phases in lines.values()]
        if any(values):
            axis.barh(range(len(lines)), values, left=left, color=colour, label=phase)
        left = [a + b for a, b in zip(left, values, strict=True)]
    _finish(axis, title, text)


def _finish(axis: Any, title: str, text: Any) -> None:
    axis.set_title(title, fontsize=9)
    axis.xaxis.set_major_formatter(lambda value, _: text(int(value)))
    axis.tick_params(axis="x", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
