"""The WSGI middleware under a real server, called by a real HTTP client."""

from __future__ import annotations

import asyncio
import gc
import io
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import httpx
import pytest

from contract.contexts import TRACEPARENT
from contract.receiving import SENDER, HandlerError, ReceivingContract
from contract.sending import kept
from integrations.http_servers import serving_wsgi
from spakky.tracing.context import Scope, TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.integrations import wsgi
from spakky.tracing.recorder import MemoryRecorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


def text() -> list[tuple[str, str]]:
    """Return headers of a response, new ones for each: servers write into the list."""
    return [("Content-Type", "text/plain")]


def get(url: str, headers: Any = None) -> httpx.Response:
    with httpx.Client(verify=False, trust_env=False) as client:  # noqa: S501 - there is no TLS
        return client.get(url, headers=headers)


def trace_id() -> str:
    context = TraceContext.get()
    return context.trace_id if context else "none"


def environ_of(**variables: Any) -> dict[str, Any]:
    return {"REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": "/orders", **variables}


def start_nothing(status: str, headers: Any, *exc_info: Any) -> Any:
    return print


def served(app: Any, environ: dict[str, Any]) -> list[bytes]:
    """Call *app* as a server does, and return its body."""
    body = app(environ, start_nothing)
    try:
        return list(body)
    finally:
        if hasattr(body, "close"):
            body.close()


class TestReceiving(ReceivingContract):
    ways = ["call", "body", "close"]
    sees_errors = ["call", "body", "close"]
    hostile_values = ["", b"\xff\xfe", "00-bad", "x" * 40_000, f"{TRACEPARENT},{TRACEPARENT}"]

    async def receive(
        self, way: str, headers: dict[str, Any], body: Callable[[], None], **options: Any
    ) -> None:
        """Call the application as a server would, in the task of the test, with an environ off the wire."""
        environ = await asyncio.to_thread(environ_as_served, headers)

        def application(environ: Any, start_response: Any) -> Iterable[bytes]:
            start_response("200 OK", text())
            if way == "call":
                body()
                return [b"taken"]
            return Steps(on_step=body) if way == "body" else Steps(on_close=body)

        served(wsgi.TraceMiddleware(application, **options), environ)


class Steps:
    """A body of three parts, whose code runs where it is told to."""

    def __init__(self, on_step: Any = lambda: None, on_close: Any = lambda: None) -> None:
        self._on_step = on_step
        self._on_close = on_close

    def __iter__(self) -> Iterator[bytes]:
        yield b"a"
        self._on_step()
        yield b"b"

    def close(self) -> None:
        self._on_close()


def environ_as_served(headers: dict[str, Any]) -> dict[str, Any]:
    """Send *headers* to a real server and return the environ that it makes of them."""
    seen: list[dict[str, Any]] = []

    def look(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ)
        start_response("200 OK", text())
        return [b""]

    with serving_wsgi(look) as url:
        get(url, headers)
    return seen[0]


def shop(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer with the status that the path names, in several steps, with the trace of each."""
    start_response(f"{environ['PATH_INFO'][-3:]} As Asked", text())
    yield trace_id().encode()
    yield b" "
    yield trace_id().encode()


def test_a_request_continues_the_trace_of_its_caller() -> None:
    """The standard library's validator sits on both sides, so each keeps to PEP 3333."""
    recorder, caller = MemoryRecorder(), TraceContext.new_root()
    app = validator(wsgi.TraceMiddleware(validator(shop), tracer=recorder))
    errors = io.StringIO()

    with serving_wsgi(app, errors) as url:
        response = get(f"{url}/orders/200", {"TraceParent": caller.to_traceparent()})

    assert response.text == f"{caller.trace_id} {caller.trace_id}"
    assert errors.getvalue() == ""
    (span,) = recorder.spans
    assert (span.name, span.kind, span.system) == ("GET /orders/200", "server", "http")
    assert (span.destination, span.parent_span_id, span.outcome) == ("/orders/200", caller.span_id, "ok")


@pytest.mark.parametrize(
    ("repeated", "is_new"),
    [([TRACEPARENT], False), ([TRACEPARENT, TRACEPARENT], True), ([TRACEPARENT, "00-bad"], True)],
)
def test_repeated_traceparents_start_a_new_trace(repeated: list[str], *, is_new: bool) -> None:
    """P-01: servers join them by commas."""
    with serving_wsgi(wsgi.TraceMiddleware(shop)) as url:
        response = get(f"{url}/200", [("traceparent", each) for each in repeated])

    assert (response.text[:32] != SENDER.trace_id) is is_new
    assert "none" not in response.text


def test_repeated_tracestates_and_baggage_are_one_list() -> None:
    """P-07: a list may be split over several headers."""
    seen: list[TraceContext | None] = []

    def look(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(TraceContext.get())
        start_response("200 OK", text())
        return [b""]

    lists = [("tracestate", "a=1"), ("tracestate", "b=2"), ("baggage", "c=3"), ("baggage", "d=4")]
    with serving_wsgi(wsgi.TraceMiddleware(look)) as url:
        get(url, [("traceparent", TRACEPARENT), *lists])

    (context,) = seen
    assert context is not None
    assert context.trace_state.to_header() == "a=1,b=2"
    assert dict(context.baggage) == {"c": "3", "d": "4"}


def test_requests_in_parallel_have_traces_of_their_own() -> None:
    callers = [TraceContext.new_root() for _ in range(16)]

    with serving_wsgi(wsgi.TraceMiddleware(shop)) as url, ThreadPoolExecutor(8) as threads:
        responses = threads.map(
            lambda each: get(f"{url}/200", {"traceparent": each.to_traceparent()}), callers
        )
        texts = [response.text for response in responses]

    assert texts == [f"{each.trace_id} {each.trace_id}" for each in callers]


@pytest.mark.parametrize(("status", "outcome"), [(200, "ok"), (404, "ok"), (500, "error"), (503, "error")])
def test_the_status_of_the_response_decides_the_outcome(status: int, outcome: str) -> None:
    recorder = MemoryRecorder()

    with serving_wsgi(wsgi.TraceMiddleware(shop, tracer=recorder)) as url:
        assert get(f"{url}/orders/{status}").status_code == status

    assert [span.outcome for span in recorder.spans] == [outcome]


def test_a_status_that_is_none_is_the_server_s_business() -> None:
    recorder = MemoryRecorder()
    given: list[object] = []

    def start(status: object, headers: Any) -> Any:
        given.append(status)
        return print

    for status in (None, 7, "", "5", "\xb2\xb2\xb2 powers"):

        def answer(environ: Any, start_response: Any, status: Any = status) -> list[bytes]:
            start_response(status, text())
            return []

        wsgi.TraceMiddleware(answer, tracer=recorder)({}, start)

    assert given == [None, 7, "", "5", "\xb2\xb2\xb2 powers"]
    assert {span.outcome for span in recorder.spans} == {"ok"}


def test_an_error_of_the_application_reaches_the_server_as_before() -> None:
    recorder, errors = MemoryRecorder(), io.StringIO()

    def fail(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", text())
        raise HandlerError
        yield b""

    with serving_wsgi(wsgi.TraceMiddleware(fail, tracer=recorder), errors) as url:
        assert get(url).status_code == 500

    assert "HandlerError" in errors.getvalue()
    assert [(span.outcome, span.error) for span in recorder.spans] == [
        ("error", "contract.receiving.HandlerError")
    ]


def test_an_application_may_start_again_after_an_error() -> None:
    recorder = MemoryRecorder()

    def fail() -> None:
        raise HandlerError

    def recover(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", text())
        try:
            fail()
        except HandlerError as error:
            start_response("503 Later", text(), (type(error), error, error.__traceback__))
        yield b"later"

    with serving_wsgi(wsgi.TraceMiddleware(recover, tracer=recorder)) as url:
        response = get(url)

    assert (response.status_code, response.text) == (503, "later")
    assert [span.outcome for span in recorder.spans] == ["error"]


def test_an_application_may_write_by_itself() -> None:
    def write(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", text())(b"written ")
        return [b"returned"]

    with serving_wsgi(validator(wsgi.TraceMiddleware(validator(write)))) as url:
        assert get(url).text == "written returned"


# --- the body


def test_between_two_steps_of_a_body_what_was_there_before_is_back() -> None:
    recorder = MemoryRecorder()
    app = wsgi.TraceMiddleware(shop, tracer=recorder)
    callers = [TraceContext.new_root() for _ in range(2)]

    with TraceContext.use(TraceContext.new_root()) as ambient:
        bodies = [
            app(environ_of(PATH_INFO="/200", HTTP_TRACEPARENT=each.to_traceparent()), start_nothing)
            for each in callers
        ]
        seen = []
        for _ in range(3):
            for body in bodies:
                seen.append(next(iter(body)))
                assert TraceContext.get() is ambient
        assert not recorder.spans
        for body in bodies:
            body.close()  # type: ignore[attr-defined] # as PEP 3333 has it

    ids = [each.trace_id.encode() for each in callers]
    assert seen == [*ids, b" ", b" ", *ids]
    assert [span.outcome for span in recorder.spans] == ["ok", "ok"]


def test_each_step_may_be_taken_in_another_thread() -> None:
    app = wsgi.TraceMiddleware(shop)

    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        environ = environ_of(PATH_INFO="/200", HTTP_TRACEPARENT=TRACEPARENT)
        body: Any = one.submit(app, environ, start_nothing).result()
        steps = [pool.submit(body.__next__).result() for pool in (other, one, other)]
        other.submit(body.close).result()
        left = [pool.submit(TraceContext.get).result() for pool in (one, other)]

    assert steps == [SENDER.trace_id.encode(), b" ", SENDER.trace_id.encode()]
    assert left == [None, None]


def test_a_context_that_the_body_sets_stays_from_step_to_step() -> None:
    other = TraceContext.new_root()
    seen: list[TraceContext | None] = []

    def change(environ: Any, start_response: Any) -> Iterator[bytes]:
        TraceContext.set(other)
        yield b""
        seen.append(TraceContext.get())

    served(wsgi.TraceMiddleware(change), environ_of())

    assert seen == [other]
    assert TraceContext.get() is None


def test_a_body_that_is_closed_early_is_closed_in_its_context() -> None:
    recorder = MemoryRecorder()
    seen: list[str] = []

    def stop(environ: Any, start_response: Any) -> Steps:
        return Steps(on_close=lambda: seen.append(trace_id()))

    for steps in (0, 1):
        app = wsgi.TraceMiddleware(stop, tracer=recorder)
        body: Any = app(environ_of(HTTP_TRACEPARENT=TRACEPARENT), start_nothing)
        for _ in range(steps):
            next(body)
        body.close()

    assert seen == [SENDER.trace_id] * 2
    assert [span.outcome for span in recorder.spans] == ["ok", "ok"]


def test_of_a_body_that_is_never_closed_nothing_is_kept() -> None:
    recorder = MemoryRecorder()
    gc.freeze()  # what is there already is not looked at

    body = wsgi.TraceMiddleware(shop, tracer=recorder)(environ_of(PATH_INFO="/200"), start_nothing)
    next(iter(body))
    del body

    assert [span.outcome for span in recorder.spans] == ["unknown"]
    assert kept(Scope) == []


def test_what_runs_no_code_is_returned_as_it_is() -> None:
    file = FileWrapper(io.BytesIO(b"taken"))
    environ = environ_of(**{"wsgi.file_wrapper": FileWrapper})

    for body in ([b"taken"], (b"a", b"b"), file):
        recorder = MemoryRecorder()

        def answer(environ: Any, start_response: Any, body: Any = body) -> Any:
            return body

        assert wsgi.TraceMiddleware(answer, tracer=recorder)(environ, start_nothing) is body
        assert [span.outcome for span in recorder.spans] == ["ok"]


def test_the_server_still_knows_the_length_of_a_list() -> None:
    def one_part(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", text())
        return [b"taken"]

    with serving_wsgi(wsgi.TraceMiddleware(one_part)) as url:
        assert get(url).headers["content-length"] == "5"


def test_switched_off_the_application_is_called_as_it_is() -> None:
    given: list[Any] = []

    def look(environ: Any, start_response: Any) -> Steps:
        given.extend([environ, start_response, TraceContext.get()])
        return body

    body, environ = Steps(), environ_of(HTTP_TRACEPARENT=TRACEPARENT)

    assert wsgi.TraceMiddleware(look, enabled={"/orders": False})(environ, start_nothing) is body
    assert given == [environ, start_nothing, None]


@pytest.mark.parametrize(
    ("variables", "path"),
    [
        ({"PATH_INFO": "/orders"}, "/orders"),
        ({"SCRIPT_NAME": "/shop", "PATH_INFO": "/orders"}, "/shop/orders"),
        ({"PATH_INFO": "/b\xc3\xbccher"}, "/b\xfccher"),
        ({"PATH_INFO": "/\xff"}, "/\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_options_choose_by_the_whole_path(variables: dict[str, str], path: str) -> None:
    recorder = MemoryRecorder()
    app = wsgi.TraceMiddleware(
        lambda _, respond: [trace_id().encode()], relation={path: "root"}, tracer=recorder
    )

    (seen,) = app(environ_of(HTTP_TRACEPARENT=TRACEPARENT, **variables), start_nothing)

    assert seen.decode() not in {SENDER.trace_id, "none"}
    assert [span.destination for span in recorder.spans] == [path]


def test_an_environ_of_anything_is_read() -> None:
    environ: Any = {7: 7, "PATH_INFO": None, "HTTP_TRACEPARENT": 7, "HTTP_": [], "HTTP_BAGGAGE": object()}

    app = wsgi.TraceMiddleware(lambda _, respond: [trace_id().encode()], tracer=MemoryRecorder())
    (seen,) = app(environ, start_nothing)

    assert len(seen) == 32


def test_what_a_request_carries_can_be_looked_at() -> None:
    assert wsgi.context_from({"HTTP_TRACEPARENT": TRACEPARENT}) == SENDER
    assert wsgi.context_from({"TRACEPARENT": TRACEPARENT}) is None
    assert TraceContext.get() is None


def test_what_is_no_application_is_refused() -> None:
    with pytest.raises(WrongUseError, match="TraceMiddleware takes a WSGI application, got NoneType"):
        wsgi.TraceMiddleware(None)  # type: ignore[arg-type]


def test_what_is_no_environ_is_refused() -> None:
    with pytest.raises(WrongUseError, match="this takes a received WSGI environ, got str"):
        wsgi.context_from("environ")  # type: ignore[arg-type]


def test_a_body_is_iterated_as_it_would_be_without_us() -> None:
    """One `iter()`, when the server asks for the first part, and the end stays the end."""
    calls: list[str] = []

    class Counted:
        def __iter__(self) -> Iterator[bytes]:
            calls.append("iter")
            return iter([b"a"])

    body: Any = wsgi.TraceMiddleware(lambda _, respond: Counted())(environ_of(), start_nothing)

    assert (calls, iter(body) is body) == ([], True)
    assert (list(body), list(body), calls) == ([b"a"], [], ["iter"])
