"""Calls of code that is not ours, none of which may fail a message."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from spakky.tracing.baggage import Baggage
from spakky.tracing.carriers import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from spakky.tracing.boundaries.client import Client, MessageT
    from spakky.tracing.boundaries.options import Policy
    from spakky.tracing.carriers import Delivery, HeadersT, ICarrier
    from spakky.tracing.context import TraceContext
    from spakky.tracing.tracer import ISpan, ITracer, Operation, Outcome

__all__ = [
    "Recording",
    "attributes_of",
    "delivery_of",
    "end_span",
    "extract",
    "extract_baggage",
    "headers_of",
    "inject",
    "is_record",
    "names_of",
    "start_span",
]

_logger: Final = logging.getLogger("spakky.tracing")
_NO_BAGGAGE: Final = Baggage()
_NOTHING: Final[Mapping[str, str | int]] = {}


def headers_of(client: Client[MessageT, Any], message: MessageT) -> object:
    """Return the headers of a received *message*, `None` if the client library cannot read them."""
    try:
        return client.headers(message)
    except Exception as error:  # noqa: BLE001 - a message is one also if its client cannot read the headers
        _logger.debug("no trace context: the headers cannot be read: %s", type(error).__name__)
        return None


def delivery_of(client: Client[MessageT, Any], message: MessageT) -> Delivery:
    """Return what a received *message* says of its way, nothing if that cannot be read."""
    try:
        return client.delivery(message)
    except Exception as error:  # noqa: BLE001 - what is said of a message may be anything
        _logger.debug("the way of a message cannot be read: %s", type(error).__name__)
        return UNKNOWN


def attributes_of(client: Client[MessageT, Any], message: MessageT) -> Mapping[str, str | int]:
    """Return what else a received *message* says, nothing if that cannot be read."""
    if client.attributes is None:
        return _NOTHING
    try:
        return client.attributes(message)
    except Exception as error:  # noqa: BLE001 - likewise
        _logger.debug("what a message says cannot be read: %s", type(error).__name__)
        return _NOTHING


def names_of(client: Client[MessageT, Any], message: MessageT) -> Sequence[str]:
    """Return the names by which options choose for *message*, none if they cannot be read."""
    try:
        return client.names_of(message)
    except Exception as error:  # noqa: BLE001 - a message is one also if it does not say where it is from
        _logger.debug("no option counts by name: the source cannot be read: %s", type(error).__name__)
        return ()


def is_record(client: Client[MessageT, Any], message: MessageT) -> bool:
    """Return whether *message* is one and no event in its place, which it is not if that cannot be told."""
    try:
        return client.is_record(message)
    except Exception as error:  # noqa: BLE001 - likewise
        _logger.debug("a message is taken for an event: %s", type(error).__name__)
        return False


def extract(policy: Policy, carrier: ICarrier[Any], headers: object) -> TraceContext | None:
    """Return the context in *headers*, `None` if there is none or the propagator fails."""
    try:
        return policy.propagator.extract(headers, carrier)
    except Exception:  # a propagator may be anybody's
        _logger.debug("no trace context: the propagator failed", exc_info=True)
        return None


def extract_baggage(policy: Policy, carrier: ICarrier[Any], headers: object) -> Baggage:
    """Return the baggage in *headers*, empty if there is none or the propagator fails."""
    try:
        return policy.propagator.extract_baggage(headers, carrier)
    except Exception:  # a propagator may be anybody's
        _logger.debug("no baggage: the propagator failed", exc_info=True)
        return _NO_BAGGAGE


def inject(
    policy: Policy, carrier: ICarrier[HeadersT], headers: HeadersT, context: TraceContext
) -> HeadersT | None:
    """Write *context* into *headers* and return them, `None` if the propagator fails."""
    try:
        policy.propagator.inject(headers, context, carrier)
    except Exception:  # a propagator may be anybody's
        _logger.debug("a message is sent with its own headers only: the propagator failed", exc_info=True)
        return None
    return headers


class Recording(NamedTuple):
    """An operation that is being recorded, and the context that the tracer gave it."""

    span: ISpan
    context: TraceContext


def start_span(tracer: ITracer, describe: Callable[[], Operation]) -> Recording | None:
    """Start to record what *describe* returns, `None` if it or the tracer fails."""
    try:
        span = tracer.start(describe())
        return Recording(span, span.context)
    except Exception:  # a tracer may be anybody's
        _logger.debug("an operation is not recorded: the tracer failed", exc_info=True)
        return None


def end_span(recording: Recording | None, outcome: Outcome, error: BaseException | None = None) -> None:
    """End the span of *recording* if there is one."""
    if recording is None:
        return
    try:
        recording.span.end(outcome, error)
    except Exception:  # a tracer may be anybody's
        _logger.debug("a span is lost: the tracer failed", exc_info=True)
