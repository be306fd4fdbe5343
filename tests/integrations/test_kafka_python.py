"""kafka-python on a real Kafka."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from confluent_kafka import Producer as ForeignProducer
from kafka import ConsumerRebalanceListener, KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import IllegalStateError, MessageSizeTooLargeError
from kafka.partitioner import DefaultPartitioner
from kafka.producer.future import FutureRecordMetadata
from kafka.serializer.abstract import Serializer
from kafka.structs import OffsetAndMetadata, TopicPartition

from contract.choosing import ChoosingContract
from contract.contexts import STALE, TRACEPARENT, full_context
from contract.delivery import Delivery, VerbsReceivingContract
from contract.fitting import FittingContract
from contract.handling import HandlerContract
from contract.pulling import PullingContract
from contract.receiving import SENDER
from contract.retrying import RetryingContract
from contract.sending import SendingContract, Wire, texts
from integrations.foreign_proxy import ForeignProxy
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.integrations import kafka_python
from spakky.tracing.recorder import MemoryRecorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kafka.consumer.fetcher import ConsumerRecord

    from brokers import Found
    from spakky.tracing.baggage import Baggage

SECONDS = 10
LIMIT = 1_048_576
"""The default of `max_request_size`, and about what the broker takes too."""


class Clients:
    """Makes bare clients, and closes them."""

    def __init__(self, kafka: Found) -> None:
        # kafka-python cannot tell which versions librdkafka's mock cluster speaks.
        version = {"api_version": (2, 0, 0)} if kafka.embedded else {}
        self._settings: dict[str, Any] = {"bootstrap_servers": kafka.address, **version}
        self._made: list[Any] = []

    def producer(self, make: Callable[..., Any] = KafkaProducer, **settings: Any) -> Any:
        return self._keep(make(**self._settings, **settings))

    def consumer(self, **settings: Any) -> Any:
        patient: dict[str, Any] = {
            "auto_offset_reset": "earliest",
            "consumer_timeout_ms": SECONDS * 1000,
            "fetch_max_wait_ms": 100,
        }
        return self._keep(KafkaConsumer(**{**self._settings, **patient, **settings}))

    def create_topic(self) -> str:
        """Create a topic with two partitions and return its name."""
        name = f"orders-{uuid4().hex}"
        with closing(KafkaAdminClient(**self._settings)) as admin:
            create: Any = (
                admin.create_topics
            )  # takes a dict since 3.0, which mypy's and pyright's stubs do not know
            create({name: {"num_partitions": 2, "replication_factor": 1}})
        return name

    def close(self) -> None:
        for client in reversed(self._made):
            client.close()

    def _keep(self, client: Any) -> Any:
        self._made.append(client)
        return client


class Topic:
    """A topic of its own, with the bare client at both ends of its first partition."""

    def __init__(self, clients: Clients, foreign: ForeignProducer) -> None:
        self.name = f"orders-{uuid4().hex}"
        self.producer = clients.producer()
        self.consumer = clients.consumer()
        self._foreign = foreign
        self._partition = TopicPartition(self.name, 0)
        self.producer.partitions_for(self.name)
        self.consumer.assign([self._partition])

    def skip_to_the_end(self) -> None:
        """Leave behind what an earlier test has not read."""
        self.consumer.seek_to_end(self._partition)
        self.consumer.position(self._partition)

    def record(self) -> ConsumerRecord:
        record: ConsumerRecord | None = next(self.consumer, None)
        assert record is not None, "no record has arrived in time"
        return record

    def records(self, count: int) -> list[ConsumerRecord]:
        return [self.record() for _ in range(count)]

    def put(self, headers: dict[str, Any] | None = None) -> None:
        """Send headers by the bare client, or by another one if this one does not send null values."""
        pairs = [
            (name, value.encode() if isinstance(value, str) else value)
            for name, value in (headers or {}).items()
        ]
        if any(value is None for _, value in pairs):
            self._foreign.produce(self.name, b"value", headers=pairs, partition=0)
            self._foreign.flush(SECONDS)
        else:
            self.send(headers=pairs)

    def send(self, producer: Any = None, value: Any = b"value", **arguments: Any) -> Any:
        """Send through a producer, the bare one unless given, and wait until it is delivered."""
        sending = (producer or self.producer).send(self.name, value, partition=0, **arguments)
        return sending.get(SECONDS)

    def deliver(self, headers: dict[str, Any] | None = None) -> ConsumerRecord:
        self.put(headers)
        return self.record()


@pytest.fixture(scope="module")
def clients(kafka: Found) -> Iterator[Clients]:
    """Clients that live as long as this module."""
    made = Clients(kafka)
    yield made
    made.close()


@pytest.fixture
def fresh(kafka: Found) -> Iterator[Clients]:
    """Clients that live as long as one test."""
    made = Clients(kafka)
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared_topic(clients: Clients, kafka_address: str) -> Topic:
    foreign = ForeignProducer({"bootstrap.servers": kafka_address})
    return Topic(clients, foreign)


@pytest.fixture(scope="module")
def transactional(clients: Clients, apache_kafka_address: str) -> Any:
    producer = clients.producer(transactional_id=f"tx-{uuid4().hex}")
    producer.init_transactions()
    return producer


@pytest.fixture
def topic(shared_topic: Topic) -> Topic:
    shared_topic.skip_to_the_end()
    return shared_topic


class Sending:
    """Sends through the wrapped producer and looks at what arrives."""

    @pytest.fixture(autouse=True)
    def _on(self, topic: Topic) -> None:
        self.topic = topic

    async def send(self, way: str, headers: Any, *, value: bytes = b"value", **options: Any) -> None:
        name, bare = self.topic.name, self.topic.producer
        if way == "headers":
            written = kafka_python.headers(headers, **options)
            bare.send(name, value, headers=written, partition=0).get(SECONDS)
            return
        producer = kafka_python.wrap(bare, **options)
        if way == "keywords":
            producer.send(topic=name, value=value, partition=0, headers=headers).get(SECONDS)
        elif way == "positional":
            producer.send(name, value, None, headers, 0).get(SECONDS)
        else:
            future = await asyncio.to_thread(producer.send, name, value, headers=headers, partition=0)
            await asyncio.to_thread(future.get, SECONDS)

    async def send_filled(self, way: str, filling: int, **options: Any) -> None:
        await self.send(way, None, value=b"x" * filling, **options)

    async def arrived(self) -> Wire:
        return wire_of(self.topic.record())

    def native(self, headers: dict[str, str]) -> list[tuple[str, bytes]]:
        return [(name, value.encode()) for name, value in headers.items()]

    async def fail_to_send(self, way: str, **options: Any) -> BaseException:
        with pytest.raises(TypeError) as raised:
            await self.send(way, [("name", "a value that is not bytes")], **options)
        return raised.value


class TestSending(Sending, SendingContract):
    ways = ["keywords", "positional", "thread", "headers"]
    recorded_ways = ["keywords", "positional", "thread"]
    foreign = [("zebra", b"\x00\xff"), ("app", b"1"), ("app", b"2"), ("empty", b"")]


class TestSendingInTransactions(Sending, SendingContract):
    ways = ["transaction"]
    recorded_ways = ways
    foreign = TestSending.foreign

    @pytest.fixture(autouse=True)
    def _within(self, transactional: Any) -> None:
        self.producer = transactional

    async def send(self, way: str, headers: Any, *, value: bytes = b"value", **options: Any) -> None:
        producer = kafka_python.wrap(self.producer, **options)
        producer.begin_transaction()
        try:
            producer.send(self.topic.name, value, headers=headers, partition=0)
        except BaseException:
            producer.abort_transaction()
            raise
        producer.commit_transaction()


class TestFitting(Sending, FittingContract):
    fitting_ways = ["keywords", "positional"]
    largest = LIMIT - 100


class OverKafka(Delivery):
    integration = kafka_python

    @pytest.fixture(autouse=True)
    def _on(self, topic: Topic) -> None:
        self.topic = topic

    @property
    def source(self) -> str:
        return self.topic.name

    async def deliver(self, headers: dict[str, Any]) -> ConsumerRecord:
        return self.topic.deliver(headers)

    async def deliver_native(self, headers: Any) -> ConsumerRecord:
        self.topic.send(headers=headers)
        return self.topic.record()


class TestReceiving(OverKafka, VerbsReceivingContract):
    ways = [*VerbsReceivingContract.ways, "iterate over the consumer", "poll", "poll in an executor"]
    sees_errors = [way for way in ways if "iterate" not in way]
    hostile_values = [b"", b"\xff\xfe", b"00-bad", b"x" * 100_000, None, f"{TRACEPARENT}\n".encode()]

    async def receive(
        self, way: str, headers: dict[str, Any], body: Callable[[], None], **options: Any
    ) -> None:
        if way in VerbsReceivingContract.ways:
            await super().receive(way, headers, body, **options)
            return
        self.topic.put(headers)
        if way == "iterate over the consumer":
            for _ in kafka_python.iterate(self.topic.consumer, **options):
                body()
                break
            return
        poll = self.topic.consumer.poll
        polled = await asyncio.to_thread(poll, 10_000) if "executor" in way else poll(10_000)
        ((record,),) = polled.values()
        with kafka_python.process(record, **options):
            body()


class TestHandlers(OverKafka, HandlerContract): ...


class TestPulling(OverKafka, PullingContract): ...


class TestChoosing(OverKafka, ChoosingContract): ...


class TestRetrying(OverKafka, RetryingContract): ...


class Remembering(KafkaProducer):
    """A producer that keeps what its own `send` has returned last."""

    returned: FutureRecordMetadata

    def send(self, *args: Any, **kwargs: Any) -> FutureRecordMetadata:
        self.returned = super().send(*args, **kwargs)  # type: ignore[no-untyped-call] # as the client is
        return self.returned


class HeaderSerializer(Serializer):
    """A serializer that says in a header by which schema it has serialized."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def serialize(self, *arguments: Any, **named: Any) -> bytes:
        _, headers, data = arguments
        self.calls.append(data)
        headers.append(("schema", b"\x00\x07"))
        return str(data).encode()


class KeySerializer(Serializer):
    def serialize(self, *arguments: Any, **named: Any) -> bytes | None:
        _, _, data = arguments
        return data if data is None or isinstance(data, bytes) else str(data).encode()


class FirstPartition(DefaultPartitioner):
    calls = 0

    def partition(self, *arguments: Any) -> int:
        self.calls += 1
        return 0


class TestProducer:
    def test_a_wrapped_producer_is_a_producer(self, topic: Topic) -> None:
        producer = kafka_python.wrap(topic.producer)

        assert isinstance(producer, KafkaProducer)
        assert producer.config is topic.producer.config
        assert producer.partitions_for(topic.name) == topic.producer.partitions_for(topic.name)
        assert kafka_python.unwrap(producer) is topic.producer
        assert kafka_python.unwrap(topic.producer) is topic.producer

    def test_a_layer_of_somebody_else_stays(self, topic: Topic) -> None:
        foreign: Any = ForeignProxy(topic.producer, "send")

        kafka_python.wrap(foreign).send(topic.name, b"value", partition=0).get(10)

        assert foreign.calls == 1
        assert kafka_python.unwrap(foreign) is foreign
        assert kafka_python.unwrap(kafka_python.wrap(foreign)) is foreign

    def test_wrapping_twice_is_wrapping_once(self, topic: Topic) -> None:
        recorder = MemoryRecorder()
        once = kafka_python.wrap(topic.producer, tracer=recorder)
        producer = kafka_python.wrap(once, tracer=recorder)

        topic.send(producer)

        assert len(topic.record().headers) == 1
        assert len(recorder.spans) == 1
        assert kafka_python.unwrap(producer) is topic.producer

    def test_the_client_library_stays_as_it_was(self, topic: Topic) -> None:
        send, attributes = KafkaProducer.send, dict(vars(topic.producer))

        kafka_python.wrap(topic.producer)

        assert KafkaProducer.send is send
        assert vars(topic.producer) == attributes

    def test_as_a_block_it_is_still_wrapped_and_closes_what_it_wraps(
        self, topic: Topic, fresh: Clients
    ) -> None:
        bare = fresh.producer()

        with kafka_python.wrap(bare) as producer:
            topic.send(producer)

        assert texts_of(topic.record(), "traceparent")
        with pytest.raises(IllegalStateError):
            topic.send(bare)

    @pytest.mark.parametrize("positional", range(7))
    def test_every_spelling_of_a_send_arrives_as_it_does_without_us(
        self, topic: Topic, positional: int
    ) -> None:
        """K-16, K-27: every spelling of the send signature, headers are the fourth."""
        arguments: dict[str, Any] = {
            "topic": topic.name,
            "value": b"value",
            "key": b"key",
            "headers": [("app", b"1")],
            "partition": 0,
            "timestamp_ms": 1_700_000_000_000,
        }
        args = list(arguments.values())[:positional]
        kwargs = dict(list(arguments.items())[positional:])

        for producer in (topic.producer, kafka_python.wrap(topic.producer)):
            producer.send(*args, **kwargs).get(SECONDS)
        bare, wrapped = topic.records(2)

        assert wrapped.headers[0] == bare.headers[0] == ("app", b"1")
        assert [name for name, _ in wrapped.headers] == ["app", "traceparent"]
        assert (wrapped.key, wrapped.value, wrapped.partition, wrapped.timestamp) == (
            bare.key,
            bare.value,
            bare.partition,
            bare.timestamp,
        )

    def test_headers_that_are_none_may_be_positional(self, topic: Topic) -> None:
        """K-16: a positional `headers=None`."""
        kafka_python.wrap(topic.producer).send(topic.name, b"value", None, None, 0).get(SECONDS)

        assert len(texts_of(topic.record(), "traceparent")) == 1

    def test_without_state_and_baggage_one_header_is_added(self, topic: Topic) -> None:
        """K-29: exactly one header of 55 bytes."""
        topic.send(kafka_python.wrap(topic.producer))

        assert [(name, len(value)) for name, value in topic.record().headers] == [("traceparent", 55)]

    @pytest.mark.parametrize("name", ["TRACEPARENT", "Traceparent"])
    def test_a_stale_name_in_another_casing_is_replaced(self, topic: Topic, name: str) -> None:
        """K-30: on inject any case variant is replaced."""
        with TraceContext.use(TraceContext.new_root()):
            topic.send(kafka_python.wrap(topic.producer), headers=[(name, STALE.encode())])

        ((written, value),) = topic.record().headers
        assert written == "traceparent"
        assert value != STALE.encode()

    def test_the_future_is_the_very_one_of_the_client(self, topic: Topic, fresh: Clients) -> None:
        """K-22: whatever is recorded, the caller sees what the client returned."""
        bare = fresh.producer(Remembering)
        choices: list[dict[str, Any]] = [{}, {"tracer": MemoryRecorder()}, {"enabled": False}]

        for options in choices:
            future = kafka_python.wrap(bare, **options).send(topic.name, b"value", partition=0)

            assert future is bare.returned
            assert type(future) is FutureRecordMetadata
            assert future.get(SECONDS).topic == topic.name

    def test_callbacks_are_called_as_they_are_without_us(self, topic: Topic) -> None:
        recorder, called = MemoryRecorder(), threading.Event()
        seen: list[Any] = []

        def fail(metadata: Any) -> None:
            seen.append(metadata)
            raise LookupError

        future = kafka_python.wrap(topic.producer, tracer=recorder).send(topic.name, b"value", partition=0)
        same = future.add_callback(fail).add_callback(lambda *found: seen.append(found), "extra")
        same.add_errback(seen.append).add_callback(lambda metadata: called.set())

        assert called.wait(SECONDS)
        metadata = future.get(SECONDS)
        assert same is future
        assert seen == [metadata, ("extra", metadata)]
        assert [span.outcome for span in recorder.spans] == ["ok"]

    def test_a_send_ends_when_its_record_is_delivered(self, topic: Topic, fresh: Clients) -> None:
        """K-22: not before the send is done."""
        recorder = MemoryRecorder()
        producer = kafka_python.wrap(fresh.producer(linger_ms=60_000), tracer=recorder)

        future = producer.send(topic.name, b"value", partition=0)
        assert (future.is_done, list(recorder.spans)) == (False, [])
        producer.flush(SECONDS)

        assert future.succeeded()
        assert [(span.name, span.outcome) for span in recorder.spans] == [(f"send {topic.name}", "ok")]

    def test_a_send_that_the_broker_refuses_is_recorded_and_raised(
        self, topic: Topic, fresh: Clients, apache_kafka_address: str
    ) -> None:
        """K-22: the error propagates unchanged, and the span sees it."""
        recorder = MemoryRecorder()
        errors: list[BaseException] = []
        producer = kafka_python.wrap(fresh.producer(max_request_size=3 * LIMIT), tracer=recorder)

        future = producer.send(topic.name, b"x" * (2 * LIMIT), partition=0).add_errback(errors.append)
        with pytest.raises(MessageSizeTooLargeError) as raised:
            future.get(SECONDS)

        assert raised.value is future.exception
        assert future.failed()
        assert [(span.outcome, span.error) for span in recorder.spans] == [
            ("error", "kafka.errors.MessageSizeTooLargeError")
        ]
        assert errors == [raised.value]

    def test_a_send_that_fails_at_once_is_recorded_and_raised(self, topic: Topic) -> None:
        """K-22: the same for what send itself raises."""
        recorder = MemoryRecorder()

        with pytest.raises(ValueError, match="Unrecognized partition 7"):
            kafka_python.wrap(topic.producer, tracer=recorder).send(topic.name, b"value", partition=7)

        assert [(span.outcome, span.error) for span in recorder.spans] == [("error", "ValueError")]

    def test_sends_that_nobody_waits_for_leave_nothing_current(self, topic: Topic) -> None:
        """K-19: the second send is no child of the first."""
        recorder = MemoryRecorder()
        producer = kafka_python.wrap(topic.producer, tracer=recorder)

        with TraceContext.use(TraceContext.new_root()) as context:
            for _ in range(3):
                producer.send(topic.name, b"value", partition=0)
                assert TraceContext.get() is context
        producer.flush(SECONDS)

        assert context is not None
        assert [span.parent_span_id for span in recorder.spans] == [context.span_id] * 3

    def test_producers_in_several_threads_do_not_mix(self, topic: Topic) -> None:
        producer = kafka_python.wrap(topic.producer)

        def send_in_own_trace(number: int) -> str:
            with TraceContext.use(TraceContext.new_root()) as context:
                topic.send(producer, value=str(number).encode())
            assert context is not None
            return context.to_traceparent()

        with ThreadPoolExecutor(4) as pool:
            sent = list(pool.map(send_in_own_trace, range(20)))

        arrived = {int(record.value): texts_of(record, "traceparent") for record in topic.records(20)}
        assert [arrived[number] for number in range(20)] == [[each] for each in sent]

    def test_serializers_and_the_partitioner_run_once_for_a_message(
        self, topic: Topic, fresh: Clients
    ) -> None:
        """K-23: each is called exactly once, also where spans are recorded."""
        serializer, partitioner = HeaderSerializer(), FirstPartition()
        bare = fresh.producer(key_serializer=serializer, value_serializer=serializer, partitioner=partitioner)
        producer = kafka_python.wrap(bare, tracer=MemoryRecorder())

        producer.send(topic.name, 7, "user-1").get(SECONDS)

        assert serializer.calls == ["user-1", 7]
        assert partitioner.calls == 1
        assert texts_of(topic.record(), "traceparent")

    def test_near_the_limit_serializers_run_for_each_attempt_but_add_their_headers_once(
        self, topic: Topic, fresh: Clients
    ) -> None:
        """K-23: a refused send is repeated with less, which is the only time that a serializer runs again."""
        serializer = HeaderSerializer()
        producer = kafka_python.wrap(fresh.producer(value_serializer=serializer))

        with TraceContext.use(full_context()):
            topic.send(producer, value="x" * (LIMIT - 120))

        assert len(serializer.calls) == 3
        assert wire_of(topic.record()) == {"schema": [b"\x00\x07"]}

    def test_what_a_serializer_adds_is_not_in_the_callers_headers(self, topic: Topic, fresh: Clients) -> None:
        headers = [("app", b"1")]

        topic.send(kafka_python.wrap(fresh.producer(value_serializer=HeaderSerializer())), headers=headers)

        assert headers == [("app", b"1")]
        assert [name for name, _ in topic.record().headers] == ["app", "traceparent", "schema"]

    @pytest.mark.parametrize("key", ["user-1", b"\xff", 7, None])
    def test_any_key_leaves_the_context_alone(self, topic: Topic, fresh: Clients, key: Any) -> None:
        producer = fresh.producer(key_serializer=KeySerializer())

        topic.send(kafka_python.wrap(producer), key=key)

        assert texts_of(topic.record(), "traceparent")

    def test_any_headers_a_caller_may_have_are_accepted(self, topic: Topic) -> None:
        producer = kafka_python.wrap(topic.producer)
        received = topic.deliver({"app": "1"}).headers
        pair = ("app", b"1")
        shapes: list[Any] = [None, [], (), {}, [pair], (pair,), dict([pair]), iter([pair]), received]

        for headers in shapes:
            topic.send(producer, headers=headers)

        for record, has_app in zip(topic.records(9), [False] * 4 + [True] * 5, strict=True):
            assert len(texts_of(record, "traceparent")) == 1
            assert bool(texts_of(record, "app")) is has_app

    def test_a_received_record_can_be_forwarded_with_its_headers(self, topic: Topic) -> None:
        """K-01, K-02, K-03: one current traceparent, the received headers stay as they are."""
        old = topic.deliver({"traceparent": STALE, "app": b"\xff", "tracestate": "old=1"})
        before = list(old.headers)

        with kafka_python.process(old) as processing:
            topic.send(kafka_python.wrap(topic.producer), old.value, headers=old.headers)

        assert processing.context is not None
        assert topic.record().headers == [
            ("app", b"\xff"),
            ("traceparent", processing.context.to_traceparent().encode()),
            ("tracestate", b"old=1"),
        ]
        assert old.headers == before

    def test_a_null_value_of_our_own_fields_is_replaced(self, topic: Topic) -> None:
        """K-07: a record with a null traceparent can be sent on."""
        old = topic.deliver({"traceparent": None, "app": "1"})

        topic.send(kafka_python.wrap(topic.producer), headers=old.headers)

        assert [name for name, _ in topic.record().headers] == ["app", "traceparent"]

    def test_a_null_value_of_others_is_refused_by_the_client_as_it_is_without_us(self, topic: Topic) -> None:
        """K-07: what the caller gave is handed on."""
        old = topic.deliver({"app": None})
        with pytest.raises(TypeError) as bare:
            topic.send(headers=old.headers)

        for headers in (old.headers, kafka_python.retry_headers(old)):
            with pytest.raises(TypeError) as wrapped:
                topic.send(kafka_python.wrap(topic.producer), headers=headers)
            assert str(wrapped.value) == str(bare.value)

    def test_records_of_a_transaction_carry_the_context(
        self, topic: Topic, fresh: Clients, apache_kafka_address: str
    ) -> None:
        recorder = MemoryRecorder()
        consumed, group = topic.deliver({"traceparent": TRACEPARENT}), f"billing-{uuid4().hex}"
        bare = fresh.producer(transactional_id=f"tx-{uuid4().hex}")
        position = {TopicPartition(topic.name, 0): OffsetAndMetadata(consumed.offset + 1, "", -1)}

        with kafka_python.wrap(bare, tracer=recorder) as producer:
            producer.init_transactions()
            with kafka_python.process(consumed):
                producer.begin_transaction()
                futures = [producer.send(topic.name, b"value", partition=0) for _ in range(2)]
                producer.send_offsets_to_transaction(position, group)
                producer.commit_transaction()

        assert all(future.succeeded() for future in futures)
        assert [span.outcome for span in recorder.spans] == ["ok", "ok"]
        sent = [kafka_python.context_from(record) for record in topic.records(2)]
        assert [each and each.trace_id for each in sent] == [SENDER.trace_id] * 2

    def test_a_send_of_an_aborted_transaction_is_recorded_as_its_future_says(
        self, topic: Topic, fresh: Clients, apache_kafka_address: str
    ) -> None:
        recorder = MemoryRecorder()
        bare = fresh.producer(transactional_id=f"tx-{uuid4().hex}", linger_ms=60_000)
        producer = kafka_python.wrap(bare, tracer=recorder)
        producer.init_transactions()

        producer.begin_transaction()
        future = producer.send(topic.name, b"value", partition=0)
        producer.abort_transaction()

        assert future.failed()
        error = type(future.exception)
        assert [(span.outcome, span.error) for span in recorder.spans] == [
            ("error", f"{error.__module__}.{error.__qualname__}")
        ]

    def test_what_is_no_producer_is_refused(self) -> None:
        with pytest.raises(WrongUseError, match=r"wrap\(\) takes a KafkaProducer, got object"):
            kafka_python.wrap(object())  # type: ignore[type-var]

    def test_what_cannot_be_headers_is_refused(self, topic: Topic) -> None:
        with pytest.raises(
            WrongUseError, match=r"Kafka headers must be a list of \(str, bytes\) pairs, got int"
        ):
            topic.send(kafka_python.wrap(topic.producer), headers=5)


class TestLoop:
    def put_traced(self, topic: Topic, count: int) -> list[str]:
        """Send records in traces of their own and return the ids of these."""
        contexts = [TraceContext.new_root() for _ in range(count)]
        for context in contexts:
            topic.put({"traceparent": context.to_traceparent()})
        return [context.trace_id for context in contexts]

    def test_the_bodies_run_in_the_contexts_of_their_records(self, topic: Topic) -> None:
        """K-09: the trace of the producer is current in each body."""
        sent, seen = self.put_traced(topic, 3), []

        with TraceContext.use(TraceContext.new_root()) as before:
            for _ in kafka_python.iterate(topic.consumer):
                seen.append(current_trace_id())
                if len(seen) == len(sent):
                    break
            assert TraceContext.get() is before

        assert seen == sent

    def test_baggage_reaches_the_body(self, topic: Topic) -> None:
        """K-10: with a traceparent and without one."""
        topic.put({"traceparent": TRACEPARENT, "baggage": "tenant=acme"})
        topic.put({"baggage": "tenant=acme"})
        seen: list[Baggage] = []

        for _ in kafka_python.iterate(topic.consumer):
            seen.append(current().baggage)
            if len(seen) == 2:
                break

        assert [dict(baggage) for baggage in seen] == [{"tenant": "acme"}] * 2

    def test_a_loop_that_times_out_ends_and_puts_back_what_was_there(
        self, topic: Topic, fresh: Clients
    ) -> None:
        sent, recorder = self.put_traced(topic, 2), MemoryRecorder()
        consumer = reader_of_the_last(fresh, topic, 2, consumer_timeout_ms=1000)

        with TraceContext.use(TraceContext.new_root()) as before:
            seen = [current_trace_id() for _ in kafka_python.iterate(consumer, tracer=recorder)]
            assert TraceContext.get() is before

        assert seen == sent
        assert [(span.trace_id, span.outcome) for span in recorder.spans] == [(each, "ok") for each in sent]

    def test_a_consumer_that_is_closed_in_the_body_ends_the_loop(self, topic: Topic, fresh: Clients) -> None:
        self.put_traced(topic, 2)
        consumer, recorder = reader_of_the_last(fresh, topic, 2), MemoryRecorder()

        for _ in kafka_python.iterate(consumer, tracer=recorder):
            consumer.close()

        assert TraceContext.get() is None
        assert [span.outcome for span in recorder.spans] == ["ok"]

    def test_a_loop_can_be_left_and_taken_up_again(self, topic: Topic) -> None:
        sent, seen = self.put_traced(topic, 3), []

        for _ in sent:
            for _ in kafka_python.iterate(topic.consumer):
                seen.append(current_trace_id())
                break
            assert TraceContext.get() is None

        assert seen == sent

    def test_an_exception_of_the_body_puts_back_what_was_there(self, topic: Topic) -> None:
        self.put_traced(topic, 1)

        with TraceContext.use(TraceContext.new_root()) as before:
            with pytest.raises(LookupError):
                fail_in(kafka_python.iterate(topic.consumer))
            assert TraceContext.get() is before

    def test_an_iteration_that_is_kept_is_closed_by_close(self, topic: Topic) -> None:
        self.put_traced(topic, 1)
        iteration = kafka_python.iterate(topic.consumer)
        for _ in iteration:
            break

        iteration.close()

        assert TraceContext.get() is None

    def test_as_a_block_it_records_an_error_of_its_body(self, topic: Topic) -> None:
        self.put_traced(topic, 1)
        recorder = MemoryRecorder()

        with (
            pytest.raises(LookupError),
            kafka_python.iterate(topic.consumer, tracer=recorder) as records,
        ):
            fail_in(records)

        assert [(span.outcome, span.error) for span in recorder.spans] == [("error", "LookupError")]

    def test_two_consumers_that_take_turns_in_one_thread_do_not_mix(
        self, topic: Topic, fresh: Clients
    ) -> None:
        """K-13: when both are done, what was current before is so again."""
        sent = self.put_traced(topic, 2)
        one, other = (kafka_python.iterate(reader_of_the_last(fresh, topic, 2)) for _ in range(2))

        with TraceContext.use(TraceContext.new_root()) as before:
            for trace_id in sent:
                for iteration in (one, other):
                    next(iteration)
                    assert current_trace_id() == trace_id
            one.close()
            assert current_trace_id() == sent[-1]
            other.close()
            assert TraceContext.get() is before

    async def test_steps_in_an_executor_leave_nothing_anywhere(
        self, topic: Topic, caplog: pytest.LogCaptureFixture
    ) -> None:
        """K-14: each step in a Context of its own; nothing is logged as an error, nothing is left."""
        self.put_traced(topic, 2)
        recorder = MemoryRecorder()
        iteration = kafka_python.iterate(topic.consumer, tracer=recorder)

        with TraceContext.use(TraceContext.new_root()) as before:
            for _ in range(2):
                await asyncio.to_thread(next, iteration)
                assert TraceContext.get() is before
            await asyncio.to_thread(iteration.close)
            assert TraceContext.get() is before

        assert len(recorder.spans) == 2
        assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []

    def test_commits_in_the_body_are_those_of_the_consumer(self, topic: Topic, fresh: Clients) -> None:
        self.put_traced(topic, 2)
        consumer = reader_of_the_last(fresh, topic, 2, group_id=f"g-{uuid4().hex}", enable_auto_commit=False)
        partition = TopicPartition(topic.name, 0)

        for record in kafka_python.iterate(consumer):
            trace_id = current_trace_id()
            consumer.commit()
            assert consumer.committed(partition) == record.offset + 1
            assert current_trace_id() == trace_id
            break

        assert consumer.committed(partition) == consumer.position(partition)

    def test_a_rebalance_sees_no_message(
        self, fresh: Clients, topic: Topic, apache_kafka_address: str
    ) -> None:
        """A second member takes one of two partitions away while the first one loops."""
        name, listener = fresh.create_topic(), Listener()
        group = {"group_id": f"g-{uuid4().hex}", "heartbeat_interval_ms": 100, "consumer_timeout_ms": 300}
        first, second = fresh.consumer(**group), fresh.consumer(**group)
        first.subscribe([name], listener=listener)
        second.subscribe([name])
        joining = threading.Thread(target=poll_until_assigned, args=(second,))
        for partition in (0, 1):
            headers = [("traceparent", TRACEPARENT.encode())]
            topic.producer.send(name, b"value", headers=headers, partition=partition)

        seen: list[str] = []
        while len(seen) < 2:
            seen += [current_trace_id() for _ in kafka_python.iterate(first)]
        joining.start()
        while len(first.assignment()) != 1:
            for _ in kafka_python.iterate(first):
                pass
        joining.join()

        assert seen == [SENDER.trace_id] * 2
        assert listener.partitions == [2, -2, 1]
        assert listener.contexts == [None] * len(listener.contexts)
        assert TraceContext.get() is None


class TestPoll:
    def test_each_record_of_a_poll_has_its_own_context(self, topic: Topic) -> None:
        """K-25, K-15, K-05: three traces, one record without and one malformed; all five are there."""
        senders = [TraceContext.new_root() for _ in range(3)]
        for sender in senders:
            topic.put({"traceparent": sender.to_traceparent()})
        topic.put()
        topic.put({"traceparent": TRACEPARENT, "tracestate": b"\xff\xfe"})
        topic.put({"traceparent": b"\xff\xfe"})

        polled = poll(topic.consumer, 6)
        with kafka_python.process_batch(polled) as batch:
            records = polled[TopicPartition(topic.name, 0)]
            carried = [batch.context_of(record) for record in records]
            seen = []
            for record in records:
                with batch.process(record):
                    seen.append(current_trace_id())

        traced = [*(sender.trace_id for sender in senders), SENDER.trace_id]
        assert [link.trace_id for link in batch.links] == traced
        assert [each and each.trace_id for each in carried] == [*traced[:3], None, traced[3], None]
        assert [*seen[:3], seen[4]] == traced
        assert len(set(seen)) == 6

    def test_a_batch_handler_takes_what_poll_returns(self, topic: Topic) -> None:
        """K-25: the dict that poll returns is a batch."""
        recorder = MemoryRecorder()
        topic.put({"traceparent": TRACEPARENT})

        @kafka_python.batch_consumer(tracer=recorder)
        def handle(polled: dict[TopicPartition, list[ConsumerRecord]]) -> int:
            assert TraceContext.get() is not None
            return sum(map(len, polled.values()))

        assert handle(poll(topic.consumer, 1)) == 1
        assert [link.span_id for link in recorder.spans[0].links] == [SENDER.span_id]

    def test_an_empty_poll_opens_nothing(self, topic: Topic, caplog: pytest.LogCaptureFixture) -> None:
        """K-33: no scope, no log, no span."""
        caplog.set_level(logging.DEBUG, logger="spakky.tracing")
        recorder = MemoryRecorder()

        with kafka_python.process_batch(topic.consumer.poll(timeout_ms=10), tracer=recorder) as batch:
            assert TraceContext.get() is None

        assert (batch.context, batch.links, list(recorder.spans)) == (None, (), [])
        assert [record for record in caplog.records if record.name == "spakky.tracing"] == []

    async def test_a_record_polled_in_an_executor_is_processed_in_its_trace(
        self, topic: Topic, caplog: pytest.LogCaptureFixture
    ) -> None:
        """K-14: received in one Context, opened in a second, finished in a third."""
        topic.put({"traceparent": TRACEPARENT})
        polled = await asyncio.to_thread(poll, topic.consumer, 1)
        ((record,),) = polled.values()
        processing = kafka_python.process(record)

        other = copy_context()
        assert other.run(processing.open).context is other.run(TraceContext.get)
        await asyncio.to_thread(processing.close, "ok")

        assert TraceContext.get() is None
        assert other.run(TraceContext.get) is None
        assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []

    def test_a_handler_finds_a_record_although_it_is_a_tuple(self, topic: Topic) -> None:
        record = topic.deliver({"traceparent": TRACEPARENT})

        @kafka_python.consumer
        def handle(pair: tuple[str, int], record: ConsumerRecord) -> str:
            return current_trace_id()

        assert handle(("a", 1), record) == SENDER.trace_id
        assert handle(("a", 1), record=record._replace(value=None)) == SENDER.trace_id

    def test_records_and_batches_are_not_mixed_up(self, topic: Topic) -> None:
        record: Any = topic.deliver({"traceparent": TRACEPARENT})
        batch: Any = [record]

        def handle(received: Any) -> None: ...

        with pytest.raises(
            WrongUseError, match="takes a list of received ConsumerRecord, got ConsumerRecord"
        ):
            kafka_python.process_batch(record)
        with pytest.raises(WrongUseError, match="must be called with a list of ConsumerRecord; it got none"):
            kafka_python.batch_consumer(handle)(record)
        with pytest.raises(WrongUseError, match="must be called with a ConsumerRecord; it got none"):
            kafka_python.consumer(handle)(batch)
        with pytest.raises(WrongUseError, match="this takes a received ConsumerRecord, got list"):
            kafka_python.process(batch)


class TestRecord:
    def test_the_last_of_several_traceparents_counts(self, topic: Topic) -> None:
        """K-02: what a library that appends has forwarded is read right."""
        topic.send(headers=[("traceparent", STALE.encode()), ("traceparent", TRACEPARENT.encode())])

        assert kafka_python.context_from(topic.record()) == SENDER

    @pytest.mark.parametrize("name", ["traceparent", "tracestate", "baggage"])
    def test_a_field_that_is_no_text_does_not_raise(self, topic: Topic, name: str) -> None:
        """K-04: the record is delivered and processed."""
        record = topic.deliver({"traceparent": TRACEPARENT, name: b"\xff\xfe"})

        with kafka_python.process(record) as processing:
            assert TraceContext.get() is processing.context

    @pytest.mark.parametrize("foreign", ["x-schema", "elasticapmtraceparent"])
    def test_binary_headers_of_others_are_never_decoded(self, topic: Topic, foreign: str) -> None:
        """K-06, K-26: a schema id, and Elastic's own header."""
        record = topic.deliver({foreign: b"\x00\xff\x00", "traceparent": TRACEPARENT})

        assert kafka_python.context_from(record) == SENDER

    def test_null_values_do_not_raise(self, topic: Topic) -> None:
        """K-07: null headers, alone and beside a valid one; and no headers at all."""
        beside = topic.deliver({"app": None, "traceparent": TRACEPARENT})

        assert kafka_python.context_from(beside) == SENDER
        assert kafka_python.context_from(topic.deliver({"traceparent": None})) is None
        assert kafka_python.context_from(beside._replace(headers=None)) is None

    @pytest.mark.parametrize("kind", [str, str.encode, lambda text: bytearray(text.encode())])
    def test_values_of_any_type_are_read_alike(self, topic: Topic, kind: Callable[[str], Any]) -> None:
        """K-08: as a test double or another client hands them out."""
        record = topic.deliver()._replace(headers=[("traceparent", kind(TRACEPARENT))])

        assert kafka_python.context_from(record) == SENDER

    @pytest.mark.parametrize("name", ["TRACEPARENT", "Traceparent"])
    def test_a_name_in_any_casing_is_found(self, topic: Topic, name: str) -> None:
        """K-30: as bridges from HTTP write it."""
        assert kafka_python.context_from(topic.deliver({name: TRACEPARENT})) == SENDER

    def test_what_is_no_record_is_refused(self) -> None:
        with pytest.raises(WrongUseError, match="this takes a received ConsumerRecord, got tuple"):
            kafka_python.process((b"key", b"value"))  # type: ignore[arg-type]

    def test_what_is_no_consumer_is_refused(self) -> None:
        with pytest.raises(WrongUseError, match="takes what `async for` or `for` takes, got int"):
            kafka_python.iterate(7)  # type: ignore[call-overload]


class Listener(ConsumerRebalanceListener):
    """Keeps how many partitions came and went, and what was current then."""

    def __init__(self) -> None:
        self.partitions: list[int] = []
        self.contexts: list[TraceContext | None] = []

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._keep(len(assigned))

    def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        self._keep(-len(revoked))

    def _keep(self, change: int) -> None:
        self.contexts.append(TraceContext.get())
        if change:
            self.partitions.append(change)


def reader_of_the_last(clients: Clients, topic: Topic, count: int, **settings: Any) -> Any:
    """Return another consumer, which starts with the last *count* records of the topic."""
    partition = TopicPartition(topic.name, 0)
    consumer = clients.consumer(**settings)
    consumer.assign([partition])
    consumer.seek(partition, consumer.end_offsets([partition])[partition] - count)
    return consumer


def poll(consumer: Any, count: int) -> dict[TopicPartition, list[ConsumerRecord]]:
    """Return *count* records as `poll` does, which may need several calls for them."""
    polled: dict[TopicPartition, list[ConsumerRecord]] = {}
    while sum(map(len, polled.values())) < count:
        for partition, records in consumer.poll(SECONDS * 1000).items():
            polled.setdefault(partition, []).extend(records)
    return polled


def poll_until_assigned(consumer: Any) -> None:
    while not consumer.assignment():
        consumer.poll(100)


def fail_in(records: Any) -> None:
    for _ in records:
        raise LookupError


def wire_of(record: ConsumerRecord) -> Wire:
    wire: Wire = {}
    for name, value in record.headers:
        wire.setdefault(name, []).append(value)
    return wire


def texts_of(record: ConsumerRecord, name: str) -> list[str]:
    return texts(wire_of(record), name)


def current() -> TraceContext:
    context = TraceContext.get()
    assert context is not None
    return context


def current_trace_id() -> str:
    return current().trace_id
