"""The bare pika and kombu, for what other clients write and read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pika
from kombu.connection import Connection
from kombu.messaging import Producer

if TYPE_CHECKING:
    from collections.abc import Callable

Headers = dict[str, Any]


def publish_by_pika(amqp_url: str, queue: str, headers: Headers) -> None:
    """Publish with pika, which sends `bytes` as a byte array."""
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        connection.channel().basic_publish("", queue, b"value", pika.BasicProperties(headers=headers))


def publish_by_kombu(amqp_url: str, queue: str, headers: Headers) -> None:
    """Publish with kombu, which sends `bytes` as text, whatever is in them."""
    with Connection(amqp_url) as connection:
        Producer(connection).publish(b"value", routing_key=queue, headers=headers, retry=False)


def get_by_pika(amqp_url: str, queue: str) -> Headers:
    """Return the headers of a message as pika reads them."""
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        _, properties, _ = connection.channel().basic_get(queue, auto_ack=True)
    assert properties is not None
    return {str(name): value for name, value in (properties.headers or {}).items()}


def get_by_kombu(amqp_url: str, queue: str) -> Headers:
    """Return the headers of a message as kombu reads them."""
    with Connection(amqp_url) as connection:
        message: Any = connection.default_channel.basic_get(queue, no_ack=True)
        return dict(message.headers)


PUBLISHERS: list[Callable[[str, str, Headers], None]] = [publish_by_pika, publish_by_kombu]
READERS: list[Callable[[str, str], Headers]] = [get_by_pika, get_by_kombu]
