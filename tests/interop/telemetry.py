"""OpenTelemetry's SDK with what it records at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from interop.seen import Sender, Span

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

__all__ = ["Telemetry"]


class Telemetry:
    """A tracer provider of its own.

    Attributes:
        provider: What instrumentations are given.
    """

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def take_spans(self) -> list[Span]:
        """Return the spans that ended since this was called before."""
        spans = [_seen(span) for span in self._exporter.get_finished_spans()]
        self._exporter.clear()
        return spans


def _seen(span: ReadableSpan) -> Span:
    assert span.context is not None
    own = _sender(span.context)
    parent = _sender(span.parent) if span.parent else Sender(own.trace_id, None)
    return Span(span.name, span.kind.name, own, parent, [_sender(link.context) for link in span.links])


def _sender(span: SpanContext) -> Sender:
    return Sender(
        trace.format_trace_id(span.trace_id), trace.format_span_id(span.span_id), span.trace_state.to_header()
    )
