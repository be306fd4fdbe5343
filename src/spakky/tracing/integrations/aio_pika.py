"""aio-pika: wrap the exchange or the channel, decorate the callback or iterate over the queue.

Usage:

    exchange = aio_pika.wrap(channel.default_exchange)
    await exchange.publish(Message(b"..."), "orders")

    @aio_pika.consumer
    async def handle(message: AbstractIncomingMessage) -> None: ...

    await queue.consume(handle)

    async with queue.iterator() as messages:
        async for message in aio_pika.iterate(messages): ...

A message is an `AbstractIncomingMessage`, from a callback, an iterator or `queue.get`; headers are a dict.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

from spakky.tracing._extras import raise_missing_extra
from spakky.tracing.boundaries.client import Client
from spakky.tracing.boundaries.handler import handles_message
from spakky.tracing.boundaries.options import Options, Settings
from spakky.tracing.boundaries.process import Receiver
from spakky.tracing.boundaries.publish import Sender
from spakky.tracing.boundaries.verbs import Verbs
from spakky.tracing.carriers.amqp import (
    CARRIER,
    DEFAULT_FRAME_SIZE,
    attributes_from,
    delivery_from,
    destination_of,
    names_of,
    room_in,
    size_of,
)
from spakky.tracing.error import WrongUseError

try:
    from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractIncomingMessage, AbstractQueue
    from aiormq.abc import DeliveredMessage
    from wrapt import ObjectProxy
except ModuleNotFoundError as error:
    raise_missing_extra("aio-pika", {"aio_pika", "wrapt"}, error)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator
    from types import TracebackType
    from typing import Unpack

    from aio_pika.abc import AbstractMessage, HeadersType


__all__ = [
    "batch_consumer",
    "configure",
    "consumer",
    "context_from",
    "headers",
    "iterate",
    "process",
    "process_batch",
    "retry_headers",
    "unwrap",
    "wrap",
]

WrappedT = TypeVar("WrappedT", bound=AbstractExchange | AbstractQueue | AbstractChannel)


_CLIENT: Final[Client[AbstractIncomingMessage, HeadersType]] = Client(
    system="rabbitmq",
    carrier=CARRIER,
    message_type=AbstractIncomingMessage,
    headers=lambda message: message.headers,
    destination=lambda message: destination_of(message.exchange, message.routing_key),
    name=lambda message: f"process {destination_of(message.exchange, message.routing_key)}",
    names=lambda message: names_of(message.exchange, message.routing_key),
    delivery=lambda message: delivery_from(
        message.headers, is_redelivered=message.redelivered, timestamp=message.timestamp
    ),
    attributes=lambda message: attributes_from(
        routing_key=message.routing_key, delivery_tag=message.delivery_tag, message_id=message.message_id
    ),
    of_a_delivery=frozenset({"x-delivery-count"}),
    size=size_of,
    room=room_in(DEFAULT_FRAME_SIZE),
)
_VERBS: Final = Verbs(_CLIENT)

configure = _VERBS.configure
headers = _VERBS.headers
retry_headers = _VERBS.retry_headers
consumer = _VERBS.consumer
batch_consumer = _VERBS.batch_consumer
iterate = _VERBS.iterate
process = _VERBS.process
process_batch = _VERBS.process_batch
context_from = _VERBS.context_from


def wrap(target: WrappedT, **options: Unpack[Options]) -> WrappedT:
    """Return an exchange, queue or channel that carries the current context; *target* itself stays as it is.

    An exchange carries it in what it publishes; a message that the broker returns is recorded as rejected. A
    queue runs the callbacks that it is given by `consume` in the context of their messages. A channel gives
    out such exchanges and queues, so that what is built upon it (`aio_pika.patterns.RPC`, `Master`) is
    covered on both sides. Everything else is *target*'s own. Wrapping what is wrapped replaces its options.

    Args:
        target: An exchange, queue or channel, robust or not.
        **options: See `Options`.

    Raises:
        WrongUseError: This is none of them, or an option is not known.
    """
    settings = _VERBS.settings(Options, options)
    bare: object = unwrap(target)
    for kind, wrapper in _WRAPPERS:
        if isinstance(bare, kind):
            return cast("WrappedT", wrapper(bare, settings))
    message = f"wrap() takes an exchange, a queue or a channel of aio-pika, got {type(target).__name__}"
    raise WrongUseError(message)


def unwrap(target: WrappedT) -> WrappedT:
    """Return what was given to `wrap`, or *target* itself if it is not wrapped."""
    wrapped: object = target
    if isinstance(wrapped, (_Exchange, _Queue, _Channel)):
        return cast("WrappedT", wrapped.__wrapped__)
    return target


class _Exchange(ObjectProxy):  # type: ignore[type-arg] # wrapt 2.1 cannot be subscripted
    """An exchange whose messages carry the current context."""

    def __init__(self, exchange: AbstractExchange, settings: Settings) -> None:
        super().__init__(exchange)
        self._self_sender = Sender(_CLIENT, settings)

    async def publish(
        self, message: AbstractMessage, routing_key: str, *arguments: Any, **options: Any
    ) -> Any:
        exchange: AbstractExchange = self.__wrapped__
        destination, names = destination_of(exchange.name, routing_key), names_of(exchange.name, routing_key)
        room = await _room(exchange) if self._self_sender.writes_to(destination, names) else None
        with self._self_sender.publish(message.headers, destination, names=names, room=room) as publishing:
            headers = publishing.headers
            sent = message if headers is message.headers else _Message(message, headers)
            result = await exchange.publish(cast("AbstractMessage", sent), routing_key, *arguments, **options)
            if isinstance(result, DeliveredMessage):  # the broker found no queue for it
                publishing.end_as("rejected")
            return result


class _Message(ObjectProxy):  # type: ignore[type-arg] # wrapt 2.1 cannot be subscripted
    """A message with other headers: its sender may share it, and a received one is locked."""

    headers: HeadersType | None = None

    def __init__(self, message: AbstractMessage, headers: HeadersType) -> None:
        super().__init__(message)
        self.headers = headers

    @property
    def properties(self) -> Any:
        properties = copy.copy(self.__wrapped__.properties)
        properties.headers = self.headers
        return properties

    def __copy__(self) -> AbstractMessage:
        copied = copy.copy(self.__wrapped__)
        copied.headers = self.headers
        return cast("AbstractMessage", copied)


class _Queue(ObjectProxy):  # type: ignore[type-arg] # wrapt 2.1 cannot be subscripted
    """A queue whose callbacks run in the context of their messages."""

    def __init__(self, queue: AbstractQueue, settings: Settings) -> None:
        super().__init__(queue)
        self._self_receiver = Receiver(_CLIENT, settings, queue.name)

    async def consume(self, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        handler = handles_message(self._self_receiver, callback, replaces=False)
        return await self.__wrapped__.consume(handler, *args, **kwargs)

    def __aiter__(self) -> AsyncIterator[AbstractIncomingMessage]:
        messages: AsyncIterator[AbstractIncomingMessage] = aiter(self.__wrapped__)
        return messages


class _Channel(ObjectProxy):  # type: ignore[type-arg] # wrapt 2.1 cannot be subscripted
    """A channel that gives out exchanges and queues that carry the context."""

    def __init__(self, channel: AbstractChannel, settings: Settings) -> None:
        super().__init__(channel)
        self._self_settings = settings

    @property
    def default_exchange(self) -> AbstractExchange:
        return cast("AbstractExchange", _Exchange(self.__wrapped__.default_exchange, self._self_settings))

    async def declare_exchange(self, *args: Any, **kwargs: Any) -> AbstractExchange:
        exchange = await self.__wrapped__.declare_exchange(*args, **kwargs)
        return cast("AbstractExchange", _Exchange(exchange, self._self_settings))

    async def get_exchange(self, *args: Any, **kwargs: Any) -> AbstractExchange:
        exchange = await self.__wrapped__.get_exchange(*args, **kwargs)
        return cast("AbstractExchange", _Exchange(exchange, self._self_settings))

    async def declare_queue(self, *args: Any, **kwargs: Any) -> AbstractQueue:
        queue = await self.__wrapped__.declare_queue(*args, **kwargs)
        return cast("AbstractQueue", _Queue(queue, self._self_settings))

    async def get_queue(self, *args: Any, **kwargs: Any) -> AbstractQueue:
        queue = await self.__wrapped__.get_queue(*args, **kwargs)
        return cast("AbstractQueue", _Queue(queue, self._self_settings))

    def __await__(self) -> Generator[Any, Any, Self]:
        yield from self.__wrapped__.__await__()
        return self

    async def __aenter__(self) -> Self:
        await self.__wrapped__.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.__wrapped__.__aexit__(kind, error, trace)


_WRAPPERS: Final[tuple[tuple[type[Any], Callable[[Any, Settings], object]], ...]] = (
    (AbstractExchange, _Exchange),
    (AbstractQueue, _Queue),
    (AbstractChannel, _Channel),
)


async def _room(exchange: AbstractExchange) -> int | None:
    """Return the room for headers in a frame of the exchange's connection, `None` if that is not known.

    A channel that is closed is not asked: where it waits to be open again, publishing raises at once.
    """
    channel: AbstractChannel | None = getattr(exchange, "channel", None)
    if channel is None or channel.is_closed:
        return None
    try:
        underlay = await channel.get_underlay_channel()
        return room_in(underlay.connection.connection_tune.frame_max)
    except Exception:  # noqa: BLE001 - it is closed since; publishing says so
        return None
