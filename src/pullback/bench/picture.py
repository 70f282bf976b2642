"""Time against width, both logarithmic, as a picture."""

from os import PathLike

from ..io import replacing
from .products import Products
from .strategies import STRATEGIES

__all__ = ["draw_products"]

COLOURS = dict(zip(STRATEGIES, ("0.6", "#c8553d", "#4878a8", "#8a6fb0", "#6a9955", "#c09030", "#303030"), strict=True))
LINES = {"pullback": "-", "jax": "--", "torch": ":", "autograd": "-."}


def draw_products(path: str | PathLike[str], products: Products) -> None:
    """Draw medians by width with the exponents fitted to them into a PNG file; layers of two widths are not in it.

    Raises:
        ImportError: matplotlib is not installed. CheckpointError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(8, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    exponents = products.exponents()
    measured = products.by_width()
    for name, seconds in measured.items():
        library, _, strategy = name.partition(", ")
        ours = library == "pullback"
        power = f": D^{exponents[name]['exponent']:.2f}" if name in exponents and ours else ""
        axes.plot(
            list(seconds), [1e3 * s for s in seconds.values()], LINES.get(library, "--"), color=COLOURS[strategy],
            marker="o" if ours else None, markersize=4, linewidth=1.6 if ours else 1, label=f"{name}{power}",
        )  # fmt: skip
    widths = sorted({width for seconds in measured.values() for width in seconds})
    axes.set(xscale="log", yscale="log", xlabel="width D", ylabel="milliseconds, median")
    axes.set_xticks(widths, [str(width) for width in widths])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)
    if measured:
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    batch = "one vector" if products.batch == 1 else f"batch of {products.batch}"
    axes.set_title(f"{products.depth} layers of D to D with tanh, {batch}, {products.dtype}", fontsize=10)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
