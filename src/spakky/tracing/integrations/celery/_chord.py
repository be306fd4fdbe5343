"""The links from a chord's body to its header tasks.

The tasks of a chord's header run anywhere, and any of them may be the one that sends the body. So each
leaves its context in the result backend, which a chord needs anyway, next to Celery's own keys of the group;
who sends the body collects them and writes them into its message. Only what is recorded can be linked to.
Where the header fails, it is the errbacks of the body that wait for all of it, so they have the links.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from celery.backends.base import BaseKeyValueStoreBackend

from spakky.tracing.carriers.celery import LINKS
from spakky.tracing.context import TraceContext
from spakky.tracing.error import InvalidTraceparentError

if TYPE_CHECKING:
    from celery import Task
    from celery.app.task import Context

__all__ = ["body_sent_by", "ids_in", "links_from", "links_in", "remember"]

_MOST: Final = 128  # as many as OpenTelemetry's SDK keeps of a span's links
_LENGTH: Final = 56  # of a traceparent and a comma
_POLLING_TASK: Final = "celery.chord_unlock"

_logger: Final = logging.getLogger("spakky.tracing")


def remember(task: Task, context: TraceContext) -> None:
    """Leave the *context* of a chord's header task for whoever sends the chord's body."""
    request, index = task.request, task.request.group_index
    if not isinstance(index, int) or index >= _MOST:
        return
    try:
        if isinstance(task.backend, BaseKeyValueStoreBackend):
            task.backend.set(_key(task.backend, request.group, index), context.to_traceparent())
    except Exception:  # a backend may be anything, and none may fail a task
        _logger.debug("a chord's body will not link to task %s", request.id, exc_info=True)


def links_from(task: Task, request: Context) -> str:
    """Return the links of the chord's body that the run *request* of *task* sends; empty for none."""
    try:
        return ",".join(_collect(task.backend, request))
    except Exception:  # likewise
        _logger.debug("a chord's body has no links", exc_info=True)
        return ""


def links_in(request: Context) -> tuple[TraceContext, ...]:
    """Return the links that a message carries; what is none is left out."""
    text = request.get(LINKS)
    if not isinstance(text, str) or len(text) > _MOST * _LENGTH:
        return ()
    return tuple(_contexts_in(text))


def body_sent_by(request: Context) -> object:
    """Return the body of a chord that the task of *request* may be the one to send, `None` for none.

    Stores that cannot count have a task that asks them again and again whether the header is done.
    """
    if request.get("task") == _POLLING_TASK:
        arguments = request.get("args")
        return arguments[1] if isinstance(arguments, Sequence) and len(arguments) > 1 else None
    return request.chord


def ids_in(signature: object) -> Iterator[str]:
    """Yield the ids of the tasks that a *signature* starts, and of those that follow them."""
    left = [signature]
    while left:
        each = left.pop()
        if isinstance(each, (list, tuple)):
            left.extend(each)
        elif isinstance(each, Mapping):
            task_id = _mapping(each.get("options")).get("task_id")
            if isinstance(task_id, str):
                yield task_id
            inner = _mapping(each.get("kwargs"))
            left.extend([inner.get("tasks"), inner.get("header"), inner.get("body")])


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _collect(backend: object, request: Context) -> list[str]:
    """Take what the header tasks have left out of the backend."""
    if not isinstance(backend, BaseKeyValueStoreBackend):
        return []
    group_id, size = _group_of(request)
    keys = [_key(backend, group_id, index) for index in range(min(size, _MOST))]
    left = {key: value for key, value in zip(keys, _values_of(backend, keys), strict=True) if value}
    _forget(backend, left)
    return [value.decode() if isinstance(value, bytes) else str(value) for value in left.values()]


def _values_of(backend: BaseKeyValueStoreBackend, keys: list[Any]) -> list[Any]:
    """Return what a store has for *keys*, at once where it can: how large a header is mostly nobody says."""
    try:
        values = backend.mget(keys)
    except NotImplementedError:
        return [backend.get(key) for key in keys]
    return [values.get(key) for key in keys] if isinstance(values, Mapping) else list(values)


def _forget(backend: BaseKeyValueStoreBackend, keys: Iterable[Any]) -> None:
    try:
        for key in keys:  # which are there: some stores refuse to delete what is not
            backend.delete(key)
    except Exception:  # likewise
        _logger.debug("what a chord has left in the backend stays until it expires", exc_info=True)


def _group_of(request: Context) -> tuple[Any, int]:
    """Return the id of a chord's header, and its size as far as that is known."""
    if request.get("task") == _POLLING_TASK:
        arguments: Any = request.get("args")
        options: Any = request.get("kwargs")
        return arguments[0], len(options["result"])
    return request.group, _MOST


def _contexts_in(text: str) -> Iterator[TraceContext]:
    for traceparent in filter(None, text.split(",")):
        try:
            yield TraceContext.from_traceparent(traceparent)
        except InvalidTraceparentError as error:
            _logger.debug("a link is left out: %s", error)


def _key(backend: BaseKeyValueStoreBackend, group_id: str, index: int) -> Any:
    return backend.get_key_for_group(group_id, f".spakky-tracing.{index}")
