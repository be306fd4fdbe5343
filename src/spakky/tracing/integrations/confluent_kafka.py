"""confluent-kafka: wrap the producer, decorate the consumer's handler or iterate over the consumer.

Usage:

    producer = confluent_kafka.wrap(Producer({...}))
    producer.produce("orders", b"...")

    @confluent_kafka.consumer
    def handle(message: Message) -> None: ...

    for message in confluent_kafka.iterate(consumer): ...

    with confluent_kafka.process_batch(consumer.consume(100, 1.0)) as batch: ...

A message is a `Message`, a batch a list of them or what `ShareConsumer.poll` returns, headers are a list of
`(str, bytes)`. A `Message` with an `error()` is an event and no record: there is no context for it.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import AsyncIterator, Iterable, Iterator
from functools import partial
from types import BuiltinMethodType, NoneType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeAlias, TypeVar, cast, overload

from spakky.tracing._extras import raise_missing_extra
from spakky.tracing.boundaries.client import Client
from spakky.tracing.boundaries.verbs import Verbs
from spakky.tracing.carriers.kafka import CARRIER, KafkaHeaders, attributes_from, delivery_from, without_holes
from spakky.tracing.error import WrongUseError

try:
    import confluent_kafka
    from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, KafkaError, KafkaException, Message, Producer
    from wrapt import ObjectProxy
except ModuleNotFoundError as error:
    raise_missing_extra("confluent-kafka", {"confluent_kafka", "wrapt"}, error)

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Unpack

    from spakky.tracing.boundaries.iteration import AsyncIteration, Iteration
    from spakky.tracing.boundaries.options import ReceiveOptions, SendOptions
    from spakky.tracing.boundaries.publish import Publishing, Sender
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

ProducerT = TypeVar("ProducerT", bound=Producer)
_Message: TypeAlias = "Message[Any, Any]"
_Polled: TypeAlias = "_Message | Iterable[_Message] | None"

# What a deserializing consumer marks is still a record: it has headers, and may be dead-lettered.
_UNREADABLE: Final = {KafkaError._KEY_DESERIALIZATION, KafkaError._VALUE_DESERIALIZATION}  # noqa: SLF001 - documented


def _headers_of(message: _Message) -> object:
    """Return the headers of *message*, and take those out of it whose name the client has lost."""
    try:
        headers: Any = message.headers()
    except SystemError:  # only the first time
        headers = message.headers()
    readable: Any = without_holes(headers)
    if readable is not headers:
        message.set_headers(readable)
    return readable


def _topic_of(message: _Message) -> str:
    return message.topic() or ""


def _is_record(message: _Message) -> bool:
    error = message.error()
    return error is None or error.code() in _UNREADABLE


def _delivery_of(message: _Message) -> Delivery:
    kind, milliseconds = message.timestamp()
    delivery = delivery_from(_headers_of(message), None if kind == TIMESTAMP_NOT_AVAILABLE else milliseconds)
    count = _delivery_count(message)
    if not count:
        return delivery
    return delivery._replace(attempt=(delivery.attempt or 1) + count - 1, is_redelivered=count > 1)


def _delivery_count(message: _Message) -> int | None:
    """Return how often a share group handed *message* out, `None` for others and in older clients."""
    return message.delivery_count() if hasattr(message, "delivery_count") else None


_CLIENT: Final[Client[_Message, KafkaHeaders]] = Client(
    system="kafka",
    carrier=CARRIER,
    message_type=Message,
    batch_types=(confluent_kafka.Messages,) if hasattr(confluent_kafka, "Messages") else (),
    headers=_headers_of,
    destination=_topic_of,
    name=lambda message: f"process {_topic_of(message)}",
    delivery=_delivery_of,
    attributes=lambda message: attributes_from(
        partition=message.partition(), offset=message.offset(), key=message.key()
    ),
    is_record=_is_record,
)
_VERBS: Final = Verbs(_CLIENT)

configure = _VERBS.configure
headers = _VERBS.headers
retry_headers = _VERBS.retry_headers
consumer = _VERBS.consumer
batch_consumer = _VERBS.batch_consumer
process = _VERBS.process
process_batch = _VERBS.process_batch
context_from = _VERBS.context_from


# --- producers


def wrap(producer: ProducerT, **options: Unpack[SendOptions]) -> ProducerT:
    """Return a producer whose sends carry the current context; *producer* itself stays as it is.

    Covered are `produce` and `produce_batch`, also inside of transactions. Everything else is *producer*'s
    own. Wrapping what is wrapped replaces its options.

    The span of a recorded send ends with the delivery report. Without a callback in the call it ends as soon
    as the client has taken the message if the producer was configured with any callback: that may be the one
    for delivery reports, which must not be replaced.

    The client's own batch call sends no headers, so `produce_batch` hands it one message after the other. A
    `SerializingProducer` serializes a message again if that is so large that it is sent with less context.

    Args:
        producer: A `Producer` or `SerializingProducer`.
        **options: See `SendOptions`.

    Raises:
        WrongUseError: This is no `Producer`, or an option is not known. An `AIOProducer` is none: it cannot
            send headers.
    """
    if inspect.iscoroutinefunction(getattr(producer, "produce", None)):
        kind = type(producer).__name__
        message = (
            f"asyncio producers cannot send headers: wrap() a Producer, which does not block, got {kind}"
        )
        raise WrongUseError(message)
    if not isinstance(producer, Producer):
        message = f"wrap() takes a Producer of confluent-kafka, got {type(producer).__name__}"
        raise WrongUseError(message)
    return cast("ProducerT", _Producer(unwrap(producer), _VERBS.sender(options)))


def unwrap(producer: ProducerT) -> ProducerT:
    """Return the producer that was given to `wrap`, or *producer* itself if it is not wrapped."""
    given: Any = producer  # a proxy of somebody else has a `__wrapped__` too, which is not ours to take off
    return cast("ProducerT", given.__wrapped__ if isinstance(given, _Producer) else given)


class _Producer(ObjectProxy):  # type: ignore[type-arg] # wrapt 2.1 cannot be subscripted
    """A producer whose sends carry the current context."""

    def __init__(self, producer: Producer, sender: Sender[KafkaHeaders]) -> None:
        super().__init__(producer)
        self._self_sender = sender
        self._self_parameters = _parameters_of(producer)
        self._self_asks_for_reports = not _has_callbacks(producer)

    def produce(self, *args: Any, **kwargs: Any) -> Any:
        call = _Call(self._self_parameters, args, kwargs)
        topic = call.get("topic")
        if not isinstance(topic, str):
            return self.__wrapped__.produce(*args, **kwargs)  # which says what is wrong
        publishing = self._self_sender.publish(call.get("headers"), topic, by=self.__wrapped__)
        return _send(publishing, call, self.__wrapped__.produce, asks_for_reports=self._self_asks_for_reports)

    def produce_batch(
        self,
        topic: str,
        messages: list[dict[str, Any]],
        partition: int = -1,
        callback: Any = None,
        on_delivery: Any = None,
    ) -> int:
        report = on_delivery if callback is None else callback
        client = _client_of(self.__wrapped__)
        if client is None or not (_is_batch(topic, messages) and self._self_sender.writes_to(topic)):
            queued: int = self.__wrapped__.produce_batch(topic, messages, partition, report)
            return queued
        return self._produce_each(client, topic, messages, partition, report)

    def _produce_each(
        self, client: Producer, topic: str, messages: Sequence[dict[str, Any]], partition: int, report: Any
    ) -> int:
        """Return how many messages the client takes; once its queue is full, the rest is not offered."""
        taken = 0
        refusal: KafkaError | None = None
        for message in messages:
            if refusal is None or refusal.code() != _QUEUE_FULL:
                refusal = self._offer(client, topic, _one_of(message, topic, partition, report))
            if refusal is None:
                taken += 1
            else:
                message["_error"] = refusal
        return taken

    def _offer(self, client: Producer, topic: str, call: _Call) -> KafkaError | None:
        """Return why the client does not take a message, `None` if it does."""
        publishing = self._self_sender.publish(call.get("headers"), topic)
        produce = partial(Producer.produce, client)
        try:
            _send(publishing, call, produce, asks_for_reports=self._self_asks_for_reports)
        except BufferError:
            return _refusal(_QUEUE_FULL)
        except KafkaException as error:
            return _refusal(error.args[0].code())
        return None

    def __enter__(self) -> Self:
        self.__wrapped__.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return cast("bool | None", self.__wrapped__.__exit__(kind, error, trace))


_PARAMETERS: Final = ("topic", "value", "key", "partition", "callback", "on_delivery", "timestamp", "headers")
_QUEUE_FULL: Final = KafkaError._QUEUE_FULL  # noqa: SLF001 - the client's name for one of its error codes


class _Call:
    """The arguments of a call of `produce`, in the places where the caller gave them."""

    def __init__(self, parameters: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self._places = {name: place for place, name in enumerate(parameters[: len(args)])}
        self._args = list(args)
        self._kwargs = dict(kwargs)

    @property
    def callback(self) -> Any:
        """What is called with the delivery report; `None` for what the producer was configured with."""
        return self.get(self._callback_name)

    def get(self, name: str) -> Any:
        return self._args[self._places[name]] if name in self._places else self._kwargs.get(name)

    def set(self, name: str, value: object) -> None:
        if name in self._places:
            self._args[self._places[name]] = value
        else:
            self._kwargs[name] = value

    def report_to(self, callback: object) -> None:
        self.set(self._callback_name, callback)

    def make(self, produce: Callable[..., Any]) -> Any:
        return produce(*self._args, **self._kwargs)

    @property
    def _callback_name(self) -> str:
        """The first of two names for one argument, if it is given: the client looks at no other then."""
        is_given = "callback" in self._places or "callback" in self._kwargs
        return "callback" if is_given else "on_delivery"


class _Report:
    """A delivery callback that ends the sending of a message, and then calls the caller's own.

    The client drops it uncalled after a success if it was configured with `delivery.report.only.error`.
    """

    def __init__(self, publishing: Publishing[KafkaHeaders], callback: Any) -> None:
        self._publishing: Publishing[KafkaHeaders] | None = publishing
        self._callback = callback

    def __call__(self, error: KafkaError | None, message: _Message) -> None:
        self.end(None if error is None else KafkaException(error))
        if self._callback is not None:
            self._callback(error, message)

    def end(self, error: BaseException | None = None) -> None:
        publishing, self._publishing = self._publishing, None
        if publishing is not None:
            publishing.end(error)

    def __del__(self) -> None:
        self.end()


def _send(
    publishing: Publishing[KafkaHeaders],
    call: _Call,
    produce: Callable[..., Any],
    *,
    asks_for_reports: bool,
) -> Any:
    """Return what *produce* returns for *call*, made with the headers of *publishing*."""
    existing = call.get("headers")
    report = _Report(publishing, call.callback)
    is_reported = publishing.is_recorded and (asks_for_reports or call.callback is not None)
    if is_reported:
        call.report_to(report)

    def attempt(headers: KafkaHeaders) -> Any:
        if headers is not existing:
            # A new one for each attempt, of the caller's own kind: serializers may write into it.
            call.set("headers", dict(headers) if isinstance(existing, dict) else list(headers))
        return call.make(produce)

    try:
        result = publishing.send(attempt, _is_too_large)
    except BaseException as error:
        report.end(error)
        raise
    if not is_reported:
        report.end()
    return result


def _is_too_large(error: BaseException) -> bool:
    reason = error.args[0] if isinstance(error, KafkaException) and error.args else None
    return isinstance(reason, KafkaError) and reason.code() == KafkaError.MSG_SIZE_TOO_LARGE


def _parameters_of(producer: Producer) -> Sequence[str]:
    """Return the positional parameters of its `produce`, in which a subclass may differ."""
    try:
        parameters = inspect.signature(producer.produce).parameters.values()
    except ValueError:  # a function in C does not say
        return _PARAMETERS
    if any(each.kind is each.VAR_POSITIONAL for each in parameters):
        wrapped = getattr(producer, "__wrapped__", None)
        return _PARAMETERS if wrapped is None else _parameters_of(wrapped)
    return [each.name for each in parameters]


def _has_callbacks(producer: Producer) -> bool:
    """Return whether the producer was configured with callbacks.

    One may be that for delivery reports, which a callback of the call replaces; the client does not say.
    """
    bare = inspect.unwrap(cast("Any", producer))
    return any(callable(each) and not isinstance(each, type) for each in gc.get_referents(bare))


# --- batches of the producer

_NAME_AND_VALUE: Final = 2


def _client_of(producer: Producer) -> Producer | None:
    """Return the producer whose batch call is that of *producer*, `None` if somebody has made another one."""
    call: Any = producer.produce_batch
    return cast("Producer", call.__self__) if type(call) is BuiltinMethodType else None


def _is_batch(topic: object, messages: object) -> bool:
    """Return whether the client would take these messages, each for itself, in its own batch call."""
    return (
        isinstance(topic, str)
        and isinstance(messages, list)
        and all(isinstance(each, dict) and _is_sendable(each) for each in messages)
    )


def _is_sendable(message: dict[str, Any]) -> bool:
    return (
        all(isinstance(message.get(name), (str, bytes, NoneType)) for name in ("key", "value"))
        and isinstance(message.get("partition"), (int, NoneType))
        and message.get("timestamp") is None
        and _are_headers(message.get("headers"))
    )


def _are_headers(headers: object) -> bool:
    pairs = list(headers.items()) if isinstance(headers, dict) else headers
    return pairs is None or (isinstance(pairs, (list, tuple)) and all(map(_is_header, pairs)))


def _is_header(pair: object) -> bool:
    return (
        isinstance(pair, tuple)
        and len(pair) == _NAME_AND_VALUE
        and isinstance(pair[1], (str, bytes, NoneType))
    )


def _one_of(message: dict[str, Any], topic: str, partition: int, report: Any) -> _Call:
    """Return the call for one *message* of a batch; as in the client, the partition is that of the batch."""
    callback = message.get("callback")
    return _Call(
        _PARAMETERS,
        (
            topic,
            message.get("value"),
            message.get("key"),
            partition,
            report if callback is None else callback,
        ),
        {"headers": message.get("headers")},
    )


def _refusal(code: int) -> KafkaError:
    """Return why a message of a batch is refused, in the words of the client's own batch call."""
    return KafkaError(code, f"Message failed: {KafkaError(code).str()}")


# --- consumers

_POLL_SECONDS: Final = 1.0
_CLOSED: Final = {"Consumer closed", "Share consumer closed"}


class _Consumer(Protocol):
    """A `Consumer`, or what is polled as one: it may also return several messages at once."""

    def poll(self, timeout: float, /) -> _Polled: ...


class _AsyncConsumer(Protocol):
    """An `AIOConsumer`, or what is polled as one."""

    def poll(self, timeout: float, /) -> Awaitable[_Polled]: ...


@overload
def iterate(
    source: _AsyncConsumer | AsyncIterable[_Message],
    *,
    timeout: float = _POLL_SECONDS,
    **options: Unpack[ReceiveOptions],
) -> AsyncIteration[_Message]: ...
@overload
def iterate(
    source: _Consumer | Iterable[_Message],
    *,
    timeout: float = _POLL_SECONDS,
    **options: Unpack[ReceiveOptions],
) -> Iteration[_Message]: ...
def iterate(
    source: _AsyncConsumer | AsyncIterable[_Message] | _Consumer | Iterable[_Message],
    *,
    timeout: float = _POLL_SECONDS,
    **options: Unpack[ReceiveOptions],
) -> AsyncIteration[_Message] | Iteration[_Message]:
    """Return the messages of *source*, each loop body in the context of its message.

    A consumer is polled for ever; the loop ends when it is left, or when the consumer is closed. What `poll`
    raises comes out of it. Events (a `Message` with an `error()`) are handed out too, without a context.
    What a poll of a `ShareConsumer` brought and the loop did not hand out is given up when the loop is left:
    keep the iteration to go on.

    Args:
        source: A consumer, which is anything with `poll`; or an iterable of messages, async or not, such as
            what `consume` returns.
        timeout: How many seconds each poll waits for a message at most. Between two of them the loop can be
            interrupted, and the consumer be closed from elsewhere.
        **options: See `ReceiveOptions`.

    Returns:
        An async iterator if *source* is async, such as an `AIOConsumer`, or else an iterator.

    Raises:
        WrongUseError: *source* is neither a consumer nor iterable, or an option is not known.
    """
    messages: Any = source
    poll = getattr(source, "poll", None)
    if callable(poll):
        polling: Any = _AsyncPolling if inspect.iscoroutinefunction(poll) else _Polling
        messages = polling(poll, timeout)
    iteration: AsyncIteration[_Message] | Iteration[_Message] = _VERBS.iterate(messages, **options)
    return iteration


class _Polling(Iterator["_Message"]):
    """The messages that a consumer is polled for, until it is closed."""

    def __init__(self, poll: Callable[[float], _Polled], timeout: float) -> None:
        self._poll = poll
        self._timeout = timeout
        self._messages: Iterator[_Message] = iter(())

    def __next__(self) -> _Message:
        while True:
            message = next(self._messages, None)
            if message is not None:
                return message
            try:
                self._messages = _messages_in(self._poll(self._timeout))
            except RuntimeError as error:
                if str(error) in _CLOSED:
                    raise StopIteration from None
                raise


class _AsyncPolling(AsyncIterator["_Message"]):
    """The messages that an asyncio consumer is polled for, until it is closed."""

    def __init__(self, poll: Callable[[float], Awaitable[_Polled]], timeout: float) -> None:
        self._poll = poll
        self._timeout = timeout
        self._messages: Iterator[_Message] = iter(())

    async def __anext__(self) -> _Message:
        while True:
            message = next(self._messages, None)
            if message is not None:
                return message
            try:
                self._messages = _messages_in(await self._poll(self._timeout))
            except RuntimeError as error:
                if str(error) in _CLOSED:
                    raise StopAsyncIteration from None
                raise


def _messages_in(polled: _Polled) -> Iterator[_Message]:
    """Return what one poll brought: nothing, a message, or those of a share group."""
    if polled is None:
        return iter(())
    return iter(polled) if isinstance(polled, Iterable) else iter((polled,))
