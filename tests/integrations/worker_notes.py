"""The notes that tasks make in worker processes, one line of JSON for each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def read_notes(path: Path) -> list[dict[str, Any]]:
    """Return all notes so far; who reads while a page of the file fills sees part of the last line."""
    text = path.read_text() if path.exists() else ""
    whole, _, _ = text.rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]
