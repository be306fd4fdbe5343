"""One trace over Celery, with a real worker.

    docker compose up --wait
    python examples/celery_example.py

The example starts the worker itself. By hand it is

    celery --workdir examples --app celery_example worker
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from celery import Celery

from spakky.tracing import TraceContext
from spakky.tracing.integrations import celery

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")

app = Celery("celery_example", broker=REDIS_URL, backend=REDIS_URL)
celery.install(app)


@app.task(name="pack")  # type: ignore[untyped-decorator]
def pack(order: int) -> str:
    """Run in the worker; the trace of the caller is current, also in a retry."""
    return f"order {order}, packed in trace {trace_id()}"


def main() -> None:
    """Start a task within a trace, and see it run in the same trace."""
    queue = f"orders-{uuid4().hex}"
    with worker(queue), TraceContext.use(TraceContext.new_root()):
        result = app.send_task("pack", [1], queue=queue)
        print(f"sent     in trace {trace_id()}")
        print(f"received {result.get(timeout=30)}")


@contextmanager
def worker(queue: str) -> Iterator[None]:
    """Run a worker process as long as the block."""
    here = Path(__file__)
    program = [sys.executable, "-m", "celery", "--quiet", "--workdir", str(here.parent), "--app", here.stem]
    options = ["--queues", queue, "--concurrency", "1"]
    with subprocess.Popen([*program, "worker", *options]) as process:
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
