"""The command line: `python -m spakky.tracing`, which is also installed as `spakky-tracing`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

from spakky.tracing._extras import raise_missing_extra
from spakky.tracing.error import MissingExtraError

if TYPE_CHECKING:
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
    try:
        _run(run)
    except BrokenPipeError:  # who reads has enough, such as `head`
        _print_no_more()
        sys.exit(1)
    except (
        OSError
    ) as error:  # such as a full disk; a command itself refuses what it cannot read or connect to
        _print_no_more()
        sys.stderr.write(f"Error: the output cannot be written: {error.strerror}.\n")
        sys.exit(_WRONG_USE)


def _run(command: Command) -> None:
    try:
        command(prog_name="spakky-tracing")
    finally:
        if sys.stdout is not None:  # it is None where the process was started without one
            sys.stdout.flush()


def _print_no_more() -> None:
    """Let go what is left to print, which Python would try to write once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _command_line() -> Command:
    try:
        from spakky.tracing.cli.commands import spakky_tracing  # noqa: PLC0415 - the extra may be missing
    except ModuleNotFoundError as error:
        raise_missing_extra("cli", {"click", "rich"}, error)
    return spakky_tracing


if __name__ == "__main__":
    main()
