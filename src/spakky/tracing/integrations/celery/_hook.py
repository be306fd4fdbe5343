"""The hooks on applications."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, get_args
from weakref import ref

from celery import current_task

from spakky.tracing.boundaries.options import Relation, Settings
from spakky.tracing.boundaries.process import Receiver
from spakky.tracing.boundaries.publish import Sender
from spakky.tracing.integrations.celery._call import is_off_for, relation_wanted_by
from spakky.tracing.integrations.celery._client import CLIENT, retries_of

if TYPE_CHECKING:
    from celery import Celery
    from celery.app.task import Context

    from spakky.tracing.boundaries.options import Policy

__all__ = ["Hook", "any_hook", "hook_of", "put_hook_on", "sending_hook", "take_hook_off"]

_HOOK: Final = "spakky_tracing_hook"  # on an app


class Hook:
    """What belongs to one application.

    Attributes:
        policy: Its options.
        sender: Sends its messages.
        retry_sender: Sends the next attempts of its tasks; what is in their headers no caller asked to keep.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.sender = Sender(CLIENT, Settings.fixed(policy))
        self.retry_sender = Sender(CLIENT, Settings.fixed(replace(policy, keep=False)))
        self._receiver = _receiver(policy)
        self._switched_off = _receiver(policy, enabled=False)
        self._receivers: dict[Relation, Receiver[Context]] = {
            relation: _receiver(policy, relation=relation) for relation in get_args(Relation)
        }

    def receiver(self, request: Context) -> Receiver[Context]:
        """Return what receives *request*: further attempts stay in the trace of the first one."""
        if is_off_for(request):
            return self._switched_off
        return self._receivers["child"] if retries_of(request) else self._receiver_of_call(request)

    def starts_trace(self, request: Context) -> bool:
        """Tell whether *request* is the first attempt in a trace of its own."""
        return not retries_of(request) and self._receiver_of_call(request).relation_to(request) != "child"

    def _receiver_of_call(self, request: Context) -> Receiver[Context]:
        """Return what receives *request* as its call wants it, unless its senders are not trusted."""
        wanted = relation_wanted_by(request)
        if wanted is None or self._receiver.relation_to(request) == "root":
            return self._receiver
        return self._receivers[wanted]


def _receiver(policy: Policy, **changes: Any) -> Receiver[Context]:
    return Receiver(CLIENT, Settings.fixed(replace(policy, **changes)))


_hooks: Final[list[ref[Hook]]] = []  # the newest last; an app that is gone takes its own along


def put_hook_on(app: Celery, hook: Hook) -> None:
    """Make *hook* the one hook of *app*."""
    take_hook_off(app)
    setattr(app, _HOOK, hook)
    _hooks.append(ref(hook))


def take_hook_off(app: Celery) -> None:
    """Take the hook off *app*, if there is one, and forget those of apps that are gone."""
    replaced: Hook | None = getattr(app, _HOOK, None)
    _hooks[:] = [each for each in _hooks if (hook := each()) is not None and hook is not replaced]
    if replaced is not None:
        delattr(app, _HOOK)


def hook_of(app: Celery) -> Hook | None:
    """Return the hook of *app*, `None` if it has none."""
    hook: Hook | None = getattr(app, _HOOK, None)
    return hook


def sending_hook() -> Hook | None:
    """Return the hook of the running task's application, or else the one that was made last."""
    running: Any = current_task
    own = hook_of(running.app) if running else None
    return own or any_hook()


def any_hook() -> Hook | None:
    """Return the hook that was made last, `None` if no app is hooked."""
    return next((hook for each in reversed(_hooks) if (hook := each()) is not None), None)
