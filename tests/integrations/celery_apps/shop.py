"""What a real worker process loads: tasks that write down the context in which they run."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery import Celery, Task
from kombu.entity import Queue

from spakky.tracing.context import TraceContext
from spakky.tracing.integrations import celery

if TYPE_CHECKING:
    from collections.abc import Callable

NOTES = Path(os.environ["SHOP_NOTES"])

app = Celery("shop", broker=os.environ["SHOP_BROKER"], backend=os.environ["SHOP_RESULTS"])
app.conf.update(
    task_queues=[Queue(os.environ["SHOP_QUEUE"], auto_delete=True)],
    task_default_queue=os.environ["SHOP_QUEUE"],
    task_ignore_result=True,
    worker_enable_remote_control=False,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)
app.conf.update(json.loads(os.environ["SHOP_SETTINGS"]))
celery.install(app)


def task(**options: Any) -> Callable[[Callable[..., None]], Any]:
    """Return Celery's own decorator, with a type."""
    decorator: Callable[[Callable[..., None]], Any] = app.task(bind=True, **options)
    return decorator


class ShelfError(Exception):
    """What goes wrong in the shop."""


def note(running: Task) -> None:
    """Append one line on the running task; one write to a file opened for appending stays whole."""
    context = TraceContext.get()
    assert context is not None
    line = {
        "id": running.request.id,
        "attempt": running.request.retries + 1,
        "trace_id": context.trace_id,
        "span_id": context.span_id,
        "parent_span_id": context.parent_span_id,
        "baggage": dict(context.baggage),
        "pid": os.getpid(),
    }
    with NOTES.open("a") as notes:
        notes.write(json.dumps(line) + "\n")


@task()
def look(self: Task, seconds: float = 0) -> None:
    time.sleep(seconds)
    note(self)


@task(autoretry_for=(ShelfError,), retry_kwargs={"countdown": 0.01})
def fails_once(self: Task) -> None:
    note(self)
    if self.request.retries == 0:
        raise ShelfError


@task()
def retries_twice(self: Task) -> None:
    note(self)
    if self.request.retries < 2:
        raise self.retry(exc=ShelfError(), countdown=0.01)


@task()
def starts_another(self: Task, task_id: str) -> None:
    note(self)
    look.apply_async(task_id=task_id)


@task()
def fails(self: Task) -> None:
    note(self)
    raise ShelfError
