"""shipping: takes orders from RabbitMQ."""

import asyncio
import logging
import os

from aio_pika import connect_robust
from aio_pika.abc import AbstractIncomingMessage

from spakky.tracing.integrations import aio_pika

from .observing import observe
from .sending import to_next

log = logging.getLogger("demo.shipping")


async def main() -> None:
    """Have each order packed, until the process is ended."""
    connection = await connect_robust(os.environ["AMQP_URL"])
    async with to_next() as send, connection, connection.channel() as channel:

        @aio_pika.consumer
        async def ship(message: AbstractIncomingMessage) -> None:
            async with message.process():
                order = int(message.body)
                log.info("took order %d from RabbitMQ", order)
                await send(order)

        queue = await channel.declare_queue(os.environ["DEMO_QUEUE"], exclusive=True)
        await queue.consume(ship)
        log.info("ready")
        await asyncio.Future()


if __name__ == "__main__":
    observe("shipping")
    asyncio.run(main())
