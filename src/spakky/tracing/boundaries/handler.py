"""Handlers that run in the context of the message they are called with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterator, Mapping
from functools import wraps
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, cast

from spakky.tracing.error import WrongUseError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from spakky.tracing.boundaries.process import Receiver

__all__ = ["HandlerT", "flattened", "handles_batch", "handles_message"]

HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])

_MARK: Final = (
    "__spakky_tracing_client__"  # on a decorated handler, so that decorating twice is decorating once
)


class _Entrance(Protocol):
    """Finds what a handler was called with and returns its processing."""

    def __call__(self, arguments: Iterator[object]) -> AbstractContextManager[object]: ...


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

    def entrance(arguments: Iterator[object]) -> AbstractContextManager[object]:
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

    def entrance(arguments: Iterator[object]) -> AbstractContextManager[object]:
        for argument in arguments:
            if isinstance(argument, (list, tuple, Mapping)):
                messages = flattened(argument)
                if all(isinstance(message, message_type) for message in messages):
                    return receiver.process_batch(messages)
        raise WrongUseError(_without(f"list of {message_type.__name__}", handler))

    return _entered(receiver, handler, entrance)


def flattened(batch: object) -> list[Any]:
    """Return the messages of *batch*: of a sequence, or of a mapping's values, which are sequences."""
    if isinstance(batch, Mapping):
        return list(chain.from_iterable(batch.values()))
    return list(cast("list[Any]", batch))


def _entered(receiver: Receiver[Any], handler: HandlerT, entrance: _Entrance) -> HandlerT:
    if not callable(handler):
        message = f"a handler must be callable, got {type(handler).__name__}"
        raise WrongUseError(message)
    if getattr(handler, _MARK, None) is receiver.client:
        return handler
    entered = _async_handler(handler, entrance) if _is_async(handler) else _sync_handler(handler, entrance)
    setattr(entered, _MARK, receiver.client)
    return cast("HandlerT", entered)


def _async_handler(
    handler: Callable[..., Coroutine[Any, Any, Any]], entrance: _Entrance
) -> Callable[..., Coroutine[Any, Any, Any]]:
    @wraps(handler)
    async def processed(*args: object, **kwargs: object) -> object:
        with entrance(chain(args, kwargs.values())):
            return await handler(*args, **kwargs)

    return processed


def _sync_handler(handler: Callable[..., object], entrance: _Entrance) -> Callable[..., object]:
    @wraps(handler)
    def processed(*args: object, **kwargs: object) -> object:
        with entrance(chain(args, kwargs.values())):
            return handler(*args, **kwargs)

    return processed


def _is_async(handler: Callable[..., object]) -> bool:
    call = getattr(handler, "__call__", None)  # noqa: B004 - an object may be a handler through its class
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(call)


def _without(expected: str, handler: object) -> str:
    name = getattr(handler, "__qualname__", type(handler).__name__)
    return f"{name}() is a consumer and must be called with a {expected}; it got none"
