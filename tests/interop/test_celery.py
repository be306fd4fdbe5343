"""Celery between this library and OpenTelemetry, which is used by hand in the signals of Celery."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from interop.celery_app import new_app, send_order, work_on_order
from interop.continuing import ContinuingContract
from interop.sides import Handler, OverRabbitMQ
from spakky.tracing.integrations import celery

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery


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
