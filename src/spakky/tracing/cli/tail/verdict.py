"""What has become of the trace context of a message.

Each message gets one word:

- `valid`: one traceparent, which the standard allows.
- `missing`: no traceparent.
- `stale`: a context that is not this message's own (see `Judge`).
- `duplicated`: several traceparents, so that receivers differ in which one they take.
- `malformed`: a traceparent that the standard does not allow.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final, Generic, Literal, NamedTuple, TypeAlias, TypeVar, get_args

from spakky.tracing._text import readable
from spakky.tracing.baggage import Baggage
from spakky.tracing.carriers.celery import CeleryCarrier
from spakky.tracing.context import TraceContext
from spakky.tracing.error import InvalidTraceparentError, InvalidTraceStateError
from spakky.tracing.trace_state import TraceState
from spakky.tracing.w3c_propagator import BAGGAGE_HEADER, TRACEPARENT_HEADER, TRACESTATE_HEADER

if TYPE_CHECKING:
    from spakky.tracing.carriers import Delivery
    from spakky.tracing.cli.tail.watched import Watched

__all__ = ["VERDICTS", "Judge", "Judgement", "Verdict"]

Verdict: TypeAlias = Literal["valid", "missing", "stale", "duplicated", "malformed"]

VERDICTS: Final[tuple[Verdict, ...]] = get_args(Verdict)

_REMEMBERED: Final = 100_000
_NANOSECONDS: Final = 1_000_000_000
_NAME_AND_VALUE: Final = 2
_NESTED: Final = "headers"
_LONGEST_QUOTE: Final = 60
_MOST_QUOTES: Final = 3

_KeyT = TypeVar("_KeyT")
_ValueT = TypeVar("_ValueT")
_Span: TypeAlias = tuple[str, str]


class Judgement(NamedTuple):
    """What is said of one message.

    Attributes:
        verdict: The one word.
        context: What its traceparent says; `None` if it has not one that can be read.
        reason: Why it is not valid, for people; it may quote the header. `None` if it is valid.
        notes: What is wrong with its tracestate or baggage, which does not touch the verdict.
    """

    verdict: Verdict
    context: TraceContext | None = None
    reason: str | None = None
    notes: tuple[str, ...] = ()


class _Sighting(NamedTuple):
    """Where a span was first seen: on which message, sent in the processing of which, and when."""

    message_id: str | None
    parent_id: str | None
    unix_nano: int

    def is_of(self, message: Watched) -> bool:
        """Return whether *message* is the same one, or was sent in the same processing."""
        same_message = self.message_id is not None and self.message_id == message.message_id
        return same_message or (self.parent_id is not None and self.parent_id == message.parent_id)


class Judge:
    """Says of one message after the other what has become of its context.

    A context is stale, which is to say not the message's own, if

    - there is a tracestate and no traceparent: one of the two was left over;
    - the message says in the processing of which message it was sent, and both have the same traceparent:
      headers were copied on, and the processing has no span of its own;
    - the same traceparent was first seen longer ago than *stale_after* on another message, and this one is no
      retry and no redelivery: a context has leaked in a process and is sent for ever. But two messages that
      were sent in the processing of the same one may be as far apart as that takes.

    One span may send many messages, so a traceparent that merely comes again is valid.
    """

    def __init__(self, *, stale_after: float, remembered: int = _REMEMBERED) -> None:
        """Begin without memory.

        Args:
            stale_after: How long one span may go on sending, in seconds.
            remembered: How many spans, and how many messages, are remembered: those that were seen last.
        """
        self._stale_after_nano = stale_after * _NANOSECONDS
        self._sightings = _Recent[_Span, _Sighting](remembered)
        self._span_of_message = _Recent[str, _Span](remembered)

    def judge(self, message: Watched) -> Judgement:
        """Return what is said of *message*; never raises."""
        traceparents = list(_values(message, TRACEPARENT_HEADER))
        if not traceparents:
            return _without_traceparent(message)
        if len(traceparents) > 1:
            return Judgement("duplicated", None, _said_of_several(traceparents))
        text = readable(traceparents[0])
        if text is None:
            return Judgement(
                "malformed", None, f"traceparent is not text: {_described(traceparents[0])}", _notes(message)
            )
        try:
            context = TraceContext.from_traceparent(text)
        except InvalidTraceparentError as error:
            return Judgement("malformed", None, str(error), _notes(message))
        reason = self._staleness(message, (context.trace_id, context.span_id))
        return Judgement("stale" if reason else "valid", context, reason, _notes(message))

    def _staleness(self, message: Watched, span: _Span) -> str | None:
        """Return why *span* is not the message's own, `None` if it is; both are remembered."""
        age_nano = self._age(message, span)
        is_copied = self._is_copied(message, span)
        if message.message_id is not None:
            self._span_of_message.remember(message.message_id, span)
        if is_copied:
            return f"same traceparent as message {message.parent_id}, in whose processing it was sent"
        if age_nano > self._stale_after_nano and not _is_repeated(message.delivery):
            return f"same traceparent as a message {age_nano / _NANOSECONDS:.0f} s earlier"
        return None

    def _is_copied(self, message: Watched, span: _Span) -> bool:
        parent_id = message.parent_id
        if parent_id is None or parent_id == message.message_id:
            return False
        return self._span_of_message.get(parent_id) == span

    def _age(self, message: Watched, span: _Span) -> int:
        """Return how long ago *span* was first seen, in nanoseconds; 0 if it was there for *message* then."""
        sent = message.delivery.sent_unix_nano
        now = time.time_ns() if sent is None else sent
        first = self._sightings.get(span)
        if first is None or now < first.unix_nano:
            self._sightings.remember(span, _Sighting(message.message_id, message.parent_id, now))
            return 0
        return 0 if first.is_of(message) else now - first.unix_nano


class _Recent(Generic[_KeyT, _ValueT]):
    """A dict that keeps what was used last."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[_KeyT, _ValueT] = OrderedDict()

    def get(self, key: _KeyT) -> _ValueT | None:
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def remember(self, key: _KeyT, value: _ValueT) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)


def _without_traceparent(message: Watched) -> Judgement:
    left = message.carrier.get(message.headers, TRACESTATE_HEADER)
    if left and any(map(str.strip, left)):
        return Judgement("stale", None, "tracestate without traceparent", _notes(message))
    return Judgement("missing", None, "no traceparent", _notes(message))


def _said_of_several(traceparents: list[object]) -> str:
    quoted = [_described(value)[:_LONGEST_QUOTE] for value in traceparents[:_MOST_QUOTES]]
    more = ", ..." if len(traceparents) > len(quoted) else ""
    return f"traceparent is there {len(traceparents)} times: {', '.join(quoted)}{more}"


def _described(value: object) -> str:
    """Return a header's value as text; of what is none, its type, or that there is nothing."""
    text = readable(value)
    if text is None:
        return "(nothing)" if value is None else f"({type(value).__name__})"
    return text


def _is_repeated(delivery: Delivery) -> bool:
    """Return whether this is a retry, a redelivery or a dead letter: what was sent before, once more."""
    attempt, deaths = delivery.attempt or 1, delivery.death_count or 0
    return attempt > 1 or deaths > 0 or bool(delivery.is_redelivered) or delivery.follows_failure


def _notes(message: Watched) -> tuple[str, ...]:
    faults = (_fault_of_tracestate(message), _fault_of_baggage(message))
    return tuple(fault for fault in faults if fault is not None)


def _fault_of_tracestate(message: Watched) -> str | None:
    values = message.carrier.get(message.headers, TRACESTATE_HEADER)
    if values is None:
        return None
    if not values:
        return "tracestate: it is not text"
    try:
        TraceState.parse(values)
    except InvalidTraceStateError as error:
        return f"tracestate: {error}"
    return None


def _fault_of_baggage(message: Watched) -> str | None:
    values = message.carrier.get(message.headers, BAGGAGE_HEADER)
    if values is None:
        return None
    reason = Baggage.parse_with_reason(values)[1] if values else "it is not text"
    return None if reason is None else f"baggage: {reason}"


def _values(message: Watched, name: str) -> Iterator[object]:
    """Yield every value of the header *name*, in any casing: carriers return only those that count."""
    found = list(_values_in(message.headers, name))
    yield from found
    if isinstance(message.carrier, CeleryCarrier) and isinstance(message.headers, Mapping):
        nested = list(_values_in(message.headers.get(_NESTED), name))
        yield from (value for value in nested if not found or value not in found)


def _values_in(headers: object, name: str) -> Iterator[object]:
    for header, value in _pairs(headers):
        if len(header) == len(name) and header.lower() == name:
            if isinstance(value, (list, tuple)) and len(value) > 1:
                yield from value
            else:
                yield value


def _pairs(headers: object) -> Iterator[tuple[str, object]]:
    """Yield name and value of each header; a name that is not text is passed over."""
    if isinstance(headers, Mapping):
        headers = headers.items()
    elif not isinstance(headers, (list, tuple)):
        return
    for header in headers:
        if isinstance(header, (list, tuple)) and len(header) == _NAME_AND_VALUE:
            name = readable(header[0])
            if name is not None:
                yield name, header[1]
