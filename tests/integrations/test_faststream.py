"""FastStream's brokers on a real Kafka and a real RabbitMQ.

Messages that subscribers get are sent by the bare clients, and what FastStream publishes is read by them.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from faststream import Depends

from contract.contexts import TRACEPARENT
from contract.fitting import FittingContract
from contract.receiving import ReceivingContract
from contract.sending import SendingContract, Wire
from integrations.faststream_stations import (
    LARGEST_BATCH,
    ConfluentStation,
    KafkaStation,
    RabbitStation,
    Station,
    make_current,
)
from spakky.tracing.context import TraceContext
from spakky.tracing.integrations import faststream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.asyncio(loop_scope="class")


@pytest_asyncio.fixture(scope="class", loop_scope="class")
async def kafka_station(kafka_address: str) -> AsyncIterator[KafkaStation]:
    async with KafkaStation(kafka_address) as station:
        yield station


@pytest_asyncio.fixture(scope="class", loop_scope="class")
async def confluent_station(kafka_address: str) -> AsyncIterator[ConfluentStation]:
    async with ConfluentStation(kafka_address) as station:
        yield station


@pytest_asyncio.fixture(scope="class", loop_scope="class")
async def rabbit_station(amqp_url: str) -> AsyncIterator[RabbitStation]:
    async with RabbitStation(amqp_url) as station:
        yield station


async def at_rest(station: Station) -> Station:
    """Return *station* as if nothing had happened there before."""
    await station.empty()
    station.clear()
    return station


class OnKafka:
    @pytest_asyncio.fixture(autouse=True, loop_scope="class")
    async def _on(self, kafka_station: KafkaStation) -> None:
        self.station: Any = await at_rest(kafka_station)


class OnConfluent:
    @pytest_asyncio.fixture(autouse=True, loop_scope="class")
    async def _on(self, confluent_station: ConfluentStation) -> None:
        self.station: Any = await at_rest(confluent_station)


class OnRabbitMQ:
    @pytest_asyncio.fixture(autouse=True, loop_scope="class")
    async def _on(self, rabbit_station: RabbitStation) -> None:
        self.station: Any = await at_rest(rabbit_station)


class Sending:
    """Publishes through the middleware and looks at what arrives."""

    station: Any

    async def send(self, way: str, headers: Any, *, body: Any = b"value", **options: Any) -> None:
        station = self.station
        station.switch.middleware = faststream.TraceMiddleware(**options)
        fixed = {"headers": headers, "correlation_id": "of the user"}
        if way == "publish":
            await station.publish(body=body, **fixed)
        elif way == "publisher":
            await station.broker.publisher(station.outbox, persistent=False).publish(body, **fixed)
        elif way == "router":
            station.switch.middleware = None
            router = station.router(faststream.TraceMiddleware(**options))
            await router.publisher(station.outbox, persistent=False).publish(body, **fixed)
        elif way == "no confirm":
            await (await station.publish(body=body, no_confirm=True, **fixed))
        else:
            await station.broker.publish_batch(body, topic=station.outbox, partition=0, **fixed)

    async def arrived(self) -> Wire:
        wire: Wire = await self.station.arrived()
        return wire

    def native(self, headers: dict[str, str]) -> dict[str, str]:
        return dict(headers)


class TestSendingToKafka(OnKafka, Sending, SendingContract):
    ways = ["publish", "publisher", "router", "no confirm", "batch"]
    recorded_ways = ways
    foreign = {"zebra": "\N{ZEBRA FACE}", "app": "1", "empty": ""}

    async def fail_to_send(self, way: str, **options: Any) -> BaseException:
        with pytest.raises(AttributeError) as raised:
            await self.send(way, {"name": 7}, **options)
        return raised.value


class TestSendingToRabbitMQ(OnRabbitMQ, Sending, SendingContract):
    ways = ["publish", "publisher", "router"]
    recorded_ways = ways
    foreign = {"a": bytearray(b"\x00\xff"), "b": 7, "c": [1, "two"], "d": {"nested": "table"}, "e": None}

    async def fail_to_send(self, way: str, **options: Any) -> BaseException:
        with pytest.raises(TypeError) as raised:
            await self.send(way, {"name": object()}, **options)
        return raised.value


class TestSendingByConfluent(OnConfluent, TestSendingToKafka):
    ways = ["publish", "publisher", "no confirm", "batch"]
    recorded_ways = ways


class TestFittingToKafka(OnKafka, Sending, FittingContract):
    fitting_ways = ["publish", "publisher", "no confirm", "batch"]
    largest = 1_048_440

    async def send_filled(self, way: str, filling: int, **options: Any) -> None:
        await self.send(way, None, body=b"x" * filling, **options)


class TestFittingByConfluent(OnConfluent, TestFittingToKafka):
    fitting_ways = ["publish", "publisher"]


class TestFittingToRabbitMQ(OnRabbitMQ, Sending, FittingContract):
    fitting_ways = ["publish", "publisher", "router"]
    largest = 130_930

    async def send_filled(self, way: str, filling: int, **options: Any) -> None:
        await self.send(way, {"x": "x" * filling}, **options)


class Receiving:
    """Runs a body in a subscriber of a broker that is running."""

    station: Any

    async def receive(
        self, way: str, headers: dict[str, Any], body: Callable[[], None], **options: Any
    ) -> None:
        station, middleware = self.station, faststream.TraceMiddleware(**options)
        station.switch.middleware = None if way == "router" else middleware
        station.body = body
        before = station.stage.before = TraceContext.get()
        subscriber = subscribed(way, station, middleware)
        await asyncio.create_task(station.handle(subscriber, headers), context=Context())
        left, error = station.stage.left, station.stage.error
        station.clear()
        if left is not before:
            make_current(left)
        if error is not None:
            raise error


def subscribed(way: str, station: Station, middleware: Any) -> Any:
    """Return a subscriber that runs the body of *station* at the place that *way* says."""

    async def run(value: Any) -> None:
        await asyncio.sleep(0)
        station.body()

    async def leave(value: Any) -> None: ...

    async def depend() -> None:
        await run(None)

    async def decode(message: Any) -> Any:
        await run(message)
        return message.body

    if way == "router":
        subscriber = station.subscriber(station.router(middleware))
    elif way == "decoder":
        subscriber = station.subscriber(decoder=decode)
    elif way == "dependency":
        subscriber = station.subscriber(dependencies=[Depends(depend)])
    else:
        subscriber = station.subscriber()
    if way == "filter":
        subscriber(filter=lambda message: False)(leave)
    subscriber(leave if way in {"decoder", "dependency"} else run)
    return subscriber


class TestReceivingFromKafka(OnKafka, Receiving, ReceivingContract):
    ways = ["handler", "router", "decoder", "dependency", "filter"]
    sees_errors = ways
    hostile_values = [b"", b"00-bad", b"x" * 100_000, f"{TRACEPARENT}\n".encode()]


class TestReceivingFromRabbitMQ(OnRabbitMQ, Receiving, ReceivingContract):
    ways = ["handler", "router", "decoder", "dependency", "filter"]
    sees_errors = ways
    hostile_values = ["", bytearray(b"\xff\xfe"), "00-bad", "x" * 40_000, None, 5, True, [TRACEPARENT], {"a": TRACEPARENT}]


class TestReceivingByConfluent(OnConfluent, Receiving, ReceivingContract):
    ways = ["handler"]
    sees_errors = ways
    hostile_values = TestReceivingFromKafka.hostile_values
