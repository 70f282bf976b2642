"""Where the CUDA sources are, and their text with the includes put in."""

import os
import re
from functools import cache
from pathlib import Path

from ...errors import KernelError

__all__ = ["folder", "source"]

_INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)
_ONCE = re.compile(r"^\s*#\s*pragma\s+once\b")
_PACKAGE = Path(__file__).parents[2]


@cache
def folder() -> Path:
    """The folder of the kernels: package data of an installed wheel, or that of the checkout around the package.

    Raises:
        KernelError: it is in neither place (nor where PULLBACK_KERNELS_DIR says).
    """
    chosen = os.environ.get("PULLBACK_KERNELS_DIR")
    places = [Path(chosen)] if chosen else [_PACKAGE / "kernels", _PACKAGE.parents[1] / "kernels"]
    for place in places:
        if (place / "types.cuh").is_file():
            return place
    raise KernelError(
        f"the CUDA sources are missing: no types.cuh in {' or in '.join(map(str, places))}; install pullback again, or "
        "set PULLBACK_KERNELS=off to work without them"
    )


@cache
def source(file: str) -> str:
    """The text of a source file with what it includes by a quoted name put in, once each, and `#line` around it.

    The text says all that the compiler reads, so its hash names what is compiled from it.
    """
    return _expanded(file, set(), included_by="")


def _expanded(file: str, seen: set[str], included_by: str) -> str:
    seen.add(file)
    try:
        text = (folder() / file).read_text(encoding="utf-8")
    except OSError as error:
        where = f", included by {included_by}," if included_by else ""
        raise KernelError(f"the CUDA source {file}{where} cannot be read: {error}") from error
    lines = [f'#line 1 "{file}"']
    for number, line in enumerate(text.splitlines(), start=1):
        include = _INCLUDE.match(line)
        if include is None:
            lines.append("" if _ONCE.match(line) else line)
        elif include[1] not in seen:
            lines += [_expanded(include[1], seen, file).rstrip("\n"), f'#line {number + 1} "{file}"']
        else:
            lines.append("")
    return "\n".join(lines) + "\n"
