"""The code of the pages of documentation, to be run as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["HOW_TO", "Code", "code_of", "environment", "logged", "run", "with_names"]

Code = dict[str, list[str]]
"""The blocks of a page in their order, by the heading that they stand under."""

PROJECT: Final = Path(__file__).parents[2]
HOW_TO: Final = PROJECT / "docs" / "how-to"
PATIENCE: Final = 60


def code_of(page: Path) -> Code:
    """Return the Python of *page*."""
    text = page.read_text(encoding="utf-8")
    code: Code = {}
    for part in re.split(r"^##+ ", text, flags=re.MULTILINE):
        heading, _, rest = part.partition("\n")
        if blocks := re.findall(r"^```python\n(.*?)^```", rest, re.DOTALL | re.MULTILINE):
            code[heading] = blocks
    return code


def with_names(code: str, names: Mapping[str, str]) -> str:
    """Return *code* with addresses and names of queues put in."""
    for written, name in names.items():
        code = code.replace(written, name)
    return code


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of a program that imports this project."""
    return {**os.environ, "PYTHONPATH": str(PROJECT / "src"), **variables}


def run(code: str, folder: Path, *arguments: str, **variables: str) -> list[str]:
    """Run *code* as a program in *folder*, which has to end well and quietly, and return what it printed."""
    finished = _ended(code, folder, *arguments, **variables)
    assert finished.stderr == "", finished.stderr
    return finished.stdout.splitlines()


def logged(code: str, folder: Path) -> list[str]:
    """Run *code* as a program in *folder*, which has to end well, and return what it logged."""
    return _ended(code, folder).stderr.splitlines()


def _ended(code: str, folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    program = folder / "shop.py"
    program.write_text(code, encoding="utf-8")
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::ResourceWarning", str(program), *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=folder,
        env=environment(**variables),
    )
    assert finished.returncode == 0, finished.stderr
    return finished
