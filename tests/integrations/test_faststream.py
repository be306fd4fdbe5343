"""FastStream's brokers on a real Kafka and a real RabbitMQ.

Messages that subscribers get are sent by the bare clients, and what FastStream publishes is read by them.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import importlib
import multiprocessing
import time
from abc import ABC, abstractmethod
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar
from uuid import uuid4

import aio_pika
import pytest
import pytest_asyncio
from faststream import (
    BaseMiddleware,
    Context,
    Depends,
    ExceptionMiddleware,
    PublishCommand,
    PublishType,
    StreamMessage,
)
from faststream.confluent import KafkaBroker as ConfluentBroker
from faststream.confluent import TestKafkaBroker as TestConfluentBroker
from faststream.context import ContextRepo
from faststream.exceptions import (
    AckMessage,
    NackMessage,
    RejectMessage,
    SkipMessage,
    SubscriberNotFound,
)
from faststream.kafka import KafkaBroker, TestKafkaBroker
from faststream.kafka.exceptions import BatchBufferOverflowException
from faststream.kafka.testing import build_message as kafka_message
from faststream.rabbit import RabbitBroker, RabbitExchange, TestRabbitBroker

from contract.contexts import STALE, TRACEPARENT
from contract.fitting import FittingContract
from contract.receiving import SENDER, HandlerError, ReceivingContract
from contract.sending import SendingContract, Wire, texts
from integrations.faststream_stations import (
    LARGEST_BATCH,
    PATIENCE,
    ConfluentStation,
    KafkaStation,
    RabbitStation,
    Station,
    make_current,
)
from spakky.tracing.baggage import Baggage
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.integrations import faststream
from spakky.tracing.propagator import ITracePropagator
from spakky.tracing.recorder import MemoryRecorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

StationT = TypeVar("StationT", bound=Station)

SENT = {"traceparent": TRACEPARENT, "baggage": "tenant=acme"}
CARRIED = SENDER.with_baggage(Baggage({"tenant": "acme"}))

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


async def at_rest(station: StationT) -> StationT:
    """Return *station* as if nothing had happened there before."""
    await station.empty()
    station.clear()
    return station


class At(ABC):
    """Tests at one station."""

    @property
    @abstractmethod
    def station(self) -> Station:
        """The station."""


class OnKafka(At):
    @pytest_asyncio.fixture(autouse=True, loop_scope="class")
    async def _at_rest(self, kafka_station: KafkaStation) -> None:
        self._kafka = await at_rest(kafka_station)

    @property
    def station(self) -> KafkaStation:
        return self._kafka


class OnConfluent(At):
    @pytest_asyncio.fixture(autouse=True, loop_scope="class")
    async def _at_rest(self, confluent_station: ConfluentStation) -> None:
        self._kafka = await at_rest(confluent_station)

    @property
    def station(self) -> ConfluentStation:
        return self._kafka


class OnRabbitMQ(At):
    @pytest_asyncio.fixture(autouse=True, loop_scope="class")
    async def _at_rest(self, rabbit_station: RabbitStation) -> None:
        self._rabbitmq = await at_rest(rabbit_station)

    @property
    def station(self) -> RabbitStation:
        return self._rabbitmq


class Sending(At):
    """Publishes through the middleware and looks at what arrives."""

    async def send(self, way: str, headers: Any, *, body: Any = b"value", **options: Any) -> None:
        station = self.station
        station.switch.middleware = faststream.TraceMiddleware(**options)
        fixed = {"headers": headers, "correlation_id": "of the user"}
        if way == "publish":
            await station.publish(body=body, **fixed)
        elif way == "publisher":
            await station.publisher().publish(body, **fixed)
        elif way == "router":
            station.switch.middleware = None
            router = station.router(faststream.TraceMiddleware(**options))
            await station.publisher(router).publish(body, **fixed)
        elif way == "no confirm":
            await (await station.publish(body=body, no_confirm=True, **fixed))
        else:
            await station.broker.publish_batch(body, topic=station.outbox, partition=0, **fixed)

    async def arrived(self) -> Wire:
        wire: Wire = await self.station.arrived()
        return wire

    def native(self, headers: dict[str, str]) -> dict[str, str]:
        return dict(headers)


class SendingToKafka(Sending, SendingContract):
    ways = ["publish", "publisher", "router", "no confirm", "batch"]
    recorded_ways = ways
    foreign = {"zebra": "\N{ZEBRA FACE}", "app": "1", "empty": ""}

    async def fail_to_send(self, way: str, **options: Any) -> BaseException:
        with pytest.raises(AttributeError) as raised:
            await self.send(way, {"name": 7}, **options)
        return raised.value


class TestSendingToKafka(OnKafka, SendingToKafka): ...


class TestSendingByConfluent(OnConfluent, SendingToKafka): ...


class TestSendingToRabbitMQ(OnRabbitMQ, Sending, SendingContract):
    ways = ["publish", "publisher", "router"]
    recorded_ways = ways
    foreign = {"a": bytearray(b"\x00\xff"), "b": 7, "c": [1, "two"], "d": {"nested": "table"}, "e": None}

    async def fail_to_send(self, way: str, **options: Any) -> BaseException:
        with pytest.raises(TypeError) as raised:
            await self.send(way, {"name": object()}, **options)
        return raised.value


class FittingToKafka(Sending, FittingContract):
    largest = 1_048_440

    async def send_filled(self, way: str, filling: int, **options: Any) -> None:
        await self.send(way, None, body=b"x" * filling, **options)


class TestFittingToKafka(OnKafka, FittingToKafka):
    fitting_ways = ["publish", "publisher", "no confirm"]


class TestFittingIntoBatches(OnKafka, FittingToKafka):
    """Here it is the broker that refuses, and the mock cluster does not."""

    fitting_ways = ["batch"]

    @pytest.fixture(autouse=True)
    def _on_apache_kafka(self, apache_kafka_address: str) -> None: ...


class TestFittingByConfluent(OnConfluent, FittingToKafka):
    fitting_ways = ["publish", "publisher", "no confirm"]


class TestFittingToRabbitMQ(OnRabbitMQ, Sending, FittingContract):
    fitting_ways = ["publish", "publisher", "router"]
    largest = 130_930

    async def send_filled(self, way: str, filling: int, **options: Any) -> None:
        await self.send(way, {"x": "x" * filling}, **options)


class Receiving(At):
    """Runs a body in a subscriber of a broker that is running."""

    async def receive(
        self, way: str, headers: dict[str, Any], body: Callable[[], None], **options: Any
    ) -> None:
        station, middleware = self.station, faststream.TraceMiddleware(**options)
        station.switch.middleware = None if way == "router" else middleware
        station.body = body
        before = station.stage.before = TraceContext.get()
        subscriber = subscribed(way, station, middleware)
        await asyncio.create_task(station.handle(subscriber, headers), context=contextvars.Context())
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
        subscriber(leave, filter=lambda message: False)
    subscriber(leave if way in {"decoder", "dependency"} else run)
    return subscriber


class ReceivingFromKafka(Receiving, ReceivingContract):
    ways = ["handler", "router", "decoder", "dependency", "filter"]
    sees_errors = ways
    hostile_values = [b"", b"00-bad", b"x" * 100_000, f"{TRACEPARENT}\n".encode()]


class TestReceivingFromKafka(OnKafka, ReceivingFromKafka): ...


class TestReceivingByConfluent(OnConfluent, ReceivingFromKafka):
    ways = ["handler"]
    sees_errors = ways


class TestReceivingFromRabbitMQ(OnRabbitMQ, Receiving, ReceivingContract):
    ways = ["handler", "router"]
    sees_errors = ways
    hostile_values = [
        "",
        bytearray(b"\xff\xfe"),
        "00-bad",
        "x" * 40_000,
        None,
        5,
        True,
        [TRACEPARENT],
        {"a": TRACEPARENT},
    ]


class Service(At):
    """What a handler publishes, and how it ends."""

    def traced(self, **options: Any) -> MemoryRecorder:
        recorder = MemoryRecorder()
        self.station.switch.middleware = faststream.TraceMiddleware(tracer=recorder, **options)
        return recorder

    def untraced(self) -> None:
        """Have no tracer: then contexts are sent as they are."""
        self.station.switch.middleware = faststream.TraceMiddleware()

    async def sent(self) -> TraceContext:
        wire: Wire = await self.station.arrived()
        return TraceContext.from_traceparent(texts(wire, "traceparent")[0])

    async def handled(self, handler: Callable[..., Any], **options: Any) -> None:
        """Have *handler* called with a message of `SENDER`."""
        subscriber = self.station.subscriber(**options)
        subscriber(handler)
        await self.station.handle(subscriber, SENT)

    async def test_a_returned_value_is_published_in_the_context_of_its_handler(self) -> None:
        """A-17: the reply is below the handler, not beside it."""
        self.untraced()
        seen: list[TraceContext | None] = []

        @self.station.publisher()
        async def handle(value: Any) -> str:
            seen.append(TraceContext.get())
            return "taken"

        await self.handled(handle)

        (own,) = seen
        assert own is not None
        assert own.parent_span_id == SENDER.span_id
        assert (await self.sent()).to_traceparent() == own.to_traceparent()

    async def test_a_returned_value_is_published_in_a_recorded_span_below_its_handler(self) -> None:
        recorder = self.traced()

        @self.station.publisher()
        async def handle(value: Any) -> str:
            return "taken"

        await self.handled(handle)

        send, process = recorder.spans
        assert (process.name, send.name) == (
            f"process {self.station.inbox}",
            f"send {self.station.outbox}",
        )
        assert (process.kind, process.system) == ("consumer", self.station.system)
        assert (send.parent_span_id, process.parent_span_id) == (process.span_id, SENDER.span_id)
        assert (await self.sent()).span_id == send.span_id

    async def test_a_context_that_the_handler_sets_counts_for_what_it_returns(self) -> None:
        self.untraced()
        own = TraceContext.new_root()

        @self.station.publisher()
        async def handle(value: Any) -> str:
            TraceContext.set(own)
            return "taken"

        await self.handled(handle)

        assert (await self.sent()).to_traceparent() == own.to_traceparent()
        assert self.station.stage.left is None

    async def test_all_publishers_of_a_handler_publish_in_its_context(self) -> None:
        recorder = self.traced()
        publisher = self.station.publisher()

        @publisher
        @self.station.publisher()
        async def handle(value: Any) -> str:
            await publisher.publish("at once")
            return "taken"

        await self.handled(handle)

        *sends, process = recorder.spans
        assert [send.parent_span_id for send in sends] == [process.span_id] * 3
        assert {(await self.sent()).span_id for _ in sends} == {send.span_id for send in sends}

    async def test_what_is_published_in_a_scope_of_the_handler_carries_that_scope(self) -> None:
        """A-17: user scopes count."""
        self.untraced()
        own = TraceContext.new_root()

        async def handle(value: Any) -> None:
            with TraceContext.use(own):
                await self.station.publish({})

        await self.handled(handle)

        assert (await self.sent()).to_traceparent() == own.to_traceparent()

    async def test_a_response_keeps_its_headers(self) -> None:
        self.traced()
        headers = {"app": "1", "traceparent": STALE}
        response = self.station.new_response("taken", headers=headers)

        @self.station.publisher()
        async def handle(value: Any) -> Any:
            return response

        await self.handled(handle)
        wire = await self.station.arrived()

        assert texts(wire, "app") == ["1"]
        assert TraceContext.from_traceparent(texts(wire, "traceparent")[0]).trace_id == SENDER.trace_id
        assert headers == response.headers == {"app": "1", "traceparent": STALE}

    async def test_the_command_of_a_middleware_around_stays_as_it_was(self) -> None:
        commands: list[tuple[Any, dict[str, Any]]] = []

        class KeepingMiddleware(BaseMiddleware):
            async def publish_scope(self, call_next: Any, cmd: Any) -> Any:
                before = dict(vars(cmd))
                commands.append((cmd, before))
                return await call_next(cmd)

        router = self.station.router(KeepingMiddleware, faststream.TraceMiddleware())
        await self.station.publisher(router).publish("value", headers={"app": "1"})

        ((command, before),) = commands
        assert vars(command) == before
        assert command.headers == {"app": "1"}
        assert texts(await self.station.arrived(), "traceparent")

    async def test_a_reply_is_sent_in_the_context_of_its_handler(self) -> None:
        """A-17 for replies."""
        recorder = self.traced()
        subscriber = self.station.subscriber()

        @subscriber
        async def handle(value: Any) -> str:
            return "taken"

        await self.station.handle(subscriber, SENT, reply_to=self.station.outbox)

        send, process = recorder.spans
        assert send.parent_span_id == process.span_id
        assert (await self.sent()).span_id == send.span_id

    async def test_baggage_that_the_handler_changes_is_sent(self) -> None:
        """K-10: baggage reaches the handler, and what is sent from there."""
        self.untraced()

        async def handle(value: Any) -> None:
            context = TraceContext.get()
            assert context is not None
            with TraceContext.use(context.with_baggage(Baggage({**context.baggage, "order": "7"}))):
                await self.station.publish({"baggage": "left=over"})

        await self.handled(handle)

        assert texts(await self.station.arrived(), "baggage") == ["tenant=acme,order=7"]

    async def test_an_error_of_the_handler_leaves_nothing_to_the_next_message(self) -> None:
        """The scope of FastStream's own OpenTelemetry middleware stays open then."""
        recorder = self.traced()
        error = HandlerError()
        seen: list[TraceContext | None] = []
        subscriber = self.station.subscriber()

        @subscriber
        async def handle(value: Any) -> None:
            seen.append(TraceContext.get())
            if len(seen) == 1:
                raise error

        async with self.station.running(subscriber):
            await self.station.deliver(SENT)
            await self.station.stage.over()
            assert self.station.stage.error is error
            assert self.station.stage.left is None
            await self.station.deliver({})
            await self.station.stage.over(2)

        first, second = seen
        assert first is not None
        assert second is not None
        assert (first.trace_id, second.parent_span_id) == (SENDER.trace_id, None)
        assert second.trace_id != SENDER.trace_id
        assert not second.baggage
        assert [span.outcome for span in recorder.spans] == ["error", "ok"]

    @pytest.mark.parametrize(
        ("raised", "outcome"),
        [
            (AckMessage, "ok"),
            (NackMessage, "retry"),
            (RejectMessage, "rejected"),
            (SkipMessage, "ignored"),
        ],
    )
    async def test_what_a_handler_raises_to_say_something_is_no_error(
        self, raised: type[Exception], outcome: str
    ) -> None:
        recorder = self.traced()
        calls = 0

        async def handle(value: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise raised

        await self.handled(handle)

        assert recorder.spans[0].outcome == outcome
        assert isinstance(self.station.stage.error, raised)

    async def test_an_error_that_another_middleware_handles_is_recorded_if_it_is_the_outer_one(self) -> None:
        recorder = MemoryRecorder()
        errors = ExceptionMiddleware(publish_handlers={HandlerError: lambda error: "sorry"})
        tracing = faststream.TraceMiddleware(tracer=recorder)
        for middlewares in ([errors, tracing], [tracing, errors]):
            self.station.stage.clear()
            subscriber = self.station.subscriber(self.station.router(*middlewares))

            @self.station.publisher()
            async def handle(value: Any) -> None:
                raise HandlerError

            subscriber(handle)
            await self.station.handle(subscriber, SENT)
            assert self.station.stage.error is None

        outer_send, outer, inner_send, inner = recorder.spans
        assert (outer.outcome, inner.outcome) == ("error", "ok")
        assert (outer_send.parent_span_id, inner_send.parent_span_id) == (outer.span_id, inner.span_id)
        assert {(await self.sent()).span_id for _ in range(2)} == {outer_send.span_id, inner_send.span_id}

    async def test_a_message_that_a_middleware_tries_again_has_a_span_for_each_attempt(self) -> None:
        recorder, calls = MemoryRecorder(), 0
        router = self.station.router(TwiceMiddleware, faststream.TraceMiddleware(tracer=recorder))
        subscriber = self.station.subscriber(router)

        @subscriber
        async def handle(value: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise HandlerError

        await self.station.handle(subscriber, SENT)

        assert [span.outcome for span in recorder.spans] == ["error", "ok"]
        assert {span.parent_span_id for span in recorder.spans} == {SENDER.span_id}
        assert len({span.span_id for span in recorder.spans}) == 2
        assert self.station.stage.left is None

    async def test_a_middleware_that_calls_the_handler_in_another_task_is_none_the_worse(self) -> None:
        """As `asyncio.wait_for` does before Python 3.12."""
        recorder = MemoryRecorder()
        router = self.station.router(ElsewhereMiddleware, faststream.TraceMiddleware(tracer=recorder))
        subscriber = self.station.subscriber(router)

        @subscriber
        @self.station.publisher(router)
        async def handle(value: Any) -> str:
            return "taken"

        await self.station.handle(subscriber, SENT)

        send, process = recorder.spans
        assert (send.parent_span_id, process.parent_span_id) == (process.span_id, SENDER.span_id)
        assert process.outcome == "ok"
        assert (await self.sent()).span_id == send.span_id
        assert self.station.stage.left is None

    async def test_two_middlewares_are_one_and_the_broker_s_counts(self) -> None:
        outer, inner = self.traced(), MemoryRecorder()
        router = self.station.router(faststream.TraceMiddleware(tracer=inner, relation="root"))
        subscriber = self.station.subscriber(router)

        @subscriber
        @self.station.publisher(router)
        async def handle(value: Any) -> str:
            return "taken"

        await self.station.handle(subscriber, SENT)

        assert [span.trace_id for span in outer.spans] == [SENDER.trace_id] * 2
        assert list(inner.spans) == []
        assert (await self.sent()).trace_id == SENDER.trace_id

    @pytest.mark.parametrize("is_by_name", [False, True])
    async def test_where_the_broker_s_is_switched_off_the_router_s_counts(self, *, is_by_name: bool) -> None:
        inner = MemoryRecorder()
        router = self.station.router(faststream.TraceMiddleware(tracer=inner))
        subscriber = self.station.subscriber(router)

        @subscriber
        @self.station.publisher(router)
        async def handle(value: Any) -> str:
            return "taken"

        off = {self.station.inbox: False, self.station.outbox: False} if is_by_name else False
        outer = self.traced(enabled=off)
        await self.station.handle(subscriber, SENT)

        assert list(outer.spans) == []
        assert [span.trace_id for span in inner.spans] == [SENDER.trace_id] * 2
        assert (await self.sent()).span_id == inner.spans[0].span_id

    async def test_a_sync_handler_runs_in_the_context_of_its_message(self) -> None:
        self.untraced()
        seen: list[TraceContext | None] = []

        @self.station.publisher()
        def handle(value: Any) -> str:
            seen.append(TraceContext.get())
            return "taken"

        await self.handled(handle)

        (own,) = seen
        assert own is not None
        assert own.parent_span_id == SENDER.span_id
        assert (await self.sent()).to_traceparent() == own.to_traceparent()

    async def test_the_handler_is_called_as_without_a_middleware(self) -> None:
        self.traced()
        seen: list[Any] = []
        value = object()

        async def handle(body: bytes, message: Annotated[StreamMessage[Any], Context()]) -> object:
            seen.append((body, faststream.context_from(message)))
            return value

        subscriber = self.station.subscriber()
        wrapped = subscriber(handle)
        await self.station.handle(subscriber, SENT)

        assert await wrapped(b"by hand", message=StreamMessage(raw_message=None, body=b"")) is value
        assert seen == [(b"value", CARRIED), (b"by hand", None)]

    async def test_a_source_is_chosen_by_name(self) -> None:
        for is_named in (True, False):
            self.station.stage.clear()
            subscriber = self.station.subscriber()
            recorder = self.traced(relation={self.station.inbox if is_named else "another": "link"})
            subscriber(print_nothing)
            await self.station.handle(subscriber, SENT)

            (span,) = recorder.spans
            assert bool(span.links) is is_named

    async def test_a_function_chooses_by_the_message_of_faststream(self) -> None:
        asked: list[Any] = []

        def choose(message: Any) -> str:
            asked.append(message)
            return "link"

        recorder = self.traced(relation=choose)

        async def handle(value: Any) -> None: ...

        await self.handled(handle)

        assert [isinstance(message, StreamMessage) for message in asked] == [True]
        assert len(recorder.spans[0].links) == 1

    async def test_the_time_in_the_queue_is_on_the_span(self) -> None:
        recorder = self.traced()
        before = time.time_ns()

        async def handle(value: Any) -> None: ...

        await self.handled(handle)

        (span,) = recorder.spans
        assert span.queue_time_nano is not None
        assert 0 <= span.queue_time_nano <= time.time_ns() - before + 1_000_000_000

    async def test_a_propagator_of_another_format_is_used_in_both_directions(self) -> None:
        """P-12: FastStream's own middleware speaks one format only."""
        self.station.switch.middleware = faststream.TraceMiddleware(propagator=PlainPropagator())
        subscriber = self.station.subscriber()

        @subscriber
        async def handle(value: Any) -> None:
            await self.station.publish({"x-trace": "stale", "app": "1"})

        await self.station.handle(subscriber, {"x-trace": SENDER.to_traceparent(), "traceparent": STALE})
        wire = await self.station.arrived()

        assert TraceContext.from_traceparent(texts(wire, "x-trace")[0]).trace_id == SENDER.trace_id
        assert (texts(wire, "traceparent"), texts(wire, "app")) == ([], ["1"])

    async def test_a_message_without_headers_gets_nothing_of_what_is_around(self) -> None:
        """P-04: neither a span nor baggage."""
        self.untraced()
        seen: list[TraceContext | None] = []
        self.station.stage.before = TraceContext.new_root(baggage=Baggage({"tenant": "another"}))
        subscriber = self.station.subscriber()

        @subscriber
        async def handle(value: Any) -> None:
            seen.append(TraceContext.get())

        await self.station.handle(subscriber, {})

        (own,) = seen
        assert own is not None
        assert (own.parent_span_id, dict(own.baggage)) == (None, {})
        assert self.station.stage.left is self.station.stage.before

    async def test_a_pulled_message_is_processed_in_its_context(self) -> None:
        """A-03, A-04, K-09: what `get_one` and an iteration hand out, as long as its body runs."""
        recorder = MemoryRecorder()
        self.untraced()
        subscriber = self.station.subscriber()
        seen: list[TraceContext | None] = []

        async with self.station.running(subscriber):
            await self.station.deliver(SENT)
            with faststream.process(await subscriber.get_one(timeout=5), tracer=recorder):
                seen.append(TraceContext.get())
                await self.station.publish({})
            await self.station.deliver(SENT)
            with faststream.process(await anext(aiter(subscriber)), relation="link", tracer=recorder):
                seen.append(TraceContext.get())

        child, linked = seen
        assert child is not None
        assert linked is not None
        assert (child.parent_span_id, linked.parent_span_id) == (SENDER.span_id, None)
        assert (await self.sent()).to_traceparent() == child.to_traceparent()
        assert [len(span.links) for span in recorder.spans] == [0, 1]
        assert TraceContext.get() is None

    async def test_a_pulled_message_has_its_context_and_nothing_is_current(self) -> None:
        """A-04 and K-09: it is processed where no middleware is, and not while it is received."""
        recorder = self.traced()
        subscriber = self.station.subscriber()

        async with self.station.running(subscriber):
            await self.station.deliver(SENT)
            message = await subscriber.get_one(timeout=5)
            await self.station.deliver(SENT)
            other = await anext(aiter(subscriber))
            assert TraceContext.get() is None

        assert faststream.context_from(message) == faststream.context_from(other) == CARRIED
        assert list(recorder.spans) == []


class TestServiceOnKafka(OnKafka, Service): ...


class TestServiceByConfluent(OnConfluent, Service): ...


class TestServiceOnRabbitMQ(OnRabbitMQ, Service): ...


class OverKafka(At):
    """Batches in both directions, and what is not waited for."""

    @property
    @abstractmethod
    def station(self) -> KafkaStation:
        """The station."""

    async def batch(self, handler: Callable[..., Any], *headers: dict[str, Any]) -> None:
        subscriber = self.station.subscriber(batch=True, **self.station.options_of_batches)
        subscriber(handler)
        async with self.station.running(subscriber):
            await self.station.deliver_together(*headers)
            await self.station.stage.over()

    async def test_a_batch_links_to_every_sender_and_has_the_context_of_each_record(self) -> None:
        """K-15, K-31: also without an id of FastStream's own."""
        senders = [TraceContext.new_root() for _ in range(3)]
        recorder = MemoryRecorder()
        self.station.switch.middleware = faststream.TraceMiddleware(tracer=recorder)
        seen: list[Any] = []

        async def handle(values: Any, message: Annotated[StreamMessage[Any], Context()]) -> None:
            own = TraceContext.get()
            carried = [faststream.context_from(record) for record in message.raw_message]
            with faststream.process(message.raw_message[0]) as processing:
                seen.append((own, carried, faststream.context_from(message), processing.context))

        await self.batch(handle, *({"traceparent": each.to_traceparent()} for each in senders), {})

        ((own, carried, none, single),) = seen
        assert single.parent_span_id == senders[0].span_id
        assert [each and each.span_id for each in carried] == [*(each.span_id for each in senders), None]
        assert none is None
        (span,) = recorder.spans
        assert (span.span_id, span.parent_span_id) == (own.span_id, None)
        assert [link.span_id for link in span.links] == [each.span_id for each in senders]
        assert span.trace_id not in {each.trace_id for each in senders}

    async def test_a_batch_links_once_to_a_sender_of_several_records(self) -> None:
        """K-31: an id that is shared takes no link away, and adds none."""
        recorder = MemoryRecorder()
        self.station.switch.middleware = faststream.TraceMiddleware(tracer=recorder)

        async def handle(values: Any) -> None: ...

        shared = {"traceparent": TRACEPARENT, "correlation_id": "1"}
        other = {"traceparent": STALE, "correlation_id": "1"}
        await self.batch(handle, shared, shared, other)

        linked = [f"00-{link.trace_id}-{link.span_id}-01" for link in recorder.spans[0].links]
        assert linked == [TRACEPARENT, STALE]

    async def test_a_batch_is_a_new_trace_whatever_is_current_where_it_is_fetched(self) -> None:
        self.station.switch.middleware = faststream.TraceMiddleware()
        before = self.station.stage.before = TraceContext.new_root()
        seen: list[TraceContext | None] = []

        async def handle(values: Any) -> None:
            seen.append(TraceContext.get())

        await self.batch(handle, {}, {})

        (own,) = seen
        assert own is not None
        assert (own.parent_span_id, own.trace_id == before.trace_id) == (None, False)
        assert self.station.stage.left is before

    async def test_a_batch_can_be_switched_off_by_name(self) -> None:
        seen: list[TraceContext | None] = []
        self.station.switch.middleware = faststream.TraceMiddleware(enabled={self.station.inbox: False})

        async def handle(values: Any) -> None:
            seen.append(TraceContext.get())

        await self.batch(handle, SENT)

        assert seen == [None]

    async def test_all_messages_of_a_published_batch_carry_the_same_context_and_nothing_else(self) -> None:
        """K-32: nothing is put into baggage."""
        self.station.switch.middleware = faststream.TraceMiddleware()
        context = TraceContext.new_root(baggage=Baggage({"tenant": "acme"}))

        with TraceContext.use(context):
            await self.station.broker.publish_batch("1", "2", topic=self.station.outbox, partition=0)

        for _ in range(2):
            wire = await self.station.arrived()
            assert texts(wire, "traceparent") == [context.to_traceparent()]
            assert texts(wire, "baggage") == ["tenant=acme"]

    async def test_what_is_published_while_a_published_batch_is_processed_continues_its_trace(self) -> None:
        """K-32: single messages of a batch, and what comes after them, stay in the trace."""
        recorder = MemoryRecorder()
        self.station.switch.middleware = faststream.TraceMiddleware(tracer=recorder)
        subscriber = self.station.subscriber()

        @subscriber
        async def handle(value: Any) -> None:
            await self.station.publish({})

        async with self.station.running(subscriber):
            with TraceContext.use(TraceContext.new_root()) as sender:
                await self.station.broker.publish_batch("1", "2", topic=self.station.inbox, partition=0)
            await self.station.stage.over(2)
        wires = [await self.station.arrived() for _ in range(2)]

        assert sender is not None
        assert {span.trace_id for span in recorder.spans} == {sender.trace_id}
        batch, *_ = recorder.spans
        assert {span.parent_span_id for span in recorder.spans if span.kind == "consumer"} == {batch.span_id}
        for wire in wires:
            assert TraceContext.from_traceparent(texts(wire, "traceparent")[0]).trace_id == sender.trace_id
            assert texts(wire, "baggage") == []

    async def test_returned_values_of_a_batch_publisher_are_published_in_the_context_of_the_handler(
        self,
    ) -> None:
        self.station.switch.middleware = faststream.TraceMiddleware()
        seen: list[TraceContext | None] = []

        @self.station.publisher(batch=True)
        async def handle(value: Any) -> tuple[str, str]:
            seen.append(TraceContext.get())
            return "1", "2"

        subscriber = self.station.subscriber()
        subscriber(handle)
        await self.station.handle(subscriber, SENT)

        (own,) = seen
        assert own is not None
        for _ in range(2):
            assert texts(await self.station.arrived(), "traceparent") == [own.to_traceparent()]

    async def test_a_send_that_nobody_waits_for_is_recorded_when_it_is_delivered(self) -> None:
        recorder = MemoryRecorder()
        self.station.switch.middleware = faststream.TraceMiddleware(tracer=recorder)

        delivery = await self.station.publish({}, no_confirm=True)
        assert list(recorder.spans) == []
        await delivery

        assert [span.outcome for span in recorder.spans] == ["ok"]
        assert texts(await self.station.arrived(), "traceparent")


class TestOverKafka(OnKafka, OverKafka):
    async def test_a_batch_that_just_fits_is_sent_without_what_makes_it_too_large(self) -> None:
        """FastStream raises if a message finds no room in a batch; nothing is sent then."""
        heavy = TraceContext.new_root(baggage=Baggage({"tenant": "a" * 8_000}))

        for spare, carries in ((150, True), (100, False)):
            filling = b"x" * (LARGEST_BATCH // 2 - spare)
            self.station.switch.middleware = faststream.TraceMiddleware()
            with TraceContext.use(heavy):
                await self.station.broker.publish_batch(
                    filling, filling, topic=self.station.outbox, partition=0, correlation_id="1"
                )
            for _ in range(2):
                wire = await self.station.arrived()
                assert bool(texts(wire, "traceparent")) is carries
                assert texts(wire, "baggage") == []

    async def test_a_batch_that_does_not_fit_at_all_is_refused_as_before(self) -> None:
        self.station.switch.middleware = faststream.TraceMiddleware()

        with pytest.raises(BatchBufferOverflowException):
            await self.station.broker.publish_batch(
                *[b"x" * LARGEST_BATCH] * 2, topic=self.station.outbox, partition=0
            )


class TestOverKafkaByConfluent(OnConfluent, OverKafka): ...


class TestKafkaHeaders(OnKafka):
    """K-06, K-07: what FastStream cannot decode."""

    undecodable = pytest.mark.parametrize("value", [b"\x00\xff", None], ids=repr)

    async def outcome_of(self, subscriber: Any, *headers: tuple[str, Any]) -> BaseException | None:
        async with self.station.running(subscriber):
            await self.station.deliver_pairs(list(headers))
            await self.station.stage.over()
        return self.station.stage.error

    @undecodable
    async def test_a_record_that_faststream_cannot_decode_is_lost_with_and_without_tracing(
        self, value: Any
    ) -> None:
        """K-06, K-07: its parser raises before any handler is asked; the next record is processed."""
        calls: list[Any] = []
        errors = []
        for middleware in (None, faststream.TraceMiddleware()):
            self.station.switch.middleware = middleware
            subscriber = self.station.subscriber()

            @subscriber
            async def handle(value: Any) -> None:
                calls.append(value)

            self.station.stage.clear()
            async with self.station.running(subscriber):
                await self.station.deliver_pairs([("traceparent", TRACEPARENT), ("x-schema", value)])
                await self.station.stage.over()
                errors.append(self.station.stage.error)
                await self.station.deliver(SENT)
                await self.station.stage.over(2)

        bare, traced = errors
        assert type(traced) is type(bare) is (UnicodeDecodeError if value else AttributeError)
        assert calls == [b"value", b"value"]

    @undecodable
    async def test_a_record_that_is_lost_is_recorded_as_failed_in_its_trace(self, value: Any) -> None:
        recorder = MemoryRecorder()
        self.station.switch.middleware = faststream.TraceMiddleware(tracer=recorder)
        subscriber = self.station.subscriber()
        subscriber(print_nothing)

        error = await self.outcome_of(subscriber, ("traceparent", TRACEPARENT), ("x-schema", value))

        (span,) = recorder.spans
        assert (span.trace_id, span.parent_span_id) == (SENDER.trace_id, SENDER.span_id)
        assert (span.outcome, span.error) == ("error", type(error).__name__)
        assert self.station.stage.left is None

    async def test_a_batch_with_such_a_record_is_lost_whole_and_recorded_as_failed(self) -> None:
        recorder = MemoryRecorder()
        self.station.switch.middleware = faststream.TraceMiddleware(tracer=recorder)
        subscriber = self.station.subscriber(batch=True)
        subscriber(print_nothing)

        error = await self.outcome_of(subscriber, ("traceparent", TRACEPARENT), ("x-schema", b"\xff"))

        (span,) = recorder.spans
        assert isinstance(error, UnicodeDecodeError)
        assert [link.span_id for link in span.links] == [SENDER.span_id]
        assert span.outcome == "error"

    @pytest.mark.parametrize("value", [b"\x00\xff", None], ids=repr)
    @pytest.mark.parametrize("name", ["x-schema", "tracestate"])
    async def test_a_parser_of_the_user_saves_such_a_record_and_its_context(
        self, name: str, value: Any
    ) -> None:
        """K-06, K-07: the context is read from the record itself, not from what a parser makes of it."""
        self.station.switch.middleware = faststream.TraceMiddleware()
        seen: list[Any] = []

        async def parse(record: Any, original: Any) -> Any:
            readable = [(name, value) for name, value in record.headers if value and value.isascii()]
            message = await original(dataclasses.replace(record, headers=readable))
            message.raw_message = record
            return message

        subscriber = self.station.subscriber(parser=parse)

        @subscriber
        async def handle(value: Any, message: Annotated[StreamMessage[Any], Context()]) -> None:
            seen.append((TraceContext.get(), message.raw_message.headers))

        error = await self.outcome_of(subscriber, ("traceparent", TRACEPARENT), (name, value))

        assert error is None
        ((own, headers),) = seen
        assert own.parent_span_id == SENDER.span_id
        assert (name, value) in headers

    async def test_repeated_headers_are_read_as_kafka_s_own_client_reads_them(self) -> None:
        """The last traceparent counts, and all of tracestate and baggage; a dict has the last of all."""
        self.station.switch.middleware = faststream.TraceMiddleware()
        seen: list[Any] = []
        subscriber = self.station.subscriber()

        @subscriber
        async def handle(value: Any) -> None:
            seen.append(TraceContext.get())

        await self.outcome_of(
            subscriber,
            ("traceparent", STALE),
            ("tracestate", "a=1"),
            ("traceparent", TRACEPARENT),
            ("tracestate", "b=2"),
            ("baggage", "one=1"),
            ("baggage", "two=2"),
        )

        (own,) = seen
        assert own.parent_span_id == SENDER.span_id
        assert own.trace_state.to_header() == "a=1,b=2"
        assert dict(own.baggage) == {"one": "1", "two": "2"}

    async def test_a_message_for_which_there_is_no_handler_is_recorded_as_failed(self) -> None:
        recorder = MemoryRecorder()
        self.station.switch.middleware = faststream.TraceMiddleware(tracer=recorder)
        subscriber = self.station.subscriber()
        subscriber(print_nothing, filter=lambda message: False)

        error = await self.outcome_of(subscriber, ("traceparent", TRACEPARENT))

        assert isinstance(error, SubscriberNotFound)
        assert [(span.parent_span_id, span.outcome) for span in recorder.spans] == [(SENDER.span_id, "error")]

    async def test_records_that_are_processed_at_once_do_not_mix(self) -> None:
        recorder = MemoryRecorder()
        self.station.switch.middleware = faststream.TraceMiddleware(tracer=recorder)
        senders = [TraceContext.new_root() for _ in range(8)]
        together = asyncio.Barrier(len(senders))
        subscriber = self.station.concurrent_subscriber(len(senders))

        @subscriber
        async def handle(value: Any) -> None:
            await asyncio.wait_for(together.wait(), PATIENCE)
            await self.station.publish({})

        async with self.station.running(subscriber):
            for sender in senders:
                await self.station.deliver({"traceparent": sender.to_traceparent()})
            await self.station.stage.over(len(senders))
        wires = [await self.station.arrived() for _ in senders]

        sent = [TraceContext.from_traceparent(texts(wire, "traceparent")[0]).trace_id for wire in wires]
        assert sorted(sent) == sorted(sender.trace_id for sender in senders)


class TestNamesThatConfluentLoses:
    """K-06: whoever touches the hole in such headers crashes the process, so this happens in another one."""

    @pytest.mark.parametrize("options", [{}, {"batch": True, "polling_interval": 0.05}], ids=["one", "batch"])
    async def test_a_record_with_a_name_that_is_lost_is_recorded_as_failed_in_its_trace(
        self, kafka_address: str, options: dict[str, Any]
    ) -> None:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as another:
            lost = another.submit(lose_a_name, kafka_address, options).result(3 * PATIENCE)

        assert lost.raised == lost.recorded == "SystemError"
        assert lost.trace_id == SENDER.trace_id
        assert lost.headers == [("app", b"1"), ("traceparent", TRACEPARENT.encode())]
        assert lost.handled == 1


class Lost(NamedTuple):
    """What became of a record with a name that confluent-kafka lost, and how many records were handled."""

    raised: str
    recorded: str | None
    trace_id: str
    headers: Any
    handled: int


def lose_a_name(address: str, options: dict[str, Any]) -> Lost:
    """Consume a record with such a name, and one without after it."""
    return asyncio.run(_lose_a_name(address, options))


async def _lose_a_name(address: str, options: dict[str, Any]) -> Lost:
    recorder = MemoryRecorder()
    records: list[Any] = []
    calls: list[Any] = []

    async def parse(record: Any, original: Any) -> Any:
        records.append(record)
        return await original(record)

    async def handle(value: Any) -> None:
        calls.append(value)

    async with ConfluentStation(address) as station:
        await station.empty()
        station.switch.middleware = faststream.TraceMiddleware(tracer=recorder)
        subscriber = station.subscriber(parser=parse, **options)
        subscriber(handle)
        async with station.running(subscriber):
            await asyncio.to_thread(send_unreadable, address, station.inbox)
            await station.stage.over()
            error = station.stage.error
            await station.deliver(SENT)
            await station.stage.over(2)

    span, record = recorder.spans[0], records[0]
    return Lost(
        type(error).__name__,
        span.error,
        span.links[0].trace_id if options else span.trace_id,
        (record[0] if options else record).headers(),
        len(calls),
    )


def send_unreadable(address: str, topic: str) -> None:
    """Send a record with a header whose name is not UTF-8, of which kafka-python is capable."""

    class Latin(str):
        __slots__ = ()

        def encode(self, encoding: str = "latin-1", errors: str = "strict") -> bytes:
            return super().encode("latin-1")

    kafka = importlib.import_module("kafka")
    headers = [(Latin("n\xe4me"), b"1"), ("app", b"1"), ("traceparent", TRACEPARENT.encode())]
    with contextlib.closing(kafka.KafkaProducer(bootstrap_servers=address)) as producer:
        producer.send(topic, b"value", headers=headers, partition=0).get(PATIENCE)


class TestRabbitMQ(OnRabbitMQ):
    """What only RabbitMQ has."""

    async def test_a_message_that_is_returned_is_rejected(self) -> None:
        recorder = MemoryRecorder()
        self.station.switch.middleware = faststream.TraceMiddleware(tracer=recorder)

        for queue in (f"nowhere-{uuid4().hex}", self.station.outbox):
            await self.station.broker.publish(b"value", queue)

        assert [span.outcome for span in recorder.spans] == ["rejected", "ok"]

    async def test_a_request_and_its_response_are_one_trace(self) -> None:
        """A-17 for RPC."""
        recorder = MemoryRecorder()
        self.station.switch.middleware = faststream.TraceMiddleware(tracer=recorder)
        subscriber = self.station.subscriber()

        @subscriber
        async def handle(value: Any) -> str:
            return "taken"

        async with self.station.running(subscriber):
            with TraceContext.use(TraceContext.new_root()) as caller:
                response = await self.station.broker.request(b"value", self.station.inbox, timeout=PATIENCE)
                assert TraceContext.get() is caller
            await self.station.stage.over()

        assert caller is not None
        spans = {span.name.partition(" ")[0] + span.kind: span for span in recorder.spans}
        replied = faststream.context_from(response)
        assert replied is not None
        reply = next(span for span in recorder.spans if span.span_id == replied.span_id)
        process = spans["processconsumer"]
        asked = next(span for span in recorder.spans if span.span_id == process.parent_span_id)
        assert (reply.parent_span_id, asked.parent_span_id) == (process.span_id, caller.span_id)
        assert len(recorder.spans) == 3
        assert {span.trace_id for span in recorder.spans} == {caller.trace_id}

    async def test_a_message_that_comes_again_says_so(self) -> None:
        recorder, calls = MemoryRecorder(), 0
        self.station.switch.middleware = faststream.TraceMiddleware(tracer=recorder)
        subscriber = self.station.subscriber()

        @subscriber
        async def handle(value: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise NackMessage

        async with self.station.running(subscriber):
            await self.station.deliver(SENT)
            await self.station.stage.over(2)

        first, second = recorder.spans
        assert [span.is_redelivered for span in (first, second)] == [False, True]
        assert [span.outcome for span in (first, second)] == ["retry", "ok"]
        assert first.parent_span_id == second.parent_span_id == SENDER.span_id

    async def test_a_dead_letter_stays_in_its_trace_and_counts(self) -> None:
        """A-20: dead letters carry the sender's context, and say how often they died."""
        recorder = MemoryRecorder()
        self.station.switch.middleware = faststream.TraceMiddleware(tracer=recorder)
        dead = self.station.subscriber()
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": self.station.inbox}
        alive = self.station.subscriber(arguments=arguments)

        @alive
        async def fail(value: Any) -> None:
            raise RejectMessage

        @dead
        async def handle(value: Any) -> None: ...

        async with self.station.running(alive), self.station.running(dead):
            await self.station.deliver(SENT)
            await self.station.stage.over(2)

        first, second = recorder.spans
        assert [span.trace_id for span in (first, second)] == [SENDER.trace_id] * 2
        assert (second.attempt, second.death_count) == (2, 1)
        assert [link.span_id for link in second.links] == [SENDER.span_id]

    async def test_a_message_of_the_client_is_published_with_the_context(self) -> None:
        """FastStream publishes an `aio_pika.Message` as it is, and drops the headers that go along."""
        self.station.switch.middleware = faststream.TraceMiddleware()
        headers: dict[str, Any] = {"app": "1", "traceparent": STALE, "tracestate": "old=1"}
        message = aio_pika.Message(b"value", headers=headers, app_id="shop")

        with TraceContext.use(TraceContext.new_root()) as context:
            await self.station.publish(None, message)
        arrived = await self.station.message()

        assert context is not None
        assert arrived.headers == {"app": "1", "traceparent": context.to_traceparent()}
        assert arrived.app_id == "shop"
        assert message.headers is headers
        assert headers == {"app": "1", "traceparent": STALE, "tracestate": "old=1"}

    async def test_a_received_message_can_be_published_again(self) -> None:
        self.station.switch.middleware = faststream.TraceMiddleware()
        seen: list[TraceContext | None] = []
        subscriber = self.station.subscriber()

        @subscriber
        async def handle(value: Any, message: Annotated[StreamMessage[Any], Context()]) -> None:
            seen.append(TraceContext.get())
            await self.station.publish(None, message.raw_message)

        await self.station.handle(subscriber, {**SENT, "app": "1"})
        wire = await self.station.arrived()

        (own,) = seen
        assert own is not None
        assert texts(wire, "traceparent") == [own.to_traceparent()]
        assert texts(wire, "app") == ["1"]

    async def test_a_source_is_chosen_by_exchange_and_routing_key(self) -> None:
        for shape in ("{}:orders.new", "orders.new", "{}"):
            exchange = RabbitExchange(f"x-{uuid4().hex}", durable=False, auto_delete=True)
            name, recorder = shape.format(exchange.name), MemoryRecorder()
            self.station.switch.middleware = faststream.TraceMiddleware(
                tracer=recorder, enabled={name: False}
            )
            subscriber = self.station.subscriber(exchange=exchange, routing_key="orders.new")
            subscriber(print_nothing)
            self.station.stage.clear()

            async with self.station.running(subscriber):
                await self.station.broker.publish(b"value", routing_key="orders.new", exchange=exchange)
                await self.station.stage.over()

            assert list(recorder.spans) == []


class TestBothBrokers:
    async def test_what_a_handler_of_kafka_publishes_to_rabbitmq_keeps_its_trace(
        self, kafka_station: KafkaStation, rabbit_station: RabbitStation
    ) -> None:
        """FastStream takes it through the middlewares of the broker that the message came from."""
        recorder = MemoryRecorder()
        kafka_station.switch.middleware = faststream.TraceMiddleware(tracer=recorder)
        subscriber = kafka_station.subscriber()

        @subscriber
        @rabbit_station.publisher()
        async def handle(value: Any) -> str:
            return "taken"

        await kafka_station.handle(subscriber, SENT)
        (sent,) = texts(await rabbit_station.arrived(), "traceparent")

        send, process = recorder.spans
        assert (send.system, process.system) == ("rabbitmq", "kafka")
        assert TraceContext.from_traceparent(sent).span_id == send.span_id
        assert send.parent_span_id == process.span_id


class TestInMemory:
    """FastStream's own brokers for tests."""

    @pytest.mark.parametrize(
        ("broker", "tester"),
        [
            pytest.param(KafkaBroker, TestKafkaBroker, id="kafka"),
            pytest.param(ConfluentBroker, TestConfluentBroker, id="confluent"),
            pytest.param(RabbitBroker, TestRabbitBroker, id="rabbitmq"),
        ],
    )
    async def test_a_trace_is_continued_without_a_broker(self, broker: Any, tester: Any) -> None:
        """A message is processed within the call that publishes it."""
        recorder = MemoryRecorder()
        tested = broker(middlewares=[faststream.TraceMiddleware(tracer=recorder)], logger=None)
        seen: list[TraceContext | None] = []

        async def pack(value: str) -> str:
            seen.append(TraceContext.get())
            return value

        async def ship(value: str) -> None:
            seen.append(TraceContext.get())

        tested.subscriber("orders")(tested.publisher("packed")(pack))
        tested.subscriber("packed")(ship)
        async with tester(tested) as running:
            with TraceContext.use(TraceContext.new_root()) as sender:
                await running.publish("1", "orders")
                assert TraceContext.get() is sender

        assert sender is not None
        assert [each and each.trace_id for each in seen] == [sender.trace_id] * 2
        names = [f"{span.name.partition(' ')[0]} {span.destination}" for span in recorder.spans]
        assert names == ["process packed", "send packed", "process orders", "send orders"]
        parents = [span.parent_span_id for span in recorder.spans]
        assert parents == [*(span.span_id for span in list(recorder.spans)[1:]), sender.span_id]

    async def test_a_request_is_answered_in_memory(self) -> None:
        tested = RabbitBroker(middlewares=[faststream.TraceMiddleware()], logger=None)
        seen: list[TraceContext | None] = []

        @tested.subscriber("orders")
        async def take(value: str) -> str:
            seen.append(TraceContext.get())
            return value

        async with TestRabbitBroker(tested) as running:
            with TraceContext.use(TraceContext.new_root()) as sender:
                await running.request("1", "orders")

        assert sender is not None
        assert [each and each.parent_span_id for each in seen] == [sender.span_id]

    async def test_a_message_made_by_hand_has_the_context_of_its_headers(self) -> None:
        """As in a test that calls a handler."""
        message: StreamMessage[Any] = StreamMessage(raw_message=None, body=b"", headers={**SENT})

        assert faststream.context_from(message) == CARRIED
        assert faststream.context_from(StreamMessage(raw_message=None, body=b"")) is None

    @pytest.mark.parametrize("kind", [str, str.encode, lambda text: bytearray(text.encode())])
    async def test_values_of_a_record_may_be_of_any_type(self, kind: Callable[[str], Any]) -> None:
        """K-08: as they are where no client library has been in between."""
        record: Any = await kafka_message("value", "orders", serializer=None)
        record.headers = (("traceparent", kind(TRACEPARENT)), ("null", None))

        assert faststream.context_from(record) == SENDER

    async def test_an_empty_batch_changes_nothing(self) -> None:
        with faststream.process([]) as processing:
            assert TraceContext.get() is None

        assert processing.context is None

    @pytest.mark.parametrize("wrong", [[7], (None,)], ids=repr)
    async def test_a_batch_of_something_else_is_refused(self, wrong: Any) -> None:
        with pytest.raises(WrongUseError, match=r"^this takes a received StreamMessage, got "):
            faststream.process(wrong)

    async def test_messages_of_another_broker_pass_through(self) -> None:
        middleware: Any = faststream.TraceMiddleware()(None, context=ContextRepo())
        command = PublishCommand(b"value", _publish_type=PublishType.PUBLISH, destination="orders")
        passed: list[Any] = []

        async def call_next(command: Any) -> str:
            passed.append(command)
            return "sent"

        assert await middleware.publish_scope(call_next, command) == "sent"
        assert passed == [command]


async def print_nothing(value: Any) -> None: ...


class TwiceMiddleware(BaseMiddleware):
    """Calls a handler that raises once more."""

    async def consume_scope(self, call_next: Any, msg: Any) -> Any:
        try:
            return await call_next(msg)
        except HandlerError:
            return await call_next(msg)


class ElsewhereMiddleware(BaseMiddleware):
    """Calls a handler in a task of its own."""

    async def consume_scope(self, call_next: Any, msg: Any) -> Any:
        return await asyncio.create_task(call_next(msg))


class PlainPropagator(ITracePropagator):
    """A format of its own: a traceparent by another name."""

    def inject(self, carrier: Any, context: Any = None, setter: Any = None) -> None:
        context = context or TraceContext.get()
        setter.set(carrier, "x-trace", context.to_traceparent())

    def extract(self, carrier: Any, getter: Any = None) -> TraceContext | None:
        values = getter.get(carrier, "x-trace")
        return TraceContext.from_traceparent(values[0]) if values else None

    def fields(self) -> list[str]:
        return ["x-trace"]
