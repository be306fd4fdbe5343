"""A message arrives: which context is current while it is processed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, Self, TypeAlias

from spakky.tracing.baggage import Baggage
from spakky.tracing.boundaries._guarded import (
    Recording,
    attributes_of,
    delivery_of,
    end_span,
    extract,
    extract_baggage,
    headers_of,
    is_record,
    names_of,
    start_span,
)
from spakky.tracing.boundaries.client import Client, MessageT
from spakky.tracing.boundaries.outcome import outcome_of
from spakky.tracing.carriers import UNKNOWN, Delivery
from spakky.tracing.context import Scope, TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.tracer import Operation, Outcome

if TYPE_CHECKING:
    from types import TracebackType

    from spakky.tracing.boundaries.options import Policy, Relation, Settings

__all__ = ["Batch", "BatchProcessing", "Processing", "Receiver", "messages_in"]

Batch: TypeAlias = Iterable[MessageT] | Mapping[Any, Sequence[MessageT]]
"""Messages that are processed as one."""


class Receiver(Generic[MessageT]):
    """Receives by one client library under one policy.

    Attributes:
        client: The client library.
        source: The name of the queue that all messages come from, where a message does not know it.
    """

    def __init__(self, client: Client[MessageT, Any], settings: Settings, source: str | None = None) -> None:
        self.client: Final = client
        self.source: Final = source
        self._settings = settings

    @property
    def policy(self) -> Policy:
        """The options that hold now."""
        return self._settings.policy

    @property
    def has_own_options(self) -> bool:
        """Whether these are not just the options of the integration."""
        return self._settings.are_of_a_call

    def of(self, source: str) -> Receiver[MessageT]:
        """Return what receives from the queue *source* under the same options."""
        return Receiver(self.client, self._settings, source)

    def context_from(self, message: MessageT) -> TraceContext | None:
        """Return the context that *message* carries, `None` if there is none that can be used.

        Raises:
            WrongUseError: This is no message of the client library.
        """
        self._check(message)
        return self.sender_of(message) if self.reads(message) else None

    def process(
        self,
        message: MessageT,
        *,
        sender: TraceContext | None = None,
        links: tuple[TraceContext, ...] = (),
        ids: TraceContext | None = None,
    ) -> Processing[MessageT]:
        """Return the processing of *message*, a `with` block.

        Args:
            message: A received message.
            sender: The sender's context where the message does not carry it (a call within the process).
            links: What it comes from besides its sender; a `root` comes from nothing.
            ids: A new root whose ids the processing is to have, which others know already.

        Raises:
            WrongUseError: This is no message of the client library.
        """
        self._check(message)
        return Processing(self, [message], sender, links, ids)

    def process_batch(self, batch: Batch[MessageT]) -> BatchProcessing[MessageT]:
        """Return the processing of several messages as one, a `with` block.

        Args:
            batch: Messages, or a mapping whose values are sequences of messages.

        Raises:
            WrongUseError: This is neither, or there is something else in it, or it is itself a message.
        """
        messages = None if self.client.recognizes(batch) else messages_in(batch)  # it may be a tuple
        if messages is None:
            sentence = f"this takes a list of received {self.client.expected}, got {type(batch).__name__}"
            raise WrongUseError(sentence)
        for message in messages:
            self._check(message)
        return BatchProcessing(self, messages)

    def waits_since(self) -> int | None:
        """Return the moment of now if waiting for a message is recorded, `None` if it is not."""
        return time.time_ns() if getattr(self.policy.active_tracer(), "records_receiving", False) else None

    def record_receiving(self, message: MessageT, since_unix_nano: int | None) -> None:
        """Record that *message* was waited for, if that is recorded, as a span that links to its sender.

        Args:
            message: A received message.
            since_unix_nano: What `waits_since` has returned.
        """
        tracer = self.policy.active_tracer()
        if tracer is None or since_unix_nano is None or not self.reads(message):
            return
        end_span(start_span(tracer, lambda: self._receiving(message, since_unix_nano)), "ok")

    def _receiving(self, message: MessageT, since_unix_nano: int) -> Operation:
        client, current = self.client, TraceContext.get()
        sender = None if self.relation_to(message) == "root" else self.sender_of(message)
        return Operation(
            name=f"receive {client.destination(message)}",
            kind="client",
            system=client.system_of(message),
            destination=client.destination(message),
            context=current.child() if current else TraceContext.new_root(),
            parent=current,
            links=() if sender is None else (sender,),
            attributes=attributes_of(client, message),
            start_unix_nano=since_unix_nano,
        )

    def reads(self, message: MessageT) -> bool:
        """Return whether the headers of *message* are to be read at all."""
        return self.policy.enables(lambda: self.names_of(message)) and is_record(self.client, message)

    def relation_to(self, message: MessageT) -> Relation:
        """Return how the processing of *message* relates to its sender."""
        return self.policy.relation_of(message, lambda: self.names_of(message))

    def read(self, message: MessageT) -> tuple[object, Delivery]:
        """Return the headers of *message*, less a context that is not trusted, and what it says of its way.

        Raises:
            WrongUseError: This is no message of the client library.
        """
        self._check(message)
        headers = headers_of(self.client, message)
        if self.reads(message) and self.relation_to(message) == "root":
            headers = self.client.carrier.copy(headers, self.policy.fields)
        return headers, delivery_of(self.client, message)

    def sender_of(self, message: MessageT) -> TraceContext | None:
        """Return the context in the headers of *message*, `None` if there is none that can be used."""
        return extract(self.policy, self.client.carrier, headers_of(self.client, message))

    def names_of(self, message: MessageT) -> Sequence[str]:
        """Return the names by which options choose for *message*, the most exact one first."""
        names = names_of(self.client, message)
        return names if self.source is None else (self.source, *names)

    def baggage_from(self, message: MessageT) -> Baggage:
        """Return the baggage that *message* carries, also without a context; empty if there is none."""
        return extract_baggage(self.policy, self.client.carrier, headers_of(self.client, message))

    def _check(self, message: object) -> None:
        if not self.client.recognizes(message):
            sentence = f"this takes a received {self.client.expected}, got {type(message).__name__}"
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
    """The context of a processing, where it comes from, and what its message says of its way."""

    context: TraceContext
    parent: TraceContext | None = None
    links: tuple[TraceContext, ...] = ()
    delivery: Delivery = UNKNOWN


class Processing(Generic[MessageT]):
    """A message while it is processed: a `with` block in which its context is current.

    Afterwards what was current before is so again, however the block is left. Where processing is switched
    off the block changes nothing.

    Attributes:
        context: What is current in the block; `None` before it, and where processing is switched off.
        links: The senders that it comes from without being their child, and the failed attempt that a retry
            or a dead letter comes from.
    """

    def __init__(
        self,
        receiver: Receiver[MessageT],
        messages: list[MessageT],
        sender: TraceContext | None = None,
        links: tuple[TraceContext, ...] = (),
        ids: TraceContext | None = None,
    ) -> None:
        self.context: TraceContext | None = None
        self.links: tuple[TraceContext, ...] = ()
        self._receiver = receiver
        self._messages = messages
        self._sender = sender
        self._further_links = links
        self._ids = ids
        self._is_paused = False
        self._resumes_in: TraceContext | None = None
        self._scope: Scope | None = None
        self._span: Recording | None = None

    @property
    def is_recorded(self) -> bool:
        """Whether there is a span of the processing."""
        return self._span is not None

    def expected_context(self) -> TraceContext | None:
        """Return the context that the block would have unless a tracer gives it ids of its own.

        `None` where processing is switched off. Nothing is made current.
        """
        return self._relate().context if self._reads() else None

    def open(self) -> Self:
        """Make the message's context current; `with` calls it.

        Raises:
            WrongUseError: It is open already.
        """
        if self._scope is not None:
            message = "this message is being processed already: call process() again for another block"
            raise WrongUseError(message)
        if self._reads():
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
        """Leave the block without an end: the next one, maybe in another task, goes on where it was."""
        self._is_paused = True
        if self._scope is not None:
            self._resumes_in = TraceContext.get()
            self._scope.close()

    def _reads(self) -> bool:
        (message,) = self._messages
        return self._receiver.reads(message)

    def _relate(self) -> _Related:
        """Relate one message to its sender."""
        (message,) = self._messages
        relation = self._receiver.relation_to(message)
        delivery = delivery_of(self._receiver.client, message)
        if relation == "root":
            return _Related(self._root(), delivery=delivery)
        sender, links = self._sender or self._receiver.sender_of(message), self._further_links
        if sender is None:
            return _Related(self._root(self._receiver.baggage_from(message)), None, links, delivery)
        if relation == "link":
            return _Related(self._root(sender.baggage), None, (sender, *links), delivery)
        links = (sender, *links) if delivery.follows_failure else links
        return _Related(self._child_of(sender), sender, links, delivery)

    def _root(self, baggage: Baggage | None = None) -> TraceContext:
        if self._ids is None:
            return TraceContext.new_root(baggage=baggage)
        return self._ids.with_baggage(baggage or Baggage())

    def _child_of(self, sender: TraceContext) -> TraceContext:
        return sender.child(span_id=self._ids.span_id if self._ids else None)

    def _start(self, related: _Related) -> Recording | None:
        tracer = self._receiver.policy.active_tracer()
        return None if tracer is None else start_span(tracer, lambda: self._describe(related))

    def _describe(self, related: _Related) -> Operation:
        client, first = self._receiver.client, self._messages[0]
        return Operation(
            name=client.name(first),
            kind=client.kind,
            system=client.system_of(first),
            destination=client.destination(first),
            context=related.context,
            parent=related.parent,
            links=related.links,
            attempt=related.delivery.attempt,
            death_count=related.delivery.death_count,
            is_redelivered=related.delivery.is_redelivered,
            sent_unix_nano=related.delivery.sent_unix_nano,
            is_scheduled=related.delivery.is_scheduled,
            message_count=self._message_count(),
            attributes=self._attributes(),
        )

    def _message_count(self) -> int | None:
        """Return how many messages a batch has, `None` for a single message."""
        return None

    def _attributes(self) -> Mapping[str, str | int]:
        """Return what else is known of the one message."""
        (message,) = self._messages
        return attributes_of(self._receiver.client, message)

    def __enter__(self) -> Self:
        if not self._is_paused:
            return self.open()
        self._is_paused = False
        if self.context is not None:  # or else it began switched off, and ends so
            self._scope = Scope(self._resumes_in).open()
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

    A message whose relation is `root` is no link; if there is one whose relation is not `child`, the batch is
    a new trace. Messages from where it is switched off do not count.
    """

    def context_of(self, message: MessageT) -> TraceContext | None:
        """Return the context that *message* carries, `None` if there is none that can be used."""
        return self._receiver.context_from(message)

    def process(self, message: MessageT) -> Processing[MessageT]:
        """Return a `with` block within this one, in which the context of one *message* is current.

        Raises:
            WrongUseError: This is no message of the client library.
        """
        return self._receiver.process(message)

    def _message_count(self) -> int | None:
        return len(self._messages)

    def _attributes(self) -> Mapping[str, str | int]:
        """Return nothing: what messages say differs from one to the next."""
        return {}

    def _reads(self) -> bool:
        self._messages = [message for message in self._messages if self._receiver.reads(message)]
        return bool(self._messages)

    def _relate(self) -> _Related:
        relations = [self._receiver.relation_to(message) for message in self._messages]
        senders = [
            self._receiver.sender_of(message)
            for message, relation in zip(self._messages, relations, strict=True)
            if relation != "root"
        ]
        links = tuple({(each.trace_id, each.span_id): each for each in senders if each is not None}.values())
        current = TraceContext.get()
        if current is None or set(relations) != {"child"}:
            return _Related(TraceContext.new_root(), links=links)
        return _Related(current.child(), current, links)
