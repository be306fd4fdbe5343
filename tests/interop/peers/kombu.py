"""Bare kombu, with OpenTelemetry's propagation by hand: there is no instrumentation of it."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from kombu.connection import Connection
from kombu.entity import Queue
from kombu.message import Message
from opentelemetry import context, propagate, trace
from opentelemetry.trace import SpanKind

from interop.peers.serving import PATIENCE, Client, Received, current_baggage, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_TRACER = trace.get_tracer("by hand")


class Kombu(Client):
    """Publishes to queues that are there, and gets from them."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def send(self, destination: str, headers: Any) -> None:
        carrier = dict(headers or {})
        with (
            Connection(self._address) as connection,
            _TRACER.start_as_current_span("send", kind=SpanKind.PRODUCER),
        ):
            propagate.inject(carrier)
            connection.Producer().publish("value", routing_key=destination, headers=carrier)

    async def receive(self, source: str, way: str) -> Received:
        with Connection(self._address) as connection:
            message = _message(Queue(source)(connection.default_channel))
        token = context.attach(propagate.extract(message.headers))
        try:
            with _TRACER.start_as_current_span("process", kind=SpanKind.CONSUMER):
                return Received(message.headers, current_baggage())
        finally:
            context.detach(token)


def _message(queue: Queue) -> Message:
    deadline = time.monotonic() + PATIENCE
    while (message := queue.get(no_ack=True)) is None:
        assert time.monotonic() < deadline, "no message arrived"
        time.sleep(0.005)
    assert isinstance(message, Message)
    return message


@asynccontextmanager
async def connect(address: str) -> AsyncIterator[Kombu]:
    yield Kombu(address)


if __name__ == "__main__":
    run(connect)
