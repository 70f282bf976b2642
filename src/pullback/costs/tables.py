"""Numbers and tables in text."""

from collections.abc import Sequence

__all__ = ["aligned", "bytes_text", "count_text", "counted", "flops_text", "table"]


_PREFIXES = tuple(zip(range(3, 33, 3), "kMGTPEZYRQ", strict=True))  # of the SI


def count_text(n: int) -> str:
    """A count: exact below a million, else four figures and a prefix of the SI."""
    return f"{n:,}" if abs(n) < 10**6 else _short(n)


def counted(n: int, what: str) -> str:
    """A number of things: "1 equation", "12 equations"."""
    return f"{n:,} {what}{'s' * (n != 1)}"


def flops_text(n: int) -> str:
    """A count of floating-point operations: "6,528 flop", "51.54 Mflop"."""
    return f"{count_text(n)}flop" if abs(n) >= 10**6 else f"{n:,} flop"


def bytes_text(n: int) -> str:
    """Bytes: exact below a thousand, else four figures in kB, MB, ... (powers of ten)."""
    return f"{n} B" if abs(n) < 1000 else f"{_short(n)}B"


def _short(n: int) -> str:
    power, prefix = next((p, x) for p, x in reversed(_PREFIXES) if abs(n) >= 10**p)
    return f"{n / 10**power:.4g} {prefix}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows under a head: the first column to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in (head, *rows)
    ]
    return "\n".join((lines[0].rstrip(), "-" * sum((*widths, 2 * (len(widths) - 1))), *map(str.rstrip, lines[1:])))


def aligned(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows in columns: those of the numbers in `right` to the right, others to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
