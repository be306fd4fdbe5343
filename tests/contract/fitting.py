"""What every integration promises of messages that are nearly too large for the broker."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import pytest

from contract.sending import texts
from spakky.tracing.baggage import Baggage
from spakky.tracing.context import TraceContext
from spakky.tracing.recorder import MemoryRecorder
from spakky.tracing.trace_state import TraceState

if TYPE_CHECKING:
    from contract.sending import Wire

ROOM_FOR_A_TRACEPARENT = 4_000
ROOM_FOR_ALL = 20_000


class FittingContract(ABC):
    """Injecting never turns a message that fits into one that the broker refuses; on a real broker.

    Attributes:
        fitting_ways: The ways to send that find out about a limit.
        largest: How many bytes of filling the bare client can send, within fifty.
    """

    fitting_ways: list[str]
    largest: int

    @abstractmethod
    async def send_filled(self, way: str, filling: int, **options: Any) -> None:
        """Send a message filled with so many bytes, through the wrapped client."""

    @abstractmethod
    async def arrived(self) -> Wire:
        """Return the headers of the next message, read by the bare client."""

    @pytest.fixture
    def heavy(self) -> TraceContext:
        root = TraceContext.new_root(baggage=Baggage({"tenant": "z" * 8_000}))
        return root.child(trace_state=TraceState({"congo": "t61"}))

    async def test_the_largest_message_arrives_bare_with_one_warning(
        self, fitting_way: str, heavy: TraceContext, caplog: pytest.LogCaptureFixture
    ) -> None:
        await self.send_filled(fitting_way, self.largest, enabled=False)
        assert "traceparent" not in await self.arrived()

        with TraceContext.use(heavy):
            await self.send_filled(fitting_way, self.largest, tracer=MemoryRecorder())
        wire = await self.arrived()

        assert [texts(wire, name) for name in ("traceparent", "tracestate", "baggage")] == [[], [], []]
        (warning,) = warnings_in(caplog)
        assert warning.endswith("is sent without trace context, which makes it too large")

    async def test_outside_a_trace_the_largest_message_arrives_bare(self, fitting_way: str) -> None:
        await self.send_filled(fitting_way, self.largest)

        assert "traceparent" not in await self.arrived()

    async def test_trace_state_and_baggage_are_left_out_first(
        self, fitting_way: str, heavy: TraceContext, caplog: pytest.LogCaptureFixture
    ) -> None:
        with TraceContext.use(heavy):
            await self.send_filled(fitting_way, self.largest - ROOM_FOR_A_TRACEPARENT)
        wire = await self.arrived()

        assert texts(wire, "traceparent") == [heavy.to_traceparent()]
        assert texts(wire, "tracestate") == texts(wire, "baggage") == []
        (warning,) = warnings_in(caplog)
        assert warning.endswith("is sent without trace state and baggage, which makes it too large")
        assert "zzzz" not in warning

    async def test_where_there_is_room_all_of_it_is_sent(
        self, fitting_way: str, heavy: TraceContext, caplog: pytest.LogCaptureFixture
    ) -> None:
        with TraceContext.use(heavy):
            await self.send_filled(fitting_way, self.largest - ROOM_FOR_ALL)
        wire = await self.arrived()

        assert texts(wire, "traceparent") == [heavy.to_traceparent()]
        assert texts(wire, "tracestate") == ["congo=t61"]
        assert texts(wire, "baggage") == [heavy.baggage.to_header()]
        assert warnings_in(caplog) == []

    async def test_the_sizes_around_the_limit_all_arrive(self, fitting_way: str) -> None:
        for filling in range(self.largest - 250, self.largest, 50):
            with TraceContext.use(TraceContext.new_root()):
                await self.send_filled(fitting_way, filling)

            assert len(texts(await self.arrived(), "traceparent")) <= 1


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "spakky.tracing" and record.levelno >= logging.WARNING
    ]
