"""The ASGI middleware under a real server, called by a real HTTP client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from contract.receiving import HandlerError, ReceivingContract
from integrations.http_servers import serving
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.integrations import asgi
from spakky.tracing.recorder import MemoryRecorder

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send


async def get(url: str, headers: Any = None) -> httpx.Response:
    async with httpx.AsyncClient() as http:
        return await http.get(url, headers=headers)


class TestReceiving(ReceivingContract):
    ways = ["application"]
    sees_errors = ["application"]
    hostile_values = ["", b"\xff\xfe", "00-bad", "x" * 40_000]

    async def receive(
        self, way: str, headers: dict[str, Any], body: Callable[[], None], **options: Any
    ) -> None:
        """Call the application as a server would, in the task of the test, with headers off the wire."""
        del way
        over_the_wire = await headers_as_served(headers)

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await asyncio.sleep(0)
            body()

        async def receive_nothing() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send_nothing(message: Any) -> None: ...

        scope = {"type": "http", "method": "GET", "path": "/orders", "headers": over_the_wire}
        await asgi.TraceMiddleware(application, **options)(scope, receive_nothing, send_nothing)


async def headers_as_served(headers: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    """Send *headers* to a real server and return them as it hands them to an application."""
    seen: list[tuple[bytes, bytes]] = []

    async def look(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend(scope["headers"])
        await PlainTextResponse("")(scope, receive, send)

    async with serving(look) as url:
        await get(url, headers)
    return seen


def shop(recorder: MemoryRecorder) -> Starlette:
    async def order(request: Request) -> PlainTextResponse:
        context = TraceContext.get()
        return PlainTextResponse(context.trace_id if context else "none", int(request.path_params["status"]))

    async def fail(request: Request) -> PlainTextResponse:
        raise HandlerError

    return Starlette(
        routes=[Route("/orders/{status}", order), Route("/fail", fail)],
        middleware=[Middleware(asgi.TraceMiddleware, tracer=recorder)],
    )


async def test_a_request_continues_the_trace_of_its_caller() -> None:
    recorder = MemoryRecorder()
    caller = TraceContext.new_root()

    async with serving(shop(recorder)) as url:
        response = await get(f"{url}/orders/200", {"TraceParent": caller.to_traceparent()})

    assert response.text == caller.trace_id
    (span,) = recorder.spans
    assert (span.name, span.kind, span.system) == ("GET /orders/200", "server", "http")
    assert (span.parent_span_id, span.outcome) == (caller.span_id, "ok")


@pytest.mark.parametrize(("options", "is_child"), [({}, True), ({"/orders/200": "root"}, False)])
async def test_a_relation_can_be_set_by_path(options: dict[str, Any], *, is_child: bool) -> None:
    caller = TraceContext.new_root()
    app = Starlette(routes=shop(MemoryRecorder()).routes)
    app.add_middleware(asgi.TraceMiddleware, relation=options)

    async with serving(app) as url:
        response = await get(f"{url}/orders/200", {"traceparent": caller.to_traceparent()})

    assert (response.text == caller.trace_id) is is_child


async def test_repeated_traceparents_start_a_new_trace() -> None:
    caller = TraceContext.new_root()
    repeated = [("traceparent", caller.to_traceparent()), ("traceparent", caller.child().to_traceparent())]

    async with serving(shop(MemoryRecorder())) as url:
        response = await get(f"{url}/orders/200", repeated)

    assert response.text not in {caller.trace_id, "none"}


async def test_each_request_without_a_context_is_a_trace_of_its_own() -> None:
    async with serving(shop(MemoryRecorder())) as url:
        traces = {(await get(f"{url}/orders/200")).text for _ in range(3)}

    assert len(traces) == 3


@pytest.mark.parametrize(("status", "outcome"), [(200, "ok"), (404, "ok"), (500, "error"), (503, "error")])
async def test_the_status_of_the_response_decides_the_outcome(status: int, outcome: str) -> None:
    recorder = MemoryRecorder()

    async with serving(shop(recorder)) as url:
        await get(f"{url}/orders/{status}")

    assert [span.outcome for span in recorder.spans] == [outcome]


async def test_an_error_of_the_application_reaches_the_server_as_before() -> None:
    recorder = MemoryRecorder()

    async with serving(shop(recorder)) as url:
        response = await get(f"{url}/fail")

    assert response.status_code == 500
    assert [(span.outcome, span.error) for span in recorder.spans] == [
        ("error", "contract.receiving.HandlerError")
    ]


async def test_lifespan_events_pass_through() -> None:
    seen: list[object] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope, receive, send, TraceContext.get()))

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None: ...

    scope = {"type": "lifespan"}
    await asgi.TraceMiddleware(application)(scope, receive, send)

    assert seen == [(scope, receive, send, None)]


async def test_a_websocket_has_a_context() -> None:
    seen: list[TraceContext | None] = []
    caller = TraceContext.new_root()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(TraceContext.get())

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None: ...

    headers = [(b"traceparent", caller.to_traceparent().encode())]
    scope = {"type": "websocket", "path": "/live", "headers": headers}
    await asgi.TraceMiddleware(application)(scope, receive, send)

    assert [context and context.trace_id for context in seen] == [caller.trace_id]


def test_what_a_request_carries_can_be_looked_at() -> None:
    caller = TraceContext.new_root()

    found = asgi.context_from({"headers": [(b"traceparent", caller.to_traceparent().encode())]})

    assert found == caller
    assert TraceContext.get() is None


def test_what_is_no_application_is_refused() -> None:
    with pytest.raises(WrongUseError, match="TraceMiddleware takes an ASGI application, got NoneType"):
        asgi.TraceMiddleware(None)  # type: ignore[arg-type]


def test_what_is_no_connection_scope_is_refused() -> None:
    with pytest.raises(WrongUseError, match="this takes a received MutableMapping, got str"):
        asgi.context_from("scope")  # type: ignore[arg-type]
