"""Traces as one HTML page, which needs no network and no other file."""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from importlib.resources import files
from itertools import pairwise
from string import Template
from typing import TYPE_CHECKING, Final

from spakky.tracing.cli.terminal import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from spakky.tracing.cli.view.traces import DrawnSpan, Node, Trace

__all__ = ["page"]

_IN_MARKUP: Final = {ord("<"): r"\u003c", ord(">"): r"\u003e", ord("&"): r"\u0026"}
"""What JSON may write as an escape, and what would end the element that it is in."""

_Messages = dict[int, int]
"""A number for each message that was tried more than once, by the `id` of the spans of its attempts."""


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
        data=_json({"title": printable(title), "traces": _drawn(traces)}),
    )


def _part(name: str) -> str:
    return files("spakky.tracing.cli.view").joinpath(name).read_text(encoding="utf-8")


def _digest(source: str) -> str:
    digest = hashlib.sha256(source.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _json(data: object) -> str:
    return json.dumps(data, ensure_ascii=True, separators=(",", ":")).translate(_IN_MARKUP)


def _drawn(traces: Sequence[Trace]) -> list[dict[str, object]]:
    attempts = _attempts(traces)
    messages = {id(span): number for number, tries in enumerate(attempts) for span in tries}
    before = {id(late): early for tries in attempts for early, late in pairwise(tries)}
    return [_trace(trace, messages, before) for trace in traces]


def _trace(trace: Trace, messages: _Messages, before: Mapping[int, DrawnSpan]) -> dict[str, object]:
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
                "queue": _queue(node.span, parent, before.get(id(node.span)), start),
                "message": messages.get(id(node.span)),
            }
            for depth, node, parent in _family(trace)
        ],
    }


def _family(trace: Trace) -> Iterator[tuple[int, Node, DrawnSpan | None]]:
    """Yield the nodes with their depths and the spans above them, each parent before its children."""
    above: list[DrawnSpan] = []
    for depth, node in trace.walk():
        del above[depth:]
        yield depth, node, above[-1] if above else None
        above.append(node.span)


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


def _queue(
    span: DrawnSpan, parent: DrawnSpan | None, before: DrawnSpan | None, start: int
) -> dict[str, object] | None:
    """Return how long the message waited and since when, `None` if that is not known.

    Without a time of its own it waited since it was sent or, as a retry, since the attempt before.
    """
    if (waited := span.queue_time_nano) is not None:
        return {"start": span.start_unix_nano - waited - start, "took": waited, "since": "timestamp"}
    since = before or parent
    if span.kind != "consumer" or since is None or (since is parent and since.kind != "producer"):
        return None
    if before is None and (span.attempt or 1) > 1:  # since an attempt that is not there
        return None
    waited = span.start_unix_nano - since.end_unix_nano
    if waited < 0:  # the clocks disagree, or it was handed over before sending had ended
        return None
    return {
        "start": since.end_unix_nano - start,
        "took": waited,
        "since": "attempt" if since is before else "sent",
    }


def _attempts(traces: Sequence[Trace]) -> list[list[DrawnSpan]]:
    """Return the attempts of each message that has more than one, in their order.

    Where an attempt is there twice, several messages have one sender: whose a retry is, nobody can tell.
    """
    messages: dict[tuple[str, ...], list[DrawnSpan]] = {}
    for trace in traces:
        above: list[DrawnSpan] = []
        for depth, node in trace.walk():
            del above[depth:]
            if node.span.attempt is not None:
                messages.setdefault(_message(node.span, above), []).append(node.span)
            above.append(node.span)
    tried = [sorted(part, key=_order) for spans in messages.values() for part in _by_process(spans)]
    return [spans for spans in tried if len(spans) > 1 and _are_numbered(spans)]


def _are_numbered(spans: list[DrawnSpan]) -> bool:
    """Tell whether each of *spans* is another attempt."""
    return len({span.attempt for span in spans}) == len(spans)


def _by_process(spans: list[DrawnSpan]) -> Iterable[list[DrawnSpan]]:
    """Return *spans* as one part or, if several services got the message, a part for each."""
    if _are_numbered(spans):
        return [spans]
    parts: dict[str, list[DrawnSpan]] = {}
    for span in spans:
        parts.setdefault(span.process, []).append(span)
    return parts.values()


def _order(span: DrawnSpan) -> tuple[int, int]:
    return span.attempt or 0, span.start_unix_nano


def _message(span: DrawnSpan, above: Sequence[DrawnSpan]) -> tuple[str, ...]:
    """Return what the attempts of one message have in common: who sent it, and to what.

    A retry that was sent anew hangs below the attempt before it, and is taken as the same message.
    """
    for number in range(len(above) - 1, -1, -1):
        earlier = above[number]
        is_before = earlier.attempt is not None and earlier.attempt + 1 == span.attempt
        if is_before and (earlier.name, earlier.system) == (span.name, span.system):
            return _message(earlier, above[:number])
    sender = span.parent_span_id or next((link.span_id for link in span.links), span.span_id)
    return sender, span.name, span.system, span.destination
