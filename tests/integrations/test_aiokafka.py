"""aiokafka on a real Kafka."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition

from contract.choosing import ChoosingContract
from contract.contexts import STALE, TRACEPARENT
from contract.delivery import Delivery, VerbsReceivingContract
from contract.fitting import FittingContract
from contract.handling import HandlerContract
from contract.pulling import PullingContract
from contract.retrying import RetryingContract
from contract.sending import SendingContract, Wire
from integrations.aiokafka_topic import Record, Topic, open_topic, texts_of
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.integrations import aiokafka
from spakky.tracing.recorder import MemoryRecorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


LIMIT = 200_000


@pytest.fixture
async def topic(kafka_address: str) -> AsyncIterator[Topic]:
    async with open_topic(kafka_address) as topic:
        yield topic


class Sending:
    """Sends through the wrapped producer and looks at what arrives."""

    @pytest.fixture(autouse=True)
    def _on(self, topic: Topic) -> None:
        self.topic = topic

    async def send(self, way: str, headers: Any, *, value: bytes = b"value", **options: Any) -> None:
        name, bare = self.topic.name, self.topic.producer
        if way == "headers":
            written = aiokafka.headers(headers, **options)
            await bare.send_and_wait(name, value, partition=0, headers=written)
            return
        producer = aiokafka.wrap(bare, **options)
        if way == "send":
            await (await producer.send(name, value=value, partition=0, headers=headers))
        elif way == "send_and_wait":
            await producer.send_and_wait(name, value, partition=0, headers=headers)
        elif way == "positional":
            await (await producer.send(name, value, None, 0, None, headers))
        elif way == "keywords":
            arguments = {
                "headers": headers,
                "timestamp_ms": None,
                "partition": 0,
                "key": b"key",
                "value": value,
            }
            await producer.send_and_wait(topic=name, **arguments)
        else:
            batch = producer.create_batch()
            assert batch.append(key=None, value=value, timestamp=None, headers=headers) is not None
            await (await producer.send_batch(batch, name, partition=0))

    async def send_filled(self, way: str, filling: int, **options: Any) -> None:
        await self.send(way, None, value=b"x" * filling, **options)

    async def arrived(self) -> Wire:
        wire: Wire = {}
        for name, value in (await self.topic.record()).headers:
            wire.setdefault(name, []).append(value)
        return wire

    def native(self, headers: dict[str, str]) -> list[tuple[str, bytes]]:
        return [(name, value.encode()) for name, value in headers.items()]

    async def fail_to_send(self, way: str, **options: Any) -> BaseException:
        with pytest.raises(TypeError) as raised:
            await self.send(way, [("name", "a value that is not bytes")], **options)
        return raised.value


class TestSending(Sending, SendingContract):
    ways = ["send", "send_and_wait", "positional", "keywords", "batch", "headers"]
    recorded_ways = ["send", "send_and_wait", "positional", "keywords", "batch"]
    foreign = [("zebra", b"\x00\xff"), ("app", b"1"), ("app", b"2"), ("null", None), ("empty", b"")]


class TestFitting(Sending, FittingContract):
    fitting_ways = ["send", "send_and_wait", "positional", "keywords"]
    largest = 1_048_576 - 100


class TestFittingWhatTheBrokerTakes(Sending, FittingContract):
    """Of a topic that takes less than the client, where the caller waits for what the broker says."""

    fitting_ways = ["send_and_wait", "keywords"]
    largest = LIMIT - 100

    @pytest.fixture(name="topic")
    async def small_topic(self, apache_kafka_address: str) -> AsyncIterator[Topic]:
        async with open_topic(apache_kafka_address, max_message_bytes=LIMIT) as topic:
            yield topic


class OverKafka(Delivery):
    integration = aiokafka

    @pytest.fixture(autouse=True)
    def _on(self, topic: Topic) -> None:
        self.topic = topic

    @property
    def source(self) -> str:
        return self.topic.name

    async def deliver(self, headers: dict[str, Any]) -> Record:
        return await self.topic.deliver(headers)

    async def deliver_native(self, headers: Any) -> Record:
        return await self.topic.deliver_native(headers)


class TestReceiving(OverKafka, VerbsReceivingContract):
    ways = [*VerbsReceivingContract.ways, "consumer loop", "getmany", "getone elsewhere"]
    sees_errors = [*VerbsReceivingContract.sees_errors, "getmany", "getone elsewhere"]
    hostile_values = [b"", b"\xff\xfe", b"00-bad", b"x" * 100_000, None, f"{TRACEPARENT}\n".encode()]

    async def receive(
        self, way: str, headers: dict[str, Any], body: Callable[[], None], **options: Any
    ) -> None:
        if way == "consumer loop":
            await self.topic.send(headers)
            async for _ in aiokafka.iterate(self.topic.consumer, **options):
                body()
                break
        elif way == "getmany":
            await self.topic.send(headers)
            batches = await self.topic.consumer.getmany(timeout_ms=10_000)
            for record in batches[self.topic.partition]:
                with aiokafka.process(record, **options):
                    body()
        elif way == "getone elsewhere":
            record = await asyncio.create_task(self.topic.deliver(headers))
            with aiokafka.process(record, **options):
                body()
        else:
            await super().receive(way, headers, body, **options)


class TestHandlers(OverKafka, HandlerContract): ...


class TestPulling(OverKafka, PullingContract): ...


class TestChoosing(OverKafka, ChoosingContract): ...


class TestRetrying(OverKafka, RetryingContract): ...


class TestProducer:
    async def test_a_wrapped_producer_is_a_producer(self, topic: Topic) -> None:
        producer = aiokafka.wrap(topic.producer)

        assert isinstance(producer, AIOKafkaProducer)
        assert producer.client is topic.producer.client
        assert aiokafka.unwrap(producer) is topic.producer
        assert aiokafka.unwrap(topic.producer) is topic.producer

    async def test_wrapping_twice_is_wrapping_once(self, topic: Topic) -> None:
        recorder = MemoryRecorder()
        producer = aiokafka.wrap(aiokafka.wrap(topic.producer, tracer=recorder), tracer=recorder)

        await producer.send_and_wait(topic.name, b"value", partition=0)

        assert len((await topic.record()).headers) == 1
        assert len(recorder.spans) == 1
        assert aiokafka.unwrap(producer) is topic.producer

    async def test_the_client_library_stays_as_it_was(self, topic: Topic) -> None:
        send, attributes = AIOKafkaProducer.send, dict(vars(topic.producer))

        aiokafka.wrap(topic.producer)

        assert AIOKafkaProducer.send is send
        assert vars(topic.producer) == attributes

    async def test_it_starts_and_stops_as_a_context_manager(self, topic: Topic, kafka_address: str) -> None:
        async with aiokafka.wrap(AIOKafkaProducer(bootstrap_servers=kafka_address)) as producer:
            await producer.send_and_wait(topic.name, b"value", partition=0)

        assert texts_of(await topic.record(), "traceparent")

    async def test_the_future_of_send_is_the_one_of_the_client(self, topic: Topic) -> None:
        bare = await topic.producer.send(topic.name, b"value", partition=0)
        plain, recorded = (
            aiokafka.wrap(topic.producer),
            aiokafka.wrap(topic.producer, tracer=MemoryRecorder()),
        )
        for producer in (plain, recorded):
            wrapped = await producer.send(topic.name, b"value", partition=0)

            assert type(wrapped) is type(bare)
            assert (await wrapped).topic == topic.name
        await bare

    async def test_a_send_that_is_not_awaited_leaves_nothing_current(self, topic: Topic) -> None:
        producer = aiokafka.wrap(topic.producer, tracer=MemoryRecorder())

        with TraceContext.use(TraceContext.new_root()) as context:
            futures = [await producer.send(topic.name, b"value", partition=0) for _ in range(3)]
            assert TraceContext.get() is context

        await asyncio.gather(*futures)

    async def test_a_cancelled_send_is_recorded_as_cancelled(self, topic: Topic) -> None:
        recorder = MemoryRecorder()
        future = await aiokafka.wrap(topic.producer, tracer=recorder).send(topic.name, b"value", partition=0)

        future.cancel()
        await asyncio.sleep(0.01)

        assert [span.outcome for span in recorder.spans] == ["cancelled"]

    async def test_each_serializer_runs_once_for_a_message(self, topic: Topic, kafka_address: str) -> None:
        calls: list[Any] = []

        def serialize(value: Any) -> bytes:
            calls.append(value)
            return str(value).encode()

        bare = AIOKafkaProducer(
            bootstrap_servers=kafka_address, key_serializer=serialize, value_serializer=serialize
        )
        async with aiokafka.wrap(bare) as producer:
            await producer.send_and_wait(topic.name, 7, key="user-1", partition=0)

        assert calls == ["user-1", 7]
        assert texts_of(await topic.record(), "traceparent")

    async def test_any_headers_a_caller_may_have_are_accepted(self, topic: Topic) -> None:
        producer = aiokafka.wrap(topic.producer)
        shapes: list[Any] = [None, [], (), {}, {"app": b"1"}, (("app", b"1"),), iter([("app", b"1")])]

        for headers in shapes:
            await producer.send_and_wait(topic.name, b"value", headers=headers, partition=0)

        for record, has_app in zip(await topic.records(7), [False] * 4 + [True] * 3, strict=True):
            assert len(texts_of(record, "traceparent")) == 1
            assert bool(texts_of(record, "app")) is has_app

    async def test_a_received_record_can_be_forwarded_with_its_headers(self, topic: Topic) -> None:
        old = await topic.deliver({"traceparent": STALE, "app": b"\xff", "tracestate": "old=1"})

        with aiokafka.process(old) as processing:
            await aiokafka.wrap(topic.producer).send_and_wait(
                topic.name, old.value, headers=old.headers, partition=0
            )
        new = await topic.record()

        assert processing.context is not None
        assert texts_of(new, "traceparent") == [processing.context.to_traceparent()]
        assert ("app", b"\xff") in new.headers

    async def test_the_last_of_several_traceparents_counts(self, topic: Topic) -> None:
        headers = [("traceparent", STALE.encode()), ("traceparent", TRACEPARENT.encode())]
        await topic.producer.send_and_wait(topic.name, b"value", headers=headers, partition=0)

        context = aiokafka.context_from(await topic.record())

        assert context == TraceContext.from_traceparent(TRACEPARENT)

    async def test_the_records_of_a_batch_have_the_contexts_they_were_appended_in(self, topic: Topic) -> None:
        recorder = MemoryRecorder()
        producer = aiokafka.wrap(topic.producer, tracer=recorder)
        batch = producer.create_batch()
        contexts = [TraceContext.new_root(), TraceContext.new_root()]
        for context in contexts:
            with TraceContext.use(context):
                batch.append(key=None, value=b"value", timestamp=None)

        await (await producer.send_batch(batch, topic.name, partition=0))

        sent = [aiokafka.context_from(record) for record in await topic.records(2)]
        assert [each and each.trace_id for each in sent] == [context.trace_id for context in contexts]
        *created, send = recorder.spans
        assert [(link.trace_id, link.span_id) for link in send.links] == [
            (span.trace_id, span.span_id) for span in created
        ]

    async def test_a_full_batch_says_so_and_links_only_to_what_it_took(self, topic: Topic) -> None:
        recorder = MemoryRecorder()
        producer = aiokafka.wrap(topic.producer, tracer=recorder)
        batch = producer.create_batch()
        while batch.append(key=None, value=b"x" * 4000, timestamp=None) is not None:
            pass

        await (await producer.send_batch(batch, topic.name, partition=0))

        send = next(span for span in recorder.spans if span.name.startswith("send"))
        assert len(send.links) == batch.record_count()
        assert [span.outcome for span in recorder.spans if span.name == "create"][-1] == "rejected"

    async def test_transactions_work(self, topic: Topic, apache_kafka_address: str) -> None:
        bare = AIOKafkaProducer(bootstrap_servers=apache_kafka_address, transactional_id=f"tx-{uuid4().hex}")
        async with aiokafka.wrap(bare) as producer:
            with TraceContext.use(TraceContext.new_root()) as context:
                async with producer.transaction():
                    await producer.send(topic.name, b"in", partition=0)
                    batch = producer.create_batch()
                    batch.append(key=None, value=b"batch", timestamp=None)
                    await producer.send_batch(batch, topic.name, partition=0)

        assert context is not None
        for record in await topic.records(2):
            assert texts_of(record, "traceparent") == [context.to_traceparent()]

    async def test_what_is_no_producer_is_refused(self) -> None:
        with pytest.raises(WrongUseError, match=r"wrap\(\) takes an AIOKafkaProducer, got object"):
            aiokafka.wrap(object())  # type: ignore[type-var]

    async def test_what_cannot_be_headers_is_refused(self, topic: Topic) -> None:
        with pytest.raises(
            WrongUseError, match=r"Kafka headers must be a list of \(str, bytes\) pairs, got int"
        ):
            await aiokafka.wrap(topic.producer).send(topic.name, b"value", headers=5)


class TestConsumer:
    async def test_the_bodies_of_a_loop_run_in_the_contexts_of_their_records(self, topic: Topic) -> None:
        sent = []
        for _ in range(3):
            with TraceContext.use(TraceContext.new_root()) as context:
                await aiokafka.wrap(topic.producer).send_and_wait(topic.name, b"value", partition=0)
            assert context is not None
            sent.append(context.trace_id)

        seen = []
        with TraceContext.use(TraceContext.new_root()) as before:
            async for _ in aiokafka.iterate(topic.consumer):
                current = TraceContext.get()
                assert current is not None
                seen.append(current.trace_id)
                if len(seen) == len(sent):
                    break
            assert TraceContext.get() is before

        assert seen == sent

    async def test_a_batch_handler_takes_what_getmany_returns(self, topic: Topic) -> None:
        with TraceContext.use(TraceContext.new_root()) as sender:
            await aiokafka.wrap(topic.producer).send_and_wait(topic.name, b"value", partition=0)
        recorder = MemoryRecorder()

        @aiokafka.batch_consumer(tracer=recorder)
        async def handle(batches: dict[TopicPartition, list[Record]]) -> int:
            assert TraceContext.get() is not None
            return sum(map(len, batches.values()))

        assert await handle(await topic.consumer.getmany(timeout_ms=10_000)) == 1
        assert sender is not None
        assert [link.span_id for link in recorder.spans[0].links] == [sender.span_id]

    async def test_an_empty_poll_opens_nothing(self, topic: Topic) -> None:
        recorder = MemoryRecorder()

        with aiokafka.process_batch(await topic.consumer.getmany(timeout_ms=10), tracer=recorder) as batch:
            assert TraceContext.get() is None

        assert (batch.context, batch.links, list(recorder.spans)) == (None, (), [])

    async def test_what_is_no_record_is_refused(self) -> None:
        with pytest.raises(WrongUseError, match="this takes a received ConsumerRecord, got bytes"):
            aiokafka.process(b"value")  # type: ignore[arg-type]

    async def test_what_is_no_consumer_is_refused(self) -> None:
        with pytest.raises(WrongUseError, match="takes what `async for` or `for` takes, got int"):
            aiokafka.iterate(7)  # type: ignore[call-overload]
