"""WSGI: wrap the application, so that a trace starts or continues at the edge.

Usage:

    app = wsgi.TraceMiddleware(app)  # any WSGI application
    app.wsgi_app = wsgi.TraceMiddleware(app.wsgi_app)  # Flask

Where callers are not trusted, `relation="link"` or `relation="root"` starts a trace for each request. Facts:

- A server joins repeated headers with commas (RFC 3875, section 4.1.18). Two traceparents become one that is
  malformed, which starts a new trace, as W3C wants it.
- An application may do its work while its response is iterated, and in `close()`: the context is current in
  each of these steps, and what was current before is back between them, in whatever thread a step is taken.
- A list or tuple, and what the server's own `wsgi.file_wrapper` has made, is returned as it is, so that the
  server can count it or let the kernel send it. Nothing of the application runs after that.
- A response that the server does not close is recorded as `unknown` when it is thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from spakky.tracing.boundaries.client import Client
from spakky.tracing.boundaries.outcome import outcome_of
from spakky.tracing.boundaries.verbs import Verbs
from spakky.tracing.carriers import count_in
from spakky.tracing.carriers.mapping import HTTP, HttpHeaders
from spakky.tracing.error import WrongUseError

if TYPE_CHECKING:
    from typing import Unpack

    from spakky.tracing.boundaries.options import ReceiveOptions
    from spakky.tracing.boundaries.process import Processing
    from spakky.tracing.tracer import Outcome

__all__ = ["TraceMiddleware", "context_from"]

_Environ = MutableMapping[str, Any]
_StartResponse = Callable[..., Callable[[bytes], object]]
_Application = Callable[[Any, Any], Iterable[bytes]]

ResultT = TypeVar("ResultT")

_HEADER: Final = "HTTP_"
_STATUS_DIGITS: Final = 3
_FIRST_SERVER_ERROR: Final = 500


def _headers(environ: _Environ) -> list[tuple[str, Any]]:
    """Return the headers of a request; of a CGI variable it is not known whether `_` was a dash."""
    return [
        (name.removeprefix(_HEADER).replace("_", "-"), value)
        for name, value in environ.items()
        if isinstance(name, str) and name.startswith(_HEADER)
    ]


def _path(environ: _Environ) -> str:
    """Return the whole path; WSGI hands out its bytes as latin-1, and they mostly are UTF-8."""
    path: str = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    return path.encode("latin-1", "replace").decode("utf-8", "replace")


_CLIENT: Final[Client[_Environ, HttpHeaders]] = Client(
    system="http",
    carrier=HTTP,
    message_type=MutableMapping,
    message_name="WSGI environ",
    headers=_headers,
    destination=_path,
    name=lambda environ: f"{environ.get('REQUEST_METHOD', 'GET')} {_path(environ)}",
    kind="server",
)
_VERBS: Final = Verbs(_CLIENT)

context_from = _VERBS.context_from


class TraceMiddleware:
    """A WSGI application that runs another one in the context of each request.

    A response of status 500 and above is recorded as an error.
    """

    def __init__(self, app: _Application, **options: Unpack[ReceiveOptions]) -> None:
        """Wrap *app*.

        Args:
            app: A WSGI application.
            **options: See `ReceiveOptions`. Names are those of paths.

        Raises:
            WrongUseError: This is not callable, or an option is not known.
        """
        if not callable(app):
            message = f"TraceMiddleware takes a WSGI application, got {type(app).__name__}"
            raise WrongUseError(message)
        self._app = app
        self._receiver = _VERBS.receiver(options)

    def __call__(self, environ: _Environ, start_response: _StartResponse) -> Iterable[bytes]:
        """Run the application for one request."""
        processing = self._receiver.process(environ).open()
        if processing.context is None:
            return self._app(environ, start_response)
        response = _Response(processing)
        try:
            body = self._app(environ, response.started_by(start_response))
        except BaseException as error:
            response.end(error)
            raise
        if _runs_no_code(body, environ):
            response.end()
            return body
        processing.pause()
        return _Body(response, body)


class _Response:
    """What is known of a response while it is made."""

    def __init__(self, processing: Processing[_Environ]) -> None:
        self._processing = processing
        self._has_failed = False
        self._has_ended = False

    def started_by(self, start_response: _StartResponse) -> _StartResponse:
        """Return a `start_response` that also looks at the status."""

        def start_and_look(status: str, headers: Any, *exc_info: Any) -> Callable[[bytes], object]:
            write = start_response(status, headers, *exc_info)
            self._has_failed = _is_server_error(status)
            return write

        return start_and_look

    def step(self, advance: Callable[[], ResultT]) -> ResultT:
        """Return what the application's code returns, run in the context of the request."""
        with self._processing as processing:
            try:
                return advance()
            except StopIteration:
                raise
            except BaseException as error:
                self.end(error)
                raise
            finally:
                processing.pause()

    def end(self, error: BaseException | None = None) -> None:
        """Say how it ended."""
        failed = error is None and self._has_failed
        self._end("error" if failed else outcome_of(error), error)

    def give_up(self) -> None:
        """Say that nobody has told how it ended."""
        self._end("unknown")

    def _end(self, outcome: Outcome, error: BaseException | None = None) -> None:
        """End the request; only the first word on that counts."""
        if not self._has_ended:
            self._has_ended = True
            self._processing.close(outcome, error)


class _Body(Iterator[bytes]):
    """The body of a response, each step of which is in the context of the request."""

    def __init__(self, response: _Response, body: Iterable[bytes]) -> None:
        self._response = response
        self._body = body
        self._steps: Iterator[bytes] | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        return self._response.step(self._advance)

    def close(self) -> None:
        """Close the application's own body, and end the request; the server calls it."""
        close: Callable[[], object] | None = getattr(self._body, "close", None)
        if close is not None:
            self._response.step(close)
        self._response.end()

    def __del__(self) -> None:
        self._response.give_up()

    def _advance(self) -> bytes:
        if self._steps is None:
            self._steps = iter(self._body)
        return next(self._steps)


def _is_server_error(status: object) -> bool:
    code = count_in(status[:_STATUS_DIGITS]) if isinstance(status, str) else None
    return code is not None and code >= _FIRST_SERVER_ERROR


def _runs_no_code(body: object, environ: _Environ) -> bool:
    """Return whether nothing of the application runs while *body* is sent."""
    wrapper = environ.get("wsgi.file_wrapper")
    return type(body) in {list, tuple} or (isinstance(wrapper, type) and isinstance(body, wrapper))
