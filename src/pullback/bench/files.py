"""Figures as JSON and CSV, whole or not at all."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..io import replacing

__all__ = ["make_folder", "write_csv", "write_json"]


def make_folder(out: Path) -> None:
    """Make a folder, and those it lies in. Raises CheckpointError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot make the folder {out}: {error.strerror}") from error


def write_json(path: Path, figures: Mapping[str, Any]) -> None:
    """Write figures, a line for each row. Raises CheckpointError."""
    lines = []
    for name, value in figures.items():
        if isinstance(value, list) and value:
            rows = ",\n".join("  " + json.dumps(row) for row in value)
            lines.append(f" {json.dumps(name)}: [\n{rows}\n ]")
        else:
            lines.append(f" {json.dumps(name)}: {json.dumps(value)}")
    with replacing(path) as temporary:
        temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as a table: a spread becomes a column for each of its numbers, sizes are joined by "-".

    Raises CheckpointError.
    """
    flat = [_flat(row) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, columns, restval="")
        table.writeheader()
        table.writerows(flat)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            found |= {f"{name} {part}": number for part, number in value.items()}
        else:
            found[name] = "-".join(map(str, value)) if isinstance(value, list) else value
    return found
