"""Chords of a worker in this process: what is kept in the result backend, and what its failures do."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from celery import Task, chord
from kombu.entity import Exchange, Queue

from integrations.celery_office import PATIENCE, Office, Step, hooked
from integrations.celery_store import Store
from spakky.tracing.context import TraceContext
from spakky.tracing.recorder import MemoryRecorder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spakky.tracing.recorder import Span


# Celery's backend uses what redis-py has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex")


@pytest.fixture(scope="module")
def office(redis_url: str) -> Iterator[Office]:
    office = Office(redis_url)
    office.app.conf.update(result_backend=f"{Store.__module__}.Store+{redis_url}", task_ignore_result=False)
    with office.open():
        yield office
    office.app.backend.client.connection_pool.disconnect()


@pytest.fixture(autouse=True)
def store() -> type[Store]:
    Store.asked.clear()
    Store.refused.clear()
    return Store


class Feast:
    """A chord of an office, which is sent in a trace of its own."""

    def __init__(self, office: Office, **options: Any) -> None:
        self._recorder: MemoryRecorder | None = options.get("tracer")
        header, self.body = [Step(office) for _ in range(2)], Step(office)
        with hooked(office.app, **options):
            with TraceContext.use(TraceContext.new_root()):
                chord([step.signature for step in header], self.body.signature, app=office.app).apply_async()
            self.cooked = [step.context().span_id for step in header]
            self.served = self.body.context()
            office.settle()

    def links(self) -> list[str]:
        assert self._recorder is not None
        spans: list[Span] = [span for span in self._recorder.spans if span.span_id == self.served.span_id]
        return sorted(link.span_id for link in spans[0].links)


class TestResultBackends:
    def test_what_is_left_for_the_body_is_taken_again(self, office: Office, store: type[Store]) -> None:
        """C-11: one entry for each header task, until the body is sent."""
        feast = Feast(office, tracer=MemoryRecorder())

        assert feast.links() == sorted(feast.cooked)
        assert sorted(store.asked) == ["delete", "delete", "get", "set", "set"]

    def test_where_nothing_records_nothing_is_left_and_nothing_linked_to(
        self, office: Office, store: type[Store]
    ) -> None:
        """C-11: a link to a span that nobody has is of no use."""
        feast = Feast(office)

        assert [name for name in store.asked if name != "get"] == []
        assert list(feast.body.headers or {}) == ["traceparent"]

    def test_switched_off_nothing_is_asked(self, office: Office, store: type[Store]) -> None:
        recorder, body = MemoryRecorder(), Step(office)
        header = [office.call.si(office.take(lambda _: None)) for _ in range(2)]
        with hooked(office.app, tracer=recorder, enabled={"office.call": False}):
            chord(header, office.call.si(office.take(body.look)), app=office.app).apply_async()
            body.wait()
            office.settle()

        assert store.asked == []

    @pytest.mark.parametrize("refused", ["set", "get", "delete"])
    def test_a_backend_that_fails_us_fails_no_task(
        self, office: Office, store: type[Store], refused: str
    ) -> None:
        """C-11: the links are not worth a task."""
        store.refused.add(refused)

        feast = Feast(office, tracer=MemoryRecorder())

        assert feast.links() == (sorted(feast.cooked) if refused == "delete" else [])
        assert refused in store.asked


class TestNamedExchanges:
    def test_the_ids_of_a_run_are_not_sent_on_by_its_next_attempt(self, office: Office) -> None:
        """C-23: Celery makes properties of what a message from a named exchange says of its delivery."""
        name, seen, done = f"named-{uuid4().hex}", list[Any](), threading.Event()

        def again(running: Task) -> None:
            seen.append((running.request.delivery_info["exchange"], sorted(running.request.properties)))
            if running.request.retries == 0:
                raise running.retry(countdown=0)
            done.set()

        bind(office, Exchange(name), "calls")
        with hooked(office.app):
            office.call.apply_async([office.take(again)], exchange=name, routing_key="calls")
            assert done.wait(PATIENCE)
            office.settle()

        assert [exchange for exchange, _ in seen] == [name, name]
        assert [name for _, names in seen for name in names if "spakky" in name] == []


def bind(office: Office, exchange: Exchange, routing_key: str) -> None:
    """Let an office have what is sent to an exchange, too."""
    queue = Queue(office.app.conf.task_default_queue, exchange, routing_key, auto_delete=True)
    with office.app.connection_for_write() as connection:
        queue(connection.default_channel).declare()
