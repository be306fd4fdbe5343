"""A Kafka topic of its own, with the bare client of aiokafka at both ends."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from contract.sending import texts
from spakky.tracing.context import TraceContext

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from contract.sending import Wire

Record: TypeAlias = ConsumerRecord[Any, Any]

PATIENCE = 10


class Topic:
    """A topic, a producer for it and a consumer of what is sent from now on."""

    def __init__(
        self, address: str, name: str, producer: AIOKafkaProducer, consumer: AIOKafkaConsumer
    ) -> None:
        self.address = address
        self.name = name
        self.partition = TopicPartition(name, 0)
        self.producer = producer
        self.consumer = consumer

    async def record(self) -> Record:
        return await asyncio.wait_for(self.consumer.getone(), PATIENCE)

    async def records(self, count: int) -> list[Record]:
        return [await self.record() for _ in range(count)]

    async def batch(self, *headers: dict[str, Any]) -> dict[TopicPartition, list[Record]]:
        """Send records with *headers* in one batch of the bare client, and return what one `getmany` gets."""
        batch = self.producer.create_batch()
        for each in headers:
            batch.append(key=None, value=b"value", timestamp=None, headers=pairs_of(each))
        await (await self.producer.send_batch(batch, self.name, partition=0))
        return await self.consumer.getmany(timeout_ms=PATIENCE * 1000)

    async def send(self, headers: dict[str, Any], value: bytes = b"value", partition: int = 0) -> None:
        """Send a record by the bare client; values that are text are encoded."""
        await self.producer.send_and_wait(self.name, value, headers=pairs_of(headers), partition=partition)

    async def send_traced(self, *values: bytes, partition: int = 0) -> list[TraceContext]:
        """Send a record for each value, each in a trace of its own, and return their contexts."""
        contexts = [TraceContext.new_root() for _ in values]
        for context, value in zip(contexts, values, strict=True):
            await self.send({"traceparent": context.to_traceparent()}, value, partition)
        return contexts

    async def deliver(self, headers: dict[str, Any]) -> Record:
        """Send headers by the bare client and take the record."""
        await self.send(headers)
        return await self.record()

    async def deliver_native(self, headers: Any) -> Record:
        await self.producer.send_and_wait(self.name, b"value", headers=headers, partition=0)
        return await self.record()

    @contextlib.asynccontextmanager
    async def another_consumer(self, **settings: Any) -> AsyncIterator[AIOKafkaConsumer]:
        """Open a consumer of the first partition, from the start unless its group says otherwise."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.address, auto_offset_reset="earliest", enable_auto_commit=False, **settings
        )
        consumer.assign([self.partition])
        async with consumer:
            yield consumer


def new_name() -> str:
    return f"orders-{uuid4().hex}"


@contextlib.asynccontextmanager
async def open_topic(
    address: str, name: str | None = None, partitions: int = 1, **configs: object
) -> AsyncIterator[Topic]:
    """Open a producer for a topic and a consumer at its end; the topic is made where it is not there."""
    name = name or new_name()
    if partitions > 1 or configs:
        await create(address, name, partitions, configs)
    # The mock cluster answers a fetch that came before the record no sooner than after this wait.
    consumer = AIOKafkaConsumer(bootstrap_servers=address, fetch_max_wait_ms=20)
    # The producer asks for the metadata of a new topic until they are there, at these intervals.
    async with AIOKafkaProducer(bootstrap_servers=address, retry_backoff_ms=5) as producer, consumer:
        numbers = await producer.partitions_for(name)
        consumer.assign([TopicPartition(name, number) for number in numbers])
        await consumer.seek_to_end()
        yield Topic(address, name, producer, consumer)


async def create(address: str, name: str, partitions: int, configs: dict[str, object]) -> None:
    """Create a topic with settings of its own, such as `max.message.bytes`, if it is not there."""
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        texts_of_configs = {key.replace("_", "."): str(value) for key, value in configs.items()}
        await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=texts_of_configs)])
    finally:
        await admin.close()


def pairs_of(headers: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return *headers* as the bare client takes them; text is encoded."""
    return [(name, value.encode() if isinstance(value, str) else value) for name, value in headers.items()]


def texts_of(record: Record, name: str) -> list[str]:
    wire: Wire = {}
    for key, value in record.headers:
        wire.setdefault(key, []).append(value)
    return texts(wire, name)


def trace_ids(contexts: list[TraceContext]) -> list[str]:
    return [context.trace_id for context in contexts]


def current() -> TraceContext:
    context = TraceContext.get()
    assert context is not None
    return context


async def until(condition: Callable[[], bool]) -> None:
    """Wait until *condition* holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what the client says of itself can only be polled
            await asyncio.sleep(0.01)
