"""Celery, instrumented by OpenTelemetry."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.celery import CeleryInstrumentor

from interop.celery_app import new_app, send_order, work_on_order
from interop.peers.serving import Client, Received, current_baggage, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Celery(Client):
    """Sends a task to queues that are there, and works on each by a worker of its own."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def send(self, destination: str, headers: Any) -> None:
        with new_app(self._address, destination) as app:
            send_order(app, headers)

    async def receive(self, source: str, way: str) -> Received:
        received: list[Received] = []

        def work(headers: dict[str, Any]) -> None:
            received.append(Received(headers, current_baggage()))

        with new_app(self._address, source) as app:
            work_on_order(app, work)
        [only] = received
        return only


@asynccontextmanager
async def connect(address: str) -> AsyncIterator[Celery]:
    instrumentor: Any = CeleryInstrumentor
    instrumentor().instrument()
    yield Celery(address)


if __name__ == "__main__":
    run(connect)
