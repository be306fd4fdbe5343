"""A queue of RabbitMQ with the bare aio-pika at both ends."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import aio_pika as client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aio_pika.abc import (
        AbstractChannel,
        AbstractConnection,
        AbstractExchange,
        AbstractIncomingMessage,
        AbstractQueue,
    )


class Link:
    """A queue of its own, and the channel that declared it."""

    def __init__(
        self, connection: AbstractConnection, channel: AbstractChannel, queue: AbstractQueue
    ) -> None:
        self.connection = connection
        self.channel = channel
        self.queue = queue

    @property
    def exchange(self) -> AbstractExchange:
        return self.channel.default_exchange

    async def message(self, *, no_ack: bool = True) -> AbstractIncomingMessage:
        return await next_message(self.queue, no_ack=no_ack)

    async def publish(self, headers: Any = None, body: bytes = b"value") -> None:
        message = client.Message(body, headers=headers, timestamp=datetime.now(UTC))
        await self.exchange.publish(message, self.queue.name)

    async def deliver(self, headers: dict[str, Any]) -> AbstractIncomingMessage:
        await self.publish(headers)
        return await self.message()


@asynccontextmanager
async def open_link(amqp_url: str) -> AsyncIterator[Link]:
    """Open a connection of its own with a new queue, which the broker deletes after an idle minute."""
    async with await client.connect(amqp_url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(f"orders-{uuid4().hex}", arguments={"x-expires": 60_000})
        yield Link(connection, channel, queue)


async def next_message(queue: AbstractQueue, *, no_ack: bool) -> AbstractIncomingMessage:
    """Return the next message of *queue* as soon as there is one."""
    async with asyncio.timeout(10):
        while (message := await queue.get(no_ack=no_ack, fail=False)) is None:  # noqa: ASYNC110 - pulled
            await asyncio.sleep(0.005)
    return message
