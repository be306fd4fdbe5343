"""aiokafka: wrap the producer, decorate the consumer's handler or iterate over the consumer.

Usage:

    producer = aiokafka.wrap(AIOKafkaProducer(...))
    await producer.send_and_wait("orders", b"...")

    @aiokafka.consumer
    async def handle(record: ConsumerRecord) -> None: ...

    async for record in aiokafka.iterate(consumer): ...

    with aiokafka.process_batch(await consumer.getmany()) as batch: ...

A message is a `ConsumerRecord`, a batch a list of them or what `getmany` returns, headers are a list of
`(str, bytes)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias, TypeVar, cast

from spakky.tracing._extras import raise_missing_extra
from spakky.tracing.boundaries.client import Client
from spakky.tracing.boundaries.verbs import Verbs
from spakky.tracing.carriers.kafka import CARRIER, KafkaHeaders, attributes_from, delivery_from
from spakky.tracing.error import WrongUseError

try:
    from aiokafka import AIOKafkaProducer, ConsumerRecord
    from aiokafka.errors import MessageSizeTooLargeError
    from wrapt import ObjectProxy
except ModuleNotFoundError as error:
    raise_missing_extra("aiokafka", {"aiokafka", "wrapt"}, error)

if TYPE_CHECKING:
    import asyncio
    from types import TracebackType
    from typing import Unpack

    from aiokafka.producer.message_accumulator import BatchBuilder
    from aiokafka.structs import RecordMetadata

    from spakky.tracing.boundaries.options import SendOptions
    from spakky.tracing.boundaries.publish import Sender
    from spakky.tracing.context import TraceContext

__all__ = [
    "batch_consumer",
    "configure",
    "consumer",
    "context_from",
    "headers",
    "iterate",
    "process",
    "process_batch",
    "retry_headers",
    "unwrap",
    "wrap",
]

ProducerT = TypeVar("ProducerT", bound=AIOKafkaProducer)
_Record: TypeAlias = "ConsumerRecord[Any, Any]"

_CLIENT: Final[Client[_Record, KafkaHeaders]] = Client(
    system="kafka",
    carrier=CARRIER,
    message_type=ConsumerRecord,
    headers=lambda record: record.headers,
    destination=lambda record: record.topic,
    name=lambda record: f"process {record.topic}",
    delivery=lambda record: delivery_from(record.headers, record.timestamp),
    attributes=lambda record: attributes_from(
        partition=record.partition, offset=record.offset, key=record.key
    ),
)
_VERBS: Final = Verbs(_CLIENT)

configure = _VERBS.configure
headers = _VERBS.headers
retry_headers = _VERBS.retry_headers
consumer = _VERBS.consumer
batch_consumer = _VERBS.batch_consumer
iterate = _VERBS.iterate
process = _VERBS.process
process_batch = _VERBS.process_batch
context_from = _VERBS.context_from


def wrap(producer: ProducerT, **options: Unpack[SendOptions]) -> ProducerT:
    """Return a producer whose sends carry the current context; *producer* itself stays as it is.

    Covered are `send`, `send_and_wait`, and `create_batch` with `append` and `send_batch`, also inside of
    transactions. Everything else is *producer*'s own. Wrapping what is wrapped replaces its options. A batch
    learns its topic last, so its records carry the context also where the topic is switched off by name.

    A record that only its context makes too large is sent with less of it, and a warning: where the client
    refuses it (`max_request_size`), and where the broker does while `send_and_wait` waits for its answer.
    What the broker refuses later fails the future of `send`, and an idempotent producer cannot send it
    again. So where a topic takes less than the client, give the client the topic's `max.message.bytes`.

    Args:
        producer: Started or not.
        **options: See `SendOptions`.

    Raises:
        WrongUseError: This is no `AIOKafkaProducer`, or an option is not known.
    """
    if not isinstance(producer, AIOKafkaProducer):
        message = f"wrap() takes an AIOKafkaProducer, got {type(producer).__name__}"
        raise WrongUseError(message)
    return cast("ProducerT", _Producer(unwrap(producer), _VERBS.sender(options)))


def unwrap(producer: ProducerT) -> ProducerT:
    """Return the producer that was given to `wrap`, or *producer* itself if it is not wrapped."""
    target: object = producer
    return cast("ProducerT", target.__wrapped__) if isinstance(target, _Producer) else producer


class _Producer(ObjectProxy):  # type: ignore[type-arg] # wrapt 2.1 cannot be subscripted
    """A producer whose sends carry the current context."""

    def __init__(self, producer: AIOKafkaProducer, sender: Sender[KafkaHeaders]) -> None:
        super().__init__(producer)
        self._self_sender = sender

    async def send(
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Any = None,
    ) -> asyncio.Future[RecordMetadata]:
        publishing = self._self_sender.publish(headers, topic, by=self.__wrapped__)
        try:
            delivery = await publishing.send_async(
                lambda headers: self.__wrapped__.send(topic, value, key, partition, timestamp_ms, headers),
                _is_too_large,
            )
        except BaseException as error:
            publishing.end(error)
            raise
        return publishing.end_with(delivery)

    async def send_and_wait(
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Any = None,
    ) -> RecordMetadata:
        with self._self_sender.publish(headers, topic, by=self.__wrapped__) as publishing:
            metadata: RecordMetadata = await publishing.send_async(
                lambda headers: self.__wrapped__.send_and_wait(
                    topic, value, key, partition, timestamp_ms, headers
                ),
                _is_too_large,
            )
            return metadata

    def create_batch(self) -> BatchBuilder:
        return cast("BatchBuilder", _BatchBuilder(self.__wrapped__.create_batch(), self._self_sender))

    async def send_batch(
        self, batch: BatchBuilder, topic: str, *, partition: int
    ) -> asyncio.Future[RecordMetadata]:
        builder, created = _unwrapped_batch(batch)
        publishing = self._self_sender.publish_batch(topic, created, builder.record_count())
        try:
            delivery = await self.__wrapped__.send_batch(builder, topic, partition=partition)
        except BaseException as error:
            publishing.end(error)
            raise
        return publishing.end_with(delivery)

    async def __aenter__(self) -> Self:
        await self.__wrapped__.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.__wrapped__.__aexit__(kind, error, trace)


class _BatchBuilder(ObjectProxy):  # type: ignore[type-arg] # wrapt 2.1 cannot be subscripted
    """A batch builder whose records carry the context that is current when they are appended."""

    def __init__(self, builder: BatchBuilder, sender: Sender[KafkaHeaders]) -> None:
        super().__init__(builder)
        self._self_sender = sender
        self._self_created: list[TraceContext] = []

    @property
    def created(self) -> list[TraceContext]:
        return self._self_created

    def append(self, *, timestamp: int | None, key: Any, value: Any, headers: Any = None) -> Any:
        with self._self_sender.publish(headers, "", name="create") as publishing:
            metadata = self.__wrapped__.append(
                timestamp=timestamp, key=key, value=value, headers=publishing.headers
            )
            if metadata is None:
                publishing.end_as("rejected")
            elif publishing.is_recorded and publishing.context is not None:
                self._self_created.append(publishing.context)
        return metadata


def _is_too_large(error: BaseException) -> bool:
    return isinstance(error, MessageSizeTooLargeError)


def _unwrapped_batch(batch: BatchBuilder) -> tuple[BatchBuilder, tuple[TraceContext, ...]]:
    """Return the client's own builder, and the recorded contexts that are in it."""
    builder: object = batch
    return (
        (builder.__wrapped__, tuple(builder.created)) if isinstance(builder, _BatchBuilder) else (batch, ())
    )
