"""aiohttp, client side: give the session a trace config.

Usage:

    session = ClientSession(trace_configs=[aiohttp.trace_config()])

Every request of the session carries the current context, and so does the handshake of a websocket. Facts:

- aiohttp hands out the headers that it is about to send, a copy of the caller's, to be changed
  (`TraceRequestStartParams.headers`).
- The steps of a redirect are requests of their own, in one trace: each is recorded, and for the host of each
  it is decided anew whether a context is sent. Nothing of ours follows a redirect to a host that is switched
  off.
- `enabled={"shop": True, "*": False}` sends the context and its baggage to this host only. Names are those of
  hosts in lower case and in ASCII (`xn--bcher-kva.example`), with a port (`shop:8000`) or without.
- A recorded request ends when its response begins, and is an error from status 400 on. What fails while the
  body is read comes later. A request that is refused before it is traced, such as one to what is no URL, is
  not recorded.
- The server side of aiohttp is no part of this.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from spakky.tracing._extras import raise_missing_extra
from spakky.tracing.boundaries.client import Client
from spakky.tracing.boundaries.publish import Publishing
from spakky.tracing.boundaries.verbs import Verbs
from spakky.tracing.carriers.mapping import HTTP_TEXT, HttpTextHeaders, names_of_host
from spakky.tracing.context import TraceContext

try:
    from aiohttp import (
        ClientSession,
        TraceConfig,
        TraceRequestEndParams,
        TraceRequestExceptionParams,
        TraceRequestRedirectParams,
        TraceRequestStartParams,
    )
    from yarl import URL
except ModuleNotFoundError as error:
    raise_missing_extra("aiohttp", {"aiohttp"}, error)

if TYPE_CHECKING:
    from typing import Unpack

    from multidict import CIMultiDict

    from spakky.tracing.boundaries.options import SendOptions
    from spakky.tracing.boundaries.publish import Sender

__all__ = ["headers", "trace_config"]

_FIRST_ERROR: Final = 400
_SEE_OTHER: Final = 303
_MOVED: Final = frozenset({301, 302})


def _names(url: URL) -> tuple[str, str]:
    # As it goes over the wire: `host` decodes it, and raises for what is no IDNA.
    return names_of_host(url.raw_host or "", None if url.is_default_port() else url.port)


_CLIENT: Final[Client[TraceRequestStartParams, HttpTextHeaders]] = Client(
    system="http",
    carrier=HTTP_TEXT,
    message_type=TraceRequestStartParams,
    headers=lambda params: list(params.headers.items()),
    destination=lambda params: _names(params.url)[0],
    name=lambda params: f"{params.method} {params.url.path}",
    names=lambda params: _names(params.url),
    sending_kind="client",
)
_VERBS: Final = Verbs(_CLIENT)

headers = _VERBS.headers


def trace_config(**options: Unpack[SendOptions]) -> TraceConfig:
    """Return what a `ClientSession` takes among its `trace_configs`, so that its requests carry the context.

    One serves any number of sessions. Of several in a session the first one counts.

    Args:
        **options: See `SendOptions`. Names are those of hosts, with a port or without.

    Raises:
        WrongUseError: An option is not known.
    """
    return _TraceConfig(_VERBS.sender(options))


class _TraceConfig(TraceConfig):
    """The hooks of a session."""

    def __init__(self, sender: Sender[HttpTextHeaders]) -> None:
        super().__init__(_Call)
        self._sender = sender
        self.on_request_start.append(self._start)
        self.on_request_redirect.append(self._redirect)
        self.on_request_end.append(self._end)
        self.on_request_exception.append(self._fail)

    async def _start(self, session: ClientSession, call: Any, params: TraceRequestStartParams) -> None:
        if _first_of(session) is self:
            call.send(self._sender, params)

    async def _redirect(self, session: ClientSession, call: Any, params: TraceRequestRedirectParams) -> None:
        if _first_of(session) is self:
            call.take_back(params.headers)
            following = _following(params)
            if following is not None:
                call.send(self._sender, following)

    async def _end(self, session: ClientSession, call: Any, params: TraceRequestEndParams) -> None:
        del session
        if params.response.status >= _FIRST_ERROR:
            call.publishing.end_as("error")
        call.publishing.end()

    async def _fail(self, session: ClientSession, call: Any, params: TraceRequestExceptionParams) -> None:
        del session
        call.publishing.end(params.exception)


class _Call(SimpleNamespace):
    """A call of the session: one request, or several if it is redirected.

    Attributes:
        publishing: The sending of the request that is on its way.
        root: The context of the trace that the first request has started, `None` if it has started none.
    """

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.publishing: Publishing[HttpTextHeaders] = Publishing([])
        self.root: TraceContext | None = None
        self._own: HttpTextHeaders = []

    def send(self, sender: Sender[HttpTextHeaders], params: TraceRequestStartParams) -> None:
        """Put the context into the headers of a request."""
        own, names = list(params.headers.items()), _names(params.url)
        current = TraceContext.get()
        with TraceContext.use(current or self.root):
            publishing = sender.publish(own, names[0], names=names, name=_CLIENT.name(params))
        self.publishing, self._own = publishing, own
        if publishing.headers == own:
            return
        if current is None:
            self.root = self.root or publishing.context
        params.headers.clear()
        params.headers.extend(publishing.headers)

    def take_back(self, headers: CIMultiDict[str]) -> None:
        """End the request, and give *headers* for the next one those of the caller again."""
        self.publishing.end()
        own, sent = self._own, self.publishing.headers
        theirs_only = [header for header in own if header not in sent]
        ours_only = [header for header in sent if header not in own]
        for name, _ in (*theirs_only, *ours_only):
            headers.popall(name, None)
        headers.extend(theirs_only)


def _first_of(session: ClientSession) -> TraceConfig | None:
    """Return the one of our trace configs that counts in a session."""
    return next((each for each in session.trace_configs if isinstance(each, _TraceConfig)), None)


def _following(params: TraceRequestRedirectParams) -> TraceRequestStartParams | None:
    """Return the request that a redirect leads to, `None` if aiohttp will not send it."""
    location = params.response.headers.get("Location") or params.response.headers.get("URI")
    if not location:
        return None
    try:
        url = params.url.join(URL(location))
    except ValueError:
        return None
    return TraceRequestStartParams(_next_method(params.method, params.response.status), url, params.headers)


def _next_method(method: str, status: int) -> str:
    """Return the method after a redirect, as browsers have it and aiohttp does."""
    becomes_get = method != "HEAD" if status == _SEE_OTHER else status in _MOVED and method == "POST"
    return "GET" if becomes_get else method
