"""The contract between two processes: what one library sends, the other continues."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from contract.contexts import STALE, TRACEPARENT, full_context
from interop.seen import Sender
from interop.sides import OurSide, producers_of, wire_of
from spakky.tracing.context import TraceContext
from spakky.tracing.recorder import MemoryRecorder

if TYPE_CHECKING:
    from collections.abc import Callable

    from interop.peer import Peer
    from interop.seen import Answer

__all__ = ["ContinuingContract"]

BARE = TraceContext.from_traceparent(TRACEPARENT)


class ContinuingContract(OurSide):
    """Messages between this process, which uses our integration, and one that uses OpenTelemetry's.

    Attributes:
        client: The module of `interop.peers` to run as the other process.
        peer_ways: The ways to consume that its instrumentation covers.
        ways_with_baggage: Those in which it hands out baggage.
        only_links: Whether its consumers begin a trace of their own, which links to the sender.
    """

    client: ClassVar[str]
    peer_ways: ClassVar[list[str]]
    ways_with_baggage: ClassVar[list[str]]
    only_links: ClassVar[bool] = False

    peer: Peer

    @pytest.fixture(autouse=True)
    def _with(self, _over: None, start_peer: Callable[[str, str], Peer]) -> None:
        self.peer = start_peer(self.client, self.address)

    def test_the_other_process_has_nothing_of_ours_in_it(self) -> None:
        modules = self.peer.modules()

        assert [name for name in modules if name.split(".")[0] == "spakky"] == []
        assert "opentelemetry.sdk.trace" in modules

    def test_opentelemetry_continues_what_it_sends_itself(self, peer_way: str) -> None:
        """K-11, A-21: what the other tests rely on, with nothing of ours in between."""
        place = self.place()

        sent = self.peer.send(place, {"congo": "t61"}, {"tenant": "acme"})
        answer = self.peer.receive(place, peer_way)

        assert set(self._senders(answer)) & set(producers_of(sent))
        self._assert_that_baggage_is_handed_out(answer, peer_way)

    async def test_opentelemetry_continues_a_bare_message(self, peer_way: str) -> None:
        place = self.place()

        await self.send_bare(place, {"traceparent": TRACEPARENT, "baggage": "tenant=acme"})
        answer = self.peer.receive(place, peer_way)

        assert Sender(BARE.trace_id, BARE.span_id) in self._senders(answer)
        self._assert_that_baggage_is_handed_out(answer, peer_way)

    async def test_we_continue_what_opentelemetry_sends(self) -> None:
        """K-09, K-10, K-11, A-06, A-21: trace, parent, state and baggage are there during the processing."""
        place = self.place()

        sent = self.peer.send(place, {"congo": "t61"}, {"tenant": "acme"})
        taken = await self.take(place)

        assert taken.sender in producers_of(sent)
        assert taken.sender.trace_state == "congo=t61"
        assert dict(taken.context.baggage) == {"tenant": "acme"}
        assert taken.context.is_sampled

    async def test_opentelemetry_continues_what_we_send(self, peer_way: str) -> None:
        """K-11, A-21: the context that is current where we send is the parent there, or what it links to."""
        place = self.place()

        with TraceContext.use(full_context()) as context:
            await self.send(place)
        answer = self.peer.receive(place, peer_way)

        assert context is not None
        assert Sender(context.trace_id, context.span_id, "congo=t61") in self._senders(answer)
        self._assert_that_baggage_is_handed_out(answer, peer_way)

    async def test_the_span_that_we_record_for_sending_is_the_parent_there(self) -> None:
        place, recorder = self.place(), MemoryRecorder()

        with TraceContext.use(TraceContext.new_root()) as context:
            await self.send(place, tracer=recorder)
        answer = self.peer.receive(place, self.peer_ways[0])

        [sending] = recorder.spans
        assert context is not None
        assert (sending.trace_id, sending.parent_span_id) == (context.trace_id, context.span_id)
        assert Sender(sending.trace_id, sending.span_id) in self._senders(answer)

    async def test_a_trace_goes_from_opentelemetry_through_us_to_opentelemetry(self) -> None:
        """K-01, K-02, A-11: what we send on has one context, that of our processing."""
        first, second = self.place(), self.place()
        contexts: list[TraceContext | None] = []

        async def forward(headers: Any) -> None:
            contexts.append(TraceContext.get())
            await self.send(second, headers)

        sent = self.peer.send(first, {"congo": "t61"}, {"tenant": "acme"})
        await self.receive(first, forward)
        answer = self.peer.receive(second, self.peer_ways[0])

        [ours] = contexts
        assert ours is not None
        assert Sender(ours.trace_id, ours.parent_span_id, "congo=t61") in producers_of(sent)
        assert Sender(ours.trace_id, ours.span_id, "congo=t61") in self._senders(answer)
        wire = wire_of(answer.headers)
        assert wire["traceparent"] == [ours.to_traceparent()]
        assert (wire["tracestate"], wire["baggage"]) == (["congo=t61"], ["tenant=acme"])

    async def test_a_message_that_opentelemetry_forwards_belongs_to_the_forwarding(self) -> None:
        """K-02, A-11: the last traceparent counts, where there are several."""
        first, second = self.place(), self.place()

        await self.send_bare(first, {"traceparent": STALE})
        sent = self.peer.forward(first, self.peer_ways[0], second)
        taken = await self.take(second)

        assert taken.sender in producers_of(sent)
        assert taken.wire["traceparent"][:-1] == ([STALE] if self.appends else [])

    async def test_a_message_of_javas_opentelemetry_is_continued(self) -> None:
        """K-26: plain text in UTF-8, beside a header of another vendor."""
        place = self.place()
        state = "rojo=00f067aa0ba902b7,congo=t61"
        headers = {
            "traceparent": TRACEPARENT,
            "tracestate": state,
            "baggage": "tenant=acme,user=J%C3%BCrgen",
            "elasticapmtraceparent": self.vendor_value,
        }

        await self.send_bare(place, headers)
        taken = await self.take(place)

        assert taken.sender == Sender(BARE.trace_id, BARE.span_id, state)
        assert dict(taken.context.baggage) == {"tenant": "acme", "user": "Jürgen"}

    def _senders(self, answer: Answer) -> list[Sender]:
        """Return what the consuming spans there are children of, or link to where that is all they do."""
        consuming = [span for span in answer.spans if span.kind == "CONSUMER"]
        if self.only_links:
            return [link for span in consuming for link in span.links]
        return [span.parent for span in consuming]

    def _assert_that_baggage_is_handed_out(self, answer: Answer, way: str) -> None:
        if way in self.ways_with_baggage:
            assert answer.baggage == {"tenant": "acme"}
