"""A client library as small as one can be: parcels with a dict of headers, sent and received by nobody."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from spakky.tracing.baggage import Baggage
from spakky.tracing.boundaries.client import Client
from spakky.tracing.boundaries.options import ReceiveOptions, SendOptions, Settings
from spakky.tracing.boundaries.process import Receiver
from spakky.tracing.boundaries.publish import Sender
from spakky.tracing.carriers import Delivery
from spakky.tracing.carriers.mapping import CARRIER
from spakky.tracing.context import TraceContext
from spakky.tracing.propagator import ITracePropagator
from spakky.tracing.trace_state import TraceState

if TYPE_CHECKING:
    from typing import Unpack

TRACEPARENT: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
STALE: Final = "00-11111111111111111111111111111111-2222222222222222-01"


@dataclass
class Parcel:
    """A received message."""

    headers: Any = field(default_factory=dict)
    queue: str = "orders"
    attempt: int | None = None


CLIENT: Final[Client[Parcel, dict[str, Any]]] = Client(
    system="post",
    carrier=CARRIER,
    message_type=Parcel,
    headers=lambda parcel: parcel.headers,
    destination=lambda parcel: parcel.queue,
    name=lambda parcel: f"process {parcel.queue}",
    delivery=lambda parcel: Delivery(attempt=parcel.attempt),
)


def sender(**options: Unpack[SendOptions]) -> Sender[dict[str, Any]]:
    return Sender(CLIENT, Settings(SendOptions, options))


def receiver(**options: Unpack[ReceiveOptions]) -> Receiver[Parcel]:
    return Receiver(CLIENT, Settings(ReceiveOptions, options))


def full_context() -> TraceContext:
    """Return a context with all that can travel."""
    root = TraceContext.new_root(baggage=Baggage({"tenant": "acme"}))
    return root.child(trace_state=TraceState({"congo": "t61"}))


def parcel_from(context: TraceContext) -> Parcel:
    """Return a parcel that was sent in *context*."""
    with TraceContext.use(context):
        return Parcel(sender().headers())


class BrokenPropagator(ITracePropagator):
    """A propagator with a bug in everything that it does."""

    def inject(self, carrier: Any, context: Any = None, setter: Any = None) -> None:
        setter.set(carrier, "half-written", "x")
        message = f"cannot inject {context}"
        raise RuntimeError(message)

    def extract(self, carrier: Any, getter: Any = None) -> TraceContext | None:
        message = f"cannot extract by {getter}"
        raise RuntimeError(message)

    def extract_baggage(self, carrier: Any, getter: Any = None) -> Baggage:
        message = f"cannot extract baggage by {getter}"
        raise RuntimeError(message)

    def fields(self) -> list[str]:
        return ["traceparent"]


class BrokenTracer:
    """A tracer with a bug at the start."""

    def start(self, operation: object) -> Any:
        message = f"cannot record {operation}"
        raise RuntimeError(message)


class BrokenSpan:
    """A span with a bug at the end."""

    def __init__(self, context: TraceContext) -> None:
        self.context = context

    def end(self, outcome: object, error: object = None) -> None:
        message = f"cannot end with {outcome} and {error}"
        raise RuntimeError(message)


class BrokenSpanTracer:
    """A tracer whose spans have a bug at the end."""

    def start(self, operation: Any) -> BrokenSpan:
        return BrokenSpan(operation.context)


class BrokenContextSpan:
    """A span with a bug in its context."""

    @property
    def context(self) -> TraceContext:
        message = "there is no context"
        raise RuntimeError(message)

    def end(self, outcome: object, error: object = None) -> None:
        """Forget both."""


class BrokenContextTracer:
    """A tracer whose spans have a bug in their context."""

    def start(self, operation: Any) -> BrokenContextSpan:
        assert operation
        return BrokenContextSpan()
