"""The command line: `python -m spakky.tracing`, which is also installed as `spakky-tracing`."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from spakky.tracing._extras import raise_missing_extra
from spakky.tracing.error import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click import Command

__all__ = ["main"]

_WRONG_USE: Final = 2


def main() -> None:
    """Run the command that the arguments of this process name, and exit."""
    try:
        run = _command_line()
    except MissingExtraError as error:
        sys.stderr.write(f"Error: {error.message}\n")
        sys.exit(_WRONG_USE)
    with _refusing_a_full_disk():
        run(prog_name="spakky-tracing")


def _command_line() -> Command:
    try:
        from spakky.tracing.cli.commands import spakky_tracing  # noqa: PLC0415 - the extra may be missing
    except ModuleNotFoundError as error:
        raise_missing_extra("cli", {"click", "rich"}, error)
    return spakky_tracing


@contextmanager
def _refusing_a_full_disk() -> Iterator[None]:
    """Say so if the output cannot be written; a command itself refuses what it cannot read or connect to."""
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:  # it is None where the process was started without one
                sys.stdout.flush()
    except OSError as error:
        sys.stderr.write(f"Error: the output cannot be written: {error.strerror}.\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more when it ends
        sys.exit(_WRONG_USE)


if __name__ == "__main__":
    main()
