"""The contract of two libraries in one process, on one client.

Nothing bridges them: each has a context of its own. What holds is that they do not break each other.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import pytest

from contract.contexts import TRACEPARENT
from interop.seen import Sender
from interop.sides import OurSide, producers_of
from interop.telemetry import Telemetry
from spakky.tracing.context import TraceContext

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from opentelemetry.trace import TracerProvider

__all__ = ["SharingContract"]


class SharingContract(OurSide):
    """The client is instrumented by OpenTelemetry and wrapped by us.

    Attributes:
        we_write_last: Whether our part is nearer to the broker than OpenTelemetry's.
    """

    we_write_last: ClassVar[bool] = False

    telemetry: Telemetry

    @pytest.fixture(autouse=True)
    def _recording(self) -> None:
        self.telemetry = Telemetry()

    @abstractmethod
    def instrumented(self, provider: TracerProvider) -> AbstractContextManager[object]:
        """Have OpenTelemetry instrument the client library within the block."""

    async def test_a_message_sent_in_a_span_of_opentelemetry_belongs_to_it(self) -> None:
        """K-02: outside of a context of ours, what OpenTelemetry wrote is kept, or comes last and counts."""
        place = self.place()

        app = self.telemetry.provider.get_tracer("app")
        with self.instrumented(self.telemetry.provider), app.start_as_current_span("app"):
            await self.send(place)
        taken = await self.take(place)

        assert taken.sender in producers_of(self.telemetry.take_spans())
        assert len(taken.wire["traceparent"]) == (2 if self.appends else 1)

    async def test_a_message_sent_in_a_context_of_ours_belongs_to_who_writes_last(self) -> None:
        """K-02: OpenTelemetry knows nothing of our context, and begins a trace in its place."""
        place = self.place()

        with (
            self.instrumented(self.telemetry.provider),
            TraceContext.use(TraceContext.new_root()) as context,
        ):
            await self.send(place)
        taken = await self.take(place)

        assert context is not None
        ours = Sender(context.trace_id, context.span_id)
        theirs = producers_of(self.telemetry.take_spans())
        assert taken.sender in ([ours] if self.we_write_last else theirs)
        assert taken.wire["traceparent"][:-1] == ([context.to_traceparent()] if self.appends else [])

    async def test_a_message_that_both_receive_is_continued_by_both(self) -> None:
        """A-08: neither keeps the other from it, nor is a parent of the other."""
        place = self.place()
        await self.send_bare(place, {"traceparent": TRACEPARENT})

        with self.instrumented(self.telemetry.provider):
            taken = await self.take(place)

        sender = TraceContext.from_traceparent(TRACEPARENT)
        expected = Sender(sender.trace_id, sender.span_id)
        consuming = [span for span in self.telemetry.take_spans() if span.kind == "CONSUMER"]
        assert taken.sender == expected
        assert expected in [sender for span in consuming for sender in (span.parent, *span.links)]
