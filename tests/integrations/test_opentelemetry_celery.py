"""The bridge to OpenTelemetry in Celery's workers, processes of their own, in each pool."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from integrations.celery_branch import KINDS, Branch, Urls

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from integrations.celery_branch import Kind

PREFORK, _, THREADS, GEVENT, EVENTLET, SOLO = KINDS


class BridgedBranch(Branch):
    """A worker whose spans are OpenTelemetry's."""

    def __init__(self, kind: Kind, urls: Urls, folder: Path) -> None:
        super().__init__(kind, urls, folder)
        self._telemetry = folder / "telemetry.jsonl"

    def recorded(self, trace_id: str, count: int) -> list[dict[str, Any]]:
        """Return what the worker has recorded of a trace."""
        return self.wait(lambda: [span for span in self._recorded() if trace_id in str(span)], count)

    def _recorded(self) -> list[dict[str, Any]]:
        if not self._telemetry.exists():
            return []
        whole, _, _ = self._telemetry.read_text().rpartition("\n")  # the last line may be half written
        return [json.loads(line) for line in whole.splitlines()]

    def _environment(self) -> dict[str, str]:
        return {**super()._environment(), "SHOP_TELEMETRY": str(self._telemetry)}


@pytest.fixture(scope="module", params=[PREFORK, THREADS, GEVENT, EVENTLET, SOLO], ids=str)
def branch(
    request: pytest.FixtureRequest, amqp_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BridgedBranch]:
    branch = BridgedBranch(request.param, Urls(amqp_url, redis_url), tmp_path_factory.mktemp("branch"))
    with branch.open():
        yield branch


def test_both_sides_agree_in_tasks_that_run_at_once(branch: BridgedBranch) -> None:
    sent = [branch.send("crosses", 0.05) for _ in range(8)]

    for task_id, trace in sent:
        (note,) = branch.notes(task_id)
        spans = branch.recorded(trace.trace_id, 2)
        inside, run = sorted(spans, key=lambda span: span["kind"] == "SpanKind.CONSUMER")
        send = next(span for span in branch.spans(trace, 1) if span.kind == "producer")
        own, below = run["context"]["span_id"][2:], inside["context"]["span_id"][2:]
        assert note["seen"] == {"task": [own] * 2, "inside": [below] * 2, "after": [own] * 2}
        assert (inside["parent_id"][2:], run["parent_id"][2:]) == (own, send.span_id)
        assert (note["trace_id"], note["outside"]) == (trace.trace_id, None)
        assert run["name"] == "run shop.crosses"


def test_a_retry_is_a_span_for_each_attempt(branch: BridgedBranch) -> None:
    _, trace = branch.send("fails_once")

    spans = branch.recorded(trace.trace_id, 2)
    runs = sorted(spans, key=lambda span: span["attributes"]["spakky.attempt"])  # the first may end last
    assert [(run["kind"], run["attributes"]["spakky.attempt"]) for run in runs] == [
        ("SpanKind.CONSUMER", 1),
        ("SpanKind.CONSUMER", 2),
    ]
    assert [run["attributes"]["spakky.outcome"] for run in runs] == ["retry", "ok"]
    assert runs[0]["attributes"]["error.type"] == "shop.ShelfError"
    assert len({run["parent_id"] for run in runs}) == 1


def test_afterwards_a_task_without_a_trace_starts_one(branch: BridgedBranch) -> None:
    branch.send("crosses")
    task_id = branch.app.send_task("shop.crosses").id

    (note,) = branch.notes(task_id)
    assert (note["parent_span_id"], note["outside"]) == (None, None)
    assert len(branch.recorded(note["trace_id"], 2)) == 2
