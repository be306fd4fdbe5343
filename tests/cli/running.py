"""Runs the commands as a person does: as processes, piped or in a terminal of a given size."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Ended", "in_terminal", "piped"]

_SECONDS: Final = 60
_LINES: Final = 40
_CHOICES: Final = {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE"}


class Ended(NamedTuple):
    """What a command left behind.

    Attributes:
        code: Its exit code.
        output: Standard output; in a terminal standard error, too.
        errors: Standard error; empty in a terminal.
    """

    code: int
    output: str
    errors: str = ""


def piped(*arguments: str | Path, folder: Path | None = None, **variables: str) -> Ended:
    """Run `spakky-tracing` with *arguments*, its output into pipes."""
    finished = subprocess.run(
        _command(arguments),
        cwd=folder,
        env=_environment(variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=_SECONDS,
        check=False,
    )
    return Ended(finished.returncode, finished.stdout, finished.stderr)


def in_terminal(
    *arguments: str | Path, columns: int = 80, folder: Path | None = None, **variables: str
) -> Ended:
    """Run `spakky-tracing` with *arguments* in a terminal; the output has its escape sequences."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", _LINES, columns, 0, 0))
    with subprocess.Popen(
        _command(arguments),
        cwd=folder,
        env=_environment({"TERM": "xterm-256color", **variables}),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        shown = _read_all(ours)
        return Ended(process.wait(_SECONDS), shown.decode("utf-8", "replace").replace("\r\n", "\n"))


def _read_all(terminal: int) -> bytes:
    shown = b""
    with suppress(OSError):  # Linux says so at the end of a terminal
        while data := os.read(terminal, 1 << 16):
            shown += data
    os.close(terminal)
    return shown


def _command(arguments: tuple[str | Path, ...]) -> list[str]:
    return [sys.executable, "-m", "spakky.tracing", *map(str, arguments)]


def _environment(variables: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _CHOICES}
    return {**kept, "PYTHONIOENCODING": "utf-8", **variables}
