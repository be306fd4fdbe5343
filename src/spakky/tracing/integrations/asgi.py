"""ASGI: wrap the application, so that a trace starts or continues at the edge.

Usage:

    app = asgi.TraceMiddleware(app)  # any ASGI application
    app.add_middleware(asgi.TraceMiddleware)  # Starlette, FastAPI

Where callers are not trusted, `relation="link"` or `relation="root"` starts a trace for each request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final

from spakky.tracing.boundaries.client import Client
from spakky.tracing.boundaries.outcome import outcome_of
from spakky.tracing.boundaries.verbs import Verbs
from spakky.tracing.carriers.mapping import HTTP, HttpHeaders
from spakky.tracing.error import WrongUseError

if TYPE_CHECKING:
    from typing import Unpack

    from spakky.tracing.boundaries.options import ReceiveOptions


__all__ = ["TraceMiddleware", "context_from"]

_Message = MutableMapping[str, Any]
_ConnectionScope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_Application = Callable[[_ConnectionScope, _Receive, _Send], Awaitable[None]]

_CONNECTIONS: Final = frozenset({"http", "websocket"})
_FIRST_SERVER_ERROR: Final = 500

_CLIENT: Final[Client[_ConnectionScope, HttpHeaders]] = Client(
    system="http",
    carrier=HTTP,
    message_type=MutableMapping,
    headers=lambda scope: scope.get("headers"),
    destination=lambda scope: scope["path"],
    name=lambda scope: f"{scope.get('method', 'WEBSOCKET')} {scope['path']}",
    kind="server",
)
_VERBS: Final = Verbs(_CLIENT)

context_from = _VERBS.context_from


class TraceMiddleware:
    """An ASGI application that runs another one in the context of each request.

    Requests and websocket connections have a context; lifespan events pass through. A response of status 500
    and above is recorded as an error.
    """

    def __init__(self, app: _Application, **options: Unpack[ReceiveOptions]) -> None:
        """Wrap *app*.

        Args:
            app: An ASGI 3 application.
            **options: See `ReceiveOptions`.

        Raises:
            WrongUseError: This is not callable, or an option is not known.
        """
        if not callable(app):
            message = f"TraceMiddleware takes an ASGI application, got {type(app).__name__}"
            raise WrongUseError(message)
        self._app = app
        self._receiver = _VERBS.receiver(options)

    async def __call__(self, scope: _ConnectionScope, receive: _Receive, send: _Send) -> None:
        """Run the application for one connection."""
        if scope["type"] not in _CONNECTIONS:
            await self._app(scope, receive, send)
            return
        failed = False

        async def send_and_look(message: _Message) -> None:
            nonlocal failed
            failed = failed or message.get("status", 0) >= _FIRST_SERVER_ERROR
            await send(message)

        processing = self._receiver.process(scope).open()
        try:
            await self._app(scope, receive, send_and_look)
        except BaseException as error:
            processing.close(outcome_of(error), error)
            raise
        processing.close("error" if failed else "ok")
