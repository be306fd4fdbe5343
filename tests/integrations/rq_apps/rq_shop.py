"""What a real worker loads: jobs that write down the context in which they run."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rq import get_current_job

from spakky.tracing.context import TraceContext
from spakky.tracing.integrations.rq import TraceJob, TraceQueue

if TYPE_CHECKING:
    from rq.job import Job

NOTES = Path(os.environ["SHOP_NOTES"])


class ShelfError(Exception):
    """What goes wrong in the shop."""


class LinkJob(TraceJob, relation="link"):
    """Jobs with an option, for a worker that has to import it."""


def pack() -> None:
    """Note the context, and no more."""
    note("job", current())


async def pack_async() -> None:
    """Note the context in a coroutine."""
    note("job", current())


def fail_twice() -> None:
    """Note the context and fail, but the third time."""
    note("job", current())
    if current().trace_attempt != 3:
        raise ShelfError


def die_once() -> None:
    """Note the context and end the work horse, but the second time."""
    note("job", current())
    if current().trace_attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def stall() -> None:
    """Note the context, and end never."""
    note("job", current())
    threading.Event().wait()


def order_more() -> None:
    """Note the context, and enqueue another job."""
    job = current()
    note("job", job)
    TraceQueue(job.origin, connection=job.connection).enqueue("rq_shop.pack", job_id=f"{job.id}-more")


def on_success(job: Job, *_: object) -> None:
    """Note the context after a job."""
    note("success", job)


def on_failure(job: Job, *_: object) -> None:
    """Note the context after a job that failed."""
    note("failure", job)


def on_stopped(job: Job, *_: object) -> None:
    """Note the context after a job that was stopped."""
    note("stopped", job)


def current() -> Any:
    """Return the running job."""
    return get_current_job()


def note(what: str, job: Job) -> None:
    """Append one line; one write to a file opened for appending stays whole."""
    context = TraceContext.get()
    line = {
        "what": what,
        "id": job.id,
        "trace_id": context and context.trace_id,
        "span_id": context and context.span_id,
        "parent_span_id": context and context.parent_span_id,
        "pid": os.getpid(),
    }
    with NOTES.open("a") as notes:
        notes.write(json.dumps(line) + "\n")
