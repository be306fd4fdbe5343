"""What Celery tells by its signals, in the order in which it happens."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextvars import ContextVar
from threading import RLock
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakSet

from celery import current_task
from celery.app.task import Context
from celery.exceptions import Reject, Retry
from celery.signals import (
    after_task_publish,
    before_task_publish,
    task_postrun,
    task_prerun,
    task_received,
)

from spakky.tracing.boundaries.outcome import outcome_of
from spakky.tracing.carriers.celery import LINKS
from spakky.tracing.context import TraceContext
from spakky.tracing.integrations.celery import _call
from spakky.tracing.integrations.celery._client import IS_SCHEDULED, RUN, names_of_task
from spakky.tracing.integrations.celery._hook import any_hook, hook_of, sending_hook
from spakky.tracing.integrations.celery._publishing import (
    begin_publishing,
    end_at_exit,
    end_publishing,
    forget_exit,
)
from spakky.tracing.integrations.celery._received import choose_ids, forget_ids, request_behind
from spakky.tracing.integrations.celery._run import Run, current_run

if TYPE_CHECKING:
    from celery import Task

    from spakky.tracing.integrations.celery._hook import Hook
    from spakky.tracing.tracer import Outcome

__all__ = ["connect", "disconnect_if_idle", "lock"]

_OUTCOMES: Final[dict[str, Outcome]] = {
    "SUCCESS": "ok",
    "FAILURE": "error",
    "RETRY": "retry",
    "IGNORED": "ignored",
    "REJECTED": "rejected",
}

lock: Final = RLock()
_runs: Final[WeakSet[Run]] = WeakSet()

# The run of a message in this thread or greenlet; such runs do not nest. One that is still here when the next
# begins was never told that it ended.
_open_run: Final[ContextVar[Run | None]] = ContextVar("spakky.tracing.celery.run", default=None)


class _Message(NamedTuple):
    """A message that is about to be sent.

    Attributes:
        task: The name of the task that it starts.
        headers: The very dict that Celery sends.
        fields: Where Celery's own fields are: protocol 1 has them in the body.
        names: The names by which options choose.
    """

    task: str
    headers: dict[str, Any]
    fields: Mapping[str, Any]
    names: tuple[str, str]


def _before_publish(sender: str, headers: dict[str, Any], body: object, **signal: Any) -> None:
    end_publishing("error")
    forget_ids(signal.get("properties"))
    fields = body if isinstance(body, Mapping) else headers
    message = _Message(sender, headers, fields, names_of_task(sender, signal))
    run = current_run()
    if run is not None:
        _publish_from(run, sending_hook(), message)
        return
    request: Any = request_behind(fields)
    hook = request and hook_of(request.app)
    if hook is None:
        _publish(sending_hook(), message)
        return
    run = Run(hook, request.task, Context(request.request_dict))
    with TraceContext.use(run.sender if request.time_start is None else run.context):
        _publish_from(run, hook, message)


def _publish_from(run: Run, hook: Hook | None, message: _Message) -> None:
    """Write what a message of a run carries: its context, or the first sender's in a next attempt."""
    if not run.is_tried_again_as(message.fields):
        _publish(hook, message, run)
    elif run.carries_to(message.names):
        _write(message.headers, run.headers_of_next_attempt(message.headers))


def _publish(hook: Hook | None, message: _Message, run: Run | None = None) -> None:
    """Write the context of now into a message, which may be one of a *run*."""
    headers, names = message.headers, message.names
    if hook is None or _call.take_off(headers) or not hook.sender.writes_to(names[-1], names):
        return
    links = "" if run is None else run.links_for(message.fields)
    existing = {name: value for name, value in headers.items() if name != LINKS}
    publishing = hook.sender.publish(
        {**existing, LINKS: links} if links else existing,
        names[-1],
        names=names,
        name=f"send {message.task}",
        is_scheduled=headers.get(IS_SCHEDULED) is True and not current_task,
    )
    _write(headers, publishing.headers)
    begin_publishing(publishing)


def _after_publish(**signal: Any) -> None:
    del signal
    end_publishing("ok")


def _received(request: Any, **signal: Any) -> None:
    del signal
    if hook_of(request.app) is not None:
        choose_ids(request)


def _before_run(task: Task, **signal: Any) -> None:
    del signal
    end_publishing("error")
    request = task.request
    if not request.is_eager:
        _end_lost_run()
    hook = hook_of(task.app)
    if hook is None:
        return
    run = Run(hook, task, request)
    _runs.add(run)
    setattr(request, RUN, run)
    if not request.is_eager:
        _open_run.set(run)
    run.open()


def _after_run(task: Task, state: str | None, retval: object, **signal: Any) -> None:
    del signal
    run: Run | None = vars(task.request).pop(RUN, None)
    if run is None:
        return
    end_publishing("error")
    if task.request.is_eager and isinstance(retval, Retry) and retval.sig is not None:
        options = retval.sig.options
        if run.carries_to(names_of_task(task.name, options)):
            options["headers"] = run.headers_of_next_attempt(options.get("headers"))
    run.close(*_ending(state, retval))
    if _open_run.get() is run:
        _open_run.set(None)
    _runs.discard(run)
    disconnect_if_idle()


_SIGNALS: Final = (
    (before_task_publish, _before_publish),
    (after_task_publish, _after_publish),
    (task_received, _received),
    (task_prerun, _before_run),
    (task_postrun, _after_run),
)


def connect() -> None:
    """Put our receivers on the signals; a second call changes nothing."""
    for signal, receiver in _SIGNALS:
        signal.connect(receiver, weak=False, dispatch_uid=_uid(receiver))
    end_at_exit()


def disconnect_if_idle() -> None:
    """Take our receivers off the signals once no app is hooked and no task of one is running."""
    if any_hook() is not None:
        return
    with lock:
        if _runs or any_hook() is not None:
            return
        for signal, receiver in _SIGNALS:
            signal.disconnect(dispatch_uid=_uid(receiver))
        forget_exit()
    end_publishing("error")


def _uid(receiver: Any) -> str:
    return f"{receiver.__module__}.{receiver.__qualname__}"


def _write(headers: dict[str, Any], written: dict[str, Any]) -> None:
    """Make *headers*, the very dict that Celery sends, equal to *written*; it is never without an entry."""
    headers.update(written)
    for name in headers.keys() - written.keys():
        del headers[name]


def _end_lost_run() -> None:
    run = _open_run.get()
    if run is not None:
        _open_run.set(None)
        _runs.discard(run)
        run.close("unknown")


def _ending(state: str | None, retval: object) -> tuple[Outcome, BaseException | None]:
    """Return how a run ended, and the error that it ended with if it was one."""
    if state is None:  # something passes through that Celery does not handle, such as SystemExit
        passing = sys.exception()
        return outcome_of(passing), passing
    if isinstance(retval, Retry):
        retval = retval.exc
    elif isinstance(retval, Reject):
        retval = retval.reason
    error = retval if isinstance(retval, BaseException) and state not in {"SUCCESS", "IGNORED"} else None
    return _OUTCOMES.get(state, "unknown"), error
