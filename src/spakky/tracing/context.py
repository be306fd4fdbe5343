"""The trace context: which trace this is, which span of it, and what travels along.

W3C Trace Context Level 2 (Candidate Recommendation): https://www.w3.org/TR/trace-context-2/
"""

from __future__ import annotations

import os
import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, TypeVar

from spakky.tracing._current import Scope, current, make_current
from spakky.tracing.baggage import Baggage
from spakky.tracing.error import InvalidTraceparentError, WrongUseError
from spakky.tracing.trace_state import TraceState

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RANDOM_FLAG", "SAMPLED_FLAG", "Scope", "TraceContext", "generate_span_id", "generate_trace_id"]

SAMPLED_FLAG: Final = 0x01
"""The caller may have recorded this trace (section 3.2.2.5.1)."""

RANDOM_FLAG: Final = 0x02
"""The right-most 7 bytes of the trace id are random (section 3.2.2.5.2)."""

_KNOWN_FLAGS: Final = SAMPLED_FLAG | RANDOM_FLAG

# Section 3.2:  value = version "-" version-format ;  version = 2HEXDIGLC, "ff" is forbidden
# Section 3.2.2:  version-format = trace-id "-" parent-id "-" trace-flags ;  ids of zeros only are forbidden
# Section 3.2.4:  a higher version may go on after the flags with a dash and anything
_TRACEPARENT: Final = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})"
    r"-(?P<trace_id>(?!0{32})[0-9a-f]{32})"
    r"-(?P<span_id>(?!0{16})[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})"
    r"(?P<rest>-.*)?",
    re.DOTALL,
)
_TRACE_ID: Final = re.compile(r"(?!0{32})[0-9a-f]{32}")
_SPAN_ID: Final = re.compile(r"(?!0{16})[0-9a-f]{16}")

_OPTIONAL_WHITESPACE: Final = " \t"
_VERSION_00_LENGTH: Final = 55
_MAX_LENGTH: Final = 512
_MAX_FLAGS: Final = 0xFF

_NO_STATE: Final = TraceState()
_NO_BAGGAGE: Final = Baggage()

_RANDOM_BY_DEFAULT: Final = os.environ.get("SPAKKY_TRACING_RANDOM_FLAG", "").lower() in {
    "1",
    "true",
    "yes",
    "on",
}


_ContextT = TypeVar("_ContextT", bound="TraceContext")


def generate_trace_id() -> str:
    """Return a new trace id: 32 lower-case hexadecimal digits, all random.

    The bits come from the operating system at each call, so that forked processes never share an id.
    """
    return _random_hex(16)


def generate_span_id() -> str:
    """Return a new span id: 16 lower-case hexadecimal digits, all random, from where trace ids come."""
    return _random_hex(8)


def _random_hex(size: int) -> str:
    while True:
        bits = os.urandom(size)
        if any(bits):
            return bits.hex()


class TraceContext:
    """One span of one trace, as it travels between processes; immutable.

    Two contexts are equal if they say the same about the same span; where they came from (`is_remote`) does
    not count.

    Attributes:
        trace_id: 32 lower-case hexadecimal digits, not all zero.
        span_id: 16 lower-case hexadecimal digits, not all zero; the `parent-id` of the traceparent header.
        parent_span_id: The span that this one belongs to, `None` for a root or if it is not known.
        trace_flags: The bit field of section 3.2.2.5, 0 to 255: `SAMPLED_FLAG`, `RANDOM_FLAG`, others.
        trace_state: What tracing systems add for themselves; empty if there is nothing.
        baggage: What the application sends along; empty if there is nothing.
        is_remote: Whether the context was read from a carrier and so names a span of another process.
    """

    __slots__ = (
        "baggage",
        "is_remote",
        "parent_span_id",
        "span_id",
        "trace_flags",
        "trace_id",
        "trace_state",
    )

    trace_id: str
    span_id: str
    parent_span_id: str | None
    trace_flags: int
    trace_state: TraceState
    baggage: Baggage
    is_remote: bool

    def __init__(  # noqa: PLR0913 - one argument for each field
        self,
        *,
        trace_id: str,
        span_id: str,
        parent_span_id: str | None = None,
        trace_flags: int = SAMPLED_FLAG,
        trace_state: TraceState | None = None,
        baggage: Baggage | None = None,
        is_remote: bool = False,
    ) -> None:
        """Make a context of known ids; `new_root`, `child` and `from_traceparent` make most of them.

        Raises:
            InvalidTraceparentError: An id is not what section 3.2.2 allows, or the flags do not fit a byte.
            WrongUseError: The trace state or the baggage is of another type.
        """
        _check("trace_id", trace_id, _TRACE_ID)
        _check("span_id", span_id, _SPAN_ID)
        if parent_span_id is not None:
            _check("parent_span_id", parent_span_id, _SPAN_ID)
        if not (isinstance(trace_flags, int) and 0 <= trace_flags <= _MAX_FLAGS):
            message = f"trace_flags must be an int from 0 to 255, got {trace_flags!r:.80}"
            raise InvalidTraceparentError(message)
        _check_type("trace_state", trace_state, TraceState)
        _check_type("baggage", baggage, Baggage)
        _fill(self, trace_id, span_id, parent_span_id, trace_flags, trace_state, baggage, is_remote=is_remote)

    @staticmethod
    def generate_trace_id() -> str:
        """Return a new trace id; see the function of the same name."""
        return generate_trace_id()

    @staticmethod
    def generate_span_id() -> str:
        """Return a new span id; see the function of the same name."""
        return generate_span_id()

    @classmethod
    def new_root(
        cls, *, sampled: bool = True, random: bool | None = None, baggage: Baggage | None = None
    ) -> Self:
        """Start a trace: new ids, no parent, no trace state.

        Args:
            sampled: Whether the sampled flag is set.
            random: Whether the random flag of Level 2 is set, which our ids qualify for; `None` leaves it to
                the environment variable `SPAKKY_TRACING_RANDOM_FLAG`, and to "no" without that.
            baggage: What travels along from the start.
        """
        if random is None:
            random = _RANDOM_BY_DEFAULT
        flags = (SAMPLED_FLAG if sampled else 0) | (RANDOM_FLAG if random else 0)
        return _fill(cls.__new__(cls), generate_trace_id(), generate_span_id(), None, flags, None, baggage)

    @classmethod
    def from_traceparent(cls, header: str) -> Self:
        """Read a traceparent header (section 3.2); the context is remote.

        Spaces and tabs around it are ignored, unknown flags are dropped, a higher version is read as far as
        it is known (section 3.2.4) and sent on as version 00.

        Args:
            header: The header's value, 512 characters at most.

        Raises:
            InvalidTraceparentError: The header is refused; the message says why.
        """
        if not isinstance(header, str):
            message = f"traceparent must be a str, got {type(header).__name__}"
            raise InvalidTraceparentError(message)
        if len(header) > _MAX_LENGTH:
            message = f"traceparent has {len(header)} characters, more than {_MAX_LENGTH}"
            raise InvalidTraceparentError(message)
        match = _TRACEPARENT.fullmatch(header.strip(_OPTIONAL_WHITESPACE))
        if match is None:
            raise InvalidTraceparentError(_reason(header))
        version, trace_id, span_id, flags, rest = match.groups()
        if version == "00" and rest is not None:
            message = "traceparent of version 00 goes on after the flags"
            raise InvalidTraceparentError(message)
        known = int(flags, 16) & _KNOWN_FLAGS
        return _fill(cls.__new__(cls), trace_id, span_id, None, known, None, None, is_remote=True)

    def to_traceparent(self) -> str:
        """Return the traceparent header (section 3.2): version 00, 55 characters, unknown flags zeroed."""
        return f"00-{self.trace_id}-{self.span_id}-{self.trace_flags & _KNOWN_FLAGS:02x}"

    def child(
        self,
        *,
        sampled: bool | None = None,
        trace_state: TraceState | None = None,
        span_id: str | None = None,
    ) -> Self:
        """Start a span below this one: same trace, new span id, state and baggage carried on.

        The sampled flag and the trace state may only change together with the span id (section 3.4), so this
        is the place to change them; the random flag stays as it was received.

        Args:
            sampled: A new value for the sampled flag; `None` keeps it.
            trace_state: A new trace state; `None` keeps it.
            span_id: 16 hexadecimal digits that are known already; `None` generates new ones.

        Raises:
            InvalidTraceparentError: The span id is not what section 3.2.2.4 allows.
        """
        if span_id is not None:
            _check("span_id", span_id, _SPAN_ID)
        flags = self.trace_flags
        if sampled is not None:
            flags = flags | SAMPLED_FLAG if sampled else flags & ~SAMPLED_FLAG
        state = self.trace_state if trace_state is None else trace_state
        cls = type(self)
        return _fill(
            cls.__new__(cls),
            self.trace_id,
            span_id or generate_span_id(),
            self.span_id,
            flags,
            state,
            self.baggage,
        )

    def with_baggage(self, baggage: Baggage) -> Self:
        """Return the same span with *baggage* in place of its own; an empty one removes it."""
        return _same_span(self, self.trace_state, baggage)

    def with_trace_state(self, trace_state: TraceState) -> Self:
        """Return the same span with the *trace_state* that came with it: what a propagator reads second.

        To change the state of a running trace use `child`: section 3.4 asks for a new span id.
        """
        return _same_span(self, trace_state, self.baggage)

    @property
    def is_sampled(self) -> bool:
        """Whether the sampled flag is set (section 3.2.2.5.1)."""
        return bool(self.trace_flags & SAMPLED_FLAG)

    @property
    def is_random(self) -> bool:
        """Whether the random flag is set (section 3.2.2.5.2)."""
        return bool(self.trace_flags & RANDOM_FLAG)

    @staticmethod
    def get() -> TraceContext | None:
        """Return the current context of this task or thread, `None` outside any trace."""
        return current()

    @staticmethod
    def set(context: TraceContext) -> None:
        """Make *context* current in this task or thread; `use` also puts back what was there before."""
        make_current(context)

    @staticmethod
    def clear() -> None:
        """Leave the trace: nothing is current in this task or thread; `use(None)` does so for a block."""
        make_current(None)

    @staticmethod
    def use(context: TraceContext | None) -> Scope:
        """Return a `with` block in which *context* is current; `None` stands for no trace.

        Afterwards what was current before is so again, also after an exception, a cancellation, or a
        `TraceContext.set` inside. Tasks and threads that are started inside inherit the context and keep it.
        """
        return Scope(context)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        message = f"a TraceContext is immutable: use child() or with_baggage() instead of setting {name}"
        raise AttributeError(message)

    def __delattr__(self, name: str) -> NoReturn:
        message = f"a TraceContext is immutable: {name} cannot be deleted"
        raise AttributeError(message)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TraceContext):
            return NotImplemented
        return _identity(self) == _identity(other)

    def __hash__(self) -> int:
        return hash((self.trace_id, self.span_id))

    def __repr__(self) -> str:
        return f"<TraceContext {self.to_traceparent()} parent={self.parent_span_id}>"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[Callable[..., TraceContext], tuple[object, ...]]:
        return partial(_unpickle, is_remote=self.is_remote), (type(self), *_identity(self))


def _fill(  # noqa: PLR0913, PLR0917 - one argument for each field
    context: _ContextT,
    trace_id: str,
    span_id: str,
    parent_span_id: str | None,
    trace_flags: int,
    trace_state: TraceState | None,
    baggage: Baggage | None,
    *,
    is_remote: bool = False,
) -> _ContextT:
    """Set the fields of a new *context*, past its immutability; the values are known to be valid."""
    put = object.__setattr__
    put(context, "trace_id", trace_id)
    put(context, "span_id", span_id)
    put(context, "parent_span_id", parent_span_id)
    put(context, "trace_flags", trace_flags)
    put(context, "trace_state", _NO_STATE if trace_state is None else trace_state)
    put(context, "baggage", _NO_BAGGAGE if baggage is None else baggage)
    put(context, "is_remote", is_remote)
    return context


def _same_span(context: _ContextT, trace_state: TraceState, baggage: Baggage) -> _ContextT:
    cls = type(context)
    ids = context.trace_id, context.span_id, context.parent_span_id, context.trace_flags
    return _fill(cls.__new__(cls), *ids, trace_state, baggage, is_remote=context.is_remote)


def _identity(context: TraceContext) -> tuple[object, ...]:
    return (
        context.trace_id,
        context.span_id,
        context.parent_span_id,
        context.trace_flags,
        context.trace_state,
        context.baggage,
    )


def _unpickle(cls: type[_ContextT], *values: Any, is_remote: bool) -> _ContextT:  # noqa: ANN401 - as pickled
    return _fill(cls.__new__(cls), *values, is_remote=is_remote)


def _check(name: str, value: object, grammar: re.Pattern[str]) -> None:
    if not (isinstance(value, str) and grammar.fullmatch(value)):
        digits = 32 if grammar is _TRACE_ID else 16
        message = f"{name} must be {digits} lower-case hexadecimal digits, not all zero, got {value!r:.80}"
        raise InvalidTraceparentError(message)


def _check_type(name: str, value: object, expected: type) -> None:
    if value is not None and not isinstance(value, expected):
        message = f"{name} must be a {expected.__name__} or None, got {type(value).__name__}"
        raise WrongUseError(message)


def _reason(header: str) -> str:
    """Say in a sentence why *header* is no traceparent; its text is quoted and cut."""
    header = header.strip(_OPTIONAL_WHITESPACE)
    if len(header) < _VERSION_00_LENGTH:
        why = f"has {len(header)} characters, fewer than {_VERSION_00_LENGTH}"
    elif header.startswith("ff"):
        why = "has the forbidden version ff"
    elif header[3:35] == "0" * 32:
        why = "has a trace-id of zeros"
    elif header[36:52] == "0" * 16:
        why = "has a parent-id of zeros"
    else:
        why = "is not version-traceid-parentid-flags in lower-case hexadecimal digits"
    return f"traceparent {why}: {header[:80]!a}"
