"""A broker of taskiq on RabbitMQ or Redis, and the bare client of either at both ends of its queue."""

from __future__ import annotations

import asyncio
import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import uuid4

import aio_pika
from redis.asyncio import Redis
from taskiq.api import run_receiver_task
from taskiq.labels import prepare_label
from taskiq.receiver import Receiver
from taskiq_aio_pika import AioPikaBroker, Exchange, Queue, QueueType
from taskiq_redis import ListQueueBroker

from spakky.tracing.integrations import taskiq

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator

    from aio_pika.abc import AbstractChannel
    from pamqp.common import FieldValue
    from taskiq import AckableMessage, AsyncBroker

PATIENCE: Final = 15
IDLE: Final[dict[str, FieldValue]] = {"x-expires": 60_000}  # the broker deletes a queue after an idle minute


class IMail(Protocol):
    """The bare client of a broker's queue."""

    async def publish(self, body: bytes) -> None: ...

    async def get(self) -> bytes | None: ...


class RabbitMail:
    def __init__(self, channel: AbstractChannel, queue: str) -> None:
        self._channel = channel
        self._queue = queue

    async def publish(self, body: bytes) -> None:
        await self._channel.default_exchange.publish(aio_pika.Message(body), self._queue)

    async def get(self) -> bytes | None:
        queue = await self._channel.get_queue(self._queue, ensure=False)
        message = await queue.get(no_ack=True, fail=False)
        return None if message is None else message.body


class RedisMail:
    def __init__(self, client: Redis, queue: str) -> None:
        self._client = client
        self._queue = queue

    async def publish(self, body: bytes) -> None:
        await self._client.lpush(self._queue, body)

    async def get(self) -> bytes | None:
        body = await self._client.rpop(self._queue)
        assert body is None or isinstance(body, bytes)
        return body


class Depot:
    """A broker without a middleware, which sends to a queue of its own.

    Attributes:
        broker: The broker.
        queue: The name of its queue.
    """

    def __init__(self, broker: AsyncBroker, mail: IMail, queue: str) -> None:
        self.broker = broker
        self.queue = queue
        self._mail = mail
        self._deliveries: AsyncGenerator[bytes | AckableMessage, None] = broker.listen()
        self._executor = ThreadPoolExecutor(1)
        bodies: dict[str, Callable[[], object]] = {}
        self._bodies = bodies

        async def call(key: str) -> None:
            await asyncio.sleep(0)
            bodies[key]()

        def call_in_thread(key: str) -> None:
            bodies[key]()

        broker.register_task(call, "depot.call")
        broker.register_task(call_in_thread, "depot.call_in_thread")

    async def aclose(self) -> None:
        await self._deliveries.aclose()
        self._executor.shutdown()

    async def arrived(self) -> dict[str, Any]:
        """Return the next message in the queue, as it is on the wire."""
        async with asyncio.timeout(PATIENCE):
            while (body := await self._mail.get()) is None:  # noqa: ASYNC110 - pulled
                await asyncio.sleep(0.005)
        message: dict[str, Any] = json.loads(body)
        return message

    async def deliver(
        self, labels: dict[str, Any], task: str = "depot.call", *args: object, **kwargs: object
    ) -> str:
        """Publish a message by the bare client and return its task's id."""
        types = {name: value for name, value in labels.items() if isinstance(value, bytes)}
        prepared = {name: prepare_label(value) for name, value in types.items()}
        message = {
            "task_id": uuid4().hex,
            "task_name": task,
            "labels": {**labels, **{name: text for name, (text, _) in prepared.items()}},
            "labels_types": {name: kind for name, (_, kind) in prepared.items()},
            "args": args,
            "kwargs": kwargs,
        }
        await self._mail.publish(json.dumps(message).encode())
        return str(message["task_id"])

    async def receive(self) -> None:
        """Let taskiq's receiver process the next message, in this asyncio task."""
        receiver = Receiver(self.broker, executor=self._executor, max_async_tasks=1)
        async with asyncio.timeout(PATIENCE):
            message = await anext(self._deliveries)
        await receiver.callback(message)

    async def run(self, body: Callable[[], object], labels: dict[str, Any], task: str = "depot.call") -> None:
        """Run *body* in a task, in this asyncio task, and raise what it raises."""
        raised: list[BaseException] = []

        def observed() -> None:
            try:
                body()
            except BaseException as error:
                raised.append(error)
                raise

        key = uuid4().hex
        self._bodies[key] = observed
        await self.deliver(labels, task, key)
        await self.receive()
        await asyncio.get_running_loop().run_in_executor(self._executor, int)  # its thread has let go of all
        del self._bodies[key]
        if raised:
            raise raised.pop()


@asynccontextmanager
async def rabbitmq_depot(amqp_url: str) -> AsyncIterator[Depot]:
    queue = f"depot-{uuid4().hex}"
    broker = AioPikaBroker(
        amqp_url,
        exchange=Exchange(name=queue, auto_delete=True),
        task_queues=[Queue(name=queue, type=QueueType.CLASSIC, arguments=IDLE)],
        dead_letter_queue=Queue(name=f"{queue}.dead", type=QueueType.CLASSIC, arguments=IDLE),
    )
    async with await aio_pika.connect(amqp_url) as connection, _open(broker):
        depot = Depot(broker, RabbitMail(await connection.channel(), queue), queue)
        yield depot
        await depot.aclose()


@asynccontextmanager
async def redis_depot(redis_url: str) -> AsyncIterator[Depot]:
    queue = f"depot-{uuid4().hex}"
    broker = ListQueueBroker(redis_url, queue_name=queue)
    async with Redis.from_url(redis_url) as client, _open(broker):
        depot = Depot(broker, RedisMail(client, queue), queue)
        yield depot
        await depot.aclose()
        await client.delete(queue)


@asynccontextmanager
async def _open(broker: AsyncBroker) -> AsyncIterator[None]:
    broker.is_worker_process = True
    await broker.startup()
    yield
    await broker.shutdown()


@contextlib.contextmanager
def hooked(broker: AsyncBroker, **options: Any) -> Iterator[None]:
    """Give *broker* a middleware, the first of its own."""
    middleware = taskiq.TraceMiddleware(**options)
    middleware.set_broker(broker)
    broker.middlewares.insert(0, middleware)
    try:
        yield
    finally:
        broker.middlewares.remove(middleware)


@asynccontextmanager
async def working(broker: AsyncBroker, **options: Any) -> AsyncIterator[None]:
    """Receive in an asyncio task of its own, as an application would."""
    receiver = asyncio.create_task(run_receiver_task(broker, sync_workers=1, **options))
    yield
    receiver.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await receiver


async def until(look: Callable[[], object]) -> None:
    """Wait until *look* returns something that is true."""
    async with asyncio.timeout(PATIENCE):
        while not look():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)
