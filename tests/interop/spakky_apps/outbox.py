"""An application whose events wait in an outbox, and are relayed from there outside of any trace."""

# It runs where Spakky Framework is installed, which is not where it is checked.
# mypy: ignore-errors
# pyright: reportMissingImports=false

import asyncio
from queue import Queue

from saying import described, say

import spakky.event
import spakky.outbox
import spakky.tracing
from spakky.core.application.application import SpakkyApplication
from spakky.core.application.application_context import ApplicationContext
from spakky.core.common.mutability import immutable
from spakky.core.pod.annotations.pod import Pod
from spakky.data.persistency.aggregate_collector import AggregateCollector
from spakky.domain.models.event import AbstractIntegrationEvent
from spakky.event.event_publisher import (
    IAsyncEventPublisher,
    IAsyncEventTransport,
    IEventPublisher,
    IEventTransport,
)
from spakky.outbox.ports.storage import IAsyncOutboxStorage, IOutboxStorage
from spakky.tracing import TraceContext, W3CTracePropagator

PATIENCE = 60

sent = Queue()


@immutable
class Sold(AbstractIntegrationEvent):
    """Something was sold."""

    count: int


class Rows:
    """The table that the outbox of a database would be."""

    def __init__(self) -> None:
        self.waiting = []

    def save(self, message: object) -> None:
        self.waiting.append(message)

    def fetch_pending(self, limit: int, max_retry: int) -> list[object]:
        claimed, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return claimed

    def mark_published(self, message_id: object) -> None:
        """Keep nothing of it."""

    increment_retry = mark_abandoned = mark_published


@Pod()
class Storage(Rows, IOutboxStorage):
    """Keeps what is published by a thread."""

    def __init__(self) -> None:
        super().__init__()


@Pod()
class AsyncStorage(IAsyncOutboxStorage):
    """Keeps what is published by a coroutine."""

    def __init__(self) -> None:
        self.rows = Rows()

    async def save(self, message: object) -> None:
        self.rows.save(message)

    async def fetch_pending(self, limit: int, max_retry: int) -> list[object]:
        return self.rows.fetch_pending(limit, max_retry)

    async def mark_published(self, message_id: object) -> None:
        """Keep nothing of it."""

    increment_retry = mark_abandoned = mark_published


@Pod()
class Transport(IEventTransport):
    """Takes the place of a broker."""

    def send(
        self, event_name: str, payload: bytes, headers: dict[str, str], partition_key: object = None
    ) -> None:
        sent.put(headers)

    def flush(self) -> None:
        """Nothing waits."""


@Pod()
class AsyncTransport(IAsyncEventTransport):
    """Likewise."""

    async def send(
        self, event_name: str, payload: bytes, headers: dict[str, str], partition_key: object = None
    ) -> None:
        sent.put(headers)

    async def flush(self) -> None:
        """Nothing waits."""


def note(mode: str, context: TraceContext | None) -> None:
    """Say in which context an event was published, and which one its message has."""
    headers = sent.get(timeout=PATIENCE)
    arrived = W3CTracePropagator().extract(headers)
    say(mode=mode, sent=described(context), seen=described(arrived), written=sorted(headers))


def main() -> None:
    """Publish an event in each of two ways."""
    plugins = spakky.tracing, spakky.event, spakky.outbox
    app = SpakkyApplication(ApplicationContext()).load_plugins(include={each.PLUGIN_NAME for each in plugins})
    for pod in (AggregateCollector, Storage, AsyncStorage, Transport, AsyncTransport):
        app.add(pod)
    app.start()
    try:
        with TraceContext.use(TraceContext.new_root()) as context:
            app.container.get(IEventPublisher).publish(Sold(count=3))
        note("sync", context)
        with TraceContext.use(TraceContext.new_root()) as context:
            asyncio.run(app.container.get(IAsyncEventPublisher).publish(Sold(count=3)))
        note("async", context)
    finally:
        app.stop()


if __name__ == "__main__":
    main()
