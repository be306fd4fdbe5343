"""A message arrives: which context is current while it is processed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, Self, TypeAlias

from spakky.tracing.boundaries._guarded import (
    Recording,
    end_span,
    extract,
    extract_baggage,
    headers_of,
    start_span,
)
from spakky.tracing.boundaries.client import Client, MessageT
from spakky.tracing.boundaries.outcome import outcome_of
from spakky.tracing.context import Scope, TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.tracer import Operation, Outcome

if TYPE_CHECKING:
    from types import TracebackType

    from spakky.tracing.baggage import Baggage
    from spakky.tracing.boundaries.options import Policy

__all__ = ["Batch", "BatchProcessing", "Processing", "Receiver", "messages_in"]

Batch: TypeAlias = Iterable[MessageT] | Mapping[Any, Sequence[MessageT]]
"""Messages that are processed as one."""


class Receiver(Generic[MessageT]):
    """Receives by one client library under one policy."""

    def __init__(self, client: Client[MessageT, Any], policy: Policy) -> None:
        self.client: Final = client
        self.policy: Final = policy

    def context_from(self, message: MessageT) -> TraceContext | None:
        """Return the context that *message* carries, `None` if there is none that can be used.

        Raises:
            WrongUseError: This is no message of the client library.
        """
        self._check(message)
        if not self.policy.enabled:
            return None
        return extract(self.policy, self.client.carrier, headers_of(self.client, message))

    def process(self, message: MessageT, *, sender: TraceContext | None = None) -> Processing[MessageT]:
        """Return the processing of *message*, a `with` block.

        Args:
            message: A received message.
            sender: The sender's context where the message does not carry it (a call within the process).

        Raises:
            WrongUseError: This is no message of the client library.
        """
        self._check(message)
        return Processing(self, [message], sender)

    def process_batch(self, batch: Batch[MessageT]) -> BatchProcessing[MessageT]:
        """Return the processing of several messages as one, a `with` block.

        Args:
            batch: Messages, or a mapping whose values are sequences of messages.

        Raises:
            WrongUseError: This is neither, or there is something else in it.
        """
        messages = messages_in(batch)
        if messages is None:
            expected = self.client.message_type.__name__
            sentence = f"this takes a list of received {expected}, got {type(batch).__name__}"
            raise WrongUseError(sentence)
        for message in messages:
            self._check(message)
        return BatchProcessing(self, messages)

    def baggage_from(self, message: MessageT) -> Baggage:
        """Return the baggage that *message* carries, also without a context; empty if there is none."""
        return extract_baggage(self.policy, self.client.carrier, headers_of(self.client, message))

    def _check(self, message: object) -> None:
        expected = self.client.message_type
        if not isinstance(message, expected):
            sentence = f"this takes a received {expected.__name__}, got {type(message).__name__}"
            raise WrongUseError(sentence)


def messages_in(batch: object) -> list[Any] | None:
    """Return what is in *batch*, an iterable or a mapping to sequences; `None` if it is neither."""
    if isinstance(batch, Mapping):
        parts = list(batch.values())
        return list(chain(*parts)) if all(isinstance(part, (list, tuple)) for part in parts) else None
    if isinstance(batch, Iterable) and not isinstance(batch, (str, bytes, bytearray, memoryview)):
        return list(batch)
    return None


class _Related(NamedTuple):
    """The context of a processing, and where it comes from."""

    context: TraceContext
    parent: TraceContext | None = None
    links: tuple[TraceContext, ...] = ()


class Processing(Generic[MessageT]):
    """A message while it is processed: a `with` block in which its context is current.

    Afterwards what was current before is so again, however the block is left. Where processing is switched
    off the block changes nothing.

    Attributes:
        context: What is current in the block; `None` before it, and where processing is switched off.
        links: The senders that it comes from without being their child.
    """

    def __init__(
        self, receiver: Receiver[MessageT], messages: list[MessageT], sender: TraceContext | None = None
    ) -> None:
        self.context: TraceContext | None = None
        self.links: tuple[TraceContext, ...] = ()
        self._receiver = receiver
        self._messages = messages
        self._sender = sender
        self._is_paused = False
        self._scope: Scope | None = None
        self._span: Recording | None = None

    def open(self) -> Self:
        """Make the message's context current; `with` calls it.

        Raises:
            WrongUseError: It is open already.
        """
        if self._scope is not None:
            message = "this message is being processed already: call process() again for another block"
            raise WrongUseError(message)
        if self._receiver.policy.enabled and self._messages:
            related = self._relate()
            self._span = self._start(related)
            self.context = self._span.context if self._span else related.context
            self.links = related.links
            self._scope = Scope(self.context).open()
        return self

    def close(self, outcome: Outcome, error: BaseException | None = None) -> None:
        """Put back what was current before and record how it ended; a second call does nothing."""
        scope, self._scope = self._scope, None
        if scope is not None:
            scope.close()
            end_span(self._span, outcome, error)

    def pause(self) -> None:
        """Leave the block without an end: the next one, maybe in another task, goes on with it."""
        if self._scope is not None:
            self._scope.close()
            self._is_paused = True

    def _relate(self) -> _Related:
        """Relate one message to its sender."""
        (message,) = self._messages
        relation = self._receiver.policy.relation
        if relation == "root":
            return _Related(TraceContext.new_root())
        sender = self._sender or self._receiver.context_from(message)
        if sender is None:
            return _Related(TraceContext.new_root(baggage=self._receiver.baggage_from(message)))
        if relation == "link":
            return _Related(TraceContext.new_root(baggage=sender.baggage), links=(sender,))
        return _Related(sender.child(), parent=sender)

    def _start(self, related: _Related) -> Recording | None:
        tracer = self._receiver.policy.active_tracer()
        return None if tracer is None else start_span(tracer, lambda: self._describe(related))

    def _describe(self, related: _Related) -> Operation:
        client, first = self._receiver.client, self._messages[0]
        return Operation(
            name=client.name(first),
            kind=client.kind,
            system=client.system,
            destination=client.destination(first),
            context=related.context,
            parent=related.parent,
            links=related.links,
            attempt=client.attempt(first),
        )

    def __enter__(self) -> Self:
        if not self._is_paused:
            return self.open()
        self._is_paused = False
        self._scope = Scope(self.context).open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_paused:
            self.close(outcome_of(error), error)


class BatchProcessing(Processing[MessageT]):
    """Messages while they are processed as one: a `with` block.

    Its context is a child of what is current where the block starts, or else a new trace, and it links to
    every distinct sender. An empty batch changes nothing.
    """

    def context_of(self, message: MessageT) -> TraceContext | None:
        """Return the context that *message* carries, `None` if there is none that can be used."""
        return self._receiver.context_from(message)

    def _relate(self) -> _Related:
        relation = self._receiver.policy.relation
        if relation == "root":
            return _Related(TraceContext.new_root())
        senders = {
            (sender.trace_id, sender.span_id): sender
            for sender in map(self._receiver.context_from, self._messages)
            if sender is not None
        }
        links = tuple(senders.values())
        current = TraceContext.get()
        if current is None or relation == "link":
            return _Related(TraceContext.new_root(), links=links)
        return _Related(current.child(), current, links)
