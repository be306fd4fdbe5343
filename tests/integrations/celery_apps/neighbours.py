"""An application in which several tools are hooked, in the order that the environment says.

A worker loads it; run as a program, it publishes on request: each line of JSON on the standard input is
answered by one on the standard output. What is not hooked is not imported.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from celery import Celery, Task, group
from celery.beat import ScheduleEntry, Scheduler
from celery.exceptions import OperationalError
from celery.schedules import schedule
from kombu.entity import Queue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOOLS: Final = os.environ["NEIGHBOURS_TOOLS"].split(",")
FOLDER: Final = Path(os.environ["NEIGHBOURS_FOLDER"])
QUEUE: Final = os.environ["NEIGHBOURS_QUEUE"]
NOWHERE: Final = os.environ["NEIGHBOURS_NOWHERE"]
FIELDS: Final = ("traceparent", "tracestate", "baggage", "sentry-trace")

app = Celery("neighbours", broker=os.environ["NEIGHBOURS_BROKER"])
app.conf.update(
    task_queues=[Queue(QUEUE)],
    task_default_queue=QUEUE,
    task_create_missing_queues=True,
    task_ignore_result=True,
    task_publish_retry=False,
    worker_enable_remote_control=False,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)


def append(name: str, line: object) -> None:
    """Append a line of JSON to a file; one write to a file opened for appending stays whole."""
    with (FOLDER / name).open("a") as lines:
        lines.write(json.dumps(line, default=str) + "\n")


def hook_ours() -> None:
    from spakky.tracing.integrations import celery

    celery.install(app)


def hook_opentelemetry() -> None:
    from opentelemetry import trace
    from opentelemetry.instrumentation.celery import CeleryInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

    provider = TracerProvider()
    spans = (FOLDER / "spans.jsonl").open("a")
    exporter = ConsoleSpanExporter(out=spans, formatter=lambda span: f"{span.to_json(indent=None)}\n")
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    CeleryInstrumentor().instrument()


def hook_sentry(*, propagate_traces: bool = True) -> None:
    import sentry_sdk
    from sentry_sdk.integrations.celery import CeleryIntegration
    from sentry_sdk.transport import Transport

    class Kept(Transport):
        def capture_envelope(self, envelope: Any) -> None:
            for item in envelope.items:
                append("sentry.jsonl", {"type": item.type, "event": item.payload.json})

    sentry_sdk.init(
        "http://key@127.0.0.1:9/1",
        release="shop@1",
        traces_sample_rate=1.0,
        transport=Kept,
        auto_enabling_integrations=False,
        integrations=[CeleryIntegration(propagate_traces=propagate_traces, monitor_beat_tasks=True)],
    )


HOOKS: Final[dict[str, Callable[[], None]]] = {
    "ours": hook_ours,
    "opentelemetry": hook_opentelemetry,
    "sentry": hook_sentry,
    "silent sentry": lambda: hook_sentry(propagate_traces=False),
}

for tool in TOOLS:
    HOOKS[tool]()


def current() -> dict[str, Any]:
    """Return what each tool takes for the current context."""
    looks = {"ours": look_at_ours, "opentelemetry": look_at_opentelemetry, "sentry": look_at_sentry}
    return {tool: look() for tool, look in looks.items() if tool in TOOLS}


def look_at_ours() -> dict[str, Any] | None:
    from spakky.tracing.context import TraceContext

    context = TraceContext.get()
    return context and {
        "traceparent": context.to_traceparent(),
        "trace_id": context.trace_id,
        "span_id": context.span_id,
        "parent_span_id": context.parent_span_id,
        "tracestate": context.trace_state.to_header(),
        "baggage": dict(context.baggage),
    }


def look_at_opentelemetry() -> dict[str, Any] | None:
    from opentelemetry import baggage, trace

    span: Any = trace.get_current_span()
    context = span.get_span_context()
    return {
        "trace_id": trace.format_trace_id(context.trace_id),
        "span_id": trace.format_span_id(context.span_id),
        "parent_span_id": trace.format_span_id(span.parent.span_id) if span.parent else None,
        "tracestate": context.trace_state.to_header(),
        "baggage": dict(baggage.get_all()),
    } if context.is_valid else None


def look_at_sentry() -> dict[str, Any] | None:
    import sentry_sdk

    span = sentry_sdk.get_current_span()
    return span and {
        "trace_id": span.trace_id,
        "parent_span_id": span.containing_transaction and span.containing_transaction.parent_span_id,
        "baggage": sentry_sdk.get_baggage(),
    }


def task(**options: Any) -> Callable[[Callable[..., None]], Any]:
    """Return Celery's own decorator, with a type."""
    decorator: Callable[[Callable[..., None]], Any] = app.task(bind=True, **options)
    return decorator


def note(running: Task) -> None:
    """Write down what each tool takes for the context of the running task, and where its headers are."""
    request = running.request
    line = {
        "id": request.id,
        "attempt": request.retries + 1,
        "attributes": {name: value for name in FIELDS if (value := request.get(name)) is not None},
        "headers": request.headers,
        **current(),
    }
    append("notes.jsonl", line)


@task(name="neighbours.look")
def look(self: Task) -> None:
    note(self)


@task(name="neighbours.retries_twice")
def retries_twice(self: Task) -> None:
    note(self)
    if self.request.retries < 2:
        raise self.retry(countdown=0.01)


@task(name="neighbours.starts_another")
def starts_another(self: Task, task_id: str) -> None:
    note(self)
    look.apply_async(task_id=task_id)


@task(name="neighbours.publishes_in_vain")
def publishes_in_vain(self: Task) -> None:
    publish_in_vain()
    note(self)


def publish_in_vain() -> None:
    nowhere = app.connection_for_write(NOWHERE)
    try:
        look.apply_async(connection=nowhere, retry=False)
    except (OperationalError, OSError):
        return
    message = "a broker answered that is not there"
    raise AssertionError(message)


@contextmanager
def inside(tools: list[str]) -> Iterator[None]:
    """Be in a context of each of *tools*, as in a request that came from elsewhere."""
    entries = {"ours": enter_ours, "opentelemetry": enter_opentelemetry, "sentry": enter_sentry}
    with ExitStack() as stack:
        for tool in tools:
            entries[tool](stack)
        yield


def enter_ours(stack: ExitStack) -> None:
    from spakky.tracing.baggage import Baggage
    from spakky.tracing.context import TraceContext
    from spakky.tracing.trace_state import TraceState

    root = TraceContext.new_root(baggage=Baggage({"tenant": "acme"}))
    stack.enter_context(TraceContext.use(root.child(trace_state=TraceState({"ours": "1"}))))


def enter_opentelemetry(stack: ExitStack) -> None:
    from opentelemetry import baggage, context, trace

    caller = trace.SpanContext(
        int(os.urandom(16).hex(), 16),
        int(os.urandom(8).hex(), 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
        trace_state=trace.TraceState([("theirs", "1")]),
    )
    extracted = trace.set_span_in_context(trace.NonRecordingSpan(caller))
    token = context.attach(baggage.set_baggage("customer", "7", extracted))
    stack.callback(context.detach, token)
    stack.enter_context(trace.get_tracer("app").start_as_current_span("app"))


def enter_sentry(stack: ExitStack) -> None:
    import sentry_sdk

    stack.enter_context(sentry_sdk.start_transaction(name="app"))


def publish(
    way: str, destination: str, name: str, args: list[Any], headers: dict[str, Any] | None
) -> str | None:
    """Publish a task in one of the ways that Celery has; return its id if it says so."""
    published: Any = app.tasks[f"neighbours.{name}"]
    if way == "in vain":
        return publish_in_vain()
    if way == "tick":
        options = {"queue": destination, "task_id": uuid4().hex}
        entry = ScheduleEntry("tick", published.name, schedule=schedule(60), options=options, app=app)
        Scheduler(app, lazy=True).apply_entry(entry)
        return options["task_id"]
    if way == "send_task":
        result: Any = app.send_task(published.name, args, headers=headers, queue=destination)
    elif way == "group":
        result = group(published.s(*args)).apply_async(headers=headers, queue=destination)
    else:
        result = published.apply_async(args, headers=headers, queue=destination)
    return str(result.id)


def answer(inside_of: list[str], **request: Any) -> dict[str, Any]:
    with inside(inside_of):
        before = current()
        task_id = publish(**request)
        after = current()
    return {"id": task_id, "before": before, "after": after, "headers": request["headers"], "left": current()}


def serve() -> None:
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), flush=True)


if __name__ == "__main__":
    serve()
