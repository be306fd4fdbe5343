"""The contract of both libraries in one process, on one client, with the bridge between them.

Both are on for sends and receives, which nobody needs: it is what happens to who switches on everything.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from contract.contexts import STALE, TRACEPARENT
from interop.seen import Sender
from interop.sharing import SharingContract
from interop.sides import pairs_of, producers_of
from spakky.tracing.context import TraceContext
from spakky.tracing.integrations import opentelemetry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.trace import TracerProvider

__all__ = ["BridgingContract"]


class BridgingContract(SharingContract):
    """The client is instrumented by OpenTelemetry, wrapped by us, and the bridge is on.

    Attributes:
        bridge_first: Whether the bridge is installed before the client is instrumented.
    """

    # With the bridge on, these are not so; None takes a test out.
    test_a_message_sent_in_a_span_of_opentelemetry_belongs_to_it: ClassVar[Any] = None
    test_a_message_sent_in_a_context_of_ours_belongs_to_who_writes_last: ClassVar[Any] = None
    test_a_message_that_both_receive_is_continued_by_both: ClassVar[Any] = None

    is_kafka: ClassVar[bool] = False

    @pytest.fixture(params=["bridge first", "instrumentation first"])
    def is_bridge_first(self, request: pytest.FixtureRequest) -> bool:
        return bool(request.param == "bridge first")

    @contextmanager
    def both(self, *, is_bridge_first: bool) -> Iterator[None]:
        provider: TracerProvider = self.telemetry.provider
        try:
            if is_bridge_first:
                opentelemetry.install(tracer_provider=provider)
            with self.instrumented(provider):
                if not is_bridge_first:
                    opentelemetry.install(tracer_provider=provider)
                yield
        finally:
            opentelemetry.uninstall()

    def native(self, headers: dict[str, str | bytes]) -> Any:
        return pairs_of(headers) if self.is_kafka else headers

    async def test_there_is_one_traceparent_in_one_trace(self, *, is_bridge_first: bool) -> None:
        """K-02: from the span around the send to the span around the processing."""
        place, app = self.place(), self.telemetry.provider.get_tracer("app")

        with self.both(is_bridge_first=is_bridge_first):
            with app.start_as_current_span("app") as around:
                await self.send(place)
                assert TraceContext.get() is not None
            taken = await self.take(place)
        spans = self.telemetry.take_spans()

        assert len(taken.wire["traceparent"]) == 1
        assert taken.sender in producers_of(spans)
        (sending,) = [span for span in spans if span.own == taken.sender]
        ids = around.get_span_context()
        assert sending.parent.trace_id == f"{ids.trace_id:032x}"
        assert taken.context.trace_id == f"{ids.trace_id:032x}"
        assert TraceContext.get() is None

    async def test_a_context_of_ours_is_the_parent_of_what_is_sent(self, *, is_bridge_first: bool) -> None:
        place = self.place()

        with (
            self.both(is_bridge_first=is_bridge_first),
            TraceContext.use(TraceContext.new_root()) as context,
        ):
            await self.send(place)
        taken = await self.take(place)

        assert context is not None
        assert len(taken.wire["traceparent"]) == 1
        assert taken.sender in producers_of(self.telemetry.take_spans())
        assert taken.sender.trace_id == context.trace_id

    async def test_a_stale_context_is_replaced(self, *, is_bridge_first: bool) -> None:
        """K-02, K-30: also where OpenTelemetry adds to what is there."""
        place, app = self.place(), self.telemetry.provider.get_tracer("app")

        with self.both(is_bridge_first=is_bridge_first), app.start_as_current_span("app"):
            await self.send(place, self.native({"TraceParent": STALE, "elasticapmtraceparent": "1"}))
        taken = await self.take(place)

        found = [len(values) for name, values in taken.wire.items() if name.lower() == "traceparent"]
        assert found == [1]
        assert taken.sender in producers_of(self.telemetry.take_spans())
        assert taken.wire["elasticapmtraceparent"] == ["1"]

    async def test_what_both_receive_has_one_sender(self, *, is_bridge_first: bool) -> None:
        place = self.place()
        await self.send_bare(place, {"traceparent": TRACEPARENT})

        with self.both(is_bridge_first=is_bridge_first):
            taken = await self.take(place)

        sender = TraceContext.from_traceparent(TRACEPARENT)
        assert taken.sender == Sender(sender.trace_id, sender.span_id)
        assert TraceContext.get() is None
