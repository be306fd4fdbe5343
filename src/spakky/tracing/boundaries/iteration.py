"""Messages one by one, the loop's body in the context of each."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Generic, Self

from spakky.tracing.boundaries.client import MessageT
from spakky.tracing.boundaries.outcome import outcome_of
from spakky.tracing.boundaries.process import messages_in
from spakky.tracing.error import WrongUseError

if TYPE_CHECKING:
    from types import TracebackType

    from spakky.tracing.boundaries.process import Batch, Processing, Receiver
    from spakky.tracing.tracer import Outcome

__all__ = ["AsyncIteration", "Iteration", "iteration_over"]


class _Loop(Generic[MessageT]):
    """From one step to the next the message's context is current.

    What a loop leaves early it gives up, and with it the processing of the last message ends.
    """

    def __init__(self, receiver: Receiver[MessageT]) -> None:
        self._processing: Processing[MessageT] | None = None
        self._receiver = receiver

    def __del__(self) -> None:
        self._finish("unknown")

    def _begin(self, message: MessageT, since: int | None) -> MessageT:
        self._receiver.record_receiving(message, since)
        self._processing = self._receiver.process(message).open()
        return message

    def _finish(self, outcome: Outcome, error: BaseException | None = None) -> None:
        processing, self._processing = self._processing, None
        if processing is not None:
            processing.close(outcome, error)

    def _leave(self, error: BaseException | None) -> None:
        self._finish("unknown" if error is None else outcome_of(error), error)


class AsyncIteration(_Loop[MessageT], AsyncIterator[MessageT]):
    """The messages of an async iterable; from one step to the next the message's context is current.

    A loop that is left early (`break`, an exception) gives the iteration up, and with it what was current
    before is back. An iteration that is kept in a variable is closed by `aclose` or as an `async with` block,
    which also records an exception of the body.
    """

    def __init__(self, receiver: Receiver[MessageT], source: AsyncIterable[MessageT]) -> None:
        """Iterate over *source*."""
        super().__init__(receiver)
        self._messages = aiter(source)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> MessageT:
        self._finish("ok")
        since = self._receiver.waits_since()
        return self._begin(await anext(self._messages), since)

    async def aclose(self) -> None:
        """End the processing of the last message; the source is its owner's to close."""
        self._finish("unknown")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(error)


class Iteration(_Loop[MessageT], Iterator[MessageT]):
    """The messages of an iterable; from one step to the next the message's context is current.

    A loop that is left early (`break`, an exception) gives the iteration up, and with it what was current
    before is back. An iteration that is kept in a variable is closed by `close` or as a `with` block, which
    also records an exception of the body.
    """

    def __init__(self, receiver: Receiver[MessageT], source: Iterable[MessageT]) -> None:
        """Iterate over *source*."""
        super().__init__(receiver)
        self._messages = iter(source)
        self._waits = not isinstance(source, Sequence)  # or else they are there already

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> MessageT:
        self._finish("ok")
        since = self._receiver.waits_since() if self._waits else None
        return self._begin(next(self._messages), since)

    def close(self) -> None:
        """End the processing of the last message; the source is its owner's to close."""
        self._finish("unknown")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(error)


def iteration_over(
    receiver: Receiver[MessageT], source: AsyncIterable[MessageT] | Batch[MessageT]
) -> AsyncIteration[MessageT] | Iteration[MessageT]:
    """Return the iteration over *source*, of its own kind.

    Raises:
        WrongUseError: *source* is not iterable in either way, or is itself a message.
    """
    if isinstance(source, AsyncIterable):
        return AsyncIteration(receiver, source)
    messages = messages_in(source) if isinstance(source, Mapping) else source
    is_text = isinstance(messages, (str, bytes, bytearray, memoryview))
    is_message = receiver.client.recognizes(messages)  # which may be a tuple
    if isinstance(messages, Iterable) and not is_text and not is_message:
        return Iteration(receiver, messages)
    message = f"iterate() takes what `async for` or `for` takes, got {type(source).__name__}"
    raise WrongUseError(message)
