"""What is seen of traffic, whichever broker it goes through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from spakky.tracing.carriers import UNKNOWN, Delivery

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from spakky.tracing.propagator import IGetter

__all__ = ["ILagging", "IWatcher", "Watched"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A message that was seen on its way.

    Attributes:
        headers: Its headers, in the shape in which the client library hands them out.
        carrier: What reads them.
        place: Where it was seen, such as `orders 0:17` (topic, partition and offset) or a routing key.
        producer: Who sent it, as far as the message says: Celery's `origin`, AMQP's `app_id`; else where to:
            the routing key or the topic. Totals are kept by it.
        message_id: Its id, the same for each delivery and attempt; `None` if it has none.
        parent_id: The id of the message in whose processing it was sent; `None` if it does not say.
        delivery: What it says of its way.
    """

    headers: object
    carrier: IGetter[object]
    place: str
    producer: str
    message_id: str | None = None
    parent_id: str | None = None
    delivery: Delivery = UNKNOWN


class IWatcher(Protocol):
    """Watches one topic, exchange or queue."""

    @property
    def watches(self) -> str:
        """What is watched, for people: `topic orders of Kafka at localhost:9092`."""
        ...

    def messages(self) -> AsyncGenerator[list[Watched]]:
        """Yield messages in the order in which they are seen, as many at once as there are.

        The first list comes as soon as it watches, and is empty if there is no message yet: what is sent from
        then on is seen.

        The generator is closed (`aclose`) when nobody watches any more; it then leaves nothing at the broker.

        Raises:
            Refusal: It cannot be watched, or cannot be any longer; in one sentence.
        """
        ...


@runtime_checkable
class ILagging(IWatcher, Protocol):
    """A watcher that knows how far behind it is."""

    @property
    def behind(self) -> int:
        """How many messages it has not handed out yet, although they are at the broker."""
        ...
