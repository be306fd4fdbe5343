"""What a real worker process loads: tasks that log, with the formats of Celery's own settings."""

from __future__ import annotations

import logging
import os
import time
import warnings
from typing import TYPE_CHECKING, Any

from celery import Celery, Task
from celery.utils.log import get_task_logger
from kombu.entity import Queue

from spakky.tracing.integrations import celery
from spakky.tracing.integrations.logging import install

if TYPE_CHECKING:
    from collections.abc import Callable

FORMAT = "%(processName)s|%(name)s|%(trace_id)s|%(span_id)s|%(trace_flags)s|%(message)s"

app = Celery("diary", broker=os.environ["DIARY_BROKER"])
app.conf.update(
    task_queues=[Queue(os.environ["DIARY_QUEUE"], auto_delete=True)],
    task_default_queue=os.environ["DIARY_QUEUE"],
    task_ignore_result=True,
    worker_enable_remote_control=False,
    worker_concurrency=2,
    worker_log_format=FORMAT,
    worker_task_log_format=FORMAT + "|%(task_id)s",
    broker_connection_retry_on_startup=True,
)
celery.install(app)
install()

log = get_task_logger("diary.tasks")
other_log = logging.getLogger("diary.elsewhere")


class PageError(Exception):
    """What goes wrong in a diary."""


def task(**options: Any) -> Callable[[Callable[..., None]], Any]:
    """Return Celery's own decorator, with a type."""
    decorator: Callable[[Callable[..., None]], Any] = app.task(**options)
    return decorator


@task()
def write(word: str, seconds: float = 0) -> None:
    log.info("%s by the task logger", word)
    other_log.info("%s by another logger", word)
    print(f"{word} by print")  # noqa: T201 - Celery logs it
    warnings.warn(f"{word} by a warning", UserWarning, stacklevel=1)
    time.sleep(seconds)
    log.info("%s at the end", word)


@task(bind=True, max_retries=1)
def write_again(self: Task, word: str) -> None:
    log.info("%s in attempt %d", word, self.request.retries + 1)
    raise self.retry(exc=PageError(word), countdown=0)
