"""Handlers that run in the context of the message they are called with."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar, cast

from spakky.tracing.boundaries.process import messages_in
from spakky.tracing.error import WrongUseError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spakky.tracing.boundaries.client import Client
    from spakky.tracing.boundaries.process import Processing, Receiver

__all__ = ["HandlerT", "handles_batch", "handles_message"]

HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])

_MARK: Final = "__spakky_tracing_mark__"


class _Mark(NamedTuple):
    """What a decorated handler has on it, so that decorating twice is decorating once."""

    client: Client[Any, Any]
    handler: Callable[..., Any]
    entered: Callable[..., Any]
    has_own_options: bool


class _Entrance(Protocol):
    """Finds what a handler was called with and returns its processing."""

    def __call__(self, arguments: Sequence[object]) -> Processing[Any]: ...


def handles_message(receiver: Receiver[Any], handler: HandlerT, *, replaces: bool = True) -> HandlerT:
    """Return *handler*, run in the context of the message among its arguments.

    Args:
        receiver: Says how a message is processed.
        handler: A callable, async or sync, or a generator function of either kind, whose every step runs in
            the context. What it returns, yields and raises, its signature, name and type hints are the
            caller's as before.
        replaces: Whether options that a decorator gave the handler give way to those of *receiver*.

    Raises:
        WrongUseError: This is not callable, or (when it is called) it gets no message.
    """
    client = receiver.client
    mark = _mark_of(handler, client)
    if mark is not None and mark.has_own_options and not replaces:
        return handler

    def entrance(arguments: Sequence[object]) -> Processing[Any]:
        message = client.message_among(arguments)
        if message is None:
            raise WrongUseError(_without(client.expected, handler))
        return receiver.process(message)

    return _entered(receiver, handler, entrance)


def handles_batch(receiver: Receiver[Any], handler: HandlerT) -> HandlerT:
    """Return *handler*, run in the context of the messages among its arguments.

    Args:
        receiver: Says how messages are processed.
        handler: A callable, async or sync, that is given a list, tuple or dict of lists of messages, or a
            batch of a class of the client library's own.

    Raises:
        WrongUseError: This is not callable, or (when it is called) it gets no messages.
    """
    client = receiver.client
    batch_types: tuple[type[Any], ...] = (list, tuple, Mapping, *client.batch_types)

    def entrance(arguments: Sequence[object]) -> Processing[Any]:
        candidates = [argument for argument in arguments if isinstance(argument, batch_types)]
        batches = [messages for each in candidates if (messages := messages_in(each)) is not None]
        for messages in sorted(batches, key=len, reverse=True):
            if all(client.recognizes(message) for message in messages):
                return receiver.process_batch(messages)
        raise WrongUseError(_without(f"list of {client.expected}", handler))

    return _entered(receiver, handler, entrance)


def _entered(receiver: Receiver[Any], handler: HandlerT, entrance: _Entrance) -> HandlerT:
    if not callable(handler):
        message = f"a handler must be callable, got {type(handler).__name__}"
        raise WrongUseError(message)
    mark = _mark_of(handler, receiver.client)
    if mark is not None:
        if mark.entered is not handler:  # a decorator on top has copied the mark, as functools.wraps does
            return handler
        handler = cast("HandlerT", mark.handler)
    entered = _enter_by(handler)(handler, entrance)
    setattr(entered, _MARK, _Mark(receiver.client, handler, entered, receiver.has_own_options))
    return cast("HandlerT", entered)


def _mark_of(handler: object, client: Client[Any, Any]) -> _Mark | None:
    """Return the mark of a handler that is decorated for *client* already, `None` if it is not."""
    mark: _Mark | None = getattr(handler, _MARK, None)
    return mark if mark is not None and mark.client is client else None


def _enter_by(handler: Callable[..., Any]) -> Callable[[Callable[..., Any], _Entrance], Callable[..., Any]]:
    """Return what makes a handler of the same kind as *handler* is."""
    if _is(inspect.iscoroutinefunction, handler):
        return _async_handler
    if _is(inspect.isasyncgenfunction, handler):
        return _async_generator_handler
    if _is(inspect.isgeneratorfunction, handler):
        return _generator_handler
    return _sync_handler


def _async_handler(
    handler: Callable[..., Coroutine[Any, Any, Any]], entrance: _Entrance
) -> Callable[..., Coroutine[Any, Any, Any]]:
    @wraps(handler)
    async def processed(*args: object, **kwargs: object) -> object:
        with entrance([*args, *kwargs.values()]):
            return await handler(*args, **kwargs)

    return processed


def _sync_handler(handler: Callable[..., object], entrance: _Entrance) -> Callable[..., object]:
    @wraps(handler)
    def processed(*args: object, **kwargs: object) -> object:
        with entrance([*args, *kwargs.values()]) as processing:
            result = handler(*args, **kwargs)
            if not inspect.iscoroutine(result):
                return result
            processing.pause()
            return _awaited(processing, result)

    return processed


async def _awaited(processing: Processing[Any], result: Coroutine[Any, Any, object]) -> object:
    """Await what a sync handler returned, in the context of its message."""
    with processing:
        return await result


def _generator_handler(
    handler: Callable[..., Generator[Any, Any, Any]], entrance: _Entrance
) -> Callable[..., Generator[Any, Any, Any]]:
    @wraps(handler)
    def processed(*args: object, **kwargs: object) -> Generator[Any, Any, Any]:
        processing = entrance([*args, *kwargs.values()])
        generator = handler(*args, **kwargs)
        advance = partial(generator.send, None)
        while True:
            with processing:
                try:
                    item = advance()
                except StopIteration as end:
                    return end.value
                finally:
                    del advance  # an exception that was thrown would be in a cycle with this frame
                processing.pause()
            try:
                sent = yield item
            except BaseException as error:  # noqa: BLE001 - thrown by the caller, for the handler to see
                advance = partial(generator.throw, error)
            else:
                advance = partial(generator.send, sent)

    return processed


def _async_generator_handler(
    handler: Callable[..., AsyncGenerator[Any, Any]], entrance: _Entrance
) -> Callable[..., AsyncGenerator[Any, Any]]:
    @wraps(handler)
    async def processed(*args: object, **kwargs: object) -> AsyncGenerator[Any, Any]:
        processing = entrance([*args, *kwargs.values()])
        generator = handler(*args, **kwargs)
        advance = generator.asend(None)
        while True:
            with processing:
                try:
                    item = await advance
                except StopAsyncIteration:
                    return
                finally:
                    del advance  # an exception that was thrown would be in a cycle with this frame
                processing.pause()
            try:
                sent = yield item
            except BaseException as error:  # noqa: BLE001 - thrown by the caller, for the handler to see
                advance = generator.athrow(error)
            else:
                advance = generator.asend(sent)

    return processed


def _is(predicate: Callable[[object], bool], handler: object) -> bool:
    """Return whether a function is of a kind, also inside of a partial or as the `__call__` of an object."""
    if isinstance(handler, partial):
        return _is(predicate, handler.func)
    return predicate(handler) or predicate(getattr(handler, "__call__", None))  # noqa: B004 - through its class


def _without(expected: str, handler: object) -> str:
    name = getattr(handler, "__qualname__", type(handler).__name__)
    return f"{name}() is a consumer and must be called with a {expected}; it got none"
