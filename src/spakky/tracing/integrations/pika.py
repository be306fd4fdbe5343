"""pika: wrap the channel, decorate the callback or iterate over the queue.

Usage:

    channel = pika.wrap(connection.channel())
    channel.basic_publish("", "orders", b"...")
    channel.basic_consume("orders", handle)

    @pika.consumer  # needed only if the channel is not wrapped
    def handle(channel, method, properties, body): ...

    for method, properties, body in pika.iterate(channel.consume("orders")): ...

    with pika.process(channel.basic_get("orders")): ...

A message is the triple `(method, properties, body)` that pika hands out; a callback gets three arguments.
`(None, None, None)`, which stands for none, has no context. Headers are a dict.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias, TypeVar, cast

from spakky.tracing._extras import raise_missing_extra
from spakky.tracing.boundaries.client import Client
from spakky.tracing.boundaries.handler import handles_message
from spakky.tracing.boundaries.options import Options, Settings
from spakky.tracing.boundaries.process import Receiver
from spakky.tracing.boundaries.publish import Sender
from spakky.tracing.boundaries.verbs import Verbs
from spakky.tracing.carriers import UNKNOWN, Delivery
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
    from pika.adapters.blocking_connection import BlockingChannel
    from pika.channel import Channel
    from pika.spec import Basic, BasicProperties
    from wrapt import ObjectProxy
except ModuleNotFoundError as error:
    raise_missing_extra("pika", {"pika", "wrapt"}, error)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Unpack

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

ChannelT = TypeVar("ChannelT", bound=BlockingChannel | Channel)
_Message: TypeAlias = tuple[Basic.Deliver | Basic.GetOk | None, BasicProperties | None, bytes | None]

_SIZE: Final = 3


def _is_message(value: object) -> bool:
    """Return whether this is a message, or what pika hands out where there is none."""
    if not isinstance(value, tuple) or len(value) != _SIZE:
        return False
    method, properties, body = value
    if method is None:
        return properties is None and body is None
    return isinstance(method, (Basic.Deliver, Basic.GetOk)) and isinstance(properties, BasicProperties)


def _message_among(arguments: Sequence[object]) -> _Message | None:
    """Return the message among the arguments of a handler: a triple, or its parts in any order."""
    triple = next((each for each in arguments if _is_message(each)), None)
    if triple is not None:
        return cast("_Message", triple)
    method = next((each for each in arguments if isinstance(each, (Basic.Deliver, Basic.GetOk))), None)
    properties = next((each for each in arguments if isinstance(each, BasicProperties)), None)
    if method is None or properties is None:
        return (None, None, None) if sum(each is None for each in arguments) >= _SIZE else None
    body = next((each for each in reversed(arguments) if isinstance(each, bytes)), None)
    return method, properties, body


def _way_of(message: _Message) -> tuple[Any, Any]:
    """Return exchange and routing key."""
    method, _, _ = message
    return (None, None) if method is None else (method.exchange, method.routing_key)


def _headers_of(message: _Message) -> object:
    _, properties, _ = message
    return None if properties is None else properties.headers


def _delivery_of(message: _Message) -> Delivery:
    method, properties, _ = message
    if method is None or properties is None:
        return UNKNOWN
    return delivery_from(
        properties.headers, is_redelivered=method.redelivered, timestamp=properties.timestamp
    )


def _attributes_of(message: _Message) -> dict[str, str | int]:
    method, properties, _ = message
    if method is None or properties is None:
        return {}
    return attributes_from(
        routing_key=method.routing_key,
        delivery_tag=method.delivery_tag,
        message_id=properties.message_id,
    )


_CLIENT: Final[Client[_Message, dict[str, Any]]] = Client(
    system="rabbitmq",
    carrier=CARRIER,
    message_type=tuple,
    message_name="(method, properties, body)",
    is_message=_is_message,
    among=_message_among,
    headers=_headers_of,
    destination=lambda message: destination_of(*_way_of(message)),
    name=lambda message: f"process {destination_of(*_way_of(message))}",
    names=lambda message: names_of(*_way_of(message)),
    delivery=_delivery_of,
    attributes=_attributes_of,
    is_record=lambda message: message[0] is not None,
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


def wrap(channel: ChannelT, **options: Unpack[Options]) -> ChannelT:
    """Return a channel that carries the current context; *channel* itself stays as it is.

    It carries it in what it publishes, and runs the callbacks that it is given by `basic_consume` (and by the
    `basic_get` of a `Channel`) in the context of their messages. A callback gets the wrapped channel, so that
    what it publishes by that, such as a reply, carries the context too. Everything else is *channel*'s own.
    Wrapping what is wrapped replaces its options.

    Args:
        channel: A `BlockingChannel`, or the `Channel` of any other connection.
        **options: See `Options`.

    Raises:
        WrongUseError: This is neither, or an option is not known.
    """
    settings = _VERBS.settings(Options, options)
    bare: object = unwrap(channel)
    if isinstance(bare, BlockingChannel):
        return cast("ChannelT", _BlockingChannel(bare, settings))
    if isinstance(bare, Channel):
        return cast("ChannelT", _CallbackChannel(bare, settings))
    message = f"wrap() takes a BlockingChannel or a Channel of pika, got {type(channel).__name__}"
    raise WrongUseError(message)


def unwrap(channel: ChannelT) -> ChannelT:
    """Return the channel that was given to `wrap`, or *channel* itself if it is not wrapped."""
    target: object = channel
    return cast("ChannelT", target.__wrapped__) if isinstance(target, _Channel) else channel


class _Channel(ObjectProxy):  # type: ignore[type-arg] # wrapt 2.1 cannot be subscripted
    """A channel whose messages carry the current context, and whose callbacks run in that of theirs."""

    def __init__(self, channel: BlockingChannel | Channel, settings: Settings) -> None:
        super().__init__(channel)
        self._self_sender = Sender(_CLIENT, settings)
        self._self_receiver = Receiver(_CLIENT, settings)

    def basic_publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        properties: BasicProperties | None = None,
        mandatory: bool = False,  # noqa: FBT001, FBT002 - as pika has it
    ) -> None:
        existing = getattr(properties, "headers", None)
        with self._self_sender.publish(
            existing,
            destination_of(exchange, routing_key),
            names=names_of(exchange, routing_key),
            room=self._room(),
        ) as publishing:
            if publishing.headers is not existing:
                properties = _with_headers(properties, publishing.headers)
            self.__wrapped__.basic_publish(exchange, routing_key, body, properties, mandatory)

    def basic_consume(
        self, queue: str, on_message_callback: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> str:
        callback = self._callback(queue, on_message_callback)
        return cast("str", self.__wrapped__.basic_consume(queue, callback, *args, **kwargs))

    def _callback(self, queue: str, callback: Callable[..., Any]) -> Callable[..., Any]:
        """Return *callback*, in the context of its message and given this channel instead of the bare one."""
        handler = handles_message(self._self_receiver.of(queue), callback, replaces=False)
        return lambda _, *message: handler(self, *message)

    def _room(self) -> int | None:
        """Return the room for headers in a frame of the channel's connection, `None` if that is not known."""
        return None


class _BlockingChannel(_Channel):
    """A channel of a `BlockingConnection`, which does not say the size of its frames."""

    def __enter__(self) -> Self:
        self.__wrapped__.__enter__()
        return self


class _CallbackChannel(_Channel):
    """A channel of a connection that lives by callbacks, such as `SelectConnection`."""

    def basic_get(self, queue: str, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self.__wrapped__.basic_get(queue, self._callback(queue, callback), *args, **kwargs)

    def _room(self) -> int:
        return room_in(self.__wrapped__.connection.params.frame_max)


def _with_headers(properties: BasicProperties | None, headers: dict[str, Any]) -> BasicProperties:
    """Return a copy of *properties*: their owner may share them."""
    copied = copy.copy(properties or BasicProperties())
    copied.headers = headers
    return copied
