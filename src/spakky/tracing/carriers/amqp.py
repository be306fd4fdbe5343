"""Headers of AMQP 0-9-1 messages: the field table in the basic properties.

Facts:

- A field table is a dict of names to typed values; a name occurs once (AMQP 0-9-1, section 4.2.5.5).
- Clients disagree on text: aio-pika sends `str` and refuses `bytes`, and hands out `bytearray` for what pika
  sends as `bytes`; pika and kombu hand out `bytes`. So any of them may arrive, beside numbers, lists, tables
  and `None`.
- Names are text too, and a name, a routing key or an exchange that is not UTF-8 is handed out as `bytes`.
- aio-pika wants exactly a dict, and a message may share it with its sender's code.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from spakky.tracing._text import readable
from spakky.tracing.carriers import RETRY_COUNT, Delivery, count_in
from spakky.tracing.carriers.mapping import MappingCarrier

__all__ = [
    "CARRIER",
    "DEFAULT_FRAME_SIZE",
    "AmqpCarrier",
    "attributes_from",
    "delivery_from",
    "destination_of",
    "names_of",
    "room_in",
    "size_of",
]

DEFAULT_FRAME_SIZE: Final = 131_072
"""The largest frame of RabbitMQ, in bytes, unless client and broker agreed on another (`frame_max`)."""


class AmqpCarrier(MappingCarrier):
    """Reads and writes an AMQP header table; `CARRIER` is the one instance that is needed."""

    def _readable_values(self, value: object) -> list[str]:
        """Return the one value if it is text; a list is a value of its own here, not several."""
        text = readable(value)
        return [] if text is None else [text]


CARRIER: Final = AmqpCarrier()

# Reasons in `x-death` for which a consumer was handed the message and did not take it.
_REJECTED: Final = "rejected"
_GIVEN_UP: Final = "delivery_limit"

_SIZE_OF_PREFIX: Final = 5  # the type of a value and, of what is long, its length
_SIZE_OF_NUMBER: Final = 9  # at most, with its type
_LARGER_THAN_ANY_FRAME: Final = 2**22

_START: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_SECOND: Final = 2**32 - 1  # pamqp, which aio-pika uses, takes a larger number for milliseconds
_MOST_NANOSECONDS: Final = 2**63 - 1  # what backends store


def delivery_from(headers: object, *, is_redelivered: bool | None, timestamp: object = None) -> Delivery:
    """Return what a message says of its way.

    The number of its attempt counts what was rejected before (`x-death`), what a quorum queue handed out
    before (`x-delivery-count`) and what applications have sent on (`x-retry-count`). It is not known of a
    message that a classic queue hands out again, or that a quorum queue gave up at its delivery limit.

    Args:
        headers: Its header table; anything else has nothing to say.
        is_redelivered: The flag of that name; `None` if it is not known.
        timestamp: The property of that name, in seconds since 1970 or as a `datetime`; a number that would be
            after the year 2106 is taken for milliseconds. What RabbitMQ itself writes in milliseconds
            (`timestamp_in_ms`) is more exact and comes first.
    """
    table: Mapping[Any, Any] = headers if isinstance(headers, Mapping) else {}
    deaths = _deaths(table.get("x-death"))
    rejected, given_up = _count_of(deaths, _REJECTED), _count_of(deaths, _GIVEN_UP)
    retry_count = _retry_count(table)
    requeued = _requeued(table, is_redelivered=is_redelivered)
    exact = _moment(table.get("timestamp_in_ms"))
    return Delivery(
        attempt=None if requeued is None or given_up else rejected + retry_count + requeued + 1,
        death_count=sum(count for _, count in deaths),
        is_redelivered=is_redelivered,
        sent_unix_nano=_moment(timestamp) if exact is None else exact,
        retry_count=retry_count,
        follows_failure=rejected + given_up + retry_count > 0,
    )


def attributes_from(
    *, routing_key: object, delivery_tag: object = None, message_id: object = None
) -> dict[str, str | int]:
    """Return what else a message says, by the names of OpenTelemetry's conventions for RabbitMQ.

    Args:
        routing_key: Its routing key; an empty one is not told.
        delivery_tag: The number of its delivery in its channel.
        message_id: The property of that name.
    """
    given = {
        "messaging.rabbitmq.destination.routing_key": readable(routing_key) or None,
        "messaging.rabbitmq.message.delivery_tag": delivery_tag if isinstance(delivery_tag, int) else None,
        "messaging.message.id": readable(message_id) or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def destination_of(exchange: object, routing_key: object) -> str:
    """Return exchange and routing key as OpenTelemetry's conventions for RabbitMQ write them.

    Args:
        exchange: Its name; empty, or what is not text, for the default exchange.
        routing_key: The key; clients hand out `bytes` for one that is not UTF-8, and some take them.
    """
    return ":".join(_given(exchange, routing_key)) or "amq.default"


def names_of(exchange: object, routing_key: object) -> tuple[str, ...]:
    """Return the names by which options may choose: both, the routing key (maybe a queue's), the exchange."""
    return tuple(dict.fromkeys([destination_of(exchange, routing_key), *_given(routing_key, exchange)]))


def room_in(frame_size: int) -> int:
    """Return how many bytes of a frame are left for headers.

    The properties of a message must fit into one frame (AMQP 0-9-1, section 4.2.6). Besides the frame's own 8
    bytes, the 14 of the content header and the length of the table, this keeps the space of all other
    properties at their longest: 10 short strings and 10 bytes of numbers. Mostly they are shorter, so that
    the broker can add its own headers (`x-death`) and still deliver the message.

    Args:
        frame_size: What client and broker agreed on (`frame_max`), in bytes; 0 for no limit.
    """
    return frame_size - 8 - 14 - 4 - 10 * 256 - 10 if frame_size else sys.maxsize


def size_of(headers: Mapping[Any, Any]) -> int:
    """Return how many bytes *headers* take on the wire at most (AMQP 0-9-1, section 4.2.5).

    It counts no further than a frame can be large, so a table that contains itself has a size, too.
    """
    size = 0
    values: list[object] = [headers]
    while values and size < _LARGER_THAN_ANY_FRAME:
        value = values.pop()
        if isinstance(value, Mapping):
            size += _SIZE_OF_PREFIX + sum(1 + _length_of(name) for name in value)
            values.extend(value.values())
        elif isinstance(value, (list, tuple)):
            size += _SIZE_OF_PREFIX
            values.extend(value)
        elif isinstance(value, (str, bytes, bytearray)):
            size += _SIZE_OF_PREFIX + _length_of(value)
        else:
            size += _SIZE_OF_NUMBER
    return size - _SIZE_OF_PREFIX


def _length_of(value: object) -> int:
    """Return the bytes of a text as the most tolerant client (py-amqp) writes it; 0 if it is none."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
    return len(value) if isinstance(value, (bytes, bytearray)) else 0


def _given(*names: object) -> list[str]:
    return [text for name in names if (text := readable(name))]


def _deaths(value: object) -> list[tuple[str | None, int]]:
    """Return reason and count of each entry of `x-death`; an entry without a count is one death."""
    entries: Sequence[object] = value if isinstance(value, (list, tuple)) else ()
    return [
        (readable(entry.get("reason")), 1 if (count := count_in(entry.get("count"))) is None else count)
        for entry in entries
        if isinstance(entry, Mapping)
    ]


def _count_of(deaths: list[tuple[str | None, int]], wanted: str) -> int:
    return sum(count for reason, count in deaths if reason == wanted)


def _retry_count(table: Mapping[Any, Any]) -> int:
    """Return how often applications have sent the message on; they may write the name in another casing."""
    if RETRY_COUNT in table:
        return count_in(table[RETRY_COUNT]) or 0
    size = len(RETRY_COUNT)
    names = (name for name in table if isinstance(name, str) and len(name) == size)
    return next((count_in(table[name]) or 0 for name in names if name.lower() == RETRY_COUNT), 0)


def _requeued(table: Mapping[Any, Any], *, is_redelivered: bool | None) -> int | None:
    """Return how often a queue handed the message out before, `None` if that is not known.

    The count of a message that is not redelivered was forwarded with the headers of another one.
    """
    if is_redelivered is False:
        return 0
    return count_in(table.get("x-delivery-count")) or (None if is_redelivered else 0)


def _moment(value: object) -> int | None:
    """Return a moment in nanoseconds since 1970; `None` if *value* is none, or none that backends store."""
    if isinstance(value, datetime):
        aware = value if value.utcoffset() is not None else value.replace(tzinfo=UTC)
        nanoseconds = (aware - _START) // timedelta(microseconds=1) * 1_000
    elif isinstance(value, int) and not isinstance(value, bool):
        nanoseconds = value * (1_000_000_000 if value <= _LAST_SECOND else 1_000_000)
    else:
        return None
    return nanoseconds if 0 <= nanoseconds <= _MOST_NANOSECONDS else None
