"""What the boundaries have to know of a client library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from spakky.tracing.carriers import ICarrier
    from spakky.tracing.tracer import Kind

__all__ = ["Client", "MessageT", "unknown_attempt"]

MessageT = TypeVar("MessageT")
HeadersT = TypeVar("HeadersT")


def unknown_attempt(message: object) -> int | None:
    """Return `None`: the broker does not count attempts."""
    del message
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Client(Generic[MessageT, HeadersT]):
    """The messages of one client library, described for the boundaries.

    Attributes:
        system: The messaging system, such as `kafka`.
        carrier: The header shape of its wire format.
        message_type: The class of a received message.
        headers: Gets the headers of a received message.
        destination: Gets where a received message came from, for people.
        name: Gets the name of its processing, such as `process orders`.
        attempt: Gets the number of the attempt, `None` if the broker does not count.
        kind: What its processing is.
    """

    system: str
    carrier: ICarrier[HeadersT]
    message_type: type[Any]
    headers: Callable[[MessageT], object]
    destination: Callable[[MessageT], str]
    name: Callable[[MessageT], str]
    attempt: Callable[[MessageT], int | None] = unknown_attempt
    kind: Kind = "consumer"
