"""OpenTelemetry's instrumentation in an application; its spans go to a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from celery import Celery


def hook(app: Celery, folder: Path) -> None:
    provider = TracerProvider()
    spans = (folder / "spans.jsonl").open("a")
    exporter = ConsoleSpanExporter(out=spans, formatter=lambda span: f"{span.to_json(indent=None)}\n")
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    instrumentor: Any = CeleryInstrumentor
    instrumentor().instrument()


def look() -> dict[str, Any] | None:
    """Return the current span, and the baggage."""
    span: Any = trace.get_current_span()
    own = span.get_span_context()
    if not own.is_valid:
        return None
    return {
        "trace_id": trace.format_trace_id(own.trace_id),
        "span_id": trace.format_span_id(own.span_id),
        "parent_span_id": trace.format_span_id(span.parent.span_id) if span.parent else None,
        "tracestate": own.trace_state.to_header(),
        "baggage": dict(baggage.get_all()),
    }


def enter(stack: ExitStack) -> None:
    """Be in a span that has all that can travel."""
    ids = RandomIdGenerator()
    caller = trace.SpanContext(
        ids.generate_trace_id(),
        ids.generate_span_id(),
        is_remote=True,
        trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
        trace_state=trace.TraceState([("theirs", "1")]),
    )
    extracted = trace.set_span_in_context(trace.NonRecordingSpan(caller))
    stack.callback(context.detach, context.attach(baggage.set_baggage("customer", "7", extracted)))
    stack.enter_context(trace.get_tracer("app").start_as_current_span("app"))
