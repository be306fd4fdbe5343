"""The bridge to OpenTelemetry: boundaries are spans, by the conventions for messaging, on real brokers."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import httpx
import pika
import pytest
from opentelemetry import baggage
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind, StatusCode

from contract.contexts import TRACEPARENT, full_context
from contract.receiving import SENDER
from integrations.aiokafka_topic import new_name, open_topic
from integrations.bridged import Bridge, bridged, parent_id_of, span_id_of, trace_id_of
from integrations.celery_office import Office, hooked
from integrations.collector import Collector
from integrations.letters import client_of
from spakky.tracing.baggage import Baggage
from spakky.tracing.boundaries.verbs import Verbs
from spakky.tracing.carriers.mapping import CARRIER
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.integrations import aiokafka, asgi
from spakky.tracing.integrations import httpx as our_httpx
from spakky.tracing.integrations import pika as our_pika
from spakky.tracing.integrations.opentelemetry import OpenTelemetryTracer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import Span

    from integrations.aiokafka_topic import Topic


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    with bridged() as bridge:
        yield bridge


@pytest.fixture(scope="module")
def topic_name() -> str:
    return new_name()


@pytest.fixture
async def topic(kafka_address: str, topic_name: str) -> AsyncIterator[Topic]:
    async with open_topic(kafka_address, topic_name) as topic:
        yield topic


class HandlerError(Exception):
    """What a handler of these tests raises."""


def told(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def linked(span: ReadableSpan) -> list[str]:
    return [f"{link.context.span_id:016x}" for link in span.links]


class TestKafka:
    async def test_a_message_from_send_to_process(self, bridge: Bridge, topic: Topic) -> None:
        """MS-15, MS-16, MS-17, MS-18, MS-21: names, kinds and attributes."""
        producer = aiokafka.wrap(topic.producer)
        with bridge.tracer.start_as_current_span("order") as order:
            await producer.send_and_wait(topic.name, b"value", key=b"7", partition=0)
        record = await topic.record()
        with aiokafka.process(record), bridge.tracer.start_as_current_span("inside"):
            pass

        outer, send = sorted(bridge.spans[:2], key=lambda span: span.kind == SpanKind.PRODUCER)
        inside, process = bridge.spans[2:]
        assert (send.name, send.kind) == (f"send {topic.name}", SpanKind.PRODUCER)
        assert told(send) == {
            "messaging.system": "kafka",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": topic.name,
            "spakky.outcome": "ok",
        }
        assert (process.name, process.kind) == (f"process {topic.name}", SpanKind.CONSUMER)
        started, queue_time = process.start_time or 0, told(process)["spakky.queue_time_nano"]
        assert 0 <= started - queue_time - record.timestamp * 1_000_000 < 1_000_000_000
        assert told(process) == {
            "messaging.system": "kafka",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": topic.name,
            "messaging.destination.partition.id": "0",
            "messaging.kafka.offset": record.offset,
            "messaging.kafka.message.key": "7",
            "spakky.queue_time_nano": queue_time,
            "spakky.outcome": "ok",
        }
        assert [parent_id_of(span) for span in (send, process, inside)] == [
            span_id_of(span) for span in (outer, send, process)
        ]
        assert trace_id_of(inside) == f"{order.get_span_context().trace_id:032x}"
        assert {span.status.status_code for span in bridge.spans} == {StatusCode.UNSET}

    async def test_a_record_without_a_key_tells_none(self, bridge: Bridge, topic: Topic) -> None:
        """MS-21: also none that is no text."""
        for key in (None, b"", b"\xff\x00", b"k" * 10_000):
            await topic.producer.send_and_wait(topic.name, b"value", key=key, partition=0)
            with aiokafka.process(await topic.record()):
                pass

        assert not [span for span in bridge.ours if "messaging.kafka.message.key" in told(span)]

    async def test_a_send_that_fails_is_an_error_with_its_exception(
        self, bridge: Bridge, topic: Topic
    ) -> None:
        producer = aiokafka.wrap(topic.producer)

        with pytest.raises(TypeError):
            await producer.send_and_wait(topic.name, b"value", headers=[("name", "no bytes")])

        (span,) = bridge.ours
        assert (span.status.status_code, told(span)["error.type"]) == (StatusCode.ERROR, "TypeError")
        assert [event.name for event in span.events] == ["exception"]
        assert (span.events[0].attributes or {})["exception.type"] == "TypeError"

    async def test_a_batch_of_records_is_created_and_sent(self, bridge: Bridge, topic: Topic) -> None:
        """MS-04, MS-05, MS-06, MS-16, MS-18: each record has its own context, to which the sending links."""
        producer = aiokafka.wrap(topic.producer)
        batch = producer.create_batch()
        for _ in range(2):
            batch.append(key=None, value=b"value", timestamp=None)
        await (await producer.send_batch(batch, topic.name, partition=0))

        *created, send = bridge.ours
        assert [(span.name, span.kind) for span in created] == [("create", SpanKind.PRODUCER)] * 2
        assert {told(span)["messaging.operation.type"] for span in created} == {"create"}
        assert (send.kind, linked(send)) == (SpanKind.CLIENT, [span_id_of(span) for span in created])
        assert told(send)["messaging.batch.message_count"] == 2
        wire = [dict((await topic.record()).headers)["traceparent"].decode()[36:52] for _ in range(2)]
        assert wire == linked(send)

    async def test_a_batch_that_is_processed_links_to_every_sender(
        self, bridge: Bridge, topic: Topic
    ) -> None:
        """MS-10, MS-18: no sender is its parent, and nothing is told that differs among messages."""
        records = [await topic.deliver({"traceparent": TRACEPARENT}), await topic.deliver({})]

        with bridge.tracer.start_as_current_span("poll") as poll, aiokafka.process_batch(records):
            pass

        process, _ = bridge.spans
        assert (process.kind, linked(process)) == (SpanKind.CONSUMER, [SENDER.span_id])
        assert parent_id_of(process) == f"{poll.get_span_context().span_id:016x}"
        assert told(process)["messaging.batch.message_count"] == 2
        assert not [name for name in told(process) if "offset" in name or "partition" in name]

    async def test_one_message_alone_is_a_batch_of_one(self, bridge: Bridge, topic: Topic) -> None:
        """MS-18: the batch API says so, the single one does not."""
        record = await topic.deliver({})
        with aiokafka.process_batch([record]):
            pass
        with aiokafka.process(record):
            pass

        batch, single = bridge.ours
        assert told(batch)["messaging.batch.message_count"] == 1
        assert "messaging.batch.message_count" not in told(single)

    async def test_a_context_that_the_caller_chose_is_linked_and_its_send_a_client(
        self, bridge: Bridge, topic: Topic
    ) -> None:
        """MS-03, MS-05, MS-16: it is not modified."""
        producer = aiokafka.wrap(topic.producer, keep=True)
        await producer.send_and_wait(
            topic.name, b"", partition=0, headers=[("traceparent", TRACEPARENT.encode())]
        )

        (send,) = bridge.ours
        assert (send.kind, linked(send)) == (SpanKind.CLIENT, [SENDER.span_id])
        assert dict((await topic.record()).headers)["traceparent"] == TRACEPARENT.encode()

    async def test_a_relation_of_link_is_a_root_with_a_link(self, bridge: Bridge, topic: Topic) -> None:
        record = await topic.deliver({"traceparent": TRACEPARENT, "baggage": "tenant=acme"})

        with aiokafka.process(record, relation="link"):
            assert baggage.get_baggage("tenant") == "acme"

        (span,) = bridge.ours
        assert (span.parent, linked(span)) == (None, [SENDER.span_id])

    async def test_an_exception_of_the_handler_is_recorded(self, bridge: Bridge, topic: Topic) -> None:
        record = await topic.deliver({"traceparent": TRACEPARENT})

        with pytest.raises(HandlerError), aiokafka.process(record):
            raise HandlerError("no stock")  # noqa: EM101, TRY003 - what is told of it

        (span,) = bridge.ours
        assert told(span)["error.type"] == f"{__name__}.HandlerError"
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description == "HandlerError: no stock"
        assert len(span.events) == 1

    async def test_a_sampler_that_drops_is_obeyed_downstream(self, topic: Topic) -> None:
        """Flags 00 travel, and the other side records nothing either."""
        with bridged(sampler=ParentBased(ALWAYS_OFF)) as bridge:
            await aiokafka.wrap(topic.producer).send_and_wait(topic.name, b"", partition=0)
            record = await topic.record()
            with aiokafka.process(record) as processing:
                current = processing.context
            assert bridge.spans == []

        sent = dict(record.headers)["traceparent"].decode()
        assert not TraceContext.from_traceparent(sent).is_sampled
        assert current is not None
        assert not current.is_sampled
        assert current.parent_span_id == sent[36:52]

    async def test_limits_of_the_sdk_hold(self, topic: Topic) -> None:
        records = [await topic.deliver({"traceparent": TRACEPARENT[:-4] + f"{n}-01"}) for n in range(5)]
        with bridged(limits=SpanLimits(max_links=2, max_attributes=3)) as bridge:
            with aiokafka.process_batch(records):
                pass
            (span,) = bridge.ours
        assert (len(span.links), len(told(span))) == (2, 3)

    async def test_a_processor_sees_the_baggage_of_the_sender(self, bridge: Bridge, topic: Topic) -> None:
        """Such as the one that makes attributes of it."""
        bridge.provider.add_span_processor(Tenants())
        record = await topic.deliver({"traceparent": TRACEPARENT, "baggage": "tenant=acme"})

        with aiokafka.process(record), bridge.tracer.start_as_current_span("inside"):
            pass

        assert [told(span)["tenant"] for span in bridge.spans] == ["acme", "acme"]


class Tenants(SpanProcessor):
    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        span.set_attribute("tenant", str(baggage.get_baggage("tenant", parent_context)))


class TestRabbitMQ:
    def test_a_message_from_publish_to_process(self, bridge: Bridge, amqp_url: str) -> None:
        """MS-15, MS-17, MS-23: with its routing key and the number of its delivery."""
        queue = f"orders-{uuid4().hex}"
        with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
            channel = connection.channel()
            channel.queue_declare(queue, auto_delete=True)
            with bridge.tracer.start_as_current_span("order"):
                our_pika.wrap(channel).basic_publish(
                    "", queue, b"body", pika.BasicProperties(message_id="m-1")
                )
            channel.basic_consume(queue, our_pika.consumer()(consume))
            while len(bridge.spans) < 4:
                connection.process_data_events(1)

        send, _, inside, process = bridge.spans
        assert (send.name, send.kind) == (f"send {queue}", SpanKind.PRODUCER)
        assert told(send)["messaging.destination.name"] == queue
        assert (process.name, process.kind) == (f"process {queue}", SpanKind.CONSUMER)
        assert told(process) == {
            "messaging.system": "rabbitmq",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": queue,
            "messaging.rabbitmq.destination.routing_key": queue,
            "messaging.rabbitmq.message.delivery_tag": 1,
            "messaging.message.id": "m-1",
            "spakky.attempt": 1,
            "spakky.is_redelivered": False,
            "spakky.outcome": "ok",
        } | ({"spakky.death_count": 0} if "spakky.death_count" in told(process) else {})
        assert parent_id_of(process) == span_id_of(send)
        assert parent_id_of(inside) == span_id_of(process)

    def test_a_queue_that_the_broker_named_is_no_part_of_the_name(
        self, bridge: Bridge, amqp_url: str
    ) -> None:
        """MS-15: it has too many values."""
        with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
            channel = connection.channel()
            queue = channel.queue_declare("", exclusive=True).method.queue
            our_pika.wrap(channel).basic_publish("", queue, b"body")

        (send,) = bridge.ours
        assert send.name == "send"
        assert told(send)["messaging.destination.name"] == queue
        assert told(send)["messaging.destination.anonymous"] is True
        assert told(send)["messaging.destination.temporary"] is True


def consume(channel: Any, method: Any, properties: Any, body: bytes) -> None:
    from opentelemetry import trace  # noqa: PLC0415 - as a handler of a user's would

    provider: Any = trace.get_current_span()
    assert provider.is_recording()
    INSIDE["tracer"].start_span("inside").end()
    channel.basic_ack(method.delivery_tag)


LETTERS: Final = client_of(CARRIER)

INSIDE: Final[dict[str, Any]] = {}


@pytest.fixture(autouse=True)
def _inside(request: pytest.FixtureRequest) -> None:
    if "bridge" in request.fixturenames:
        INSIDE["tracer"] = request.getfixturevalue("bridge").tracer


@pytest.fixture(scope="module")
def office(amqp_url: str) -> Iterator[Office]:
    with Office(amqp_url).open() as office:
        yield office


class TestCelery:
    def test_a_task_runs_in_the_span_of_its_sender(self, bridge: Bridge, office: Office) -> None:
        """MS-24: the conventions know nothing of Celery."""
        with hooked(office.app):
            seen = office.run(TraceContext.get, {"traceparent": TRACEPARENT})
            office.settle()

        assert seen is not None
        process, _ = bridge.ours
        assert (span_id_of(process), parent_id_of(process)) == (seen.span_id, SENDER.span_id)
        assert (process.name.partition(" ")[0], process.kind) == ("run", SpanKind.CONSUMER)
        assert told(process)["messaging.operation.name"] == "run"
        assert told(process)["messaging.operation.type"] == "process"
        assert told(process)["messaging.message.id"]


class TestEndings:
    """On a client without a broker."""

    @pytest.mark.parametrize(
        ("outcome", "error", "status", "is_told"),
        [
            ("ok", None, StatusCode.UNSET, False),
            ("error", ValueError("x"), StatusCode.ERROR, True),
            ("error", None, StatusCode.ERROR, True),
            ("retry", ValueError("x"), StatusCode.UNSET, True),
            ("cancelled", KeyboardInterrupt(), StatusCode.UNSET, False),
            ("unknown", GeneratorExit(), StatusCode.UNSET, False),
            ("ignored", ValueError("x"), StatusCode.UNSET, False),
            ("rejected", None, StatusCode.UNSET, False),
        ],
    )
    def test_what_is_a_failure(
        self, bridge: Bridge, outcome: Any, error: BaseException | None, status: StatusCode, *, is_told: bool
    ) -> None:
        verbs = Verbs(LETTERS)
        verbs.receiver({}).process({}).open().close(outcome, error)

        (span,) = bridge.ours
        assert (span.status.status_code, told(span)["spakky.outcome"]) == (status, outcome)
        assert ("error.type" in told(span)) is is_told
        assert len(span.events) == (1 if is_told and error is not None else 0)

    def test_an_exception_without_a_text_loses_no_span(self, bridge: Bridge) -> None:
        class Mute(Exception):  # noqa: N818 - no error of a program
            def __str__(self) -> str:
                raise RuntimeError

        with pytest.raises(Mute), Verbs(LETTERS).process({}):
            raise Mute

        (span,) = bridge.ours
        assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "Mute")

    def test_a_tracer_of_a_boundary_is_an_option(self) -> None:
        other = Bridge()

        with Verbs(LETTERS).process({}, tracer=OpenTelemetryTracer(other.provider)) as processing:
            context = processing.context

        assert [span_id_of(span) for span in other.spans] == [context and context.span_id]


class TestRequests:
    @pytest.mark.parametrize(
        ("scope", "name", "method"),
        [
            ({"type": "http", "method": "GET", "path": "/orders/7"}, "GET", "GET"),
            ({"type": "http", "method": "BREW", "path": "/orders/7"}, "BREW", "_OTHER"),
            ({"type": "websocket", "path": "/orders/7"}, "WEBSOCKET", "_OTHER"),
        ],
    )
    async def test_a_path_is_an_attribute_and_no_part_of_the_name(
        self, bridge: Bridge, scope: dict[str, Any], name: str, method: str
    ) -> None:
        async def app(*_: object) -> None:
            """Answer nothing."""

        async def nothing(*_: object) -> Any:
            """Receive or send nothing."""

        await asgi.TraceMiddleware(app)({"headers": [], **scope}, nothing, nothing)

        (span,) = bridge.ours
        assert (span.name, span.kind) == (name, SpanKind.SERVER)
        assert told(span)["http.request.method"] == method
        assert told(span)["url.path"] == "/orders/7"

    @pytest.mark.parametrize(
        ("url", "place"),
        [
            ("http://shop/orders/7", {"server.address": "shop"}),
            ("http://shop:8000/", {"server.address": "shop", "server.port": 8000}),
            ("http://[::1]/", {"server.address": "::1"}),
            ("http://[::1]:8000/", {"server.address": "::1", "server.port": 8000}),
        ],
    )
    def test_a_request_that_is_sent_names_its_host_and_no_path(
        self, bridge: Bridge, url: str, place: dict[str, Any]
    ) -> None:
        transport = our_httpx.TraceTransport(httpx.MockTransport(lambda _: httpx.Response(200)))
        with httpx.Client(transport=transport) as client:
            client.get(url)

        (span,) = bridge.ours
        assert (span.name, span.kind) == ("GET", SpanKind.CLIENT)
        assert told(span) == {"http.request.method": "GET", **place, "spakky.outcome": "ok"}


class TestSharedBaggage:
    async def test_baggage_outside_of_a_span_is_sent(self, bridge: Bridge, topic: Topic) -> None:
        """OpenTelemetry has baggage without a trace; a message gets it in the trace that it starts."""
        from opentelemetry import context  # noqa: PLC0415 - hidden by a name below otherwise

        token = context.attach(baggage.set_baggage("tenant", "acme"))
        await aiokafka.wrap(topic.producer).send_and_wait(topic.name, b"", partition=0)
        written = dict(aiokafka.headers())
        context.detach(token)

        assert dict((await topic.record()).headers)["baggage"] == written["baggage"] == b"tenant=acme"

    async def test_it_does_not_reach_a_message_without_any(self, bridge: Bridge, topic: Topic) -> None:
        """P-04: nothing of what happens to be current."""
        from opentelemetry import context  # noqa: PLC0415 - hidden by a name below otherwise

        record = await topic.deliver({})
        token = context.attach(baggage.set_baggage("tenant", "acme"))
        with aiokafka.process(record):
            assert dict(baggage.get_all()) == {}
        context.detach(token)


class TestReceiving:
    """MS-07, MS-16: where the application waits, the wait is a span of its own, if that is wanted."""

    async def test_the_wait_of_a_loop_is_a_client_span_that_links_to_the_sender(self, topic: Topic) -> None:
        sent: list[int] = []

        async def deliver() -> None:
            sent.append(time.time_ns())
            await topic.send({"traceparent": TRACEPARENT})

        with bridged(receive_spans=True) as bridge:
            delivering = asyncio.create_task(deliver())  # runs once the loop waits
            with bridge.tracer.start_as_current_span("loop"):
                async for _ in aiokafka.iterate(topic.consumer):
                    break
            await delivering

        (loop,) = [span for span in bridge.spans if span.name == "loop"]
        receive, process = bridge.ours
        assert (receive.name, receive.kind) == (f"receive {topic.name}", SpanKind.CLIENT)
        assert told(receive)["messaging.operation.type"] == "receive"
        assert linked(receive) == [SENDER.span_id]
        assert parent_id_of(receive) == span_id_of(loop)
        assert (receive.start_time or 0) <= sent[0] <= (receive.end_time or 0)
        assert parent_id_of(process) == SENDER.span_id

    async def test_it_is_not_made_unless_it_is_wanted(self, bridge: Bridge, topic: Topic) -> None:
        await topic.send({"traceparent": TRACEPARENT})
        async for _ in aiokafka.iterate(topic.consumer):
            break
        gc.collect()

        assert [span.kind for span in bridge.ours] == [SpanKind.CONSUMER]

    async def test_records_that_are_there_already_are_not_waited_for(self, topic: Topic) -> None:
        record = await topic.deliver({})
        with bridged(receive_spans=True) as bridge:
            for _ in aiokafka.iterate([record]):
                pass

        assert [span.kind for span in bridge.ours] == [SpanKind.CONSUMER]

    def test_what_is_neither_yes_nor_no_is_refused(self) -> None:
        with pytest.raises(WrongUseError, match=r"^receive_spans= takes True or False, got 'yes'$"):
            OpenTelemetryTracer(receive_spans="yes")  # type: ignore[arg-type]


class TestExport:
    async def test_spans_reach_a_collector_over_http(self, bridge: Bridge, topic: Topic) -> None:
        with Collector() as collector:
            exporter = OTLPSpanExporter(endpoint=f"{collector.address}/v1/traces", timeout=5)
            bridge.provider.add_span_processor(SimpleSpanProcessor(exporter))
            with TraceContext.use(full_context().with_baggage(Baggage())) as ours:
                await aiokafka.wrap(topic.producer).send_and_wait(topic.name, b"", partition=0)
            with aiokafka.process(await topic.record()):
                pass
            bridge.provider.shutdown()

        send, process = collector.spans()
        assert ours is not None
        assert (send.trace_id.hex(), send.parent_span_id.hex()) == (ours.trace_id, ours.span_id)
        assert (process.trace_id, process.parent_span_id) == (send.trace_id, send.span_id)
        assert (send.kind, process.kind) == (send.SPAN_KIND_PRODUCER, send.SPAN_KIND_CONSUMER)
        assert (send.name, send.trace_state) == (f"send {topic.name}", "congo=t61")

    def test_spans_over_rabbitmq_reach_a_collector(self, bridge: Bridge, amqp_url: str) -> None:
        queue = f"orders-{uuid4().hex}"
        with Collector() as collector, pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
            exporter = OTLPSpanExporter(endpoint=f"{collector.address}/v1/traces", timeout=5)
            bridge.provider.add_span_processor(SimpleSpanProcessor(exporter))
            channel = our_pika.wrap(connection.channel())
            channel.queue_declare(queue, exclusive=True)
            channel.basic_publish("", queue, b"")
            with our_pika.process(channel.basic_get(queue, auto_ack=True)):
                pass
            bridge.provider.shutdown()

        send, process = collector.spans()
        assert (process.trace_id, process.parent_span_id) == (send.trace_id, send.span_id)
        assert (send.name, process.name) == (f"send {queue}", f"process {queue}")

    def test_spans_over_celery_reach_a_collector(self, bridge: Bridge, office: Office) -> None:
        with Collector() as collector:
            exporter = OTLPSpanExporter(endpoint=f"{collector.address}/v1/traces", timeout=5)
            bridge.provider.add_span_processor(SimpleSpanProcessor(exporter))
            with hooked(office.app):
                office.run(lambda: office.app.send_task("nobody.works", queue=f"nobody-{uuid4().hex}"))
                office.settle()
            bridge.provider.shutdown()

        spans = {span.name: span for span in collector.spans()}
        send, run = spans["send nobody.works"], spans["run office.call"]
        assert (send.trace_id, send.parent_span_id) == (run.trace_id, run.span_id)
        assert (send.kind, run.kind) == (send.SPAN_KIND_PRODUCER, send.SPAN_KIND_CONSUMER)
