"""Where commands print: never an escape sequence that came from outside, and colour only for a person.

`NO_COLOR` and `COLUMNS` in the environment are followed.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from io import TextIOWrapper
from typing import TYPE_CHECKING, Final

from rich.console import Console

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["console", "print_line", "printable"]

_HIDDEN: Final = {"Cc", "Cf", "Co", "Cn", "Cs", "Zl", "Zp"}
"""The categories of Unicode that a terminal acts upon or shows as nothing: control, format, ..."""

_UNSEEN: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Letters and marks that are shown as nothing: fillers, joiners, variation selectors, the empty Braille."""


def console(*, stderr: bool = False) -> Console:
    r"""Return where a command prints; text is shown as it is, without markup and emoji codes.

    What the encoding of standard output does not have is written as `\xe9`, as on standard error.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def print_line(output: Console, line: Text) -> None:
    """Print *line* in colour, or into a pipe as it is."""
    if output.is_terminal:
        output.print(line)
    else:  # rich would lay it out all the same, and take a hundred times as long
        output.file.write(f"{line.plain}\n")


def printable(text: str) -> str:
    r"""Return *text* with what a terminal would act upon, or would not show, written as `\x1b`.

    Args:
        text: What came from outside. Line breaks are escaped, too.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if _is_visible(character) else _escaped(character) for character in text)


def _is_visible(character: str) -> bool:
    return unicodedata.category(character) not in _HIDDEN and not _UNSEEN.match(character)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
