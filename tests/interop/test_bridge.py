"""OpenTelemetry's own instrumentation of each client beside ours, with the bridge on: nothing twice."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import confluent_kafka as client
import pytest
from opentelemetry.instrumentation.confluent_kafka import ConfluentKafkaInstrumentor

from interop import (
    test_aio_pika,
    test_aiokafka,
    test_celery,
    test_confluent_kafka,
    test_kafka_python,
    test_pika,
)
from interop.bridging import BridgingContract
from interop.sides import PATIENCE, producers_of
from interop.telemetry import Telemetry
from spakky.tracing.context import TraceContext
from spakky.tracing.integrations import confluent_kafka, opentelemetry

if TYPE_CHECKING:
    from collections.abc import Iterator


class TestAiokafka(BridgingContract, test_aiokafka.TestInOneProcess):
    is_kafka = True


class TestKafkaPython(BridgingContract, test_kafka_python.TestInOneProcess):
    is_kafka = True


class TestConfluentKafka(BridgingContract, test_confluent_kafka.TestInOneProcess):
    is_kafka = True


class TestAioPika(BridgingContract, test_aio_pika.TestInOneProcess): ...


class TestPika(BridgingContract, test_pika.TestInOneProcess): ...


class TestCelery(BridgingContract, test_celery.TestInOneProcess): ...


class TestCeleryThatOpenTelemetryEntersLast(
    BridgingContract, test_celery.TestInOneProcessThatOpenTelemetryEntersLast
): ...


class TestOfAProducerThatOpenTelemetryGivesOut(test_confluent_kafka.ConfluentKafka):
    """`instrument_producer` wraps one producer, as we do."""

    @pytest.fixture(autouse=True)
    def _bridge(self) -> Iterator[None]:
        self.telemetry = Telemetry()
        opentelemetry.install(tracer_provider=self.telemetry.provider)
        yield
        opentelemetry.uninstall()

    @contextmanager
    def spanned(self) -> Iterator[str]:
        with self.telemetry.provider.get_tracer("app").start_as_current_span("app"):
            context = TraceContext.get()
            assert context is not None
            yield context.trace_id

    def bare(self) -> client.Producer:
        return client.Producer({"bootstrap.servers": self.address, "log_level": 0})

    async def test_around_ours_there_is_one_traceparent(self) -> None:
        """K-02: what we write replaces what it wrote, as a child of its span."""
        place, ours = self.place(), confluent_kafka.wrap(self.bare())
        producer: client.Producer = ConfluentKafkaInstrumentor.instrument_producer(
            ours, self.telemetry.provider
        )

        with self.spanned() as trace_id:
            producer.produce(place, b"value", partition=0)
        assert producer.flush(PATIENCE) == 0
        taken = await self.take(place)

        assert len(taken.wire["traceparent"]) == 1
        assert taken.sender in producers_of(self.telemetry.take_spans())
        assert taken.sender.trace_id == trace_id

    async def test_within_ours_there_is_one_traceparent(self) -> None:
        """K-02: what is sent is left to it, since it would add a second one."""
        place = self.place()
        theirs: client.Producer = ConfluentKafkaInstrumentor.instrument_producer(
            self.bare(), self.telemetry.provider
        )
        producer = confluent_kafka.wrap(theirs)

        with self.spanned() as trace_id:
            producer.produce(place, b"value", partition=0)
        assert producer.flush(PATIENCE) == 0
        taken = await self.take(place)

        assert len(taken.wire["traceparent"]) == 1
        assert taken.sender in producers_of(self.telemetry.take_spans())
        assert taken.sender.trace_id == trace_id
