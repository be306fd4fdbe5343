"""aiokafka as OpenTelemetry instruments it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from opentelemetry.instrumentation.aiokafka import AIOKafkaInstrumentor

from interop.peers.serving import PATIENCE, Client, Received, current_baggage, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Aiokafka(Client):
    """Sends by one producer, and reads each topic by a consumer of its own."""

    def __init__(self, address: str, producer: AIOKafkaProducer, hooked: list[dict[str, str]]) -> None:
        self._address = address
        self._producer = producer
        self._hooked = hooked

    async def send(self, destination: str, headers: Any) -> None:
        await self._producer.send_and_wait(destination, b"value", headers=headers, partition=0)

    async def receive(self, source: str, way: str) -> Received:
        self._hooked.clear()
        consumer = AIOKafkaConsumer(bootstrap_servers=self._address, auto_offset_reset="earliest")
        async with consumer:
            consumer.assign([TopicPartition(source, 0)])
            if way == "getmany":
                [[record]] = (await consumer.getmany(timeout_ms=PATIENCE * 1000)).values()
            else:
                record = await asyncio.wait_for(consumer.getone(), PATIENCE)
        return Received(list(record.headers), self._hooked[0])


@asynccontextmanager
async def connect(address: str) -> AsyncIterator[Aiokafka]:
    hooked: list[dict[str, str]] = []

    async def hook(*_: object) -> None:  # nothing is current any more when the record is handed out
        hooked.append(current_baggage())

    AIOKafkaInstrumentor().instrument(async_consume_hook=hook)
    async with AIOKafkaProducer(bootstrap_servers=address) as producer:
        yield Aiokafka(address, producer, hooked)


if __name__ == "__main__":
    run(connect)
