"""Prints what the demo does, in colour where a person looks at a terminal."""

import os
import sys
from textwrap import wrap

WIDTH = 100
BOLD, RED, GREEN, YELLOW = "1", "31", "32", "33"


def show(text: str, *styles: str) -> None:
    """Print one line at once."""
    print(_styled(text, styles), flush=True)


def show_heading(text: str) -> None:
    """Print what the next lines are about."""
    show(f"\n{text}", BOLD)


def show_sentence(text: str, *styles: str) -> None:
    """Print prose, wrapped."""
    for line in wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  "):
        show(line, *styles)


def _styled(text: str, styles: tuple[str, ...]) -> str:
    if not styles or not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        return text
    return f"\033[{';'.join(styles)}m{text}\033[0m"
