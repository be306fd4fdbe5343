"""Contexts to send and to look for."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from spakky.tracing.baggage import Baggage
from spakky.tracing.context import TraceContext
from spakky.tracing.trace_state import TraceState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TRACEPARENT: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
STALE: Final = "00-11111111111111111111111111111111-2222222222222222-01"


def full_context() -> TraceContext:
    """Return a context with all that can travel."""
    root = TraceContext.new_root(baggage=Baggage({"tenant": "acme"}))
    return root.child(trace_state=TraceState({"congo": "t61"}))


@contextlib.contextmanager
def ambient(run: Callable[[Callable[[], object]], Any]) -> Iterator[None]:
    """Make what is current in this thread so in a worker's, outside of any message; then the other way.

    So whatever a message leaves behind in the worker's thread is seen by the test.

    Args:
        run: Runs a function in the worker's thread and returns what it returns.
    """
    before = TraceContext.get()
    run(lambda: _make_current(before))
    try:
        yield
    finally:
        left = run(_take_current)
        if left is not before:
            _make_current(left)


def _make_current(context: TraceContext | None) -> None:
    if context is None:
        TraceContext.clear()
    else:
        TraceContext.set(context)


def _take_current() -> TraceContext | None:
    context = TraceContext.get()
    TraceContext.clear()
    return context
