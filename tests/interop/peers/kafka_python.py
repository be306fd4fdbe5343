"""kafka-python as OpenTelemetry instruments it."""

from __future__ import annotations

from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

from kafka import KafkaConsumer, KafkaProducer
from kafka.structs import TopicPartition
from opentelemetry.instrumentation.kafka import KafkaInstrumentor

from interop.peers.serving import PATIENCE, Client, Received, current_baggage, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class KafkaPython(Client):
    """Sends by one producer, and reads each topic by a consumer of its own."""

    def __init__(self, address: str, producer: KafkaProducer, hooked: list[dict[str, str]]) -> None:
        self._address = address
        self._producer = producer
        self._hooked = hooked

    async def send(self, destination: str, headers: Any) -> None:
        self._producer.send(destination, b"value", headers=headers, partition=0).get(PATIENCE)

    async def receive(self, source: str, way: str) -> Received:
        self._hooked.clear()
        consumer = KafkaConsumer(
            bootstrap_servers=self._address,
            auto_offset_reset="earliest",
            consumer_timeout_ms=PATIENCE * 1000,
        )
        with closing(consumer):
            consumer.assign([TopicPartition(source, 0)])
            record = next(consumer)
        return Received(record.headers, self._hooked[0])


@asynccontextmanager
async def connect(address: str) -> AsyncIterator[KafkaPython]:
    hooked: list[dict[str, str]] = []

    def hook(*_: object) -> None:  # nothing is current any more when the record is handed out
        hooked.append(current_baggage())

    KafkaInstrumentor().instrument(consume_hook=hook)
    with closing(KafkaProducer(bootstrap_servers=address)) as producer:
        yield KafkaPython(address, producer, hooked)


if __name__ == "__main__":
    run(connect)
