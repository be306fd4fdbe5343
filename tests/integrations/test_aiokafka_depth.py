"""aiokafka on a real Kafka, at length: transactions, groups, commits, retries, sizes, tasks and threads."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalOperation, MessageSizeTooLargeError, OutOfOrderSequenceNumber

from contract.contexts import full_context
from contract.receiving import HandlerError
from integrations.aiokafka_topic import (
    PATIENCE,
    Record,
    Topic,
    current,
    open_topic,
    texts_of,
    trace_ids,
    until,
)
from spakky.tracing.context import TraceContext
from spakky.tracing.integrations import aiokafka
from spakky.tracing.recorder import MemoryRecorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from spakky.tracing.recorder import Span


@pytest.fixture
async def topic(apache_kafka_address: str) -> AsyncIterator[Topic]:
    async with open_topic(apache_kafka_address) as topic:
        yield topic


@pytest.fixture
def recorder() -> MemoryRecorder:
    return MemoryRecorder()


class TestTransactions:
    @pytest.fixture
    async def producer(self, topic: Topic, recorder: MemoryRecorder) -> AsyncIterator[AIOKafkaProducer]:
        bare = AIOKafkaProducer(bootstrap_servers=topic.address, transactional_id=f"tx-{uuid4().hex}")
        async with aiokafka.wrap(bare, tracer=recorder) as producer:
            yield producer

    @pytest.fixture
    async def committed(self, topic: Topic) -> AsyncIterator[AIOKafkaConsumer]:
        """A consumer of what is committed."""
        async with topic.another_consumer(isolation_level="read_committed") as consumer:
            yield consumer

    async def test_what_is_committed_carries_the_context_of_each_send(
        self, topic: Topic, producer: AIOKafkaProducer, committed: AIOKafkaConsumer, recorder: MemoryRecorder
    ) -> None:
        """K-21: by `send`, by `send_and_wait` and by batch, as the spans say."""
        with TraceContext.use(full_context()) as context:
            assert context is not None
            async with producer.transaction():
                await producer.send(topic.name, b"1", partition=0)
                await producer.send_and_wait(topic.name, b"2", partition=0)
                batch = producer.create_batch()
                batch.append(key=None, value=b"3", timestamp=None)
                await producer.send_batch(batch, topic.name, partition=0)
                assert TraceContext.get() is context
            assert TraceContext.get() is context

        records = [await asyncio.wait_for(committed.getone(), PATIENCE) for _ in range(3)]
        sent = [aiokafka.context_from(record) for record in records]
        assert [record.value for record in records] == [b"1", b"2", b"3"]
        assert [each and (each.trace_id, dict(each.baggage)) for each in sent] == [
            (context.trace_id, {"tenant": "acme"})
        ] * 3
        recorded = {span.span_id for span in recorder.spans}
        assert {each.span_id for each in sent if each} <= recorded
        assert {span.outcome for span in recorder.spans} == {"ok"}

    async def test_what_is_aborted_is_not_seen_and_the_error_comes_out(
        self, topic: Topic, producer: AIOKafkaProducer, committed: AIOKafkaConsumer, recorder: MemoryRecorder
    ) -> None:
        error = HandlerError()
        with TraceContext.use(TraceContext.new_root()) as context:
            try:
                async with producer.transaction():
                    await producer.send_and_wait(topic.name, b"aborted", partition=0)
                    raise error
            except HandlerError as caught:
                assert caught is error  # noqa: PT017 - the block itself is what is tested
            assert TraceContext.get() is context
            async with producer.transaction():
                await producer.send_and_wait(topic.name, b"committed", partition=0)

        record = await asyncio.wait_for(committed.getone(), PATIENCE)
        assert record.value == b"committed"
        (first,) = [span for span in recorder.spans if span.span_id not in texts_of(record, "traceparent")[0]]
        assert context is not None
        assert (first.outcome, first.parent_span_id) == ("ok", context.span_id)
        assert [each.value for each in await topic.records(2)] == [b"aborted", b"committed"]

    async def test_a_transaction_may_be_begun_committed_and_aborted_by_hand(
        self, topic: Topic, producer: Any, committed: AIOKafkaConsumer
    ) -> None:
        for value, end in ((b"1", producer.abort_transaction), (b"2", producer.commit_transaction)):
            await producer.begin_transaction()
            await producer.send(topic.name, value, partition=0)
            await end()

        record = await asyncio.wait_for(committed.getone(), PATIENCE)
        assert record.value == b"2"
        assert len(texts_of(record, "traceparent")) == 1

    async def test_a_send_outside_of_a_transaction_is_refused_by_the_client_and_recorded(
        self, topic: Topic, producer: Any, recorder: MemoryRecorder
    ) -> None:
        """K-22: with the client's own error."""
        for send in (producer.send, producer.send_and_wait):
            with pytest.raises(IllegalOperation):
                await send(topic.name, b"1", partition=0)

        assert [span.error for span in recorder.spans] == ["aiokafka.errors.IllegalOperation"] * 2

    async def test_what_is_consumed_and_produced_in_one_transaction_is_one_trace(
        self, topic: Topic, producer: AIOKafkaProducer, recorder: MemoryRecorder
    ) -> None:
        """An attempt that is aborted leaves no offset; the next one is in the same trace, a new span."""
        group = f"group-{uuid4().hex}"
        (sender,) = await topic.send_traced(b"in")

        first = await self.handle_in_transaction(topic, producer, group, fail=True)
        second = await self.handle_in_transaction(topic, producer, group, fail=False)

        async with topic.another_consumer(group_id=group) as consumer:
            assert await consumer.committed(topic.partition) == 1
        async with topic.another_consumer(isolation_level="read_committed") as consumer:
            _, out = [await asyncio.wait_for(consumer.getone(), PATIENCE) for _ in range(2)]
        sent = aiokafka.context_from(out)
        assert sent is not None
        assert {first.trace_id, second.trace_id, sent.trace_id} == {sender.trace_id}
        assert first.parent_span_id == second.parent_span_id == sender.span_id
        assert first.span_id != second.span_id
        (send,) = [span for span in recorder.spans if span.span_id == sent.span_id]
        assert send.parent_span_id == second.span_id

    async def handle_in_transaction(
        self, topic: Topic, producer: AIOKafkaProducer, group: str, *, fail: bool
    ) -> TraceContext:
        async with topic.another_consumer(group_id=group, isolation_level="read_committed") as consumer:
            record = await asyncio.wait_for(consumer.getone(), PATIENCE)
            with contextlib.suppress(HandlerError), aiokafka.process(record) as processing:
                async with producer.transaction():
                    await producer.send(topic.name, b"out", partition=0)
                    await producer.send_offsets_to_transaction({topic.partition: record.offset + 1}, group)
                    assert current() is processing.context
                    if fail:
                        raise HandlerError
        assert processing.context is not None
        return processing.context


class TestCommits:
    """A consumer that commits by hand, after each record, within the record's context."""

    async def consume(
        self, topic: Topic, group: str, handler: Callable[[Record], None], count: int, **options: Any
    ) -> None:
        """Handle *count* records, and commit each that was handled."""
        async with (
            topic.another_consumer(group_id=group) as consumer,
            aiokafka.iterate(consumer, **options) as records,
        ):
            async for record in records:
                handler(record)
                await consumer.commit()
                assert current().trace_id == texts_of(record, "traceparent")[0][3:35]
                count -= 1
                if not count:
                    break

    async def test_what_is_committed_is_not_delivered_again(
        self, topic: Topic, recorder: MemoryRecorder
    ) -> None:
        """K-09, K-12: committing is inside of the context, and the last span ends with its block."""
        senders = await topic.send_traced(b"1", b"2", b"3")
        group, seen = f"group-{uuid4().hex}", list[str]()

        for count in (2, 1):
            await self.consume(
                topic, group, lambda _: seen.append(current().trace_id), count, tracer=recorder
            )

        assert seen == trace_ids(senders)
        assert [span.trace_id for span in recorder.spans] == seen
        assert TraceContext.get() is None

    async def test_what_failed_is_delivered_again_in_the_same_trace_as_a_new_span(
        self, topic: Topic, recorder: MemoryRecorder
    ) -> None:
        """The offset of a record whose handler fails is not committed."""
        first, failing = await topic.send_traced(b"1", b"2")
        group, attempts = f"group-{uuid4().hex}", list[tuple[int, TraceContext]]()

        def handle(record: Record) -> None:
            attempts.append((record.offset, current()))
            if record.offset == 1 and len(attempts) == 2:
                raise HandlerError

        with pytest.raises(HandlerError):
            await self.consume(topic, group, handler=handle, count=2, tracer=recorder)
        async with topic.another_consumer(group_id=group) as consumer:
            assert await consumer.committed(topic.partition) == 1
        await self.consume(topic, group, handler=handle, count=1, tracer=recorder)

        assert [offset for offset, _ in attempts] == [0, 1, 1]
        assert [context.parent_span_id for _, context in attempts] == [
            first.span_id,
            failing.span_id,
            failing.span_id,
        ]
        assert len({context.span_id for _, context in attempts}) == 3
        spans: list[Span] = list(recorder.spans)
        assert [span.trace_id for span in spans] == trace_ids([first, failing, failing])
        assert [(span.outcome, span.error) for span in spans[:2]] == [
            ("ok", None),
            ("error", "contract.receiving.HandlerError"),
        ]


class Listener(ConsumerRebalanceListener):
    """Notes what happens to the partitions of a consumer, and what is current meanwhile."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.assigned: set[TopicPartition] = set()
        self.current: list[TraceContext | None] = []

    def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        self.current.append(TraceContext.get())
        self.events.append("revoked")

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self.current.append(TraceContext.get())
        self.events.append("assigned")
        self.assigned = assigned


class TestRebalances:
    @pytest.fixture
    async def wide_topic(self, apache_kafka_address: str) -> AsyncIterator[Topic]:
        async with open_topic(apache_kafka_address, partitions=2) as topic:
            yield topic

    @contextlib.asynccontextmanager
    async def member(self, topic: Topic, group: str, listener: Listener) -> AsyncIterator[AIOKafkaConsumer]:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=topic.address,
            group_id=group,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            heartbeat_interval_ms=50,
            retry_backoff_ms=20,
        )
        consumer.subscribe([topic.name], listener=listener)
        async with consumer:
            yield consumer

    async def test_contexts_are_kept_across_a_rebalance(
        self, wide_topic: Topic, recorder: MemoryRecorder
    ) -> None:
        """A group of two: records before, during and after, and a scope that is open all the time."""
        group, one, other = f"group-{uuid4().hex}", Listener(), Listener()
        before = [*await wide_topic.send_traced(b"0"), *await wide_topic.send_traced(b"1", partition=1)]

        async with self.member(wide_topic, group, one) as first:
            with TraceContext.use(TraceContext.new_root()) as own:
                records = aiokafka.iterate(first, tracer=recorder)
                seen = [await self.trace_id_of_next(records) for _ in range(2)]
                held = current()
                assert sorted(seen) == sorted(trace_ids(before))
                await first.commit()

                async with self.member(wide_topic, group, other) as second:
                    await until(lambda: len(one.assigned) == len(other.assigned) == 1)
                    assert current() is held

                    after = await self.send_to_each(wide_topic)
                    mine = after[next(iter(one.assigned)).partition]
                    yours = after[next(iter(other.assigned)).partition]
                    assert await self.trace_id_of_next(records) == mine.trace_id
                    with aiokafka.process(await asyncio.wait_for(second.getone(), PATIENCE)):
                        assert current().trace_id == yours.trace_id
                    assert current().trace_id == mine.trace_id

                await records.aclose()
                assert TraceContext.get() is own

        assert one.events[:3] == ["revoked", "assigned", "revoked"]
        # A listener runs where its consumer was started: outside of all records, and within the held one.
        assert set(one.current) == {None}
        assert set(other.current) == {held}
        assert [span.outcome for span in recorder.spans] == ["ok", "ok", "unknown"]

    @staticmethod
    async def trace_id_of_next(records: AsyncIterator[Record]) -> str:
        async with asyncio.timeout(PATIENCE):  # wait_for would take the step in a task of its own
            await anext(records)
        return current().trace_id

    @staticmethod
    async def send_to_each(topic: Topic) -> dict[int, TraceContext]:
        """Send a record to each partition, and return in which context."""
        return {number: (await topic.send_traced(b"after", partition=number))[0] for number in range(2)}


class TestOtherTasksAndThreads:
    async def test_two_consumers_that_take_turns_in_one_task_do_not_mix(self, topic: Topic) -> None:
        """K-13: and leave what was current before."""
        async with open_topic(topic.address) as second:
            sent = [await each.send_traced(b"1", b"2") for each in (topic, second)]
            one, other = aiokafka.iterate(topic.consumer), aiokafka.iterate(second.consumer)
            with TraceContext.use(TraceContext.new_root()) as before:
                seen = []
                for records in (one, other, one, other):
                    await anext(records)
                    seen.append(current().trace_id)
                await one.aclose()
                assert current().trace_id == sent[1][1].trace_id
                await other.aclose()
                assert TraceContext.get() is before

        assert seen == trace_ids([sent[0][0], sent[1][0], sent[0][1], sent[1][1]])

    async def test_consumers_in_tasks_of_one_thread_do_not_mix(self, topic: Topic) -> None:
        """K-13: each task has its own, while the other one is in the middle of a body."""
        both_inside = asyncio.Barrier(2)

        async def consume(mine: Topic, count: int) -> list[str]:
            seen = []
            async for _ in aiokafka.iterate(mine.consumer):
                await both_inside.wait()
                seen.append(current().trace_id)
                await both_inside.wait()
                assert current().trace_id == seen[-1]
                if len(seen) == count:
                    break
            assert TraceContext.get() is None
            return seen

        async with open_topic(topic.address) as second:
            sent = [await each.send_traced(b"1", b"2", b"3") for each in (topic, second)]
            seen = await asyncio.gather(consume(topic, 3), consume(second, 3))

        assert list(seen) == [trace_ids(each) for each in sent]

    async def test_records_fetched_by_another_task_are_processed_here(
        self, topic: Topic, caplog: pytest.LogCaptureFixture
    ) -> None:
        """K-14: by `getone` and by `getmany`; the other task's context stays as it was."""
        caplog.set_level(logging.DEBUG, logger="spakky.tracing")
        senders = await topic.send_traced(b"1", b"2")

        async def fetch() -> tuple[list[Record], TraceContext | None]:
            with TraceContext.use(None):
                one = await topic.record()
                many = await topic.consumer.getmany(timeout_ms=PATIENCE * 1000)
            return [one, *many[topic.partition]], TraceContext.get()

        with TraceContext.use(TraceContext.new_root()) as before:
            records, there = await asyncio.create_task(fetch())
            seen = []
            for record in records:
                with aiokafka.process(record):
                    seen.append(current().trace_id)
            assert TraceContext.get() is there is before

        assert seen == trace_ids(senders)
        assert caplog.records == []

    async def test_a_loop_may_go_on_in_another_task_and_end_in_a_third(
        self, topic: Topic, caplog: pytest.LogCaptureFixture
    ) -> None:
        """K-14, P-09, P-10: each step in a Context of its own, none of which keeps anything."""
        caplog.set_level(logging.DEBUG, logger="spakky.tracing")
        senders = await topic.send_traced(b"1", b"2", b"3")
        records = aiokafka.iterate(topic.consumer)
        contexts = [contextvars.copy_context() for _ in range(4)]

        async def step() -> str:
            await anext(records)
            return current().trace_id

        seen = [await asyncio.create_task(step(), context=context) for context in contexts[:3]]
        await asyncio.create_task(records.aclose(), context=contexts[3])

        assert seen == trace_ids(senders)
        assert [context.run(TraceContext.get) for context in contexts] == [None] * 4
        assert caplog.records == []

    async def test_a_record_received_here_may_be_finished_in_a_thread_and_the_other_way_round(
        self, topic: Topic, caplog: pytest.LogCaptureFixture, recorder: MemoryRecorder
    ) -> None:
        """K-14: neither side is altered, nothing is logged."""
        caplog.set_level(logging.DEBUG, logger="spakky.tracing")
        await topic.send_traced(b"1", b"2")
        first, second = [aiokafka.process(record, tracer=recorder) for record in await topic.records(2)]
        with TraceContext.use(TraceContext.new_root()) as before, ThreadPoolExecutor(1) as threads:
            first.open()
            threads.submit(first.close, "ok").result()
            assert TraceContext.get() is before
            threads.submit(second.open).result()
            assert threads.submit(TraceContext.get).result() is second.context
            second.close("ok")
            assert TraceContext.get() is before
            assert threads.submit(TraceContext.get).result() is None

        assert [span.outcome for span in recorder.spans] == ["ok", "ok"]
        assert caplog.records == []

    async def test_a_consumer_in_an_executor_has_its_own_loop_and_contexts(self, topic: Topic) -> None:
        """K-14: its records may be processed there, here, or in both."""
        senders = await topic.send_traced(b"1", b"2")

        async def poll() -> tuple[list[Record], list[str]]:
            async with topic.another_consumer() as consumer:
                records = [await asyncio.wait_for(consumer.getone(), PATIENCE) for _ in senders]
                return records, [current().trace_id for _ in aiokafka.iterate(records)]

        with TraceContext.use(TraceContext.new_root()) as before:
            records, there = await asyncio.to_thread(lambda: asyncio.run(poll()))
            here = [current().trace_id for _ in aiokafka.iterate(records)]
            assert TraceContext.get() is before

        assert there == here == trace_ids(senders)


class TestRetryTopics:
    async def test_a_record_that_fails_twice_and_is_dead_lettered_stays_in_its_trace(
        self, topic: Topic, recorder: MemoryRecorder
    ) -> None:
        """K-28: one context, the failing attempt as parent, headers of the application byte for byte."""
        app = [("app", b"\x00\xff"), ("app", b"2"), ("null", None), ("app", b""), ("tracestates", b"=")]
        sender = full_context()
        with TraceContext.use(sender):
            await topic.producer.send_and_wait(
                topic.name, b"value", key=b"key", headers=aiokafka.headers(app), partition=0
            )
        async with open_topic(topic.address) as retries, open_topic(topic.address) as dead_letters:
            for source, target in ((topic, retries), (retries, retries), (retries, dead_letters)):
                record = await source.record()
                with contextlib.suppress(HandlerError), aiokafka.process(record, tracer=recorder):
                    headers = aiokafka.retry_headers(record)
                    await target.producer.send_and_wait(
                        target.name, record.value, record.key, 0, headers=headers
                    )
                    raise HandlerError
            dead = await dead_letters.record()

        attempts = list(recorder.spans)
        assert {span.trace_id for span in attempts} == {sender.trace_id}
        assert [span.parent_span_id for span in attempts] == [
            sender.span_id,
            attempts[0].span_id,
            attempts[1].span_id,
        ]
        assert [(span.outcome, span.attempt) for span in attempts] == [("error", n) for n in (None, 2, 3)]
        assert (dead.value, dead.key) == (b"value", b"key")
        assert [header for header in dead.headers if header[0] not in FIELDS] == app
        assert sorted(header for header in dead.headers if header[0] in FIELDS) == [
            ("baggage", b"tenant=acme"),
            ("traceparent", f"00-{sender.trace_id}-{attempts[2].span_id}-01".encode()),
            ("tracestate", b"congo=t61"),
            ("x-retry-count", b"3"),
        ]


FIELDS = {"traceparent", "tracestate", "baggage", "x-retry-count"}
LIMIT = 50_000


class TestATopicThatTakesLessThanTheClient:
    """The broker refuses a record that would fit without its context; the client has sent it by then."""

    @pytest.fixture
    async def small(self, apache_kafka_address: str) -> AsyncIterator[Topic]:
        async with open_topic(apache_kafka_address, max_message_bytes=LIMIT) as topic:
            yield topic

    @pytest.fixture
    def value(self) -> bytes:
        """A value that fits, but not with a traceparent."""
        return b"x" * (LIMIT - 100)

    @pytest.mark.parametrize("tracer", [None, MemoryRecorder()], ids=["unrecorded", "recorded"])
    async def test_what_is_refused_after_a_send_fails_its_future_and_nothing_else(
        self, small: Topic, value: bytes, tracer: MemoryRecorder | None
    ) -> None:
        """The sends after it are on their way already: sent again, it would come behind them."""
        options: Any = {"tracer": tracer} if tracer else {}
        producer = aiokafka.wrap(small.producer, **options)

        bare = await small.producer.send(small.name, value, partition=0)
        futures = [await producer.send(small.name, each, partition=0) for each in (b"1", value, b"2")]
        results = await asyncio.gather(*futures, return_exceptions=True)

        assert (await bare).offset == 0
        assert [type(result) is MessageSizeTooLargeError for result in results] == [False, True, False]
        assert [record.value for record in await small.records(3)] == [value, b"1", b"2"]
        if tracer:
            assert sorted(span.outcome for span in tracer.spans) == ["error", "ok", "ok"]

    async def test_what_is_refused_while_the_caller_waits_is_sent_again_in_its_place(
        self, small: Topic, value: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        producer = aiokafka.wrap(small.producer)

        for each in (b"1", value, b"2"):
            await producer.send_and_wait(small.name, each, partition=0)

        records = await small.records(3)
        assert [record.value for record in records] == [b"1", value, b"2"]
        assert [len(record.headers) for record in records] == [1, 0, 1]
        (warning,) = [record.getMessage() for record in caplog.records if record.name == "spakky.tracing"]
        assert warning == f"a message to {small.name} is sent without trace context, which makes it too large"

    async def test_an_idempotent_producer_of_this_client_cannot_send_again(
        self, small: Topic, value: bytes
    ) -> None:
        """Its sequence has gone on: aiokafka's own next send fails in the same way. The error says why."""
        async with AIOKafkaProducer(bootstrap_servers=small.address, enable_idempotence=True) as bare:
            await bare.send_and_wait(small.name, b"1", partition=0)
            with pytest.raises(OutOfOrderSequenceNumber) as caught:
                await aiokafka.wrap(bare).send_and_wait(small.name, value, partition=0)
            with pytest.raises(OutOfOrderSequenceNumber):
                await bare.send_and_wait(small.name, b"2", partition=0)

        assert isinstance(caught.value.__context__, MessageSizeTooLargeError)

    @pytest.mark.parametrize("settings", [{}, {"enable_idempotence": True}], ids=["plain", "idempotent"])
    async def test_with_the_limit_of_the_topic_the_client_refuses_first_and_all_arrives_in_order(
        self, small: Topic, value: bytes, settings: Any
    ) -> None:
        """What to do: `max_request_size` of the producer is `max.message.bytes` of the topic."""
        bare = AIOKafkaProducer(bootstrap_servers=small.address, max_request_size=LIMIT, **settings)
        async with aiokafka.wrap(bare) as producer:
            values = [b"first", *(b"x" * size for size in range(LIMIT - 250, LIMIT - 82, 12)), b"last"]
            futures = [await producer.send(small.name, value, partition=0) for value in values]
            await asyncio.gather(*futures)

        records = await small.records(len(values))
        assert [record.value for record in records] == values
        assert {len(record.headers) for record in records} == {0, 1}
