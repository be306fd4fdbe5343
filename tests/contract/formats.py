"""Formats of somebody else's, as a user would bring them as a propagator of ours.

OpenTelemetry's B3, which serves any carrier, and a format of one's own, which serves nothing but a dict.
"""

from __future__ import annotations

from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.propagators.b3 import B3SingleFormat
from opentelemetry.propagators.textmap import default_getter, default_setter
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)

from spakky.tracing.context import TraceContext
from spakky.tracing.propagator import ITracePropagator

_FORMAT: Final = B3SingleFormat()


class B3Propagator(ITracePropagator):
    """Writes and reads the one header `b3`."""

    def inject(self, carrier: Any, context: TraceContext | None = None, setter: Any = None) -> None:
        context = context or TraceContext.get()
        if context is None:
            return
        span = SpanContext(
            int(context.trace_id, 16),
            int(context.span_id, 16),
            is_remote=False,
            trace_flags=TraceFlags(context.trace_flags),
        )
        in_context = set_span_in_context(NonRecordingSpan(span), Context())
        _FORMAT.inject(carrier, in_context, setter or default_setter)

    def extract(self, carrier: Any, getter: Any = None) -> TraceContext | None:
        found = get_current_span(_FORMAT.extract(carrier, Context(), getter or default_getter))
        span = found.get_span_context()
        if not span.is_valid:
            return None
        return TraceContext(
            trace_id=f"{span.trace_id:032x}",
            span_id=f"{span.span_id:016x}",
            trace_flags=span.trace_flags,
            is_remote=True,
        )

    def fields(self) -> list[str]:
        return list(_FORMAT.fields)


def b3(context: TraceContext) -> str:
    """Return *context* as B3 has it in one header."""
    return f"{context.trace_id}-{context.span_id}-{1 if context.is_sampled else 0}"


class PlainPropagator(ITracePropagator):
    """Writes and reads the one header `X-Trace`, by methods that take the carrier alone, as Spakky's do."""

    def inject(self, carrier: dict[str, str]) -> None:  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride] # this is what it is about
        assert type(carrier) is dict
        context = TraceContext.get()
        if context is not None:
            carrier["X-Trace"] = plain(context)

    def extract(self, carrier: dict[str, str]) -> TraceContext | None:  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride] # likewise
        assert type(carrier) is dict
        if "X-Trace" not in carrier:
            return None
        trace_id, span_id = carrier["X-Trace"].split("/")
        return TraceContext(trace_id=trace_id, span_id=span_id)

    def fields(self) -> list[str]:
        return ["X-Trace"]


def plain(context: TraceContext) -> str:
    """Return *context* as `PlainPropagator` has it in its header."""
    return f"{context.trace_id}/{context.span_id}"
