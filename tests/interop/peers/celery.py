"""Celery with OpenTelemetry by hand, in the signals of its instrumentation, which is not installed here."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from celery.signals import before_task_publish
from opentelemetry import context, propagate, trace
from opentelemetry.trace import SpanKind

from interop.celery_app import new_app, send_order, work_on_order
from interop.peers.serving import Client, Received, current_baggage, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_TRACER = trace.get_tracer("by hand")


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
            token = context.attach(propagate.extract(headers))
            try:
                with _TRACER.start_as_current_span("run", kind=SpanKind.CONSUMER):
                    received.append(Received(headers, current_baggage()))
            finally:
                context.detach(token)

        with new_app(self._address, source) as app:
            work_on_order(app, work)
        [only] = received
        return only


def _inject(headers: dict[str, Any], **_: object) -> None:
    with _TRACER.start_as_current_span("send", kind=SpanKind.PRODUCER):
        propagate.inject(headers)


@asynccontextmanager
async def connect(address: str) -> AsyncIterator[Celery]:
    before_task_publish.connect(_inject, weak=False)
    yield Celery(address)


if __name__ == "__main__":
    run(connect)
