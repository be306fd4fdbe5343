"""What of RabbitMQ can be watched without taking from anybody, and how that is found out.

Facts:
- AMQP has no question for the type of an exchange or a queue. A declaration that differs from what is there
  is refused with the difference, one at a time: type, durable, auto_delete, internal, arguments.
- RabbitMQ looks at some arguments before it creates anything: with an `alternate-exchange` or an
  `x-dead-letter-exchange` that is a number, it never creates, and so it can be asked without a risk.
- A stream queue does not compare `x-dead-letter-exchange`, each other type does.
- It quotes a type with a hyphen twice: `''x-random''`.
- Plugins have exchanges that hand each message to one of their queues: a queue of ours would take some.
- An auto-delete exchange is deleted with its last binding, which may be ours.
- Celery sends to a queue of a direct exchange by the default exchange, whatever exchange it has declared.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from spakky.tracing.cli.refusal import Refusal
from spakky.tracing.cli.tail.amqp_connection import ChannelClosedByBroker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from spakky.tracing.cli.tail.amqp_connection import Connection

__all__ = ["TRACER", "ExchangeSource", "StreamSource", "find_source"]

TRACER: Final = "amq.rabbitmq.trace"
"""The exchange to which RabbitMQ copies each message of a virtual host while `rabbitmqctl trace_on`."""

_COPYING: Final = {"fanout", "headers", "topic", "direct", "x-delayed-message", "x-recent-history"}
_WITHOUT_KEYS: Final = {"fanout", "headers", "x-recent-history"}
_ALL: Final = "#"
_PUBLISHED: Final = "publish.#"

_ACCESS_REFUSED: Final = 403
_NOT_FOUND: Final = 404
_LOCKED: Final = 405
_DIFFERS: Final = re.compile(
    r"inequivalent arg '(?P<argument>[^']*)' for (?:exchange|queue) .*"
    r" current is (?:the value )?'{1,2}(?P<current>[^']*)'(?: of type '[^']*')?",
    re.DOTALL,
)
_DIFFERS_SOMEHOW: Final = re.compile(r"inequivalent arg '(?P<argument>[^']*)'")
_MOST_QUESTIONS: Final = 12


@dataclass(frozen=True, slots=True)
class ExchangeSource:
    """An exchange that copies each message to all queues that are bound to it.

    Attributes:
        name: Its name.
        kind: Its type.
        keys: The binding keys of the watcher's queue.
    """

    name: str
    kind: str
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StreamSource:
    """A stream queue, which is read and not consumed.

    Attributes:
        name: Its name.
    """

    name: str


@dataclass(frozen=True, slots=True)
class _Exchange:
    kind: str
    is_auto_delete: bool


async def find_source(
    connection: Connection, name: str, keys: Sequence[str], *, from_beginning: bool
) -> ExchangeSource | StreamSource:
    """Find out what *name* is.

    Raises:
        Refusal: There is nothing of this name, or it cannot be watched without taking or changing anything.
    """
    if not name or name == "amq.default":
        sentence = f"Nothing can be bound to the default exchange; {_by_the_tracer('QUEUE')}"
        raise Refusal(sentence)
    if await _refused(connection, "exchange_declare", exchange=name, passive=True) is None:
        return await _exchange_source(connection, name, tuple(keys), from_beginning=from_beginning)
    return await _stream_source(connection, name, keys)


async def _exchange_source(
    connection: Connection, name: str, keys: tuple[str, ...], *, from_beginning: bool
) -> ExchangeSource:
    if from_beginning:
        sentence = f"Exchange {name} keeps no messages: leave out --from-beginning."
        raise Refusal(sentence)
    exchange = await _described(connection, name)
    if exchange.kind not in _COPYING:
        sentence = (
            f"Exchange {name} is of type {exchange.kind}, which may hand a message to one queue only: a "
            f"queue to watch it could take messages from others; {_by_the_tracer('QUEUE')}"
        )
        raise Refusal(sentence)
    if exchange.is_auto_delete:
        sentence = (
            f"Exchange {name} is deleted with its last binding, which could be the watcher's: declare it "
            f"without auto_delete; or {_by_the_tracer('QUEUE')}"
        )
        raise Refusal(sentence)
    return ExchangeSource(name, exchange.kind, await _binding_keys(connection, name, exchange.kind, keys))


async def _binding_keys(
    connection: Connection, name: str, kind: str, keys: tuple[str, ...]
) -> tuple[str, ...]:
    if kind in _WITHOUT_KEYS:
        if keys:
            sentence = (
                f"Exchange {name} is of type {kind}, which does not look at routing keys: leave out --key."
            )
            raise Refusal(sentence)
        return (_ALL,)
    if keys or kind == "topic":
        return keys or (_PUBLISHED if name == TRACER else _ALL,)
    if kind != "direct":
        sentence = (
            f"Exchange {name} is of type {kind}: say which routing keys to watch, --key KEY, or --key '#' "
            "if it routes by topics."
        )
        raise Refusal(sentence)
    raise Refusal(await _without_keys(connection, name))


async def _without_keys(connection: Connection, name: str) -> str:
    sentence = f"Exchange {name} is of type direct: say which routing keys to watch, such as --key {name}."
    if await _refused(connection, "queue_declare", queue=name, passive=True) is not None:
        return sentence
    return (
        f"{sentence} What Celery sends to queue {name} does not pass this exchange, unless it is told to; "
        f"{_by_the_tracer(name)}"
    )


async def _stream_source(connection: Connection, name: str, keys: Sequence[str]) -> StreamSource:
    refused = await _refused(connection, "queue_declare", queue=name, passive=True)
    if refused is not None and refused.reply_code == _NOT_FOUND:
        sentence = (
            f"RabbitMQ at {connection.server} has no exchange and no queue {name} in this virtual host; the "
            "URL is amqp://HOST/NAME or amqp://HOST/VIRTUAL-HOST/NAME."
        )
        raise Refusal(sentence)
    if refused is not None and refused.reply_code != _LOCKED:
        sentence = f"Queue {name} cannot be watched: {refused.reply_text}."
        raise Refusal(sentence)
    if refused is not None or not await _is_stream(connection, name):
        sentence = (
            f"Queue {name} cannot be watched without taking its messages, since it is no stream. Watch the "
            f"exchange that it gets them from; or, for what is sent straight to it, {_by_the_tracer(name)}"
        )
        raise Refusal(sentence)
    if keys:
        sentence = f"{name} is a stream, which has all messages in one: leave out --key."
        raise Refusal(sentence)
    return StreamSource(name)


async def _described(connection: Connection, name: str) -> _Exchange:
    """Ask what an exchange is like, until only the argument that cannot be differs.

    Raises:
        Refusal: The broker does not say.
    """
    asked: dict[str, Any] = {
        "type": "direct",
        "durable": True,
        "auto_delete": False,
        "internal": False,
    }
    for _ in range(_MOST_QUESTIONS if connection.product == "RabbitMQ" else 0):
        flags = {flag: value for flag, value in asked.items() if flag != "type"}
        refused = await _refused(
            connection,
            "exchange_declare",
            exchange=name,
            exchange_type=asked["type"],
            arguments={"alternate-exchange": 1},
            **flags,
        )
        differs = _DIFFERS_SOMEHOW.search(refused.reply_text) if refused else None
        if refused is None or differs is None:
            raise Refusal(_unknown(name, refused))
        argument = differs["argument"]
        if argument not in asked or asked["type"] not in _COPYING:  # some plugins fail on further questions
            return _Exchange(kind=asked["type"], is_auto_delete=asked["auto_delete"])
        current = _current(refused)
        asked[argument] = current if argument == "type" else current == "true"
    raise Refusal(_unknown(name, None))


async def _is_stream(connection: Connection, name: str) -> bool:
    """Tell whether a queue is surely a stream; nothing is created or changed."""
    arguments: dict[str, Any] = {"x-queue-type": "stream", "x-dead-letter-exchange": 1}
    for _ in range(_MOST_QUESTIONS if connection.product == "RabbitMQ" else 0):
        refused = await _refused(
            connection, "queue_declare", queue=name, durable=True, arguments=dict(arguments)
        )
        if refused is None:
            return True
        differs = _DIFFERS_SOMEHOW.search(refused.reply_text)
        current = _current(refused)
        if differs is None or current is None or differs["argument"] in {"durable", *arguments}:
            return False
        arguments[differs["argument"]] = int(current) if current.isdigit() else current
    return False


def _current(refused: ChannelClosedByBroker) -> str | None:
    """Return what is there, as the broker says at the end; names that come before may hold anything."""
    differs = _DIFFERS.search(refused.reply_text)
    return differs["current"] if differs else None


async def _refused(connection: Connection, method: str, **arguments: object) -> ChannelClosedByBroker | None:
    """Ask on a channel of its own, which a refusal closes; return the refusal."""
    channel = await connection.channel()
    call: Callable[..., Any] = getattr(channel.bare, method)
    try:
        await channel.ask(call, **arguments)
    except ChannelClosedByBroker as refused:
        return refused
    channel.bare.close()
    return None


def _unknown(name: str, refused: ChannelClosedByBroker | None) -> str:
    if refused is not None and refused.reply_code == _ACCESS_REFUSED:
        return (
            f"The type of exchange {name} is told only to users who may configure it, so it is not known if "
            f"watching it takes messages from others: {refused.reply_text}."
        )
    return f"This broker does not say what type exchange {name} is of: only RabbitMQ can be watched."


def _by_the_tracer(queue: str) -> str:
    return (
        f"RabbitMQ's tracer shows what goes into each queue: run `rabbitmqctl trace_on`, and watch "
        f"amqp://HOST/{TRACER} --key deliver.{queue}."
    )
