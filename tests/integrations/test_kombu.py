"""kombu on a real RabbitMQ and a real Redis, and on the transports that need no broker."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pika
import pytest
from celery import Celery
from kombu import pools
from kombu.common import itermessages
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.message import Message
from kombu.messaging import Consumer, Producer
from kombu.mixins import ConsumerMixin, ConsumerProducerMixin
from kombu.simple import SimpleQueue

from contract.choosing import ChoosingContract
from contract.contexts import STALE, TRACEPARENT, full_context
from contract.delivery import Delivery, VerbsReceivingContract
from contract.fitting import FittingContract
from contract.handling import HandlerContract
from contract.pulling import PullingContract
from contract.receiving import SENDER
from contract.retrying import RetryingContract
from contract.sending import SendingContract, Wire
from integrations.kombu_link import Link, SmallFrames, message_in, open_link
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.integrations import celery, kombu
from spakky.tracing.recorder import MemoryRecorder
from spakky.tracing.w3c_propagator import W3CTracePropagator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from spakky.tracing.recorder import Span

RETRIES = {"max_retries": 3, "interval_start": 0, "interval_step": 0.01}


@pytest.fixture(scope="module")
def connection(amqp_url: str) -> Iterator[Connection]:
    with Connection(amqp_url) as connection:
        yield connection
    pools.reset()


@pytest.fixture(scope="module")
def confirming(amqp_url: str) -> Iterator[Connection]:
    with Connection(amqp_url, transport_options={"confirm_publish": True}) as connection:
        yield connection


@pytest.fixture
def link(connection: Connection) -> Iterator[Link]:
    with open_link(connection, durable=False) as link:
        yield link


@pytest.fixture
def redis_link(redis_url: str) -> Iterator[Link]:
    with Connection(redis_url) as connection, open_link(connection) as link:
        yield link


class Sending:
    """Sends through the wrapped producer and looks at what arrives."""

    link: Link

    async def send(self, way: str, headers: Any, **options: Any) -> None:
        if way == "headers":
            self.link.publish(kombu.headers(headers, **options))
        elif way == "simple queue":
            simple = SimpleQueue(self.link.channel, self.link.queue)
            simple.producer = kombu.wrap(simple.producer, **options)
            simple.put("value", headers=headers, routing_key=self.link.name, exchange="")
        else:
            arguments, named = self.spelled(way, headers)
            with kombu.wrap(self.producer(way), **options) as producer:
                producer.publish("value", *arguments, **named)

    def producer(self, way: str) -> Producer:
        """Return a producer of the bare client."""
        if way == "pool":
            producer: Producer = pools.producers[self.link.connection].acquire(block=True)
            return producer
        if way == "connection's producer":
            return self.link.connection.Producer()
        if way == "exchange of the producer":
            return Producer(self.link.channel, self.exchange, "orders.new")
        return Producer(self.link.channel)

    def spelled(self, way: str, headers: Any) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments of `publish` after the body."""
        name, exchange = self.link.name, self.exchange
        queue = Queue(name, exchange, "orders.*", durable=False)
        to_exchange = {"routing_key": "orders.new", "headers": headers, "declare": [queue]}
        up_to_headers = [name, None, False, False, 0, None, None, None, headers]
        spellings: dict[str, tuple[list[Any], dict[str, Any]]] = {
            "headers in their place": (up_to_headers, {}),
            "all in their places": ([*up_to_headers, None, None, False, {}, []], {}),
            "retry": ([name], {"headers": headers, "retry": True, "retry_policy": RETRIES}),
            "exchange": ([], {**to_exchange, "exchange": exchange}),
            "exchange by its name": ([], {**to_exchange, "exchange": exchange.name}),
            "exchange of the producer": ([], {"headers": headers, "declare": [queue]}),
        }
        if way == "exchange by its name":
            exchange(self.link.channel).declare()
        return spellings.get(way, ([], {"routing_key": name, "headers": headers}))

    @property
    def exchange(self) -> Exchange:
        return Exchange(f"x-{self.link.name}", "topic", durable=False, auto_delete=True)

    async def send_filled(self, way: str, filling: int, **options: Any) -> None:
        await self.send(way, {"x": "x" * filling}, **options)

    async def arrived(self) -> Wire:
        return {name: [value] for name, value in self.link.message().headers.items()}

    def native(self, headers: dict[str, str]) -> dict[str, str]:
        return dict(headers)

    async def fail_to_send(self, way: str, **options: Any) -> BaseException:
        with pytest.raises(Exception, match="not handled by amqp|not JSON serializable") as raised:
            await self.send(way, {"name": object()}, **options)
        return raised.value


class TestSending(Sending, SendingContract):
    ways = [
        "named",
        "headers in their place",
        "all in their places",
        "retry",
        "exchange",
        "exchange by its name",
        "exchange of the producer",
        "pool",
        "connection's producer",
        "simple queue",
        "headers",
    ]
    recorded_ways = ways[:-1]
    foreign = {
        "a": b"\x00\xff",
        "b": 7,
        "c": [1, "two"],
        "d": {"nested": "table"},
        "e": None,
        "f": True,
        "g": "text",
        "h": Decimal("1.5"),
        "i": 1.1,
        "j": 2**40,
    }

    @pytest.fixture(autouse=True)
    def _on(self, link: Link) -> None:
        self.link = link


class TestFitting(Sending, FittingContract):
    fitting_ways = TestSending.ways
    largest = 131_000

    @pytest.fixture(autouse=True)
    def _on(self, link: Link) -> None:
        self.link = link


class TestSendingConfirmed(Sending, SendingContract, FittingContract):
    ways = recorded_ways = fitting_ways = ["named", "retry"]
    foreign = TestSending.foreign
    largest = TestFitting.largest

    @pytest.fixture(autouse=True)
    def _on(self, confirming: Connection) -> Iterator[None]:
        with open_link(confirming, durable=False) as self.link:
            yield


class TestSendingOverRedis(Sending, SendingContract):
    ways = ["named", "retry", "exchange", "pool", "simple queue", "headers"]
    recorded_ways = ways[:-1]
    foreign = {"b": 7, "c": [1, "two"], "d": {"nested": "table"}, "e": None, "f": True, "g": "text", "i": 1.1}

    @pytest.fixture(autouse=True)
    def _on(self, redis_link: Link) -> Iterator[None]:
        self.link = redis_link
        yield
        pools.reset()


class Receiving(Delivery):
    integration = kombu
    link: Link

    @property
    def source(self) -> str:
        return self.link.name

    async def deliver(self, headers: dict[str, Any]) -> Any:
        return self.link.deliver(headers)

    async def deliver_native(self, headers: Any) -> Any:
        return self.link.deliver(headers)


class OverRabbitMQ(Receiving):
    @pytest.fixture(autouse=True)
    def _on(self, link: Link) -> None:
        self.link = link


class OverRedis(Receiving):
    @pytest.fixture(autouse=True)
    def _on(self, redis_link: Link) -> None:
        self.link = redis_link


class ConsumingContract(Receiving, VerbsReceivingContract):
    """The receiving contract, also in the ways of kombu itself."""

    consuming = {
        "callback",
        "registered callback",
        "on_message",
        "wrapped consumer with a callback",
        "wrapped consumer with a registered callback",
        "wrapped consumer with on_message",
        "mixin",
    }
    pulling = {"iterate itermessages", "queue.get", "simple queue"}

    async def receive(
        self, way: str, headers: dict[str, Any], body: Callable[[], None], **options: Any
    ) -> None:
        if way in self.consuming:
            self.consume(way, headers, body, **options)
        elif way in self.pulling:
            self.pull(way, headers, body, **options)
        else:
            await super().receive(way, headers, body, **options)

    def consume(self, way: str, headers: dict[str, Any], body: Callable[[], None], **options: Any) -> None:
        done = threading.Event()

        def callback(*received: Any) -> None:
            done.set()
            body()

        self.link.publish(headers)
        decorated = callback if way.startswith("wrapped") else kombu.consumer(**options)(callback)
        if way == "mixin":
            for _ in Worker(self.link, decorated).consume(limit=1, timeout=5):
                pass
            return
        consumer = self.consumer(way, decorated)
        with kombu.wrap(consumer, **options) if way.startswith("wrapped") else consumer as consuming:
            if "registered" in way:
                consuming.register_callback(decorated)
            self.link.drain_until(done.is_set)

    def consumer(self, way: str, callback: Callable[..., None]) -> Consumer:
        queues = [self.link.queue]
        if way.endswith("on_message"):
            return Consumer(self.link.channel, queues, no_ack=True, on_message=callback)
        callbacks = [] if "registered" in way else [callback]
        return Consumer(self.link.channel, queues, no_ack=True, callbacks=callbacks)

    def pull(self, way: str, headers: dict[str, Any], body: Callable[[], None], **options: Any) -> None:
        self.link.publish(headers)
        if way == "iterate itermessages":
            link = self.link
            messages = itermessages(link.connection, link.channel, link.queue, timeout=5, no_ack=True)
            with contextlib.closing(messages):
                for _ in kombu.iterate(messages, **options):
                    body()
            return
        simple = SimpleQueue(self.link.channel, self.link.queue, no_ack=True)
        message = self.link.message() if way == "queue.get" else simple.get(timeout=5)
        with kombu.process(message, **options):
            body()
        simple.close()


class Worker(ConsumerMixin):
    """Consumes one queue by a callback."""

    def __init__(self, link: Link, callback: Callable[..., None]) -> None:
        self.connection = link.connection
        self._queue = Queue(link.name, no_declare=True)
        self._callback = callback

    def get_consumers(self, consumer: Callable[..., Consumer], channel: Any) -> list[Consumer]:
        return [consumer(queues=[self._queue], callbacks=[self._callback], no_ack=True)]


class TestReceiving(OverRabbitMQ, ConsumingContract):
    ways = [*VerbsReceivingContract.ways, *sorted(ConsumingContract.consuming | ConsumingContract.pulling)]
    sees_errors = [way for way in ways if "iterate" not in way]
    hostile_values = [
        "",
        b"\xff\xfe",
        "00-bad",
        "x" * 40_000,
        None,
        5,
        True,
        1.5,
        Decimal("1.5"),
        datetime(2026, 1, 2, tzinfo=UTC),
        [TRACEPARENT],
        {"traceparent": TRACEPARENT},
        f"{TRACEPARENT}\n",
    ]


class TestReceivingOverRedis(OverRedis, ConsumingContract):
    ways = [
        "sync handler",
        "with block",
        "callback",
        "wrapped consumer with a callback",
        "iterate itermessages",
        "simple queue",
    ]
    sees_errors = [way for way in ways if "iterate" not in way]
    hostile_values = [
        "",
        "00-bad",
        b"\xff\xfe",
        None,
        5,
        True,
        1.5,
        [TRACEPARENT],
        {"traceparent": TRACEPARENT},
        f"{TRACEPARENT}\n",
    ]


class TestHandlers(OverRabbitMQ, HandlerContract): ...


class TestPulling(OverRabbitMQ, PullingContract): ...


class TestPullingOverRedis(OverRedis, PullingContract): ...


class TestPullingPairs(OverRabbitMQ, PullingContract):
    """Pairs of body and message, as `itermessages` yields them."""

    async def deliver(self, headers: dict[str, Any]) -> Any:
        message = self.link.deliver(headers)
        return message.payload, message


class TestChoosing(OverRabbitMQ, ChoosingContract): ...


class TestChoosingOverRedis(OverRedis, ChoosingContract): ...


class TestRetrying(OverRabbitMQ, RetryingContract): ...


class TestRetryingOverRedis(OverRedis, RetryingContract): ...
