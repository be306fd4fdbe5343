"""The transport of httpx, sync and async, and real servers that it calls."""

# ruff: noqa: S501, ASYNC212 - there is no TLS; sync clients are tested as async ones are, and the server has a
# thread of its own
from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import pytest
from httpx import ASGITransport, AsyncClient, AsyncHTTPTransport, Client, HTTPTransport
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from contract.contexts import STALE, TRACEPARENT, full_context
from contract.sending import SendingContract, Wire
from integrations.http_servers import NotingServer, noting, refused_url, serving, serving_wsgi
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.integrations import asgi, wsgi
from spakky.tracing.integrations import httpx as traced
from spakky.tracing.recorder import MemoryRecorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.requests import Request


@pytest.fixture(scope="module")
def server() -> Iterator[NotingServer]:
    with noting() as server:
        yield server


@pytest.fixture(autouse=True)
def _nothing_is_left_over(server: NotingServer) -> Iterator[None]:
    yield
    assert server.arrivals.empty()


def client(**options: Any) -> Client:
    return Client(transport=traced.TraceTransport(HTTPTransport(verify=False), **options))


def async_client(**options: Any) -> AsyncClient:
    return AsyncClient(transport=traced.TraceTransport(AsyncHTTPTransport(verify=False), **options))


async def get(kind: str, url: str, headers: Any = None, **options: Any) -> httpx.Response:
    """Send a request by a new client, which follows redirects."""
    follow = bool(options.pop("follow", True))
    timeout = options.pop("timeout", 20)
    if kind == "sync":
        with client(**options) as http:
            return http.get(url, headers=headers, follow_redirects=follow, timeout=timeout)
    async with async_client(**options) as async_http:
        return await async_http.get(url, headers=headers, follow_redirects=follow, timeout=timeout)


both = pytest.mark.parametrize("kind", ["sync", "async"])


class TestSending(SendingContract):
    ways = ["sync", "async", "sync-stream", "async-stream", "headers"]
    recorded_ways = ["sync", "async", "sync-stream", "async-stream"]
    foreign = [
        ("X-App", "1"),
        ("x-tag", "b"),
        ("x-bytes", b"\xff\xfe"),
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
        if way == "headers":
            with Client(transport=HTTPTransport(verify=False)) as bare:
                bare.get(url, headers=traced.headers(headers, **options))
        elif way == "sync-stream":
            with (
                client(**options) as http,
                http.stream("POST", url, headers=headers, content=b"x") as response,
            ):
                assert b"".join(response.iter_bytes()) == b"taken"
        elif way == "async-stream":
            async with (
                async_client(**options) as async_http,
                async_http.stream("POST", url, headers=headers, content=b"x") as response,
            ):
                assert b"".join([part async for part in response.aiter_bytes()]) == b"taken"
        else:
            await get(way, url, headers, **options)

    async def arrived(self) -> Wire:
        return dict(self.server.arrived().headers)

    def native(self, headers: dict[str, str]) -> Any:
        return dict(headers)

    async def fail_to_send(self, way: str, **options: Any) -> BaseException:
        with pytest.raises(httpx.ConnectError) as raised:
            await self.call(way, refused_url(), None, **options)
        return raised.value


# --- spans


@both
async def test_a_request_is_recorded_as_one_of_a_client(server: NotingServer, kind: str) -> None:
    recorder = MemoryRecorder()

    await get(kind, f"{server.url}/orders/7?user=8", tracer=recorder)

    assert server.arrived().path == "/orders/7?user=8"
    (span,) = recorder.spans
    assert (span.name, span.kind, span.system) == ("GET /orders/7", "client", "http")
    assert span.destination == server.url.removeprefix("http://")


@both
@pytest.mark.parametrize(("status", "outcome"), [(200, "ok"), (399, "ok"), (404, "error"), (503, "error")])
async def test_the_status_of_the_response_decides_the_outcome(
    server: NotingServer, kind: str, status: int, outcome: str
) -> None:
    recorder = MemoryRecorder()

    response = await get(kind, f"{server.url}/status/{status}", tracer=recorder)

    assert server.arrived().path == f"/status/{response.status_code}"
    assert [(span.outcome, span.error) for span in recorder.spans] == [(outcome, None)]


@both
async def test_a_server_that_hangs_up_is_an_error(server: NotingServer, kind: str) -> None:
    recorder = MemoryRecorder()

    with pytest.raises(httpx.RemoteProtocolError):
        await get(kind, f"{server.url}/drop", tracer=recorder)

    server.arrived()
    assert [(span.outcome, span.error) for span in recorder.spans] == [("error", "httpx.RemoteProtocolError")]


@both
async def test_a_timeout_is_an_error(server: NotingServer, kind: str) -> None:
    recorder = MemoryRecorder()

    with pytest.raises(httpx.ReadTimeout):
        await get(kind, f"{server.url}/wait", tracer=recorder, timeout=0.2)

    server.arrived()
    assert [(span.outcome, span.error) for span in recorder.spans] == [("error", "httpx.ReadTimeout")]


async def test_a_task_that_is_cancelled_cancels_its_request(server: NotingServer) -> None:
    recorder = MemoryRecorder()

    with TraceContext.use(TraceContext.new_root()) as before:
        task = asyncio.create_task(get("async", f"{server.url}/wait", tracer=recorder))
        await asyncio.to_thread(server.arrived)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert TraceContext.get() is before

    assert [span.outcome for span in recorder.spans] == ["cancelled"]


@both
async def test_an_error_names_the_request_of_the_caller(kind: str) -> None:
    url = refused_url()

    with pytest.raises(httpx.ConnectError) as raised:
        await get(kind, url, {"app": "1"})

    assert "traceparent" not in raised.value.request.headers
    assert raised.value.request.headers["app"] == "1"


# --- redirects and other steps


@both
async def test_each_step_of_a_redirect_is_a_request_of_its_own(server: NotingServer, kind: str) -> None:
    recorder = MemoryRecorder()

    with TraceContext.use(TraceContext.new_root()) as context:
        response = await get(kind, f"{server.url}/to/{quote(server.url + '/end', safe='')}", tracer=recorder)

    assert context is not None
    sent = [TraceContext.from_traceparent(server.arrived().headers["traceparent"][0]) for _ in range(2)]
    assert response.url.path == "/end"
    assert [span.span_id for span in recorder.spans] == [each.span_id for each in sent]
    assert {span.parent_span_id for span in recorder.spans} == {context.span_id}
    assert [span.outcome for span in recorder.spans] == ["ok", "ok"]


@both
@pytest.mark.parametrize("enabled", [{"localhost": False}, {"127.0.0.1": True, "*": False}], ids=str)
async def test_a_context_does_not_follow_a_redirect_to_a_host_that_is_switched_off(
    server: NotingServer, kind: str, enabled: dict[str, bool]
) -> None:
    url = f"{server.url}/to/{quote(server.elsewhere + '/end', safe='')}"

    with TraceContext.use(full_context()) as context:
        await get(kind, url, {"app": "1"}, enabled=enabled)

    assert context is not None
    here, there = server.arrived().headers, server.arrived().headers
    assert here["traceparent"] == [context.to_traceparent()]
    assert "baggage" in here
    assert not {"traceparent", "tracestate", "baggage"} & {name.lower() for name in there}
    assert here["app"] == there["app"] == ["1"]


@both
async def test_a_host_is_chosen_with_its_port_or_without(server: NotingServer, kind: str) -> None:
    host = server.url.removeprefix("http://")

    for enabled, is_sent in (
        ({host: False}, False),
        ({host: True, "127.0.0.1": False}, True),
        ({"127.0.0.1:1": False}, True),
    ):
        await get(kind, server.url, enabled=enabled)

        assert ("traceparent" in server.arrived().headers) is is_sent


@pytest.mark.parametrize("host", ["xn--ls8h.la", "xn--a", "xn--bcher-kva.example", "a_b", "[::1]"])
def test_a_host_with_any_name_is_called(host: str) -> None:
    """httpx cannot decode some names that exist, and calls them if it is given the Host header."""
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200)

    recorder, bare = MemoryRecorder(), httpx.MockTransport(answer)
    for options in ({}, {"enabled": {host.strip("[]"): False}}):
        transport = traced.TraceTransport(bare, tracer=recorder, **options)  # type: ignore[arg-type] # of each its own
        with Client(transport=transport, verify=False) as http:
            http.get(f"http://{host}/orders", headers={"Host": host})

    assert ["traceparent" in request.headers for request in sent] == [True, False]
    assert [span.destination for span in recorder.spans] == [host]


@both
async def test_a_context_of_the_caller_follows_a_redirect(server: NotingServer, kind: str) -> None:
    """Outside of a trace a valid one stays as it is."""
    url = f"{server.url}/to/{quote(server.elsewhere + '/end', safe='')}"

    await get(kind, url, {"traceparent": TRACEPARENT, "baggage": "user=7"})

    for _ in range(2):
        arrived = server.arrived().headers
        assert (arrived["traceparent"], arrived["baggage"]) == ([TRACEPARENT], ["user=7"])


@both
async def test_each_step_of_an_authentication_is_a_request_of_its_own(
    server: NotingServer, kind: str
) -> None:
    class TwoSteps(httpx.Auth):
        def auth_flow(self, request: httpx.Request) -> Any:
            yield request
            request.headers["Authorization"] = "second"
            yield request

    recorder = MemoryRecorder()
    with TraceContext.use(TraceContext.new_root()) as context:
        if kind == "sync":
            with client(tracer=recorder) as http:
                http.get(server.url, auth=TwoSteps())
        else:
            async with async_client(tracer=recorder) as async_http:
                await async_http.get(server.url, auth=TwoSteps())

    assert context is not None
    first, second = server.arrived().headers, server.arrived().headers
    assert ("Authorization" in first, second["Authorization"]) == (False, ["second"])
    assert len(second["traceparent"]) == 1
    assert {span.parent_span_id for span in recorder.spans} == {context.span_id}
    assert len(recorder.spans) == 2


# --- the client stays as it is


async def test_a_request_of_the_caller_stays_as_it_was_and_can_be_sent_again(server: NotingServer) -> None:
    request = httpx.Request("POST", server.url, headers={"traceparent": STALE}, content=b"order")
    before = list(request.headers.raw)

    with client() as http:
        for _ in range(2):
            with TraceContext.use(TraceContext.new_root()) as context:
                response = http.send(request)

            assert context is not None
            arrived = server.arrived()
            assert (arrived.method, arrived.body) == ("POST", b"order")
            assert arrived.headers["traceparent"] == [context.to_traceparent()]
            assert response.request is request
    assert request.headers.raw == before


async def test_requests_of_one_connection_have_contexts_of_their_own(server: NotingServer) -> None:
    contexts = [TraceContext.new_root() for _ in range(3)]

    async with async_client() as http:
        for context in contexts:
            with TraceContext.use(context):
                await http.get(server.url)

    arrived = [server.arrived() for _ in contexts]
    assert len({each.connection for each in arrived}) == 1
    assert [each.headers["traceparent"] for each in arrived] == [[each.to_traceparent()] for each in contexts]


async def test_threads_may_share_a_client(server: NotingServer) -> None:
    contexts = [TraceContext.new_root() for _ in range(8)]

    with client() as http:

        def send(context: TraceContext) -> None:
            with TraceContext.use(context):
                http.get(f"{server.url}/{context.trace_id}")

        threads = [threading.Thread(target=send, args=(each,)) for each in contexts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    arrived = {each.path[1:]: each.headers["traceparent"] for each in (server.arrived() for _ in contexts)}
    assert arrived == {each.trace_id: [each.to_traceparent()] for each in contexts}


async def test_a_streamed_body_arrives_whole(server: NotingServer) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for part in (b"a", b"b", b"c"):
            yield part

    async with async_client() as http:
        await http.post(server.url, content=parts())
    with client() as sync_http:
        sync_http.post(server.url, content=iter([b"d", b"e"]))

    assert [server.arrived().body for _ in range(2)] == [b"abc", b"de"]


async def test_hooks_mounts_and_extensions_of_the_client_are_as_ever(server: NotingServer) -> None:
    seen: list[Any] = []
    transport = traced.TraceTransport(HTTPTransport(verify=False))
    hooks = {"request": [seen.append], "response": [seen.append]}

    with Client(mounts={"http://127.0.0.1": transport}, event_hooks=hooks, verify=False) as http:
        response = http.get(server.url, extensions={"trace": lambda name, info: seen.append(name)})

    assert server.arrived().headers["traceparent"]
    assert seen[0] is response.request
    assert any(each is response for each in seen)
    assert "http11.send_request_headers.complete" in seen
    assert response.http_version == "HTTP/1.1"
    assert "network_stream" in response.extensions


def test_wrapping_what_is_wrapped_replaces_its_options(server: NotingServer) -> None:
    recorder, bare = MemoryRecorder(), HTTPTransport(verify=False)
    inner = traced.TraceTransport(bare, tracer=recorder)
    outer = traced.TraceTransport(inner, tracer=recorder)

    with Client(transport=outer) as http:
        http.get(server.url)

    server.arrived()
    assert len(recorder.spans) == 1
    assert outer.transport is inner.transport is bare


async def test_the_wrapped_transport_is_opened_and_closed_with_the_client() -> None:
    calls: list[str] = []

    class Noting(httpx.MockTransport):
        def __enter__(self) -> Any:
            calls.append("enter")
            return self

        def __exit__(self, *_: object) -> None:
            calls.append("exit")

        async def __aenter__(self) -> Any:
            calls.append("aenter")
            return self

        async def __aexit__(self, *_: object) -> None:
            calls.append("aexit")

        def close(self) -> None:
            calls.append("close")

        async def aclose(self) -> None:
            calls.append("aclose")

    transport = traced.TraceTransport(Noting(lambda request: httpx.Response(200)))
    with Client(transport=transport, verify=False):
        pass
    Client(transport=transport, verify=False).close()
    async with AsyncClient(transport=transport, verify=False):
        pass
    await AsyncClient(transport=transport, verify=False).aclose()

    assert calls == ["enter", "exit", "close", "aenter", "aexit", "aclose"]


def test_a_hook_carries_the_context_where_the_transport_is_somebody_else_s(server: NotingServer) -> None:
    def carry(request: httpx.Request) -> None:
        request.headers = httpx.Headers(traced.headers(request.headers.raw))

    url = f"{server.url}/to/{quote(server.url + '/end', safe='')}"
    with Client(verify=False, follow_redirects=True) as http:
        http.event_hooks["request"].append(carry)
        with TraceContext.use(TraceContext.new_root()) as context:
            http.get(url)

    assert context is not None
    assert [server.arrived().headers["traceparent"] for _ in range(2)] == [[context.to_traceparent()]] * 2


@pytest.mark.parametrize("wrong", [None, 7, Client, "http://shop"], ids=repr)
def test_what_is_no_transport_is_refused(wrong: Any) -> None:
    with pytest.raises(WrongUseError, match="TraceTransport takes a transport of httpx, got "):
        traced.TraceTransport(wrong)


# --- edge to edge


async def test_from_edge_to_edge_it_is_one_trace() -> None:
    """httpx calls ASGI, which calls WSGI by httpx, which calls an application in the same process."""
    recorder = MemoryRecorder()

    async def stock(request: Request) -> PlainTextResponse:
        context = TraceContext.get()
        return PlainTextResponse(context.trace_id if context else "none")

    in_process = Starlette(
        routes=[Route("/stock", stock)], middleware=[Middleware(asgi.TraceMiddleware, tracer=recorder)]
    )

    def warehouse(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield asyncio.run(ask_stock()).encode()

    async def ask_stock() -> str:
        transport = traced.TraceTransport(ASGITransport(in_process), tracer=recorder)
        async with AsyncClient(transport=transport, base_url="http://stock") as http:
            return (await http.get("/stock")).text

    with serving_wsgi(wsgi.TraceMiddleware(warehouse, tracer=recorder)) as warehouse_url:

        async def order(request: Request) -> PlainTextResponse:
            return PlainTextResponse((await get("async", f"{warehouse_url}/pack", tracer=recorder)).text)

        shop = Starlette(
            routes=[Route("/order", order)], middleware=[Middleware(asgi.TraceMiddleware, tracer=recorder)]
        )
        async with serving(shop) as shop_url:
            with TraceContext.use(TraceContext.new_root()) as context:
                response = await get("async", f"{shop_url}/order", tracer=recorder)

    assert context is not None
    assert response.text == context.trace_id
    by_parent = {span.parent_span_id: span for span in recorder.spans}
    way, parent = [], context.span_id
    while parent in by_parent:
        way.append(f"{by_parent[parent].kind} {by_parent[parent].name}")
        parent = by_parent[parent].span_id
    assert way == [
        f"{kind} GET /{path}" for path in ("order", "pack", "stock") for kind in ("client", "server")
    ]
