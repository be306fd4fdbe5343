"""structlog: one processor.

    structlog.configure(processors=[..., add_trace_context, structlog.processors.JSONRenderer()])

It stands anywhere before the renderer. Facts:

- Outside of any trace an event gets no keys, as events have the keys that mean something. A renderer that
  needs them always is served by a processor behind this one that sets defaults.
- An event that has one of the keys (by `bind`, by `merge_contextvars`, by the call) gets none from here.
- The asynchronous methods (`await log.ainfo(...)`) run processors in a thread, with the caller's context.
- In the `foreign_pre_chain` of a `ProcessorFormatter` it runs in the thread of the handler. Behind a
  `QueueListener` let `structlog.stdlib.ExtraAdder` copy what the record brings, see
  `spakky.tracing.integrations.logging`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spakky.tracing._extras import raise_missing_extra
from spakky.tracing.boundaries.log_fields import add_log_fields
from spakky.tracing.context import TraceContext

try:
    import structlog as _structlog  # noqa: F401 - what is missing is said here and now
except ModuleNotFoundError as error:
    raise_missing_extra("structlog", {"structlog"}, error)

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger

__all__ = ["add_trace_context"]


def add_trace_context(logger: WrappedLogger, method_name: str, event_dict: EventDict) -> EventDict:
    """Add `trace_id`, `span_id` and `trace_flags` of the current trace to an event; structlog calls it.

    Args:
        logger: The wrapped logger; not used.
        method_name: The name of the method that was called; not used.
        event_dict: The event; it is changed in place, and returned.
    """
    del logger, method_name
    add_log_fields(event_dict, TraceContext.get())
    return event_dict
