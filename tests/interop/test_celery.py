"""Celery between this library and OpenTelemetry's instrumentation."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery import Celery
from opentelemetry.instrumentation.celery import CeleryInstrumentor

from interop.celery_app import new_app, send_order, work_on_order
from interop.continuing import ContinuingContract
from interop.sharing import SharingContract
from interop.sides import Handler, OverRabbitMQ
from spakky.tracing.integrations import celery

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.trace import TracerProvider


class OverCelery(OverRabbitMQ):
    async def send(self, destination: str, headers: Any = None, **options: Any) -> None:
        with self._hooked_app(destination, **options) as app:
            send_order(app, headers)

    async def send_bare(self, destination: str, headers: dict[str, str | bytes]) -> None:
        with new_app(self.address, destination) as app:
            send_order(app, headers)

    async def receive(self, source: str, handle: Handler) -> None:
        def work(headers: dict[str, Any]) -> None:
            asyncio.run(handle(headers))

        with self._hooked_app(source) as app:
            await asyncio.to_thread(work_on_order, app, work)

    @contextmanager
    def _hooked_app(self, queue: str, **options: Any) -> Iterator[Celery]:
        with new_app(self.address, queue) as app:
            celery.install(app, **options)
            try:
                yield app
            finally:
                celery.uninstall(app)


class TestInTwoProcesses(OverCelery, ContinuingContract):
    client = "celery"
    peer_ways = ["task"]
    ways_with_baggage = ["task"]


class TestInOneProcess(OverCelery, SharingContract):
    """We are hooked after OpenTelemetry, so what we write comes last."""

    we_write_last = True

    @contextmanager
    def instrumented(self, provider: TracerProvider) -> Iterator[None]:
        instrumentor: Any = CeleryInstrumentor
        instrumentor().instrument(tracer_provider=provider)
        try:
            yield
        finally:
            instrumentor().uninstrument()


class TestInOneProcessThatOpenTelemetryEntersLast(TestInOneProcess):
    """An app of the process was hooked before OpenTelemetry, so what that writes comes last."""

    we_write_last = False

    @contextmanager
    def instrumented(self, provider: TracerProvider) -> Iterator[None]:
        earlier = Celery(f"app-{uuid4().hex}", set_as_current=False)
        celery.install(earlier)
        try:
            with super().instrumented(provider):
                yield
        finally:
            celery.uninstall(earlier)
