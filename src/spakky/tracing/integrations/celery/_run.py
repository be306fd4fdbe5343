"""A task while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from celery import current_task

from spakky.tracing.baggage import Baggage
from spakky.tracing.context import TraceContext
from spakky.tracing.integrations.celery import _chord
from spakky.tracing.integrations.celery._client import RUN, retries_of
from spakky.tracing.integrations.celery._received import ids_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery import Task
    from celery.app.task import Context

    from spakky.tracing.boundaries.process import Processing
    from spakky.tracing.integrations.celery._hook import Hook
    from spakky.tracing.tracer import Outcome

__all__ = ["Run", "current_run"]


class Run:
    """A run of a task, kept on the task's request, which ends with it.

    One that was never opened belongs to a child process that is gone.

    Attributes:
        hook: The hook of its application.
        request: The task's request.
    """

    def __init__(self, hook: Hook, task: Task, request: Context) -> None:
        self.hook: Final = hook
        self.request: Final = request
        self._task: Final = task
        self._caller = self._find_caller()
        self._processing: Processing[Context] = hook.receiver(request).process(
            request, sender=self._caller, links=_chord.links_in(request), ids=ids_of(request)
        )
        self._chord_links: str | None = None

    @property
    def context(self) -> TraceContext | None:
        """What is current in it, `None` where that is switched off."""
        return self._processing.context or self._processing.expected_context()

    @property
    def sender(self) -> TraceContext | None:
        """The context of who sent the task, `None` if there is none to know of."""
        return self._caller or self.hook.receiver(self.request).context_from(self.request)

    def open(self) -> None:
        """Make the context of the running task current."""
        processing = self._processing.open()
        if self.request.chord and not self.request.is_eager and processing.is_recorded and processing.context:
            _chord.remember(self._task, processing.context)

    def close(self, outcome: Outcome, error: BaseException | None = None) -> None:
        """Put back what was current before the task."""
        self._processing.close(outcome, error)

    def is_tried_again_as(self, message: Mapping[str, Any]) -> bool:
        """Tell whether Celery's own fields of a *message* are those of the next attempt."""
        request = self.request
        return bool(message.get("id") == request.id and message.get("retries") == retries_of(request) + 1)

    def carries_to(self, names: tuple[str, str]) -> bool:
        """Tell whether a next attempt gets a context at all under these *names*."""
        return self.hook.sender.writes_to(names[-1], names)

    def headers_of_next_attempt(self, headers: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return *headers* with the first sender's context, and the baggage of now."""
        current = TraceContext.get()
        baggage = current.baggage if current else Baggage()
        first = self._first_sender()
        with TraceContext.use(first and first.with_baggage(baggage)):
            return self.hook.retry_sender.headers(headers)

    def links_for(self, message: Mapping[str, Any]) -> str:
        """Return the links of a *message* that this run sends: the body of a chord, or an errback of it."""
        family = message.get("id"), message.get("parent_id")
        if not any(each in family for each in _chord.ids_in(_chord.body_sent_by(self.request))):
            return ""
        if self._chord_links is None:  # Celery may try to send it several times
            self._chord_links = _chord.links_from(self._task, self.request)
        return self._chord_links

    def _first_sender(self) -> TraceContext | None:
        """Return what all attempts are children of: the first sender, or else the first attempt itself."""
        if self.hook.starts_trace(self.request):
            return self.context
        return self.sender or self.context

    def _find_caller(self) -> TraceContext | None:
        """Return the context in which an eager task is called, unless the one in its headers counts."""
        current = TraceContext.get()
        if current is None or not self.request.is_eager:
            return None
        if self.hook.policy.keep or retries_of(self.request):
            carried = self.hook.receiver(self.request).context_from(self.request)
            return current if carried is None else None
        return current


def current_run() -> Run | None:
    """Return the run of the task that is running in this thread or greenlet, `None` if it is not hooked."""
    run: Run | None = getattr(current_task.request, RUN, None) if current_task else None
    return run
