"""Spans that other processes write to a file, read as they come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spakky.tracing.recorder import spans_in

if TYPE_CHECKING:
    from pathlib import Path

    from spakky.tracing.recorder import Span

__all__ = ["RecordedFile"]


class RecordedFile:
    """What is written to a file of JSON lines from now on; a file that is not there yet is an empty one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self._spans: list[Span] = []

    def spans(self) -> list[Span]:
        """Return all spans that were written since, in that order."""
        written = self._written()
        complete = written[: written.rfind(b"\n") + 1]
        self._offset += len(complete)
        self._spans += spans_in(complete.decode("utf-8", "replace").splitlines())
        return list(self._spans)

    def _written(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                return file.read()
        except FileNotFoundError:
            return b""
