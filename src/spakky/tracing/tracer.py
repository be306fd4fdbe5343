"""What records spans, as the boundaries see it.

Without a tracer nothing is recorded, and the boundaries only carry contexts. `spakky.tracing.recorder` has a
tracer that keeps spans or writes them to a file; a bridge to a tracing backend is another one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spakky.tracing.context import TraceContext

__all__ = ["ISpan", "ITracer", "Kind", "Operation", "Outcome", "get_tracer", "set_tracer"]

Kind = Literal["producer", "consumer", "client", "server"]
"""Which side of a boundary it is: a message leaves or is processed, a request leaves or is served."""

Outcome = Literal["ok", "error", "cancelled", "retry", "ignored", "rejected", "unknown"]
"""How an operation ended. `unknown`: it was left in a way that does not tell, such as a `break`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What a boundary is about to do.

    Attributes:
        name: For people, such as `process orders`.
        kind: Which side of a boundary it is.
        system: The messaging system, such as `kafka`.
        destination: The topic, exchange, queue, path or host; empty if it is not known.
        context: The context that the operation gets; the tracer may replace its ids by its own.
        parent: The span it belongs to, `None` for a root.
        links: Other spans that it comes from.
        attempt: 1 for the first try, 2 for the first retry; `None` if the broker does not say.
        death_count: How often the message was dead-lettered on its way; `None` if the broker does not say.
        is_redelivered: Whether the broker hands it out again; `None` if it does not say.
        sent_unix_nano: The message's own timestamp, in nanoseconds since 1970 (UTC), as exact as the broker
            has it; `None` if there is none.
        is_scheduled: Whether it is known that a clock started it, such as Celery's beat.
        message_count: How many messages a batch has; `None` where it is no batch.
        attributes: What else is known of it, by the names of OpenTelemetry's semantic conventions.
        start_unix_nano: When it started, in nanoseconds since 1970 (UTC); `None` for now.
    """

    name: str
    kind: Kind
    system: str
    destination: str
    context: TraceContext
    parent: TraceContext | None = None
    links: tuple[TraceContext, ...] = ()
    attempt: int | None = None
    death_count: int | None = None
    is_redelivered: bool | None = None
    sent_unix_nano: int | None = None
    is_scheduled: bool = False
    message_count: int | None = None
    attributes: Mapping[str, str | int] = field(default_factory=dict)
    start_unix_nano: int | None = None

    def queue_time_at(self, unix_nano: int) -> int | None:
        """Return how long the message is on its way at a point in time, in nanoseconds.

        Args:
            unix_nano: The point in time, in nanoseconds since 1970 (UTC).

        Returns:
            0 if the clocks disagree, `None` if the message has no timestamp of its own.
        """
        return None if self.sent_unix_nano is None else max(0, unix_nano - self.sent_unix_nano)


class ISpan(Protocol):
    """An operation that is being recorded."""

    @property
    def context(self) -> TraceContext:
        """The context that is sent, or that is current while the message is processed."""
        ...

    def end(self, outcome: Outcome, error: BaseException | None = None) -> None:
        """Finish the operation; called once, maybe from another thread or task than `start`."""


class ITracer(Protocol):
    """Records operations; called from any thread.

    One with an attribute `records_receiving` that is true also records how long `iterate` has waited for each
    message.
    """

    def start(self, operation: Operation) -> ISpan:
        """Start to record *operation*."""
        ...


_tracer: ITracer | None = None


def set_tracer(tracer: ITracer | None) -> None:
    """Let *tracer* record all boundaries of this process that name none of their own; `None` stops that."""
    global _tracer  # noqa: PLW0603 - the one process-wide setting
    _tracer = tracer


def get_tracer() -> ITracer | None:
    """Return what `set_tracer` set."""
    return _tracer
