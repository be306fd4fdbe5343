"""Celery on real brokers, with real workers in threads of this process.

Signals are global to a process, so messages that must not meet a hook are published by the bare client, and
an app is hooked only while a test needs it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import subprocess
import sys
import threading
from collections import Counter
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import uuid4

import pytest
from celery import Celery, Task, current_app, group, shared_task, signals
from celery.exceptions import Ignore, Reject
from celery.worker.request import Request
from kombu.entity import Queue
from kombu.exceptions import EncodeError, OperationalError

from brokers.ports import free_port
from contract.contexts import STALE, TRACEPARENT
from contract.fitting import FittingContract
from contract.receiving import SENDER, HandlerError, SyncReceivingContract
from contract.sending import SendingContract, Wire
from integrations.celery_office import (
    OWN_HEADERS,
    PATIENCE,
    SETTLE,
    Desk,
    Office,
    hooked,
    new_app,
    open_desk,
    task,
    wait_until,
)
from spakky.tracing.baggage import Baggage
from spakky.tracing.boundaries.process import Processing
from spakky.tracing.boundaries.publish import Publishing
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.integrations import celery
from spakky.tracing.recorder import MemoryRecorder, read_spans
from spakky.tracing.switch import switch
from spakky.tracing.w3c_propagator import W3CTracePropagator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from spakky.tracing.recorder import Span
    from spakky.tracing.tracer import Operation

HOOKED_SIGNALS = (
    signals.before_task_publish,
    signals.after_task_publish,
    signals.task_prerun,
    signals.task_postrun,
)


class Keeper(logging.Handler):
    """Keeps the errors of a log."""

    def __init__(self, kept: list[logging.LogRecord]) -> None:
        super().__init__(logging.ERROR)
        self._kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        self._kept.append(record)


@pytest.fixture(autouse=True)
def no_signal_handler_fails() -> Iterator[None]:
    """Celery logs what a receiver raises, and goes on."""
    failures: list[logging.LogRecord] = []
    handler = Keeper(failures)
    logger = logging.getLogger("celery.utils.dispatch")
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    assert [record.getMessage() for record in failures] == []


@pytest.fixture(autouse=True)
def no_hook_stays() -> Iterator[None]:
    before = receivers()
    yield
    wait_until(lambda: receivers() == before, "this test left a receiver on a signal")


@pytest.fixture(scope="module")
def rabbitmq_desk(amqp_url: str) -> Iterator[Desk]:
    with open_desk(amqp_url) as desk:
        yield desk


@pytest.fixture(scope="module")
def redis_desk(redis_url: str) -> Iterator[Desk]:
    with open_desk(redis_url) as desk:
        yield desk


@pytest.fixture(scope="class")
def office(request: pytest.FixtureRequest, amqp_url: str) -> Iterator[Office]:
    """A worker on RabbitMQ for each class, as it wants it; a process has room for one at a time."""
    with Office(amqp_url, **getattr(request.cls, "worker", {})).open() as office:
        yield office


@pytest.fixture(scope="class")
def redis_office(redis_url: str) -> Iterator[Office]:
    with Office(redis_url).open() as office:
        yield office


@pytest.fixture
def desk(rabbitmq_desk: Desk) -> Iterator[Desk]:
    with rabbitmq_desk.with_new_mailbox() as desk:
        yield desk


def alive(kind: type) -> int:
    """Return how many instances of *kind* there are."""
    gc.collect()
    return len([each for each in gc.get_objects() if isinstance(each, kind)])


def receivers() -> list[int]:
    """Return how many receivers each signal has."""
    return [len(signal.receivers or []) for signal in HOOKED_SIGNALS]


def arrived(desk: Desk) -> dict[str, Any]:
    """Return the user's headers of the next message as they are on the wire."""
    headers = desk.mailbox.message().headers
    return {name: value for name, value in headers.items() if name not in OWN_HEADERS}


class TestSending(SendingContract):
    ways = ["delay", "apply_async", "send_task", "signature", "group", "protocol 1", "headers"]
    recorded_ways = ["delay", "apply_async", "send_task", "signature", "group", "protocol 1"]
    foreign = {
        "a": "text",
        "b": 7,
        "c": [1, "two"],
        "d": {"nested": "table"},
        "e": None,
        "f": True,
        "g": b"\x00\xff",
        "headers": {"of": "another tool"},
    }

    @pytest.fixture(autouse=True)
    def _on(self, desk: Desk) -> None:
        self.desk = desk

    async def send(self, way: str, headers: Any, *, item: object = 1, **options: Any) -> None:
        order, app = self.desk.order, self.desk.app
        if way == "headers":
            order.apply_async((item,), headers=celery.headers(headers, **options))
            return
        with hooked(self.desk.old_app if way == "protocol 1" else app, **options):
            if way == "delay":
                (order.s(item).set(headers=headers) if headers else order.s(item)).delay()
            elif way == "apply_async":
                order.apply_async((item,), headers=headers)
            elif way == "send_task":
                app.send_task("registered.nowhere", (item,), headers=headers)
            elif way == "signature":
                app.signature("registered.nowhere", (item,)).apply_async(headers=headers)
            elif way == "group":
                group(order.s(item)).apply_async(headers=headers)
            else:
                self.desk.old_app.send_task("registered.nowhere", (item,), headers=headers)

    async def arrived(self) -> Wire:
        return {name: [value] for name, value in arrived(self.desk).items()}

    def native(self, headers: dict[str, str]) -> dict[str, str]:
        return dict(headers)

    async def fail_to_send(self, way: str, **options: Any) -> BaseException:
        """Send what cannot be serialised; the hook is taken off afterwards, which ends its span."""
        with pytest.raises(EncodeError) as raised:
            await self.send(way, None, item=object(), **options)
        return raised.value


class TestSendingOnRedis(TestSending):
    ways = ["apply_async", "headers"]
    recorded_ways = ["apply_async"]

    @pytest.fixture(autouse=True)
    def _on(self, redis_desk: Desk) -> Iterator[None]:
        with redis_desk.with_new_mailbox() as self.desk:
            yield


class TestFitting(FittingContract):
    """No signal tells that a message goes over AMQP, so the headers of all fit into a frame of RabbitMQ."""

    fitting_ways = ["apply_async", "send_task"]
    largest = 130_590

    @pytest.fixture(autouse=True)
    def _on(self, desk: Desk) -> None:
        self.desk = desk

    async def send_filled(self, way: str, filling: int, **options: Any) -> None:
        headers = {"filling": "x" * filling}
        with hooked(self.desk.app, **options):
            if way == "apply_async":
                self.desk.order.apply_async(headers=headers)
            else:
                self.desk.app.send_task("desk.order", headers=headers)

    async def arrived(self) -> Wire:
        return {name: [value] for name, value in arrived(self.desk).items()}


class TestReceiving(SyncReceivingContract):
    """In a pool of one thread: Celery's solo worker itself ends when a task raises a `BaseException`."""

    ways = ["protocol 2", "protocol 1"]
    sees_errors = ways
    hostile_values = [
        "",
        b"\xff\xfe",
        "00-bad",
        "x" * 40_000,
        None,
        5,
        True,
        1.5,
        [TRACEPARENT],
        {"traceparent": TRACEPARENT},
        f"{TRACEPARENT}\n",
    ]

    @pytest.fixture(autouse=True)
    def _on(self, office: Office) -> None:
        self.office = office

    async def receive(
        self, way: str, headers: dict[str, Any], body: Callable[[], None], **options: Any
    ) -> None:
        with self.office.ambient(), hooked(self.office.app, **options):
            self.office.run(body, headers, protocol=int(way[-1]))


class TestReceivingOnRedis(TestReceiving):
    ways = ["protocol 2"]
    sees_errors = ways

    @pytest.fixture(autouse=True)
    def _on(self, redis_office: Office) -> None:
        self.office = redis_office


class TestHooking:
    def test_hooking_twice_is_hooking_once(self, desk: Desk) -> None:
        """A-13, T-02: one traceparent, one span."""
        before, recorder = receivers(), MemoryRecorder()

        celery.install(desk.app, tracer=recorder)
        celery.install(desk.app, tracer=recorder)
        desk.order.delay()
        hooks = [now - then for now, then in zip(receivers(), before, strict=True)]
        celery.uninstall(desk.app)

        assert hooks == [1, 1, 1, 1]
        assert len(recorder.spans) == 1
        assert list(arrived(desk)) == ["traceparent"]

    def test_hooking_again_replaces_the_options(self, desk: Desk) -> None:
        celery.install(desk.app, enabled=False)
        with hooked(desk.app):
            desk.order.delay()

        assert list(arrived(desk)) == ["traceparent"]

    def test_an_app_that_is_unhooked_is_as_it_was(self) -> None:
        """A-13: nothing is left."""
        app = Celery("plain", set_as_current=False)
        before, attributes = receivers(), dict(vars(app))

        with hooked(app):
            pass
        celery.uninstall(app)

        assert receivers() == before
        assert vars(app) == attributes

    def test_an_app_that_is_unhooked_sends_as_before(self, desk: Desk) -> None:
        """A-13: without a context."""
        with hooked(desk.app):
            pass
        with TraceContext.use(TraceContext.new_root()):
            desk.order.delay()

        assert arrived(desk) == {}

    def test_an_app_that_is_gone_takes_its_hook_along(self, desk: Desk) -> None:
        app = Celery("gone", set_as_current=False)
        celery.install(app)
        del app
        gc.collect()

        desk.order.delay()
        assert arrived(desk) == {}
        with hooked(desk.app):
            pass

    def test_a_proxy_stands_for_its_app(self, desk: Desk) -> None:
        desk.app.set_current()
        proxy: Any = current_app
        with hooked(proxy):
            Celery("another").set_current()
            celery.install(desk.app)
            desk.order.delay()
            celery.uninstall(desk.app)

        assert list(arrived(desk)) == ["traceparent"]

    def test_what_is_no_app_is_refused(self) -> None:
        for hook in (celery.install, celery.uninstall):
            with pytest.raises(WrongUseError, match="this takes a Celery application, got str"):
                hook("shop")  # type: ignore[arg-type]

    def test_what_is_no_request_is_refused(self) -> None:
        with pytest.raises(WrongUseError, match="this takes a received Context, got dict"):
            celery.context_from({})  # type: ignore[arg-type]

    def test_a_request_tells_the_context_of_its_sender(self, office: Office) -> None:
        seen: list[TraceContext | None] = []
        done = threading.Event()

        def body(self: Task) -> None:
            seen.append(celery.context_from(self.request))
            done.set()

        office.deliver(office.take(body), {"traceparent": TRACEPARENT})

        assert done.wait(PATIENCE)
        assert seen == [SENDER]

    def test_a_task_that_runs_while_its_app_is_unhooked_ends_as_it_began(self, office: Office) -> None:
        recorder = MemoryRecorder()
        seen: list[TraceContext | None] = []

        def unhook() -> None:
            celery.uninstall(office.app)
            seen.append(TraceContext.get())

        before = receivers()
        with office.ambient():
            celery.install(office.app, tracer=recorder)
            office.run(unhook, {"traceparent": TRACEPARENT})

        assert [context and context.trace_id for context in seen] == [SENDER.trace_id]
        assert [span.outcome for span in recorder.spans] == ["ok"]
        assert receivers() == before
        assert TraceContext.get() is None


class TestTwoApps:
    def test_outside_of_tasks_the_options_of_the_app_hooked_last_count(self, desk: Desk) -> None:
        with hooked(desk.app), hooked(desk.old_app, enabled=False):
            desk.order.delay()
        with hooked(desk.old_app, enabled=False), hooked(desk.app):
            desk.order.delay()

        assert [list(arrived(desk)) for _ in range(2)] == [[], ["traceparent"]]

    def test_in_a_task_the_options_of_its_app_count(self, desk: Desk, office: Office) -> None:
        with hooked(office.app), hooked(desk.app, enabled=False):
            context = office.run(lambda: (desk.order.delay(), TraceContext.get())[1])

        assert arrived(desk) == {"traceparent": context.to_traceparent()}

    def test_a_task_of_an_app_that_is_not_hooked_runs_as_without_a_hook(
        self, desk: Desk, office: Office
    ) -> None:
        with office.ambient(), hooked(desk.app):
            seen = office.run(TraceContext.get, {"traceparent": TRACEPARENT})

        assert seen is None

    def test_a_shared_task_runs_once_for_each_app(self) -> None:
        seen: list[tuple[str, TraceContext | None]] = []

        name = f"shared-{uuid4().hex}"

        @shared_task(name=name, bind=True)  # type: ignore[untyped-decorator]
        def look(self: Task) -> None:
            seen.append((self.app.main, TraceContext.get()))

        apps = [Celery(name, set_as_current=False) for name in ("a", "b")]
        recorders = [MemoryRecorder(), MemoryRecorder()]
        with hooked(apps[0], tracer=recorders[0]), hooked(apps[1], tracer=recorders[1]):
            for app in (*apps, apps[0]):
                app.tasks[name].apply()

        assert [main for main, _ in seen] == ["a", "b", "a"]
        assert len({context.trace_id for _, context in seen if context}) == 3
        assert [len(recorder.spans) for recorder in recorders] == [2, 1]


class TestChoosing:
    @pytest.mark.parametrize("relation", ["child", "link", "root"])
    def test_a_relation_can_be_set_by_the_name_of_a_task_or_by_a_function(
        self, office: Office, relation: Any
    ) -> None:
        choices: list[Any] = [{"office.call": relation, "another": "child"}, lambda request: relation]
        for choice in choices:
            recorder = MemoryRecorder()
            with hooked(office.app, relation=choice, tracer=recorder):
                context = office.run(TraceContext.get, {"traceparent": TRACEPARENT, "baggage": "tenant=acme"})
                office.settle()

            span = next(span for span in recorder.spans if span.span_id == context.span_id)
            assert (context.trace_id == SENDER.trace_id) is (relation == "child")
            assert [link.span_id for link in span.links] == ([SENDER.span_id] if relation == "link" else [])
            assert dict(context.baggage) == ({} if relation == "root" else {"tenant": "acme"})

    def test_a_task_can_be_switched_off_by_its_name(self, desk: Desk, office: Office) -> None:
        with hooked(desk.app, enabled={"desk.order": False}):
            desk.order.delay()
            desk.app.send_task("desk.another")
        with office.ambient(), hooked(office.app, enabled={"office.call": False}):
            seen = office.run(TraceContext.get, {"traceparent": TRACEPARENT})

        assert [list(arrived(desk)) for _ in range(2)] == [[], ["traceparent"]]
        assert seen is None

    def test_a_choice_by_task_is_more_exact_than_one_by_queue(self, desk: Desk, office: Office) -> None:
        orders, calls = desk.mailbox.queue.name, office.app.conf.task_default_queue
        with hooked(desk.app, enabled={orders: False, "desk.order": True}):
            desk.order.delay()
            desk.app.send_task("desk.another")
        with hooked(office.app, enabled={calls: False, "office.call": True}):
            seen = office.run(TraceContext.get, {"traceparent": TRACEPARENT})

        assert [list(arrived(desk)) for _ in range(2)] == [["traceparent"], []]
        assert seen.parent_span_id == SENDER.span_id

    def test_everything_can_be_switched_off(self, desk: Desk) -> None:
        with hooked(desk.app), TraceContext.use(TraceContext.new_root()):
            switch(on=False)
            try:
                desk.order.delay()
            finally:
                switch(on=True)

        assert arrived(desk) == {}


class TestHeaders:
    def test_headers_that_are_nested_once_more_do_not_contradict(self, desk: Desk) -> None:
        nested = {"traceparent": STALE, "sentry-trace": "1"}
        with hooked(desk.app), TraceContext.use(TraceContext.new_root()) as context:
            desk.order.apply_async(headers={"headers": nested})

        assert context is not None
        wire = arrived(desk)
        assert wire == {"traceparent": context.to_traceparent(), "headers": {"sentry-trace": "1"}}
        assert nested == {"traceparent": STALE, "sentry-trace": "1"}

    def test_nested_headers_do_not_hide_those_at_the_top(self, office: Office) -> None:
        with hooked(office.app):
            context = office.run(
                TraceContext.get, {"traceparent": TRACEPARENT, "headers": {"traceparent": STALE}}
            )

        assert context.trace_id == SENDER.trace_id

    def test_only_nested_headers_are_read_too(self, office: Office) -> None:
        with hooked(office.app):
            context = office.run(TraceContext.get, {"headers": {"traceparent": TRACEPARENT}})

        assert context.trace_id == SENDER.trace_id

    def test_fields_of_celery_are_no_headers_for_a_propagator(self, office: Office) -> None:
        """C-22: it sees all headers, and nothing else."""
        seen: list[list[str]] = []

        class Nosy(W3CTracePropagator):
            def extract(self, carrier: Any, getter: Any = None) -> TraceContext | None:
                seen.append(sorted(getter.keys(carrier)))
                return None

        with hooked(office.app, propagator=Nosy()):
            office.run(lambda: None, {"app": "1", "uber-trace-id": "x"})

        assert seen == [["app", "uber-trace-id"]]

    def test_every_message_from_outside_any_trace_starts_a_trace(self, desk: Desk) -> None:
        """C-18: as beat sends them."""
        with hooked(desk.app):
            for _ in range(3):
                desk.app.send_task("tick", headers={"celery_beat_task": True})

        wires = [arrived(desk) for _ in range(3)]
        assert len({wire["traceparent"][3:35] for wire in wires}) == 3
        assert all(wire["celery_beat_task"] for wire in wires)

    def test_a_task_of_a_name_that_nobody_knows_is_sent_like_any_other(self, desk: Desk) -> None:
        """C-02: nothing waits for the garbage collector."""
        recorder, before = MemoryRecorder(), alive(Publishing)
        gc.disable()
        try:
            with hooked(desk.app, tracer=recorder):
                desk.app.send_task("is.unknown")
                assert [span.outcome for span in recorder.spans] == ["ok"]
        finally:
            gc.enable()

        assert list(arrived(desk)) == ["traceparent"]
        assert alive(Publishing) == before

    def test_publishing_from_many_threads_does_not_mix(self, desk: Desk) -> None:
        sent: list[str] = []

        def publish() -> None:
            for _ in range(10):
                with TraceContext.use(TraceContext.new_root()) as context:
                    desk.order.delay()
                assert context is not None
                sent.append(context.to_traceparent())

        threads = [threading.Thread(target=publish) for _ in range(8)]
        with hooked(desk.app):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        assert sorted(arrived(desk)["traceparent"] for _ in range(80)) == sorted(sent)

    def test_a_recorded_send_names_the_task_and_its_queue(self, desk: Desk) -> None:
        recorder = MemoryRecorder()
        with hooked(desk.app, tracer=recorder):
            desk.order.delay()

        (span,) = recorder.spans
        assert (span.name, span.destination) == ("send desk.order", desk.mailbox.queue.name)


@pytest.fixture
def cut_off() -> Iterator[Celery]:
    """An application whose broker is down."""
    app = new_app(f"amqp://127.0.0.1:{free_port()}//", Queue("nowhere"))
    app.conf.broker_transport_options = {"max_retries": 1, "interval_start": 0, "interval_step": 0}
    yield app
    app.close()


def send_in_vain(app: Celery) -> None:
    with pytest.raises(OperationalError):
        app.send_task("registered.nowhere")


class CountingTracer:
    """Counts how often each span ends, which is once."""

    def __init__(self) -> None:
        self.ends: Counter[str] = Counter()

    def start(self, operation: Operation) -> CountedSpan:
        return CountedSpan(self, operation.context)


class CountedSpan:
    def __init__(self, tracer: CountingTracer, context: TraceContext) -> None:
        self.context = context
        self._tracer = tracer

    def end(self, outcome: str, error: BaseException | None = None) -> None:
        self._tracer.ends[self.context.span_id] += 1


class TestFailedPublishing:
    """Celery sends no signal when publishing fails: the next thing that happens tells."""

    def test_the_context_stays_and_no_state_grows(self, cut_off: Celery) -> None:
        """C-01: nothing is left of them, on the task or elsewhere."""
        recorder, before = MemoryRecorder(), alive(Publishing)
        with hooked(cut_off, tracer=recorder), TraceContext.use(TraceContext.new_root()) as context:
            for _ in range(30):
                send_in_vain(cut_off)
                assert TraceContext.get() is context
            assert alive(Publishing) == before + 1

        assert alive(Publishing) == before
        assert [span.outcome for span in recorder.spans] == ["error"] * 30

    def test_the_next_publishing_ends_it_as_an_error(self, desk: Desk, cut_off: Celery) -> None:
        recorder = MemoryRecorder()
        with hooked(desk.app, tracer=recorder):
            send_in_vain(cut_off)
            assert list(recorder.spans) == []
            desk.order.delay()
            assert [span.outcome for span in recorder.spans] == ["error", "ok"]

    def test_the_next_task_ends_it_as_an_error(self, cut_off: Celery) -> None:
        recorder = MemoryRecorder()

        @task(cut_off)
        def look() -> list[str]:
            return [span.outcome for span in recorder.spans]

        with hooked(cut_off, tracer=recorder):
            send_in_vain(cut_off)
            assert look.apply().get() == ["error"]

    def test_the_end_of_the_task_that_published_ends_it_as_an_error(
        self, office: Office, cut_off: Celery
    ) -> None:
        recorder = MemoryRecorder()
        with office.ambient(), hooked(office.app, tracer=recorder):
            office.run(lambda: send_in_vain(cut_off))

        assert [(span.kind, span.outcome) for span in recorder.spans] == [
            ("producer", "error"),
            ("consumer", "ok"),
        ]

    def test_the_end_of_its_thread_ends_it_as_an_error(self, cut_off: Celery) -> None:
        recorder = MemoryRecorder()
        with hooked(cut_off, tracer=recorder):
            thread = threading.Thread(target=send_in_vain, args=[cut_off])
            thread.start()
            thread.join()
            assert [span.outcome for span in recorder.spans] == ["error"]

    async def test_asyncio_tasks_that_inherit_it_end_it_once(self, cut_off: Celery) -> None:
        tracer = CountingTracer()

        async def publish() -> None:
            send_in_vain(cut_off)

        with hooked(cut_off, tracer=tracer):
            send_in_vain(cut_off)
            await asyncio.gather(*(asyncio.create_task(publish()) for _ in range(3)))
            await asyncio.sleep(0)
            gc.collect()

        assert sorted(tracer.ends.values()) == [1] * 4

    def test_the_end_of_the_program_ends_it_as_an_error(self, tmp_path: Path) -> None:
        program = (
            "from celery import Celery\n"
            "from spakky.tracing.integrations import celery\n"
            f"app = Celery(broker='amqp://127.0.0.1:{free_port()}//')\n"
            "app.conf.broker_transport_options = {'max_retries': 1, 'interval_start': 0}\n"
            "celery.install(app)\n"
            "app.send_task('registered.nowhere', retry=False)\n"
        )
        record = tmp_path / "spans.jsonl"
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "SPAKKY_TRACING_RECORD": str(record)},
            capture_output=True,
            text=True,
            check=False,
        )

        assert "OperationalError" in done.stderr
        assert [span.outcome for span in read_spans(record)] == ["error"]

    def test_one_that_is_not_recorded_leaves_nothing_open(self, cut_off: Celery) -> None:
        before = alive(Publishing)
        with hooked(cut_off):
            send_in_vain(cut_off)
            assert alive(Publishing) == before


class Attempts:
    """Runs one task of an office until it has made all its attempts."""

    def __init__(self, office: Office, count: int = 3) -> None:
        self._office = office
        self._count = count
        self.contexts: list[TraceContext] = []
        self.headers: list[dict[str, Any]] = []
        self._done = threading.Event()

    def make(self, headers: dict[str, Any], *, protocol: int = 2) -> None:
        self._office.deliver(self._office.take(self._attempt), headers, protocol=protocol)
        assert self._done.wait(PATIENCE)
        self._office.settle()

    def _attempt(self, running: Task) -> None:
        context = TraceContext.get()
        assert context is not None
        self.contexts.append(context)
        self.headers.append(dict(running.request.headers or {}))
        if running.request.retries + 1 < self._count:
            count = str(running.request.retries + 1)
            TraceContext.set(context.child().with_baggage(Baggage({"attempts": count})))
            raise running.retry(exc=LookupError("not there"), countdown=0)
        self._done.set()


def run_spans(recorder: MemoryRecorder) -> list[Span]:
    """Return the spans of what tests let run, without those of an office that settles."""
    return [span for span in recorder.spans if span.kind == "consumer" and span.name != f"run {SETTLE}"]


class TestRetries:
    def test_all_attempts_are_children_of_the_first_sender(self, office: Office) -> None:
        """C-10: siblings, none below another."""
        attempts, recorder = Attempts(office), MemoryRecorder()
        with hooked(office.app, tracer=recorder):
            attempts.make({"traceparent": TRACEPARENT, "tracestate": "a=1", "baggage": "attempts=0"})

        assert {context.trace_id for context in attempts.contexts} == {SENDER.trace_id}
        assert [context.parent_span_id for context in attempts.contexts] == [SENDER.span_id] * 3
        assert [context.trace_state.to_header() for context in attempts.contexts] == ["a=1"] * 3
        assert len({context.span_id for context in attempts.contexts}) == 3

    def test_each_attempt_is_recorded_with_its_number_and_how_it_ended(self, office: Office) -> None:
        """C-10: told apart by their numbers."""
        recorder = MemoryRecorder()
        with hooked(office.app, tracer=recorder):
            Attempts(office).make({"traceparent": TRACEPARENT})

        spans = run_spans(recorder)
        assert [span.attempt for span in spans] == [1, 2, 3]
        assert [span.outcome for span in spans] == ["retry", "retry", "ok"]
        assert [span.error for span in spans] == ["LookupError", "LookupError", None]
        assert [span for span in recorder.spans if span.kind == "producer"] == []

    def test_baggage_is_as_it_is_at_the_time_of_the_retry(self, office: Office) -> None:
        """C-09: what was taken out does not come back."""
        attempts = Attempts(office)
        with hooked(office.app):
            attempts.make({"traceparent": TRACEPARENT, "baggage": "attempts=0,old=1"})

        assert [dict(context.baggage) for context in attempts.contexts] == [
            {"attempts": "0", "old": "1"},
            {"attempts": "1"},
            {"attempts": "2"},
        ]

    def test_headers_neither_grow_nor_get_lost(self, office: Office) -> None:
        """C-16: attempt after attempt."""
        attempts = Attempts(office, 6)
        with hooked(office.app):
            attempts.make({"traceparent": TRACEPARENT, "baggage": "attempts=0", "app": "1"})

        assert {len(json.dumps(headers)) for headers in attempts.headers} == {
            len(json.dumps(attempts.headers[0]))
        }
        assert [headers["app"] for headers in attempts.headers] == ["1"] * 6

    def test_baggage_that_is_dropped_stays_away(self, office: Office) -> None:
        """C-09: the second attempt has none."""
        seen: list[TraceContext | None] = []
        done = threading.Event()

        def body(self: Task) -> None:
            context = TraceContext.get()
            assert context is not None
            seen.append(context)
            if self.request.retries == 0:
                TraceContext.set(context.with_baggage(Baggage()))
                raise self.retry(countdown=0)
            done.set()

        with hooked(office.app):
            office.deliver(office.take(body), {"traceparent": TRACEPARENT, "baggage": "tenant=acme"})
            assert done.wait(PATIENCE)
            office.settle()

        assert [dict(context.baggage) for context in seen if context] == [{"tenant": "acme"}, {}]

    def test_nested_headers_do_not_lose_the_first_sender(self, office: Office) -> None:
        attempts = Attempts(office)
        with hooked(office.app):
            attempts.make({"traceparent": TRACEPARENT, "headers": {"sentry-trace": "1"}})

        assert [context.parent_span_id for context in attempts.contexts] == [SENDER.span_id] * 3
        assert [headers["sentry-trace"] for headers in attempts.headers] == ["1"] * 3

    @pytest.mark.parametrize("options", [{}, {"keep": True}], ids=str)
    @pytest.mark.parametrize("relation", ["link", "root"])
    def test_further_attempts_stay_in_the_trace_that_the_first_one_started(
        self, office: Office, relation: Any, options: Any
    ) -> None:
        attempts = Attempts(office)
        with hooked(office.app, relation=relation, **options):
            attempts.make({"traceparent": TRACEPARENT})

        first, *further = attempts.contexts
        assert first.trace_id != SENDER.trace_id
        assert {context.trace_id for context in further} == {first.trace_id}
        assert [context.parent_span_id for context in further] == [first.span_id] * 2

    def test_a_message_without_context_has_all_its_attempts_in_one_trace(self, office: Office) -> None:
        attempts = Attempts(office)
        with hooked(office.app):
            attempts.make({})

        first, *further = attempts.contexts
        assert [context.parent_span_id for context in further] == [first.span_id] * 2

    @pytest.mark.parametrize("headers", [{}, {"traceparent": TRACEPARENT}], ids=["without", "with"])
    @pytest.mark.parametrize("switched_off", ["task", "queue"])
    def test_attempts_that_are_switched_off_by_name_keep_their_headers(
        self, office: Office, switched_off: str, headers: dict[str, str]
    ) -> None:
        seen: list[dict[str, Any]] = []
        done = threading.Event()

        def body(self: Task) -> None:
            seen.append(dict(self.request.headers or {}))
            if self.request.retries < 2:
                with TraceContext.use(TraceContext.new_root()):
                    raise self.retry(countdown=0)
            done.set()

        queue = office.app.conf.task_default_queue
        with hooked(office.app, enabled={"office.call" if switched_off == "task" else queue: False}):
            office.deliver(office.take(body), headers)
            assert done.wait(PATIENCE)
            office.settle()

        assert [each.get("traceparent") for each in seen] == [headers.get("traceparent")] * 3

    def test_a_task_sent_in_a_retried_one_is_its_child(self, office: Office, desk: Desk) -> None:
        sent: list[TraceContext | None] = []
        done = threading.Event()

        def body(self: Task) -> None:
            sent.append(TraceContext.get())
            desk.order.apply_async(task_id=self.request.id, retries=0)
            if self.request.retries == 0:
                raise self.retry(countdown=0)
            done.set()

        with hooked(office.app):
            office.deliver(office.take(body), {"traceparent": TRACEPARENT})
            assert done.wait(PATIENCE)
            office.settle()

        wires = [arrived(desk)["traceparent"] for _ in range(2)]
        assert wires == [context.to_traceparent() for context in sent if context]

    @pytest.mark.parametrize("retries", [None, "x", [1], {}], ids=repr)
    def test_a_count_of_retries_of_any_type_is_none(
        self, office: Office, desk: Desk, caplog: pytest.LogCaptureFixture, retries: object
    ) -> None:
        """C-22: clients of other languages may leave it empty; such a task may send one of its own id."""
        context: list[TraceContext | None] = []

        def body(self: Task) -> None:
            context.append(TraceContext.get())
            desk.order.apply_async(task_id=self.request.id)

        recorder = MemoryRecorder()
        with hooked(office.app, tracer=recorder, relation="link"), hooked(desk.app):
            office.deliver(office.take(body), {"traceparent": TRACEPARENT, "retries": retries})
            office.settle()

        assert [message for message in caplog.messages if "Signal handler" in message] == []
        assert [span.attempt for span in run_spans(recorder)] == [1]
        assert context[0] is not None
        assert context[0].trace_id != SENDER.trace_id
        assert TraceContext.from_traceparent(arrived(desk)["traceparent"]).trace_id == context[0].trace_id


class TestRetriesOfProtocol1:
    worker: ClassVar = {"protocol": 1}

    def test_all_attempts_are_children_of_the_first_sender(self, office: Office) -> None:
        """C-21: also in Celery's first protocol."""
        attempts = Attempts(office)
        with hooked(office.app):
            attempts.make({"traceparent": TRACEPARENT}, protocol=1)

        assert [context.parent_span_id for context in attempts.contexts] == [SENDER.span_id] * 3


def ending(office: Office, raised: BaseException) -> tuple[str, str | None]:
    """Return what is recorded of a task that raises *raised*."""
    recorder = MemoryRecorder()

    def body(_: Task) -> None:
        raise raised

    with hooked(office.app, tracer=recorder):
        office.deliver(office.take(body), {})
        office.settle()
    (span,) = run_spans(recorder)
    return span.outcome, span.error


class TestEndings:
    @pytest.mark.parametrize(
        ("raised", "outcome", "error"),
        [
            (SystemExit(), "error", "SystemExit"),
            (asyncio.CancelledError(), "cancelled", "asyncio.exceptions.CancelledError"),
        ],
        ids=repr,
    )
    def test_what_passes_through_celery_is_told(
        self, office: Office, raised: BaseException, outcome: str, error: str
    ) -> None:
        assert ending(office, raised) == (outcome, error)

    def test_an_exception_that_is_returned_is_a_value(self, office: Office) -> None:
        recorder = MemoryRecorder()
        with office.ambient(), hooked(office.app, tracer=recorder):
            office.deliver(office.take(lambda _: KeyError()), {})
            office.settle()

        assert {(span.outcome, span.error) for span in recorder.spans} == {("ok", None)}

    def test_nothing_is_kept_of_a_run_that_is_done(self, office: Office) -> None:
        before = alive(Processing)
        with hooked(office.app):
            Attempts(office).make({"traceparent": TRACEPARENT})
            for raised in (HandlerError(), SystemExit()):
                ending(office, raised)

        assert alive(Processing) == before

    def test_nothing_is_kept_of_a_message_that_was_received(self, office: Office) -> None:
        """C-04: the worker's main process knows the ids of a run no longer than the run's request lasts."""
        office.settle()
        before = alive(Request)
        with hooked(office.app):
            for _ in range(5):
                office.run(lambda: None, {"traceparent": TRACEPARENT})
            office.settle()

        wait_until(lambda: alive(Request) <= before, "the requests of tasks that have ended are kept")

    def test_a_run_whose_end_is_never_told_does_not_reach_the_next_one(self, office: Office) -> None:
        """C-04: Another receiver that raises a `BaseException` keeps Celery from telling us."""
        recorder, before = MemoryRecorder(), alive(Processing)
        fails = [True]

        def fail_first(**_: object) -> None:
            if fails.pop() if fails else False:
                raise SystemExit

        with office.ambient():
            signals.task_postrun.connect(fail_first)
            with hooked(office.app, tracer=recorder):
                office.run(lambda: None, {"traceparent": TRACEPARENT})
                second = office.run(TraceContext.get)
            signals.task_postrun.disconnect(fail_first)

        assert second.parent_span_id is None
        assert second.trace_id != SENDER.trace_id
        assert [span.outcome for span in recorder.spans] == ["unknown", "ok"]
        assert TraceContext.get() is None
        assert alive(Processing) == before


class TestEndingsInASoloWorker:
    """In a pool of threads Celery rejects a message from a thread that its connection does not belong to."""

    worker: ClassVar = {"pool": "solo"}

    @pytest.mark.parametrize(
        ("raised", "outcome", "error"),
        [
            (Ignore(), "ignored", None),
            (Reject(KeyError("order"), requeue=False), "rejected", "KeyError"),
            (Reject("no reason", requeue=False), "rejected", None),
            (HandlerError(), "error", "contract.receiving.HandlerError"),
        ],
        ids=repr,
    )
    def test_what_celery_makes_of_an_exception_is_told(
        self, office: Office, raised: BaseException, outcome: str, error: str | None
    ) -> None:
        assert ending(office, raised) == (outcome, error)


class TestRunsAtOnce:
    worker: ClassVar = {"concurrency": 2}

    def test_two_runs_of_one_id_at_once_keep_to_themselves(self, office: Office) -> None:
        """C-03: each sees its own context, and both restore."""
        both_in = threading.Barrier(3, timeout=PATIENCE)
        seen: dict[str, list[TraceContext | None]] = {}
        left: list[TraceContext | None] = []

        def body(self: Task) -> None:
            mine = seen.setdefault(self.request.headers["app"], [TraceContext.get()])
            both_in.wait()
            mine.append(TraceContext.get())
            both_in.wait()

        def look(self: Task) -> None:
            left.append(TraceContext.get())
            both_in.wait()

        task_id = uuid4().hex
        key, after = office.take(body), office.take(look)
        with hooked(office.app):
            for name, trace in (("a", TRACEPARENT), ("b", STALE)):
                office.deliver(key, {"traceparent": trace, "app": name}, task_id=task_id)
            both_in.wait()
            both_in.wait()
        for _ in range(2):
            office.deliver(after, {})
        both_in.wait()

        expected = {"a": SENDER, "b": TraceContext.from_traceparent(STALE)}
        for name, (first, second) in seen.items():
            assert first is second
            assert first is not None
            assert first.parent_span_id == expected[name].span_id
        assert left == [None, None]


class TestInProcess:
    """Eager tasks and direct calls, for which there is no message."""

    @pytest.fixture
    def app(self) -> Iterator[Celery]:
        app = Celery("eager", set_as_current=False)
        app.conf.task_always_eager = True
        with hooked(app):
            yield app

    def test_an_eager_task_is_a_child_of_its_caller(self, app: Celery) -> None:
        """C-20, C-24: nested, too, and every caller gets its context back."""

        @task(app)
        def inner() -> TraceContext | None:
            return TraceContext.get()

        @task(app)
        def outer() -> tuple[TraceContext | None, TraceContext | None, TraceContext | None]:
            return TraceContext.get(), inner.delay().get(disable_sync_subtasks=False), TraceContext.get()

        with TraceContext.use(TraceContext.new_root()) as caller:
            before, nested, after = outer.delay().get()
            assert TraceContext.get() is caller

        assert caller is not None
        assert before is after
        assert before.parent_span_id == caller.span_id
        assert nested.parent_span_id == before.span_id

    def test_an_eager_task_without_a_caller_starts_a_trace(self, app: Celery) -> None:
        look = task(app, name="look")(TraceContext.get)

        contexts = [look.delay().get() for _ in range(2)]

        assert len({context.trace_id for context in contexts}) == 2
        assert TraceContext.get() is None

    def test_an_eager_task_without_a_caller_continues_its_headers(self, app: Celery) -> None:
        look = task(app, name="look")(TraceContext.get)

        context = look.apply_async(headers={"traceparent": TRACEPARENT}).get()

        assert context.parent_span_id == SENDER.span_id

    def test_keep_prefers_the_headers_of_an_eager_task(self, app: Celery) -> None:
        look = task(app, name="look")(TraceContext.get)

        celery.install(app, keep=True)
        with TraceContext.use(TraceContext.new_root()) as caller:
            kept = look.apply_async(headers={"traceparent": TRACEPARENT}).get()
            without = look.delay().get()

        assert caller is not None
        assert kept.parent_span_id == SENDER.span_id
        assert without.parent_span_id == caller.span_id

    @pytest.mark.parametrize("caller", [None, SENDER], ids=["without", "with"])
    @pytest.mark.parametrize("relation", ["child", "link", "root"])
    def test_attempts_of_an_eager_task_stay_in_one_trace(
        self, app: Celery, relation: Any, caller: TraceContext | None
    ) -> None:
        contexts: list[TraceContext] = []

        @task(app, bind=True)
        def retries(self: Task) -> None:
            context = TraceContext.get()
            assert context is not None
            contexts.append(context)
            TraceContext.set(context.child().with_baggage(Baggage({"attempts": str(len(contexts))})))
            if len(contexts) < 3:
                raise self.retry(countdown=0)

        recorder, headers = MemoryRecorder(), {"app": "1"}
        celery.install(app, relation=relation, tracer=recorder)
        with TraceContext.use(caller):
            retries.apply_async(headers=headers)

        first, *further = contexts
        parent = SENDER if caller and relation == "child" else first
        assert {context.trace_id for context in contexts} == {parent.trace_id}
        assert [context.parent_span_id for context in further] == [parent.span_id] * 2
        assert [dict(context.baggage) for context in further] == [{"attempts": "1"}, {"attempts": "2"}]
        assert [(span.attempt, span.outcome) for span in recorder.spans] == [
            (1, "retry"),
            (2, "retry"),
            (3, "ok"),
        ]
        assert headers == {"app": "1"}

    @pytest.mark.parametrize("switched_off", ["retries", "orders"], ids=["task", "queue"])
    def test_attempts_of_an_eager_task_that_are_switched_off_by_name_keep_their_headers(
        self, app: Celery, switched_off: str
    ) -> None:
        seen: list[dict[str, Any] | None] = []

        @task(app, name="retries", bind=True)
        def retries(self: Task) -> None:
            seen.append(self.request.headers)
            if len(seen) < 3:
                raise self.retry(countdown=0)

        celery.install(app, enabled={switched_off: False})
        with TraceContext.use(TraceContext.new_root()):
            retries.apply_async(routing_key="orders")

        assert [dict(headers or {}) for headers in seen] == [{}] * 3

    @pytest.mark.parametrize("propagates", [True, False])
    def test_an_eager_task_that_fails_leaves_the_caller_its_context(
        self, app: Celery, *, propagates: bool
    ) -> None:
        """C-20, C-24: not an empty one."""

        @task(app)
        def fails() -> None:
            raise HandlerError

        recorder = MemoryRecorder()
        celery.install(app, tracer=recorder)
        with TraceContext.use(TraceContext.new_root()) as caller:
            with pytest.raises(HandlerError):
                fails.apply(throw=propagates).get()
            assert TraceContext.get() is caller

        (span,) = recorder.spans
        assert (span.outcome, span.error) == ("error", "contract.receiving.HandlerError")

    def test_an_eager_task_that_replaces_itself_leaves_the_caller_its_context(self, app: Celery) -> None:
        seen: list[TraceContext | None] = []

        @task(app)
        def replacement() -> None:
            seen.append(TraceContext.get())

        @task(app, bind=True)
        def replaces(self: Task) -> None:
            raise self.replace(replacement.s())

        with TraceContext.use(TraceContext.new_root()) as caller:
            replaces.apply()
            assert TraceContext.get() is caller

        assert caller is not None
        assert [context and context.trace_id for context in seen] == [caller.trace_id]

    def test_a_run_that_ends_in_another_context_than_it_began_in_is_no_error(self, app: Celery) -> None:
        """C-06: the body sees its own context, and no error is logged."""
        look = task(app, name="look")(TraceContext.get)
        recorder, elsewhere = MemoryRecorder(), copy_context()
        run: dict[str, Any] = {"sender": look, "task": look, "task_id": "7", "args": (), "kwargs": {}}

        celery.install(app, tracer=recorder)
        look.push_request(id="7", traceparent=TRACEPARENT)
        with TraceContext.use(TraceContext.new_root()) as current:
            elsewhere.run(signals.task_prerun.send, **run)
            seen = elsewhere.run(look)
            signals.task_postrun.send(**run, retval=None, state="SUCCESS")
            assert TraceContext.get() is current
        look.pop_request()

        assert seen.parent_span_id == SENDER.span_id
        assert [(span.span_id, span.outcome) for span in recorder.spans] == [(seen.span_id, "ok")]

    def test_a_direct_call_is_part_of_its_caller(self, app: Celery) -> None:
        look = task(app, name="look")(TraceContext.get)

        with TraceContext.use(TraceContext.new_root()) as caller:
            assert look() is caller

    def test_a_direct_call_of_the_running_task_leaves_its_context(self, app: Celery) -> None:
        seen: list[TraceContext | None] = []

        @task(app, bind=True)
        def calls_itself(self: Task, depth: int) -> None:
            seen.append(TraceContext.get())
            if depth:
                self(depth - 1)
                seen.append(TraceContext.get())

        calls_itself.delay(1)

        assert len(set(seen)) == 1
        assert TraceContext.get() is None
