"""aio-pika as OpenTelemetry instruments it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aio_pika
from opentelemetry.instrumentation.aio_pika import AioPikaInstrumentor

from interop.peers.serving import PATIENCE, Client, Received, current_baggage, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aio_pika.abc import AbstractChannel, AbstractIncomingMessage


class AioPika(Client):
    """Publishes to queues that are there, and consumes from them by callbacks."""

    def __init__(self, channel: AbstractChannel) -> None:
        self._channel = channel

    async def send(self, destination: str, headers: Any) -> None:
        message = aio_pika.Message(b"value", headers=headers)
        await self._channel.default_exchange.publish(message, destination)

    async def receive(self, source: str, way: str) -> Received:
        queue = await self._channel.get_queue(source)
        arrival: asyncio.Future[Received] = asyncio.get_running_loop().create_future()

        async def handle(message: AbstractIncomingMessage) -> None:
            arrival.set_result(Received(message.headers, current_baggage()))

        tag = await queue.consume(handle, no_ack=True)
        try:
            return await asyncio.wait_for(arrival, PATIENCE)
        finally:
            await queue.cancel(tag)


@asynccontextmanager
async def connect(address: str) -> AsyncIterator[AioPika]:
    AioPikaInstrumentor().instrument()
    async with await aio_pika.connect(address) as connection:
        yield AioPika(await connection.channel())


if __name__ == "__main__":
    run(connect)
