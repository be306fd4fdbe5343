"""Headers of AMQP 0-9-1 messages: the field table in the basic properties.

Facts:
- A field table is a dict of names to typed values; a name occurs once (AMQP 0-9-1, section 4.2.5.5).
- Clients disagree on text: aio-pika sends `str` and refuses `bytes`, pika sends and hands out `bytearray` for
  bytes, kombu hands out `bytes` for what is not UTF-8. So any of them may arrive, beside numbers, lists,
  tables and `None`.
- aio-pika wants exactly a dict, and a message may share it with its sender's code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from spakky.tracing._text import readable
from spakky.tracing.carriers import RETRY_COUNT, Delivery, count_in
from spakky.tracing.carriers.mapping import MappingCarrier

__all__ = [
    "CARRIER",
    "DEFAULT_FRAME_SIZE",
    "AmqpCarrier",
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
_FAILURES: Final = frozenset({"rejected", "delivery_limit"})


def delivery_from(headers: object, *, is_redelivered: bool | None, timestamp: object = None) -> Delivery:
    """Return what a message says of its way.

    The number of its attempt counts what the broker has rejected before (`x-death`), what it handed out before
    (`x-delivery-count` of quorum queues) and what applications have sent on (`x-retry-count`). A message that is
    redelivered without any of these is not the first attempt, and does not say which.

    Args:
        headers: Its header table; anything else has nothing to say.
        is_redelivered: The flag of that name; `None` if it is not known.
        timestamp: The property of that name, in seconds since 1970 or as a `datetime`; what RabbitMQ itself
            writes in milliseconds (`timestamp_in_ms`) is more exact and comes first.
    """
    table: Mapping[Any, Any] = headers if isinstance(headers, Mapping) else {}
    deaths = _deaths(table.get("x-death"))
    failures = sum(count for reason, count in deaths if reason in _FAILURES)
    retry_count = count_in(table.get(RETRY_COUNT)) or 0
    earlier = failures + retry_count + (count_in(table.get("x-delivery-count")) or 0)
    return Delivery(
        attempt=None if is_redelivered and not earlier else earlier + 1,
        death_count=sum(count for _, count in deaths),
        is_redelivered=is_redelivered,
        sent_unix_nano=_unix_nano(table.get("timestamp_in_ms"), timestamp),
        retry_count=retry_count,
        follows_failure=failures + retry_count > 0,
    )


def destination_of(exchange: str | None, routing_key: str | None) -> str:
    """Return exchange and routing key as OpenTelemetry's conventions for RabbitMQ write them."""
    return ":".join(part for part in (exchange, routing_key) if part) or "amq.default"


def names_of(exchange: str | None, routing_key: str | None) -> tuple[str, ...]:
    """Return the names by which options may choose: the routing key, which may be a queue's, then the exchange."""
    both = destination_of(exchange, routing_key)
    return (both, *(part for part in (routing_key, exchange) if part and part != both))


def room_in(frame_size: int) -> int:
    """Return how many bytes of a frame are left for headers, in bytes, beside all other properties.

    A message's properties must fit into one frame (AMQP 0-9-1, section 4.2.6). Besides the frame's own 8 bytes and
    the 14 of the content header, this keeps space for the 9 short strings and 11 bytes of numbers that other
    properties may take.
    """
    return frame_size - 8 - 14 - 9 * 256 - 11 - 4


def size_of(headers: Mapping[str, Any]) -> int:
    """Return how many bytes *headers* take on the wire at most (AMQP 0-9-1, section 4.2.5).

    What no client sends counts as something, so that it is for the client to refuse.
    """
    return sum(1 + _size_of_text(name) + _size_of_value(value) for name, value in headers.items())


_SIZE_OF_NUMBER: Final = 9


def _size_of_value(value: object) -> int:
    """Return the size of a field value with its type and, of what is long, its length."""
    if isinstance(value, (str, bytes, bytearray)):
        return 5 + _size_of_text(value)
    if isinstance(value, Mapping):
        return 5 + size_of(value)
    if isinstance(value, (list, tuple)):
        return 5 + sum(map(_size_of_value, value))
    return _SIZE_OF_NUMBER


def _size_of_text(text: object) -> int:
    """Return the size of a name or of a text; py-amqp takes surrogates too, and names that are bytes."""
    if isinstance(text, str):
        return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return len(text) if isinstance(text, (bytes, bytearray)) else 0


def _deaths(value: object) -> list[tuple[object, int]]:
    """Return reason and count of each entry of `x-death`; an entry without a count is one death."""
    entries: Sequence[object] = value if isinstance(value, (list, tuple)) else ()
    return [
        (entry.get("reason"), 1 if (count := count_in(entry.get("count"))) is None else count)
        for entry in entries
        if isinstance(entry, Mapping)
    ]


def _unix_nano(milliseconds: object, timestamp: object) -> int | None:
    if (exact := count_in(milliseconds)) is not None:
        return exact * 1_000_000
    if isinstance(timestamp, datetime):
        aware = timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=UTC)
        return int(aware.timestamp()) * 1_000_000_000
    seconds = count_in(timestamp)
    return None if seconds is None else seconds * 1_000_000_000
