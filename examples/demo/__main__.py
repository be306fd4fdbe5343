"""Shows one trace crossing HTTP, Kafka, RabbitMQ and Celery: `python -m examples.demo`."""

import secrets
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from brokers import Broker, Brokers
from brokers.guarded import Guarded
from spakky.tracing import TraceContext
from spakky.tracing.cli.view.traces import DrawnSpan
from spakky.tracing.recorder import read_spans

from .checks import Evidence, problems
from .client import Order, send_order
from .pictures import draw, keep
from .processes import DemoError, LogLine, Processes
from .route import Route
from .screen import GREEN, RED, YELLOW, show, show_heading, show_sentence

# The example of the W3C's recommendation, easy to recognise in the output.
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ARRIVAL_SECONDS = 30
# Long enough for what should not be there to turn up.
SETTLING_SECONDS = 0.5
PAUSE_SECONDS = 0.05
INTERRUPTED, TERMINATED = 130, 143


def main() -> int:
    """Run the demo and return the exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    # A shell that starts a program in the background lets it ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Brokers(report=lambda line: show(f"  {line}")) as brokers, Guarded() as guarded:
            return run(brokers, guarded)
    except DemoError as error:
        show(f"\n{error}", RED)
        return 1
    except KeyboardInterrupt:
        show("\nInterrupted.")
        return INTERRUPTED


def run(brokers: Brokers, guarded: Guarded) -> int:
    """Send orders through the services and look at what they left behind."""
    route = find_route(brokers)
    processes, shop = start(route, guarded)
    orders = send_orders(shop, processes)
    spans = guarded.folder / "spans.jsonl"
    evidence = follow(route, orders, processes, spans)
    for order in orders:
        show_trace(order, evidence.spans_of(order))
    show_strays(evidence.strays())
    status = judge(evidence)
    show_files(spans)
    return status


def find_route(brokers: Brokers) -> Route:
    """Find or start the brokers, and say what is left out."""
    show_heading("Brokers")
    brokers.start(Broker.KAFKA, Broker.RABBITMQ)
    route = Route(secrets.token_hex(3), brokers.find(Broker.KAFKA), brokers.find(Broker.RABBITMQ))
    for sentence in route.sentences():
        show_sentence(sentence, YELLOW)
    return route


def start(route: Route, guarded: Guarded) -> tuple[Processes, str]:
    """Start a process for each service, and return them with the address of the shop."""
    show_heading("Processes")
    began = time.monotonic()
    processes = Processes(guarded, route)
    addresses = []
    for service in route.services:
        addresses.append(processes.wait_until_ready(service))
        source = addresses[-1] or f"{service.system} {service.destination}"
        ready = f"ready after {time.monotonic() - began:.1f} s"
        show(f"  {service.name:<8}  {ready}: {service.summary} at {source}")
    return processes, addresses[0]


def send_orders(shop: str, processes: Processes) -> list[Order]:
    """Send one order with a traceparent of the client's own, and one without."""
    show_heading("Orders")
    orders = []
    for number, traceparent in enumerate([TRACEPARENT, None], start=1):
        show(f"  POST /orders  order {number}  traceparent: {traceparent or '(none)'}")
        try:
            orders.append(send_order(shop, number, traceparent))
        except httpx.HTTPError as error:
            time.sleep(SETTLING_SECONDS)
            processes.check()
            message = f"shop did not take order {number}: {error!r}."
            raise DemoError(message) from error
    return orders


def follow(route: Route, orders: Sequence[Order], processes: Processes, spans: Path) -> Evidence:
    """Print what the processes log until every span is there that should be, or for as long as is allowed."""
    show_heading("What the processes log")
    deadline = time.monotonic() + ARRIVAL_SECONDS
    arrived = False
    while not arrived and time.monotonic() < deadline:
        time.sleep(PAUSE_SECONDS)
        processes.check()
        show_log(processes.read())
        arrived = not problems(Evidence(route.services, orders, recorded(spans), processes.lines))
    time.sleep(SETTLING_SECONDS)
    show_log(processes.read())
    return Evidence(route.services, orders, recorded(spans), processes.lines)


def recorded(spans: Path) -> list[DrawnSpan]:
    """Return what the processes have recorded so far."""
    return [DrawnSpan.of(span) for span in read_spans(spans)]


def show_log(lines: Sequence[LogLine]) -> None:
    """Print the lines that belong to a trace."""
    for line in lines:
        if line.trace_id != "-":
            show(f"  {line.process:<8}  {line.trace_id[:8]}..  {line.message}")


def show_trace(order: Order, spans: Sequence[DrawnSpan]) -> None:
    """Print the trace of an order."""
    sent = TraceContext.from_traceparent(order.traceparent) if order.traceparent else None
    origin = f"continues the client's span {sent.span_id}" if sent else "started by shop"
    show_heading(f"Order {order.number}, trace {order.trace_id}, {origin}")
    show_tree(spans)


def show_strays(spans: Sequence[DrawnSpan]) -> None:
    """Print the spans that belong to no order, if there are any."""
    if spans:
        show_heading("In no order's trace")
        show_tree(spans)


def show_tree(spans: Sequence[DrawnSpan]) -> None:
    """Print spans as a tree."""
    for line in draw(spans):
        show(line)


def show_files(spans: Path) -> None:
    """Leave the spans and a page of them in the current folder, and say how to look at them."""
    try:
        kept, page = keep(spans)
    except OSError as error:
        show_sentence(
            f"The traces are not kept, {error.filename} cannot be written: {error.strerror}.", YELLOW
        )
        return
    show(f"Look further: open {page} in a browser, or run .venv/bin/spakky-tracing view {kept}")


def judge(evidence: Evidence) -> int:
    """Say whether all is as it should be, and return the exit status."""
    show("")
    if found := problems(evidence):
        show(f"{len(found)} things are not as they should be:", RED)
        for problem in found:
            show_sentence(problem, RED)
        return 1
    orders, spans, lines = len(evidence.orders), len(evidence.spans), len(evidence.lines_in_a_trace())
    show(
        f"Seen: {orders} orders in {orders} traces, {spans} spans and {lines} log lines of "
        f"{len(evidence.services)} processes, each in its order's trace.",
        GREEN,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
