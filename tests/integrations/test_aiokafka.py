"""aiokafka on a real Kafka."""

from __future__ import annotations

import asyncio
import copy
import inspect
import logging
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID, uuid4

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import MessageSizeTooLargeError, ProducerClosed
from aiokafka.producer.message_accumulator import BatchBuilder

from contract.choosing import ChoosingContract
from contract.contexts import STALE, TRACEPARENT, full_context
from contract.delivery import Delivery, VerbsReceivingContract
from contract.fitting import FittingContract
from contract.handling import HandlerContract
from contract.pulling import PullingContract
from contract.receiving import SENDER
from contract.retrying import RetryingContract
from contract.sending import SendingContract, Wire
from integrations.aiokafka_topic import Record, Topic, current, new_name, open_topic, texts_of, trace_ids
from integrations.foreign_proxy import ForeignProxy
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.integrations import aiokafka
from spakky.tracing.recorder import MemoryRecorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


LIMIT = 200_000


@pytest.fixture(scope="module")
def topic_name() -> str:
    """One topic for all tests, each of which starts at its end: a broker with thousands of topics is slow."""
    return new_name()


@pytest.fixture(scope="module")
def small_topic_name() -> str:
    return new_name()


@pytest.fixture
async def topic(kafka_address: str, topic_name: str) -> AsyncIterator[Topic]:
    async with open_topic(kafka_address, topic_name) as topic:
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
    async def small_topic(self, apache_kafka_address: str, small_topic_name: str) -> AsyncIterator[Topic]:
        async with open_topic(apache_kafka_address, small_topic_name, max_message_bytes=LIMIT) as topic:
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
        """K-24: all of it is there."""
        producer = aiokafka.wrap(topic.producer)

        assert isinstance(producer, AIOKafkaProducer)
        assert producer.client is topic.producer.client
        assert aiokafka.unwrap(producer) is topic.producer
        assert aiokafka.unwrap(topic.producer) is topic.producer

    async def test_a_layer_of_somebody_else_stays(self, topic: Topic) -> None:
        foreign: Any = ForeignProxy(topic.producer, "send_and_wait")

        await aiokafka.wrap(foreign).send_and_wait(topic.name, b"value", partition=0)

        assert foreign.calls == 1
        assert aiokafka.unwrap(foreign) is foreign
        assert aiokafka.unwrap(aiokafka.wrap(foreign)) is foreign

    async def test_wrapping_twice_is_wrapping_once(self, topic: Topic) -> None:
        recorder = MemoryRecorder()
        producer = aiokafka.wrap(aiokafka.wrap(topic.producer, tracer=recorder), tracer=recorder)

        await producer.send_and_wait(topic.name, b"value", partition=0)

        assert len((await topic.record()).headers) == 1
        assert len(recorder.spans) == 1
        assert aiokafka.unwrap(producer) is topic.producer

    async def test_the_client_library_stays_as_it_was(self, topic: Topic) -> None:
        """K-24: nothing is patched, so the order of imports does not matter."""
        send, attributes = AIOKafkaProducer.send, dict(vars(topic.producer))

        aiokafka.wrap(topic.producer)

        assert AIOKafkaProducer.send is send
        assert vars(topic.producer) == attributes

    async def test_it_starts_and_stops_as_a_context_manager(self, topic: Topic, kafka_address: str) -> None:
        async with aiokafka.wrap(AIOKafkaProducer(bootstrap_servers=kafka_address)) as producer:
            await producer.send_and_wait(topic.name, b"value", partition=0)

        assert texts_of(await topic.record(), "traceparent")

    async def test_the_future_of_send_is_the_one_of_the_client(self, topic: Topic) -> None:
        """K-19: of the client's own type, delivered with the client's own result."""
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
        """K-19: the sends after it are not its children."""
        producer = aiokafka.wrap(topic.producer, tracer=MemoryRecorder())

        with TraceContext.use(TraceContext.new_root()) as context:
            futures = [await producer.send(topic.name, b"value", partition=0) for _ in range(3)]
            assert TraceContext.get() is context

        await asyncio.gather(*futures)

    async def test_a_failing_send_is_recorded_and_raises_what_the_client_raises(self, topic: Topic) -> None:
        """K-22: a serializer, the size, a stopped producer; at once and later."""
        recorder = MemoryRecorder()
        broken = AIOKafkaProducer(bootstrap_servers=topic.address, value_serializer=lambda value: value + b"")
        async with aiokafka.wrap(broken, tracer=recorder) as producer:
            for send in (producer.send, producer.send_and_wait):
                with pytest.raises(TypeError):
                    await send(topic.name, "text")
        for send in (producer.send, producer.send_and_wait):
            with pytest.raises(ProducerClosed):
                await send(topic.name, b"value")
        with pytest.raises(MessageSizeTooLargeError):
            await aiokafka.wrap(topic.producer, tracer=recorder).send(topic.name, b"x" * 2_000_000)

        assert [(span.outcome, str(span.error).rpartition(".")[2]) for span in recorder.spans] == [
            *[("error", "TypeError")] * 2,
            *[("error", "ProducerClosed")] * 2,
            ("error", "MessageSizeTooLargeError"),
        ]

    async def test_sends_that_are_not_awaited_are_siblings(self, topic: Topic) -> None:
        """K-19: each is a child of what is current, and so is work between them."""
        recorder = MemoryRecorder()
        producer = aiokafka.wrap(topic.producer, tracer=recorder)

        with TraceContext.use(TraceContext.new_root()) as context:
            futures = [await producer.send(topic.name, b"value", partition=0) for _ in range(3)]
        await producer.flush()

        assert context is not None
        assert all(future.done() for future in futures)
        assert [span.parent_span_id for span in recorder.spans] == [context.span_id] * 3

    async def test_a_cancelled_send_is_recorded_as_cancelled(self, topic: Topic) -> None:
        recorder = MemoryRecorder()
        future = await aiokafka.wrap(topic.producer, tracer=recorder).send(topic.name, b"value", partition=0)

        future.cancel()
        await asyncio.sleep(0.01)

        assert [span.outcome for span in recorder.spans] == ["cancelled"]

    async def test_everything_that_the_client_offers_is_there(self, topic: Topic) -> None:
        """K-24: every public name of a producer, and what is not about sending is the client's own."""
        producer, sending = (
            aiokafka.wrap(topic.producer),
            {"send", "send_and_wait", "send_batch", "create_batch"},
        )

        for name in (name for name in dir(topic.producer) if not name.startswith("_")):
            mine, bare = getattr(producer, name), getattr(topic.producer, name)
            assert callable(mine) is callable(bare), name
            assert name in sending or mine == bare, name

        assert 0 in await producer.partitions_for(topic.name)
        await producer.flush()

    @pytest.mark.parametrize("name", ["send", "send_and_wait", "send_batch", "create_batch"])
    def test_a_wrapped_method_has_the_parameters_of_the_client_s(self, name: str) -> None:
        """K-16, K-27: names, order, kinds and defaults."""
        wrapped = inspect.signature(getattr(aiokafka.wrap(AIOKafkaProducer.__new__(AIOKafkaProducer)), name))
        bare = inspect.signature(getattr(AIOKafkaProducer, name))

        said = [(each.name, each.kind, each.default) for each in wrapped.parameters.values()]
        assert said == [(each.name, each.kind, each.default) for each in bare.parameters.values()][1:]

    @pytest.mark.parametrize("method", ["send", "send_and_wait"])
    @pytest.mark.parametrize("positional", range(1, 7))
    async def test_arguments_may_be_given_by_place_or_by_name(
        self, topic: Topic, method: str, positional: int
    ) -> None:
        """K-16, K-27: every mix, each argument arrives where the client has it."""
        arguments = {
            "topic": topic.name,
            "value": b"value",
            "key": b"key",
            "partition": 0,
            "timestamp_ms": 1_700_000_000_000,
            "headers": [("app", b"1")],
        }
        names = list(arguments)
        by_place = [arguments[name] for name in names[:positional]]
        by_name = {name: arguments[name] for name in reversed(names[positional:])}

        sent = await getattr(aiokafka.wrap(topic.producer), method)(*by_place, **by_name)
        if method == "send":
            await sent
        record = await topic.record()

        assert (record.value, record.key, record.timestamp) == (b"value", b"key", 1_700_000_000_000)
        assert record.headers[0] == ("app", b"1")
        assert len(texts_of(record, "traceparent")) == 1

    @pytest.mark.parametrize("headers", [None, []], ids=repr)
    async def test_an_argument_that_is_none_may_be_given_or_left_out(
        self, topic: Topic, headers: Any
    ) -> None:
        """K-16: `headers=None` by place is what broke other libraries."""
        producer = aiokafka.wrap(topic.producer)

        await (await producer.send(topic.name, b"1"))
        await (await producer.send(topic.name, b"2", None, None, None, headers))
        await producer.send_and_wait(topic.name, None, b"key", 0, None, headers)
        await producer.send_and_wait(key=b"key", topic=topic.name, headers=headers)

        records = await topic.records(4)
        assert sorted(record.value or b"" for record in records) == [b"", b"", b"1", b"2"]
        assert [len(texts_of(record, "traceparent")) for record in records] == [1] * 4

    async def test_what_the_client_does_not_take_is_refused_as_ever(self, topic: Topic) -> None:
        """K-16: a wrong call is a TypeError, and leaves no span."""
        recorder = MemoryRecorder()
        producer: Any = aiokafka.wrap(topic.producer, tracer=recorder)
        wrong: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
            ((), {}),
            ((topic.name, b"1", None, 0, None, [], "one more"), {}),
            ((topic.name,), {"topic": topic.name}),
            ((topic.name, b"1"), {"unknown": 1}),
        ]

        for arguments, named in wrong:
            for method in (producer.send, producer.send_and_wait):
                with pytest.raises(TypeError):
                    await method(*arguments, **named)
        assert list(recorder.spans) == []

    @pytest.mark.parametrize(
        "key",
        ["user-1", b"\xff", 7, ("tenant", 1), UUID(int=7), object(), None],
        ids=lambda key: type(key).__name__,
    )
    async def test_a_key_may_be_anything_that_the_serializer_takes(
        self, topic: Topic, kafka_address: str, key: object
    ) -> None:
        """K-18: it is none of our business, and neither is the value."""
        bare = AIOKafkaProducer(
            bootstrap_servers=kafka_address,
            key_serializer=lambda key: None if key is None else repr(key).encode(),
            value_serializer=lambda value: repr(value).encode(),
        )
        async with aiokafka.wrap(bare, tracer=MemoryRecorder()) as producer:
            await producer.send_and_wait(topic.name, {"order": 7}, key=key, partition=0)
            await (await producer.send(topic.name, 7, key, 0))
            batch = producer.create_batch()
            batch.append(key=key, value=7, timestamp=None)
            await (await producer.send_batch(batch, topic.name, partition=0))

        expected = None if key is None else repr(key).encode()
        for record in await topic.records(3):
            assert record.key == expected
            assert len(texts_of(record, "traceparent")) == 1

    @pytest.mark.parametrize(
        "headers",
        [[("app", b"1")], {"app": b"1"}, (("app", b"1"),), [("app", b"1"), ("traceparent", STALE.encode())]],
        ids=["list", "dict", "tuple", "list-with-a-stale-context"],
    )
    async def test_headers_that_are_reused_carry_the_context_of_each_send(
        self, topic: Topic, headers: Any
    ) -> None:
        """K-03: a list, a dict and a tuple in three sends, in three traces."""
        before = copy.deepcopy(headers)
        producer, sent = aiokafka.wrap(topic.producer), []

        for _ in range(3):
            with TraceContext.use(TraceContext.new_root()) as context:
                await producer.send_and_wait(topic.name, b"value", headers=headers, partition=0)
            assert context is not None
            sent.append([("app", b"1"), ("traceparent", context.to_traceparent().encode())])

        assert [list(record.headers) for record in await topic.records(3)] == sent
        assert headers == before
        assert type(headers) is type(before)

    async def test_a_context_alone_is_one_header_of_55_bytes(self, topic: Topic) -> None:
        """K-29: that is all that a message grows by."""
        await aiokafka.wrap(topic.producer).send_and_wait(topic.name, b"value", partition=0)

        ((name, value),) = (await topic.record()).headers
        assert (name, len(value)) == ("traceparent", 55)

    async def test_forwarding_again_and_again_leaves_one_of_each_field(self, topic: Topic) -> None:
        """K-01, K-02, K-28, P-03: whatever libraries that append have left, of a tuple or of a list of it."""
        stale = [("traceparent", STALE.encode()), ("Tracestate", b"old=1"), ("BAGGAGE", b"old=1")]
        app = [("app", b"\x00\xff"), ("app", b"2"), ("null", None)]
        await topic.producer.send_and_wait(
            topic.name, b"value", headers=[*stale, app[0], *stale, *app[1:]], partition=0
        )
        producer = aiokafka.wrap(topic.producer)

        for shape in (tuple, list, dict, tuple):
            old = await topic.record()
            with TraceContext.use(TraceContext.new_root()) as context:
                headers: Any = shape(old.headers)
                await producer.send_and_wait(topic.name, old.value, headers=headers, partition=0)
        new = await topic.record()

        assert context is not None
        assert new.headers[-1] == ("traceparent", context.to_traceparent().encode())
        assert dict(new.headers[:-1]) == dict(app)

    async def test_a_record_without_headers_is_sent_on_with_a_context(self, topic: Topic) -> None:
        """K-01: what a record without headers has is an empty tuple."""
        old = await topic.deliver({})
        assert old.headers == ()

        await aiokafka.wrap(topic.producer).send_and_wait(topic.name, b"1", headers=old.headers, partition=0)

        assert len((await topic.record()).headers) == 1

    async def test_each_serializer_runs_once_for_a_message(self, topic: Topic, kafka_address: str) -> None:
        """K-23: neither serializers nor the partitioner run for us."""
        calls: list[Any] = []

        def serialize(value: Any) -> bytes:
            calls.append(value)
            return str(value).encode()

        def choose(key: bytes | None, *partitions: list[int]) -> int:
            calls.append(key)
            return 0

        bare = AIOKafkaProducer(
            bootstrap_servers=kafka_address,
            key_serializer=serialize,
            value_serializer=serialize,
            partitioner=cast("Any", choose),  # annotated as the class of its default
        )
        async with aiokafka.wrap(bare, tracer=MemoryRecorder()) as producer:
            await producer.send_and_wait(topic.name, 7, key="user-1")

        assert calls == ["user-1", 7, b"user-1"]
        assert texts_of(await topic.record(), "traceparent")

    async def test_any_headers_a_caller_may_have_are_accepted(self, topic: Topic) -> None:
        """K-01, K-07, K-17: also those that the client itself refuses."""
        producer = aiokafka.wrap(topic.producer)
        shapes: list[Any] = [None, [], (), {}, {"app": b"1"}, (("app", b"1"),), iter([("app", b"1")])]

        for headers in shapes:
            await producer.send_and_wait(topic.name, b"value", headers=headers, partition=0)

        for record, has_app in zip(await topic.records(7), [False] * 4 + [True] * 3, strict=True):
            assert len(texts_of(record, "traceparent")) == 1
            assert bool(texts_of(record, "app")) is has_app

    async def test_a_received_record_can_be_forwarded_with_its_headers(self, topic: Topic) -> None:
        """K-01, K-02: a tuple, sent on with one traceparent."""
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
        """K-02, P-01: Kafka's own rule."""
        headers = [("traceparent", STALE.encode()), ("traceparent", TRACEPARENT.encode())]
        await topic.producer.send_and_wait(topic.name, b"value", headers=headers, partition=0)

        context = aiokafka.context_from(await topic.record())

        assert context == TraceContext.from_traceparent(TRACEPARENT)

    async def test_the_records_of_a_batch_have_the_contexts_they_were_appended_in(self, topic: Topic) -> None:
        """K-21: also without a single `send`."""
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

    async def test_a_batch_by_hand_carries_the_contexts_that_its_headers_were_made_in(
        self, topic: Topic
    ) -> None:
        """K-21: and the client's own default for headers, a list, stays empty."""
        batch, contexts = topic.producer.create_batch(), [TraceContext.new_root(), TraceContext.new_root()]
        wrapped = aiokafka.wrap(topic.producer).create_batch()
        for context in contexts:
            with TraceContext.use(context):
                batch.append(key=None, value=b"1", timestamp=None, headers=aiokafka.headers())
                wrapped.append(key=None, value=b"1", timestamp=None)
        batch.append(key=None, value=b"1", timestamp=None)

        await (await topic.producer.send_batch(batch, topic.name, partition=0))

        records = await topic.records(3)
        assert [texts_of(record, "traceparent") for record in records] == [
            *([context.to_traceparent()] for context in contexts),
            [],
        ]
        assert inspect.signature(BatchBuilder.append).parameters["headers"].default == []

    async def test_a_wrapped_batch_can_be_sent_by_the_bare_producer_and_the_other_way_round(
        self, topic: Topic
    ) -> None:
        """K-21: a batch is the client's own, whoever sends it."""
        producer = aiokafka.wrap(topic.producer, tracer=MemoryRecorder())
        wrapped, bare = producer.create_batch(), topic.producer.create_batch()
        for batch in (wrapped, bare):
            batch.append(key=None, value=b"1", timestamp=None)
            assert isinstance(batch, BatchBuilder)
            assert batch.record_count() == 1

        await (await topic.producer.send_batch(wrapped, topic.name, partition=0))
        await (await producer.send_batch(bare, topic.name, partition=0))

        assert [len(record.headers) for record in await topic.records(2)] == [1, 0]

    async def test_a_closed_batch_takes_nothing_more(self, topic: Topic) -> None:
        recorder = MemoryRecorder()
        batch = aiokafka.wrap(topic.producer, tracer=recorder).create_batch()
        batch.close()

        assert batch.append(key=None, value=b"1", timestamp=None) is None
        assert [span.outcome for span in recorder.spans] == ["rejected"]

    async def test_a_batch_leaves_no_trace_in_the_baggage_of_what_is_sent_next(self, topic: Topic) -> None:
        """K-32: nothing private travels along, and the next single message continues the trace."""
        producer = aiokafka.wrap(topic.producer)
        with TraceContext.use(full_context()) as context:
            batch = producer.create_batch()
            batch.append(key=None, value=b"batch", timestamp=None)
            await (await producer.send_batch(batch, topic.name, partition=0))
        with aiokafka.process(await topic.record()) as processing:
            await producer.send_and_wait(topic.name, b"single", partition=0)
        single = aiokafka.context_from(await topic.record())

        assert context is not None
        assert processing.context is not None
        assert single is not None
        assert single.to_traceparent() == processing.context.to_traceparent()
        assert single.baggage == context.baggage

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
        """K-21: by `send` and by batch."""
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
        """K-09, K-20: with no option set."""
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

    async def test_without_any_option_a_trace_goes_on_through_a_topic(self, topic: Topic) -> None:
        """K-20: wrapping and decorating is all there is to do."""

        @aiokafka.consumer
        async def handle(record: Record) -> TraceContext:
            return current()

        with TraceContext.use(TraceContext.new_root()) as sender:
            await aiokafka.wrap(topic.producer).send_and_wait(topic.name, b"value", partition=0)
        processed = await handle(await topic.record())

        assert sender is not None
        assert (processed.trace_id, processed.parent_span_id) == (sender.trace_id, sender.span_id)

    @pytest.mark.parametrize("name", ["traceparent", "tracestate", "baggage"])
    async def test_one_bad_record_costs_its_batch_nothing(self, topic: Topic, name: str) -> None:
        """K-04, K-05: all three of `getmany` arrive, the first and the third with their contexts."""
        good = [TraceContext.new_root(), TraceContext.new_root()]
        first, third = [{"traceparent": each.to_traceparent()} for each in good]
        batches = await topic.batch(first, {"traceparent": TRACEPARENT, name: b"\xff\xfe"}, third)
        records = batches[topic.partition]

        seen = []
        with aiokafka.process_batch(records) as batch:
            for record in records:
                with batch.process(record):
                    seen.append(current().trace_id)

        assert (seen[0], seen[2]) == (good[0].trace_id, good[1].trace_id)
        assert (seen[1] == SENDER.trace_id) is (name != "traceparent")
        assert [link.trace_id for link in batch.links if link != SENDER] == trace_ids(good)

    async def test_a_bad_record_is_delivered_and_the_next_one_too(self, topic: Topic) -> None:
        """K-04, K-06, K-07: by `getone` and by the loop, whatever its headers are made of."""
        junk: list[dict[str, Any]] = [
            {name: value}
            for name in ("traceparent", "tracestate", "baggage", "x-schema", "")
            for value in (b"\xff\xfe", None, b"", b"\x00")
        ]
        for headers in junk:
            await topic.send(headers)
        (last,) = await topic.send_traced(b"last")

        received: list[bytes | None] = []
        async for record in aiokafka.iterate(topic.consumer):
            received.append(record.value)
            if record.value == b"last":
                assert current().trace_id == last.trace_id
                break
            assert current().parent_span_id is None

        assert len(received) == len(junk) + 1

    async def test_the_context_of_each_record_of_a_batch_is_to_be_had(self, topic: Topic) -> None:
        """K-15, K-31: three records of three traces and one of none."""
        senders = [TraceContext.new_root() for _ in range(3)]
        batches = await topic.batch(*({"traceparent": each.to_traceparent()} for each in senders), {})

        with aiokafka.process_batch(batches) as batch:
            found = [batch.context_of(record) for record in batches[topic.partition]]

        assert list(batch.links) == senders
        assert found == [*senders, None]

    @pytest.mark.parametrize("traceparent", [TRACEPARENT, None], ids=["with-traceparent", "without"])
    async def test_baggage_reaches_the_handler(self, topic: Topic, traceparent: str | None) -> None:
        """K-10, P-13: in the loop, in the handler and by hand."""
        headers = {"baggage": "tenant=acme;p=1,user=J%C3%BCrgen"}
        record = await topic.deliver({**headers, "traceparent": traceparent} if traceparent else headers)

        with aiokafka.process(record):
            baggage = current().baggage
            await aiokafka.wrap(topic.producer).send_and_wait(topic.name, b"next", partition=0)

        assert dict(baggage) == {"tenant": "acme", "user": "J\xfcrgen"}
        assert texts_of(await topic.record(), "baggage") == [headers["baggage"]]

    async def test_repeated_baggage_headers_are_put_together(self, topic: Topic) -> None:
        """P-06, P-07: their members in their order, with their properties."""
        pairs = [("baggage", b"a=1;ttl=30"), ("traceparent", TRACEPARENT.encode()), ("Baggage", b"b=a+b")]
        record = await topic.deliver_native(pairs)

        context = aiokafka.context_from(record)

        assert context is not None
        assert dict(context.baggage) == {"a": "1", "b": "a+b"}
        assert context.baggage.to_header() == "a=1;ttl=30,b=a+b"

    @pytest.mark.parametrize("name", ["tracestate", "baggage"])
    async def test_headers_of_a_megabyte_cost_one_line_in_the_log(
        self, topic: Topic, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """P-14: whatever the size, without the value."""
        caplog.set_level(logging.DEBUG, logger="spakky.tracing")
        record = await topic.deliver({"traceparent": TRACEPARENT, name: b"s3cret=1," * 115_000})

        with aiokafka.process(record):
            assert current().trace_id == SENDER.trace_id

        (line,) = [each.getMessage() for each in caplog.records if each.name == "spakky.tracing"]
        assert "s3cret" not in line
        assert len(line) < 200

    async def test_a_batch_handler_takes_what_getmany_returns(self, topic: Topic) -> None:
        """K-15: with a link to each sender."""
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

    async def test_an_empty_poll_opens_nothing(self, topic: Topic, caplog: pytest.LogCaptureFixture) -> None:
        """K-33: no scope, no span, no log."""
        recorder = MemoryRecorder()

        caplog.set_level(logging.DEBUG, logger="spakky.tracing")
        with aiokafka.process_batch(await topic.consumer.getmany(timeout_ms=10), tracer=recorder) as batch:
            assert TraceContext.get() is None

        assert (batch.context, batch.links, list(recorder.spans)) == (None, (), [])
        assert [record for record in caplog.records if record.name == "spakky.tracing"] == []

    async def test_what_is_no_record_is_refused(self) -> None:
        with pytest.raises(WrongUseError, match="this takes a received ConsumerRecord, got bytes"):
            aiokafka.process(b"value")  # type: ignore[arg-type]

    async def test_what_is_no_consumer_is_refused(self) -> None:
        with pytest.raises(WrongUseError, match="takes what `async for` or `for` takes, got int"):
            aiokafka.iterate(7)  # type: ignore[call-overload]
