"""The standard library's logging: a filter for handlers, or a factory for all records of a process.

    install()  # all that is logged, whoever writes it
    handler.addFilter(TraceFilter())  # or what this handler writes

Both give a record `trace_id`, `span_id` and `trace_flags`, always: where there is no trace, each is a
placeholder, so that `%(trace_id)s` in a format never fails. Facts:

- A filter looks when a handler gets the record. With a `QueueHandler` it belongs on that: the handlers of a
  `QueueListener` run in another thread, which is in no trace, or in another one.
- The factory looks where the record is made, so it needs no handler to be known: it serves Celery, whose
  worker makes its handlers itself, and every library that brings its own.
- What a record has stays: a filter after the factory, or a second filter, changes nothing. A record with
  one of the fields gets the placeholder for the others, so that the ids of two traces are never mixed.
- `extra={"trace_id": ...}` replaces what the factory has written, name by name; it does not raise.
- What `logging.makeLogRecord` builds was logged somewhere else. It keeps the ids that it brings, and gets the
  factory's placeholder otherwise.
- Other factories are kept: the one that was there before makes the record. In whatever order they are taken
  out again, ours does nothing after `uninstall`. Who puts a factory back that is older than ours takes ours
  out; `install` again then.
"""

from __future__ import annotations

import logging
from inspect import currentframe
from typing import TYPE_CHECKING, Any

from spakky.tracing.boundaries.log_fields import LOG_FIELDS, PLACEHOLDER, complete_log_fields
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TraceFilter", "install", "uninstall"]


class TraceFilter(logging.Filter):
    """Gives every record the ids of the current trace, and lets all of them pass.

    It belongs on handlers: a filter of a logger does not see what is logged to the loggers below it. In
    `dictConfig`:

        "filters": {"trace": {"()": "spakky.tracing.integrations.logging.TraceFilter"}},

    Attributes:
        placeholder: What stands in the fields of a record outside of any trace.
    """

    def __init__(self, *, placeholder: str | None = PLACEHOLDER) -> None:
        """Make a filter.

        Args:
            placeholder: What stands in the fields of a record outside of any trace; `None` suits a formatter
                that writes JSON.

        Raises:
            WrongUseError: The placeholder is neither a string nor `None`.
        """
        super().__init__()
        if not isinstance(placeholder, str | None):
            message = f"placeholder takes a str or None, got {type(placeholder).__name__}"
            raise WrongUseError(message)
        self.placeholder = placeholder

    def filter(self, record: logging.LogRecord) -> bool:
        """Write the fields that *record* lacks; return True."""
        complete_log_fields(record.__dict__, TraceContext.get(), self.placeholder)
        return True


def install(*, placeholder: str | None = PLACEHOLDER) -> None:
    """Give every record that is made in this process from now on the ids of the trace in which it is made.

    A second call replaces the placeholder.

    Args:
        placeholder: See `TraceFilter`.

    Raises:
        WrongUseError: The placeholder is neither a string nor `None`.
    """
    global _installed  # noqa: PLW0603 - logging has one factory for a process
    _installed = TraceFilter(placeholder=placeholder)
    factory = logging.getLogRecordFactory()
    if not isinstance(factory, _RecordFactory):
        logging.setLogRecordFactory(_RecordFactory(factory))


def uninstall() -> None:
    """Undo `install`; nothing happens if it was not called. Records that were made keep their fields."""
    global _installed  # noqa: PLW0603 - logging has one factory for a process
    _installed = None
    factory = logging.getLogRecordFactory()
    if isinstance(factory, _RecordFactory):
        logging.setLogRecordFactory(factory.inner)


_installed: TraceFilter | None = None


class _RecordFactory:
    """Makes records by another factory, and gives them ids as long as ours is installed.

    Attributes:
        inner: The factory that was there before; it makes the records.
    """

    def __init__(self, inner: Callable[..., logging.LogRecord]) -> None:
        self.inner = inner

    def __call__(self, name: str | None, *args: Any, **kwargs: Any) -> logging.LogRecord:
        """Return a record; `logging.makeLogRecord` gives no name."""
        record = self.inner(name, *args, **kwargs)
        installed = _installed  # another thread may uninstall meanwhile
        if installed is not None:
            context = None if name is None else TraceContext.get()
            record.__dict__ = _Attributes(record.__dict__)
            complete_log_fields(record.__dict__, context, installed.placeholder)
        return record


class _Attributes(dict[str, Any]):
    """The attributes of a record, in which `extra` may name those that we have written.

    `Logger.makeRecord` raises KeyError for a name that is `in` them already, and writes what `extra` says
    otherwise. So it alone does not find ours.
    """

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) and not (name in LOG_FIELDS and _is_asked_by("makeRecord"))

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (dict(self),)  # who unpickles a record need not have this library


def _is_asked_by(function: str) -> bool:
    """Tell whether the caller of our caller has this name."""
    frame = currentframe()
    asking = frame and frame.f_back and frame.f_back.f_back
    return asking is not None and asking.f_code.co_name == function
