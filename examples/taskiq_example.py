"""One trace over taskiq.

    docker compose up --wait
    python examples/taskiq_example.py

The example runs its tasks itself, as `taskiq.api` offers it. In a process of their own they run by

    TASKIQ_QUEUE=orders taskiq worker --app-dir examples taskiq_example:broker
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

from taskiq.api import run_receiver_task
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

from spakky.tracing import TraceContext
from spakky.tracing.integrations import taskiq

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
QUEUE = os.environ.get("TASKIQ_QUEUE", f"orders-{uuid4().hex}")

broker = ListQueueBroker(REDIS_URL, queue_name=QUEUE)
broker.with_result_backend(RedisAsyncResultBackend(REDIS_URL, result_ex_time=60))
broker.add_middlewares(taskiq.TraceMiddleware())


@broker.task("pack")
async def pack(order: int) -> str:
    """Run in the worker; the trace of the caller is current, also in a retry."""
    return f"order {order}, packed in trace {trace_id()}"


async def main() -> None:
    """Start a task within a trace, and see it run in the same trace."""
    async with worker():
        with TraceContext.use(TraceContext.new_root()):
            task = await pack.kiq(1)
            print(f"sent     in trace {trace_id()}")
        result = await task.wait_result(timeout=30)
        print(f"received {result.return_value}")


@asynccontextmanager
async def worker() -> AsyncIterator[None]:
    """Run tasks as long as the block."""
    await broker.startup()
    receiver = asyncio.create_task(run_receiver_task(broker))
    yield
    receiver.cancel()
    with suppress(asyncio.CancelledError):
        await receiver
    await broker.shutdown()


def trace_id() -> str:
    """Return the id of the current trace."""
    context = TraceContext.get()
    return context.trace_id if context else "-"


if __name__ == "__main__":
    asyncio.run(main())
