"""Spans become traces, whatever they say of their parents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.spans import START, line_of, span_id
from spakky.tracing.cli.view.record import span_of
from spakky.tracing.cli.view.traces import DrawnSpan, Trace, traces_of
from spakky.tracing.context import TraceContext
from spakky.tracing.recorder import MemoryRecorder
from spakky.tracing.tracer import Operation

if TYPE_CHECKING:
    from collections.abc import Iterable


def span(number: int, parent: int | None = None, **changes: object) -> DrawnSpan:
    return span_of(line_of(number, parent, **changes))


def outline(trace: Trace) -> list[tuple[int, int]]:
    """Return the depths and the numbers of the spans, as they are walked."""
    return [(depth, int(node.span.span_id, 16)) for depth, node in trace.walk()]


def only(spans: Iterable[DrawnSpan]) -> Trace:
    (trace,) = traces_of(spans)
    return trace


def orphans(trace: Trace) -> list[tuple[int, bool]]:
    return [(int(n.span.span_id, 16), n.is_circular) for _, n in trace.walk() if n.is_orphan]


def test_children_are_below_their_parents_in_the_order_in_which_they_started() -> None:
    trace = only([span(5, 1), span(3, 2), span(4, 2), span(2, 1), span(1)])

    assert outline(trace) == [(0, 1), (1, 2), (2, 3), (2, 4), (1, 5)]
    assert orphans(trace) == []


def test_a_span_whose_parent_is_not_there_is_an_orphan_at_the_top() -> None:
    trace = only([span(2), span(3, 9), span(4, 3)])

    assert outline(trace) == [(0, 2), (0, 3), (1, 4)]
    assert orphans(trace) == [(3, False)]


def test_a_span_that_is_there_twice_counts_once_the_last_one() -> None:
    trace = only([span(1), span(2, 1, name="first"), span(2, 1, name="last")])

    assert [(s.span_id, s.name) for s in trace.spans] == [
        (span_id(1), "process orders"),
        (span_id(2), "last"),
    ]


def test_a_span_that_is_its_own_parent_stands_at_the_top() -> None:
    trace = only([span(1, 1), span(2, 1)])

    assert outline(trace) == [(0, 1), (1, 2)]
    assert orphans(trace) == [(1, True)]


def test_a_circle_is_broken_up_where_its_first_span_started() -> None:
    trace = only([span(2, 4), span(3, 2), span(4, 3)])

    assert outline(trace) == [(0, 2), (1, 3), (2, 4)]
    assert orphans(trace) == [(2, True)]


def test_what_hangs_below_a_circle_stays_there_even_if_it_started_first() -> None:
    trace = only([span(1, 3), span(2, 3), span(3, 2)])

    assert outline(trace) == [(0, 2), (1, 3), (2, 1)]
    assert orphans(trace) == [(2, True)]


def test_several_circles_beside_a_root_lose_no_span() -> None:
    trace = only([span(1), span(2, 3), span(3, 2), span(4, 5), span(5, 4), span(6, 1)])

    assert outline(trace) == [(0, 1), (1, 6), (0, 2), (1, 3), (0, 4), (1, 5)]


def test_a_chain_of_50_000_spans_is_walked_and_thrown_away() -> None:
    trace = only(span(number, number - 1 or None) for number in range(1, 50_001))

    assert outline(trace) == [(number - 1, number) for number in range(1, 50_001)]
    assert "Node(" in repr(trace)


def test_a_circle_of_50_000_spans_is_broken_up_once() -> None:
    trace = only(span(number, number - 1 or 50_000) for number in range(1, 50_001))

    assert outline(trace)[-1] == (49_999, 50_000)


def test_traces_are_in_the_order_in_which_their_first_messages_were_sent() -> None:
    late = span(1, trace_id="a" * 32)
    early = span(2, trace_id="b" * 32, queue_time_nano=5_000_000)
    traces = traces_of([late, early])

    assert [trace.trace_id for trace in traces] == ["b" * 32, "a" * 32]
    assert (traces[0].start_unix_nano, traces[0].end_unix_nano) == (START - 3_000_000, START + 3_000_000)


def test_an_id_in_two_traces_is_two_spans() -> None:
    assert [outline(trace) for trace in traces_of([span(1), span(1, trace_id="b" * 32)])] == [[(0, 1)]] * 2


def test_a_trace_has_failed_if_one_of_its_spans_has() -> None:
    assert only([span(1), span(2, 1, outcome="rejected")]).has_failed
    assert not only([span(1), span(2, 1, outcome="retry")]).has_failed


def test_without_spans_there_is_no_trace() -> None:
    assert traces_of([]) == []


def test_a_recorded_span_is_drawn_with_all_its_fields() -> None:
    recorder = MemoryRecorder(process="shop")
    context = TraceContext.new_root()
    operation = Operation(
        name="process orders",
        kind="consumer",
        system="kafka",
        destination="orders",
        context=context,
        links=(context,),
        attempt=2,
        death_count=1,
        is_redelivered=True,
        sent_unix_nano=START,
        is_scheduled=True,
    )
    recorder.start(operation).end("error", ValueError())
    (recorded,) = recorder.spans

    drawn = DrawnSpan.of(recorded)

    assert all(getattr(recorded, name) == getattr(drawn, name) for name in recorded.__slots__)
