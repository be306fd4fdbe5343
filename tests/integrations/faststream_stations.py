"""FastStream brokers that run for a whole module, with the bare client of each at the other end."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeVar
from uuid import uuid4

import aio_pika
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import TopicPartition as Partition
from faststream import BaseMiddleware
from faststream.confluent import KafkaBroker as ConfluentBroker
from faststream.confluent import KafkaResponse as ConfluentResponse
from faststream.confluent import KafkaRouter as ConfluentRouter
from faststream.confluent import TopicPartition as ConfluentPartition
from faststream.kafka import KafkaBroker, KafkaResponse, KafkaRouter, TopicPartition
from faststream.rabbit import RabbitBroker, RabbitQueue, RabbitResponse, RabbitRouter

from spakky.tracing.context import TraceContext

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType

    from contract.sending import Wire

HandlerT = TypeVar("HandlerT", bound="Callable[..., Any]")

PATIENCE = 10
LARGEST_BATCH = 60_000


class Switch:
    """A middleware of a broker that runs on, which is another one for each test; `None` is none."""

    def __init__(self) -> None:
        self.middleware: Any = None

    def __call__(self, msg: Any, /, *, context: Any) -> BaseMiddleware:
        middleware: BaseMiddleware = (self.middleware or BaseMiddleware)(msg, context=context)
        return middleware


class Stage:
    """Is around all other middlewares: makes a context current, and sees what is left and raised in the end.

    Attributes:
        before: What is current in FastStream's own task before the message.
        left: What is current there afterwards.
        error: What came out of the other middlewares.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.before: TraceContext | None = None
        self.left: TraceContext | None = None
        self.error: BaseException | None = None
        self.count = 0
        self._over = asyncio.Event()

    def __call__(self, msg: Any, /, *, context: Any) -> BaseMiddleware:
        if context.get_local("handler_") is None:  # not on its way to a subscriber
            return BaseMiddleware(msg, context=context)
        return _OnStage(msg, context=context, stage=self)

    def step_off(self, error: BaseException | None) -> None:
        self.left = TraceContext.get()
        make_current(None)
        self.error = error
        self.count += 1
        self._over.set()

    async def over(self, count: int = 1) -> None:
        """Wait until so many messages are done with."""
        async with asyncio.timeout(PATIENCE):
            while self.count < count:
                self._over.clear()
                await self._over.wait()


class _OnStage(BaseMiddleware):
    def __init__(self, msg: Any, /, *, context: Any, stage: Stage) -> None:
        super().__init__(msg, context=context)
        self._stage = stage

    async def on_receive(self) -> None:
        make_current(self._stage.before)

    async def after_processed(
        self,
        exc_type: type[BaseException] | None = None,
        exc_val: BaseException | None = None,
        exc_tb: TracebackType | None = None,
    ) -> bool:
        self._stage.step_off(exc_val)
        return False


class Decorator(Protocol):
    def __call__(self, handler: HandlerT, /, **options: Any) -> HandlerT: ...


class Subscriber(Decorator, Protocol):
    """FastStream's own, as far as tests have to do with it."""

    consumer: Any

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def get_one(self, *, timeout: float) -> Any: ...  # noqa: ASYNC109 - FastStream's own

    def __aiter__(self) -> AsyncIterator[Any]: ...


class Publisher(Decorator, Protocol):
    """FastStream's own, as far as tests have to do with it."""

    async def publish(self, message: Any, **options: Any) -> Any: ...


def make_current(context: TraceContext | None) -> None:
    if context is None:
        TraceContext.clear()
    else:
        TraceContext.set(context)


def _nothing() -> None: ...


class Station(ABC):
    """A broker of FastStream between two ends of the bare client.

    Attributes:
        broker: The broker of FastStream, with `stage` and `switch` for middlewares.
        inbox: Where the bare client sends to and subscribers listen.
        outbox: Where FastStream publishes to and the bare client listens.
        system: What spans call the kind of broker.
        body: What a subscriber may run: FastStream keeps handlers and dependencies as long as the broker.
    """

    broker: Any
    new_router: ClassVar[Any]
    new_response: ClassVar[Any]
    system: str
    inbox: str
    outbox: str

    def __init__(self) -> None:
        self.stage, self.switch = Stage(), Switch()
        self.clear()

    def clear(self) -> None:
        """Forget what a test has left."""
        self.stage.clear()
        self.switch.middleware = None
        self.body: Callable[[], None] = _nothing

    @abstractmethod
    def subscriber(self, registrator: Any = None, **options: Any) -> Subscriber:
        """Return a new subscriber of the inbox, at the broker or at a router."""

    def publisher(self, registrator: Any = None, **options: Any) -> Publisher:
        """Return a new publisher to the outbox, of the broker or of a router."""
        publisher: Publisher = (registrator or self.broker).publisher(
            self.outbox, persistent=False, **options
        )
        return publisher

    def router(self, *middlewares: Any) -> Any:
        """Return a new router of the broker."""
        router = self.new_router(middlewares=middlewares)
        self.broker.include_router(router)
        return router

    @abstractmethod
    async def deliver(self, headers: dict[str, Any], **properties: Any) -> None:
        """Send a message to the inbox by the bare client, values in the client's own types or text.

        What RabbitMQ has a property for is one more header in Kafka, where FastStream is concerned.
        """

    @abstractmethod
    async def arrived(self) -> Wire:
        """Return the headers of the next message in the outbox, read by the bare client."""

    @abstractmethod
    async def publish(self, headers: Any, body: Any = b"value", **options: Any) -> Any:
        """Publish to the outbox by the broker."""

    @abstractmethod
    async def empty(self) -> None:
        """Forget what is in the outbox."""

    @contextlib.asynccontextmanager
    async def running(self, subscriber: Subscriber) -> AsyncIterator[None]:
        await subscriber.start()
        try:
            await self.ready(subscriber)
            yield
        finally:
            await subscriber.stop()

    @abstractmethod
    async def ready(self, subscriber: Subscriber) -> None:
        """Wait until *subscriber* gets what is delivered from now on, and nothing older."""

    async def handle(self, subscriber: Subscriber, headers: dict[str, Any], **properties: Any) -> None:
        """Deliver one message to *subscriber* and wait until it is done with."""
        async with self.running(subscriber):
            await self.deliver(headers, **properties)
            await self.stage.over()


class KafkaStation(Station):
    """Kafka by aiokafka."""

    new_router: ClassVar[Any] = KafkaRouter
    options_of_batches: ClassVar[dict[str, Any]] = {}
    new_response: ClassVar[Any] = KafkaResponse
    system = "kafka"

    def __init__(self, address: str, **options: Any) -> None:
        super().__init__()
        self.inbox, self.outbox = (f"{name}-{uuid4().hex}" for name in ("inbox", "outbox"))
        self.producer = AIOKafkaProducer(bootstrap_servers=address)
        self._consumer = AIOKafkaConsumer(bootstrap_servers=address, fetch_max_wait_ms=20)
        self.broker = self.new_broker(address, **options)

    def new_broker(self, address: str, **options: Any) -> Any:
        middlewares: list[Any] = [self.stage, self.switch]
        return KafkaBroker(
            address, middlewares=middlewares, logger=None, max_batch_size=LARGEST_BATCH, **options
        )

    async def __aenter__(self) -> Self:
        await self.producer.start()
        await self._consumer.start()
        await self.producer.partitions_for(self.inbox)
        outbox = await self.producer.partitions_for(self.outbox)
        self._consumer.assign([Partition(self.outbox, number) for number in outbox])
        await self.broker.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.broker.stop()
        await self._consumer.stop()
        await self.producer.stop()

    def subscriber(self, registrator: Any = None, **options: Any) -> Subscriber:
        partitions = [TopicPartition(self.inbox, 0)]
        registrator = registrator or self.broker
        subscriber: Subscriber = registrator.subscriber(partitions=partitions, persistent=False, **options)
        return subscriber

    def concurrent_subscriber(self, count: int) -> Subscriber:
        return self.subscriber(max_workers=count)

    async def ready(self, subscriber: Subscriber) -> None:
        await subscriber.consumer.seek_to_end()

    async def deliver(self, headers: dict[str, Any], **properties: Any) -> None:
        await self.deliver_pairs([*headers.items(), *properties.items()])

    async def deliver_pairs(self, headers: list[tuple[str, Any]]) -> None:
        pairs = [(name, text.encode() if isinstance(text, str) else text) for name, text in headers]
        await self.producer.send_and_wait(self.inbox, b"value", headers=pairs, partition=0)

    async def deliver_together(self, *headers: dict[str, Any]) -> None:
        """Send several records so that one fetch finds them."""
        batch = self.producer.create_batch()
        for each in headers:
            pairs = [(name, text.encode()) for name, text in each.items()]
            assert batch.append(key=None, value=b"value", timestamp=None, headers=pairs)
        await (await self.producer.send_batch(batch, self.inbox, partition=0))

    async def arrived(self) -> Wire:
        wire: Wire = {}
        for name, value in (await asyncio.wait_for(self._consumer.getone(), PATIENCE)).headers:
            wire.setdefault(name, []).append(value)
        return wire

    async def publish(self, headers: Any, body: Any = b"value", **options: Any) -> Any:
        return await self.broker.publish(body, self.outbox, headers=headers, partition=0, **options)

    async def empty(self) -> None:
        await self._consumer.seek_to_end()


class ConfluentStation(KafkaStation):
    """Kafka by confluent-kafka; the other end is aiokafka here too."""

    new_router: ClassVar[Any] = ConfluentRouter
    options_of_batches: ClassVar[dict[str, Any]] = {"polling_interval": 0.05}
    new_response: ClassVar[Any] = ConfluentResponse

    def new_broker(self, address: str, **options: Any) -> Any:
        middlewares: list[Any] = [self.stage, self.switch]
        return ConfluentBroker(
            address,
            middlewares=middlewares,
            logger=None,
            allow_auto_create_topics=False,  # asking for it takes long where it cannot be had
            **options,
        )

    def subscriber(self, registrator: Any = None, **options: Any) -> Subscriber:
        partitions = [ConfluentPartition(self.inbox, 0, self._next_offset)]
        registrator = registrator or self.broker
        subscriber: Subscriber = registrator.subscriber(partitions=partitions, persistent=False, **options)
        return subscriber

    _next_offset = 0

    async def ready(self, subscriber: Subscriber) -> None:
        """Nothing to do: it starts behind the last record."""

    async def empty(self) -> None:
        await super().empty()
        (self._next_offset,) = (await self._consumer.end_offsets([Partition(self.inbox, 0)])).values()

    async def deliver_pairs(self, headers: list[tuple[str, Any]]) -> None:
        await super().deliver_pairs(headers)
        self._next_offset += 1


class RabbitStation(Station):
    """RabbitMQ."""

    new_router: ClassVar[Any] = RabbitRouter
    new_response: ClassVar[Any] = RabbitResponse
    system = "rabbitmq"

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self.inbox = self.outbox = ""
        self.broker = RabbitBroker(url, middlewares=[self.stage, self.switch], logger=None)

    async def __aenter__(self) -> Self:
        self._connection = await aio_pika.connect(self._url)
        self.channel = await self._connection.channel()
        self._outbox = await self.channel.declare_queue(f"outbox-{uuid4().hex}", auto_delete=True)
        self.outbox = self._outbox.name
        await self.broker.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.broker.stop()
        await self._connection.close()

    def subscriber(
        self, registrator: Any = None, *, arguments: Any = None, routing_key: str = "", **options: Any
    ) -> Subscriber:
        self.inbox = f"inbox-{uuid4().hex}"
        queue = RabbitQueue(
            self.inbox, durable=False, auto_delete=True, arguments=arguments, routing_key=routing_key
        )
        registrator = registrator or self.broker
        subscriber: Subscriber = registrator.subscriber(queue, persistent=False, **options)
        return subscriber

    async def ready(self, subscriber: Subscriber) -> None:
        """Nothing to do: its queue is new."""

    async def deliver(self, headers: dict[str, Any], **properties: Any) -> None:
        message = aio_pika.Message(b"value", headers=headers, timestamp=datetime.now(UTC), **properties)
        await self.channel.default_exchange.publish(message, self.inbox)

    async def message(self) -> Any:
        async with asyncio.timeout(PATIENCE):
            while (message := await self._outbox.get(no_ack=True, fail=False)) is None:  # noqa: ASYNC110 - pulled
                await asyncio.sleep(0.005)
        return message

    async def arrived(self) -> Wire:
        return {name: [value] for name, value in (await self.message()).headers.items()}

    async def publish(self, headers: Any, body: Any = b"value", **options: Any) -> Any:
        return await self.broker.publish(body, self.outbox, headers=headers, **options)

    async def empty(self) -> None:
        await self._outbox.purge()
