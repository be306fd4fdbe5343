"""One trace over HTTP, sent by aiohttp; it needs no broker.

python examples/aiohttp_example.py
"""

import asyncio
from collections.abc import Iterator
from threading import Thread
from wsgiref.simple_server import make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from aiohttp import ClientSession

from spakky.tracing import TraceContext
from spakky.tracing.integrations import aiohttp, wsgi


def take_order(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """Serve one request; the trace of the caller is current while the response is made, or else a new one."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    print(f"received in trace {trace_id()}: {environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
    yield b"taken"


async def send_order(url: str) -> None:
    """Send a request within a trace."""
    async with ClientSession(trace_configs=[aiohttp.trace_config()]) as session:
        with TraceContext.use(TraceContext.new_root()):
            print(f"sent     in trace {trace_id()}", flush=True)
            async with session.post(url) as response:
                await response.read()


def main() -> None:
    """Serve one request by the standard library, and send it."""
    with make_server("127.0.0.1", 0, wsgi.TraceMiddleware(take_order)) as server:
        serving = Thread(target=server.handle_request)
        serving.start()
        asyncio.run(send_order(f"http://127.0.0.1:{server.server_port}/orders"))
        serving.join()


def trace_id() -> str:
    """Return the id of the current trace."""
    context = TraceContext.get()
    return context.trace_id if context else "-"


if __name__ == "__main__":
    main()
