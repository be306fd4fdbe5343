"""One trace over HTTP, with a WSGI application; it needs no broker.

python examples/wsgi_example.py
"""

from collections.abc import Iterator
from threading import Thread
from wsgiref.simple_server import make_server
from wsgiref.types import StartResponse, WSGIEnvironment

import httpx

from spakky.tracing import TraceContext, W3CTracePropagator
from spakky.tracing.integrations import wsgi


def take_order(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """Serve one request; the trace of the caller is current while the response is made, or else a new one."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    print(f"received in trace {trace_id()}: {environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
    yield b"taken"


def main() -> None:
    """Send a request within a trace to a server of the standard library."""
    with make_server("127.0.0.1", 0, wsgi.TraceMiddleware(take_order)) as server:
        serving = Thread(target=server.handle_request)
        serving.start()
        with TraceContext.use(TraceContext.new_root()):
            headers: dict[str, str] = {}
            W3CTracePropagator().inject(headers)
            print(f"sent     in trace {trace_id()}", flush=True)
            httpx.post(f"http://127.0.0.1:{server.server_port}/orders", headers=headers)
        serving.join()


def trace_id() -> str:
    """Return the id of the current trace."""
    context = TraceContext.get()
    return context.trace_id if context else "-"


if __name__ == "__main__":
    main()
