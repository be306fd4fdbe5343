"""FastStream on RabbitMQ with its own middleware for OpenTelemetry."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from faststream.opentelemetry import Baggage, CurrentBaggage
from faststream.rabbit import RabbitBroker, RabbitMessage, RabbitQueue
from faststream.rabbit.opentelemetry import RabbitTelemetryMiddleware

from interop.peers.serving import PATIENCE, Client, Received, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class FastStreamRabbit(Client):
    """Publishes to queues that are there, and reads each by a subscriber of its own."""

    def __init__(self, broker: RabbitBroker) -> None:
        self._broker = broker

    async def send(self, destination: str, headers: Any) -> None:
        # Outside of a handler the middleware sends no baggage; FastStream has it written by hand.
        carrier = Baggage({}).to_headers(dict(headers or {}))
        await self._broker.publish(b"value", destination, headers=carrier)

    async def receive(self, source: str, way: str) -> Received:
        arrival: asyncio.Future[Received] = asyncio.get_running_loop().create_future()
        subscriber = self._broker.subscriber(RabbitQueue(source, declare=False))

        @subscriber
        async def handle(body: bytes, message: RabbitMessage, baggage: CurrentBaggage) -> None:
            arrival.set_result(Received(dict(message.headers), baggage.get_all()))

        await subscriber.start()
        try:
            return await asyncio.wait_for(arrival, PATIENCE)
        finally:
            await subscriber.stop()


@asynccontextmanager
async def connect(address: str) -> AsyncIterator[FastStreamRabbit]:
    async with RabbitBroker(address, middlewares=[RabbitTelemetryMiddleware()], logger=None) as broker:
        await broker.start()
        yield FastStreamRabbit(broker)


if __name__ == "__main__":
    run(connect)
