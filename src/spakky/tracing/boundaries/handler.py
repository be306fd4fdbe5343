"""Handlers that run in the context of the message they are called with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping
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


class _Entrance(Protocol):
    """Finds what a handler was called with and returns its processing."""

    def __call__(self, arguments: Sequence[object]) -> Processing[Any]: ...


def handles_message(receiver: Receiver[Any], handler: HandlerT) -> HandlerT:
    """Return *handler*, run in the context of the message among its arguments.

    Args:
        receiver: Says how a message is processed.
        handler: A callable, async or sync. What it returns and raises, its signature, name and type hints
            are the caller's as before.

    Raises:
        WrongUseError: This is not callable, or (when it is called) it gets no message.
    """
    message_type = receiver.client.message_type

    def entrance(arguments: Sequence[object]) -> Processing[Any]:
        for argument in arguments:
            if isinstance(argument, message_type):
                return receiver.process(argument)
        raise WrongUseError(_without(message_type.__name__, handler))

    return _entered(receiver, handler, entrance)


def handles_batch(receiver: Receiver[Any], handler: HandlerT) -> HandlerT:
    """Return *handler*, run in the context of the messages among its arguments.

    Args:
        receiver: Says how messages are processed.
        handler: A callable, async or sync, that is given a list, tuple or dict of lists of messages.

    Raises:
        WrongUseError: This is not callable, or (when it is called) it gets no messages.
    """
    message_type = receiver.client.message_type

    def entrance(arguments: Sequence[object]) -> Processing[Any]:
        candidates = [argument for argument in arguments if isinstance(argument, (list, tuple, Mapping))]
        batches = [messages for each in candidates if (messages := messages_in(each)) is not None]
        for messages in sorted(batches, key=len, reverse=True):
            if all(isinstance(message, message_type) for message in messages):
                return receiver.process_batch(messages)
        raise WrongUseError(_without(f"list of {message_type.__name__}", handler))

    return _entered(receiver, handler, entrance)


def _entered(receiver: Receiver[Any], handler: HandlerT, entrance: _Entrance) -> HandlerT:
    if not callable(handler):
        message = f"a handler must be callable, got {type(handler).__name__}"
        raise WrongUseError(message)
    mark: _Mark | None = getattr(handler, _MARK, None)
    if mark is not None and mark.client is receiver.client:
        if mark.entered is not handler:  # a decorator on top has copied the mark, as functools.wraps does
            return handler
        handler = cast("HandlerT", mark.handler)
    entered = _async_handler(handler, entrance) if _is_async(handler) else _sync_handler(handler, entrance)
    setattr(entered, _MARK, _Mark(receiver.client, handler, entered))
    return cast("HandlerT", entered)


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


def _is_async(handler: Callable[..., object]) -> bool:
    if isinstance(handler, partial):
        return _is_async(handler.func)
    call = getattr(handler, "__call__", None)  # noqa: B004 - an object may be a handler through its class
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(call)


def _without(expected: str, handler: object) -> str:
    name = getattr(handler, "__qualname__", type(handler).__name__)
    return f"{name}() is a consumer and must be called with a {expected}; it got none"
