"""What can be said of recorded spans, and what is told when it does not hold."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from testing.shop import SHOP, process, send

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spakky.tracing.testing import Traces


@contextmanager
def failing(*lines: str) -> Iterator[None]:
    """Expect a failure of these *lines*, in which `ID` stands for a trace id, `SPAN` for a span id."""
    with pytest.raises(AssertionError) as caught:
        yield
    said = re.sub(r"\b[0-9a-f]{32}\b", "ID", str(caught.value))
    said = re.sub(r"\b[0-9a-f]{16}\b", "SPAN", said).replace(f"({os.getpid()})", "(PID)")
    assert said.splitlines() == list(lines)


def test_spans_are_found_by_name_destination_and_filters(traces: Traces) -> None:
    process(send())
    process(send("paid"))

    assert [span.name for span in traces.spans] == [
        "send orders",
        "process orders",
        "send paid",
        "process paid",
    ]
    assert traces.span("process orders").kind == "consumer"
    assert [span.name for span in traces.of("orders")] == ["send orders", "process orders"]
    assert [span.name for span in traces.of("process *")] == ["process orders", "process paid"]
    assert traces.span("orders", kind="producer").name == "send orders"
    assert len(traces.of(process="test", system="shop", outcome="ok")) == 4
    assert traces.span(traces.spans[0]) == traces.spans[0]
    assert list(traces.of("paid", "send orders")) == [*traces.spans[2:], traces.spans[0]]


def test_what_is_not_found_is_told_with_what_there_was(traces: Traces) -> None:
    process(send(attempt="2"))
    with failing(
        "no recorded span is 'process order' by its name or destination; recorded were:",
        "  'send orders'     producer  'orders'  in 'test' (PID)  ok             trace ID",
        "  'process orders'  consumer  'orders'  in 'test' (PID)  ok  attempt 2  trace ID",
    ):
        traces.span("process order")
    with failing(
        "no recorded span is 'orders' by its name or destination and has process 'worker.py'; recorded were:",
        "  'send orders'     producer  'orders'  in 'test' (PID)  ok             trace ID",
        "  'process orders'  consumer  'orders'  in 'test' (PID)  ok  attempt 2  trace ID",
    ):
        traces.of("orders", process="worker.py")


def test_one_span_is_one(traces: Traces) -> None:
    process(send())
    with failing(
        "one span was expected that is 'orders' by its name or destination, but there are 2:",
        "  'send orders'     producer  'orders'  in 'test' (PID)  ok  trace ID",
        "  'process orders'  consumer  'orders'  in 'test' (PID)  ok  trace ID",
    ):
        traces.span("orders")


def test_a_filter_that_does_not_exist_is_refused(traces: Traces) -> None:
    with pytest.raises(
        WrongUseError, match="there is no filter 'topic' here; the filters are attempt, destin"
    ):
        traces.of(topic="orders")  # type: ignore[call-arg]


def test_that_nothing_is_there_can_be_said(traces: Traces) -> None:
    traces.must_have_no()
    send()
    traces.must_have_no("process orders")
    traces.must_have_no(kind="consumer")
    with failing(
        "no recorded span was expected that is 'orders' by its name or destination, but:",
        "  'send orders'  producer  'orders'  in 'test' (PID)  ok  trace ID",
    ):
        traces.must_have_no("orders")
    with failing(
        "no recorded span was expected, but:",
        "  'send orders'  producer  'orders'  in 'test' (PID)  ok  trace ID",
    ):
        traces.must_have_no()


def test_a_tracer_that_was_set_since_is_told(traces: Traces) -> None:
    from spakky.tracing.recorder import MemoryRecorder  # noqa: PLC0415
    from spakky.tracing.tracer import set_tracer  # noqa: PLC0415

    set_tracer(MemoryRecorder())
    send()
    with failing(
        "no recorded span is 'send orders' by its name or destination; recorded were:",
        "  nothing",
        "  set_tracer was called since: MemoryRecorder records now, not this",
    ):
        traces.span("send orders")


def test_handlers_ran_in_one_trace(traces: Traces) -> None:
    with traces.root() as root:
        order, paid = send(), send("paid")
    process(order)
    process(paid)

    spans = traces.of("process orders", "process paid").must_be_one_trace().must_be_in_this_order()
    assert spans[0].trace_id == root.trace_id
    with failing(
        "'process orders' and 'process paid' must be separate traces, but some are one:",
        "  trace ID  'process orders' and 'process paid'",
    ):
        spans.must_be_separate_traces()
    with failing(
        "'process paid' and 'process orders' must have started in this order, but they did not:",
        "  expected  'process paid' -> 'process orders'",
        "  started   'process orders' -> 'process paid'",
    ):
        traces.of("process paid", "process orders").must_be_in_this_order()


def test_handlers_that_ran_in_several_traces_are_told_apart(traces: Traces) -> None:
    process(send())
    process(send("paid"))

    traces.of("process *").must_be_separate_traces()
    with failing(
        "'process orders' and 'process paid' must be one trace, but they are 2:",
        "  trace ID  'process orders'",
        "  trace ID  'process paid'",
    ):
        traces.of("process orders", "process paid").must_be_one_trace()


def test_one_handler_led_to_the_other(traces: Traces) -> None:
    with traces.root() as root:
        order = send()
    with SHOP.process(order):
        paid = send("paid")
    process(paid)
    process(send("other"))

    traces.of("send orders").must_be_children_of(root)
    traces.of("process orders").must_be_children_of("send orders")
    traces.of("send orders", "process orders", "send paid", "process paid").must_be_a_chain()
    traces.of("send other").must_be_roots()
    with failing(
        "'process other' must be a child of 'send paid', but is not:",
        "  'process other' is a child of 'send other', trace ID span SPAN",
        "  'send paid' is trace ID span SPAN",
    ):
        traces.of("send paid", "process other").must_be_a_chain()
    with failing(
        "'send other' must be a child of the given context, but is not:",
        "  'send other' has no parent, trace ID span SPAN",
        "  the given context is trace ID span SPAN",
    ):
        traces.of("send other").must_be_children_of(root)
    with failing(
        "'send orders' must be roots, but these have parents:",
        "  'send orders' is a child of a span that is not recorded, trace ID span SPAN",
    ):
        traces.of("send orders").must_be_roots()


def test_a_batch_links_to_its_senders(traces: Traces) -> None:
    orders = [send("a"), send("b")]
    with SHOP.process_batch(orders):
        pass
    other = send("c")

    batch = traces.of("process a")
    batch.must_link_to("send a", "send b")
    batch.must_link_to(*orders)
    batch.must_link_to(traces.span("send a"), SHOP.context_from(orders[1]))
    traces.of("send a").must_link_to()
    with failing(
        "'process a' must link to all of these senders, but there is:",
        "  no link to the sender of a dict, trace ID span SPAN",
    ):
        batch.must_link_to(*orders, other)
    with failing(
        "'process a' must link to these senders only, but there is:",
        "  a link to 'send b', trace ID span SPAN",
    ):
        batch.must_link_to("send a")


def test_attempts_are_of_one_trace(traces: Traces) -> None:
    order = send()
    for attempt in ("1", "2", "3"):
        process({**order, "attempt": attempt})

    traces.of("process orders").must_be_attempts(1, 2, 3).must_have_ended("ok")
    with failing(
        "'process orders' must be attempts 1 and 2, but they are not:",
        "  expected  1 and 2",
        "  recorded  1, 2 and 3",
        "  'process orders'  consumer  'orders'  in 'test' (PID)  ok  attempt 1  trace ID",
        "  'process orders'  consumer  'orders'  in 'test' (PID)  ok  attempt 2  trace ID",
        "  'process orders'  consumer  'orders'  in 'test' (PID)  ok  attempt 3  trace ID",
    ):
        traces.of("process orders").must_be_attempts(1, 2)
    process(send("paid", attempt="1"))
    process(send("paid", attempt="2"))
    with failing(
        "'process paid' must be one trace, but they are 2:",
        "  trace ID  'process paid'",
        "  trace ID  'process paid'",
    ):
        traces.of("process paid").must_be_attempts(1, 2)


def test_an_outcome_is_told(traces: Traces) -> None:
    with pytest.raises(OSError, match="x"), SHOP.process(send()):
        raise OSError("x")  # noqa: EM101

    traces.of("process orders").must_have_ended("error")
    with failing(
        "'process orders' must have ended as 'ok', but:",
        "  'process orders'  consumer  'orders'  in 'test' (PID)  error OSError  trace ID",
    ):
        traces.of("process orders").must_have_ended()


def test_what_is_open_is_told_where_something_is_missing(traces: Traces) -> None:
    with (
        failing(
            "no recorded span is 'process orders' by its name or destination; recorded were:",
            "  'send orders'  producer  'orders'  in 'test' (PID)  ok  trace ID",
            "  not ended yet: 'process orders' (consumer), started in the thread 'MainThread', "
            "trace ID span SPAN",
        ),
        SHOP.process(send()),
    ):
        traces.span("process orders")


def test_names_are_quoted_so_that_nothing_reaches_the_terminal(traces: Traces) -> None:
    send("\x1b[31mred")
    with failing(
        "no recorded span is 'x' by its name or destination; recorded were:",
        r"  'send \x1b[31mred'  producer  '\x1b[31mred'  in 'test' (PID)  ok  trace ID",
    ):
        traces.span("x")


def test_a_leak_can_be_looked_for_in_the_middle(traces: Traces) -> None:
    traces.must_not_leak()
    with traces.root():
        traces.must_not_leak()
    with TraceContext.use(TraceContext.new_root()), pytest.raises(AssertionError, match="context leaked"):
        traces.must_not_leak()


def test_what_is_current_can_be_said(traces: Traces) -> None:
    traces.must_have_current(None)
    with traces.root() as root:
        traces.must_have_current(root)
        with failing(
            "a trace context leaked: what is current now is not what was before:",
            f"  now     {root.to_traceparent().replace(root.trace_id, 'ID').replace(root.span_id, 'SPAN')}",
            "  before  no trace",
        ):
            traces.must_have_current(None)
