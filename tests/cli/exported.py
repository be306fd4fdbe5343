"""Spans that OpenTelemetry's SDK has made of our boundaries, as its exporters encode them."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from spakky.tracing.context import TraceContext
from spakky.tracing.integrations.opentelemetry import OpenTelemetryTracer
from spakky.tracing.tracer import Operation

__all__ = ["LINK", "WAITED", "as_otlp", "as_protobuf"]

WAITED = 5  # nanoseconds
LINK = TraceContext(trace_id="1" * 32, span_id="2" * 16)


def _spans() -> list[Any]:
    """Return a request that sends a message, whose processing fails at its second attempt."""
    exporter = InMemorySpanExporter()
    resource = Resource({"service.name": "shop", "process.pid": 4711})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = OpenTelemetryTracer(provider)
    other = provider.get_tracer("other")
    other.start_span("query", kind=SpanKind.INTERNAL, attributes={"db.system.name": "postgresql"}).end()
    request = tracer.start(_operation("POST /orders", "server", "http", "/orders"))
    sent = tracer.start(_operation("send orders", "producer", "kafka", "orders", parent=request.context))
    now = time.time_ns()
    processed = tracer.start(
        _operation(
            "process orders",
            "consumer",
            "kafka",
            "orders",
            parent=sent.context,
            links=(LINK,),
            attempt=2,
            death_count=1,
            is_redelivered=True,
            is_scheduled=True,
            start_unix_nano=now,
            sent_unix_nano=now - WAITED,
        )
    )
    processed.end("error", LookupError("secret"))
    sent.end("ok")
    called = tracer.start(_operation("GET stock:80", "client", "http", "stock:80", parent=request.context))
    called.end("cancelled")
    request.end("ok")
    return list(exporter.get_finished_spans())


def _operation(name: str, kind: Any, system: str, destination: str, **options: Any) -> Operation:
    return Operation(
        name=name,
        kind=kind,
        system=system,
        destination=destination,
        context=TraceContext.new_root(),
        **options,
    )


def as_protobuf(*, snake_case: bool = False) -> dict[str, Any]:
    """Return a document as protobuf's own tools write it: base64 ids, names of kinds."""
    encoded = encode_spans(_spans())
    document: dict[str, Any] = MessageToDict(encoded, preserving_proto_field_name=snake_case)
    return document


def as_otlp() -> dict[str, Any]:
    """Return a document as OTLP/JSON has it: hexadecimal ids, numbers of kinds."""
    document = MessageToDict(encode_spans(_spans()), use_integers_for_enums=True)
    converted: dict[str, Any] = json.loads(json.dumps(document), object_hook=_with_hexadecimal_ids)
    return converted


def _with_hexadecimal_ids(value: dict[str, Any]) -> dict[str, Any]:
    ids = {"traceId", "spanId", "parentSpanId"} & value.keys()
    return value | {name: base64.b64decode(value[name]).hex().upper() for name in ids}
