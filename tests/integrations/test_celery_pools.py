"""Celery's pools, in worker processes of their own, and every way in which a task can end."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from celery import chain

from contract.contexts import full_context
from integrations.celery_branch import KINDS, Branch, Urls
from integrations.celery_office import hooked
from spakky.tracing.context import TraceContext

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def urls(amqp_url: str, redis_url: str) -> Urls:
    return Urls(amqp_url, redis_url)


@pytest.fixture(scope="module", params=KINDS, ids=str)
def branch(
    request: pytest.FixtureRequest, urls: Urls, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Branch]:
    with Branch(request.param, urls, tmp_path_factory.mktemp("branch")).open() as branch:
        yield branch


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
