"""What the boundaries have to know of a client library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from spakky.tracing.carriers import UNKNOWN, Delivery

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from spakky.tracing.carriers import ICarrier
    from spakky.tracing.tracer import Kind

__all__ = ["Client", "MessageT"]

MessageT = TypeVar("MessageT")
HeadersT = TypeVar("HeadersT")


def _says_nothing(message: object) -> Delivery:
    del message
    return UNKNOWN


def _is_always(message: object) -> bool:
    del message
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Client(Generic[MessageT, HeadersT]):
    """The messages of one client library, described for the boundaries.

    Attributes:
        system: The messaging system, such as `kafka`.
        message_system: Gets the system of a received message, where a client library serves several; `system`
            unless given.
        carrier: The header shape of its wire format.
        message_type: The class of a received message.
        message_name: What to call a message in a sentence; the name of its class unless given.
        is_message: Tells a message from anything else; whether it is of `message_type` unless given.
        among: Gets the message among the arguments of a handler, `None` if there is none; the first that
            `is_message` unless given.
        batch_types: Classes of batches that the library hands out, besides lists, tuples and mappings.
        headers: Gets the headers of a received message.
        destination: Gets where a received message came from, for people.
        name: Gets the name of its processing, such as `process orders`.
        names: Gets the names by which options choose, the most exact one first; its destination unless given.
        delivery: Gets what it says of its way.
        attributes: Gets what else a message says, by the names of OpenTelemetry's conventions for messaging.
        of_a_delivery: The lower-case names of headers that the broker writes for a single delivery, so that a
            retry leaves them behind.
        is_record: Tells a message from an event that the client hands out in its place, such as an error;
            an event has no context and no processing.
        kind: What its processing is.
        sending_kind: What its sending is.
        size: Gets the bytes that headers take in the frame or record that they are sent in; `None` where the
            client library itself refuses what is too large.
        room: How many of these there are unless a send says so.
    """

    system: str
    message_system: Callable[[MessageT], str] | None = None
    carrier: ICarrier[HeadersT]
    message_type: type[Any]
    message_name: str = ""
    is_message: Callable[[object], bool] | None = None
    among: Callable[[Sequence[object]], MessageT | None] | None = None
    batch_types: tuple[type[Any], ...] = ()
    headers: Callable[[MessageT], object]
    destination: Callable[[MessageT], str]
    name: Callable[[MessageT], str]
    names: Callable[[MessageT], Sequence[str]] | None = None
    delivery: Callable[[MessageT], Delivery] = _says_nothing
    attributes: Callable[[MessageT], Mapping[str, str | int]] | None = None
    of_a_delivery: frozenset[str] = frozenset()
    is_record: Callable[[MessageT], bool] = _is_always
    kind: Kind = "consumer"
    sending_kind: Kind = "producer"
    size: Callable[[HeadersT], int] | None = None
    room: int | None = None

    @property
    def expected(self) -> str:
        """What a message is called in a sentence."""
        return self.message_name or self.message_type.__name__

    def recognizes(self, message: object) -> bool:
        """Return whether this is a message of the client library."""
        if self.is_message is not None:
            return self.is_message(message)
        return isinstance(message, self.message_type)

    def message_among(self, arguments: Sequence[object]) -> MessageT | None:
        """Return the message that a handler is called with, `None` if there is none."""
        if self.among is not None:
            return self.among(arguments)
        found = next((each for each in arguments if self.recognizes(each)), None)
        return cast("MessageT | None", found)

    def system_of(self, message: MessageT) -> str:
        """Return the messaging system that *message* came by."""
        return self.message_system(message) if self.message_system is not None else self.system

    def names_of(self, message: MessageT) -> Sequence[str]:
        """Return the names by which options choose for *message*, the most exact one first."""
        return self.names(message) if self.names is not None else (self.destination(message),)
