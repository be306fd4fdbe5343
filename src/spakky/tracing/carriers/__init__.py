"""The header shapes of the wire formats: one module for each format, one `CARRIER` in each.

A carrier is getter and setter in one, in OpenTelemetry's shape, so it serves any text propagator:
`propagator.inject(headers, setter=kafka.CARRIER)`. It knows the headers of one format and nothing of traces
or client libraries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["HeadersT", "ICarrier"]

HeadersT = TypeVar("HeadersT")


class ICarrier(Protocol[HeadersT]):
    """Reads, writes and copies the headers of one wire format; stateless.

    Reading takes anything and never raises; writing takes what `copy` returns. Names are compared without
    regard to case and written as they are given. `spakky.tracing.testing.CarrierContract` checks all of it.
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
