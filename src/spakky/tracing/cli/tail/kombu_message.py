r"""Messages in the lists that kombu, Celery's transport, keeps in Redis.

Facts (kombu 5.7, kombu.transport.redis and .virtual):
- A message is JSON: `body`, `headers`, `properties` with `delivery_info` (exchange, routing key), and more.
- Senders push at the left and workers pop at the right. A message that a worker gave back, or lost, is pushed
  again with `redelivered` in its headers and its `delivery_info`.
- A priority other than 0 has a list of its own: the queue's name, `\x06\x16` and a number.
- An empty list is no key. But a queue that was declared is a member of its exchange's set,
  `_kombu.binding.EXCHANGE`: routing key, pattern and queue, with `\x06\x16` between.
  Celery names the exchange as the queue, unless it is told otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from spakky.tracing.cli.tail.amqp_message import AmqpMessage, watched_from

if TYPE_CHECKING:
    from spakky.tracing.cli.tail.watched import Watched

__all__ = ["BINDINGS", "SEPARATOR", "is_key_of", "keys_of", "queue_in", "watched_in"]

SEPARATOR: Final = b"\x06\x16"
"""What is between the parts of a name."""

BINDINGS: Final = b"_kombu.binding."
"""What the name of an exchange's set begins with."""

_PRIORITIES: Final = range(1, 10)
_FOREIGN: Final = "(not Celery's)"


def keys_of(queue: bytes) -> list[bytes]:
    """Return the keys of the lists that *queue* may have, the most urgent first."""
    return [queue, *(b"%b%b%d" % (queue, SEPARATOR, priority) for priority in _PRIORITIES)]


def is_key_of(queue: bytes, key: bytes) -> bool:
    """Tell whether *key* is one of the lists of *queue*, of whatever priority."""
    if key == queue:
        return True
    return key.startswith(queue + SEPARATOR) and key[len(queue) + len(SEPARATOR) :].isdigit()


def queue_in(binding: bytes) -> bytes:
    """Return the queue that a member of an exchange's set names."""
    return binding.rsplit(SEPARATOR, 1)[-1]


def watched_in(value: bytes, queue: str) -> Watched:
    """Return the message of a list's *value*; its body is left alone.

    What is no message of kombu's has no headers, so it has no trace context either.
    """
    try:
        envelope = json.loads(value)
    except (ValueError, RecursionError):
        envelope = None
    if not isinstance(envelope, dict) or not isinstance(envelope.get("properties"), dict):
        return watched_from(AmqpMessage({}, "", queue, app_id=_FOREIGN))
    return watched_from(_message(envelope, queue))


def _message(envelope: dict[str, Any], queue: str) -> AmqpMessage:
    properties = envelope["properties"]
    headers, info = _table(envelope.get("headers")), _table(properties.get("delivery_info"))
    return AmqpMessage(
        headers=headers,
        exchange=info.get("exchange"),
        routing_key=info.get("routing_key") or queue,
        is_redelivered=(info.get("redelivered") or headers.get("redelivered")) is True,
        app_id=properties.get("app_id"),
        message_id=properties.get("message_id") or properties.get("correlation_id"),
        timestamp=properties.get("timestamp"),
    )


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
