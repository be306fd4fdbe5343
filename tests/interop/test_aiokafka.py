"""aiokafka between this library and OpenTelemetry's instrumentation."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from opentelemetry.instrumentation.aiokafka import AIOKafkaInstrumentor

from interop.continuing import ContinuingContract
from interop.sharing import SharingContract
from interop.sides import PATIENCE, Handler, OverKafka, pairs_of
from spakky.tracing.integrations import aiokafka

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.trace import TracerProvider


class Aiokafka(OverKafka):
    appends = True

    async def send(self, destination: str, headers: Any = None, **options: Any) -> None:
        bare = AIOKafkaProducer(bootstrap_servers=self.address)
        async with aiokafka.wrap(bare, **options) as producer:
            await producer.send_and_wait(destination, b"value", partition=0, headers=headers)

    async def send_bare(self, destination: str, headers: dict[str, str | bytes]) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.address) as producer:
            await producer.send_and_wait(destination, b"value", partition=0, headers=pairs_of(headers))

    async def receive(self, source: str, handle: Handler) -> None:
        consumer = AIOKafkaConsumer(bootstrap_servers=self.address, auto_offset_reset="earliest")
        async with consumer, asyncio.timeout(PATIENCE):
            consumer.assign([TopicPartition(source, 0)])
            async for record in aiokafka.iterate(consumer):
                await handle(record.headers)
                break


class TestInTwoProcesses(Aiokafka, ContinuingContract):
    client = "aiokafka"
    peer_ways = ["getone", "getmany"]
    ways_with_baggage = ["getone", "getmany"]


class TestInOneProcess(Aiokafka, SharingContract):
    @contextmanager
    def instrumented(self, provider: TracerProvider) -> Iterator[None]:
        instrumentor = AIOKafkaInstrumentor()
        instrumentor.instrument(tracer_provider=provider)
        try:
            yield
        finally:
            instrumentor.uninstrument()
