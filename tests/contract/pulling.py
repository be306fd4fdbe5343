"""What every integration promises of messages that are pulled: loops, blocks and batches."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from typing import TYPE_CHECKING, Any

import pytest

from contract.contexts import TRACEPARENT
from contract.delivery import Delivery, source_of
from contract.receiving import SENDER
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.recorder import MemoryRecorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class PullingContract(Delivery):
    """Laws 4, 7 and 9 of loops and batches, on messages of a real broker."""

    async def messages(self, count: int) -> list[Any]:
        contexts = [TraceContext.new_root() for _ in range(count)]
        return [await self.deliver({"traceparent": context.to_traceparent()}) for context in contexts]

    def iterate(self, messages: list[Any], **options: Any) -> Any:
        return self.integration.iterate(source_of(messages), **options)

    def trace_id_in(self, message: Any) -> str:
        return sender_of(self, message).trace_id

    async def test_each_body_runs_in_the_context_of_its_message(self) -> None:
        messages = await self.messages(3)

        seen = [current_trace_id() async for _ in self.iterate(messages)]

        assert seen == [self.trace_id_in(message) for message in messages]
        assert TraceContext.get() is None

    async def test_between_two_bodies_nothing_of_the_last_message_is_current(self) -> None:
        seen: list[TraceContext | None] = []

        async def source() -> AsyncIterator[Any]:
            for message in await self.messages(2):
                seen.append(TraceContext.get())
                yield message
            seen.append(TraceContext.get())

        async for _ in self.integration.iterate(source()):
            pass

        assert seen == [None, None, None]

    async def test_a_break_puts_back_what_was_there(self) -> None:
        with TraceContext.use(TraceContext.new_root()) as before:
            async for _ in self.iterate(await self.messages(2)):
                break

            assert TraceContext.get() is before

    async def test_a_return_out_of_a_loop_puts_back_what_was_there(self) -> None:
        async def first(messages: list[Any]) -> Any:
            async for message in self.iterate(messages):
                return message
            return None

        messages = await self.messages(2)

        assert await first(messages) is messages[0]
        assert TraceContext.get() is None

    async def test_an_iteration_that_is_kept_is_closed_by_aclose(self) -> None:
        iteration = self.iterate(await self.messages(2))
        async for _ in iteration:
            break

        await iteration.aclose()

        assert TraceContext.get() is None

    async def test_an_iteration_closed_by_another_task_puts_back_what_was_there(self) -> None:
        iteration = self.iterate(await self.messages(2))
        with TraceContext.use(TraceContext.new_root()) as before:
            await anext(iteration)

            await asyncio.create_task(iteration.aclose())

            assert TraceContext.get() is before

    async def test_a_message_finished_in_another_context_alters_neither(self) -> None:
        processing = self.integration.process(await self.deliver({"traceparent": TRACEPARENT}))
        other = contextvars.copy_context()
        other.run(TraceContext.set, SENDER)

        other.run(processing.open)
        processing.close("ok")

        assert TraceContext.get() is None
        assert other.run(TraceContext.get) is SENDER

    async def test_two_loops_that_take_turns_do_not_mix_and_leave_nothing(self) -> None:
        first, second = await self.messages(2), await self.messages(2)
        one, other = self.iterate(first), self.iterate(second)
        with TraceContext.use(TraceContext.new_root()) as before:
            for mine, yours in zip(first, second, strict=True):
                await anext(one)
                assert current_trace_id() == self.trace_id_in(mine)
                await anext(other)
                assert current_trace_id() == self.trace_id_in(yours)
            await one.aclose()
            assert current_trace_id() == self.trace_id_in(second[-1])
            await other.aclose()

            assert TraceContext.get() is before

    async def test_a_loop_within_async_with_records_an_error_of_its_body(self) -> None:
        recorder = MemoryRecorder()
        messages = await self.messages(1)

        with contextlib.suppress(LookupError):
            async with self.iterate(messages, tracer=recorder) as iteration:
                async for _ in iteration:
                    raise LookupError

        assert [(span.outcome, span.error) for span in recorder.spans] == [("error", "LookupError")]

    async def test_a_batch_links_to_each_sender_once(self) -> None:
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

    async def test_a_message_is_neither_a_batch_nor_a_source(self) -> None:
        message = await self.deliver({})
        got = f", got {type(message).__name__}$"

        with pytest.raises(WrongUseError, match=f"^this takes a list of received .*{got}"):
            self.integration.process_batch(message)
        with pytest.raises(WrongUseError, match=rf"^iterate\(\) takes what .*{got}"):
            self.integration.iterate(message)

    async def test_an_empty_batch_changes_nothing(self) -> None:
        recorder = MemoryRecorder()

        with self.integration.process_batch([], tracer=recorder) as batch:
            assert TraceContext.get() is None

        assert (batch.context, batch.links, list(recorder.spans)) == (None, (), [])


def sender_of(contract: PullingContract, message: Any) -> TraceContext:
    context = contract.integration.context_from(message)
    assert isinstance(context, TraceContext)
    return context


def current_trace_id() -> str:
    context = TraceContext.get()
    assert context is not None
    return context.trace_id
