"""The graph of a tape as a picture."""

from typing import Any

from ..errors import ArgumentError
from .boxes import boxes_of
from .layout import TWIG_HEIGHT, Layout, box_height, inches, lay_out, twig_places
from .tables import flops_text

__all__ = ["draw"]

_FILL = {"value": "#dbe6f2", "argument": "#dcebdc", "constant": "#eeeeee", "parameter": "#f6e3c5", "more": "#f4f4f4"}
_EDGE = {"value": "#4878a8", "argument": "#6a9955", "constant": "#999999", "parameter": "#b8863b", "more": "#909090"}
_MARGIN = 0.35
_WIRE = "#707070"


def draw(tape: Any, path: Any = None, fold: bool = True) -> Any:
    """A matplotlib Figure of the graph of `tape`; see `Tape.plot`."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ArgumentError(f"plot: matplotlib is missing ({error}): pip install 'pullback[plot]'") from error
    boxes = boxes_of(tape, fold)
    if not boxes:
        raise ArgumentError("plot: there is nothing to draw: the function gives a constant")
    layout = lay_out(boxes)
    top = min((y for p in layout.paths for _, y in p.points), default=0.0)
    title = _title(tape)
    left, right = 0.0, max(layout.width, inches([title], 11))
    size = (right - left + 2 * _MARGIN, layout.height - min(top, 0.0) + 2 * _MARGIN + 0.3)
    figure = Figure(figsize=size)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(left - _MARGIN, right + _MARGIN)
    axes.set_ylim(layout.height + _MARGIN, min(top, 0.0) - _MARGIN - 0.3)
    axes.set_axis_off()
    axes.text(left, min(top, 0.0) - 0.3, title, fontsize=10, weight="bold", va="center")
    _draw_layers(axes, layout)
    _draw_paths(axes, layout)
    for box in layout.boxes:
        _draw_box(axes, layout, box)
    if path is not None:
        try:
            figure.savefig(path, dpi=150)
        except ValueError as error:  # of the format that the ending asks for
            raise ArgumentError(f"plot: {error}") from error
    return figure


def _title(tape: Any) -> str:
    return f"{tape.title}: forward {flops_text(tape.forward.flops)}, VJP {flops_text(tape.vjp.flops)}"


def _rounded(axes: Any, x: float, y: float, width: float, height: float, **style: Any) -> None:
    """A box around a centre."""
    from matplotlib.patches import FancyBboxPatch

    corner = f"round,pad=0,rounding_size={min(0.08, height / 3)}"
    axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, boxstyle=corner, **style))


def _draw_layers(axes: Any, layout: Layout) -> None:
    """A box around the rows of each layer that follow one another."""
    found: dict[tuple[int, str], list[Any]] = {}
    for box in layout.boxes:
        if box.layer:
            found.setdefault((box.column, box.layer), []).append(box)
    for (column, layer), boxes in found.items():
        ranks = sorted({box.rank for box in boxes})
        runs: list[list[int]] = []
        for rank in ranks:
            if runs and rank == runs[-1][-1] + 1:
                runs[-1].append(rank)
            else:
                runs.append([rank])
        for run in runs:
            mine = [box for box in boxes if box.rank in run]
            left = min(box.x - layout.left_of(box) for box in mine) - 0.1
            right = max(box.x for box in mine) + layout.box_width / 2 + 0.1
            top, bottom = layout.bands[column, run[0]][0] - 0.22, layout.bands[column, run[-1]][1] + 0.1
            middle = (left + right) / 2, (top + bottom) / 2
            _rounded(axes, *middle, right - left, bottom - top, fc="#fafafa", ec="#c4c4c4", lw=0.8, zorder=0)
            back = {"boxstyle": "square,pad=0.05", "fc": "#fafafa", "ec": "none"}  # an edge may come in behind it
            said = {"fontsize": 7.5, "color": "#606060", "style": "italic"}
            axes.text(left + 0.08, top + 0.11, layer, va="center", bbox=back, zorder=1.5, **said)


def _draw_paths(axes: Any, layout: Layout) -> None:
    for path in layout.paths:
        xs, ys = zip(*path.points, strict=True)
        axes.plot(xs, ys, color=_WIRE, lw=0.9, zorder=1, solid_joinstyle="round")
        _arrow(axes, path.points[-2], path.points[-1])
        turn = 90 if path.turned else 0
        _label(axes, *path.at, path.label, turn)


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>", "color": _WIRE, "lw": 0.9, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 8}
    axes.annotate("", xy=end, xytext=start, arrowprops=style, zorder=1)


def _label(axes: Any, x: float, y: float, text: str, turn: int = 0) -> None:
    back = {"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none"}
    axes.text(x, y, text, fontsize=7, color="#404040", ha="center", va="center", rotation=turn, bbox=back, zorder=3)


def _draw_box(axes: Any, layout: Layout, box: Any) -> None:
    height = box_height(box)
    style = {"fc": _FILL[box.kind], "ec": _EDGE[box.kind], "lw": 2.0 if box.is_output else 1.0, "zorder": 2}
    _rounded(axes, box.x, box.y, layout.box_width, height, ls="--" if box.kind == "more" else "-", **style)
    step = height / (len(box.lines) + 0.4)
    for i, line in enumerate(box.lines):
        y = box.y + (i - (len(box.lines) - 1) / 2) * step
        first = {"fontsize": 8.5, "weight": "bold"} if i == 0 else {"fontsize": 7.5, "color": "#404040"}
        axes.text(box.x, y, line, ha="center", va="center", zorder=4, **first)
    for twig, (x, y) in zip(box.twigs, twig_places(layout, box), strict=True):
        line = "--" if twig.again else "-"
        _rounded(
            axes,
            x,
            y,
            layout.twig_width,
            TWIG_HEIGHT,
            fc=_FILL[twig.kind],
            ec=_EDGE[twig.kind],
            lw=0.9,
            ls=line,
            zorder=2,
        )
        axes.text(x, y, twig.name, fontsize=7.5, ha="center", va="center", zorder=4)
        start, end = (x + layout.twig_width / 2, y), (box.x - layout.box_width / 2, _entry(box, y, height))
        _arrow(axes, start, end)
        _label(axes, (start[0] + end[0]) / 2 - 0.03, (start[1] + end[1]) / 2, twig.shape)


def _entry(box: Any, y: float, height: float) -> float:
    """Where the edge of a leaf at height `y` meets its box."""
    most = height / 2 - 0.06
    return float(box.y + max(-most, min(most, y - box.y)))
