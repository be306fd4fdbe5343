"""aio-pika between this library and OpenTelemetry's instrumentation."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import aio_pika as client
from opentelemetry.instrumentation.aio_pika import AioPikaInstrumentor

from interop.continuing import ContinuingContract
from interop.sharing import SharingContract
from interop.sides import PATIENCE, Handler, OverRabbitMQ
from spakky.tracing.integrations import aio_pika

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
    from opentelemetry.trace import TracerProvider


class AioPika(OverRabbitMQ):
    async def send(self, destination: str, headers: Any = None, **options: Any) -> None:
        async with self._channel() as channel:
            message = client.Message(b"value", headers=headers)
            await aio_pika.wrap(channel.default_exchange, **options).publish(message, destination)

    async def send_bare(self, destination: str, headers: dict[str, str | bytes]) -> None:
        async with self._channel() as channel:
            message = client.Message(b"value", headers={**headers})
            await channel.default_exchange.publish(message, destination)

    async def receive(self, source: str, handle: Handler) -> None:
        arrived = asyncio.Event()

        @aio_pika.consumer
        async def callback(message: AbstractIncomingMessage) -> None:
            await handle(message.headers)
            arrived.set()

        async with self._channel() as channel, asyncio.timeout(PATIENCE):
            queue = await channel.get_queue(source)
            await queue.consume(callback, no_ack=True)
            await arrived.wait()

    @asynccontextmanager
    async def _channel(self) -> AsyncIterator[AbstractChannel]:
        async with await client.connect(self.address) as connection:
            yield await connection.channel()


class TestInTwoProcesses(AioPika, ContinuingContract):
    client = "aio_pika"
    peer_ways = ["callback"]
    ways_with_baggage = ["callback"]


class TestInOneProcess(AioPika, SharingContract):
    @contextmanager
    def instrumented(self, provider: TracerProvider) -> Iterator[None]:
        instrumentor = AioPikaInstrumentor()
        instrumentor.instrument(tracer_provider=provider)
        try:
            yield
        finally:
            instrumentor.uninstrument()
