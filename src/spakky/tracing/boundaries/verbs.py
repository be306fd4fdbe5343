"""The verbs that every integration offers, said once."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from spakky.tracing.boundaries.client import Client, MessageT
from spakky.tracing.boundaries.handler import HandlerT, handles_batch, handles_message
from spakky.tracing.boundaries.iteration import AsyncIteration, Iteration, iteration_over
from spakky.tracing.boundaries.options import Options, ReceiveOptions, SendOptions, Settings
from spakky.tracing.boundaries.process import Batch, BatchProcessing, Processing, Receiver
from spakky.tracing.boundaries.publish import Sender

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable
    from typing import Unpack

    from spakky.tracing.context import TraceContext

__all__ = ["Verbs"]

HeadersT = TypeVar("HeadersT")


class Verbs(Generic[MessageT, HeadersT]):
    """The verbs for the messages of one client library; its integration offers the methods as functions.

    A *message* is always one that was received, an object of the client library; *headers* have the shape
    that the client library sends. All options may be left out.
    """

    def __init__(self, client: Client[MessageT, HeadersT]) -> None:
        self._client = client
        self._settings = Settings(Options)
        self._sender = Sender(client, self._settings)
        self._receiver = Receiver(client, self._settings)

    def configure(self, **options: Unpack[Options]) -> None:
        """Set the options of this integration, which hold wherever a call gives none of its own.

        They hold at once, also for what was wrapped or decorated before. Another call puts other options in
        their place; a call without any goes back to the library's defaults.

        Args:
            **options: See `Options`.

        Raises:
            WrongUseError: An option is not known; nothing has changed.
        """
        self._settings.change(options)

    def headers(self, existing: Iterable[Any] | None = None, **options: Unpack[SendOptions]) -> HeadersT:
        """Return headers for a send by hand: a copy of *existing* ones, and the current context.

        Where they are sent to is not known here, so of an option that chooses by name only `*` counts.

        Args:
            existing: Headers of the message in any shape that the client library takes; `None` for none.
            **options: See `SendOptions`.

        Returns:
            New headers, of the type that the client library wants.

        Raises:
            WrongUseError: *existing* cannot be headers of a message, or an option is not known.
        """
        return self.sender(options).headers(existing)

    def retry_headers(self, message: MessageT, **options: Unpack[SendOptions]) -> HeadersT:
        """Return headers to send *message* on with after it failed, to a retry topic or as a dead letter.

        They are its own, with the current context and one more in the header `x-retry-count`, by which the
        next processing knows the number of its attempt and links to this one. Where the source of *message*
        is switched off, they are its own as they are; of a sender that is not trusted (`root`) no context is
        sent on.

        Args:
            message: A received message, being processed.
            **options: See `SendOptions`.

        Returns:
            New headers, of the type that the client library wants.

        Raises:
            WrongUseError: This is no message of the client library, or an option is not known.
        """
        sender = self.sender(options)
        existing, delivery = self._receiver.read(message)
        names = self._receiver.names_of(message)
        return sender.retry_headers(existing, delivery.retry_count + 1, names)

    @overload
    def consumer(self, handler: HandlerT, /) -> HandlerT: ...
    @overload
    def consumer(self, /, **options: Unpack[ReceiveOptions]) -> Callable[[HandlerT], HandlerT]: ...
    def consumer(
        self, handler: HandlerT | None = None, /, **options: Unpack[ReceiveOptions]
    ) -> HandlerT | Callable[[HandlerT], HandlerT]:
        """Decorate a handler, so that it runs in the context of the message that it is called with.

        Args:
            handler: An async or sync callable with a message among its arguments. Its value, exceptions,
                signature, name and type hints stay as they are.
            **options: See `ReceiveOptions`.

        Raises:
            WrongUseError: The handler is not callable or is called without a message, or an option is not
                known.
        """
        receiver = self.receiver(options)
        return partial(handles_message, receiver) if handler is None else handles_message(receiver, handler)

    @overload
    def batch_consumer(self, handler: HandlerT, /) -> HandlerT: ...
    @overload
    def batch_consumer(self, /, **options: Unpack[ReceiveOptions]) -> Callable[[HandlerT], HandlerT]: ...
    def batch_consumer(
        self, handler: HandlerT | None = None, /, **options: Unpack[ReceiveOptions]
    ) -> HandlerT | Callable[[HandlerT], HandlerT]:
        """Decorate a handler of batches, so that it runs in one context that links to all senders.

        Args:
            handler: An async or sync callable with several messages among its arguments: in a list, a tuple,
                or a dict with lists of them as values.
            **options: See `ReceiveOptions`.

        Raises:
            WrongUseError: The handler is not callable or is called without messages, or an option is not
                known.
        """
        receiver = self.receiver(options)
        return partial(handles_batch, receiver) if handler is None else handles_batch(receiver, handler)

    @overload
    def iterate(
        self, source: AsyncIterable[MessageT], **options: Unpack[ReceiveOptions]
    ) -> AsyncIteration[MessageT]: ...
    @overload
    def iterate(self, source: Batch[MessageT], **options: Unpack[ReceiveOptions]) -> Iteration[MessageT]: ...
    def iterate(
        self, source: AsyncIterable[MessageT] | Batch[MessageT], **options: Unpack[ReceiveOptions]
    ) -> AsyncIteration[MessageT] | Iteration[MessageT]:
        """Return the messages of *source*, each loop body in the context of its message.

        A step that is taken in a task of its own, as `asyncio.wait_for(anext(...))` does before Python 3.12,
        leaves the caller's task without the context: use `asyncio.timeout`.

        Args:
            source: A consumer of the client library, or any iterable of messages, async or not; also a
                mapping with sequences of messages as values.
            **options: See `ReceiveOptions`.

        Returns:
            An async iterator if *source* is async, or else an iterator.

        Raises:
            WrongUseError: *source* is not iterable, or an option is not known.
        """
        return iteration_over(self.receiver(options), source)

    def process(self, message: MessageT, **options: Unpack[ReceiveOptions]) -> Processing[MessageT]:
        """Return a `with` block in which the context of *message* is current.

        Args:
            message: A received message.
            **options: See `ReceiveOptions`.

        Raises:
            WrongUseError: This is no message of the client library, or an option is not known.
        """
        return self.receiver(options).process(message)

    def process_batch(
        self, batch: Batch[MessageT], **options: Unpack[ReceiveOptions]
    ) -> BatchProcessing[MessageT]:
        """Return a `with` block for several messages at once; its context links to all senders.

        Args:
            batch: Messages, or a mapping with sequences of messages as values.
            **options: See `ReceiveOptions`.

        Raises:
            WrongUseError: This is neither, or an option is not known.
        """
        return self.receiver(options).process_batch(batch)

    def context_from(self, message: MessageT, **options: Unpack[ReceiveOptions]) -> TraceContext | None:
        """Return the context that *message* carries, `None` if there is none that can be used.

        Args:
            message: A received message; nothing is made current.
            **options: See `ReceiveOptions`.

        Raises:
            WrongUseError: This is no message of the client library, or an option is not known.
        """
        return self.receiver(options).context_from(message)

    def sender(self, options: SendOptions) -> Sender[HeadersT]:
        """Return what sends under *options*."""
        return Sender(self._client, self.settings(SendOptions, options)) if options else self._sender

    def receiver(self, options: ReceiveOptions) -> Receiver[MessageT]:
        """Return what receives under *options*."""
        return Receiver(self._client, self.settings(ReceiveOptions, options)) if options else self._receiver

    def settings(self, allowed: type[Any], options: object) -> Settings:
        """Return *options* on top of those of the integration.

        Args:
            allowed: The typed dict of the options that make sense for the caller.
            options: The keywords.

        Raises:
            WrongUseError: There is no such option, or its value is of the wrong kind.
        """
        return Settings(allowed, options, self._settings)
