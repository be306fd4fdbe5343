"""One trace over Dramatiq, with a real worker.

    docker compose up --wait
    python examples/dramatiq_example.py

The example starts the worker itself. By hand it is

    QUEUE=orders python -m dramatiq dramatiq_example --path examples
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from dramatiq import actor, set_broker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends.redis import RedisBackend
from redis import Redis

from spakky.tracing import TraceContext
from spakky.tracing.integrations import dramatiq

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
QUEUE = os.environ.setdefault("QUEUE", f"orders-{uuid4().hex}")  # the worker takes it from here

broker = RedisBroker(url=REDIS_URL, namespace=QUEUE)
results = Redis.from_url(REDIS_URL, socket_timeout=60)  # longer than anybody waits for a result
broker.add_middleware(Results(backend=RedisBackend(client=results, namespace=QUEUE)))
broker.add_middleware(dramatiq.TraceMiddleware())
set_broker(broker)


@actor(queue_name=QUEUE, store_results=True)
def pack(order: int) -> str:
    """Run in the worker; the trace of the sender is current, also in a retry."""
    return f"order {order}, packed in trace {trace_id()}"


def main() -> None:
    """Send a message within a trace, and see its actor run in the same trace."""
    with worker(), TraceContext.use(TraceContext.new_root()):
        message = pack.send(1)
        print(f"sent     in trace {trace_id()}")
        print(f"received {message.get_result(block=True, timeout=30_000)}")


@contextmanager
def worker() -> Iterator[None]:
    """Run a worker process as long as the block."""
    here = Path(__file__)
    program = [sys.executable, "-m", "dramatiq", here.stem, "--path", str(here.parent)]
    with subprocess.Popen([*program, "--processes", "1", "--threads", "1"]) as process:
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
