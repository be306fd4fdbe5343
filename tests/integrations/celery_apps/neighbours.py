"""An application in which several tools are hooked, in the order that the environment says.

A worker loads it; run as a program, it publishes on request: each line of JSON on the standard input is
answered by one on the standard output. Each tool is in a module of its own (`with_ours` and the like), and
what is not hooked is not imported.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from celery import Celery, Task, group
from celery.beat import ScheduleEntry, Scheduler
from celery.exceptions import OperationalError
from celery.schedules import schedule
from kombu.entity import Queue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOLDER: Final = Path(os.environ["NEIGHBOURS_FOLDER"])
QUEUE: Final = os.environ["NEIGHBOURS_QUEUE"]
NOWHERE: Final = os.environ["NEIGHBOURS_NOWHERE"]
FIELDS: Final = ("traceparent", "tracestate", "baggage", "sentry-trace")

app = Celery("neighbours", broker=os.environ["NEIGHBOURS_BROKER"])
app.conf.update(
    task_queues=[Queue(QUEUE)],
    task_default_queue=QUEUE,
    task_create_missing_queues=True,
    task_ignore_result=True,
    task_publish_retry=False,
    worker_enable_remote_control=False,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)


TOOLS: Final = {name: import_module(f"with_{name}") for name in os.environ["NEIGHBOURS_TOOLS"].split(",")}

for tool in TOOLS.values():
    tool.hook(app, FOLDER)


def current() -> dict[str, Any]:
    """Return what each tool takes for the current context."""
    return {name: tool.look() for name, tool in TOOLS.items()}


def task(**options: Any) -> Callable[[Callable[..., None]], Any]:
    """Return Celery's own decorator, with a type."""
    decorator: Callable[[Callable[..., None]], Any] = app.task(bind=True, **options)
    return decorator


def note(running: Task) -> None:
    """Write down what each tool takes for the context of the running task, and its headers in both places."""
    request = running.request
    line = {
        "id": request.id,
        "attempt": request.retries + 1,
        "attributes": {name: value for name in FIELDS if (value := request.get(name)) is not None},
        "headers": request.headers,
        **current(),
    }
    with (FOLDER / "notes.jsonl").open("a") as notes:
        notes.write(json.dumps(line, default=str) + "\n")


@task(name="neighbours.look")
def look(self: Task) -> None:
    note(self)


@task(name="neighbours.retries_twice")
def retries_twice(self: Task) -> None:
    note(self)
    if self.request.retries < 2:
        raise self.retry(countdown=0.01)


@task(name="neighbours.starts_another")
def starts_another(self: Task, task_id: str) -> None:
    note(self)
    look.apply_async(task_id=task_id)


@task(name="neighbours.publishes_in_vain")
def publishes_in_vain(self: Task) -> None:
    publish_in_vain()
    note(self)


def publish_in_vain() -> None:
    at_once = {"max_retries": 1, "interval_start": 0, "interval_step": 0}
    nowhere = app.connection_for_write(NOWHERE, transport_options=at_once)
    try:
        look.apply_async(connection=nowhere, retry=False)
    except (OperationalError, OSError):
        return
    message = "a broker answered that is not there"
    raise AssertionError(message)


@contextmanager
def inside(names: list[str]) -> Iterator[None]:
    """Be in a context of each of these tools, as in a request that came from elsewhere."""
    with ExitStack() as stack:
        for name in names:
            TOOLS[name].enter(stack)
        yield


def publish(
    way: str, destination: str, name: str, args: list[Any], headers: dict[str, Any] | None
) -> str | None:
    """Publish a task in one of the ways that Celery has; return its id if it says so."""
    published: Any = app.tasks[f"neighbours.{name}"]
    if way == "in vain":
        publish_in_vain()
        return None
    if way == "tick":
        options = {"queue": destination, "task_id": uuid4().hex}
        entry = ScheduleEntry("tick", published.name, schedule=schedule(60), options=options, app=app)
        Scheduler(app, lazy=True).apply_entry(entry)
        return options["task_id"]
    if way == "send_task":
        result: Any = app.send_task(published.name, args, headers=headers, queue=destination)
    elif way == "group":
        result = group(published.s(*args)).apply_async(headers=headers, queue=destination)
    else:
        result = published.apply_async(args, headers=headers, queue=destination)
    return str(result.id)


def answer(inside_of: list[str], **request: Any) -> dict[str, Any]:
    with inside(inside_of):
        before = current()
        task_id = publish(**request)
        after = current()
    return {"id": task_id, "before": before, "after": after, "headers": request["headers"], "left": current()}


def serve() -> None:
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(**json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
