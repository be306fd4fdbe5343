"""Messages one by one, the loop's body in the context of each."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import TYPE_CHECKING, Generic, Self

from spakky.tracing.boundaries.client import MessageT
from spakky.tracing.boundaries.outcome import outcome_of
from spakky.tracing.error import WrongUseError

if TYPE_CHECKING:
    from types import TracebackType

    from spakky.tracing.boundaries.process import Processing, Receiver
    from spakky.tracing.tracer import Outcome

__all__ = ["AsyncIteration"]


class AsyncIteration(AsyncIterator[MessageT], Generic[MessageT]):
    """The messages of an async iterable; from one step to the next the message's context is current.

    A loop that is left early (`break`, an exception) gives the iteration up, and with it what was current
    before is back. An iteration that is kept in a variable is closed by `aclose` or as an `async with` block,
    which also records an exception of the body.
    """

    def __init__(self, receiver: Receiver[MessageT], source: AsyncIterable[MessageT]) -> None:
        """Iterate over *source*.

        Raises:
            WrongUseError: *source* is no async iterable.
        """
        self._processing: Processing[MessageT] | None = None
        if not isinstance(source, AsyncIterable):
            message = f"iterate() takes what `async for` takes, got {type(source).__name__}"
            raise WrongUseError(message)
        self._receiver = receiver
        self._messages = aiter(source)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> MessageT:
        self._finish("ok")
        message = await anext(self._messages)
        self._processing = self._receiver.process(message).open()
        return message

    async def aclose(self) -> None:
        """End the processing of the last message; the source is its owner's to close."""
        self._finish("unknown")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish("unknown" if error is None else outcome_of(error), error)

    def __del__(self) -> None:
        self._finish("unknown")

    def _finish(self, outcome: Outcome, error: BaseException | None = None) -> None:
        processing, self._processing = self._processing, None
        if processing is not None:
            processing.close(outcome, error)
