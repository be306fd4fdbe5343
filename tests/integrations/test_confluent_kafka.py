"""confluent-kafka on a real Kafka."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import importlib
import itertools
import logging
import weakref
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
from confluent_kafka.admin import AdminClient
from confluent_kafka.aio import AIOConsumer, AIOProducer, AsyncSerializingProducer
from confluent_kafka.cimpl import NewTopic
from confluent_kafka.error import ValueDeserializationError
from wrapt import ObjectProxy

from architecture.project import run
from contract.choosing import ChoosingContract
from contract.contexts import STALE, TRACEPARENT, full_context
from contract.delivery import Delivery, VerbsReceivingContract
from contract.fitting import FittingContract, warnings_in
from contract.handling import HandlerContract
from contract.pulling import PullingContract, current_trace_id
from contract.retrying import RetryingContract
from contract.sending import SendingContract, Wire, texts
from spakky.tracing.baggage import Baggage
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.integrations import confluent_kafka
from spakky.tracing.recorder import MemoryRecorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from confluent_kafka.serialization import SerializationContext

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


class TestProducer:
    def test_a_wrapped_producer_is_a_producer(self, topic: Topic) -> None:
        producer = confluent_kafka.wrap(topic.producer)

        assert isinstance(producer, Producer)
        assert confluent_kafka.unwrap(producer) is topic.producer
        assert confluent_kafka.unwrap(topic.producer) is topic.producer

    def test_wrapping_twice_is_wrapping_once(self, topic: Topic) -> None:
        recorder = MemoryRecorder()
        once = confluent_kafka.wrap(topic.producer, tracer=recorder)
        producer = confluent_kafka.wrap(once, tracer=recorder)

        producer.produce(topic.name, b"value", partition=0)
        producer.flush(SECONDS)

        assert len(topic.message().headers() or []) == 1
        assert len(recorder.spans) == 1
        assert confluent_kafka.unwrap(producer) is topic.producer

    def test_a_proxy_of_somebody_else_keeps_its_place(self, topic: Topic) -> None:
        proxy = CountingProxy(topic.producer)
        foreign: Any = proxy
        producer = confluent_kafka.wrap(confluent_kafka.wrap(foreign))

        assert isinstance(producer, Producer)
        assert confluent_kafka.unwrap(producer) is foreign
        assert confluent_kafka.unwrap(foreign) is foreign
        with TraceContext.use(TraceContext.new_root()) as context:
            producer.produce(topic.name, b"value", partition=0)
            assert producer.produce_batch(topic.name, [{"value": b"value"}], 0) == 1  # which no proxy sees
        producer.flush(SECONDS)

        assert context is not None
        assert proxy.count == 1
        for message in topic.messages(2):
            assert texts_of(message, "traceparent") == [context.to_traceparent()]

    def test_a_proxy_of_somebody_else_hides_nothing_of_the_producer(self, topic: Topic) -> None:
        """Neither its callback for delivery reports nor the order of its parameters."""
        reports: list[Report] = []
        own: list[Report] = []
        settings = topic.settings(on_delivery=collecting(reports))
        for bare, args in ((Producer(settings), ()), (SerializingProducer(settings), (0, collecting(own)))):
            recorder = MemoryRecorder()
            foreign: Any = CountingProxy(bare)
            producer = confluent_kafka.wrap(foreign, tracer=recorder)
            producer.produce(topic.name, None, b"value", *args)
            assert producer.flush(SECONDS) == 0
            assert [span.outcome for span in recorder.spans] == ["ok"]

        assert (len(reports), len(own)) == (1, 1)

    def test_one_header_of_55_bytes_is_added(self, topic: Topic) -> None:
        """K-29: exactly one header without trace state and baggage."""
        with TraceContext.use(TraceContext.new_root()) as context:
            confluent_kafka.wrap(topic.producer).produce(topic.name, b"value", partition=0)
        topic.producer.flush(SECONDS)

        assert context is not None
        assert topic.message().headers() == [("traceparent", context.to_traceparent().encode())]

    def test_a_producer_from_before_the_import_keeps_every_public_method(self, kafka_address: str) -> None:
        """K-24: created before this library is imported."""
        finished = run(
            """
import os, sys
from confluent_kafka import Producer, SerializingProducer

settings = {"bootstrap.servers": os.environ["KAFKA"], "log_level": 0}
producers = [Producer(settings), SerializingProducer(settings)]
assert not [name for name in sys.modules if name.startswith("spakky")]

from spakky.tracing.integrations import confluent_kafka

for bare in producers:
    producer = confluent_kafka.wrap(bare)
    public = {name for name in dir(bare) if not name.startswith("_")}
    assert all(getattr(producer, name) is not None for name in public)
    assert producer.list_topics(timeout=10).brokers.keys() == bare.list_topics(timeout=10).brokers.keys()
    assert producer.cluster_id(10) == bare.cluster_id(10)
    assert (len(producer), bool(producer), producer.poll(0), producer.flush(10)) == (0, True, 0, 0)
    producer.purge()
    producer.set_sasl_credentials("user", "password")
    try:
        producer.init_transactions(10)
    except Exception as error:
        assert "transactional.id" in str(error), error
    with producer as entered:
        assert entered is producer
    for each in (bare, producer):
        try:
            each.flush()
        except RuntimeError as error:
            assert "closed" in str(error)
        else:
            raise AssertionError("still open")
    assert producer.close() is True
""",
            KAFKA=kafka_address,
        )

        assert finished.returncode == 0, finished.stderr

    def test_the_client_library_stays_as_it_was(self, topic: Topic) -> None:
        produce, attributes = SerializingProducer.produce, dict(vars(topic.serializing))

        confluent_kafka.wrap(topic.serializing)

        assert SerializingProducer.produce is produce
        assert vars(topic.serializing) == attributes

    @pytest.mark.parametrize("recorded", [False, True])
    @pytest.mark.parametrize(
        ("args", "kwargs"),
        [
            pytest.param((), {}, id="topic"),
            pytest.param((b"value",), {}, id="value"),
            pytest.param(("value", "key"), {}, id="text"),
            pytest.param((b"value", b"\xff", 0), {}, id="binary-key"),
            pytest.param((b"value", None, 0, None, None, 1234567890123), {}, id="timestamp"),
            pytest.param((b"value", None, 0, None, None, 0, None), {}, id="no-headers"),
            pytest.param((b"value", None, 0, None, None, 0, {"app": "1"}), {}, id="all"),
            pytest.param((b"value",), {"key": b"key", "headers": [("app", b"1")]}, id="mixed"),
            pytest.param((), {"value": None, "key": None, "partition": 0, "headers": None}, id="keywords"),
            pytest.param((), {"timestamp": 1234567890123, "callback": None}, id="no-callback"),
        ],
    )
    def test_every_spelling_of_the_call_sends_the_same(
        self, topic: Topic, args: tuple[Any, ...], kwargs: dict[str, Any], *, recorded: bool
    ) -> None:
        """K-16: every positional and keyword spelling; K-18: any key."""
        options: Any = {"tracer": MemoryRecorder()} if recorded else {}
        wrapped = confluent_kafka.wrap(topic.producer, **options)

        for producer in (topic.producer, wrapped):
            assert producer.produce(topic.name, *args, **kwargs) is None  # type: ignore[func-returns-value]
            producer.flush(SECONDS)
        bare, traced = topic.messages(2)

        assert facts_of(traced) == facts_of(bare)
        assert texts_of(traced, "app") == texts_of(bare, "app")
        assert len(texts_of(traced, "traceparent")) == 1

    @pytest.mark.parametrize(
        ("args", "kwargs"),
        [
            pytest.param((), {}, id="nothing"),
            pytest.param((7,), {}, id="no-topic"),
            pytest.param(("{topic}", b"", b"", 0, None, None, 0, None, "ninth"), {}, id="too-many"),
            pytest.param(("{topic}",), {"topic": "{topic}"}, id="twice"),
            pytest.param(("{topic}",), {"values": b""}, id="unknown"),
            pytest.param(("{topic}", 7), {}, id="value"),
            pytest.param(("{topic}",), {"partition": None}, id="partition"),
            pytest.param(("{topic}",), {"headers": [["app", b"1"]]}, id="list-for-a-pair"),
            pytest.param(("{topic}",), {"headers": [("app",)]}, id="no-pair"),
            pytest.param(("{topic}",), {"headers": {"app": 1}}, id="number"),
        ],
    )
    def test_a_wrong_call_raises_what_the_client_raises(
        self, topic: Topic, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        args = tuple(topic.name if each == "{topic}" else each for each in args)
        errors = []
        for producer in (topic.producer, confluent_kafka.wrap(topic.producer)):
            with pytest.raises(TypeError) as raised:
                producer.produce(*args, **kwargs)
            errors.append(str(raised.value))

        assert errors[0] == errors[1]

    @pytest.mark.parametrize("name", ["producer", "serializing"])
    def test_any_headers_a_caller_may_have_are_accepted(self, topic: Topic, name: str) -> None:
        """K-01 and K-17: None, dict, list, tuple, empty, generator."""
        producer = confluent_kafka.wrap(getattr(topic, name))
        app = [("app", b"1")]
        shapes: list[Any] = [None, [], (), {}, {"app": b"1"}, {"app": "1"}, app, tuple(app), iter(app)]

        for headers in shapes:
            producer.produce(topic.name, value=b"value", headers=headers, partition=0)
        producer.flush(SECONDS)

        for message, has_app in zip(topic.messages(9), [False] * 4 + [True] * 5, strict=True):
            assert len(texts_of(message, "traceparent")) == 1
            assert texts_of(message, "app") == (["1"] if has_app else [])

    def test_the_headers_of_the_caller_reach_the_client_as_they_were_given(self, topic: Topic) -> None:
        """What the client makes of them is its own business: it cuts text at NUL and dies of a surrogate."""
        seen: list[Any] = []

        class Seeing(Producer):
            def produce(self, *args: Any, **kwargs: Any) -> None:
                seen.append(kwargs["headers"])

        headers: list[Any] = [("\ud800", "a\0b"), (b"bytes", None), (7, b"7"), ("text", "é")]
        producer = confluent_kafka.wrap(Seeing(topic.settings()))
        with TraceContext.use(TraceContext.new_root()) as context:
            producer.produce(topic.name, headers=headers)
            producer.produce(topic.name, headers=dict(headers))

        assert context is not None
        sent = [*headers, ("traceparent", context.to_traceparent().encode())]
        assert seen == [sent, dict(sent)]

    def test_a_received_message_can_be_forwarded_with_its_headers(self, topic: Topic) -> None:
        """K-01, K-02, K-30: one traceparent, the current one, whatever was there before."""
        old = topic.deliver({"TraceParent": STALE, "app": b"\xff", "tracestate": "old=1"})

        with confluent_kafka.process(old) as processing:
            confluent_kafka.wrap(topic.producer).produce(
                topic.name, old.value(), partition=0, headers=old.headers()
            )
        topic.producer.flush(SECONDS)
        new = topic.message()

        assert processing.context is not None
        assert new.headers() == [
            ("app", b"\xff"),
            ("traceparent", processing.context.to_traceparent().encode()),
            ("tracestate", b"old=1"),
        ]

    def test_a_produce_that_is_not_flushed_leaves_nothing_current(self, topic: Topic) -> None:
        """K-19: the context after three sends is the one before the first."""
        producer = confluent_kafka.wrap(topic.producer, tracer=MemoryRecorder())

        with TraceContext.use(TraceContext.new_root()) as context:
            for _ in range(3):
                producer.produce(topic.name, b"value", partition=0)
            assert TraceContext.get() is context
            producer.flush(SECONDS)
            assert TraceContext.get() is context

    def test_a_producer_of_a_subclass_with_a_signature_of_its_own_is_covered(self, topic: Topic) -> None:
        class Named(Producer):
            def produce(self, topic: str, headers: Any = None, **rest: Any) -> None:  # type: ignore[override]
                super().produce(topic, headers=headers, **rest)

        class Passing(Producer):
            def produce(self, *args: Any, **kwargs: Any) -> None:
                super().produce(*args, **kwargs)

        calls: list[tuple[Producer, list[Any]]] = [
            (Named(topic.settings()), [topic.name, {"app": "1"}]),
            (Passing(topic.settings()), [topic.name, None, None, 0, None, None, 0, {"app": "1"}]),
        ]
        for bare, args in calls:
            with confluent_kafka.wrap(bare) as producer:
                producer.produce(*args)
            message = topic.message()
            assert len(texts_of(message, "traceparent")) == 1
            assert texts_of(message, "app") == ["1"]

    def test_transactions_work(self, topic: Topic) -> None:
        """K-21: produce, send_offsets_to_transaction, commit and abort."""
        consumed = topic.deliver({})
        offsets = [TopicPartition(topic.name, 0, (consumed.offset() or 0) + 1)]
        producer = confluent_kafka.wrap(topic.transactional)
        with TraceContext.use(TraceContext.new_root()) as context:
            producer.begin_transaction()
            producer.produce(topic.name, b"aborted", partition=0)
            producer.abort_transaction(SECONDS)
            producer.begin_transaction()
            producer.produce(topic.name, b"in", partition=0)
            producer.produce_batch(topic.name, [{"value": b"batch"}], 0)
            producer.send_offsets_to_transaction(offsets, topic.consumer.consumer_group_metadata(), SECONDS)
            producer.commit_transaction(SECONDS)

        assert context is not None
        messages = topic.messages(2)
        assert [message.value() for message in messages] == [b"in", b"batch"]
        for message in messages:
            assert texts_of(message, "traceparent") == [context.to_traceparent()]
        (committed,) = topic.consumer.committed([TopicPartition(topic.name, 0)], SECONDS)
        assert committed.offset == offsets[0].offset

    def test_what_is_no_producer_is_refused(self, topic: Topic) -> None:
        for other in (object(), topic.consumer):
            with pytest.raises(
                WrongUseError, match=r"^wrap\(\) takes a Producer of confluent-kafka, got \w+$"
            ):
                confluent_kafka.wrap(other)  # type: ignore[type-var]

    async def test_an_asyncio_producer_is_refused_because_it_refuses_headers(self, topic: Topic) -> None:
        asynchronous: Any = AsyncSerializingProducer  # its types do not say that it is awaited
        producers: list[Any] = [AIOProducer(topic.settings()), await asynchronous(topic.settings())]
        for producer in producers:
            with pytest.raises(NotImplementedError, match="Headers are not supported"):
                await producer.produce(topic.name, b"value", headers=[("app", b"1")])
            with pytest.raises(WrongUseError) as caught:
                confluent_kafka.wrap(producer)
            assert str(caught.value) == (
                "asyncio producers cannot send headers: wrap() a Producer, which does not block, "
                f"got {type(producer).__name__}"
            )
            await producer.close()

    def test_what_cannot_be_headers_is_refused(self, topic: Topic) -> None:
        with pytest.raises(
            WrongUseError, match=r"Kafka headers must be a list of \(str, bytes\) pairs, got int"
        ):
            confluent_kafka.wrap(topic.producer).produce(topic.name, b"value", headers=5)  # type: ignore[arg-type]


class TestDeliveryReports:
    """A recorded send ends with its delivery report, of which the caller sees what the client shows."""

    @pytest.fixture(params=["not recorded", "recorded"])
    def options(self, request: pytest.FixtureRequest) -> Any:
        return {"tracer": MemoryRecorder()} if request.param == "recorded" else {}

    @pytest.mark.parametrize(
        ("place", "is_called"),
        [
            pytest.param(lambda report: ((), {"callback": report}), True, id="callback"),
            pytest.param(lambda report: ((), {"on_delivery": report}), True, id="on_delivery"),
            pytest.param(lambda report: ((None, 0, report), {}), True, id="fifth"),
            pytest.param(lambda report: ((None, 0, None, report), {}), False, id="sixth"),
            pytest.param(lambda report: ((), {"callback": report, "on_delivery": 7}), True, id="both"),
            pytest.param(lambda report: ((), {"callback": None, "on_delivery": report}), False, id="none"),
        ],
    )
    def test_a_callback_is_called_as_by_the_client(
        self, topic: Topic, place: Callable[[Any], Any], options: Any, *, is_called: bool
    ) -> None:
        seen = []
        for producer in (topic.producer, confluent_kafka.wrap(topic.producer, **options)):
            reports: list[Report] = []
            args, kwargs = place(collecting(reports))
            producer.produce(topic.name, b"value", *args, **kwargs)
            assert producer.flush(SECONDS) == 0
            seen.append([(error, *facts_of(message)) for error, message in reports])

        assert seen[0] == seen[1]
        assert len(seen[0]) == int(is_called)
        if options:
            assert [span.outcome for span in options["tracer"].spans] == ["ok"]

    def test_a_callback_of_a_serializing_producer_is_called(self, topic: Topic, options: Any) -> None:
        producer = confluent_kafka.wrap(topic.serializing, **options)
        reports: list[Report] = []

        producer.produce(topic.name, None, b"value", 0, collecting(reports))
        producer.produce(topic.name, None, b"value", on_delivery=collecting(reports))
        producer.flush(SECONDS)

        assert [error for error, _ in reports] == [None, None]

    def test_the_callback_of_the_configuration_is_called(self, topic: Topic, options: Any) -> None:
        reports: list[Report] = []
        bare = topic.new_producer(on_delivery=collecting(reports))

        with confluent_kafka.wrap(bare, **options) as producer:
            producer.produce(topic.name, b"value", partition=0)
            producer.produce(topic.name, b"value", partition=0, callback=None)
            producer.produce_batch(topic.name, [{"value": b"value"}], 0)

        assert [error for error, _ in reports] == [None] * 3
        if options:
            assert [span.outcome for span in options["tracer"].spans] == ["ok"] * 3

    def test_what_a_callback_raises_comes_out_of_flush(self, topic: Topic, options: Any) -> None:
        def report(error: KafkaError | None, message: Message) -> None:
            raise LookupError

        producer = confluent_kafka.wrap(topic.producer, **options)
        producer.produce(topic.name, b"value", partition=0, on_delivery=report)
        with pytest.raises(LookupError):
            producer.flush(SECONDS)

        if options:
            assert [span.outcome for span in options["tracer"].spans] == ["ok"]

    def test_a_callback_may_produce_again(self, topic: Topic, options: Any) -> None:
        producer = confluent_kafka.wrap(topic.producer, **options)

        def report(error: KafkaError | None, message: Message) -> None:
            producer.produce(topic.name, b"second", partition=0)

        with TraceContext.use(TraceContext.new_root()):
            producer.produce(topic.name, b"first", partition=0, on_delivery=report)
        producer.flush(SECONDS)

        assert [message.value() for message in topic.messages(2)] == [b"first", b"second"]

    @pytest.mark.parametrize("with_callback", [False, True])
    def test_the_span_ends_with_the_report(self, topic: Topic, *, with_callback: bool) -> None:
        """K-22: not when the message is handed to the client."""
        recorder = MemoryRecorder()
        slow = topic.new_producer(**{"linger.ms": 60_000})
        with confluent_kafka.wrap(slow, tracer=recorder) as producer:
            callback = collecting([]) if with_callback else None
            producer.produce(topic.name, b"value", partition=0, on_delivery=callback)
            assert list(recorder.spans) == []

        assert [span.outcome for span in recorder.spans] == ["ok"]

    @pytest.mark.parametrize("names", [[], ["callback"], ["on_delivery"]], ids=str)
    def test_a_report_of_an_error_is_recorded(self, topic: Topic, names: list[str]) -> None:
        """K-22: the error is the caller's as before, and the span's."""
        recorder, reports = MemoryRecorder(), list[Report]()
        slow = topic.new_producer(**{"linger.ms": 60_000})
        with confluent_kafka.wrap(slow, tracer=recorder) as producer:
            callbacks: Any = dict.fromkeys(names, collecting(reports))
            producer.produce(topic.name, b"value", partition=0, **callbacks)
            producer.purge()
            producer.poll(SECONDS)

        (span,) = recorder.spans
        assert (span.outcome, span.error) == ("error", "cimpl.KafkaException")
        codes = [error and error.code() for error, _ in reports]
        assert codes == [KafkaError._PURGE_QUEUE] * len(names)  # noqa: SLF001 - the client's name

    def test_without_reports_of_success_a_span_ends_too(self, topic: Topic) -> None:
        recorder, reports = MemoryRecorder(), list[Report]()
        bare = topic.new_producer(**{"delivery.report.only.error": True})

        with confluent_kafka.wrap(bare, tracer=recorder) as producer:
            producer.produce(topic.name, b"value", partition=0)
            producer.produce(topic.name, b"value", partition=0, on_delivery=collecting(reports))

        assert [span.outcome for span in recorder.spans] == ["ok", "ok"]
        assert reports == []

    def test_a_full_queue_raises_what_the_client_raises(self, topic: Topic, options: Any) -> None:
        errors = []
        choices: list[Any] = [confluent_kafka.unwrap, partial(confluent_kafka.wrap, **options)]
        for choose in choices:
            bare = topic.new_producer(**{"linger.ms": 60_000, "queue.buffering.max.messages": 1})
            producer = choose(bare)
            producer.produce(topic.name, b"value", partition=0)
            with pytest.raises(BufferError) as raised:
                producer.produce(topic.name, b"value", partition=0)
            errors.append(str(raised.value))
            producer.purge()
            producer.flush(SECONDS)

        assert errors[0] == errors[1]
        if options:
            assert [span.error for span in options["tracer"].spans] == ["BufferError", "cimpl.KafkaException"]

    def test_a_callback_is_released_with_its_message(self, topic: Topic) -> None:
        producer = confluent_kafka.wrap(topic.producer, tracer=MemoryRecorder())
        reports: list[Report] = []
        callback = collecting(reports)
        bound = weakref.ref(callback)

        producer.produce(topic.name, b"value", partition=0, on_delivery=callback)
        producer.flush(SECONDS)
        del callback

        assert len(reports) == 1
        assert bound() is None


class TestSizes:
    def test_what_only_the_broker_refuses_is_said_in_the_delivery_report(self, topic: Topic) -> None:
        """The client's limit has to be at most the broker's, whose limit is on whole batches of messages."""
        small = new_topic(topic.address, max_message_bytes="2000")
        reports: list[Report] = []
        producer = confluent_kafka.wrap(topic.producer)

        producer.produce(small, b"x" * 1_800, on_delivery=collecting(reports))
        producer.flush(SECONDS)
        with TraceContext.use(TraceContext.new_root(baggage=Baggage({"tenant": "a" * 1_000}))):
            producer.produce(small, b"x" * 1_800, on_delivery=collecting(reports))
        producer.flush(SECONDS)

        codes = [error and error.code() for error, _ in reports]
        assert codes == [None, KafkaError.MSG_SIZE_TOO_LARGE]

    def test_a_message_that_is_too_large_by_itself_raises_what_the_client_raises(self, topic: Topic) -> None:
        errors = []
        for producer in (topic.producer, confluent_kafka.wrap(topic.producer)):
            with pytest.raises(KafkaException) as raised:
                producer.produce(topic.name, b"x" * 1_000_001)
            errors.append(str(raised.value))

        assert errors[0] == errors[1]

    @pytest.mark.parametrize("headers", [None, [("app", b"1")], {"app": b"1"}], ids=repr)
    def test_each_serializer_runs_once_for_a_message_and_again_only_near_the_limit(
        self, topic: Topic, headers: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """K-23: once; K-17: a serializer finds headers of the kind that its caller gave."""
        calls: list[Any] = []

        def serialize(value: Any, context: SerializationContext) -> bytes:
            calls.append(value)
            if isinstance(context.headers, dict):
                context.headers["schema"] = b"7"
            else:
                assert context.headers is not None
                context.headers.append(("schema", b"7"))
            return bytes(value)

        settings = topic.settings(**{"value.serializer": serialize})
        with (
            confluent_kafka.wrap(SerializingProducer(settings)) as producer,
            TraceContext.use(full_context()),
        ):
            producer.produce(topic.name, value=b"small", headers=headers, partition=0)
            producer.produce(topic.name, value=b"x" * 999_900, headers=headers, partition=0)

        assert [len(value) for value in calls] == [5, 999_900, 999_900, 999_900]
        small, large = topic.messages(2)
        assert texts_of(small, "schema") == texts_of(large, "schema") == ["7"]
        assert texts_of(small, "app") == texts_of(large, "app") == (["1"] if headers else [])
        assert texts_of(large, "traceparent") == []
        assert len(warnings_in(caplog)) == 1


class TestBatches:
    """`produce_batch`, which is the client's in all but the headers."""

    @pytest.fixture(params=["bare", "wrapped", "recorded"])
    def choose(self, request: pytest.FixtureRequest) -> Callable[[Producer], Producer]:
        if request.param == "bare":
            return confluent_kafka.unwrap
        options: Any = {"tracer": MemoryRecorder()} if request.param == "recorded" else {}
        return partial(confluent_kafka.wrap, **options)

    def test_each_message_carries_the_context(self, topic: Topic) -> None:
        recorder = MemoryRecorder()
        messages: list[dict[str, Any]] = [{"value": b"1"}, {"value": "2", "headers": [("app", b"1")]}, {}]
        before = [dict(message) for message in messages]

        with TraceContext.use(TraceContext.new_root()) as context:
            producer = confluent_kafka.wrap(topic.producer, tracer=recorder)
            assert producer.produce_batch(topic.name, messages, 0) == 3
        producer.flush(SECONDS)

        assert context is not None
        sent = [confluent_kafka.context_from(message) for message in topic.messages(3)]
        assert [each and each.trace_id for each in sent] == [context.trace_id] * 3
        assert [each and each.span_id for each in sent] == [span.span_id for span in recorder.spans]
        assert messages == before

    def test_what_the_client_refuses_is_said_in_the_message(
        self, topic: Topic, choose: Callable[[Producer], Producer]
    ) -> None:
        messages: list[dict[str, Any]] = [{"value": b"1"}, {"value": b"x" * 1_000_001}, {"value": b"3"}]

        assert choose(topic.producer).produce_batch(topic.name, messages, 0) == 2
        topic.producer.flush(SECONDS)

        error = messages[1]["_error"]
        assert error.code() == KafkaError.MSG_SIZE_TOO_LARGE
        assert error.str() == "Message failed: Broker: Message size too large"
        assert ["_error" in message for message in messages] == [False, True, False]
        assert [message.value() for message in topic.messages(2)] == [b"1", b"3"]

    def test_once_the_queue_is_full_the_rest_is_refused(
        self, topic: Topic, choose: Callable[[Producer], Producer]
    ) -> None:
        producer = choose(topic.new_producer(**{"linger.ms": 60_000, "queue.buffering.max.messages": 2}))
        messages: list[dict[str, Any]] = [{"value": b"value"} for _ in range(4)]

        assert producer.produce_batch(topic.name, messages, 0) == 2
        producer.purge()
        producer.flush(SECONDS)

        errors = [message.get("_error") for message in messages]
        assert [error and str(error) for error in errors[:2]] == [None, None]
        assert {error and error.str() for error in errors[2:]} == {"Message failed: Local: Queue full"}
        assert {error and error.name() for error in errors[2:]} == {"_QUEUE_FULL"}

    def test_what_is_not_offered_to_a_full_queue_is_no_send(self, topic: Topic) -> None:
        recorder = MemoryRecorder()
        bare = topic.new_producer(**{"linger.ms": 60_000, "queue.buffering.max.messages": 1})

        confluent_kafka.wrap(bare, tracer=recorder).produce_batch(topic.name, [{}, {}, {}, {}], 0)
        bare.purge()
        bare.flush(SECONDS)

        assert [span.error for span in recorder.spans] == ["BufferError", "cimpl.KafkaException"]

    def test_callbacks_are_called_as_by_the_client(
        self, topic: Topic, choose: Callable[[Producer], Producer]
    ) -> None:
        for name in ("callback", "on_delivery"):
            own: list[Report] = []
            others: list[Report] = []
            messages = [{"value": b"1", "callback": collecting(own)}, {"value": b"2"}, {"callback": None}]
            producer: Any = choose(topic.producer)

            assert producer.produce_batch(topic.name, messages, **{name: collecting(others)}) == 3
            producer.flush(SECONDS)

            assert [message.value() for _, message in own] == [b"1"]
            assert [message.value() for _, message in others] == [b"2", None]

    def test_the_partition_is_the_one_that_the_client_takes(
        self, topic: Topic, choose: Callable[[Producer], Producer]
    ) -> None:
        name = new_topic(topic.address, partitions=2)
        reports: list[Report] = []

        choose(topic.producer).produce_batch(
            name, [{"partition": 0}, {"partition": 1}, {}], 1, collecting(reports)
        )
        topic.producer.flush(SECONDS)

        assert [message.partition() for _, message in reports] == [1, 1, 1]

    @pytest.mark.parametrize(
        ("wrong", "kind"),
        [
            pytest.param(7, TypeError, id="message"),
            pytest.param({"value": 7}, TypeError, id="value"),
            pytest.param({"key": 7}, TypeError, id="key"),
            pytest.param({"partition": "0"}, TypeError, id="partition"),
            pytest.param({"timestamp": 7}, NotImplementedError, id="timestamp"),
            pytest.param({"headers": 7}, ValueError, id="headers"),
            pytest.param({"headers": {"app": 7}}, ValueError, id="header"),
            pytest.param({"headers": [["app", b"1"]]}, ValueError, id="list-for-a-pair"),
            pytest.param({"headers": [("app",)]}, ValueError, id="no-pair"),
        ],
    )
    def test_of_a_batch_with_something_wrong_nothing_is_sent(
        self, topic: Topic, choose: Callable[[Producer], Producer], wrong: Any, kind: type[Exception]
    ) -> None:
        with pytest.raises(kind, match=r"at index 1|in batch mode"):
            choose(topic.producer).produce_batch(topic.name, [{"value": b"right"}, wrong], 0)

        assert len(topic.producer) == 0

    @pytest.mark.parametrize("wrong", [None, (), "x", {}], ids=repr)
    def test_what_is_no_list_is_refused_as_by_the_client(
        self, topic: Topic, choose: Callable[[Producer], Producer], wrong: Any
    ) -> None:
        with pytest.raises(TypeError, match="messages must be a list"):
            choose(topic.producer).produce_batch(topic.name, wrong)

    def test_an_empty_batch_is_none(self, topic: Topic, choose: Callable[[Producer], Producer]) -> None:
        assert choose(topic.producer).produce_batch(topic.name, []) == 0

    def test_a_serializing_producer_serializes_no_batch(
        self, topic: Topic, choose: Callable[[Producer], Producer]
    ) -> None:
        calls: list[Any] = []
        bare = SerializingProducer(topic.settings(**{"value.serializer": lambda *args: calls.append(args)}))

        with choose(bare) as producer:
            assert producer.produce_batch(topic.name, [{"value": b"value"}], 0) == 1

        assert topic.message().value() == b"value"
        assert calls == []

    def test_a_batch_call_of_a_subclass_is_called(self, topic: Topic) -> None:
        calls: list[Any] = []

        class Own(Producer):
            def produce_batch(self, *args: Any, **kwargs: Any) -> int:
                calls.append(args)
                return 7

        assert confluent_kafka.wrap(Own(topic.settings())).produce_batch(topic.name, [{}]) == 7
        assert calls == [(topic.name, [{}], -1, None)]


class TestConsumer:
    def test_the_bodies_of_a_loop_run_in_the_contexts_of_their_messages(self, topic: Topic) -> None:
        """K-09: the sender's trace is current while a message is processed; K-20: without any option."""
        sent = [traced(topic) for _ in range(3)]
        seen = []
        with TraceContext.use(TraceContext.new_root()) as before:
            for _ in confluent_kafka.iterate(topic.consumer):
                seen.append(current_trace_id())
                if len(seen) == len(sent):
                    break
            assert TraceContext.get() is before

        assert seen == [context.trace_id for context in sent]

    async def test_the_bodies_of_an_asyncio_loop_do_so_too(self, topic: Topic) -> None:
        start = topic.end
        sent = [traced(topic) for _ in range(3)]
        seen = []
        async with asyncio_consumer(topic, start) as consumer:
            with TraceContext.use(TraceContext.new_root()) as before:
                async for _ in confluent_kafka.iterate(consumer):
                    seen.append(current_trace_id())
                    if len(seen) == len(sent):
                        break
                assert TraceContext.get() is before

        assert seen == [context.trace_id for context in sent]

    def test_an_empty_poll_opens_nothing(self, topic: Topic, caplog: pytest.LogCaptureFixture) -> None:
        """K-33: no scope, no span and no log while there is no message."""
        caplog.set_level(logging.DEBUG, logger="spakky.tracing")
        seen: list[TraceContext | None] = []
        recorder = MemoryRecorder()

        class Patient(Consumer):
            def poll(self, timeout: float = -1) -> Message | None:
                seen.append(TraceContext.get())
                if len(seen) > 3:
                    topic.send()
                return super().poll(timeout if len(seen) <= 3 else SECONDS)

        consumer = Patient(topic.consumer_settings())
        consumer.assign([topic.end])
        for _ in confluent_kafka.iterate(consumer, timeout=0, tracer=recorder):
            break

        assert seen == [None] * 4
        assert len(recorder.spans) == 1
        assert [record for record in caplog.records if record.name == "spakky.tracing"] == []

    @pytest.mark.parametrize("name", ["consumer", "deserializing"])
    def test_closing_the_consumer_ends_the_loop(self, topic: Topic, name: str) -> None:
        settings = topic.consumer_settings()
        consumer = Consumer(settings) if name == "consumer" else DeserializingConsumer(settings)
        consumer.assign([topic.end])
        topic.send()

        for message in confluent_kafka.iterate(consumer):
            assert message.error() is None
            consumer.close()

        assert TraceContext.get() is None
        assert list(confluent_kafka.iterate(consumer)) == []

    async def test_closing_an_asyncio_consumer_ends_the_loop(self, topic: Topic) -> None:
        start = topic.end
        topic.send()
        consumer = AIOConsumer(topic.consumer_settings(), max_workers=2)
        await consumer.assign([start])

        async for message in confluent_kafka.iterate(consumer):
            assert message.error() is None
            await consumer.close()

        assert TraceContext.get() is None

    async def test_an_asyncio_loop_that_waits_can_be_cancelled(self, topic: Topic) -> None:
        async with asyncio_consumer(topic, topic.end) as consumer:

            async def loop() -> None:
                async for _ in confluent_kafka.iterate(consumer, timeout=0.05):
                    pass

            task = asyncio.create_task(loop())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    def test_what_a_poll_raises_comes_out_and_the_next_one_goes_on(self, topic: Topic) -> None:
        def deserialize(value: bytes | None, _: object) -> bytes:
            assert value is not None
            if value == b"poison":
                raise ValueError
            return value

        settings = topic.consumer_settings(**{"value.deserializer": deserialize})
        consumer = DeserializingConsumer(settings)
        consumer.assign([topic.end])
        topic.send(value=b"poison")
        topic.send(value=b"food")
        messages = confluent_kafka.iterate(consumer)

        with pytest.raises(ValueDeserializationError):
            next(messages)
        assert TraceContext.get() is None
        assert next(messages).value() == b"food"
        assert TraceContext.get() is not None
        messages.close()

    def test_an_event_is_handed_out_without_a_context(self, topic: Topic) -> None:
        recorder = MemoryRecorder()
        consumer = topic.new_consumer(**{"enable.partition.eof": True})
        consumer.assign([topic.end])

        with TraceContext.use(TraceContext.new_root()) as before:
            messages = confluent_kafka.iterate(consumer, tracer=recorder)
            event = next(messages)
            assert TraceContext.get() is before
            error = event.error()
            assert error is not None
            assert error.name() == "_PARTITION_EOF"
            with confluent_kafka.process(event, tracer=recorder) as processing:
                assert TraceContext.get() is before
            with confluent_kafka.process_batch([event], tracer=recorder) as batch:
                assert TraceContext.get() is before
            assert confluent_kafka.consumer(tracer=recorder)(current_context)(event) is before

        assert (processing.context, batch.context, batch.links, list(recorder.spans)) == (None, None, (), [])
        assert confluent_kafka.context_from(event) is None

    def test_a_message_that_cannot_be_deserialized_is_a_record(self) -> None:
        """A share consumer marks it and hands it out with the rest, to be rejected or dead-lettered."""
        message = Message(topic="orders", headers=[("traceparent", TRACEPARENT.encode())])
        message.set_error(KafkaError(KafkaError._VALUE_DESERIALIZATION))  # noqa: SLF001 - the client's name

        context = confluent_kafka.context_from(message)

        assert context == TraceContext.from_traceparent(TRACEPARENT)

    def test_a_scope_ends_with_its_block_and_waits_for_no_poll(self, topic: Topic) -> None:
        """K-12: closed at the end of the block."""
        recorder = MemoryRecorder()
        message = topic.deliver({"traceparent": TRACEPARENT})

        with confluent_kafka.process(message, tracer=recorder):
            assert list(recorder.spans) == []

        assert [span.outcome for span in recorder.spans] == ["ok"]
        assert TraceContext.get() is None

    def test_two_consumers_that_take_turns_in_one_thread_do_not_mix(self, topic: Topic) -> None:
        """K-13: afterwards the context is the one before."""
        first, second = traced(topic), traced(topic)
        with TraceContext.use(TraceContext.new_root()) as before:
            one = confluent_kafka.iterate(topic.consumer)
            other = confluent_kafka.iterate(topic.other_consumer)
            for sent in (first, second):
                next(one)
                assert current_trace_id() == sent.trace_id
                next(other)
                assert current_trace_id() == sent.trace_id
            one.close()
            other.close()

            assert TraceContext.get() is before

    def test_polls_in_an_executor_alter_no_context(
        self, topic: Topic, caplog: pytest.LogCaptureFixture
    ) -> None:
        """K-14: each poll in a context of its own, the processing ended in another."""
        caplog.set_level(logging.ERROR)
        sent = [traced(topic) for _ in range(3)]
        messages, own = confluent_kafka.iterate(topic.consumer), contextvars.copy_context()
        with ThreadPoolExecutor(1) as executor, TraceContext.use(TraceContext.new_root()) as before:
            for context in sent:
                own = contextvars.copy_context()
                executor.submit(own.run, next, messages).result(SECONDS)
                assert TraceContext.get() is before
                processed = own.run(TraceContext.get)
                assert processed is not None
                assert processed.trace_id == context.trace_id
            messages.close()
            assert own.run(TraceContext.get) is before
            assert TraceContext.get() is before

        assert caplog.records == []

    def test_a_batch_links_to_each_sender_and_knows_each_context(self, topic: Topic) -> None:
        """K-15: three records of three traces and one without."""
        sent = [traced(topic) for _ in range(3)]
        topic.send()
        recorder = MemoryRecorder()

        @confluent_kafka.batch_consumer(tracer=recorder)
        def handle(messages: list[Message]) -> list[TraceContext | None]:
            assert TraceContext.get() is not None
            return [confluent_kafka.context_from(message) for message in messages]

        messages = topic.consumer.consume(4, SECONDS)
        contexts = handle(messages)

        assert [context and context.trace_id for context in contexts] == [
            *(each.trace_id for each in sent),
            None,
        ]
        (span,) = recorder.spans
        assert [link.span_id for link in span.links] == [each.span_id for each in sent]

    def test_each_record_of_a_batch_survives_a_malformed_neighbour(self, topic: Topic) -> None:
        """K-04, K-05, K-06, K-07: what is malformed costs only its own context."""
        good = TRACEPARENT.encode()
        for headers in (
            [("traceparent", good)],
            [("traceparent", b"\xff\xfe"), ("tracestate", b"\xff"), ("baggage", b"user=\xe9")],
            [("schema", b"\x00\xff"), ("null", None), ("traceparent", good)],
            [("traceparent", None)],
            None,
        ):
            topic.send(headers)

        contexts = [confluent_kafka.context_from(each) for each in topic.consumer.consume(5, SECONDS)]

        sent = TraceContext.from_traceparent(TRACEPARENT)
        assert contexts == [sent, None, sent, None, None]

    def test_text_is_read_where_a_message_is_made_by_hand(self) -> None:
        """K-08: str, bytes, bytearray and memoryview are alike."""
        raw = TRACEPARENT.encode()
        for value in (TRACEPARENT, raw, bytearray(raw), memoryview(raw)):
            shapes: list[Any] = [[("traceparent", value)], {"traceparent": value}]
            for headers in shapes:
                message = Message(topic="orders", headers=headers)
                assert confluent_kafka.context_from(message) == TraceContext.from_traceparent(TRACEPARENT)

    def test_the_last_of_several_traceparents_counts(self, topic: Topic) -> None:
        topic.send([("traceparent", STALE.encode()), ("traceparent", TRACEPARENT.encode())])

        context = confluent_kafka.context_from(topic.message())

        assert context == TraceContext.from_traceparent(TRACEPARENT)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    @pytest.mark.parametrize("read_before", [False, True])
    def test_a_header_that_the_client_cannot_read_costs_nothing(
        self, topic: Topic, *, read_before: bool
    ) -> None:
        """The client leaves a hole in the list of headers: a crash of the process for whoever touches it."""
        send_unreadable(topic)
        message = topic.message()
        if read_before:
            with pytest.raises(SystemError):
                message.headers()

        with confluent_kafka.process(message) as processing:
            forwarded = confluent_kafka.headers(message.headers())

        assert processing.context is not None
        assert processing.context.trace_id == TraceContext.from_traceparent(TRACEPARENT).trace_id
        assert message.headers() == [("app", b"1"), ("traceparent", TRACEPARENT.encode())]
        assert [name for name, _ in forwarded] == ["app", "traceparent"]

    def test_callbacks_of_a_rebalance_run_outside_of_any_message(self, topic: Topic) -> None:
        """In a group, with offsets that are committed by hand."""
        seen: list[TraceContext | None] = []
        messages = []
        consumer = topic.new_consumer()

        def on_assign(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            seen.append(TraceContext.get())
            consumer.assign([start])

        def on_revoke(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            seen.append(TraceContext.get())

        start = topic.end
        sent = [traced(topic) for _ in range(2)]
        consumer.subscribe([topic.name], on_assign=on_assign, on_revoke=on_revoke)
        with TraceContext.use(TraceContext.new_root()) as before:
            for message in confluent_kafka.iterate(consumer):
                messages.append(current_trace_id())
                consumer.commit(message=message, asynchronous=False)
                if len(messages) == len(sent):
                    break
            (committed,) = consumer.committed([TopicPartition(topic.name, 0)], SECONDS)
            consumer.close()

        assert messages == [context.trace_id for context in sent]
        assert committed.offset == start.offset + len(sent)
        assert seen == [before, before]

    def test_a_handler_takes_what_poll_returns(self, topic: Topic) -> None:
        """K-10: baggage reaches the handler; K-11: the trace is continued, or linked to if asked for."""
        sent = topic.deliver({"traceparent": TRACEPARENT, "baggage": "tenant=acme"})

        child = confluent_kafka.consumer(current_context)(sent)
        other = confluent_kafka.consumer(relation="link")(current_context)(sent)

        assert child is not None
        assert other is not None
        sender = TraceContext.from_traceparent(TRACEPARENT)
        assert (child.trace_id, child.parent_span_id) == (sender.trace_id, sender.span_id)
        assert other.trace_id != sender.trace_id
        assert dict(child.baggage) == dict(other.baggage) == {"tenant": "acme"}

    @pytest.mark.parametrize(
        ("facts", "attempt", "is_redelivered"),
        [
            ({}, None, None),
            ({"delivery_count": 1}, 1, False),
            ({"delivery_count": 3}, 3, True),
            ({"headers": [("x-retry-count", b"1")]}, 2, None),
            ({"headers": [("x-retry-count", b"1")], "delivery_count": 3}, 4, True),
        ],
    )
    def test_a_share_group_says_the_attempt(
        self, facts: dict[str, Any], attempt: int | None, *, is_redelivered: bool | None
    ) -> None:
        recorder = MemoryRecorder()
        message = Message(topic="orders", **facts)

        with confluent_kafka.process(message, tracer=recorder):
            pass

        (span,) = recorder.spans
        assert (span.attempt, span.is_redelivered, span.links) == (attempt, is_redelivered, ())

    def test_the_messages_of_a_share_group_are_a_batch(self) -> None:
        contexts = [TraceContext.new_root(), TraceContext.new_root()]
        batch = Messages(
            Message(topic="orders", headers=[("traceparent", context.to_traceparent())])
            for context in contexts
        )
        recorder = MemoryRecorder()

        @confluent_kafka.batch_consumer(tracer=recorder)
        def handle(messages: Messages) -> int:
            return messages.count()

        assert handle(batch) == 2
        messages = confluent_kafka.iterate(Share(batch.records()))
        seen = [current_trace_id() for _ in itertools.islice(messages, 2)]
        messages.close()

        assert [link.span_id for link in recorder.spans[0].links] == [each.span_id for each in contexts]
        assert seen == [context.trace_id for context in contexts]

    def test_an_iteration_that_is_kept_goes_on_with_what_a_poll_brought(self) -> None:
        batch = [Message(topic="orders", value=value) for value in (b"1", b"2")]
        messages = confluent_kafka.iterate(Share(batch))

        seen = []
        for _ in range(2):
            for message in messages:
                seen.append(message)
                break

        assert seen == batch

    def test_a_timestamp_that_is_not_available_says_nothing(self) -> None:
        for timestamp, is_known in (((TIMESTAMP_NOT_AVAILABLE, 5), False), ((1, -1), False), ((1, 5), True)):
            recorder = MemoryRecorder()
            with confluent_kafka.process(Message(topic="orders", timestamp=timestamp), tracer=recorder):
                pass

            assert (recorder.spans[0].queue_time_nano is not None) is is_known

    def test_what_is_no_message_is_refused(self) -> None:
        with pytest.raises(WrongUseError, match="this takes a received Message, got bytes"):
            confluent_kafka.process(b"value")  # type: ignore[arg-type]

    def test_what_is_no_consumer_is_refused(self, topic: Topic) -> None:
        with pytest.raises(WrongUseError, match="takes what `async for` or `for` takes, got int"):
            confluent_kafka.iterate(7)  # type: ignore[call-overload]
        with pytest.raises(WrongUseError, match="this takes a received Message, got int"):
            next(confluent_kafka.iterate(topic.producer, timeout=0))  # type: ignore[call-overload]


class CountingProxy(ObjectProxy):  # type: ignore[type-arg] # wrapt 2.1 cannot be subscripted
    """A producer in the hands of another library."""

    count = 0

    def produce(self, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        return self.__wrapped__.produce(*args, **kwargs)


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
    headers: Any = message.headers() or []
    for name, value in headers:
        wire.setdefault(name, []).append(value)
    return wire


def texts_of(message: Message, name: str) -> list[str]:
    return texts(wire_of(message), name)


def facts_of(message: Message) -> tuple[Any, ...]:
    """Return what was sent besides headers; of a timestamp only whether the caller gave it."""
    _, milliseconds = message.timestamp()
    given = milliseconds if milliseconds == 1234567890123 else None
    return message.topic(), message.partition(), message.key(), message.value(), given


def collecting(reports: list[Report]) -> Callable[[KafkaError | None, Message], None]:
    def report(error: KafkaError | None, message: Message) -> None:
        reports.append((error, message))

    return report


def current_context(message: Message) -> TraceContext | None:
    """Handle a message by looking at what is current."""
    return TraceContext.get()


def traced(topic: Topic) -> TraceContext:
    """Send a message within a new trace and return the context that was sent."""
    with TraceContext.use(TraceContext.new_root()) as context:
        confluent_kafka.wrap(topic.producer).produce(topic.name, b"value", partition=0)
    topic.producer.flush(SECONDS)
    assert context is not None
    return context


def send_unreadable(topic: Topic) -> None:
    """Send a message with a header whose name is not UTF-8, of which kafka-python is capable."""

    class Latin(str):
        __slots__ = ()

        def encode(self, encoding: str = "latin-1", errors: str = "strict") -> bytes:
            return super().encode("latin-1")

    kafka = importlib.import_module("kafka")
    with contextlib.closing(kafka.KafkaProducer(bootstrap_servers=topic.address)) as producer:
        headers = [(Latin("n\xe4me"), b"1"), ("app", b"1"), ("traceparent", TRACEPARENT.encode())]
        producer.send(topic.name, b"value", headers=headers, partition=0).get(SECONDS)
