"""Processes of an application in which other tools are hooked, too: workers, and programs that publish."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self
from uuid import uuid4

from kombu.connection import Connection

from brokers.guarded import Guarded
from brokers.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Published", "Publisher", "Town", "Worker"]

APPS: Final = Path(__file__).parent / "celery_apps"
PATIENCE: Final = 15

COMPLAINTS: Final = ("Failed to detach", "no existing span", "Signal handler", "ERROR", "Traceback")
"""What shows in a log that one tool disturbs another."""


class Published(NamedTuple):
    """What a program says that has published a task.

    Attributes:
        task_id: The task's id, `None` if publishing failed.
        before: What each tool took for the current context before it.
        after: The same directly after it.
        left: The same outside of all contexts that were entered for it.
        headers: Those that were given, as they are afterwards.
    """

    task_id: str | None
    before: dict[str, Any]
    after: dict[str, Any]
    left: dict[str, Any]
    headers: dict[str, Any] | None


class Worker:
    """A worker with some *tools* hooked, in processes of its own from entering to leaving.

    It does one thing at a time: of two attempts of a task that overlap in one process OpenTelemetry's
    instrumentation takes one for the other, and says so in the log (C-03).

    Attributes:
        queue: The queue that it works on.
    """

    def __init__(self, broker: str, tools: str, pool: str) -> None:
        self.queue = f"neighbours-{uuid4().hex}"
        self._environment = environment(broker, tools, self.queue)
        self._pool = pool

    def __enter__(self) -> Self:
        self._guarded = Guarded()
        folder = self._guarded.__enter__().folder
        self._folder = folder
        self._guarded.start(
            "worker", self._command(), {**self._environment, "NEIGHBOURS_FOLDER": str(folder)}
        )
        return self

    def __exit__(self, *exception: object) -> None:
        log = self.log()
        self._guarded.__exit__(*exception)
        with Connection(self._environment["NEIGHBOURS_BROKER"]) as connection:
            connection.default_channel.queue_delete(self.queue)
        assert complaints_in(log) == [], log

    def notes(self, task_id: str | None, count: int = 1) -> list[dict[str, Any]]:
        """Return what a task has noted in each attempt."""
        return self._wait("notes.jsonl", lambda note: note["id"] == task_id, count)

    def sentry(self, kind: str, trace_id: str, count: int = 1) -> list[dict[str, Any]]:
        """Return what Sentry was told of a trace."""

        def wanted(line: dict[str, Any]) -> bool:
            trace = line["event"].get("contexts", {}).get("trace", {})
            return line["type"] == kind and bool(trace.get("trace_id") == trace_id)

        return [line["event"] for line in self._wait("sentry.jsonl", wanted, count)]

    def spans(self, trace_id: str, count: int = 1) -> list[dict[str, Any]]:
        """Return the spans of OpenTelemetry's that ended in a trace."""
        wanted = f"0x{trace_id}"
        return self._wait("spans.jsonl", lambda span: span["context"]["trace_id"] == wanted, count)

    def log(self) -> str:
        return self._guarded.log("worker")

    def _wait(self, name: str, wanted: Callable[[dict[str, Any]], bool], count: int) -> list[dict[str, Any]]:
        deadline = time.monotonic() + PATIENCE
        while len(found := [line for line in self._lines(name) if wanted(line)]) < count:
            assert time.monotonic() < deadline, self._guarded.excuse("worker") or self.log()
            time.sleep(0.02)
        return found

    def _lines(self, name: str) -> list[dict[str, Any]]:
        path = self._folder / name
        complete = path.read_text().rpartition("\n")[0] if path.exists() else ""
        return [json.loads(line) for line in complete.splitlines()]

    def _command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "celery", "--workdir", str(APPS), "--app", "neighbours", "worker"),
            *("--hostname", self.queue, "--pool", self._pool, "--concurrency", "1", "--loglevel", "INFO"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        ]


class Publisher:
    """A program with some *tools* hooked that publishes on request, from entering to leaving."""

    def __init__(self, broker: str, tools: str) -> None:
        self._environment = environment(broker, tools, "none")

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [sys.executable, str(APPS / "neighbours.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**self._environment, "NEIGHBOURS_FOLDER": self._folder.name},
        )
        return self

    def __exit__(self, *_: object) -> None:
        with self._folder, self._errors, self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(PATIENCE)
            finally:
                self._process.kill()
            assert complaints_in(said := self._said()) == [], said

    def publish(
        self,
        queue: str,
        name: str = "look",
        *args: object,
        way: str = "apply_async",
        inside: str = "",
        headers: dict[str, Any] | None = None,
    ) -> Published:
        """Publish a task, inside of a context of each tool that is named."""
        request = {"way": way, "destination": queue, "name": name, "args": args, "headers": headers}
        answer = self._ask({"inside_of": inside.split(",") if inside else [], **request})
        return Published(answer["id"], answer["before"], answer["after"], answer["left"], answer["headers"])

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        requests.write(json.dumps(request) + "\n")
        requests.flush()
        line = answers.readline()
        assert line, self._said()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _said(self) -> str:
        self._errors.seek(0)
        return self._errors.read()


class Town:
    """Starts each process once, when a test first asks for it."""

    def __init__(self, broker: str) -> None:
        self._running = ExitStack()
        self._worker = cache(lambda *kind: self._running.enter_context(Worker(broker, *kind)))
        self._publisher = cache(lambda tools, _: self._running.enter_context(Publisher(broker, tools)))

    def worker(self, tools: str, pool: str) -> Worker:
        return self._worker(tools, pool)

    def publisher(self, tools: str, purpose: str = "any") -> Publisher:
        """Return the program for a *purpose*: one of its own if what it does stays in its process."""
        return self._publisher(tools, purpose)

    @contextmanager
    def open(self) -> Iterator[Self]:
        with self._running:
            yield self


def environment(broker: str, tools: str, queue: str) -> dict[str, str]:
    """Return the environment of this process, less what would configure one of the tools."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "SENTRY_", "SPAKKY_"))
    }
    return {
        **kept,
        "NEIGHBOURS_BROKER": broker,
        "NEIGHBOURS_TOOLS": tools,
        "NEIGHBOURS_QUEUE": queue,
        "NEIGHBOURS_NOWHERE": f"amqp://127.0.0.1:{free_port()}//",
    }


def complaints_in(log: str) -> list[str]:
    """Return the lines of a log in which something complains."""
    return [line for line in log.splitlines() if any(complaint in line for complaint in COMPLAINTS)]
