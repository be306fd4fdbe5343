"""One trace over RQ, with a real worker.

    docker compose up --wait
    python examples/rq_example.py

The example starts the worker itself. By hand it is

    rq worker --path examples --job-class spakky.tracing.integrations.rq.TraceJob orders
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from redis import Redis

from spakky.tracing import TraceContext
from spakky.tracing.integrations import rq

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
JOB_CLASS = f"{rq.TraceJob.__module__}.{rq.TraceJob.__qualname__}"


def pack(order: int) -> str:
    """Run in the worker; the trace of the caller is current, also in a retry."""
    return f"order {order}, packed in trace {trace_id()}"


def main() -> None:
    """Enqueue a job within a trace, and see it run in the same trace."""
    name = f"orders-{uuid4().hex}"
    with Redis.from_url(REDIS_URL, socket_timeout=60) as connection, worker(name):  # it waits for the result
        queue = rq.TraceQueue(name, connection=connection)
        with TraceContext.use(TraceContext.new_root()):
            job = queue.enqueue("rq_example.pack", 1)  # RQ takes no function of the main module itself
            print(f"sent     in trace {trace_id()}")
        result = job.latest_result(timeout=30)
        print(f"received {result and result.return_value}")
        queue.delete()
        job.delete()


@contextmanager
def worker(queue: str) -> Iterator[None]:
    """Run a worker process as long as the block."""
    program = [sys.executable, "-m", "rq.cli", "worker", "--quiet", "--url", REDIS_URL]
    options = ["--path", str(Path(__file__).parent), "--job-class", JOB_CLASS]
    with subprocess.Popen([*program, *options, queue]) as process:
        try:
            yield
        finally:
            process.terminate()


def trace_id() -> str:
    """Return the id of the current trace."""
    context = TraceContext.get()
    return context.trace_id if context else "-"


if __name__ == "__main__":
    main()
