"""This library in an application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spakky.tracing.baggage import Baggage
from spakky.tracing.context import TraceContext
from spakky.tracing.integrations import celery
from spakky.tracing.trace_state import TraceState

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from celery import Celery


def hook(app: Celery, folder: Path) -> None:
    celery.install(app)


def look() -> dict[str, Any] | None:
    """Return the current context."""
    context = TraceContext.get()
    if context is None:
        return None
    return {
        "traceparent": context.to_traceparent(),
        "trace_id": context.trace_id,
        "span_id": context.span_id,
        "parent_span_id": context.parent_span_id,
        "tracestate": context.trace_state.to_header(),
        "baggage": dict(context.baggage),
    }


def enter(stack: ExitStack) -> None:
    """Be in a context that has all that can travel."""
    root = TraceContext.new_root(baggage=Baggage({"tenant": "acme"}))
    stack.enter_context(TraceContext.use(root.child(trace_state=TraceState({"ours": "1"}))))
