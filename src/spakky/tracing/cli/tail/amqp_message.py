"""A message of AMQP 0-9-1, or in its shape, as `tail` shows it: RabbitMQ's own, the tracer's, and kombu's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from spakky.tracing._text import readable
from spakky.tracing.carriers import count_in
from spakky.tracing.carriers.amqp import CARRIER, delivery_from, destination_of
from spakky.tracing.carriers.celery import CARRIER as CELERY_CARRIER
from spakky.tracing.cli.tail.watched import Watched

if TYPE_CHECKING:
    from spakky.tracing.carriers import Delivery, ICarrier

__all__ = ["AmqpMessage", "traced_from", "watched_from"]

_SENT_BY_BEAT: Final = "celery_beat_task"
_NOBODY: Final = "(unnamed)"
_LONGEST_ID: Final = 255  # as long as AMQP's own; a header may hold any length, and ids are remembered


class AmqpMessage(NamedTuple):
    """What is known of a message, in the types in which a client hands it out.

    Attributes:
        headers: Its header table.
        exchange: Where it was sent to.
        routing_key: The key that it was sent with.
        is_redelivered: Whether it is handed out again; `None` if that is not known.
        app_id: The property of that name.
        message_id: The property of that name.
        timestamp: The property of that name.
    """

    headers: Mapping[str, Any]
    exchange: object
    routing_key: object
    is_redelivered: bool | None = None
    app_id: object = None
    message_id: object = None
    timestamp: object = None


def watched_from(message: AmqpMessage, place: str | None = None) -> Watched:
    """Return what was seen; a task of Celery's says more of itself than other messages do.

    Args:
        message: The message.
        place: Where it was seen; `None` for its exchange and routing key.
    """
    is_task = _is_task(message.headers)
    fields: Mapping[str, Any] = message.headers if is_task else {}
    carrier: ICarrier[Any] = CELERY_CARRIER if is_task else CARRIER
    return Watched(
        headers=message.headers,
        carrier=carrier,
        place=destination_of(message.exchange, message.routing_key) if place is None else place,
        producer=_first_text(
            message.app_id, fields.get("origin"), message.routing_key, message.exchange, _NOBODY
        )
        or _NOBODY,
        message_id=_id(fields.get("id"), message.message_id),
        parent_id=_id(fields.get("parent_id")),
        delivery=_delivery(message, is_task=is_task),
    )


def traced_from(headers: Mapping[str, Any]) -> AmqpMessage:
    """Return the message that RabbitMQ's tracer has copied: the *headers* of the copy tell it."""
    properties = _table(headers.get("properties"))
    keys, redelivered = headers.get("routing_keys"), headers.get("redelivered")
    return AmqpMessage(
        headers=_table(properties.get("headers")),
        exchange=headers.get("exchange_name"),
        routing_key=keys[0] if isinstance(keys, list) and keys else "",
        is_redelivered=None if redelivered is None else bool(redelivered),
        app_id=properties.get("app_id"),
        message_id=properties.get("message_id"),
        timestamp=properties.get("timestamp"),
    )


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_task(headers: Mapping[str, Any]) -> bool:
    """Tell whether these are the headers of Celery's protocol 2; protocol 1 has its fields in the body."""
    return bool(readable(headers.get("task")) and readable(headers.get("id")))


def _delivery(message: AmqpMessage, *, is_task: bool) -> Delivery:
    """Return what it says of its way; Celery counts retries itself."""
    delivery = delivery_from(
        message.headers, is_redelivered=message.is_redelivered, timestamp=message.timestamp
    )
    if not is_task:
        return delivery
    return delivery._replace(
        attempt=(count_in(message.headers.get("retries")) or 0) + (delivery.attempt or 1),
        is_scheduled=message.headers.get(_SENT_BY_BEAT) is True,
    )


def _id(*values: object) -> str | None:
    text = _first_text(*values)
    return None if text is None or len(text) > _LONGEST_ID else text


def _first_text(*values: object) -> str | None:
    return next((text for value in values if (text := readable(value))), None)
