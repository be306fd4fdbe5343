"""A real Celery worker in processes of its own, and an app in this one that sends it tasks.

    @pytest.fixture(scope="module", params=KINDS, ids=str)
    def branch(request, amqp_url, redis_url, tmp_path_factory):
        urls = Urls(amqp_url, redis_url)
        with Branch(request.param, urls, tmp_path_factory.mktemp("branch")).open() as branch:
            yield branch

The worker loads `celery_apps/shop.py`. Its tasks write notes, and spans of all processes go to one file.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar
from uuid import uuid4

from kombu.entity import Queue

import spakky.tracing
from brokers.guarded import Guarded
from integrations.celery_office import PATIENCE, hooked, new_app
from integrations.worker_notes import read_notes
from spakky.tracing.context import TraceContext
from spakky.tracing.recorder import JsonLinesRecorder, read_spans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from spakky.tracing.recorder import Span

FoundT = TypeVar("FoundT")

_APPS: Final = Path(__file__).parent / "celery_apps"
_SOURCES: Final = Path(spakky.tracing.__file__).parents[2]
_CELERY: Final = (sys.executable, "-m", "celery", "--workdir", str(_APPS), "--app", "shop")

# How a log tells that one of us raised or complained; `shop.py` sets the format.
_COMPLAINTS: Final = ("Signal handler", "ERROR spakky", "WARNING spakky", "spakky/tracing/")


class Kind(NamedTuple):
    """A pool, and the transport by which its tasks come."""

    pool: str
    transport: str

    def __str__(self) -> str:
        return f"{self.pool} on {self.transport}"


class Urls(NamedTuple):
    """The addresses of the brokers, by transport; results are kept in Redis."""

    amqp: str
    redis: str


KINDS: Final = (
    Kind("prefork", "amqp"),
    Kind("prefork", "redis"),
    Kind("threads", "amqp"),
    Kind("gevent", "redis"),
    Kind("eventlet", "amqp"),
    Kind("solo", "redis"),
)


class Branch:
    """A worker in processes of its own, and an app in this process that sends it tasks.

    Attributes:
        pool: The name of the worker's pool.
        transport: Where its tasks come from, `amqp` or `redis`.
        queue: The name of its queue.
        record: The file of recorded spans.
        app: Sends the worker tasks; hooked by nobody.
        old_app: Sends them in Celery's protocol 1.
    """

    def __init__(
        self,
        kind: Kind,
        urls: Urls,
        folder: Path,
        *,
        settings: Mapping[str, Any] | None = None,
        ambient: TraceContext | None = None,
    ) -> None:
        """Prepare a branch.

        Args:
            kind: The worker's pool, and its transport.
            urls: Where the brokers are.
            folder: What the processes write goes here.
            settings: Settings of the worker's app, as JSON can say them.
            ambient: What is current when the app has been loaded.
        """
        self.pool, self.transport = kind
        self.record = folder / "spans.jsonl"
        self.queue = f"shop-{uuid4().hex}"
        self._notes = folder / "notes.jsonl"
        self._broker: str = getattr(urls, kind.transport)
        self._results = urls.redis
        self._settings = {"worker_concurrency": 4, "worker_lost_wait": 0.1, **(settings or {})}
        self._ambient = {} if ambient is None else {"SHOP_AMBIENT": ambient.to_traceparent()}
        self.app = new_app(self._broker, Queue(self.queue, auto_delete=True))
        self.old_app = new_app(self._broker, Queue(self.queue, auto_delete=True))
        self.app.conf.update(result_backend=self._results)
        self.old_app.conf.update(task_protocol=1)
        self.worker = Guarded()
        self._started: list[str] = []

    @contextlib.contextmanager
    def open(self) -> Iterator[Branch]:
        with self.worker:
            self.start("worker")
            yield self
            log = self.log()
        self.app.close()
        self.old_app.close()
        assert [line for line in log.splitlines() if any(word in line for word in _COMPLAINTS)] == []
        assert self._processes() == []

    def start(self, name: str) -> None:
        """Start a worker, in processes of its own; *name* is its node's."""
        self._start(name, self._worker(name))

    def start_beat(self, folder: Path) -> None:
        """Start beat, which sends what is in the setting `beat_schedule`; it keeps its books in *folder*."""
        books = ("--schedule", str(folder / "schedule"), "--pidfile", str(folder / "beat.pid"))
        self._start("beat", [*_CELERY, "beat", *books])

    def send(
        self, task: str, *args: object, headers: Mapping[str, Any] | None = None, **options: Any
    ) -> tuple[str, TraceContext]:
        """Send a task in a trace of its own; return its id and the trace."""
        recorder = JsonLinesRecorder(self.record, process="sender")
        with hooked(self.app, tracer=recorder), TraceContext.use(TraceContext.new_root()) as context:
            result = self.app.send_task(f"shop.{task}", args, headers=headers, **options)
        recorder.close()
        assert context is not None
        return result.id, context

    def notes(self, task_id: str, count: int = 1) -> list[dict[str, Any]]:
        """Return what a task has noted in each attempt."""
        return self.wait(lambda: [note for note in self.all_notes() if note["id"] == task_id], count)

    def spans(self, trace: TraceContext, count: int) -> list[Span]:
        """Return the recorded spans of a trace, of all processes."""
        return self.wait(lambda: [s for s in self.all_spans() if s.trace_id == trace.trace_id], count)

    def all_spans(self) -> list[Span]:
        """Return all spans recorded so far."""
        return list(read_spans(self.record)) if self.record.exists() else []

    def log(self) -> str:
        """Return what all that was started has logged so far."""
        return "".join(self.worker.log(name) for name in self._started)

    def revoke(self, task_id: str, **options: Any) -> None:
        """Revoke a task and wait until the worker, which must be up, knows."""
        node = f"worker@{self.queue}"
        answers = self.app.control.revoke(task_id, [node], reply=True, timeout=PATIENCE, **options)
        assert [list(answer) for answer in answers] == [[node]]

    def wait(self, look: Callable[[], list[FoundT]], count: int = 1) -> list[FoundT]:
        """Return what *look* finds once it finds *count* of them."""
        deadline = time.monotonic() + 2 * PATIENCE
        while len(found := look()) < count:
            assert time.monotonic() < deadline, self.worker.excuse("worker") or self.log()
            time.sleep(0.02)
        return found

    def all_notes(self) -> list[dict[str, Any]]:
        """Return all notes so far."""
        return read_notes(self._notes)

    def _start(self, name: str, command: Sequence[str]) -> None:
        self._started.append(name)
        self.worker.start(name, command, self._environment())

    def _worker(self, name: str) -> list[str]:
        return [
            *(*_CELERY, "worker", "--hostname", f"{name}@{self.queue}", "--pool", self.pool),
            *("--loglevel", "INFO", "--without-gossip", "--without-mingle", "--without-heartbeat"),
        ]

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(_SOURCES), os.environ.get("PYTHONPATH", "")]).rstrip(
                os.pathsep
            ),
            "SHOP_BROKER": self._broker,
            "SHOP_RESULTS": self._results,
            "SHOP_QUEUE": self.queue,
            "SHOP_NOTES": str(self._notes),
            "SHOP_SETTINGS": json.dumps(self._settings),
            "SPAKKY_TRACING_RECORD": str(self.record),
            **self._ambient,
        }

    def _processes(self) -> list[str]:
        """Return the command lines of our processes that are still there."""
        lines = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                lines.append((process / "cmdline").read_text().replace("\0", " "))
        return [line for line in lines if self.queue in line]
