"""W3C Trace Context Level 2 and W3C Baggage, over any carrier."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, TypeVar

from spakky.tracing.baggage import Baggage
from spakky.tracing.context import TraceContext
from spakky.tracing.error import InvalidTraceparentError, InvalidTraceStateError
from spakky.tracing.propagator import (
    DEFAULT_ACCESS,
    CompositePropagator,
    IGetter,
    ISetter,
    ITracePropagator,
)
from spakky.tracing.trace_state import TraceState

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "BAGGAGE_HEADER",
    "TRACEPARENT_HEADER",
    "TRACESTATE_HEADER",
    "W3C",
    "W3CBaggagePropagator",
    "W3CTracePropagator",
]

TRACEPARENT_HEADER: Final = "traceparent"
TRACESTATE_HEADER: Final = "tracestate"
BAGGAGE_HEADER: Final = "baggage"

CarrierT = TypeVar("CarrierT")

_logger: Final = logging.getLogger("spakky.tracing")


class W3CTracePropagator(ITracePropagator):
    """Reads and writes `traceparent` and `tracestate` (Level 2, sections 3.2 and 3.3)."""

    def inject(
        self,
        carrier: CarrierT,
        context: TraceContext | None = None,
        setter: ISetter[CarrierT] | None = None,
    ) -> None:
        """Write `traceparent`, and `tracestate` if there is one; a stale `tracestate` is taken out.

        Args:
            carrier: What is written into, in place; a `dict[str, str]` unless a setter is given.
            context: The context to write; `None` takes the current one. Without either nothing is written.
            setter: How to write into this carrier; `None` for a dict. A setter without `remove` (such as
                OpenTelemetry's) cannot take out a stale `tracestate`.

        Raises:
            WrongUseError: The carrier is not one that the setter can write into.
        """
        context = context or TraceContext.get()
        if context is None:
            return
        setter = setter or _DEFAULT_SETTER
        setter.set(carrier, TRACEPARENT_HEADER, context.to_traceparent())
        _replace(setter, carrier, TRACESTATE_HEADER, context.trace_state.to_header())

    def extract(self, carrier: CarrierT, getter: IGetter[CarrierT] | None = None) -> TraceContext | None:
        """Read the context of *carrier*.

        A `traceparent` that is repeated is refused, unless the getter says which one counts (as the one for
        Kafka does); a `tracestate` that is refused does not touch the `traceparent`.

        Returns:
            The sender's context, or `None` if there is none or if it is refused; a debug log says why.
        """
        getter = getter or DEFAULT_ACCESS
        headers = getter.get(carrier, TRACEPARENT_HEADER)
        if headers is None:
            return None
        try:
            context = TraceContext.from_traceparent(_only(headers))
        except InvalidTraceparentError as error:
            _logger.debug("no trace context: %s", error)
            return None
        trace_state = _trace_state(getter.get(carrier, TRACESTATE_HEADER))
        return context.with_trace_state(trace_state) if trace_state else context

    def fields(self) -> list[str]:
        """Return `traceparent` and `tracestate`."""
        return [TRACEPARENT_HEADER, TRACESTATE_HEADER]


class W3CBaggagePropagator(ITracePropagator):
    """Reads and writes `baggage` (W3C Baggage, section 3); it carries no trace of its own."""

    def inject(
        self,
        carrier: CarrierT,
        context: TraceContext | None = None,
        setter: ISetter[CarrierT] | None = None,
    ) -> None:
        """Write the context's `baggage` if there is any; a stale one is taken out.

        Args and errors are those of `W3CTracePropagator.inject`.
        """
        context = context or TraceContext.get()
        if context is not None:
            _replace(setter or _DEFAULT_SETTER, carrier, BAGGAGE_HEADER, context.baggage.to_header())

    def extract(self, carrier: CarrierT, getter: IGetter[CarrierT] | None = None) -> TraceContext | None:
        """Return `None`: baggage alone names no span."""
        del carrier, getter
        return None

    def extract_baggage(self, carrier: CarrierT, getter: IGetter[CarrierT] | None = None) -> Baggage:
        """Read the baggage of *carrier*; of several headers the members are put together."""
        headers = (getter or DEFAULT_ACCESS).get(carrier, BAGGAGE_HEADER)
        if not headers:
            return _NO_BAGGAGE
        baggage, reason = Baggage.parse_with_reason(headers)
        if reason is not None:
            _logger.debug("baggage is not complete: %s", reason)
        return baggage

    def fields(self) -> list[str]:
        """Return `baggage`."""
        return [BAGGAGE_HEADER]


W3C: Final[ITracePropagator] = CompositePropagator(W3CTracePropagator(), W3CBaggagePropagator())
"""What every boundary uses unless it is told otherwise: trace context and baggage."""

_DEFAULT_SETTER: Final[ISetter[Any]] = DEFAULT_ACCESS
_NO_BAGGAGE: Final = Baggage()


def _only(headers: Sequence[str]) -> str:
    """Return the one header there is; section 3.2 knows no second one."""
    if len(headers) == 1:
        return headers[0]
    message = f"traceparent is there {len(headers)} times" if headers else "traceparent is not text"
    raise InvalidTraceparentError(message)


def _trace_state(headers: Sequence[str] | None) -> TraceState | None:
    if not headers:
        return None
    try:
        return TraceState.parse(headers)
    except InvalidTraceStateError as error:
        _logger.debug("no trace state: %s", error)
        return None


def _replace(setter: ISetter[CarrierT], carrier: CarrierT, key: str, value: str) -> None:
    """Make *value* the only one of *key*; an empty one only removes."""
    if value:
        setter.set(carrier, key, value)
    elif (remove := getattr(setter, "remove", None)) is not None:
        remove(carrier, key)
