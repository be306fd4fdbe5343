"""Dramatiq: give the broker one middleware.

Usage:

    broker = RabbitmqBroker(url=...)
    broker.add_middleware(dramatiq.TraceMiddleware())

All that is sent through the broker carries the current context, and every actor runs in the context that its
message carries: also in retries, delays, pipelines and callbacks, in async actors, and at any place among the
middlewares. A message is a `Message`, or the `MessageProxy` of one that was received; the context is in its
`options`. Facts:

- Dramatiq sends what `options` hold, and has no headers besides. So the context is in there while a message
  is being enqueued, and afterwards they are as they were.
- Enqueuing that fails calls no hook. Its recorded span becomes an error, and `options` are as before, when
  that message is enqueued again; or the span does when the message is gone, or the program ends.
- The context lasts until the message is about to be acknowledged or rejected: Dramatiq's own middlewares
  send retries, next steps of pipelines and callbacks after the actor has returned.
- A delayed message is sent twice, by its sender and by the worker that held it. The second time adds nothing.
- A message that is sent again while it is processed is a retry. All attempts become children of the first
  sender, with the baggage as it is then; what an async actor makes current is not seen outside of it.
- The callback of a group is a child of the member that was the last to end.
- The time in the queue counts from when a message was made or last retried, and so contains its delay.
- Direct calls of an actor send no message: they are part of the caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import replace
from threading import current_thread
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from weakref import finalize

from spakky.tracing._extras import raise_missing_extra
from spakky.tracing.baggage import Baggage
from spakky.tracing.boundaries.client import Client
from spakky.tracing.boundaries.options import Options, Policy, Settings
from spakky.tracing.boundaries.outcome import outcome_of
from spakky.tracing.boundaries.process import Receiver
from spakky.tracing.boundaries.publish import Publishing, Sender
from spakky.tracing.boundaries.verbs import Verbs
from spakky.tracing.carriers import Delivery, count_in, mapping
from spakky.tracing.context import TraceContext

try:
    from dramatiq import Message, MessageProxy, Middleware
    from dramatiq.common import q_name
    from dramatiq.worker import ConsumerThread
except ModuleNotFoundError as error:
    raise_missing_extra("dramatiq", {"dramatiq"}, error)

if TYPE_CHECKING:
    from typing import Unpack

    from dramatiq import Broker

    from spakky.tracing.tracer import Outcome

__all__ = ["TraceMiddleware", "context_from"]

_AnyMessage: TypeAlias = "Message[Any] | MessageProxy"

_MOST_MILLISECONDS: Final = 2**63 // 1_000_000


def _option(message: _AnyMessage, name: str) -> object:
    """Return an option of *message*, which may have been sent by anybody; `None` if there is none."""
    return message.options.get(name) if isinstance(message.options, Mapping) else None


def _retries(message: _AnyMessage) -> int:
    return count_in(_option(message, "retries")) or 0


def _sent_unix_nano(message: _AnyMessage) -> int | None:
    """Return when *message* was sent the last time, for all that it says."""
    for milliseconds in (_option(message, "requeue_timestamp"), message.message_timestamp):
        if type(milliseconds) is int and 0 <= milliseconds < _MOST_MILLISECONDS:
            return milliseconds * 1_000_000
    return None


def _names(message: _AnyMessage) -> tuple[str, str]:
    """Return the names by which options may choose: of the actor, and of its queue."""
    return message.actor_name, q_name(message.queue_name)


_CLIENT: Final[Client[_AnyMessage, dict[str, Any]]] = Client(
    system="dramatiq",
    carrier=mapping.CARRIER,
    message_type=Message,
    is_message=lambda message: isinstance(message, (Message, MessageProxy)),
    headers=lambda message: message.options,
    destination=lambda message: q_name(message.queue_name),
    name=lambda message: f"run {message.actor_name}",
    names=_names,
    attributes=lambda message: {"messaging.message.id": message.message_id},
    delivery=lambda message: Delivery(attempt=_retries(message) + 1, sent_unix_nano=_sent_unix_nano(message)),
)

context_from = Verbs(_CLIENT).context_from


class TraceMiddleware(Middleware):
    """A middleware for brokers: what is sent and what actors do keeps its trace.

    Of several that a message passes, the first in the list that is switched on for it counts. One may serve
    several brokers. `before_process_message` of the middlewares before this one in the list, such as those
    that Dramatiq adds by itself, is called outside of the context; all that is called between the actor and
    the acknowledgement is within it.
    """

    def __init__(self, **options: Unpack[Options]) -> None:
        """Choose the options.

        Args:
            **options: See `Options`. Names are those of actors, or else of queues.

        Raises:
            WrongUseError: An option is not known.
        """
        policy = Policy.of(Options, options)
        self._sender = Sender(_CLIENT, Settings.fixed(policy))
        # What is in the options of a next attempt no caller asked to keep.
        self._retry_sender = Sender(_CLIENT, Settings.fixed(replace(policy, keep=False)))
        self._receiver = Receiver(_CLIENT, Settings.fixed(policy))
        # Further attempts stay in the trace of the first one.
        self._retry_receiver = Receiver(_CLIENT, Settings.fixed(replace(policy, relation="child")))

    def before_enqueue(self, broker: Broker, message: Message[Any], delay: int) -> None:
        """Write the current context into *message*; Dramatiq calls it."""
        del delay
        earlier = _sendings.get(id(message))
        if earlier is not None:
            if earlier.is_of_another(self, broker):
                return
            earlier.end("error")  # or else it would not be sent again
        publishing = self._publish(message)
        if publishing is not None:
            _Sending(self, broker, message, publishing)

    def after_enqueue(self, broker: Broker, message: Message[Any], delay: int) -> None:
        """Leave *message* as it was; Dramatiq calls it."""
        del broker, delay
        sending = _sendings.get(id(message))
        if sending is not None:
            sending.end("ok")
        run = _run.get()
        if run is not None and run.is_sent_again_as(message):
            run.has_next_attempt = True

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        """Make the context of *message* current; Dramatiq calls it."""
        del broker
        run = _run.get()
        if run is not None and run.message is message and run.is_traced:
            return
        self._begin(message)

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: object = None,
        exception: BaseException | None = None,
    ) -> None:
        """Take down how the actor ended; Dramatiq calls it, and calls it twice if this was interrupted."""
        del broker, result
        self._run_of(message).error = exception

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        """Take down that the actor was not called; Dramatiq calls it."""
        del broker
        self._run_of(message).is_skipped = True

    def before_ack(self, broker: Broker, message: MessageProxy) -> None:
        """Put back what was current before *message*; Dramatiq calls it."""
        del broker
        run = _run.get()
        if run is not None and run.message is message:
            _run.set(None)
            run.close()

    def before_nack(self, broker: Broker, message: MessageProxy) -> None:
        """Put back what was current before *message*; Dramatiq calls it."""
        self.before_ack(broker, message)

    def _publish(self, message: Message[Any]) -> Publishing[dict[str, Any]] | None:
        """Return the sending of *message*, `None` if it stays as it is."""
        names = _names(message)
        if not self._sender.writes_to(names[-1], names) or self._only_passes_on(message):
            return None
        run = _run.get()
        if run is not None and run.is_sent_again_as(message):
            with TraceContext.use(run.sender_of_next_attempt()):
                return Publishing(self._retry_sender.headers(message.options))
        return self._sender.publish(
            message.options, names[-1], names=names, name=f"send {message.actor_name}"
        )

    def _only_passes_on(self, message: Message[Any]) -> bool:
        """Tell whether this is the thread that holds delayed messages, and *message* is one of these."""
        if not isinstance(current_thread(), ConsumerThread):
            return False
        return TraceContext.get() is None or self._receiver.sender_of(message) is not None

    def _run_of(self, message: MessageProxy) -> _Run:
        """Return the run of *message*; a middleware before this one may have kept it from beginning."""
        run = _run.get()
        return run if run is not None and run.message is message else self._begin(message)

    def _begin(self, message: MessageProxy) -> _Run:
        lost = _run.get()
        if lost is not None:  # a middleware failed where the message was to be acknowledged
            lost.close()
        run = _Run(self._retry_receiver if _retries(message) else self._receiver, message)
        _run.set(run)
        run.open()
        return run


class _Run:
    """A message between the first and the last hook that it passes in a worker's thread.

    Attributes:
        message: The message.
        error: What its actor has raised.
        is_skipped: Whether a middleware has kept it from its actor.
        has_next_attempt: Whether it was sent again meanwhile.
    """

    def __init__(self, receiver: Receiver[_AnyMessage], message: MessageProxy) -> None:
        self.message: Final = message
        self.error: BaseException | None = None
        self.is_skipped = False
        self.has_next_attempt = False
        self._receiver = receiver
        self._processing = receiver.process(message)

    @property
    def is_traced(self) -> bool:
        """Whether its context is current; it is not where it is switched off."""
        return self._processing.context is not None

    def open(self) -> None:
        """Make its context current."""
        self._processing.open()

    def close(self) -> None:
        """Put back what was current before."""
        self._processing.close(self._outcome(), self.error)

    def is_sent_again_as(self, message: _AnyMessage) -> bool:
        """Tell whether *message* is the next attempt."""
        return message.message_id == self.message.message_id

    def sender_of_next_attempt(self) -> TraceContext | None:
        """Return what all attempts are children of, with the baggage of now.

        That is the first sender, or else the first attempt itself if it has started a trace.
        """
        own, current = self._processing.context, TraceContext.get()
        first = self._receiver.context_from(self.message)
        if first is None or (own is not None and own.trace_id != first.trace_id):
            first = own
        return first and first.with_baggage(current.baggage if current else Baggage())

    def _outcome(self) -> Outcome:
        if self.error is not None:
            return "retry" if self.has_next_attempt else outcome_of(self.error)
        if self.message.failed:
            return "rejected"
        return "ignored" if self.is_skipped else "ok"


class _Sending:
    """A message on its way out, with the context in its options.

    If no hook ever tells that it was sent, it failed.
    """

    def __init__(
        self,
        middleware: TraceMiddleware,
        broker: Broker,
        message: Message[Any],
        publishing: Publishing[dict[str, Any]],
    ) -> None:
        self._middleware = middleware
        self._broker = broker
        self._key = id(message)
        self._options = message.options
        self._options_before = dict(message.options)
        self._publishing = publishing
        self._watch = finalize(message, self._end_as, "error")
        _sendings[self._key] = self
        _write(self._options, publishing.headers)

    def is_of_another(self, middleware: TraceMiddleware, broker: Broker) -> bool:
        """Tell whether another middleware of the same broker has written the context."""
        return middleware is not self._middleware and broker is self._broker

    def end(self, outcome: Outcome) -> None:
        """Leave the message as it was, and say how it ended."""
        self._watch.detach()
        _write(self._options, self._options_before)
        self._end_as(outcome)

    def _end_as(self, outcome: Outcome) -> None:
        _sendings.pop(self._key, None)
        self._publishing.end_as(outcome)


_sendings: Final[dict[int, _Sending]] = {}  # by the id of a message; one that is gone takes its own along

_run: Final[ContextVar[_Run | None]] = ContextVar("spakky.tracing.dramatiq.run", default=None)


def _write(options: dict[str, Any], written: Mapping[str, Any]) -> None:
    """Make *options*, the very dict that Dramatiq sends, equal to *written*; none is missing meanwhile."""
    options.update(written)
    for name in options.keys() - written.keys():
        del options[name]
