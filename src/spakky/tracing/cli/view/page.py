"""Traces as one HTML page, which needs no network and no other file."""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Final

from spakky.tracing.cli.terminal import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spakky.tracing.cli.view.traces import DrawnSpan, Trace
    from spakky.tracing.cli.view.waiting import Wait

__all__ = ["page"]

_IN_MARKUP: Final = {ord("<"): r"\u003c", ord(">"): r"\u003e", ord("&"): r"\u0026"}
"""What JSON may write as an escape, and what would end the element that it is in."""


def page(traces: Sequence[Trace], *, title: str) -> str:
    r"""Return a page that shows *traces*.

    Args:
        traces: In the order in which they are listed at first; none makes a page that says so.
        title: What is shown, such as the names of the files.

    Returns:
        HTML. Whatever is in the spans is in it as data only, with what is invisible written as `\x1b`.
    """
    style, script = _part("page.css"), _part("page.js")
    return Template(_part("page.html")).substitute(
        title=escape(printable(title)),
        policy=f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; "
        "base-uri 'none'; form-action 'none'",
        style=style,
        script=script,
        data=_json({"title": printable(title), "traces": [_trace(trace) for trace in traces]}),
    )


def _part(name: str) -> str:
    return files("spakky.tracing.cli.view").joinpath(name).read_text(encoding="utf-8")


def _digest(source: str) -> str:
    digest = hashlib.sha256(source.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _json(data: object) -> str:
    return json.dumps(data, ensure_ascii=True, separators=(",", ":")).translate(_IN_MARKUP)


def _trace(trace: Trace) -> dict[str, object]:
    start = trace.start_unix_nano
    return {
        "id": trace.trace_id,
        "start": str(start),  # a number of JavaScript is not that exact
        "took": trace.end_unix_nano - start,
        "spans": [
            {
                **_fields(node.span, start),
                "depth": depth,
                "orphan": node.is_orphan,
                "queue": None if node.wait is None else _queue(node.wait, start),
                "message": node.message,
            }
            for depth, node in trace.walk()
        ],
    }


def _queue(wait: Wait, start: int) -> dict[str, object]:
    return {"start": wait.start_unix_nano - start, "took": wait.took_nano, "since": wait.since}


def _fields(span: DrawnSpan, start: int) -> dict[str, object]:
    return {
        "name": printable(span.name),
        "kind": printable(span.kind),
        "system": printable(span.system),
        "destination": printable(span.destination),
        "id": span.span_id,
        "parent": span.parent_span_id,
        "links": [[link.trace_id, link.span_id] for link in span.links],
        "start": span.start_unix_nano - start,
        "took": span.end_unix_nano - span.start_unix_nano,
        "outcome": printable(span.outcome),
        "failed": span.has_failed,
        "error": None if span.error is None else printable(span.error),
        "attempt": span.attempt,
        "process": printable(span.process),
        "pid": span.process_id,
        "deaths": span.death_count,
        "redelivered": span.is_redelivered,
        "scheduled": span.is_scheduled,
    }
