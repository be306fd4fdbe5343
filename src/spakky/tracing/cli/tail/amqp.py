"""Watches an exchange or a stream of RabbitMQ with pika.

A queue of the watcher's own gets a copy of what an exchange routes; it ends with its connection, and drops
its oldest messages when it is full. A stream is read at an offset. Nothing else is consumed from.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from spakky.tracing.cli.refusal import Refusal
from spakky.tracing.cli.tail.amqp_connection import (
    PATIENCE_SECONDS,
    AMQPError,
    ChannelClosedByBroker,
    ConnectionClosed,
    connect,
)
from spakky.tracing.cli.tail.amqp_message import AmqpMessage, traced_from, watched_from
from spakky.tracing.cli.tail.amqp_source import TRACER, ExchangeSource, StreamSource, find_source
from spakky.tracing.cli.tail.broker_url import broker_url, refuse_url

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from pika import BasicProperties
    from pika.spec import Basic

    from spakky.tracing.cli.tail.amqp_connection import Channel, Connection
    from spakky.tracing.cli.tail.broker_url import BrokerUrl
    from spakky.tracing.cli.tail.watched import Watched

__all__ = ["AmqpWatcher", "watcher"]

_EXAMPLE: Final = "amqp://guest:guest@localhost/orders or, with a virtual host, amqp://localhost/shop/orders"
_PORTS: Final = {"amqp": 5672, "amqps": 5671}
_OPTIONS: Final = frozenset(["cacertfile", "certfile", "keyfile", "verify"])
_OFFSET: Final = "x-stream-offset"
_PREFETCHED: Final = 2_000
_QUEUE: Final = {"x-max-length": 50_000, "x-max-length-bytes": 64 * 1024 * 1024, "x-overflow": "drop-head"}
_PAUSE_SECONDS: Final = 1


def watcher(url: str, *, keys: Sequence[str] = (), from_beginning: bool = False) -> AmqpWatcher:
    """Return what watches the exchange or stream of *url*.

    Args:
        url: `amqp[s]://[USER:PASSWORD@]HOST[:PORT]/[VIRTUAL-HOST/]NAME`; a `/` in a name is written `%2F`.
            The virtual host is `/` unless it is given. `amqps` takes the options of RabbitMQ's own URLs:
            `cacertfile`, `certfile`, `keyfile`, and `verify=verify_none`.
        keys: The routing keys to watch, or patterns of them for a topic exchange; none for all.
        from_beginning: Whether the messages that a stream has already are seen, too.

    Raises:
        Refusal: The URL is wrong.
    """
    given = broker_url(
        url,
        port=_PORTS.get(url.partition(":")[0].lower(), _PORTS["amqp"]),
        example=_EXAMPLE,
        options=_OPTIONS,
    )
    if given.scheme not in _PORTS:
        refuse_url(url, "is no URL of RabbitMQ", _EXAMPLE)
    if given.options and given.scheme != "amqps":
        refuse_url(url, "has options that are for amqps:// only", _EXAMPLE)
    return AmqpWatcher(given, tuple(keys), from_beginning=from_beginning)


class AmqpWatcher:
    """Watches one exchange or one stream."""

    def __init__(self, url: BrokerUrl, keys: tuple[str, ...], *, from_beginning: bool) -> None:
        """Prepare, and connect to nothing yet; the arguments are those of `watcher`."""
        self._url = url
        self._keys = keys
        self._from_beginning = from_beginning
        self._source: ExchangeSource | StreamSource | None = None
        self._inbox: _Inbox | None = None

    @property
    def watches(self) -> str:
        """What is watched, for people."""
        virtual_host = "" if self._virtual_host == "/" else f", virtual host {self._virtual_host}"
        return f"{self._what} of RabbitMQ at {self._url.server}{virtual_host}"

    @property
    def behind(self) -> int:
        """How many messages wait in the watcher's queue, as of a second ago; 0 for a stream."""
        return 0 if self._inbox is None else self._inbox.behind

    async def messages(self) -> AsyncGenerator[list[Watched]]:
        """Yield messages as `IWatcher` has it."""
        connection = await connect(self._url, self._virtual_host)
        try:
            self._inbox = inbox = await self._begin(connection)
            yield []
            while True:
                yield [_watched(each) for each in await inbox.take()]
        except AMQPError as error:
            raise Refusal(self._ended(error)) from error
        finally:
            await self._end(connection)

    @property
    def _virtual_host(self) -> str:
        return self._url.place or "/"

    @property
    def _what(self) -> str:
        if self._source is None:
            return self._url.name
        if isinstance(self._source, StreamSource):
            return f"stream {self._source.name}"
        keys = "" if self._source.keys == ("#",) else f" (keys {', '.join(self._source.keys)})"
        if self._source.name == TRACER:
            return f"the tracer{keys}, which is silent until `rabbitmqctl trace_on`,"
        return f"{self._source.kind} exchange {self._source.name}{keys}"

    async def _begin(self, connection: Connection) -> _Inbox:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                self._source = await find_source(
                    connection, self._url.name, self._keys, from_beginning=self._from_beginning
                )
                return await self._subscribe(connection, self._source)
        except TimeoutError:
            sentence = f"RabbitMQ at {self._url.server} does not answer."
            raise Refusal(sentence) from None

    async def _subscribe(self, connection: Connection, source: ExchangeSource | StreamSource) -> _Inbox:
        channel = await connection.channel()
        await channel.ask(channel.bare.basic_qos, prefetch_count=_PREFETCHED)
        if isinstance(source, StreamSource):
            inbox = _Inbox(channel, source.name, None)
            offset = "first" if self._from_beginning else "next"
            await inbox.consume({_OFFSET: offset})
            return inbox
        queue = await _bound_queue(channel, source)
        inbox = _Inbox(channel, queue, await _Pulse.of(connection, source.name))
        await inbox.consume({})
        return inbox

    def _ended(self, error: AMQPError) -> str:
        if isinstance(error, ChannelClosedByBroker):
            return f"RabbitMQ at {self._url.server} ends the watch of {self._url.name}: {error.reply_text}."
        reason = error.reply_text if isinstance(error, ConnectionClosed) else type(error).__name__
        return f"The connection to RabbitMQ at {self._url.server} was lost: {reason}."

    async def _end(self, connection: Connection) -> None:
        with suppress(AMQPError, TimeoutError):
            if self._inbox is not None and isinstance(self._source, ExchangeSource):
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self._inbox.delete_queue()
        await connection.close()


class _Arrived(NamedTuple):
    """A delivery, without its body; its place if it is of a stream."""

    method: Basic.Deliver
    properties: BasicProperties
    stream: str | None


class _Pulse:
    """Sees to it that an exchange is still there: a queue is not told when its exchange is deleted."""

    def __init__(self, channel: Channel, exchange: str) -> None:
        self._channel = channel
        self._exchange = exchange

    @classmethod
    async def of(cls, connection: Connection, exchange: str) -> _Pulse:
        return cls(await connection.channel(), exchange)

    async def check(self) -> None:
        """Raise `Refusal` if the exchange is gone."""
        try:
            await self._channel.ask(
                self._channel.bare.exchange_declare, exchange=self._exchange, passive=True
            )
        except ChannelClosedByBroker as error:
            sentence = f"Exchange {self._exchange} was deleted."
            raise Refusal(sentence) from error


class _Inbox:
    """What has arrived from one queue; acknowledged when the next is asked for, so that it never piles up."""

    def __init__(self, channel: Channel, queue: str, pulse: _Pulse | None) -> None:
        self.behind = 0
        self._channel = channel
        self._queue = queue
        self._pulse = pulse
        self._waiting: list[_Arrived] = []
        self._last_tag: int | None = None
        self._event = asyncio.Event()
        self._is_cancelled = False
        self._counted_at = 0.0
        channel.closed.add_done_callback(lambda _: self._event.set())
        channel.bare.add_on_cancel_callback(self._cancelled)

    async def consume(self, arguments: dict[str, object]) -> None:
        """Have messages delivered from now on."""
        bare = self._channel.bare
        await self._channel.ask(
            bare.basic_consume, queue=self._queue, on_message_callback=self._put, arguments=arguments
        )

    async def take(self) -> list[_Arrived]:
        """Return what has arrived since, once there is something.

        Raises:
            Refusal: Nothing will arrive any more.
            pika.exceptions.AMQPError: Likewise.
        """
        if self._last_tag is not None and self._channel.bare.is_open:
            self._channel.bare.basic_ack(self._last_tag, multiple=True)
            self._last_tag = None
        self._count()
        while not self._waiting:
            await self._something()
        taken, self._waiting = self._waiting, []
        self._event.clear()
        self._last_tag = taken[-1].method.delivery_tag
        return taken

    async def delete_queue(self) -> None:
        """Delete the queue, which is our own."""
        if self._channel.bare.is_open:
            await self._channel.ask(self._channel.bare.queue_delete, queue=self._queue)

    async def _something(self) -> None:
        if self._channel.closed.done():
            raise self._channel.closed.result()
        if self._is_cancelled:
            sentence = f"Queue {self._queue} was deleted, or its node went away."
            raise Refusal(sentence)
        try:
            await asyncio.wait_for(self._event.wait(), _PAUSE_SECONDS)
        except TimeoutError:
            self.behind = 0
            if self._pulse is not None:
                await self._pulse.check()

    def _put(self, _: object, method: Basic.Deliver, properties: BasicProperties, __: bytes) -> None:
        is_stream = self._pulse is None
        if is_stream and _OFFSET not in (properties.headers or {}):  # it was replaced by a queue meanwhile
            self._channel.bare.close()  # the message goes back, since it was not acknowledged
            return
        self._waiting.append(_Arrived(method, properties, self._queue if is_stream else None))
        self._event.set()

    def _cancelled(self, _: object) -> None:
        self._is_cancelled = True
        self._event.set()

    def _count(self) -> None:
        """Ask now and then how many messages wait; the answer comes when it comes."""
        if self._pulse is None or time.monotonic() - self._counted_at < _PAUSE_SECONDS:
            return
        self._counted_at = time.monotonic()
        if self._channel.bare.is_open:
            self._channel.bare.queue_declare(self._queue, passive=True, callback=self._counted)

    def _counted(self, answer: Any) -> None:  # noqa: ANN401 - a frame of pika
        self.behind = answer.method.message_count


async def _bound_queue(channel: Channel, source: ExchangeSource) -> str:
    """Return the name of a new queue of our own that gets a copy of what *source* routes."""
    answer = await channel.ask(
        channel.bare.queue_declare, queue="", exclusive=True, auto_delete=True, arguments=_QUEUE
    )
    queue: str = answer.method.queue
    for key in source.keys:
        await channel.ask(channel.bare.queue_bind, queue=queue, exchange=source.name, routing_key=key)
    return queue


def _watched(arrived: _Arrived) -> Watched:
    method, properties, stream = arrived
    headers: Mapping[str, Any] = properties.headers or {}
    if method.exchange == TRACER:
        return watched_from(traced_from(headers))
    message = AmqpMessage(
        headers=headers,
        exchange=method.exchange,
        routing_key=method.routing_key,
        is_redelivered=None if stream else method.redelivered,
        app_id=properties.app_id,
        message_id=properties.message_id,
        timestamp=properties.timestamp,
    )
    return watched_from(message, None if stream is None else f"{stream} {headers.get(_OFFSET)}")
