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
- What the worker's main process sends for a child that is gone (errbacks after a hard time limit, another
  attempt) belongs to the run of that child, and to its sender if it never started. Under protocol 1 an
  errback starts a trace, as its message names no parent. An errback that takes the request is called in
  place, which Celery tells nobody: in the main process it has no context.
- The body of a chord is a child of the task that sends it, and links to all recorded header tasks, if the
  result backend is a store of keys and values (Redis, memcached, files, ...). Up to 128 are linked to. Where
  the header fails, the errbacks of the body have the links.
- What beat sends starts a trace at each tick.
- Publishing that fails sends no signal. Its recorded span becomes an error when the same thread or task
  publishes or runs something next, or when it ends; there is no exception in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spakky.tracing._extras import raise_missing_extra
from spakky.tracing.boundaries.options import Options, Policy
from spakky.tracing.boundaries.verbs import Verbs
from spakky.tracing.error import WrongUseError

try:
    from celery import Celery

    from spakky.tracing.integrations.celery._call import call_headers
    from spakky.tracing.integrations.celery._client import CLIENT
    from spakky.tracing.integrations.celery._hook import Hook, put_hook_on, take_hook_off
    from spakky.tracing.integrations.celery._signals import connect, disconnect_if_idle, lock
except ModuleNotFoundError as error:
    raise_missing_extra("celery", {"celery"}, error)

if TYPE_CHECKING:
    from typing import Unpack

__all__ = ["call_headers", "context_from", "headers", "install", "uninstall"]

_VERBS = Verbs(CLIENT)

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
    hook = Hook(Policy.of(Options, options))
    with lock:
        put_hook_on(app, hook)
        connect()


def uninstall(app: Celery) -> None:
    """Undo `install`; nothing happens if *app* is not hooked. Tasks that are running end as they began.

    Raises:
        WrongUseError: This is no Celery application.
    """
    _check(app)
    with lock:
        take_hook_off(app)
    disconnect_if_idle()


def _check(app: object) -> None:
    if not isinstance(app, Celery):
        message = f"this takes a Celery application, got {type(app).__name__}"
        raise WrongUseError(message)
