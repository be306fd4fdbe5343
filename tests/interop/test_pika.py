"""pika between this library and OpenTelemetry's instrumentation."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pika as client
from opentelemetry.instrumentation.pika import PikaInstrumentor

from interop.continuing import ContinuingContract
from interop.sharing import SharingContract
from interop.sides import PATIENCE, Handler, OverRabbitMQ
from spakky.tracing.integrations import pika

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.trace import TracerProvider
    from pika.adapters.blocking_connection import BlockingChannel


class Pika(OverRabbitMQ):
    async def send(self, destination: str, headers: Any = None, **options: Any) -> None:
        with self._channel() as channel:
            properties = client.BasicProperties(headers=headers)
            pika.wrap(channel, **options).basic_publish("", destination, b"value", properties)

    async def send_bare(self, destination: str, headers: dict[str, str | bytes]) -> None:
        with self._channel() as channel:
            channel.basic_publish("", destination, b"value", client.BasicProperties(headers=headers))

    async def receive(self, source: str, handle: Handler) -> None:
        with self._channel() as channel:
            messages = channel.consume(source, auto_ack=True, inactivity_timeout=PATIENCE)
            for _, properties, _ in pika.iterate(messages):
                assert properties is not None
                await handle(properties.headers)
                break

    @contextmanager
    def _channel(self) -> Iterator[BlockingChannel]:
        with client.BlockingConnection(client.URLParameters(self.address)) as connection:
            yield connection.channel()


class TestInTwoProcesses(Pika, ContinuingContract):
    client = "pika"
    peer_ways = ["callback", "generator"]
    ways_with_baggage = ["callback"]


class TestInOneProcess(Pika, SharingContract):
    @contextmanager
    def instrumented(self, provider: TracerProvider) -> Iterator[None]:
        instrumentor = PikaInstrumentor()
        instrumentor.instrument(tracer_provider=provider)
        try:
            yield
        finally:
            instrumentor.uninstrument()
