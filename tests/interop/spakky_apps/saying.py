"""What the applications answer: one line of JSON for each thing that they did."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spakky.tracing import TraceContext


def described(context: TraceContext | None) -> dict[str, Any]:
    """Return *context* as values of JSON."""
    assert context is not None, "there is no trace"
    return {"trace": context.trace_id, "span": context.span_id, "parent": context.parent_span_id}


def say(**values: Any) -> None:
    """Answer with *values*."""
    print(json.dumps(values), flush=True)  # noqa: T201 - the protocol
