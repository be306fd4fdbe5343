"""What a real Celery worker logs, with the record factory in it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import uuid4

import pytest
from kombu.entity import Queue

import spakky.tracing
from brokers.guarded import Guarded
from integrations.celery_office import PATIENCE, hooked, new_app
from spakky.tracing.context import TraceContext

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

APPS: Final = Path(__file__).parent / "celery_apps"
SOURCES: Final = Path(spakky.tracing.__file__).parents[2]
PLACEHOLDER: Final = "-"


class Line(NamedTuple):
    """A line of the worker's log; `diary.py` sets the format."""

    process: str
    logger: str
    trace_id: str
    span_id: str
    trace_flags: str
    message: str


class Desk:
    """A worker in processes of its own, and an app in this one that sends it tasks."""

    def __init__(self, app: Celery, worker: Guarded) -> None:
        self.app = app
        self._worker = worker

    def send(self, task: str, *args: object) -> tuple[str, TraceContext]:
        """Send a task in a trace of its own; return its id and the trace."""
        with hooked(self.app), TraceContext.use(TraceContext.new_root()) as context:
            result = self.app.send_task(f"diary.{task}", args)
        assert context is not None
        return result.id, context

    def lines(self, *words: str, count: int) -> list[Line]:
        """Return the lines whose message has one of the *words*, once there are *count* of them."""
        deadline = time.monotonic() + 2 * PATIENCE
        while len(found := [each for each in self._all() if any(w in each.message for w in words)]) < count:
            assert time.monotonic() < deadline, self._worker.excuse("worker") or self._worker.log("worker")
            time.sleep(0.02)
        return found

    def _all(self) -> list[Line]:
        log, _, _ = self._worker.log("worker").rpartition("\n")
        return [Line(*line.split("|")[:6]) for line in log.splitlines() if line.count("|") >= 5]


@pytest.fixture(scope="module", params=["prefork", "threads", "solo"])
def desk(request: pytest.FixtureRequest, amqp_url: str) -> Iterator[Desk]:
    queue = f"diary-{uuid4().hex}"
    app = new_app(amqp_url, Queue(queue, auto_delete=True))
    command = [sys.executable, "-m", "celery", "--workdir", str(APPS), "--app", "diary", "worker"]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "INFO"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(SOURCES), os.environ.get("PYTHONPATH")])),
        "DIARY_BROKER": amqp_url,
        "DIARY_QUEUE": queue,
    }
    with Guarded() as worker:
        worker.start("worker", [*command, "--pool", request.param, *quiet], environment)
        yield Desk(app, worker)
        assert "Logging error" not in worker.log("worker")
    app.close()


def test_all_that_a_task_logs_and_its_end_have_the_ids_of_one_run(desk: Desk) -> None:
    word = uuid4().hex
    task_id, sent = desk.send("write", word)

    lines = desk.lines(word, f"[{task_id}] succeeded", count=6)

    said = {line.logger: line.message.replace(word, "it") for line in lines}
    assert said["diary.elsewhere"] == "it by another logger"
    assert said["celery.redirected"] == "it by print"
    assert said["py.warnings"].endswith("UserWarning: it by a warning")
    assert said["diary.tasks"] == "it at the end"
    assert said["celery.app.trace"].startswith(f"Task diary.write[{task_id}] succeeded")
    ((trace_id, span_id, flags),) = {line[2:5] for line in lines}
    assert (trace_id, flags) == (sent.trace_id, "01")
    assert span_id not in {sent.span_id, PLACEHOLDER}


def test_runs_at_the_same_time_do_not_mix(desk: Desk) -> None:
    words = [uuid4().hex for _ in range(4)]
    sent = {word: desk.send("write", word, 0.05)[1].trace_id for word in words}

    lines = desk.lines(*words, count=5 * len(words))

    for line in lines:
        (word,) = [each for each in words if each in line.message]
        assert line.trace_id == sent[word]
    assert len({line.span_id for line in lines}) == len(words)


def test_each_attempt_logs_with_its_own_span_and_so_does_celery(desk: Desk) -> None:
    word = uuid4().hex
    task_id, sent = desk.send("write_again", word)

    of_celery = f"[{task_id}] retry", f"[{task_id}] raised unexpected"
    words = (f"{word} in attempt 1", of_celery[0], f"{word} in attempt 2", of_celery[1])
    lines = desk.lines(*words, count=len(words))

    first, retried, second, failed = (line for each in words for line in lines if each in line.message)
    assert {line.trace_id for line in lines} == {sent.trace_id}
    assert first.span_id == retried.span_id != second.span_id == failed.span_id


def test_what_the_main_process_says_of_a_message_has_the_placeholder(desk: Desk) -> None:
    task_id, _ = desk.send("write", uuid4().hex)

    (received,) = desk.lines(f"[{task_id}] received", count=1)
    (ready,) = desk.lines(" ready.", count=1)

    assert received[2:5] == ready[2:5] == (PLACEHOLDER,) * 3
