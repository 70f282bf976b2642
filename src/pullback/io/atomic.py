"""Writing a file whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import TYPE_CHECKING

from ..errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["replacing"]


@contextmanager
def replacing(path: str | PathLike[str]) -> Iterator["Path"]:
    """A temporary path beside `path`; the file written there takes the place of `path` when the block ends well.

    The new file is on the disk before the old one goes (fsync, then rename), so a failed write, a full disk or a power
    cut leaves one of the two, whole. A symbolic link stays a link: the file it points to is replaced. The new file has
    the permissions of the old one, or the usual ones.

    Raises:
        CheckpointError: the file cannot be written; the one that was there is as it was.
    """
    from pathlib import Path

    from safetensors import SafetensorError

    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
    try:
        if target.is_dir():
            raise IsADirectoryError(f"{path} is a folder")
        temporary.touch(exist_ok=False)
        mode = (target if target.exists() else temporary).stat().st_mode
        yield temporary
        temporary.chmod(mode)
        _flush(temporary, os.O_RDWR)
        os.replace(temporary, target)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"cannot write {path}: {reason}; what was there before is untouched") from error
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":
        _flush(target.parent, os.O_RDONLY)  # the rename itself


def _flush(path: "Path", flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
