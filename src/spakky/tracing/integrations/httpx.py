"""httpx: wrap the transport of a client, so that each of its requests carries the context.

Usage:

    client = Client(transport=httpx.TraceTransport(HTTPTransport()))
    client = AsyncClient(transport=httpx.TraceTransport(AsyncHTTPTransport()))

A transport sees what goes over the wire: each step of a redirect and of an authentication is a request of its
own, to a host of its own, and what cannot be sent fails there. Facts:

- `enabled={"shop": True, "*": False}` sends the context and its baggage to this host only. Names are those of
  hosts in lower case and in ASCII (`xn--bcher-kva.example`), with a port (`shop:8000`) or without. The next
  request of a redirect is made of the caller's headers, not of those that were sent, so nothing of ours
  follows it to another host.
- A client that is given a transport leaves to it what it would have made one of: `verify`, `cert`, `http1`,
  `http2`, `limits`, `proxy` and the proxies of the environment. These are arguments of `HTTPTransport` too.
- A recorded request ends when its response begins, and is an error from status 400 on. What fails while the
  body is read comes later.
- Outside of any trace each request on the wire starts one, unless its caller's headers bring one.
- `headers()` is for a client whose transport somebody else makes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self, cast

from spakky.tracing._extras import raise_missing_extra
from spakky.tracing.boundaries.client import Client
from spakky.tracing.boundaries.verbs import Verbs
from spakky.tracing.carriers.mapping import HTTP, HttpHeaders, names_of_host
from spakky.tracing.error import WrongUseError

try:
    from httpx import AsyncBaseTransport, BaseTransport, Request, Response
except ModuleNotFoundError as error:
    raise_missing_extra("httpx", {"httpx"}, error)

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Unpack

    from spakky.tracing.boundaries.options import SendOptions
    from spakky.tracing.boundaries.publish import Publishing

__all__ = ["TraceTransport", "headers"]

_FIRST_ERROR: Final = 400


def _names(request: Request) -> tuple[str, str]:
    # As it goes over the wire: `host` decodes it, and raises for what IDNA 2008 does not know, such as emoji.
    return names_of_host(request.url.raw_host.decode("ascii"), request.url.port)


_CLIENT: Final[Client[Request, HttpHeaders]] = Client(
    system="http",
    carrier=HTTP,
    message_type=Request,
    headers=lambda request: request.headers.raw,
    destination=lambda request: _names(request)[0],
    name=lambda request: f"{request.method} {request.url.path}",
    names=_names,
    sending_kind="client",
)
_VERBS: Final = Verbs(_CLIENT)

headers = _VERBS.headers


class TraceTransport(BaseTransport, AsyncBaseTransport):
    """A transport whose requests carry the current context; the one that it wraps does all the rest.

    It is sync or async as the wrapped one is. Wrapping what is wrapped replaces its options.

    Attributes:
        transport: The transport that it wraps.
    """

    def __init__(self, transport: BaseTransport | AsyncBaseTransport, **options: Unpack[SendOptions]) -> None:
        """Wrap *transport*.

        Args:
            transport: Any transport, such as `httpx.HTTPTransport()` or `httpx.AsyncHTTPTransport()`.
            **options: See `SendOptions`. Names are those of hosts, with a port or without.

        Raises:
            WrongUseError: This is no transport, or an option is not known.
        """
        if not isinstance(transport, (BaseTransport, AsyncBaseTransport)):
            message = f"TraceTransport takes a transport of httpx, got {type(transport).__name__}"
            raise WrongUseError(message)
        bare = transport.transport if isinstance(transport, TraceTransport) else transport
        self.transport: BaseTransport | AsyncBaseTransport = bare
        self._sender = _VERBS.sender(options)

    def handle_request(self, request: Request) -> Response:
        """Send a copy of *request* with the context in it; a client calls it."""
        with self._publish(request) as publishing:
            response = self._sync.handle_request(_carrying(request, publishing))
            _look(response, publishing)
        return response

    async def handle_async_request(self, request: Request) -> Response:
        """Do as `handle_request`."""
        with self._publish(request) as publishing:
            response = await self._async.handle_async_request(_carrying(request, publishing))
            _look(response, publishing)
        return response

    def close(self) -> None:
        """Close the wrapped transport."""
        self._sync.close()

    async def aclose(self) -> None:
        """Close the wrapped transport."""
        await self._async.aclose()

    def __enter__(self) -> Self:
        self._sync.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._sync.__exit__(exc_type, exc_value, traceback)

    async def __aenter__(self) -> Self:
        await self._async.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._async.__aexit__(exc_type, exc_value, traceback)

    @property
    def _sync(self) -> BaseTransport:
        return cast("BaseTransport", self.transport)

    @property
    def _async(self) -> AsyncBaseTransport:
        return cast("AsyncBaseTransport", self.transport)

    def _publish(self, request: Request) -> Publishing[HttpHeaders]:
        names = _names(request)
        return self._sender.publish(request.headers.raw, names[0], names=names, name=_CLIENT.name(request))


def _carrying(request: Request, publishing: Publishing[HttpHeaders]) -> Request:
    """Return the request to send: the caller's own if there is no context to be put in."""
    if publishing.context is None:
        return request
    return Request(
        request.method,
        request.url,
        headers=publishing.headers,
        stream=request.stream,
        extensions=request.extensions,
    )


def _look(response: Response, publishing: Publishing[HttpHeaders]) -> None:
    if response.status_code >= _FIRST_ERROR:
        publishing.end_as("error")
