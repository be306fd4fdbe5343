"""Says what is missing in the traces, and what is where it should not be."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from spakky.tracing import TraceContext
from spakky.tracing.cli.view.traces import DrawnSpan, Node, traces_of

from .client import Order
from .processes import LogLine
from .route import Service


@dataclass(frozen=True)
class Step:
    """What should be recorded of one span; two steps are equal whatever is below them.

    Attributes:
        process: The process that records it.
        boundary: What it does there.
        system: The messaging system.
        destination: The path, topic or queue.
        attempt: Which attempt it is; `None` where the broker does not count.
        outcome: How it ends.
        below: The steps that follow from it.
    """

    process: str
    boundary: str
    system: str
    destination: str
    attempt: int | None = None
    outcome: str = "ok"
    below: tuple["Step", ...] = field(default=(), compare=False)

    @classmethod
    def of(cls, span: DrawnSpan) -> "Step":
        """Return the step that a recorded span is."""
        return cls(span.process, span.does, span.system, span.destination, span.attempt, span.outcome)

    def __str__(self) -> str:
        attempt = f"attempt {self.attempt}, " if self.attempt else ""
        return f"{self.process}: {self.boundary} ({self.system} {self.destination}, {attempt}{self.outcome})"


def expected(services: Sequence[Service]) -> Step:
    """Return what one order should leave behind on its way through the services."""
    receiver, *rest = services
    return Step(
        receiver.name,
        "POST" if receiver.system == "http" else "process",
        receiver.system,
        receiver.destination,
        attempt=1 if receiver.system == "rabbitmq" else None,  # which says if it hands a message out again
        below=(_sent(receiver, rest),),
    )


def _sent(sender: Service, receivers: Sequence[Service]) -> Step:
    receiver = receivers[0]
    if receiver.system == "celery":
        return Step(sender.name, "send pack", "celery", receiver.destination, below=_attempts(receiver))
    return Step(sender.name, "send", receiver.system, receiver.destination, below=(expected(receivers),))


def _attempts(worker: Service) -> tuple[Step, Step]:
    queue = worker.destination
    notified = Step(worker.name, "run notify", "celery", queue, attempt=1)
    sent = Step(worker.name, "send notify", "celery", queue, below=(notified,))
    return (
        Step(worker.name, "run pack", "celery", queue, attempt=1, outcome="retry"),
        Step(worker.name, "run pack", "celery", queue, attempt=2, below=(sent,)),
    )


@dataclass(frozen=True)
class Evidence:
    """What a run left behind.

    Attributes:
        services: The services that took part.
        orders: The orders that the shop took.
        spans: All spans that the processes recorded.
        lines: All lines that they logged.
    """

    services: Sequence[Service]
    orders: Sequence[Order]
    spans: Sequence[DrawnSpan]
    lines: Sequence[LogLine]

    def spans_of(self, order: Order) -> list[DrawnSpan]:
        """Return the spans of an order's trace."""
        return [span for span in self.spans if span.trace_id == order.trace_id]

    def strays(self) -> list[DrawnSpan]:
        """Return the spans that are in no order's trace."""
        traces = {order.trace_id for order in self.orders}
        return [span for span in self.spans if span.trace_id not in traces]

    def lines_in_a_trace(self) -> list[LogLine]:
        """Return the lines that were logged within any trace."""
        return [line for line in self.lines if line.trace_id != "-"]


def problems(evidence: Evidence) -> list[str]:
    """Return a sentence for each thing that is not as it should be; none if all is well."""
    return [
        *_mixed_up(evidence),
        *(problem for order in evidence.orders for problem in _of_trace(order, evidence)),
        *(problem for order in evidence.orders for problem in _of_log(order, evidence)),
    ]


def _mixed_up(evidence: Evidence) -> Iterator[str]:
    traces = {order.trace_id for order in evidence.orders}
    if len(traces) < len(evidence.orders):
        yield "Several orders share one trace."
    for span in evidence.strays():
        yield f"{Step.of(span)} is in trace {span.trace_id}, which no order started."
    for line in evidence.lines_in_a_trace():
        if line.trace_id not in traces:
            yield f"{line.process} logged '{line.message}' in trace {line.trace_id}, which no order started."


def _of_trace(order: Order, evidence: Evidence) -> Iterator[str]:
    spans = evidence.spans_of(order)
    step = expected(evidence.services)
    sent = TraceContext.from_traceparent(order.traceparent) if order.traceparent else None
    if sent and sent.trace_id != order.trace_id:
        yield f"Order {order.number} was sent in trace {sent.trace_id}, but taken in {order.trace_id}."
    tops = [root for trace in traces_of(spans) for root in trace.roots]
    for top in [top for top in tops if Step.of(top.span) != step]:
        yield f"Order {order.number}: {Step.of(top.span)} has lost its parent."
    for top in [top for top in tops if Step.of(top.span) == step]:
        parent = top.span.parent_span_id
        if parent != (sent.span_id if sent else None):
            yield f"Order {order.number}: {step} has the parent {parent}, not the client's span."
        yield from _below(top, step, order)
    if not any(Step.of(top.span) == step for top in tops):
        yield f"Order {order.number}: {step} is missing."


def _below(node: Node, step: Step, order: Order) -> Iterator[str]:
    found = list(node.children)
    for wanted in step.below:
        match = next((child for child in found if Step.of(child.span) == wanted), None)
        if match is None:
            yield f"Order {order.number}: {wanted} is missing below {step}."
        else:
            found.remove(match)
            yield from _below(match, wanted, order)
    for child in found:
        yield f"Order {order.number}: {Step.of(child.span)} should not be below {step}."


def _of_log(order: Order, evidence: Evidence) -> Iterator[str]:
    about = [line for line in evidence.lines if f"order {order.number}" in line.message]
    for line in about:
        if line.trace_id != order.trace_id:
            yield f"{line.process} logged '{line.message}' in trace {line.trace_id}, not {order.trace_id}."
    for service in evidence.services:
        if not any(line.process == service.name for line in about):
            yield f"{service.name} logged nothing about order {order.number}."
