"""FastStream between this library's middleware and its own one for OpenTelemetry."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from faststream.kafka import KafkaBroker, KafkaMessage, TopicPartition
from faststream.kafka.opentelemetry import KafkaTelemetryMiddleware
from faststream.rabbit import RabbitBroker, RabbitMessage, RabbitQueue
from faststream.rabbit.opentelemetry import RabbitTelemetryMiddleware

from interop.continuing import ContinuingContract
from interop.sharing import SharingContract
from interop.sides import PATIENCE, Handler, OverKafka, OverRabbitMQ
from spakky.tracing.integrations.faststream import TraceMiddleware

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from opentelemetry.trace import TracerProvider


class OnKafka(OverKafka):
    vendor_value = "text"  # FastStream's own parser refuses what is not UTF-8

    outer: tuple[Any, ...] = ()
    inner: tuple[Any, ...] = ()

    async def send(self, destination: str, headers: Any = None, **options: Any) -> None:
        async with self._broker(*self.outer, TraceMiddleware(**options), *self.inner) as broker:
            await broker.publish(b"value", destination, partition=0, headers=headers)

    async def send_bare(self, destination: str, headers: dict[str, str | bytes]) -> None:
        async with self._broker() as broker:
            texts = {name: value for name, value in headers.items() if isinstance(value, str)}
            await broker.publish(b"value", destination, partition=0, headers=texts)

    async def receive(self, source: str, handle: Handler) -> None:
        handled = asyncio.Event()
        async with self._broker(*self.outer, TraceMiddleware(), *self.inner) as broker:

            @broker.subscriber(partitions=[TopicPartition(source, 0)], auto_offset_reset="earliest")
            async def subscriber(body: bytes, message: KafkaMessage) -> None:
                await handle(dict(message.headers))
                handled.set()

            await broker.start()
            await asyncio.wait_for(handled.wait(), PATIENCE)

    @asynccontextmanager
    async def _broker(self, *middlewares: Any) -> AsyncIterator[KafkaBroker]:
        async with KafkaBroker(self.address, middlewares=middlewares, logger=None) as broker:
            yield broker


class OnRabbitMQ(OverRabbitMQ):
    outer: tuple[Any, ...] = ()
    inner: tuple[Any, ...] = ()

    async def send(self, destination: str, headers: Any = None, **options: Any) -> None:
        async with self._broker(*self.outer, TraceMiddleware(**options), *self.inner) as broker:
            await broker.publish(b"value", destination, headers=headers)

    async def send_bare(self, destination: str, headers: dict[str, str | bytes]) -> None:
        async with self._broker() as broker:
            await broker.publish(b"value", destination, headers={**headers})

    async def receive(self, source: str, handle: Handler) -> None:
        handled = asyncio.Event()
        async with self._broker(*self.outer, TraceMiddleware(), *self.inner) as broker:

            @broker.subscriber(RabbitQueue(source, declare=False))
            async def subscriber(body: bytes, message: RabbitMessage) -> None:
                await handle(dict(message.headers))
                handled.set()

            await broker.start()
            await asyncio.wait_for(handled.wait(), PATIENCE)

    @asynccontextmanager
    async def _broker(self, *middlewares: Any) -> AsyncIterator[RabbitBroker]:
        async with RabbitBroker(self.address, middlewares=middlewares, logger=None) as broker:
            yield broker


class TestOnKafkaInTwoProcesses(OnKafka, ContinuingContract):
    client = "faststream_kafka"
    peer_ways = ["subscriber"]
    ways_with_baggage = ["subscriber"]


class TestOnRabbitMQInTwoProcesses(OnRabbitMQ, ContinuingContract):
    client = "faststream_rabbit"
    peer_ways = ["subscriber"]
    ways_with_baggage = ["subscriber"]


class TestOnKafkaInsideOfUs(OnKafka, SharingContract):
    @contextmanager
    def instrumented(self, provider: TracerProvider) -> Iterator[None]:
        self.inner = (KafkaTelemetryMiddleware(tracer_provider=provider),)
        yield
        self.inner = ()


class TestOnKafkaAroundUs(OnKafka, SharingContract):
    we_write_last = True

    @contextmanager
    def instrumented(self, provider: TracerProvider) -> Iterator[None]:
        self.outer = (KafkaTelemetryMiddleware(tracer_provider=provider),)
        yield
        self.outer = ()


class TestOnRabbitMQInsideOfUs(OnRabbitMQ, SharingContract):
    @contextmanager
    def instrumented(self, provider: TracerProvider) -> Iterator[None]:
        self.inner = (RabbitTelemetryMiddleware(tracer_provider=provider),)
        yield
        self.inner = ()


class TestOnRabbitMQAroundUs(OnRabbitMQ, SharingContract):
    we_write_last = True

    @contextmanager
    def instrumented(self, provider: TracerProvider) -> Iterator[None]:
        self.outer = (RabbitTelemetryMiddleware(tracer_provider=provider),)
        yield
        self.outer = ()
