"""What every integration promises of messages that are pulled: loops, blocks and batches."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from contract.contexts import TRACEPARENT
from contract.delivery import Delivery, source_of
from contract.receiving import SENDER
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.recorder import MemoryRecorder

if TYPE_CHECKING:
    from collections.abc import Callable


class PullingContract(Delivery):
    """Laws 4, 7 and 9 of loops and batches, on messages of a real broker.

    Attributes:
        loops: The kinds of loops: over an async source, and over a plain one.
    """

    loops = ["async", "sync"]

    async def messages(self, count: int) -> list[Any]:
        contexts = [TraceContext.new_root() for _ in range(count)]
        return [await self.deliver({"traceparent": context.to_traceparent()}) for context in contexts]

    def iterate(self, messages: list[Any], loop: str = "async", **options: Any) -> Any:
        return self.integration.iterate(messages if loop == "sync" else source_of(messages), **options)

    async def after_loop(self, loop: str, source: Any, body: Callable[[Any], object]) -> TraceContext | None:
        """Loop over *source* until *body* returns something true; return what is current right after."""
        if loop == "sync":
            for message in self.integration.iterate(source):
                if body(message):
                    break
        else:
            async for message in self.integration.iterate(source):
                if body(message):
                    break
        return TraceContext.get()

    def trace_id_in(self, message: Any) -> str:
        return sender_of(self, message).trace_id

    async def test_each_body_runs_in_the_context_of_its_message(self, loop: str) -> None:
        """K-09: the context is current while the message is processed, and not afterwards."""
        messages, seen = await self.messages(3), []

        source = messages if loop == "sync" else source_of(messages)
        after = await self.after_loop(loop, source, lambda _: seen.append(current_trace_id()))

        assert seen == [self.trace_id_in(message) for message in messages]
        assert after is None

    async def test_between_two_bodies_nothing_of_the_last_message_is_current(self, loop: str) -> None:
        messages, seen = await self.messages(2), list[TraceContext | None]()

        def plain() -> Iterator[Any]:
            for message in messages:
                seen.append(TraceContext.get())
                yield message
            seen.append(TraceContext.get())

        await self.after_loop(loop, plain() if loop == "sync" else source_of(plain()), lambda _: None)

        assert seen == [None, None, None]

    async def test_a_break_puts_back_what_was_there(self, loop: str) -> None:
        """A-05: what follows the loop is not part of the message."""
        messages = await self.messages(2)
        source = messages if loop == "sync" else source_of(messages)

        with TraceContext.use(TraceContext.new_root()) as before:
            assert await self.after_loop(loop, source, lambda _: "break") is before

    async def test_an_exception_in_a_body_puts_back_what_was_there(self, loop: str) -> None:
        messages = await self.messages(2)
        source = messages if loop == "sync" else source_of(messages)

        def fail(_: Any) -> None:
            raise LookupError

        with TraceContext.use(TraceContext.new_root()) as before:
            with contextlib.suppress(LookupError):
                await self.after_loop(loop, source, fail)

            assert TraceContext.get() is before

    async def test_a_return_out_of_a_loop_puts_back_what_was_there(self, loop: str) -> None:
        async def first(messages: list[Any]) -> Any:
            if loop == "sync":
                for message in self.integration.iterate(messages):
                    return message
            async for message in self.iterate(messages):
                return message
            return None

        messages = await self.messages(2)

        assert await first(messages) is messages[0]
        assert TraceContext.get() is None

    async def test_an_iteration_that_is_kept_is_closed_by_hand(self, loop: str) -> None:
        iteration = self.iterate(await self.messages(2), loop)
        await step(iteration)

        await close(iteration)

        assert TraceContext.get() is None

    async def test_an_iteration_closed_by_another_task_puts_back_what_was_there(self, loop: str) -> None:
        """A-07, P-09, P-10: nothing is logged, and neither task keeps or loses a context."""
        iteration = self.iterate(await self.messages(2), loop)
        with TraceContext.use(TraceContext.new_root()) as before:
            await step(iteration)

            await asyncio.create_task(close(iteration))

            assert TraceContext.get() is before

    async def test_a_message_finished_in_another_context_alters_neither(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A-07, K-14, P-09: received in one Context and finished in another."""
        processing = self.integration.process(await self.deliver({"traceparent": TRACEPARENT}))
        other = contextvars.copy_context()
        other.run(TraceContext.set, SENDER)

        other.run(processing.open)
        processing.close("ok")

        assert TraceContext.get() is None
        assert other.run(TraceContext.get) is SENDER
        assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []

    async def test_the_processing_of_a_message_ends_with_its_block(self) -> None:
        """K-12: not with the next poll, which may never come."""
        recorder = MemoryRecorder()

        with self.integration.process(await self.deliver({"traceparent": TRACEPARENT}), tracer=recorder):
            assert list(recorder.spans) == []

        assert [span.outcome for span in recorder.spans] == ["ok"]
        assert TraceContext.get() is None

    async def test_two_loops_that_take_turns_do_not_mix_and_leave_nothing(self, loop: str) -> None:
        """K-13: two consumers in one thread or task."""
        first, second = await self.messages(2), await self.messages(2)
        one, other = self.iterate(first, loop), self.iterate(second, loop)
        with TraceContext.use(TraceContext.new_root()) as before:
            for mine, yours in zip(first, second, strict=True):
                await step(one)
                assert current_trace_id() == self.trace_id_in(mine)
                await step(other)
                assert current_trace_id() == self.trace_id_in(yours)
            await close(one)
            assert current_trace_id() == self.trace_id_in(second[-1])
            await close(other)

            assert TraceContext.get() is before

    async def test_a_loop_within_a_block_records_an_error_of_its_body(self, loop: str) -> None:
        recorder = MemoryRecorder()
        messages = await self.messages(1)

        with contextlib.suppress(LookupError):
            if loop == "sync":
                with self.iterate(messages, loop, tracer=recorder) as plain:
                    for _ in plain:
                        raise LookupError
            async with self.iterate(messages, loop, tracer=recorder) as iteration:
                async for _ in iteration:
                    raise LookupError

        assert [(span.outcome, span.error) for span in recorder.spans] == [("error", "LookupError")]

    async def test_a_batch_links_to_each_sender_once(self) -> None:
        """K-15, K-31: by what each message carries, and the context of each one is to be had."""
        messages = await self.messages(2)
        untraced, broken = await self.deliver({}), await self.deliver({"traceparent": "00-bad"})
        again = await self.deliver({"traceparent": sender_of(self, messages[0]).to_traceparent()})

        with self.integration.process_batch([*messages, untraced, broken, again]) as batch:
            assert TraceContext.get() is batch.context is not None

        assert batch.links == tuple(sender_of(self, message) for message in messages)
        assert batch.context.trace_id not in {link.trace_id for link in batch.links}
        assert batch.context_of(messages[1]) == batch.links[1]
        assert batch.context_of(untraced) is batch.context_of(broken) is None
        assert TraceContext.get() is None

    async def test_a_batch_is_a_child_of_what_is_current(self) -> None:
        with (
            TraceContext.use(TraceContext.new_root()) as current,
            self.integration.process_batch(await self.messages(2)) as batch,
        ):
            assert current is not None
            assert (batch.context.trace_id, batch.context.parent_span_id) == (
                current.trace_id,
                current.span_id,
            )

    async def test_a_batch_handler_runs_in_the_context_of_the_batch(self) -> None:
        recorder = MemoryRecorder()
        messages = await self.messages(2)

        async def handle(batch: list[Any]) -> str:
            return current_trace_id()

        trace_id = await self.integration.batch_consumer(tracer=recorder)(handle)(messages)

        (span,) = recorder.spans
        assert span.trace_id == trace_id
        assert [link.trace_id for link in span.links] == [self.trace_id_in(message) for message in messages]

    async def test_each_message_of_a_batch_can_be_processed_in_its_own_context(self) -> None:
        """K-15: the batch's context is current around and between them."""
        recorder = MemoryRecorder()
        messages = await self.messages(2)

        with self.integration.process_batch(messages, tracer=recorder) as batch:
            for message in messages:
                with batch.process(message) as processing:
                    assert current_trace_id() == self.trace_id_in(message)
                    assert processing.context.parent_span_id == sender_of(self, message).span_id
                assert TraceContext.get() is batch.context

        *members, whole = recorder.spans
        assert [span.trace_id for span in members] == [self.trace_id_in(message) for message in messages]
        assert {span.outcome for span in recorder.spans} == {"ok"}
        assert whole.span_id == batch.context.span_id

    async def test_a_message_of_a_batch_without_context_starts_a_trace(self) -> None:
        untraced, broken = await self.deliver({}), await self.deliver({"traceparent": "00-bad"})

        with self.integration.process_batch([untraced, broken]) as batch:
            for message in (untraced, broken):
                with batch.process(message) as processing:
                    assert processing.context.parent_span_id is None
                    assert processing.context.trace_id != batch.context.trace_id

    async def test_a_message_of_a_batch_that_fails_leaves_the_others_and_the_batch_whole(self) -> None:
        recorder = MemoryRecorder()
        messages = await self.messages(3)

        with self.integration.process_batch(messages, tracer=recorder) as batch:
            for number, message in enumerate(messages):
                with contextlib.suppress(LookupError), batch.process(message):
                    if number == 1:
                        raise LookupError
                assert TraceContext.get() is batch.context

        assert [span.outcome for span in recorder.spans] == ["ok", "error", "ok", "ok"]

    async def test_a_batch_processes_its_messages_under_its_own_options(self) -> None:
        (message,) = await self.messages(1)

        with (
            self.integration.process_batch([message], relation="link") as batch,
            batch.process(message) as processing,
        ):
            assert [link.trace_id for link in processing.links] == [self.trace_id_in(message)]
            assert processing.context.trace_id != self.trace_id_in(message)
        with (
            TraceContext.use(TraceContext.new_root()) as ambient,
            self.integration.process_batch([message], enabled=False) as batch,
            batch.process(message),
        ):
            assert TraceContext.get() is ambient

    async def test_what_is_no_message_of_a_batch_is_refused(self) -> None:
        with (
            self.integration.process_batch(await self.messages(1)) as batch,
            pytest.raises(WrongUseError, match=r"this takes a received .*, got object$"),
        ):
            batch.process(object())

    async def test_the_messages_of_several_partitions_are_iterated_over(self) -> None:
        one, other, last = await self.messages(3)

        seen = [
            (message, current_trace_id())
            for message in self.integration.iterate({0: [one, other], 1: [last]})
        ]

        assert seen == [(message, self.trace_id_in(message)) for message in (one, other, last)]

    async def test_a_message_is_neither_a_batch_nor_a_source(self) -> None:
        message = await self.deliver({})
        got = f", got {type(message).__name__}$"

        with pytest.raises(WrongUseError, match=f"^this takes a list of received .*{got}"):
            self.integration.process_batch(message)
        with pytest.raises(WrongUseError, match=rf"^iterate\(\) takes what .*{got}"):
            self.integration.iterate(message)

    async def test_an_empty_batch_changes_nothing(self) -> None:
        """K-33: a poll that returns nothing."""
        recorder = MemoryRecorder()

        with self.integration.process_batch([], tracer=recorder) as batch:
            assert TraceContext.get() is None

        assert (batch.context, batch.links, list(recorder.spans)) == (None, (), [])


async def step(iteration: Any) -> Any:
    """Return the next message of an iteration of either kind."""
    return next(iteration) if isinstance(iteration, Iterator) else await anext(iteration)


async def close(iteration: Any) -> None:
    """Close an iteration of either kind."""
    if isinstance(iteration, Iterator):
        iteration.close()  # type: ignore[attr-defined] # which iterators have only here
    else:
        await iteration.aclose()


def sender_of(contract: PullingContract, message: Any) -> TraceContext:
    context = contract.integration.context_from(message)
    assert isinstance(context, TraceContext)
    return context


def current_trace_id() -> str:
    context = TraceContext.get()
    assert context is not None
    return context.trace_id
