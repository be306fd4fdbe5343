"""An application that sends an event in each of two ways and handles both: `events.py PLUGIN`."""

# It runs where Spakky Framework is installed, which is not where it is checked.
# mypy: ignore-errors
# pyright: reportMissingImports=false

import asyncio
import os
import sys
from importlib import import_module
from queue import Queue
from types import ModuleType

from saying import described, say

import spakky.event
import spakky.tracing
from spakky.core.application.application import SpakkyApplication
from spakky.core.application.application_context import ApplicationContext
from spakky.core.common.mutability import immutable
from spakky.data.persistency.aggregate_collector import AggregateCollector
from spakky.domain.models.event import AbstractIntegrationEvent
from spakky.event.event_consumer import IAsyncEventConsumer, IEventConsumer
from spakky.event.event_publisher import IAsyncEventPublisher, IEventPublisher
from spakky.event.stereotype.event_handler import EventHandler, on_event
from spakky.tracing import TraceContext

PATIENCE = 60

seen = Queue()


@immutable
class Sold(AbstractIntegrationEvent):
    """An event that a thread handles; its name is that of its topic or queue."""

    count: int

    @property
    def event_name(self) -> str:
        return os.environ["SHOP_EVENT"]


@immutable
class Packed(AbstractIntegrationEvent):
    """An event that a coroutine handles."""

    count: int

    @property
    def event_name(self) -> str:
        return os.environ["SHOP_EVENT"] + "-async"


@EventHandler()
class Handler:
    """Handles both."""

    @on_event(Sold)
    def on_sold(self, event: Sold) -> None:
        assert event.count == 3
        seen.put(TraceContext.get())

    @on_event(Packed)
    async def on_packed(self, event: Packed) -> None:
        assert event.count == 4
        seen.put(TraceContext.get())


def main(plugin: str) -> None:
    """Send each event in a trace of its own, and print which one that was and what the handler saw."""
    plugins = [spakky.tracing, spakky.event, import_module(f"spakky.plugins.{plugin}")]
    app = SpakkyApplication(ApplicationContext())
    app.load_plugins(include={each.PLUGIN_NAME for each in plugins})
    app.add(AggregateCollector).add(Handler)
    bind_consumers(app, import_module(f"spakky.plugins.{plugin}.event.consumer"))
    app.start()
    try:
        with TraceContext.use(TraceContext.new_root()):
            app.container.get(IEventPublisher).publish(Sold(count=3))
            note("sync")
        with TraceContext.use(TraceContext.new_root()):
            asyncio.run(app.container.get(IAsyncEventPublisher).publish(Packed(count=4)))
            note("async")
    finally:
        app.stop()


def bind_consumers(app: SpakkyApplication, module: ModuleType) -> None:
    """Choose the broker's consumers: the mediator of spakky-event is one too, of events that never leave."""
    for consumer in vars(module).values():
        if isinstance(consumer, type) and consumer.__module__ == module.__name__:
            for interface in {IEventConsumer, IAsyncEventConsumer} & {*consumer.__mro__}:
                app.application_context.bind_to_type(interface, consumer)


def note(mode: str) -> None:
    """Say what was sent, and what the handler saw."""
    say(mode=mode, sent=described(TraceContext.get()), seen=described(seen.get(timeout=PATIENCE)))


if __name__ == "__main__":
    main(sys.argv[1])
