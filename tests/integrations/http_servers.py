"""Real HTTP servers on free ports of this machine: for ASGI, for WSGI, and one that notes what arrives."""

from __future__ import annotations

import asyncio
import contextlib
import io
import queue
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import unquote
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import uvicorn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

SECONDS: Final = 20


@contextlib.asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """Serve the ASGI application *app*; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        running = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running


class _ThreadingWsgiServer(ThreadingMixIn, WSGIServer):
    """A thread for each connection; the end waits for all of them."""

    daemon_threads = False


class _SilentWsgiHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002 - as http.server calls it

    def get_stderr(self) -> Any:
        return self.server.errors  # type: ignore[attr-defined] # put there by `serving_wsgi`


@contextlib.contextmanager
def serving_wsgi(app: Any, errors: Any = None) -> Iterator[str]:
    """Serve the WSGI application *app* in threads; gives its address. *errors* takes what it logs."""
    server = make_server("127.0.0.1", 0, app, _ThreadingWsgiServer, _SilentWsgiHandler)
    server.errors = io.StringIO() if errors is None else errors  # type: ignore[attr-defined] # for the handler
    running = threading.Thread(target=server.serve_forever, args=(0.01,))
    running.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        running.join(SECONDS)
        server.server_close()


class Arrival(NamedTuple):
    """A request as it came over the wire."""

    method: str
    path: str
    headers: dict[str, list[str]]
    body: bytes
    connection: Any


class NotingServer(ThreadingHTTPServer):
    """Notes each request, and answers as its path says.

    `/status/404` answers with that, `/to/<quoted URL>` redirects there, `/wait` answers when `released`,
    `/drop` not at all. Header values are text in latin-1, which keeps their bytes.
    """

    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _NotingHandler)
        self.arrivals: queue.Queue[Arrival] = queue.Queue()
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def elsewhere(self) -> str:
        """The same server by another name."""
        return f"http://localhost:{self.server_port}"

    def arrived(self) -> Arrival:
        return self.arrivals.get(timeout=SECONDS)


class _NotingHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: NotingServer  # pyright: ignore[reportIncompatibleVariableOverride] # it is made by that one only

    def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002 - as http.server calls it

    def _answer(self) -> None:
        with contextlib.suppress(ConnectionError):  # of a caller that has gone
            self._note_and_answer()

    def _note_and_answer(self) -> None:
        found: dict[str, list[str]] = {}
        for name, value in self.headers.items():
            found.setdefault(name, []).append(value)
        body = self._body()
        self.server.arrivals.put(Arrival(self.command, self.path, found, body, self.client_address))
        _, kind, rest = (*self.path.split("/", 2), "")[:3]
        if kind == "drop":
            self.close_connection = True
            return
        if kind == "wait":
            self.server.released.wait(SECONDS)
        self.send_response({"to": 307, "see": 303}.get(kind) or (int(rest) if kind == "status" else 200))
        if kind in {"to", "see"}:
            self.send_header("Location", unquote(rest))
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"taken")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    do_GET = do_POST = _answer  # noqa: N815 - as http.server calls them


@contextlib.contextmanager
def noting() -> Iterator[NotingServer]:
    """Run a `NotingServer`."""
    server = NotingServer()
    running = threading.Thread(target=server.serve_forever, args=(0.01,))
    running.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        running.join(SECONDS)
        server.server_close()


def refused_url() -> str:
    """Return the address of a port that nobody listens to."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"
