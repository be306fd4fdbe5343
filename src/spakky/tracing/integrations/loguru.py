"""loguru: one patcher.

    logger.configure(patcher=add_trace_context)

Formats have `{extra[trace_id]}`, `{extra[span_id]}` and `{extra[trace_flags]}` then, always: where there is
no trace, each is a placeholder. Facts:

- loguru has one patcher of this kind. `logger.patch(add_trace_context)` returns a logger that has one more.
- It is called where the line is logged, also with `enqueue=True`.
- A record whose `extra` has one of the fields (from `bind`, `contextualize`, `configure(extra=...)`, the
  call) keeps it, and gets the placeholder for the others. So a default in `configure(extra=...)` would be
  in the way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spakky.tracing._extras import raise_missing_extra
from spakky.tracing.boundaries.log_fields import PLACEHOLDER, complete_log_fields
from spakky.tracing.context import TraceContext

try:
    import loguru as _loguru  # noqa: F401 - what is missing is said here and now
except ModuleNotFoundError as error:
    raise_missing_extra("loguru", {"loguru"}, error)

if TYPE_CHECKING:
    from loguru import Record

__all__ = ["add_trace_context"]


def add_trace_context(record: Record, *, placeholder: str | None = PLACEHOLDER) -> None:
    """Add `trace_id`, `span_id` and `trace_flags` of the current trace to a record; loguru calls it.

    Args:
        record: The record; its `extra` is changed in place.
        placeholder: What stands in the fields outside of any trace;
            `functools.partial(add_trace_context, placeholder="")` is a patcher with another one.
    """
    complete_log_fields(record["extra"], TraceContext.get(), placeholder)
