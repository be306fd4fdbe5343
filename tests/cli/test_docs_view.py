"""The commands of `docs/view.md`, and exactly what they print in a terminal of 80 columns."""

from __future__ import annotations

import re
import shlex
import shutil
from typing import TYPE_CHECKING, Final

import pytest

from cli.running import in_terminal
from test_readme import DOCS

if TYPE_CHECKING:
    from pathlib import Path

PAGE: Final = (DOCS / "view.md").read_text(encoding="utf-8")
BLOCKS: Final = re.findall(r"^```console\n\$ spakky-tracing (.*)\n((?:.*\n)*?)```$", PAGE, re.MULTILINE)
ESCAPES: Final = re.compile(r"\x1b\[[0-9;]*m")


@pytest.mark.parametrize(("command", "printed"), BLOCKS)
def test_a_command_prints_what_the_page_says(command: str, printed: str, tmp_path: Path) -> None:
    shutil.copytree(DOCS / "samples", tmp_path / "samples")
    shown = in_terminal(*shlex.split(command), folder=tmp_path / "samples")

    lines = [line.rstrip() for line in ESCAPES.sub("", shown.output).splitlines()]
    assert lines == printed.splitlines()
    assert shown.code == 0


def test_the_page_has_no_other_command() -> None:
    assert len(BLOCKS) == PAGE.count("\n```console\n") == PAGE.count("\n$ ")
