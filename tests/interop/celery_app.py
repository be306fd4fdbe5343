"""Celery applications of one queue, for either library; neither is imported here."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.signals import setup_logging
from kombu.entity import Queue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["FIELDS", "new_app", "send_order", "work_on_order"]

FIELDS: Final = ("traceparent", "tracestate", "baggage", "elasticapmtraceparent")
"""The headers that are looked for in a request, which has all of them as attributes."""

_PATIENCE: Final = 15
_TICK: Final = 0.02  # the worker's loop may sleep for ten seconds unless something wakes it


@contextmanager
def new_app(broker: str, queue: str) -> Iterator[Celery]:
    """Give an application that sends to and works on a queue that is there."""
    app = Celery(f"app-{uuid4().hex}", broker=broker, set_as_current=False)
    app.conf.update(
        task_queues=[Queue(queue, no_declare=True)],
        task_default_queue=queue,
        task_ignore_result=True,
        worker_enable_remote_control=False,
        worker_prefetch_multiplier=1,
        broker_connection_retry_on_startup=True,
    )
    try:
        yield app
    finally:
        app.close()


def send_order(app: Celery, headers: dict[str, Any] | None) -> None:
    """Send the task that `work_on_order` runs."""
    app.send_task("order", headers=headers, ignore_result=True)


def work_on_order(app: Celery, work: Callable[[dict[str, Any]], None]) -> None:
    """Run *work* with the headers of the first order, in a task of a worker in a thread."""
    done = threading.Event()
    raised: list[BaseException] = []

    def order(task: Any) -> None:
        try:
            work({name: value for name in FIELDS if (value := task.request.get(name)) is not None})
        except BaseException as error:
            raised.append(error)
            raise
        finally:
            done.set()

    app.task(order, name="order", bind=True, shared=False)
    with _working(app):
        assert done.wait(_PATIENCE), "no order arrived"
    for error in raised:
        raise error


@contextmanager
def _working(app: Celery) -> Iterator[None]:
    def leave_logging_alone(**_: object) -> None:
        """Keep Celery from taking the handlers off the root logger."""

    setup_logging.connect(leave_logging_alone)
    started: Any = start_worker(app, pool="threads", perform_ping_check=False)
    try:
        with started as worker:
            worker.timer.call_repeatedly(_TICK, lambda: None)
            yield
    finally:
        setup_logging.disconnect(leave_logging_alone)
