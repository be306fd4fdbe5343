"""pika on a real RabbitMQ."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import functools
import logging
import threading
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pika as client
import pytest
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.adapters.blocking_connection import BlockingChannel
from pika.channel import Channel
from pika.exceptions import NackError, UnroutableError, UnsupportedAMQPFieldException
from pika.spec import Basic

from contract.choosing import ChoosingContract
from contract.contexts import STALE, TRACEPARENT, full_context
from contract.delivery import Delivery, VerbsReceivingContract
from contract.fitting import FittingContract
from contract.handling import HandlerContract
from contract.pulling import PullingContract
from contract.receiving import SENDER
from contract.retrying import RetryingContract
from contract.sending import SendingContract, Wire
from spakky.tracing.baggage import Baggage
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.integrations import pika
from spakky.tracing.recorder import MemoryRecorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from pika.connection import Parameters

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
            while (message := self.channel.basic_get(queue or self.queue, auto_ack))[0] is None:
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
            on_open_callback=lambda connection: connection.channel(on_open_callback=self._opened),
            on_close_callback=lambda *_: self.stop(),
        )
        self.channel: Any = None

    def _opened(self, channel: Channel) -> None:
        self.channel = channel
        self.stop()

    def stop(self) -> None:
        self.connection.ioloop.stop()

    def run(self) -> None:
        late: list[str] = []
        deadline = self.connection.ioloop.call_later(DEADLINE, lambda: (late.append("late"), self.stop()))
        self.connection.ioloop.start()
        self.connection.ioloop.remove_timeout(deadline)
        assert not late, "it did not happen"


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
    connection = AsyncioConnection(
        parameters,
        on_open_callback=lambda connection: connection.channel(on_open_callback=opened.set_result),  # type: ignore[attr-defined]
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
    pika.wrap(link.channel, **options).basic_publish("", link.queue, b"value", properties, False)


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
        tag = channel.basic_consume(link.queue, handler, True)
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
