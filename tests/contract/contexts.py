"""Contexts to send and to look for."""

from __future__ import annotations

from typing import Final

from spakky.tracing.baggage import Baggage
from spakky.tracing.context import TraceContext
from spakky.tracing.trace_state import TraceState

TRACEPARENT: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
STALE: Final = "00-11111111111111111111111111111111-2222222222222222-01"


def full_context() -> TraceContext:
    """Return a context with all that can travel."""
    root = TraceContext.new_root(baggage=Baggage({"tenant": "acme"}))
    return root.child(trace_state=TraceState({"congo": "t61"}))
