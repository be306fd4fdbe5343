"""RQ's own workers, each with processes of its own, on a real Redis."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest
from redis import Redis
from rq import Callback, Retry
from rq.command import send_stop_job_command

from brokers.guarded import Guarded
from integrations.rq_office import queues_with
from integrations.worker_notes import read_notes
from spakky.tracing.context import TraceContext
from spakky.tracing.recorder import JsonLinesRecorder, read_spans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rq.job import Job

    from spakky.tracing.recorder import Span

PATIENCE: Final = 15
APPS: Final = Path(__file__).parent / "rq_apps"
JOB_CLASS: Final = "spakky.tracing.integrations.rq.TraceJob"

WORKERS: Final = {
    "fork": ["worker", "--job-class", JOB_CLASS, "--with-scheduler"],
    "spawn": ["worker", "--worker-class", "rq.SpawnWorker", "--job-class", JOB_CLASS],
    "simple": ["worker", "--worker-class", "rq.SimpleWorker", "--job-class", JOB_CLASS],
    "pool": ["worker-pool", "--num-workers", "2", "--job-class", JOB_CLASS],
    "link": ["worker", "--worker-class", "rq.SpawnWorker", "--job-class", "rq_shop.LinkJob"],
    "environment": ["worker"],
}


class Branch:
    """A worker in processes of its own, and a queue in this process that sends it jobs."""

    def __init__(self, redis_url: str, connection: Redis, folder: Path) -> None:
        self._url = redis_url
        self._connection = connection
        self._notes = folder / "notes.jsonl"
        self.record = folder / "spans.jsonl"
        self.name = f"shop-{uuid4().hex}"

    @contextlib.contextmanager
    def open(self, kind: str) -> Iterator[Branch]:
        with Guarded() as self._guarded:
            self._guarded.start("worker", self._command(kind), self._environment(kind))
            yield self
        queue = queues_with()(self.name, connection=self._connection)
        for registry in (queue.failed_job_registry, queue.finished_job_registry):
            for job_id in registry.get_job_ids():
                registry.remove(job_id, delete_job=True)
        queue.delete(delete_jobs=True)
        assert self._processes() == []

    def send(self, function: str, *, later: bool = False, **options: Any) -> tuple[Job, TraceContext]:
        """Send a job in a trace of its own; return it and the context that it carries."""
        recorder = JsonLinesRecorder(self.record, process="sender")
        queue = queues_with(tracer=recorder)(self.name, connection=self._connection)
        with TraceContext.use(TraceContext.new_root()):
            if later:
                job = queue.enqueue_in(timedelta(0), f"rq_shop.{function}", **options)
            else:
                job = queue.enqueue(f"rq_shop.{function}", **options)
        recorder.close()
        return job, TraceContext.from_traceparent(job.meta["traceparent"])

    def notes(self, job_id: str, count: int = 1) -> list[dict[str, Any]]:
        """Return what a job and its callbacks have noted."""
        return self._wait(lambda: [note for note in read_notes(self._notes) if note["id"] == job_id], count)

    def spans(self, sent: TraceContext, count: int) -> list[Span]:
        """Return the recorded runs of a trace."""

        def read() -> list[Span]:
            return [
                span
                for span in read_spans(self.record)
                if span.trace_id == sent.trace_id and span.kind == "consumer"
            ]

        return self._wait(read, count)

    def stop(self, job: Job) -> None:
        """Have the worker stop a job that is running."""
        send_stop_job_command(self._connection, job.id)

    def _wait(self, look: Callable[[], list[Any]], count: int) -> list[Any]:
        deadline = time.monotonic() + PATIENCE
        while len(found := look()) < count:
            assert time.monotonic() < deadline, self._guarded.excuse("worker") or self._guarded.log("worker")
            time.sleep(0.02)
        return found

    def _command(self, kind: str) -> list[str]:
        program, *options = WORKERS[kind]
        return [sys.executable, "-m", "rq.cli", program, self.name, "--url", self._url, *options]

    def _environment(self, kind: str) -> dict[str, str]:
        path = os.pathsep.join([str(APPS), *map(os.path.abspath, sys.path)])  # it runs in another folder
        variables = {"SHOP_NOTES": str(self._notes), "SPAKKY_TRACING_RECORD": str(self.record)}
        if kind == "environment":
            variables["RQ_JOB_CLASS"] = JOB_CLASS
        return {**os.environ, "PYTHONPATH": path, **variables}

    def _processes(self) -> list[str]:
        """Return the command lines of our processes that are still there."""
        lines = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                lines.append((process / "cmdline").read_text().replace("\0", " "))
        return [line for line in lines if self.name in line]


@contextlib.contextmanager
def branch_of(kind: str, redis_url: str, folder: Path) -> Iterator[Branch]:
    with Redis.from_url(redis_url) as connection, Branch(redis_url, connection, folder).open(kind) as branch:
        yield branch


@pytest.fixture(scope="module", params=["fork", "spawn", "simple", "pool", "environment"])
def branch(
    request: pytest.FixtureRequest, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Branch]:
    with branch_of(request.param, redis_url, tmp_path_factory.mktemp("shop")) as branch:
        yield branch


@pytest.fixture(scope="module")
def forking(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Branch]:
    with branch_of("fork", redis_url, tmp_path_factory.mktemp("forking")) as branch:
        yield branch


class TestEveryWorker:
    def test_a_job_runs_in_the_trace_of_its_sender(self, branch: Branch) -> None:
        """T-05: in another process, with a coroutine as with a function."""
        for function in ("pack", "pack_async"):
            job, sent = branch.send(function, on_success=Callback("rq_shop.on_success"))
            notes = branch.notes(job.id, 2)
            (span,) = branch.spans(sent, 1)

            assert [note["what"] for note in notes] == ["job", "success"]
            assert {note["span_id"] for note in notes} == {span.span_id}
            assert (span.trace_id, span.parent_span_id) == (sent.trace_id, sent.span_id)
            assert (span.name, span.outcome, span.attempt) == (f"run rq_shop.{function}", "ok", 1)
            assert notes[0]["pid"] != os.getpid()

    def test_ids_of_work_horses_differ(self, branch: Branch) -> None:
        """T-05: although they are forked from one process."""
        jobs = [branch.send("pack")[0] for _ in range(4)]

        assert len({branch.notes(job.id)[0]["span_id"] for job in jobs}) == 4

    def test_attempts_are_siblings_with_their_number(self, branch: Branch) -> None:
        """C-10: in as many processes."""
        job, sent = branch.send("fail_twice", retry=Retry(max=2), on_failure=Callback("rq_shop.on_failure"))
        spans = branch.spans(sent, 3)
        notes = branch.notes(job.id, 5)

        assert [(span.attempt, span.outcome) for span in spans] == [(1, "retry"), (2, "retry"), (3, "ok")]
        assert {span.parent_span_id for span in spans} == {sent.span_id}
        assert [note["what"] for note in notes] == ["job", "failure", "job", "failure", "job"]
        assert notes[0]["span_id"] == notes[1]["span_id"] == spans[0].span_id

    def test_what_a_job_enqueues_is_its_child(self, branch: Branch) -> None:
        """T-05: on its own queue."""
        job, sent = branch.send("order_more")
        (outer,) = branch.notes(job.id)
        (inner,) = branch.notes(f"{job.id}-more")

        assert outer["trace_id"] == inner["trace_id"] == sent.trace_id


class TestAForkingWorker:
    def test_a_work_horse_that_is_killed_counts_as_an_attempt(self, forking: Branch) -> None:
        """C-04: nothing tells of its end; the next attempt has the same sender and the next number."""
        job, sent = forking.send("die_once", retry=Retry(max=1))
        first, second = forking.notes(job.id, 2)
        (span,) = forking.spans(sent, 1)

        assert (span.attempt, span.outcome, span.span_id) == (2, "ok", second["span_id"])
        assert first["parent_span_id"] == second["parent_span_id"] == sent.span_id
        assert first["pid"] != second["pid"]

    def test_a_job_that_is_killed_leaves_nothing_to_the_next_one(self, forking: Branch) -> None:
        """C-04: it goes to the failed jobs, and can be requeued in its trace."""
        job, sent = forking.send("die_once")
        forking.notes(job.id)
        other, other_sent = forking.send("pack")
        (note,) = forking.notes(other.id)
        job.requeue()
        (span,) = forking.spans(sent, 1)

        assert note["parent_span_id"] == other_sent.span_id
        assert (span.attempt, span.parent_span_id) == (2, sent.span_id)

    def test_a_job_that_takes_too_long_ends_as_an_error(self, forking: Branch) -> None:
        """C-04: its callback for failure sees its context."""
        job, sent = forking.send("stall", job_timeout=1, on_failure=Callback("rq_shop.on_failure"))
        in_job, in_callback = forking.notes(job.id, 2)
        (span,) = forking.spans(sent, 1)

        assert (span.outcome, span.error) == ("error", "rq.timeouts.JobTimeoutException")
        assert in_job["span_id"] == in_callback["span_id"] == span.span_id

    def test_the_callback_of_a_stopped_job_sees_the_sender_and_leaves_nothing(self, forking: Branch) -> None:
        """T-05: the worker itself calls it, whose job has never run there."""
        job, sent = forking.send("stall", on_stopped=Callback("rq_shop.on_stopped"))
        forking.notes(job.id)
        forking.stop(job)
        in_job, in_callback = forking.notes(job.id, 2)
        after, _ = forking.send("pack")

        assert in_callback["span_id"] == sent.span_id
        assert in_callback["pid"] != in_job["pid"]
        assert forking.notes(after.id)[0]["trace_id"] != sent.trace_id

    def test_a_scheduled_job_keeps_the_context_of_who_scheduled_it(self, forking: Branch) -> None:
        """T-05: the worker's scheduler moves it in a process of its own."""
        job, sent = forking.send("pack", later=True)

        assert forking.notes(job.id)[0]["parent_span_id"] == sent.span_id


def test_a_spawned_work_horse_knows_the_options_of_a_class(redis_url: str, tmp_path: Path) -> None:
    """T-05: it imports the class anew."""
    with branch_of("link", redis_url, tmp_path) as branch:
        job, sent = branch.send("pack")
        (note,) = branch.notes(job.id)

    assert (note["parent_span_id"], note["trace_id"] == sent.trace_id) == (None, False)
