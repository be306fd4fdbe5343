"""What `shop.py` loads besides where OpenTelemetry is on: its SDK, the bridge, and a task that uses both."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from shop import note, task  # type: ignore[import-not-found] # Celery has loaded it from its own folder

from spakky.tracing.context import TraceContext
from spakky.tracing.integrations import opentelemetry

if TYPE_CHECKING:
    from celery import Task

SPANS = Path(os.environ["SHOP_TELEMETRY"]).open("a")  # noqa: SIM115 - as long as the process lives

provider = TracerProvider()
exporter = ConsoleSpanExporter(out=SPANS, formatter=lambda span: span.to_json(indent=None) + "\n")
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
opentelemetry.install()


def here() -> str | None:
    """Return the current span id on our side."""
    context = TraceContext.get()
    return None if context is None else context.span_id


def there() -> str | None:
    """Return the current span id on OpenTelemetry's side."""
    ids = trace.get_current_span().get_span_context()
    return trace.format_span_id(ids.span_id) if ids.is_valid else None


@task(name="shop.crosses")  # type: ignore[untyped-decorator]
def crosses(self: Task, seconds: float = 0) -> None:
    """Note what both sides say in the task, in a span of OpenTelemetry's in it, and after that."""
    seen: dict[str, Any] = {"task": (here(), there())}
    with trace.get_tracer("shop").start_as_current_span("inside"):
        time.sleep(seconds)
        seen["inside"] = (here(), there())
    seen["after"] = (here(), there())
    note(self, seen=seen)
