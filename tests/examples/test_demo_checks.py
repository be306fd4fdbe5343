"""The demo's checks: what they say of a run in which something is missing or in the wrong place."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

import pytest

from brokers import Broker, Found
from examples.demo.checks import Evidence, Step, expected, problems
from examples.demo.client import Order
from examples.demo.processes import LogLine
from examples.demo.route import Route
from spakky.tracing.cli.view.traces import DrawnSpan
from spakky.tracing.context import TraceContext

if TYPE_CHECKING:
    from collections.abc import Iterator

SENT = TraceContext.new_root()
SERVICES = Route("0", Found(Broker.KAFKA, "", ""), Found(Broker.RABBITMQ, "", "")).services
ORDERS = [Order(1, SENT.to_traceparent(), SENT.trace_id), Order(2, None, TraceContext.generate_trace_id())]
numbers = count(1)


def spans_of(order: Order, step: Step, parent: str | None) -> Iterator[DrawnSpan]:
    span_id = TraceContext.generate_span_id()
    number = next(numbers)
    yield DrawnSpan(
        name=f"{step.boundary} {step.destination}",
        kind="consumer",
        system=step.system,
        destination=step.destination,
        trace_id=order.trace_id,
        span_id=span_id,
        parent_span_id=parent,
        links=(),
        start_unix_nano=number,
        end_unix_nano=number,
        outcome="retry" if step.outcome == "retry" else "ok",
        error=None,
        attempt=step.attempt,
        process=step.process,
        process_id=1,
    )
    for below in step.below:
        yield from spans_of(order, below, span_id)


@pytest.fixture
def evidence() -> Evidence:
    first, second = ORDERS
    step = expected(SERVICES)
    spans = [*spans_of(first, step, SENT.span_id), *spans_of(second, step, None)]
    lines = [
        LogLine(0, service.name, order.trace_id, f"took order {order.number}")
        for order in ORDERS
        for service in SERVICES
    ]
    return Evidence(SERVICES, ORDERS, spans, lines)


def changed(evidence: Evidence, name: str, **changes: object) -> Evidence:
    """Return *evidence* with the first span of that name changed."""
    index = next(i for i, span in enumerate(evidence.spans) if span.name.startswith(name))
    spans = list(evidence.spans)
    spans[index] = replace(spans[index], **changes)  # type: ignore[arg-type]
    return replace(evidence, spans=spans)


def test_nothing_is_said_of_a_good_run(evidence: Evidence) -> None:
    assert problems(evidence) == []


@pytest.mark.parametrize("index", range(20))
def test_a_missing_span_is_noticed(evidence: Evidence, index: int) -> None:
    spans = [span for number, span in enumerate(evidence.spans) if number != index]
    missing = Step.of(evidence.spans[index])
    assert any(f"{missing} is missing" in problem for problem in problems(replace(evidence, spans=spans)))


@pytest.mark.parametrize("index", range(20))
def test_a_span_in_the_trace_of_the_other_order_is_noticed(evidence: Evidence, index: int) -> None:
    spans = list(evidence.spans)
    other = ORDERS[1 if spans[index].trace_id == ORDERS[0].trace_id else 0]
    spans[index] = replace(spans[index], trace_id=other.trace_id)
    assert problems(replace(evidence, spans=spans))


@pytest.mark.parametrize("index", range(20))
def test_a_span_with_another_parent_is_noticed(evidence: Evidence, index: int) -> None:
    spans = list(evidence.spans)
    spans[index] = replace(spans[index], parent_span_id="1" * 16)
    assert problems(replace(evidence, spans=spans))


def test_a_span_of_no_order_is_noticed(evidence: Evidence) -> None:
    stray = replace(evidence.spans[0], trace_id="1" * 32)
    (problem,) = problems(replace(evidence, spans=[*evidence.spans, stray]))
    assert problem.endswith(f"is in trace {'1' * 32}, which no order started.")


def test_a_span_too_many_is_noticed(evidence: Evidence) -> None:
    again = replace(evidence.spans[-1], span_id="1" * 16)
    (problem,) = problems(replace(evidence, spans=[*evidence.spans, again]))
    assert "worker: run notify (celery tasks-0, attempt 1, ok) should not be below" in problem


def test_a_first_attempt_that_was_not_retried_is_noticed(evidence: Evidence) -> None:
    assert problems(changed(evidence, "run pack", outcome="error"))


def test_the_same_attempt_twice_is_noticed(evidence: Evidence) -> None:
    assert problems(changed(evidence, "run pack", attempt=2))


def test_another_destination_is_noticed(evidence: Evidence) -> None:
    assert problems(changed(evidence, "process", destination="elsewhere"))


def test_an_order_that_was_taken_in_another_trace_than_sent_is_noticed(evidence: Evidence) -> None:
    sent = TraceContext.new_root()
    orders = [replace(ORDERS[0], traceparent=sent.to_traceparent()), ORDERS[1]]
    said = problems(replace(evidence, orders=orders))
    assert f"Order 1 was sent in trace {sent.trace_id}, but taken in {ORDERS[0].trace_id}." in said


def test_two_orders_in_one_trace_are_noticed(evidence: Evidence) -> None:
    orders = [ORDERS[0], replace(ORDERS[1], trace_id=ORDERS[0].trace_id)]
    assert "Several orders share one trace." in problems(replace(evidence, orders=orders))


def test_a_log_line_in_a_wrong_trace_is_noticed(evidence: Evidence) -> None:
    lines = [*evidence.lines, LogLine(0, "shop", ORDERS[1].trace_id, "took order 1")]
    (problem,) = problems(replace(evidence, lines=lines))
    assert problem == f"shop logged 'took order 1' in trace {ORDERS[1].trace_id}, not {ORDERS[0].trace_id}."


def test_a_log_line_outside_any_trace_is_noticed(evidence: Evidence) -> None:
    lines = [*evidence.lines, LogLine(0, "shop", "-", "took order 1")]
    assert len(problems(replace(evidence, lines=lines))) == 1


def test_a_process_that_logs_nothing_is_noticed(evidence: Evidence) -> None:
    lines = [line for line in evidence.lines if line.process != "billing"]
    assert problems(replace(evidence, lines=lines)) == [
        "billing logged nothing about order 1.",
        "billing logged nothing about order 2.",
    ]
