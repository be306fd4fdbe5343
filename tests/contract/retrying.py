"""What every integration promises of messages that come again, and of what they say of their way."""

from __future__ import annotations

import time
from typing import Any

from contract.contexts import STALE, TRACEPARENT
from contract.delivery import Delivery
from contract.receiving import SENDER
from spakky.tracing.recorder import MemoryRecorder, Span

FIELDS = {"traceparent", "tracestate", "baggage", "x-retry-count"}


class RetryingContract(Delivery):
    """Retries and dead letters that an application sends on, and time in queue, over a real broker."""

    def processed(self, message: Any, **options: Any) -> Span:
        recorder = MemoryRecorder()
        with self.integration.process(message, tracer=recorder, **options):
            pass
        (span,) = recorder.spans
        return span

    async def test_a_message_that_failed_twice_stays_in_its_trace(self) -> None:
        """K-28: one traceparent, one trace, below the attempt that failed; attempts are counted."""
        message = await self.deliver({"traceparent": TRACEPARENT, "baggage": "tenant=acme", "app": "1"})
        spans = []
        for _ in range(3):
            recorder = MemoryRecorder()
            with self.integration.process(message, tracer=recorder):
                headers = self.integration.retry_headers(message)
            spans.append(recorder.spans[0])
            message = await self.deliver_native(headers)
            names = [str(name) for name, _ in pairs(headers)]
            assert sorted(names) == ["app", "baggage", "traceparent", "x-retry-count"]

        first, second, third = spans
        assert {span.trace_id for span in spans} == {SENDER.trace_id}
        assert [span.parent_span_id for span in spans] == [SENDER.span_id, first.span_id, second.span_id]
        assert [span.attempt for span in (second, third)] == [2, 3]
        assert [[link.span_id for link in span.links] for span in spans] == [
            [],
            [first.span_id],
            [second.span_id],
        ]

    async def test_the_headers_of_the_user_are_sent_on_as_they_were(self) -> None:
        """K-28: all application headers byte-identical."""
        message = await self.deliver({"app": "1", "traceparent": STALE, "tracestate": "old=1"})
        sent_on = await self.deliver_native(self.integration.retry_headers(message))

        kept = [pair for pair in received_pairs(sent_on) if pair[0].lower() not in FIELDS]
        assert kept == [pair for pair in received_pairs(message) if pair[0].lower() not in FIELDS]

    async def test_a_count_that_is_no_count_says_nothing(self) -> None:
        for value in ("-1", "many", "1.5", "", "9" * 50):
            span = self.processed(await self.deliver({"traceparent": TRACEPARENT, "x-retry-count": value}))
            assert span.attempt in {None, 1}
            assert (span.parent_span_id, span.links) == (SENDER.span_id, ())

    async def test_under_link_a_retry_links_to_the_failed_attempt_once(self) -> None:
        message = await self.deliver({"traceparent": TRACEPARENT, "x-retry-count": "1"})

        span = self.processed(message, relation="link")

        assert [(link.trace_id, link.span_id) for link in span.links] == [(SENDER.trace_id, SENDER.span_id)]
        assert (span.attempt, span.parent_span_id) == (2, None)

    async def test_under_root_a_retry_links_to_nothing(self) -> None:
        message = await self.deliver({"traceparent": TRACEPARENT, "x-retry-count": "1"})

        assert self.processed(message, relation="root").links == ()

    async def test_where_it_is_switched_off_a_retry_carries_its_own_headers_only(self) -> None:
        message = await self.deliver({"traceparent": TRACEPARENT, "app": "1"})
        self.integration.configure(enabled={self.source: False})
        try:
            headers = self.integration.retry_headers(message)
        finally:
            self.integration.configure()

        assert received_pairs(await self.deliver_native(headers)) == received_pairs(message)

    async def test_of_a_sender_that_is_not_trusted_no_context_is_sent_on(self) -> None:
        message = await self.deliver({"traceparent": TRACEPARENT, "baggage": "tenant=acme", "app": "1"})
        self.integration.configure(relation={self.source: "root"})
        try:
            outside = self.integration.retry_headers(message)
            with self.integration.process(message) as processing:
                inside = self.integration.retry_headers(message)
        finally:
            self.integration.configure()

        assert SENDER.trace_id not in str(outside)
        assert SENDER.trace_id not in str(inside)
        assert processing.context.trace_id in str(inside)
        assert "acme" not in str(outside) + str(inside)

    async def test_the_time_in_the_queue_is_on_the_span(self) -> None:
        before = time.time_ns()
        message = await self.deliver({"traceparent": TRACEPARENT})
        span = self.processed(message)

        assert span.queue_time_nano is not None
        assert 0 <= span.queue_time_nano <= time.time_ns() - before + 1_000_000_000


def pairs(headers: Any) -> list[tuple[Any, Any]]:
    return list(headers.items()) if isinstance(headers, dict) else list(headers)


def received_pairs(message: Any) -> list[tuple[str, Any]]:
    """Return the headers of a received message of any client as pairs."""
    properties: Any = message[1] if isinstance(message, tuple) and len(message) == 3 else message
    headers = properties.headers
    return pairs((headers() if callable(headers) else headers) or {})
