"""One trace over RabbitMQ, whose spans are OpenTelemetry's and go to Jaeger.

    pip install 'spakky-tracing[opentelemetry,pika]' opentelemetry-sdk opentelemetry-exporter-otlp-proto-http
    docker compose up --wait
    python examples/opentelemetry_example.py

Jaeger shows the trace at http://localhost:16686.
"""

import os
import socket
import sys
from urllib.parse import urlsplit
from uuid import uuid4

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from pika import BasicProperties, BlockingConnection, URLParameters
from pika.adapters.blocking_connection import BlockingChannel
from pika.spec import Basic

from spakky.tracing import TraceContext
from spakky.tracing.integrations import opentelemetry, pika

AMQP_URL = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost/")
COLLECTOR = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")
QUEUE = f"orders-{uuid4().hex}"

tracer = trace.get_tracer("shop")


def main() -> None:
    """Publish a message in a span, receive it, and start a span below it."""
    if not somebody_listens():
        sys.exit(f"Nobody listens at {COLLECTOR}; `docker compose up --wait` starts a Jaeger there.")
    provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{COLLECTOR}/v1/traces", timeout=5)))
    trace.set_tracer_provider(provider)
    opentelemetry.install()
    with BlockingConnection(URLParameters(AMQP_URL)) as connection:
        channel = pika.wrap(connection.channel())
        channel.queue_declare(QUEUE, exclusive=True)
        channel.basic_consume(QUEUE, handle)
        with tracer.start_as_current_span("order"):
            channel.basic_publish("", QUEUE, b"order 1")
            print(f"sent     in trace {trace_id()}")
        connection.call_later(10, channel.stop_consuming)
        channel.start_consuming()
    provider.shutdown()


def handle(channel: BlockingChannel, method: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
    """Take one message; a span that starts here is a child of its processing."""
    del properties
    with tracer.start_as_current_span("pack"):
        print(f"received in trace {trace_id()}: {body!r}")
    channel.basic_ack(method.delivery_tag)
    channel.stop_consuming()


def trace_id() -> str:
    """Return the id of the current trace."""
    context = TraceContext.get()
    return context.trace_id if context else "-"


def somebody_listens() -> bool:
    """Tell whether there is a collector at all; the exporter would try for long."""
    address = urlsplit(COLLECTOR)
    try:
        socket.create_connection((address.hostname or "localhost", address.port or 80), timeout=3).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
