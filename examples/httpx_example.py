"""One trace over HTTP, sent by httpx; it needs no broker.

python examples/httpx_example.py
"""

import asyncio

from httpx import ASGITransport, AsyncClient
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from spakky.tracing import TraceContext
from spakky.tracing.integrations import httpx
from spakky.tracing.integrations.asgi import TraceMiddleware


async def take_order(request: Request) -> PlainTextResponse:
    """Serve one request; the trace of the caller is current, or else a new one."""
    print(f"received in trace {trace_id()}: {request.method} {request.url.path}")
    return PlainTextResponse("taken")


app = Starlette(
    routes=[Route("/orders", take_order, methods=["POST"])], middleware=[Middleware(TraceMiddleware)]
)


async def main() -> None:
    """Send a request within a trace; `AsyncHTTPTransport()` in the place of the application sends it out."""
    transport = httpx.TraceTransport(ASGITransport(app))
    async with AsyncClient(transport=transport, base_url="http://shop") as client:
        with TraceContext.use(TraceContext.new_root()):
            print(f"sent     in trace {trace_id()}")
            await client.post("/orders")


def trace_id() -> str:
    """Return the id of the current trace."""
    context = TraceContext.get()
    return context.trace_id if context else "-"


if __name__ == "__main__":
    asyncio.run(main())
