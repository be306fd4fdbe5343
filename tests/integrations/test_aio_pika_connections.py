"""aio-pika on a real RabbitMQ: lost connections, small frames, and what is built on a wrapped channel."""

from __future__ import annotations

import asyncio
import re
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import aio_pika as client
import pytest
from aio_pika.exceptions import MessageProcessError
from aio_pika.patterns import RPC, Master, RejectMessage
from aio_pika.pool import Pool

from contract.contexts import TRACEPARENT, full_context
from contract.fitting import FittingContract
from contract.receiving import SENDER
from integrations.aio_pika_link import Link, next_message, open_link
from integrations.tcp_proxy import TcpProxy
from spakky.tracing.context import TraceContext
from spakky.tracing.integrations import aio_pika
from spakky.tracing.recorder import MemoryRecorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from aio_pika.abc import (
        AbstractChannel,
        AbstractExchange,
        AbstractIncomingMessage,
        AbstractRobustChannel,
        AbstractRobustConnection,
    )

    from contract.sending import Wire

Seen = asyncio.Queue["tuple[TraceContext | None, bool | None]"]


@pytest.fixture
async def link(amqp_url: str) -> AsyncIterator[Link]:
    async with open_link(amqp_url) as link:
        yield link


class Robust:
    """A robust connection over a proxy, a wrapped channel, and a queue that stays when they break."""

    def __init__(
        self, proxy: TcpProxy, connection: AbstractRobustConnection, channel: AbstractRobustChannel, name: str
    ) -> None:
        self.proxy = proxy
        self.connection = connection
        self.channel = channel
        self.name = name

    async def lose_the_connection(self) -> None:
        """Break the connection and return when the client is back."""
        back = asyncio.Event()
        self.connection.reconnect_callbacks.add(lambda *_: back.set())
        self.proxy.cut()
        await asyncio.wait_for(back.wait(), 10)
        await asyncio.wait_for(self.channel.ready(), 10)


@asynccontextmanager
async def open_robust(amqp_url: str, recorder: MemoryRecorder) -> AsyncIterator[Robust]:
    async with (
        TcpProxy(amqp_url) as proxy,
        await client.connect_robust(proxy.url, reconnect_interval=0.05) as connection,
    ):
        channel = aio_pika.wrap(await connection.channel(), tracer=recorder)
        yield Robust(proxy, connection, channel, f"robust-{uuid4().hex}")
        proxy.release_answers()


@pytest.fixture
def recorder() -> MemoryRecorder:
    return MemoryRecorder()


@pytest.fixture
async def robust(amqp_url: str, recorder: MemoryRecorder) -> AsyncIterator[Robust]:
    async with open_robust(amqp_url, recorder) as robust:
        yield robust


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - it holds soon
            await asyncio.sleep(0.005)


def consumers(recorder: MemoryRecorder) -> list[Any]:
    return [span for span in recorder.spans if span.kind == "consumer"]


def producers(recorder: MemoryRecorder) -> list[Any]:
    return [span for span in recorder.spans if span.kind == "producer"]


class TestLostConnection:
    async def declare(self, robust: Robust) -> Any:
        return await robust.channel.declare_queue(robust.name, arguments={"x-expires": 60_000})

    @pytest.mark.parametrize("how", ["cut", "reconnect"])
    async def test_a_wrapped_consumer_is_restored_wrapped_once(
        self, robust: Robust, recorder: MemoryRecorder, how: str
    ) -> None:
        seen: asyncio.Queue[TraceContext | None] = asyncio.Queue()

        async def handle(message: AbstractIncomingMessage) -> None:
            seen.put_nowait(TraceContext.get())

        queue = await self.declare(robust)
        await queue.consume(handle, no_ack=True)
        for attempt in range(2):
            with TraceContext.use(TraceContext.new_root()) as context:
                await robust.channel.default_exchange.publish(client.Message(b""), queue.name)
            handled = await asyncio.wait_for(seen.get(), 10)

            assert context is not None
            assert handled is not None
            assert handled.trace_id == context.trace_id
            assert len(consumers(recorder)) == attempt + 1
            if how == "cut":
                await robust.lose_the_connection()
            else:
                await robust.connection.reconnect()
                await robust.channel.ready()

    async def test_what_was_current_when_it_came_back_is_not_joined(
        self, robust: Robust, recorder: MemoryRecorder
    ) -> None:
        """After a reconnect, aio-pika runs callbacks with the context variables of the reconnecting task."""
        seen: asyncio.Queue[TraceContext | None] = asyncio.Queue()

        async def handle(message: AbstractIncomingMessage) -> None:
            seen.put_nowait(TraceContext.get())
            await message.ack()

        queue = await self.declare(robust)
        await queue.consume(handle)
        with TraceContext.use(TraceContext.new_root()) as ambient:
            await robust.connection.reconnect()
            await robust.channel.ready()
        bare = aio_pika.unwrap(robust.channel).default_exchange
        await bare.publish(client.Message(b""), queue.name)
        context = await asyncio.wait_for(seen.get(), 10)

        assert ambient is not None
        assert context is not None
        assert context.trace_id != ambient.trace_id
        assert context.parent_span_id is None

    async def test_a_message_that_was_being_processed_comes_again(
        self, robust: Robust, recorder: MemoryRecorder
    ) -> None:
        """The first attempt is cancelled with its channel; the second one is in the same trace."""
        seen: Seen = asyncio.Queue()

        async def handle(message: AbstractIncomingMessage) -> None:
            seen.put_nowait((TraceContext.get(), message.redelivered))
            if not message.redelivered:
                await asyncio.sleep(60)
            await message.ack()

        queue = await self.declare(robust)
        await queue.consume(handle)
        await robust.channel.default_exchange.publish(
            client.Message(b"", headers={"traceparent": TRACEPARENT}), queue.name
        )
        first, _ = await asyncio.wait_for(seen.get(), 10)
        await robust.lose_the_connection()
        second, again = await asyncio.wait_for(seen.get(), 10)

        assert first is not None
        assert second is not None
        assert again
        assert first.trace_id == second.trace_id == SENDER.trace_id
        assert first.span_id != second.span_id
        assert [(span.outcome, span.is_redelivered) for span in consumers(recorder)][:1] == [
            ("cancelled", False)
        ]

    async def test_an_iteration_goes_on_when_the_connection_is_back(self, robust: Robust) -> None:
        """A-03: over the iterator of a robust queue."""
        queue = await self.declare(robust)
        seen = []

        async def publish() -> str:
            with TraceContext.use(TraceContext.new_root()) as context:
                await robust.channel.default_exchange.publish(client.Message(b""), queue.name)
            assert context is not None
            return context.trace_id

        sent = [await publish()]
        async with asyncio.timeout(20), queue.iterator(no_ack=True) as messages:
            async for _ in aio_pika.iterate(messages):
                current = TraceContext.get()
                assert current is not None
                seen.append(current.trace_id)
                if len(seen) == 2:
                    break
                await robust.lose_the_connection()
                sent.append(await publish())

        assert seen == sent
        assert TraceContext.get() is None

    async def test_publishing_raises_at_once_as_the_client_does(
        self, robust: Robust, recorder: MemoryRecorder
    ) -> None:
        """It does not wait for the connection, with or without a timeout."""
        wrapped, bare = robust.channel.default_exchange, aio_pika.unwrap(robust.channel).default_exchange
        robust.proxy.hold_answers()
        lost = asyncio.Event()
        robust.connection.close_callbacks.add(lambda *_: lost.set())
        robust.proxy.cut()
        await asyncio.wait_for(lost.wait(), 10)

        for exchange in (bare, wrapped):
            for timeout in (None, 5):
                with pytest.raises(client.exceptions.ChannelInvalidStateError):
                    await asyncio.wait_for(
                        exchange.publish(client.Message(b""), robust.name, timeout=timeout), 1
                    )
        assert [span.outcome for span in producers(recorder)] == ["error", "error"]

        robust.proxy.release_answers()
        await asyncio.wait_for(robust.channel.ready(), 10)
        queue = await self.declare(robust)
        with TraceContext.use(TraceContext.new_root()) as context:
            await wrapped.publish(client.Message(b""), queue.name)
        assert context is not None
        assert str((await queue.get()).headers["traceparent"]).startswith(f"00-{context.trace_id}-")

    async def test_an_exchange_and_its_bindings_are_restored(self, robust: Robust) -> None:
        """What is bound to what is wrapped is bound again by the client."""
        exchange = await robust.channel.declare_exchange(f"x-{robust.name}", "topic", auto_delete=True)
        queue = await robust.channel.declare_queue(robust.name, exclusive=True)
        await queue.bind(exchange, "orders.*")
        await robust.lose_the_connection()

        with TraceContext.use(TraceContext.new_root()) as context:
            await exchange.publish(client.Message(b""), "orders.new")

        assert context is not None
        message = await next_message(queue, no_ack=True)
        assert str(message.headers["traceparent"]).startswith(f"00-{context.trace_id}-")


class TestUnconfirmed:
    """What becomes of a publish whose confirmation does not come, compared to the bare client."""

    async def without_answers(self, robust: Robust, recorder: MemoryRecorder) -> list[AbstractExchange]:
        exchange = robust.channel.default_exchange
        robust.proxy.hold_answers()
        return [aio_pika.unwrap(exchange), exchange]

    async def test_a_timeout_is_the_client_s(self, robust: Robust, recorder: MemoryRecorder) -> None:
        for exchange in await self.without_answers(robust, recorder):
            with pytest.raises(TimeoutError):
                await exchange.publish(client.Message(b""), robust.name, timeout=0.05)

        assert [(span.outcome, span.error) for span in recorder.spans] == [("error", "TimeoutError")]

    async def test_a_cancellation_is_the_client_s(self, robust: Robust, recorder: MemoryRecorder) -> None:
        for exchange in await self.without_answers(robust, recorder):
            heard = robust.proxy.heard
            task = asyncio.create_task(exchange.publish(client.Message(b""), robust.name))
            await robust.proxy.hear_more_than(heard)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        assert [span.outcome for span in recorder.spans] == ["cancelled"]
        assert TraceContext.get() is None

    async def test_a_lost_connection_is_the_client_s(self, robust: Robust, recorder: MemoryRecorder) -> None:
        exchanges = await self.without_answers(robust, recorder)
        heard = robust.proxy.heard
        tasks = [asyncio.create_task(each.publish(client.Message(b""), robust.name)) for each in exchanges]
        await robust.proxy.hear_more_than(heard)
        robust.proxy.cut()

        errors = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)

        assert isinstance(errors[0], Exception)
        assert type(errors[1]) is type(errors[0])
        assert [span.outcome for span in recorder.spans] == ["error"]


def with_frames_of(size: int, data: bytes) -> bytes:
    """Change the largest frame that a broker proposes (`connection.tune`: class 10, method 30)."""
    tune = re.compile(rb"(\x01\x00\x00\x00\x00\x00\x0c\x00\x0a\x00\x1e..)....(..\xce)", re.DOTALL)
    return tune.sub(lambda found: found[1] + size.to_bytes(4) + found[2], data)


@asynccontextmanager
async def open_small_link(amqp_url: str, size: int) -> AsyncIterator[Link]:
    async with (
        TcpProxy(amqp_url, from_broker=lambda data: with_frames_of(size, data)) as proxy,
        open_link(proxy.url) as link,
    ):
        yield link


class TestFittingSmallFrames(FittingContract):
    """The limit is the one that client and broker agreed on, not the usual one."""

    fitting_ways = ["default exchange", "channel"]
    largest = 65_440

    @pytest.fixture(autouse=True)
    async def _on(self, amqp_url: str) -> AsyncIterator[None]:
        async with open_small_link(amqp_url, 65_536) as link:
            self.link = link
            yield

    async def send_filled(self, way: str, filling: int, **options: Any) -> None:
        exchange = (
            aio_pika.wrap(self.link.exchange, **options)
            if way == "default exchange"
            else aio_pika.wrap(self.link.channel, **options).default_exchange
        )
        message = client.Message(b"value", headers={"x": "x" * filling})
        await exchange.publish(message, self.link.queue.name)

    async def arrived(self) -> Wire:
        return {name: [value] for name, value in (await self.link.message()).headers.items()}

    async def test_the_broker_insists_on_it(self) -> None:
        with pytest.raises(client.exceptions.AMQPError):
            await self.send_filled("default exchange", self.largest + 100, enabled=False)


async def test_the_smallest_frames_have_room_for_a_traceparent(amqp_url: str) -> None:
    context = full_context().with_baggage(full_context().baggage.set("note", "x" * 4_000))
    async with open_small_link(amqp_url, 4_096) as link:
        with TraceContext.use(context):
            await aio_pika.wrap(link.exchange).publish(client.Message(b"value"), link.queue.name)

        assert (await link.message()).headers == {"traceparent": context.to_traceparent()}


def loopbacks() -> list[str]:
    """Return the addresses of this machine that a proxy can listen at."""
    with socket.socket(socket.AF_INET6) if socket.has_ipv6 else socket.socket() as probe:
        try:
            probe.bind(("::1", 0))
        except (OSError, TypeError):
            return ["127.0.0.1"]
    return ["127.0.0.1", "::1"]


class TestAddresses:
    """A-16: how a broker is addressed is between the client and the broker."""

    async def carries(self, connecting: Awaitable[Any]) -> None:
        async with await connecting as connection:
            channel = aio_pika.wrap(await connection.channel())
            queue = await channel.declare_queue(exclusive=True)
            with TraceContext.use(TraceContext.new_root()) as context:
                await channel.default_exchange.publish(client.Message(b"value"), queue.name)

            assert context is not None
            assert (await queue.get()).headers == {"traceparent": context.to_traceparent()}

    @pytest.mark.parametrize("host", loopbacks())
    async def test_an_address_of_either_kind(self, amqp_url: str, host: str) -> None:
        """A-16: IPv6, too, where this machine has it."""
        async with TcpProxy(amqp_url, host=host) as proxy:
            await self.carries(client.connect(proxy.url))

    @pytest.mark.parametrize("query", ["name=orders", "heartbeat=0&name=%5B%3A%3A1%5D", "timeout=5"])
    async def test_an_address_with_options(self, amqp_url: str, query: str) -> None:
        """A-16: whatever follows the path."""
        await self.carries(client.connect(f"{amqp_url}?{query}"))

    async def test_an_address_in_parts(self, amqp_url: str) -> None:
        """A-16: no URL at all."""
        async with TcpProxy(amqp_url) as proxy:
            port = int(proxy.url.rstrip("/").rpartition(":")[2])
            await self.carries(client.connect(host="127.0.0.1", port=port))


class TestRPC:
    @pytest.fixture
    async def rpc(self, link: Link, recorder: MemoryRecorder) -> AsyncIterator[RPC]:
        rpc = await RPC.create(aio_pika.wrap(link.channel, tracer=recorder))
        yield rpc
        if not link.channel.is_closed:
            await rpc.close()

    @pytest.fixture
    def name(self) -> str:
        return f"multiply-{uuid4().hex}"

    async def test_a_call_is_one_trace_on_both_sides(
        self, rpc: RPC, recorder: MemoryRecorder, name: str
    ) -> None:
        """A-17: the call, the execution, the reply and its arrival, each below the one before."""
        seen: list[TraceContext | None] = []

        async def multiply(*, x: int, y: int) -> int:
            seen.append(TraceContext.get())
            return x * y

        await rpc.register(name, multiply, auto_delete=True)
        with TraceContext.use(TraceContext.new_root()) as caller:
            assert await rpc.call(name, {"x": 6, "y": 7}) == 42
            assert TraceContext.get() is caller

        assert caller is not None
        await until(lambda: len(recorder.spans) == 4)  # the callee acks the call after it has replied
        spans = {span.span_id: span for span in recorder.spans}
        parents = {span.parent_span_id for span in spans.values()}
        (span,) = (span for span in spans.values() if span.span_id not in parents)
        way = [span]
        while way[0].parent_span_id in spans:
            way.insert(0, spans[way[0].parent_span_id])
        assert [span.kind for span in way] == ["producer", "consumer", "producer", "consumer"]
        assert [span.destination for span in way] == [name, name, *[rpc.result_queue.name] * 2]
        assert {span.trace_id for span in way} == {caller.trace_id}
        assert way[0].parent_span_id == caller.span_id
        assert [context and context.span_id for context in seen] == [way[1].span_id]

    async def test_an_error_of_the_callee_is_the_caller_s(
        self, rpc: RPC, recorder: MemoryRecorder, name: str
    ) -> None:
        seen: list[TraceContext | None] = []

        async def fail() -> None:
            seen.append(TraceContext.get())
            raise LookupError(name)

        await rpc.register(name, fail, auto_delete=True)
        with TraceContext.use(TraceContext.new_root()) as caller:
            with pytest.raises(LookupError, match=name):
                await rpc.call(name)
            assert TraceContext.get() is caller

        assert caller is not None
        assert [context and context.trace_id for context in seen] == [caller.trace_id]

    async def test_a_call_that_expires_comes_back_in_its_trace(
        self, rpc: RPC, recorder: MemoryRecorder, link: Link, name: str
    ) -> None:
        """A-20: through the dead-letter exchange of the pattern; an expiration is no failed attempt."""
        arguments: dict[str, Any] = {"x-dead-letter-exchange": RPC.DLX_NAME, "x-expires": 60_000}
        await link.channel.declare_queue(name, arguments=arguments)

        with TraceContext.use(TraceContext.new_root()) as caller, pytest.raises(TimeoutError):
            await rpc.call(name, expiration=0.01)  # type: ignore[arg-type] # seconds; aio-pika takes a float

        assert caller is not None
        sent, returned = recorder.spans
        assert returned.kind == "consumer"
        assert (returned.trace_id, returned.parent_span_id) == (caller.trace_id, sent.span_id)
        assert (returned.death_count, returned.attempt, returned.links) == (1, 1, ())

    async def test_a_call_of_nobody_is_returned(self, rpc: RPC, recorder: MemoryRecorder, name: str) -> None:
        with TraceContext.use(TraceContext.new_root()) as caller:
            with pytest.raises(MessageProcessError, match="returned"):
                await rpc.call(name)
            assert TraceContext.get() is caller

        assert [span.outcome for span in recorder.spans] == ["rejected"]

    async def test_concurrent_calls_do_not_mix(self, rpc: RPC, name: str) -> None:
        async def trace_id() -> str:
            context = TraceContext.get()
            assert context is not None
            return context.trace_id

        async def call() -> bool:
            with TraceContext.use(TraceContext.new_root()) as caller:
                return caller is not None and await rpc.call(name) == caller.trace_id

        await rpc.register(name, trace_id, auto_delete=True)

        assert all(await asyncio.gather(*(call() for _ in range(20))))


class TestMaster:
    @pytest.fixture
    def name(self) -> str:
        return f"work-{uuid4().hex}"

    async def test_a_task_is_a_child_of_who_created_it(self, link: Link, name: str) -> None:
        seen: asyncio.Queue[TraceContext | None] = asyncio.Queue()

        async def work(*, order: int) -> None:
            seen.put_nowait(TraceContext.get())

        master = Master(aio_pika.wrap(link.channel))
        await master.create_worker(name, work, auto_delete=True)
        with TraceContext.use(TraceContext.new_root()) as boss:
            await master.create_task(name, {"order": 1})
        worker = await asyncio.wait_for(seen.get(), 10)

        assert boss is not None
        assert worker is not None
        assert (worker.trace_id, worker.parent_span_id) == (boss.trace_id, boss.span_id)

    async def test_a_task_that_fails_is_tried_again_in_the_same_trace(
        self, link: Link, recorder: MemoryRecorder, name: str
    ) -> None:
        """T-01: requeued by the pattern; the second attempt is rejected for good."""
        seen: asyncio.Queue[TraceContext | None] = asyncio.Queue()

        async def work() -> None:
            seen.put_nowait(TraceContext.get())
            raise RejectMessage(requeue=seen.qsize() == 1)

        master = Master(aio_pika.wrap(link.channel, tracer=recorder))
        await master.create_worker(name, work, auto_delete=True)
        with TraceContext.use(TraceContext.new_root()) as boss:
            await master.create_task(name, {})
            await until(lambda: seen.qsize() == 2)

        first, second = seen.get_nowait(), seen.get_nowait()
        assert boss is not None
        assert first is not None
        assert second is not None
        assert first.trace_id == second.trace_id == boss.trace_id
        assert first.span_id != second.span_id

    async def test_a_task_whose_error_nobody_expects_is_recorded_as_one(
        self, link: Link, recorder: MemoryRecorder, name: str
    ) -> None:
        raised: asyncio.Queue[Any] = asyncio.Queue()
        asyncio.get_running_loop().set_exception_handler(lambda _, what: raised.put_nowait(what))

        async def work() -> None:
            raise LookupError(name)

        master = Master(aio_pika.wrap(link.channel, tracer=recorder), requeue=False)
        await master.create_worker(name, work, auto_delete=True)
        await master.create_task(name, {})

        assert isinstance((await asyncio.wait_for(raised.get(), 10))["exception"], LookupError)
        assert [(span.outcome, span.error) for span in consumers(recorder)] == [("error", "LookupError")]


class TestChannel:
    async def test_it_can_be_wrapped_before_it_is_open(self, link: Link) -> None:
        async with aio_pika.wrap(link.connection.channel()) as channel:
            await channel.default_exchange.publish(client.Message(b"value"), link.queue.name)

        assert list((await link.message()).headers) == ["traceparent"]

    async def test_it_can_be_awaited_as_the_client_s(self, link: Link) -> None:
        channel = await aio_pika.wrap(link.connection.channel())

        await channel.default_exchange.publish(client.Message(b"value"), link.queue.name)

        assert list((await link.message()).headers) == ["traceparent"]

    async def test_a_pool_may_hold_wrapped_ones(self, link: Link) -> None:
        async def get_channel() -> AbstractChannel:
            return aio_pika.wrap(await link.connection.channel())

        async with Pool(get_channel, max_size=2) as pool:
            for _ in range(3):
                async with pool.acquire() as channel:
                    await channel.default_exchange.publish(client.Message(b"value"), link.queue.name)

        for _ in range(3):
            assert list((await link.message()).headers) == ["traceparent"]
