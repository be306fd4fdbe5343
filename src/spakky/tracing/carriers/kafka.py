"""Headers of Kafka records.

Facts:

- A record's headers are a sequence of names and values; a value is bytes or null. Names may be repeated, and
  order is kept from producer to consumer (KIP-82).
- aiokafka's encoder takes exactly a `list` of `tuple` of `str` and `bytes` or `None`, and hands records out
  with a `tuple` of them, `()` for none. confluent-kafka also takes a dict, and hands `None` out for none.
  kafka-python takes such a list, sends no null, and hands a list out.
- A name that is not UTF-8 is lost by confluent-kafka (2.16): `Message.headers()` raises `SystemError`, but
  only once. Then it returns a list with a hole where that name should be, and whoever touches the hole, user
  or library, crashes the process.
- The broker counts no attempts. Spring's retry topics write `retry_topic-attempts`, the number of the attempt
  as a big-endian integer of 1 or 4 bytes (`DeadLetterPublishingRecovererFactory` of spring-kafka).
- Of a repeated name the last value counts (`Headers.lastHeader` of Kafka's own client). So a record that was
  forwarded by a library that appends instead of replacing is read right.
"""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from spakky.tracing._text import readable
from spakky.tracing.carriers import RETRY_COUNT, Delivery, count_in
from spakky.tracing.error import WrongUseError

__all__ = ["CARRIER", "KafkaCarrier", "KafkaHeaders", "attributes_from", "delivery_from", "without_holes"]

KafkaHeaders = list[tuple[str, bytes | None]]
"""Kafka headers as every client takes them."""

_NAME_AND_VALUE: Final = 2
_SIZES_OF_A_NUMBER: Final = (1, 4)
_MOST_NANOSECONDS: Final = 2**63 - 1  # what backends store

# These fields are lists by their grammar, so that all their values count (RFC 9110, section 5.3).
_LISTS: Final = frozenset({"tracestate", "baggage"})


class KafkaCarrier:
    """Reads and writes Kafka headers; `CARRIER` is the one instance that is needed."""

    def get(self, carrier: object, key: str) -> list[str] | None:
        """Return the last readable value of *key*; all of them where the field is a list.

        Args:
            carrier: A sequence of pairs or a mapping, `None` for no headers.
            key: The header's name; any casing of it is found.
        """
        lower = key.lower()
        values = [header[1] for header in _pairs(carrier) if _lower_name(header) == lower]
        if not values:
            return None
        texts = [text for value in values if (text := readable(value)) is not None]
        return texts if lower in _LISTS else texts[-1:]

    def keys(self, carrier: object) -> list[str]:
        """Return the names of all headers, repeated as they are."""
        return [name for name, _ in _pairs(carrier) if isinstance(name, str)]

    def set(self, carrier: KafkaHeaders, key: str, value: str) -> None:
        """Make *value* the only value of *key*, as the last header.

        Raises:
            WrongUseError: The carrier is not a list.
        """
        self.remove(carrier, key)
        carrier.append((key, value.encode()))

    def remove(self, carrier: KafkaHeaders, key: str) -> None:
        """Take all headers named *key* out.

        Raises:
            WrongUseError: The carrier is not a list.
        """
        if not isinstance(carrier, list):
            message = f"Kafka headers are written into a list, got {type(carrier).__name__}: use copy() first"
            raise WrongUseError(message)
        lower = key.lower()
        carrier[:] = [header for header in carrier if _lower_name(header) != lower]

    def copy(self, carrier: object, without: Collection[str] = ()) -> KafkaHeaders:
        """Return a new list of *carrier*'s headers, less those named in *without*.

        Args:
            carrier: A sequence, an iterator or a mapping of names and values; `None` for no headers.
            without: Lower-case names.

        Raises:
            WrongUseError: It is none of these.
        """
        if carrier is None:
            return []
        headers = carrier.items() if isinstance(carrier, Mapping) else carrier
        if isinstance(headers, (str, bytes, bytearray)) or not isinstance(headers, Iterable):
            message = f"Kafka headers must be a list of (str, bytes) pairs, got {type(carrier).__name__}"
            raise WrongUseError(message)
        return [header for header in headers if _lower_name(header) not in without]


_LONGEST_KEY: Final = 256
_REPLACED: Final = "\ufffd"  # in the place of what is no UTF-8

CARRIER: Final = KafkaCarrier()


def without_holes(headers: object) -> object:
    """Return *headers* without those whose name confluent-kafka has lost; *headers* itself if none is."""
    if isinstance(headers, list) and any(map(_has_hole, headers)):
        return [header for header in headers if not _has_hole(header)]
    return headers


def _has_hole(header: object) -> bool:
    """Return whether a tuple has less in it than its length says, without looking at what is in it."""
    return isinstance(header, tuple) and len(gc.get_referents(header)) < len(header)


_SPRING_ATTEMPT: Final = "retry_topic-attempts"
_COUNTS: Final = (RETRY_COUNT, _SPRING_ATTEMPT)
_SIZES_OF_A_NAME: Final = tuple(map(len, _COUNTS))


def attributes_from(*, partition: object, offset: object, key: object) -> dict[str, str | int]:
    """Return where a record lies, by the names of OpenTelemetry's conventions for Kafka.

    Args:
        partition: The number of its partition.
        offset: Its place there.
        key: Its key; only one that is short text is told.
    """
    text = readable(key) or ""
    is_told = 0 < len(text) <= _LONGEST_KEY and _REPLACED not in text
    given = {
        "messaging.destination.partition.id": str(partition) if isinstance(partition, int) else None,
        "messaging.kafka.offset": offset if isinstance(offset, int) else None,
        "messaging.kafka.message.key": text if is_told else None,
    }
    return {name: value for name, value in given.items() if value is not None}


def delivery_from(headers: object, timestamp: int | None = None) -> Delivery:
    """Return what a record says of its way.

    The number of its attempt is in the header `x-retry-count`, or in the one of Spring's retry topics.

    Args:
        headers: Its headers, as `get` reads them.
        timestamp: Its timestamp in milliseconds since 1970; `None` or a negative one if it has none. One that
            backends cannot store says nothing.
    """
    attempt = _attempt(_counts_in(headers))
    sent = _nanoseconds(timestamp)
    if attempt is None:
        return Delivery(sent_unix_nano=sent)
    retry_count = attempt - 1
    return Delivery(attempt, None, None, sent, retry_count, follows_failure=retry_count > 0)


def _counts_in(headers: object) -> dict[str, object]:
    """Return the last value of each header that counts attempts; most records have none."""
    return {
        lower: value
        for name, value in _pairs(headers)
        if isinstance(name, str) and len(name) in _SIZES_OF_A_NAME and (lower := name.lower()) in _COUNTS
    }


def _attempt(counts: Mapping[str, object]) -> int | None:
    if not counts:
        return None
    retries = count_in(counts.get(RETRY_COUNT))
    if retries is not None:
        return retries + 1
    number = counts.get(_SPRING_ATTEMPT)
    if isinstance(number, bytes) and len(number) in _SIZES_OF_A_NUMBER:
        return count_in(int.from_bytes(number, "big")) or None
    return None


def _nanoseconds(milliseconds: int | None) -> int | None:
    nanoseconds = -1 if milliseconds is None else milliseconds * 1_000_000
    return nanoseconds if 0 <= nanoseconds <= _MOST_NANOSECONDS else None


def _pairs(carrier: object) -> Iterable[tuple[object, object]]:
    """Yield name and value of each header; what is no pair is passed over."""
    if isinstance(carrier, Mapping):
        yield from carrier.items()
    elif isinstance(carrier, (list, tuple)):
        for header in carrier:
            if isinstance(header, (list, tuple)) and len(header) == _NAME_AND_VALUE:
                yield header[0], header[1]


def _lower_name(header: object) -> str | None:
    if isinstance(header, (list, tuple)) and header and isinstance(header[0], str):
        return header[0].lower()
    return None
