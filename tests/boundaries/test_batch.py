"""Messages that arrive together are one processing that links to all their senders."""

from __future__ import annotations

from typing import Any

import pytest

from boundaries.parcels import BrokenPropagator, Parcel, full_context, parcel_from, receiver
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.recorder import MemoryRecorder, SpanLink


def span_ids(links: tuple[TraceContext, ...]) -> list[str]:
    return [link.span_id for link in links]


def test_a_batch_is_a_new_trace_that_links_to_every_sender() -> None:
    """K-15, K-31: by what each message carries."""
    senders = [full_context() for _ in range(3)]

    with receiver().process_batch(map(parcel_from, senders)) as processing:
        context = TraceContext.get()

    assert context is not None
    assert processing.context is context
    assert context.parent_span_id is None
    assert context.trace_id not in {sender.trace_id for sender in senders}
    assert span_ids(processing.links) == [sender.span_id for sender in senders]
    assert TraceContext.get() is None


def test_a_batch_inside_of_a_trace_is_a_child_of_what_is_current() -> None:
    sender = full_context()

    with TraceContext.use(full_context()) as current:
        with receiver().process_batch([parcel_from(sender)]) as processing:
            context = TraceContext.get()
        assert TraceContext.get() is current

    assert current is not None
    assert context is not None
    assert (context.trace_id, context.parent_span_id) == (current.trace_id, current.span_id)
    assert context.baggage == current.baggage
    assert span_ids(processing.links) == [sender.span_id]


def test_a_sender_of_several_messages_is_linked_once() -> None:
    first, second = full_context(), full_context()
    batch = [parcel_from(each) for each in (first, second, first, second, first)]

    with receiver().process_batch(batch) as processing:
        assert span_ids(processing.links) == [first.span_id, second.span_id]


def test_spans_of_one_trace_are_linked_each() -> None:
    root = full_context()
    children = [root.child(), root.child()]

    with receiver().process_batch(map(parcel_from, children)) as processing:
        assert span_ids(processing.links) == [child.span_id for child in children]


def test_what_has_no_usable_context_is_not_linked() -> None:
    """K-05: and the batch is whole."""
    sender = full_context()
    junk = [Parcel(None), Parcel(7), Parcel({"traceparent": "nonsense"}), Parcel({"baggage": "a=1"})]

    with receiver().process_batch([*junk, parcel_from(sender)]) as processing:
        assert span_ids(processing.links) == [sender.span_id]
    with receiver().process_batch(junk) as processing:
        assert processing.links == ()
        assert processing.context is not None


def test_a_batch_has_no_baggage_of_its_senders() -> None:
    with receiver().process_batch([parcel_from(full_context())]) as processing:
        assert processing.context is not None
        assert not processing.context.baggage


def test_the_context_of_each_message_is_to_be_had() -> None:
    """K-15: one by one."""
    senders = [full_context() for _ in range(3)]
    batch = [*map(parcel_from, senders), Parcel()]

    with receiver().process_batch(batch) as processing:
        contexts = [processing.context_of(parcel) for parcel in batch]
        current = TraceContext.get()
        for parcel in batch:
            with receiver().process(parcel):
                pass
        assert TraceContext.get() is current is processing.context

    found = [context.to_traceparent() if context else None for context in contexts]
    assert found == [*(sender.to_traceparent() for sender in senders), None]


def test_a_link_is_a_new_trace_also_inside_of_one() -> None:
    sender = full_context()

    with (
        TraceContext.use(full_context()) as current,
        receiver(relation="link").process_batch([parcel_from(sender)]) as processing,
    ):
        assert current is not None
        assert processing.context is not None
        assert processing.context.trace_id not in {current.trace_id, sender.trace_id}
        assert span_ids(processing.links) == [sender.span_id]


def test_a_root_ignores_the_senders_and_what_is_current() -> None:
    sender = full_context()

    with (
        TraceContext.use(full_context()) as current,
        receiver(relation="root").process_batch([parcel_from(sender)]) as processing,
    ):
        assert current is not None
        assert processing.context is not None
        assert processing.context.trace_id not in {current.trace_id, sender.trace_id}
        assert processing.links == ()


@pytest.mark.parametrize("current", [None, full_context()], ids=["outside", "inside"])
def test_an_empty_batch_changes_nothing_and_is_not_recorded(current: TraceContext | None) -> None:
    """K-33: a poll that returns nothing."""
    recorder = MemoryRecorder()

    with TraceContext.use(current):
        with receiver(tracer=recorder).process_batch([]) as processing:
            assert TraceContext.get() is current
        assert TraceContext.get() is current

    assert (processing.context, processing.links) == (None, ())
    assert not recorder.spans


def test_switched_off_what_is_current_stays_so() -> None:
    parcel = parcel_from(full_context())

    with (
        TraceContext.use(full_context()) as current,
        receiver(enabled=False).process_batch([parcel]) as processing,
    ):
        assert TraceContext.get() is current
        assert (processing.context, processing.links) == (None, ())
        assert processing.context_of(parcel) is None


def test_a_propagator_that_fails_fails_no_batch() -> None:
    batch = [parcel_from(full_context())]

    with receiver(propagator=BrokenPropagator()).process_batch(batch) as processing:
        assert processing.context is not None
        assert processing.links == ()
    assert TraceContext.get() is None


def test_a_batch_is_recorded_once_with_its_links() -> None:
    recorder, first, second = MemoryRecorder(), full_context(), full_context()

    with (
        TraceContext.use(full_context()) as current,
        receiver(tracer=recorder).process_batch(map(parcel_from, [first, second, first])),
    ):
        pass

    (span,) = recorder.spans
    assert current is not None
    assert span.parent_span_id == current.span_id
    assert span.links == tuple(SpanLink(each.trace_id, each.span_id) for each in (first, second))
    assert (span.name, span.outcome) == ("process orders", "ok")


def test_a_batch_that_fails_is_recorded_and_raises_its_own_error() -> None:
    recorder = MemoryRecorder()

    with (
        pytest.raises(ZeroDivisionError),
        receiver(tracer=recorder).process_batch([parcel_from(full_context())]),
    ):
        _ = 1 / 0

    assert [(span.outcome, span.error) for span in recorder.spans] == [("error", "ZeroDivisionError")]
    assert TraceContext.get() is None


@pytest.mark.parametrize("wrong", [[7], [Parcel(), None], [[Parcel()]]], ids=repr)
def test_what_are_no_messages_is_refused_in_one_sentence(wrong: Any) -> None:
    with pytest.raises(WrongUseError, match=r"^this takes a received Parcel, got \w+$"):
        receiver().process_batch(wrong)


@pytest.mark.parametrize("wrong", [None, 7, "parcels", b"parcels", Parcel(), {"a": Parcel()}], ids=repr)
def test_what_is_no_batch_is_refused_in_one_sentence(wrong: Any) -> None:
    with pytest.raises(WrongUseError, match=r"^this takes a list of received Parcel, got \w+$"):
        receiver().process_batch(wrong)


def test_the_context_of_what_is_no_message_is_refused() -> None:
    wrong: Any = 7
    with receiver().process_batch([Parcel()]) as processing, pytest.raises(WrongUseError, match="got int"):
        processing.context_of(wrong)
