"""pika on a real RabbitMQ."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import functools
import logging
import socket
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pika as client
import pytest
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.adapters.blocking_connection import BlockingChannel
from pika.channel import Channel
from pika.exceptions import NackError, UnroutableError, UnsupportedAMQPFieldException
from pika.spec import Basic

from contract.amqp import AmqpContract
from contract.choosing import ChoosingContract
from contract.contexts import STALE, TRACEPARENT, full_context
from contract.delivery import Delivery, VerbsReceivingContract
from contract.fitting import FittingContract
from contract.handling import HandlerContract
from contract.pulling import PullingContract
from contract.receiving import SENDER
from contract.retrying import RetryingContract
from contract.sending import BrokenPropagator, SendingContract, Wire
from integrations.foreign_proxy import ForeignProxy
from spakky.tracing.baggage import Baggage
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.integrations import pika
from spakky.tracing.recorder import MemoryRecorder, Span

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from pika.connection import Connection, Parameters

DEADLINE = 10
"""Seconds after which something that should have happened did not."""

Message = tuple[Any, Any, Any]


class Link:
    """A queue of its own, with the bare client at both ends."""

    def __init__(self, connection: client.BlockingConnection, parameters: Parameters) -> None:
        self.parameters = parameters
        self.connection = connection
        self.channel = connection.channel()
        self.queue = f"orders-{uuid4().hex}"
        self._confirmed = connection.channel()
        self._confirmed.confirm_delivery()
        self.channel.queue_declare(self.queue)

    def publish(self, headers: Any = None, queue: str | None = None) -> None:
        """Publish by the bare client; afterwards the message is in the queue."""
        properties = client.BasicProperties(headers=headers, timestamp=int(time.time()))
        self._confirmed.basic_publish("", queue or self.queue, b"value", properties)

    async def message(self, queue: str | None = None, *, auto_ack: bool = True) -> Message:
        async with asyncio.timeout(DEADLINE):
            while (message := self.channel.basic_get(queue or self.queue, auto_ack))[0] is None:  # noqa: ASYNC110 - pulled
                await asyncio.sleep(0.005)
        return message

    async def headers(self) -> Any:
        """Return the headers of the next message."""
        _, properties, _ = await self.message()
        return properties.headers

    async def deliver(self, headers: Any = None) -> Message:
        self.publish(headers)
        return await self.message()

    def consume(self, until: Callable[[], bool]) -> None:
        """Let callbacks be called until something has happened."""
        end = time.monotonic() + DEADLINE
        while not until():
            assert time.monotonic() < end, "it did not happen"
            self.connection.process_data_events(time_limit=1)

    @contextlib.contextmanager
    def another_channel(self) -> Iterator[BlockingChannel]:
        with self.connection.channel() as channel:
            yield channel


@pytest.fixture
def link(amqp_url: str) -> Iterator[Link]:
    parameters = client.URLParameters(amqp_url)
    with client.BlockingConnection(parameters) as connection:
        link = Link(connection, parameters)
        yield link
        connection.channel().queue_delete(link.queue)


class Selecting:
    """The channel of a `SelectConnection`, whose loop runs until `stop`."""

    def __init__(self, parameters: Parameters) -> None:
        self.connection = client.SelectConnection(
            parameters,
            on_open_callback=self._connected,
            on_close_callback=lambda *_: self.stop(),
        )
        self.channel: Any = None
        self._is_late = False

    def _connected(self, connection: Connection) -> None:
        connection.channel(on_open_callback=self._opened)

    def _opened(self, channel: Channel) -> None:
        self.channel = channel
        self.stop()

    def _missed(self) -> None:
        self._is_late = True
        self.stop()

    def stop(self) -> None:
        self.connection.ioloop.stop()

    def run(self) -> None:
        deadline = self.connection.ioloop.call_later(DEADLINE, self._missed)
        self.connection.ioloop.start()
        self.connection.ioloop.remove_timeout(deadline)
        assert not self._is_late, "it did not happen"


@contextlib.contextmanager
def selecting(parameters: Parameters) -> Iterator[Selecting]:
    loop = Selecting(parameters)
    loop.run()
    try:
        yield loop
    finally:
        while not loop.connection.is_closed:
            if loop.connection.is_open:
                loop.connection.close()
            loop.run()
        loop.connection.ioloop.close()


@contextlib.asynccontextmanager
async def asyncio_channel(parameters: Parameters) -> AsyncIterator[Channel]:
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[Channel] = loop.create_future()
    closed: asyncio.Future[object] = loop.create_future()

    def connected(connection: Connection) -> None:
        connection.channel(on_open_callback=opened.set_result)

    connection = AsyncioConnection(
        parameters,
        on_open_callback=connected,
        on_close_callback=lambda _, reason: closed.set_result(reason),
    )
    try:
        yield await asyncio.wait_for(opened, DEADLINE)
    finally:
        if connection.is_open:
            connection.close()
        await asyncio.wait_for(closed, DEADLINE)


# --- the contracts


def send_positional(link: Link, properties: Any, options: Any) -> None:
    pika.wrap(link.channel, **options).basic_publish("", link.queue, b"value", properties, False)  # noqa: FBT003 - as a user may


def send_by_keywords(link: Link, properties: Any, options: Any) -> None:
    pika.wrap(link.channel, **options).basic_publish(
        properties=properties, body=b"value", mandatory=True, routing_key=link.queue, exchange=""
    )


def send_to_a_named_exchange(link: Link, properties: Any, options: Any) -> None:
    exchange = f"x-{link.queue}"
    link.channel.exchange_declare(exchange, auto_delete=True)
    link.channel.queue_bind(link.queue, exchange, "key")
    pika.wrap(link.channel, **options).basic_publish(exchange, "key", b"value", properties=properties)


def send_confirmed(link: Link, properties: Any, options: Any) -> None:
    with link.another_channel() as bare:
        channel = pika.wrap(bare, **options)
        channel.confirm_delivery()
        channel.basic_publish("", link.queue, b"value", properties, mandatory=True)


def send_in_a_transaction(link: Link, properties: Any, options: Any) -> None:
    with link.another_channel() as bare:
        channel = pika.wrap(bare, **options)
        channel.tx_select()
        channel.basic_publish("", link.queue, b"value", properties)
        channel.tx_commit()


def send_by_a_select_connection(link: Link, properties: Any, options: Any) -> None:
    with selecting(link.parameters) as loop:
        channel = pika.wrap(loop.channel, **options)
        channel.confirm_delivery(ack_nack_callback=lambda _: loop.stop(), callback=lambda _: loop.stop())
        loop.run()
        channel.basic_publish("", link.queue, b"value", properties)
        loop.run()


async def send_by_an_asyncio_connection(link: Link, properties: Any, options: Any) -> None:
    async with asyncio_channel(link.parameters) as channel:
        pika.wrap(channel, **options).basic_publish("", link.queue, b"value", properties)


SENDS: dict[str, Callable[[Link, Any, Any], Any]] = {
    "positional": send_positional,
    "keywords": send_by_keywords,
    "named exchange": send_to_a_named_exchange,
    "confirmed": send_confirmed,
    "transaction": send_in_a_transaction,
    "select": send_by_a_select_connection,
    "asyncio": send_by_an_asyncio_connection,
}


class Sending:
    """Sends through the wrapped channel and looks at what arrives."""

    @pytest.fixture(autouse=True)
    def _on(self, link: Link) -> None:
        self.link = link

    async def send(self, way: str, headers: Any, **options: Any) -> None:
        if way == "headers":
            self.link.publish(pika.headers(headers, **options))
            return
        properties = client.BasicProperties(headers=headers) if headers is not None else None
        sending = SENDS[way](self.link, properties, options)
        if sending is not None:
            await sending

    async def send_filled(self, way: str, filling: int, **options: Any) -> None:
        await self.send(way, {"x": "x" * filling}, **options)

    async def arrived(self) -> Wire:
        return {name: [value] for name, value in ((await self.link.headers()) or {}).items()}

    def native(self, headers: dict[str, str]) -> dict[str, str]:
        return dict(headers)

    async def fail_to_send(self, way: str, **options: Any) -> BaseException:
        with pytest.raises(UnsupportedAMQPFieldException) as raised:
            await self.send(way, {"name": object()}, **options)
        return raised.value


class TestSending(Sending, SendingContract):
    ways = [*SENDS, "headers"]
    recorded_ways = list(SENDS)
    foreign = {
        "a": b"\x00\xff",
        "b": 7,
        "c": [1, "two"],
        "d": {"nested": "table"},
        "e": None,
        "f": True,
        "g": "text",
        b"\xff\xfe": "no name in UTF-8",
    }


class TestFitting(Sending, FittingContract):
    fitting_ways = TestSending.ways
    largest = 131_010


class OverRabbitMQ(Delivery):
    integration = pika

    @pytest.fixture(autouse=True)
    def _on(self, link: Link) -> None:
        self.link = link

    @property
    def source(self) -> str:
        return self.link.queue

    async def deliver(self, headers: dict[str, Any]) -> Message:
        return await self.link.deliver(headers)

    async def deliver_native(self, headers: Any) -> Message:
        return await self.link.deliver(headers)


class Callback:
    """A callback that keeps what its body raised, which most connections only log."""

    def __init__(self, body: Callable[[], None], done: Callable[[], object] = lambda: None) -> None:
        self.was_called = False
        self._body = body
        self._done = done
        self._error: BaseException | None = None

    def __call__(self, channel: Any, method: Any, properties: Any, body: Any) -> None:
        self.was_called = True
        self._done()
        try:
            self._body()
        except BaseException as error:
            self._error = error
            raise

    def check(self) -> None:
        """Raise what the body raised."""
        error, self._error = self._error, None
        if error is not None:
            raise error


def receive_by_callback(link: Link, callback: Callback, options: Any, *, wrapped: bool = True) -> None:
    if wrapped:
        channel: Any = pika.wrap(link.channel, **options)
        tag = channel.basic_consume(queue=link.queue, on_message_callback=callback, auto_ack=True)
    else:
        channel, handler = link.channel, pika.consumer(**options)(callback)
        tag = channel.basic_consume(link.queue, handler, True)  # noqa: FBT003 - as a user may
    try:
        link.consume(lambda: callback.was_called)
    finally:
        channel.basic_cancel(tag)


def receive_from_consume(link: Link, callback: Callback, options: Any) -> None:
    try:
        for message in pika.iterate(link.channel.consume(link.queue, auto_ack=True), **options):
            callback(None, *message)
            break
    finally:
        link.channel.cancel()


def receive_by_a_select_connection(
    link: Link, callback: Callback, options: Any, *, get: bool = False
) -> None:
    with selecting(link.parameters) as loop:
        channel = pika.wrap(loop.channel, **options)
        stopping = Callback(lambda: callback(None, None, None, None), loop.stop)
        if get:
            channel.basic_get(link.queue, stopping, auto_ack=True)
        else:
            channel.basic_consume(link.queue, stopping, auto_ack=True)
        loop.run()


async def receive_by_an_asyncio_connection(link: Link, callback: Callback, options: Any) -> None:
    called = asyncio.Event()
    async with asyncio_channel(link.parameters) as channel:
        telling = Callback(lambda: callback(None, None, None, None), called.set)
        pika.wrap(channel, **options).basic_consume(link.queue, telling, auto_ack=True)
        await asyncio.wait_for(called.wait(), DEADLINE)


RECEIVES: dict[str, Callable[[Link, Callback, Any], Any]] = {
    "callback": receive_by_callback,
    "decorated callback": functools.partial(receive_by_callback, wrapped=False),
    "iterate over consume": receive_from_consume,
    "select callback": receive_by_a_select_connection,
    "select basic_get": functools.partial(receive_by_a_select_connection, get=True),
    "asyncio callback": receive_by_an_asyncio_connection,
}


class TestReceiving(OverRabbitMQ, VerbsReceivingContract):
    ways = [*VerbsReceivingContract.ways, *RECEIVES]
    sees_errors = [way for way in ways if "iterate" not in way]
    hostile_values = [
        "",
        b"\xff\xfe",
        "00-bad",
        "x" * 40_000,
        None,
        5,
        True,
        [TRACEPARENT],
        {"traceparent": TRACEPARENT},
        f"{TRACEPARENT}\n",
    ]

    async def receive(
        self, way: str, headers: dict[str, Any], body: Callable[[], None], **options: Any
    ) -> None:
        if way not in RECEIVES:
            await super().receive(way, headers, body, **options)
            return
        self.link.publish(headers)
        callback = Callback(body)
        receiving = RECEIVES[way](self.link, callback, options)
        if receiving is not None:
            await receiving
        callback.check()


class TestHandlers(OverRabbitMQ, HandlerContract): ...


class TestPulling(OverRabbitMQ, PullingContract): ...


class TestChoosing(OverRabbitMQ, ChoosingContract): ...


class TestRetrying(OverRabbitMQ, RetryingContract): ...


# --- sending


class TestChannel:
    def test_a_wrapped_channel_is_a_channel(self, link: Link) -> None:
        channel = pika.wrap(link.channel)

        assert isinstance(channel, BlockingChannel)
        assert int(channel) == channel.channel_number == link.channel.channel_number
        assert channel.connection is link.connection
        assert channel.is_open
        assert pika.unwrap(channel) is link.channel
        assert pika.unwrap(link.channel) is link.channel

    def test_a_wrapped_channel_stays_wrapped_as_a_with_block(self, link: Link) -> None:
        with pika.wrap(link.connection.channel()) as channel:
            assert pika.unwrap(channel) is not channel
            assert channel.is_open

        assert channel.is_closed

    async def test_wrapping_twice_is_wrapping_once_and_can_be_undone(self, link: Link) -> None:
        """A-13: one traceparent and one scope however often it is wrapped, and none once it is not."""
        recorder = MemoryRecorder()
        channel = pika.wrap(pika.wrap(link.channel, tracer=recorder), tracer=recorder)

        channel.basic_publish("", link.queue, b"value")
        assert list(await link.headers()) == ["traceparent"]
        link.publish({"traceparent": TRACEPARENT})
        callback = Callback(lambda: None)
        channel.basic_consume(link.queue, callback, auto_ack=True)
        link.consume(lambda: callback.was_called)
        assert [span.kind for span in recorder.spans] == ["producer", "consumer"]

        bare = pika.unwrap(channel)
        bare.cancel()
        bare.basic_publish("", link.queue, b"value")
        assert len(recorder.spans) == 2

    async def test_a_layer_of_somebody_else_stays(self, link: Link) -> None:
        foreign: Any = ForeignProxy(link.channel, "basic_publish")

        pika.wrap(foreign).basic_publish("", link.queue, b"value")

        assert foreign.calls == 1
        assert pika.unwrap(foreign) is foreign
        assert pika.unwrap(pika.wrap(foreign)) is foreign

    async def test_a_handler_keeps_the_options_of_its_decorator(self, link: Link) -> None:
        seen: list[TraceContext | None] = []
        callback = Callback(lambda: seen.append(TraceContext.get()))
        pika.wrap(link.channel).basic_consume(
            link.queue, pika.consumer(relation="root")(callback), auto_ack=True
        )

        link.publish({"traceparent": TRACEPARENT})
        link.consume(lambda: callback.was_called)

        assert [context and context.trace_id == SENDER.trace_id for context in seen] == [False]

    async def test_unwrapped_nothing_is_written(self, link: Link) -> None:
        """A-13: after removal none."""
        pika.unwrap(pika.wrap(link.channel)).basic_publish("", link.queue, b"value")

        assert await link.headers() is None

    def test_the_client_library_stays_as_it_was(self, link: Link) -> None:
        before = dict(vars(BlockingChannel)), dict(vars(Channel)), dict(vars(link.channel))

        pika.wrap(link.channel)

        assert (dict(vars(BlockingChannel)), dict(vars(Channel)), dict(vars(link.channel))) == before

    def test_what_is_no_channel_is_refused(self, link: Link) -> None:
        with pytest.raises(
            WrongUseError,
            match=r"wrap\(\) takes a BlockingChannel or a Channel of pika, got BlockingConnection",
        ):
            pika.wrap(link.connection)  # type: ignore[type-var]

    def test_what_cannot_be_headers_is_refused(self) -> None:
        with pytest.raises(
            WrongUseError, match="headers must be a mapping of names to values or None, got list"
        ):
            pika.headers([("app", "1")])


class TestPublishing:
    async def test_the_properties_of_the_caller_stay_as_they_were(self, link: Link) -> None:
        """A-10: also their headers, and what is published by them later without tracing."""
        headers = {"app": "1", "traceparent": STALE}
        properties = client.BasicProperties(headers=headers, app_id="shop")
        before = copy.deepcopy(properties)

        with TraceContext.use(full_context()):
            pika.wrap(link.channel).basic_publish("", link.queue, b"value", properties)
        link.channel.basic_publish("", link.queue, b"value", properties)

        assert properties == before
        assert properties.headers is headers
        assert (await link.headers())["traceparent"] != STALE
        assert await link.headers() == headers

    async def test_properties_shared_by_threads_carry_the_context_of_each(self, link: Link) -> None:
        """A-10: every thread has a connection of its own, all have one properties object."""
        properties = client.BasicProperties(headers={"app": "1"})
        together = threading.Barrier(4, timeout=DEADLINE)
        sent: list[str] = []

        def publish() -> None:
            with client.BlockingConnection(link.parameters) as connection:
                channel = pika.wrap(connection.channel())
                together.wait()
                for _ in range(10):
                    with TraceContext.use(TraceContext.new_root()) as context:
                        channel.basic_publish("", link.queue, b"value", properties)
                    assert context is not None
                    sent.append(context.to_traceparent())

        threads = [threading.Thread(target=publish) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        arrived = [(await link.headers())["traceparent"] for _ in range(40)]

        assert sorted(arrived) == sorted(sent)
        assert properties.headers == {"app": "1"}

    @pytest.mark.parametrize(
        "properties",
        [None, client.BasicProperties(), client.BasicProperties(headers={}), {}],
        ids=["none", "without-headers", "empty-headers", "falsy"],
    )
    async def test_without_headers_there_is_room_for_some(self, link: Link, properties: Any) -> None:
        """A-12: given headers None, a dict is created, and the caller's properties still have none."""
        before = copy.deepcopy(properties)

        pika.wrap(link.channel).basic_publish("", link.queue, b"value", properties)

        assert list(await link.headers()) == ["traceparent"]
        assert properties == before

    async def test_all_properties_of_a_message_arrive(self, link: Link) -> None:
        properties = client.BasicProperties(
            content_type="text/plain",
            content_encoding="utf-8",
            headers={"app": "1"},
            delivery_mode=client.DeliveryMode.Persistent,
            priority=3,
            correlation_id="c",
            reply_to="r",
            expiration="60000",
            message_id="m",
            timestamp=1_700_000_000,
            type="t",
            user_id="guest",
            app_id="a",
            cluster_id="",
        )
        link.channel.basic_publish("", link.queue, "text", properties)  # type: ignore[arg-type] # pika encodes it
        pika.wrap(link.channel).basic_publish("", link.queue, "text", properties)  # type: ignore[arg-type]

        _, bare, body = await link.message()
        _, wrapped, wrapped_body = await link.message()
        assert wrapped.headers.pop("traceparent")
        assert (wrapped, wrapped_body) == (bare, body)

    async def test_what_is_written_is_flat_text_in_ascii(self, link: Link) -> None:
        """A-19: every value that we add is a `str` of ASCII, also for clients that decode numbers wrongly."""
        with TraceContext.use(full_context().with_baggage(Baggage({"name": "J\u00fcrgen"}))):
            pika.wrap(link.channel).basic_publish("", link.queue, b"value")
        headers = await link.headers()

        assert sorted(headers) == ["baggage", "traceparent", "tracestate"]
        assert all(type(value) is str and value.isascii() for value in headers.values())

    async def test_a_received_message_can_be_sent_on_by_its_own_properties(self, link: Link) -> None:
        """A-11: inside of its processing nothing old is left beside the new traceparent."""
        old = await link.deliver({"traceparent": TRACEPARENT, "tracestate": "old=1", "baggage": "old=1"})
        before = copy.deepcopy(old[1])
        channel = pika.wrap(link.channel)

        with pika.process(old), TraceContext.use(TraceContext.new_root()) as current:
            channel.basic_publish("", link.queue, b"value", old[1])
        channel.basic_publish("", link.queue, b"value", old[1])

        assert current is not None
        assert await link.headers() == {"traceparent": current.to_traceparent()}
        assert await link.headers() == before.headers == old[1].headers

    async def test_a_header_name_that_is_not_utf8_is_sent_on(self, link: Link) -> None:
        """A-18: pika hands such a name out as bytes, and takes it back."""
        message = await link.deliver({b"\xff\xfe": b"\xff"})

        with pika.process(message):
            pika.wrap(link.channel).basic_publish("", link.queue, b"value", message[1])
        headers = await link.headers()

        assert headers.pop("traceparent")
        assert headers == {b"\xff\xfe": b"\xff"}

    async def test_a_routing_key_that_is_not_utf8_is_a_way_like_any_other(self, link: Link) -> None:
        """A-18: options by name look at it, too."""
        recorder = MemoryRecorder()
        options: Any = {"enabled": {"other": False}, "tracer": recorder}
        link.channel.exchange_declare(f"x-{link.queue}", "fanout", auto_delete=True)
        link.channel.queue_bind(link.queue, f"x-{link.queue}")
        channel: Any = pika.wrap(link.channel, **options)

        channel.basic_publish(f"x-{link.queue}", b"\xff", b"value")
        with pika.process(await link.message(), relation={"other": "root"}, **options):
            pass

        assert [span.destination for span in recorder.spans] == [f"x-{link.queue}:\ufffd"] * 2
        assert len({span.trace_id for span in recorder.spans}) == 1

    @pytest.mark.parametrize("name", ["exchange", "key", "exchange:key"])
    async def test_what_is_sent_can_be_switched_off_by_name(self, link: Link, name: str) -> None:
        exchange = f"x-{link.queue}"
        link.channel.exchange_declare(exchange, auto_delete=True)
        for key in ("key", "other"):
            link.channel.queue_bind(link.queue, exchange, key)
        channel = pika.wrap(link.channel, enabled={name.replace("exchange", exchange): False})

        channel.basic_publish(exchange, "key", b"value")
        channel.basic_publish(exchange, "other", b"value")

        assert await link.headers() is None
        assert bool(await link.headers()) == (name != "exchange")

    async def test_what_cannot_be_routed_raises_as_with_the_client(self, link: Link) -> None:
        recorder = MemoryRecorder()
        with link.another_channel() as bare:
            channel = pika.wrap(bare, tracer=recorder)
            channel.confirm_delivery()
            with pytest.raises(UnroutableError) as raised, TraceContext.use(full_context()) as context:
                channel.basic_publish("", f"nowhere-{link.queue}", b"value", mandatory=True)
            channel.basic_publish("", link.queue, b"value", mandatory=True)

        assert context is not None
        (returned,) = raised.value.messages
        assert (returned.method.reply_code, returned.body) == (312, b"value")
        assert returned.properties.headers["traceparent"].startswith(f"00-{context.trace_id}-")
        assert [span.outcome for span in recorder.spans] == ["error", "ok"]
        assert recorder.spans[0].error == "pika.exceptions.UnroutableError"
        assert (await link.message())[2] == b"value"

    def test_what_the_broker_refuses_raises_as_with_the_client(self, link: Link) -> None:
        recorder = MemoryRecorder()
        with link.another_channel() as bare:
            channel = pika.wrap(bare, tracer=recorder)
            channel.confirm_delivery()
            full = channel.queue_declare(
                "", exclusive=True, arguments={"x-max-length": 0, "x-overflow": "reject-publish"}
            ).method.queue
            with pytest.raises(NackError):
                channel.basic_publish("", full, b"value")

        assert [(span.outcome, span.error) for span in recorder.spans] == [
            ("error", "pika.exceptions.NackError")
        ]

    def test_a_returned_message_reaches_the_callback_of_the_client(self, link: Link) -> None:
        returned: list[Any] = []
        with link.another_channel() as bare:
            channel = pika.wrap(bare)
            channel.add_on_return_callback(lambda *message: returned.append(message))
            channel.basic_publish("", f"nowhere-{link.queue}", b"value", mandatory=True)
            link.consume(lambda: bool(returned))

        ((_, method, properties, body),) = returned
        assert (method.reply_code, list(properties.headers), body) == (312, ["traceparent"], b"value")

    async def test_where_there_is_no_room_nothing_stale_is_left(self, link: Link) -> None:
        """A-11: what has no room for its context has none of another one, either."""
        stale = {"traceparent": STALE, "tracestate": "old=1", "x": "x" * (TestFitting.largest - 200)}

        with TraceContext.use(full_context()):
            pika.wrap(link.channel).basic_publish(
                "", link.queue, b"value", client.BasicProperties(headers=stale)
            )

        assert list(await link.headers()) == ["x"]

    async def test_the_frame_size_that_was_agreed_on_counts(
        self, link: Link, amqp_url: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING, logger="spakky.tracing")
        context = full_context().with_baggage(Baggage({"tenant": "a" * 4_000}))

        parameters = client.URLParameters(amqp_url)
        parameters.frame_max = 8_192

        with TraceContext.use(context), selecting(parameters) as loop:
            channel = pika.wrap(loop.channel)
            for filling in (1, 3_000):
                properties = client.BasicProperties(headers={"x": "x" * filling})
                channel.basic_publish("", link.queue, b"value", properties)

        assert set(await link.headers()) == {"x", "traceparent", "tracestate", "baggage"}
        assert set(await link.headers()) == {"x", "traceparent"}
        assert len(caplog.records) == 1

    async def test_any_address_of_a_broker_will_do(self, link: Link, amqp_url: str) -> None:
        """A-16: the address is the client's own affair, and nothing but the client parses it."""
        url = urlsplit(amqp_url)
        credentials, at, _ = url.netloc.rpartition("@")
        ipv6 = f"[::ffff:{socket.gethostbyname(str(url.hostname))}]:{url.port or 5672}"
        spelled = [amqp_url, urlunsplit(url._replace(query="heartbeat=30&connection_attempts=2"))]
        if has_ipv6():
            spelled.append(urlunsplit(url._replace(netloc=f"{credentials}{at}{ipv6}")))

        for each in spelled:
            with client.BlockingConnection(client.URLParameters(each)) as connection:
                pika.wrap(connection.channel()).basic_publish("", link.queue, b"value")
            assert list(await link.headers()) == ["traceparent"]


def has_ipv6() -> bool:
    try:
        socket.socket(socket.AF_INET6).close()
    except OSError:
        return False
    return True


# --- receiving


class Seen:
    """A handler's notes: what was current, and what it was called with."""

    def __init__(self) -> None:
        self.contexts: list[TraceContext] = []
        self.arguments: list[tuple[Any, ...]] = []

    def __call__(self, *arguments: Any) -> None:
        context = TraceContext.get()
        assert context is not None
        self.contexts.append(context)
        self.arguments.append(arguments)

    def counts(self, number: int) -> Callable[[], bool]:
        return lambda: len(self.contexts) >= number

    @property
    def senders(self) -> list[str | None]:
        return [context.parent_span_id for context in self.contexts]


class TestCallback:
    """What `basic_consume` calls."""

    async def test_the_parts_of_a_message_are_found_in_any_order_and_by_name(self, link: Link) -> None:
        method, properties, body = await link.deliver({"traceparent": TRACEPARENT})
        seen = Seen()

        class Service:
            @pika.consumer
            def handle(self, *arguments: Any, **named: Any) -> None:
                seen(*arguments, *named.values())

        handle = Service().handle
        handle(link.channel, method, properties, body)
        handle(body, properties, method)
        handle(channel=link.channel, body=body, properties=properties, method=method)
        functools.partial(handle, "session", None, None, None)(link.channel, method, properties, body=body)
        pika.consumer(functools.partial(handle, b"prefix"))(link.channel, method, properties, body)
        handle((method, properties, body))

        assert seen.senders == [SENDER.span_id] * 6

    async def test_a_relation_is_asked_for_the_message_of_scattered_arguments(self, link: Link) -> None:
        method, properties, body = await link.deliver({"traceparent": TRACEPARENT})
        asked: list[Any] = []

        def choose(message: Any) -> Any:
            asked.append(message)
            return "child"

        pika.consumer(relation=choose)(lambda *arguments, **named: None)(
            b"prefix", method, session=None, properties=properties, body=body
        )

        assert asked == [(method, properties, body)]

    async def test_a_handler_without_a_message_is_told_so(self, link: Link) -> None:
        method, properties, body = await link.deliver()

        @pika.consumer
        def handle(*arguments: Any) -> None: ...

        for arguments in ((properties, body), (link.channel, method, body), (body,), ()):
            with pytest.raises(
                WrongUseError,
                match=r"handle\(\) is a consumer and must be called with a \(method, properties, body\)",
            ):
                handle(*arguments)

    def test_a_callback_gets_the_channel_that_it_was_given_to(self, link: Link) -> None:
        with link.another_channel() as bare:
            wrapped, own, decorated = pika.wrap(bare), Seen(), Seen()
            link.publish({"traceparent": TRACEPARENT})
            tag = wrapped.basic_consume(link.queue, own, auto_ack=True)
            link.consume(own.counts(1))
            wrapped.basic_cancel(tag)
            link.publish({"traceparent": TRACEPARENT})
            bare.basic_consume(link.queue, pika.consumer(decorated), auto_ack=True)
            link.consume(decorated.counts(1))

            assert own.arguments[0][0] is wrapped
            assert decorated.arguments[0][0] is bare
        assert [type(argument) for argument in own.arguments[0][1:]] == [
            Basic.Deliver,
            client.BasicProperties,
            bytes,
        ]

    def test_a_reply_through_the_channel_of_the_callback_stays_in_the_trace(self, link: Link) -> None:
        """A-17: the reply's parent is the handler's processing; over RabbitMQ's pseudo-queue for replies."""
        recorder, replies, served = MemoryRecorder(), Seen(), Seen()

        def serve(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            served()
            channel.basic_publish("", properties.reply_to, body.upper())
            channel.basic_ack(method.delivery_tag)

        with link.another_channel() as server, link.another_channel() as caller:
            pika.wrap(server, tracer=recorder).basic_consume(link.queue, serve)
            calling = pika.wrap(caller)
            calling.basic_consume("amq.rabbitmq.reply-to", replies, auto_ack=True)
            with TraceContext.use(TraceContext.new_root()) as call:
                properties = client.BasicProperties(reply_to="amq.rabbitmq.reply-to")
                calling.basic_publish("", link.queue, b"ping", properties)
            link.consume(replies.counts(1))

        assert call is not None
        sending, processing = recorder.spans
        assert (processing.name, processing.parent_span_id) == (f"process {link.queue}", call.span_id)
        assert (sending.kind, sending.parent_span_id) == ("producer", processing.span_id)
        assert replies.senders == [sending.span_id]
        assert {context.trace_id for context in served.contexts + replies.contexts} == {call.trace_id}
        assert replies.arguments[0][-1] == b"PING"

    def test_a_channel_unwrapped_with_live_consumers_goes_on(self, link: Link) -> None:
        """A-14: what was consumed before keeps its contexts, what is published after has none."""
        seen = Seen()
        with link.another_channel() as channel:
            wrapped = pika.wrap(channel)
            wrapped.basic_consume(link.queue, seen)
            bare = pika.unwrap(wrapped)
            del wrapped
            link.publish({"traceparent": TRACEPARENT})
            bare.basic_publish("", link.queue, b"value")
            link.consume(seen.counts(2))

            bare.basic_ack(0, multiple=True)
            bare.basic_cancel(bare.consumer_tags[0])
            assert bare.consumer_tags == []
        assert seen.senders == [SENDER.span_id, None]

    def test_cancelling_is_the_client_s_own(self, link: Link) -> None:
        cancelled: list[Any] = []
        with link.another_channel() as bare:
            channel = pika.wrap(bare)
            channel.add_on_cancel_callback(cancelled.append)
            tag = channel.basic_consume(link.queue, Seen(), consumer_tag="mine", exclusive=True)
            assert (tag, channel.consumer_tags) == ("mine", ["mine"])
            link.publish()
            left = channel.basic_cancel("mine")
            channel.basic_consume(link.queue, Seen(), auto_ack=True, arguments={"x-priority": 1})
            link.channel.queue_delete(link.queue)
            link.consume(lambda: bool(cancelled))
            assert channel.consumer_tags == []

        assert left == []
        assert cancelled[0].method.NAME == "Basic.Cancel"

    def test_one_message_at_a_time_each_has_its_own_context(self, link: Link) -> None:
        sent = [TraceContext.new_root() for _ in range(5)]
        seen = Seen()

        def handle(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            seen(channel, method)
            channel.basic_ack(delivery_tag=method.delivery_tag)

        with link.another_channel() as bare:
            channel = pika.wrap(bare)
            channel.basic_qos(prefetch_count=1)
            channel.basic_consume(link.queue, handle)
            for context in sent:
                link.publish({"traceparent": context.to_traceparent()})
            link.consume(seen.counts(5))

        assert seen.senders == [context.span_id for context in sent]
        assert TraceContext.get() is None

    async def test_what_a_callback_raises_comes_out_and_the_message_comes_again(self, link: Link) -> None:
        recorder = MemoryRecorder()

        def fail(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            raise LookupError

        link.publish({"traceparent": TRACEPARENT})
        with link.another_channel() as bare:
            channel = pika.wrap(bare, tracer=recorder)
            channel.basic_consume(link.queue, fail)
            with TraceContext.use(TraceContext.new_root()) as before:
                with pytest.raises(LookupError):
                    channel.start_consuming()
                assert TraceContext.get() is before
        with pika.process(await link.message(), tracer=recorder):
            pass

        first, second = recorder.spans
        assert (first.outcome, first.error, first.attempt) == ("error", "LookupError", 1)
        assert (second.is_redelivered, second.attempt) == (True, None)
        assert {first.parent_span_id, second.parent_span_id} == {SENDER.span_id}

    @pytest.mark.parametrize("value", [b"\xff\xfe", 5, [TRACEPARENT], {"a": {"b": 1}}, None], ids=repr)
    async def test_a_message_with_a_hostile_header_can_be_acked_and_nacked(
        self, link: Link, value: object
    ) -> None:
        """A-02, A-18: the handler runs, and what it says to the broker holds."""
        redelivered: list[bool] = []

        def handle(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            redelivered.append(method.redelivered)
            if method.redelivered:
                channel.basic_ack(method.delivery_tag)
            else:
                channel.basic_nack(method.delivery_tag)

        link.publish({"traceparent": value, "tracestate": value, "baggage": value, b"\xff": value})
        with link.another_channel() as bare:
            pika.wrap(bare, tracer=MemoryRecorder()).basic_consume(link.queue, handle)
            link.consume(lambda: len(redelivered) == 2)

        assert redelivered == [False, True]
        assert link.channel.basic_get(link.queue) == (None, None, None)

    def test_bytes_are_read_as_text(self, link: Link) -> None:
        """A-01, P-08: given headers with bytes for all three fields, it is continued and the handler runs."""
        seen = Seen()
        link.publish({"traceparent": TRACEPARENT.encode(), "tracestate": b"a=1", "baggage": b"tenant=acme"})
        with link.another_channel() as bare:
            pika.wrap(bare).basic_consume(link.queue, seen, auto_ack=True)
            link.consume(seen.counts(1))

        (context,) = seen.contexts
        assert context.parent_span_id == SENDER.span_id
        assert (context.trace_state.to_header(), dict(context.baggage)) == ("a=1", {"tenant": "acme"})

    def test_a_relation_by_the_name_of_the_queue_counts_whatever_the_routing_key(self, link: Link) -> None:
        seen = Seen()
        link.channel.exchange_declare(f"x-{link.queue}", "topic", auto_delete=True)
        link.channel.queue_bind(link.queue, f"x-{link.queue}", "#")
        properties = client.BasicProperties(headers={"traceparent": TRACEPARENT})
        with link.another_channel() as bare:
            channel = pika.wrap(bare, relation={link.queue: "root"})
            channel.basic_consume(link.queue, seen, auto_ack=True)
            link.channel.basic_publish(f"x-{link.queue}", "a.b", b"value", properties)
            link.consume(seen.counts(1))

        assert seen.senders == [None]


class TestPulled:
    """What `consume` and `basic_get` return."""

    async def test_each_body_runs_in_the_context_of_its_message(self, link: Link) -> None:
        """A-05, A-06: a break leaves the context before, and baggage arrives."""
        sent = [TraceContext.new_root(baggage=Baggage({"number": str(number)})) for number in range(3)]
        channel = pika.wrap(link.channel)
        for context in sent:
            with TraceContext.use(context):
                channel.basic_publish("", link.queue, b"value")
        seen = Seen()

        with TraceContext.use(TraceContext.new_root()) as before:
            for method, _, body in pika.iterate(channel.consume(link.queue)):
                assert method is not None
                seen(body)
                channel.basic_ack(method.delivery_tag)
                if len(seen.contexts) == 3:
                    break
            assert TraceContext.get() is before
            assert channel.cancel() == 0
            assert TraceContext.get() is before

        assert seen.senders == [context.span_id for context in sent]
        assert [dict(context.baggage) for context in seen.contexts] == [dict(each.baggage) for each in sent]

    def test_where_no_message_comes_nothing_is_current_recorded_or_said(
        self, link: Link, caplog: pytest.LogCaptureFixture
    ) -> None:
        """K-33: given no message, then no scope, no log, no header work."""
        caplog.set_level(logging.DEBUG, logger="spakky.tracing")
        recorder = MemoryRecorder()
        options: Any = {"tracer": recorder, "propagator": BrokenPropagator(), "enabled": {"other": False}}
        ticks = []

        with TraceContext.use(TraceContext.new_root()) as before:
            for tick in pika.iterate(link.channel.consume(link.queue, inactivity_timeout=0.01), **options):
                assert TraceContext.get() is before
                ticks.append(tick)
                if len(ticks) == 2:
                    break
            link.channel.cancel()
            nothing = link.channel.basic_get(link.queue)
            with pika.process(nothing, **options) as processing, pika.process_batch([nothing], **options):
                assert TraceContext.get() is before
            handled = pika.consumer(**options)(lambda *message: TraceContext.get())(*nothing)

        assert handled is before
        assert [*ticks, nothing] == [(None, None, None)] * 3
        assert (processing.context, pika.context_from(nothing)) == (None, None)
        assert list(recorder.spans) == []
        assert [record for record in caplog.records if record.name == "spakky.tracing"] == []

    def test_a_message_after_a_tick_has_its_own_context(self, link: Link) -> None:
        seen = []
        for message in pika.iterate(link.channel.consume(link.queue, inactivity_timeout=0.05)):
            seen.append((message[0] is not None, TraceContext.get()))
            if len(seen) == 1:
                link.publish({"traceparent": TRACEPARENT})
            if message[0] is None and len(seen) > 1:
                break
        link.channel.cancel()

        (first, nothing), (second, context), *_ = seen
        assert (first, nothing, second, seen[-1][1]) == (False, None, True, None)
        assert context is not None
        assert context.parent_span_id == SENDER.span_id

    def test_steps_in_other_contextvars_contexts_log_no_error(
        self, link: Link, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A-07, K-14, P-09: each step sees its message, and neither Context keeps anything of it."""
        caplog.set_level(logging.ERROR)
        for _ in range(3):
            link.publish({"traceparent": TRACEPARENT})
        messages = pika.iterate(link.channel.consume(link.queue, auto_ack=True))
        one, other = contextvars.copy_context(), contextvars.copy_context()

        def step() -> str | None:
            next(messages)
            context = TraceContext.get()
            return context.parent_span_id if context else "nothing"

        seen = [one.run(step), other.run(step), step()]
        messages.close()
        link.channel.cancel()

        assert seen == [SENDER.span_id] * 3
        assert [each.run(TraceContext.get) for each in (one, other)] == [None, None]
        assert TraceContext.get() is None
        assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []

    async def test_a_message_from_basic_get_is_processed_in_its_context(self, link: Link) -> None:
        """A-04: also where it is acked afterwards."""
        link.publish({"traceparent": TRACEPARENT, "baggage": "tenant=acme"})
        message = await link.message(auto_ack=False)

        with pika.process(message):
            context = TraceContext.get()
            assert message[0] is not None
            link.channel.basic_ack(message[0].delivery_tag)

        assert context is not None
        assert context.parent_span_id == SENDER.span_id
        assert dict(context.baggage) == {"tenant": "acme"}
        assert pika.context_from(message) == SENDER.with_baggage(context.baggage)

    @pytest.mark.parametrize(
        "wrong",
        [
            b"value",
            (1, 2, 3),
            (None, None),
            (None, client.BasicProperties(), b""),
            (Basic.Deliver(), None, b""),
            (Basic.Return(), client.BasicProperties(), b""),
        ],
        ids=repr,
    )
    def test_what_is_no_message_is_refused(self, wrong: Any) -> None:
        with pytest.raises(
            WrongUseError, match=r"^this takes a received \(method, properties, body\), got \w+$"
        ):
            pika.process(wrong)


class TestConnections:
    """A-15: whatever runs the connection, a channel is wrapped and a message is one."""

    def test_a_select_connection_sends_and_receives_in_one_trace(self, link: Link) -> None:
        """A-15: publish with context; callback and reply in its trace."""
        recorder, seen = MemoryRecorder(), Seen()
        confirmed: set[int] = set()

        def stop_if_done() -> None:
            if seen.counts(2)() and 2 in confirmed:
                loop.stop()

        def handle(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            seen(channel)
            channel.basic_ack(method.delivery_tag)
            if properties.reply_to:
                channel.basic_publish("", properties.reply_to, b"reply")
            stop_if_done()

        def confirm(frame: Any) -> None:
            confirmed.add(frame.method.delivery_tag)
            stop_if_done()

        with selecting(link.parameters) as loop, TraceContext.use(TraceContext.new_root()) as context:
            channel = pika.wrap(loop.channel, tracer=recorder)
            channel.confirm_delivery(confirm)
            channel.basic_consume(link.queue, handle, callback=lambda _: loop.stop())
            loop.run()
            channel.basic_publish("", link.queue, b"value", client.BasicProperties(reply_to=link.queue))
            assert [span.outcome for span in recorder.spans] == ["ok"]
            loop.run()

        assert isinstance(channel, Channel)
        assert [arguments[0] is channel for arguments in seen.arguments] == [True, True]
        assert_conversation(recorder, context)

    async def test_an_asyncio_connection_sends_and_receives_in_one_trace(self, link: Link) -> None:
        """A-15: in its callbacks, and in the tasks that these start."""
        recorder, seen, done = MemoryRecorder(), Seen(), asyncio.Event()
        tasks: list[asyncio.Task[None]] = []

        async def reply(channel: Any, properties: Any) -> None:
            await asyncio.sleep(0)
            channel.basic_publish("", properties.reply_to, b"reply")

        def handle(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            seen(channel)
            if properties.reply_to:
                tasks.append(asyncio.create_task(reply(channel, properties)))
            else:
                done.set()

        async with asyncio_channel(link.parameters) as bare:
            channel = pika.wrap(bare, tracer=recorder)
            channel.basic_consume(link.queue, handle, auto_ack=True)
            with TraceContext.use(TraceContext.new_root()) as context:
                channel.basic_publish("", link.queue, b"value", client.BasicProperties(reply_to=link.queue))
            await asyncio.wait_for(done.wait(), DEADLINE)
            await asyncio.gather(*tasks)

        assert [arguments[0] is channel for arguments in seen.arguments] == [True, True]
        assert_conversation(recorder, context)

    async def test_a_channel_opened_in_a_trace_does_not_lend_it_to_messages(self, link: Link) -> None:
        """A-15: an event loop calls back in the Context of the connection; a message has its own."""
        seen, done = Seen(), asyncio.Event()

        def handle(*message: Any) -> None:
            seen(*message)
            done.set()

        with TraceContext.use(TraceContext.new_root()) as ambient:
            connecting = asyncio_channel(link.parameters)
            bare = await connecting.__aenter__()
        pika.wrap(bare).basic_consume(link.queue, handle, auto_ack=True)
        link.publish()
        await asyncio.wait_for(done.wait(), DEADLINE)
        await connecting.__aexit__(None, None, None)

        assert ambient is not None
        assert seen.senders == [None]
        assert seen.contexts[0].trace_id != ambient.trace_id


def assert_conversation(recorder: MemoryRecorder, context: TraceContext | None) -> None:
    """Say that a message was sent in *context*, processed, answered, and the answer processed."""
    assert context is not None
    spans = sorted(recorder.spans, key=lambda span: span.start_unix_nano)
    assert [span.kind for span in spans] == ["producer", "consumer", "producer", "consumer"]
    assert [span.parent_span_id for span in spans] == [
        context.span_id,
        *[span.span_id for span in spans[:-1]],
    ]
    assert {span.trace_id for span in spans} == {context.trace_id}
    assert {span.outcome for span in spans} == {"ok"}


class TestBroker(AmqpContract):
    integration = pika

    @pytest.fixture(autouse=True)
    def _on(self, link: Link) -> None:
        self.link = link

    async def declare_queue(self, name: str, arguments: dict[str, Any], *, durable: bool = False) -> None:
        self.link.channel.queue_declare(name, durable=durable, arguments=arguments)

    async def publish_to(self, queue: str, headers: dict[str, Any]) -> None:
        self.link.publish(headers, queue)

    async def get_from(self, queue: str, *, no_ack: bool = False) -> Message:
        return await self.link.message(queue, auto_ack=no_ack)

    async def reject(self, message: Message, *, requeue: bool) -> None:
        self.link.channel.basic_reject(message[0].delivery_tag, requeue=requeue)


class TestComingAgain:
    """What the broker hands out again, and from where."""

    def processed(self, message: Message) -> Span:
        recorder = MemoryRecorder()
        with pika.process(message, tracer=recorder):
            pass
        (span,) = recorder.spans
        return span

    async def test_a_dead_letter_goes_on_with_its_trace(self, link: Link) -> None:
        """A-20: its death is counted, and its processing links to where it comes from."""
        with link.another_channel() as channel:
            channel.exchange_declare(f"dead-{link.queue}", "fanout", auto_delete=True)
            dead = channel.queue_declare("", exclusive=True).method.queue
            channel.queue_bind(dead, f"dead-{link.queue}")
            arguments = {"x-dead-letter-exchange": f"dead-{link.queue}"}
            source = channel.queue_declare("", exclusive=True, arguments=arguments).method.queue
            rejecting: list[TraceContext | None] = []

            def reject(channel: Any, method: Any, properties: Any, body: bytes) -> None:
                rejecting.append(TraceContext.get())
                channel.basic_reject(method.delivery_tag, requeue=False)

            pika.wrap(channel).basic_consume(source, reject)
            link.publish({"traceparent": TRACEPARENT, "baggage": "tenant=acme"}, source)
            link.consume(lambda: bool(rejecting))
            message = await link.message(dead)
            span = self.processed(message)

        assert rejecting[0] is not None
        assert rejecting[0].parent_span_id == SENDER.span_id
        assert (span.trace_id, span.parent_span_id) == (SENDER.trace_id, SENDER.span_id)
        assert (span.death_count, span.attempt, span.is_redelivered) == (1, 2, False)
        assert [(each.trace_id, each.span_id) for each in span.links] == [(SENDER.trace_id, SENDER.span_id)]
        assert span.destination.startswith(f"dead-{link.queue}:")

    async def test_a_retry_through_a_queue_with_a_delay_counts_rejections_only(self, link: Link) -> None:
        """A-20: it expires in the delay queue as often as it was rejected, which is no attempt."""
        with link.another_channel() as channel:
            work, delay = f"work-{link.queue}", f"delay-{link.queue}"
            to_delay = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": delay}
            to_work = {
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": work,
                "x-message-ttl": 1,
            }
            channel.queue_declare(work, exclusive=True, arguments=to_delay)
            channel.queue_declare(delay, exclusive=True, arguments=to_work)
            link.publish({"traceparent": TRACEPARENT}, work)
            spans = []
            for _ in range(3):
                message = await link.message(work, auto_ack=False)
                spans.append(self.processed(message))
                link.channel.basic_reject(message[0].delivery_tag, requeue=False)

        assert [span.attempt for span in spans] == [1, 2, 3]
        assert [span.death_count for span in spans] == [0, 2, 4]
        assert [len(span.links) for span in spans] == [0, 1, 1]
        assert {(span.trace_id, span.parent_span_id) for span in spans} == {(SENDER.trace_id, SENDER.span_id)}

    async def test_an_expired_message_has_died_but_was_not_tried(self, link: Link) -> None:
        with link.another_channel() as channel:
            arguments = {
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": link.queue,
                "x-message-ttl": 1,
            }
            source = channel.queue_declare("", exclusive=True, arguments=arguments).method.queue
            link.publish({"traceparent": TRACEPARENT}, source)
            span = self.processed(await link.message())

        assert (span.death_count, span.attempt, span.links) == (1, 1, ())
        assert span.parent_span_id == SENDER.span_id

    async def test_a_requeued_message_says_that_it_was_here_before(self, link: Link) -> None:
        link.publish({"traceparent": TRACEPARENT})
        spans = []
        for _ in range(2):
            message = await link.message(auto_ack=False)
            spans.append(self.processed(message))
            link.channel.basic_nack(message[0].delivery_tag, requeue=True)

        assert [span.is_redelivered for span in spans] == [False, True]
        assert [span.attempt for span in spans] == [1, None]
        assert {span.parent_span_id for span in spans} == {SENDER.span_id}

    async def test_a_quorum_queue_counts_the_attempts(self, link: Link) -> None:
        queue = f"quorum-{link.queue}"
        link.channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
        link.publish({"traceparent": TRACEPARENT}, queue)
        spans = []
        for _ in range(3):
            message = await link.message(queue, auto_ack=False)
            spans.append(self.processed(message))
            link.channel.basic_nack(message[0].delivery_tag, requeue=True)
        link.channel.queue_delete(queue)

        assert [span.attempt for span in spans] == [1, 2, 3]
        assert [span.is_redelivered for span in spans] == [False, True, True]
        assert {span.parent_span_id for span in spans} == {SENDER.span_id}

    async def test_a_dead_letter_that_is_published_by_hand_links_to_the_attempt(self, link: Link) -> None:
        """K-28, over AMQP: `retry_headers` go into a copy of its properties."""
        _, properties, body = message = await link.deliver({"traceparent": TRACEPARENT})
        recorder = MemoryRecorder()

        with pika.process(message, tracer=recorder):
            retried = copy.copy(properties)
            retried.headers = pika.retry_headers(message)
            pika.wrap(link.channel).basic_publish("", link.queue, body, retried)
        span = self.processed(await link.message())

        (attempt,) = recorder.spans
        assert (span.attempt, span.parent_span_id) == (2, attempt.span_id)
        assert [each.span_id for each in span.links] == [attempt.span_id]
        assert properties.headers == {"traceparent": TRACEPARENT}

    async def test_the_time_in_the_queue_is_that_since_its_timestamp(self, link: Link) -> None:
        spans = []
        now = int(time.time())
        for timestamp in (now - 60, 0, now + 3_600, 2**64 - 1, None):
            properties = client.BasicProperties(timestamp=timestamp)
            link.channel.basic_publish("", link.queue, b"value", properties)
            spans.append(self.processed(await link.message()))

        minute, since_1970, ahead, absurd, unknown = [span.queue_time_nano for span in spans]
        assert minute is not None
        assert since_1970 is not None
        assert 60 * 10**9 <= minute < 70 * 10**9 < since_1970
        assert (ahead, absurd, unknown) == (0, None, None)
