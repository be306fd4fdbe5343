"""confluent-kafka between this library and OpenTelemetry's instrumentation."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import confluent_kafka as client
from opentelemetry.instrumentation.confluent_kafka import ConfluentKafkaInstrumentor

from interop.continuing import ContinuingContract
from interop.sharing import SharingContract
from interop.sides import PATIENCE, Handler, OverKafka, producers_of
from interop.telemetry import Telemetry
from spakky.tracing.integrations import confluent_kafka

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.trace import TracerProvider


class ConfluentKafka(OverKafka):
    appends = True

    async def send(self, destination: str, headers: Any = None, **options: Any) -> None:
        producer = confluent_kafka.wrap(
            client.Producer({"bootstrap.servers": self.address, "log_level": 0}), **options
        )
        producer.produce(destination, b"value", partition=0, headers=headers)
        assert producer.flush(PATIENCE) == 0

    async def send_bare(self, destination: str, headers: dict[str, str | bytes]) -> None:
        producer = client.Producer({"bootstrap.servers": self.address, "log_level": 0})
        producer.produce(destination, b"value", partition=0, headers={**headers})
        assert producer.flush(PATIENCE) == 0

    async def receive(self, source: str, handle: Handler) -> None:
        with closing(client.Consumer({"bootstrap.servers": self.address, "group.id": "interop"})) as consumer:
            consumer.assign([client.TopicPartition(source, 0, 0)])
            message = consumer.poll(PATIENCE)
            assert message is not None
            with confluent_kafka.process(message):
                await handle(message.headers())


class TestInTwoProcesses(ConfluentKafka, ContinuingContract):
    client = "confluent_kafka"
    peer_ways = ["poll", "consume"]
    ways_with_baggage: ClassVar[list[str]] = []
    only_links = True


class TestInOneProcess(ConfluentKafka, SharingContract):
    @contextmanager
    def instrumented(self, provider: TracerProvider) -> Iterator[None]:
        instrumentor = ConfluentKafkaInstrumentor()
        instrumentor.instrument(tracer_provider=provider)
        try:
            yield
        finally:
            instrumentor.uninstrument()


class TestOfAProducerThatOpenTelemetryGivesOut(ConfluentKafka):
    """`instrument_producer` wraps one producer, as we do, so that either can be around the other."""

    async def test_around_ours_there_is_one_traceparent(self) -> None:
        """K-02: what it wrote is in the headers that we are given, and is kept."""
        place, telemetry = self.place(), Telemetry()
        ours = confluent_kafka.wrap(client.Producer({"bootstrap.servers": self.address, "log_level": 0}))
        producer: client.Producer = ConfluentKafkaInstrumentor.instrument_producer(ours, telemetry.provider)

        with telemetry.provider.get_tracer("app").start_as_current_span("app"):
            producer.produce(place, b"value", partition=0)
        assert producer.flush(PATIENCE) == 0
        taken = await self.take(place)

        assert taken.sender in producers_of(telemetry.take_spans())
        assert len(taken.wire["traceparent"]) == 1

    async def test_inside_of_ours_there_are_two_of_which_the_last_is_its(self) -> None:
        """K-02: it appends to what we wrote."""
        place, telemetry = self.place(), Telemetry()
        theirs = ConfluentKafkaInstrumentor.instrument_producer(
            client.Producer({"bootstrap.servers": self.address, "log_level": 0}), telemetry.provider
        )
        producer: client.Producer = confluent_kafka.wrap(theirs)

        with telemetry.provider.get_tracer("app").start_as_current_span("app"):
            producer.produce(place, b"value", partition=0)
        assert producer.flush(PATIENCE) == 0
        taken = await self.take(place)

        assert taken.sender in producers_of(telemetry.take_spans())
        assert len(taken.wire["traceparent"]) == 2
