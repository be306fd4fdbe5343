"""The header shapes of the wire formats: one module for each format, one `CARRIER` in each.

A carrier is getter and setter in one, in OpenTelemetry's shape, so it serves any text propagator:
`propagator.inject(headers, setter=kafka.CARRIER)`. It knows the headers of one format and nothing of traces
or client libraries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar

from spakky.tracing._text import readable

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["RETRY_COUNT", "UNKNOWN", "Delivery", "HeadersT", "ICarrier", "count_in"]

HeadersT = TypeVar("HeadersT")

RETRY_COUNT: Final = "x-retry-count"
"""The header that says how often a message was sent on after a failed attempt: `1` on the first retry."""

_MOST_DIGITS: Final = 9


class Delivery(NamedTuple):
    """What a received message says of its way.

    Attributes:
        attempt: 1 for the first try, 2 for the first retry; `None` if it does not say.
        death_count: How often it was dead-lettered; `None` if it does not say.
        is_redelivered: Whether the broker hands it out again; `None` if it does not say.
        sent_unix_nano: Its timestamp, in nanoseconds since 1970 (UTC); `None` if it has none.
        retry_count: How often it was sent on after a failed attempt, by its own header.
        follows_failure: Whether it was sent on or dead-lettered after a failed attempt: its processing links
            to what its headers name.
        is_scheduled: Whether it says that a clock sent it, such as Celery's beat.
    """

    attempt: int | None = None
    death_count: int | None = None
    is_redelivered: bool | None = None
    sent_unix_nano: int | None = None
    retry_count: int = 0
    follows_failure: bool = False
    is_scheduled: bool = False


UNKNOWN: Final = Delivery()


def count_in(value: object) -> int | None:
    """Return *value* as a count, `None` if it is none: a number of up to 9 digits, also as text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if 0 <= value < 10**_MOST_DIGITS else None
    text = readable(value)
    if text is None or len(text) > _MOST_DIGITS or not (text.isascii() and text.isdigit()):
        return None
    return int(text)


class ICarrier(Protocol[HeadersT]):
    """Reads, writes and copies the headers of one wire format; stateless.

    Reading takes anything and never raises; writing takes what `copy` returns. Names are compared without
    regard to case and written as they are given, or as the format has to have them (environment variables).
    `spakky.tracing.testing.CarrierContract` checks all of it.
    """

    def get(self, carrier: object, key: str) -> list[str] | None:
        """Return the readable values of *key*, `[]` if none is readable, `None` if it is absent."""

    def keys(self, carrier: object) -> list[str]:
        """Return the names of all headers."""
        ...

    def set(self, carrier: HeadersT, key: str, value: str) -> None:
        """Make *value* the only value of *key*, in place."""

    def remove(self, carrier: HeadersT, key: str) -> None:
        """Take every value of *key* out, in place; no error if there is none."""

    def copy(self, carrier: object, without: Collection[str] = ()) -> HeadersT:
        """Return new headers of the type that client libraries want, less those named in *without*.

        Args:
            carrier: Headers in any shape that a client library takes; `None` for none.
            without: Lower-case names.

        Raises:
            WrongUseError: This cannot be the headers of a message.
        """
        ...
