"""Where a line of a log is written: the fields that say which span of which trace it belongs to.

Their names and their form are those that OpenTelemetry specifies for logs which are not OTLP: `trace_id` and
`span_id` in lower-case hexadecimal digits, `trace_flags` as in a traceparent (`01` is sampled).
https://opentelemetry.io/docs/specs/otel/compatibility/logging_trace_context/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from spakky.tracing.context import TraceContext

__all__ = ["LOG_FIELDS", "PLACEHOLDER", "add_log_fields", "complete_log_fields"]

LOG_FIELDS: Final = ("trace_id", "span_id", "trace_flags")
"""The fields, in the order of a traceparent."""

PLACEHOLDER: Final = "-"
"""What stands in a field where there is no trace, unless something else is asked for."""


def add_log_fields(line: MutableMapping[str, Any], context: TraceContext | None) -> None:
    """Add the fields of *context* to the values of a *line*.

    Nothing is added without a context, nor to a line that has one of the fields: it says itself what it
    belongs to.
    """
    if context is not None and line.keys().isdisjoint(LOG_FIELDS):
        _, *values = context.to_traceparent().split("-")
        line.update(zip(LOG_FIELDS, values, strict=True))


def complete_log_fields(
    line: MutableMapping[str, Any], context: TraceContext | None, placeholder: str | None
) -> None:
    """Add the fields of *context* in the same way, and the *placeholder* for those that are missing then."""
    add_log_fields(line, context)
    for name in LOG_FIELDS:
        line.setdefault(name, placeholder)
