"""What `docs/explain.md` shows is what the commands print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

PAGE: Final = (Path(__file__).parents[2] / "docs" / "explain.md").read_text(encoding="utf-8")
BLOCKS: Final = re.findall(r"^```console\n\$ (.*)\n((?s:.*?))^```$", PAGE, re.MULTILINE)
(RECORDS,) = re.findall(r"^```text\n((?s:.*?))^```$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the script and with the file that the page speaks of."""
    folder = tmp_path_factory.mktemp("explain")
    (folder / "records.txt").write_text(RECORDS, encoding="utf-8")
    script = folder / "spakky-tracing"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m spakky.tracing "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    return folder


def test_every_block_is_found() -> None:
    assert len(BLOCKS) == PAGE.count("```console") == 10


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
