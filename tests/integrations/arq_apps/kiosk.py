"""What a real worker process loads: jobs that write down the context in which they run."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from arq import Retry, cron
from arq.connections import RedisSettings

from spakky.tracing.context import TraceContext
from spakky.tracing.integrations import arq

NOTES = Path(os.environ["KIOSK_NOTES"])
QUEUE = os.environ["KIOSK_QUEUE"]


class ShelfError(Exception):
    """What goes wrong in the kiosk."""


def note(ctx: dict[str, Any]) -> None:
    """Append one line on the running job; one write to a file opened for appending stays whole."""
    context = TraceContext.get()
    assert context is not None
    line = {
        "id": ctx["job_id"],
        "attempt": ctx["job_try"],
        "trace_id": context.trace_id,
        "span_id": context.span_id,
        "parent_span_id": context.parent_span_id,
        "baggage": dict(context.baggage),
        "pid": os.getpid(),
    }
    with NOTES.open("a") as notes:
        notes.write(json.dumps(line) + "\n")


async def look(ctx: dict[str, Any], seconds: float = 0) -> None:
    await asyncio.sleep(seconds)
    note(ctx)


async def tick(ctx: dict[str, Any]) -> None:
    note(ctx)


async def fails_twice(ctx: dict[str, Any]) -> None:
    note(ctx)
    if ctx["job_try"] < 3:
        raise Retry(defer=0.01) from ShelfError()


async def fails(ctx: dict[str, Any]) -> None:
    note(ctx)
    raise ShelfError


async def starts_another(ctx: dict[str, Any], job_id: str) -> None:
    note(ctx)
    await ctx["redis"].enqueue_job("look", _job_id=job_id)


async def waits_when_new(ctx: dict[str, Any]) -> None:
    note(ctx)
    if ctx["job_try"] == 1:
        await asyncio.sleep(60)


class WorkerSettings:
    functions = [look, fails_twice, fails, starts_another, waits_when_new]
    cron_jobs = [cron(tick, name=f"tick-{QUEUE}", second=set(range(60)))]
    redis_settings = RedisSettings.from_dsn(os.environ["KIOSK_REDIS"])
    queue_name = QUEUE
    poll_delay = 0.02


arq.install(WorkerSettings)
