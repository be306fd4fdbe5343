"""What every integration promises of the handlers that it decorates."""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import TYPE_CHECKING, Any, get_type_hints

import pytest

from contract.contexts import TRACEPARENT
from contract.delivery import Delivery
from contract.receiving import SENDER, HandlerError
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.recorder import MemoryRecorder

if TYPE_CHECKING:
    from collections.abc import Callable


class HandlerContract(Delivery):
    """Law 5, on messages of a real broker."""

    def decorate(self, handler: Callable[..., Any], **options: Any) -> Any:
        consumer = self.integration.consumer
        return consumer(**options)(handler) if options else consumer(handler)

    async def message(self) -> Any:
        return await self.deliver({})

    async def test_the_value_of_an_async_handler_passes_through(self) -> None:
        value = object()

        async def handle(message: Any) -> object:
            await asyncio.sleep(0)
            return value

        assert await self.decorate(handle)(await self.message()) is value

    async def test_the_value_of_a_sync_handler_passes_through(self) -> None:
        value = object()

        assert self.decorate(lambda message: value)(await self.message()) is value

    async def test_the_exception_of_a_handler_passes_through(self) -> None:
        error = HandlerError("an order that nobody can fill")

        async def handle(message: Any) -> None:
            raise error

        with pytest.raises(HandlerError) as raised:
            await self.decorate(handle)(await self.message())

        assert raised.value is error

    async def test_a_cancellation_reaches_the_handler_and_comes_back(self) -> None:
        running, seen = asyncio.Event(), []

        async def handle(message: Any) -> None:
            running.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError as error:
                seen.append(error)
                raise

        task = asyncio.create_task(self.decorate(handle)(await self.message()))
        await running.wait()
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(seen) == 1

    async def test_signature_name_and_type_hints_stay(self) -> None:
        async def handle(message: bytes, /, *, retries: int = 3) -> str:
            """Handle it."""
            return f"{message!r}{retries}"

        decorated = self.decorate(handle)

        assert inspect.signature(decorated) == inspect.signature(handle)
        assert get_type_hints(decorated) == get_type_hints(handle)
        assert (decorated.__name__, decorated.__doc__) == ("handle", "Handle it.")
        assert inspect.iscoroutinefunction(decorated)
        assert not inspect.iscoroutinefunction(self.decorate(lambda message: None))

    async def test_other_arguments_pass_through_in_any_place(self) -> None:
        async def handle(session: str, message: Any, *rest: int, **named: str) -> tuple[Any, ...]:
            return session, message, rest, named

        message = await self.message()

        assert await self.decorate(handle)("s", message, 1, 2, a="b") == ("s", message, (1, 2), {"a": "b"})

    async def test_a_partial_and_a_callable_object_are_handlers(self) -> None:
        async def handle(session: str, message: Any) -> TraceContext | None:
            return TraceContext.get()

        class Handler:
            async def __call__(self, message: Any) -> TraceContext | None:
                await asyncio.sleep(0)
                return TraceContext.get()

        for handler in (functools.partial(handle, "session"), Handler()):
            assert await self.decorate(handler)(await self.message()) is not None

    async def test_decorating_twice_is_decorating_once(self) -> None:
        """A-13, T-02: one scope, one span."""
        recorder = MemoryRecorder()

        async def handle(message: Any) -> None: ...

        decorated = self.decorate(self.decorate(handle, tracer=recorder), tracer=recorder)
        await decorated(await self.message())

        assert len(recorder.spans) == 1

    async def test_what_is_sent_in_a_scope_of_the_handler_has_that_scope_as_parent(self) -> None:
        """A-17: not the sender's context, and not that of the processing."""

        async def handle(message: Any) -> tuple[TraceContext, Any]:
            processing = TraceContext.get()
            assert processing is not None
            with TraceContext.use(processing.child()) as scope:
                assert scope is not None
                return scope, self.integration.headers()

        scope, headers = await self.decorate(handle)(await self.deliver({"traceparent": TRACEPARENT}))
        reply = self.integration.context_from(await self.deliver_native(headers))

        assert (reply.trace_id, reply.span_id) == (SENDER.trace_id, scope.span_id)

    async def test_a_handler_that_gets_no_message_is_told_so(self) -> None:
        async def handle(value: bytes) -> None: ...

        with pytest.raises(WrongUseError, match=r"handle\(\) is a consumer and must be called with a"):
            await self.decorate(handle)(b"value")

    async def test_what_is_not_callable_is_refused(self) -> None:
        with pytest.raises(WrongUseError, match="a handler must be callable, got int"):
            self.decorate(7)  # type: ignore[arg-type]
