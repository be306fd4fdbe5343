"""What every integration promises of messages that arrive."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
from abc import ABC, abstractmethod
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import pytest

from contract.contexts import TRACEPARENT
from contract.formats import B3Propagator, PlainPropagator, b3, plain
from contract.sending import BrokenPropagator, BrokenTracer, kept
from spakky.tracing.context import Scope, TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.recorder import MemoryRecorder

if TYPE_CHECKING:
    from collections.abc import Callable

SENDER = TraceContext.from_traceparent(TRACEPARENT)
PATIENCE = 15


class HandlerError(Exception):
    """What a handler of the contract raises."""


class ReceivingContract(ABC):
    """Laws 1, 4, 5, 7, 8 and 9, on a real client and a real broker.

    Attributes:
        ways: The names of the ways to receive.
        hostile_values: Values of a `traceparent` header, in all types that the broker carries.
        sees_errors: The ways in which the boundary sees what the handler raises.
    """

    ways: list[str]
    hostile_values: list[Any]
    sees_errors: list[str]

    @abstractmethod
    async def receive(
        self, way: str, headers: dict[str, Any], body: Callable[[], None], **options: Any
    ) -> None:
        """Deliver a message by the bare client and run *body* where its handler's code would run.

        Args:
            way: One of `ways`.
            headers: The headers on the wire, values in the client's own types.
            body: Called once. What it raises comes out as it would come out of a bare handler.
            **options: Those of the integration.
        """

    async def seen(self, way: str, headers: dict[str, Any], **options: Any) -> TraceContext:
        """Return the context that is current while a message with *headers* is processed."""
        contexts: list[TraceContext | None] = []
        await self.receive(way, headers, lambda: contexts.append(TraceContext.get()), **options)
        (context,) = contexts
        assert context is not None
        return context

    async def test_the_trace_is_continued_in_a_new_span(self, way: str) -> None:
        """K-09: the context is current where the message is processed."""
        context = await self.seen(way, {"traceparent": TRACEPARENT})

        assert (context.trace_id, context.parent_span_id) == (SENDER.trace_id, SENDER.span_id)
        assert context.span_id != SENDER.span_id
        assert not context.is_remote

    async def test_trace_state_and_baggage_arrive(self, way: str) -> None:
        """A-06, K-10: baggage together with a context."""
        context = await self.seen(
            way, {"traceparent": TRACEPARENT, "tracestate": "a=1,b=2", "baggage": "tenant=acme"}
        )

        assert context.trace_state.to_header() == "a=1,b=2"
        assert dict(context.baggage) == {"tenant": "acme"}

    async def test_a_name_in_any_casing_is_found(self, way: str) -> None:
        """K-30: as bridges from HTTP write it."""
        context = await self.seen(way, {"TraceParent": TRACEPARENT})

        assert context.trace_id == SENDER.trace_id

    async def test_without_a_context_a_new_trace_starts(self, way: str) -> None:
        """P-04: never the trace that happens to be current."""
        with TraceContext.use(TraceContext.new_root()) as ambient:
            context = await self.seen(way, {})

        assert ambient is not None
        assert context.parent_span_id is None
        assert context.trace_id != ambient.trace_id

    async def test_a_context_of_the_message_wins_over_the_ambient_one(self, way: str) -> None:
        with TraceContext.use(TraceContext.new_root()):
            context = await self.seen(way, {"traceparent": TRACEPARENT})

        assert context.trace_id == SENDER.trace_id

    async def test_baggage_alone_arrives_in_a_new_trace(self, way: str) -> None:
        """K-10, P-13: baggage without a traceparent."""
        context = await self.seen(way, {"baggage": "tenant=acme"})

        assert dict(context.baggage) == {"tenant": "acme"}
        assert context.parent_span_id is None

    async def test_a_hostile_header_starts_a_new_trace_and_says_why_once(
        self, way: str, hostile: object, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A-02, K-04, K-07, P-08: of any type and any bytes."""
        caplog.set_level(logging.DEBUG, logger="spakky.tracing")

        context = await self.seen(way, {"traceparent": hostile, "tracestate": "a=1"})

        assert context.parent_span_id is None
        assert not context.trace_state
        assert len([record for record in caplog.records if record.name == "spakky.tracing"]) == 1
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]

    async def test_a_hostile_trace_state_leaves_the_trace_whole(self, way: str, hostile: object) -> None:
        """A-02, K-04: a bad tracestate or baggage costs itself only."""
        context = await self.seen(
            way, {"traceparent": TRACEPARENT, "tracestate": hostile, "baggage": hostile}
        )

        assert context.trace_id == SENDER.trace_id
        assert not context.trace_state

    async def test_afterwards_the_context_before_is_back(self, way: str) -> None:
        """K-09, P-09: restored, not cleared."""
        with TraceContext.use(TraceContext.new_root()) as before:
            await self.seen(way, {"traceparent": TRACEPARENT})

            assert TraceContext.get() is before

    async def test_after_an_error_the_context_before_is_back(self, way: str) -> None:
        """A-08, P-09: restored, not cleared."""

        def fail() -> None:
            raise HandlerError

        with TraceContext.use(TraceContext.new_root()) as before:
            with pytest.raises(HandlerError):
                await self.receive(way, {"traceparent": TRACEPARENT}, fail)

            assert TraceContext.get() is before

    async def test_after_a_cancellation_the_context_before_is_back(self, way: str) -> None:
        """P-09: restored, not cleared."""

        def cancel() -> None:
            raise asyncio.CancelledError

        with TraceContext.use(TraceContext.new_root()) as before:
            with pytest.raises(asyncio.CancelledError):
                await self.receive(way, {"traceparent": TRACEPARENT}, cancel)

            assert TraceContext.get() is before

    async def test_a_context_set_by_the_handler_is_gone_afterwards(self, way: str) -> None:
        with TraceContext.use(TraceContext.new_root()) as before:
            await self.receive(
                way, {"traceparent": TRACEPARENT}, lambda: TraceContext.set(TraceContext.new_root())
            )

            assert TraceContext.get() is before

    async def test_a_task_started_in_the_handler_keeps_the_context(self, way: str) -> None:
        done = asyncio.Event()
        seen: list[TraceContext | None] = []
        tasks: list[asyncio.Task[None]] = []

        async def look_later() -> None:
            await done.wait()
            seen.append(TraceContext.get())

        await self.receive(
            way, {"traceparent": TRACEPARENT}, lambda: tasks.append(asyncio.create_task(look_later()))
        )
        done.set()
        await asyncio.gather(*tasks)

        assert [context and context.trace_id for context in seen] == [SENDER.trace_id]

    async def test_a_thread_started_in_the_handler_inherits_the_context(self, way: str) -> None:
        tasks: list[asyncio.Task[TraceContext | None]] = []

        await self.receive(
            way,
            {"traceparent": TRACEPARENT},
            lambda: tasks.append(asyncio.create_task(asyncio.to_thread(TraceContext.get))),
        )
        seen = await asyncio.gather(*tasks)

        assert [context and context.trace_id for context in seen] == [SENDER.trace_id]

    async def test_link_starts_a_trace_with_the_baggage_of_the_sender(self, way: str) -> None:
        """K-11: `link` in the place of `child`, for one call."""
        recorder = MemoryRecorder()

        context = await self.seen(
            way, {"traceparent": TRACEPARENT, "baggage": "tenant=acme"}, relation="link", tracer=recorder
        )

        assert context.trace_id != SENDER.trace_id
        assert context.parent_span_id is None
        assert dict(context.baggage) == {"tenant": "acme"}
        (span,) = recorder.spans
        assert [(link.trace_id, link.span_id) for link in span.links] == [(SENDER.trace_id, SENDER.span_id)]

    async def test_root_ignores_the_sender(self, way: str) -> None:
        recorder = MemoryRecorder()

        context = await self.seen(
            way, {"traceparent": TRACEPARENT, "baggage": "tenant=acme"}, relation="root", tracer=recorder
        )

        assert context.trace_id != SENDER.trace_id
        assert not context.baggage
        (span,) = recorder.spans
        assert span.links == ()

    async def test_switched_off_the_ambient_context_stays(self, way: str) -> None:
        with TraceContext.use(TraceContext.new_root()) as ambient:
            context = await self.seen(way, {"traceparent": TRACEPARENT}, enabled=False)

        assert context is ambient

    async def test_a_propagator_that_fails_does_not_fail_the_handler(self, way: str) -> None:
        """A-08: the handler runs, once."""
        context = await self.seen(way, {"traceparent": TRACEPARENT}, propagator=BrokenPropagator())

        assert context.parent_span_id is None

    async def test_a_tracer_that_fails_does_not_fail_the_handler(self, way: str) -> None:
        """A-08: the handler runs, once."""
        context = await self.seen(way, {"traceparent": TRACEPARENT}, tracer=BrokenTracer())

        assert context.trace_id == SENDER.trace_id

    async def test_the_processing_is_recorded(self, way: str) -> None:
        """K-12: once, when its block ends."""
        recorder = MemoryRecorder()

        context = await self.seen(way, {"traceparent": TRACEPARENT}, tracer=recorder)

        (span,) = recorder.spans
        assert (span.trace_id, span.span_id) == (context.trace_id, context.span_id)
        assert span.parent_span_id == SENDER.span_id
        assert span.outcome in ({"ok"} if way in self.sees_errors else {"ok", "unknown"})
        assert span.end_unix_nano >= span.start_unix_nano

    async def test_an_error_of_the_handler_is_recorded(self, way: str) -> None:
        recorder = MemoryRecorder()

        def fail() -> None:
            raise HandlerError

        with pytest.raises(HandlerError):
            await self.receive(way, {"traceparent": TRACEPARENT}, fail, tracer=recorder)

        (span,) = recorder.spans
        if way in self.sees_errors:
            assert (span.outcome, span.error) == ("error", "contract.receiving.HandlerError")
        else:
            assert (span.outcome, span.error) == ("unknown", None)

    async def test_nothing_is_kept_of_a_message_that_is_done(self, way: str) -> None:
        def fail() -> None:
            raise HandlerError

        gc.freeze()  # what is there already is not looked at
        for body in (lambda: None, fail):
            with contextlib.suppress(HandlerError):
                await self.receive(way, {"traceparent": TRACEPARENT}, body, tracer=MemoryRecorder())

        assert kept(Scope) == []

    async def test_headers_of_others_are_not_looked_at(self, hostile: object) -> None:
        """K-06, K-26: a schema id, a format of another vendor, whatever it is made of."""
        foreign = {"x-schema": hostile, "elasticapmtraceparent": hostile}

        context = await self.seen(self.ways[0], {**foreign, "traceparent": TRACEPARENT, "zz": hostile})

        assert context.parent_span_id == SENDER.span_id

    async def test_another_format_is_read_by_its_own_fields_only(self, way: str) -> None:
        """P-12: a propagator of the user's own, B3, over the same boundary."""
        other = TraceContext.new_root()

        context = await self.seen(
            way, {"traceparent": TRACEPARENT, "b3": b3(other)}, propagator=B3Propagator()
        )

        assert context.parent_span_id == other.span_id

    async def test_a_propagator_of_dicts_reads_its_own_fields_only(self, way: str) -> None:
        """Spakky's propagators have methods that take the carrier alone; names are found in any casing."""
        other = TraceContext.new_root()
        headers = {"traceparent": TRACEPARENT, "x-trace": plain(other)}

        context = await self.seen(way, headers, propagator=PlainPropagator())

        assert (context.trace_id, context.parent_span_id) == (other.trace_id, other.span_id)

    async def test_an_unknown_option_is_refused(self, way: str) -> None:
        with pytest.raises(WrongUseError, match="there is no option 'relations' here"):
            await self.receive(way, {}, lambda: None, relations="child")

    async def test_an_unknown_relation_is_refused(self, way: str) -> None:
        with pytest.raises(WrongUseError, match="relation= takes 'child', 'link' or 'root', got 'parent'"):
            await self.receive(way, {}, lambda: None, relation="parent")


class SyncReceivingContract(ReceivingContract):
    """The same where handlers run without an event loop."""

    async def test_a_task_started_in_the_handler_keeps_the_context(self, way: str) -> None:
        """The task brings its own loop."""
        seen: list[TraceContext | None] = []

        async def look() -> None:
            seen.append(TraceContext.get())

        async def start() -> None:
            await asyncio.create_task(look())

        await self.receive(way, {"traceparent": TRACEPARENT}, lambda: asyncio.run(start()))

        assert [context and context.trace_id for context in seen] == [SENDER.trace_id]

    async def test_a_thread_started_in_the_handler_inherits_the_context(self, way: str) -> None:
        """A thread gets the context as `asyncio.to_thread` hands it over."""
        seen: list[TraceContext | None] = []
        go_on = threading.Event()
        threads: list[threading.Thread] = []

        def look_later() -> None:
            go_on.wait(PATIENCE)
            seen.append(TraceContext.get())

        def start() -> None:
            threads.append(threading.Thread(target=copy_context().run, args=[look_later]))
            threads[0].start()

        await self.receive(way, {"traceparent": TRACEPARENT}, start)
        go_on.set()
        threads[0].join()

        assert [context and context.trace_id for context in seen] == [SENDER.trace_id]
