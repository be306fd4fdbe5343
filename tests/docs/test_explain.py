"""What `docs/explain.md` shows is what the commands print."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest

from docs.pages import commands_of, text_in

if TYPE_CHECKING:
    from pathlib import Path

PAGE: Final = "docs/explain.md"
BLOCKS: Final = commands_of(PAGE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the script and with the file that the page speaks of."""
    folder = tmp_path_factory.mktemp("explain")
    (folder / "records.txt").write_text(text_in(PAGE), encoding="utf-8")
    script = folder / "spakky-tracing"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m spakky.tracing "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    return folder


@pytest.mark.parametrize(("command", "shown"), BLOCKS, ids=[command for command, _ in BLOCKS])
def test_a_block_shows_what_is_printed(command: str, shown: str, folder: Path) -> None:
    finished = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )

    assert finished.stderr == ""
    assert finished.stdout == shown
