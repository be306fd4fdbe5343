"""What every integration promises of messages that leave."""

from __future__ import annotations

import asyncio
import copy
import gc
from abc import ABC, abstractmethod
from typing import Any

import pytest

from contract.contexts import STALE, TRACEPARENT, full_context
from contract.formats import B3Propagator, PlainPropagator, b3, plain
from spakky.tracing.baggage import Baggage
from spakky.tracing.boundaries.publish import Publishing
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.propagator import ITracePropagator
from spakky.tracing.recorder import MemoryRecorder

Wire = dict[str, list[Any]]
"""Headers as they arrived: all values of each name, in the client's own types."""


class BrokenPropagator(ITracePropagator):
    """A propagator with a bug."""

    def inject(self, *_: object, **__: object) -> None:
        message = "inject failed"
        raise RuntimeError(message)

    def extract(self, *_: object, **__: object) -> TraceContext | None:
        message = "extract failed"
        raise RuntimeError(message)

    def fields(self) -> list[str]:
        return ["traceparent"]


class BrokenTracer:
    """A tracer with a bug."""

    def start(self, operation: object) -> Any:
        message = f"cannot record {operation}"
        raise RuntimeError(message)


class SendingContract(ABC):
    """Laws 2, 3, 4, 6, 8 and 9, on a real client and a real broker.

    Attributes:
        ways: The names of the ways to send.
        recorded_ways: Those of them that are a boundary of their own, not only headers for one.
        foreign: Headers that are the user's own, in the client's native shape; their bytes must arrive.
        kind: What a sending is.
    """

    ways: list[str]
    recorded_ways: list[str]
    foreign: Any
    kind: str = "producer"

    @abstractmethod
    async def send(self, way: str, headers: Any, **options: Any) -> None:
        """Send one message through the wrapped client, with *headers* as the caller's own."""

    @abstractmethod
    async def arrived(self) -> Wire:
        """Return the headers of the next message, read by the bare client."""

    @abstractmethod
    def native(self, headers: dict[str, str]) -> Any:
        """Return *headers* in the shape that callers of the client use."""

    @abstractmethod
    async def fail_to_send(self, way: str, **options: Any) -> BaseException:
        """Send what the client refuses and return what it raised."""

    async def sent(self, way: str, headers: Any = None, **options: Any) -> Wire:
        await self.send(way, headers, **options)
        return await self.arrived()

    async def test_the_current_context_itself_is_sent(self, way: str) -> None:
        """K-29: one header and no more, where there is no trace state and no baggage."""
        with TraceContext.use(TraceContext.new_root()) as context:
            wire = await self.sent(way)

        assert context is not None
        assert texts(wire, "traceparent") == [context.to_traceparent()]
        assert texts(wire, "tracestate") == texts(wire, "baggage") == []

    async def test_trace_state_and_baggage_are_sent(self, way: str) -> None:
        """A-21, K-10: baggage leaves together with the context."""
        with TraceContext.use(full_context()):
            wire = await self.sent(way)

        assert texts(wire, "tracestate") == ["congo=t61"]
        assert texts(wire, "baggage") == ["tenant=acme"]

    async def test_what_is_written_is_flat_ascii(self, way: str) -> None:
        """A-19: text or its bytes, no number and no table."""
        context = TraceContext.new_root(baggage=Baggage({"customer": "J\xfcrgen"}))

        with TraceContext.use(context):
            wire = await self.sent(way)

        values = [value for name in ("traceparent", "baggage") for value in wire[name]]
        assert len(values) == 2
        assert all(isinstance(value, (str, bytes)) and value.isascii() for value in values)

    async def test_headers_of_the_caller_stay_as_they_were(self, way: str) -> None:
        """A-10, K-03: whatever they are, a list, a dict or an object with more in it."""
        headers = self.native({"traceparent": STALE, "app": "1"})
        before = copy.deepcopy(headers)

        with TraceContext.use(full_context()):
            await self.sent(way, headers)

        assert headers == before
        assert type(headers) is type(before)

    async def test_shared_headers_get_the_context_of_each_send(self, way: str) -> None:
        """A-10, K-03: the same headers object in several sends."""
        headers = self.native({"app": "1"})
        for _ in range(3):
            with TraceContext.use(TraceContext.new_root()) as context:
                wire = await self.sent(way, headers)

            assert context is not None
            assert texts(wire, "traceparent") == [context.to_traceparent()]

    async def test_stale_fields_are_replaced_or_taken_out(self, way: str) -> None:
        """A-11, K-02, K-30, P-03: one of each field, in any casing, and nothing stale."""
        stale = {"traceparent": STALE, "Tracestate": "old=1", "baggage": "old=1"}

        with TraceContext.use(TraceContext.new_root()) as context:
            wire = await self.sent(way, self.native(stale))

        assert context is not None
        assert texts(wire, "traceparent") == [context.to_traceparent()]
        assert texts(wire, "tracestate") == texts(wire, "baggage") == []

    async def test_other_headers_arrive_as_they_were_given(self, way: str) -> None:
        """K-02, K-06: in their order, with their types and bytes."""
        bare = await self.sent(way, self.foreign, enabled=False)
        with TraceContext.use(full_context()):
            wire = await self.sent(way, self.foreign)

        ours = {"traceparent", "tracestate", "baggage"}
        assert {name: values for name, values in wire.items() if name not in ours} == bare
        assert [name for name in wire if name not in ours] == list(bare)

    async def test_outside_a_trace_a_new_one_starts(self, way: str) -> None:
        first, second = await self.sent(way), await self.sent(way)

        roots = [TraceContext.from_traceparent(texts(wire, "traceparent")[0]) for wire in (first, second)]
        assert roots[0].trace_id != roots[1].trace_id
        assert TraceContext.get() is None

    async def test_outside_a_trace_a_valid_context_of_the_caller_is_kept(self, way: str) -> None:
        """A-11, P-02: the policy for what is there where no context is current."""
        carried = {"traceparent": TRACEPARENT, "tracestate": "a=1", "baggage": "user=7"}

        wire = await self.sent(way, self.native(carried))

        assert {name: texts(wire, name) for name in carried} == {k: [v] for k, v in carried.items()}

    async def test_outside_a_trace_a_malformed_context_is_replaced(self, way: str) -> None:
        """A-11, P-02, P-03: with the trace state that belonged to it."""
        wire = await self.sent(way, self.native({"traceparent": "00-what-is-this-01", "tracestate": "a=1"}))

        (sent,) = texts(wire, "traceparent")
        assert TraceContext.from_traceparent(sent).parent_span_id is None
        assert texts(wire, "tracestate") == []

    async def test_outside_a_trace_baggage_of_the_caller_is_kept(self, way: str) -> None:
        wire = await self.sent(way, self.native({"baggage": "user=7"}))

        assert texts(wire, "baggage") == ["user=7"]
        assert len(texts(wire, "traceparent")) == 1

    async def test_keep_leaves_the_context_of_the_caller(self, way: str) -> None:
        with TraceContext.use(full_context()):
            wire = await self.sent(way, self.native({"traceparent": TRACEPARENT}), keep=True)

        assert texts(wire, "traceparent") == [TRACEPARENT]
        assert texts(wire, "tracestate") == texts(wire, "baggage") == []

    async def test_switched_off_nothing_is_written(self, way: str) -> None:
        with TraceContext.use(full_context()):
            wire = await self.sent(way, self.native({"app": "1"}), enabled=False)

        assert texts(wire, "app") == ["1"]
        assert not {"traceparent", "tracestate", "baggage"} & wire.keys()

    async def test_the_context_afterwards_is_the_one_before(self, way: str) -> None:
        """K-19: nothing of a send stays current."""
        with TraceContext.use(TraceContext.new_root()) as context:
            await self.sent(way, tracer=MemoryRecorder())

            assert TraceContext.get() is context

    async def test_nothing_is_kept_of_a_message_that_is_sent(self, way: str) -> None:
        gc.freeze()  # what is there already is not looked at
        with TraceContext.use(full_context()):
            await self.sent(way, tracer=MemoryRecorder())

        assert kept(Publishing) == []

    async def test_concurrent_sends_do_not_mix(self, way: str) -> None:
        """A-10: although they share their headers."""
        shared = self.native({"app": "1"})

        async def send_in_own_trace() -> str:
            with TraceContext.use(TraceContext.new_root()) as context:
                await self.send(way, shared)
            assert context is not None
            return context.to_traceparent()

        sent = await asyncio.gather(*(send_in_own_trace() for _ in range(20)))
        wires = [await self.arrived() for _ in sent]

        assert sorted(texts(wire, "traceparent")[0] for wire in wires) == sorted(sent)

    async def test_a_recorded_send_is_a_child_whose_id_is_on_the_wire(self, recorded_way: str) -> None:
        recorder = MemoryRecorder()

        with TraceContext.use(full_context()) as context:
            wire = await self.sent(recorded_way, tracer=recorder)

        assert context is not None
        sent = TraceContext.from_traceparent(texts(wire, "traceparent")[0])
        span = next(span for span in recorder.spans if span.span_id == sent.span_id)
        assert (span.trace_id, span.parent_span_id) == (context.trace_id, context.span_id)
        assert (span.kind, span.outcome, span.error) == (self.kind, "ok", None)
        assert texts(wire, "baggage") == ["tenant=acme"]

    async def test_a_recorded_root_is_the_one_on_the_wire(self, recorded_way: str) -> None:
        recorder = MemoryRecorder()

        wire = await self.sent(recorded_way, tracer=recorder)

        sent = TraceContext.from_traceparent(texts(wire, "traceparent")[0])
        assert (sent.span_id, None) in {(span.span_id, span.parent_span_id) for span in recorder.spans}

    async def test_a_send_that_fails_raises_what_the_client_raises(self, recorded_way: str) -> None:
        """K-22: the client's own error, and a span that says so."""
        recorder = MemoryRecorder()
        bare = await self.fail_to_send(recorded_way, enabled=False)

        with TraceContext.use(TraceContext.new_root()) as context:
            error = await self.fail_to_send(recorded_way, tracer=recorder)
            assert TraceContext.get() is context

        assert type(error) is type(bare)
        assert [span.outcome for span in recorder.spans] == ["error"]

    async def test_a_propagator_that_fails_does_not_fail_the_send(self, way: str) -> None:
        """K-04: an error of ours is no error of the send."""
        with TraceContext.use(full_context()):
            wire = await self.sent(way, self.native({"app": "1"}), propagator=BrokenPropagator())

        assert texts(wire, "app") == ["1"]
        assert "traceparent" not in wire

    async def test_a_tracer_that_fails_does_not_fail_the_send(self, way: str) -> None:
        with TraceContext.use(TraceContext.new_root()) as context:
            wire = await self.sent(way, tracer=BrokenTracer())

        assert context is not None
        assert texts(wire, "traceparent") == [context.to_traceparent()]

    async def test_another_format_replaces_its_own_fields_and_no_others(self, way: str) -> None:
        """P-12: a propagator of the user's own, B3, over the same boundary."""
        stale = self.native({"B3": b3(TraceContext.new_root()), "baggage": "user=7", "app": "1"})

        with TraceContext.use(full_context()) as context:
            wire = await self.sent(way, stale, propagator=B3Propagator())

        assert context is not None
        assert texts(wire, "b3") == [b3(context)]
        assert (texts(wire, "app"), texts(wire, "baggage")) == (["1"], ["user=7"])
        assert texts(wire, "traceparent") == []

    async def test_a_propagator_of_dicts_replaces_its_own_fields_and_no_others(self, way: str) -> None:
        """Spakky's propagators have methods that take the carrier alone."""
        stale = self.native({"x-trace": "old/1", "baggage": "user=7", "app": "1"})

        with TraceContext.use(full_context()) as context:
            wire = await self.sent(way, stale, propagator=PlainPropagator())
            assert TraceContext.get() is context

        assert context is not None
        assert texts(wire, "x-trace") == [plain(context)]
        assert (texts(wire, "app"), texts(wire, "baggage")) == (["1"], ["user=7"])
        assert texts(wire, "traceparent") == []

    async def test_an_unknown_option_is_refused(self, way: str) -> None:
        with pytest.raises(WrongUseError, match="there is no option 'relations' here"):
            await self.send(way, None, relations="child")

    async def test_baggage_of_the_current_context_replaces_that_of_the_headers(self, way: str) -> None:
        """P-03: also stale baggage is replaced."""
        context = TraceContext.new_root(baggage=Baggage({"tenant": "acme"}))

        with TraceContext.use(context):
            wire = await self.sent(way, self.native({"baggage": "tenant=old,left=over"}))

        assert texts(wire, "baggage") == ["tenant=acme"]

    async def test_members_of_another_tool_stay_in_the_baggage(self, way: str) -> None:
        """C-14: what Sentry wrote for this message stays as it is; what it wrote for an earlier one goes."""
        context = TraceContext.new_root(baggage=Baggage({"sentry-trace_id": "old", "tenant": "acme"}))
        theirs = "sentry-trace_id=771a43a4,left=over,sentry-release=a%2C1;x=y"

        with TraceContext.use(context):
            wire = await self.sent(way, self.native({"Baggage": theirs, "sentry-trace": "771a43a4-1"}))

        assert texts(wire, "baggage") == ["tenant=acme,sentry-trace_id=771a43a4,sentry-release=a%2C1;x=y"]
        assert texts(wire, "sentry-trace") == ["771a43a4-1"]

    async def test_members_of_another_tool_stay_without_any_of_ours(self, way: str) -> None:
        """C-14: also outside of a trace, where the user's own members stay too."""
        theirs = "sentry-trace_id=771a43a4,user=7"

        with TraceContext.use(TraceContext.new_root()):
            inside = await self.sent(way, self.native({"baggage": theirs}))
        outside = await self.sent(way, self.native({"baggage": theirs}))

        assert texts(inside, "baggage") == ["sentry-trace_id=771a43a4"]
        assert texts(outside, "baggage") == ["user=7,sentry-trace_id=771a43a4"]

    async def test_of_too_much_baggage_the_members_of_the_user_stay(self, way: str) -> None:
        """C-14: the W3C's 8192 bytes, of which each member has all or nothing."""
        context = TraceContext.new_root(baggage=Baggage({"tenant": "a" * 8_000}))
        theirs = f"sentry-environment={'e' * 200},sentry-trace_id=771a43a4"

        with TraceContext.use(context):
            wire = await self.sent(way, self.native({"baggage": theirs}))

        assert texts(wire, "baggage") == [f"tenant={'a' * 8_000},sentry-trace_id=771a43a4"]


def kept(kind: type[object]) -> list[object]:
    """Return the objects of a *kind* that something still holds, less those that were frozen."""
    gc.collect()
    return [each for each in gc.get_objects() if isinstance(each, kind)]


def texts(wire: Wire, name: str) -> list[str]:
    """Return the values of *name* in any casing, as text."""
    values = [value for key, found in wire.items() if key.lower() == name for value in found]
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]
