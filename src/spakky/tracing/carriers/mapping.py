"""Headers of HTTP, and any plain mapping of names to text.

Facts:

- A `dict[str, str]` is what an outbox row or a queue without headers of its own can hold.
- HTTP header names are ASCII without regard to case (RFC 9110, section 5.1) and may be repeated (5.3).
- ASGI hands headers out as a list of `(bytes, bytes)` with lower-case names, and takes them so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from spakky.tracing._text import readable
from spakky.tracing.error import WrongUseError
from spakky.tracing.propagator import MappingAccess

__all__ = [
    "CARRIER",
    "HTTP",
    "HTTP_TEXT",
    "HttpCarrier",
    "HttpHeaders",
    "HttpTextCarrier",
    "HttpTextHeaders",
    "MappingCarrier",
    "names_of_host",
]

HttpHeaders = list[tuple[bytes, bytes]]
"""HTTP headers as ASGI has them: a name for each value, in order."""

HttpTextHeaders = list[tuple[str, str]]
"""HTTP headers as text: a name for each value, in order."""


class MappingCarrier(MappingAccess):
    """A dict of names to values; `CARRIER` is the one instance that is needed."""

    def copy(self, carrier: object, without: Collection[str] = ()) -> dict[str, Any]:
        """Return a new dict of *carrier*'s entries, less those named in *without*.

        Raises:
            WrongUseError: It is neither a mapping nor `None`.
        """
        if carrier is None:
            return {}
        if not isinstance(carrier, Mapping):
            message = f"headers must be a mapping of names to values or None, got {type(carrier).__name__}"
            raise WrongUseError(message)
        return {name: value for name, value in carrier.items() if _lower(name) not in without}


class _RepeatedHeaders:
    """Headers with names in any case and as often as they are; what is read may have any shape of these."""

    def get(self, carrier: object, key: str) -> list[str] | None:
        """Return all readable values of *key* in their order; `None` if there is no such header."""
        lower = key.lower()
        values = [value for name, value in _pairs(carrier) if _lower(name) == lower]
        return [text for value in values if (text := readable(value)) is not None] if values else None

    def keys(self, carrier: object) -> list[str]:
        """Return the names of all headers, repeated as they are."""
        return [text for name, _ in _pairs(carrier) if (text := readable(name)) is not None]

    def remove(self, carrier: list[Any], key: str) -> None:
        """Take all headers named *key* out.

        Raises:
            WrongUseError: The carrier is not a list.
        """
        if not isinstance(carrier, list):
            message = f"HTTP headers are written into a list, got {type(carrier).__name__}: use copy() first"
            raise WrongUseError(message)
        lower = key.lower()
        carrier[:] = [header for header in carrier if _lower(header[0]) != lower]


class HttpCarrier(_RepeatedHeaders):
    """Repeated headers with names in any case; `HTTP` is the one instance that is needed.

    What is read may be a list of pairs or a mapping of names to one value or several, of `str` or `bytes`.
    What is written is a list of pairs of `bytes`.
    """

    def set(self, carrier: HttpHeaders, key: str, value: str) -> None:
        """Make *value* the only value of *key*, as the last header.

        Raises:
            WrongUseError: The carrier is not a list.
        """
        self.remove(carrier, key)
        carrier.append((key.encode(), value.encode()))

    def copy(self, carrier: object, without: Collection[str] = ()) -> HttpHeaders:
        """Return a new list of pairs of `bytes`, less those named in *without*.

        Raises:
            WrongUseError: It is no mapping and no list of pairs of text.
        """
        copied = []
        for name, value in _pairs(carrier, strict=True):
            if _lower(name) not in without:
                copied.append((_encoded(name), _encoded(value)))
        return copied


class HttpTextCarrier(_RepeatedHeaders):
    """Repeated headers of a client that takes text; `HTTP_TEXT` is the one instance that is needed.

    What is read may have any shape that `HttpCarrier` reads. What is written is a list of pairs of `str`.
    """

    def set(self, carrier: HttpTextHeaders, key: str, value: str) -> None:
        """Make *value* the only value of *key*, as the last header.

        Raises:
            WrongUseError: The carrier is not a list.
        """
        self.remove(carrier, key)
        carrier.append((key, value))

    def copy(self, carrier: object, without: Collection[str] = ()) -> HttpTextHeaders:
        """Return a new list of pairs, less those named in *without*; each name and value is as it was.

        Raises:
            WrongUseError: It is no mapping and no list of pairs.
        """
        pairs: Iterable[tuple[Any, Any]] = _pairs(carrier, strict=True)
        return [(name, value) for name, value in pairs if _lower(name) not in without]


CARRIER: Final = MappingCarrier()
HTTP: Final = HttpCarrier()
HTTP_TEXT: Final = HttpTextCarrier()


def names_of_host(host: str, port: int | None) -> tuple[str, str]:
    """Return the names by which options may choose for a host: with its port, and without.

    Args:
        host: Its name, in ASCII, or its address.
        port: `None` for the one that its scheme has by itself: then both names are the same.
    """
    address = f"[{host}]" if ":" in host else host
    return (address if port is None else f"{address}:{port}"), host


_NAME_AND_VALUE: Final = 2


def _pairs(carrier: object, *, strict: bool = False) -> Iterable[tuple[object, object]]:
    """Yield name and value of each header of *carrier*, whatever its shape."""
    if isinstance(carrier, Mapping):
        for name, value in carrier.items():
            for each in value if isinstance(value, (list, tuple)) else (value,):
                yield name, each
    elif isinstance(carrier, (list, tuple)):
        for header in carrier:
            if isinstance(header, (list, tuple)) and len(header) == _NAME_AND_VALUE:
                yield header[0], header[1]
            elif strict:
                message = f"an HTTP header must be a (name, value) pair, got {type(header).__name__}"
                raise WrongUseError(message)
    elif strict and carrier is not None:
        message = f"HTTP headers must be a list of (name, value) pairs, got {type(carrier).__name__}"
        raise WrongUseError(message)


def _lower(name: object) -> str | None:
    text = readable(name)
    return None if text is None else text.lower()


def _encoded(part: object) -> bytes:
    if isinstance(part, (bytes, bytearray, memoryview)):
        return bytes(part)
    if not isinstance(part, str):
        message = f"an HTTP header must be a pair of str or bytes, got {type(part).__name__} in it"
        raise WrongUseError(message)
    return part.encode("latin-1", "replace")
