"""OpenTelemetry's SDK with our bridge installed, and what it records at hand.

@pytest.fixture
def bridge() -> Iterator[Bridge]:
    with bridged() as bridge:
        yield bridge
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from spakky.tracing.context import TraceContext
from spakky.tracing.integrations import opentelemetry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace.sampling import Sampler

__all__ = ["Bridge", "bridged", "ids_there", "trace_id_of"]

TRACER: Final = "app"


class Bridge:
    """A tracer provider of its own, which keeps what it records.

    Attributes:
        provider: What the bridge is installed with.
        tracer: A tracer of the user's.
    """

    def __init__(self, sampler: Sampler | None = None, limits: SpanLimits | None = None) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler, span_limits=limits)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer(TRACER)

    @property
    def spans(self) -> list[ReadableSpan]:
        """The spans that have ended, the first to end first."""
        return list(self._exporter.get_finished_spans())

    @property
    def ours(self) -> list[ReadableSpan]:
        """Those of them that our boundaries have made."""
        return [span for span in self.spans if scope_of(span) == "spakky.tracing"]

    def clear(self) -> None:
        """Forget the spans that have ended."""
        self._exporter.clear()


@contextlib.contextmanager
def bridged(
    sampler: Sampler | None = None, limits: SpanLimits | None = None, **options: Any
) -> Iterator[Bridge]:
    """Have the bridge installed within the block, and nothing current at its start."""
    bridge = Bridge(sampler, limits)
    before = otel_context.attach(Context())
    opentelemetry.install(tracer_provider=bridge.provider, **options)
    try:
        yield bridge
    finally:
        opentelemetry.uninstall()
        otel_context.detach(before)


def ids_there() -> tuple[str, str] | None:
    """Return trace id and span id of what is current in OpenTelemetry, `None` for nothing."""
    ids = trace.get_current_span().get_span_context()
    return (trace.format_trace_id(ids.trace_id), trace.format_span_id(ids.span_id)) if ids.is_valid else None


def ids_here() -> tuple[str, str] | None:
    """Return trace id and span id of what is current here, `None` for nothing."""
    context = TraceContext.get()
    return None if context is None else (context.trace_id, context.span_id)


def agreed() -> tuple[str, str] | None:
    """Return the ids on which both sides agree."""
    here = ids_here()
    assert here == ids_there()
    return here


def scope_of(span: ReadableSpan) -> str:
    """Return the name of the tracer that has made a span."""
    assert span.instrumentation_scope is not None
    return span.instrumentation_scope.name


def trace_id_of(span: ReadableSpan) -> str:
    """Return the trace id of a span in hexadecimal digits."""
    assert span.context is not None
    return trace.format_trace_id(span.context.trace_id)


def span_id_of(span: ReadableSpan) -> str:
    """Return the id of a span in hexadecimal digits."""
    assert span.context is not None
    return trace.format_span_id(span.context.span_id)


def parent_id_of(span: ReadableSpan) -> str | None:
    """Return the id of a span's parent in hexadecimal digits, `None` for a root."""
    return None if span.parent is None else trace.format_span_id(span.parent.span_id)
