"""One trace over RabbitMQ, with FastStream; a `KafkaBroker` takes the same middleware.

docker compose up --wait
python examples/faststream_example.py
"""

import asyncio
import os
from uuid import uuid4

from faststream.rabbit import RabbitBroker, RabbitQueue

from spakky.tracing import TraceContext
from spakky.tracing.integrations import faststream

AMQP_URL = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost/")
QUEUE = RabbitQueue(f"orders-{uuid4().hex}", exclusive=True)

broker = RabbitBroker(AMQP_URL, middlewares=[faststream.TraceMiddleware()])
received = asyncio.Event()


@broker.subscriber(QUEUE)
async def handle(order: str) -> None:
    """Take one message; its trace is current in the handler, and in all that it publishes."""
    print(f"received in trace {trace_id()}: {order}")
    received.set()


async def main() -> None:
    """Publish a message within a trace, and receive it in the same trace."""
    async with broker:
        await broker.start()
        with TraceContext.use(TraceContext.new_root()):
            print(f"sent     in trace {trace_id()}")
            await broker.publish("order 1", QUEUE)
        await asyncio.wait_for(received.wait(), timeout=10)


def trace_id() -> str:
    """Return the id of the current trace."""
    context = TraceContext.get()
    return context.trace_id if context else "-"


if __name__ == "__main__":
    asyncio.run(main())
