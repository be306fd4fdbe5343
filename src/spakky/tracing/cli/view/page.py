"""Draws traces as a page."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spakky.tracing.cli.view.traces import Trace

__all__ = ["page"]


def page(traces: Sequence[Trace], *, title: str) -> str:
    """Return one self-contained HTML document."""
    items = "".join(f"<li>{escape(trace.trace_id)}</li>" for trace in traces)
    return f"<!doctype html><title>{escape(title)}</title><ul>{items}</ul>"
