"""Handlers run in the context of their message, and are otherwise untouched (law 5)."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import inspect
import typing
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from boundaries.parcels import (
    CLIENT,
    BrokenPropagator,
    BrokenTracer,
    Parcel,
    full_context,
    parcel_from,
    receiver,
)
from spakky.tracing.boundaries.handler import handles_batch, handles_message
from spakky.tracing.boundaries.options import Options, ReceiveOptions, Settings
from spakky.tracing.boundaries.process import Receiver
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.recorder import MemoryRecorder
from spakky.tracing.switch import switch

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterator


class HandlerError(Exception):
    """What a handler raises."""


def handled(handler: Any, **options: Any) -> Any:
    return handles_message(receiver(**options), handler)


def batch_handled(handler: Any, **options: Any) -> Any:
    return handles_batch(receiver(**options), handler)


async def call(handler: Any, *args: object, **kwargs: object) -> Any:
    """Call a handler, async or sync, and return what it returns."""
    result = handler(*args, **kwargs)
    return await result if inspect.isawaitable(result) else result


async def current_async(parcel: object, *_: object, **__: object) -> TraceContext | None:
    await asyncio.sleep(0)
    assert parcel is not None
    return TraceContext.get()


def current_sync(parcel: object, *_: object, **__: object) -> TraceContext | None:
    assert parcel is not None
    return TraceContext.get()


class Service:
    """A class whose methods and instances are handlers."""

    async def handle_async(self, parcel: Parcel) -> TraceContext | None:
        return await current_async(parcel)

    def handle_sync(self, parcel: Parcel) -> TraceContext | None:
        return current_sync(parcel)

    @staticmethod
    async def handle_static(parcel: Parcel) -> TraceContext | None:
        return await current_async(parcel)

    @classmethod
    async def handle_class(cls, parcel: Parcel) -> TraceContext | None:
        return await current_async(parcel)


class AsyncCallable:
    """An object that is a handler."""

    async def __call__(self, parcel: Parcel) -> TraceContext | None:
        return await current_async(parcel)


class SyncCallable:
    """An object that is a handler."""

    def __call__(self, parcel: Parcel) -> TraceContext | None:
        return current_sync(parcel)


HANDLERS = [
    pytest.param(current_async, id="async-function"),
    pytest.param(current_sync, id="function"),
    pytest.param(functools.partial(current_async), id="async-partial"),
    pytest.param(functools.partial(current_sync), id="partial"),
    pytest.param(Service().handle_async, id="async-method"),
    pytest.param(Service().handle_sync, id="method"),
    pytest.param(Service.handle_static, id="static-method"),
    pytest.param(Service.handle_class, id="class-method"),
    pytest.param(AsyncCallable(), id="async-object"),
    pytest.param(SyncCallable(), id="object"),
    pytest.param(functools.partial(AsyncCallable()), id="partial-of-an-async-object"),
    pytest.param(lambda parcel: current_sync(parcel, "x"), id="lambda"),
    pytest.param(lambda parcel: current_async(parcel, "x"), id="lambda-that-returns-a-coroutine"),
]


@pytest.mark.parametrize("handler", HANDLERS)
async def test_every_kind_of_handler_runs_in_the_context_of_its_message(handler: Any) -> None:
    sent = full_context()

    with TraceContext.use(full_context()) as before:
        context = await call(handled(handler), parcel_from(sent))
        assert TraceContext.get() is before

    assert context is not None
    assert (context.trace_id, context.parent_span_id) == (sent.trace_id, sent.span_id)


@pytest.mark.parametrize("handler", [current_async, current_sync])
async def test_the_message_may_be_any_of_the_arguments(handler: Any) -> None:
    sent = full_context()
    parcel = parcel_from(sent)
    decorated = handled(handler)

    for context in (
        await call(decorated, parcel),
        await call(decorated, "first", parcel),
        await call(decorated, parcel=parcel),
        await call(decorated, {"a": 1}, [1], delivered=parcel),
    ):
        assert context.parent_span_id == sent.span_id


async def test_methods_of_a_class_may_be_decorated_in_its_body() -> None:
    sent = full_context()

    class Consumer:
        @functools.partial(handles_message, receiver())
        async def handle(self, parcel: Parcel) -> tuple[object, TraceContext | None]:
            return self, await current_async(parcel)

    consumer = Consumer()
    owner, context = await consumer.handle(parcel_from(sent))

    assert owner is consumer
    assert context is not None
    assert context.parent_span_id == sent.span_id


# --- what passes through


@pytest.mark.parametrize("value", [None, 0, object(), [1], NotImplemented, ValueError()], ids=repr)
async def test_the_value_of_a_handler_is_returned(value: object) -> None:
    async def handle_async(parcel: Parcel) -> object:
        assert isinstance(parcel, Parcel)
        return value

    def handle_sync(parcel: Parcel) -> object:
        assert isinstance(parcel, Parcel)
        return value

    assert await call(handled(handle_async), Parcel()) is value
    assert handled(handle_sync)(Parcel()) is value


@pytest.mark.parametrize(
    "error",
    [HandlerError(), StopIteration(), GeneratorExit(), KeyboardInterrupt(), WrongUseError()],
    ids=repr,
)
async def test_the_exception_of_a_handler_is_raised(error: BaseException) -> None:
    def handle(parcel: Parcel) -> None:
        assert isinstance(parcel, Parcel)
        raise error

    with TraceContext.use(full_context()) as before:
        with pytest.raises(type(error)) as caught:
            handled(handle)(Parcel())
        assert TraceContext.get() is before

    assert caught.value is error


async def test_the_exception_of_an_async_handler_is_raised() -> None:
    error = HandlerError()

    async def handle(parcel: Parcel) -> None:
        assert isinstance(parcel, Parcel)
        raise error

    with TraceContext.use(full_context()) as before:
        with pytest.raises(HandlerError) as caught:
            await handled(handle)(Parcel())
        assert TraceContext.get() is before

    assert caught.value is error
    assert caught.value.__context__ is None


async def test_the_cancellation_of_a_handler_passes_through_and_may_be_caught() -> None:
    recorder = MemoryRecorder()
    seen: list[object] = []

    async def handle(parcel: Parcel) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            seen.extend([parcel, error.args, TraceContext.get()])
            raise

    parcel, sent = Parcel(), full_context()
    parcel = parcel_from(sent)
    task = asyncio.create_task(handled(handle, tracer=recorder)(parcel))
    await asyncio.sleep(0)
    task.cancel("shut down")
    await asyncio.wait([task])

    assert task.cancelled()
    context = seen[2]
    assert seen[:2] == [parcel, ("shut down",)]
    assert isinstance(context, TraceContext)
    assert context.parent_span_id == sent.span_id
    assert [span.outcome for span in recorder.spans] == ["cancelled"]


def test_name_signature_hints_and_docstring_are_the_handler_s() -> None:
    async def handle(parcel: Parcel, *, retries: int = 3) -> list[str]:
        """Handle a parcel."""
        return [parcel.queue] * retries

    decorated = handled(handle)

    assert decorated.__name__ == "handle"
    assert decorated.__qualname__ == handle.__qualname__
    assert decorated.__module__ == handle.__module__
    assert decorated.__doc__ == "Handle a parcel."
    assert decorated.__wrapped__ is handle
    assert inspect.signature(decorated) == inspect.signature(handle)
    assert typing.get_type_hints(decorated) == typing.get_type_hints(handle)
    assert inspect.iscoroutinefunction(decorated)


def test_a_sync_handler_stays_sync() -> None:
    assert not inspect.iscoroutinefunction(handled(current_sync))


def test_decorating_leaves_the_handler_itself_as_it_was() -> None:
    def handle(parcel: Parcel) -> TraceContext | None:
        return current_sync(parcel)

    handled(handle)

    assert vars(handle) == {}
    assert handle(parcel_from(full_context())) is None


def test_decorating_twice_is_decorating_once() -> None:
    recorder = MemoryRecorder()
    once = handled(current_sync, tracer=recorder)

    twice = handled(once, tracer=recorder)
    twice(Parcel())

    assert len(recorder.spans) == 1


def test_decorating_again_replaces_the_options() -> None:
    first, second = MemoryRecorder(), MemoryRecorder()

    handled(handled(current_sync, tracer=first), tracer=second)(Parcel())

    assert (len(first.spans), len(second.spans)) == (0, 1)


def test_a_decorator_on_top_of_a_decorated_handler_stays() -> None:
    recorder = MemoryRecorder()
    calls: list[str] = []
    inner = handled(current_sync, tracer=recorder)

    @functools.wraps(inner)
    def on_top(parcel: Parcel) -> None:
        calls.append("on top")
        inner(parcel)

    handled(on_top, tracer=recorder)(Parcel())

    assert calls == ["on top"]
    assert len(recorder.spans) == 1


def test_a_handler_of_two_clients_runs_in_the_context_of_either() -> None:
    class Letter(Parcel):
        """A message of another client library."""

    other = Receiver(replace(CLIENT, message_type=Letter), Settings(ReceiveOptions))
    decorated = handles_message(other, handled(current_sync))
    parcel, sent = Letter(), full_context()
    parcel.headers = parcel_from(sent).headers

    context = decorated(parcel)

    assert context is not None
    assert context.parent_span_id == sent.span_id


# --- wrong use and bad luck


@pytest.mark.parametrize("decorate", [handled, batch_handled])
@pytest.mark.parametrize("wrong", [7, "handler", object(), Parcel()], ids=repr)
def test_what_is_not_callable_is_refused(decorate: Any, wrong: object) -> None:
    with pytest.raises(WrongUseError, match=r"^a handler must be callable, got \w+$"):
        decorate(wrong)


@pytest.mark.parametrize("handler", [current_async, current_sync])
async def test_a_call_without_a_message_is_refused_and_the_handler_not_run(handler: Any) -> None:
    name = handler.__qualname__

    without: list[tuple[object, ...]] = [(), (None,), ({},), ([Parcel()],)]
    for arguments in without:
        with pytest.raises(WrongUseError) as caught:
            await call(handled(handler), *arguments)
        assert str(caught.value) == f"{name}() is a consumer and must be called with a Parcel; it got none"


def test_a_handler_without_a_name_is_refused_by_its_type() -> None:
    with pytest.raises(WrongUseError, match=r"^SyncCallable\(\) is a consumer and must be called with a"):
        handled(SyncCallable())(None)


@pytest.mark.parametrize("handler", [current_async, current_sync])
async def test_a_propagator_that_fails_runs_the_handler_once(handler: Any) -> None:
    with TraceContext.use(full_context()) as before:
        context = await call(handled(handler, propagator=BrokenPropagator()), parcel_from(full_context()))
        assert TraceContext.get() is before

    assert context is not None
    assert context.parent_span_id is None


@pytest.mark.parametrize("handler", [current_async, current_sync])
async def test_switched_off_the_handler_runs_in_what_is_current(handler: Any) -> None:
    with TraceContext.use(full_context()) as before:
        assert await call(handled(handler, enabled=False), parcel_from(full_context())) is before


async def test_handlers_that_run_at_the_same_time_do_not_mix() -> None:
    handler = handled(current_async)
    senders = [full_context() for _ in range(50)]

    contexts = await asyncio.gather(*(handler(parcel_from(sender)) for sender in senders))

    assert [context.parent_span_id for context in contexts] == [sender.span_id for sender in senders]
    assert TraceContext.get() is None


async def test_tasks_that_a_handler_starts_inherit_its_context_and_keep_it() -> None:
    async def handle(parcel: Parcel) -> asyncio.Task[TraceContext | None]:
        return asyncio.create_task(current_async(parcel))

    sent = full_context()
    task = await handled(handle)(parcel_from(sent))
    context = await task

    assert context is not None
    assert context.parent_span_id == sent.span_id


# --- generators


class InterruptionError(Exception):
    """What is thrown into a generator that catches it."""


class Steps:
    """A handler in steps: it yields what is current, and calls what it is sent."""

    def __init__(self) -> None:
        self.caught: list[BaseException] = []
        self.current_at_the_end: list[TraceContext | None] = []

    def sync(self, parcel: Parcel, result: str = "done") -> Generator[Any, Any, str]:
        """Handle a parcel in steps."""
        try:
            while (act := (yield TraceContext.get())) != "stop":
                self._act(parcel, act)
                try:
                    yield act
                except InterruptionError as error:
                    self.caught.append(error)
        finally:
            self.current_at_the_end.append(TraceContext.get())
        return result

    async def asynchronous(self, parcel: Parcel, result: str = "done") -> AsyncGenerator[Any, Any]:
        """Handle a parcel in steps."""
        try:
            while (act := (yield TraceContext.get())) != "stop":
                await asyncio.sleep(0)
                self._act(parcel, act)
                try:
                    yield act
                except InterruptionError as error:
                    self.caught.append(error)
        finally:
            self.current_at_the_end.append(TraceContext.get())

    @staticmethod
    def _act(parcel: Parcel, act: Any) -> None:
        assert isinstance(parcel, Parcel)
        if callable(act):
            act()


class Driver:
    """Drives a generator of either kind by hand; its end is `StopAsyncIteration` in both."""

    def __init__(self, kind: str, recorder: MemoryRecorder | None = None) -> None:
        self.steps = Steps()
        self.sent = full_context()
        self.parcel = parcel_from(self.sent)
        self.is_sync = kind == "sync"
        handler = self.steps.sync if self.is_sync else self.steps.asynchronous
        decorated = handled(handler, **({"tracer": recorder} if recorder else {}))
        self.generator: Any = decorated(self.parcel)

    async def next(self) -> Any:
        return await self.send(None)

    async def send(self, value: object) -> Any:
        if not self.is_sync:
            return await self.generator.asend(value)
        try:
            return self.generator.send(value)
        except StopIteration as end:
            raise StopAsyncIteration(end.value) from None

    async def throw(self, error: BaseException) -> Any:
        return self.generator.throw(error) if self.is_sync else await self.generator.athrow(error)

    async def close(self) -> None:
        _ = self.generator.close() if self.is_sync else await self.generator.aclose()

    async def drop(self) -> None:
        """Give the generator up, and let the loop close it if it is an async one."""
        del self.generator
        for _ in range(3):
            await asyncio.sleep(0)


every_kind = pytest.mark.parametrize("kind", ["sync", "async"])


@every_kind
async def test_every_step_runs_in_the_context_and_between_the_steps_is_the_caller_s_own(kind: str) -> None:
    driver = Driver(kind)

    with TraceContext.use(full_context()) as own:
        first = await driver.next()
        assert TraceContext.get() is own
        with TraceContext.use(full_context()) as inner:
            await driver.send("go on")
            assert TraceContext.get() is inner
        second = await driver.next()
        assert TraceContext.get() is own
        with pytest.raises(StopAsyncIteration):
            await driver.send("stop")
        assert TraceContext.get() is own

    assert (first.trace_id, first.parent_span_id) == (driver.sent.trace_id, driver.sent.span_id)
    assert second is first
    assert driver.steps.current_at_the_end == [first]


@every_kind
async def test_what_a_step_sets_is_current_in_the_next_one_only(kind: str) -> None:
    driver, other = Driver(kind), full_context()

    with TraceContext.use(full_context()) as own:
        await driver.next()
        await driver.send(lambda: TraceContext.set(other))
        assert TraceContext.get() is own
        assert await driver.next() is other
        assert TraceContext.get() is own
        await driver.close()
        assert TraceContext.get() is own

    assert driver.steps.current_at_the_end == [other]


@every_kind
async def test_nothing_happens_before_the_first_step(kind: str) -> None:
    recorder = MemoryRecorder()

    await Driver(kind, recorder).close()
    await Driver(kind, recorder).drop()
    with pytest.raises(HandlerError):
        await Driver(kind, recorder).throw(HandlerError())

    assert list(recorder.spans) == []


@every_kind
async def test_what_is_sent_and_yielded_passes_through(kind: str) -> None:
    driver, value = Driver(kind), object()

    await driver.next()

    assert await driver.send(value) is value


def test_the_value_of_a_generator_is_that_of_yield_from() -> None:
    def outer() -> Generator[Any, Any, Any]:
        return (yield from handled(Steps().sync)(Parcel(), result="a value"))

    generator = outer()
    next(generator)
    with pytest.raises(StopIteration) as caught:
        generator.send("stop")

    assert caught.value.value == "a value"


@every_kind
async def test_what_is_thrown_reaches_the_handler_and_may_be_caught(kind: str) -> None:
    recorder, error = MemoryRecorder(), InterruptionError()
    driver = Driver(kind, recorder)

    first = await driver.next()
    await driver.send("go on")

    assert await driver.throw(error) is first
    assert driver.steps.caught == [error]
    assert error.__context__ is None
    assert list(recorder.spans) == []
    assert TraceContext.get() is None


@every_kind
async def test_what_is_thrown_and_not_caught_comes_back_and_is_recorded(kind: str) -> None:
    recorder, error = MemoryRecorder(), HandlerError()
    driver = Driver(kind, recorder)

    first = await driver.next()
    with pytest.raises(HandlerError) as caught:
        await driver.throw(error)
    with pytest.raises(StopAsyncIteration):
        await driver.next()

    assert caught.value is error
    assert error.__context__ is None
    assert driver.steps.current_at_the_end == [first]
    (span,) = recorder.spans
    assert (span.outcome, str(span.error).rpartition(".")[2]) == ("error", "HandlerError")
    assert TraceContext.get() is None


@every_kind
async def test_an_exception_inside_comes_out_and_ends_the_processing(kind: str) -> None:
    recorder, error = MemoryRecorder(), HandlerError()
    driver = Driver(kind, recorder)

    def fail() -> None:
        raise error

    await driver.next()
    with TraceContext.use(full_context()) as own:
        with pytest.raises(HandlerError) as caught:
            await driver.send(fail)
        assert TraceContext.get() is own

    assert caught.value is error
    assert error.__context__ is None
    assert [span.outcome for span in recorder.spans] == ["error"]


@every_kind
async def test_a_handler_that_runs_to_its_end_is_one_processing_that_is_recorded_as_ok(kind: str) -> None:
    recorder = MemoryRecorder()
    driver = Driver(kind, recorder)

    for act in (None, "go on", None):
        await driver.send(act)
    assert list(recorder.spans) == []
    with pytest.raises(StopAsyncIteration):
        await driver.send("stop")

    (span,) = recorder.spans
    assert (span.outcome, span.parent_span_id) == ("ok", driver.sent.span_id)


@every_kind
@pytest.mark.parametrize("end", ["close", "drop"])
async def test_a_handler_that_is_closed_or_dropped_ends_in_its_context(kind: str, end: str) -> None:
    recorder = MemoryRecorder()
    driver = Driver(kind, recorder)

    first = await driver.next()
    with TraceContext.use(full_context()) as own:
        await (driver.close() if end == "close" else driver.drop())
        assert TraceContext.get() is own

    assert driver.steps.current_at_the_end == [first]
    assert [span.outcome for span in recorder.spans] == ["unknown"]


@every_kind
async def test_closing_twice_and_after_the_end_does_nothing(kind: str) -> None:
    recorder = MemoryRecorder()
    driver = Driver(kind, recorder)

    await driver.next()
    with pytest.raises(StopAsyncIteration):
        await driver.send("stop")
    await driver.close()
    await driver.close()

    assert [span.outcome for span in recorder.spans] == ["ok"]


def test_a_generator_that_yields_when_it_is_closed_is_told_so_by_python() -> None:
    recorder = MemoryRecorder()

    def handle(parcel: Parcel) -> Generator[object, None, None]:
        try:
            yield parcel
        except GeneratorExit:
            yield "once more"

    generator = handled(handle, tracer=recorder)(Parcel())
    next(generator)
    with pytest.raises(RuntimeError, match="generator ignored GeneratorExit"):
        generator.close()
    assert TraceContext.get() is None

    del generator
    assert [span.outcome for span in recorder.spans] == ["unknown"]


async def test_an_async_generator_that_yields_when_it_is_closed_is_told_so_by_python() -> None:
    recorder = MemoryRecorder()

    async def handle(parcel: Parcel) -> AsyncGenerator[object, None]:
        try:
            yield parcel
        except GeneratorExit:
            yield "once more"

    generator = handled(handle, tracer=recorder)(Parcel())
    await anext(generator)
    with pytest.raises(RuntimeError, match="async generator ignored GeneratorExit"):
        await generator.aclose()
    assert TraceContext.get() is None


@every_kind
async def test_each_step_may_run_in_another_context(kind: str) -> None:
    recorder = MemoryRecorder()
    driver = Driver(kind, recorder)

    async def step(value: object) -> Any:
        return await asyncio.create_task(driver.send(value), context=contextvars.Context())

    first = await step(None)
    assert await step("go on") == "go on"
    assert await step(None) is first
    with TraceContext.use(full_context()) as own:
        await asyncio.create_task(driver.close())
        assert TraceContext.get() is own

    assert [span.outcome for span in recorder.spans] == ["unknown"]


def test_each_step_may_run_in_another_thread() -> None:
    generator = handled(Steps().sync)(parcel_from(full_context()))

    with ThreadPoolExecutor(2) as threads:
        seen = [
            threads.submit(next, generator).result(),
            next(generator),
            threads.submit(next, generator).result(),
        ]

    assert seen[0] is seen[2] is not None
    generator.close()
    assert TraceContext.get() is None


async def test_a_cancellation_reaches_a_step_and_comes_back() -> None:
    recorder, waiting = MemoryRecorder(), asyncio.Event()

    async def handle(parcel: Parcel) -> AsyncGenerator[object, None]:
        yield parcel
        waiting.set()
        await asyncio.Event().wait()

    generator = handled(handle, tracer=recorder)(Parcel())
    await anext(generator)
    task = asyncio.create_task(anext(generator))
    await waiting.wait()
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert [span.outcome for span in recorder.spans] == ["cancelled"]


@every_kind
async def test_two_handlers_that_take_turns_do_not_mix(kind: str) -> None:
    first, second = Driver(kind), Driver(kind)

    seen = []
    for _ in range(2):
        for driver in (first, second):
            seen.append(await driver.next())
            await driver.send(None)

    parents = [context.parent_span_id for context in seen]
    assert parents == [first.sent.span_id, second.sent.span_id] * 2
    for driver in (first, second):
        await driver.close()
    assert TraceContext.get() is None


def test_generators_keep_their_kind_signature_and_name() -> None:
    for handler, is_kind in (
        (Steps.sync, inspect.isgeneratorfunction),
        (Steps.asynchronous, inspect.isasyncgenfunction),
    ):
        decorated = handled(handler)

        assert is_kind(decorated)
        assert is_kind(handled(functools.partial(handler, Steps())))
        assert not inspect.iscoroutinefunction(decorated)
        assert inspect.signature(decorated) == inspect.signature(handler)
        assert typing.get_type_hints(decorated, vars(typing) | globals()) == typing.get_type_hints(
            handler, vars(typing) | globals()
        )
        assert (decorated.__name__, decorated.__doc__) == (handler.__name__, "Handle a parcel in steps.")


@every_kind
@pytest.mark.parametrize("options", [{"propagator": BrokenPropagator()}, {"tracer": BrokenTracer()}], ids=str)
async def test_what_fails_costs_no_step(kind: str, options: Any) -> None:
    steps = Steps()
    generator = handled(steps.sync if kind == "sync" else steps.asynchronous, **options)(Parcel())

    with contextlib.suppress(StopIteration, StopAsyncIteration):
        for value in (None, "go on", None, "stop"):
            _ = generator.send(value) if kind == "sync" else await generator.asend(value)

    (context,) = steps.current_at_the_end
    assert context is not None


@every_kind
async def test_switched_off_every_step_runs_in_what_is_current(kind: str) -> None:
    steps = Steps()
    handler = handled(steps.sync if kind == "sync" else steps.asynchronous, enabled=False)
    generator = handler(parcel_from(full_context()))

    with TraceContext.use(full_context()) as own:
        assert (next(generator) if kind == "sync" else await anext(generator)) is own
        _ = generator.close() if kind == "sync" else await generator.aclose()

    assert steps.current_at_the_end == [own]


@every_kind
async def test_a_generator_without_a_message_is_refused_at_its_first_step(kind: str) -> None:
    steps = Steps()
    generator = handled(steps.sync if kind == "sync" else steps.asynchronous)("no parcel")

    with pytest.raises(WrongUseError, match=r"is a consumer and must be called with a Parcel; it got none$"):
        _ = next(generator) if kind == "sync" else await anext(generator)

    assert steps.current_at_the_end == []


@every_kind
@pytest.mark.parametrize("end", ["stop", "throw", "close"])
async def test_a_generator_that_is_over_leaves_nothing_to_the_garbage_collector(kind: str, end: str) -> None:
    """No reference cycle keeps a message, or the exception that it failed with."""
    gc.disable()
    thrown = None
    try:
        driver = Driver(kind, MemoryRecorder())
        await driver.next()
        with contextlib.suppress(StopAsyncIteration, HandlerError):
            if end == "stop":
                await driver.send("stop")
            elif end == "throw":
                # not by a method of the driver: the exception would be in a cycle with that one's frame
                thrown = driver.generator.throw if driver.is_sync else driver.generator.athrow
                _ = thrown(HandlerError()) if driver.is_sync else await thrown(HandlerError())
            else:
                await driver.close()
        parcel = weakref.ref(driver.parcel)
        del driver, thrown
        assert parcel() is None
    finally:
        gc.enable()


@every_kind
async def test_a_batch_handler_may_be_a_generator(kind: str) -> None:
    recorder, sent = MemoryRecorder(), full_context()

    def sync(parcels: list[Parcel]) -> Generator[TraceContext | None, None, None]:
        yield from (TraceContext.get() for _ in parcels)

    async def asynchronous(parcels: list[Parcel]) -> AsyncGenerator[TraceContext | None, None]:
        for _ in parcels:
            yield TraceContext.get()

    parcels = [parcel_from(sent), Parcel()]
    generator = batch_handled(sync if kind == "sync" else asynchronous, tracer=recorder)(parcels)
    seen = list(generator) if kind == "sync" else [each async for each in generator]

    (span,) = recorder.spans
    assert [context.span_id for context in seen] == [span.span_id] * 2
    assert [link.span_id for link in span.links] == [sent.span_id]


# --- batches


@pytest.mark.parametrize("handler", [current_async, current_sync])
async def test_a_batch_handler_runs_in_one_context_for_all(handler: Any) -> None:
    recorder = MemoryRecorder()
    senders = [full_context(), full_context()]
    parcels = [parcel_from(sender) for sender in senders]
    decorated = batch_handled(handler, tracer=recorder)

    for batch in (parcels, tuple(parcels), {"a": parcels[:1], "b": parcels[1:]}):
        context = await call(decorated, batch)
        assert context is not None
        assert context.parent_span_id is None
    assert await call(decorated, "first", parcels=parcels) is not None

    assert len(recorder.spans) == 4
    for span in recorder.spans:
        assert [link.span_id for link in span.links] == [sender.span_id for sender in senders]
    assert TraceContext.get() is None


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"retries": 3}, id="dict-of-numbers"),
        pytest.param({"parcels": None}, id="dict-of-nothing"),
        pytest.param({"a": "text"}, id="dict-of-text"),
        pytest.param([1, 2], id="list-of-numbers"),
        pytest.param([], id="empty-list"),
        pytest.param({}, id="empty-dict"),
        pytest.param("text", id="text"),
    ],
)
def test_other_arguments_of_a_batch_handler_are_passed_over(other: Any) -> None:
    recorder, sender = MemoryRecorder(), full_context()
    decorated = batch_handled(current_sync, tracer=recorder)

    assert decorated(other, [parcel_from(sender)]) is not None
    (span,) = recorder.spans
    assert [link.span_id for link in span.links] == [sender.span_id]


class Crate:
    """A batch of a class of the client library's own, which is neither a list nor a collection."""

    def __init__(self, parcels: list[Parcel]) -> None:
        self._parcels = parcels

    def __iter__(self) -> Iterator[Parcel]:
        return iter(self._parcels)


def test_a_batch_may_be_of_a_class_of_the_client_library() -> None:
    recorder, sender = MemoryRecorder(), full_context()
    crates = Receiver(replace(CLIENT, batch_types=(Crate,)), Settings(ReceiveOptions, {"tracer": recorder}))
    crate = Crate([parcel_from(sender)])

    assert handles_batch(crates, current_sync)(crate) is not None
    (span,) = recorder.spans
    assert [link.span_id for link in span.links] == [sender.span_id]
    with pytest.raises(WrongUseError, match="with a list of Parcel; it got none"):
        batch_handled(current_sync)(crate)


@pytest.mark.parametrize("empty", [[], (), {}, {"a": []}], ids=repr)
def test_a_batch_handler_is_run_for_an_empty_batch_too(empty: Any) -> None:
    with TraceContext.use(full_context()) as before:
        assert batch_handled(current_sync)(empty) is before


@pytest.mark.parametrize("arguments", [(), (None,), (Parcel(),), ([7],), ([Parcel(), None],)], ids=repr)
def test_a_batch_handler_without_messages_is_refused(arguments: Any) -> None:
    with pytest.raises(WrongUseError) as caught:
        batch_handled(current_sync)(*arguments)

    sentence = "current_sync() is a consumer and must be called with a list of Parcel; it got none"
    assert str(caught.value) == sentence


# --- decorated by hand and by a wrapper


def implicitly(handler: Any, **options: Any) -> Any:
    """Decorate *handler* as a wrapped consumer does with what it is given."""
    return handles_message(receiver_on_top(options), handler, replaces=False)


def receiver_on_top(options: dict[str, Any]) -> Receiver[Parcel]:
    return Receiver(CLIENT, Settings(ReceiveOptions, options, Settings(Options)))


@pytest.mark.parametrize("own", [{"relation": "root"}, {"enabled": False}], ids=str)
def test_a_wrapper_leaves_a_handler_the_options_that_it_was_decorated_with(own: dict[str, Any]) -> None:
    handler = handles_message(receiver_on_top(own), lambda parcel: TraceContext.get())
    sent = full_context()

    seen = implicitly(handler)(parcel_from(sent))

    assert seen is None or seen.trace_id != sent.trace_id


def test_a_wrapper_gives_its_options_to_a_handler_without_any() -> None:
    plain = handles_message(receiver_on_top({}), lambda parcel: TraceContext.get())
    sent = full_context()

    for handler in (plain, lambda parcel: TraceContext.get()):
        seen = implicitly(handler, relation="root")(parcel_from(sent))
        assert seen.trace_id != sent.trace_id


async def test_what_began_switched_off_ends_so() -> None:
    def handle(parcel: Parcel) -> Any:
        yield TraceContext.get()
        yield TraceContext.get()

    decorated = handles_message(receiver_on_top({}), handle)
    switch(on=False)
    try:
        steps = decorated(parcel_from(full_context()))
        assert next(steps) is None
    finally:
        switch(on=True)

    assert next(steps) is None
