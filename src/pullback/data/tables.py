"""Tables of numbers in text files."""

import csv
from collections.abc import Iterator
from os import PathLike
from typing import TextIO

import numpy as np

from ..errors import ArgumentError, DataError
from .dataset import Dataset

__all__ = ["read_csv"]

Row = tuple[int, list[str]]  # the number of its line, its fields


def read_csv(path: str | PathLike[str], label_column: int | str = -1, delimiter: str = ",") -> Dataset:
    """Examples from a CSV file (UTF-8, plain or `.gz`): one row each, numbers in all columns but the label's.

    The first row is a header if a field outside the label column is no number, or if its label alone is none. Labels
    are text or whole numbers; the classes are those met, in order (by value where all are numbers).

    Args:
        path: The file.
        label_column: Its position (from 0; from the end where negative) or its name in the header.
        delimiter: What separates fields.

    Raises:
        DataError: the file is missing, unreadable or empty, rows have different lengths, a number is missing, is text,
            is NaN or infinite, or labels are fractions; the message names the line.
        ArgumentError: there is no such label column.
    """
    try:
        with _open(path) as file:
            rows = _rows(file, delimiter)
            first = next(rows, None)
            if first is None:
                raise DataError(f"{path}: the file is empty")
            width = len(first[1])
            header = [name.strip() for name in first[1]]
            column = _position(path, label_column, header)
            has_header = isinstance(label_column, str) or not _all_numbers(header[:column] + header[column + 1 :])
            lines, labels, inputs = [], [], []
            for line, fields in rows if has_header else _chain(first, rows):
                if len(fields) != width:
                    raise DataError(f"{path}, line {line}: {len(fields)} fields, where the first row has {width}")
                labels.append(fields.pop(column).strip())
                try:
                    inputs.append(np.array(list(map(float, fields))))
                except ValueError:
                    raise DataError(_not_a_number(path, line, fields, column)) from None
                lines.append(line)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start})") from error
    except (OSError, EOFError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(labels) > 1 and not has_header and not _is_number(labels[0]) and _all_numbers(labels[1:]):
        del lines[0], labels[0], inputs[0]
    if not inputs:
        raise DataError(f"{path}: there is a header and no row below it")
    if width == 1:
        raise DataError(f"{path}: there is one column; a table has a label and at least one number in each row")
    table = np.stack(inputs)
    unfinite = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if unfinite.size:
        raise DataError(f"{path}, line {lines[unfinite[0]]}: a number is NaN or infinite")
    classes, positions = _classes(path, lines, labels)
    return Dataset(table, positions, classes)


def _open(path: str | PathLike[str]) -> TextIO:
    if str(path).endswith(".gz"):
        import gzip

        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return open(path, encoding="utf-8-sig", newline="")


def _rows(file: TextIO, delimiter: str) -> Iterator[Row]:
    """The rows that are not blank."""
    reader = csv.reader(file, delimiter=delimiter, strict=True, skipinitialspace=True)
    return ((reader.line_num, fields) for fields in reader if any(map(str.strip, fields)))


def _chain(first: Row, rest: Iterator[Row]) -> Iterator[Row]:
    yield first
    yield from rest


def _position(path: str | PathLike[str], label_column: int | str, header: list[str]) -> int:
    """The label column counted from the front."""
    if isinstance(label_column, str):
        if label_column not in header:
            raise ArgumentError(f"{path}: no column is called {label_column!r}; there are {', '.join(header[:20])}")
        return header.index(label_column)
    if not -len(header) <= label_column < len(header):
        raise ArgumentError(f"{path}: no label column {label_column}; there are {len(header)} columns")
    return label_column % len(header)


def _all_numbers(fields: list[str]) -> bool:
    return all(_is_number(field) for field in fields)


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _not_a_number(path: str | PathLike[str], line: int, fields: list[str], column: int) -> str:
    """The message for the first field that is no number; the label has been taken out of `fields` at `column`."""
    place = next(i for i, field in enumerate(fields) if not _is_number(field))
    met = repr(fields[place]) if fields[place].strip() else "nothing"
    return f"{path}, line {line}, column {place + (place >= column) + 1}: {met} where a number is expected"


def _classes(path: str | PathLike[str], lines: list[int], labels: list[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of the classes and the position of each label among them."""
    for line, label in zip(lines, labels, strict=True):
        if not label:
            raise DataError(f"{path}, line {line}: the label is missing")
    if not _all_numbers(labels):
        names, positions = np.unique(np.array(labels), return_inverse=True)
        return tuple(map(str, names)), positions.astype(np.int64)
    values = np.array([float(label) for label in labels])
    for line, label, value in zip(lines, labels, values, strict=True):
        if not value.is_integer():
            raise DataError(f"{path}, line {line}: the label {label} is no whole number, so it names no class")
    found, positions = np.unique(values, return_inverse=True)
    return tuple(str(int(value)) for value in found), positions.astype(np.int64)
