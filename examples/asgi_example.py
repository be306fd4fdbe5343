"""One trace over HTTP, with an ASGI application; it needs no broker.

python examples/asgi_example.py
"""

import asyncio

from httpx import ASGITransport, AsyncClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from spakky.tracing import TraceContext, W3CTracePropagator
from spakky.tracing.integrations import asgi


async def take_order(request: Request) -> PlainTextResponse:
    """Serve one request; the trace of the caller is current, or else a new one."""
    print(f"received in trace {trace_id()}: {request.method} {request.url.path}")
    return PlainTextResponse("taken")


app = Starlette(routes=[Route("/orders", take_order, methods=["POST"])])
app.add_middleware(asgi.TraceMiddleware)


async def main() -> None:
    """Send a request within a trace; the application is called without a server in between."""
    async with AsyncClient(transport=ASGITransport(app), base_url="http://shop") as client:
        with TraceContext.use(TraceContext.new_root()):
            headers: dict[str, str] = {}
            W3CTracePropagator().inject(headers)
            print(f"sent     in trace {trace_id()}")
            await client.post("/orders", headers=headers)


def trace_id() -> str:
    """Return the id of the current trace."""
    context = TraceContext.get()
    return context.trace_id if context else "-"


if __name__ == "__main__":
    asyncio.run(main())
