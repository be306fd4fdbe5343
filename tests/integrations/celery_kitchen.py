"""A branch whose worker also has the tasks of `celery_apps/kitchen.py`, for whole canvases of tasks."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import uuid4

from celery.backends.redis import RedisBackend
from redis import Redis

from integrations.celery_branch import Branch, Kind, Urls
from integrations.celery_office import hooked
from spakky.tracing.baggage import Baggage
from spakky.tracing.context import TraceContext
from spakky.tracing.recorder import JsonLinesRecorder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from celery.canvas import Signature

    from spakky.tracing.recorder import Span

Note = dict[str, Any]

_SETTINGS: Final = {
    "include": ["kitchen"],
    "task_ignore_result": False,
    "result_chord_retry_interval": 0.05,
    "worker_enable_remote_control": True,
}


def id_of(task: Signature | str) -> str:
    """Return the id of a task; a string is one already."""
    options: Any = None if isinstance(task, str) else task.options
    return task if isinstance(task, str) else str(options["task_id"])


class QuietRedis(RedisBackend):
    """A result backend for who waits for no result: it does not subscribe to any."""

    def on_task_call(self, producer: object, task_id: str) -> None:
        """Do not wait for the result of a task that is being sent."""

    def remove_pending_result(self, result: object) -> None:
        """Do not unsubscribe from a result."""


class Kitchen:
    """A worker, and what it takes to order whole canvases and to see who called whom.

    Attributes:
        branch: The worker, and an app that sends it tasks.
        app: That app.
    """

    def __init__(self, branch: Branch, redis_url: str, folder: Path | None) -> None:
        self.branch = branch
        self._redis_url = redis_url
        self.app = branch.app
        self._folder = folder

    @property
    def keeps_files(self) -> bool:
        """Whether its result backend cannot count, so that a task asks it whether a header is done."""
        return self._folder is not None

    def dish(
        self, task: str = "cook", *args: object, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Signature:
        """Return the signature of a task of the kitchen, with an id of its own."""
        signature: Any = self.app.signature(
            f"kitchen.{task}",
            args,
            kwargs,
            options={"task_id": uuid4().hex, "queue": self.branch.queue, **options},
        )
        return cast("Signature", signature)

    def order(
        self,
        canvas: Any,
        hook: Mapping[str, Any] | None = None,
        baggage: Mapping[str, str] | None = None,
        **options: Any,
    ) -> TraceContext:
        """Send a canvas in a trace of its own, and return that."""
        recorder = JsonLinesRecorder(self.branch.record, process="guest")
        with (
            hooked(self.app, tracer=recorder, **(hook or {})),
            TraceContext.use(TraceContext.new_root(baggage=Baggage(baggage or {}))) as trace,
        ):
            canvas.apply_async(**options)
        recorder.close()
        assert trace is not None
        return trace

    def revoke(self, task: Signature, **options: Any) -> None:
        """Revoke a task, and wait until the worker knows."""
        mine = {"pattern": f"*{self.branch.queue}", "matcher": "glob"}
        assert self.app.control.revoke(id_of(task), reply=True, limit=1, **mine, **options)

    def note(self, task: Signature | str, attempt: int = 1) -> Note:
        """Return what a task has noted in one of its attempts."""
        return self.branch.notes(id_of(task), attempt)[attempt - 1]

    def notes(self, tasks: Sequence[Signature | str]) -> list[Note]:
        """Return what some tasks have noted in their first attempts."""
        return [self.note(task) for task in tasks]

    def span(self, span_id: str) -> Span:
        """Return a recorded span."""
        (span,) = self.branch.wait(lambda: [s for s in self.branch.all_spans() if s.span_id == span_id])
        return span

    def run(self, note: Note) -> Span:
        """Return the recorded run that wrote a *note*."""
        return self.span(note["span_id"])

    def caller(self, note: Note) -> str | None:
        """Return the span that called the task which wrote a *note*: what is above its recorded sending."""
        send = self.span(note["parent_span_id"])
        assert send.kind == "producer"
        return send.parent_span_id

    def links(self, note: Note) -> list[str]:
        """Return the spans that the run which wrote a *note* links to, sorted."""
        return sorted(link.span_id for link in self.run(note).links)

    def left_behind(self, header_note: Note) -> list[str]:
        """Return what is ours in the result backend, of the group of a chord's header task."""
        group_id = header_note["group"]
        if self._folder is not None:
            names = [path.name for path in self._folder.iterdir() if group_id in path.name]
        else:
            with Redis.from_url(self._redis_url) as redis:
                names = [key.decode() for key in redis.scan_iter(f"*{group_id}*", count=10_000)]
        return [name for name in names if "spakky" in name]


@contextlib.contextmanager
def open_kitchen(
    kind: Kind,
    urls: Urls,
    folder: Path,
    *,
    keeps_files: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Iterator[Kitchen]:
    """Start a worker; its results are kept in Redis, or else in files, which cannot count."""
    results, settings = None, {**_SETTINGS, **(settings or {})}
    if keeps_files:
        results = folder / "results"
        results.mkdir()
        settings["result_backend"] = results.as_uri()
    with Branch(kind, urls, folder, settings=settings).open() as branch:
        backend = (
            results.as_uri() if results else f"{QuietRedis.__module__}.{QuietRedis.__name__}+{urls.redis}"
        )
        branch.app.conf.update(task_ignore_result=False, result_backend=backend)
        yield Kitchen(branch, urls.redis, results)
        if results is None:
            branch.app.backend.client.connection_pool.disconnect()
