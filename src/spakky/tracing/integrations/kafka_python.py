"""kafka-python: wrap the producer, decorate the consumer's handler or iterate over the consumer.

Usage:

    producer = kafka_python.wrap(KafkaProducer(...))
    producer.send("orders", b"...").get(timeout=10)

    @kafka_python.consumer
    def handle(record: ConsumerRecord) -> None: ...

    for record in kafka_python.iterate(consumer): ...

    with kafka_python.process_batch(consumer.poll(timeout_ms=1000)) as batch: ...

A message is a `ConsumerRecord`, a batch a list of them or what `poll` returns, headers are a list of
`(str, bytes)`. A header without a value is received but not sent: the client refuses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

from spakky.tracing._extras import raise_missing_extra
from spakky.tracing.boundaries.client import Client
from spakky.tracing.boundaries.verbs import Verbs
from spakky.tracing.carriers.kafka import CARRIER, KafkaHeaders, attributes_from, delivery_from
from spakky.tracing.error import WrongUseError

try:
    from kafka import KafkaProducer
    from kafka.consumer.fetcher import ConsumerRecord
    from kafka.errors import MessageSizeTooLargeError
    from wrapt import ObjectProxy
except ModuleNotFoundError as error:
    raise_missing_extra("kafka-python", {"kafka", "wrapt"}, error)

if TYPE_CHECKING:
    from typing import Unpack

    from kafka.producer.future import FutureRecordMetadata

    from spakky.tracing.boundaries.options import SendOptions
    from spakky.tracing.boundaries.publish import Publishing, Sender

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

ProducerT = TypeVar("ProducerT", bound=KafkaProducer)

_CLIENT: Final[Client[ConsumerRecord, KafkaHeaders]] = Client(
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

    Covered is `send`, also inside of transactions; its future is the client's own. Everything else is
    *producer*'s own. Wrapping what is wrapped replaces its options.

    A send of nearly `max_request_size` bytes that is refused with the context is repeated with less of it, so
    that the serializers and the partitioner run again for such a message, twice at most.

    Args:
        producer: A producer that is open.
        **options: See `SendOptions`.

    Raises:
        WrongUseError: This is no `KafkaProducer`, or an option is not known.
    """
    if not isinstance(producer, KafkaProducer):
        message = f"wrap() takes a KafkaProducer, got {type(producer).__name__}"
        raise WrongUseError(message)
    return cast("ProducerT", _Producer(unwrap(producer), _VERBS.sender(options)))


def unwrap(producer: ProducerT) -> ProducerT:
    """Return the producer that was given to `wrap`, or *producer* itself if it is not wrapped."""
    target: object = producer
    return cast("ProducerT", target.__wrapped__) if isinstance(target, _Producer) else producer


class _Producer(ObjectProxy):  # type: ignore[type-arg] # wrapt 2.1 cannot be subscripted
    """A producer whose sends carry the current context."""

    def __init__(self, producer: KafkaProducer, sender: Sender[KafkaHeaders]) -> None:
        super().__init__(producer)
        self._self_sender = sender

    def send(
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        headers: Any = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> FutureRecordMetadata:
        publishing = self._self_sender.publish(headers, topic, by=self.__wrapped__)
        try:
            delivery = publishing.send(
                lambda headers: self.__wrapped__.send(
                    topic,
                    value,
                    key,
                    # By name: OpenTelemetry's instrumentation fails where a None is given by place.
                    headers=_lent(headers, publishing),
                    partition=partition,
                    timestamp_ms=timestamp_ms,
                ),
                _is_too_large,
            )
        except BaseException as error:
            publishing.end(error)
            raise
        return _ended_with(delivery, publishing)

    def __enter__(self) -> Self:
        self.__wrapped__.__enter__()
        return self


def _lent(headers: KafkaHeaders, publishing: Publishing[KafkaHeaders]) -> KafkaHeaders:
    """Return headers that the client's serializers may add to, as often as a send is tried.

    Where sending is switched off, these are the caller's own as they are.
    """
    return headers if publishing.context is None else headers.copy()


def _ended_with(delivery: FutureRecordMetadata, publishing: Publishing[KafkaHeaders]) -> FutureRecordMetadata:
    """Let the sending end when *delivery* is done; nobody who looks at it can tell."""
    if publishing.is_recorded:
        delivery.add_callback(lambda metadata: publishing.end())  # noqa: ARG005 - the client passes it
        delivery.add_errback(publishing.end)
    return delivery


def _is_too_large(error: BaseException) -> bool:
    return isinstance(error, MessageSizeTooLargeError)
