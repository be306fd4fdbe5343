"""kombu: wrap the producer, decorate the callback or wrap the consumer, or iterate over messages.

Usage:

    producer = kombu.wrap(Producer(connection))
    producer.publish({"order": 1}, routing_key="orders")

    @kombu.consumer
    def handle(body: object, message: Message) -> None: ...

    with Consumer(connection, queues=[queue], callbacks=[handle]): ...

    for body, message in kombu.iterate(itermessages(connection, channel, queue)): ...

A message is a `kombu.Message` of any transport, from a callback, `Queue.get` or `SimpleQueue.get`, or the
pair of body and message that `itermessages` yields; headers are a dict.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from inspect import signature
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeAlias, TypeVar, cast

from spakky.tracing._extras import raise_missing_extra
from spakky.tracing.boundaries.client import Client
from spakky.tracing.boundaries.handler import handles_message
from spakky.tracing.boundaries.options import Options
from spakky.tracing.boundaries.process import Receiver
from spakky.tracing.boundaries.publish import Publishing, Sender
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
    from kombu.message import Message
    from kombu.messaging import Consumer, Producer
    from wrapt import ObjectProxy
except ModuleNotFoundError as error:
    raise_missing_extra("kombu", {"kombu", "wrapt"}, error)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Protocol, Unpack

    from kombu.connection import Connection

    from spakky.tracing.boundaries.iteration import Iteration
    from spakky.tracing.boundaries.options import ReceiveOptions, Settings
    from spakky.tracing.carriers import Delivery

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

WrappedT = TypeVar("WrappedT", bound=Producer | Consumer)
_Received: TypeAlias = Message | tuple[Any, Message]
_Headers: TypeAlias = dict[str, Any]
_ReceivedT = TypeVar("_ReceivedT", bound=_Received)

if TYPE_CHECKING:

    class _Iterate(Protocol):
        """Messages or pairs: what comes out is of the type that goes in."""

        def __call__(
            self, source: Iterable[_ReceivedT], **options: Unpack[ReceiveOptions]
        ) -> Iteration[_ReceivedT]: ...


_BODY_AND_MESSAGE: Final = 2

# The header of kombu that names how a body is compressed.
_COMPRESSION: Final = "compression"

_AMQP: Final = "amqp"
_RABBITMQ: Final = "rabbitmq"

# Types of transports that OpenTelemetry's conventions have other names for; a few transports say no type.
_SYSTEMS: Final = {_AMQP: _RABBITMQ, "gcpubsub": "gcp_pubsub", "sqs": "aws_sqs", "N/A": "kombu"}

# Besides what any client puts into a frame, kombu adds the header `compression` and passes `cluster_id` on.
_OWN_SIZE: Final = 64 + 256
_ROOM: Final = room_in(DEFAULT_FRAME_SIZE) - _OWN_SIZE

_POSITIONS: Final = {
    name: position for position, name in enumerate(signature(Producer.publish).parameters, -1)
}


def _is_message(received: object) -> bool:
    if isinstance(received, tuple) and len(received) == _BODY_AND_MESSAGE:
        received = received[1]
    return isinstance(received, Message)


def _message(received: _Received) -> Message:
    return received[1] if isinstance(received, tuple) else received


def _headers_in(received: _Received) -> Mapping[str, Any]:
    """Return the headers without kombu's own, by which it has decompressed the body on receipt.

    Sent on with them, the body would be decompressed again. Where that failed, both are as they came.
    """
    message = _message(received)
    if message.errors or _COMPRESSION not in message.headers:
        return message.headers
    return {name: value for name, value in message.headers.items() if name != _COMPRESSION}


def _route(received: _Received) -> tuple[str, str]:
    """Return exchange and routing key, which some transports have from a foreign sender."""
    info = _delivery_info(received)
    exchange, routing_key = info.get("exchange"), info.get("routing_key")
    return exchange if isinstance(exchange, str) else "", routing_key if isinstance(routing_key, str) else ""


def _delivery_info(received: _Received) -> Mapping[str, Any]:
    info = _message(received).delivery_info
    return info if isinstance(info, Mapping) else {}


def _delivery(received: _Received) -> Delivery:
    message = _message(received)
    redelivered = _delivery_info(message).get("redelivered")
    return delivery_from(
        message.headers,
        is_redelivered=None if redelivered is None else bool(redelivered),
        timestamp=message.properties.get("timestamp"),
    )


def _attributes(received: _Received) -> dict[str, str | int]:
    message = _message(received)
    return attributes_from(
        routing_key=_route(received)[1],
        delivery_tag=message.delivery_tag,
        message_id=message.properties.get("message_id"),
    )


def _system_of(received: _Received) -> str:
    channel = _message(received).channel
    return _system_behind(getattr(getattr(channel, "connection", None), "client", None))


def _system_behind(connection: Connection | None) -> str:
    """Return the system that a *connection* leads to; a channel that was closed has none."""
    if connection is None:
        return _RABBITMQ
    driver_type = str(connection.transport.driver_type)
    return _SYSTEMS.get(driver_type, driver_type)


_CLIENT: Final[Client[_Received, _Headers]] = Client(
    system=_RABBITMQ,
    message_system=_system_of,
    carrier=CARRIER,
    message_type=Message,
    is_message=_is_message,
    headers=_headers_in,
    destination=lambda received: destination_of(*_route(received)),
    name=lambda received: f"process {destination_of(*_route(received))}",
    names=lambda received: names_of(*_route(received)),
    delivery=_delivery,
    attributes=_attributes,
    of_a_delivery=frozenset({"x-delivery-count"}),
    size=size_of,
    room=_ROOM,
)
_VERBS: Final = Verbs(_CLIENT)

configure = _VERBS.configure
headers = _VERBS.headers
retry_headers = _VERBS.retry_headers
consumer = _VERBS.consumer
batch_consumer = _VERBS.batch_consumer
iterate = cast("_Iterate", _VERBS.iterate)
process = _VERBS.process
process_batch = _VERBS.process_batch
context_from = _VERBS.context_from


def wrap(target: WrappedT, **options: Unpack[Options]) -> WrappedT:
    """Return a producer or consumer that carries the current context; *target* itself stays as it is.

    A producer carries it in what it publishes, however often that is retried; one from a pool is wrapped each
    time that it is acquired, and that of a `SimpleQueue` may be replaced by a wrapped one. A consumer runs
    its callbacks or its `on_message` in the contexts of their messages; it is wrapped before it consumes.
    A callback that is registered with the wrapped consumer is registered with *target* too, undecorated, so
    that `unwrap` loses none. Everything else is *target*'s own. Wrapping what is wrapped replaces its
    options, but not those that a callback was decorated with.

    Args:
        target: A producer or a consumer, on any transport.
        **options: See `Options`.

    Raises:
        WrongUseError: This is neither, the consumer consumes already or is behind a proxy of somebody else's,
            or an option is not known.
    """
    settings = _VERBS.settings(Options, options)
    bare: object = unwrap(target)
    if isinstance(bare, Producer):
        return cast("WrappedT", _Producer(bare, settings))
    if isinstance(bare, Consumer):
        return cast("WrappedT", _Consumer(bare, settings))
    message = f"wrap() takes a Producer or a Consumer of kombu, got {type(target).__name__}"
    raise WrongUseError(message)


def unwrap(target: WrappedT) -> WrappedT:
    """Return what was given to `wrap`, or *target* itself if it is not wrapped.

    A consumer has also the callbacks that were registered with the wrapped one.
    """
    wrapped: object = target
    if isinstance(wrapped, _Producer):
        return cast("WrappedT", wrapped.__wrapped__)
    return cast("WrappedT", wrapped.bare) if isinstance(wrapped, _Consumer) else target


class _Producer(ObjectProxy):  # type: ignore[type-arg] # wrapt 2.1 cannot be subscripted
    """A producer whose messages carry the current context."""

    def __init__(self, producer: Producer, settings: Settings) -> None:
        super().__init__(producer)
        self._self_settings = settings

    def publish(self, *arguments: Any, **named: Any) -> Any:
        call = _Call(arguments, named)
        with self._publishing(call) as publishing:
            call = call.with_headers(publishing.headers)
            return self.__wrapped__.publish(*call.arguments, **call.named)

    def _publishing(self, call: _Call) -> Publishing[_Headers]:
        """Return the sending; the connection is asked only where something is written."""
        existing, route = call.get("headers"), call.route(self.__wrapped__)
        destination, names = destination_of(*route), names_of(*route)
        if not Sender(_CLIENT, self._self_settings).writes_to(destination, names):
            return Publishing(existing)
        broker = _broker_of(self.__wrapped__)
        sender = Sender(_client(broker.system), self._self_settings)
        return sender.publish(existing, destination, names=names, room=broker.room)

    def __enter__(self) -> Self:
        self.__wrapped__.__enter__()
        return self


class _Call(NamedTuple):
    """A call of `publish`, spelled as its caller did."""

    arguments: tuple[Any, ...]
    named: dict[str, Any]

    def get(self, name: str) -> Any:
        """Return an argument, `None` if it is not given."""
        position = _POSITIONS[name]
        return self.arguments[position] if position < len(self.arguments) else self.named.get(name)

    def with_headers(self, headers: _Headers) -> _Call:
        """Return the call with other *headers*, as it is if they are its own."""
        if headers is self.get("headers"):
            return self
        position = _POSITIONS["headers"]
        if position < len(self.arguments):
            return _Call((*self.arguments[:position], headers, *self.arguments[position + 1 :]), self.named)
        return _Call(self.arguments, {**self.named, "headers": headers})

    def route(self, producer: Producer) -> tuple[str, str]:
        """Return exchange and routing key, those of *producer* unless given."""
        exchange, routing_key = self.get("exchange") or producer.exchange, self.get("routing_key")
        name = exchange if isinstance(exchange, str) else getattr(exchange, "name", "")
        return name, str(producer.routing_key if routing_key is None else routing_key)


@cache
def _client(system: str) -> Client[_Received, _Headers]:
    """Return the description for messages that are sent to a *system*."""
    return replace(_CLIENT, system=system)


class _Broker(NamedTuple):
    """What a producer sends to: the system, and how many bytes it takes for headers."""

    system: str
    room: int


def _broker_of(producer: Producer) -> _Broker:
    try:
        connection: Any = producer.connection
        return _Broker(_system_behind(connection), _room(connection))
    except Exception:  # noqa: BLE001 - publishing itself says what is wrong with the connection
        return _Broker(_RABBITMQ, _ROOM)


def _room(connection: Connection) -> int:
    """Return the room for headers in a frame, which only AMQP has; that of RabbitMQ until it is connected."""
    if connection.transport.driver_type != _AMQP:
        return sys.maxsize
    link: Any = connection.connection if connection.connected else None
    return _ROOM if link is None else room_in(link.frame_max) - _OWN_SIZE


class _Consumer(ObjectProxy):  # type: ignore[type-arg] # wrapt 2.1 cannot be subscripted
    """A consumer whose callbacks run in the contexts of their messages.

    kombu calls the callbacks of the consumer itself, so what is wrapped is a copy with other callbacks. It
    shares queues and tags with the one that it was made of, which stays as it is.
    """

    def __init__(self, consumer: Consumer, settings: Settings) -> None:
        self._check(consumer)
        receiver = Receiver(_CLIENT, settings)
        copied: Any = copy.copy(consumer)
        copied.callbacks = [handles_message(receiver, each, replaces=False) for each in copied.callbacks]
        if consumer.on_message is not None:
            copied.on_message = handles_message(receiver, consumer.on_message, replaces=False)
        super().__init__(copied)
        self._self_bare = consumer
        self._self_receiver = receiver

    @staticmethod
    def _check(consumer: Any) -> None:
        if not issubclass(type(consumer), Consumer):
            message = (
                "wrap() cannot copy a Consumer behind a proxy: wrap the Consumer itself, or decorate its "
                f"callbacks, got {type(consumer).__name__}"
            )
            raise WrongUseError(message)
        if any(map(consumer.consuming_from, consumer.queues)):
            message = "this Consumer consumes already: wrap it before that, or decorate its callbacks"
            raise WrongUseError(message)

    @property
    def bare(self) -> Consumer:
        return self._self_bare

    def register_callback(self, callback: Callable[..., Any]) -> None:
        decorated = handles_message(self._self_receiver, callback, replaces=False)
        self.__wrapped__.register_callback(decorated)
        self.bare.callbacks = list(self.bare.callbacks or ())  # kombu would add to the list that it was given
        self.bare.register_callback(callback)

    def __enter__(self) -> Self:
        self.__wrapped__.__enter__()
        return self
