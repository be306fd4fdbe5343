"""What a message carries, and sentences about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Self

from spakky.tracing._text import readable
from spakky.tracing.baggage import Baggage
from spakky.tracing.context import TraceContext
from spakky.tracing.error import InvalidTraceparentError, InvalidTraceStateError, WrongUseError
from spakky.tracing.testing._headers import headers_of
from spakky.tracing.testing._wording import fail, ids, listed, sides
from spakky.tracing.trace_state import TraceState
from spakky.tracing.w3c_propagator import BAGGAGE_HEADER, TRACEPARENT_HEADER, TRACESTATE_HEADER

if TYPE_CHECKING:
    from spakky.tracing.recorder import Span
    from spakky.tracing.testing._selection import Which
    from spakky.tracing.testing._traces import Traces

__all__ = ["TracedMessage"]

_LONGEST_QUOTE: Final = 100


class TracedMessage:
    """A message of any client library, as far as tracing goes.

    What begins with `must_` raises `AssertionError` if it does not hold, and returns this message, so that
    sentences can be put one after the other.

    Attributes:
        context: The context in its headers, `None` if there is none or if it is not usable.
    """

    def __init__(self, message: object, traces: Traces) -> None:
        self._kind = type(message).__name__
        self._headers = headers_of(message)
        self._traces = traces
        self.context: TraceContext | None
        self.context, self._fault = self._read()

    def must_carry_the_current_trace(self) -> Self:
        """Say that it was sent in the trace that is current here, with its trace state.

        Raises:
            AssertionError: It carries another trace or none; the text says why.
            WrongUseError: No trace is current here.
        """
        __tracebackhide__ = True
        current = TraceContext.get()
        if current is None:
            message = "no trace is current here: say it inside of `with traces.root():`, or use must_carry()"
            raise WrongUseError(message)
        self._compare(_Expected("the current trace", current.trace_id, current.trace_state))
        return self

    def must_carry(self, trace: TraceContext | Which) -> Self:
        """Say that it was sent in a *trace*.

        Args:
            trace: A context, whose trace state has to be there as well; or a span, or the name of recorded
                spans or of their destination, which then are all of one trace.

        Raises:
            AssertionError: It carries another trace or none; the text says why.
        """
        __tracebackhide__ = True
        if isinstance(trace, TraceContext):
            self._compare(_Expected("the expected trace", trace.trace_id, trace.trace_state))
        else:
            spans = self._traces.of(trace).must_be_one_trace()
            self._compare(_Expected(f"the trace of {spans[0].name!r}", spans[0].trace_id))
        return self

    def must_come_from(self, span: Which) -> Self:
        """Say that its headers name the very *span*, which mostly is the one of its sending.

        Args:
            span: A span, or the name of one recorded span or of its destination.

        Raises:
            AssertionError: They name another span or none; the text says why.
        """
        __tracebackhide__ = True
        sender: Span = self._traces.span(span)
        context = self._valid(f"come from {sender.name!r}")
        if (context.trace_id, context.span_id) != (sender.trace_id, sender.span_id):
            fail(
                f"this {self._kind} must come from {sender.name!r}, but names another span:",
                sides(
                    ("in the message", ids(context.trace_id, context.span_id)),
                    (repr(sender.name), ids(sender.trace_id, sender.span_id)),
                ),
            )
        return self

    def must_carry_a_trace(self) -> Self:
        """Say that it carries a valid context, of whatever trace.

        Raises:
            AssertionError: It does not; the text says why.
        """
        __tracebackhide__ = True
        self._valid("carry a trace")
        self._check_state(None, "carry a trace")
        return self

    def must_carry_no_trace(self) -> Self:
        """Say that there is no traceparent, tracestate or baggage in its headers.

        Raises:
            AssertionError: There is one.
        """
        __tracebackhide__ = True
        fields = (TRACEPARENT_HEADER, TRACESTATE_HEADER, BAGGAGE_HEADER)
        if found := [(name, _quoted(value)) for name, value in self._headers if name in fields]:
            fail(f"this {self._kind} must carry no trace, but it has:", sides(*found))
        return self

    def must_carry_baggage(self, **members: str) -> Self:
        """Say that its baggage has these *members*, maybe beside others.

        Raises:
            AssertionError: One is missing or has another value.
        """
        __tracebackhide__ = True
        found = Baggage.parse([text for value in self._values(BAGGAGE_HEADER) if (text := readable(value))])
        if any(found.get(name) != value for name, value in members.items()):
            fail(
                f"this {self._kind} must carry baggage that it does not carry:",
                sides(("in the message", repr(dict(found))), ("expected", repr(members))),
            )
        return self

    def _compare(self, expected: _Expected) -> None:
        __tracebackhide__ = True
        context = self._valid(f"carry {expected.name}", expected)
        if context.trace_id != expected.trace_id:
            fail(
                f"this {self._kind} must carry {expected.name}, but carries another one:",
                sides(
                    ("in the message", ids(context.trace_id, context.span_id)),
                    (expected.name, ids(expected.trace_id, None)),
                ),
            )
        self._check_state(expected.trace_state, f"carry {expected.name}")

    def _valid(self, duty: str, expected: _Expected | None = None) -> TraceContext:
        """Return the context, or say that it must do its *duty*."""
        __tracebackhide__ = True
        if self.context is None:
            fail(
                f"this {self._kind} must {duty}, but {self._fault}",
                sides(
                    ("in the message", self._told()),
                    *([] if expected is None else [(expected.name, ids(expected.trace_id, None))]),
                ),
            )
        return self.context

    def _check_state(self, expected: TraceState | None, duty: str) -> None:
        """Say that the trace state is valid and as *expected*, if anything is."""
        __tracebackhide__ = True
        texts = [readable(value) for value in self._values(TRACESTATE_HEADER)]
        told = listed(map(_quoted, texts), "none")
        try:
            found = TraceState.parse([text for text in texts if text is not None])
        except InvalidTraceStateError as error:
            sentence = f"this {self._kind} must {duty}, but its tracestate is malformed: {error}"
            fail(sentence, sides(("in the message", told)))
        if expected is None or found == expected:
            return
        fault = "tracestate is stale" if found else "tracestate is missing"
        fail(
            f"this {self._kind} must {duty}, but its {fault}:",
            sides(
                ("in the message", told), ("of the trace", repr(expected.to_header()) if expected else "none")
            ),
        )

    def _read(self) -> tuple[TraceContext | None, str]:
        """Return the context, or `None` and what is wrong."""
        values = self._values(TRACEPARENT_HEADER)
        if not values:
            return None, "it has no header traceparent:"
        if len(values) > 1:
            return None, f"its header traceparent is there {len(values)} times, so somebody added another:"
        text = readable(values[0])
        if text is None:
            return None, f"its traceparent is no text but {type(values[0]).__name__}:"
        try:
            return TraceContext.from_traceparent(text), ""
        except InvalidTraceparentError as error:
            return None, f"its traceparent is malformed: {str(error).removeprefix('traceparent ')}"

    def _values(self, name: str) -> list[object]:
        return [value for each, value in self._headers if each == name]

    def _told(self) -> str:
        """Return what there is of a traceparent, or else the names of what there is."""
        if values := self._values(TRACEPARENT_HEADER):
            return listed(map(_quoted, values))
        if not self._headers:
            return "no headers at all"
        return f"the headers {listed(ascii(name) for name, _ in self._headers)}"


class _Expected(NamedTuple):
    """The trace that a message has to carry; its trace state is `None` where that is not known."""

    name: str
    trace_id: str
    trace_state: TraceState | None = None


def _quoted(value: object) -> str:
    text = readable(value)
    quoted = ascii(value if text is None else text)
    return quoted if len(quoted) <= _LONGEST_QUOTE else f"{quoted[:_LONGEST_QUOTE]}..."
