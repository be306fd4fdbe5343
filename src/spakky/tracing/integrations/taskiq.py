"""taskiq: give the broker one middleware, the first in its list.

Usage:

    broker = ListQueueBroker(...).with_middlewares(taskiq.TraceMiddleware(), SimpleRetryMiddleware())

Every task that the broker sends carries the current context in its labels, and every task runs in the context
that its message carries; so do its dependencies, and sync tasks in a pool of threads. Facts:

- A pool of processes (`--use-process-pool`) gets the arguments of a sync task and nothing else; a process
  that was forked while a task ran keeps the context of that one. A dependency takes the right one there:
  `context: Annotated[TraceContext, TaskiqDepends(TraceContext.get)]`, and `with TraceContext.use(context):`.
- A retry sends the labels of the attempt again. All attempts become children of the first sender, with the
  baggage as it is at the time of the retry. `Context.requeue()`, and a retry that a schedule source keeps,
  pass no middleware: they are further attempts likewise, with the baggage that the message had.
- Where the first attempt starts a trace, the message that the task gets carries that trace, for the attempts
  after it.
- A schedule has no caller: each tick of it (a message with the label `schedule_id`) starts a new trace. To
  stay in the trace that is current where it is made, it takes the context by hand:
  `pack.kicker().with_labels(**taskiq.headers()).schedule_by_time(source, time, 1)`.
- Sending that fails reaches no middleware. Its recorded span becomes an error when the same asyncio task
  sends something next, or when the taskiq task or the asyncio task around it ends; there is no exception in
  it. A middleware that sends messages of its own while one is sent looks the same from after this one, and
  so belongs before it in the list.
- If another middleware raises, a run is told no end either: its span becomes an error when its asyncio task
  ends. With `InMemoryBroker(await_inplace=True)` that is the caller's, whose context stays that of the run
  until then.
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from spakky.tracing._extras import raise_missing_extra
from spakky.tracing._text import readable
from spakky.tracing.baggage import Baggage
from spakky.tracing.boundaries.client import Client
from spakky.tracing.boundaries.options import Options, Policy, Settings
from spakky.tracing.boundaries.outcome import outcome_of
from spakky.tracing.boundaries.process import Receiver
from spakky.tracing.boundaries.publish import Sender
from spakky.tracing.boundaries.verbs import Verbs
from spakky.tracing.carriers import Delivery, count_in
from spakky.tracing.carriers.mapping import CARRIER
from spakky.tracing.context import TraceContext

try:
    from taskiq import TaskiqMessage, TaskiqMiddleware
    from taskiq.exceptions import NoResultError, TaskRejectedError
except ModuleNotFoundError as error:
    raise_missing_extra("taskiq", {"taskiq"}, error)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Unpack

    from taskiq import TaskiqResult

    from spakky.tracing.boundaries.process import Processing
    from spakky.tracing.boundaries.publish import Publishing
    from spakky.tracing.tracer import Outcome

__all__ = ["TraceMiddleware", "context_from", "headers"]

# Labels of taskiq's own: its retries, `Context.requeue()`, its scheduler, and where its brokers send to.
_RETRIES: Final = "_retries"
_REQUEUES: Final = "X-Taskiq-requeue"
_SCHEDULE: Final = "schedule_id"
_QUEUE: Final = "queue_name"


def _count(message: TaskiqMessage, label: str) -> int:
    return count_in(message.labels.get(label)) or 0


def _attempt(message: TaskiqMessage) -> int:
    return _count(message, _RETRIES) + _count(message, _REQUEUES) + 1


def _destination(message: TaskiqMessage) -> str:
    """Return the queue that the message names; empty for the queue of its broker."""
    return readable(message.labels.get(_QUEUE)) or ""


def _names(message: TaskiqMessage) -> tuple[str, str]:
    """Return the names by which options may choose: of the task, and of its message's queue."""
    return message.task_name, _destination(message)


_CLIENT: Final[Client[TaskiqMessage, dict[str, Any]]] = Client(
    system="taskiq",
    carrier=CARRIER,
    message_type=TaskiqMessage,
    headers=lambda message: message.labels,
    destination=_destination,
    name=lambda message: f"run {message.task_name}",
    names=_names,
    attributes=lambda message: {"messaging.message.id": message.task_id},
    delivery=lambda message: Delivery(attempt=_attempt(message), is_scheduled=_SCHEDULE in message.labels),
)
_VERBS: Final = Verbs(_CLIENT)

headers = _VERBS.headers
context_from = _VERBS.context_from


class TraceMiddleware(TaskiqMiddleware):
    """A middleware for any broker: the tasks that it sends and runs keep their trace.

    Of several that a message passes, the outermost that is switched on for it counts. A function that is
    given as `relation=` is called with the `TaskiqMessage`.
    """

    def __init__(self, **options: Unpack[Options]) -> None:
        """Choose the options.

        Args:
            **options: See `Options`.

        Raises:
            WrongUseError: An option is not known.
        """
        super().__init__()
        self._hook = _Hook(Policy.of(Options, options))

    def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
        """Return *message* with a context in its labels; taskiq calls it."""
        sending, run = _sending.get(), _run.get()
        if sending is not None and sending.is_of(message):  # a middleware around this one did it
            return message
        _end_sending("error")
        if run is not None and run.is_tried_again_as(message):
            return run.next_attempt(message)
        publishing = self._hook.publish(message)
        if publishing.context is None:
            return message
        sent = _with_labels(message, publishing.headers)
        _sending.set(_Sending(sent, publishing))
        return sent

    def post_send(self, message: TaskiqMessage) -> None:
        """Note that *message* is sent; taskiq calls it."""
        sending = _sending.get()
        if sending is not None and sending.task_id == message.task_id:
            _end_sending("ok")

    def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        """Make the context of *message* current; taskiq calls it."""
        run = _run.get()
        if run is not None and run.is_of(message):  # a middleware around this one did it
            return message
        processing = self._hook.receiver(message).process(message).open()
        if processing.context is None:
            return message
        if processing.context.parent_span_id is None:
            message = self._hook.with_current_context(message)
        _run.set(_Run(self._hook, message, processing))
        _sending.set(None)
        return message

    def on_error(self, message: TaskiqMessage, result: TaskiqResult[Any], exception: BaseException) -> None:
        """Note what the task raised, as a retry changes it in the *result*; taskiq calls it."""
        del result
        run = self._run_of(message)
        if run is not None:
            run.error = exception

    def post_execute(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        """Put back what was current before *message*; taskiq calls it."""
        run = self._run_of(message)
        if run is not None:
            run.end(message, result)

    def _run_of(self, message: TaskiqMessage) -> _Run | None:
        run = _run.get()
        is_own = run is not None and run.hook is self._hook and run.task_id == message.task_id
        return run if is_own else None


class _Hook:
    """What belongs to one middleware."""

    def __init__(self, policy: Policy) -> None:
        self._sender = Sender(_CLIENT, Settings.fixed(policy))
        self._receiver = Receiver(_CLIENT, Settings.fixed(policy))
        # Of further attempts: what is in their labels no caller asked to keep, and they stay in the trace.
        self._retry_sender = Sender(_CLIENT, Settings.fixed(replace(policy, keep=False)))
        self._retry_receiver = Receiver(_CLIENT, Settings.fixed(replace(policy, relation="child")))

    def publish(self, message: TaskiqMessage) -> Publishing[dict[str, Any]]:
        """Return the sending of *message*."""
        names, is_scheduled = _names(message), _SCHEDULE in message.labels
        with TraceContext.use(None) if is_scheduled else nullcontext():
            return self._sender.publish(
                message.labels,
                names[-1],
                names=names,
                name=f"send {message.task_name}",
                is_scheduled=is_scheduled and self.sender_of(message) is None,
            )

    def receiver(self, message: TaskiqMessage) -> Receiver[TaskiqMessage]:
        """Return what receives *message*."""
        return self._retry_receiver if _attempt(message) > 1 else self._receiver

    def sender_of(self, message: TaskiqMessage) -> TraceContext | None:
        """Return the context that *message* carries."""
        return self._receiver.context_from(message)

    def with_current_context(self, message: TaskiqMessage) -> TaskiqMessage:
        """Return a copy of *message*, an attempt of a task, with the current context in its labels."""
        names = _names(message)
        if not self._retry_sender.writes_to(names[-1], names):
            return message
        return _with_labels(message, self._retry_sender.headers(message.labels))


class _Watch:
    """Ends something together with the asyncio task that it began in, unless somebody stops to watch."""

    def __init__(self, end: Callable[[Outcome], None]) -> None:
        self._end = end
        self._task = _current_task()
        if self._task is not None:
            self._task.add_done_callback(self._has_ended)

    @property
    def is_here(self) -> bool:
        """Whether this is the asyncio task that it began in."""
        return self._task is _current_task()

    def stop(self) -> None:
        """Leave the end to somebody else."""
        if self._task is not None:
            self._task.remove_done_callback(self._has_ended)

    def _has_ended(self, task: asyncio.Task[Any]) -> None:
        self._end("cancelled" if task.cancelled() else "error")


class _Sending:
    """A message on its way out, until taskiq says that it is sent.

    Both this and a run let go of their message at the end: what was started meanwhile, such as a connection,
    inherits them for as long as it lives.
    """

    def __init__(self, message: TaskiqMessage, publishing: Publishing[dict[str, Any]]) -> None:
        self.task_id = message.task_id
        self._publishing: Publishing[dict[str, Any]] | None = publishing
        self._watch = _Watch(self.end)

    @property
    def is_here(self) -> bool:
        """Whether it is not just inherited from the asyncio task that sends it."""
        return self._watch.is_here

    def is_of(self, message: TaskiqMessage) -> bool:
        """Tell whether it has written the labels of this very *message*."""
        return self._publishing is not None and self._publishing.headers is message.labels

    def end(self, outcome: Outcome) -> None:
        """Say how it ended."""
        publishing, self._publishing = self._publishing, None
        self._watch.stop()
        if publishing is not None:
            publishing.end_as(outcome)


class _Run:
    """A task while it runs.

    Attributes:
        hook: Of the middleware that has opened it.
        error: What the task has raised.
    """

    def __init__(self, hook: _Hook, message: TaskiqMessage, processing: Processing[TaskiqMessage]) -> None:
        self.hook = hook
        self.task_id = message.task_id
        self.error: BaseException | None = None
        self._open: tuple[TaskiqMessage, Processing[TaskiqMessage]] | None = (message, processing)
        self._retries, self._requeues = _count(message, _RETRIES), _count(message, _REQUEUES)
        self._is_tried_again = False
        self._before = _run.get(), _sending.get()
        self._watch = _Watch(self._close)

    def is_of(self, message: TaskiqMessage) -> bool:
        """Tell whether it is the run of this very *message*."""
        return self._open is not None and self._open[0].labels is message.labels

    def is_tried_again_as(self, message: TaskiqMessage) -> bool:
        """Tell whether *message* is the next attempt."""
        is_next = message.task_id == self.task_id and _count(message, _RETRIES) == self._retries + 1
        return is_next and self._open is not None

    def next_attempt(self, message: TaskiqMessage) -> TaskiqMessage:
        """Return *message*, which is the next attempt, with the context that all attempts are children of."""
        self._is_tried_again = True
        current = TraceContext.get()
        first = self._first_sender()
        with TraceContext.use(first and first.with_baggage(current.baggage if current else Baggage())):
            return self.hook.with_current_context(message)

    def end(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        """Say how it ended, and put back what was there before."""
        _end_sending("error")
        self._close(*self._ending(message, result))
        (run, sending), self._before = self._before, (None, None)
        _run.set(run)
        _sending.set(sending)

    def _first_sender(self) -> TraceContext | None:
        if self._open is None:
            return None
        message, processing = self._open
        return self.hook.sender_of(message) or processing.context

    def _close(self, outcome: Outcome, error: BaseException | None = None) -> None:
        opened, self._open, self.error = self._open, None, None
        self._watch.stop()
        if opened is not None:
            _, processing = opened
            processing.close(outcome, error)

    def _ending(
        self, message: TaskiqMessage, result: TaskiqResult[Any]
    ) -> tuple[Outcome, BaseException | None]:
        """Return how the task ended, and the error that it ended with if it was one."""
        error = self.error or result.error
        if isinstance(error, NoResultError):
            return "retry" if _count(message, _REQUEUES) > self._requeues else "ignored", None
        if isinstance(error, TaskRejectedError):
            return "rejected", error
        if self._is_tried_again or isinstance(result.error, NoResultError):
            return "retry", error
        return outcome_of(error), error


# Both belong to the asyncio task that taskiq sends or runs in. With `await_inplace` these are one, and nest.
_sending: Final[ContextVar[_Sending | None]] = ContextVar("spakky.tracing.taskiq.sending", default=None)
_run: Final[ContextVar[_Run | None]] = ContextVar("spakky.tracing.taskiq.run", default=None)


def _end_sending(outcome: Outcome) -> None:
    sending = _sending.get()
    if sending is not None and sending.is_here:
        _sending.set(None)
        sending.end(outcome)


def _with_labels(message: TaskiqMessage, labels: dict[str, Any]) -> TaskiqMessage:
    """Return a copy of *message* with these *labels*; what is new in them is text, and needs no type."""
    types = message.labels_types and {
        name: kind
        for name, kind in message.labels_types.items()
        if labels.get(name) is message.labels.get(name)
    }
    return message.model_copy(update={"labels": labels, "labels_types": types})


def _current_task() -> asyncio.Task[Any] | None:
    """Return the running asyncio task, `None` outside of one."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
