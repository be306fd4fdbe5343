"""FastStream on Kafka with its own middleware for OpenTelemetry."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from faststream.kafka import KafkaBroker, KafkaMessage, TopicPartition
from faststream.kafka.opentelemetry import KafkaTelemetryMiddleware
from faststream.opentelemetry import Baggage, CurrentBaggage

from interop.peers.serving import PATIENCE, Client, Received, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class FastStreamKafka(Client):
    """Publishes by one broker, and reads each topic by a subscriber of its own."""

    def __init__(self, broker: KafkaBroker) -> None:
        self._broker = broker

    async def send(self, destination: str, headers: Any) -> None:
        # Outside of a handler the middleware sends no baggage; FastStream has it written by hand.
        carrier = Baggage({}).to_headers(dict(headers or {}))
        await self._broker.publish(b"value", destination, partition=0, headers=carrier)

    async def receive(self, source: str, way: str) -> Received:
        arrival: asyncio.Future[Received] = asyncio.get_running_loop().create_future()
        subscriber = self._broker.subscriber(
            partitions=[TopicPartition(source, 0)], auto_offset_reset="earliest"
        )

        @subscriber
        async def handle(body: bytes, message: KafkaMessage, baggage: CurrentBaggage) -> None:
            arrival.set_result(Received(dict(message.headers), baggage.get_all()))

        await subscriber.start()
        try:
            return await asyncio.wait_for(arrival, PATIENCE)
        finally:
            await subscriber.stop()


@asynccontextmanager
async def connect(address: str) -> AsyncIterator[FastStreamKafka]:
    async with KafkaBroker(address, middlewares=[KafkaTelemetryMiddleware()], logger=None) as broker:
        await broker.start()
        yield FastStreamKafka(broker)


if __name__ == "__main__":
    run(connect)
