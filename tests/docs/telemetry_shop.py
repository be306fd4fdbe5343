"""A service of the migration page: its code, with an SDK of OpenTelemetry that tells what it recorded.

    python telemetry_shop.py CODE [INSTRUMENTOR]

Each line of the standard input is a function of the code and a name for its queue, such as `place orders-1`;
each line of the output holds the spans that it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import json
import logging
import os
import sys
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from celery.contrib.testing.worker import start_worker
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import SpanKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.trace import Span

PATIENCE: Final = 30


class Spans(SpanProcessor):
    """Keeps the spans, each with the baggage that it started with."""

    def __init__(self) -> None:
        self._baggage: dict[int, dict[str, object]] = {}
        self._ended: list[ReadableSpan] = []
        self._change = threading.Condition()

    def on_start(self, span: Span, parent_context: context.Context | None = None) -> None:
        self._baggage[span.get_span_context().span_id] = dict(baggage.get_all(parent_context))

    def on_end(self, span: ReadableSpan) -> None:
        with self._change:
            self._ended.append(span)
            self._change.notify_all()

    def wait_for(self, kind: SpanKind) -> None:
        with self._change:
            assert self._change.wait_for(lambda: kind in [span.kind for span in self._ended], PATIENCE)

    def take(self) -> list[dict[str, Any]]:
        taken, self._ended = self._ended, []
        return [self._told(span) for span in taken]

    def _told(self, span: ReadableSpan) -> dict[str, Any]:
        assert span.context is not None
        assert span.instrumentation_scope is not None
        return {
            "name": span.name,
            "kind": span.kind.name,
            "by": span.instrumentation_scope.name,
            "trace_id": span.context.trace_id,
            "span_id": span.context.span_id,
            "parent_id": span.parent.span_id if span.parent else None,
            "links": [link.context.span_id for link in span.links],
            "attributes": dict(span.attributes or {}),
            "baggage": self._baggage[span.context.span_id],
        }


def loaded(code: str, queue: str) -> Any:
    """Return what *code* defines, with the name of a queue put in."""
    defined: dict[str, Any] = {"__name__": "shop"}
    exec(code.replace('"orders"', f'"{queue}"').replace('"billing"', f'"{queue}"'), defined)  # noqa: S102 - it is the page's own code
    return SimpleNamespace(**defined)


def called(function: Callable[[], Any]) -> None:
    if inspect.iscoroutinefunction(function):
        asyncio.run(function())
    else:
        function()


def place(shop: Any) -> None:
    token = context.attach(baggage.set_baggage("tenant", "acme"))
    called(shop.place)
    context.detach(token)


def bill(shop: Any, spans: Spans) -> None:
    if hasattr(shop, "app"):
        worker: Any = start_worker(shop.app, perform_ping_check=False)
        worker.__enter__()
        shop.worker = worker  # kept: its end would be waited for
        spans.wait_for(SpanKind.CONSUMER)
    else:
        called(shop.bill)


def answer(action: str, shop: Any, spans: Spans) -> None:
    with contextlib.redirect_stdout(sys.stderr):
        place(shop) if action == "place" else bill(shop, spans)
    sys.stdout.write(json.dumps(spans.take()) + "\n")
    sys.stdout.flush()


def answer_in_child(action: str, shop: Any, spans: Spans) -> None:
    """Answer in a process of its own: a process has one worker of Celery, whose end takes seconds."""
    child = os.fork()
    if child == 0:
        answer(action, shop, spans)
        os._exit(0)
    os.waitpid(child, 0)


def main(path: str, instrumentor: str | None = None) -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")  # each queue has an app of its own, and Celery says that they share tasks
    code, spans, provider = Path(path).read_text(encoding="utf-8"), Spans(), TracerProvider()
    provider.add_span_processor(spans)
    trace.set_tracer_provider(provider)
    if instrumentor is not None:
        module, _, name = instrumentor.partition(":")
        getattr(importlib.import_module(module), name)().instrument()
    for line in sys.stdin:
        action, queue = line.split()
        shop = loaded(code, queue)
        (answer_in_child if hasattr(shop, "app") else answer)(action, shop, spans)


if __name__ == "__main__":
    main(*sys.argv[1:])
