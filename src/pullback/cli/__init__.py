"""`pullback train`, `bench` and `info`. A user's mistake is one line on standard error, never a traceback."""

import argparse
import sys
from collections.abc import Sequence

from ..errors import ArgumentError, PullbackError
from . import bench, info, train

__all__ = ["main"]

FAILED, MISUSED, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (None: the program's own) and give the exit status."""
    parser = argparse.ArgumentParser(prog="pullback", description="Tensors that differentiate, from the command line.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="command")
    for command in (train, bench, info):
        command.add_to(commands)
    given = parser.parse_args(arguments)
    try:
        given.run(given)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read the output has left
        sys.stderr.close()
        return FAILED
    except PullbackError as error:
        print(f"pullback: {error}", file=sys.stderr)
        return MISUSED if isinstance(error, ArgumentError) else FAILED
    return 0
