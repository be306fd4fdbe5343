"""Celery: hook the app once, where it is made.

    app = Celery("shop", broker="...")
    celery.install(app)

Every task that this process publishes carries the current context, and every task of the app runs in the
context that its message carries. Facts:

- `before_task_publish` names no app. So as long as any app of a process is hooked, what all of them publish
  carries the context, under the options of the app whose task is running, or else of the app hooked last.
- `retry` sends the headers of the attempt again. All attempts become children of the first sender, with the
  baggage as it is at the time of the retry.
- Eager tasks and direct calls send no message: an eager task is a child of its caller, a direct call is part
  of it.
- Publishing that fails sends no signal. Its recorded span becomes an error when the same thread or task
  publishes or runs something next, or when it ends; there is no exception in it.
"""

from __future__ import annotations

import atexit
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import replace
from threading import RLock
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet, ref

from spakky.tracing._extras import raise_missing_extra
from spakky.tracing.baggage import Baggage
from spakky.tracing.boundaries.client import Client
from spakky.tracing.boundaries.options import Options, Policy, Settings
from spakky.tracing.boundaries.outcome import outcome_of
from spakky.tracing.boundaries.process import Processing, Receiver
from spakky.tracing.boundaries.publish import Publishing, Sender
from spakky.tracing.boundaries.verbs import Verbs
from spakky.tracing.carriers import Delivery
from spakky.tracing.carriers.celery import CARRIER
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError

try:
    from celery import Celery, Task, current_task
    from celery.app.task import Context
    from celery.exceptions import Reject, Retry
    from celery.signals import after_task_publish, before_task_publish, task_postrun, task_prerun
except ModuleNotFoundError as error:
    raise_missing_extra("celery", {"celery"}, error)

if TYPE_CHECKING:
    from typing import Unpack

    from spakky.tracing.tracer import Outcome

__all__ = ["context_from", "headers", "install", "uninstall"]

_HOOK: Final = "spakky_tracing_hook"  # on an app
_RUN: Final = "spakky_tracing_run"  # on the request of a running task

# Names in a request that are Celery's own or ours, and no headers of the user (celery.app.task.Context).
_OWN_NAMES: Final = frozenset(vars(Context)) | {
    "lang",
    "task",
    "argsrepr",
    "kwargsrepr",
    "compression",
    _RUN,
}

_OUTCOMES: Final[dict[str, Outcome]] = {
    "SUCCESS": "ok",
    "FAILURE": "error",
    "RETRY": "retry",
    "IGNORED": "ignored",
    "REJECTED": "rejected",
}


def _custom_headers(request: Context) -> dict[str, Any]:
    """Return the user's headers of a task message: as attributes they are never stale, so they win."""
    attributes = {name: value for name, value in vars(request).items() if name not in _OWN_NAMES}
    return {**request.headers, **attributes} if isinstance(request.headers, Mapping) else attributes


def _destination(delivery: Mapping[str, Any] | None) -> str:
    """Return where a message goes to or came from; an exchange may be given as an object."""
    delivery = delivery or {}
    return str(delivery.get("routing_key") or delivery.get("exchange") or "")


def _names(task: str | None, delivery: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return the names by which options may choose: of the task, and of its message's destination."""
    return task or "", _destination(delivery)


def _delivery_of(request: Context) -> Delivery:
    """Return which attempt a request is, and whether its message came before; Celery counts only retries."""
    delivery: Mapping[str, Any] = request.delivery_info or {}
    redelivered = delivery.get("redelivered")
    return Delivery(
        attempt=request.retries + 1, is_redelivered=None if redelivered is None else bool(redelivered)
    )


_CLIENT: Final[Client[Context, dict[str, Any]]] = Client(
    system="celery",
    carrier=CARRIER,
    message_type=Context,
    headers=_custom_headers,
    destination=lambda request: _destination(request.delivery_info),
    name=lambda request: f"run {request.get('task')}",
    names=lambda request: _names(request.get("task"), request.delivery_info),
    delivery=_delivery_of,
)
_VERBS: Final = Verbs(_CLIENT)

headers = _VERBS.headers
context_from = _VERBS.context_from


def install(app: Celery, **options: Unpack[Options]) -> None:
    """Hook *app*; call it where the app is made, before workers fork. Hooking again replaces the options.

    Args:
        app: The Celery application.
        **options: See `Options`.

    Raises:
        WrongUseError: This is no Celery application, or an option is not known.
    """
    _check(app)
    hook = _Hook(Policy.of(Options, options))
    with _lock:
        _take_hook_off(app)
        setattr(app, _HOOK, hook)
        _hooks.append(ref(hook))
        _connect()


def uninstall(app: Celery) -> None:
    """Undo `install`; nothing happens if *app* is not hooked. Tasks that are running end as they began.

    Raises:
        WrongUseError: This is no Celery application.
    """
    _check(app)
    with _lock:
        _take_hook_off(app)
    _disconnect_if_idle()


class _Hook:
    """What belongs to one application.

    Attributes:
        policy: Its options.
        sender: Sends its messages.
        retry_sender: Sends the next attempts of its tasks; what is in their headers no caller asked to keep.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.sender = Sender(_CLIENT, Settings.fixed(policy))
        self.retry_sender = Sender(_CLIENT, Settings.fixed(replace(policy, keep=False)))
        self._receiver = Receiver(_CLIENT, Settings.fixed(policy))
        self._retry_receiver = Receiver(_CLIENT, Settings.fixed(replace(policy, relation="child")))

    def receiver(self, request: Context) -> Receiver[Context]:
        """Return what receives *request*: further attempts stay in the trace of the first one."""
        return self._retry_receiver if request.retries else self._receiver

    def starts_trace(self, request: Context) -> bool:
        """Tell whether *request* is the first attempt in a trace of its own."""
        return not request.retries and self._receiver.relation_to(request) != "child"


class _Run:
    """A task while it runs, kept on the task's request, which ends with it."""

    def __init__(self, hook: _Hook, request: Context) -> None:
        self._hook = hook
        self._request = request
        self._caller = self._find_caller()
        self._processing: Processing[Context] | None = None

    def open(self) -> None:
        """Make the task's context current."""
        receiver = self._hook.receiver(self._request)
        self._processing = receiver.process(self._request, sender=self._caller)
        self._processing.open()

    def close(self, outcome: Outcome, error: BaseException | None = None) -> None:
        """Put back what was current before the task."""
        if self._processing is not None:
            self._processing.close(outcome, error)

    def is_tried_again_as(self, message: Mapping[str, Any]) -> bool:
        """Tell whether Celery's own fields of a *message* are those of the next attempt."""
        request = self._request
        return bool(message.get("id") == request.id and message.get("retries") == request.retries + 1)

    def carries_to(self, names: tuple[str, str]) -> bool:
        """Tell whether a next attempt gets a context at all under these *names*."""
        return self._hook.sender.writes_to(names[-1], names)

    def headers_of_next_attempt(self, headers: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return *headers* with the first sender's context, and the baggage of now."""
        current = TraceContext.get()
        baggage = current.baggage if current else Baggage()
        first = self._first_sender()
        with TraceContext.use(first and first.with_baggage(baggage)):
            return self._hook.retry_sender.headers(headers)

    def _first_sender(self) -> TraceContext | None:
        """Return what all attempts are children of: the first sender, or else the first attempt itself."""
        own = self._processing.context if self._processing else None
        if self._hook.starts_trace(self._request):
            return own
        return self._caller or self._hook.receiver(self._request).context_from(self._request) or own

    def _find_caller(self) -> TraceContext | None:
        """Return the context in which an eager task is called, unless the one in its headers counts."""
        current = TraceContext.get()
        if current is None or not self._request.is_eager:
            return None
        if self._hook.policy.keep or self._request.retries:
            carried = self._hook.receiver(self._request).context_from(self._request)
            return current if carried is None else None
        return current


class _OpenPublishing:
    """A recorded sending that no signal has ended yet.

    If none ever does, it failed. It ends once, also if several contexts have inherited it.
    """

    def __init__(self, publishing: Publishing[dict[str, Any]]) -> None:
        self._publishing: Publishing[dict[str, Any]] | None = publishing

    def end(self, outcome: Outcome) -> None:
        """Say how it ended; a second call does nothing."""
        publishing, self._publishing = self._publishing, None
        if publishing is not None:
            publishing.end_as(outcome)

    def __del__(self) -> None:
        self.end("error")


_lock: Final = RLock()
_hooks: Final[list[ref[_Hook]]] = []  # the newest last; an app that is gone takes its own along
_runs: Final[WeakSet[_Run]] = WeakSet()

_open_publishing: Final[ContextVar[_OpenPublishing | None]] = ContextVar(
    "spakky.tracing.celery.publishing", default=None
)

# The run of a message in this thread or greenlet; such runs do not nest. One that is still here when the next
# begins was never told that it ended.
_open_run: Final[ContextVar[_Run | None]] = ContextVar("spakky.tracing.celery.run", default=None)


def _before_publish(sender: str, headers: dict[str, Any], body: object, **signal: Any) -> None:
    _end_publishing("error")
    names = _names(sender, signal)
    run: _Run | None = getattr(current_task.request, _RUN, None) if current_task else None
    fields = body if isinstance(body, Mapping) else headers  # protocol 1 has Celery's own fields in the body
    if run is not None and run.is_tried_again_as(fields):
        if run.carries_to(names):
            _write(headers, run.headers_of_next_attempt(headers))
        return
    hook = _publishing_hook()
    if hook is not None:
        with TraceContext.use(None if _is_sent_by_celery(headers, fields) else TraceContext.get()):
            publishing = hook.sender.publish(headers, names[-1], names=names, name=f"send {sender}")
        _write(headers, publishing.headers)
        _open_publishing.set(_OpenPublishing(publishing) if publishing.is_recorded else None)


def _is_sent_by_celery(headers: Mapping[str, Any], fields: Mapping[str, Any]) -> bool:
    """Tell whether Celery itself sends a message: a tick of beat, or the next attempt after a lost worker.

    What is current then is just what was so when the process loaded the app.
    """
    return not current_task and bool(headers.get("celery_beat_task") or fields.get("retries"))


def _after_publish(**signal: Any) -> None:
    del signal
    _end_publishing("ok")


def _before_run(task: Task, **signal: Any) -> None:
    del signal
    _end_publishing("error")
    request = task.request
    if not request.is_eager:
        _end_lost_run()
    hook: _Hook | None = getattr(task.app, _HOOK, None)
    if hook is None:
        return
    run = _Run(hook, request)
    _runs.add(run)
    setattr(request, _RUN, run)
    if not request.is_eager:
        _open_run.set(run)
    run.open()


def _after_run(task: Task, state: str | None, retval: object, **signal: Any) -> None:
    del signal
    run: _Run | None = vars(task.request).pop(_RUN, None)
    if run is None:
        return
    _end_publishing("error")
    if task.request.is_eager and isinstance(retval, Retry) and retval.sig is not None:
        options = retval.sig.options
        if run.carries_to(_names(task.name, options)):
            options["headers"] = run.headers_of_next_attempt(options.get("headers"))
    run.close(*_ending(state, retval))
    if _open_run.get() is run:
        _open_run.set(None)
    _runs.discard(run)
    _disconnect_if_idle()


_SIGNALS: Final = (
    (before_task_publish, _before_publish),
    (after_task_publish, _after_publish),
    (task_prerun, _before_run),
    (task_postrun, _after_run),
)


def _connect() -> None:
    for signal, receiver in _SIGNALS:
        signal.connect(receiver, weak=False, dispatch_uid=_uid(receiver))
    atexit.unregister(_end_publishing)
    atexit.register(_end_publishing, "error")


def _disconnect_if_idle() -> None:
    """Take our receivers off the signals once no app is hooked and no task of one is running."""
    if any(hook() for hook in _hooks):
        return
    with _lock:
        if _runs or any(hook() for hook in _hooks):
            return
        for signal, receiver in _SIGNALS:
            signal.disconnect(dispatch_uid=_uid(receiver))
        atexit.unregister(_end_publishing)
    _end_publishing("error")


def _uid(receiver: Any) -> str:
    return f"{receiver.__module__}.{receiver.__qualname__}"


def _write(headers: dict[str, Any], written: dict[str, Any]) -> None:
    """Make *headers*, the very dict that Celery sends, equal to *written*; it is never without an entry."""
    headers.update(written)
    for name in headers.keys() - written.keys():
        del headers[name]


def _end_publishing(outcome: Outcome) -> None:
    publishing = _open_publishing.get()
    if publishing is not None:
        _open_publishing.set(None)
        publishing.end(outcome)


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


def _publishing_hook() -> _Hook | None:
    """Return the hook of the running task's application, or else the one that was made last."""
    own: _Hook | None = getattr(current_task.app, _HOOK, None) if current_task else None
    return own or next((hook for each in reversed(_hooks) if (hook := each()) is not None), None)


def _take_hook_off(app: Celery) -> None:
    replaced: _Hook | None = getattr(app, _HOOK, None)
    _hooks[:] = [each for each in _hooks if (hook := each()) is not None and hook is not replaced]
    if replaced is not None:
        delattr(app, _HOOK)


def _check(app: object) -> None:
    if not isinstance(app, Celery):
        message = f"this takes a Celery application, got {type(app).__name__}"
        raise WrongUseError(message)
