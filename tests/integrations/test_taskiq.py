"""taskiq on RabbitMQ and Redis, with its real receivers: in this process, and in worker processes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import sys
import time
from collections.abc import AsyncIterator  # noqa: TC003 - taskiq resolves the hints of dependencies
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import pytest
import redis
from opentelemetry import baggage, propagate
from opentelemetry import context as context_api
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import get_current_span
from taskiq import (
    AsyncBroker,
    Context,
    InMemoryBroker,
    NoResultError,
    ScheduledTask,
    ScheduleSource,
    SimpleRetryMiddleware,
    SmartRetryMiddleware,
    TaskiqDepends,
    TaskiqMessage,
    TaskiqMiddleware,
    TaskiqResult,
    TaskiqScheduler,
    async_shared_broker,
)
from taskiq.api import run_scheduler_task
from taskiq.exceptions import SendTaskError
from taskiq.kicker import AsyncKicker
from taskiq.schedule_sources import LabelScheduleSource

from brokers.guarded import Guarded
from contract.contexts import STALE, TRACEPARENT, full_context
from contract.receiving import SENDER, HandlerError, ReceivingContract, SyncReceivingContract
from contract.sending import SendingContract, Wire
from integrations.taskiq_apps.shop_broker import broker_of
from integrations.taskiq_depot import (
    PATIENCE,
    Depot,
    hooked,
    rabbitmq_depot,
    redis_depot,
    until,
    working,
)
from integrations.worker_notes import read_notes
from spakky.tracing.baggage import Baggage
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.integrations import taskiq
from spakky.tracing.recorder import JsonLinesRecorder, MemoryRecorder, Span, read_spans
from spakky.tracing.switch import switch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
async def on_rabbitmq(amqp_url: str) -> AsyncIterator[Depot]:
    async with rabbitmq_depot(amqp_url) as depot:
        yield depot


@pytest.fixture
async def on_redis(redis_url: str) -> AsyncIterator[Depot]:
    async with redis_depot(redis_url) as depot:
        yield depot


@pytest.fixture(params=["on_rabbitmq", "on_redis"])
async def depot(request: pytest.FixtureRequest, amqp_url: str, redis_url: str) -> AsyncIterator[Depot]:
    """One after the other."""
    of_either = rabbitmq_depot(amqp_url) if request.param == "on_rabbitmq" else redis_depot(redis_url)
    async with of_either as depot:
        yield depot


class TestSending(SendingContract):
    recorded_ways = ["kiq", "with_labels", "AsyncKicker"]
    ways = [*recorded_ways, "headers"]
    foreign = {
        "a": "text",
        "b": 7,
        "c": [1, "two"],
        "d": {"nested": "table"},
        "e": None,
        "f": True,
        "g": b"\x00\xff",
    }

    @pytest.fixture(autouse=True)
    def _on(self, on_rabbitmq: Depot) -> None:
        self.depot = on_rabbitmq

    async def send(self, way: str, headers: Any, *, item: object = 1, **options: Any) -> None:
        broker = self.depot.broker
        labels = {} if headers is None else headers

        async def order(item: object) -> None:
            """Run nowhere."""

        if way == "headers":
            task = broker.register_task(order, "depot.order")
            await task.kicker().with_labels(**taskiq.headers(headers, **options)).kiq(item)
            return
        with hooked(broker, **options):
            if way == "kiq":
                await broker.register_task(order, "depot.order", **labels).kiq(item)
            elif way == "with_labels":
                task = broker.register_task(order, "depot.order")
                await task.kicker().with_labels(**labels).kiq(item)
            else:
                kicker: AsyncKicker[Any, Any] = AsyncKicker("registered.nowhere", broker, labels)
                await kicker.kiq(item)

    async def arrived(self) -> Wire:
        return {name: [value] for name, value in (await self.depot.arrived())["labels"].items()}

    def native(self, headers: dict[str, str]) -> dict[str, str]:
        return dict(headers)

    async def fail_to_send(self, way: str, **options: Any) -> BaseException:
        """Send what cannot be serialised, in an asyncio task of its own, whose end ends the span."""
        sending = asyncio.create_task(self.send(way, None, item=object(), **options))
        with pytest.raises(SendTaskError) as raised:
            await sending
        await asyncio.sleep(0)
        return raised.value


class TestSendingOnRedis(TestSending):
    ways = ["kiq"]
    recorded_ways = ways

    @pytest.fixture(autouse=True)
    def _on(self, on_redis: Depot) -> None:
        self.depot = on_redis


class TestReceiving(ReceivingContract):
    """In the receiver's own asyncio task, so that whatever a run leaves behind there is seen."""

    ways = ["task"]
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
        [[TRACEPARENT]],
        {"traceparent": TRACEPARENT},
        f"{TRACEPARENT}\n",
    ]
    task = "depot.call"

    @pytest.fixture(autouse=True)
    def _on(self, on_rabbitmq: Depot) -> None:
        self.depot = on_rabbitmq

    async def receive(
        self, way: str, headers: dict[str, Any], body: Callable[[], None], **options: Any
    ) -> None:
        del way
        with hooked(self.depot.broker, **options):
            await self.depot.run(body, headers, self.task)


class TestReceivingOnRedis(TestReceiving):
    @pytest.fixture(autouse=True)
    def _on(self, on_redis: Depot) -> None:
        self.depot = on_redis


class TestReceivingInThreads(SyncReceivingContract, TestReceiving):
    """Sync tasks, for which there is no event loop in their thread."""

    task = "depot.call_in_thread"

    @pytest.fixture(autouse=True)
    def _on(self, on_redis: Depot, caplog: pytest.LogCaptureFixture) -> None:
        self.depot = on_redis
        # What pytest keeps of a log has the receiver's frame in its traceback, and so the thread's Context.
        caplog.set_level(logging.CRITICAL, "taskiq.receiver.receiver")


async def order() -> None:
    """Run nowhere."""


Running = Annotated[Context, TaskiqDepends()]


class TestMiddleware:
    async def test_adding_twice_is_adding_once(self, depot: Depot) -> None:
        """A-13, T-02: two of them, or one of them twice: one traceparent, one span."""
        recorders = [MemoryRecorder(), MemoryRecorder()]
        first, second = (taskiq.TraceMiddleware(tracer=each) for each in recorders)
        depot.broker.add_middlewares(first, second, first)

        with TraceContext.use(TraceContext.new_root()) as context:
            await depot.broker.register_task(order, "depot.order").kiq()
            await depot.receive()
            assert TraceContext.get() is context

        assert [(span.kind, span.outcome) for span in recorders[0].spans] == [
            ("producer", "ok"),
            ("consumer", "ok"),
        ]
        sent, run = recorders[0].spans
        assert context is not None
        assert (sent.parent_span_id, run.parent_span_id) == (context.span_id, sent.span_id)
        assert list(recorders[1].spans) == []

    async def test_of_several_the_outermost_that_is_switched_on_counts(self, on_redis: Depot) -> None:
        """A-13, T-02: and the middlewares in between are in its context until their end."""
        recorders = [MemoryRecorder() for _ in range(3)]
        seen: list[TraceContext | None] = []

        class Between(TaskiqMiddleware):
            def post_execute(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
                seen.append(TraceContext.get())

        on_redis.broker.add_middlewares(
            taskiq.TraceMiddleware(tracer=recorders[0], enabled={"depot.order": False}),
            taskiq.TraceMiddleware(tracer=recorders[1]),
            Between(),
            taskiq.TraceMiddleware(tracer=recorders[2]),
        )

        await on_redis.broker.register_task(order, "depot.order").kiq()
        await on_redis.receive()

        assert [len(recorder.spans) for recorder in recorders] == [0, 2, 0]
        assert [context and context.span_id for context in seen] == [recorders[1].spans[-1].span_id]

    async def test_with_middlewares_is_as_good(self) -> None:
        broker = InMemoryBroker(await_inplace=True).with_middlewares(taskiq.TraceMiddleware())

        with TraceContext.use(TraceContext.new_root()) as context:
            seen = await look_in(broker)

        assert context is not None
        assert [each.trace_id for each in seen] == [context.trace_id]

    async def test_two_brokers_of_a_process_have_options_of_their_own(self) -> None:
        brokers = [InMemoryBroker(await_inplace=True) for _ in range(2)]
        recorders = [MemoryRecorder(), MemoryRecorder()]
        inner = brokers[1].register_task(order, "inner")

        async def outer() -> None:
            await inner.kiq()

        for broker, recorder in zip(brokers, recorders, strict=True):
            broker.add_middlewares(taskiq.TraceMiddleware(tracer=recorder))
        await brokers[0].register_task(outer, "outer").kiq()

        assert [[span.name for span in recorder.spans] for recorder in recorders] == [
            ["run outer", "send outer"],
            ["run inner", "send inner"],
        ]
        assert len({span.trace_id for recorder in recorders for span in recorder.spans}) == 1
        assert {span.outcome for recorder in recorders for span in recorder.spans} == {"ok"}

    async def test_a_shared_task_is_sent_by_its_default_broker(self, on_redis: Depot) -> None:
        shared = async_shared_broker.register_task(order, f"shared-{uuid4().hex}")
        async_shared_broker.default_broker(on_redis.broker)

        with hooked(on_redis.broker), TraceContext.use(TraceContext.new_root()) as context:
            await shared.kiq()

        assert context is not None
        assert (await on_redis.arrived())["labels"] == {"traceparent": context.to_traceparent()}
        assert shared.labels == {}

    async def test_labels_of_a_task_and_the_message_of_its_sender_stay_as_they_were(
        self, depot: Depot
    ) -> None:
        seen: list[tuple[TaskiqMessage, TaskiqMessage]] = []

        class Around(TaskiqMiddleware):
            def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
                seen.append((message, message.model_copy(deep=True)))
                return message

        task = depot.broker.register_task(order, "depot.order", traceparent=STALE, app=1)
        depot.broker.add_middlewares(Around(), taskiq.TraceMiddleware())
        with TraceContext.use(full_context()):
            await task.kiq()

        assert task.labels == {"traceparent": STALE, "app": 1}
        ((message, before),) = seen
        assert message == before

    def test_what_is_no_message_is_refused(self) -> None:
        with pytest.raises(WrongUseError, match="this takes a received TaskiqMessage, got dict"):
            taskiq.context_from({})  # type: ignore[arg-type]

    async def test_a_message_tells_the_context_of_its_sender(self, depot: Depot) -> None:
        seen: list[TraceContext | None] = []

        async def tell(context: Running) -> None:
            seen.append(taskiq.context_from(context.message))

        depot.broker.register_task(tell, "depot.tell")
        await depot.deliver({"traceparent": TRACEPARENT}, "depot.tell")
        with hooked(depot.broker):
            await depot.receive()

        assert seen == [SENDER]

    async def test_dependencies_are_resolved_in_the_context(self, on_redis: Depot) -> None:
        seen: list[TraceContext | None] = []

        async def session() -> AsyncIterator[str]:
            seen.append(TraceContext.get())
            yield "session"
            seen.append(TraceContext.get())

        async def use(name: Any = TaskiqDepends(session)) -> None:  # noqa: B008 - as taskiq has it
            seen.append(TraceContext.get())

        on_redis.broker.register_task(use, "depot.use")
        await on_redis.deliver({"traceparent": TRACEPARENT}, "depot.use")
        with hooked(on_redis.broker):
            await on_redis.receive()

        assert [context and context.parent_span_id for context in seen] == [SENDER.span_id] * 3
        assert len(set(seen)) == 1


async def look_in(broker: AsyncBroker) -> list[TraceContext]:
    """Return the context that a task of *broker* sees, which runs in place."""
    seen: list[TraceContext] = []

    async def look() -> None:
        context = TraceContext.get()
        assert context is not None
        seen.append(context)

    await broker.register_task(look, "look").kiq()
    return seen


class TestLabels:
    @pytest.mark.parametrize("value", [7, 1.5, True, b"\xff\xfe", None, [1], {"a": 1}], ids=repr)
    @pytest.mark.parametrize("is_in_trace", [True, False])
    async def test_a_label_of_any_type_is_no_trace_header(
        self, depot: Depot, value: Any, *, is_in_trace: bool
    ) -> None:
        """T-03: it is replaced together with its type, and the task runs."""
        seen: list[TraceContext | None] = []

        async def look() -> None:
            seen.append(TraceContext.get())

        task = depot.broker.register_task(look, "depot.look", traceparent=value, tracestate=value, app=value)
        with hooked(depot.broker), TraceContext.use(full_context() if is_in_trace else None) as context:
            await task.kiq()
            await depot.receive()

        (run,) = seen
        assert run is not None
        assert context is None or run.trace_id == context.trace_id

    async def test_other_labels_arrive_with_their_types(self, depot: Depot) -> None:
        given = {"a": 7, "b": 1.5, "c": True, "d": b"\xff", "e": "text", "traceparent": 7, "Baggage": b"x"}
        seen: list[dict[str, Any]] = []

        async def look(context: Running) -> None:
            seen.append(context.message.labels)

        task: Any = depot.broker.register_task(look, "depot.look", **given)
        with hooked(depot.broker), TraceContext.use(TraceContext.new_root()) as context:
            await task.kiq()
            await depot.receive()

        assert context is not None
        assert seen == [
            {"a": 7, "b": 1.5, "c": True, "d": b"\xff", "e": "text", "traceparent": context.to_traceparent()}
        ]


class TestChoosing:
    @pytest.mark.parametrize("relation", ["child", "link", "root"])
    async def test_a_relation_can_be_set_by_the_name_of_a_task_or_by_a_function(
        self, on_redis: Depot, relation: Any
    ) -> None:
        """C-08, K-11: for a task, or for each message."""
        choices: list[Any] = [{"depot.call": relation, "another": "child"}, lambda message: relation]
        for choice in choices:
            recorder = MemoryRecorder()
            seen: list[TraceContext | None] = []
            with hooked(on_redis.broker, relation=choice, tracer=recorder):
                await on_redis.run(
                    lambda: seen.append(TraceContext.get()),  # noqa: B023 - called at once
                    {"traceparent": TRACEPARENT, "baggage": "tenant=acme"},
                )

            (context,) = seen
            (span,) = recorder.spans
            assert context is not None
            assert (context.trace_id == SENDER.trace_id) is (relation == "child")
            assert [link.span_id for link in span.links] == ([SENDER.span_id] if relation == "link" else [])
            assert dict(context.baggage) == ({} if relation == "root" else {"tenant": "acme"})

    async def test_a_task_can_be_switched_off_by_its_name(self, on_redis: Depot) -> None:
        seen: list[TraceContext | None] = []
        with hooked(on_redis.broker, enabled={"depot.order": False, "depot.call": False}):
            await on_redis.broker.register_task(order, "depot.order").kiq()
            assert (await on_redis.arrived())["labels"] == {}
            await on_redis.run(lambda: seen.append(TraceContext.get()), {"traceparent": TRACEPARENT})

        assert seen == [None]

    async def test_a_choice_by_task_is_more_exact_than_one_by_queue(self, on_redis: Depot) -> None:
        """The queue is known where a label names it."""
        named = {"queue_name": on_redis.queue}
        task = on_redis.broker.register_task(order, "depot.order", **named)
        for enabled, is_on in [
            ({on_redis.queue: False}, False),
            ({on_redis.queue: False, "depot.order": True, "depot.call": True}, True),
        ]:
            seen: list[TraceContext | None] = []
            with hooked(on_redis.broker, enabled=enabled):
                await task.kiq()
                assert ("traceparent" in (await on_redis.arrived())["labels"]) is is_on
                await on_redis.run(
                    lambda: seen.append(TraceContext.get()),  # noqa: B023 - called at once
                    {**named, "traceparent": TRACEPARENT},
                )
            assert (seen != [None]) is is_on

    async def test_everything_can_be_switched_off(self, on_redis: Depot) -> None:
        with hooked(on_redis.broker), TraceContext.use(TraceContext.new_root()):
            switch(on=False)
            try:
                await on_redis.broker.register_task(order, "depot.order").kiq()
            finally:
                switch(on=True)

        assert (await on_redis.arrived())["labels"] == {}

    async def test_the_spans_name_task_and_queue(self, on_redis: Depot) -> None:
        recorder = MemoryRecorder()
        with hooked(on_redis.broker, tracer=recorder):
            await on_redis.broker.register_task(order, "depot.order", queue_name=on_redis.queue).kiq()
            await on_redis.receive()

        assert [(span.name, span.system, span.destination) for span in recorder.spans] == [
            ("send depot.order", "taskiq", on_redis.queue),
            ("run depot.order", "taskiq", on_redis.queue),
        ]


class TestFailedSending:
    """C-01: the span of a message that is not sent ends, as an error."""

    async def fail(self, broker: AsyncBroker) -> SendTaskError:
        """Return what a sending raises that fails, as an application that keeps it."""
        kicker: AsyncKicker[Any, Any] = AsyncKicker("registered.nowhere", broker, {})
        with pytest.raises(SendTaskError) as raised:
            await kicker.kiq(object())
        return raised.value

    async def test_the_next_sending_ends_it_as_an_error(self, on_redis: Depot) -> None:
        """C-01: also where the application keeps the exception."""
        recorder = MemoryRecorder()
        task = on_redis.broker.register_task(order, "depot.order")
        with hooked(on_redis.broker, tracer=recorder), TraceContext.use(TraceContext.new_root()) as context:
            kept = await self.fail(on_redis.broker)
            assert TraceContext.get() is context
            await task.kiq()

        assert kept is not None
        assert [(span.name, span.outcome) for span in recorder.spans] == [
            ("send registered.nowhere", "error"),
            ("send depot.order", "ok"),
        ]

    @pytest.mark.parametrize("hook", ["pre_send", "post_send"])
    async def test_a_middleware_before_ours_may_send_meanwhile(self, on_redis: Depot, hook: str) -> None:
        journal = on_redis.broker.register_task(order, "depot.journal")
        task = on_redis.broker.register_task(order, "depot.order")
        recorder = MemoryRecorder()

        async def write(message: TaskiqMessage) -> TaskiqMessage:
            if message.task_name == task.task_name:
                await journal.kiq()
            return message

        writer: type[TaskiqMiddleware] = type("Writer", (TaskiqMiddleware,), {hook: staticmethod(write)})
        on_redis.broker.add_middlewares(writer(), taskiq.TraceMiddleware(tracer=recorder))
        await task.kiq()

        assert sorted((span.name, span.outcome) for span in recorder.spans) == [
            ("send depot.journal", "ok"),
            ("send depot.order", "ok"),
        ]

    async def test_the_end_of_the_task_that_sends_ends_it_as_an_error(self, depot: Depot) -> None:
        recorder = MemoryRecorder()

        async def send() -> None:
            await self.fail(depot.broker)

        depot.broker.register_task(send, "depot.send")
        with hooked(depot.broker, tracer=recorder):
            await depot.deliver({}, "depot.send")
            await depot.receive()

        assert [(span.name, span.outcome) for span in recorder.spans] == [
            ("send registered.nowhere", "error"),
            ("run depot.send", "ok"),
        ]

    async def test_a_cancelled_sending_is_told_so(self, on_redis: Depot) -> None:
        recorder = MemoryRecorder()
        is_sending = asyncio.Event()

        class Slow(TaskiqMiddleware):
            async def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
                is_sending.set()
                await asyncio.Event().wait()
                return message

        on_redis.broker.add_middlewares(taskiq.TraceMiddleware(tracer=recorder), Slow())
        sending = asyncio.create_task(on_redis.broker.register_task(order, "depot.order").kiq())
        await is_sending.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await until(lambda: recorder.spans)

        assert [span.outcome for span in recorder.spans] == ["cancelled"]

    async def test_asyncio_tasks_that_inherit_it_leave_it_alone(self, on_redis: Depot) -> None:
        recorder = MemoryRecorder()
        another = on_redis.broker.register_task(order, "depot.another")

        class Nested(TaskiqMiddleware):
            async def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
                if message.task_name == "depot.order":
                    await asyncio.create_task(another.kiq())
                return message

        on_redis.broker.add_middlewares(taskiq.TraceMiddleware(tracer=recorder), Nested())
        await on_redis.broker.register_task(order, "depot.order").kiq()

        assert [(span.name, span.outcome) for span in recorder.spans] == [
            ("send depot.another", "ok"),
            ("send depot.order", "ok"),
        ]

    async def test_no_state_grows(self, on_redis: Depot) -> None:
        recorder = MemoryRecorder()
        with hooked(on_redis.broker, tracer=recorder):
            for _ in range(20):
                await self.fail(on_redis.broker)

        assert [span.outcome for span in recorder.spans] == ["error"] * 19


class Attempts:
    """A task that fails on its first attempts, and what is seen in each."""

    def __init__(self, depot: Depot, failures: int = 2, **labels: Any) -> None:
        self.recorder = MemoryRecorder()
        self.seen: list[TraceContext] = []
        self.labels: list[dict[str, Any]] = []

        async def attempt(context: Running) -> None:
            current = TraceContext.get()
            assert current is not None
            self.seen.append(current)
            self.labels.append(dict(context.message.labels))
            TraceContext.set(current.with_baggage(Baggage({"attempt": str(len(self.seen))})))
            if len(self.seen) <= failures:
                if "requeue" in context.message.labels:
                    await context.requeue()
                raise HandlerError

        self.task: Any = depot.broker.register_task(attempt, "depot.attempt", **labels)
        self._depot = depot
        self._count = failures + 1

    async def run(self, labels: dict[str, Any] | None = None, **options: Any) -> None:
        """Deliver a message by the bare client and receive it as often as it comes."""
        with hooked(self._depot.broker, tracer=self.recorder, **options):
            await self._depot.deliver({**self.task.labels, **(labels or {})}, "depot.attempt")
            for _ in range(self._count):
                await self._depot.receive()


SENT = {"traceparent": TRACEPARENT, "tracestate": "a=1", "baggage": "tenant=acme"}
RETRIED = {"retry_on_error": True, "max_retries": 5}


class TestRetries:
    @pytest.fixture(autouse=True)
    def _with_retries(self, depot: Depot) -> None:
        depot.broker.add_middlewares(SimpleRetryMiddleware())

    async def test_all_attempts_are_children_of_the_first_sender(self, depot: Depot) -> None:
        """C-10: no deeper with each, and each with its number."""
        attempts = Attempts(depot, **RETRIED)
        await attempts.run(SENT)

        assert [context.parent_span_id for context in attempts.seen] == [SENDER.span_id] * 3
        assert {context.trace_id for context in attempts.seen} == {SENDER.trace_id}
        assert {context.trace_state.to_header() for context in attempts.seen} == {"a=1"}
        assert [(span.name, span.attempt, span.outcome, span.error) for span in attempts.recorder.spans] == [
            ("run depot.attempt", 1, "retry", "contract.receiving.HandlerError"),
            ("run depot.attempt", 2, "retry", "contract.receiving.HandlerError"),
            ("run depot.attempt", 3, "ok", None),
        ]

    async def test_the_order_of_the_middlewares_does_not_matter(self, depot: Depot) -> None:
        attempts = Attempts(depot, **RETRIED)
        middleware = taskiq.TraceMiddleware(tracer=attempts.recorder)
        depot.broker.add_middlewares(middleware)
        await depot.deliver({**RETRIED, **SENT}, "depot.attempt")
        for _ in range(3):
            await depot.receive()

        assert [span.outcome for span in attempts.recorder.spans] == ["retry", "retry", "ok"]
        assert [span.parent_span_id for span in attempts.recorder.spans] == [SENDER.span_id] * 3

    @pytest.mark.parametrize("keep", [False, True], ids=["", "keep"])
    async def test_baggage_is_as_it_is_at_the_time_of_the_retry(self, depot: Depot, *, keep: bool) -> None:
        """C-16: and does not pile up."""
        attempts = Attempts(depot, **RETRIED)
        await attempts.run(SENT, keep=keep)

        assert [dict(context.baggage) for context in attempts.seen] == [
            {"tenant": "acme"},
            {"attempt": "1"},
            {"attempt": "2"},
        ]

    async def test_labels_neither_grow_nor_get_lost(self, depot: Depot) -> None:
        """C-16: the same ones in each attempt."""
        attempts = Attempts(depot, failures=3, app=1, **RETRIED)
        await attempts.run(SENT)

        first, *further = [sorted(labels) for labels in attempts.labels]
        assert further == [sorted([*first, "_retries"])] * 3
        assert {labels["app"] for labels in attempts.labels} == {1}

    @pytest.mark.parametrize("relation", ["link", "root"])
    async def test_further_attempts_stay_in_the_trace_that_the_first_one_started(
        self, depot: Depot, relation: str
    ) -> None:
        attempts = Attempts(depot, **RETRIED)
        await attempts.run(SENT, relation=relation)

        first, *further = attempts.seen
        assert first.trace_id != SENDER.trace_id
        assert [context.parent_span_id for context in attempts.seen] == [None, first.span_id, first.span_id]
        assert {context.trace_id for context in further} == {first.trace_id}
        links = [[link.span_id for link in span.links] for span in attempts.recorder.spans]
        assert links == [[SENDER.span_id] if relation == "link" else [], [], []]

    async def test_a_message_without_context_has_all_its_attempts_in_one_trace(self, depot: Depot) -> None:
        attempts = Attempts(depot, **RETRIED)
        await attempts.run()

        first, *_ = attempts.seen
        assert [context.parent_span_id for context in attempts.seen] == [None, first.span_id, first.span_id]

    async def test_attempts_that_are_switched_off_by_name_keep_their_labels(self, depot: Depot) -> None:
        attempts = Attempts(depot, **RETRIED)
        with TraceContext.use(TraceContext.new_root()):
            await attempts.run(SENT, enabled={"depot.attempt": False})

        assert [labels["traceparent"] for labels in attempts.labels] == [TRACEPARENT] * 3
        assert [labels["baggage"] for labels in attempts.labels] == ["tenant=acme"] * 3

    async def test_the_last_attempt_that_fails_is_an_error(self, depot: Depot) -> None:
        attempts = Attempts(depot, failures=2, retry_on_error=True, max_retries=2)
        with hooked(depot.broker, tracer=attempts.recorder):
            await depot.deliver({"retry_on_error": True, "max_retries": 2}, "depot.attempt")
            for _ in range(2):
                await depot.receive()

        assert [(span.attempt, span.outcome) for span in attempts.recorder.spans] == [
            (1, "retry"),
            (2, "error"),
        ]

    async def test_a_task_sent_in_a_retried_one_is_its_child(self, depot: Depot) -> None:
        another = depot.broker.register_task(order, "depot.order")
        seen: list[TraceContext | None] = []

        async def send() -> None:
            seen.append(TraceContext.get())
            await another.kiq()
            raise HandlerError

        depot.broker.register_task(send, "depot.send")
        recorder = MemoryRecorder()
        with hooked(depot.broker, tracer=recorder):
            await depot.deliver({**RETRIED, **SENT}, "depot.send")
            await depot.receive()

        (run,) = seen
        assert run is not None
        assert [(span.name, span.outcome, span.parent_span_id) for span in recorder.spans] == [
            ("send depot.order", "ok", run.span_id),
            ("run depot.send", "retry", SENDER.span_id),
        ]

    async def test_what_only_looks_like_a_retry_is_a_child_of_the_task_that_sends_it(
        self, on_redis: Depot
    ) -> None:
        """The same id with another count, or the same count with another id."""
        recorder = MemoryRecorder()

        async def send(context: Running) -> None:
            for task_id, retries in ((context.message.task_id, 0), (uuid4().hex, 1)):
                labels = {"_retries": retries}
                kicker: AsyncKicker[Any, Any] = AsyncKicker("depot.order", on_redis.broker, labels)
                await kicker.with_task_id(task_id).kiq()

        on_redis.broker.register_task(send, "depot.send")
        with hooked(on_redis.broker, tracer=recorder):
            await on_redis.deliver(SENT, "depot.send")
            await on_redis.receive()

        *sent, run = recorder.spans
        assert (run.name, run.outcome) == ("run depot.send", "ok")
        assert [(span.name, span.parent_span_id) for span in sent] == [("send depot.order", run.span_id)] * 2

    async def test_counts_that_are_none_count_nothing(self, on_redis: Depot) -> None:
        recorder = MemoryRecorder()
        for value in ("many", [1], None, "-1", "9" * 50):
            with hooked(on_redis.broker, tracer=recorder):
                await on_redis.run(
                    lambda: None, {"traceparent": TRACEPARENT, "_retries": value, "X-Taskiq-requeue": value}
                )

        assert [span.attempt for span in recorder.spans] == [1] * 5


class TestSmartRetries:
    async def test_delayed_attempts_are_children_of_the_first_sender(self, on_redis: Depot) -> None:
        on_redis.broker.add_middlewares(SmartRetryMiddleware(default_delay=0))
        attempts = Attempts(on_redis, **RETRIED)
        await attempts.run(SENT)

        assert [span.parent_span_id for span in attempts.recorder.spans] == [SENDER.span_id] * 3
        assert [(span.attempt, span.outcome) for span in attempts.recorder.spans] == [
            (1, "retry"),
            (2, "retry"),
            (3, "ok"),
        ]
        assert [dict(context.baggage) for context in attempts.seen][1:] == [
            {"attempt": "1"},
            {"attempt": "2"},
        ]

    @pytest.mark.parametrize("labels", [SENT, {}], ids=["sent", "root"])
    async def test_attempts_that_a_schedule_keeps_stay_in_their_trace(
        self, on_redis: Depot, labels: dict[str, Any]
    ) -> None:
        """The scheduler sends them, with the baggage of the message."""
        source = Schedules()
        scheduler = TaskiqScheduler(on_redis.broker, [source])
        on_redis.broker.add_middlewares(SmartRetryMiddleware(default_delay=0, schedule_source=source))
        attempts = Attempts(on_redis, **RETRIED)
        with hooked(on_redis.broker, tracer=attempts.recorder):
            await on_redis.deliver({**RETRIED, **labels}, "depot.attempt")
            await on_redis.receive()
            for _ in range(2):
                await scheduler.on_ready(source, source.kept.pop())
                await on_redis.receive()

        runs = [span for span in attempts.recorder.spans if span.kind == "consumer"]
        assert [(span.attempt, span.outcome) for span in runs] == [(1, "retry"), (2, "retry"), (3, "ok")]
        first = SENDER.span_id if labels else runs[0].span_id
        assert [span.parent_span_id for span in runs[1:]] == [first] * 2
        assert len({span.trace_id for span in attempts.recorder.spans}) == 1


class Schedules(ScheduleSource):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.kept: list[ScheduledTask] = []

    async def get_schedules(self) -> list[ScheduledTask]:
        return self.kept

    async def add_schedule(self, schedule: ScheduledTask) -> None:
        self.kept.append(schedule)


class TestRequeue:
    @pytest.mark.parametrize("relation", ["child", "link", "root"])
    @pytest.mark.parametrize("labels", [SENT, {}], ids=["sent", "root"])
    async def test_a_requeued_message_is_a_further_attempt_in_its_trace(
        self, depot: Depot, labels: dict[str, Any], relation: str
    ) -> None:
        """T-01: although it passes no middleware on its way out; nothing fails, nothing is left."""
        attempts = Attempts(depot, requeue="yes")
        with TraceContext.use(TraceContext.new_root()) as before:
            await attempts.run(labels, relation=relation)
            assert TraceContext.get() is before

        assert [(span.attempt, span.outcome, span.error) for span in attempts.recorder.spans] == [
            (1, "retry", None),
            (2, "retry", None),
            (3, "ok", None),
        ]
        first, *further = attempts.seen
        parent = SENDER.span_id if labels and relation == "child" else first.span_id
        assert [context.parent_span_id for context in further] == [parent] * 2
        assert len({context.trace_id for context in attempts.seen}) == 1

    async def test_a_typed_label_does_not_lose_a_message_that_is_requeued(self, depot: Depot) -> None:
        """T-01, T-03: what is written into the labels has no type."""
        attempts = Attempts(depot, failures=1, requeue="yes", traceparent=7)
        with hooked(depot.broker, enabled=False):
            await attempts.task.kiq()
        with hooked(depot.broker, tracer=attempts.recorder):
            await depot.receive()
            await depot.receive()

        first, second = attempts.seen
        assert second.parent_span_id == first.span_id


class TestEndings:
    async def span_of(self, depot: Depot, task: Callable[..., Any], **labels: Any) -> Span:
        recorder = MemoryRecorder()
        depot.broker.register_task(task, "depot.task")
        with hooked(depot.broker, tracer=recorder), TraceContext.use(TraceContext.new_root()) as before:
            await depot.deliver({**SENT, **labels}, "depot.task")
            await depot.receive()
            assert TraceContext.get() is before
        (span,) = recorder.spans
        return span

    async def test_a_task_that_is_rejected(self, depot: Depot) -> None:
        async def reject(context: Running) -> None:
            context.reject()

        span = await self.span_of(depot, reject)

        assert (span.outcome, span.error) == ("rejected", "taskiq.exceptions.TaskRejectedError")

    async def test_a_task_without_a_result(self, depot: Depot) -> None:
        async def ignore() -> None:
            raise NoResultError

        span = await self.span_of(depot, ignore)

        assert (span.outcome, span.error) == ("ignored", None)

    async def test_a_task_that_takes_too_long(self, depot: Depot) -> None:
        async def wait() -> None:
            await asyncio.Event().wait()

        span = await self.span_of(depot, wait, timeout=0.01)

        assert (span.outcome, span.error) == ("error", "TimeoutError")

    async def test_a_dependency_that_fails(self, depot: Depot) -> None:
        async def broken() -> None:
            raise HandlerError

        async def use(thing: None = TaskiqDepends(broken)) -> None:
            """Run never."""

        span = await self.span_of(depot, use)

        assert (span.outcome, span.error) == ("error", "contract.receiving.HandlerError")

    async def test_a_task_that_is_cancelled(self, depot: Depot) -> None:
        recorder = MemoryRecorder()
        is_running = asyncio.Event()

        async def wait() -> None:
            is_running.set()
            await asyncio.Event().wait()

        depot.broker.register_task(wait, "depot.wait")
        with hooked(depot.broker, tracer=recorder):
            await depot.deliver(SENT, "depot.wait")
            receiving = asyncio.create_task(depot.receive())
            await is_running.wait()
            receiving.cancel()
            await asyncio.wait([receiving])

        assert [span.outcome for span in recorder.spans] == ["cancelled"]

    @pytest.mark.parametrize("hook", ["pre_execute", "on_error", "post_execute"])
    async def test_a_middleware_that_fails_does_not_keep_a_span_open(self, depot: Depot, hook: str) -> None:
        recorder = MemoryRecorder()

        def fail(*_: object) -> None:
            raise ZeroDivisionError

        async def fail_too() -> None:
            raise HandlerError

        depot.broker.register_task(fail_too, "depot.fail")
        depot.broker.add_middlewares(
            taskiq.TraceMiddleware(tracer=recorder), type("Broken", (TaskiqMiddleware,), {hook: fail})()
        )
        await depot.deliver(SENT, "depot.fail")
        with pytest.raises(ZeroDivisionError):
            await asyncio.create_task(depot.receive())
        await until(lambda: recorder.spans)

        assert [(span.outcome, span.parent_span_id) for span in recorder.spans] == [("error", SENDER.span_id)]

    async def test_messages_at_once_keep_to_themselves(self, depot: Depot) -> None:
        recorder = MemoryRecorder()
        all_run = asyncio.Event()
        running: dict[str, TraceContext | None] = {}
        seen: dict[str, TraceContext | None] = {}

        async def wait(key: str) -> None:
            running[key] = TraceContext.get()
            await all_run.wait()
            seen[key] = TraceContext.get()

        depot.broker.register_task(wait, "depot.wait")
        senders = {str(each): TraceContext.new_root() for each in range(5)}
        with hooked(depot.broker, tracer=recorder):
            async with working(depot.broker):
                for key, sender in senders.items():
                    await depot.deliver({"traceparent": sender.to_traceparent()}, "depot.wait", key)
                await until(lambda: len(running) == len(senders))
                all_run.set()
                await until(lambda: len(recorder.spans) == len(senders))

        assert seen == running
        assert {key: context and context.parent_span_id for key, context in seen.items()} == {
            key: sender.span_id for key, sender in senders.items()
        }


class TestReceiverTask:
    """In `run_receiver_task`, as an application runs it beside its own work."""

    @pytest.mark.parametrize("kind", ["async", "sync"])
    async def test_what_is_current_where_it_was_started_is_no_sender(self, depot: Depot, kind: str) -> None:
        seen: list[TraceContext | None] = []

        async def look() -> None:
            seen.append(TraceContext.get())

        def look_in_thread() -> None:
            seen.append(TraceContext.get())

        depot.broker.register_task(look if kind == "async" else look_in_thread, "depot.look")
        with hooked(depot.broker), TraceContext.use(TraceContext.new_root()) as ambient:
            async with working(depot.broker):
                for labels in ({}, {"traceparent": TRACEPARENT}, {}):
                    before = len(seen)
                    await depot.deliver(labels, "depot.look")
                    await until(lambda: len(seen) > before)  # noqa: B023 - awaited at once

        assert ambient is not None
        parents = [context and context.parent_span_id for context in seen]
        assert parents == [None, SENDER.span_id, None]
        assert len({context.trace_id for context in (*seen, ambient) if context}) == 4


class TestSchedules:
    async def test_each_tick_is_a_new_trace(self, on_redis: Depot) -> None:
        """Never the one that is current where the scheduler was started."""
        task = on_redis.broker.register_task(order, "depot.order", schedule=[{"interval": 1, "labels": {}}])
        source = LabelScheduleSource(on_redis.broker)
        await source.startup()
        (schedule,) = await source.get_schedules()
        scheduler = TaskiqScheduler(on_redis.broker, [source])
        recorder = MemoryRecorder()
        with hooked(on_redis.broker, tracer=recorder), TraceContext.use(TraceContext.new_root()) as context:
            for _ in range(3):
                await scheduler.on_ready(source, schedule)
            assert TraceContext.get() is context
        messages = [await on_redis.arrived() for _ in range(3)]

        assert context is not None
        assert len({span.trace_id for span in recorder.spans} | {context.trace_id}) == 4
        assert {(span.parent_span_id, span.is_scheduled) for span in recorder.spans} == {(None, True)}
        assert [message["labels"].keys() for message in messages] == [{"schedule_id", "traceparent"}] * 3
        assert "traceparent" not in task.labels

    async def test_a_running_scheduler_sends_in_a_trace_of_its_own(self, on_redis: Depot) -> None:
        task = on_redis.broker.register_task(order, "depot.order")
        source = Schedules()
        scheduler = TaskiqScheduler(on_redis.broker, [source])
        with hooked(on_redis.broker), TraceContext.use(TraceContext.new_root()) as context:
            await task.schedule_by_time(source, datetime.now(UTC))
            assert "traceparent" not in source.kept[0].labels
            running = asyncio.create_task(run_scheduler_task(scheduler))
            message = await on_redis.arrived()
            running.cancel()
            await asyncio.wait([running])

        assert context is not None
        sent = TraceContext.from_traceparent(message["labels"]["traceparent"])
        assert sent.trace_id != context.trace_id

    async def test_a_schedule_that_takes_the_context_by_hand_stays_in_its_trace(
        self, on_redis: Depot
    ) -> None:
        task = on_redis.broker.register_task(order, "depot.order")
        source = Schedules()
        scheduler = TaskiqScheduler(on_redis.broker, [source])
        recorder = MemoryRecorder()
        with hooked(on_redis.broker, tracer=recorder):
            with TraceContext.use(SENDER):
                kicker = task.kicker().with_labels(**taskiq.headers())
                await kicker.schedule_by_time(source, datetime.now(UTC))
            with TraceContext.use(TraceContext.new_root()):
                await scheduler.on_ready(source, source.kept.pop())
            message = await on_redis.arrived()

        (span,) = recorder.spans
        assert (span.trace_id, span.parent_span_id) == (SENDER.trace_id, SENDER.span_id)
        assert message["labels"]["traceparent"] == SENDER.to_traceparent()


class TestInMemory:
    """The broker for users' tests, which runs tasks in the caller's process."""

    @pytest.mark.parametrize("is_inplace", [True, False])
    async def test_a_task_is_a_child_of_its_caller(self, *, is_inplace: bool) -> None:
        recorder = MemoryRecorder()
        broker = InMemoryBroker(await_inplace=is_inplace)
        broker.add_middlewares(taskiq.TraceMiddleware(tracer=recorder))
        inner = broker.register_task(order, "inner")

        async def outer() -> None:
            await inner.kiq()

        with TraceContext.use(TraceContext.new_root()) as context:
            await broker.register_task(outer, "outer").kiq()
            assert TraceContext.get() is context
            await until(lambda: len(recorder.spans) == 4)
        await broker.shutdown()

        by_name = {span.name: span for span in recorder.spans}
        assert context is not None
        way = ["send outer", "run outer", "send inner", "run inner"]
        assert [by_name[name].parent_span_id for name in way] == [
            context.span_id,
            *(by_name[name].span_id for name in way[:-1]),
        ]
        assert {span.outcome for span in recorder.spans} == {"ok"}

    async def test_retries_in_place_end_one_after_the_other(self) -> None:
        recorder = MemoryRecorder()
        broker = InMemoryBroker(await_inplace=True)
        broker.add_middlewares(taskiq.TraceMiddleware(tracer=recorder), SimpleRetryMiddleware())

        async def fail() -> None:
            raise HandlerError

        with TraceContext.use(TraceContext.new_root()) as context:
            await broker.register_task(fail, "fail", retry_on_error=True, max_retries=3).kiq()
            assert TraceContext.get() is context
        await broker.shutdown()

        send = recorder.spans[-1]
        assert [(span.attempt, span.outcome, span.parent_span_id) for span in recorder.spans] == [
            (3, "error", send.span_id),
            (2, "retry", send.span_id),
            (1, "retry", send.span_id),
            (None, "ok", context and context.span_id),
        ]


class TestKeepingNothing:
    async def test_nothing_is_kept_of_what_is_done(self, on_redis: Depot) -> None:
        """Also in what was started meanwhile, such as the connection of a client, and lives on."""
        gc.freeze()
        go_on = asyncio.Event()
        left: list[asyncio.Task[bool]] = []

        async def start() -> None:
            left.append(asyncio.create_task(go_on.wait()))
            await on_redis.broker.register_task(order, "depot.order").kiq()

        on_redis.broker.register_task(start, "depot.start")
        with hooked(on_redis.broker, tracer=MemoryRecorder()):
            for _ in range(3):
                await on_redis.deliver(SENT, "depot.start")
                await on_redis.receive()
                await on_redis.arrived()
        gc.collect()
        of_taskiq = on_redis.broker.custom_dependency_context[Context].message  # of the last run
        kept = [each for each in gc.get_objects() if isinstance(each, TaskiqMessage)]
        go_on.set()
        await asyncio.gather(*left)

        assert [each for each in kept if each is not of_taskiq] == []

    async def test_an_asyncio_task_that_sends_and_runs_for_long_does_not_grow(self, on_redis: Depot) -> None:
        def ours() -> int:
            gc.collect()
            return len([each for each in gc.get_objects() if type(each).__module__ == taskiq.__name__])

        task = on_redis.broker.register_task(order, "depot.order")
        counts = []
        with hooked(on_redis.broker, tracer=MemoryRecorder()):
            for _ in range(3):
                for _ in range(5):
                    await task.kiq()
                    await on_redis.receive()
                counts.append(ours())

        assert counts == counts[:1] * 3


class OfOpenTelemetry(TaskiqMiddleware):
    """What taskiq's own middleware for OpenTelemetry does with labels; that one needs psutil besides."""

    def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
        propagate.inject(message.labels)
        return message

    def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        context_api.attach(propagate.extract(message.labels))
        return message


class TestOpenTelemetry:
    async def test_its_context_is_continued(self, on_redis: Depot) -> None:
        seen: list[TraceContext | None] = []

        async def look() -> None:
            seen.append(TraceContext.get())

        task = on_redis.broker.register_task(look, "depot.look")
        tracer = TracerProvider().get_tracer("test")
        with with_middleware(on_redis.broker, OfOpenTelemetry()), tracer.start_as_current_span("a") as span:
            await task.kiq()
        with hooked(on_redis.broker):
            await on_redis.receive()

        (context,) = seen
        assert context is not None
        assert int(context.trace_id, 16) == span.get_span_context().trace_id

    async def test_it_continues_our_context(self, on_redis: Depot) -> None:
        seen: list[tuple[int, object]] = []

        async def look() -> None:
            trace_id = get_current_span().get_span_context().trace_id
            seen.append((trace_id, baggage.get_baggage("tenant")))

        task = on_redis.broker.register_task(look, "depot.look")
        with hooked(on_redis.broker), TraceContext.use(full_context()) as context:
            await task.kiq()
        with with_middleware(on_redis.broker, OfOpenTelemetry()):
            await asyncio.create_task(on_redis.receive())

        assert context is not None
        assert seen == [(int(context.trace_id, 16), "acme")]


@contextlib.contextmanager
def with_middleware(broker: AsyncBroker, middleware: TaskiqMiddleware) -> Iterator[None]:
    broker.add_middlewares(middleware)
    yield
    broker.middlewares.remove(middleware)


class Branch:
    """A worker in processes of its own, and a broker in this process that sends it tasks."""

    def __init__(self, system: str, address: str, folder: Path) -> None:
        self._system = system
        self.record = folder / "spans.jsonl"
        self._notes = folder / "notes.jsonl"
        self.environment = {
            **os.environ,
            "SHOP_SYSTEM": system,
            "SHOP_ADDRESS": address,
            "SHOP_QUEUE": f"shop-{uuid4().hex}",
            "SHOP_NOTES": str(self._notes),
            "SPAKKY_TRACING_RECORD": str(self.record),
        }
        self._worker: Guarded | None = None

    @contextlib.contextmanager
    def open(self, *options: str) -> Iterator[Branch]:
        apps = Path(__file__).parent / "taskiq_apps"
        command = [sys.executable, "-m", "taskiq", "worker", "shop:broker", "--app-dir", str(apps)]
        with Guarded() as guarded:
            self._worker = guarded
            guarded.start("worker", [*command, "--workers", "1", *options], self.environment)
            yield self
        if self._system == "redis":
            with redis.Redis.from_url(self.environment["SHOP_ADDRESS"]) as client:
                client.delete(self.environment["SHOP_QUEUE"])

    async def send(self, task: str, **labels: Any) -> tuple[str, TraceContext]:
        """Send a task in a trace of its own; return its id and the trace."""
        recorder = JsonLinesRecorder(self.record, process="sender")
        broker = broker_of(self.environment)
        await broker.startup()
        kicker: AsyncKicker[Any, Any] = AsyncKicker(f"shop:{task}", broker, labels)
        with hooked(broker, tracer=recorder), TraceContext.use(TraceContext.new_root()) as context:
            sent = await kicker.kiq()
        await broker.shutdown()
        recorder.close()
        assert context is not None
        return sent.task_id, context

    def notes(self, task_id: str, count: int = 1) -> list[dict[str, Any]]:
        """Return what a task has noted in each attempt."""
        return self._wait(lambda: [note for note in read_notes(self._notes) if note["id"] == task_id], count)

    def spans(self, trace: TraceContext, count: int) -> list[Span]:
        """Return the recorded spans of a trace, of all processes."""
        return self._wait(lambda: [s for s in read_spans(self.record) if s.trace_id == trace.trace_id], count)

    def _wait(self, look: Callable[[], list[Any]], count: int) -> list[Any]:
        assert self._worker is not None
        deadline = time.monotonic() + 2 * PATIENCE
        while len(found := look()) < count:
            assert time.monotonic() < deadline, self._worker.log("worker")
            time.sleep(0.02)
        return found


@pytest.fixture(scope="module", params=["rabbitmq", "redis"])
def branch(
    request: pytest.FixtureRequest, amqp_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Branch]:
    address = amqp_url if request.param == "rabbitmq" else redis_url
    with Branch(request.param, address, tmp_path_factory.mktemp("shop")).open() as branch:
        yield branch


@pytest.fixture(scope="module")
def branch_with_process_pool(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Branch]:
    with Branch("redis", redis_url, tmp_path_factory.mktemp("pool")).open("--use-process-pool") as branch:
        yield branch


class TestWorkerProcess:
    @pytest.mark.parametrize("task", ["look", "look_in_thread"])
    async def test_a_task_runs_in_the_trace_of_its_sender(self, branch: Branch, task: str) -> None:
        task_id, trace = await branch.send(task)
        sent, run = sorted(branch.spans(trace, 2), key=lambda span: span.start_unix_nano)
        (note,) = branch.notes(task_id)

        assert (note["trace_id"], note["span_id"]) == (trace.trace_id, run.span_id)
        assert (sent.parent_span_id, run.parent_span_id) == (trace.span_id, sent.span_id)
        assert (sent.outcome, run.outcome) == ("ok", "ok")
        assert note["pid"] == run.process_id != sent.process_id

    async def test_a_task_that_starts_another_passes_its_context_on(self, branch: Branch) -> None:
        _, trace = await branch.send("starts_another")
        spans = branch.spans(trace, 4)

        by_name = {(span.name, span.parent_span_id): span for span in spans}
        send = by_name["send shop:starts_another", trace.span_id]
        run = by_name["run shop:starts_another", send.span_id]
        assert ("run shop:look", by_name["send shop:look", run.span_id].span_id) in by_name

    async def test_attempts_are_siblings_in_the_trace_of_the_sender(self, branch: Branch) -> None:
        """C-10: over real deliveries."""
        task_id, trace = await branch.send("fails_twice", retry_on_error=True, max_retries=5)
        notes = branch.notes(task_id, 3)
        sent, *runs = sorted(branch.spans(trace, 4), key=lambda span: span.start_unix_nano)

        assert [(span.attempt, span.outcome, span.parent_span_id) for span in runs] == [
            (1, "retry", sent.span_id),
            (2, "retry", sent.span_id),
            (3, "ok", sent.span_id),
        ]
        assert [note["span_id"] for note in notes] == [span.span_id for span in runs]

    async def test_a_requeued_message_stays_in_its_trace(self, branch: Branch) -> None:
        """T-01: over real deliveries."""
        _, trace = await branch.send("requeues_once")
        sent, *runs = sorted(branch.spans(trace, 3), key=lambda span: span.start_unix_nano)

        assert [(span.attempt, span.outcome, span.parent_span_id) for span in runs] == [
            (1, "retry", sent.span_id),
            (2, "ok", sent.span_id),
        ]


class TestProcessPool:
    async def test_a_dependency_takes_the_context_there(self, branch_with_process_pool: Branch) -> None:
        """Also the second time, in a process that was forked while the first task ran."""
        for _ in range(2):
            task_id, trace = await branch_with_process_pool.send("look_in_process")
            spans = branch_with_process_pool.spans(trace, 2)
            sent, run = sorted(spans, key=lambda span: span.start_unix_nano)
            (note,) = branch_with_process_pool.notes(task_id)

            assert (note["trace_id"], note["span_id"]) == (trace.trace_id, run.span_id)
            assert (run.parent_span_id, run.outcome) == (sent.span_id, "ok")
            assert note["pid"] != run.process_id
