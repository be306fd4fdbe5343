"""Messages one by one: each loop body runs in the context of its message (laws 4 and 7)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

import pytest

from boundaries.parcels import BrokenPropagator, BrokenTracer, Parcel, full_context, parcel_from, receiver
from spakky.tracing.boundaries.iteration import AsyncIteration, Iteration, iteration_over
from spakky.tracing.context import Scope, TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.recorder import MemoryRecorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class Queue:
    """A source of parcels that shows what is current while it waits for the next one."""

    def __init__(self, senders: list[TraceContext], error: BaseException | None = None) -> None:
        self._parcels = [parcel_from(sender) for sender in senders]
        self._error = error
        self.seen_while_waiting: list[TraceContext | None] = []

    def __aiter__(self) -> AsyncIterator[Parcel]:
        return self

    async def __anext__(self) -> Parcel:
        await asyncio.sleep(0)
        self.seen_while_waiting.append(TraceContext.get())
        if self._parcels:
            return self._parcels.pop(0)
        raise self._error or StopAsyncIteration


class PlainQueue:
    """A source of parcels for plain loops, which shows what is current while it gets the next one."""

    def __init__(self, senders: list[TraceContext], error: BaseException | None = None) -> None:
        self._parcels = [parcel_from(sender) for sender in senders]
        self._error = error
        self.seen_while_waiting: list[TraceContext | None] = []

    def __iter__(self) -> Iterator[Parcel]:
        return self

    def __next__(self) -> Parcel:
        self.seen_while_waiting.append(TraceContext.get())
        if self._parcels:
            return self._parcels.pop(0)
        raise self._error or StopIteration


class WaitingRecorder(MemoryRecorder):
    """Also records how long a loop waits for each message."""

    records_receiving = True


def iterate(source: Any, **options: Any) -> AsyncIteration[Parcel]:
    return cast("AsyncIteration[Parcel]", iteration_over(receiver(**options), source))


def plainly(source: Any, **options: Any) -> Iteration[Parcel]:
    return cast("Iteration[Parcel]", iteration_over(receiver(**options), source))


def senders(number: int) -> list[TraceContext]:
    return [full_context() for _ in range(number)]


def parent_of(context: TraceContext | None) -> str | None:
    assert context is not None
    return context.parent_span_id


async def test_each_body_runs_in_the_context_of_its_message() -> None:
    """K-09: the body, not only the receiving."""
    sent = senders(3)
    seen = []

    with TraceContext.use(full_context()) as before:
        async for parcel in iterate(Queue(sent)):
            await asyncio.sleep(0)
            assert isinstance(parcel, Parcel)
            seen.append(parent_of(TraceContext.get()))
        assert TraceContext.get() is before

    assert seen == [sender.span_id for sender in sent]


async def test_while_it_waits_for_the_next_message_nothing_of_the_last_is_current() -> None:
    queue = Queue(senders(3))

    with TraceContext.use(full_context()) as before:
        async for _ in iterate(queue):
            assert TraceContext.get() is not before

    assert queue.seen_while_waiting == [before] * 4


async def test_after_the_last_message_the_iteration_is_at_its_end() -> None:
    iteration = iterate(Queue(senders(1)))
    await anext(iteration)

    for _ in range(2):
        with pytest.raises(StopAsyncIteration):
            await anext(iteration)
        assert TraceContext.get() is None


async def test_what_the_source_raises_is_raised() -> None:
    error = ConnectionError("broker is gone")
    recorder = MemoryRecorder()

    with TraceContext.use(full_context()) as before:
        with pytest.raises(ConnectionError) as caught:
            async for _ in iterate(Queue(senders(1), error), tracer=recorder):
                pass
        assert TraceContext.get() is before

    assert caught.value is error
    assert [span.outcome for span in recorder.spans] == ["ok"]


async def test_after_a_break_what_was_before_is_current() -> None:
    with TraceContext.use(full_context()) as before:
        async for _ in iterate(Queue(senders(3))):
            break
        assert TraceContext.get() is before


async def test_after_an_exception_in_the_body_what_was_before_is_current() -> None:
    async def consume() -> None:
        async for _ in iterate(Queue(senders(3))):
            _ = 1 / 0

    with TraceContext.use(full_context()) as before:
        with contextlib.suppress(ZeroDivisionError):
            await consume()
        assert TraceContext.get() is before


async def test_after_an_exception_that_was_caught_around_the_loop_what_was_before_is_current() -> None:
    with TraceContext.use(full_context()) as before:
        try:
            async for _ in iterate(Queue(senders(3))):
                _ = 1 / 0
        except ZeroDivisionError:
            assert TraceContext.get() is before
        assert TraceContext.get() is before


async def test_after_a_return_out_of_the_body_what_was_before_is_current() -> None:
    async def first() -> Parcel | None:
        parcel: Parcel
        async for parcel in iterate(Queue(senders(3))):
            return parcel
        return None

    with TraceContext.use(full_context()) as before:
        assert isinstance(await first(), Parcel)
        assert TraceContext.get() is before


async def test_after_a_cancellation_what_was_before_is_current() -> None:
    seen: list[TraceContext | None] = []
    before = full_context()

    async def consume() -> None:
        with TraceContext.use(before):
            try:
                async for _ in iterate(Queue(senders(3))):
                    await asyncio.Event().wait()
            finally:
                seen.append(TraceContext.get())

    task = asyncio.create_task(consume())
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert seen == [before]


async def test_an_iteration_that_is_kept_is_closed_by_aclose() -> None:
    recorder = MemoryRecorder()
    with TraceContext.use(full_context()) as before:
        iteration = iterate(Queue(senders(3)), tracer=recorder)
        async for _ in iteration:
            break
        assert TraceContext.get() is not before
        await iteration.aclose()
        await iteration.aclose()
        assert TraceContext.get() is before
    assert [span.outcome for span in recorder.spans] == ["unknown"]


async def test_an_iteration_may_be_closed_by_another_task() -> None:
    """P-09, P-10: neither task keeps or loses a context."""
    with TraceContext.use(full_context()) as before:
        iteration = iterate(Queue(senders(3)))
        await anext(iteration)
        inside = TraceContext.get()

        async def close() -> TraceContext | None:
            with TraceContext.use(None):
                await iteration.aclose()
            return TraceContext.get()

        assert await asyncio.create_task(close()) is inside
        assert TraceContext.get() is before


async def test_an_iteration_goes_on_after_a_break() -> None:
    sent = senders(3)
    iteration = iterate(Queue(sent))
    seen = []
    async for _ in iteration:
        seen.append(parent_of(TraceContext.get()))
        break
    seen += [parent_of(TraceContext.get()) async for _ in iteration]

    assert seen == [sender.span_id for sender in sent]
    assert TraceContext.get() is None


async def test_as_a_block_it_ends_with_the_block_and_records_what_the_body_raises() -> None:
    recorder = MemoryRecorder()

    async def consume() -> None:
        async with iterate(Queue(senders(2)), tracer=recorder) as parcels:
            async for _ in parcels:
                _ = 1 / 0

    with TraceContext.use(full_context()) as before:
        with pytest.raises(ZeroDivisionError):
            await consume()
        assert TraceContext.get() is before

        async with iterate(Queue(senders(2)), tracer=recorder) as parcels:
            async for _ in parcels:
                break
        assert TraceContext.get() is before

    assert [(span.outcome, span.error) for span in recorder.spans] == [
        ("error", "ZeroDivisionError"),
        ("unknown", None),
    ]


async def test_two_interleaved_iterations_leave_what_was_before() -> None:
    """K-13: they need not end in the order of a stack."""
    first_sent, second_sent = senders(3), senders(2)

    with TraceContext.use(full_context()) as before:
        first, second = iterate(Queue(first_sent)), iterate(Queue(second_sent))
        seen = []
        for iteration in (first, second, first, second, first):
            await anext(iteration)
            seen.append(parent_of(TraceContext.get()))
        await first.aclose()
        assert parent_of(TraceContext.get()) == second_sent[1].span_id
        await second.aclose()
        assert TraceContext.get() is before

    order = [first_sent[0], second_sent[0], first_sent[1], second_sent[1], first_sent[2]]
    assert seen == [sender.span_id for sender in order]


async def test_a_nested_iteration_gives_back_the_outer_message_s_context() -> None:
    async for _ in iterate(Queue(senders(2))):
        outer = TraceContext.get()
        async for _ in iterate(Queue(senders(2))):
            assert TraceContext.get() is not outer
        assert TraceContext.get() is outer
    assert TraceContext.get() is None


async def test_what_is_set_in_the_body_ends_with_it() -> None:
    queue = Queue(senders(2))

    async for _ in iterate(queue):
        TraceContext.set(full_context())

    assert queue.seen_while_waiting == [None] * 3


async def test_tasks_that_are_started_in_the_body_keep_its_context() -> None:
    sent = senders(3)

    async def current() -> str | None:
        await asyncio.sleep(0.01)
        return parent_of(TraceContext.get())

    tasks = [asyncio.create_task(current()) async for _ in iterate(Queue(sent))]

    assert await asyncio.gather(*tasks) == [sender.span_id for sender in sent]


async def test_every_body_is_recorded() -> None:
    recorder, sent = MemoryRecorder(), senders(3)

    async for _ in iterate(Queue(sent), tracer=recorder):
        pass

    assert [span.parent_span_id for span in recorder.spans] == [sender.span_id for sender in sent]
    assert [span.outcome for span in recorder.spans] == ["ok"] * 3


async def test_a_break_is_recorded_as_unknown() -> None:
    recorder = MemoryRecorder()

    async for _ in iterate(Queue(senders(3)), tracer=recorder):
        break

    assert [span.outcome for span in recorder.spans] == ["unknown"]


@pytest.mark.parametrize("options", [{"propagator": BrokenPropagator()}, {"tracer": BrokenTracer()}], ids=str)
async def test_what_fails_loses_no_message(options: Any) -> None:
    parcels = [parcel async for parcel in iterate(Queue(senders(3)), **options)]

    assert len(parcels) == 3
    assert TraceContext.get() is None


async def test_switched_off_what_is_current_stays_so() -> None:
    with TraceContext.use(full_context()) as before:
        async for _ in iterate(Queue(senders(2)), enabled=False):
            assert TraceContext.get() is before


async def test_an_async_generator_is_a_source() -> None:
    sent = senders(2)

    async def parcels() -> AsyncIterator[Parcel]:
        for sender in sent:
            yield parcel_from(sender)

    seen = [parent_of(TraceContext.get()) async for _ in iterate(parcels())]

    assert seen == [sender.span_id for sender in sent]


@pytest.mark.parametrize("wrong", [None, 7, "queue", b"queue", object(), Parcel()], ids=repr)
def test_what_is_not_iterable_is_refused(wrong: Any) -> None:
    with pytest.raises(WrongUseError, match=r"^iterate\(\) takes what `async for` or `for` takes, got \w+$"):
        iterate(wrong)


async def test_what_is_no_message_is_refused() -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 7

    with pytest.raises(WrongUseError, match="this takes a received Parcel, got int"):
        async for _ in iterate(numbers()):
            pass
    assert TraceContext.get() is None


async def test_thousands_of_messages_leave_no_scope_behind() -> None:
    gc.collect()
    before = sum(isinstance(thing, Scope) for thing in gc.get_objects())

    async for _ in iterate(Queue([full_context()] * 2_000)):
        pass
    for _ in range(200):
        async for _ in iterate(Queue([full_context()])):
            break

    gc.collect()
    assert sum(isinstance(thing, Scope) for thing in gc.get_objects()) <= before


# --- plain loops


def test_each_body_of_a_plain_loop_runs_in_the_context_of_its_message() -> None:
    """K-09: the body, not only the receiving."""
    sent = senders(3)
    seen = []

    with TraceContext.use(full_context()) as before:
        for parcel in plainly(PlainQueue(sent)):
            assert isinstance(parcel, Parcel)
            seen.append(parent_of(TraceContext.get()))
        assert TraceContext.get() is before

    assert seen == [sender.span_id for sender in sent]


def test_while_a_plain_loop_gets_the_next_message_nothing_of_the_last_is_current() -> None:
    queue = PlainQueue(senders(3))

    with TraceContext.use(full_context()) as before:
        for _ in plainly(queue):
            assert TraceContext.get() is not before

    assert queue.seen_while_waiting == [before] * 4


def test_after_the_last_message_a_plain_iteration_is_at_its_end() -> None:
    iteration = plainly(PlainQueue(senders(1)))
    next(iteration)

    for _ in range(2):
        with pytest.raises(StopIteration):
            next(iteration)
        assert TraceContext.get() is None


def test_what_the_source_of_a_plain_loop_raises_is_raised() -> None:
    error = ConnectionError("broker is gone")
    recorder = MemoryRecorder()

    with TraceContext.use(full_context()) as before:
        with pytest.raises(ConnectionError) as caught:
            for _ in plainly(PlainQueue(senders(1), error), tracer=recorder):
                pass
        assert TraceContext.get() is before

    assert caught.value is error
    assert [span.outcome for span in recorder.spans] == ["ok"]


def test_after_a_break_out_of_a_plain_loop_what_was_before_is_current() -> None:
    with TraceContext.use(full_context()) as before:
        for _ in plainly(PlainQueue(senders(3))):
            break
        assert TraceContext.get() is before


def test_after_an_exception_in_a_plain_loop_what_was_before_is_current() -> None:
    def consume() -> None:
        for _ in plainly(PlainQueue(senders(3))):
            _ = 1 / 0

    with TraceContext.use(full_context()) as before:
        with contextlib.suppress(ZeroDivisionError):
            consume()
        assert TraceContext.get() is before


def test_after_an_exception_that_was_caught_around_a_plain_loop_what_was_before_is_current() -> None:
    with TraceContext.use(full_context()) as before:
        try:
            for _ in plainly(PlainQueue(senders(3))):
                _ = 1 / 0
        except ZeroDivisionError:
            assert TraceContext.get() is before
        assert TraceContext.get() is before


def test_after_a_return_out_of_a_plain_loop_what_was_before_is_current() -> None:
    def first() -> Parcel | None:
        for parcel in plainly(PlainQueue(senders(3))):
            return parcel
        return None

    with TraceContext.use(full_context()) as before:
        assert isinstance(first(), Parcel)
        assert TraceContext.get() is before


async def test_after_a_cancellation_in_a_plain_loop_what_was_before_is_current() -> None:
    seen: list[TraceContext | None] = []
    before, waiting = full_context(), asyncio.Event()

    async def consume() -> None:
        with TraceContext.use(before):
            try:
                for _ in plainly(PlainQueue(senders(3))):
                    waiting.set()
                    await asyncio.Event().wait()
            finally:
                seen.append(TraceContext.get())

    task = asyncio.create_task(consume())
    await waiting.wait()
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert seen == [before]


def test_a_plain_iteration_that_is_kept_is_closed_by_close() -> None:
    recorder = MemoryRecorder()
    with TraceContext.use(full_context()) as before:
        iteration = plainly(PlainQueue(senders(3)), tracer=recorder)
        for _ in iteration:
            break
        assert TraceContext.get() is not before
        iteration.close()
        iteration.close()
        assert TraceContext.get() is before
    assert [span.outcome for span in recorder.spans] == ["unknown"]


def test_a_plain_iteration_may_be_closed_by_another_thread() -> None:
    """K-14, P-09: neither thread keeps or loses a context."""
    with TraceContext.use(full_context()) as before:
        iteration = plainly(PlainQueue(senders(3)))
        next(iteration)

        def close() -> TraceContext | None:
            with TraceContext.use(None):
                iteration.close()
            return TraceContext.get()

        with ThreadPoolExecutor(1) as threads:
            assert threads.submit(close).result() is None
        assert TraceContext.get() is before


def test_each_step_of_a_plain_iteration_may_be_in_another_thread() -> None:
    """K-14: as with polls in an executor."""
    sent = senders(3)
    iteration = plainly(PlainQueue(sent))

    def step() -> str | None:
        next(iteration)
        return parent_of(TraceContext.get())

    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        seen = [threads.submit(step).result() for threads in (one, other, one)]
        iteration.close()
        left = [threads.submit(TraceContext.get).result() for threads in (one, other)]

    assert seen == [sender.span_id for sender in sent]
    assert left == [None, None]
    assert TraceContext.get() is None


def test_a_plain_iteration_goes_on_after_a_break() -> None:
    sent = senders(3)
    iteration = plainly(PlainQueue(sent))
    seen = []
    for _ in iteration:
        seen.append(parent_of(TraceContext.get()))
        break
    seen += [parent_of(TraceContext.get()) for _ in iteration]

    assert seen == [sender.span_id for sender in sent]
    assert TraceContext.get() is None


def test_a_plain_iteration_as_a_block_ends_with_it_and_records_what_the_body_raises() -> None:
    recorder = MemoryRecorder()

    def consume() -> None:
        with plainly(PlainQueue(senders(2)), tracer=recorder) as parcels:
            for _ in parcels:
                _ = 1 / 0

    with TraceContext.use(full_context()) as before:
        with pytest.raises(ZeroDivisionError):
            consume()
        assert TraceContext.get() is before

        with plainly(PlainQueue(senders(2)), tracer=recorder) as parcels:
            for _ in parcels:
                break
        assert TraceContext.get() is before

    assert [(span.outcome, span.error) for span in recorder.spans] == [
        ("error", "ZeroDivisionError"),
        ("unknown", None),
    ]


def test_two_interleaved_plain_iterations_leave_what_was_before() -> None:
    """K-13: they need not end in the order of a stack."""
    first_sent, second_sent = senders(3), senders(2)

    with TraceContext.use(full_context()) as before:
        first, second = plainly(PlainQueue(first_sent)), plainly(PlainQueue(second_sent))
        seen = []
        for iteration in (first, second, first, second, first):
            next(iteration)
            seen.append(parent_of(TraceContext.get()))
        first.close()
        assert parent_of(TraceContext.get()) == second_sent[1].span_id
        second.close()
        assert TraceContext.get() is before

    order = [first_sent[0], second_sent[0], first_sent[1], second_sent[1], first_sent[2]]
    assert seen == [sender.span_id for sender in order]


async def test_a_plain_loop_within_another_gives_back_the_outer_message_s_context() -> None:
    for _ in plainly(PlainQueue(senders(2))):
        outer = TraceContext.get()
        for _ in plainly(PlainQueue(senders(2))):
            assert TraceContext.get() is not outer
        async for _ in iterate(Queue(senders(2))):
            assert TraceContext.get() is not outer
        assert TraceContext.get() is outer
    assert TraceContext.get() is None


def test_what_is_set_in_the_body_of_a_plain_loop_ends_with_it() -> None:
    queue = PlainQueue(senders(2))

    for _ in plainly(queue):
        TraceContext.set(full_context())

    assert queue.seen_while_waiting == [None] * 3


def test_every_body_of_a_plain_loop_is_recorded() -> None:
    recorder, sent = MemoryRecorder(), senders(3)

    for _ in plainly(PlainQueue(sent), tracer=recorder):
        pass

    assert [span.parent_span_id for span in recorder.spans] == [sender.span_id for sender in sent]
    assert [span.outcome for span in recorder.spans] == ["ok"] * 3


def test_a_break_out_of_a_plain_loop_is_recorded_as_unknown() -> None:
    recorder = MemoryRecorder()

    for _ in plainly(PlainQueue(senders(3)), tracer=recorder):
        break

    assert [span.outcome for span in recorder.spans] == ["unknown"]


@pytest.mark.parametrize("options", [{"propagator": BrokenPropagator()}, {"tracer": BrokenTracer()}], ids=str)
def test_what_fails_loses_no_message_of_a_plain_loop(options: Any) -> None:
    assert len(list(plainly(PlainQueue(senders(3)), **options))) == 3
    assert TraceContext.get() is None


def test_switched_off_what_is_current_stays_so_in_a_plain_loop() -> None:
    with TraceContext.use(full_context()) as before:
        for _ in plainly(PlainQueue(senders(2)), enabled=False):
            assert TraceContext.get() is before


def test_whatever_for_takes_is_a_source() -> None:
    sent = senders(2)
    parcels = [parcel_from(sender) for sender in sent]
    for source in (parcels, tuple(parcels), iter(parcels), (each for each in parcels)):
        seen = [parent_of(TraceContext.get()) for _ in plainly(source)]

        assert seen == [sender.span_id for sender in sent]
    assert list(plainly([])) == []


def test_what_is_no_message_of_a_plain_loop_is_refused() -> None:
    with pytest.raises(WrongUseError, match="this takes a received Parcel, got int"):
        for _ in plainly([7]):
            pass
    assert TraceContext.get() is None


def test_thousands_of_messages_of_plain_loops_leave_no_scope_behind() -> None:
    gc.collect()
    before = sum(isinstance(thing, Scope) for thing in gc.get_objects())

    for _ in plainly(PlainQueue([full_context()] * 2_000)):
        pass
    for _ in range(200):
        for _ in plainly(PlainQueue([full_context()])):
            break

    gc.collect()
    assert sum(isinstance(thing, Scope) for thing in gc.get_objects()) <= before


async def test_an_iteration_is_of_the_kind_of_its_source() -> None:
    assert isinstance(iterate(Queue([])), AsyncIteration)
    assert isinstance(plainly(PlainQueue([])), Iteration)


# --- waiting for a message


async def test_a_wait_is_recorded_below_what_is_current_around_the_loop() -> None:
    """MS-07, MS-10: it links to the sender, and ends where the processing begins."""
    recorder, (sender,) = WaitingRecorder(), senders(1)
    with TraceContext.use(full_context()) as around:
        async for _ in iterate(Queue([sender]), tracer=recorder):
            pass

    receive, process = recorder.spans
    assert around is not None
    assert (receive.kind, receive.parent_span_id) == ("client", around.span_id)
    assert [link.span_id for link in receive.links] == [sender.span_id]
    assert (process.kind, process.parent_span_id) == ("consumer", sender.span_id)
    assert receive.start_unix_nano <= receive.end_unix_nano <= process.start_unix_nano


def test_a_plain_loop_records_its_waits_too_and_none_for_the_end() -> None:
    """K-33: a wait that brings nothing makes no span."""
    recorder = WaitingRecorder()
    for _ in plainly(PlainQueue(senders(2)), tracer=recorder):
        pass

    assert [span.kind for span in recorder.spans] == ["client", "consumer"] * 2
    assert {span.parent_span_id for span in recorder.spans if span.kind == "client"} == {None}


@pytest.mark.parametrize(
    ("options", "kinds"),
    [({"relation": "root"}, ["client", "consumer"]), ({"enabled": False}, [])],
    ids=["root", "off"],
)
def test_a_wait_links_to_nobody_who_is_not_trusted(options: dict[str, Any], kinds: list[str]) -> None:
    recorder = WaitingRecorder()
    for _ in plainly(PlainQueue(senders(1)), tracer=recorder, **options):
        pass

    assert [span.kind for span in recorder.spans] == kinds
    assert [span.links for span in recorder.spans if span.kind == "client"] == [()] * len(kinds[:1])


def test_what_is_there_already_is_not_waited_for() -> None:
    recorder = WaitingRecorder()
    for _ in plainly([parcel_from(full_context())], tracer=recorder):
        pass

    assert [span.kind for span in recorder.spans] == ["consumer"]
