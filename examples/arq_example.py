"""One trace over arq, with a real worker.

    docker compose up --wait
    python examples/arq_example.py

The example starts the worker itself. By hand it is

    cd examples && ARQ_QUEUE=orders arq arq_example.WorkerSettings
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from arq import create_pool
from arq.connections import RedisSettings

from spakky.tracing import TraceContext
from spakky.tracing.integrations import arq

REDIS = RedisSettings.from_dsn(os.environ.get("REDIS_URL", "redis://localhost:6379/0"))


async def pack(ctx: dict[Any, Any], order: int) -> str:
    """Run in the worker; the trace of the caller is current, also in a retry."""
    del ctx
    return f"order {order}, packed in trace {trace_id()}"


class WorkerSettings:
    """What arq makes a worker of."""

    functions = (pack,)
    redis_settings = REDIS
    queue_name = os.environ.get("ARQ_QUEUE", "orders")


arq.install(WorkerSettings)


async def main() -> None:
    """Enqueue a job within a trace, and see it run in the same trace."""
    queue = f"orders-{uuid4().hex}"
    async with await create_pool(REDIS) as plain:
        pool = arq.wrap(plain)
        with worker(queue), TraceContext.use(TraceContext.new_root()):
            job = await pool.enqueue_job("pack", 1, _queue_name=queue)
            assert job is not None  # noqa: S101 - it would be if there were one of the same id
            print(f"sent     in trace {trace_id()}")
            print(f"received {await job.result(timeout=30)}")


@contextmanager
def worker(queue: str) -> Iterator[None]:
    """Run a worker process as long as the block."""
    here = Path(__file__)
    program = [sys.executable, "-m", "arq", f"{here.stem}.WorkerSettings"]
    environment = {**os.environ, "ARQ_QUEUE": queue}
    with subprocess.Popen(program, cwd=here.parent, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()  # an idle worker misses a SIGTERM now and then


def trace_id() -> str:
    """Return the id of the current trace."""
    context = TraceContext.get()
    return context.trace_id if context else "-"


if __name__ == "__main__":
    asyncio.run(main())
