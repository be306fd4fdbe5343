"""Celery: hook the app once, where it is made.

    app = Celery("shop", broker="...")
    celery.install(app)

Every task that this process publishes carries the current context, and every task of the app runs in the
context that its message carries. Facts:

- `before_task_publish` names no app. So as long as any app of a process is hooked, what all of them publish
  carries the context, under the options of the app whose task is running, or else of the app hooked last.
- `retry` sends the headers of the attempt again. They are kept, so that all attempts are children of the
  first sender; baggage is sent as it is at the time of the retry.
- Eager tasks and direct calls send no message: an eager task is a child of its caller, a direct call is part
  of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from spakky.tracing._extras import raise_missing_extra
from spakky.tracing.boundaries._guarded import extract
from spakky.tracing.boundaries.client import Client
from spakky.tracing.boundaries.options import Options, Policy, ReceiveOptions, SendOptions
from spakky.tracing.boundaries.process import Processing, Receiver
from spakky.tracing.boundaries.publish import Publishing, Sender
from spakky.tracing.carriers.celery import CARRIER
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError

try:
    from celery import Celery, Task, current_task
    from celery.app.task import Context
    from celery.signals import after_task_publish, before_task_publish, task_postrun, task_prerun
except ModuleNotFoundError as error:
    raise_missing_extra("celery", {"celery"}, error)

if TYPE_CHECKING:
    from typing import Unpack

    from spakky.tracing.tracer import Outcome

__all__ = ["context_from", "headers", "install", "uninstall"]

# Names in a request that are Celery's own and no headers of the user (celery.app.task.Context).
_OWN_NAMES: Final = frozenset(vars(Context)) | {"lang", "task", "argsrepr", "kwargsrepr", "compression"}

_HOOK: Final = "spakky_tracing_hook"
_PROCESSING: Final = "spakky_tracing_processing"

_OUTCOMES: Final[dict[str | None, Outcome]] = {
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


def _destination(request: Context) -> str:
    info: Mapping[str, Any] = request.delivery_info or {}
    return info.get("routing_key") or info.get("exchange") or ""


_CLIENT: Final[Client[Context, dict[str, Any]]] = Client(
    system="celery",
    carrier=CARRIER,
    message_type=Context,
    headers=_custom_headers,
    destination=_destination,
    name=lambda request: f"run {request.get('task')}",
    attempt=lambda request: request.retries + 1,
)


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
    _replace_hook(app, hook)
    _hooks.add(hook)
    for signal, receiver in _SIGNALS:
        signal.connect(receiver, weak=False, dispatch_uid=receiver.__qualname__)


def uninstall(app: Celery) -> None:
    """Undo `install`; nothing happens if *app* is not hooked.

    Raises:
        WrongUseError: This is no Celery application.
    """
    _check(app)
    _replace_hook(app, None)
    if not _hooks:
        for signal, receiver in _SIGNALS:
            signal.disconnect(dispatch_uid=receiver.__qualname__)


def headers(existing: Mapping[str, Any] | None = None, **options: Unpack[SendOptions]) -> dict[str, Any]:
    """Return headers for a send by hand: *existing* ones, which stay as they are, and the current context.

    Args:
        existing: Headers of the message; `None` for none.
        **options: See `SendOptions`.

    Raises:
        WrongUseError: *existing* cannot be headers of a task, or an option is not known.
    """
    return Sender(_CLIENT, Policy.of(SendOptions, options)).headers(existing)


def context_from(request: Context, **options: Unpack[ReceiveOptions]) -> TraceContext | None:
    """Return the context that a task's message carried, `None` if there is none that can be used.

    Args:
        request: A task's `request`.
        **options: See `ReceiveOptions`.

    Raises:
        WrongUseError: This is no request, or an option is not known.
    """
    return Receiver(_CLIENT, Policy.of(ReceiveOptions, options)).context_from(request)


class _Hook:
    """What the signals do for one application."""

    def __init__(self, policy: Policy) -> None:
        self.number = next(_numbers)
        self.policy = policy
        self._sender = Sender(_CLIENT, policy)
        self._receiver = Receiver(_CLIENT, policy)
        self._retry_receiver = Receiver(_CLIENT, replace(policy, relation="child"))

    def publish(self, task_name: str, headers: dict[str, Any], destination: str) -> None:
        """Write the context into *headers*, the very dict that Celery sends."""
        if _is_retry(headers):
            self._write(headers, self._retried(headers))
            return
        publishing = self._sender.publish(headers, destination, name=f"send {task_name}")
        self._write(headers, publishing.headers)
        _open_publishing.set(publishing if publishing.is_recorded else None)

    def _retried(self, headers: dict[str, Any]) -> dict[str, Any]:
        """Return the headers of a retry: the first sender's context, and the baggage of now."""
        current = TraceContext.get()
        first = extract(self.policy, CARRIER, headers)
        if current is not None and first is not None and not self._starts_trace():
            current = first.with_baggage(current.baggage)
        with TraceContext.use(current):
            return self._sender.headers(headers)

    def _starts_trace(self) -> bool:
        """Tell whether the running attempt is the first of a trace of its own, so that it is the sender."""
        return self.policy.relation != "child" and current_task.request.retries == 0

    def _write(self, headers: dict[str, Any], written: dict[str, Any]) -> None:
        headers.clear()
        headers.update(written)

    def run(self, request: Context) -> Processing[Context]:
        """Open the processing of a task."""
        receiver = self._retry_receiver if request.retries else self._receiver
        sender = TraceContext.get() if request.is_eager else None
        return receiver.process(request, sender=sender).open()


_hooks: Final[WeakSet[_Hook]] = WeakSet()
_numbers: Final = count(1)

# If publishing fails, Celery sends no signal: the one that is still open then is ended by the next one.
_open_publishing: Final[ContextVar[Publishing[dict[str, Any]] | None]] = ContextVar(
    "spakky.tracing.celery", default=None
)


def _before_publish(sender: str, headers: dict[str, Any], **signal: Any) -> None:
    _end_publishing("unknown")
    hook = _publishing_hook()
    if hook is not None and hook.policy.enabled:
        hook.publish(sender, headers, signal.get("routing_key") or signal.get("exchange") or "")


def _after_publish(**signal: Any) -> None:
    del signal
    _end_publishing("ok")


def _before_run(task: Task, **signal: Any) -> None:
    del signal
    hook: _Hook | None = getattr(task.app, _HOOK, None)
    if hook is not None:
        setattr(task.request, _PROCESSING, hook.run(task.request))


def _after_run(task: Task, state: str | None, retval: object, **signal: Any) -> None:
    del signal
    processing: Processing[Context] | None = vars(task.request).pop(_PROCESSING, None)
    if processing is None:
        return
    _end_publishing("unknown")
    error = retval if isinstance(retval, BaseException) and state != "SUCCESS" else None
    processing.close(_OUTCOMES.get(state, "error"), getattr(error, "exc", None) or error)


_SIGNALS: Final = (
    (before_task_publish, _before_publish),
    (after_task_publish, _after_publish),
    (task_prerun, _before_run),
    (task_postrun, _after_run),
)


def _end_publishing(outcome: Outcome) -> None:
    publishing = _open_publishing.get()
    if publishing is not None:
        _open_publishing.set(None)
        publishing.end_as(outcome)


def _publishing_hook() -> _Hook | None:
    """Return the hook of the running task's application, or else the one that was made last."""
    own: _Hook | None = getattr(current_task.app, _HOOK, None) if current_task else None
    return own or max(_hooks, key=lambda hook: hook.number, default=None)


def _is_retry(headers: Mapping[str, Any]) -> bool:
    """Tell whether these are the headers of another attempt of the running task."""
    return (
        bool(current_task) and bool(headers.get("retries")) and headers.get("id") == current_task.request.id
    )


def _replace_hook(app: Celery, hook: _Hook | None) -> None:
    replaced: _Hook | None = getattr(app, _HOOK, None)
    if replaced is not None:
        _hooks.discard(replaced)
    setattr(app, _HOOK, hook)


def _check(app: object) -> None:
    if not isinstance(app, Celery):
        message = f"this takes a Celery application, got {type(app).__name__}"
        raise WrongUseError(message)
