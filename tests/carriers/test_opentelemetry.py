"""A getter or setter of either library serves the propagators of the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import pytest
from opentelemetry import baggage, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.b3 import B3MultiFormat, B3SingleFormat
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import DefaultGetter, DefaultSetter, TextMapPropagator
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from spakky.tracing.carriers import ICarrier, amqp, celery, environ, kafka, mapping
from spakky.tracing.context import TraceContext
from spakky.tracing.trace_state import TraceState as OurTraceState
from spakky.tracing.w3c_propagator import W3C, W3CTracePropagator

TRACE_ID: Final = 0x0AF7651916CD43DD8448EB211C80319C
SPAN_ID: Final = 0xB7AD6B7169203331
TRACEPARENT: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass(frozen=True)
class Format:
    """A format of OpenTelemetry's, and what it writes for the span of these tests."""

    propagator: TextMapPropagator
    written: dict[str, str]


CARRIERS = [
    pytest.param(mapping.CARRIER, id="mapping"),
    pytest.param(mapping.HTTP, id="http"),
    pytest.param(kafka.CARRIER, id="kafka"),
    pytest.param(amqp.CARRIER, id="amqp"),
    pytest.param(celery.CARRIER, id="celery"),
    pytest.param(environ.CARRIER, id="environ"),
]
FORMATS = [
    pytest.param(
        Format(TraceContextTextMapPropagator(), {"traceparent": TRACEPARENT, "tracestate": "congo=t61"}),
        id="w3c",
    ),
    pytest.param(
        Format(B3SingleFormat(), {"b3": "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1"}),
        id="b3-single",
    ),
    pytest.param(
        Format(
            B3MultiFormat(),
            {
                "x-b3-traceid": "0af7651916cd43dd8448eb211c80319c",
                "x-b3-spanid": "b7ad6b7169203331",
                "x-b3-sampled": "1",
            },
        ),
        id="b3-multi",
    ),
]

carriers = pytest.mark.parametrize("carrier", CARRIERS)
formats = pytest.mark.parametrize("text_format", FORMATS)


def span_context() -> SpanContext:
    return SpanContext(
        TRACE_ID,
        SPAN_ID,
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
        trace_state=TraceState([("congo", "t61")]),
    )


def with_span() -> Context:
    return trace.set_span_in_context(NonRecordingSpan(span_context()), Context())


def with_baggage() -> Context:
    return baggage.set_baggage("name", "J\xfcrgen", baggage.set_baggage("tenant", "acme", Context()))


def written(carrier: ICarrier[Any], headers: object) -> dict[str, list[str] | None]:
    """Return what is in *headers*, by the names of HTTP; environment variables have `_` for each `-`."""
    return {name.lower().replace("_", "-"): carrier.get(headers, name) for name in carrier.keys(headers)}


@carriers
@formats
def test_a_propagator_of_opentelemetry_writes_through_our_carrier(carrier: Any, text_format: Format) -> None:
    """P-12: B3 in both forms, beside W3C."""
    headers = carrier.copy(None)

    text_format.propagator.inject(headers, with_span(), setter=carrier)

    assert written(carrier, headers) == {name: [value] for name, value in text_format.written.items()}


@carriers
@formats
def test_a_propagator_of_opentelemetry_replaces_what_is_stale(carrier: Any, text_format: Format) -> None:
    """P-12: the fields of that format."""
    headers = carrier.copy(None)
    for name in text_format.written:
        carrier.set(headers, name.title(), "stale")

    text_format.propagator.inject(headers, with_span(), setter=carrier)

    assert written(carrier, headers) == {name: [value] for name, value in text_format.written.items()}


@carriers
@formats
def test_a_propagator_of_opentelemetry_reads_through_our_carrier(carrier: Any, text_format: Format) -> None:
    """P-12: B3 in both forms, beside W3C."""
    headers = carrier.copy(None)
    for name, value in text_format.written.items():
        carrier.set(headers, name, value)

    found = text_format.propagator.extract(headers, Context(), getter=carrier)

    read = trace.get_current_span(found).get_span_context()
    assert (read.trace_id, read.span_id, read.trace_flags) == (TRACE_ID, SPAN_ID, TraceFlags.SAMPLED)
    assert read.is_remote


@carriers
@formats
def test_a_propagator_of_opentelemetry_finds_nothing_in_headers_of_others(
    carrier: Any, text_format: Format
) -> None:
    headers = carrier.copy(None)
    carrier.set(headers, "app", "1")
    for nothing in (None, headers):
        found = text_format.propagator.extract(nothing, Context(), getter=carrier)

        assert not trace.get_current_span(found).get_span_context().is_valid


@carriers
def test_the_trace_state_of_opentelemetry_passes_through_our_carrier(carrier: Any) -> None:
    propagator, headers = TraceContextTextMapPropagator(), carrier.copy(None)

    propagator.inject(headers, with_span(), setter=carrier)
    found = propagator.extract(headers, Context(), getter=carrier)

    read = trace.get_current_span(found).get_span_context()
    assert read.trace_state.to_header() == "congo=t61"


@carriers
def test_the_baggage_of_opentelemetry_passes_through_our_carrier(carrier: Any) -> None:
    propagator, headers = W3CBaggagePropagator(), carrier.copy(None)

    propagator.inject(headers, with_baggage(), setter=carrier)
    found = propagator.extract(headers, Context(), getter=carrier)

    assert dict(baggage.get_all(found)) == {"tenant": "acme", "name": "J\xfcrgen"}


@carriers
def test_what_opentelemetry_sends_we_receive(carrier: Any) -> None:
    theirs = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])
    headers = carrier.copy(None)

    theirs.inject(
        headers, trace.set_span_in_context(NonRecordingSpan(span_context()), with_baggage()), carrier
    )
    found = W3C.extract(headers, carrier)

    assert found is not None
    assert found.to_traceparent() == TRACEPARENT
    assert found.trace_state.to_header() == "congo=t61"
    assert dict(found.baggage) == {"tenant": "acme", "name": "J\xfcrgen"}


@carriers
def test_what_we_send_opentelemetry_receives(carrier: Any) -> None:
    theirs = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])
    headers = carrier.copy(None)
    context = TraceContext.from_traceparent(TRACEPARENT).with_trace_state(OurTraceState({"congo": "t61"}))

    W3C.inject(headers, context, carrier)
    read = trace.get_current_span(theirs.extract(headers, Context(), carrier)).get_span_context()

    assert (read.trace_id, read.span_id, read.trace_flags) == (TRACE_ID, SPAN_ID, TraceFlags.SAMPLED)
    assert read.trace_state.to_header() == "congo=t61"


@carriers
@pytest.mark.parametrize("value", [None, 7, b"\xff", object(), [None], {"a": 1}], ids=repr)
def test_a_propagator_of_opentelemetry_does_not_fail_on_what_is_no_text(carrier: Any, value: object) -> None:
    """K-04, P-08: nor do ours through its getter."""
    headers = {"traceparent": value, "tracestate": value, "baggage": value, "b3": value}
    for propagator in (TraceContextTextMapPropagator(), W3CBaggagePropagator(), B3SingleFormat()):
        found = propagator.extract(headers, Context(), getter=carrier)

        assert not trace.get_current_span(found).get_span_context().is_valid


def test_the_getter_and_the_setter_of_opentelemetry_serve_our_propagator() -> None:
    getter: Any = DefaultGetter()
    setter: Any = DefaultSetter()
    context = TraceContext.from_traceparent(TRACEPARENT).with_trace_state(OurTraceState({"congo": "t61"}))
    headers: Any = {"traceparent": "stale", "app": "1"}

    W3CTracePropagator().inject(headers, context, setter)
    found = W3CTracePropagator().extract(headers, getter)

    assert headers == {"traceparent": TRACEPARENT, "tracestate": "congo=t61", "app": "1"}
    assert found == context
    assert W3CTracePropagator().extract({}, getter) is None


@pytest.mark.parametrize(
    "value", [None, 7, TRACEPARENT.encode(), b"\xff", [TRACEPARENT] * 2, [7], {}], ids=repr
)
def test_what_the_getter_of_opentelemetry_reads_never_fails_our_propagator(value: object) -> None:
    """P-08: it turns bytes into numbers."""
    getter: Any = DefaultGetter()
    headers: Any = {"traceparent": value, "tracestate": value}

    assert W3CTracePropagator().extract(headers, getter) is None


def test_a_trace_state_that_the_getter_of_opentelemetry_reads_wrong_does_not_cost_the_context() -> None:
    getter: Any = DefaultGetter()
    for value in (7, [7], b"a=1", object(), [None]):
        headers: Any = {"traceparent": TRACEPARENT, "tracestate": value}

        found = W3CTracePropagator().extract(headers, getter)

        assert found is not None
        assert found.to_traceparent() == TRACEPARENT
        assert not found.trace_state
