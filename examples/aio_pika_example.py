"""One trace over RabbitMQ, with aio-pika.

docker compose up --wait
python examples/aio_pika_example.py
"""

import asyncio
import os
from uuid import uuid4

from aio_pika import Message, connect_robust
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from spakky.tracing import TraceContext
from spakky.tracing.integrations import aio_pika

AMQP_URL = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost/")
QUEUE = f"orders-{uuid4().hex}"

received = asyncio.Event()


async def main() -> None:
    """Publish a message within a trace, and receive it in the same trace."""
    connection = await connect_robust(AMQP_URL)
    async with connection, connection.channel() as channel:
        queue = await channel.declare_queue(QUEUE, exclusive=True)
        await queue.consume(handle)
        with TraceContext.use(TraceContext.new_root()):
            await publish(channel, b"order 1")
        await asyncio.wait_for(received.wait(), timeout=10)


async def publish(channel: AbstractChannel, body: bytes) -> None:
    """Publish one message; the wrapped exchange puts the current trace into its headers."""
    exchange = aio_pika.wrap(channel.default_exchange)
    await exchange.publish(Message(body), QUEUE)
    print(f"sent     in trace {trace_id()}")


@aio_pika.consumer
async def handle(message: AbstractIncomingMessage) -> None:
    """Take one message; its trace is current in the handler."""
    async with message.process():
        print(f"received in trace {trace_id()}: {message.body!r}")
        received.set()


def trace_id() -> str:
    """Return the id of the current trace."""
    context = TraceContext.get()
    return context.trace_id if context else "-"


if __name__ == "__main__":
    asyncio.run(main())
