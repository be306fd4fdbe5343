"""Handlers run in the context of their message, and are otherwise untouched (law 5)."""

from __future__ import annotations

import asyncio
import functools
import inspect
import typing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from boundaries.parcels import CLIENT, BrokenPropagator, Parcel, full_context, parcel_from, receiver
from spakky.tracing.boundaries.handler import handles_batch, handles_message
from spakky.tracing.boundaries.options import ReceiveOptions, Settings
from spakky.tracing.boundaries.process import Receiver
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.recorder import MemoryRecorder

if TYPE_CHECKING:
    from collections.abc import Iterator


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
