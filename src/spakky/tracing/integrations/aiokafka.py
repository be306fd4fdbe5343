"""aiokafka: wrap the producer, decorate the consumer's handler or iterate over the consumer.

producer = aiokafka.wrap(AIOKafkaProducer(...))
await producer.send_and_wait("orders", b"...")

@aiokafka.consumer
async def handle(record: ConsumerRecord) -> None: ...

async for record in aiokafka.iterate(consumer): ...
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias, TypeVar, cast, overload

from spakky.tracing._extras import raise_missing_extra
from spakky.tracing.boundaries.client import Client
from spakky.tracing.boundaries.handler import HandlerT, handles_batch, handles_message
from spakky.tracing.boundaries.iteration import AsyncIteration
from spakky.tracing.boundaries.options import Policy, ReceiveOptions, SendOptions
from spakky.tracing.boundaries.process import BatchProcessing, Processing, Receiver
from spakky.tracing.boundaries.publish import Sender
from spakky.tracing.carriers.kafka import CARRIER, KafkaHeaders
from spakky.tracing.error import WrongUseError

try:
    from aiokafka import AIOKafkaProducer, ConsumerRecord
    from wrapt import ObjectProxy
except ModuleNotFoundError as error:
    raise_missing_extra("aiokafka", {"aiokafka", "wrapt"}, error)

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Unpack

    from aiokafka.producer.message_accumulator import BatchBuilder
    from aiokafka.structs import RecordMetadata, TopicPartition

    from spakky.tracing.context import TraceContext

__all__ = [
    "batch_consumer",
    "consumer",
    "context_from",
    "headers",
    "iterate",
    "process",
    "process_batch",
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
)
_SENDER: Final = Sender(_CLIENT, Policy())
_RECEIVER: Final = Receiver(_CLIENT, Policy())


def wrap(producer: ProducerT, **options: Unpack[SendOptions]) -> ProducerT:
    """Return a producer whose sends carry the current context; *producer* itself stays as it is.

    Covered are `send`, `send_and_wait`, and `create_batch` with `append` and `send_batch`, also inside of
    transactions. Everything else is *producer*'s own. Wrapping what is wrapped replaces its options.

    Args:
        producer: Started or not.
        **options: See `SendOptions`.

    Raises:
        WrongUseError: This is no `AIOKafkaProducer`, or an option is not known.
    """
    if not isinstance(producer, AIOKafkaProducer):
        message = f"wrap() takes an AIOKafkaProducer, got {type(producer).__name__}"
        raise WrongUseError(message)
    return cast("ProducerT", _Producer(unwrap(producer), _sender(options)))


def unwrap(producer: ProducerT) -> ProducerT:
    """Return the producer that was given to `wrap`, or *producer* itself if it is not wrapped."""
    return cast("ProducerT", getattr(producer, "__wrapped__", producer))


def headers(
    existing: Iterable[tuple[str, bytes | None]] | Mapping[str, bytes | None] | None = None,
    **options: Unpack[SendOptions],
) -> KafkaHeaders:
    """Return headers for a send by hand: *existing* ones, which stay as they are, and the current context.

    Args:
        existing: Headers of the message; `None` for none.
        **options: See `SendOptions`.

    Raises:
        WrongUseError: *existing* cannot be Kafka headers, or an option is not known.
    """
    return _sender(options).headers(existing)


@overload
def consumer(handler: HandlerT, /) -> HandlerT: ...
@overload
def consumer(**options: Unpack[ReceiveOptions]) -> Callable[[HandlerT], HandlerT]: ...
def consumer(
    handler: HandlerT | None = None, /, **options: Unpack[ReceiveOptions]
) -> HandlerT | Callable[[HandlerT], HandlerT]:
    """Decorate a handler, so that it runs in the context of the `ConsumerRecord` it is called with.

    Args:
        handler: An async or sync callable with a record among its arguments.
        **options: See `ReceiveOptions`.

    Raises:
        WrongUseError: The handler is not callable or is called without a record, or an option is not known.
    """
    receiver = _receiver(options)
    return partial(handles_message, receiver) if handler is None else handles_message(receiver, handler)


@overload
def batch_consumer(handler: HandlerT, /) -> HandlerT: ...
@overload
def batch_consumer(**options: Unpack[ReceiveOptions]) -> Callable[[HandlerT], HandlerT]: ...
def batch_consumer(
    handler: HandlerT | None = None, /, **options: Unpack[ReceiveOptions]
) -> HandlerT | Callable[[HandlerT], HandlerT]:
    """Decorate a handler, so that it runs in one context that links to the senders of all its records.

    Args:
        handler: An async or sync callable with a list of records, or what `getmany` returns, among its
            arguments.
        **options: See `ReceiveOptions`.

    Raises:
        WrongUseError: The handler is not callable or is called without records, or an option is not known.
    """
    receiver = _receiver(options)
    return partial(handles_batch, receiver) if handler is None else handles_batch(receiver, handler)


def iterate(source: AsyncIterable[_Record], **options: Unpack[ReceiveOptions]) -> AsyncIteration[_Record]:
    """Return the records of *source*, each loop body in the context of its record.

    Args:
        source: A started `AIOKafkaConsumer`, or any async iterable of records.
        **options: See `ReceiveOptions`.

    Raises:
        WrongUseError: *source* is no async iterable, or an option is not known.
    """
    return AsyncIteration(_receiver(options), source)


def process(record: _Record, **options: Unpack[ReceiveOptions]) -> Processing[_Record]:
    """Return a `with` block in which the context of *record* is current.

    Args:
        record: What `getone` returned, or one of what `getmany` did.
        **options: See `ReceiveOptions`.

    Raises:
        WrongUseError: This is no `ConsumerRecord`, or an option is not known.
    """
    return _receiver(options).process(record)


def process_batch(
    records: Sequence[_Record] | Mapping[TopicPartition, Sequence[_Record]], **options: Unpack[ReceiveOptions]
) -> BatchProcessing[_Record]:
    """Return a `with` block for several records at once; it links to their senders.

    Args:
        records: A sequence, or what `getmany` returned.
        **options: See `ReceiveOptions`.

    Raises:
        WrongUseError: These are no records, or an option is not known.
    """
    return _receiver(options).process_batch(records)


def context_from(record: _Record, **options: Unpack[ReceiveOptions]) -> TraceContext | None:
    """Return the context that *record* carries, `None` if there is none that can be used.

    Args:
        record: A received record.
        **options: See `ReceiveOptions`.

    Raises:
        WrongUseError: This is no `ConsumerRecord`, or an option is not known.
    """
    return _receiver(options).context_from(record)


def _sender(options: SendOptions) -> Sender[KafkaHeaders]:
    return Sender(_CLIENT, Policy.of(SendOptions, options)) if options else _SENDER


def _receiver(options: ReceiveOptions) -> Receiver[_Record]:
    return Receiver(_CLIENT, Policy.of(ReceiveOptions, options)) if options else _RECEIVER


class _Producer(ObjectProxy["AIOKafkaProducer"]):
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
        publishing = self._self_sender.publish(headers, topic)
        try:
            delivery = await self.__wrapped__.send(
                topic, value, key, partition, timestamp_ms, publishing.headers
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
        with self._self_sender.publish(headers, topic) as publishing:
            metadata: RecordMetadata = await self.__wrapped__.send_and_wait(
                topic, value, key, partition, timestamp_ms, publishing.headers
            )
            return metadata

    def create_batch(self) -> BatchBuilder:
        return cast("BatchBuilder", _BatchBuilder(self.__wrapped__.create_batch(), self._self_sender))

    async def send_batch(
        self, batch: BatchBuilder, topic: str, *, partition: int
    ) -> asyncio.Future[RecordMetadata]:
        builder, created = _unwrapped_batch(batch)
        publishing = self._self_sender.publish_batch(topic, created)
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


class _BatchBuilder(ObjectProxy["BatchBuilder"]):
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


def _unwrapped_batch(batch: BatchBuilder) -> tuple[BatchBuilder, tuple[TraceContext, ...]]:
    """Return the client's own builder, and the recorded contexts that are in it."""
    builder: object = batch
    return (
        (builder.__wrapped__, tuple(builder.created)) if isinstance(builder, _BatchBuilder) else (batch, ())
    )
