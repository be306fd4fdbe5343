"""Our side of a message between two libraries, and the brokers that it goes over."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import pytest

from interop.seen import Sender, Span
from spakky.tracing.context import TraceContext

__all__ = [
    "PATIENCE",
    "Handler",
    "OurSide",
    "OverKafka",
    "OverRabbitMQ",
    "Taken",
    "pairs_of",
    "producers_of",
    "wire_of",
]

PATIENCE: Final = 10
"""How long a message may take to arrive, in seconds."""

Handler = Callable[[Any], Coroutine[Any, Any, None]]
"""What is awaited in the context of a message, with its headers as the client library hands them out."""


@dataclass(frozen=True)
class Taken:
    """A message that we received.

    Attributes:
        context: That of its processing.
        wire: Its headers: a list of texts for each name.
    """

    context: TraceContext
    wire: dict[str, list[str]]

    @property
    def sender(self) -> Sender:
        context = self.context
        return Sender(context.trace_id, context.parent_span_id, context.trace_state.to_header())


class OurSide(ABC):
    """A client library under our integration.

    Attributes:
        appends: Whether OpenTelemetry's producers leave an older `traceparent` beside their own.
        vendor_value: What another vendor's header may hold.
        address: That of the broker, which the class of the broker sets.
        place: Makes a topic or queue for one message; likewise.
    """

    appends: ClassVar[bool] = False
    vendor_value: ClassVar[str | bytes] = "text"

    address: str
    place: Callable[[], str]

    @abstractmethod
    async def send(self, destination: str, headers: Any = None, **options: Any) -> None:
        """Send a message by what `wrap` returns for *options*."""

    @abstractmethod
    async def send_bare(self, destination: str, headers: dict[str, str | bytes]) -> None:
        """Send a message by the client library alone, with text as it is usual in it."""

    @abstractmethod
    async def receive(self, source: str, handle: Handler) -> None:
        """Take the first message of *source* by our verbs, and await *handle* in its context."""

    async def take(self, source: str) -> Taken:
        """Receive the first message of *source* and return it."""
        taken: list[Taken] = []

        async def handle(headers: Any) -> None:
            context = TraceContext.get()
            assert context is not None
            taken.append(Taken(context, wire_of(headers)))

        await self.receive(source, handle)
        [only] = taken
        return only


class OverKafka(OurSide):
    """A client of Kafka."""

    vendor_value: ClassVar[str | bytes] = b"\x00\x0a\xf7\xff"

    @pytest.fixture(autouse=True)
    def _over(self, kafka_address: str, new_topic: Callable[[], str]) -> None:
        self.address, self.place = kafka_address, new_topic


class OverRabbitMQ(OurSide):
    """A client of RabbitMQ."""

    @pytest.fixture(autouse=True)
    def _over(self, amqp_url: str, new_queue: Callable[[], str]) -> None:
        self.address, self.place = amqp_url, new_queue


def pairs_of(headers: dict[str, str | bytes]) -> list[tuple[str, bytes]]:
    """Return *headers* in the shape that Kafka's clients send."""
    return [(name, value.encode() if isinstance(value, str) else value) for name, value in headers.items()]


def wire_of(headers: Any) -> dict[str, list[str]]:
    """Return all values of each header, bytes as text."""
    wire: dict[str, list[str]] = {}
    for name, value in headers.items() if isinstance(headers, Mapping) else headers:
        wire.setdefault(name, []).append(value.decode("latin-1") if isinstance(value, bytes) else str(value))
    return wire


def producers_of(spans: list[Span]) -> list[Sender]:
    """Return the spans of the kind that a message comes from, for a message to be from one of them."""
    return [span.own for span in spans if span.kind == "PRODUCER"]
