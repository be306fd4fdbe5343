"""More tasks for a real worker process: dishes that are cooked together, and what goes wrong with them.

A worker of `shop.py` has them with the setting `include`.
"""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any

from celery import Task, signature
from shop import NOTES, ShelfError, app  # type: ignore[import-not-found]

from spakky.tracing.context import TraceContext
from spakky.tracing.integrations import celery

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery.app.task import Context

celery.install(
    app, relation={"kitchen.linked": "link", "kitchen.linked_hang": "link", "kitchen.rooted": "root"}
)


def task(**options: Any) -> Callable[[Callable[..., object]], Any]:
    """Return Celery's own decorator, with a type."""
    decorator: Callable[[Callable[..., object]], Any] = app.task(**options)
    return decorator


def note(request: Context, task_id: str | None = None) -> str:
    """Append one line on a running task, and return the id of its run; empty if there is none."""
    context = TraceContext.get()
    line = {
        "id": task_id or request.id,
        "group": request.group,
        "attempt": request.retries + 1,
        "trace_id": context and context.trace_id,
        "span_id": context and context.span_id,
        "parent_span_id": context and context.parent_span_id,
        "baggage": dict(context.baggage) if context else {},
        "headers": sorted(request.headers or {}),
        "delivery_info": sorted(request.delivery_info or {}),
        "properties": sorted(request.properties or {}),
        "stamps": request.stamps,
    }
    with NOTES.open("a") as notes:
        notes.write(json.dumps(line) + "\n")
    return context.span_id if context else ""


@task(bind=True)
def cook(self: Task, *_: object, seconds: float = 0) -> str:
    time.sleep(seconds)
    return note(self.request)


@task(bind=True)
def linked(self: Task, *_: object) -> str:
    return note(self.request)


@task(bind=True)
def rooted(self: Task, *_: object) -> str:
    return note(self.request)


@task(bind=True)
def cooks_again(self: Task, *_: object) -> str:
    """Succeed in the second attempt."""
    span_id = note(self.request)
    if self.request.retries == 0:
        raise self.retry(countdown=0.01)
    return span_id


@task(bind=True)
def burns(self: Task, *_: object, seconds: float = 0) -> None:
    time.sleep(seconds)
    note(self.request)
    raise ShelfError


@task(bind=True)
def is_replaced(self: Task, by: dict[str, Any]) -> object:
    note(self.request)
    return self.replace(signature(by, app=app))


def _hang(self: Task, *_: object) -> None:
    note(self.request)
    time.sleep(60)


hang = task(name="kitchen.hang", bind=True)(_hang)
linked_hang = task(name="kitchen.linked_hang", bind=True)(_hang)


@task(bind=True)
def dies(self: Task, *_: object) -> None:
    note(self.request)
    os.kill(os.getpid(), signal.SIGKILL)


@task(bind=True, retry_on_worker_lost=True, default_retry_delay=0)
def dies_once(self: Task, *_: object) -> None:
    note(self.request)
    if self.request.retries == 0:
        os.kill(os.getpid(), signal.SIGKILL)


@task()
def complain_in_place(request: Context, error: object, traceback: object, *, key: str = "") -> None:
    """Note a failure; Celery calls what takes so much in the place where the task failed."""
    del error, traceback
    note(request, key)


@task()
def taste(*items: object) -> None:
    """Note one item of many in one task."""
    running: Any = app.current_task
    note(running.request, f"{items[0]}")


@task()
def rinse(*_: object) -> None:
    """Leave no note."""
