"""confluent-kafka as OpenTelemetry instruments it."""

from __future__ import annotations

from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

import confluent_kafka
from opentelemetry.instrumentation.confluent_kafka import ConfluentKafkaInstrumentor

from interop.peers.serving import PATIENCE, Client, Received, current_baggage, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class ConfluentKafka(Client):
    """Sends by one producer, and reads each topic by a consumer of its own."""

    def __init__(self, address: str, producer: confluent_kafka.Producer) -> None:
        self._address = address
        self._producer = producer

    async def send(self, destination: str, headers: Any) -> None:
        arguments = {} if headers is None else {"headers": headers}
        self._producer.produce(destination, b"value", partition=0, **arguments)
        assert self._producer.flush(PATIENCE) == 0, "the record was not delivered"

    async def receive(self, source: str, way: str) -> Received:
        # The span of a message ends with the next call of the consumer: here with close().
        consumer = confluent_kafka.Consumer({"bootstrap.servers": self._address, "group.id": "interop"})
        with closing(consumer):
            consumer.assign([confluent_kafka.TopicPartition(source, 0, 0)])
            message = consumer.consume(1, PATIENCE)[0] if way == "consume" else consumer.poll(PATIENCE)
            assert message is not None, "no message arrived"
            assert message.error() is None, message.error()
            return Received(message.headers(), current_baggage())


@asynccontextmanager
async def connect(address: str) -> AsyncIterator[ConfluentKafka]:
    ConfluentKafkaInstrumentor().instrument()
    yield ConfluentKafka(address, confluent_kafka.Producer({"bootstrap.servers": address}))


if __name__ == "__main__":
    run(connect)
