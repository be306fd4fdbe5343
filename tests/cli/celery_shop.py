"""A hooked Celery application with a real worker, which gets every message while somebody watches."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery.contrib.testing.worker import start_worker
from celery.signals import setup_logging

from integrations.celery_office import TICK, hooked, new_app, task, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery
    from kombu.entity import Queue

__all__ = ["Shop", "open_shop"]


class Shop:
    """An application whose task `shop.pay` notes what it is called with."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.paid: list[int] = []

        @task(app, name="shop.pay", bind=True, max_retries=1)
        def pay(running: Any, number: int) -> None:
            if number < 0 and running.request.retries == 0:
                raise running.retry(countdown=0)
            self.paid.append(number)

        self.pay: Any = pay

    def wait_for(self, *numbers: int) -> None:
        wait_until(lambda: sorted(self.paid) == sorted(numbers), f"only {self.paid} were paid")


@contextmanager
def open_shop(broker: str, queue: Queue, *, protocol: int = 2, with_worker: bool = True) -> Iterator[Shop]:
    app = new_app(broker, queue)
    app.conf.task_protocol = protocol
    shop = Shop(app)

    def leave_logging_alone(**_: object) -> None:
        """Keep Celery from taking the handlers off the root logger."""

    setup_logging.connect(leave_logging_alone)
    with hooked(app):
        if with_worker:
            started: Any = start_worker(app, pool="threads", concurrency=1, perform_ping_check=False)
            with started as worker:
                worker.timer.call_repeatedly(TICK, lambda: None)
                yield shop
        else:
            yield shop
    setup_logging.disconnect(leave_logging_alone)
    app.close()
