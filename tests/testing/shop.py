"""A messaging system without a broker: a message is a dict that is handed over."""

from __future__ import annotations

from typing import Any, Final

from spakky.tracing.boundaries.client import Client
from spakky.tracing.boundaries.verbs import Verbs
from spakky.tracing.carriers import Delivery, count_in
from spakky.tracing.carriers.mapping import CARRIER

Message = dict[str, Any]

SHOP: Final = Verbs[Message, Message](
    Client(
        system="shop",
        carrier=CARRIER,
        message_type=dict,
        headers=lambda message: message,
        destination=lambda message: message["topic"],
        name=lambda message: f"process {message['topic']}",
        delivery=lambda message: Delivery(attempt=count_in(message.get("attempt"))),
    )
)


def send(topic: str = "orders", **headers: object) -> Message:
    """Send a message, and return it as it arrives."""
    with SHOP.sender({}).publish({"topic": topic, **headers}, topic) as publishing:
        return publishing.headers


def process(message: Message) -> None:
    with SHOP.process(message):
        pass
