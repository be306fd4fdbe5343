"""What a real worker process loads: tasks that write down the context in which they run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

from shop_broker import broker_of  # type: ignore[import-not-found] # of the worker's folder
from taskiq import AsyncBroker, Context, SimpleRetryMiddleware, TaskiqDepends

from spakky.tracing.context import TraceContext
from spakky.tracing.integrations import taskiq

NOTES = Path(os.environ["SHOP_NOTES"])

broker: AsyncBroker = broker_of(os.environ)
broker.add_middlewares(taskiq.TraceMiddleware(), SimpleRetryMiddleware())


class ShelfError(Exception):
    """What goes wrong in the shop."""


Running = Annotated[Context, TaskiqDepends()]


def task_id(context: Running) -> str:
    """Return the id of the running task."""
    return context.message.task_id


TaskId = Annotated[str, TaskiqDepends(task_id)]


def note(task_id: str) -> None:
    """Append one line on the running task; one write to a file opened for appending stays whole."""
    context = TraceContext.get()
    assert context is not None
    line = {
        "id": task_id,
        "trace_id": context.trace_id,
        "span_id": context.span_id,
        "pid": os.getpid(),
    }
    with NOTES.open("a") as notes:
        notes.write(json.dumps(line) + "\n")


@broker.task
async def look(task_id: TaskId) -> None:
    note(task_id)


@broker.task
def look_in_thread(task_id: TaskId) -> None:
    note(task_id)


@broker.task
def look_in_process(
    task_id: TaskId, context: Annotated[TraceContext, TaskiqDepends(TraceContext.get)]
) -> None:
    with TraceContext.use(context):
        note(task_id)


@broker.task
async def starts_another() -> None:
    await look.kiq()  # type: ignore[call-overload] # pyright: ignore[reportCallIssue] - a dependency is no argument of the caller's


@broker.task
async def fails_twice(context: Running) -> None:
    note(context.message.task_id)
    if context.message.labels.get("_retries", 0) < 2:
        raise ShelfError


@broker.task
async def requeues_once(context: Running) -> None:
    if "X-Taskiq-requeue" not in context.message.labels:
        await context.requeue()
