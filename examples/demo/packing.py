"""packing: the Celery application, for the worker and for whoever starts its tasks."""

import json
import logging
import os

from celery import Celery, Task
from celery.signals import setup_logging, worker_ready
from kombu.entity import Exchange, Queue
from kombu.transport import TRANSPORT_ALIASES

from spakky.tracing.integrations import celery

from .observing import observe

log = logging.getLogger("demo.packing")

TASKS = os.environ["DEMO_TASKS"]

TRANSPORT_ALIASES["files"] = "examples.demo.files:Transport"

app = Celery("packing", broker=os.environ["CELERY_BROKER_URL"])
app.conf.update(
    broker_transport_options=json.loads(os.environ["DEMO_CELERY_TRANSPORT"]),
    task_default_queue=TASKS,
    task_queues=[Queue(TASKS, Exchange(TASKS, auto_delete=True), routing_key=TASKS, auto_delete=True)],
    task_ignore_result=True,
    worker_enable_remote_control=False,
)
celery.install(app)


class BoxTooSmallError(Exception):
    """The order does not fit."""


@app.task(name="pack", bind=True, autoretry_for=(BoxTooSmallError,), retry_kwargs={"countdown": 0.5})  # type: ignore[untyped-decorator]
def pack(self: Task, order: int) -> None:
    """Pack an order, which takes two attempts."""
    if self.request.retries == 0:
        log.info("box is too small for order %d, trying again", order)
        raise BoxTooSmallError
    log.info("packed order %d", order)
    app.send_task("notify", [order])


@app.task(name="notify")  # type: ignore[untyped-decorator]
def notify(order: int) -> None:
    """Tell the customer."""
    log.info("told the customer that order %d is on its way", order)


def observe_worker(**_: object) -> None:
    """Log in the demo's way; the signal is sent in a worker only, before it forks."""
    observe("worker")


def say_ready(**_: object) -> None:
    """Tell the demo that tasks may come."""
    log.info("ready")


setup_logging.connect(observe_worker)
worker_ready.connect(say_ready)
