"""What real worker processes load: actors that write down the context in which they run."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

from dramatiq import Broker, actor, set_broker
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import AsyncIO, CurrentMessage

from spakky.tracing.context import TraceContext
from spakky.tracing.integrations import dramatiq

URL = os.environ["MILL_BROKER"]
NAME = os.environ["MILL_NAME"]
NOTES = Path(os.environ["MILL_NOTES"])

broker: Broker = RabbitmqBroker(url=URL) if URL.startswith("amqp") else RedisBroker(url=URL, namespace=NAME)
for middleware in (AsyncIO(), CurrentMessage(), dramatiq.TraceMiddleware()):
    broker.add_middleware(middleware)
set_broker(broker)


class MillError(Exception):
    """What goes wrong in the mill."""


def note() -> int:
    """Append one line on the running actor and return how often it was retried."""
    context, message = TraceContext.get(), CurrentMessage.get_current_message()
    assert context is not None
    assert message is not None
    line = {
        "id": message.message_id,
        "trace_id": context.trace_id,
        "span_id": context.span_id,
        "parent_span_id": context.parent_span_id,
        "baggage": dict(context.baggage),
        "trace_state": context.trace_state.to_header(),
        "pid": os.getpid(),
    }
    with NOTES.open("a") as notes:  # one write to a file opened for appending stays whole
        notes.write(json.dumps(line) + "\n")
    retries: int = message.options.get("retries", 0)
    return retries


@actor(queue_name=NAME)
def look() -> None:
    note()


@actor(queue_name=NAME)
async def look_async() -> None:
    await asyncio.sleep(0.001)
    note()


@actor(queue_name=NAME, min_backoff=1, max_backoff=1)
def fails_twice() -> None:
    if note() < 2:
        raise MillError


@actor(queue_name=NAME)
def sends_on() -> None:
    note()
    look.send()


@actor(queue_name=NAME, time_limit=100, max_retries=0)
def takes_too_long() -> None:
    while True:
        time.sleep(0.01)  # an exception gets in between two naps
