"""confluent-kafka on a real Kafka."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from confluent_kafka import (
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    DeserializingConsumer,
    KafkaError,
    KafkaException,
    Message,
    Messages,
    Producer,
    SerializingProducer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic
from confluent_kafka.aio import AIOConsumer, AIOProducer, AsyncSerializingProducer
from confluent_kafka.error import ValueDeserializationError

from architecture.project import run
from contract.choosing import ChoosingContract
from contract.contexts import STALE, TRACEPARENT, full_context
from contract.delivery import Delivery, VerbsReceivingContract
from contract.fitting import FittingContract, warnings_in
from contract.handling import HandlerContract
from contract.pulling import PullingContract, current_trace_id
from contract.retrying import RetryingContract
from contract.sending import SendingContract, Wire, texts
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.integrations import confluent_kafka
from spakky.tracing.recorder import MemoryRecorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

Report = tuple[KafkaError | None, Message]

SECONDS = 10.0


class Topic:
    """A topic with the bare client at both ends; all that is read was sent in the same test."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.producer = self.new_producer()
        self.transactional = self.new_producer(**{"transactional.id": uuid4().hex})
        self.transactional.init_transactions(SECONDS)
        self.serializing = SerializingProducer(self.settings(**{"value.serializer": lambda value, _: value}))
        self.consumer = self.new_consumer()
        self.other_consumer = self.new_consumer()
        self.deserializing = DeserializingConsumer(self.consumer_settings())

    def settings(self, **settings: Any) -> dict[str, Any]:
        return {"bootstrap.servers": self.address, "linger.ms": 0, "log_level": 0, **settings}

    def consumer_settings(self, **settings: Any) -> dict[str, Any]:
        quick = {"fetch.wait.max.ms": 10, "enable.auto.commit": False, "auto.offset.reset": "earliest"}
        return {"bootstrap.servers": self.address, "group.id": uuid4().hex, **quick, **settings}

    def new_producer(self, **settings: Any) -> Producer:
        return Producer(self.settings(**settings))

    def new_consumer(self, **settings: Any) -> Consumer:
        return Consumer(self.consumer_settings(**settings))

    def close(self) -> None:
        for each in (self.consumer, self.other_consumer, self.deserializing):
            each.close()
        for producer in (self.producer, self.transactional, self.serializing):
            producer.close()

    @property
    def end(self) -> TopicPartition:
        _, offset = self.consumer.get_watermark_offsets(TopicPartition(self.name, 0), SECONDS)
        return TopicPartition(self.name, 0, offset)

    def begin(self) -> None:
        """Let the consumers start with what is sent from now on."""
        for consumer in (self.consumer, self.other_consumer, self.deserializing):
            consumer.assign([self.end])

    def send(self, headers: Any = None, value: bytes = b"value") -> None:
        self.producer.produce(self.name, value, partition=0, headers=headers)
        assert self.producer.flush(SECONDS) == 0

    def message(self) -> Message:
        message = self.consumer.poll(SECONDS)
        assert message is not None
        assert message.error() is None
        return message

    def messages(self, count: int) -> list[Message]:
        return [self.message() for _ in range(count)]

    def deliver(self, headers: dict[str, Any]) -> Message:
        """Send headers by the bare client and take the message."""
        self.send(
            [(name, value.encode() if isinstance(value, str) else value) for name, value in headers.items()]
        )
        return self.message()


@pytest.fixture(scope="module")
def one_topic(kafka_address: str) -> Iterator[Topic]:
    topic = Topic(new_topic(kafka_address), kafka_address)
    yield topic
    topic.close()


@pytest.fixture
def topic(one_topic: Topic) -> Topic:
    one_topic.begin()
    return one_topic


def new_topic(address: str, partitions: int = 1, **settings: str) -> str:
    name = f"orders-{uuid4().hex}"
    config = {setting.replace("_", "."): value for setting, value in settings.items()}
    admin = AdminClient({"bootstrap.servers": address})
    admin.create_topics([NewTopic(name, partitions, 1, config=config)])[name].result(SECONDS)
    return name


class Sending:
    """Sends through the wrapped producer and looks at what arrives."""

    @pytest.fixture(autouse=True)
    def _on(self, topic: Topic) -> None:
        self.topic = topic

    async def send(self, way: str, headers: Any, *, value: bytes = b"value", **options: Any) -> None:
        send = {
            "serializing": self.send_serialized,
            "transaction": self.send_in_transaction,
            "headers": self.send_by_hand,
        }.get(way, partial(self.send_plainly, way))
        send(headers, value, options)

    def send_plainly(self, way: str, headers: Any, value: bytes, options: Any) -> None:
        producer = confluent_kafka.wrap(self.topic.producer, **options)
        name = self.topic.name
        if way == "produce":
            producer.produce(name, value, partition=0, headers=headers)
        elif way == "positional":
            producer.produce(name, value, None, 0, None, None, 0, headers)
        elif way == "keywords":
            producer.produce(headers=headers, partition=0, value=value, key=None, topic=name, timestamp=0)
        elif way == "callback":
            producer.produce(name, value, partition=0, on_delivery=lambda *_: None, headers=headers)
        else:
            producer.produce_batch(name, [{"value": value, "headers": headers}], partition=0)
        assert producer.flush(SECONDS) == 0

    def send_serialized(self, headers: Any, value: bytes, options: Any) -> None:
        producer = confluent_kafka.wrap(self.topic.serializing, **options)
        producer.produce(self.topic.name, None, value, 0, None, 0, headers)
        assert producer.flush(SECONDS) == 0

    def send_in_transaction(self, headers: Any, value: bytes, options: Any) -> None:
        producer = confluent_kafka.wrap(self.topic.transactional, **options)
        producer.begin_transaction()
        try:
            producer.produce(self.topic.name, value, partition=0, headers=headers)
        except BaseException:
            producer.abort_transaction(SECONDS)
            raise
        producer.commit_transaction(SECONDS)

    def send_by_hand(self, headers: Any, value: bytes, options: Any) -> None:
        self.topic.send(confluent_kafka.headers(headers, **options), value)

    async def send_filled(self, way: str, filling: int, **options: Any) -> None:
        await self.send(way, None, value=b"x" * filling, **options)

    async def arrived(self) -> Wire:
        return wire_of(self.topic.message())

    def native(self, headers: dict[str, str]) -> Any:
        return [(name, value.encode()) for name, value in headers.items()]

    async def fail_to_send(self, way: str, **options: Any) -> BaseException:
        with pytest.raises(TypeError) as raised:
            await self.send(way, [("name", 7)], **options)
        return raised.value


class TestSending(Sending, SendingContract):
    ways = ["produce", "positional", "keywords", "callback", "serializing", "transaction", "headers"]
    recorded_ways = [way for way in ways if way != "headers"]
    foreign = [
        ("zebra", b"\x00\xff"),
        ("app", b"1"),
        ("app", b"2"),
        ("text", "é"),
        ("null", None),
        ("empty", b""),
    ]


class TestSendingDicts(Sending, SendingContract):
    """The client's other shape of headers."""

    ways = ["produce", "serializing"]
    recorded_ways = ways
    foreign = {"zebra": b"\x00\xff", "app": b"1", "text": "é", "null": None, "empty": b""}

    def native(self, headers: dict[str, str]) -> Any:
        return dict(headers)


class TestSendingBatches(Sending, SendingContract):
    """The client's own batch call drops all headers, so this is where it and a wrapped one differ."""

    ways = ["produce_batch"]
    recorded_ways = ways
    foreign = TestSending.foreign

    async def test_other_headers_arrive_as_they_were_given(self, way: str) -> None:
        self.topic.send(self.foreign)
        one_by_one = await self.arrived()
        with TraceContext.use(TraceContext.new_root()):
            wire = await self.sent(way, self.foreign)

        assert wire.pop("traceparent")
        assert (wire, list(wire)) == (one_by_one, list(one_by_one))

    async def test_switched_off_nothing_is_written(self, way: str) -> None:
        with TraceContext.use(full_context()):
            assert await self.sent(way, self.native({"app": "1"}), enabled=False) == {}

    async def fail_to_send(self, way: str, **options: Any) -> BaseException:
        closed = self.topic.new_producer()
        closed.close()
        with pytest.raises(RuntimeError) as raised:
            confluent_kafka.wrap(closed, **options).produce_batch(self.topic.name, [{"value": b"value"}])
        return raised.value


class TestFitting(Sending, FittingContract):
    fitting_ways = ["produce", "positional", "callback", "serializing", "transaction", "produce_batch"]
    largest = 1_000_000 - 60


class OverKafka(Delivery):
    integration = confluent_kafka

    @pytest.fixture(autouse=True)
    def _on(self, topic: Topic) -> None:
        self.topic = topic

    @property
    def source(self) -> str:
        return self.topic.name

    async def deliver(self, headers: dict[str, Any]) -> Message:
        return self.topic.deliver(headers)

    async def deliver_native(self, headers: Any) -> Message:
        self.topic.send(headers)
        return self.topic.message()


class TestReceiving(OverKafka, VerbsReceivingContract):
    ways = [
        *VerbsReceivingContract.ways,
        "iterate consumer",
        "iterate deserializing consumer",
        "iterate asyncio consumer",
        "iterate consumed",
        "iterate share",
    ]
    hostile_values = [b"", b"\xff\xfe", b"00-bad", b"x" * 100_000, None, f"{TRACEPARENT}\n".encode()]

    async def receive(
        self, way: str, headers: dict[str, Any], body: Callable[[], None], **options: Any
    ) -> None:
        if way in VerbsReceivingContract.ways:
            await super().receive(way, headers, body, **options)
            return
        message = self.topic.deliver(headers)
        start = TopicPartition(self.topic.name, 0, message.offset() or 0)
        if way == "iterate asyncio consumer":
            async with asyncio_consumer(self.topic, start) as consumer:
                async for _ in confluent_kafka.iterate(consumer, **options):
                    body()
                    break
            return
        for _ in confluent_kafka.iterate(self.source_for(way, message, start), **options):
            body()
            break

    def source_for(self, way: str, message: Message, start: TopicPartition) -> Any:
        topic = self.topic
        if way == "iterate share":
            return Share([message])
        consumer = topic.deserializing if "deserializing" in way else topic.other_consumer
        consumer.assign([start])
        return consumer.consume(1, SECONDS) if way == "iterate consumed" else consumer


class TestHandlers(OverKafka, HandlerContract): ...


class TestPulling(OverKafka, PullingContract): ...


class TestChoosing(OverKafka, ChoosingContract): ...


class TestRetrying(OverKafka, RetryingContract): ...


class Share:
    """Polled as a `ShareConsumer` is, which needs a broker with share groups: several messages at once."""

    def __init__(self, *batches: list[Message]) -> None:
        self._batches = iter([*batches, []])

    def poll(self, timeout: float = -1) -> Messages:
        return Messages(next(self._batches))


@contextlib.asynccontextmanager
async def asyncio_consumer(topic: Topic, start: TopicPartition) -> AsyncIterator[AIOConsumer]:
    async with AIOConsumer(topic.consumer_settings(), max_workers=2) as consumer:
        await consumer.assign([start])
        yield consumer


def wire_of(message: Message) -> Wire:
    wire: Wire = {}
    for name, value in message.headers() or []:
        wire.setdefault(name, []).append(value)
    return wire


def texts_of(message: Message, name: str) -> list[str]:
    return texts(wire_of(message), name)
