"""dramatiq on real brokers, with real workers: in threads of this process, and in processes of their own.

What is the same on every broker is shown on dramatiq's own `StubBroker`, with a real worker as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import sys
import threading
import time
from contextvars import copy_context
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from dramatiq import Message, Middleware, Retry, Worker, group, pipeline
from dramatiq.brokers.stub import StubBroker
from dramatiq.errors import QueueNotFound
from dramatiq.middleware import AsyncIO, CurrentMessage, GroupCallbacks, SkipMessage
from dramatiq.rate_limits.backends import StubBackend

from brokers.guarded import Guarded
from contract.contexts import STALE, TRACEPARENT, full_context
from contract.receiving import SENDER, HandlerError, ReceivingContract
from contract.sending import SendingContract, Wire, kept
from integrations.dramatiq_works import AT_ONCE, OWN_OPTIONS, PATIENCE, Mailbox, Works, actor, new_broker, traced
from spakky.tracing.baggage import Baggage
from spakky.tracing.boundaries.publish import Publishing
from spakky.tracing.context import Scope, TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.integrations import dramatiq
from spakky.tracing.recorder import JsonLinesRecorder, MemoryRecorder, read_spans
from spakky.tracing.switch import switch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dramatiq import Broker, MessageProxy

    from spakky.tracing.recorder import Span

HOSTILE = ["", "00-bad", "x" * 1_000_000, None, 5, True, 1.5, [5, None], {"a": 1}, f"{TRACEPARENT}\n"]


class Keeper(logging.Handler):
    """Keeps what dramatiq's brokers and workers log of failures of their own."""

    def __init__(self, kept: list[logging.LogRecord]) -> None:
        super().__init__(logging.CRITICAL)
        self._kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        self._kept.append(record)


@pytest.fixture(autouse=True)
def no_hook_fails() -> Iterator[None]:
    """Dramatiq logs what a hook raises, and goes on."""
    failures: list[logging.LogRecord] = []
    handler = Keeper(failures)
    logging.getLogger("dramatiq").addHandler(handler)
    yield
    logging.getLogger("dramatiq").removeHandler(handler)
    assert [record.getMessage() for record in failures if "TraceMiddleware" in record.getMessage()] == []


@pytest.fixture(scope="module", params=["amqp_url", "redis_url"], ids=["rabbitmq", "redis"])
def url(request: pytest.FixtureRequest, amqp_url: str, redis_url: str) -> str:
    return {"amqp_url": amqp_url, "redis_url": redis_url}[request.param]


@pytest.fixture(scope="module")
def mailbox(url: str) -> Iterator[Mailbox]:
    with Mailbox(url).open() as mailbox:
        yield mailbox


@pytest.fixture(scope="module")
def real_works(url: str) -> Iterator[Works]:
    with Works(url).open() as works:
        yield works


@pytest.fixture
def works() -> Iterator[Works]:
    with Works().open() as works:
        yield works


@pytest.fixture
def recorder() -> MemoryRecorder:
    return MemoryRecorder()


class TestSending(SendingContract):
    ways = ["send_with_options", "enqueue", "pipeline", "group", "delay"]
    recorded_ways = ways
    foreign = {"a": "text", "b": 7, "c": [1, "two"], "d": {"nested": "table"}, "e": None, "f": True}

    @pytest.fixture(autouse=True)
    def _on(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self.is_delayed = False

    async def send(self, way: str, headers: Any, *, item: object = 1, **options: Any) -> None:
        broker, order = self.mailbox.broker, self.mailbox.order
        self.is_delayed = way == "delay"
        with traced(broker, **options):
            if way == "send_with_options":
                order.send_with_options(args=(item,), **(headers or {}))
            elif way == "delay":
                order.send_with_options(args=(item,), delay=10, **(headers or {}))
            else:
                given = {} if headers is None else headers
                message = Message(self.mailbox.queue, "order", (item,), {}, options=given)
                if way == "enqueue":
                    broker.enqueue(message)
                elif way == "pipeline":
                    pipeline([message], broker=broker).run()
                else:
                    group([message], broker=broker).run()

    async def arrived(self) -> Wire:
        options = self.mailbox.message(delayed=self.is_delayed).options
        return {name: [value] for name, value in options.items() if name not in OWN_OPTIONS}

    def native(self, headers: dict[str, str]) -> dict[str, str]:
        return dict(headers)

    async def fail_to_send(self, way: str, **options: Any) -> BaseException:
        """Send what cannot be encoded; whoever keeps the traceback keeps the message, so it is dropped."""
        try:
            await self.send(way, None, item=object(), **options)
        except TypeError as error:
            return error.with_traceback(None)
        pytest.fail("it was sent")


class TestReceiving(ReceivingContract):
    """T-04: baggage and trace, over RabbitMQ and Redis."""

    ways = ["actor"]
    sees_errors = ways
    hostile_values = HOSTILE

    @pytest.fixture(autouse=True)
    def _on(self, real_works: Works) -> None:
        self.works = real_works

    async def receive(
        self, way: str, headers: dict[str, Any], body: Callable[[], None], **options: Any
    ) -> None:
        with self.works.ambient(), traced(self.works.broker, **options):
            self.works.run(body, headers)

    async def test_a_task_started_in_the_handler_keeps_the_context(self, way: str) -> None:
        """A sync actor brings its own event loop."""
        seen: list[TraceContext | None] = []

        async def look() -> None:
            seen.append(TraceContext.get())

        async def start() -> None:
            await asyncio.create_task(look())

        await self.receive(way, {"traceparent": TRACEPARENT}, lambda: asyncio.run(start()))

        assert [context and context.trace_id for context in seen] == [SENDER.trace_id]

    async def test_a_thread_started_in_the_handler_inherits_the_context(self, way: str) -> None:
        """Without an event loop a thread gets the context as `asyncio.to_thread` hands it over."""
        seen: list[TraceContext | None] = []
        go_on = threading.Event()
        threads: list[threading.Thread] = []

        def look_later() -> None:
            go_on.wait(PATIENCE)
            seen.append(TraceContext.get())

        def start() -> None:
            threads.append(threading.Thread(target=copy_context().run, args=[look_later]))
            threads[0].start()

        await self.receive(way, {"traceparent": TRACEPARENT}, start)
        go_on.set()
        threads[0].join()

        assert [context and context.trace_id for context in seen] == [SENDER.trace_id]
