"""Sentry's SDK in an application; what it would send goes to a file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import sentry_sdk
from sentry_sdk.integrations.celery import CeleryIntegration
from sentry_sdk.transport import Transport

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from celery import Celery


class ToAFile(Transport):
    """Appends what is sent to a file; one write to a file opened for appending stays whole."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._path = folder / "sentry.jsonl"

    def capture_envelope(self, envelope: Any) -> None:
        with self._path.open("a") as lines:
            for item in envelope.items:
                lines.write(json.dumps({"type": item.type, "event": item.payload.json}, default=str) + "\n")


def hook(app: Celery, folder: Path, *, propagate_traces: bool = True) -> None:
    sentry_sdk.init(
        "http://key@127.0.0.1:9/1",
        release="shop@1",
        traces_sample_rate=1.0,
        transport=ToAFile(folder),
        auto_enabling_integrations=False,
        integrations=[CeleryIntegration(propagate_traces=propagate_traces, monitor_beat_tasks=True)],
    )


def look() -> dict[str, Any] | None:
    """Return the current trace, the parent of its transaction, and what would be its baggage."""
    span = sentry_sdk.get_current_span()
    if span is None:
        return None
    transaction = span.containing_transaction
    return {
        "trace_id": span.trace_id,
        "parent_span_id": transaction.parent_span_id if transaction else None,
        "baggage": sentry_sdk.get_baggage(),
    }


def enter(stack: ExitStack) -> None:
    """Be in a transaction."""
    stack.enter_context(sentry_sdk.start_transaction(name="app"))
