"""`pullback bench products` and `pullback bench chain`."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..bench.chains import Chains, Found
from ..bench.files import make_folder, write_csv, write_json
from ..bench.peers import PEERS
from ..bench.picture import draw_products
from ..bench.products import Case, Products, Row
from ..bench.racing import environment
from ..bench.strategies import STRATEGIES
from ..costs.machine import cores
from ..costs.tables import count_text

__all__ = ["add_to"]

OUT = Path("runs") / "bench"


def add_to(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser("bench", help="measure VJPs beside Jacobian products, or try the planner of chains")
    kinds = parser.add_subparsers(title="benchmarks", required=True, metavar="benchmark")
    _add_products(kinds)
    _add_chain(kinds)


def _add_products(kinds: Any) -> None:
    listed = "\n".join(f"  {name:<16} {what}" for name, what in STRATEGIES.items())
    parser = kinds.add_parser(
        "products",
        help="vector times matrix beside matrix times matrix, as layers grow",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Time ways to differentiate layers x = tanh(x @ w) over their width; all take turns in one run.\n"
        "Writes products.json, products.csv and products.png. Ctrl-C keeps what is measured.",
        epilog=f"strategies:\n{listed}\n\nFor figures keep to one core: taskset -c 0 pullback bench products\n"
        "OMP_NUM_THREADS=1 limits NumPy and PyTorch, but not JAX.",
    )
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--widths", type=_cases, default=_cases("64,128,256,512,1024,1000-5000"), metavar="D,D,M-N",
        help="widths of the layers; M-N: layers of M and N in turns (default: 64,128,256,512,1024,1000-5000)",
    )  # fmt: skip
    what.add_argument("--depth", type=_count, default=8, metavar="N", help="layers (default: 8)")
    what.add_argument(
        "--batch",
        type=_count,
        default=1,
        metavar="N",
        help="examples, each with its Jacobian; 1: a vector (default: 1)",
    )
    what.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="(default: float32)")
    what.add_argument("--device", default="cpu", metavar="NAME", help="cpu, cuda, cuda:1, ... (default: cpu)")
    what.add_argument(
        "--strategies", type=_names(STRATEGIES), default=tuple(STRATEGIES), metavar="NAME,NAME", help="(default: all)"
    )
    what.add_argument(
        "--against", type=_names(PEERS), default=(), metavar="NAME,NAME", help=f"peers: {', '.join(PEERS)}"
    )
    how = parser.add_argument_group("how")
    how.add_argument("--rounds", type=_count, default=7, metavar="N", help="rounds of a width (default: 7)")
    how.add_argument(
        "--longest", type=_seconds, default=5.0, metavar="SECONDS",
        help="leave out and name what takes longer for its first call (default: 5)",
    )  # fmt: skip
    how.add_argument("--quick", action="store_true", help="widths to 256 and 3 short rounds: shows that it runs")
    how.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=f"folder of the files (default: {OUT})")
    parser.set_defaults(run=_run_products)


def _add_chain(kinds: Any) -> None:
    parser = kinds.add_parser(
        "chain",
        help="how often a mixed order beats forward and reverse mode on random chains",
        description="Plan random chains of functions, and count where an order between forward and reverse mode takes "
        "fewer operations than both; short chains are compared with an exhaustive search. Writes chain.json. "
        "Ctrl-C keeps what is found.",
    )
    parser.add_argument(
        "--lengths", type=_lengths, default=(2, 3, 4, 5, 6, 7, 8, 16, 32), metavar="N,N-N",
        help="functions of a chain (default: 2-8,16,32)",
    )  # fmt: skip
    parser.add_argument("--chains", type=_count, default=1000, metavar="N", help="of each length (default: 1000)")
    parser.add_argument(
        "--sizes", type=_range, default=(5, 50), metavar="N-N", help="numbers between functions (default: 5-50)"
    )
    parser.add_argument(
        "--tapes", type=_range, default=(1000, 10000), metavar="N-N",
        help="multiply-adds of one sweep over a function (default: 1000-10000)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the chains (default: 0)")
    parser.add_argument("--quick", action="store_true", help="20 chains of each length")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=f"folder of the file (default: {OUT})")
    parser.set_defaults(run=_run_chain)


# --- running ----------------------------------------------------------------------------------------------------------


def _run_products(given: argparse.Namespace) -> None:
    """Measure, and write what was measured, also after Ctrl-C."""
    from tqdm import tqdm

    cases = given.widths
    if given.quick:
        cases = [case for case in cases if max(case.widths) <= 256] or cases[:1]
    products = Products(
        cases, given.depth, given.batch, given.dtype, given.device, given.strategies, given.against,
        rounds=min(given.rounds, 3) if given.quick else given.rounds, turn=0.01 if given.quick else 0.1,
        longest=given.longest,
    )  # fmt: skip
    make_folder(given.out)
    facts = environment(_threads())
    for peer, why in products.left_out.items():
        print(f"without {peer}: {why}")
    for name, rate in products.rates.items():
        unit = "GFLOP/s" if name == "matmul" else "GB/s"
        print(f"{name} rate: {rate['amount'] / 1e9:.1f} {unit} ({rate['of']})")
    form = "{:<10} {:<26} {:>28} {:>10} {:>9} {:>9} {:>8}"
    print(form.format("width", "contender", "ms", "flops", "GFLOP/s", "of matmul", "of copy"), flush=True)
    with tqdm(total=1.0, disable=None, leave=False, bar_format="{percentage:3.0f} %|{bar:20}| left {remaining}  {desc}",
              file=sys.stderr) as bar:  # fmt: skip

        def done(rows: Sequence[Row]) -> None:
            for row in rows:
                tqdm.write(form.format(*_cells(products.facts(row), row.name)).rstrip(), file=sys.stdout)
            sys.stdout.flush()

        def progress(what: str, now: float, whole: float) -> None:
            bar.total, bar.n = max(whole, now, 1e-9), now
            bar.set_description_str(what)

        _kept(lambda: products.run(done, progress), lambda: _write_products(given.out, products, facts))


def _write_products(out: Path, products: Products, facts: dict[str, Any]) -> None:
    figures = products.to_dict()
    write_json(out / "products.json", {"environment": facts, **figures})
    write_csv(out / "products.csv", figures["rows"])
    written = "products.json, products.csv"
    try:
        draw_products(out / "products.png", products)
        written += ", products.png"
    except ImportError as error:
        print(f"no products.png: matplotlib is missing ({error}); pip install 'pullback[plot]'")
    for name, power in figures["exponents"].items():
        widths = ", ".join(map(str, power["widths"]))
        print(
            f"{name}: time grows as D^{power['exponent']:.2f} over {widths} (D^{power['over all widths']:.2f} over all)"
        )
    for name, why in products.left_out.items():
        print(f"left out: {name}: {why}")
    print(f"wrote {written} in {out}/")


def _cells(facts: dict[str, Any], name: str) -> list[str]:
    """The texts of a row."""
    ms = facts["ms"]
    share = [f"{100 * facts[key]:.1f} %" if key in facts else "" for key in ("of matmul rate", "of copy rate")]
    return [
        facts["width"], name, f"{ms['median']:.4g} [{ms['quartile 1']:.4g} .. {ms['quartile 3']:.4g}]",
        count_text(facts["flops"]) if "flops" in facts else "", f"{facts['GFLOP/s']:.2f}" if "flops" in facts else "",
        *share,
    ]  # fmt: skip


def _run_chain(given: argparse.Namespace) -> None:
    """Plan, and write what was found, also after Ctrl-C."""
    from tqdm import tqdm

    chains = Chains(given.lengths, 20 if given.quick else given.chains, given.sizes, given.tapes, given.seed)
    make_folder(given.out)
    form = "{:>6} {:>7} {:>10} {:>11} {:>13} {:>9} {:>8}"
    print(form.format("length", "chains", "mixed wins", "fewer, mean", "mean of wins", "max", "checked"), flush=True)
    whole = len(chains.lengths) * chains.count
    with tqdm(total=whole, disable=None, leave=False, unit=" chains", file=sys.stderr) as bar:

        def done(found: Found) -> None:
            tqdm.write(form.format(*_chain_cells(found)), file=sys.stdout)
            sys.stdout.flush()

        def write() -> None:
            write_json(given.out / "chain.json", chains.to_dict())
            print(f"wrote chain.json in {given.out}/")

        _kept(lambda: chains.run(done, bar.update), write)


def _chain_cells(found: Found) -> list[str]:
    facts = found.to_dict()
    factors = [f"{facts[f'times fewer, {what}']:.2f} x" for what in ("mean", "mean of wins", "max")]
    return [str(found.length), str(facts["chains"]), f"{100 * facts['mixed wins']:.1f} %", *factors, str(found.checked)]


def _kept(run: Callable[[], None], write: Callable[[], None]) -> None:
    """Run, then write; after Ctrl-C too."""
    try:
        run()
    except KeyboardInterrupt:
        print("\nstopped; what is measured is kept")
        write()
        raise
    write()


def _threads() -> int:
    """The threads that the environment asks for, and no more than there are cores to use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(int(asked), cores()) if asked.isdecimal() and int(asked) else cores()


# --- reading options --------------------------------------------------------------------------------------------------


def _whole(text: str, what: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no {what} of at least 1")
    return value


def _count(text: str) -> int:
    return _whole(text, "whole number")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time above 0")
    return value


def _cases(text: str) -> list[Case]:
    """`64,1000-5000` as cases."""
    return [Case(part, tuple(_whole(n, "width") for n in part.split("-"))) for part in dict.fromkeys(text.split(","))]


def _range(text: str) -> tuple[int, int]:
    """`5-50` as (5, 50)."""
    low, _, high = text.partition("-")
    found = _whole(low, "number"), _whole(high or low, "number")
    if found[0] > found[1]:
        raise argparse.ArgumentTypeError(f"{text!r} ends before it begins")
    return found


def _lengths(text: str) -> tuple[int, ...]:
    """`2-4,16` as (2, 3, 4, 16)."""
    found = [n for part in text.split(",") for low, high in [_range(part)] for n in range(low, high + 1)]
    return tuple(dict.fromkeys(found))


def _names(known: Any) -> Callable[[str], tuple[str, ...]]:
    """A reader of some of the names that are known."""

    def read(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(text.split(",")))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return read
