"""kombu between this library and OpenTelemetry, which is used by hand: it has no instrumentation of kombu."""

from __future__ import annotations

import asyncio
from typing import Any

from kombu.connection import Connection
from kombu.entity import Queue
from opentelemetry import propagate

from interop.continuing import ContinuingContract
from interop.seen import Sender
from interop.sides import PATIENCE, Handler, OverRabbitMQ
from interop.telemetry import Telemetry
from spakky.tracing.context import TraceContext
from spakky.tracing.integrations import kombu


class Kombu(OverRabbitMQ):
    async def send(self, destination: str, headers: Any = None, **options: Any) -> None:
        with Connection(self.address) as connection:
            producer = kombu.wrap(connection.Producer(), **options)
            producer.publish("value", routing_key=destination, headers=headers)

    async def send_bare(self, destination: str, headers: dict[str, str | bytes]) -> None:
        with Connection(self.address) as connection:
            connection.Producer().publish("value", routing_key=destination, headers=headers)

    async def receive(self, source: str, handle: Handler) -> None:
        with Connection(self.address) as connection:
            queue = Queue(source)(connection.default_channel)
            async with asyncio.timeout(PATIENCE):
                while (message := queue.get(no_ack=True)) is None:  # noqa: ASYNC110 - pulled
                    await asyncio.sleep(0.005)
            with kombu.process(message):
                await handle(message.headers)


class TestInTwoProcesses(Kombu, ContinuingContract):
    client = "kombu"
    peer_ways = ["get"]
    ways_with_baggage = ["get"]


class TestInOneProcess(Kombu):
    async def test_what_opentelemetry_injects_by_hand_is_kept_outside_of_a_context_of_ours(self) -> None:
        """A-21: who injects by hand goes on to do so, when the producer is wrapped."""
        place, telemetry, headers = self.place(), Telemetry(), {"app": "1"}

        with telemetry.provider.get_tracer("app").start_as_current_span("app"):
            propagate.inject(headers)
            await self.send(place, headers)
        taken = await self.take(place)

        [span] = telemetry.take_spans()
        assert taken.sender == span.own
        assert taken.wire["app"] == ["1"]

    async def test_what_opentelemetry_injects_by_hand_is_replaced_in_a_context_of_ours(self) -> None:
        """A-11, A-21: what is current here is what is sent, and nothing else."""
        place, telemetry, headers = self.place(), Telemetry(), dict[str, str]()

        with telemetry.provider.get_tracer("app").start_as_current_span("app"):
            propagate.inject(headers)
            with TraceContext.use(TraceContext.new_root()) as context:
                await self.send(place, headers)
        taken = await self.take(place)

        assert context is not None
        assert taken.sender == Sender(context.trace_id, context.span_id)
        assert taken.wire["traceparent"] == [context.to_traceparent()]
