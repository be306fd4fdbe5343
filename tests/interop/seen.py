"""What a process says of what OpenTelemetry saw there, in shapes that all processes know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

__all__ = ["Answer", "Sender", "Span"]


class Sender(NamedTuple):
    """A span that a message comes from.

    Attributes:
        trace_id: In hex, as W3C writes it.
        span_id: Likewise; `None` if there is no such span.
        trace_state: As in the header; empty if there is none.
    """

    trace_id: str
    span_id: str | None
    trace_state: str = ""


@dataclass(frozen=True)
class Span:
    """A span of OpenTelemetry's that is over.

    Attributes:
        kind: `PRODUCER`, `CONSUMER`, `INTERNAL` and so on.
        own: The span itself, as a message would name it.
        parent: Its parent, whose id is `None` if the span is the root of its trace.
        links: What it links to.
    """

    name: str
    kind: str
    own: Sender
    parent: Sender
    links: list[Sender]


@dataclass(frozen=True)
class Answer:
    """What a request to a peer came to.

    Attributes:
        spans: All that ended meanwhile.
        headers: Those of the message that it received, in order, as text.
        baggage: What the instrumentation handed out with that message.
        modules: Those loaded in its process.
        error: The traceback of what failed.
    """

    spans: list[Span]
    headers: list[tuple[str, str]]
    baggage: dict[str, str]
    modules: list[str]
    error: str | None

    @classmethod
    def from_json(cls, answer: dict[str, Any]) -> Self:
        """Return the answer whose `asdict` went through JSON."""
        spans = [
            Span(
                span["name"],
                span["kind"],
                Sender(*span["own"]),
                Sender(*span["parent"]),
                [Sender(*link) for link in span["links"]],
            )
            for span in answer["spans"]
        ]
        headers = [(name, value) for name, value in answer["headers"]]
        return cls(spans, headers, answer["baggage"], answer["modules"], answer["error"])
