"""OpenTelemetry: one current context, and boundaries that are its spans.

Usage:

    opentelemetry.install()  # after OpenTelemetry itself is set up; its API is enough

From then on, in all threads and tasks:

- The current span of OpenTelemetry is what `TraceContext.get()` returns and what is sent, and what is made
  current here is OpenTelemetry's current span there. Baggage is shared as well.
- What every boundary does is a span of OpenTelemetry, with the names and attributes of its conventions for
  messaging (1.44). Attributes of our own begin with `spakky.`.
- The headers have the format that OpenTelemetry is configured for (`OTEL_PROPAGATORS`).

Facts:

- Without an SDK, OpenTelemetry makes no spans. Then contexts have ids of ours, as if nothing was recorded.
- A span of OpenTelemetry that is left open in a scope of ours is not current any more after the scope.
- A scope that another thread has closed is seen by `TraceContext.get()` first, and by OpenTelemetry then.
- Where OpenTelemetry's own instrumentation adds a header to those that are there (aiokafka, confluent-kafka,
  kafka-python), what is sent is left to it. Other instrumentations replace ours, in the same trace.
"""

from __future__ import annotations

import logging
import sys
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from spakky.tracing._current import take_part
from spakky.tracing._extras import raise_missing_extra
from spakky.tracing.baggage import Baggage
from spakky.tracing.boundaries.default import DEFAULT
from spakky.tracing.boundaries.elsewhere import ask_about_sends
from spakky.tracing.context import TraceContext
from spakky.tracing.error import AbstractSpakkyTracingError, WrongUseError
from spakky.tracing.propagator import ITracePropagator
from spakky.tracing.trace_state import TraceState
from spakky.tracing.tracer import get_tracer, set_tracer
from spakky.tracing.w3c_propagator import W3C

try:
    from opentelemetry import baggage, context, propagate, trace
    from opentelemetry.context import Context
    from opentelemetry.propagators.textmap import TextMapPropagator
    from opentelemetry.trace import (
        INVALID_SPAN,
        Link,
        NonRecordingSpan,
        Span,
        SpanContext,
        SpanKind,
        Status,
        StatusCode,
        TraceFlags,
        TracerProvider,
    )
except ModuleNotFoundError as error:
    raise_missing_extra("opentelemetry", {"opentelemetry"}, error)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from spakky.tracing.tracer import ITracer, Operation, Outcome

__all__ = ["OpenTelemetryPropagator", "OpenTelemetryTracer", "install", "uninstall"]

_logger: Final = logging.getLogger("spakky.tracing")

_SCOPE: Final = "spakky.tracing"  # the instrumentation scope of our spans
_KINDS: Final[Mapping[str, SpanKind]] = {
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
}
_TYPES: Final[Mapping[str, str]] = {"producer": "send", "consumer": "process", "client": "receive"}
_METHODS: Final = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
)
_NAMED_BY_THE_BROKER: Final = ("amq.gen-", "amq.rabbitmq.reply-to")
_FAILURES: Final[frozenset[Outcome]] = frozenset({"error", "retry"})
_W3C_FIELDS: Final = frozenset({"traceparent", "tracestate", "baggage"})


def install(
    *,
    tracer_provider: TracerProvider | None = None,
    propagator: TextMapPropagator | None = None,
    receive_spans: bool = False,
) -> None:
    """Make one of OpenTelemetry's current context and ours, and record boundaries as its spans.

    Installing again replaces what was installed before. A tracer that is given to a boundary as an option
    stays in use there.

    Args:
        tracer_provider: What makes the spans; the global one unless given.
        propagator: The format of headers where no option says so; the global one unless given.
        receive_spans: Whether `iterate` also makes a span of the wait for each message, of the kind `CLIENT`.

    Raises:
        WrongUseError: One of them is something else.
    """
    _check("propagator", propagator, TextMapPropagator)
    tracer = OpenTelemetryTracer(tracer_provider, receive_spans=receive_spans)
    uninstall()
    _installed.before = get_tracer()
    _installed.tracer = tracer
    set_tracer(tracer)
    DEFAULT.become(_propagator_of(propagator or propagate.get_global_textmap()))
    take_part(_Counterpart())
    ask_about_sends(_is_instrumented)


def uninstall() -> None:
    """Undo `install`; nothing happens if it is not installed.

    A tracer that was set since stays. What was made current from here stays current; a span of OpenTelemetry
    is current in OpenTelemetry alone.
    """
    if _installed.tracer is None:
        return
    if get_tracer() is _installed.tracer:
        set_tracer(_installed.before)
    _installed.tracer = _installed.before = None
    DEFAULT.become(W3C)
    ask_about_sends(None)
    current = TraceContext.get()
    take_part(None)
    if current is None:  # what was current here, OpenTelemetry has put out of place
        TraceContext.clear()
    elif not isinstance(current, _OfSpan):
        TraceContext.set(current)


# Its instrumentations that patch the class of a producer, and add a header to those that are there.
_PATCHING: Final[Mapping[str, tuple[str, str]]] = {
    "aiokafka": ("opentelemetry.instrumentation.aiokafka", "AIOKafkaInstrumentor"),
    "kafka": ("opentelemetry.instrumentation.kafka", "KafkaInstrumentor"),
}
_SUBCLASSING: Final = "opentelemetry.instrumentation."  # those that hand out a class of their own


def _is_instrumented(client: object) -> bool:
    """Tell whether OpenTelemetry's own instrumentation sends the context with a client."""
    modules = [cls.__module__ for cls in type(client).__mro__]
    packages = {module.partition(".")[0] for module in modules}
    is_subclass = any(module.startswith(_SUBCLASSING) for module in modules)
    return is_subclass or any(_is_patched(package) for package in packages & _PATCHING.keys())


def _is_patched(package: str) -> bool:
    module, name = _PATCHING[package]
    instrumentor: Any = getattr(sys.modules.get(module), name, None)
    return instrumentor is not None and bool(instrumentor().is_instrumented_by_opentelemetry)


class _Installed:
    """What `install` has put in place."""

    tracer: ITracer | None = None
    before: ITracer | None = None


_installed: Final = _Installed()


def _check(name: str, value: object, expected: type[Any]) -> None:
    if value is not None and not isinstance(value, expected):
        message = f"{name}= takes a {expected.__name__} of OpenTelemetry, got {type(value).__name__}"
        raise WrongUseError(message)


# --- contexts


class _OfSpan(TraceContext):
    """The context of a span of OpenTelemetry, which it knows; not those that are derived from it."""

    __slots__ = ("span",)

    span: Span

    @classmethod
    def made_of(cls, span: Span, shared: Baggage, parent_span_id: str | None = None) -> _OfSpan | None:
        """Return the context of *span*, `None` if it has none that is valid."""
        ids = span.get_span_context()
        if not ids.is_valid:
            return None
        parent: SpanContext | None = getattr(span, "parent", None)  # a span of the SDK knows it
        made = cls(
            trace_id=f"{ids.trace_id:032x}",
            span_id=f"{ids.span_id:016x}",
            parent_span_id=f"{parent.span_id:016x}" if parent is not None else parent_span_id,
            trace_flags=int(ids.trace_flags),
            trace_state=TraceState.parse(ids.trace_state.to_header()),
            baggage=shared,
            is_remote=ids.is_remote,
        )
        object.__setattr__(made, "span", span)
        return made

    def plain(self) -> TraceContext:
        """Return the same context without the span, as others have it."""
        return TraceContext(
            trace_id=self.trace_id,
            span_id=self.span_id,
            parent_span_id=self.parent_span_id,
            trace_flags=self.trace_flags,
            trace_state=self.trace_state,
            baggage=self.baggage,
            is_remote=self.is_remote,
        )

    def __reduce__(self) -> tuple[Callable[..., TraceContext], tuple[object, ...]]:
        return self.plain().__reduce__()


class _Agreed(NamedTuple):
    """What was current on both sides when it was made so from here."""

    context: TraceContext | None
    span: Span
    baggage: Mapping[str, object]


_AGREED: Final = context.create_key("spakky-tracing")

# What the current context of OpenTelemetry was found to mean the last time.
_found: Final[ContextVar[tuple[Context, TraceContext | None] | None]] = ContextVar(
    "spakky.tracing.opentelemetry", default=None
)


class _Counterpart:
    """OpenTelemetry's current context, as ours sees it."""

    def current(self) -> TraceContext | None:
        """Return what is current there."""
        current, found = context.get_current(), _found.get()
        if found is not None and found[0] is current:
            return found[1]
        meant = _meaning_of(current)
        _found.set((current, meant))
        return meant

    def baggage(self) -> Baggage:
        """Return the baggage that is current there."""
        return _baggage_of(baggage.get_all())

    def enter(self, made_current: TraceContext | None) -> Callable[[], None]:
        """Make a context current there too; everything else that is current there stays."""
        before = context.get_current()
        context.attach(_written(before, made_current))
        return lambda: _make_current_there(before)


def _make_current_there(current: Context) -> None:
    """Make a context current without a token: that could be used only once, and only where it was made."""
    context.attach(current)


def _meaning_of(current: Context) -> TraceContext | None:
    """Return the context that OpenTelemetry's *current* one is, the very one if it comes from here."""
    span, shared = trace.get_current_span(current), baggage.get_all(current)
    agreed = current.get(_AGREED)
    if not isinstance(agreed, _Agreed):
        return _OfSpan.made_of(span, _baggage_of(shared))
    ours, is_same_baggage = agreed.context, dict(shared) == dict(agreed.baggage)
    if agreed.span is span:
        return ours if ours is None or is_same_baggage else ours.with_baggage(_baggage_of(shared))
    known = ours.baggage if ours is not None and is_same_baggage else _baggage_of(shared)
    return _OfSpan.made_of(span, known)


def _written(base: Context, made_current: TraceContext | None) -> Context:
    """Return *base* with the span and the baggage of a context in it."""
    span = INVALID_SPAN if made_current is None else _span_of(made_current, base)
    entries = {} if made_current is None else dict(made_current.baggage)
    written = _with(base, span, entries)
    return context.set_value(_AGREED, _Agreed(made_current, span, entries), written)


def _with(base: Context, span: Span, entries: Mapping[str, str]) -> Context:
    """Return *base* with a span and with no other baggage than these entries."""
    written = baggage.clear(trace.set_span_in_context(span, base))
    for name, value in entries.items():
        written = baggage.set_baggage(name, value, written)
    return written


def _span_of(ours: TraceContext, base: Context) -> Span:
    """Return the span that a context of ours names: the very one where it is known."""
    known: Span | None = getattr(ours, "span", None)
    if known is not None:
        return known
    current = trace.get_current_span(base)
    ids = _ids_of(ours)
    found = current.get_span_context()
    is_current = (found.trace_id, found.span_id) == (ids.trace_id, ids.span_id)
    return current if is_current else NonRecordingSpan(ids)


def _ids_of(ours: TraceContext) -> SpanContext:
    return SpanContext(
        trace_id=int(ours.trace_id, 16),
        span_id=int(ours.span_id, 16),
        is_remote=ours.is_remote,
        trace_flags=TraceFlags(ours.trace_flags),
        trace_state=trace.TraceState.from_header([ours.trace_state.to_header()]),
    )


def _baggage_of(shared: Mapping[str, object]) -> Baggage:
    """Return OpenTelemetry's baggage as ours; entries that W3C does not allow are left out."""
    made = Baggage.EMPTY
    for name, value in shared.items():
        try:
            made = made.set(name, str(value))
        except AbstractSpakkyTracingError as error:
            _logger.debug("an entry of OpenTelemetry's baggage is left out: %s", error)
        except Exception as error:  # noqa: BLE001 - a value there is any object, which may have no text
            _logger.debug("an entry of OpenTelemetry's baggage is left out: %s", type(error).__name__)
    return made


# --- spans


class OpenTelemetryTracer:
    """Records boundaries as spans of OpenTelemetry; `install` sets one for all boundaries.

    Attributes:
        records_receiving: Whether `iterate` also makes a span of the wait for each message.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None, *, receive_spans: bool = False) -> None:
        """Record by *tracer_provider*, `None` for the global one, also if that is set later.

        Args:
            tracer_provider: What makes the spans.
            receive_spans: See `records_receiving`.

        Raises:
            WrongUseError: One of them is something else.
        """
        _check("tracer_provider", tracer_provider, TracerProvider)
        if not isinstance(receive_spans, bool):
            message = f"receive_spans= takes True or False, got {receive_spans!r}"
            raise WrongUseError(message)
        self.records_receiving = receive_spans
        self._tracer = trace.get_tracer(_SCOPE, tracer_provider=tracer_provider)

    def start(self, operation: Operation) -> _OpenSpan:
        """Start a span."""
        base = context.get_current()
        parent = INVALID_SPAN if operation.parent is None else _span_of(operation.parent, base)
        span = self._tracer.start_span(
            _name_of(operation),
            context=_with(base, parent, dict(operation.context.baggage)),
            kind=_kind_of(operation),
            attributes=_attributes_of(operation),
            links=[Link(_ids_of(link)) for link in operation.links],
            start_time=operation.start_unix_nano,
        )
        return _OpenSpan(span, operation)


class _OpenSpan:
    """A span of OpenTelemetry that has started."""

    def __init__(self, span: Span, operation: Operation) -> None:
        self._span = span
        self.context = _context_of(span, operation)

    def end(self, outcome: Outcome, error: BaseException | None = None) -> None:
        """End the span."""
        try:
            self._tell(outcome, error)
        finally:
            self._span.end()

    def _tell(self, outcome: Outcome, error: BaseException | None) -> None:
        """Say how it ended; what is no failure, such as a cancellation, is told by the outcome alone."""
        span = self._span
        span.set_attribute("spakky.outcome", outcome)
        if outcome in _FAILURES:
            span.set_attribute("error.type", "_OTHER" if error is None else _qualified_name(type(error)))
        if outcome == "error":
            span.set_status(Status(StatusCode.ERROR, None if error is None else _text_of(error)))
        if outcome in _FAILURES and error is not None:
            span.record_exception(error)


def _text_of(error: BaseException) -> str:
    """Return the message of an exception, as OpenTelemetry describes the status of a span."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - an exception of the user's, which may have no text
        return type(error).__name__


def _context_of(span: Span, operation: Operation) -> TraceContext:
    """Return the context of a span.

    If there is no SDK to give it ids of its own, what is sent is the current context itself.
    """
    given, parent = span.get_span_context(), operation.parent
    parent_span_id = None if parent is None else parent.span_id
    made = _OfSpan.made_of(span, operation.context.baggage, parent_span_id)
    if made is not None and f"{given.span_id:016x}" != parent_span_id:
        return made
    return operation.context if operation.kind != "producer" or parent is None else parent


def _kind_of(operation: Operation) -> SpanKind:
    """Return the kind of a span; a send that links to the contexts in its messages made none of them."""
    if operation.kind == "producer" and operation.links:
        return SpanKind.CLIENT
    return _KINDS[operation.kind]


def _name_of(operation: Operation) -> str:
    """Return the name of a span, without what has too many values for one.

    That is the path of a request (conventions for HTTP), and a name that the broker made up for a queue.
    """
    is_made_up = operation.system == "http" or _is_temporary(operation)
    return operation.name.partition(" ")[0] if is_made_up else operation.name


def _is_temporary(operation: Operation) -> bool:
    return any(part.startswith(_NAMED_BY_THE_BROKER) for part in operation.destination.split(":"))


def _attributes_of(operation: Operation) -> dict[str, str | int | bool]:
    """Return what is known of an operation at its start; samplers see all of it."""
    verb = operation.name.partition(" ")[0]
    if operation.system == "http":
        given: dict[str, str | int | bool | None] = {
            "http.request.method": verb if verb in _METHODS else "_OTHER",
            **_place_of(operation),
        }
    else:
        is_temporary = _is_temporary(operation) or None
        given = {
            "messaging.system": operation.system,
            "messaging.operation.name": verb,
            "messaging.operation.type": "create" if verb == "create" else _TYPES.get(operation.kind),
            "messaging.destination.name": operation.destination or None,
            "messaging.destination.anonymous": is_temporary,
            "messaging.destination.temporary": is_temporary,
            "messaging.batch.message_count": operation.message_count,
            "spakky.attempt": operation.attempt,
            "spakky.death_count": operation.death_count,
            "spakky.is_redelivered": operation.is_redelivered,
            "spakky.is_scheduled": operation.is_scheduled or None,
            "spakky.queue_time_nano": operation.queue_time_at(operation.start_unix_nano or time.time_ns()),
        }
    given.update(operation.attributes)
    return {name: value for name, value in given.items() if value is not None}


def _place_of(operation: Operation) -> dict[str, str | int | bool | None]:
    """Return where a request goes: to a path if it is served, to a host and maybe a port if it is sent."""
    if operation.kind == "server":
        return {"url.path": operation.destination or None}
    host, _, port = operation.destination.rpartition(":")
    if not host or not port.isdecimal():  # no port, or an IPv6 address alone in its brackets
        return {"server.address": operation.destination.strip("[]") or None}
    return {"server.address": host.strip("[]"), "server.port": int(port)}


def _qualified_name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


# --- formats


class OpenTelemetryPropagator(ITracePropagator):
    """Any propagator of OpenTelemetry, as one of ours: B3, Jaeger, X-Ray, a composite, ..."""

    def __init__(self, propagator: TextMapPropagator) -> None:
        """Read and write by *propagator*.

        Raises:
            WrongUseError: This is no propagator of OpenTelemetry.
        """
        if not isinstance(propagator, TextMapPropagator):
            message = f"this takes a TextMapPropagator of OpenTelemetry, got {type(propagator).__name__}"
            raise WrongUseError(message)
        self._propagator = propagator

    def inject(self, carrier: Any, context: TraceContext | None = None, setter: Any = None) -> None:
        """Write a context into *carrier*, the current one unless it is given."""
        context = context or TraceContext.get()
        if context is not None:
            options = {} if setter is None else {"setter": setter}
            self._propagator.inject(carrier, _written(Context(), context), **options)

    def extract(self, carrier: Any, getter: Any = None) -> TraceContext | None:
        """Return the context that *carrier* brings, `None` if there is none that is valid."""
        read = self._read(carrier, getter)
        ours = _OfSpan.made_of(trace.get_current_span(read), _baggage_of(baggage.get_all(read)))
        return ours and ours.plain()

    def extract_baggage(self, carrier: Any, getter: Any = None) -> Baggage:
        """Return the baggage that *carrier* brings."""
        return _baggage_of(baggage.get_all(self._read(carrier, getter)))

    def fields(self) -> list[str]:
        """Return the fields that the propagator may write."""
        return sorted(self._propagator.fields)

    def _read(self, carrier: Any, getter: Any) -> Context:
        options = {} if getter is None else {"getter": getter}
        return self._propagator.extract(carrier, Context(), **options)


def _propagator_of(textmap: TextMapPropagator) -> ITracePropagator:
    """Return a propagator of ours for one of OpenTelemetry's: for its usual format it is our own."""
    return W3C if textmap.fields == _W3C_FIELDS else OpenTelemetryPropagator(textmap)
