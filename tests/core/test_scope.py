"""`TraceContext.use`: what was current before is current again, whatever happens in between."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, TypeVar

import pytest

from spakky.tracing.context import Scope, TraceContext
from spakky.tracing.error import WrongUseError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

ResultT = TypeVar("ResultT")

OUTER = TraceContext.new_root()


def opened(context: TraceContext | None = None) -> Scope:
    return TraceContext.use(context or TraceContext.new_root()).open()


def in_other_thread(function: Callable[[], ResultT]) -> ResultT:
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(function).result()


def in_other_context(function: Callable[[], ResultT]) -> ResultT:
    return Context().run(function)


def open_scopes() -> int:
    gc.collect()
    return sum(isinstance(thing, Scope) for thing in gc.get_objects())


elsewhere = pytest.mark.parametrize("elsewhere", [in_other_thread, in_other_context])


# --- blocks


def test_a_context_is_current_inside_and_the_one_before_afterwards() -> None:
    with TraceContext.use(OUTER) as outer:
        assert TraceContext.get() is outer is OUTER
        with TraceContext.use(OUTER.child()) as inner:
            assert TraceContext.get() is inner
        assert TraceContext.get() is OUTER
    assert TraceContext.get() is None


def test_none_leaves_the_trace_for_a_block() -> None:
    with TraceContext.use(OUTER):
        with TraceContext.use(None) as nothing:
            assert nothing is None
            assert TraceContext.get() is None
        assert TraceContext.get() is OUTER


def test_the_one_before_is_back_after_an_exception() -> None:
    with TraceContext.use(OUTER):
        with pytest.raises(ZeroDivisionError), TraceContext.use(OUTER.child()):
            _ = 1 / 0
        assert TraceContext.get() is OUTER


async def test_the_one_before_is_back_after_a_cancellation() -> None:
    seen: list[TraceContext | None] = []
    started = asyncio.Event()

    async def work() -> None:
        with TraceContext.use(OUTER):
            try:
                with TraceContext.use(OUTER.child()):
                    started.set()
                    await asyncio.Event().wait()
            finally:
                seen.append(TraceContext.get())
        seen.append(TraceContext.get())

    task = asyncio.create_task(work())
    await started.wait()
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert seen == [OUTER]
    assert TraceContext.get() is None


def test_the_one_before_is_back_after_break_continue_and_return() -> None:
    def leave_by_return() -> None:
        with TraceContext.use(OUTER.child()):
            return

    with TraceContext.use(OUTER):
        for number in range(3):
            with TraceContext.use(OUTER.child()):
                if number == 0:
                    continue
                break
        assert TraceContext.get() is OUTER
        leave_by_return()
        assert TraceContext.get() is OUTER


def test_the_one_before_is_back_after_a_generator_was_given_up() -> None:
    def messages() -> Generator[int, None, None]:
        for number in range(3):
            with TraceContext.use(OUTER.child()):
                yield number

    with TraceContext.use(OUTER):
        for _ in messages():
            break
        gc.collect()
        assert TraceContext.get() is OUTER


async def test_the_one_before_is_back_after_an_async_generator_was_closed() -> None:
    """P-10: by whoever it is closed."""

    async def messages() -> AsyncGenerator[int, None]:
        for number in range(3):
            with TraceContext.use(OUTER.child()):
                yield number

    with TraceContext.use(OUTER):
        generator = messages()
        async for _ in generator:
            assert TraceContext.get() is not OUTER
            break
        await asyncio.create_task(generator.aclose())
        assert TraceContext.get() is OUTER


def test_closing_twice_is_closing_once() -> None:
    with TraceContext.use(OUTER):
        scope = opened()
        scope.close()
        with TraceContext.use(OUTER.child()) as inner:
            scope.close()
            assert TraceContext.get() is inner
        assert TraceContext.get() is OUTER


def test_closing_what_was_never_opened_does_nothing() -> None:
    with TraceContext.use(OUTER):
        TraceContext.use(None).close()
        assert TraceContext.get() is OUTER


def test_a_scope_is_opened_once() -> None:
    scope = TraceContext.use(OUTER)
    with scope, pytest.raises(WrongUseError, match="opened once: call TraceContext"):
        scope.open()
    with pytest.raises(WrongUseError, match="opened once"):
        scope.open()
    assert TraceContext.get() is None


# --- set and clear


def test_set_lasts_until_something_else_is_set() -> None:
    def alone() -> None:
        TraceContext.set(OUTER)
        assert TraceContext.get() is OUTER
        child = OUTER.child()
        TraceContext.set(child)
        assert TraceContext.get() is child
        TraceContext.clear()
        assert TraceContext.get() is None

    in_other_context(alone)


def test_what_is_set_inside_a_scope_is_undone_with_it() -> None:
    with TraceContext.use(OUTER):
        with TraceContext.use(OUTER.child()):
            TraceContext.set(TraceContext.new_root())
            other = TraceContext.new_root()
            TraceContext.set(other)
            assert TraceContext.get() is other
        assert TraceContext.get() is OUTER
        TraceContext.clear()
        assert TraceContext.get() is None
    assert TraceContext.get() is None


def test_what_was_set_before_a_scope_is_back_after_it() -> None:
    def alone() -> None:
        TraceContext.set(OUTER)
        with TraceContext.use(None):
            TraceContext.set(OUTER.child())
        assert TraceContext.get() is OUTER

    in_other_context(alone)


def test_what_is_set_in_an_outer_scope_is_back_after_an_inner_one() -> None:
    other = TraceContext.new_root()
    with TraceContext.use(OUTER):
        TraceContext.set(other)
        with TraceContext.use(OUTER.child()):
            TraceContext.clear()
        assert TraceContext.get() is other
    assert TraceContext.get() is None


def test_what_is_set_inside_two_scopes_ends_with_the_inner_one_also_if_the_outer_one_ends_first() -> None:
    outer, inner = opened(), opened()
    other = TraceContext.new_root()
    TraceContext.set(other)

    outer.close()
    assert TraceContext.get() is other
    inner.close()
    assert TraceContext.get() is None


@elsewhere
def test_what_is_set_inside_a_scope_is_undone_if_that_is_closed_elsewhere(
    elsewhere: Callable[[Callable[[], None]], None],
) -> None:
    with TraceContext.use(OUTER):
        scope = opened()
        TraceContext.set(TraceContext.new_root())
        elsewhere(scope.close)
        assert TraceContext.get() is OUTER


# --- closing in any order


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_scopes_may_be_closed_in_any_order(order: tuple[int, ...]) -> None:
    """K-13: consumers that take turns are not last in, first out."""
    with TraceContext.use(OUTER):
        scopes = [opened() for _ in range(4)]
        remaining = list(scopes)
        for number in order:
            scopes[number].close()
            remaining.remove(scopes[number])
            assert TraceContext.get() is (remaining[-1].context if remaining else OUTER)


@elsewhere
@pytest.mark.parametrize("where", list(itertools.product([True, False], repeat=3)), ids=str)
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_scopes_may_be_closed_here_and_elsewhere_in_any_order(
    order: tuple[int, ...],
    where: tuple[bool, ...],
    elsewhere: Callable[[Callable[[], None]], None],
) -> None:
    with TraceContext.use(OUTER):
        scopes = [opened() for _ in range(3)]
        remaining = list(scopes)
        for number, here in zip(order, where, strict=True):
            if here:
                scopes[number].close()
            else:
                elsewhere(scopes[number].close)
            remaining.remove(scopes[number])
        assert not remaining
        assert TraceContext.get() is OUTER
    assert TraceContext.get() is None


@elsewhere
def test_scopes_that_are_still_open_stay_current_while_others_are_closed_elsewhere(
    elsewhere: Callable[[Callable[[], None]], None],
) -> None:
    first, second, third = opened(), opened(), opened()

    elsewhere(second.close)
    assert TraceContext.get() is third.context
    first.close()
    assert TraceContext.get() is third.context
    third.close()
    assert TraceContext.get() is None


@pytest.mark.parametrize("seed", range(20))
def test_any_course_of_opening_setting_and_closing_ends_as_it_started(seed: int) -> None:
    choose = random.Random(seed)  # noqa: S311 - repeats itself on purpose
    with TraceContext.use(OUTER):
        scopes: list[Scope] = []
        for _ in range(200):
            step = choose.randrange(5)
            if step == 0 and scopes:
                in_other_context(scopes.pop(choose.randrange(len(scopes))).close)
            elif step == 1 and scopes:
                scopes.pop(choose.randrange(len(scopes))).close()
            elif step == 2 and scopes:
                TraceContext.set(TraceContext.new_root())
            elif step == 3:
                assert TraceContext.get() is not None
            else:
                scopes.append(opened())
        for scope in scopes:
            scope.close()
        assert TraceContext.get() is OUTER
    assert TraceContext.get() is None


# --- other threads, tasks and contexts


@elsewhere
def test_a_scope_that_is_closed_elsewhere_changes_nothing_there_and_ends_here(
    elsewhere: Callable[[Callable[[], None]], None], caplog: pytest.LogCaptureFixture
) -> None:
    """K-14, P-09: and nothing is logged."""
    caplog.set_level(logging.DEBUG)
    own = TraceContext.new_root()

    with TraceContext.use(OUTER):
        scope = opened()

        def close() -> None:
            with TraceContext.use(own):
                scope.close()
                assert TraceContext.get() is own
            assert TraceContext.get() is None

        elsewhere(close)
        assert TraceContext.get() is OUTER
    assert TraceContext.get() is None
    assert caplog.records == []


async def test_a_scope_that_is_closed_by_a_task_changes_nothing_there_and_ends_here() -> None:
    """K-14, P-09: a task is a Context of its own."""
    with TraceContext.use(OUTER):
        scope = opened()

        async def close() -> TraceContext | None:
            scope.close()
            return TraceContext.get()

        assert await asyncio.create_task(close()) is scope.context
        assert TraceContext.get() is OUTER


async def test_a_task_with_a_scope_of_its_own_may_close_the_one_that_it_was_started_in() -> None:
    with TraceContext.use(OUTER):
        scope = opened()

        async def close() -> None:
            with TraceContext.use(TraceContext.new_root()) as own:
                scope.close()
                assert TraceContext.get() is own
            assert TraceContext.get() is scope.context

        await asyncio.create_task(close())
        assert TraceContext.get() is OUTER


async def test_a_task_that_was_started_inside_keeps_its_context_after_the_end() -> None:
    is_over = asyncio.Event()

    async def work() -> list[TraceContext | None]:
        await is_over.wait()
        seen = [TraceContext.get()]
        with TraceContext.use(None):
            pass
        return [*seen, TraceContext.get()]

    with TraceContext.use(OUTER):
        task = asyncio.create_task(work())
    assert TraceContext.get() is None
    is_over.set()

    assert await task == [OUTER, OUTER]


async def test_what_is_set_in_a_task_stays_there() -> None:
    other = TraceContext.new_root()

    async def work() -> None:
        TraceContext.set(other)
        await asyncio.sleep(0)
        assert TraceContext.get() is other

    with TraceContext.use(OUTER):
        task = asyncio.create_task(work())
        await task
        assert TraceContext.get() is OUTER


async def test_tasks_do_not_see_each_other_s_context() -> None:
    async def work() -> None:
        for _ in range(20):
            with TraceContext.use(TraceContext.new_root()) as own:
                await asyncio.sleep(0)
                assert TraceContext.get() is own

    with TraceContext.use(OUTER):
        await asyncio.gather(*(work() for _ in range(20)))
        assert TraceContext.get() is OUTER


def test_a_thread_starts_outside_of_any_trace() -> None:
    with TraceContext.use(OUTER):
        assert in_other_thread(TraceContext.get) is None


def test_a_thread_that_runs_in_a_copied_context_inherits_the_trace() -> None:
    with TraceContext.use(OUTER):
        inherited = copy_context()
    assert in_other_thread(lambda: inherited.run(TraceContext.get)) is OUTER


async def test_asyncio_to_thread_inherits_the_trace() -> None:
    with TraceContext.use(OUTER):
        assert await asyncio.to_thread(TraceContext.get) is OUTER


def test_scopes_that_threads_close_at_the_same_time_all_end() -> None:
    scopes = [opened() for _ in range(400)]
    together = threading.Barrier(8, timeout=60)

    def close(part: int) -> None:
        together.wait()
        for scope in scopes[part::8]:
            scope.close()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(close, range(8)))
    assert TraceContext.get() is None


# --- nothing grows (law 9)


def test_interleaved_scopes_leave_nothing_behind() -> None:
    before = open_scopes()
    previous = opened()
    for _ in range(5_000):
        following = opened()
        previous.close()
        previous = following
    assert open_scopes() <= before + 3
    previous.close()
    assert TraceContext.get() is None


def test_interleaved_scopes_that_are_closed_elsewhere_leave_nothing_behind() -> None:
    before = open_scopes()
    window = [opened() for _ in range(3)]
    for _ in range(5_000):
        window.append(opened())
        in_other_context(window.pop(0).close)
    assert open_scopes() <= before + 2 * len(window) + 1
    for scope in window:
        in_other_context(scope.close)
    assert TraceContext.get() is None


def test_scopes_that_are_closed_elsewhere_do_not_pile_up_if_nobody_asks() -> None:
    before = open_scopes()
    for _ in range(5_000):
        in_other_context(opened().close)
    assert open_scopes() <= before + 2
    assert TraceContext.get() is None


def test_thousands_of_scopes_at_once_all_end() -> None:
    scopes = [opened() for _ in range(2_000)]
    for scope in scopes:
        in_other_context(scope.close)
    assert TraceContext.get() is None


async def test_tasks_that_start_their_successor_inside_leave_nothing_behind() -> None:
    before = open_scopes()

    async def tick(number: int) -> asyncio.Task[None] | None:
        with TraceContext.use(TraceContext.new_root()):
            return asyncio.create_task(again(number - 1)) if number else None

    async def again(number: int) -> None:
        task = await tick(number)
        if task is not None:
            await asyncio.sleep(0)
            successors.append(task)

    successors: list[asyncio.Task[None]] = []
    await again(1_000)
    while successors:
        await successors.pop()
    assert open_scopes() <= before + 2
