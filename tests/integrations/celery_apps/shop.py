"""What a real worker process loads: tasks that write down the context in which they run."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from celery import Celery, Task, signals
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from celery.worker.request import Request
from kombu.entity import Queue

from spakky.tracing.boundaries.process import Processing
from spakky.tracing.boundaries.publish import Publishing
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
    worker_log_format="%(levelname)s %(name)s %(message)s",
    worker_task_log_format="%(levelname)s %(name)s %(message)s",
    broker_connection_retry_on_startup=True,
)
app.conf.update(json.loads(os.environ["SHOP_SETTINGS"]))

outside: ContextVar[TraceContext | None] = ContextVar("shop.outside", default=None)


def look_outside(**_: object) -> None:
    """Keep what is current before the task, as what came before it has left it: Celery asks us first."""
    outside.set(TraceContext.get())


signals.task_prerun.connect(look_outside)
celery.install(app)
if "SHOP_AMBIENT" in os.environ:
    TraceContext.set(TraceContext.from_traceparent(os.environ["SHOP_AMBIENT"]))


def task(**options: Any) -> Callable[[Callable[..., None]], Any]:
    """Return Celery's own decorator, with a type."""
    decorator: Callable[[Callable[..., None]], Any] = app.task(bind=True, **options)
    return decorator


class ShelfError(Exception):
    """What goes wrong in the shop."""


def note(running: Task, **more: object) -> None:
    """Append one line on the running task; one write to a file opened for appending stays whole."""
    context = TraceContext.get()
    assert context is not None
    before, headers = outside.get(), running.request.headers or {}
    line = {
        "id": running.request.id,
        "attempt": running.request.retries + 1,
        "trace_id": context.trace_id,
        "span_id": context.span_id,
        "parent_span_id": context.parent_span_id,
        "baggage": dict(context.baggage),
        "shelf": running.request.get("shelf") or headers.get("shelf"),
        "size": len(repr(headers)),
        "outside": before and before.to_traceparent(),
        "pid": os.getpid(),
        **more,
    }
    with NOTES.open("a") as notes:
        notes.write(json.dumps(line) + "\n")


def is_again(running: Task) -> bool:
    """Tell whether the running task is retried or its message redelivered."""
    return bool(running.request.retries or running.request.delivery_info.get("redelivered"))


@task()
def look(self: Task, seconds: float = 0) -> None:
    time.sleep(seconds)
    note(self)


@task()
def looks_around(self: Task) -> None:
    """Count what is alive of us in this process; this run itself is one of them."""
    gc.collect()
    kinds = [type(each) for each in gc.get_objects() if isinstance(each, (Processing, Publishing))]
    note(self, alive=sorted(kind.__name__ for kind in kinds))


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
def is_retried_and_goes_on(self: Task, task_id: str) -> None:
    """Start another task after the next attempt is on its way, which may be in any order with it."""
    note(self)
    if self.request.retries == 0:
        self.retry(countdown=0, throw=False)
        look.apply_async(task_id=task_id)


@task(max_retries=10)
def retries_ten_times(self: Task) -> None:
    note(self)
    if self.request.retries < 10:
        raise self.retry(countdown=0)


@task()
def starts_another(self: Task, task_id: str) -> None:
    note(self)
    look.apply_async(task_id=task_id)


@task()
def starts_in_every_way(self: Task, task_ids: dict[str, str]) -> None:
    """Start a task in every way, with the ids by the names of the ways."""
    look.apply_async(task_id=task_ids["apply_async"], headers={"shelf": "7"})
    app.send_task("shop.look", task_id=task_ids["send_task"])
    app.signature("shop.look").apply_async(task_id=task_ids["signature"])
    look.apply(task_id=task_ids["apply"])
    look.s().set(task_id=task_ids["delay"]).delay()
    note(self)


@task()
def fails(self: Task) -> None:
    note(self)
    raise ShelfError


@task()
def ignores(self: Task) -> None:
    note(self)
    raise Ignore


@task()
def rejects(self: Task) -> None:
    note(self)
    raise Reject(ShelfError(), requeue=False)


@task(acks_late=True)
def puts_back(self: Task) -> None:
    note(self)
    if not is_again(self):
        raise Reject(requeue=True)


@task()
def stops_its_worker(self: Task) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
    note(self)


@task()
def gives_up_the_process(self: Task) -> None:
    note(self)
    sys.exit()


@task()
def waits(self: Task) -> None:
    note(self)
    time.sleep(60)


@task()
def hurries(self: Task) -> None:
    note(self)
    try:
        time.sleep(60)
    except SoftTimeLimitExceeded:
        note(self, is_late=True)


class OwnRequest(Request):
    """A request as a task may have its own: what it says of its delivery cannot be changed."""

    @property
    def delivery_info(self) -> Any:
        return MappingProxyType(super().delivery_info)


@task(Request=OwnRequest)
def waits_in_its_own_request(self: Task) -> None:
    note(self)
    time.sleep(60)


@task()
def is_killed(self: Task) -> None:
    note(self)
    os.kill(os.getpid(), signal.SIGKILL)


def _is_killed_once(self: Task) -> None:
    note(self)
    if not is_again(self):
        os.kill(os.getpid(), signal.SIGKILL)


is_redelivered = task(name="shop.is_redelivered", acks_late=True, reject_on_worker_lost=True)(_is_killed_once)
is_sent_again = task(name="shop.is_sent_again", retry_on_worker_lost=True, default_retry_delay=0)(
    _is_killed_once
)


if "SHOP_TELEMETRY" in os.environ:
    import shop_telemetry  # type: ignore[import-not-found] # noqa: F401 - tasks of its own
