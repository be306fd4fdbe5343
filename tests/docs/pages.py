"""The pages that users read, and the blocks in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]

_BLOCK: Final = re.compile(
    r'^```(?P<kind>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$', re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """A block of a page.

    Attributes:
        kind: `python` for a program, `sh` for commands that print nothing or run on, `console` for commands
            after a `$` with what they print, `text` for what is only shown.
        title: The name of the program's file; empty for one that is run where it stands.
        text: What is in the block.
        line: The number of its first line.
    """

    kind: str
    title: str
    text: str
    line: int


def pages() -> list[str]:
    """Return the paths of all pages, seen from the top of the project."""
    found = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    return sorted(page.relative_to(ROOT).as_posix() for page in found)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks_of(page: str) -> list[Block]:
    return _blocks_in(text_of(page))


def _blocks_in(text: str) -> list[Block]:
    return [
        Block(found["kind"], found["title"] or "", found["text"], text.count("\n", 0, found.start()) + 1)
        for found in _BLOCK.finditer(text)
    ]


def programs_of(page: str) -> list[str]:
    """Return the text of the page's blocks of Python."""
    return [block.text for block in blocks_of(page) if block.kind == "python"]


def programs_by_heading(page: str) -> dict[str, list[str]]:
    """Return the text of the page's blocks of Python, by the heading that they stand under."""
    programs: dict[str, list[str]] = {}
    for part in re.split(r"^##+ ", text_of(page), flags=re.MULTILINE):
        heading, _, rest = part.partition("\n")
        if found := [block.text for block in _blocks_in(rest) if block.kind == "python"]:
            programs[heading] = found
    return programs


def program_with(page: str, word: str) -> str:
    """Return the one block of Python with this word in it."""
    (found,) = [program for program in programs_of(page) if word in program]
    return found


def commands_of(page: str) -> list[tuple[str, str]]:
    """Return the command of each block of the page that is a console, with what it prints there."""
    texts = [block.text.removeprefix("$ ") for block in blocks_of(page) if block.kind == "console"]
    return [(command, printed) for command, _, printed in (text.partition("\n") for text in texts)]


def text_in(page: str) -> str:
    """Return what is in the one block of text of the page."""
    (found,) = [block.text for block in blocks_of(page) if block.kind == "text"]
    return found
