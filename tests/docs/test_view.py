"""The commands of `docs/view.md`, and exactly what they print in a terminal of 80 columns."""

from __future__ import annotations

import re
import shlex
import shutil
from typing import TYPE_CHECKING, Final

import pytest

from cli.running import in_terminal
from docs.pages import ROOT, commands_of

if TYPE_CHECKING:
    from pathlib import Path

BLOCKS: Final = commands_of("docs/view.md")
ESCAPES: Final = re.compile(r"\x1b\[[0-9;]*m")


@pytest.mark.parametrize(("command", "printed"), BLOCKS)
def test_a_command_prints_what_the_page_says(command: str, printed: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs" / "samples", tmp_path / "samples")
    shown = in_terminal(*shlex.split(command)[1:], folder=tmp_path / "samples")

    lines = [line.rstrip() for line in ESCAPES.sub("", shown.output).splitlines()]
    assert lines == printed.splitlines()
    assert shown.code == 0
