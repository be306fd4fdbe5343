"""Files with spans for the tests of `view`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MILLISECOND", "START", "TRACE", "line_of", "span_id", "written"]

START = 1_764_000_000_000_000_000
MILLISECOND = 1_000_000
TRACE = "0af7651916cd43dd8448eb211c80319c"


def span_id(number: int) -> str:
    return f"{number:016x}"


def line_of(number: int, parent: int | None = None, **changes: Any) -> dict[str, Any]:
    """Return the fields of span *number*, which starts after that many milliseconds and takes one."""
    start = START + number * MILLISECOND
    return {
        "name": "process orders",
        "kind": "consumer",
        "system": "kafka",
        "destination": "orders",
        "trace_id": TRACE,
        "span_id": span_id(number),
        "parent_span_id": None if parent is None else span_id(parent),
        "links": [],
        "start_unix_nano": start,
        "end_unix_nano": start + MILLISECOND,
        "outcome": "ok",
        "error": None,
        "attempt": None,
        "process": "shop",
        "process_id": 7,
        **changes,
    }


def written(folder: Path, *lines: dict[str, Any] | bytes, name: str = "spans.jsonl") -> Path:
    """Write a file of these lines; bytes are written as they are, with no end of line."""
    path = folder / name
    with path.open("ab") as file:
        for line in lines:
            file.write(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
    return path
