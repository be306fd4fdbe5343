"""kombu on a real RabbitMQ and a real Redis, and on the transports that need no broker."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pika
import pytest
from amqp.exceptions import MessageNacked
from kombu import pools
from kombu.common import itermessages
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.message import Message
from kombu.messaging import Consumer, Producer
from kombu.mixins import ConsumerMixin, ConsumerProducerMixin
from kombu.simple import SimpleQueue
from wrapt import ObjectProxy

from contract.amqp import AmqpContract
from contract.choosing import ChoosingContract
from contract.contexts import STALE, TRACEPARENT, full_context
from contract.delivery import Delivery, VerbsReceivingContract
from contract.fitting import FittingContract
from contract.handling import HandlerContract
from contract.pulling import PullingContract
from contract.receiving import SENDER
from contract.retrying import RetryingContract
from contract.sending import SendingContract, Wire
from integrations.celery_office import hooked, new_app
from integrations.kombu_link import Link, SmallFrames, message_in, open_link
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.integrations import kombu
from spakky.tracing.recorder import MemoryRecorder
from spakky.tracing.w3c_propagator import W3C

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
            return cast("Producer", pools.producers[self.link.connection].acquire(block=True))
        if way == "connection's producer":
            return cast("Producer", self.link.connection.Producer())
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
        with pytest.raises(Exception, match=r"not handled by amqp|not JSON serializable") as raised:
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
            run_once(Worker(self.link, decorated))
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


def run_once(worker: ConsumerMixin) -> None:
    """Let *worker* take one message."""
    for _ in worker.consume(limit=1, timeout=5):
        pass


class Worker(ConsumerMixin):
    """Consumes one queue by a callback."""

    def __init__(self, link: Link, callback: Callable[..., None]) -> None:
        self.connection = link.connection
        self._queue = Queue(link.name, no_declare=True)
        self._callback = callback

    def get_consumers(self, Consumer: Any, channel: Any) -> list[Consumer]:  # noqa: N803 - kombu's own name
        return [Consumer(queues=[self._queue], callbacks=[self._callback], no_ack=True)]


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


class TestBroker(AmqpContract):
    integration = kombu

    @pytest.fixture(autouse=True)
    def _on(self, link: Link) -> None:
        self.link = link

    async def declare_queue(self, name: str, arguments: dict[str, Any], *, durable: bool = False) -> None:
        Queue(name, durable=durable, queue_arguments=arguments)(self.link.channel).declare()

    async def publish_to(self, queue: str, headers: dict[str, Any]) -> None:
        self.link.publish(headers, routing_key=queue)

    async def get_from(self, queue: str, *, no_ack: bool = False) -> Message:
        return message_in(Queue(queue)(self.link.channel), no_ack=no_ack)

    async def reject(self, message: Message, *, requeue: bool) -> None:
        message.reject(requeue=requeue)


class TestPropagator:
    @pytest.mark.parametrize("url", ["amqp", "redis", "memory", "filesystem"])
    def test_one_propagator_serves_every_transport(
        self, url: str, amqp_url: str, redis_url: str, tmp_path: Path
    ) -> None:
        """A-21: raw kombu has one contract for all of its transports, and a span names the right system."""
        recorder = MemoryRecorder()
        urls = {"amqp": amqp_url, "redis": redis_url}
        folders = {"data_folder_in": str(tmp_path), "data_folder_out": str(tmp_path)}
        options: dict[str, Any] = {"transport_options": folders} if url == "filesystem" else {}

        with (
            Connection(urls.get(url, f"{url}://"), **options) as connection,
            open_link(connection) as link,
            TraceContext.use(full_context()) as context,
        ):
            producer = kombu.wrap(Producer(link.channel), propagator=W3C, tracer=recorder)
            producer.publish("value", routing_key=link.name)
            message = link.message()
            with kombu.process(message, propagator=W3C, tracer=recorder) as processing:
                pass

        assert context is not None
        assert processing.context is not None
        assert processing.context.trace_id == context.trace_id
        assert processing.context.trace_state.to_header() == "congo=t61"
        assert dict(processing.context.baggage) == {"tenant": "acme"}
        sent, received = recorder.spans
        assert received.parent_span_id == sent.span_id
        assert {sent.system, received.system} == {"rabbitmq" if url == "amqp" else url}

    def test_the_system_of_a_message_whose_connection_is_closed_is_a_guess(self, redis_url: str) -> None:
        recorder = MemoryRecorder()
        with Connection(redis_url) as connection, open_link(connection) as link:
            message = link.deliver({"traceparent": TRACEPARENT})

        with kombu.process(message, tracer=recorder):
            pass

        (span,) = recorder.spans
        assert (span.trace_id, span.system) == (SENDER.trace_id, "rabbitmq")

    @pytest.mark.parametrize(
        "url",
        [
            "amqp://[::1]:5672//",
            "amqp://one.example;amqp://[::1]:5672//",
            ["amqp://one.example:5672//", "amqp://[fe80::1]:5672//"],
            "amqps://user:p%40ss@one.example:5671/%2f?heartbeat=10",
            "amqp://",
            "",
        ],
        ids=repr,
    )
    def test_no_address_of_a_broker_is_read(self, url: Any) -> None:
        """A-16: sent and received as with any other address."""
        with Connection(url, transport="memory") as connection, open_link(connection) as link:
            with TraceContext.use(TraceContext.new_root()) as context:
                kombu.wrap(Producer(connection), tracer=MemoryRecorder()).publish("v", routing_key=link.name)
            with kombu.process(link.message(), tracer=MemoryRecorder()) as processing:
                pass

        assert context is not None
        assert processing.context is not None
        assert processing.context.trace_id == context.trace_id

    def test_a_message_without_a_channel_is_processed(self) -> None:
        recorder = MemoryRecorder()
        message = Message(b"value", headers={"traceparent": TRACEPARENT})

        with kombu.process(message, tracer=recorder, relation={"orders": "root"}):
            pass

        (span,) = recorder.spans
        assert (span.trace_id, span.destination, span.is_redelivered) == (
            SENDER.trace_id,
            "amq.default",
            None,
        )

    @pytest.mark.parametrize(
        "info", [{"exchange": 5, "routing_key": ["x"]}, ["orders"], "orders", {"redelivered": "1"}]
    )
    def test_a_delivery_of_any_shape_is_processed(self, info: Any) -> None:
        """A-02, for what virtual transports read out of the message itself."""
        recorder = MemoryRecorder()
        message = Message(b"value", headers={"traceparent": TRACEPARENT}, delivery_info=info)

        with kombu.process(message, tracer=recorder, relation={"orders": "root"}, enabled={"orders": False}):
            pass

        (span,) = recorder.spans
        assert (span.trace_id, span.destination) == (SENDER.trace_id, "amq.default")


class SpyingProducer(Producer):
    """Notes how it is called, and how often it is asked for its connection; it sends nothing."""

    def __init__(self, channel: Any) -> None:
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.asked = 0
        super().__init__(channel)  # type: ignore[no-untyped-call] # kombu's types say nothing of it

    @property
    def connection(self) -> Any:
        self.asked += 1
        return super().connection

    def publish(self, *arguments: Any, **named: Any) -> None:
        self.calls.append((arguments, named))


class Counting(ObjectProxy):  # type: ignore[type-arg] # wrapt 2.1 cannot be subscripted
    """A layer of another library, which counts what is published."""

    def __init__(self, wrapped: object) -> None:
        super().__init__(wrapped)
        self._self_count = 0

    @property
    def count(self) -> int:
        return self._self_count

    def publish(self, *arguments: Any, **named: Any) -> Any:
        self._self_count += 1
        return self.__wrapped__.publish(*arguments, **named)


class TestProducer:
    def test_a_wrapped_producer_is_a_producer(self, link: Link) -> None:
        producer = Producer(link.channel)
        wrapped = kombu.wrap(producer)

        assert isinstance(wrapped, Producer)
        assert wrapped.exchange is producer.exchange
        assert kombu.unwrap(wrapped) is producer
        assert kombu.unwrap(producer) is producer

    def test_wrapping_twice_is_wrapping_once_and_can_be_undone(self, link: Link) -> None:
        """A-13: one traceparent, one span; none after it is undone."""
        recorder = MemoryRecorder()
        producer = kombu.wrap(kombu.wrap(Producer(link.channel), tracer=recorder), tracer=recorder)

        producer.publish("value", routing_key=link.name)
        kombu.unwrap(producer).publish("value", routing_key=link.name)

        assert [list(link.message().headers) for _ in range(2)] == [["traceparent"], []]
        assert len(recorder.spans) == 1

    def test_the_client_library_stays_as_it_was(self, link: Link) -> None:
        publish, receive = Producer.publish, Consumer.receive
        producer = Producer(link.channel)

        kombu.wrap(producer)

        assert (Producer.publish, Consumer.receive) == (publish, receive)
        assert producer.publish.__func__ is publish  # type: ignore[attr-defined] # a bound method

    def test_wrapping_connects_nothing(self, amqp_url: str) -> None:
        with Connection(amqp_url) as connection:
            producer = kombu.wrap(Producer(connection))
            assert not connection.connected

            producer.publish("value", routing_key="nowhere")
            assert connection.connected

    def test_headers_that_are_none_are_none_of_a_problem(self, link: Link) -> None:
        """A-12: the message gets headers."""
        kombu.wrap(Producer(link.channel)).publish("value", routing_key=link.name, headers=None)

        assert list(link.message().headers) == ["traceparent"]

    def test_headers_of_the_caller_get_nothing_of_kombu_either(self, link: Link) -> None:
        """A-10: kombu itself would write `compression` into the caller's dict."""
        headers = {"app": "1", "traceparent": STALE}

        with TraceContext.use(TraceContext.new_root()):
            kombu.wrap(Producer(link.channel, compression="gzip")).publish(
                "value", routing_key=link.name, headers=headers
            )
        message = link.message()

        assert headers == {"app": "1", "traceparent": STALE}
        assert message.headers["compression"] == "application/x-gzip"
        assert message.payload == "value"

    def test_all_properties_of_a_message_arrive(self, link: Link) -> None:
        """A-10: nothing but the headers differs from what the bare client sends."""
        properties: dict[str, Any] = {
            "content_type": "text/plain",
            "content_encoding": "utf-8",
            "delivery_mode": 1,
            "priority": 3,
            "correlation_id": "c",
            "reply_to": "replies",
            "expiration": 60,
            "message_id": "m",
            "timestamp": 1_700_000_000,
            "type": "t",
            "user_id": "guest",
            "app_id": "a",
        }
        Producer(link.channel).publish("value", routing_key=link.name, **properties)
        kombu.wrap(Producer(link.channel)).publish("value", routing_key=link.name, **properties)
        bare, wrapped = link.message(), link.message()

        assert wrapped.properties.pop("application_headers").keys() == {"traceparent"}
        assert bare.properties.pop("application_headers") == {}
        assert wrapped.properties == bare.properties
        assert (wrapped.body, wrapped.content_type) == (bare.body, bare.content_type)

    def test_the_largest_properties_leave_room_for_as_many_headers_as_counted(self, link: Link) -> None:
        names = (
            "content_type",
            "correlation_id",
            "reply_to",
            "message_id",
            "type",
            "app_id",
            "cluster_id",
        )
        properties: dict[str, Any] = dict.fromkeys(names, "x" * 255)
        producer = kombu.wrap(Producer(link.channel, compression="bzip2"))

        for filling in range(128_100, 128_600, 50):
            with TraceContext.use(TraceContext.new_root()):
                producer.publish(
                    "v",
                    routing_key=link.name,
                    headers={"x": "x" * filling},
                    timestamp=1,
                    expiration=60,
                    **properties,
                )
            link.message()

    def test_a_stale_context_is_not_sent_where_there_is_no_room_for_the_new_one(self, link: Link) -> None:
        headers = {"traceparent": STALE, "tracestate": "old=1", "x": "x" * 130_800}

        with TraceContext.use(TraceContext.new_root()):
            kombu.wrap(Producer(link.channel)).publish("value", routing_key=link.name, headers=headers)

        assert list(link.message().headers) == ["x"]

    def test_the_frame_size_that_the_broker_agrees_to_is_the_limit(self, amqp_url: str) -> None:
        with (
            SmallFrames(amqp_url, 8_192) as broker,
            Connection(broker.url) as connection,
            open_link(connection, durable=False) as link,
        ):
            agreed: Any = connection.connection
            assert agreed.frame_max == 8_192
            producer = kombu.wrap(Producer(link.channel))
            sent = []
            for filling in range(5_000, 8_000, 100):
                producer.publish("value", routing_key=link.name, headers={"x": "x" * filling})
                sent.append("traceparent" in link.message().headers)

        assert sent == sorted(sent, reverse=True)
        assert set(sent) == {True, False}

    def test_without_frames_there_is_no_limit(self, redis_link: Link) -> None:
        producer = kombu.wrap(Producer(redis_link.channel))
        producer.publish("value", routing_key=redis_link.name, headers={"x": "x" * 200_000})

        assert list(redis_link.message().headers) == ["x", "traceparent"]

    def test_names_that_are_bytes_can_be_sent_on(self, link: Link) -> None:
        """A-18: py-amqp hands a name that is no UTF-8 out as bytes, and takes it so."""
        message = link.deliver({b"\xff": "1", "\udcff": "\udcff"})

        kombu.wrap(Producer(link.channel)).publish("value", routing_key=link.name, headers=message.headers)

        assert {b"\xff": "1"}.items() <= link.message().headers.items()

    def test_a_received_message_can_be_forwarded(self, link: Link) -> None:
        """A-11: no old field is left beside a new one."""
        old = link.deliver({"traceparent": STALE, "tracestate": "old=1", "baggage": "a=1", "app": "1"})

        with TraceContext.use(TraceContext.new_root()) as context:
            kombu.wrap(Producer(link.channel)).publish(
                old.payload, routing_key=link.name, headers=old.headers
            )
        assert context is not None
        assert link.message().headers == {"traceparent": context.to_traceparent(), "app": "1"}
        assert old.headers == {"traceparent": STALE, "tracestate": "old=1", "baggage": "a=1", "app": "1"}

    def test_a_publish_that_is_retried_is_one_message_in_one_span(self, amqp_url: str) -> None:
        recorder, failures = MemoryRecorder(), []
        policy = {**RETRIES, "errback": lambda error, interval: failures.append(error)}
        with Connection(amqp_url) as connection, open_link(connection, durable=False) as link:
            producer = kombu.wrap(Producer(connection), tracer=recorder)
            producer.publish("first", routing_key=link.name)
            lost: Any = connection.connection
            lost.sock.close()
            with TraceContext.use(TraceContext.new_root()) as context:
                producer.publish("second", routing_key=link.name, retry=True, retry_policy=policy)

            with open_link(connection, durable=False) as other:
                first, second = (message_in(link.queue(other.channel)) for _ in range(2))
                assert link.queue(other.channel).get() is None
                link.queue(other.channel).delete()

        assert context is not None
        assert failures
        assert (first.payload, second.payload) == ("first", "second")
        assert [span.outcome for span in recorder.spans] == ["ok", "ok"]
        sent = TraceContext.from_traceparent(second.headers["traceparent"])
        assert (sent.trace_id, sent.span_id) == (context.trace_id, recorder.spans[1].span_id)

    def test_a_producer_that_is_revived_carries_the_context_on_its_new_channel(self, link: Link) -> None:
        channel = link.connection.channel()
        producer = kombu.wrap(Producer(channel, Exchange("")))
        channel.close()

        producer.revive(link.channel)
        producer.publish("value", routing_key=link.name)

        assert list(link.message().headers) == ["traceparent"]

    def test_a_closed_channel_raises_as_with_the_client(self, link: Link) -> None:
        channel, recorder = link.connection.channel(), MemoryRecorder()
        producer = Producer(channel)
        channel.close()

        errors = []
        for each in (producer, kombu.wrap(producer, tracer=recorder)):
            with pytest.raises(Exception, match="connection closed") as raised:
                each.publish("value", routing_key=link.name)
            errors.append(type(raised.value))

        assert errors[0] is errors[1]
        assert [span.outcome for span in recorder.spans] == ["error"]

    def test_a_wrong_call_raises_as_with_the_client(self, link: Link) -> None:
        producer = Producer(link.channel)
        wrong: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
            ((), {}),
            (("value", "key"), {"routing_key": "key"}),
        ]
        for arguments, named in wrong:
            for each in (producer, kombu.wrap(producer)):
                with pytest.raises(TypeError, match=r"publish\(\) (missing|got multiple)"):
                    each.publish(*arguments, **named)

    def test_a_message_that_is_returned_carries_the_context(self, link: Link) -> None:
        returned: list[tuple[Any, ...]] = []
        producer = Producer(link.channel, on_return=lambda *about: returned.append(about))

        with TraceContext.use(TraceContext.new_root()) as context:
            kombu.wrap(producer).publish("value", routing_key="nowhere", mandatory=True)
        link.drain_until(lambda: returned)

        assert context is not None
        ((_, exchange, routing_key, message),) = returned
        assert (exchange, routing_key) == ("", "nowhere")
        assert message.headers == {"traceparent": context.to_traceparent()}

    def test_a_publish_that_the_broker_refuses_raises_as_with_the_client(
        self, confirming: Connection
    ) -> None:
        recorder = MemoryRecorder()
        full = {"x-max-length": 0, "x-overflow": "reject-publish"}
        with open_link(confirming, durable=False, queue_arguments=full) as link:
            for producer in (Producer(link.channel), kombu.wrap(Producer(link.channel), tracer=recorder)):
                with pytest.raises(MessageNacked):
                    producer.publish("value", routing_key=link.name)

        assert [(span.outcome, span.error) for span in recorder.spans] == [
            ("error", "amqp.exceptions.MessageNacked")
        ]

    @pytest.mark.parametrize("url", ["amqp", "redis"])
    def test_a_batch_of_publishes_carries_the_context_of_each(
        self, url: str, amqp_url: str, redis_url: str
    ) -> None:
        with (
            Connection(amqp_url if url == "amqp" else redis_url) as connection,
            open_link(connection) as link,
        ):
            producer, sent = kombu.wrap(Producer(link.channel)), []
            with producer.batch():
                for _ in range(3):
                    with TraceContext.use(TraceContext.new_root()) as context:
                        producer.publish("value", routing_key=link.name)
                    assert context is not None
                    sent.append(context.to_traceparent())
            arrived = [link.message().headers["traceparent"] for _ in sent]

        assert arrived == sent

    @pytest.mark.parametrize("shared", ["pool", "connection"])
    def test_eight_threads_do_not_mix_and_change_no_byte_of_other_headers(
        self, shared: str, link: Link
    ) -> None:
        """C-19, A-19: what is added is one flat ASCII string, the rest arrives as it was given."""
        headers = {"app": {"nested": ["table", 1, {"deep": None}]}, "bytes": b"\xff\x00", "text": "ä" * 300}
        sent: dict[str, str] = {}
        all_in, turn = threading.Barrier(8), threading.Lock()

        @contextlib.contextmanager
        def producer() -> Iterator[Producer]:
            if shared == "pool":
                with pools.producers[link.connection].acquire(block=True) as acquired:
                    yield acquired
            else:
                with turn:  # kombu's connections are for one thread at a time
                    yield Producer(link.channel)

        def publish(thread: int) -> None:
            all_in.wait(10)
            for number in range(20):
                body = f"{thread}-{number}"
                with TraceContext.use(TraceContext.new_root()) as context, producer() as bare:
                    kombu.wrap(bare).publish(body, routing_key=link.name, headers=headers)
                assert context is not None
                sent[body] = context.to_traceparent()

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(publish, range(8)))
        messages = [link.message() for _ in range(160)]

        assert {message.payload: message.headers.pop("traceparent") for message in messages} == sent
        assert all(message.headers == headers for message in messages)

    @pytest.mark.parametrize("options", [{"enabled": False}, {"enabled": {"orders": False}}])
    def test_a_producer_that_is_switched_off_gets_the_call_as_it_is_and_is_asked_for_nothing(
        self, options: dict[str, Any], link: Link
    ) -> None:
        producer = SpyingProducer(link.channel)
        wrapped = kombu.wrap(producer, **options)

        wrapped.publish("value", "orders")
        wrapped.publish("value", routing_key="orders", headers=None)
        own = {"app": "1"}
        wrapped.publish("value", routing_key="orders", headers=own)

        assert producer.calls == [
            (("value", "orders"), {}),
            (("value",), {"routing_key": "orders", "headers": None}),
            (("value",), {"routing_key": "orders", "headers": own}),
        ]
        assert producer.calls[2][1]["headers"] is own
        assert producer.asked == 0

    def test_the_proxy_of_another_library_keeps_its_layer(self, link: Link) -> None:
        """A-13: what it counts is counted, wrapped once, twice or no more."""
        proxy: Any = Counting(Producer(link.channel))
        wrapped = kombu.wrap(kombu.wrap(proxy))

        wrapped.publish("value", routing_key=link.name)
        kombu.unwrap(wrapped).publish("value", routing_key=link.name)

        assert kombu.unwrap(wrapped) is proxy
        assert kombu.unwrap(proxy) is proxy
        assert proxy.count == 2
        assert [list(link.message().headers) for _ in range(2)] == [["traceparent"], []]

    def test_what_is_neither_a_producer_nor_a_consumer_is_refused(self) -> None:
        with pytest.raises(
            WrongUseError, match=r"wrap\(\) takes a Producer or a Consumer of kombu, got object"
        ):
            kombu.wrap(object())  # type: ignore[type-var]

    def test_what_cannot_be_headers_is_refused(self) -> None:
        with pytest.raises(
            WrongUseError, match="headers must be a mapping of names to values or None, got list"
        ):
            kombu.headers([("app", "1")])


class TestConsumer:
    def test_a_wrapped_consumer_is_a_consumer_and_the_one_it_was_made_of_stays_as_it_was(
        self, link: Link
    ) -> None:
        seen: list[TraceContext | None] = []
        consumer = Consumer(
            link.channel,
            [link.queue],
            no_ack=True,
            callbacks=[lambda body, message: seen.append(TraceContext.get())],
        )
        before = {**vars(consumer), "callbacks": list(consumer.callbacks or [])}
        wrapped = kombu.wrap(consumer)

        assert isinstance(wrapped, Consumer)
        assert kombu.unwrap(wrapped) is consumer
        assert vars(consumer) == before
        link.publish({"traceparent": TRACEPARENT})
        with kombu.unwrap(wrapped):
            link.drain_until(lambda: seen)
        assert seen == [None]

    def test_wrapping_a_consumer_of_decorated_callbacks_is_decorating_once(self, link: Link) -> None:
        """A-13: one span for one message."""
        recorder, bodies = MemoryRecorder(), []

        class Service:
            @kombu.consumer(tracer=recorder)
            def method(self, body: object, message: Message) -> None:
                bodies.append(body)

        consumer = Consumer(link.channel, [link.queue], no_ack=True, callbacks=[Service().method])
        link.publish({"traceparent": TRACEPARENT})
        with kombu.wrap(kombu.wrap(consumer, tracer=recorder), tracer=recorder):
            link.drain_until(lambda: bodies)

        assert len(recorder.spans) == 1

    @pytest.mark.parametrize("callbacks", [[], ()], ids=["list", "tuple"])
    def test_wrapping_again_and_unwrapping_keep_what_was_registered(self, callbacks: Any, link: Link) -> None:
        """A-13: no message goes to nobody, the options are the new ones, and undone is undone."""
        recorder = MemoryRecorder()
        seen: list[TraceContext | None] = []

        def callback(body: object, message: Message) -> None:
            seen.append(TraceContext.get())

        def arrived(number: int) -> bool:
            return len(seen) == number

        consumer = Consumer(link.channel, [link.queue], no_ack=True, callbacks=callbacks)
        wrapped = kombu.wrap(consumer, relation="root")
        wrapped.register_callback(callback)
        again = kombu.wrap(wrapped, relation="child", tracer=recorder)

        for number, each in enumerate((again, kombu.unwrap(again), kombu.unwrap(wrapped)), 1):
            link.publish({"traceparent": TRACEPARENT})
            with each:
                link.drain_until(partial(arrived, number))

        assert [context and context.trace_id for context in seen] == [SENDER.trace_id, None, None]
        assert len(recorder.spans) == 1
        assert kombu.unwrap(again) is kombu.unwrap(wrapped) is consumer
        assert consumer.callbacks == [callback]
        assert not callbacks

    def test_what_is_registered_with_the_wrapped_one_again_is_called_once(self, link: Link) -> None:
        seen: list[str] = []
        consumer = kombu.wrap(Consumer(link.channel, [link.queue], no_ack=True))
        consumer.register_callback(lambda body, message: seen.append("first"))
        consumer = kombu.wrap(consumer)
        consumer.register_callback(lambda body, message: seen.append("second"))

        link.publish()
        with kombu.wrap(consumer):
            link.drain_until(lambda: len(seen) >= 2)

        assert seen == ["first", "second"]

    @pytest.mark.parametrize("place", ["callback", "registered", "on_message"])
    def test_a_callback_with_options_of_its_own_keeps_them(self, place: str, link: Link) -> None:
        seen: list[str] = []

        @kombu.consumer(relation="root")
        def handle(*received: Any) -> None:
            seen.append(current_trace_id())

        given: dict[str, Any] = {"callback": {"callbacks": [handle]}, "on_message": {"on_message": handle}}
        consumer = kombu.wrap(Consumer(link.channel, [link.queue], no_ack=True, **given.get(place, {})))
        if place == "registered":
            consumer.register_callback(handle)
        link.publish({"traceparent": TRACEPARENT})
        with consumer:
            link.drain_until(lambda: seen)

        assert len(seen) == 1
        assert seen != [SENDER.trace_id]

    def test_a_consumer_behind_the_proxy_of_another_library_is_refused(self, link: Link) -> None:
        """What kombu calls is inside of it, and a copy would lose the layer."""
        proxy: Any = Counting(Consumer(link.channel, [link.queue], callbacks=[print]))

        with pytest.raises(
            WrongUseError, match=r"behind a proxy: wrap the Consumer itself, .* got Counting$"
        ):
            kombu.wrap(proxy)
        assert kombu.unwrap(proxy) is proxy

    def test_a_consumer_that_consumes_already_is_refused(self, link: Link) -> None:
        consumer = Consumer(link.channel, [link.queue], callbacks=[print])
        with consumer, pytest.raises(WrongUseError, match=r"^this Consumer consumes already: wrap it before"):
            kombu.wrap(consumer)

    def test_a_revived_consumer_goes_on_in_the_contexts_of_its_messages(self, link: Link) -> None:
        seen: list[TraceContext | None] = []
        consumer = kombu.wrap(
            Consumer(
                link.channel,
                [link.queue],
                no_ack=True,
                callbacks=[lambda body, message: seen.append(TraceContext.get())],
            )
        )
        with consumer:
            channel = link.connection.channel()
            link.channel.close()
            consumer.revive(channel)
            consumer.consume()
            Producer(channel).publish("v", routing_key=link.name, headers={"traceparent": TRACEPARENT})
            link.drain_until(lambda: seen)
        link.channel = channel

        assert [context and context.trace_id for context in seen] == [SENDER.trace_id]

    def test_a_message_that_cannot_be_decoded_goes_where_the_client_sends_it(self, link: Link) -> None:
        """A-08, A-18: it is taken from the queue as without tracing."""
        failed: list[Message] = []

        def give_up(message: Message, error: Exception) -> None:
            message.ack()
            failed.append(message)

        consumer = Consumer(
            link.channel,
            [link.queue],
            callbacks=[print],
            on_decode_error=give_up,
        )
        link.publish(
            {"traceparent": b"\xff"}, b"{", content_type="application/json", content_encoding="utf-8"
        )
        with kombu.wrap(consumer):
            link.drain_until(lambda: failed)

        assert failed[0].acknowledged

    def test_one_message_at_a_time_in_its_own_context_and_acknowledged(self, link: Link) -> None:
        """A-18: a header that is no UTF-8 costs the trace only, and the message can be acknowledged."""
        seen: list[str] = []

        @kombu.consumer
        def handle(body: str, message: Message) -> None:
            context = TraceContext.get()
            assert context is not None
            seen.append(context.trace_id)
            message.ack()

        link.publish({"traceparent": TRACEPARENT})
        link.publish({"traceparent": b"\xff\xfe"})
        link.publish({"traceparent": STALE})
        with Consumer(link.channel, [link.queue], callbacks=[handle], prefetch_count=1):
            link.drain_until(lambda: len(seen) == 3)

        assert [seen[0], seen[2]] == [SENDER.trace_id, "1" * 32]
        assert len(set(seen)) == 3
        assert link.queue.get() is None

    def test_the_bodies_of_a_loop_over_messages_run_in_their_contexts(self, link: Link) -> None:
        """A-04, A-05: afterwards nothing of the last message is current."""
        sent, seen = [], []
        for _ in range(3):
            with TraceContext.use(TraceContext.new_root()) as context:
                kombu.wrap(Producer(link.channel)).publish("value", routing_key=link.name)
            assert context is not None
            sent.append(context.trace_id)

        with (
            TraceContext.use(TraceContext.new_root()) as before,
            contextlib.closing(itermessages(link.connection, link.channel, link.queue, limit=5)) as messages,
        ):
            for body, message in kombu.iterate(messages):
                assert body == "value"
                message.ack()
                seen.append(current_trace_id())
                if len(seen) == len(sent):
                    break
            assert TraceContext.get() is before

        assert seen == sent

    def test_threads_of_an_executor_process_messages_each_in_its_own_context(self, link: Link) -> None:
        """A-07: a message is received in one thread and processed in another."""
        contexts = [TraceContext.new_root() for _ in range(16)]
        messages = [link.deliver({"traceparent": context.to_traceparent()}) for context in contexts]
        both = threading.Barrier(4)

        def work(message: Message) -> str:
            with kombu.process(message):
                both.wait(10)
                return current_trace_id()

        with ThreadPoolExecutor(4) as threads, TraceContext.use(TraceContext.new_root()) as before:
            seen = list(threads.map(work, messages))
            assert TraceContext.get() is before

        assert seen == [context.trace_id for context in contexts]

    def test_a_batch_is_a_list_of_messages_or_of_pairs(self, link: Link) -> None:
        messages = [link.deliver({"traceparent": each}) for each in (TRACEPARENT, STALE)]

        @kombu.batch_consumer
        def handle(batch: list[Any]) -> TraceContext | None:
            return TraceContext.get()

        for batch in (messages, [(message.payload, message) for message in messages]):
            context = handle(batch)
            assert context is not None
            assert context.trace_id not in {SENDER.trace_id, "1" * 32}
            with kombu.process_batch(batch) as processing:
                assert len(processing.links) == 2

    def test_a_program_that_consumes_and_publishes_stays_in_the_trace(self, link: Link) -> None:
        with open_link(link.connection, durable=False) as replies:
            link.publish({"traceparent": TRACEPARENT}, reply_to=replies.name)
            run_once(Replier(link))
            reply = replies.message()

        sent = TraceContext.from_traceparent(reply.headers["traceparent"])
        assert sent.trace_id == SENDER.trace_id
        assert sent.span_id != SENDER.span_id

    @pytest.mark.parametrize("wrong", [b"value", ("body",), ("body", b"value"), ("body", None, None)])
    def test_what_is_no_message_is_refused(self, wrong: Any) -> None:
        name = type(wrong).__name__
        with pytest.raises(WrongUseError, match=f"this takes a received Message, got {name}"):
            kombu.process(wrong)


class Replier(ConsumerProducerMixin):
    """Answers each message by its own wrapped producer."""

    def __init__(self, link: Link) -> None:
        self.connection = link.connection
        self._queue = Queue(link.name, no_declare=True)

    def get_consumers(self, Consumer: Any, channel: Any) -> list[Consumer]:  # noqa: N803 - kombu's own name
        return [Consumer(queues=[self._queue], on_message=self.handle, no_ack=True)]

    @property
    def producer(self) -> Producer:
        return kombu.wrap(cast("Producer", super().producer))

    @kombu.consumer
    def handle(self, message: Message) -> None:
        self.producer.publish("reply", routing_key=message.properties["reply_to"], retry=True)


class TestWayOfAMessage:
    def processed(self, message: Message, **options: Any) -> Span:
        recorder = MemoryRecorder()
        with kombu.process(message, tracer=recorder, **options):
            pass
        (span,) = recorder.spans
        return span

    def test_a_message_that_is_put_back_stays_in_its_trace(self, link: Link) -> None:
        link.publish({"traceparent": TRACEPARENT})
        spans = []
        for _ in range(2):
            message = link.message(no_ack=False)
            spans.append(self.processed(message))
            message.requeue()

        first, second = spans
        assert (first.trace_id, second.trace_id) == (SENDER.trace_id, SENDER.trace_id)
        assert first.span_id != second.span_id
        assert (first.is_redelivered, first.attempt) == (False, 1)
        assert (second.is_redelivered, second.attempt) == (True, None)

    def test_a_quorum_queue_says_which_attempt_it_is(self, connection: Connection) -> None:
        with open_link(connection, queue_arguments={"x-queue-type": "quorum"}) as link:
            link.publish({"traceparent": TRACEPARENT})
            attempts = []
            for _ in range(3):
                message = link.message(no_ack=False)
                attempts.append(self.processed(message).attempt)
                message.reject(requeue=True)

        assert attempts == [1, 2, 3]

    def test_the_count_of_a_quorum_queue_is_not_sent_on(self, connection: Connection, link: Link) -> None:
        with open_link(connection, queue_arguments={"x-queue-type": "quorum"}) as orders:
            orders.publish({"traceparent": TRACEPARENT})
            orders.message(no_ack=False).reject(requeue=True)
            message = orders.message(no_ack=False)
            link.publish(kombu.retry_headers(message))
            message.ack()

        assert message.headers["x-delivery-count"] == 1
        assert link.message().headers.keys() == {"traceparent", "x-retry-count"}

    def test_a_dead_letter_stays_in_its_trace_and_counts_its_deaths(self, link: Link) -> None:
        """A-20: the trace of the sender, a link to it, and the number of deaths."""
        dying = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": link.name}
        with open_link(link.connection, durable=False, queue_arguments=dying) as orders:
            orders.publish({"traceparent": TRACEPARENT, "app": "1"})
            orders.message(no_ack=False).reject()
            dead = link.message()

        span = self.processed(dead)
        assert isinstance(dead.headers["x-death"], list)
        assert (span.trace_id, span.parent_span_id) == (SENDER.trace_id, SENDER.span_id)
        assert [each.span_id for each in span.links] == [SENDER.span_id]
        assert (span.death_count, span.attempt, span.is_redelivered) == (1, 2, False)

    def test_a_retry_delayed_by_a_queue_with_a_time_to_live_is_the_second_attempt(self, link: Link) -> None:
        waiting = {"x-message-ttl": 1, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": link.name}
        recorder = MemoryRecorder()
        message = link.deliver({"traceparent": TRACEPARENT})
        with open_link(link.connection, durable=False, queue_arguments=waiting) as wait:
            with kombu.process(message, tracer=recorder):
                wait.publish(kombu.retry_headers(message))
            again = link.message()

        (failed,) = recorder.spans
        span = self.processed(again)
        assert (span.trace_id, span.parent_span_id) == (SENDER.trace_id, failed.span_id)
        assert [each.span_id for each in span.links] == [failed.span_id]
        assert (span.attempt, span.death_count) == (2, 1)

    @pytest.mark.parametrize("pair", [False, True])
    def test_a_compressed_message_can_be_sent_on_and_read_again(self, pair: bool, link: Link) -> None:  # noqa: FBT001 - a case
        """The header by which kombu has decompressed a body belongs to that sending, not to the next one."""
        link.publish({"app": "1"}, {"order": 1}, compression="gzip")
        message = link.message()
        received: Any = (message.payload, message) if pair else message

        with kombu.process(received):
            headers = kombu.retry_headers(received)
        kombu.wrap(Producer(link.channel)).publish(message.payload, routing_key=link.name, headers=headers)
        again = link.message()

        assert again.payload == {"order": 1}
        assert again.headers.keys() == {"app", "traceparent", "x-retry-count"}
        assert message.headers == {"app": "1", "compression": "application/x-gzip"}

    def test_a_compressed_message_can_be_compressed_again(self, link: Link) -> None:
        link.publish(None, {"order": 1}, compression="gzip")
        message = link.message()

        link.publish(kombu.retry_headers(message), message.payload, compression="bzip2")

        assert link.message().payload == {"order": 1}

    def test_a_body_that_was_not_decompressed_keeps_the_header_that_says_how(self, link: Link) -> None:
        failed: list[dict[str, Any]] = []

        def send_on(message: Message, error: Exception) -> None:
            failed.append(kombu.retry_headers(message))

        link.publish({"compression": "gzip"}, "not compressed")
        with Consumer(link.channel, [link.queue], callbacks=[print], no_ack=True, on_decode_error=send_on):
            link.drain_until(lambda: failed)

        assert failed[0]["compression"] == "gzip"

    def test_the_destination_is_exchange_and_routing_key(self, link: Link) -> None:
        recorder = MemoryRecorder()
        exchange = Exchange(f"x-{link.name}", "topic", durable=False, auto_delete=True)
        kombu.wrap(Producer(link.channel), tracer=recorder).publish(
            "value",
            exchange=exchange,
            routing_key="orders.new",
            declare=[Queue(link.name, exchange, "orders.*", durable=False)],
        )
        message = link.message()

        (sent,) = recorder.spans
        assert sent.destination == self.processed(message).destination == f"{exchange.name}:orders.new"
        for name in (f"{exchange.name}:orders.new", "orders.new", exchange.name):
            assert self.processed(message, relation={name: "root"}).parent_span_id is None

    def test_bytes_of_another_client_are_read(self, amqp_url: str, link: Link) -> None:
        """A-01: pika sends bytes as a byte array, which py-amqp hands out as bytes."""
        fields: dict[str, Any] = {
            "traceparent": TRACEPARENT.encode(),
            "baggage": b"a=1",
            "tracestate": b"b=1",
        }
        with pika.BlockingConnection(pika.URLParameters(amqp_url)) as other:
            properties = pika.BasicProperties(headers=fields)
            other.channel().basic_publish("", link.name, b"value", properties)
        message = link.message()

        with kombu.process(message) as processing:
            pass

        assert all(isinstance(message.headers[name], bytes) for name in fields)
        assert processing.context is not None
        assert processing.context.parent_span_id == SENDER.span_id
        assert dict(processing.context.baggage) == {"a": "1"}
        assert processing.context.trace_state.to_header() == "b=1"


class TestBesideCelery:
    @pytest.mark.parametrize("wrapper", [kombu.wrap, kombu.unwrap])
    def test_a_task_carries_one_context_with_both_in_one_process(
        self, wrapper: Callable[[Producer], Producer], amqp_url: str, link: Link
    ) -> None:
        app = new_app(amqp_url, link.queue)
        producer = wrapper(Producer(link.channel))
        with hooked(app), TraceContext.use(full_context()) as context:
            app.send_task("work", producer=producer, queue=Queue(link.name, durable=False))
            kombu.wrap(Producer(link.channel)).publish("value", routing_key=link.name)
        app.close()

        assert context is not None
        of_celery, of_kombu = link.message().headers, link.message().headers
        for name, value in (
            ("traceparent", context.to_traceparent()),
            ("tracestate", "congo=t61"),
            ("baggage", "tenant=acme"),
        ):
            assert of_celery[name] == of_kombu[name] == value
            assert [key.lower() for key in of_celery].count(name) == 1
        assert of_celery["task"] == "work"


def current_trace_id() -> str:
    context = TraceContext.get()
    assert context is not None
    return context.trace_id
