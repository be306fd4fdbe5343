"""What RabbitMQ itself does to a message, as every integration of an AMQP client shows it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from contract.contexts import TRACEPARENT
from contract.receiving import SENDER
from spakky.tracing.recorder import MemoryRecorder

if TYPE_CHECKING:
    from spakky.tracing.recorder import Span

SENT = {"traceparent": TRACEPARENT, "tracestate": "congo=t61", "baggage": "tenant=acme", "app": "1"}
IDLE = {"x-expires": 60_000}
"""Arguments of a queue that the broker deletes when nobody has used it for a minute."""


class AmqpContract(ABC):
    """Dead letters, delayed retries, requeues and quorum queues, on a real RabbitMQ by the bare client.

    Attributes:
        integration: The module with the verbs.
    """

    integration: Any

    @abstractmethod
    async def declare_queue(self, name: str, arguments: dict[str, Any], *, durable: bool = False) -> None:
        """Declare a queue that is neither exclusive nor deleted with its consumers."""

    @abstractmethod
    async def publish_to(self, queue: str, headers: dict[str, Any]) -> None:
        """Publish a message to *queue* through the default exchange."""

    @abstractmethod
    async def get_from(self, queue: str, *, no_ack: bool = False) -> Any:
        """Return the next message of *queue* as soon as there is one; it is to be acked unless *no_ack*."""

    @abstractmethod
    async def reject(self, message: Any, *, requeue: bool) -> None:
        """Reject a message that `get_from` returned."""

    @pytest.fixture
    def name(self) -> str:
        return f"amqp-{uuid4().hex}"

    def processed(self, message: Any, **options: Any) -> Span:
        """Return the span of the processing of *message*, which continues the trace of `SENT`."""
        recorder = MemoryRecorder()
        with self.integration.process(message, tracer=recorder, **options) as processing:
            assert dict(processing.context.baggage) == {"tenant": "acme"}
            assert processing.context.trace_state.to_header() == "congo=t61"
        (span,) = recorder.spans
        assert (span.trace_id, span.parent_span_id) == (SENDER.trace_id, SENDER.span_id)
        return span

    async def declare_retries(self, work: str) -> None:
        """Declare the queue *work*, whose rejected messages come back after a moment in another queue."""
        await self.declare_queue(work, {**IDLE, **dead_letters_to(f"{work}-retry")})
        await self.declare_queue(f"{work}-retry", {**IDLE, **dead_letters_to(work), "x-message-ttl": 10})

    async def test_a_first_delivery_says_that_it_is_the_first(self, name: str) -> None:
        await self.declare_queue(name, IDLE)
        await self.publish_to(name, SENT)

        span = self.processed(await self.get_from(name))

        assert (span.attempt, span.death_count, span.is_redelivered) == (1, 0, False)
        assert span.links == ()

    async def test_without_acks_it_is_the_same(self, name: str) -> None:
        await self.declare_queue(name, IDLE)
        await self.publish_to(name, SENT)

        span = self.processed(await self.get_from(name, no_ack=True))

        assert (span.attempt, span.death_count, span.is_redelivered) == (1, 0, False)

    async def test_a_rejected_message_is_a_dead_letter_of_its_trace(self, name: str) -> None:
        """A-20: the trace goes on, and the span counts the death and links to what the message names."""
        await self.declare_queue(name, {**IDLE, **dead_letters_to(f"{name}-dead")})
        await self.declare_queue(f"{name}-dead", IDLE)
        await self.publish_to(name, SENT)
        first = await self.get_from(name)
        failed = self.processed(first)
        await self.reject(first, requeue=False)

        span = self.processed(await self.get_from(f"{name}-dead"))

        assert span.span_id != failed.span_id
        assert (span.attempt, span.death_count, span.is_redelivered) == (2, 1, False)
        assert [(link.trace_id, link.span_id) for link in span.links] == [(SENDER.trace_id, SENDER.span_id)]

    async def test_a_delayed_retry_counts_attempts_and_deaths(self, name: str) -> None:
        """A-20: rejected, expired in a retry queue and back, twice; only the rejections are attempts."""
        await self.declare_retries(name)
        await self.publish_to(name, SENT)
        spans = []
        for _ in range(3):
            message = await self.get_from(name)
            spans.append(self.processed(message))
            await self.reject(message, requeue=False)

        assert [(span.attempt, span.death_count) for span in spans] == [(1, 0), (2, 2), (3, 4)]
        assert [len(span.links) for span in spans] == [0, 1, 1]
        assert len({span.span_id for span in spans}) == 3

    async def test_a_message_that_only_expired_has_not_failed(self, name: str) -> None:
        """A-20: an expiration is a death, but no attempt and nothing to link to."""
        await self.declare_retries(name)
        await self.publish_to(f"{name}-retry", SENT)

        span = self.processed(await self.get_from(name))

        assert (span.attempt, span.death_count, span.links) == (1, 1, ())

    async def test_a_message_that_found_no_room_has_not_failed(self, name: str) -> None:
        """A-20: likewise for what a full queue gives up."""
        await self.declare_queue(name, {**IDLE, **dead_letters_to(f"{name}-dead"), "x-max-length": 1})
        await self.declare_queue(f"{name}-dead", IDLE)
        await self.publish_to(name, SENT)
        await self.publish_to(name, {})

        span = self.processed(await self.get_from(f"{name}-dead"))

        assert (span.attempt, span.death_count, span.links) == (1, 1, ())

    async def test_a_dead_letter_under_link_links_once(self, name: str) -> None:
        """A-20: the sender is linked to already."""
        await self.declare_retries(name)
        await self.publish_to(name, SENT)
        await self.reject(await self.get_from(name), requeue=False)
        recorder = MemoryRecorder()

        with self.integration.process(await self.get_from(name), tracer=recorder, relation="link"):
            pass

        (span,) = recorder.spans
        assert [(link.trace_id, link.span_id) for link in span.links] == [(SENDER.trace_id, SENDER.span_id)]
        assert (span.attempt, span.parent_span_id) == (2, None)

    async def test_a_requeued_message_is_a_new_span_of_the_same_trace(self, name: str) -> None:
        """A classic queue says that it was handed out before, not how often."""
        await self.declare_queue(name, IDLE)
        await self.publish_to(name, SENT)
        first = await self.get_from(name)
        before = self.processed(first)
        await self.reject(first, requeue=True)

        span = self.processed(await self.get_from(name))

        assert span.span_id != before.span_id
        assert (span.attempt, span.death_count, span.is_redelivered) == (None, 0, True)

    async def test_a_quorum_queue_counts_the_attempts(self, name: str) -> None:
        await self.declare_queue(name, {**IDLE, "x-queue-type": "quorum"}, durable=True)
        await self.publish_to(name, SENT)
        spans = []
        for _ in range(3):
            message = await self.get_from(name)
            spans.append(self.processed(message))
            await self.reject(message, requeue=True)

        assert [span.attempt for span in spans] == [1, 2, 3]
        assert [span.is_redelivered for span in spans] == [False, True, True]
        assert {span.death_count for span in spans} == {0}
        assert len({span.span_id for span in spans}) == 3

    async def test_a_message_that_was_tried_too_often_is_a_dead_letter(self, name: str) -> None:
        """A-20: a quorum queue with a limit of deliveries gives up, and says nothing of their number."""
        arguments = {
            **IDLE,
            **dead_letters_to(f"{name}-dead"),
            "x-queue-type": "quorum",
            "x-delivery-limit": 1,
        }
        await self.declare_queue(name, arguments, durable=True)
        await self.declare_queue(f"{name}-dead", IDLE)
        await self.publish_to(name, SENT)
        for _ in range(2):
            await self.reject(await self.get_from(name), requeue=True)

        span = self.processed(await self.get_from(f"{name}-dead"))

        assert (span.attempt, span.death_count, span.is_redelivered) == (None, 1, False)
        assert [link.span_id for link in span.links] == [SENDER.span_id]

    async def test_an_application_s_retries_and_the_broker_s_are_added(self, name: str) -> None:
        """A-20, K-28: a dead letter that is sent on by hand."""
        await self.declare_queue(name, {**IDLE, **dead_letters_to(f"{name}-dead")})
        await self.declare_queue(f"{name}-dead", IDLE)
        await self.publish_to(name, SENT)
        await self.reject(await self.get_from(name), requeue=False)
        dead = await self.get_from(f"{name}-dead")
        recorder = MemoryRecorder()
        with self.integration.process(dead, tracer=recorder):
            await self.publish_to(name, self.integration.retry_headers(dead))
        with self.integration.process(await self.get_from(name), tracer=recorder):
            pass

        second, third = recorder.spans
        assert (second.attempt, third.attempt) == (2, 3)
        assert (third.trace_id, third.parent_span_id) == (SENDER.trace_id, second.span_id)
        assert [link.span_id for link in third.links] == [second.span_id]


def dead_letters_to(queue: str) -> dict[str, Any]:
    """Return the arguments of a queue whose dead letters go to another."""
    return {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue}
