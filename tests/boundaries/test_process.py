"""A message arrives: which context is current while it is processed, for any client library."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from boundaries.parcels import (
    CLIENT,
    TRACEPARENT,
    BrokenContextTracer,
    BrokenPropagator,
    BrokenSpanTracer,
    BrokenTracer,
    Parcel,
    full_context,
    parcel_from,
    receiver,
)
from spakky.tracing.baggage import Baggage
from spakky.tracing.boundaries.options import ReceiveOptions, Settings
from spakky.tracing.boundaries.process import Receiver
from spakky.tracing.carriers import Delivery
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.recorder import MemoryRecorder, SpanLink
from spakky.tracing.w3c_propagator import W3CTracePropagator

if TYPE_CHECKING:
    from spakky.tracing.boundaries.client import Client

UNUSABLE = [
    pytest.param(None, id="none"),
    pytest.param({}, id="empty"),
    pytest.param({"traceparent": "nonsense", "tracestate": "a=1"}, id="malformed"),
    pytest.param({"traceparent": 7}, id="number"),
    pytest.param({"traceparent": b"\xff"}, id="no-text"),
    pytest.param({"tracestate": "a=1"}, id="trace-state-alone"),
    pytest.param(7, id="headers-are-a-number"),
    pytest.param([("traceparent", TRACEPARENT)], id="headers-are-a-list"),
    pytest.param({7: 7, None: None, "traceparent": object()}, id="junk"),
]

relations = pytest.mark.parametrize("relation", ["child", "link", "root"])


def seen(parcel: Parcel, **options: Any) -> TraceContext:
    with receiver(**options).process(parcel) as processing:
        context = TraceContext.get()
    assert context is not None
    assert processing.context == context
    return context


# --- relations


def test_the_trace_is_continued_in_a_new_span() -> None:
    """K-09, K-10: with trace state and baggage."""
    sent = full_context()

    context = seen(parcel_from(sent))

    assert (context.trace_id, context.parent_span_id) == (sent.trace_id, sent.span_id)
    assert context.span_id != sent.span_id
    assert (context.trace_state, context.baggage) == (sent.trace_state, sent.baggage)
    assert not context.is_remote


def test_a_link_is_a_new_trace_that_keeps_the_baggage() -> None:
    """K-11: the other answer to the same question."""
    sent = full_context()

    with receiver(relation="link").process(parcel_from(sent)) as processing:
        context = TraceContext.get()

    assert context is not None
    assert context.trace_id != sent.trace_id
    assert context.parent_span_id is None
    assert not context.trace_state
    assert context.baggage == sent.baggage
    assert [link.to_traceparent() for link in processing.links] == [sent.to_traceparent()]


def test_a_root_ignores_the_sender_and_its_baggage() -> None:
    sent = full_context()

    with receiver(relation="root").process(parcel_from(sent)) as processing:
        context = TraceContext.get()

    assert context is not None
    assert context.trace_id != sent.trace_id
    assert (context.parent_span_id, processing.links) == (None, ())
    assert not context.trace_state
    assert not context.baggage


@relations
@pytest.mark.parametrize("headers", UNUSABLE)
def test_without_a_usable_context_a_new_trace_starts(relation: Any, headers: Any) -> None:
    """K-07, P-04: also inside of another trace."""
    with TraceContext.use(full_context()) as ambient:
        context = seen(Parcel(headers), relation=relation)
        assert TraceContext.get() is ambient

    assert ambient is not None
    assert context.trace_id != ambient.trace_id
    assert (context.parent_span_id, context.is_remote) == (None, False)
    assert not context.trace_state
    assert not context.baggage


@pytest.mark.parametrize("relation", ["child", "link"])
def test_baggage_without_a_context_is_kept_in_the_new_trace(relation: Any) -> None:
    """K-10, P-13: for both relations."""
    context = seen(Parcel({"baggage": "tenant=acme"}), relation=relation)

    assert context.parent_span_id is None
    assert context.baggage == Baggage({"tenant": "acme"})


@relations
def test_what_is_current_where_the_message_is_delivered_is_not_its_parent(relation: Any) -> None:
    """P-04: nor does its baggage get in."""
    sent = full_context()

    with TraceContext.use(full_context()) as ambient:
        context = seen(parcel_from(sent), relation=relation)

    assert ambient is not None
    assert context.trace_id != ambient.trace_id
    assert context.baggage == (Baggage() if relation == "root" else sent.baggage)


def test_each_attempt_is_a_span_of_its_own_in_the_same_trace() -> None:
    sent = full_context()
    parcel = parcel_from(sent)

    attempts = [seen(parcel) for _ in range(3)]

    assert {attempt.parent_span_id for attempt in attempts} == {sent.span_id}
    assert len({attempt.span_id for attempt in attempts}) == 3


def test_a_sender_that_is_told_goes_before_the_headers() -> None:
    caller = full_context()

    with receiver().process(parcel_from(full_context()), sender=caller) as processing:
        assert processing.context is not None
        assert processing.context.parent_span_id == caller.span_id


# --- what was there before is back


@relations
def test_what_was_current_before_is_so_again(relation: Any) -> None:
    with TraceContext.use(full_context()) as before:
        with receiver(relation=relation).process(parcel_from(full_context())):
            assert TraceContext.get() is not before
        assert TraceContext.get() is before

        with pytest.raises(ZeroDivisionError), receiver(relation=relation).process(Parcel()):
            _ = 1 / 0
        assert TraceContext.get() is before

        with receiver(relation=relation).process(Parcel()):
            TraceContext.set(full_context())
        assert TraceContext.get() is before


async def test_what_was_current_before_is_so_again_after_a_cancellation() -> None:
    states: list[TraceContext | None] = []
    before = full_context()

    async def work() -> None:
        with TraceContext.use(before):
            try:
                with receiver().process(Parcel()):
                    await asyncio.Event().wait()
            finally:
                states.append(TraceContext.get())

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert states == [before]


def test_a_processing_may_be_closed_by_another_thread() -> None:
    """K-14, P-09: a thread is a Context of its own."""
    with TraceContext.use(full_context()) as before:
        processing = receiver().process(Parcel()).open()
        with ThreadPoolExecutor(1) as threads:
            threads.submit(processing.close, "ok").result()
        assert TraceContext.get() is before


def test_a_processing_that_is_open_is_not_opened_again() -> None:
    processing = receiver().process(Parcel())

    with processing, pytest.raises(WrongUseError, match="is being processed already: call process"):
        processing.open()
    with processing as again:
        assert TraceContext.get() is again.context
    assert TraceContext.get() is None


def test_closing_what_was_never_opened_does_nothing() -> None:
    recorder = MemoryRecorder()
    with TraceContext.use(full_context()) as before:
        receiver(tracer=recorder).process(Parcel()).close("ok")
        assert TraceContext.get() is before
    assert not recorder.spans


def test_nothing_is_current_before_the_block_starts() -> None:
    processing = receiver().process(parcel_from(full_context()))

    assert TraceContext.get() is None
    assert (processing.context, processing.links) == (None, ())


# --- options and bad luck


def test_switched_off_what_is_current_stays_so() -> None:
    off = receiver(enabled=False)
    with TraceContext.use(full_context()) as before:
        with off.process(parcel_from(full_context())) as processing:
            assert TraceContext.get() is before
        assert processing.context is None
        assert TraceContext.get() is before
    assert off.context_from(parcel_from(full_context())) is None


def test_another_propagator_reads_its_own_fields_only() -> None:
    """P-12: whatever other fields there are."""
    sent = full_context()

    context = seen(parcel_from(sent), propagator=W3CTracePropagator())

    assert context.parent_span_id == sent.span_id
    assert not context.baggage


@relations
def test_a_propagator_that_fails_fails_no_message(relation: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    parcel = parcel_from(full_context())
    runs = 0

    with TraceContext.use(full_context()) as before:
        with receiver(relation=relation, propagator=BrokenPropagator()).process(parcel) as processing:
            runs += 1
            assert processing.context is not None
            assert processing.context.parent_span_id is None
        assert TraceContext.get() is before

    assert runs == 1
    assert {record.levelno for record in caplog.records} <= {logging.DEBUG}


@pytest.mark.parametrize("tracer", [BrokenTracer(), BrokenSpanTracer(), BrokenContextTracer()])
def test_a_tracer_that_fails_fails_no_message(tracer: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    sent = full_context()

    context = seen(parcel_from(sent), tracer=tracer)

    assert context.parent_span_id == sent.span_id
    assert TraceContext.get() is None
    assert [record.levelno for record in caplog.records] == [logging.DEBUG]


def _fail(parcel: Parcel) -> NoReturn:
    message = f"the client cannot read {parcel}"
    raise RuntimeError(message)


def test_headers_that_the_client_cannot_read_fail_no_message() -> None:
    broken = Receiver(replace(CLIENT, headers=_fail), Settings(ReceiveOptions))

    with broken.process(Parcel()) as processing:
        assert processing.context is not None
        assert processing.context.parent_span_id is None
    assert broken.context_from(Parcel()) is None


@pytest.mark.parametrize(
    "client",
    [
        pytest.param(replace(CLIENT, name=_fail), id="name"),
        pytest.param(replace(CLIENT, destination=_fail), id="destination"),
    ],
)
def test_a_description_that_fails_fails_no_message(client: Client[Parcel, Any]) -> None:
    recorder, sent = MemoryRecorder(), full_context()
    broken = Receiver(client, Settings(ReceiveOptions, {"tracer": recorder}))

    with broken.process(parcel_from(sent)) as processing:
        assert processing.context is not None
        assert processing.context.parent_span_id == sent.span_id
    assert not recorder.spans


@pytest.mark.parametrize("wrong", [None, 7, "parcel", {}, Parcel, [Parcel()]], ids=repr)
def test_what_is_no_message_is_refused_in_one_sentence(wrong: Any) -> None:
    for verb in (receiver().process, receiver().context_from, receiver(enabled=False).process):
        with pytest.raises(WrongUseError, match=r"^this takes a received Parcel, got \w+$"):
            verb(wrong)


# --- looking only


def test_the_context_of_a_message_is_read_without_making_it_current() -> None:
    sent = full_context()

    context = receiver().context_from(parcel_from(sent))

    assert TraceContext.get() is None
    assert context is not None
    assert context.to_traceparent() == sent.to_traceparent()
    assert context.baggage == sent.baggage
    assert context.is_remote


@pytest.mark.parametrize("headers", UNUSABLE)
def test_a_message_without_a_usable_context_has_none(headers: Any) -> None:
    assert receiver().context_from(Parcel(headers)) is None


# --- recording


def test_without_a_tracer_nothing_is_recorded_and_with_one_everything_is_said() -> None:
    recorder, sent = MemoryRecorder(), full_context()

    with receiver(tracer=recorder).process(replace(parcel_from(sent), attempt=2)) as processing:
        assert not recorder.spans

    (span,) = recorder.spans
    assert processing.context is not None
    assert (span.trace_id, span.span_id) == (sent.trace_id, processing.context.span_id)
    assert (span.parent_span_id, span.links) == (sent.span_id, ())
    assert (span.name, span.kind, span.system, span.destination) == (
        "process orders",
        "consumer",
        "post",
        "orders",
    )
    assert (span.outcome, span.error, span.attempt) == ("ok", None, 2)


def test_a_client_library_that_serves_several_systems_tells_which_one_a_message_came_by() -> None:
    recorder = MemoryRecorder()
    client = replace(CLIENT, message_system=lambda parcel: f"{parcel.queue} post")

    with Receiver(client, Settings(ReceiveOptions, {"tracer": recorder})).process(Parcel(queue="night")):
        pass

    assert [span.system for span in recorder.spans] == ["night post"]


def test_a_recorded_link_names_the_sender() -> None:
    recorder, sent = MemoryRecorder(), full_context()

    with receiver(tracer=recorder, relation="link").process(parcel_from(sent)):
        pass

    (span,) = recorder.spans
    assert span.parent_span_id is None
    assert span.links == (SpanLink(sent.trace_id, sent.span_id),)


def test_a_recorded_root_names_nobody() -> None:
    recorder = MemoryRecorder()

    with receiver(tracer=recorder, relation="root").process(parcel_from(full_context())):
        pass
    with receiver(tracer=recorder).process(Parcel()):
        pass

    assert [(span.parent_span_id, span.links) for span in recorder.spans] == [(None, ())] * 2


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(ValueError("x"), "error"), (asyncio.CancelledError(), "cancelled"), (SystemExit(), "error")],
    ids=repr,
)
def test_the_outcome_is_told_from_the_exception(error: BaseException, outcome: str) -> None:
    recorder = MemoryRecorder()

    with pytest.raises(type(error)) as caught, receiver(tracer=recorder).process(Parcel()):
        raise error

    assert caught.value is error
    assert [span.outcome for span in recorder.spans] == [outcome]


def test_a_processing_is_recorded_once() -> None:
    recorder = MemoryRecorder()

    with receiver(tracer=recorder).process(Parcel()) as processing:
        processing.close("ignored")

    assert [span.outcome for span in recorder.spans] == ["ignored"]


def test_a_tracer_may_give_the_processing_ids_of_its_own() -> None:
    given = full_context()

    class Span:
        context = given

        def end(self, outcome: str, error: BaseException | None = None) -> None:
            assert (outcome, error) == ("ok", None)

    class Tracer:
        def start(self, operation: object) -> Span:
            assert operation
            return Span()

    with receiver(tracer=Tracer()).process(Parcel()) as processing:
        assert TraceContext.get() is processing.context is given


# --- its way


def sent_again(**way: Any) -> Receiver[Parcel]:
    client: Client[Parcel, Any] = replace(CLIENT, delivery=lambda parcel: Delivery(**way))
    return Receiver(client, Settings(ReceiveOptions))


def test_what_follows_a_failure_continues_the_trace_and_links_to_the_failed_attempt() -> None:
    failed = full_context()

    with sent_again(follows_failure=True).process(parcel_from(failed)) as processing:
        assert processing.context is not None
        assert processing.context.parent_span_id == failed.span_id

    assert [link.span_id for link in processing.links] == [failed.span_id]


def test_a_way_that_cannot_be_read_fails_no_message() -> None:
    recorder, sent = MemoryRecorder(), full_context()
    broken = Receiver(replace(CLIENT, delivery=_fail), Settings(ReceiveOptions, {"tracer": recorder}))

    with broken.process(parcel_from(sent)) as processing:
        assert processing.context is not None

    (span,) = recorder.spans
    assert (span.parent_span_id, span.attempt, span.links) == (sent.span_id, None, ())


def test_a_source_that_cannot_be_read_fails_no_message() -> None:
    options = {"relation": {"orders": "root"}, "enabled": {"orders": False}}
    broken = Receiver(replace(CLIENT, names=_fail), Settings(ReceiveOptions, options))
    sent = full_context()

    with broken.process(parcel_from(sent)) as processing:
        assert processing.context is not None
        assert processing.context.parent_span_id == sent.span_id


def test_what_cannot_be_told_from_an_event_is_handled_without_context() -> None:
    broken = Receiver(replace(CLIENT, is_record=_fail), Settings(ReceiveOptions))

    with broken.process(parcel_from(full_context())) as processing:
        assert TraceContext.get() is processing.context is None


def test_the_queue_that_a_receiver_is_told_of_counts_first() -> None:
    settings = Settings(ReceiveOptions, {"relation": {"work": "root"}})

    with Receiver(CLIENT, settings).of("work").process(parcel_from(full_context())) as processing:
        assert processing.context is not None
        assert processing.context.parent_span_id is None


def test_an_event_in_place_of_a_message_changes_nothing() -> None:
    recorder = MemoryRecorder()
    client: Client[Parcel, Any] = replace(CLIENT, is_record=lambda parcel: False)
    receiver = Receiver(client, Settings(ReceiveOptions, {"tracer": recorder}))
    parcel = parcel_from(full_context())

    with receiver.process(parcel) as processing, receiver.process_batch([parcel]) as batch:
        assert TraceContext.get() is None

    assert (processing.context, batch.context, batch.links) == (None, None, ())
    assert receiver.context_from(parcel) is None
    assert not recorder.spans


# --- what others know of a processing already


def test_ids_that_are_known_already_become_those_of_the_child() -> None:
    ids = TraceContext.new_root()

    with receiver().process(parcel_from(sender := full_context()), ids=ids) as processing:
        current = TraceContext.get()

    assert current is not None
    assert (current.trace_id, current.span_id) == (sender.trace_id, ids.span_id)
    assert current.parent_span_id == sender.span_id
    assert current.baggage == sender.baggage
    assert processing.context is current


@pytest.mark.parametrize(("relation", "baggage"), [("link", {"tenant": "acme"}), ("root", {})])
def test_ids_that_are_known_already_become_those_of_a_new_trace(relation: Any, baggage: Any) -> None:
    ids = TraceContext.new_root(baggage=Baggage({"not": "asked for"}))

    with receiver(relation=relation).process(parcel_from(full_context()), ids=ids):
        current = TraceContext.get()

    assert current is not None
    assert (current.trace_id, current.span_id, current.parent_span_id) == (ids.trace_id, ids.span_id, None)
    assert dict(current.baggage) == baggage


def test_a_message_without_context_gets_the_ids_that_are_known_already() -> None:
    ids = TraceContext.new_root()

    with receiver().process(Parcel({"baggage": "tenant=acme"}), ids=ids):
        current = TraceContext.get()

    assert current is not None
    assert (current.trace_id, current.span_id) == (ids.trace_id, ids.span_id)
    assert dict(current.baggage) == {"tenant": "acme"}


@relations
def test_the_context_of_a_block_can_be_expected_without_making_it_current(relation: Any) -> None:
    ids, parcel = TraceContext.new_root(), parcel_from(full_context())
    expected = receiver(relation=relation).process(parcel, ids=ids).expected_context()

    assert TraceContext.get() is None
    with receiver(relation=relation).process(parcel, ids=ids) as processing:
        assert processing.context == expected


def test_switched_off_no_context_is_to_be_expected() -> None:
    assert receiver(enabled=False).process(parcel_from(full_context())).expected_context() is None


@pytest.mark.parametrize("headers", [{}, {"traceparent": TRACEPARENT}], ids=["without", "with sender"])
@relations
def test_further_links_are_recorded_besides_the_sender_but_a_root_has_none(
    relation: Any, headers: dict[str, str]
) -> None:
    recorder, further = MemoryRecorder(), (TraceContext.new_root(), TraceContext.new_root())

    with receiver(relation=relation, tracer=recorder).process(Parcel(headers), links=further) as processing:
        links = processing.links

    senders = (TraceContext.from_traceparent(TRACEPARENT),) if headers and relation == "link" else ()
    assert links == (() if relation == "root" else (*senders, *further))
    (span,) = recorder.spans
    assert span.links == tuple(SpanLink(link.trace_id, link.span_id) for link in links)


def test_a_processing_tells_whether_it_is_recorded() -> None:
    with receiver(tracer=MemoryRecorder()).process(Parcel()) as recorded:
        assert recorded.is_recorded
    with receiver().process(Parcel()) as bare:
        assert not bare.is_recorded


def test_a_run_that_a_clock_started_is_recorded_as_such() -> None:
    client = replace(CLIENT, delivery=lambda _: Delivery(is_scheduled=True))
    recorder = MemoryRecorder()

    with Receiver(client, Settings(ReceiveOptions, {"tracer": recorder})).process(Parcel()):
        pass

    assert [span.is_scheduled for span in recorder.spans] == [True]
