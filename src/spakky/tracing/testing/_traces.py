"""What a test asks of the trace: spans, waiting for them, a trace of its own, and whether anything leaked."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NoReturn

from spakky.tracing.baggage import Baggage
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.testing._message import TracedMessage
from spakky.tracing.testing._selection import check_filters, selected, that, told
from spakky.tracing.testing._spans import Named, Spans
from spakky.tracing.testing._wording import fail, sides, table
from spakky.tracing.tracer import get_tracer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Unpack

    from spakky.tracing.recorder import Span
    from spakky.tracing.testing._recorded_file import RecordedFile
    from spakky.tracing.testing._selection import SpanFilters, Which
    from spakky.tracing.testing._tracer import RecordingTracer

__all__ = ["Traces"]

_STEP: Final = 0.01
_PATIENCE: Final = 1.0
"""How many seconds a span that is open when a test ends may take to end: its thread may be about to."""


class Traces:
    """The spans of one test, and sentences about them; the fixture `traces` and `recorded_traces` make one.

    What begins with `must_` is a sentence: it raises `AssertionError` if it does not hold. Lookups raise
    it too where there is nothing of the kind, and say what there was. Spans of this process are in the
    process `test`; spans of other ones come from processes that were started with the environment of this
    one, and have their program's file name.

    Attributes:
        file: Where other processes write their spans to. The environment variable `SPAKKY_TRACING_RECORD`
            has it, so it is of use only for a process that is started with an environment of its own.
    """

    def __init__(self, tracer: RecordingTracer, file: Path, files: Sequence[RecordedFile]) -> None:
        """Ask *tracer* for the spans of this process and *files* for those of others."""
        self.file = file
        self._tracer = tracer
        self._files = files
        self._before = TraceContext.get()
        self._roots: list[TraceContext] = []

    @property
    def spans(self) -> list[Span]:
        """The finished spans of this and of other processes, in the order in which they ended."""
        known: dict[tuple[str, str, int, str], Span] = {}
        for spans in (self._tracer.finished, *(file.spans() for file in self._files)):
            for span in spans:
                known.setdefault((span.trace_id, span.span_id, span.process_id, span.kind), span)
        return sorted(known.values(), key=lambda span: span.end_unix_nano)

    def of(self, *which: Which, **filters: Unpack[SpanFilters]) -> Spans:
        """Return the spans that are meant, to say something of them.

        Args:
            *which: Names of spans or of their destinations, in which `*` stands for any text, or spans
                themselves; none at all leaves it to the filters.
            **filters: See `SpanFilters`.

        Raises:
            AssertionError: There is none for one of the names; the text lists what there was.
            WrongUseError: There is no such filter.
        """
        __tracebackhide__ = True
        check_filters(filters)
        found = self._found(which, filters)
        for each, named in zip(which or (None,), found, strict=True):
            if not named.spans:
                self._lack(f"no recorded span {told(each, filters)}")
        return Spans(found, self)

    def span(self, which: Which | None = None, /, **filters: Unpack[SpanFilters]) -> Span:
        """Return the one span that is meant.

        Args:
            which: Its name or that of its destination, in which `*` stands for any text; `None` leaves it to
                the filters.
            **filters: See `SpanFilters`.

        Raises:
            AssertionError: There is none, or there are several; the text lists what there was.
            WrongUseError: There is no such filter.
        """
        __tracebackhide__ = True
        spans = self.of(*(() if which is None else (which,)), **filters)
        if len(spans) > 1:
            fail(
                f"one span was expected{that(which, filters)}, but there are {len(spans)}:",
                table(spans),
            )
        return spans[0]

    def must_have_no(self, which: Which | None = None, /, **filters: Unpack[SpanFilters]) -> None:
        """Say that no such span was recorded so far; without arguments, that none was at all.

        Args:
            which: A name of spans or of their destination, in which `*` stands for any text.
            **filters: See `SpanFilters`.

        Raises:
            AssertionError: There is one; the text lists them.
            WrongUseError: There is no such filter.
        """
        __tracebackhide__ = True
        check_filters(filters)
        if spans := selected(self.spans, which, filters):
            fail(f"no recorded span was expected{that(which, filters)}, but:", table(spans))

    def wait_for(
        self, *which: Which, count: int = 1, timeout: float = 10.0, **filters: Unpack[SpanFilters]
    ) -> Spans:
        """Wait until spans have ended that end elsewhere: in other threads and processes.

        Args:
            *which: As in `of`.
            count: How many spans there have to be for each name.
            timeout: How long to wait at most, in seconds.
            **filters: See `SpanFilters`.

        Returns:
            All that are meant by then, at least *count* for each name.

        Raises:
            AssertionError: They have not ended in that time; the text lists what there was.
            WrongUseError: There is no such filter, or an event loop runs here, which this would block.
        """
        __tracebackhide__ = True
        if _loop_runs_here():
            message = (
                "wait_for would block the event loop of this test: use `await traces.wait_for_async(...)`"
            )
            raise WrongUseError(message)
        check_filters(filters)
        until = time.monotonic() + timeout
        while not self._are_there(which, count, filters):
            if time.monotonic() > until:
                self._not_in_time(which, count, timeout, filters)
            time.sleep(_STEP)
        return self.of(*which, **filters)

    async def wait_for_async(
        self,
        *which: Which,
        count: int = 1,
        timeout: float = 10.0,  # noqa: ASYNC109 - a failure says what there was by then
        **filters: Unpack[SpanFilters],
    ) -> Spans:
        """Do as `wait_for` while the event loop goes on, so that handlers in it can finish as well."""
        __tracebackhide__ = True
        check_filters(filters)
        until = time.monotonic() + timeout
        while not self._are_there(which, count, filters):
            if time.monotonic() > until:
                self._not_in_time(which, count, timeout, filters)
            await _pause()
        return self.of(*which, **filters)

    def message(self, message: object) -> TracedMessage:
        """Return what a *message* carries, to say something of it.

        Args:
            message: A message or request of any client library, headers as a mapping or as pairs, an ASGI
                scope or a WSGI environ. Take the one that has arrived: what a client is given to send is
                mostly left as it was, and only what goes out carries the trace.

        Raises:
            WrongUseError: No headers are found in it.
        """
        return TracedMessage(message, self)

    @contextmanager
    def root(
        self, *, sampled: bool = True, baggage: Mapping[str, str] | None = None
    ) -> Iterator[TraceContext]:
        """Start a trace for a `with` block, in which its context is current.

        Nothing is recorded of the block itself. Afterwards what was current before is so again.

        Args:
            sampled: Whether the sampled flag is set.
            baggage: What travels along from the start.
        """
        context = TraceContext.new_root(sampled=sampled, baggage=Baggage(baggage or {}))
        self._roots.append(context)
        try:
            with TraceContext.use(context):
                yield context
        finally:
            self._roots.remove(context)

    def must_not_leak(self) -> None:
        """Say that every span that has started in this process has ended, and that no context is left over.

        What is current here must be what was so when recording began, or the trace of a `root` around this
        line. A span of another thread gets a second to end, unless an event loop runs here; for that there is
        `must_not_leak_async`.

        Raises:
            AssertionError: A span has not ended, or another context is current.
        """
        __tracebackhide__ = True
        self._check_context()
        until = time.monotonic() + (0 if _loop_runs_here() else _PATIENCE)
        while self._tracer.unfinished and time.monotonic() < until:
            time.sleep(_STEP)
        self._check_unfinished()

    async def must_not_leak_async(self) -> None:
        """Do as `must_not_leak` while the event loop goes on, so that spans in it get a second to end too."""
        __tracebackhide__ = True
        self._check_context()
        await self.settle()
        self._check_unfinished()

    def must_have_current(self, before: TraceContext | None) -> None:
        """Say that *before* is current here, in this task or thread; `None` for no trace.

        Raises:
            AssertionError: It is another one.
        """
        __tracebackhide__ = True
        if (current := TraceContext.get()) != before:
            fail(
                "a trace context leaked: what is current now is not what was before:",
                sides(("now", _told_context(current)), ("before", _told_context(before))),
            )

    async def settle(self) -> None:
        """Give spans that are open a second to end, while the event loop goes on."""
        until = time.monotonic() + _PATIENCE
        while self._tracer.unfinished and time.monotonic() < until:
            await _pause()

    def _found(self, which: Sequence[Which], filters: SpanFilters) -> list[Named]:
        spans = self.spans
        names = [repr(each) if isinstance(each, str) else repr(each.name) for each in which] or [
            "all of them"
        ]
        return [
            Named(name, selected(spans, each, filters))
            for name, each in zip(names, which or (None,), strict=True)
        ]

    def _are_there(self, which: Sequence[Which], count: int, filters: SpanFilters) -> bool:
        return all(len(named.spans) >= count for named in self._found(which, filters))

    def _not_in_time(
        self, which: Sequence[Which], count: int, timeout: float, filters: SpanFilters
    ) -> NoReturn:
        __tracebackhide__ = True
        lacking = [
            f"{len(named.spans)} of {count} for {named.name}"
            for named in self._found(which, filters)
            if len(named.spans) < count
        ]
        among = "".join(f" with {name} {wanted!r}" for name, wanted in filters.items())
        self._lack(f"after {timeout:g} seconds there are {', '.join(lacking)}{among}")

    def _lack(self, sentence: str) -> NoReturn:
        """Say *sentence*, and what there was instead."""
        __tracebackhide__ = True
        lines = table(self.spans) or ["nothing"]
        lines += [f"not ended yet: {span}" for span in list(self._tracer.unfinished.values())]
        if (other := get_tracer()) is not self._tracer:
            lines.append(f"set_tracer was called since: {type(other).__name__} records now, not this")
        fail(f"{sentence}; recorded were:", lines)

    def _check_context(self) -> None:
        __tracebackhide__ = True
        if TraceContext.get() not in self._roots:
            self.must_have_current(self._before)

    def _check_unfinished(self) -> None:
        __tracebackhide__ = True
        if unfinished := list(self._tracer.unfinished.values()):
            noun = "a span was" if len(unfinished) == 1 else f"{len(unfinished)} spans were"
            fail(f"{noun} started and never ended:", map(str, unfinished))


def _told_context(context: TraceContext | None) -> str:
    return "no trace" if context is None else context.to_traceparent()


def _loop_runs_here() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _pause() -> None:
    """Let others go on for a moment: the event loop that runs here, or threads where none is known."""
    if _loop_runs_here():
        await asyncio.sleep(_STEP)
    elif (trio := sys.modules.get("trio")) is not None:
        await trio.sleep(_STEP)
    else:
        time.sleep(_STEP)  # noqa: ASYNC251 - no loop is known that could be asked to wait
