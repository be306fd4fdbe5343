"""Spans as `spakky.tracing.recorder` writes them: one JSON object each."""

from __future__ import annotations

from sys import intern
from typing import TYPE_CHECKING, Final, get_args

from spakky.tracing.cli.view.traces import DrawnSpan
from spakky.tracing.cli.view.values import NoSpanError, flag, identifier, nanoseconds, number, text
from spakky.tracing.recorder import SpanLink
from spakky.tracing.tracer import Kind, Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["KINDS", "OUTCOMES", "ids_of", "span_of"]

KINDS: Final = frozenset({*get_args(Kind), "internal"})
OUTCOMES: Final = frozenset(get_args(Outcome))


def span_of(fields: Mapping[str, object]) -> DrawnSpan:
    """Return the span that *fields* are; what is not known of them is left aside.

    Raises:
        NoSpanError: They are none.
    """
    trace_id, span_id = ids_of(fields)
    start, end = _times(fields)
    return DrawnSpan(
        name=intern(text(fields, "name")),
        kind=_one_of(KINDS, text(fields, "kind"), "internal"),
        system=intern(text(fields, "system")),
        destination=intern(text(fields, "destination")),
        trace_id=trace_id,
        span_id=span_id,
        parent_span_id=identifier(fields, "parent_span_id", 16),
        links=_links(fields),
        start_unix_nano=start,
        end_unix_nano=end,
        outcome=_one_of(OUTCOMES, text(fields, "outcome", "ok"), "unknown"),
        error=text(fields, "error") or None,
        attempt=number(fields, "attempt"),
        process=intern(text(fields, "process")),
        process_id=number(fields, "process_id"),
        death_count=number(fields, "death_count"),
        is_redelivered=flag(fields, "is_redelivered"),
        queue_time_nano=_queue_time(fields, start),
        is_scheduled=flag(fields, "is_scheduled") or False,
    )


def ids_of(fields: Mapping[str, object], trace: str = "trace_id", span: str = "span_id") -> tuple[str, str]:
    """Return the ids of a trace and a span, which are under the names *trace* and *span*.

    Raises:
        NoSpanError: One of them is missing, or none.
    """
    trace_id, span_id = identifier(fields, trace, 32), identifier(fields, span, 16)
    if trace_id is None or span_id is None:
        message = f"it has no {trace if trace_id is None else span}"
        raise NoSpanError(message)
    return trace_id, span_id


def _times(fields: Mapping[str, object]) -> tuple[int, int]:
    start, end = nanoseconds(fields, "start_unix_nano"), nanoseconds(fields, "end_unix_nano")
    if end < start:
        message = "it ends before it starts"
        raise NoSpanError(message)
    return start, end


def _queue_time(fields: Mapping[str, object], start: int) -> int | None:
    waited = number(fields, "queue_time_nano")
    if waited is not None and waited > start:
        message = "it was sent before 1970"
        raise NoSpanError(message)
    return waited


def _links(fields: Mapping[str, object]) -> tuple[SpanLink, ...]:
    links = fields.get("links") or []
    if not isinstance(links, list) or not all(isinstance(link, dict) for link in links):
        message = "its links are no list of ids"
        raise NoSpanError(message)
    return tuple(SpanLink(*ids_of(link)) for link in links)


def _one_of(known: frozenset[str], value: str, otherwise: str) -> str:
    return value if value in known else otherwise
