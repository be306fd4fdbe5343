"""The three ways in which a service passes an order on."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from aio_pika import Message, connect_robust
from aiokafka import AIOKafkaProducer

from spakky.tracing.integrations import aio_pika, aiokafka

from .packing import app

Send = Callable[[int], Awaitable[object]]


@asynccontextmanager
async def to_kafka() -> AsyncIterator[Send]:
    """Produce to the topic of the orders."""
    topic = os.environ["DEMO_TOPIC"]
    producer = AIOKafkaProducer(bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"])
    async with aiokafka.wrap(producer) as producer:
        yield lambda order: producer.send_and_wait(topic, str(order).encode())


@asynccontextmanager
async def to_rabbitmq() -> AsyncIterator[Send]:
    """Publish to the queue of the paid orders."""
    queue = os.environ["DEMO_QUEUE"]
    connection = await connect_robust(os.environ["AMQP_URL"])
    async with connection, connection.channel() as channel:
        exchange = aio_pika.wrap(channel.default_exchange)
        yield lambda order: exchange.publish(Message(str(order).encode()), queue)


@asynccontextmanager
async def to_celery() -> AsyncIterator[Send]:
    """Start a task; publishing blocks, so it happens in a thread, which inherits the trace."""
    yield lambda order: asyncio.to_thread(app.send_task, "pack", [order])


def to_next() -> AbstractAsyncContextManager[Send]:
    """Open the way to the service that is next to this one."""
    ways = {"kafka": to_kafka, "rabbitmq": to_rabbitmq, "celery": to_celery}
    return ways[os.environ["DEMO_NEXT"]]()
