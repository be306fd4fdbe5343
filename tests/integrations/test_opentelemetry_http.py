"""The bridge to OpenTelemetry: its instrumentations of HTTP and our messages are one trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.httpx import AsyncOpenTelemetryTransport
from opentelemetry.trace import SpanKind

from integrations.aiokafka_topic import new_name, open_topic
from integrations.bridged import Bridge, bridged, parent_id_of, span_id_of, trace_id_of
from spakky.tracing.context import TraceContext
from spakky.tracing.integrations import aiokafka, asgi

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from opentelemetry.sdk.trace import ReadableSpan

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


def answering(work: Any = None) -> Any:
    """Return an ASGI application that does some *work* for each request."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if work is not None:
            await work()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return app


async def get(transport: httpx.AsyncBaseTransport, headers: dict[str, str] | None = None) -> None:
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        assert (await client.get("/orders/7", headers=headers)).status_code == 204


def below(span: ReadableSpan, spans: list[ReadableSpan], kind: SpanKind) -> ReadableSpan:
    (found,) = [each for each in spans if parent_id_of(each) == span_id_of(span) and each.kind is kind]
    return found


async def test_one_trace_from_a_request_over_a_message_to_a_request(bridge: Bridge, topic: Topic) -> None:
    """Theirs upstream of ours, and theirs downstream of ours, with ours at the end."""
    producer = aiokafka.wrap(topic.producer)

    async def order() -> None:
        await producer.send_and_wait(topic.name, b"", partition=0)

    edge = OpenTelemetryMiddleware(answering(order), tracer_provider=bridge.provider)
    await get(httpx.ASGITransport(edge))
    with aiokafka.process(await topic.record()):
        shipping = httpx.ASGITransport(asgi.TraceMiddleware(answering()))
        await get(AsyncOpenTelemetryTransport(shipping, tracer_provider=bridge.provider))

    spans = [span for span in bridge.spans if span.kind is not SpanKind.INTERNAL]
    (request,) = [span for span in spans if span.parent is None]
    send = below(request, spans, SpanKind.PRODUCER)
    process = below(send, spans, SpanKind.CONSUMER)
    call = below(process, spans, SpanKind.CLIENT)
    below(call, spans, SpanKind.SERVER)
    assert len({trace_id_of(span) for span in bridge.spans}) == 1


async def test_a_request_that_we_serve_goes_on_in_their_client(bridge: Bridge) -> None:
    seen: list[str | None] = []

    async def look() -> None:
        context = TraceContext.get()
        seen.append(None if context is None else context.trace_id)

    downstream = OpenTelemetryMiddleware(answering(look), tracer_provider=bridge.provider)
    transport = AsyncOpenTelemetryTransport(httpx.ASGITransport(downstream), tracer_provider=bridge.provider)
    upstream = asgi.TraceMiddleware(answering(lambda: get(transport)))
    with TraceContext.use(TraceContext.new_root()) as outer:
        assert outer is not None
        headers = {"traceparent": outer.to_traceparent()}
    await get(httpx.ASGITransport(upstream), headers)

    assert seen == [outer.trace_id]
    assert {trace_id_of(span) for span in bridge.spans} == {outer.trace_id}
