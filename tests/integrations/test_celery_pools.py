"""Celery's pools, in worker processes of their own, and every way in which a task can end."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from celery import chain

from contract.contexts import full_context
from integrations.celery_branch import KINDS, Branch, Kind, Urls
from integrations.celery_office import hooked
from spakky.tracing.context import TraceContext

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from spakky.tracing.recorder import Span


PREFORK, PREFORK_ON_REDIS, THREADS, GEVENT, EVENTLET, SOLO = KINDS
ONE_OF_EACH_POOL = (PREFORK, THREADS, GEVENT, EVENTLET, SOLO)
AMBIENT = TraceContext.new_root()


@pytest.fixture(scope="module")
def urls(amqp_url: str, redis_url: str) -> Urls:
    return Urls(amqp_url, redis_url)


@pytest.fixture(scope="module", params=KINDS, ids=str)
def branch(
    request: pytest.FixtureRequest, urls: Urls, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Branch]:
    with Branch(request.param, urls, tmp_path_factory.mktemp("branch")).open() as branch:
        yield branch


@pytest.fixture(scope="module")
def lone(
    request: pytest.FixtureRequest, urls: Urls, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Branch]:
    """A worker that does one thing at a time, so what comes next comes after the end of what came before.

    A context was current when its app was loaded.
    """
    branch = Branch(
        request.param,
        urls,
        tmp_path_factory.mktemp("branch"),
        settings={
            "worker_concurrency": 1,
            "worker_enable_remote_control": True,
            "worker_prefetch_multiplier": 8,
        },
        ambient=AMBIENT,
    )
    with branch.open():
        yield branch


@pytest.fixture(scope="module")
def mortal(urls: Urls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Branch]:
    """A worker whose processes run two tasks each."""
    branch = Branch(
        PREFORK,
        urls,
        tmp_path_factory.mktemp("branch"),
        settings={"worker_concurrency": 3, "worker_max_tasks_per_child": 2},
        ambient=AMBIENT,
    )
    with branch.open():
        yield branch


def in_pools(*kinds: Kind) -> pytest.MarkDecorator:
    """Run a test on a lone worker of each of these."""
    return pytest.mark.parametrize("lone", kinds, indirect=True, ids=str)


def outside(branch: Branch) -> str | None:
    """Return what is current outside of tasks: a fork and the main thread have what the app has made so."""
    return AMBIENT.to_traceparent() if branch.pool in {"prefork", "solo"} else None


def assert_nothing_stays(branch: Branch) -> None:
    """Assert that the next tasks start clean and that nothing is left of those before."""
    with_trace, trace = branch.send("looks_around")
    without = branch.app.send_task("shop.look").id

    (first,), (second,) = branch.notes(with_trace), branch.notes(without)
    send = next(span for span in branch.spans(trace, 2) if span.kind == "producer")
    assert (first["trace_id"], first["parent_span_id"]) == (trace.trace_id, send.span_id)
    assert second["trace_id"] not in {trace.trace_id, AMBIENT.trace_id}
    assert second["parent_span_id"] is None
    assert [each["outside"] for each in (first, second)] == [outside(branch)] * 2
    assert first["alive"] == ["Processing"]


class TestWorkerProcesses:
    def test_a_task_runs_in_the_trace_of_its_sender(self, branch: Branch) -> None:
        task_id, trace = branch.send("look")

        (note,) = branch.notes(task_id)
        send, run = sorted(branch.spans(trace, 2), key=lambda span: span.kind, reverse=True)
        assert (send.kind, send.parent_span_id, send.outcome) == ("producer", trace.span_id, "ok")
        assert (run.kind, run.parent_span_id, run.outcome) == ("consumer", send.span_id, "ok")
        assert (run.name, run.attempt) == ("run shop.look", 1)
        assert (note["trace_id"], note["span_id"]) == (trace.trace_id, run.span_id)
        assert send.process_id == os.getpid() != run.process_id == note["pid"]

    @pytest.mark.parametrize(("task", "count"), [("fails_once", 2), ("retries_twice", 3)])
    def test_a_task_that_is_retried_stays_in_its_trace(self, branch: Branch, task: str, count: int) -> None:
        task_id, trace = branch.send(task)

        notes = branch.notes(task_id, count)
        send, *runs = sorted(branch.spans(trace, 1 + count), key=lambda span: span.start_unix_nano)
        assert [note["parent_span_id"] for note in notes] == [send.span_id] * count
        assert [note["span_id"] for note in notes] == [span.span_id for span in runs]
        assert [span.attempt for span in runs] == list(range(1, count + 1))
        assert [span.outcome for span in runs] == ["retry"] * (count - 1) + ["ok"]
        assert [span.error for span in runs] == ["shop.ShelfError"] * (count - 1) + [None]

    def test_ten_retries_leave_the_headers_as_long_as_they_were(self, branch: Branch) -> None:
        """C-16: baggage, too, is neither longer nor shorter."""
        with hooked(branch.app), TraceContext.use(full_context()):
            task_id = branch.app.send_task("shop.retries_ten_times", headers={"shelf": "7"}).id

        first, *further = branch.notes(task_id, 11)
        assert [note["attempt"] for note in further] == list(range(2, 12))
        assert {note["size"] for note in further} == {first["size"]}
        assert [note["baggage"] for note in further] == [first["baggage"]] * 10
        assert {note["shelf"] for note in further} == {"7"}

    def test_a_task_goes_on_in_its_context_when_its_next_attempt_is_sent(self, branch: Branch) -> None:
        """C-03, C-23: the next attempt may run at once."""
        look_id = uuid4().hex
        task_id, trace = branch.send("is_retried_and_goes_on", look_id)

        attempts, (look,) = branch.notes(task_id, 2), branch.notes(look_id)
        first, second = sorted(attempts, key=lambda note: note["attempt"])
        spans = {span.span_id: span for span in branch.spans(trace, 5)}
        assert first["parent_span_id"] == second["parent_span_id"] == sender_of(branch, trace).span_id
        assert spans[look["parent_span_id"]].parent_span_id == first["span_id"]

    def test_a_task_that_starts_another_is_its_parent(self, branch: Branch) -> None:
        second_id = uuid4().hex
        first_id, trace = branch.send("starts_another", second_id)

        (first,), (second,) = branch.notes(first_id), branch.notes(second_id)
        spans = {span.span_id: span for span in branch.spans(trace, 4)}
        send = spans[second["parent_span_id"]]
        assert (send.kind, send.parent_span_id) == ("producer", first["span_id"])
        assert {first["trace_id"], second["trace_id"]} == {trace.trace_id}

    def test_the_steps_of_a_chain_follow_each_other(self, branch: Branch) -> None:
        steps = [
            branch.app.signature("shop.look", immutable=True, task_id=uuid4().hex, queue=branch.queue)
            for _ in range(3)
        ]
        with hooked(branch.app), TraceContext.use(TraceContext.new_root()) as trace:
            chain(*steps, app=branch.app).apply_async()

        assert trace is not None
        notes = [branch.notes(step.id)[0] for step in steps]
        spans = {span.span_id: span for span in branch.spans(trace, 5)}
        senders = [spans[note["parent_span_id"]].parent_span_id for note in notes[1:]]
        assert notes[0]["parent_span_id"] == trace.span_id
        assert senders == [note["span_id"] for note in notes[:2]]

    def test_a_task_that_fails_is_recorded_with_its_error(self, branch: Branch) -> None:
        task_id, trace = branch.send("fails")

        (note,) = branch.notes(task_id)
        run = next(span for span in branch.spans(trace, 2) if span.kind == "consumer")
        assert (run.outcome, run.error, run.span_id) == ("error", "shop.ShelfError", note["span_id"])

    def test_tasks_at_once_keep_to_their_traces(self, branch: Branch) -> None:
        """C-06: in threads, greenlets and processes alike."""
        sent = [branch.send("look", 0.05) for _ in range(20)]

        notes = [branch.notes(task_id)[0] for task_id, _ in sent]
        assert [note["trace_id"] for note in notes] == [trace.trace_id for _, trace in sent]
        assert len({note["span_id"] for note in notes}) == 20
        assert len({note["pid"] for note in notes}) == (4 if branch.pool == "prefork" else 1)
        for _, trace in sent:
            assert {span.outcome for span in branch.spans(trace, 2)} == {"ok"}

    def test_messages_without_context_start_traces_whose_ids_differ_between_the_processes(
        self, branch: Branch
    ) -> None:
        task_ids = [branch.app.send_task("shop.look", (0.05,)).id for _ in range(12)]

        notes = [branch.notes(task_id)[0] for task_id in task_ids]
        assert {note["parent_span_id"] for note in notes} == {None}
        assert len({note["trace_id"] for note in notes}) == 12

    def test_baggage_reaches_the_task(self, branch: Branch) -> None:
        with hooked(branch.app), TraceContext.use(full_context()):
            task_id = branch.app.send_task("shop.look").id

        assert branch.notes(task_id)[0]["baggage"] == {"tenant": "acme"}


def runs(branch: Branch, trace: TraceContext, count: int = 1) -> list[Span]:
    """Return the recorded runs of what was sent in *trace*, the first one first."""
    spans = branch.wait(
        lambda: [
            span for span in branch.all_spans() if (span.trace_id, span.kind) == (trace.trace_id, "consumer")
        ],
        count,
    )
    return sorted(spans, key=lambda span: span.start_unix_nano)


def sender_of(branch: Branch, trace: TraceContext) -> Span:
    """Return the recorded sending of what was sent in *trace* by this process."""
    (send,) = [
        span for span in branch.all_spans() if (span.trace_id, span.process) == (trace.trace_id, "sender")
    ]
    return send


def ending(branch: Branch, task: str, **options: Any) -> tuple[str, str | None]:
    """Run a task and return how that is recorded to have ended."""
    task_id, trace = branch.send(task, **options)
    note, *_ = branch.notes(task_id)
    (run,) = runs(branch, trace)
    assert run.span_id == note["span_id"]
    return run.outcome, run.error


class TestEndings:
    """A run is recorded as it ended, and the next one in its process starts clean."""

    @in_pools(*ONE_OF_EACH_POOL)
    @pytest.mark.parametrize(
        ("task", "outcome", "error"),
        [
            ("look", "ok", None),
            ("fails", "error", "shop.ShelfError"),
            ("ignores", "ignored", None),
            ("rejects", "rejected", "shop.ShelfError"),
        ],
    )
    def test_what_a_task_does(self, lone: Branch, task: str, outcome: str, error: str | None) -> None:
        """C-24: and what was current outside is so again."""
        assert ending(lone, task) == (outcome, error)
        assert_nothing_stays(lone)

    @in_pools(PREFORK)
    @pytest.mark.parametrize(
        ("task", "limit", "outcome", "error"),
        [
            ("waits", "soft_time_limit", "error", "billiard.exceptions.SoftTimeLimitExceeded"),
            ("hurries", "soft_time_limit", "ok", None),
            ("waits", "time_limit", "error", "SystemExit"),
        ],
    )
    def test_a_time_limit(self, lone: Branch, task: str, limit: str, outcome: str, error: str | None) -> None:
        """C-04: a soft one is an error of the task, a hard one ends its process."""
        assert ending(lone, task, **{limit: 0.2}) == (outcome, error)
        assert_nothing_stays(lone)

    @in_pools(GEVENT)
    def test_a_time_limit_of_a_greenlet(self, lone: Branch) -> None:
        """C-04: which is told, since the process lives on."""
        assert ending(lone, "waits", time_limit=0.2) == ("error", "gevent.timeout.Timeout")
        assert_nothing_stays(lone)

    @in_pools(PREFORK)
    def test_a_task_with_requests_of_its_own(self, lone: Branch) -> None:
        """C-22: which let nobody change what they say of their delivery; its errback knows its run."""
        errback = lone.app.signature("shop.look", immutable=True, options={"task_id": uuid4().hex})
        task_id, trace = lone.send("waits_in_its_own_request", time_limit=0.3, link_error=errback)

        (lost,) = lone.notes(task_id)
        note = lone.notes(errback.options["task_id"])[0]  # Celery may call it twice
        (send,) = lone.wait(
            lambda: [span for span in lone.all_spans() if span.span_id == note["parent_span_id"]]
        )
        assert lost["trace_id"] == note["trace_id"] == trace.trace_id
        assert send.parent_span_id == lost["span_id"]
        assert "Signal handler" not in lone.log()

    @in_pools(PREFORK, GEVENT, EVENTLET)
    def test_a_revoke_that_terminates(self, lone: Branch) -> None:
        """C-04: by a signal, or by an exception in the greenlet."""
        task_id, trace = lone.send("waits")
        (note,) = lone.notes(task_id)
        lone.revoke(task_id, terminate=True)

        (run,) = runs(lone, trace)
        error = "SystemExit" if lone.pool == "prefork" else "greenlet.GreenletExit"
        assert (run.span_id, run.outcome, run.error) == (note["span_id"], "error", error)
        assert_nothing_stays(lone)

    @in_pools(PREFORK)
    def test_an_exit(self, lone: Branch) -> None:
        """C-04: the next task runs in a new process."""
        assert ending(lone, "gives_up_the_process") == ("error", "SystemExit")
        assert_nothing_stays(lone)

    @in_pools(*ONE_OF_EACH_POOL)
    def test_a_retry(self, lone: Branch) -> None:
        """C-10: all attempts are children of the first publisher, with their numbers."""
        task_id, trace = lone.send("retries_twice")

        notes, spans = lone.notes(task_id, 3), runs(lone, trace, 3)
        assert [note["span_id"] for note in notes] == [run.span_id for run in spans]
        assert {run.parent_span_id for run in spans} == {sender_of(lone, trace).span_id}
        assert [(run.attempt, run.outcome) for run in spans] == [(1, "retry"), (2, "retry"), (3, "ok")]
        assert_nothing_stays(lone)

    @in_pools(PREFORK)
    def test_a_process_that_is_killed(self, lone: Branch) -> None:
        """C-04: nobody can tell the end of such a run."""
        task_id, trace = lone.send("is_killed")
        (note,) = lone.notes(task_id)

        assert_nothing_stays(lone)
        assert lone.all_notes()[-1]["pid"] != note["pid"]
        assert [span.kind for span in lone.spans(trace, 1)] == ["producer"]

    @in_pools(PREFORK)
    def test_a_revoke_that_kills(self, lone: Branch) -> None:
        """C-04: nor of this one."""
        task_id, trace = lone.send("waits")
        lone.notes(task_id)
        lone.revoke(task_id, terminate=True, signal="SIGKILL")

        assert_nothing_stays(lone)
        assert [span.kind for span in lone.spans(trace, 1)] == ["producer"]

    @in_pools(*ONE_OF_EACH_POOL)
    def test_tasks_that_never_run(self, lone: Branch) -> None:
        """C-02: an unknown one among them."""
        assert_nothing_stays(lone)
        task_id = uuid4().hex
        lone.revoke(task_id)
        _, revoked = lone.send("look", task_id=task_id)
        _, expired = lone.send("look", expires=datetime.now(UTC) - timedelta(seconds=1))
        _, unknown = lone.send("is.unknown")

        assert_nothing_stays(lone)
        for trace in (revoked, expired, unknown):
            assert [span.kind for span in lone.spans(trace, 1)] == ["producer"]
        assert "Received unregistered task of type 'shop.is.unknown'" in lone.log()


class TestStarting:
    def test_a_task_that_is_started_in_a_task_is_its_child_however_it_is_started(
        self, branch: Branch
    ) -> None:
        """C-02, C-20, C-23: also by name, and eagerly, and the context of the task that starts it stays."""
        ways = ["apply_async", "send_task", "signature", "delay", "apply"]
        task_ids = {way: uuid4().hex for way in ways}
        starter_id, trace = branch.send("starts_in_every_way", task_ids)

        (starter,) = branch.notes(starter_id)
        started = {way: branch.notes(task_id)[0] for way, task_id in task_ids.items()}
        spans = {span.span_id: span for span in branch.spans(trace, 11)}
        parents = {way: spans[note["parent_span_id"]] for way, note in started.items()}
        assert {note["trace_id"] for note in started.values()} == {trace.trace_id}
        assert parents.pop("apply").span_id == starter["span_id"]
        assert {(send.kind, send.parent_span_id) for send in parents.values()} == {
            ("producer", starter["span_id"])
        }
        assert started["apply_async"]["shelf"] == "7"

    def test_headers_of_any_type_fail_no_task(self, branch: Branch) -> None:
        """C-22: nor its next attempts, which share a trace."""
        text = "x" * (1_000_000 if branch.transport == "redis" else 30_000)
        values: list[Any] = [b"\xff\x00", 7, 1.5, True, None, [1], {"traceparent": 1}, text, ""]
        fields = ("traceparent", "tracestate", "baggage")
        sent = [
            branch.app.send_task("shop.retries_twice", headers=dict.fromkeys(fields, value)).id
            for value in values
        ]

        for task_id in sent:
            first, *further = branch.notes(task_id, 3)
            assert first["parent_span_id"] is None
            assert {note["parent_span_id"] for note in further} == {first["span_id"]}

    def test_a_message_of_protocol_1_carries_its_context(self, branch: Branch) -> None:
        """C-21: so do its next attempts."""
        with hooked(branch.old_app), TraceContext.use(full_context()) as context:
            task_id = branch.old_app.send_task("shop.retries_twice", headers={"shelf": "7"}).id

        assert context is not None
        notes = branch.notes(task_id, 3)
        assert [note["parent_span_id"] for note in notes] == [context.span_id] * 3
        assert [note["shelf"] for note in notes] == ["7"] * 3


class TestDeliveredAgain:
    @in_pools(*ONE_OF_EACH_POOL)
    def test_a_task_that_is_put_back_stays_in_its_trace(self, lone: Branch) -> None:
        task_id, trace = lone.send("puts_back")

        notes, spans = lone.notes(task_id, 2), runs(lone, trace, 2)
        assert [note["span_id"] for note in notes] == [run.span_id for run in spans]
        assert {run.parent_span_id for run in spans} == {sender_of(lone, trace).span_id}
        assert [(run.outcome, run.is_redelivered) for run in spans] == [("rejected", False), ("ok", True)]
        assert_nothing_stays(lone)

    @pytest.mark.parametrize("branch", [PREFORK, PREFORK_ON_REDIS], indirect=True, ids=str)
    def test_a_task_whose_process_is_killed_is_redelivered_in_its_trace(self, branch: Branch) -> None:
        """C-04: `task_reject_on_worker_lost`."""
        task_id, trace = branch.send("is_redelivered")

        notes = branch.notes(task_id, 2)
        (run,) = runs(branch, trace)
        assert {note["parent_span_id"] for note in notes} == {sender_of(branch, trace).span_id}
        assert (run.span_id, run.is_redelivered) == (notes[1]["span_id"], True)
        assert len({note["span_id"] for note in notes}) == len({note["pid"] for note in notes}) == 2

    @in_pools(PREFORK)
    def test_a_task_whose_process_is_killed_is_sent_again_in_its_trace(self, lone: Branch) -> None:
        """C-04: `retry_on_worker_lost`, which sends from outside of any task."""
        task_id, trace = lone.send("is_sent_again")

        notes = lone.notes(task_id, 2)
        (run,) = runs(lone, trace)
        assert {note["trace_id"] for note in notes} == {trace.trace_id}
        assert {note["parent_span_id"] for note in notes} == {sender_of(lone, trace).span_id}
        assert (run.span_id, run.attempt) == (notes[1]["span_id"], 2)
        assert_nothing_stays(lone)

    def test_a_worker_that_is_killed_leaves_its_task_to_another_in_the_same_trace(
        self, urls: Urls, tmp_path: Path
    ) -> None:
        """C-03: acks_late."""
        with Branch(SOLO._replace(transport="amqp"), urls, tmp_path).open() as branch:
            branch.start("second")
            pids: set[int] = set()
            while len(pids) < 2:  # both are up
                pids |= {branch.notes(branch.send("look", 0.01)[0])[0]["pid"]}
            task_id, trace = branch.send("is_redelivered")
            notes = branch.notes(task_id, 2)
            (run,) = runs(branch, trace)

        assert {note["pid"] for note in notes} == pids
        assert {note["parent_span_id"] for note in notes} == {sender_of(branch, trace).span_id}
        assert (run.span_id, run.is_redelivered) == (notes[1]["span_id"], True)


class TestShutdown:
    def test_a_worker_that_is_told_to_stop_records_what_is_running(self, urls: Urls, tmp_path: Path) -> None:
        with Branch(SOLO, urls, tmp_path).open() as branch:
            task_id, trace = branch.send("stops_its_worker")
            (note,) = branch.notes(task_id)
            branch.wait(lambda: [branch.worker.exit_status("worker")] * bool(branch.worker.excuse("worker")))
            (run,) = runs(branch, trace)

        assert (run.span_id, run.outcome) == (note["span_id"], "ok")


class TestReplacedProcesses:
    def test_no_run_is_lost(self, mortal: Branch) -> None:
        """C-05: ten tasks in, ten spans out."""
        sent = [mortal.send("look") for _ in range(10)]

        spans = [run for _, trace in sent for run in runs(mortal, trace)]
        notes = [mortal.notes(task_id)[0] for task_id, _ in sent]
        assert [run.span_id for run in spans] == [note["span_id"] for note in notes]
        assert {run.outcome for run in spans} == {"ok"}
        assert len({run.process_id for run in spans}) >= 5

    def test_no_two_processes_make_the_same_ids(self, mortal: Branch) -> None:
        """C-06: what is forked draws no random numbers that another has drawn."""
        task_ids = [mortal.app.send_task("shop.look").id for _ in range(40)]

        notes = [mortal.notes(task_id)[0] for task_id in task_ids]
        assert len({note["pid"] for note in notes}) >= 20
        assert len({note["trace_id"] for note in notes} | {AMBIENT.trace_id}) == 41
        assert len({note["span_id"] for note in notes}) == 40
        assert {note["parent_span_id"] for note in notes} == {None}


class TestBeat:
    def test_each_tick_is_a_trace_of_its_own(self, urls: Urls, tmp_path: Path) -> None:
        """C-18: two ticks, two traces, though a context was current when the app was loaded."""
        schedule = {"tick": {"task": "shop.look", "schedule": 0.2}}
        branch = Branch(SOLO, urls, tmp_path, settings={"beat_schedule": schedule}, ambient=AMBIENT)
        with branch.open():
            branch.start_beat(tmp_path)
            notes = branch.wait(branch.all_notes, 3)
            senders = {note["parent_span_id"] for note in notes}
            ticks = branch.wait(
                lambda: [span for span in branch.all_spans() if span.span_id in senders], len(notes)
            )

        assert len({note["trace_id"] for note in notes} | {AMBIENT.trace_id}) == len(notes) + 1
        assert {(tick.kind, tick.parent_span_id) for tick in ticks} == {("producer", None)}
