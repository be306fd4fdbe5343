"""aio-pika on a real RabbitMQ: every way to consume."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import aio_pika as client
import pytest
from aio_pika.abc import AbstractIncomingMessage

from contract.contexts import TRACEPARENT
from contract.receiving import SENDER, HandlerError
from integrations.aio_pika_link import Link, open_link
from integrations.bare_amqp import PUBLISHERS
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.integrations import aio_pika
from spakky.tracing.recorder import MemoryRecorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

Seen = asyncio.Queue[TraceContext | None]


@pytest.fixture
async def link(amqp_url: str) -> AsyncIterator[Link]:
    async with open_link(amqp_url) as link:
        yield link


@pytest.fixture
def seen() -> Seen:
    """Return what was current in the handlers of a test, in their order."""
    return asyncio.Queue()


async def next_of(seen: Seen) -> TraceContext:
    context = await asyncio.wait_for(seen.get(), 10)
    assert context is not None
    return context


async def publish_traces(link: Link, count: int) -> list[str]:
    """Publish *count* messages in a trace each, and return the ids of these."""
    contexts = [TraceContext.new_root() for _ in range(count)]
    for context in contexts:
        await link.publish({"traceparent": context.to_traceparent()})
    return [context.trace_id for context in contexts]


def current_trace_id() -> str:
    context = TraceContext.get()
    assert context is not None
    return context.trace_id


class Handlers:
    """Handlers of each kind that `consume` takes; each says what is current and acks its message."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    async def method(self, message: AbstractIncomingMessage) -> None:
        await asyncio.sleep(0)
        self.seen.put_nowait(TraceContext.get())
        await message.ack()

    async def with_session(self, session: str, message: AbstractIncomingMessage) -> None:
        await self.method(message)

    async def __call__(self, message: AbstractIncomingMessage) -> None:
        await self.method(message)


HANDLERS: dict[str, Callable[[Handlers], Any]] = {
    "method": lambda handlers: handlers.method,
    "callable object": lambda handlers: handlers,
    "partial": lambda handlers: functools.partial(handlers.with_session, "session"),
}


class TestCallback:
    @pytest.mark.parametrize("kind", HANDLERS)
    @pytest.mark.parametrize("covered", ["decorated", "wrapped queue", "wrapped channel"])
    async def test_it_runs_in_the_context_of_its_message(
        self, link: Link, seen: Seen, covered: str, kind: str
    ) -> None:
        handler = HANDLERS[kind](Handlers(seen))
        if covered == "decorated":
            await link.queue.consume(aio_pika.consumer(handler))
        elif covered == "wrapped queue":
            await aio_pika.wrap(link.queue).consume(callback=handler)
        else:
            channel = aio_pika.wrap(link.channel)
            queue = await channel.get_queue(link.queue.name)
            await queue.consume(handler)

        await link.publish({"traceparent": TRACEPARENT})
        await link.publish({})
        traced, untraced = await next_of(seen), await next_of(seen)

        assert (traced.trace_id, traced.parent_span_id) == (SENDER.trace_id, SENDER.span_id)
        assert untraced.parent_span_id is None
        assert untraced.trace_id != traced.trace_id

    async def test_a_sync_one_runs_in_the_context_of_its_message(self, link: Link, seen: Seen) -> None:
        """aio-pika takes it with a warning of its own."""

        @aio_pika.consumer
        def handle(message: AbstractIncomingMessage) -> None:
            seen.put_nowait(TraceContext.get())

        with pytest.warns(DeprecationWarning, match="coroutine"):
            await link.queue.consume(handle, no_ack=True)  # type: ignore[arg-type] # typed as async
        await link.publish({"traceparent": TRACEPARENT})

        assert (await next_of(seen)).parent_span_id == SENDER.span_id

    async def test_what_was_current_when_the_channel_opened_is_not_joined(
        self, amqp_url: str, seen: Seen
    ) -> None:
        """aio-pika runs a callback with the context variables of the moment when its channel opened."""
        with TraceContext.use(TraceContext.new_root()) as ambient:
            connection = await client.connect(amqp_url)
            channel = await connection.channel()
        async with connection:
            queue = await channel.declare_queue(exclusive=True)
            await queue.consume(aio_pika.consumer(Handlers(seen).method))
            for headers in ({"traceparent": TRACEPARENT}, {}):
                await channel.default_exchange.publish(client.Message(b"", headers=dict(headers)), queue.name)
            traced, untraced = await next_of(seen), await next_of(seen)

        assert ambient is not None
        assert traced.parent_span_id == SENDER.span_id
        assert untraced.trace_id not in {ambient.trace_id, traced.trace_id}

    async def test_concurrent_ones_see_their_own_contexts(self, link: Link) -> None:
        seen: dict[bytes, str] = {}
        all_in, done = asyncio.Barrier(10), asyncio.Event()

        @aio_pika.consumer
        async def handle(message: AbstractIncomingMessage) -> None:
            await all_in.wait()
            seen[message.body] = current_trace_id()
            await message.ack()
            if len(seen) == 10:
                done.set()

        await link.channel.set_qos(prefetch_count=10)
        await link.queue.consume(handle)
        sent = {}
        for number in range(10):
            context = TraceContext.new_root()
            body = str(number).encode()
            await link.publish({"traceparent": context.to_traceparent()}, body)
            sent[body] = context.trace_id

        await asyncio.wait_for(done.wait(), 10)
        assert seen == sent

    async def test_decorated_and_consumed_by_a_wrapped_queue_it_has_one_context(
        self, link: Link, seen: Seen
    ) -> None:
        """A-13: wrapping on wrapping is one scope, one span."""
        recorder = MemoryRecorder()
        channel = aio_pika.wrap(link.channel, tracer=recorder)
        queue = aio_pika.wrap(await channel.get_queue(link.queue.name), tracer=recorder)

        await queue.consume(aio_pika.consumer(tracer=recorder)(Handlers(seen).method))
        await link.publish({"traceparent": TRACEPARENT})

        assert (await next_of(seen)).parent_span_id == SENDER.span_id
        assert len(recorder.spans) == 1

    async def test_of_an_unwrapped_queue_it_has_none(self, link: Link, seen: Seen) -> None:
        """A-13, A-14: what is undone is undone, and consuming goes on."""
        queue = aio_pika.wrap(link.queue)
        tag = await queue.consume(Handlers(seen).method)
        await link.publish({"traceparent": TRACEPARENT})
        assert (await next_of(seen)).parent_span_id == SENDER.span_id
        await queue.cancel(tag)

        await aio_pika.unwrap(queue).consume(Handlers(seen).method)
        await link.publish({"traceparent": TRACEPARENT})

        assert await asyncio.wait_for(seen.get(), 10) is None

    async def test_options_may_name_the_queue(self, link: Link, seen: Seen) -> None:
        """A message names its exchange and routing key; only a wrapped queue knows where it came from."""
        await link.queue.bind("amq.topic", "orders.new")
        await aio_pika.wrap(link.queue, relation={link.queue.name: "link"}).consume(Handlers(seen).method)

        topic = await link.channel.get_exchange("amq.topic")
        await topic.publish(client.Message(b"", headers={"traceparent": TRACEPARENT}), "orders.new")

        assert (await next_of(seen)).trace_id != SENDER.trace_id

    async def test_what_it_raises_ends_where_it_ends_without_us(self, link: Link) -> None:
        """A-08: the message stays unacked, the channel open."""
        recorder, error = MemoryRecorder(), HandlerError()
        raised: asyncio.Queue[Any] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, what: raised.put_nowait(what.get("exception")))

        @aio_pika.consumer(tracer=recorder)
        async def handle(message: AbstractIncomingMessage) -> None:
            raise error

        await link.queue.consume(handle)
        await link.publish({"traceparent": TRACEPARENT})

        assert await asyncio.wait_for(raised.get(), 10) is error
        assert [span.outcome for span in recorder.spans] == ["error"]
        assert not link.channel.is_closed

    async def test_cancelled_with_its_channel_it_is_recorded_as_cancelled(self, link: Link) -> None:
        recorder, running = MemoryRecorder(), asyncio.Event()
        ended: asyncio.Future[TraceContext | None] = asyncio.get_running_loop().create_future()

        @aio_pika.consumer(tracer=recorder)
        async def handle(message: AbstractIncomingMessage) -> None:
            running.set()
            try:
                await asyncio.sleep(60)
            finally:
                ended.set_result(TraceContext.get())

        channel = await link.connection.channel()
        await (await channel.get_queue(link.queue.name)).consume(handle)
        await link.publish({"traceparent": TRACEPARENT})
        await asyncio.wait_for(running.wait(), 10)
        await channel.close()

        context = await asyncio.wait_for(ended, 10)
        assert context is not None
        assert context.parent_span_id == SENDER.span_id
        assert [span.outcome for span in recorder.spans] == ["cancelled"]

    async def test_a_message_it_requeues_comes_back_in_the_same_trace(self, link: Link) -> None:
        """T-01: a new span of the same trace, which knows that it is not the first."""
        recorder, done = MemoryRecorder(), asyncio.Event()

        @aio_pika.consumer(tracer=recorder)
        async def handle(message: AbstractIncomingMessage) -> None:
            if not message.redelivered:
                await message.nack(requeue=True)
                return
            await message.ack()
            done.set()

        await link.queue.consume(handle)
        await link.publish({"traceparent": TRACEPARENT})
        await asyncio.wait_for(done.wait(), 10)

        assert [span.is_redelivered for span in recorder.spans] == [False, True]
        assert {(span.trace_id, span.parent_span_id) for span in recorder.spans} == {
            (SENDER.trace_id, SENDER.span_id)
        }
        assert len({span.span_id for span in recorder.spans}) == 2

    async def test_a_reply_has_the_scope_it_is_published_in_as_parent(self, link: Link) -> None:
        """A-17: the handler's own scope, not that of the sender nor of the processing."""
        scopes: list[TraceContext] = []
        replies = await link.channel.declare_queue(exclusive=True)
        exchange = aio_pika.wrap(link.exchange)

        @aio_pika.consumer
        async def handle(message: AbstractIncomingMessage) -> None:
            processing = TraceContext.get()
            assert processing is not None
            with TraceContext.use(processing.child()) as scope:
                assert scope is not None
                scopes.append(scope)
                await exchange.publish(client.Message(b"reply", headers=message.headers), replies.name)

        await link.queue.consume(handle, no_ack=True)
        await link.publish({"traceparent": TRACEPARENT})
        reply = await Link(link.connection, link.channel, replies).message()

        assert aio_pika.context_from(reply) == TraceContext.from_traceparent(scopes[0].to_traceparent())
        assert scopes[0].trace_id == SENDER.trace_id


class TestIterator:
    async def test_each_body_runs_in_the_context_of_its_message(self, link: Link) -> None:
        """A-03: `async with queue.iterator()`."""
        sent = await publish_traces(link, 3)
        seen = []

        with TraceContext.use(TraceContext.new_root()) as before:
            async with link.queue.iterator() as messages:
                async for message in aio_pika.iterate(messages):
                    async with message.process():
                        seen.append(current_trace_id())
                    if len(seen) == len(sent):
                        break
                assert TraceContext.get() is before

        assert seen == sent

    @pytest.mark.parametrize("wrapped", [False, True])
    async def test_a_queue_is_iterated_over_as_it_is(self, link: Link, *, wrapped: bool) -> None:
        """A-03: `async for message in queue`, which aio-pika offers, too."""
        queue: Any = aio_pika.wrap(link.queue) if wrapped else link.queue
        sent = await publish_traces(link, 2)
        seen = []

        messages = aiter(queue)
        async for message in aio_pika.iterate(messages):
            await message.ack()
            seen.append(current_trace_id())
            if len(seen) == len(sent):
                break
        await messages.close()

        assert seen == sent
        assert TraceContext.get() is None

    async def test_a_queue_may_be_given_itself(self, link: Link) -> None:
        """A-03: without an iterator of one's own."""
        (sent,) = await publish_traces(link, 1)

        async for message in aio_pika.iterate(aio_pika.wrap(link.queue)):  # type: ignore[call-overload]
            await message.ack()
            assert current_trace_id() == sent
            break

        assert TraceContext.get() is None

    async def test_after_a_break_what_was_prefetched_is_back_in_the_queue(self, link: Link) -> None:
        """A-03: the messages that no body saw are untouched, and in their traces."""
        sent = await publish_traces(link, 5)

        async with link.queue.iterator() as messages:
            async for message in aio_pika.iterate(messages):
                await message.ack()
                break
        assert TraceContext.get() is None

        recorder, left = MemoryRecorder(), []
        for _ in sent[1:]:
            message = await link.message()
            with aio_pika.process(message, tracer=recorder):
                left.append(current_trace_id())
        assert left == sent[1:]
        assert await link.queue.get(fail=False) is None

    async def test_without_acks_it_is_the_same(self, link: Link) -> None:
        (sent,) = await publish_traces(link, 1)

        async with link.queue.iterator(no_ack=True) as messages:
            async for _ in aio_pika.iterate(messages):
                assert current_trace_id() == sent
                break

        assert TraceContext.get() is None

    async def test_a_timeout_of_the_iterator_comes_out_of_the_loop(self, link: Link) -> None:
        recorder = MemoryRecorder()
        (sent,) = await publish_traces(link, 1)
        seen = []

        async def consume() -> None:
            async for message in aio_pika.iterate(link.queue.iterator(timeout=0.1), tracer=recorder):
                await message.ack()
                seen.append(current_trace_id())

        with pytest.raises(TimeoutError):
            await consume()

        assert seen == [sent]
        assert [span.outcome for span in recorder.spans] == ["ok"]
        assert TraceContext.get() is None

    async def test_a_loop_that_fails_is_recorded_by_a_block(self, link: Link) -> None:
        recorder = MemoryRecorder()
        await publish_traces(link, 1)

        async def consume() -> None:
            async with (
                link.queue.iterator() as messages,
                aio_pika.iterate(messages, tracer=recorder) as traced,
            ):
                async for message in traced:
                    async with message.process():
                        raise HandlerError

        with pytest.raises(HandlerError):
            await consume()

        assert [(span.outcome, span.error) for span in recorder.spans] == [
            ("error", "contract.receiving.HandlerError")
        ]

    async def test_a_loop_ends_when_the_iterator_is_closed(self, link: Link) -> None:
        await publish_traces(link, 1)

        async with link.queue.iterator() as messages:
            async for message in aio_pika.iterate(messages):
                await message.ack()
                await messages.close()

        assert TraceContext.get() is None


class TestGet:
    async def test_a_message_that_is_got_is_processed_in_its_context(self, link: Link) -> None:
        """A-04: `queue.get`, acked in the block."""
        (sent,) = await publish_traces(link, 1)
        message = await link.queue.get()

        with aio_pika.process(message) as processing:
            async with message.process():
                assert current_trace_id() == sent

        assert processing.context is not None
        assert TraceContext.get() is None
        assert message.locked

    async def test_a_wrapped_queue_gets_as_the_bare_one(self, link: Link) -> None:
        """A-04: also what there is not."""
        queue = aio_pika.wrap(link.queue)

        assert await queue.get(fail=False) is None
        with pytest.raises(client.exceptions.QueueEmpty):
            await queue.get()
        await publish_traces(link, 1)
        assert isinstance(await queue.get(no_ack=True), AbstractIncomingMessage)

    async def test_what_is_no_message_is_refused(self) -> None:
        with pytest.raises(WrongUseError, match="this takes a received AbstractIncomingMessage, got bytes"):
            aio_pika.process(b"value")  # type: ignore[arg-type]


@pytest.mark.parametrize("publish", PUBLISHERS)
class TestForeignPublisher:
    """Messages of clients with other types on the wire."""

    async def received(
        self, link: Link, amqp_url: str, publish: Callable[..., None], headers: dict[str, Any]
    ) -> tuple[TraceContext, dict[str, Any]]:
        """Return context and headers of a message that its handler has acked, and that is gone then."""
        await asyncio.to_thread(publish, amqp_url, link.queue.name, headers)
        seen: Seen = asyncio.Queue()
        message = await link.message(no_ack=False)
        await aio_pika.consumer(Handlers(seen).method)(message)
        assert await link.queue.get(fail=False) is None
        return await next_of(seen), dict(message.headers)

    async def test_bytes_are_text(self, link: Link, amqp_url: str, publish: Callable[..., None]) -> None:
        """A-01: `bytes` for all three fields are read, and the handler runs."""
        headers = {"traceparent": TRACEPARENT.encode(), "tracestate": b"a=1", "baggage": b"tenant=acme"}

        context, _ = await self.received(link, amqp_url, publish, headers)

        assert (context.trace_id, context.parent_span_id) == (SENDER.trace_id, SENDER.span_id)
        assert context.trace_state.to_header() == "a=1"
        assert dict(context.baggage) == {"tenant": "acme"}

    async def test_bytes_that_are_no_text_start_a_trace(
        self, link: Link, amqp_url: str, publish: Callable[..., None]
    ) -> None:
        """A-18: not UTF-8, and the message can be acked."""
        broken = b"\xff\xfe"

        context, _ = await self.received(
            link, amqp_url, publish, {"traceparent": broken, "tracestate": broken, "baggage": broken}
        )

        assert context.parent_span_id is None

    async def test_a_foreign_binary_header_is_not_decoded(
        self, link: Link, amqp_url: str, publish: Callable[..., None]
    ) -> None:
        """A-18: it is none of our business."""
        context, headers = await self.received(
            link, amqp_url, publish, {"x-schema": b"\x00\xff", "traceparent": TRACEPARENT}
        )

        assert context.trace_id == SENDER.trace_id
        assert bytes(headers["x-schema"]) == b"\x00\xff"

    async def test_a_number_and_a_table_are_no_context(
        self, link: Link, amqp_url: str, publish: Callable[..., None]
    ) -> None:
        """A-02, T-03: of the types of other clients."""
        context, _ = await self.received(
            link, amqp_url, publish, {"traceparent": 7, "tracestate": ["a=1"], "baggage": {"tenant": "acme"}}
        )

        assert context.parent_span_id is None
        assert not context.baggage


async def test_a_timestamp_of_any_client_is_the_time_in_the_queue(link: Link, amqp_url: str) -> None:
    recorder = MemoryRecorder()
    name = f"minutes-{uuid4().hex}"
    queue = await link.channel.declare_queue(name, exclusive=True)
    message = client.Message(b"", timestamp=1_700_000_000)
    await link.exchange.publish(message, queue.name)
    message.headers = {"timestamp_in_ms": 1_700_000_000_500}
    await link.exchange.publish(message, queue.name)

    for _ in range(2):
        with aio_pika.process(await queue.get(), tracer=recorder):
            pass

    sent = [span.start_unix_nano - (span.queue_time_nano or 0) for span in recorder.spans]
    assert sent == [1_700_000_000_000_000_000, 1_700_000_000_500_000_000]
