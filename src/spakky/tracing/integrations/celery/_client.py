"""Celery's task messages, described for the boundaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from celery.app.task import Context

from spakky.tracing.boundaries.client import Client
from spakky.tracing.carriers.amqp import DEFAULT_FRAME_SIZE, delivery_from, room_in, size_of
from spakky.tracing.carriers.celery import CARRIER

if TYPE_CHECKING:
    from spakky.tracing.carriers import Delivery

__all__ = ["CLIENT", "IS_SCHEDULED", "RUN", "names_of_task", "retries_of"]

IS_SCHEDULED: Final = "celery_beat_task"
"""The header by which beat marks what it sends (celery.beat.Scheduler.apply_async)."""

RUN: Final = "spakky_tracing_run"
"""The attribute of a running task's request that we keep its run in."""

# Names in a request that are Celery's own or ours, and no headers of the user (celery.app.task.Context).
_OWN_NAMES: Final = frozenset(vars(Context)) | {
    "lang",
    "task",
    "argsrepr",
    "kwargsrepr",
    "compression",
    RUN,
}


def names_of_task(task: str | None, delivery: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return the names by which options may choose: of the task, and of its message's destination."""
    return task or "", _destination(delivery)


def retries_of(request: Context) -> int:
    """Return how often a task was tried before; clients of other languages may write anything there."""
    retries: object = request.retries
    return retries if isinstance(retries, int) else 0


def _destination(delivery: Mapping[str, Any] | None) -> str:
    """Return where a message goes to or came from; an exchange may be given as an object."""
    delivery = delivery or {}
    return str(delivery.get("routing_key") or delivery.get("exchange") or "")


def _custom_headers(request: Context) -> dict[str, Any]:
    """Return the user's headers of a task message: as attributes they are never stale, so they win."""
    attributes = {name: value for name, value in vars(request).items() if name not in _OWN_NAMES}
    return {**request.headers, **attributes} if isinstance(request.headers, Mapping) else attributes


def _delivery(request: Context) -> Delivery:
    """Return what a message says of its way: Celery counts retries, a dead letter counts what came before."""
    headers = _custom_headers(request)
    delivery = delivery_from(headers, is_redelivered=_is_redelivered(request.delivery_info))
    return delivery._replace(
        attempt=retries_of(request) + (delivery.attempt or 1),
        is_scheduled=headers.get(IS_SCHEDULED) is True,
    )


def _is_redelivered(info: object) -> bool:
    return isinstance(info, Mapping) and info.get("redelivered") is True


CLIENT: Final[Client[Context, dict[str, Any]]] = Client(
    system="celery",
    carrier=CARRIER,
    message_type=Context,
    headers=_custom_headers,
    destination=lambda request: _destination(request.delivery_info),
    name=lambda request: f"run {request.get('task')}",
    names=lambda request: names_of_task(request.get("task"), request.delivery_info),
    delivery=_delivery,
    attributes=lambda request: {"messaging.message.id": request.id} if request.id else {},
    size=size_of,
    room=room_in(DEFAULT_FRAME_SIZE),
)
"""Whether a message goes over AMQP no signal tells, so its headers always fit into a frame of RabbitMQ."""
