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

__all__ = ["Code", "code_of", "environment", "logged", "run", "text_of", "with_names"]

Code = dict[str, list[str]]
"""The blocks of a page in their order, by the heading that they stand under."""

PROJECT: Final = Path(__file__).parents[2]
PATIENCE: Final = 60


def text_of(page: str) -> str:
    """Return what is in *page*, a path within the project."""
    return (PROJECT / page).read_text(encoding="utf-8")


def code_of(page: str) -> Code:
    """Return the Python of *page*, a path within the project."""
    code: Code = {}
    for part in re.split(r"^##+ ", text_of(page), flags=re.MULTILINE):
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
