"""Traces as a shop leaves them behind, always the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from spakky.tracing.cli.view.traces import DrawnSpan
from spakky.tracing.recorder import SpanLink

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MS", "Recording", "batch", "busy", "hostile", "long", "many", "order"]

MS: Final = 1_000_000
NOON: Final = 1_790_000_000_000_000_000
"""The start of the first trace, in nanoseconds since 1970."""

_SYSTEMS: Final = ("kafka", "rabbitmq", "celery")
_SERVICES: Final = ("shop", "billing", "shipping", "worker", "mailer")


@dataclass
class Recording:
    """Spans as they are added, numbered."""

    trace: int = 1
    spans: list[DrawnSpan] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    @property
    def trace_id(self) -> str:
        return sha256(f"trace {self.trace}".encode()).hexdigest()[:32]

    def add(
        self, name: str, at: float, took: float, parent: DrawnSpan | None = None, **more: Any
    ) -> DrawnSpan:
        """Add a span that starts *at* milliseconds after noon and *took* as many."""
        start = NOON + round(at * MS)
        fields = {"kind": "internal", "system": "kafka", "destination": "orders", "process": "shop", **more}
        span = DrawnSpan(
            name=name,
            trace_id=self.trace_id,
            span_id=sha256(f"span {self.trace} {next(self.numbers)}".encode()).hexdigest()[:16],
            parent_span_id=None if parent is None else parent.span_id,
            start_unix_nano=start,
            end_unix_nano=start + round(took * MS),
            process_id=4711,
            **fields,
        )
        self.spans.append(span)
        return span


def order(trace: int = 1, at: float = 0) -> list[DrawnSpan]:
    """Return one order: over HTTP, Kafka and RabbitMQ to a task that takes three attempts and fails."""
    made = Recording(trace)
    post = made.add("POST /orders", at, 14, kind="server", system="http", destination="/orders")
    sent = made.add("send orders", at + 2, 8, post, kind="producer")
    billed = made.add(
        "process orders", at + 260, 40, sent, kind="consumer", process="billing", queue_time_nano=250 * MS
    )
    paid = made.add(
        "send paid",
        at + 280,
        5,
        billed,
        kind="producer",
        system="rabbitmq",
        destination="paid",
        process="billing",
    )
    packed = made.add(
        "process paid", at + 405, 60, paid,
        kind="consumer", system="rabbitmq", destination="paid", process="shipping",
    )  # fmt: skip
    task: dict[str, Any] = {"system": "celery", "destination": "tasks"}
    asked = made.add("send pack", at + 420, 6, packed, kind="producer", process="shipping", **task)
    run: dict[str, Any] = {"kind": "consumer", "process": "worker", **task}
    made.add(
        "run pack", at + 500, 80, asked, attempt=1, outcome="retry", error="celery.exceptions.Retry", **run
    )
    made.add(
        "run pack", at + 780, 80, asked, attempt=2, outcome="retry", error="celery.exceptions.Retry", **run
    )
    made.add(
        "run pack", at + 1260, 90, asked, attempt=3, outcome="error", error="shop.errors.BoxTooSmall", **run
    )
    return made.spans


def batch(trace: int, senders: list[DrawnSpan], at: float = 1500) -> list[DrawnSpan]:
    """Return a batch that links to its *senders*, and to one that nobody recorded."""
    made = Recording(trace)
    links = tuple(SpanLink(sender.trace_id, sender.span_id) for sender in senders)
    lost = SpanLink("f" * 32, "e" * 16)
    read: dict[str, Any] = {"kind": "consumer", "destination": "audit", "process": "audit"}
    root = made.add("process audit", at, 25, links=(*links, lost), **read)
    made.add("send archive", at + 5, 10, root, kind="producer", destination="archive", process="audit")
    return made.spans


def busy(trace: int, spans: int) -> list[DrawnSpan]:
    """Return a trace of many *spans*: messages that lead to messages, of which some fail."""
    made = Recording(trace)
    root = made.add("POST /import", 0, 30, kind="server", system="http", destination="/import")
    senders = [made.add("send rows", 3, 5, root, kind="producer", destination="rows")]
    for number in range(spans - 2):
        above = senders[(number // 2) % len(senders)]
        at = (above.end_unix_nano - NOON) / MS
        if above.kind == "producer":
            senders.append(_processed(made, above, at, number))
        else:
            senders.append(_sent(made, above, at, number))
    return made.spans


def _processed(made: Recording, above: DrawnSpan, at: float, number: int) -> DrawnSpan:
    ended: dict[str, Any] = {"outcome": "error", "error": "TimeoutError"} if number % 17 == 9 else {}
    return made.add(
        f"process {above.destination}", at + 4 + number % 23, 12 + number * 7 % 31, above,
        kind="consumer", system=above.system, destination=above.destination,
        process=_SERVICES[(number * 3 + 1) % len(_SERVICES)], **ended,
    )  # fmt: skip


def _sent(made: Recording, above: DrawnSpan, at: float, number: int) -> DrawnSpan:
    destination = ("rows", "stock", "invoices", "letters")[number % 4]
    return made.add(
        f"send {destination}", max(0, at - 3), 2, above,
        kind="producer", system=_SYSTEMS[number % 3], destination=destination, process=above.process,
    )  # fmt: skip


def many(traces: int, first: int = 100) -> list[DrawnSpan]:
    """Return many small *traces*, one a second."""
    return [span for number in range(traces) for span in order(first + number, at=1000 * number)]


def long(trace: int) -> list[DrawnSpan]:
    """Return a trace of ten minutes with a span of 5 ms in it."""
    made = Recording(trace)
    night = made.add(
        "run nightly", 0, 600_000, kind="consumer", system="celery", destination="nightly", is_scheduled=True
    )
    made.add("send report", 300_000, 5, night, kind="producer", destination="reports")
    return made.spans


def hostile(trace: int) -> list[DrawnSpan]:
    """Return spans whose texts want to be markup, scripts, or escape sequences, or are very long."""
    made = Recording(trace)
    markup = '</script><img src=x onerror="window.wasRun = 1"><script>window.wasRun = 1</script>'
    root = made.add(
        markup, 0, 10, system="<b>kafka</b>", destination="&lt;i&gt;", process="<svg onload=alert(1)>"
    )
    made.add(
        "\x1b[31mred\x1b[0m \u202etxt.exe\u2028 <!--", 2, 3, root, error="a\u2029b\udce4", outcome="error"
    )
    made.add("n" * 10_000, 5, 2, root, destination="d" * 10_000, process="p" * 10_000)
    return made.spans
