"""What a worker's main process knows of the runs that it hands to its children.

A child that is killed (a hard time limit, `revoke(terminate=True)`, out of memory) cannot call its errbacks
or be tried again; the main process does that for it, and has no context. So it chooses the ids of each run
when it receives the message, and hands them over in `delivery_info`: Celery makes that anew for each message.
A retry of a message from a named exchange makes properties of what is in there; ours is taken out again.
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

__all__ = ["choose_ids", "forget_ids", "ids_of", "request_behind"]

_IDS: Final = "spakky_tracing_ids"

_requests: Final[WeakValueDictionary[str, Request]] = WeakValueDictionary()  # by the id of the task


def choose_ids(request: Request) -> None:
    """Choose the ids of the run of a received message; it goes without where it has no usual place for them.

    A task may have a class of requests of its own (`Task.Request`).
    """
    info = request.request_dict.get("delivery_info")  # what the pool gets
    if isinstance(info, dict) and isinstance(request.id, str):
        info[_IDS] = TraceContext.new_root().to_traceparent()
        _requests[request.id] = request


def forget_ids(properties: object) -> None:
    """Take the ids of a run out of the *properties* of a message."""
    if isinstance(properties, dict):
        properties.pop(_IDS, None)


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
    if not _requests:  # this process is no worker
        return None
    task_id, parent_id = message.get("id"), message.get("parent_id")
    if isinstance(task_id, str) and message.get("retries") and task_id in _requests:
        return _requests.get(task_id)
    if not isinstance(parent_id, str):
        return None
    return _requests.get(parent_id) or _header_task_of(parent_id)


def _header_task_of(body_id: str) -> Request | None:
    """Return the task whose loss has just failed the chord of a body, `None` if there is none.

    The errbacks of a chord name its body as their parent, which never ran.
    """
    from celery.worker.state import reserved_requests  # noqa: PLC0415 - only a worker has loaded it anyway

    received = [request for each in _requests.valuerefs() if (request := each()) is not None]
    done = [request for request in received if request not in reserved_requests]
    lost = [request for request in done if body_id in ids_in(_chord_of(request))]
    return max(lost, key=lambda request: request.time_start or 0, default=None)


def _chord_of(request: Request) -> object:
    try:
        return request.chord
    except Exception:  # noqa: BLE001 - Celery takes messages in which there is no place for it
        return None
