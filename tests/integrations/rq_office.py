"""Queues of RQ on a real Redis, and workers in this process that run what tests hand over."""

from __future__ import annotations

import contextlib
import signal
from types import new_class
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from rq import Queue, SimpleWorker
from rq.job import Job

from spakky.tracing.integrations.rq import TraceJob, TraceQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis import Redis

CALL: Final = "integrations.rq_office.call"
CALL_BACK: Final = "integrations.rq_office.called_back"

_bodies: Final[dict[str, Callable[[], object]]] = {}


def call(key: str) -> object:
    """Run what a test has left under *key*: the function of all jobs here."""
    return _bodies[key]()


def called_back(job: Job, *_: object) -> None:
    """Run what a test has left under the id of a job: all callbacks here."""
    _bodies[job.id]()


async def called_back_later(*_: object) -> None:
    """Be what RQ refuses to call."""


def jobs_with(**options: Any) -> type[TraceJob]:
    """Return a class of jobs with options."""
    made: type[TraceJob] = new_class("OwnJob", (TraceJob,), options)
    return made


def queues_with(**options: Any) -> type[TraceQueue]:
    """Return a class of queues with options."""
    made: type[TraceQueue] = new_class("OwnQueue", (TraceQueue,), options)
    return made


class Office:
    """A queue of RQ with a name of its own.

    Attributes:
        name: The name of the queue.
        bare: The queue as RQ makes it.
    """

    def __init__(self, connection: Redis, serializer: Any = None) -> None:
        self.connection = connection
        self.serializer = serializer
        self.name = f"office-{uuid4().hex}"
        self.bare = self.queue(Queue)

    def queue(self, kind: type[Queue], **options: Any) -> Queue:
        """Return the queue as *kind* makes it."""
        return kind(self.name, connection=self.connection, serializer=self.serializer, **options)

    def take(self, body: Callable[[], object], key: str | None = None) -> str:
        """Return the key under which `call` and `called_back` run *body*."""
        key = key or uuid4().hex
        _bodies[key] = body
        return key

    def work(self, job_class: type[Job] = TraceJob, **options: Any) -> None:
        """Run all that is in the queue, in this thread."""
        worker = SimpleWorker(
            [self.name],
            connection=self.connection,
            job_class=job_class,
            serializer=self.serializer,
            **options,
        )
        with _signals_kept():
            worker.work(burst=True, logging_level="CRITICAL")

    def arrived(self) -> Job:
        """Return the next job that was sent, read by the bare client, and take it off."""
        scheduled = self.bare.scheduled_job_registry
        job_id = (self.bare.get_job_ids() + scheduled.get_job_ids())[0]
        job = Job.fetch(job_id, connection=self.connection, serializer=self.serializer)
        scheduled.remove(job_id)
        self.bare.remove(job_id)
        job.delete()
        return job

    def clear(self) -> None:
        """Leave nothing of the queue in Redis."""
        _bodies.clear()
        for registry in (self.bare.failed_job_registry, self.bare.finished_job_registry):
            for job_id in registry.get_job_ids():
                registry.remove(job_id, delete_job=True)
        self.bare.delete(delete_jobs=True)


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Put back the handlers of signals that a worker installs."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
