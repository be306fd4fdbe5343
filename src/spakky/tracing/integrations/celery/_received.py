"""What a worker's main process knows of the runs that it hands to its children.

A child that is killed (a hard time limit, `revoke(terminate=True)`, out of memory) cannot call its errbacks
or be tried again; the main process does that for it, and has no context. So it chooses the ids of each run
when it receives the message, and hands them over in `delivery_info`: Celery makes that anew for each message,
and no retry sends it on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from spakky.tracing.context import TraceContext
from spakky.tracing.integrations.celery._chord import ids_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery.app.task import Context
    from celery.worker.request import Request

__all__ = ["choose_ids", "ids_of", "request_behind"]

_IDS: Final = "spakky_tracing_ids"

# By the id of a task, and of the body of its chord, whose errbacks are called where a header task is lost.
_requests: Final[WeakValueDictionary[str, Request]] = WeakValueDictionary()


def choose_ids(request: Request) -> None:
    """Choose the ids of the run of a received message."""
    request.delivery_info[_IDS] = TraceContext.new_root().to_traceparent()
    _requests[request.id] = request
    for body_id in ids_in(_chord_of(request)):
        _requests[body_id] = request


def _chord_of(request: Request) -> object:
    try:
        return request.chord
    except Exception:  # noqa: BLE001 - Celery takes messages in which there is no place for it
        return None


def ids_of(request: Context) -> TraceContext | None:
    """Return a root with the ids that were chosen for a run, `None` if nobody did."""
    chosen = request.delivery_info.get(_IDS) if isinstance(request.delivery_info, dict) else None
    if chosen is None:
        return None
    known = TraceContext.from_traceparent(chosen)
    return TraceContext(trace_id=known.trace_id, span_id=known.span_id, trace_flags=known.trace_flags)


def request_behind(message: Mapping[str, Any]) -> Request | None:
    """Return the received task that sends *message* or is tried again by it, `None` if there is none.

    Args:
        message: Celery's own fields of a message that no running task sends.
    """
    task_id, parent_id = message.get("id"), message.get("parent_id")
    tried_again = _requests.get(task_id) if isinstance(task_id, str) and message.get("retries") else None
    return tried_again or (_requests.get(parent_id) if isinstance(parent_id, str) else None)
