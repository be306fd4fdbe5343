"""Processes that end with this one."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from brokers import guard

LAST_LINES = 3
LONGEST_EXCUSE = 400


class Guarded:
    """A temporary folder and processes that end with this process, however it ends.

    Attributes:
        folder: The folder; all that the processes write belongs there.
    """

    folder: Path

    def __enter__(self) -> Self:
        # A session of its own keeps the terminal's Ctrl-C away from the guard, which has to outlive us.
        self._guard = subprocess.Popen(
            [sys.executable, "-I", guard.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._guard.stdout is not None  # noqa: S101
        self.folder = Path(self._guard.stdout.readline().rstrip("\n"))
        return self

    def __exit__(self, *_: object) -> None:
        self._guard.communicate()

    def start(self, name: str, argv: Sequence[str | Path], env: Mapping[str, str] | None = None) -> None:
        """Start a process with exactly this environment, or with this process's own."""
        environment = dict(os.environ if env is None else env)
        self._ask({"start": name, "argv": [str(part) for part in argv], "env": environment})

    def at_end(self, argv: Sequence[str | Path]) -> None:
        """Have a command run when everything is over."""
        self._ask({"at_end": [str(part) for part in argv]})

    def exit_status(self, name: str) -> str | None:
        """Tell how a process ended; `None` while it runs."""
        try:
            return (self.folder / f"{name}.exit").read_text()
        except FileNotFoundError:
            return None

    def log(self, name: str) -> str:
        """Read what a process has written so far."""
        try:
            return (self.folder / f"{name}.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def excuse(self, name: str) -> str | None:
        """Tell in short why a process is not running any more; `None` while it runs."""
        status = self.exit_status(name)
        return None if status is None else f"{name} ended with status {status} ({last_lines(self.log(name))})"

    def _ask(self, request: dict[str, object]) -> None:
        assert self._guard.stdin is not None  # noqa: S101
        self._guard.stdin.write(json.dumps(request) + "\n")
        self._guard.stdin.flush()


def last_lines(log: str) -> str:
    """Shorten a log to its last lines, on one line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return " / ".join(lines[-LAST_LINES:])[-LONGEST_EXCUSE:] or "it wrote nothing"
