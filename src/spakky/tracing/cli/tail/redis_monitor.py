r"""The lines of Redis' MONITOR, of which only pushes to lists matter here.

Facts (Redis 7.0, and its source since 2.6):
- A line is `SECONDS.MICROSECONDS [DATABASE CLIENT] "COMMAND" "ARGUMENT" ...`. A script's client is `lua`.
  The commands of a transaction come when it is executed, those of a script when they run.
- Each argument is in double quotes. Inside, `"` and `\` have a backslash before them, and what is not
  printable ASCII is `\n`, `\r`, `\t`, `\a`, `\b` or `\xHH`. So a line break never ends a line early.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

__all__ = ["Push", "arguments_in", "has_echo", "push_in"]

_TEXT: Final = rb'[^"\\]*(?:\\.[^"\\]*)*'
_PUSH: Final = re.compile(
    rb'[0-9.]+ \[(?P<database>[0-9]+) [^"]*\] "[LR]PUSH" "(?P<key>' + _TEXT + rb')"(?P<values>.*)',
    re.IGNORECASE | re.DOTALL,
)
_ECHO: Final = re.compile(rb'[0-9.]+ \[[0-9]+ [^"]*\] "ECHO" "(?P<text>' + _TEXT + rb')"', re.IGNORECASE)
_VALUE: Final = re.compile(rb' "(' + _TEXT + rb')"')


class Push(NamedTuple):
    """A command that puts values into a list.

    Attributes:
        database: The number of the database.
        key: The name of the list.
        quoted: The values as they are in the line, which are taken out only of what is wanted.
    """

    database: int
    key: bytes
    quoted: bytes

    @property
    def values(self) -> list[bytes]:
        """What is put into the list, in the order of the command."""
        return [_unescaped(value) for value in _VALUE.findall(self.quoted)]


def push_in(line: bytes) -> Push | None:
    """Return the LPUSH or RPUSH of a *line*, `None` if it is anything else."""
    match = _PUSH.match(line)
    if match is None:
        return None
    return Push(int(match["database"]), _unescaped(match["key"]), match["values"])


def arguments_in(line: bytes) -> list[bytes]:
    """Return the command of a *line* and its arguments."""
    return [_unescaped(value) for value in _VALUE.findall(line)]


def has_echo(line: bytes, text: bytes) -> bool:
    """Tell whether a *line* is an ECHO of *text*, which has nothing to be escaped."""
    match = _ECHO.match(line)
    return match is not None and match["text"] == text


def _unescaped(text: bytes) -> bytes:
    r"""Return what was escaped; each escape of Redis means the same in Python, and `\u` is not among them."""
    return text.decode("unicode_escape").encode("latin-1") if b"\\" in text else text
