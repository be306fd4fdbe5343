"""What a real worker process loads: tasks that write down the context in which they run."""

from __future__ import annotations

import json
import os
from pathlib import Path

from shop_broker import broker_of
from taskiq import Context, SimpleRetryMiddleware, TaskiqDepends

from spakky.tracing.context import TraceContext
from spakky.tracing.integrations import taskiq

NOTES = Path(os.environ["SHOP_NOTES"])

broker = broker_of(os.environ)
broker.add_middlewares(taskiq.TraceMiddleware(), SimpleRetryMiddleware())


class ShelfError(Exception):
    """What goes wrong in the shop."""


def task_id(context: Context = TaskiqDepends()) -> str:
    """Return the id of the running task."""
    return context.message.task_id


def note(task_id: str, **more: object) -> None:
    """Append one line on the running task; one write to a file opened for appending stays whole."""
    context = TraceContext.get()
    assert context is not None
    line = {
        "id": task_id,
        "trace_id": context.trace_id,
        "span_id": context.span_id,
        "pid": os.getpid(),
        **more,
    }
    with NOTES.open("a") as notes:
        notes.write(json.dumps(line) + "\n")


@broker.task
async def look(task_id: str = TaskiqDepends(task_id)) -> None:
    note(task_id)


@broker.task
def look_in_thread(task_id: str = TaskiqDepends(task_id)) -> None:
    note(task_id)


@broker.task
def look_in_process(
    task_id: str = TaskiqDepends(task_id), context: TraceContext = TaskiqDepends(TraceContext.get)
) -> None:
    is_there = TraceContext.get() is not None
    with TraceContext.use(context):
        note(task_id, is_there_without=is_there)


@broker.task
async def starts_another() -> None:
    await look.kiq()


@broker.task
async def fails_twice(context: Context = TaskiqDepends()) -> None:
    note(context.message.task_id)
    if context.message.labels.get("_retries", 0) < 2:
        raise ShelfError


@broker.task
async def requeues_once(context: Context = TaskiqDepends()) -> None:
    if "X-Taskiq-requeue" not in context.message.labels:
        await context.requeue()
