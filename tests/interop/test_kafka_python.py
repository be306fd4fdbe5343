"""kafka-python between this library and OpenTelemetry's instrumentation."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.structs import TopicPartition
from opentelemetry.instrumentation.kafka import KafkaInstrumentor

from interop.continuing import ContinuingContract
from interop.sharing import SharingContract
from interop.sides import PATIENCE, Handler, OverKafka, pairs_of
from spakky.tracing.integrations import kafka_python

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.trace import TracerProvider


class KafkaPython(OverKafka):
    appends = True

    @pytest.fixture(autouse=True)
    def _over(self, apache_kafka_address: str, new_topic: Callable[[], str]) -> None:
        """Go without the mock cluster: the client finds no version that both speak."""
        self.address, self.place = apache_kafka_address, new_topic

    async def send(self, destination: str, headers: Any = None, **options: Any) -> None:
        with closing(KafkaProducer(bootstrap_servers=self.address)) as bare:
            producer = kafka_python.wrap(bare, **options)
            producer.send(destination, b"value", partition=0, headers=headers).get(PATIENCE)

    async def send_bare(self, destination: str, headers: dict[str, str | bytes]) -> None:
        with closing(KafkaProducer(bootstrap_servers=self.address)) as producer:
            producer.send(destination, b"value", partition=0, headers=pairs_of(headers)).get(PATIENCE)

    async def receive(self, source: str, handle: Handler) -> None:
        consumer = KafkaConsumer(
            bootstrap_servers=self.address,
            auto_offset_reset="earliest",
            consumer_timeout_ms=PATIENCE * 1000,
        )
        with closing(consumer):
            consumer.assign([TopicPartition(source, 0)])
            for record in kafka_python.iterate(consumer):
                await handle(record.headers)
                break


class TestInTwoProcesses(KafkaPython, ContinuingContract):
    client = "kafka_python"
    peer_ways = ["next"]
    ways_with_baggage = ["next"]


class TestInOneProcess(KafkaPython, SharingContract):
    @contextmanager
    def instrumented(self, provider: TracerProvider) -> Iterator[None]:
        instrumentor = KafkaInstrumentor()
        instrumentor.instrument(tracer_provider=provider)
        try:
            yield
        finally:
            instrumentor.uninstrument()
