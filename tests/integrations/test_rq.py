"""RQ on a real Redis, with workers in this process and in processes of their own."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry as RedisRetry
from rq import Callback, Queue, RateLimit, Repeat, Retry, get_current_job
from rq.cron import CronScheduler
from rq.decorators import job as rq_job
from rq.exceptions import DuplicateJobError
from rq.group import Group
from rq.job import Job, JobStatus
from rq.scheduler import RQScheduler
from rq.serializers import JSONSerializer
from rq.timeouts import JobTimeoutException

from brokers.ports import free_port
from contract.contexts import TRACEPARENT
from contract.receiving import SENDER, HandlerError, ReceivingContract
from contract.sending import SendingContract, Wire
from integrations.rq_office import (
    CALL,
    CALL_BACK,
    Office,
    call,
    called_back,
    called_back_later,
    jobs_with,
    queues_with,
)
from spakky.tracing.baggage import Baggage
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.integrations import rq
from spakky.tracing.recorder import MemoryRecorder
from spakky.tracing.switch import switch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module")
def connection(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as connection:
        yield connection


@pytest.fixture
def office(connection: Redis) -> Iterator[Office]:
    office = Office(connection)
    yield office
    office.clear()


def unanswered() -> Redis:
    """Return a connection to where nobody listens."""
    return Redis(port=free_port(), retry=RedisRetry(NoBackoff(), 0))


def enqueue(queue: Queue, way: str, meta: Any) -> None:
    """Send one job in one of the ways that RQ has."""
    if way == "enqueue":
        queue.enqueue(CALL, "key", meta=meta)
    elif way == "enqueue_call":
        queue.enqueue_call(CALL, ("key",), meta=meta)
    elif way == "enqueue_at":
        queue.enqueue_at(datetime.now(UTC), CALL, "key", meta=meta)
    elif way == "enqueue_in":
        queue.enqueue_in(timedelta(seconds=60), CALL, "key", meta=meta)
    elif way == "enqueue_many":
        queue.enqueue_many([Queue.prepare_data(CALL, ("key",), meta=meta)])
    elif way == "enqueue_job":
        queue.enqueue_job(queue.create_job(CALL, ("key",), meta=meta))
    elif way == "schedule_job":
        queue.schedule_job(queue.create_job(CALL, ("key",), meta=meta), datetime.now(UTC))
    else:
        rq_job(queue, queue.connection, meta=meta)(lambda: None).delay()


class TestSending(SendingContract):
    recorded_ways = [
        "enqueue",
        "enqueue_call",
        "enqueue_at",
        "enqueue_in",
        "enqueue_many",
        "enqueue_job",
        "schedule_job",
        "decorator",
    ]
    ways = [*recorded_ways, "headers"]
    foreign: Any = {
        "a": "text",
        "b": 7,
        "c": [1, "two"],
        "d": {"nested": "table"},
        "e": None,
        "f": True,
        "g": b"\x00\xff",
        7: "a name that is no text",
    }

    @pytest.fixture(autouse=True)
    def _on(self, office: Office) -> None:
        self.office = office

    async def send(self, way: str, headers: Any, **options: Any) -> None:
        if way == "headers":
            self.office.bare.enqueue(CALL, "key", meta=rq.headers(headers, **options))
        else:
            enqueue(self.office.queue(queues_with(**options)), way, headers)

    async def arrived(self) -> Wire:
        return {name: [value] for name, value in self.office.arrived().meta.items()}

    def native(self, headers: dict[str, str]) -> dict[str, str]:
        return dict(headers)

    async def fail_to_send(self, way: str, **options: Any) -> BaseException:
        """Send where no Redis answers."""
        with unanswered() as nobody, pytest.raises(RedisConnectionError) as raised:
            enqueue(queues_with(**options)("orders", connection=nobody), way, None)
        return raised.value


class TestSendingAsJson(TestSending):
    """T-05: by a serializer that knows nothing but JSON."""

    ways = ["enqueue", "headers"]
    recorded_ways = ["enqueue"]
    foreign = {"a": "text", "b": 7, "c": [1, "two"], "d": {"nested": "table"}, "e": None, "f": True}

    @pytest.fixture(autouse=True)
    def _on(self, connection: Redis) -> Iterator[None]:
        self.office = Office(connection, JSONSerializer)
        yield
        self.office.clear()


class TestReceiving(ReceivingContract):
    ways = ["worker", "eager"]
    sees_errors = ways
    hostile_values = [
        "",
        b"\xff\xfe",
        "00-bad",
        "x" * 1_000_000,
        None,
        5,
        True,
        1.5,
        [5, b"\xff"],
        {"traceparent": TRACEPARENT},
        f"{TRACEPARENT}\n",
        object,
    ]

    @pytest.fixture(autouse=True)
    def _on(self, office: Office) -> None:
        self.office = office

    async def receive(
        self, way: str, headers: dict[str, Any], body: Callable[[], None], **options: Any
    ) -> None:
        job_class = jobs_with(**options)
        raised: list[BaseException] = []

        def observed() -> None:
            try:
                body()
            except BaseException as error:
                raised.append(error)
                raise

        key = self.office.take(observed)
        if way == "eager":
            queue = self.office.queue(Queue, is_async=False, job_class=job_class)
            queue.enqueue(CALL, key, meta=headers)
        else:
            self.office.bare.enqueue(CALL, key, meta=headers)
            self.office.work(job_class)
        if raised:
            raise raised.pop()


def fail() -> None:
    raise HandlerError


class TestClasses:
    def test_what_comes_from_both_is_hooked_once(self, office: Office) -> None:
        """A-13, T-02: one traceparent, one span on each side."""
        recorder = MemoryRecorder()

        class Jobs(jobs_with(tracer=recorder)):  # type: ignore[misc] # a class made by options
            pass

        class Queues(queues_with(tracer=recorder)):  # type: ignore[misc] # likewise
            pass

        job = office.queue(Queues).enqueue(CALL, office.take(lambda: None))
        office.work(Jobs)

        assert list(job.meta) == ["traceparent"]
        assert [span.kind for span in recorder.spans] == ["producer", "consumer"]

    def test_options_are_put_on_top_of_those_of_the_class_above(self, office: Office) -> None:
        recorder = MemoryRecorder()

        class Jobs(jobs_with(tracer=recorder, relation="link"), relation="root"):  # type: ignore[call-arg, misc]
            pass

        office.bare.enqueue(CALL, office.take(lambda: None), meta={"traceparent": TRACEPARENT})
        office.work(Jobs)

        (span,) = recorder.spans
        assert (span.links, span.parent_span_id) == ((), None)

    def test_the_classes_above_keep_their_options(self, office: Office) -> None:
        jobs_with(enabled=False)
        queues_with(enabled=False)

        assert list(office.queue(rq.TraceQueue).enqueue(CALL, "key").meta) == ["traceparent"]

    def test_an_option_that_is_given_to_a_queue_is_refused(self, connection: Redis) -> None:
        """RQ itself drops keywords that it does not know."""
        with pytest.raises(WrongUseError, match=r"class ShopQueue\(TraceQueue, enabled=\.\.\.\)"):
            rq.TraceQueue("orders", connection=connection, enabled=False)

    def test_a_class_of_the_user_can_be_in_between(self, office: Office) -> None:
        seen: list[str] = []

        class Loud(Job):
            def perform(self) -> Any:
                seen.append("loud")
                return super().perform()

        class Jobs(rq.TraceJob, Loud):
            pass

        office.bare.enqueue(
            CALL, office.take(lambda: seen.append(trace_id())), meta={"traceparent": TRACEPARENT}
        )
        office.work(Jobs)

        assert seen == ["loud", SENDER.trace_id]

    def test_without_the_classes_rq_is_as_it_was(self, office: Office) -> None:
        """A-13: nothing is patched, so there is nothing to undo."""
        seen: list[TraceContext | None] = []

        with TraceContext.use(TraceContext.new_root()):
            job = office.bare.enqueue(CALL, office.take(lambda: seen.append(TraceContext.get())))
        office.work(Job)

        assert job.meta == {}
        assert seen == [None]

    def test_a_worker_without_the_class_runs_what_carries_a_context(self, office: Office) -> None:
        seen: list[Any] = []
        job = office.queue(rq.TraceQueue).enqueue(CALL, office.take(lambda: seen.append(get_current_job())))
        office.work(Job)

        assert [each.id for each in seen] == [job.id]
        assert seen[0].meta == job.meta

    def test_what_is_no_job_is_refused(self) -> None:
        with pytest.raises(WrongUseError, match="this takes a received Job, got dict"):
            rq.context_from({})  # type: ignore[arg-type]

    def test_a_job_tells_the_context_of_its_sender(self, office: Office) -> None:
        job = office.bare.enqueue(CALL, "key", meta={"traceparent": TRACEPARENT})

        assert rq.context_from(job) == SENDER

    def test_a_job_that_no_worker_began_has_no_attempt(self, office: Office) -> None:
        assert rq.TraceJob(connection=office.connection).trace_attempt is None


class TestChoosing:
    @pytest.mark.parametrize("relation", ["child", "link", "root"])
    def test_a_relation_can_be_set_by_name_or_by_a_function(self, office: Office, relation: Any) -> None:
        choices: list[Any] = [
            {CALL: relation, office.name: "child"},
            {office.name: relation},
            lambda job: relation,
        ]
        for choice in choices:
            recorder = MemoryRecorder()
            office.bare.enqueue(
                CALL, office.take(lambda: None), meta={"traceparent": TRACEPARENT, "baggage": "tenant=acme"}
            )
            office.work(jobs_with(relation=choice, tracer=recorder))

            (span,) = recorder.spans
            assert (span.trace_id == SENDER.trace_id) is (relation == "child")
            assert [link.span_id for link in span.links] == ([SENDER.span_id] if relation == "link" else [])

    @pytest.mark.parametrize("send", ["enqueue", "enqueue_in", "enqueue_many"])
    def test_sending_can_be_switched_off_by_the_function_and_else_by_the_queue(
        self, office: Office, send: str
    ) -> None:
        for enabled, written in (
            ({CALL: False, office.name: True}, False),
            ({CALL: True, office.name: False}, True),
            ({office.name: False}, False),
            ({"another": False}, True),
        ):
            enqueue(office.queue(queues_with(enabled=enabled)), send, {"app": "1"})

            assert set(office.arrived().meta) == ({"app", "traceparent"} if written else {"app"})

    def test_running_can_be_switched_off_by_the_function_and_else_by_the_queue(self, office: Office) -> None:
        for enabled, expected in (
            ({CALL: False, office.name: True}, "-"),
            ({CALL: True, office.name: False}, SENDER.trace_id),
            ({office.name: False}, "-"),
        ):
            assert trace_seen(office, enabled=enabled) == expected

    def test_everything_can_be_switched_off(self, office: Office) -> None:
        seen: list[str] = []
        switch(on=False)
        try:
            with TraceContext.use(TraceContext.new_root()):
                job = office.queue(rq.TraceQueue).enqueue(CALL, office.take(lambda: seen.append(trace_id())))
            office.work()
        finally:
            switch(on=True)

        assert (job.meta, seen) == ({}, ["-"])

    def test_a_job_whose_data_cannot_be_read_fails_as_without_us(self, office: Office) -> None:
        """T-05: its function has no name by which options could choose; its callback sees the sender."""
        seen: list[str] = []
        office.take(lambda: seen.append(trace_id()), office.name)
        job = office.bare.enqueue(
            CALL,
            "key",
            job_id=office.name,
            meta={"traceparent": TRACEPARENT},
            on_failure=Callback(called_back),
        )
        office.connection.hset(job.key, "data", b"no pickle")
        office.work(jobs_with(enabled={CALL: False}))

        assert job.get_status() == JobStatus.FAILED
        assert seen == [SENDER.trace_id]
        job = Job.fetch(job.id, connection=office.connection)
        assert rq.context_from(job, enabled={office.name: False}) is None


class TestMeta:
    def test_a_job_sees_the_meta_of_the_user(self, office: Office) -> None:
        seen: list[Any] = []
        meta = {"user": 7}
        office.queue(rq.TraceQueue).enqueue(
            CALL, office.take(lambda: seen.append(current().meta["user"])), meta=meta
        )
        office.work()

        assert seen == [7]
        assert meta == {"user": 7}

    def test_a_meta_that_a_job_puts_in_its_place_keeps_the_trace_of_the_next_attempt(
        self, office: Office
    ) -> None:
        own: dict[str, Any] = {}
        afterwards: list[Any] = []

        def overwrite() -> None:
            current().meta = own
            own["progress"] = own.get("progress", 0) + 1
            current().save_meta()
            afterwards.append(current().meta)
            fail()

        spans = attempts_of(office, overwrite, retry=Retry(max=1))

        assert [span.parent_span_id for span in spans] == [SENDER.span_id] * 2
        assert own == {"progress": 2}
        assert all(each is own for each in afterwards)

    def test_switched_off_a_meta_that_a_job_overwrites_is_as_the_job_wants_it(self, office: Office) -> None:
        def overwrite() -> None:
            current().meta = {"progress": 1}
            current().save_meta()
            fail()

        job = office.bare.enqueue(CALL, office.take(overwrite), meta={"traceparent": TRACEPARENT})
        office.work(jobs_with(enabled=False))

        assert job.get_meta() == {"progress": 1}

    def test_a_meta_that_a_job_overwrites_keeps_the_trace_when_the_job_is_requeued(
        self, office: Office
    ) -> None:
        def overwrite() -> None:
            current().meta = {"progress": 1}
            current().save_meta()
            fail()

        job = office.bare.enqueue(CALL, office.take(overwrite), meta={"traceparent": TRACEPARENT})
        office.work()
        stored = Job.fetch(job.id, connection=office.connection)

        assert stored.meta == {"progress": 1, "traceparent": TRACEPARENT}

    def test_a_meta_that_cannot_be_read_is_left_alone(self, office: Office) -> None:
        """T-05: RQ puts something in its place, and does not store that."""
        job = office.bare.enqueue(CALL, office.take(fail), meta={"user": 7}, retry=Retry(max=1))
        office.connection.hset(job.key, "meta", b"no pickle")
        office.work()

        assert office.connection.hget(job.key, "meta") == b"no pickle"

    @pytest.mark.parametrize("meta", [[TRACEPARENT], "text", 7, None], ids=repr)
    def test_a_meta_that_is_no_dict_changes_nothing_for_a_job(self, office: Office, meta: Any) -> None:
        """T-05: RQ itself can store none, but another program could."""
        recorder = MemoryRecorder()
        for body in (lambda: None, fail):
            job = office.bare.enqueue(CALL, office.take(body))
            office.connection.hset(job.key, "meta", pickle.dumps(meta))
            office.work(jobs_with(tracer=recorder))

        assert [span.outcome for span in recorder.spans] == ["ok", "error"]
        result = job.latest_result()
        assert result is not None
        assert str(result.exc_string).endswith("contract.receiving.HandlerError\n")

    @pytest.mark.parametrize("value", [b"", b"\xff 1", b"1", b"many 2026", b"9" * 50], ids=repr)
    def test_a_count_that_is_none_fails_no_job(self, office: Office, value: bytes) -> None:
        """T-05: whoever wrote it into the hash of the job."""
        recorder = MemoryRecorder()
        job = office.bare.enqueue(CALL, office.take(lambda: None))
        office.connection.hset(job.key, "spakky_tracing_starts", value)
        office.work(jobs_with(tracer=recorder))

        assert [(span.outcome, span.attempt) for span in recorder.spans] == [("ok", 1)]

    def test_a_job_in_json_gets_its_context(self, connection: Redis) -> None:
        """T-05: a context is text in any serializer."""
        office = Office(connection, JSONSerializer)
        seen: list[str] = []
        with TraceContext.use(TraceContext.new_root()) as context:
            office.queue(rq.TraceQueue).enqueue(CALL, office.take(lambda: seen.append(trace_id())))
        office.work()
        office.clear()

        assert context is not None
        assert seen == [context.trace_id]


class TestSendingMany:
    def test_each_job_has_a_sending_of_its_own(self, office: Office) -> None:
        recorder = MemoryRecorder()
        datas = [Queue.prepare_data(CALL, ("key",), meta={"item": item}) for item in range(3)]

        with TraceContext.use(TraceContext.new_root()) as context:
            jobs = office.queue(queues_with(tracer=recorder)).enqueue_many(iter(datas))

        sent = [rq.context_from(job) for job in jobs]
        assert [job.meta["item"] for job in jobs] == [0, 1, 2]
        assert context is not None
        assert {each and each.span_id for each in sent} == {span.span_id for span in recorder.spans}
        assert len(set(sent)) == 3
        assert {span.parent_span_id for span in recorder.spans} == {context.span_id}
        assert [data.meta for data in datas] == [{"item": item} for item in range(3)]

    def test_what_rq_refuses_ends_every_sending_as_an_error(self, office: Office) -> None:
        """C-01: and nothing stays current."""
        recorder = MemoryRecorder()
        datas = [Queue.prepare_data(CALL, job_id="twice"), Queue.prepare_data(CALL, job_id="twice")]

        with TraceContext.use(TraceContext.new_root()) as context:
            with pytest.raises(ValueError, match="appears more than once"):
                office.queue(queues_with(tracer=recorder)).enqueue_many(datas)
            assert TraceContext.get() is context

        assert [span.outcome for span in recorder.spans] == ["error"] * 2

    def test_a_group_is_sent_too(self, office: Office) -> None:
        group = Group.create(connection=office.connection)
        with TraceContext.use(TraceContext.new_root()) as context:
            jobs = group.enqueue_many(office.queue(rq.TraceQueue), [Queue.prepare_data(CALL, ("key",))])
        office.connection.delete(Group.get_key(group.name))

        assert [rq.context_from(job) for job in jobs] == [context]

    def test_a_function_is_called_what_rq_calls_it(self, office: Office) -> None:
        recorder = MemoryRecorder()
        queue = office.queue(queues_with(tracer=recorder))
        functions: list[Any] = [CALL, called_back, Fraction(1, 3).limit_denominator, threading.active_count]
        for function in functions:
            queue.enqueue(function)
            queue.enqueue_many([Queue.prepare_data(function)])

        names = [span.name.removeprefix("send ") for span in recorder.spans]
        assert (
            names[::2]
            == names[1::2]
            == [
                CALL,
                CALL_BACK,
                "limit_denominator",
                "threading.active_count",
            ]
        )

    def test_a_failed_send_can_be_sent_again(self, office: Office) -> None:
        """C-01: by the context that is current then."""
        job = office.bare.create_job(CALL, ("key",))
        with (
            unanswered() as nobody,
            TraceContext.use(TraceContext.new_root()),
            pytest.raises(RedisConnectionError),
        ):
            rq.TraceQueue(office.name, connection=nobody).enqueue_job(job)
        with TraceContext.use(TraceContext.new_root()) as context:
            office.queue(rq.TraceQueue).enqueue_job(job)

        assert rq.context_from(office.arrived()) == context


class TestOtherWaysToSend:
    def test_a_job_that_has_to_be_unique_carries_its_context(self, office: Office) -> None:
        """T-05: RQ sends it by a script of its own."""
        queue = office.queue(rq.TraceQueue)
        for send in (queue.enqueue, partial(queue.enqueue_in, timedelta(0))):
            with TraceContext.use(TraceContext.new_root()) as context:
                send(CALL, "key", job_id=office.name, unique=True)

            assert rq.context_from(office.arrived()) == context

    def test_a_job_that_is_not_unique_ends_its_sending_as_an_error(self, office: Office) -> None:
        """C-01: as RQ raises it."""
        recorder = MemoryRecorder()
        queue = office.queue(queues_with(tracer=recorder))
        queue.enqueue(CALL, "key", job_id=office.name, unique=True)
        with pytest.raises(DuplicateJobError):
            queue.enqueue(CALL, "key", job_id=office.name, unique=True)

        assert [span.outcome for span in recorder.spans] == ["ok", "error"]

    def test_a_job_that_waits_for_its_rate_keeps_its_context(self, office: Office) -> None:
        """T-05: another process may let it go."""
        seen: list[str] = []
        queue = office.queue(rq.TraceQueue)
        look = office.take(lambda: seen.append(trace_id()))
        contexts = [TraceContext.new_root() for _ in range(2)]
        for context in contexts:
            with TraceContext.use(context):
                queue.enqueue(CALL, look, rate_limit=RateLimit(key=office.name, concurrency=1))
        office.work()

        assert seen == [context.trace_id for context in contexts]

    def test_what_is_sent_in_a_pipeline_carries_its_context(self, office: Office) -> None:
        with office.connection.pipeline() as pipeline, TraceContext.use(TraceContext.new_root()) as context:
            office.queue(rq.TraceQueue).enqueue(CALL, "key", pipeline=pipeline)
            pipeline.execute()

        assert rq.context_from(office.arrived()) == context


class TestAttempts:
    def test_all_attempts_are_children_of_the_sender(self, office: Office) -> None:
        """C-10: siblings, with the number of each."""
        spans = attempts_of(office, fail, retry=Retry(max=2))

        assert {span.parent_span_id for span in spans} == {SENDER.span_id}
        assert len({span.span_id for span in spans}) == 3
        assert [span.attempt for span in spans] == [1, 2, 3]
        assert [span.outcome for span in spans] == ["retry", "retry", "error"]
        assert {span.error for span in spans} == {"contract.receiving.HandlerError"}

    def test_a_job_that_returns_a_retry_is_tried_again(self, office: Office) -> None:
        """C-10: the other way to ask for it."""
        spans = attempts_of(office, lambda: Retry(max=2))

        assert {span.parent_span_id for span in spans} == {SENDER.span_id}
        assert [(span.attempt, span.outcome) for span in spans] == [(1, "retry"), (2, "retry"), (3, "error")]

    def test_what_a_retry_carries_does_not_grow(self, office: Office) -> None:
        """C-09, C-16: ten retries, and the same fields."""
        seen: list[dict[str, Any]] = []

        def look() -> None:
            seen.append(current().meta)
            fail()

        attempts_of(office, look, retry=Retry(max=10))

        assert len(seen) == 11
        assert all(each == seen[0] for each in seen)

    def test_a_requeued_job_is_the_next_attempt(self, office: Office) -> None:
        """C-10: by hand, out of the registry of failed jobs."""
        recorder = MemoryRecorder()
        job = office.bare.enqueue(CALL, office.take(fail), meta={"traceparent": TRACEPARENT})
        office.work(jobs_with(tracer=recorder))
        Job.fetch(job.id, connection=office.connection).requeue()
        office.work(jobs_with(tracer=recorder))

        assert [(span.attempt, span.parent_span_id) for span in recorder.spans] == [
            (1, SENDER.span_id),
            (2, SENDER.span_id),
        ]

    @pytest.mark.parametrize("relation", ["child", "root"])
    def test_without_a_sender_the_first_attempt_starts_the_trace(self, office: Office, relation: str) -> None:
        spans = attempts_of(office, fail, meta={}, retry=Retry(max=2), relation=relation)

        assert spans[0].parent_span_id is None
        assert len({span.trace_id for span in spans}) == (1 if relation == "child" else 3)
        if relation == "child":
            assert {span.parent_span_id for span in spans[1:]} == {spans[0].span_id}

    def test_under_link_each_attempt_links_to_the_sender(self, office: Office) -> None:
        spans = attempts_of(office, fail, retry=Retry(max=1), relation="link")

        assert [[link.span_id for link in span.links] for span in spans] == [[SENDER.span_id]] * 2

    def test_a_retry_by_a_traced_queue_is_no_new_send(self, office: Office) -> None:
        """C-10: a worker may have the class of queues too, and a current context of its own."""
        recorder = MemoryRecorder()
        queue = office.queue(queues_with(tracer=recorder))
        job = office.bare.enqueue(
            CALL, office.take(fail), meta={"traceparent": TRACEPARENT}, retry=Retry(max=1, interval=60)
        )
        with TraceContext.use(TraceContext.new_root()):
            office.work(rq.TraceJob, queue_class=type(queue))

        assert job.id in office.bare.scheduled_job_registry
        assert rq.context_from(office.arrived()) == SENDER
        assert list(recorder.spans) == []

    def test_a_repetition_is_no_further_attempt(self, office: Office) -> None:
        spans = attempts_of(office, lambda: None, repeat=Repeat(times=2))

        assert {span.parent_span_id for span in spans} == {SENDER.span_id}
        assert [(span.attempt, span.outcome) for span in spans] == [(1, "ok")] * 3

    def test_a_repetition_without_a_sender_is_a_trace_of_its_own(self, office: Office) -> None:
        """C-18: no endless trace."""
        spans = attempts_of(office, lambda: None, meta={}, repeat=Repeat(times=2))

        assert len({span.trace_id for span in spans}) == 3

    def test_a_new_job_under_an_old_id_begins_with_its_first_attempt(self, office: Office) -> None:
        recorder = MemoryRecorder()
        for _ in range(2):
            office.bare.enqueue(CALL, office.take(fail), job_id=f"id-{office.name}")
            office.work(jobs_with(tracer=recorder))

        assert [span.attempt for span in recorder.spans] == [1, 1]

    def test_the_time_in_the_queue_is_on_the_span(self, office: Office) -> None:
        before = time.time_ns()
        (span,) = attempts_of(office, lambda: None)

        assert span.queue_time_nano is not None
        assert 0 <= span.queue_time_nano <= time.time_ns() - before


class TestLater:
    def test_a_scheduled_job_keeps_the_context_of_who_scheduled_it(self, office: Office) -> None:
        """T-05: RQ's scheduler moves it by its own queues and jobs."""
        seen: list[str] = []
        with TraceContext.use(TraceContext.new_root()) as context:
            office.queue(rq.TraceQueue).enqueue_in(
                timedelta(0), CALL, office.take(lambda: seen.append(trace_id()))
            )
        scheduler: Any = RQScheduler([office.name], connection=office.connection)
        scheduler.acquire_locks()
        scheduler.enqueue_scheduled_jobs()
        scheduler.release_locks()
        office.work()

        assert context is not None
        assert seen == [context.trace_id]

    def test_each_tick_of_cron_is_a_trace_of_its_own(self, office: Office) -> None:
        """C-18: also where something is current."""
        seen: list[str] = []
        office.take(lambda: seen.append(trace_id()), "tick")
        cron = CronScheduler(connection=office.connection)
        job = cron.register(call, queue_name=office.name, args=("tick",), interval=3600)
        with TraceContext.use(TraceContext.new_root()) as context:
            for _ in range(2):
                job.enqueue(office.connection)
        office.work()
        office.connection.delete(job.job_history_key)

        assert context is not None
        assert len({*seen, context.trace_id}) == 3

    def test_a_dependent_job_keeps_the_context_of_who_sent_it(self, office: Office) -> None:
        """T-05: and not that of the job it waits for."""
        seen: list[str] = []
        queue = office.queue(rq.TraceQueue)
        look = office.take(lambda: seen.append(trace_id()))
        contexts = [TraceContext.new_root() for _ in range(3)]
        with TraceContext.use(contexts[0]):
            first = queue.enqueue(CALL, look)
        with TraceContext.use(contexts[1]):
            queue.enqueue(CALL, look, depends_on=first)
        with TraceContext.use(contexts[2]):
            queue.enqueue_many([Queue.prepare_data(CALL, (look,), depends_on=first)])
        office.work()

        assert seen[0] == contexts[0].trace_id
        assert sorted(seen) == sorted(context.trace_id for context in contexts)


class TestBodies:
    def test_what_a_job_enqueues_is_its_child(self, office: Office) -> None:
        recorder = MemoryRecorder()
        queue = office.queue(rq.TraceQueue)
        inner = office.take(lambda: None)
        office.bare.enqueue(
            CALL, office.take(lambda: queue.enqueue(CALL, inner).id), meta={"traceparent": TRACEPARENT}
        )
        office.work(jobs_with(tracer=recorder))

        outer, nested = recorder.spans
        assert (outer.trace_id, outer.parent_span_id) == (SENDER.trace_id, SENDER.span_id)
        assert (nested.trace_id, nested.parent_span_id) == (SENDER.trace_id, outer.span_id)

    def test_a_coroutine_runs_in_the_context(self, office: Office) -> None:
        """T-05: also after it has waited, and in its tasks."""
        seen: list[str] = []

        async def look() -> None:
            seen.append(trace_id())
            await asyncio.sleep(0)
            seen.append(await asyncio.to_thread(trace_id))
            seen.append(await asyncio.create_task(look_in_task()))

        async def look_in_task() -> str:
            return trace_id()

        (span,) = attempts_of(office, look)

        assert seen == [SENDER.trace_id] * 3
        assert span.outcome == "ok"

    def test_a_generator_fails_as_without_us_and_leaves_nothing(self, office: Office) -> None:
        """T-05: RQ advances none, and cannot store it."""
        job = office.bare.enqueue(CALL, office.take(lambda: (each for each in "ab")))
        office.work()

        assert Job.fetch(job.id, connection=office.connection).is_failed
        assert TraceContext.get() is None

    def test_the_value_of_a_job_is_what_rq_stores(self, office: Office) -> None:
        job = office.bare.enqueue(CALL, office.take(lambda: {"packed": 7}))
        office.work()

        assert job.return_value(refresh=True) == {"packed": 7}

    def test_a_job_that_takes_too_long_ends_as_an_error(self, office: Office) -> None:
        """C-04: RQ raises wherever the job is."""
        recorder = MemoryRecorder()
        office.bare.enqueue(
            CALL, office.take(threading.Event().wait), meta={"traceparent": TRACEPARENT}, job_timeout=1
        )
        with TraceContext.use(TraceContext.new_root()) as before:
            office.work(jobs_with(tracer=recorder))
            assert TraceContext.get() is before

        (span,) = recorder.spans
        name = f"{JobTimeoutException.__module__}.{JobTimeoutException.__qualname__}"
        assert (span.outcome, span.error) == ("error", name)

    def test_nothing_of_a_job_is_current_in_the_next_one(self, office: Office) -> None:
        """C-04: whatever the job before did."""
        seen: list[str] = []
        office.bare.enqueue(CALL, office.take(lambda: TraceContext.set(TraceContext.new_root())))
        office.bare.enqueue(
            CALL, office.take(lambda: seen.append(trace_id())), meta={"traceparent": TRACEPARENT}
        )
        office.work()

        assert seen == [SENDER.trace_id]
        assert TraceContext.get() is None


class TestCallbacks:
    @pytest.mark.parametrize("ending", ["on_success", "on_failure"])
    def test_a_callback_runs_in_the_context_of_the_job(self, office: Office, ending: str) -> None:
        """T-05: the very span that it follows."""
        seen: list[TraceContext | None] = []
        key = uuid4().hex

        def look() -> None:
            seen.append(TraceContext.get())

        def body() -> None:
            look()
            if ending == "on_failure":
                fail()

        office.take(look, key)
        callback: dict[str, Any] = {ending: Callback(called_back)}
        office.bare.enqueue(
            CALL, office.take(body), job_id=key, meta={"traceparent": TRACEPARENT}, **callback
        )
        with TraceContext.use(TraceContext.new_root()) as before:
            office.work()
            assert TraceContext.get() is before

        in_job, in_callback = seen
        assert in_job is not None
        assert in_job.parent_span_id == SENDER.span_id
        assert in_callback is in_job

    def test_a_callback_that_fails_fails_the_job_as_without_us(self, office: Office) -> None:
        key = uuid4().hex
        office.take(fail, key)
        job = office.bare.enqueue(
            CALL, office.take(lambda: None), job_id=key, on_success=Callback(called_back)
        )
        office.work()

        assert Job.fetch(job.id, connection=office.connection).is_failed
        assert TraceContext.get() is None

    def test_a_callback_that_rq_refuses_is_refused_as_without_us(self, office: Office) -> None:
        """T-05: RQ calls no coroutine, and has to see that it is one."""
        office.bare.enqueue(CALL, "key", job_id=office.name, on_success=Callback(called_back_later))
        job = rq.TraceJob.fetch(office.name, connection=office.connection)

        assert job.success_callback is called_back_later

    @pytest.mark.parametrize(
        ("relation", "joins"), [("child", True), ("link", False), ("root", False)], ids=str
    )
    def test_a_callback_in_another_process_than_the_job_sees_where_the_job_came_from(
        self, office: Office, relation: str, *, joins: bool
    ) -> None:
        """T-05: there is no span of the job in that process."""
        seen: list[TraceContext | None] = []
        key = uuid4().hex
        office.take(lambda: seen.append(TraceContext.get()), key)
        office.bare.enqueue(
            CALL, "key", job_id=key, meta={"traceparent": TRACEPARENT}, on_stopped=Callback(called_back)
        )
        job = jobs_with(relation=relation).fetch(key, connection=office.connection)
        callback = job.stopped_callback
        assert callback is not None
        callback(job, office.connection)

        (context,) = seen
        assert context is not None
        assert (context == SENDER) is joins
        assert TraceContext.get() is None

    def test_switched_off_a_callback_is_the_user_s_own(self, office: Office) -> None:
        office.bare.enqueue(CALL, "key", job_id=office.name, on_success=Callback(called_back))
        job = jobs_with(enabled=False).fetch(office.name, connection=office.connection)

        assert job.success_callback is called_back
        assert (job.failure_callback, job.stopped_callback) == (None, None)


class TestEager:
    def test_a_job_is_a_child_of_its_caller(self, office: Office) -> None:
        """C-20: whose context is intact afterwards."""
        seen: list[TraceContext | None] = []
        queue = office.queue(rq.TraceQueue, is_async=False)
        inner = office.take(lambda: seen.append(TraceContext.get()))

        def outer() -> None:
            seen.append(TraceContext.get())
            queue.enqueue(CALL, inner)
            seen.append(TraceContext.get())

        with TraceContext.use(TraceContext.new_root(baggage=Baggage({"tenant": "acme"}))) as caller:
            queue.enqueue(CALL, office.take(outer))
            assert TraceContext.get() is caller

        before, nested, after = seen
        assert caller is not None
        assert before is not None
        assert nested is not None
        assert before is after
        assert before.parent_span_id == caller.span_id
        assert nested.parent_span_id == before.span_id
        assert dict(nested.baggage) == {"tenant": "acme"}

    def test_a_job_that_fails_gives_its_caller_the_context_back(self, office: Office) -> None:
        """C-20: RQ keeps the error, and tries nothing again."""
        recorder = MemoryRecorder()
        queue = office.queue(rq.TraceQueue, is_async=False, job_class=jobs_with(tracer=recorder))
        with TraceContext.use(TraceContext.new_root()) as caller:
            job = queue.enqueue(CALL, office.take(fail), retry=Retry(max=1))
            assert TraceContext.get() is caller

        assert job.is_failed
        assert [(span.outcome, span.attempt) for span in recorder.spans] == [("error", 1)]

    def test_a_recorded_job_is_below_its_sending(self, office: Office) -> None:
        recorder = MemoryRecorder()
        queue = office.queue(
            queues_with(tracer=recorder), is_async=False, job_class=jobs_with(tracer=recorder)
        )
        queue.enqueue(CALL, office.take(lambda: None))

        job, sending = recorder.spans
        assert (job.kind, sending.kind) == ("consumer", "producer")
        assert job.parent_span_id == sending.span_id


def current() -> Any:
    """Return the job that is running; RQ types only a part of it."""
    job = get_current_job()
    assert job is not None
    return job


def trace_seen(office: Office, **options: Any) -> str:
    """Return the id of the trace in which a job with a sender runs."""
    seen: list[str] = []
    sent = {"traceparent": TRACEPARENT}
    office.bare.enqueue(CALL, office.take(lambda: seen.append(trace_id())), meta=sent)
    office.work(jobs_with(**options))
    (trace,) = seen
    return trace


def trace_id() -> str:
    context = TraceContext.get()
    return context.trace_id if context else "-"


def attempts_of(
    office: Office, body: Callable[[], object], *, meta: Any = None, relation: Any = "child", **options: Any
) -> list[Any]:
    """Run a job until nothing is left of it, and return its spans; it has a sender unless *meta* is given."""
    recorder = MemoryRecorder()
    sent = {"traceparent": TRACEPARENT} if meta is None else meta
    office.bare.enqueue(CALL, office.take(body), meta=sent, **options)
    office.work(jobs_with(tracer=recorder, relation=relation))
    return list(recorder.spans)
