"""FastStream: give the broker one middleware.

Usage:

    broker = KafkaBroker(..., middlewares=[faststream.TraceMiddleware()])
    broker = RabbitBroker(..., middlewares=[faststream.TraceMiddleware()])

    async for message in subscriber:
        with faststream.process(message): ...

Subscribers run in the context of their messages, and all that is published carries the current context: by
the broker, by publishers, as a returned value or a reply, in batches and requests. A message is a
`StreamMessage`, or one of the client's own records beneath it (`message.raw_message`), of which a batch has
several; headers are a dict. Facts:

- FastStream makes one dict of text of a Kafka record's headers. Here they are read from the record itself,
  which has repeated ones and all bytes, also where a `parser=` of the user makes another message of it.
- A Kafka record with a header that is null or not UTF-8 reaches no handler: FastStream's parser raises,
  that is logged, and the next record comes (0.7.8). It is recorded as failed; a `parser=` of the user can
  save it. So it is with a name that is not UTF-8, which confluent-kafka loses (see `carriers.kafka`): what
  is left of the headers is read.
- What `get_one()`, `async for` and `request()` hand out is processed where no middleware is around it.
  Nothing is made current there but by `process`; `context_from` tells what such a message carries.
- A returned value is published when the handler is over, and so is any scope that was opened in there.
- An `aio_pika.Message` is published as it is, without headers that are given along; so its own are
  replaced.
- FastStream logs the end and the error of a message after its middlewares, so outside of the context.
"""

from __future__ import annotations

import copy
from asyncio import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from spakky.tracing._extras import raise_missing_extra
from spakky.tracing.boundaries.client import Client
from spakky.tracing.boundaries.options import Options, ReceiveOptions, Settings
from spakky.tracing.boundaries.outcome import outcome_of
from spakky.tracing.boundaries.process import Receiver
from spakky.tracing.boundaries.publish import Sender
from spakky.tracing.carriers import amqp, kafka, mapping
from spakky.tracing.context import TraceContext

try:
    from faststream import BaseMiddleware, PublishCommand, StreamMessage
    from faststream.exceptions import AckMessage, IgnoredException, NackMessage, RejectMessage
except ModuleNotFoundError as error:
    raise_missing_extra("faststream", {"faststream"}, error)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from types import TracebackType
    from typing import Unpack

    from faststream import ContextRepo

    from spakky.tracing.boundaries.process import Processing
    from spakky.tracing.tracer import Outcome

__all__ = ["TraceMiddleware", "context_from", "process"]

_MARK: Final = "spakky_tracing_mark"  # on a message and on a command that a middleware of ours has taken

# Of aiokafka, FastStream and librdkafka, by name: only some of the clients are installed.
_TOO_LARGE: Final = frozenset(
    {"MessageSizeTooLargeError", "BatchBufferOverflowException", "MSG_SIZE_TOO_LARGE"}
)

_OUTCOMES: Final[tuple[tuple[type[BaseException], Outcome], ...]] = (
    (AckMessage, "ok"),
    (NackMessage, "retry"),
    (RejectMessage, "rejected"),
    (IgnoredException, "ignored"),
)


def _record(message: Any) -> Any:
    """Return the client's own record of a message; a tuple or a list of them for a batch."""
    return message.raw_message if isinstance(message, StreamMessage) else message


def _is_batch(message: object) -> bool:
    return isinstance(_record(message), (list, tuple))


def _is_of_kafka(message: object) -> bool:
    record = _record(message)
    return hasattr(record, "topic") and hasattr(record, "partition")


def _is_of_rabbitmq(message: object) -> bool:
    return hasattr(_record(message), "routing_key")


def _field(message: object, name: str) -> Any:
    """Return a field of a Kafka record; confluent-kafka's has a method for each."""
    field = getattr(_record(message), name)
    return field() if callable(field) else field


def _headers_of_kafka(message: object) -> object:
    """Return the headers of a Kafka record, and take those out of it whose name confluent-kafka has lost."""
    try:
        headers = _field(message, "headers")
    except SystemError:  # only the first time
        headers = _field(message, "headers")
    readable = kafka.without_holes(headers)
    if readable is not headers:
        _record(message).set_headers(readable)
    return readable


def _timestamp(message: object) -> int | None:
    """Return the timestamp of a Kafka record in milliseconds; confluent-kafka's is a pair with its kind."""
    timestamp: int | tuple[int, int] | None = _field(message, "timestamp")
    return timestamp[1] if isinstance(timestamp, tuple) else timestamp


_KAFKA: Final[Client[Any, Any]] = Client(
    system="kafka",
    carrier=kafka.CARRIER,
    message_type=StreamMessage,
    is_message=_is_of_kafka,
    headers=_headers_of_kafka,
    destination=lambda message: _field(message, "topic"),
    name=lambda message: f"process {_field(message, 'topic')}",
    delivery=lambda message: kafka.delivery_from(_headers_of_kafka(message), _timestamp(message)),
)
_RABBITMQ: Final[Client[Any, Any]] = Client(
    system="rabbitmq",
    carrier=amqp.CARRIER,
    message_type=StreamMessage,
    is_message=_is_of_rabbitmq,
    headers=lambda message: _record(message).headers,
    destination=lambda message: amqp.destination_of(*_address(message)),
    name=lambda message: f"process {amqp.destination_of(*_address(message))}",
    names=lambda message: amqp.names_of(*_address(message)),
    delivery=lambda message: amqp.delivery_from(
        _record(message).headers,
        is_redelivered=_record(message).redelivered,
        timestamp=_record(message).timestamp,
    ),
    size=amqp.size_of,
    room=amqp.room_in(amqp.DEFAULT_FRAME_SIZE),
)
# A message that was made by hand, as in a test, has only what FastStream itself makes of headers.
_OTHER: Final[Client[StreamMessage[Any], Any]] = Client(
    system="",
    carrier=mapping.CARRIER,
    message_type=StreamMessage,
    headers=lambda message: message.headers,
    destination=lambda _: "",
    name=lambda _: "",
)
# What FastStream sends to Kafka has a dict of text for headers.
_KAFKA_COMMANDS: Final[Client[Any, Any]] = Client(
    system="kafka",
    carrier=mapping.CARRIER,
    message_type=PublishCommand,
    headers=lambda command: command.headers,
    destination=lambda command: command.destination,
    name=lambda command: f"send {command.destination}",
)


def _address(message: object) -> tuple[str | None, str | None]:
    """Return exchange and routing key of a message of RabbitMQ."""
    record = _record(message)
    return record.exchange, record.routing_key


def context_from(message: Any, **options: Unpack[ReceiveOptions]) -> TraceContext | None:
    """Return the context that *message* carries, `None` if there is none that can be used.

    Args:
        message: A `StreamMessage`, or a record of the client beneath it; nothing is made current. A batch
            carries none itself, its records (`message.raw_message`) do: they may have several senders.
        **options: See `ReceiveOptions`.

    Raises:
        WrongUseError: This is no such message or record, or an option is not known.
    """
    settings = Settings(ReceiveOptions, options)
    if isinstance(message, StreamMessage) and _is_batch(message):
        return None
    return Receiver(_client_of(message) or _OTHER, settings).context_from(message)


def process(message: Any, **options: Unpack[ReceiveOptions]) -> Processing[Any]:
    """Return a `with` block in which the context of *message* is current, where no handler is called with it.

    Args:
        message: What `get_one()`, `async for` or `request()` hands out, or one record of a batch.
        **options: See `ReceiveOptions`.

    Raises:
        WrongUseError: This is no such message or record, or an option is not known.
    """
    return _processing_of(message, Settings(ReceiveOptions, options))


def _processing_of(message: Any, settings: Settings) -> Processing[Any]:
    """Return the processing of *message*, be it a batch or not.

    Raises:
        WrongUseError: This is no message that FastStream hands out.
    """
    receiver = Receiver(_client_of(message) or _OTHER, settings)
    return receiver.process_batch(_record(message)) if _is_batch(message) else receiver.process(message)


class TraceMiddleware:
    """A middleware for brokers and routers: what is consumed and published keeps its trace.

    It serves FastStream's brokers for Kafka (both of them) and RabbitMQ; messages of others pass through. Of
    several that a message passes, the outermost that is switched on for it counts; the broker's is around a
    router's. The first in the list of middlewares sees what all others do. A record that FastStream's parser
    refuses passes none of them, and each records it as failed.

    Publishing by the broker itself passes the middlewares of the broker only. A function that is given as
    `relation=` is called with the `StreamMessage`, or with each record of a batch.
    """

    def __init__(self, **options: Unpack[Options]) -> None:
        """Choose the options.

        Args:
            **options: See `Options`.

        Raises:
            WrongUseError: An option is not known.
        """
        self._settings = Settings(Options, options)

    def __call__(self, msg: Any | None, /, *, context: ContextRepo) -> BaseMiddleware[Any, Any]:
        """Return what one message passes, or one publishing; FastStream calls it."""
        return _Passage(msg, context=context, settings=self._settings)


class _Passage(BaseMiddleware[PublishCommand, Any]):
    """One message on its way to a handler and back, or one publishing."""

    __slots__ = ("_error", "_has_taken", "_processing", "_settings", "_was_parsed")

    def __init__(self, message: Any | None, /, *, context: ContextRepo, settings: Settings) -> None:
        super().__init__(message, context=context)
        self._settings = settings
        self._processing: Processing[Any] | None = None
        self._error: BaseException | None = None
        self._has_taken = False
        self._was_parsed = False

    async def consume_scope(
        self, call_next: Callable[[StreamMessage[Any]], Awaitable[Any]], msg: StreamMessage[Any]
    ) -> Any:
        self._end(self._error)  # a middleware around this one tries again
        self._was_parsed = True
        if not self._takes(msg):
            return await call_next(msg)
        self._processing = _opened(msg, self._settings)
        if self._processing is not None:
            self._has_taken = True
            setattr(msg, _MARK, True)
        with self._in_context():
            try:
                return await call_next(msg)
            except BaseException as error:
                self._error = error
                raise

    async def publish_scope(
        self, call_next: Callable[[PublishCommand], Awaitable[Any]], cmd: PublishCommand
    ) -> Any:
        with self._in_context():
            return await _publish(self._settings, call_next, cmd)

    async def after_processed(
        self,
        exc_type: type[BaseException] | None = None,
        exc_val: BaseException | None = None,
        exc_tb: TracebackType | None = None,
    ) -> bool:
        del exc_type, exc_tb
        if exc_val is not None and not self._was_parsed:
            self._processing = _opened(self.msg, self._settings)
        self._end(self._error or exc_val)
        return False

    def _takes(self, message: StreamMessage[Any]) -> bool:
        """Tell whether *message* is for a handler, and no middleware of ours around this one has taken it."""
        handled: StreamMessage[Any] | None = self.context.get_local("message")
        if handled is None or handled.raw_message is not message.raw_message:
            return False
        return self._has_taken or not hasattr(message, _MARK)

    @contextmanager
    def _in_context(self) -> Iterator[None]:
        """Make the context of the message current, as it was left, where there is one."""
        if self._processing is None:
            yield
            return
        with self._processing as processing:
            try:
                yield
            finally:
                processing.pause()

    def _end(self, error: BaseException | None) -> None:
        processing, self._processing, self._error = self._processing, None, None
        if processing is not None:
            processing.close(*_ending(error))


def _opened(message: Any, settings: Settings) -> Processing[Any] | None:
    """Return the processing of *message*, paused; `None` if it is switched off or the broker is another."""
    if _client_of(message) is None:
        return None
    processing = _processing_of(message, settings)
    with TraceContext.use(None):  # what is current is from when FastStream was started, and no sender's
        processing.open()
        processing.pause()
    return processing if processing.context is not None else None


def _client_of(message: object) -> Client[Any, Any] | None:
    """Return the client library that *message* or the first record of a batch is from, `None` for others."""
    first = next(iter(_record(message)), None) if _is_batch(message) else message
    if _is_of_kafka(first):
        return _KAFKA
    return _RABBITMQ if _is_of_rabbitmq(first) else None


def _ending(error: BaseException | None) -> tuple[Outcome, BaseException | None]:
    """Return how a processing ended, and the error that it ended with if it was one."""
    for kind, outcome in _OUTCOMES:
        if isinstance(error, kind):
            return outcome, error if outcome in {"retry", "rejected"} else None
    return outcome_of(error), error


async def _publish(
    settings: Settings, call_next: Callable[[PublishCommand], Awaitable[Any]], command: PublishCommand
) -> Any:
    """Let *command* pass with the current context in its headers."""
    way = None if hasattr(command, _MARK) else _way_of(command)
    if way is None:
        return await call_next(command)
    given = _headers_of(command)
    publishing = Sender(way.client, settings).publish(given, way.destination, names=way.names)
    try:
        result = await publishing.send_async(
            lambda headers: call_next(command if headers is given else _with_headers(command, headers)),
            _is_too_large,
        )
    except BaseException as error:
        publishing.end(error)
        raise
    if isinstance(result, Future):  # `no_confirm=True`: it is delivered later
        return publishing.end_with(result)
    if way.client is _RABBITMQ and _is_returned(result):
        publishing.end_as("rejected")
    publishing.end()  # unless that was said
    return result


class _Way(NamedTuple):
    """By which client library a command is sent, and where to."""

    client: Client[Any, Any]
    destination: str
    names: tuple[str, ...] = ()


def _way_of(command: Any) -> _Way | None:
    """Return the way of *command*, `None` if the broker is another."""
    if hasattr(command, "exchange"):
        address = command.exchange.name, command.destination
        return _Way(_RABBITMQ, amqp.destination_of(*address), amqp.names_of(*address))
    return _Way(_KAFKA_COMMANDS, command.destination) if hasattr(command, "partition") else None


def _headers_of(command: Any) -> Any:
    return command.body.headers if _is_ready(command) else command.headers


def _with_headers(command: PublishCommand, headers: Any) -> PublishCommand:
    """Return a copy of *command*: FastStream and the middlewares around this one may share it."""
    copied: Any = copy.copy(command)
    if _is_ready(command):
        copied.body = copy.copy(command.body)
        copied.body.headers = headers
    else:
        copied.headers = headers
    setattr(copied, _MARK, True)
    return cast("PublishCommand", copied)


def _is_ready(command: Any) -> bool:
    """Tell whether the body is a message of aio-pika already, with headers of its own."""
    if not hasattr(command, "exchange"):
        return False
    from aio_pika import Message  # noqa: PLC0415 - there where something is sent to RabbitMQ, and only there

    return isinstance(command.body, Message)


def _is_returned(result: object) -> bool:
    """Tell a message that RabbitMQ gives back because it found no queue for it."""
    from aiormq.abc import DeliveredMessage  # noqa: PLC0415 - there where something is sent to RabbitMQ, as above

    return isinstance(result, DeliveredMessage)


def _is_too_large(error: BaseException) -> bool:
    """Tell a refusal of the size; confluent-kafka has one class for all errors, with a `KafkaError` in it."""
    reason = error.args[0] if type(error).__name__ == "KafkaException" and error.args else None
    return (type(error).__name__ if reason is None else reason.name()) in _TOO_LARGE
