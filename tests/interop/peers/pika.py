"""pika as OpenTelemetry instruments it."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

import pika
from opentelemetry.instrumentation.pika import PikaInstrumentor

from interop.peers.serving import PATIENCE, Client, Received, current_baggage, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pika.adapters.blocking_connection import BlockingChannel


class Pika(Client):
    """Publishes to queues that are there, and reads them by callbacks or generators."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def send(self, destination: str, headers: Any) -> None:
        with closing(self._connection()) as connection:
            properties = pika.BasicProperties(headers=headers)
            connection.channel().basic_publish("", destination, b"value", properties)

    async def receive(self, source: str, way: str) -> Received:
        with closing(self._connection()) as connection:
            channel = connection.channel()
            return _iterated(channel, source) if way == "generator" else _called(channel, source)

    def _connection(self) -> pika.BlockingConnection:
        return pika.BlockingConnection(pika.URLParameters(self._address))


def _iterated(channel: BlockingChannel, source: str) -> Received:
    for _, properties, _ in channel.consume(source, auto_ack=True, inactivity_timeout=PATIENCE):
        assert properties is not None, "no message arrived"
        return Received(properties.headers, current_baggage())
    raise AssertionError


def _called(channel: BlockingChannel, source: str) -> Received:
    received: list[Received] = []

    def handle(
        channel: BlockingChannel, method: object, properties: pika.BasicProperties, body: bytes
    ) -> None:
        received.append(Received(properties.headers, current_baggage()))

    channel.basic_consume(source, handle, auto_ack=True)
    deadline = time.monotonic() + PATIENCE
    while not received:
        assert time.monotonic() < deadline, "no message arrived"
        channel.connection.process_data_events(time_limit=1)
    return received[0]


@asynccontextmanager
async def connect(address: str) -> AsyncIterator[Pika]:
    PikaInstrumentor().instrument()
    yield Pika(address)


if __name__ == "__main__":
    run(connect)
