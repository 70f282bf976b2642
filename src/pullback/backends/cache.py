"""Where what takes long to find out is kept between processes."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder(kind: str) -> "Path":
    """The folder for one kind of thing: PULLBACK_CACHE_DIR, or one of that name in the user's cache folder."""
    from pathlib import Path

    chosen = os.environ.get("PULLBACK_CACHE_DIR")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pullback" / kind
