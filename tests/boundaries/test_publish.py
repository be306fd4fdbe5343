"""A message leaves: which context it carries, for any client library."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import deque
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from boundaries.parcels import (
    CLIENT,
    STALE,
    TRACEPARENT,
    BrokenContextTracer,
    BrokenPropagator,
    BrokenSpanTracer,
    BrokenTracer,
    full_context,
    sender,
)
from spakky.tracing.baggage import Baggage
from spakky.tracing.boundaries.options import SendOptions, Settings
from spakky.tracing.boundaries.publish import Sender
from spakky.tracing.carriers import kafka
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.recorder import MemoryRecorder
from spakky.tracing.w3c_propagator import W3CTracePropagator

if TYPE_CHECKING:
    from spakky.tracing.boundaries.client import Client


def by_hand(existing: object = None, **options: Any) -> dict[str, Any]:
    return sender(**options).headers(existing)


def by_wrapper(existing: object = None, **options: Any) -> dict[str, Any]:
    with sender(**options).publish(existing, "orders") as publishing:
        return publishing.headers


def recorded(existing: object = None, **options: Any) -> dict[str, Any]:
    return by_wrapper(existing, tracer=MemoryRecorder(), **options)


every_way = pytest.mark.parametrize("send", [by_hand, by_wrapper, recorded])
unrecorded = pytest.mark.parametrize("send", [by_hand, by_wrapper])


# --- inside a trace


@unrecorded
def test_the_current_context_itself_is_sent(send: Any) -> None:
    with TraceContext.use(full_context()) as context:
        assert context is not None
        assert send() == {
            "traceparent": context.to_traceparent(),
            "tracestate": "congo=t61",
            "baggage": "tenant=acme",
        }


@every_way
def test_what_is_stale_is_replaced_or_taken_out(send: Any) -> None:
    """K-02, K-30, P-03: for every way to send."""
    existing = {"TraceParent": STALE, "TRACESTATE": "old=1", "Baggage": "old=1", "app": 1}

    with TraceContext.use(TraceContext.new_root()) as context:
        headers = send(existing)

    assert context is not None
    assert sorted(headers) == ["app", "traceparent"]
    assert TraceContext.from_traceparent(headers["traceparent"]).trace_id == context.trace_id


@every_way
def test_the_headers_of_the_caller_stay_as_they_were(send: Any) -> None:
    """K-03: also where they cannot be changed."""
    existing = {"traceparent": STALE, "app": [1]}

    for given in (existing, MappingProxyType(existing)):
        with TraceContext.use(full_context()):
            headers = send(given)

        assert existing == {"traceparent": STALE, "app": [1]}
        assert headers["app"] is existing["app"]
        assert next(iter(headers)) == "app"


@every_way
def test_keep_leaves_a_valid_context_of_the_caller(send: Any) -> None:
    existing = {"traceparent": TRACEPARENT, "tracestate": "a=1", "baggage": "k=%20;p"}

    with TraceContext.use(full_context()):
        assert send(existing, keep=True) == existing
        assert send(existing, keep=True) is not existing


@unrecorded
def test_keep_does_not_keep_what_is_not_valid(send: Any) -> None:
    with TraceContext.use(full_context()) as context:
        headers = send({"traceparent": "nonsense", "tracestate": "a=1"}, keep=True)

    assert context is not None
    assert headers["traceparent"] == context.to_traceparent()
    assert headers["tracestate"] == "congo=t61"


# --- outside of any trace


@every_way
def test_outside_a_trace_every_message_starts_its_own(send: Any) -> None:
    first, second = send(), send()

    roots = [TraceContext.from_traceparent(headers["traceparent"]) for headers in (first, second)]
    assert roots[0].trace_id != roots[1].trace_id
    assert list(first) == ["traceparent"]
    assert TraceContext.get() is None


@every_way
def test_outside_a_trace_a_valid_context_of_the_caller_is_kept_byte_for_byte(send: Any) -> None:
    existing = {"TraceParent": TRACEPARENT, "tracestate": "a=1 ,b=2", "baggage": "k=%20;p", "app": 1}

    assert send(existing) == existing
    assert send(existing) is not existing


@every_way
@pytest.mark.parametrize(
    "traceparent", ["nonsense", None, 7, b"\xff", f"{TRACEPARENT},{TRACEPARENT}"], ids=repr
)
def test_outside_a_trace_an_unusable_context_is_replaced_with_its_state(send: Any, traceparent: Any) -> None:
    headers = send({"traceparent": traceparent, "tracestate": "a=1", "baggage": "k=v"})

    assert TraceContext.from_traceparent(headers["traceparent"]).is_sampled
    assert {name: headers[name] for name in headers if name != "traceparent"} == {"baggage": "k=v"}


@every_way
def test_outside_a_trace_baggage_alone_is_kept_in_a_new_trace(send: Any) -> None:
    headers = send({"baggage": "tenant=acme", "tracestate": "a=1"})

    assert headers["baggage"] == "tenant=acme"
    assert TraceContext.from_traceparent(headers["traceparent"]).is_sampled
    assert "tracestate" not in headers


def test_headers_that_can_be_read_only_once_keep_their_context() -> None:
    """K-17: what is looked at must not be lost or overlooked."""
    kafka_client: Client[Any, kafka.KafkaHeaders] = replace(CLIENT, carrier=kafka.CARRIER)  # type: ignore[arg-type, assignment]
    existing = [("traceparent", TRACEPARENT.encode()), ("app", b"1")]
    for shape in (iter(existing), deque(existing), dict(existing).items()):
        assert Sender(kafka_client, Settings(SendOptions)).headers(shape) == existing


# --- options and bad luck


def test_switched_off_headers_by_hand_are_only_copied() -> None:
    existing = {"traceparent": STALE, "app": 1}

    with TraceContext.use(full_context()):
        assert by_hand(existing, enabled=False) == existing
        assert by_hand(existing, enabled=False) is not existing
        assert by_hand(enabled=False) == {}


@pytest.mark.parametrize("send", [by_wrapper, recorded])
def test_switched_off_the_client_gets_what_the_caller_gave(send: Any) -> None:
    existing = {"traceparent": STALE, "app": 1}

    with TraceContext.use(full_context()):
        assert send(existing, enabled=False) is existing
        assert send(enabled=False) is None


@every_way
def test_another_propagator_writes_its_own_fields_only(send: Any) -> None:
    """P-12: `fields` says which are replaced."""
    with TraceContext.use(full_context()):
        headers = send({"baggage": "theirs=1"}, propagator=W3CTracePropagator())

    assert sorted(headers) == ["baggage", "traceparent", "tracestate"]
    assert headers["baggage"] == "theirs=1"


@every_way
def test_a_propagator_that_fails_sends_the_headers_of_the_caller(
    send: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    existing = {"app": 1, "traceparent": STALE}

    for context in (None, full_context()):
        with TraceContext.use(context):
            assert send(existing, propagator=BrokenPropagator()) == existing
            assert TraceContext.get() is context
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}


@pytest.mark.parametrize("tracer", [BrokenTracer(), BrokenContextTracer()])
def test_a_tracer_that_fails_sends_the_current_context(tracer: Any) -> None:
    with TraceContext.use(full_context()) as context:
        headers = by_wrapper(tracer=tracer)

    assert context is not None
    assert headers["traceparent"] == context.to_traceparent()


def test_a_tracer_that_fails_outside_a_trace_still_starts_one() -> None:
    assert TraceContext.from_traceparent(by_wrapper(tracer=BrokenTracer())["traceparent"]).is_sampled


def test_a_span_that_fails_to_end_fails_no_send() -> None:
    with sender(tracer=BrokenSpanTracer()).publish(None, "orders") as publishing:
        pass
    publishing.end()
    publishing.end_as("rejected")

    assert publishing.is_recorded


@every_way
@pytest.mark.parametrize("wrong", [7, "traceparent", ["traceparent"], [("a", "b")], object()], ids=repr)
def test_what_cannot_be_headers_is_refused_in_one_sentence(send: Any, wrong: object) -> None:
    with pytest.raises(WrongUseError, match=r"^headers must be a mapping .*, got \w+$"):
        send(wrong)


# --- recording


def test_without_a_tracer_nothing_is_recorded() -> None:
    with sender().publish(None, "orders") as publishing:
        assert not publishing.is_recorded


def test_a_recorded_send_is_a_child_of_the_current_span_and_its_id_is_sent() -> None:
    recorder = MemoryRecorder()

    with TraceContext.use(full_context()) as context:
        assert context is not None
        with sender(tracer=recorder).publish(None, "orders") as publishing:
            assert TraceContext.get() is context
            assert list(recorder.spans) == []

    (span,) = recorder.spans
    sent = TraceContext.from_traceparent(publishing.headers["traceparent"])
    assert (span.trace_id, span.span_id) == (sent.trace_id, sent.span_id)
    assert (span.trace_id, span.parent_span_id) == (context.trace_id, context.span_id)
    assert (span.name, span.kind, span.system) == ("send orders", "producer", "post")
    assert (span.destination, span.outcome) == ("orders", "ok")
    assert publishing.headers["tracestate"] == "congo=t61"
    assert publishing.headers["baggage"] == "tenant=acme"


def test_a_recorded_send_outside_a_trace_is_the_root_that_is_sent() -> None:
    recorder = MemoryRecorder()

    with sender(tracer=recorder).publish({"baggage": "a=1"}, "orders", name="create orders") as publishing:
        pass

    (span,) = recorder.spans
    assert publishing.headers["traceparent"] == f"00-{span.trace_id}-{span.span_id}-01"
    assert publishing.headers["baggage"] == "a=1"
    assert (span.parent_span_id, span.name) == (None, "create orders")


def test_a_recorded_send_of_a_carried_context_is_a_child_of_it_and_leaves_it() -> None:
    recorder = MemoryRecorder()

    with sender(tracer=recorder).publish({"traceparent": TRACEPARENT}, "orders") as publishing:
        pass

    (span,) = recorder.spans
    carried = TraceContext.from_traceparent(TRACEPARENT)
    assert publishing.headers == {"traceparent": TRACEPARENT}
    assert publishing.context == carried
    assert (span.trace_id, span.parent_span_id) == (carried.trace_id, carried.span_id)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ConnectionError(), "error"),
        (asyncio.CancelledError(), "cancelled"),
        (KeyboardInterrupt(), "error"),
    ],
    ids=repr,
)
def test_a_send_that_fails_is_recorded_and_raises_its_own_error(error: BaseException, outcome: str) -> None:
    """K-22: the span covers the send itself."""
    recorder = MemoryRecorder()

    with pytest.raises(type(error)) as caught, sender(tracer=recorder).publish(None, "orders"):
        raise error

    assert caught.value is error
    assert [span.outcome for span in recorder.spans] == [outcome]


def test_the_first_word_on_how_a_sending_ended_counts() -> None:
    class CountingSpan:
        def __init__(self, context: TraceContext) -> None:
            self.context = context
            self.outcomes: list[Any] = []

        def end(self, outcome: Any, error: BaseException | None = None) -> None:
            self.outcomes.append(outcome)

    class CountingTracer:
        def __init__(self) -> None:
            self.spans: list[CountingSpan] = []

        def start(self, operation: Any) -> CountingSpan:
            self.spans.append(CountingSpan(operation.context))
            return self.spans[-1]

    tracer = CountingTracer()
    with sender(tracer=tracer).publish(None, "orders") as publishing:
        publishing.end_as("rejected")

    assert [span.outcomes for span in tracer.spans] == [["rejected"]]


class TooLargeError(Exception):
    """A client's refusal."""


class Choosy:
    """A client that refuses headers with names that it does not like, and may break at some attempt."""

    def __init__(self, *disliked: str, breaks_at: int = 9) -> None:
        self._disliked = set(disliked)
        self._breaks_at = breaks_at
        self.attempts: list[list[str]] = []

    def send(self, headers: dict[str, Any]) -> dict[str, Any]:
        self.attempts.append(sorted(headers))
        if len(self.attempts) == self._breaks_at:
            raise ConnectionError
        if self._disliked & headers.keys():
            raise TooLargeError(len(self.attempts))
        return headers

    async def send_async(self, headers: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0)
        return self.send(headers)

    async def send_by(self, way: str) -> dict[str, Any]:
        publishing = sender().publish({"app": 1}, "orders")
        if way == "sync":
            return publishing.send(self.send, self.is_refusal)
        return await publishing.send_async(self.send_async, self.is_refusal)

    @staticmethod
    def is_refusal(error: BaseException) -> bool:
        return isinstance(error, TooLargeError)


ALL = ["app", "baggage", "traceparent", "tracestate"]

sync_and_async = pytest.mark.parametrize("way", ["sync", "async"])


@sync_and_async
@pytest.mark.parametrize(
    ("disliked", "attempts", "warning"),
    [
        ("nothing", [ALL], None),
        ("baggage", [ALL, ["app", "traceparent"]], "trace state and baggage"),
        ("traceparent", [ALL, ["app", "traceparent"], ["app"]], "trace context"),
    ],
)
async def test_what_is_refused_for_its_size_is_sent_with_less(
    way: str, disliked: str, attempts: list[list[str]], warning: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    client = Choosy(disliked)

    with TraceContext.use(full_context()):
        sent = await client.send_by(way)

    assert client.attempts == attempts
    assert sorted(sent) == attempts[-1]
    expected = [f"a message to orders is sent without {warning}, which makes it too large"]
    assert caplog.messages == (expected if warning else [])


@sync_and_async
async def test_a_refusal_of_the_bare_message_is_raised(way: str, caplog: pytest.LogCaptureFixture) -> None:
    client = Choosy("app")

    with TraceContext.use(full_context()), pytest.raises(TooLargeError) as caught:
        await client.send_by(way)

    assert caught.value.args == (3,)
    assert client.attempts[-1] == ["app"]
    assert caplog.messages == []


@sync_and_async
async def test_another_error_of_a_lighter_attempt_tells_of_the_refusal_before_it(way: str) -> None:
    client = Choosy("traceparent", breaks_at=2)

    with TraceContext.use(full_context()), pytest.raises(ConnectionError) as caught:
        await client.send_by(way)

    assert isinstance(caught.value.__context__, TooLargeError)


@sync_and_async
async def test_any_other_error_is_raised_at_once(way: str) -> None:
    client = Choosy("traceparent", breaks_at=1)

    with TraceContext.use(full_context()), pytest.raises(ConnectionError) as caught:
        await client.send_by(way)

    assert (len(client.attempts), caught.value.__context__) == (1, None)


def test_the_outcome_of_a_send_may_be_told_without_an_exception() -> None:
    recorder = MemoryRecorder()
    publishing = sender(tracer=recorder).publish(None, "orders")

    publishing.end_as("rejected")
    publishing.end()

    assert [span.outcome for span in recorder.spans] == ["rejected"]


def test_a_batch_that_is_sent_links_to_what_is_in_it() -> None:
    recorder = MemoryRecorder()
    contexts = (full_context(), full_context())

    with TraceContext.use(full_context()) as context:
        assert context is not None
        with sender(tracer=recorder).publish_batch("orders", contexts):
            pass
    with sender(tracer=recorder).publish_batch("orders", ()):
        pass
    with sender(tracer=recorder, enabled=False).publish_batch("orders", contexts):
        pass

    first, second = recorder.spans
    assert [link.span_id for link in first.links] == [each.span_id for each in contexts]
    assert (first.trace_id, first.parent_span_id) == (context.trace_id, context.span_id)
    assert (second.links, second.parent_span_id) == ((), None)


# --- deliveries that are confirmed later


async def test_without_a_tracer_the_caller_gets_the_client_s_own_future() -> None:
    delivery: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    assert sender().publish(None, "orders").end_with(delivery) is delivery


async def test_a_send_is_recorded_when_its_delivery_is_confirmed() -> None:
    """K-19, K-22: by the future, with nothing current meanwhile."""
    recorder = MemoryRecorder()
    delivery: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    follower = sender(tracer=recorder).publish(None, "orders").end_with(delivery)
    await asyncio.sleep(0)
    assert list(recorder.spans) == []
    delivery.set_result("stored")

    assert await follower == "stored"
    assert [span.outcome for span in recorder.spans] == ["ok"]


async def test_a_delivery_that_fails_raises_the_client_s_own_error() -> None:
    """K-22: also if it fails later."""
    recorder = MemoryRecorder()
    delivery: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    follower = sender(tracer=recorder).publish(None, "orders").end_with(delivery)
    error = ConnectionError("broker is gone")

    delivery.set_exception(error)
    with pytest.raises(ConnectionError) as caught:
        await follower

    assert caught.value is error
    assert [(span.outcome, span.error) for span in recorder.spans] == [("error", "ConnectionError")]


async def test_a_delivery_that_is_cancelled_cancels_what_the_caller_has() -> None:
    recorder = MemoryRecorder()
    delivery: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    follower = sender(tracer=recorder).publish(None, "orders").end_with(delivery)

    delivery.cancel()
    with pytest.raises(asyncio.CancelledError):
        await follower

    assert [span.outcome for span in recorder.spans] == ["cancelled"]


async def test_what_the_caller_cancels_cancels_the_delivery() -> None:
    recorder = MemoryRecorder()
    delivery: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    follower = sender(tracer=recorder).publish(None, "orders").end_with(delivery)

    follower.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert delivery.cancelled()
    assert [span.outcome for span in recorder.spans] == ["cancelled"]


async def test_an_error_that_the_caller_ignores_is_reported_by_asyncio_as_ever() -> None:
    reports: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, report: reports.append(report))
    delivery: asyncio.Future[str] = loop.create_future()
    follower = sender(tracer=MemoryRecorder()).publish(None, "orders").end_with(delivery)
    delivery.set_exception(ConnectionError("broker is gone"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    del delivery, follower
    gc.collect()

    assert [report["message"] for report in reports] == ["Future exception was never retrieved"]


def test_the_baggage_of_the_trace_replaces_that_of_the_headers() -> None:
    with TraceContext.use(TraceContext.new_root(baggage=Baggage({"tenant": "acme"}))):
        assert by_hand({"baggage": "tenant=old,left=over"})["baggage"] == "tenant=acme"


# --- sizes


def length_of(headers: dict[str, Any]) -> int:
    return sum(map(len, headers.values()))


SIZED: Client[Any, dict[str, Any]] = replace(CLIENT, size=length_of, room=60)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_headers_by_hand_fit_into_the_usual_room(caplog: pytest.LogCaptureFixture) -> None:
    with TraceContext.use(full_context()) as context:
        headers = Sender(SIZED, Settings(SendOptions)).headers()

    assert context is not None
    assert headers == {"traceparent": context.to_traceparent()}
    assert len(warnings_of(caplog)) == 1


def test_the_room_of_a_send_counts_more_than_the_usual_one() -> None:
    sized = Sender(SIZED, Settings(SendOptions))
    with TraceContext.use(full_context()):
        assert len(sized.publish(None, "orders", room=1_000).headers) == 3
        assert len(sized.publish(None, "orders").headers) == 1
        assert sized.publish(None, "orders", room=10).headers == {}


def test_a_send_without_any_room_carries_no_context_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    stale = {"app": "1", "TraceParent": STALE}
    with TraceContext.use(full_context()):
        publishing = Sender(SIZED, Settings(SendOptions)).publish(stale, "orders", room=1)

    assert (publishing.headers, publishing.context) == ({"app": "1"}, None)
    assert warnings_of(caplog) == [
        "a message to orders is sent without trace context, which makes it too large"
    ]


def test_a_context_that_the_caller_sends_on_is_not_taken_out() -> None:
    carried = {"traceparent": TRACEPARENT, "baggage": "a=1"}

    assert Sender(SIZED, Settings(SendOptions)).publish(carried, "orders", room=1).headers == carried


def test_a_sender_says_where_it_writes_a_context_at_all() -> None:
    assert sender().writes_to("orders")
    assert not sender(enabled=False).writes_to("orders")
    assert not sender(enabled={"orders": False}).writes_to("shop/orders", ("orders",))
    assert sender(enabled={"orders": False}).writes_to("bills")


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("current", [None, TraceContext.new_root()], ids=["outside", "inside"])
def test_what_a_clock_sends_starts_a_trace(current: TraceContext | None, *, keep: bool) -> None:
    recorder = MemoryRecorder()
    existing = {"traceparent": TRACEPARENT, "tracestate": "a=1", "baggage": "tenant=acme"}

    with (
        TraceContext.use(current),
        sender(keep=keep, tracer=recorder).publish(existing, "ticks", is_scheduled=True) as publishing,
    ):
        pass

    (span,) = recorder.spans
    assert (span.is_scheduled, span.parent_span_id) == (True, None)
    assert span.trace_id not in {TRACEPARENT[3:35], current and current.trace_id}
    assert publishing.headers == {
        "traceparent": f"00-{span.trace_id}-{span.span_id}-01",
        "baggage": "tenant=acme",
    }
    assert existing["traceparent"] == TRACEPARENT


# --- what other tools have written for the message


def test_where_there_is_no_room_the_baggage_of_another_tool_stays() -> None:
    """C-14: it was in the headers before ours came."""
    theirs = {"baggage": "sentry-trace_id=771a43a4", "sentry-trace": "771a43a4-1"}
    roomy, tight = (replace(SIZED, room=room) for room in (100, 50))

    with TraceContext.use(full_context()) as context:
        assert context is not None
        lighter = Sender(roomy, Settings(SendOptions)).headers(theirs)
        lightest = Sender(tight, Settings(SendOptions)).headers(theirs)

    assert lighter == {**theirs, "traceparent": context.to_traceparent()}
    assert lightest == theirs


def test_another_format_leaves_the_baggage_of_another_tool_alone() -> None:
    theirs = {"baggage": "sentry-trace_id=771a43a4,user=7"}

    with TraceContext.use(full_context()):
        headers = by_hand(theirs, propagator=W3CTracePropagator())

    assert headers["baggage"] == theirs["baggage"]


def test_a_retry_keeps_the_baggage_of_another_tool() -> None:
    """C-14: and nothing else of a baggage that was there."""
    existing = {"baggage": "sentry-trace_id=771a43a4,old=1"}

    with TraceContext.use(full_context()):
        headers = sender().retry_headers(existing, 1, ())

    assert headers["baggage"] == "tenant=acme,sentry-trace_id=771a43a4"


@pytest.mark.parametrize("baggage", [b"\xff\xfe", 7, None, "sentry-", "sentry-a", "=sentry-a"])
def test_what_only_looks_like_the_baggage_of_another_tool_is_replaced(baggage: object) -> None:
    with TraceContext.use(full_context()):
        assert by_hand({"baggage": baggage})["baggage"] == "tenant=acme"


def test_of_several_baggage_headers_the_members_of_another_tool_stay_in_one() -> None:
    """C-14: in Kafka a header may be there more than once, and the others keep their order and bytes."""
    existing = [("baggage", b"old=1,sentry-a=1"), ("app", b"\xff"), ("Baggage", b"sentry-b=2"), ("app", b"2")]
    carrier: Any = kafka.CARRIER

    with TraceContext.use(full_context()):
        headers: Any = Sender(replace(CLIENT, carrier=carrier), Settings(SendOptions)).headers(existing)

    assert [header for header in headers if header[0] == "app"] == [("app", b"\xff"), ("app", b"2")]
    assert [value for name, value in headers if name.lower() == "baggage"] == [
        b"tenant=acme,sentry-a=1,sentry-b=2"
    ]
