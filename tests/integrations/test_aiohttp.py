"""The trace config of aiohttp, and real servers that its session calls."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import ClientSession, TCPConnector, TraceConfig, web
from aiohttp.abc import AbstractResolver, ResolveResult

from contract.contexts import STALE, TRACEPARENT, full_context
from contract.sending import SendingContract, Wire
from integrations.http_servers import NotingServer, noting, refused_url, serving_wsgi
from spakky.tracing.context import TraceContext
from spakky.tracing.integrations import aiohttp as traced
from spakky.tracing.integrations import wsgi
from spakky.tracing.recorder import MemoryRecorder

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def server() -> Iterator[NotingServer]:
    with noting() as server:
        yield server


@pytest.fixture(autouse=True)
def _nothing_is_left_over(server: NotingServer) -> Iterator[None]:
    yield
    assert server.arrivals.empty()


def session(**options: Any) -> ClientSession:
    return ClientSession(trace_configs=[traced.trace_config(**options)])


async def get(url: str, headers: Any = None, **options: Any) -> aiohttp.ClientResponse:
    async with session(**options) as http, http.get(url, headers=headers) as response:
        await response.read()
        return response


async def call(http: ClientSession, url: str, method: str = "GET", **arguments: Any) -> None:
    async with http.request(method, url, **arguments) as response:
        await response.read()


class TestSending(SendingContract):
    ways = ["request", "session", "headers"]
    recorded_ways = ["request", "session"]
    foreign = [
        ("X-App", "1"),
        ("x-tag", "b"),
        ("x-text", "\N{EURO SIGN}"),
        ("X-Tag", "a"),
        ("Authorization", "Bearer 7"),
    ]
    kind = "client"

    @pytest.fixture(autouse=True)
    def _with_a_server(self, server: NotingServer) -> None:
        self.server = server

    async def send(self, way: str, headers: Any, **options: Any) -> None:
        await self.call(way, self.server.url, headers, **options)

    async def call(self, way: str, url: str, headers: Any, **options: Any) -> None:
        if way == "request":
            await get(url, headers, **options)
        elif way == "session":
            configs = [traced.trace_config(**options)]
            async with ClientSession(headers=headers, trace_configs=configs) as http, http.get(url):
                pass
        else:
            async with ClientSession() as bare, bare.get(url, headers=traced.headers(headers, **options)):
                pass

    async def arrived(self) -> Wire:
        return dict((await asyncio.to_thread(self.server.arrived)).headers)

    def native(self, headers: dict[str, str]) -> Any:
        return dict(headers)

    async def fail_to_send(self, way: str, **options: Any) -> BaseException:
        with pytest.raises(aiohttp.ClientConnectorError) as raised:
            await self.call(way, refused_url(), None, **options)
        return raised.value


# --- spans


async def test_a_request_is_recorded_as_one_of_a_client(server: NotingServer) -> None:
    recorder = MemoryRecorder()

    await get(f"{server.url}/orders/7?user=8", tracer=recorder)

    assert server.arrived().path == "/orders/7?user=8"
    (span,) = recorder.spans
    assert (span.name, span.kind, span.system) == ("GET /orders/7", "client", "http")
    assert span.destination == server.url.removeprefix("http://")


@pytest.mark.parametrize(("status", "outcome"), [(200, "ok"), (399, "ok"), (404, "error"), (503, "error")])
async def test_the_status_of_the_response_decides_the_outcome(
    server: NotingServer, status: int, outcome: str
) -> None:
    recorder = MemoryRecorder()

    await get(f"{server.url}/status/{status}", tracer=recorder)

    server.arrived()
    assert [(span.outcome, span.error) for span in recorder.spans] == [(outcome, None)]


async def test_a_status_that_raises_is_recorded_once(server: NotingServer) -> None:
    recorder = MemoryRecorder()

    async with session(tracer=recorder) as http:
        with pytest.raises(aiohttp.ClientResponseError):
            await call(http, f"{server.url}/status/404", raise_for_status=True)

    server.arrived()
    assert [(span.outcome, span.error) for span in recorder.spans] == [
        ("error", "aiohttp.client_exceptions.ClientResponseError")
    ]


async def test_a_server_that_hangs_up_is_an_error(server: NotingServer) -> None:
    """aiohttp tries once more by itself, with the same headers."""
    recorder = MemoryRecorder()

    async with session(tracer=recorder) as http:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await call(http, f"{server.url}/drop")

    arrived = [server.arrived().headers["traceparent"] for _ in range(server.arrivals.qsize())]
    assert len({value for (value,) in arrived}) == 1
    assert [(span.outcome, span.error) for span in recorder.spans] == [
        ("error", "aiohttp.client_exceptions.ServerDisconnectedError")
    ]


async def test_a_timeout_is_an_error(server: NotingServer) -> None:
    recorder = MemoryRecorder()

    async with session(tracer=recorder) as http:
        with pytest.raises(TimeoutError):
            await call(http, f"{server.url}/wait", timeout=aiohttp.ClientTimeout(total=0.2))

    server.arrived()
    assert [span.outcome for span in recorder.spans] == ["error"]


async def test_a_task_that_is_cancelled_cancels_its_request(server: NotingServer) -> None:
    recorder = MemoryRecorder()

    with TraceContext.use(TraceContext.new_root()) as before:
        task = asyncio.create_task(get(f"{server.url}/wait", tracer=recorder))
        await asyncio.to_thread(server.arrived)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert TraceContext.get() is before

    assert [span.outcome for span in recorder.spans] == ["cancelled"]


@pytest.mark.parametrize("wrong", [{"app": 7}, {"app": None}, {7: "app"}], ids=repr)
async def test_headers_that_aiohttp_refuses_are_refused_by_aiohttp(server: NotingServer, wrong: Any) -> None:
    with pytest.raises(TypeError) as bare:
        async with ClientSession() as http:
            await call(http, server.url, headers=wrong)
    with pytest.raises(TypeError) as raised:
        await get(server.url, wrong)

    assert str(raised.value) == str(bare.value)


@pytest.mark.parametrize("wrong", ["http:///orders", "orders", "ftp://shop", "http://shop:99999"])
async def test_what_is_no_url_is_refused_by_aiohttp(wrong: str) -> None:
    with pytest.raises(aiohttp.ClientError) as bare:
        async with ClientSession() as http:
            await call(http, wrong)
    with pytest.raises(aiohttp.ClientError) as raised:
        await get(wrong, tracer=MemoryRecorder())

    assert type(raised.value) is type(bare.value)
    assert TraceContext.get() is None


class ToThisMachine(AbstractResolver):
    """Finds every host here."""

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
        address = {"hostname": host, "host": "127.0.0.1", "port": port}
        return [ResolveResult(**address, family=socket.AF_INET, proto=0, flags=0)]  # type: ignore[typeddict-item] # as above

    async def close(self) -> None: ...


@pytest.mark.parametrize("host", ["xn--ls8h.la", "xn--a", "xn--bcher-kva.example", "a_b"])
async def test_a_host_with_any_name_is_called(server: NotingServer, host: str) -> None:
    """yarl cannot decode some names that may exist, and aiohttp calls them all the same."""
    to = f"http://{host}:{server.server_port}"
    url = f"{to}/to/{quote(f'{to}/end', safe='')}"

    for enabled in (True, {host: False}):
        config = traced.trace_config(tracer=MemoryRecorder(), enabled=enabled)
        connector = TCPConnector(resolver=ToThisMachine())
        async with ClientSession(trace_configs=[config], connector=connector) as http:
            await call(http, url)

    sent = ["traceparent" in server.arrived().headers for _ in range(4)]
    assert sent == [True, True, False, False]


# --- redirects


async def test_each_step_of_a_redirect_is_a_request_of_its_own(server: NotingServer) -> None:
    recorder = MemoryRecorder()

    with TraceContext.use(TraceContext.new_root()) as context:
        await get(f"{server.url}/to/{quote('/end', safe='')}", tracer=recorder)

    assert context is not None
    sent = [TraceContext.from_traceparent(server.arrived().headers["traceparent"][0]) for _ in range(2)]
    assert [span.span_id for span in recorder.spans] == [each.span_id for each in sent]
    assert {span.parent_span_id for span in recorder.spans} == {context.span_id}
    assert [(span.name[:8], span.outcome) for span in recorder.spans] == [
        ("GET /to/", "ok"),
        ("GET /end", "ok"),
    ]


@pytest.mark.parametrize("recorded", [False, True])
async def test_outside_of_a_trace_a_redirect_is_one_trace(server: NotingServer, *, recorded: bool) -> None:
    options: dict[str, Any] = {"tracer": MemoryRecorder()} if recorded else {}

    await get(f"{server.url}/to/{quote('/to/%2Fend', safe='')}", **options)

    sent = [TraceContext.from_traceparent(server.arrived().headers["traceparent"][0]) for _ in range(3)]
    assert len({each.trace_id for each in sent}) == 1
    assert len({each.span_id for each in sent}) == (3 if recorded else 1)
    assert TraceContext.get() is None


async def test_a_redirect_may_change_the_method(server: NotingServer) -> None:
    recorder = MemoryRecorder()

    async with session(tracer=recorder) as http:
        await call(http, f"{server.url}/see/{quote('/end', safe='')}", "POST", data=b"order")
        await call(http, f"{server.url}/to/{quote('/end', safe='')}", "POST", data=b"order")

    arrived = [server.arrived() for _ in range(4)]
    assert [each.method for each in arrived] == ["POST", "GET", "POST", "POST"]
    assert [span.name.split()[0] for span in recorder.spans] == ["POST", "GET", "POST", "POST"]


@pytest.mark.parametrize("enabled", [{"localhost": False}, {"127.0.0.1": True, "*": False}], ids=str)
async def test_a_context_does_not_follow_a_redirect_to_a_host_that_is_switched_off(
    server: NotingServer, enabled: dict[str, bool]
) -> None:
    url = f"{server.url}/to/{quote(server.elsewhere + '/end', safe='')}"

    with TraceContext.use(full_context()) as context:
        await get(url, {"app": "1"}, enabled=enabled)
        await get(url, {"app": "1", "Baggage": "own=1", "traceparent": STALE}, enabled=enabled)

    assert context is not None
    for own in ({}, {"baggage": ["own=1"], "traceparent": [STALE]}):
        here, there = server.arrived().headers, server.arrived().headers
        assert here["traceparent"] == [context.to_traceparent()]
        names = {"traceparent", "tracestate", "baggage"}
        assert {name.lower(): there[name] for name in there if name.lower() in names} == own
        assert here["app"] == there["app"] == ["1"]


async def test_a_context_starts_at_the_first_host_that_is_switched_on(server: NotingServer) -> None:
    url = f"{server.elsewhere}/to/{quote(server.url + '/end', safe='')}"

    with TraceContext.use(full_context()) as context:
        await get(url, enabled={"localhost": False})

    assert context is not None
    assert "traceparent" not in server.arrived().headers
    assert server.arrived().headers["traceparent"] == [context.to_traceparent()]


async def test_a_context_of_the_caller_follows_a_redirect(server: NotingServer) -> None:
    """Outside of a trace a valid one stays as it is."""
    url = f"{server.url}/to/{quote(server.elsewhere + '/end', safe='')}"

    await get(url, {"traceparent": TRACEPARENT, "baggage": "user=7"}, tracer=MemoryRecorder())

    for _ in range(2):
        arrived = server.arrived().headers
        assert (arrived["traceparent"], arrived["baggage"]) == ([TRACEPARENT], ["user=7"])


@pytest.mark.parametrize("location", ["", "http://", "ftp://shop/", "http://[", "/to/%2Fend"])
async def test_a_redirect_that_fails_ends_as_it_does_without_us(server: NotingServer, location: str) -> None:
    url, recorder = f"{server.url}/to/{quote(location, safe='')}", MemoryRecorder()
    outcomes: list[str | int] = []

    for options in ({"enabled": False}, {"tracer": recorder}):
        async with session(**options) as http:
            try:
                response = await http.get(url, max_redirects=2)
            except aiohttp.ClientError as error:
                outcomes.append(type(error).__name__)
            else:
                outcomes.append(response.status)
                response.release()

    while not server.arrivals.empty():
        server.arrived()
    assert outcomes[0] == outcomes[1]
    assert all(span.kind == "client" for span in recorder.spans)


# --- the session stays as it is


async def test_sessions_may_share_a_trace_config(server: NotingServer) -> None:
    config = traced.trace_config()
    contexts = [TraceContext.new_root() for _ in range(2)]

    async def send(context: TraceContext) -> None:
        async with ClientSession(trace_configs=[config]) as http:
            with TraceContext.use(context):
                await call(http, f"{server.url}/{context.trace_id}")

    await asyncio.gather(*map(send, contexts))

    arrived = {each.path[1:]: each.headers["traceparent"] for each in (server.arrived() for _ in contexts)}
    assert arrived == {each.trace_id: [each.to_traceparent()] for each in contexts}


async def test_requests_of_one_connection_have_contexts_of_their_own(server: NotingServer) -> None:
    contexts = [TraceContext.new_root() for _ in range(3)]

    async with session() as http:
        for context in contexts:
            with TraceContext.use(context):
                async with http.get(server.url) as response:
                    await response.read()

    arrived = [server.arrived() for _ in contexts]
    assert len({each.connection for each in arrived}) == 1
    assert [each.headers["traceparent"] for each in arrived] == [[each.to_traceparent()] for each in contexts]


async def test_of_several_trace_configs_the_first_one_counts(server: NotingServer) -> None:
    first, second = MemoryRecorder(), MemoryRecorder()
    configs = [TraceConfig(), traced.trace_config(tracer=first), traced.trace_config(tracer=second)]

    async with ClientSession(trace_configs=configs) as http:
        await call(http, f"{server.url}/to/{quote('/end', safe='')}")

    sent = [TraceContext.from_traceparent(server.arrived().headers["traceparent"][0]) for _ in range(2)]
    assert [span.span_id for span in first.spans] == [each.span_id for each in sent]
    assert not second.spans


async def test_trace_configs_of_others_see_what_they_saw(server: NotingServer) -> None:
    seen: list[Any] = []
    theirs = TraceConfig()

    async def note(session: ClientSession, context: Any, params: Any) -> None:
        seen.append(context.trace_request_ctx)

    theirs.on_request_start.append(note)
    theirs.on_request_end.append(note)
    async with ClientSession(trace_configs=[theirs, traced.trace_config()]) as http:
        await call(http, server.url, trace_request_ctx="mine")

    assert server.arrived().headers["traceparent"]
    assert seen == ["mine", "mine"]


async def test_a_retry_by_a_middleware_is_the_same_request(server: NotingServer) -> None:
    recorder = MemoryRecorder()

    async def twice(request: aiohttp.ClientRequest, handler: Any) -> aiohttp.ClientResponse:
        (await handler(request)).release()
        again: aiohttp.ClientResponse = await handler(request)
        return again

    async with ClientSession(
        trace_configs=[traced.trace_config(tracer=recorder)], middlewares=[twice]
    ) as http:
        await call(http, server.url)

    first, second = server.arrived().headers["traceparent"], server.arrived().headers["traceparent"]
    assert first == second
    assert len(recorder.spans) == 1


async def test_the_handshake_of_a_websocket_carries_the_context() -> None:
    recorder, seen = MemoryRecorder(), []

    async def chat(request: web.Request) -> web.WebSocketResponse:
        seen.append(request.headers.getall("traceparent"))
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(f"{message.data}!")
        return socket

    app = web.Application()
    app.router.add_get("/chat", chat)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        async with session(tracer=recorder) as http:
            with TraceContext.use(TraceContext.new_root()) as context:
                async with http.ws_connect(f"http://{host}:{port}/chat") as socket:
                    await socket.send_str("hello")
                    assert await socket.receive_str() == "hello!"
                with pytest.raises(aiohttp.WSServerHandshakeError):
                    await http.ws_connect(f"http://{host}:{port}/none")
    finally:
        await runner.cleanup()

    assert context is not None
    done, refused = recorder.spans
    ((sent,),) = seen
    assert TraceContext.from_traceparent(sent).span_id == done.span_id
    assert (done.parent_span_id, done.outcome) == (context.span_id, "ok")
    assert (refused.name, refused.outcome) == ("GET /none", "error")


async def test_from_aiohttp_to_wsgi_it_is_one_trace() -> None:
    recorder = MemoryRecorder()

    def answer(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        context = TraceContext.get()
        yield context.trace_id.encode() if context else b"none"

    with serving_wsgi(wsgi.TraceMiddleware(answer, tracer=recorder)) as url:
        async with session(tracer=recorder) as http:
            with TraceContext.use(TraceContext.new_root()) as context:
                async with http.get(url) as response:
                    text = await response.text()

    assert context is not None
    assert text == context.trace_id
    spans = {span.kind: span for span in recorder.spans}
    assert spans["client"].parent_span_id == context.span_id
    assert spans["server"].parent_span_id == spans["client"].span_id
