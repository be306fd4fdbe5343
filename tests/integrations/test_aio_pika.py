"""aio-pika on a real RabbitMQ."""

from __future__ import annotations

import asyncio
import copy
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import aio_pika as client
import pytest
from aio_pika.abc import AbstractExchange, AbstractIncomingMessage
from aio_pika.patterns import RPC, Master

from contract.amqp import AmqpContract
from contract.choosing import ChoosingContract
from contract.contexts import STALE, TRACEPARENT
from contract.delivery import Delivery, VerbsReceivingContract
from contract.fitting import FittingContract
from contract.handling import HandlerContract
from contract.pulling import PullingContract
from contract.receiving import SENDER
from contract.retrying import RetryingContract
from contract.sending import SendingContract, Wire
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.integrations import aio_pika
from spakky.tracing.recorder import MemoryRecorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aio_pika.abc import AbstractChannel, AbstractQueue, HeadersType


class Link:
    """A queue of its own, with the bare client at both ends."""

    def __init__(self, channel: AbstractChannel, queue: AbstractQueue) -> None:
        self.channel = channel
        self.queue = queue

    @property
    def exchange(self) -> AbstractExchange:
        return self.channel.default_exchange

    async def message(self) -> AbstractIncomingMessage:
        return await next_message(self.queue, no_ack=True)

    async def publish(self, headers: Any = None) -> None:
        message = client.Message(b"value", headers=headers, timestamp=datetime.now(UTC))
        await self.exchange.publish(message, self.queue.name)

    async def deliver(self, headers: dict[str, Any]) -> AbstractIncomingMessage:
        await self.publish(headers)
        return await self.message()


async def next_message(queue: AbstractQueue, *, no_ack: bool) -> AbstractIncomingMessage:
    async with asyncio.timeout(10):
        while (message := await queue.get(no_ack=no_ack, fail=False)) is None:  # noqa: ASYNC110 - pulled
            await asyncio.sleep(0.005)
    return message


@pytest.fixture
async def link(amqp_url: str) -> AsyncIterator[Link]:
    async with await client.connect(amqp_url) as connection:
        channel = await connection.channel()
        yield Link(channel, await channel.declare_queue(f"orders-{uuid4().hex}", auto_delete=True))


class Sending:
    """Sends through the wrapped exchange or channel and looks at what arrives."""

    @pytest.fixture(autouse=True)
    def _on(self, link: Link) -> None:
        self.link = link

    async def send(self, way: str, headers: Any, **options: Any) -> None:
        name = self.link.queue.name
        if way == "headers":
            await self.link.publish(aio_pika.headers(headers, **options))
            return
        message = client.Message(b"value", headers=headers)
        if way == "default exchange":
            await aio_pika.wrap(self.link.exchange, **options).publish(message, name)
        elif way == "named exchange":
            exchange = await self.link.channel.declare_exchange(f"x-{name}", auto_delete=True)
            await self.link.queue.bind(exchange, "key")
            await aio_pika.wrap(exchange, **options).publish(message, "key", mandatory=False)
        elif way == "keyword":
            await aio_pika.wrap(self.link.exchange, **options).publish(message=message, routing_key=name)
        else:
            await aio_pika.wrap(self.link.channel, **options).default_exchange.publish(message, name)

    async def send_filled(self, way: str, filling: int, **options: Any) -> None:
        await self.send(way, {"x": "x" * filling}, **options)

    async def arrived(self) -> Wire:
        return {name: [value] for name, value in (await self.link.message()).headers.items()}

    def native(self, headers: dict[str, str]) -> dict[str, str]:
        return dict(headers)

    async def fail_to_send(self, way: str, **options: Any) -> BaseException:
        with pytest.raises(TypeError) as raised:
            await self.send(way, {"name": object()}, **options)
        return raised.value


class TestSending(Sending, SendingContract):
    ways = ["default exchange", "named exchange", "keyword", "channel", "headers"]
    recorded_ways = ["default exchange", "named exchange", "keyword", "channel"]
    foreign = {
        "a": bytearray(b"\x00\xff"),
        "b": 7,
        "c": [1, "two"],
        "d": {"nested": "table"},
        "e": None,
        "f": True,
        "g": "text",
    }


class TestFitting(Sending, FittingContract):
    fitting_ways = TestSending.ways
    largest = 130_980


class OverRabbitMQ(Delivery):
    integration = aio_pika

    @pytest.fixture(autouse=True)
    def _on(self, link: Link) -> None:
        self.link = link

    @property
    def source(self) -> str:
        return str(self.link.queue.name)

    async def deliver(self, headers: dict[str, Any]) -> AbstractIncomingMessage:
        return await self.link.deliver(headers)

    async def deliver_native(self, headers: Any) -> AbstractIncomingMessage:
        return await self.link.deliver(headers)


class TestReceiving(OverRabbitMQ, VerbsReceivingContract):
    hostile_values = [
        "",
        bytearray(b"\xff\xfe"),
        "00-bad",
        "x" * 40_000,
        None,
        5,
        True,
        1.5,
        [TRACEPARENT],
        {"traceparent": TRACEPARENT},
        f"{TRACEPARENT}\n",
    ]


class TestHandlers(OverRabbitMQ, HandlerContract): ...


class TestPulling(OverRabbitMQ, PullingContract): ...


class TestChoosing(OverRabbitMQ, ChoosingContract): ...


class TestRetrying(OverRabbitMQ, RetryingContract): ...


class TestBroker(AmqpContract):
    integration = aio_pika

    @pytest.fixture(autouse=True)
    def _on(self, link: Link) -> None:
        self.link = link

    async def declare_queue(self, name: str, arguments: dict[str, Any], *, durable: bool = False) -> None:
        await self.link.channel.declare_queue(name, durable=durable, arguments=arguments)

    async def publish_to(self, queue: str, headers: dict[str, Any]) -> None:
        await self.link.exchange.publish(client.Message(b"value", headers=headers), queue)

    async def get_from(self, queue: str, *, no_ack: bool = False) -> AbstractIncomingMessage:
        return await next_message(await self.link.channel.get_queue(queue, ensure=False), no_ack=no_ack)

    async def reject(self, message: AbstractIncomingMessage, *, requeue: bool) -> None:
        await message.reject(requeue=requeue)


class TestPublisher:
    async def test_a_wrapped_exchange_is_an_exchange(self, link: Link) -> None:
        exchange = aio_pika.wrap(link.exchange)

        assert isinstance(exchange, AbstractExchange)
        assert exchange.name == link.exchange.name
        assert aio_pika.unwrap(exchange) is link.exchange
        assert aio_pika.unwrap(link.exchange) is link.exchange

    async def test_wrapping_twice_is_wrapping_once(self, link: Link) -> None:
        recorder = MemoryRecorder()
        exchange = aio_pika.wrap(aio_pika.wrap(link.exchange, tracer=recorder), tracer=recorder)

        await exchange.publish(client.Message(b"value"), link.queue.name)

        assert list((await link.message()).headers) == ["traceparent"]
        assert len(recorder.spans) == 1

    async def test_the_client_library_stays_as_it_was(self, link: Link) -> None:
        publish = client.Exchange.publish

        aio_pika.wrap(link.exchange)

        assert client.Exchange.publish is publish
        assert type(link.exchange).publish is publish

    async def test_publishing_returns_what_the_client_returns(self, link: Link) -> None:
        bare = await link.exchange.publish(client.Message(b"value"), link.queue.name)
        wrapped = await aio_pika.wrap(link.exchange).publish(client.Message(b"value"), link.queue.name)

        assert type(wrapped) is type(bare)

    async def test_a_returned_message_raises_as_with_the_client(self, link: Link, amqp_url: str) -> None:
        async with await client.connect(amqp_url) as connection:
            channel = await connection.channel(on_return_raises=True)
            with pytest.raises(client.exceptions.PublishError):
                await aio_pika.wrap(channel).default_exchange.publish(client.Message(b"value"), "nowhere")

    async def test_a_shared_message_published_concurrently_carries_each_context(self, link: Link) -> None:
        exchange = aio_pika.wrap(link.exchange)
        message = client.Message(b"value", headers={"app": "1"})

        async def publish() -> str:
            with TraceContext.use(TraceContext.new_root()) as context:
                await exchange.publish(message, link.queue.name)
            assert context is not None
            return context.to_traceparent()

        sent = await asyncio.gather(*(publish() for _ in range(20)))
        arrived = [(await link.message()).headers["traceparent"] for _ in sent]

        assert sorted(map(str, arrived)) == sorted(sent)
        assert message.headers == {"app": "1"}

    async def test_all_properties_of_a_message_arrive(self, link: Link) -> None:
        message = client.Message(
            b"value",
            content_type="text/plain",
            content_encoding="utf-8",
            correlation_id="c",
            delivery_mode=client.DeliveryMode.PERSISTENT,
            expiration=60,
            message_id="m",
            priority=3,
            reply_to="r",
            type="t",
            user_id="guest",
            app_id="a",
            timestamp=1_700_000_000,
        )
        await link.exchange.publish(copy.copy(message), link.queue.name)
        await aio_pika.wrap(link.exchange).publish(message, link.queue.name)

        bare, wrapped = [(await link.message()).info() for _ in range(2)]
        for per_delivery in ("headers", "delivery_tag", "consumer_tag", "message_count"):
            bare.pop(per_delivery, None)  # type: ignore[misc]
            wrapped.pop(per_delivery, None)  # type: ignore[misc]
        assert wrapped == bare

    async def test_headers_that_are_none_are_none_of_a_problem(self, link: Link) -> None:
        message = client.Message(b"value")
        message.headers = None  # type: ignore[assignment]

        await aio_pika.wrap(link.exchange).publish(message, link.queue.name)

        assert list((await link.message()).headers) == ["traceparent"]

    async def test_a_received_message_can_be_forwarded(self, link: Link) -> None:
        await link.publish({"traceparent": STALE, "tracestate": "old=1", "app": "1"})
        old = await link.message()

        with aio_pika.process(old) as processing:
            await aio_pika.wrap(link.exchange).publish(old, link.queue.name)
        new = await link.message()

        assert processing.context is not None
        current = processing.context.to_traceparent()
        assert new.headers == {"traceparent": current, "tracestate": "old=1", "app": "1"}
        assert old.headers == {"traceparent": STALE, "tracestate": "old=1", "app": "1"}

    async def test_what_is_no_exchange_is_refused(self) -> None:
        with pytest.raises(
            WrongUseError, match=r"wrap\(\) takes an exchange, a queue or a channel of aio-pika, got object"
        ):
            aio_pika.wrap(object())  # type: ignore[type-var]

    async def test_what_cannot_be_headers_is_refused(self) -> None:
        with pytest.raises(
            WrongUseError, match="headers must be a mapping of names to values or None, got list"
        ):
            aio_pika.headers([("app", "1")])


class TestConsumer:
    async def test_a_consumed_callback_runs_in_the_context_of_its_message(self, amqp_url: str) -> None:
        seen: asyncio.Queue[TraceContext | None] = asyncio.Queue()

        @aio_pika.consumer
        async def handle(message: AbstractIncomingMessage) -> None:
            async with message.process():
                await seen.put(TraceContext.get())

        with TraceContext.use(TraceContext.new_root()) as ambient:
            connection = await client.connect(amqp_url)
            channel = await connection.channel()
        async with connection:
            queue = await channel.declare_queue(auto_delete=True)
            await queue.consume(handle)
            deliveries: list[HeadersType] = [{"traceparent": TRACEPARENT}, {}]
            for headers in deliveries:
                await channel.default_exchange.publish(client.Message(b"", headers=headers), queue.name)
            traced, untraced = await seen.get(), await seen.get()

        assert traced is not None
        assert untraced is not None
        assert ambient is not None
        assert traced.parent_span_id == SENDER.span_id
        assert untraced.trace_id not in {ambient.trace_id, traced.trace_id}

    async def test_the_bodies_of_a_queue_iterator_run_in_the_contexts_of_their_messages(
        self, link: Link
    ) -> None:
        sent = []
        for _ in range(3):
            with TraceContext.use(TraceContext.new_root()) as context:
                await aio_pika.wrap(link.exchange).publish(client.Message(b"value"), link.queue.name)
            assert context is not None
            sent.append(context.trace_id)

        seen = []
        with TraceContext.use(TraceContext.new_root()) as before:
            async with link.queue.iterator() as messages:
                async for message in aio_pika.iterate(messages):
                    async with message.process():
                        current = TraceContext.get()
                        assert current is not None
                        seen.append(current.trace_id)
                    if len(seen) == len(sent):
                        break
                assert TraceContext.get() is before

        assert seen == sent

    async def test_concurrent_callbacks_see_their_own_contexts(self, link: Link) -> None:
        seen: dict[bytes, str] = {}
        all_in, done = asyncio.Barrier(10), asyncio.Event()

        @aio_pika.consumer
        async def handle(message: AbstractIncomingMessage) -> None:
            await all_in.wait()
            current = TraceContext.get()
            assert current is not None
            seen[message.body] = current.trace_id
            await message.ack()
            if len(seen) == 10:
                done.set()

        await link.channel.set_qos(prefetch_count=10)
        await link.queue.consume(handle)
        sent = {}
        for number in range(10):
            with TraceContext.use(TraceContext.new_root()) as context:
                body = str(number).encode()
                await aio_pika.wrap(link.exchange).publish(client.Message(body), link.queue.name)
            assert context is not None
            sent[body] = context.trace_id

        await asyncio.wait_for(done.wait(), 10)
        assert seen == sent

    async def test_what_is_no_message_is_refused(self) -> None:
        with pytest.raises(WrongUseError, match="this takes a received AbstractIncomingMessage, got bytes"):
            aio_pika.process(b"value")  # type: ignore[arg-type]


class TestChannel:
    async def test_rpc_over_a_wrapped_channel_is_one_trace_on_both_sides(self, amqp_url: str) -> None:
        seen: list[TraceContext | None] = []

        async def multiply(*, x: int, y: int) -> int:
            seen.append(TraceContext.get())
            return x * y

        recorder = MemoryRecorder()
        async with await client.connect(amqp_url) as connection:
            channel = aio_pika.wrap(await connection.channel(), tracer=recorder)
            rpc = await RPC.create(channel)
            name = f"multiply-{uuid4().hex}"
            await rpc.register(name, multiply, auto_delete=True)
            with TraceContext.use(TraceContext.new_root()) as caller:
                assert await rpc.call(name, {"x": 6, "y": 7}) == 42
            await rpc.close()

        assert caller is not None
        assert [context and context.trace_id for context in seen] == [caller.trace_id]
        assert {span.trace_id for span in recorder.spans} == {caller.trace_id}
        assert len(recorder.spans) >= 3

    async def test_a_master_over_a_wrapped_channel_is_one_trace_on_both_sides(self, amqp_url: str) -> None:
        seen: asyncio.Queue[TraceContext | None] = asyncio.Queue()

        async def work(*, order: int) -> None:
            await seen.put(TraceContext.get())

        async with await client.connect(amqp_url) as connection:
            master = Master(aio_pika.wrap(await connection.channel()))
            name = f"work-{uuid4().hex}"
            await master.create_worker(name, work, auto_delete=True)
            with TraceContext.use(TraceContext.new_root()) as boss:
                await master.create_task(name, {"order": 1})
            worker = await asyncio.wait_for(seen.get(), 10)

        assert boss is not None
        assert worker is not None
        assert (worker.trace_id, worker.parent_span_id) == (boss.trace_id, boss.span_id)

    async def test_a_channel_can_be_wrapped_before_it_is_open(self, amqp_url: str) -> None:
        async with (
            await client.connect(amqp_url) as connection,
            aio_pika.wrap(connection.channel()) as channel,
        ):
            queue = await channel.declare_queue(auto_delete=True)
            await channel.default_exchange.publish(client.Message(b"value"), queue.name)
            message = await queue.get()

        assert list(message.headers) == ["traceparent"]

    async def test_a_robust_connection_restores_a_wrapped_queue_once(self, amqp_url: str) -> None:
        recorder = MemoryRecorder()
        seen: asyncio.Queue[TraceContext | None] = asyncio.Queue()

        async def handle(message: AbstractIncomingMessage) -> None:
            await seen.put(TraceContext.get())
            await message.ack()

        connection = await client.connect_robust(amqp_url, reconnect_interval=0.1)
        async with connection:
            channel = aio_pika.wrap(await connection.channel(), tracer=recorder)
            queue = await channel.declare_queue(f"robust-{uuid4().hex}", durable=False)
            await queue.consume(handle)
            await connection.reconnect()
            await channel.ready()
            await channel.default_exchange.publish(
                client.Message(b"", headers={"traceparent": TRACEPARENT}), queue.name
            )
            context = await asyncio.wait_for(seen.get(), 10)
            await queue.delete(if_unused=False, if_empty=False)

        assert context is not None
        assert context.trace_id == SENDER.trace_id
        assert len([span for span in recorder.spans if span.kind == "consumer"]) == 1


async def test_a_pika_style_bytes_header_is_read(link: Link) -> None:
    message = await link.deliver({"traceparent": bytearray(TRACEPARENT.encode())})

    assert aio_pika.context_from(message) == SENDER
