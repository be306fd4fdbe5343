"""dramatiq on real brokers, with real workers: in threads of this process, and in processes of their own.

What is the same on every broker is shown on dramatiq's own `StubBroker`, with a real worker as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from dramatiq import Message, Middleware, Retry, Worker, group, pipeline
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.middleware import AsyncIO, CurrentMessage, GroupCallbacks, SkipMessage
from dramatiq.rate_limits.backends import StubBackend

from brokers.guarded import Guarded
from brokers.ports import free_port
from contract.contexts import STALE, TRACEPARENT, full_context
from contract.receiving import SENDER, HandlerError, SyncReceivingContract
from contract.sending import SendingContract, Wire, kept
from integrations.dramatiq_works import (
    AT_ONCE,
    OWN_OPTIONS,
    PATIENCE,
    Mailbox,
    Works,
    actor,
    delete,
    new_broker,
    traced,
)
from integrations.worker_notes import read_notes
from spakky.tracing.baggage import Baggage
from spakky.tracing.boundaries.publish import Publishing
from spakky.tracing.context import Scope, TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.integrations import dramatiq
from spakky.tracing.recorder import JsonLinesRecorder, MemoryRecorder, read_spans
from spakky.tracing.switch import switch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dramatiq import Broker, MessageProxy

    from spakky.tracing.recorder import Span

HOSTILE = ["", "00-bad", "x" * 1_000_000, None, 5, True, 1.5, [5, None], {"a": 1}, f"{TRACEPARENT}\n"]


class Keeper(logging.Handler):
    """Keeps what dramatiq's brokers and workers log of failures of their own."""

    def __init__(self, kept: list[logging.LogRecord]) -> None:
        super().__init__(logging.CRITICAL)
        self._kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        self._kept.append(record)


@pytest.fixture(autouse=True)
def no_hook_fails() -> Iterator[None]:
    """Dramatiq logs what a hook raises, and goes on."""
    failures: list[logging.LogRecord] = []
    handler = Keeper(failures)
    logging.getLogger("dramatiq").addHandler(handler)
    yield
    logging.getLogger("dramatiq").removeHandler(handler)
    assert [record.getMessage() for record in failures if "TraceMiddleware" in record.getMessage()] == []


@pytest.fixture(scope="module", params=["amqp_url", "redis_url"], ids=["rabbitmq", "redis"])
def url(request: pytest.FixtureRequest, amqp_url: str, redis_url: str) -> str:
    return {"amqp_url": amqp_url, "redis_url": redis_url}[request.param]


@pytest.fixture(scope="module")
def mailbox(url: str) -> Iterator[Mailbox]:
    with Mailbox(url).open() as mailbox:
        yield mailbox


@pytest.fixture(scope="module")
def real_works(url: str) -> Iterator[Works]:
    with Works(url).open() as works:
        yield works


@pytest.fixture
def works() -> Iterator[Works]:
    with Works().open() as works:
        yield works


@pytest.fixture
def recorder() -> MemoryRecorder:
    return MemoryRecorder()


class TestSending(SendingContract):
    ways = ["send_with_options", "enqueue", "pipeline", "group", "delay"]
    recorded_ways = ways
    foreign = {"a": "text", "b": 7, "c": [1, "two"], "d": {"nested": "table"}, "e": None, "f": True}

    @pytest.fixture(autouse=True)
    def _on(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self.is_delayed = False

    async def send(self, way: str, headers: Any, *, item: object = 1, **options: Any) -> None:
        broker, order = self.mailbox.broker, self.mailbox.order
        self.is_delayed = way == "delay"
        with traced(broker, **options):
            if way == "send_with_options":
                order.send_with_options(args=(item,), **(headers or {}))
            elif way == "delay":
                order.send_with_options(args=(item,), delay=10, **(headers or {}))
            else:
                given = {} if headers is None else headers
                message: Message[Any] = Message(self.mailbox.queue, "order", (item,), {}, options=given)
                if way == "enqueue":
                    broker.enqueue(message)
                elif way == "pipeline":
                    pipeline([message], broker=broker).run()
                else:
                    group([message], broker=broker).run()

    async def arrived(self) -> Wire:
        options = self.mailbox.message(delayed=self.is_delayed).options
        return {name: [value] for name, value in options.items() if name not in OWN_OPTIONS}

    def native(self, headers: dict[str, str]) -> dict[str, str]:
        return dict(headers)

    async def fail_to_send(self, way: str, **options: Any) -> BaseException:
        """Send what cannot be encoded; whoever keeps the traceback keeps the message, so it is dropped."""
        try:
            await self.send(way, None, item=object(), **options)
        except TypeError as error:
            return error.with_traceback(None)
        pytest.fail("it was sent")


class TestReceiving(SyncReceivingContract):
    """T-04: baggage and trace, over RabbitMQ and Redis."""

    ways = ["actor"]
    sees_errors = ways
    hostile_values = HOSTILE

    @pytest.fixture(autouse=True)
    def _on(self, real_works: Works) -> None:
        self.works = real_works

    async def receive(
        self, way: str, headers: dict[str, Any], body: Callable[[], None], **options: Any
    ) -> None:
        with self.works.ambient(), traced(self.works.broker, **options):
            self.works.run(body, headers)


class TestEnqueuing:
    def test_a_message_that_was_enqueued_carries_nothing_to_the_next_time(self, works: Works) -> None:
        """A-10, A-11: neither into another trace nor out of all traces."""
        message: Message[Any] = Message(
            works.queue, "quiet", (), {}, options={"app": 1, "Traceparent": "bad"}
        )
        with traced(works.broker):
            with TraceContext.use(full_context()):
                assert works.broker.enqueue(message) is message
            assert message.options == {"app": 1, "Traceparent": "bad"}

    def test_a_recorded_send_names_the_actor_and_its_queue(
        self, works: Works, recorder: MemoryRecorder
    ) -> None:
        with traced(works.broker, tracer=recorder):
            works.broker.enqueue(Message(works.queue, "quiet", (), {}, {}), delay=1)
            works.join()

        sending, run = sorted(recorder.spans, key=lambda span: span.start_unix_nano)
        assert (sending.name, run.name) == ("send quiet", "run quiet")
        assert {(span.system, span.destination) for span in (sending, run)} == {("dramatiq", works.queue)}
        assert (sending.kind, run.kind) == ("producer", "consumer")
        assert run.queue_time_nano is not None

    def test_a_failure_leaves_the_context_and_no_state(self, url: str, recorder: MemoryRecorder) -> None:
        """C-01: of a broker that does not answer."""
        broker = cut_off(url)
        gc.freeze()
        with traced(broker, tracer=recorder), TraceContext.use(TraceContext.new_root()) as context:
            for _ in range(3):
                with contextlib.suppress(Exception):
                    broker.enqueue(Message("q", "lost", (), {}, {}))
                assert TraceContext.get() is context
        gc.collect()

        # Dramatiq connects to RabbitMQ before it asks any middleware.
        assert [span.outcome for span in recorder.spans] == ([] if url.startswith("amqp") else ["error"] * 3)
        assert kept(Publishing) == kept(Scope) == []
        broker.close()

    def test_a_connection_that_was_lost_is_an_error_and_the_next_one_is_not(
        self, amqp_url: str, recorder: MemoryRecorder
    ) -> None:
        """C-01: dramatiq itself enqueues the message again."""
        with Mailbox(amqp_url).open() as mailbox, traced(mailbox.broker, tracer=recorder):
            assert isinstance(mailbox.broker, RabbitmqBroker)
            mailbox.order.send()
            mailbox.message()
            mailbox.broker.connection.close()
            mailbox.order.send()
            sender = dramatiq.context_from(mailbox.message())

        assert [span.outcome for span in recorder.spans] == ["ok", "error", "ok"]
        assert sender is not None
        assert sender.span_id == recorder.spans[2].span_id

    def test_a_message_that_failed_and_is_enqueued_again_carries_the_context_of_then(
        self, works: Works, recorder: MemoryRecorder
    ) -> None:
        message: Message[Any] = Message(works.queue, "quiet", (), {"not": object()}, {"app": 1})
        seen = self.senders_in(works)
        with traced(works.broker, tracer=recorder):
            with TraceContext.use(full_context()), pytest.raises(TypeError):
                works.broker.enqueue(message)
            del message.kwargs["not"]
            works.broker.enqueue(message)
            works.join()

        assert message.options == {"app": 1}
        failed, sent, _ = recorder.spans
        assert [failed.outcome, sent.outcome] == ["error", "ok"]
        assert failed.trace_id != sent.trace_id
        assert [sender.span_id for sender in seen] == [sent.span_id]

    def test_a_message_that_one_broker_did_not_take_is_sent_by_another(
        self, works: Works, recorder: MemoryRecorder
    ) -> None:
        class Refuses(Middleware):
            def before_enqueue(self, broker: Broker, message: Message[Any], delay: int) -> None:
                raise SkipMessage

        message: Message[Any] = Message(works.queue, "quiet", (), {}, {"app": 1})
        seen = self.senders_in(works)
        with Works().open() as refusing:
            refusing.broker.declare_queue(works.queue)
            with traced(refusing.broker, tracer=recorder), traced(works.broker, tracer=recorder):
                refusing.broker.add_middleware(Refuses())
                with TraceContext.use(full_context()), pytest.raises(SkipMessage):
                    refusing.broker.enqueue(message)
                works.broker.enqueue(message)
                works.join()

        failed, sent, _ = recorder.spans
        assert [failed.outcome, sent.outcome] == ["error", "ok"]
        assert [sender.span_id for sender in seen] == [sent.span_id]
        assert failed.trace_id != sent.trace_id
        assert message.options == {"app": 1}

    def test_the_end_of_the_program_ends_a_failed_sending(self, tmp_path: Path) -> None:
        record = tmp_path / "spans.jsonl"
        code = (
            "from dramatiq import Message\n"
            "from dramatiq.brokers.stub import StubBroker\n"
            "from spakky.tracing.integrations import dramatiq\n"
            "broker = StubBroker()\n"
            "broker.add_middleware(dramatiq.TraceMiddleware())\n"
            "broker.declare_queue('q')\n"
            "message = Message('q', 'lost', (object(),), {}, {})\n"
            "broker.enqueue(message)\n"
        )
        with Guarded() as guarded:
            guarded.start(
                "program",
                [sys.executable, "-c", code],
                {**os.environ, "SPAKKY_TRACING_RECORD": str(record)},
            )
            wait_until(lambda: guarded.exit_status("program"), guarded)

        assert [span.outcome for span in read_spans(record)] == ["error"]

    def test_middlewares_that_send_while_a_message_is_enqueued_disturb_nothing(
        self, works: Works, recorder: MemoryRecorder
    ) -> None:
        class Audit(Middleware):
            def before_enqueue(self, broker: Broker, message: Message[Any], delay: int) -> None:
                if message.args != ("audit",):
                    broker.enqueue(Message(works.queue, "quiet", ("audit",), {}, {}))

        seen = self.senders_in(works)
        with traced(works.broker, tracer=recorder), TraceContext.use(TraceContext.new_root()) as context:
            works.broker.add_middleware(Audit())
            works.broker.enqueue(Message(works.queue, "quiet", ("order",), {}, {}))
            works.join()

        assert context is not None
        assert [span.outcome for span in recorder.spans if span.kind == "producer"] == ["ok", "ok"]
        assert [sender.trace_id for sender in seen] == [context.trace_id] * 2

    def test_sending_from_many_threads_does_not_mix(self, works: Works) -> None:
        sent: dict[int, str] = {}
        arrived: dict[int, str] = {}

        @works.actor()
        def number(it: int) -> None:
            arrived[it] = current().trace_id

        def send(it: int) -> None:
            with TraceContext.use(TraceContext.new_root()):
                sent[it] = current().trace_id
                number.send(it)

        with traced(works.broker):
            threads = [threading.Thread(target=send, args=[it]) for it in range(50)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            works.join()

        assert len(sent) == 50
        assert arrived == sent

    def test_a_message_tells_the_context_of_its_sender(self, works: Works) -> None:
        (sender,) = senders(works, {"traceparent": TRACEPARENT, "baggage": "tenant=acme"})
        assert sender == SENDER.with_baggage(Baggage({"tenant": "acme"}))
        assert dramatiq.context_from(Message("q", "a", (), {}, {})) is None
        assert dramatiq.context_from(Message("q", "a", (), {}, {"traceparent": TRACEPARENT})) == SENDER

    def test_what_is_no_message_is_refused(self) -> None:
        with pytest.raises(WrongUseError, match=r"^this takes a received Message, got dict$"):
            dramatiq.context_from({"traceparent": TRACEPARENT})  # type: ignore[arg-type]

    def test_an_option_that_is_not_known_is_refused(self) -> None:
        with pytest.raises(WrongUseError, match=r"^there is no option 'relations' here; the options are "):
            dramatiq.TraceMiddleware(relations="child")  # type: ignore[call-arg]

    def senders_in(self, works: Works) -> list[TraceContext]:
        """Return where the senders of all messages that are processed will be."""
        seen: list[TraceContext] = []

        class Look(Middleware):
            def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
                sender = dramatiq.context_from(message)
                assert sender is not None
                seen.append(sender)

        works.broker.add_middleware(Look())
        return seen


class TestMiddlewares:
    def test_adding_it_twice_is_adding_it_once(self, works: Works, recorder: MemoryRecorder) -> None:
        """A-13, T-02: one traceparent, one span; after a removal none."""
        with traced(works.broker, tracer=recorder), traced(works.broker, tracer=recorder):
            fails_twice(works).send()
            works.join()

        kinds = [span.kind for span in recorder.spans]
        assert sorted(kinds) == ["consumer", "consumer", "consumer", "producer"]
        assert len({span.trace_id for span in recorder.spans}) == 1
        assert senders(works, {}) == [None]

    def test_the_first_that_is_switched_on_counts(self, works: Works, recorder: MemoryRecorder) -> None:
        other = MemoryRecorder()
        with (
            traced(works.broker, enabled={works.queue: False}, tracer=other),
            traced(works.broker, tracer=recorder),
            traced(works.broker, tracer=other),
        ):
            fails_twice(works).send()
            works.join()

        assert not other.spans
        assert sorted(span.kind for span in recorder.spans) == ["consumer"] * 3 + ["producer"]
        assert len({span.trace_id for span in recorder.spans}) == 1

    @pytest.mark.parametrize("place", ["first", "last"])
    def test_at_any_place_what_is_sent_after_an_actor_is_a_child_of_it(
        self, works: Works, recorder: MemoryRecorder, place: str
    ) -> None:
        middleware = dramatiq.TraceMiddleware(tracer=recorder)
        first = type(works.broker.middleware[0])
        works.broker.add_middleware(middleware, before=first if place == "first" else None)
        works.actor("next")(lambda *_: None)
        works.actor("step")(lambda: 7)
        message: Message[Any] = Message(works.queue, "step", (), {}, {"on_success": "next"})
        step = pipeline([message, Message(works.queue, "next", (), {}, {})], broker=works.broker)

        with TraceContext.use(TraceContext.new_root()) as context:
            step.run()
        works.join()

        assert context is not None
        (run,) = [span for span in recorder.spans if span.name == "run step"]
        sendings = [span for span in recorder.spans if span.name == "send next"]
        assert [span.parent_span_id for span in sendings] == [run.span_id] * 2
        assert {span.trace_id for span in recorder.spans} == {context.trace_id}
        assert len([span for span in recorder.spans if span.name == "run next"]) == 2

    @pytest.mark.parametrize("hook", ["before_process_message", "after_process_message", "before_enqueue"])
    def test_a_hook_of_another_that_fails_leaves_all_as_it_is(
        self, works: Works, recorder: MemoryRecorder, hook: str
    ) -> None:
        class Broken(Middleware):
            pass

        def fail(*_: object, **__: object) -> None:
            raise LookupError

        setattr(Broken, hook, fail)
        works.broker.add_middleware(Broken())
        with works.ambient(), traced(works.broker, tracer=recorder):
            works.broker.add_middleware(Broken())
            works.broker.enqueue(Message(works.queue, "quiet", (), {}, {}))
            works.join()

        assert [span.outcome for span in recorder.spans] == ["ok", "ok"]

    def test_a_run_whose_end_is_never_told_does_not_reach_the_next_one(
        self, works: Works, recorder: MemoryRecorder
    ) -> None:
        """C-04: a middleware that keeps a message from being acknowledged."""

        class KeepsBack(Middleware):
            def before_ack(self, broker: Broker, message: MessageProxy) -> None:
                if message.actor_name == "lost":
                    raise SkipMessage

        ran = threading.Event()
        lost = works.actor("lost")(ran.set)
        works.broker.add_middleware(KeepsBack())
        with traced(works.broker, tracer=recorder):
            works.deliver(Message(works.queue, "quiet", (), {}, {"traceparent": TRACEPARENT}))
            works.deliver(lost.message_with_options(traceparent=TRACEPARENT))
            assert ran.wait(PATIENCE)
            works.deliver(Message(works.queue, "quiet", (), {}, {}))
            assert works.run(lambda: current().parent_span_id) is None
            wait_until(lambda: len(recorder.spans) == 4)

        assert works.run(TraceContext.get) is None
        assert [span.outcome for span in recorder.spans] == ["ok"] * 4

    def test_two_brokers_keep_to_their_own_options(self, recorder: MemoryRecorder) -> None:
        other = MemoryRecorder()
        with Works().open() as one, Works().open() as two:
            middleware = dramatiq.TraceMiddleware(tracer=recorder)
            one.broker.add_middleware(middleware)
            two.broker.add_middleware(dramatiq.TraceMiddleware(tracer=other))
            far = two.actor("far")(lambda: None)
            near = one.actor("near")(far.send)
            near.send()
            one.join()
            two.join()

        assert [span.name for span in recorder.spans] == ["send near", "run near"]
        assert [span.name for span in other.spans] == ["send far", "run far"]
        assert len({span.trace_id for span in [*recorder.spans, *other.spans]}) == 1


class TestRetries:
    """T-04: Retries, delays and what is sent in between."""

    def test_all_attempts_are_children_of_the_first_sender(
        self, works: Works, recorder: MemoryRecorder
    ) -> None:
        """C-10: the attempts do not nest, and each has its number."""
        with traced(works.broker, tracer=recorder), TraceContext.use(TraceContext.new_root()) as context:
            fails_twice(works).send()
            works.join()

        assert context is not None
        sending, *runs = recorder.spans
        assert sending.kind == "producer"
        assert [run.parent_span_id for run in runs] == [sending.span_id] * 3
        assert {run.trace_id for run in runs} == {context.trace_id}
        assert [run.attempt for run in runs] == [1, 2, 3]
        assert [(run.outcome, run.error) for run in runs] == [
            ("retry", "contract.receiving.HandlerError"),
            ("retry", "contract.receiving.HandlerError"),
            ("ok", None),
        ]
        assert len({run.span_id for run in runs}) == 3

    @pytest.mark.parametrize("relation", ["link", "root"])
    def test_further_attempts_stay_in_the_trace_that_the_first_one_started(
        self, works: Works, recorder: MemoryRecorder, relation: Any
    ) -> None:
        with traced(works.broker, tracer=recorder, relation=relation):
            fails_twice(works, {"traceparent": TRACEPARENT}).send()
            works.join()

        sending, first, second, third = recorder.spans
        assert len({first.trace_id, second.trace_id, third.trace_id}) == 1
        assert first.trace_id != sending.trace_id
        assert [second.parent_span_id, third.parent_span_id] == [first.span_id] * 2
        assert [len(run.links) for run in (first, second, third)] == [int(relation == "link"), 0, 0]

    def test_a_message_without_context_has_all_its_attempts_in_one_trace(
        self, works: Works, recorder: MemoryRecorder
    ) -> None:
        with traced(works.broker, tracer=recorder):
            works.deliver(fails_twice(works).message())
            works.join()

        first, second, third = recorder.spans
        assert {first.trace_id} == {second.trace_id, third.trace_id}
        assert [first.parent_span_id, second.parent_span_id] == [None, first.span_id]
        assert third.parent_span_id == first.span_id

    @pytest.mark.parametrize("keep", [False, True])
    def test_baggage_is_as_it_is_at_the_time_of_the_retry(self, works: Works, *, keep: bool) -> None:
        """C-16: it does not accumulate; and nobody asked to keep it."""
        seen: list[dict[str, str]] = []

        @works.actor(**AT_ONCE)
        def count() -> None:
            context = current()
            seen.append(dict(context.baggage))
            TraceContext.set(context.with_baggage(Baggage({"attempt": str(len(seen))})))
            if len(seen) < 3:
                raise HandlerError

        with traced(works.broker, keep=keep):
            works.deliver(count.message_with_options(traceparent=TRACEPARENT, baggage="tenant=acme"))
            works.join()

        assert seen == [{"tenant": "acme"}, {"attempt": "1"}, {"attempt": "2"}]

    def test_options_neither_grow_nor_get_lost(self, works: Works) -> None:
        """C-16: after ten retries they are of the same size, and the user's are there."""
        sizes: list[int] = []

        @works.actor(**AT_ONCE)
        def keeps_failing() -> None:
            message = CurrentMessage.get_current_message()
            assert message is not None
            assert (message.options["app"], message.options["tracestate"]) == (1, "a=1")
            names = ("traceparent", "tracestate", "baggage")
            sizes.append(sum(len(message.options[name]) for name in names))
            if len(sizes) <= 10:
                raise HandlerError

        works.broker.add_middleware(CurrentMessage())
        with traced(works.broker):
            carried = {"traceparent": TRACEPARENT, "tracestate": "a=1", "baggage": "tenant=acme"}
            works.deliver(keeps_failing.message_with_options(app=1, **carried))
            works.join()

        assert len(sizes) == 11
        assert len(set(sizes)) == 1

    @pytest.mark.parametrize("kind", ["raised", "of a middleware", "enqueued by hand"])
    def test_every_way_to_send_a_message_again_is_a_retry(
        self, works: Works, recorder: MemoryRecorder, kind: str
    ) -> None:
        broker = works.broker

        class Requeue(Middleware):
            def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
                if kind == "of a middleware" and "again" not in message.options:
                    broker.enqueue(message.copy(options={"again": 1}), delay=1)
                    raise SkipMessage

        @works.actor()
        def once_more() -> None:
            message = CurrentMessage.get_current_message()
            assert message is not None
            if "again" not in message.options:
                message.options["again"] = 1
                if kind == "raised":
                    raise Retry(delay=1)
                if kind == "enqueued by hand":
                    broker.enqueue(message)

        broker.add_middleware(CurrentMessage())
        with traced(broker, tracer=recorder):
            broker.add_middleware(Requeue())
            works.deliver(once_more.message_with_options(traceparent=TRACEPARENT))
            works.join()

        assert [(span.trace_id, span.parent_span_id) for span in recorder.spans] == [
            (SENDER.trace_id, SENDER.span_id)
        ] * 2
        outcomes = {"raised": "retry", "of a middleware": "ignored", "enqueued by hand": "ok"}
        assert [span.outcome for span in recorder.spans] == [outcomes[kind], "ok"]

    def test_attempts_that_are_switched_off_by_name_keep_their_options(self, works: Works) -> None:
        seen: list[object] = []

        @works.actor(**AT_ONCE)
        def off() -> None:
            message = CurrentMessage.get_current_message()
            assert message is not None
            seen.append((message.options["traceparent"], TraceContext.get()))
            if len(seen) < 3:
                raise HandlerError

        works.broker.add_middleware(CurrentMessage())
        with traced(works.broker, enabled={"off": False}):
            works.deliver(off.message_with_options(traceparent=TRACEPARENT))
            works.join()

        assert seen == [(TRACEPARENT, None)] * 3

    def test_what_an_attempt_sends_is_its_own_child(self, works: Works, recorder: MemoryRecorder) -> None:
        quiet = works.broker.get_actor("quiet")
        with traced(works.broker, tracer=recorder):
            fails_twice(works, before=quiet.send).send()
            works.join()

        runs = {span.span_id for span in recorder.spans if span.name == "run fails_twice"}
        sent = [span.parent_span_id for span in recorder.spans if span.name == "send quiet"]
        assert len(sent) == 3
        assert set(sent) == runs

    @pytest.mark.parametrize("retries", ["many", None, -1, [1], {"a": 1}, 1.5, 10**40], ids=repr)
    def test_a_count_that_is_no_count_says_nothing(
        self, works: Works, recorder: MemoryRecorder, retries: object
    ) -> None:
        with traced(works.broker, tracer=recorder):
            options = {"traceparent": TRACEPARENT, "retries": retries, "requeue_timestamp": retries}
            works.deliver(Message(works.queue, "quiet", (), {}, options))
            works.join()

        (run,) = recorder.spans
        assert (run.attempt, run.parent_span_id) == (1, SENDER.span_id)

    def test_the_time_in_the_queue_counts_from_the_last_attempt(
        self, works: Works, recorder: MemoryRecorder
    ) -> None:
        with traced(works.broker, tracer=recorder):
            works.deliver(fails_twice(works).message().copy(message_timestamp=1_000))
            works.join()

        first, second, third = (span.queue_time_nano for span in recorder.spans)
        assert first is not None
        assert second is not None
        assert third is not None
        assert first > 10**18 > 10**11 > max(second, third)

    @pytest.mark.parametrize("options", [[], ["traceparent", TRACEPARENT], ""], ids=repr)
    def test_options_that_are_no_mapping_do_not_fail_an_actor(
        self, works: Works, recorder: MemoryRecorder, options: Any
    ) -> None:
        with traced(works.broker, tracer=recorder):
            works.deliver(Message(works.queue, "quiet", (), {}, options))
            works.join()

        assert [(run.parent_span_id, run.attempt, run.outcome) for run in recorder.spans] == [(None, 1, "ok")]


class TestDelays:
    """Its message is sent by its sender and by the worker that held it."""

    def test_a_delayed_message_keeps_its_sender(self, works: Works, recorder: MemoryRecorder) -> None:
        with traced(works.broker, tracer=recorder):
            with TraceContext.use(full_context()) as context:
                works.broker.enqueue(Message(works.queue, "quiet", (), {}, {}), delay=5)
            works.join()

        assert context is not None
        sending, run = recorder.spans
        assert (sending.trace_id, sending.parent_span_id) == (context.trace_id, context.span_id)
        assert (run.trace_id, run.parent_span_id, run.attempt) == (context.trace_id, sending.span_id, 1)

    @pytest.mark.parametrize("options", [{}, {"traceparent": "bad"}, {"traceparent": ["a", 1]}], ids=repr)
    def test_a_delayed_message_without_context_gets_none(
        self, works: Works, recorder: MemoryRecorder, options: dict[str, Any]
    ) -> None:
        with traced(works.broker, tracer=recorder):
            works.deliver(Message(works.queue, "quiet", (), {}, {"eta": 1, **options}))
            works.join()

        assert [(span.kind, span.parent_span_id) for span in recorder.spans] == [("consumer", None)]

    @pytest.mark.parametrize("options", [{}, {"traceparent": TRACEPARENT}], ids=repr)
    def test_what_a_middleware_sends_meanwhile_is_a_message_as_others(
        self, works: Works, options: dict[str, Any]
    ) -> None:
        quiet = works.broker.get_actor("quiet")
        seen = TestEnqueuing().senders_in(works)

        class Notify(Middleware):
            def before_delay_message(self, broker: Broker, message: MessageProxy) -> None:
                with TraceContext.use(SENDER):
                    quiet.send()

        works.broker.add_middleware(Notify())
        with traced(works.broker):
            works.deliver(Message(works.queue, "quiet", (), {}, {"eta": 1, "traceparent": TRACEPARENT}))
            works.join()

        assert seen == [SENDER, SENDER]


class TestCompositions:
    def test_the_steps_of_a_pipeline_follow_each_other(self, works: Works, recorder: MemoryRecorder) -> None:
        """C-12: each below the one before, in one trace."""
        add = works.actor("add")(lambda one, other: one + other)
        steps = pipeline([add.message(1, 2), add.message(3), add.message(4)], broker=works.broker)
        with traced(works.broker, tracer=recorder), TraceContext.use(TraceContext.new_root()) as context:
            steps.run(delay=1)
            works.join()

        assert context is not None
        sends, runs = by_kind(recorder)
        assert [span.parent_span_id for span in runs] == [span.span_id for span in sends]
        assert [span.parent_span_id for span in sends] == [context.span_id, *[s.span_id for s in runs[:-1]]]

    def test_a_step_that_is_retried_leads_to_one_next_step(
        self, works: Works, recorder: MemoryRecorder
    ) -> None:
        step = fails_twice(works)
        quiet = works.broker.get_actor("quiet")
        last = quiet.message_with_options(pipe_ignore=True)
        with traced(works.broker, tracer=recorder):
            pipeline([step.message(), last], broker=works.broker).run()
            works.join()

        sends, runs = by_kind(recorder)
        assert [span.name for span in sends] == ["send fails_twice", "send quiet"]
        assert sends[1].parent_span_id == runs[2].span_id
        assert len({span.trace_id for span in recorder.spans}) == 1

    def test_the_members_of_a_group_are_children_of_its_caller(
        self, works: Works, recorder: MemoryRecorder
    ) -> None:
        """C-11: and its callback is a child of the member that was the last to end."""
        quiet = works.broker.get_actor("quiet")
        done = works.actor("done")(lambda: None)
        works.broker.add_middleware(GroupCallbacks(StubBackend()))
        members = group([quiet.message(), quiet.message()], broker=works.broker)
        members.add_completion_callback(done.message())
        with traced(works.broker, tracer=recorder), TraceContext.use(TraceContext.new_root()) as context:
            members.run()
            works.join()

        assert context is not None
        sends, runs = by_kind(recorder)
        assert [span.parent_span_id for span in sends] == [context.span_id] * 2 + [runs[1].span_id]
        assert [span.name for span in runs] == ["run quiet", "run quiet", "run done"]

    @pytest.mark.parametrize("name", ["on_success", "on_failure", "on_retry_exhausted"])
    def test_a_callback_is_a_child_of_the_actor(
        self, works: Works, recorder: MemoryRecorder, name: str
    ) -> None:
        works.actor("callback")(lambda *_: None)

        @works.actor(max_retries=0, **{name: "callback"})
        def ends() -> None:
            if name != "on_success":
                raise HandlerError

        with traced(works.broker, tracer=recorder):
            ends.send()
            works.join()

        (_, called), (run, callback) = by_kind(recorder)
        assert called.parent_span_id == run.span_id
        assert (callback.name, callback.parent_span_id) == ("run callback", called.span_id)

    def test_a_direct_call_is_part_of_its_caller(self, works: Works, recorder: MemoryRecorder) -> None:
        look = works.actor("look")(TraceContext.get)
        with traced(works.broker, tracer=recorder), TraceContext.use(TraceContext.new_root()) as context:
            assert look() is context

        assert not recorder.spans


class TestAsyncActors:
    """They run in the event loop of another thread."""

    @pytest.fixture
    def works(self) -> Iterator[Works]:
        works = Works()
        works.broker.add_middleware(AsyncIO())
        with works.open():
            yield works

    def test_its_context_is_current_in_an_async_actor(self, works: Works, recorder: MemoryRecorder) -> None:
        """T-04: through every await, and in the tasks that it starts."""
        seen: list[TraceContext] = []
        quiet = works.broker.get_actor("quiet")

        @works.actor()
        async def look() -> None:
            seen.append(current())
            await asyncio.sleep(0.001)
            seen.append(await asyncio.create_task(asyncio.to_thread(current)))
            quiet.send()

        with traced(works.broker, tracer=recorder):
            for sender in (TRACEPARENT, STALE):
                works.deliver(look.message_with_options(traceparent=sender))
                works.join()

        assert [each.trace_id for each in seen] == [SENDER.trace_id] * 2 + [STALE[3:35]] * 2
        sends, runs = by_kind(recorder)
        looks = [run.span_id for run in runs if run.name == "run look"]
        assert [each.span_id for each in seen] == [looks[0]] * 2 + [looks[1]] * 2
        assert [send.parent_span_id for send in sends] == looks

    def test_attempts_of_an_async_actor_are_children_of_the_first_sender(
        self, works: Works, recorder: MemoryRecorder
    ) -> None:
        @works.actor(**AT_ONCE, max_retries=1)
        async def fails() -> None:
            await asyncio.sleep(0)
            raise HandlerError

        with traced(works.broker, tracer=recorder):
            works.deliver(fails.message_with_options(traceparent=TRACEPARENT))
            works.join()

        assert [(span.parent_span_id, span.attempt, span.outcome) for span in recorder.spans] == [
            (SENDER.span_id, 1, "retry"),
            (SENDER.span_id, 2, "error"),
        ]

    def test_async_actors_at_once_keep_to_their_traces(self) -> None:
        works = Works()
        works.broker.add_middleware(AsyncIO())
        seen: dict[str, list[str]] = {}
        worker = Worker(works.broker, worker_timeout=20, worker_threads=8)
        everybody = asyncio.Barrier(8)

        @works.actor()
        async def look(key: str) -> None:
            first = current().trace_id
            await everybody.wait()
            seen[key] = [first, current().trace_id]

        with traced(works.broker):
            worker.start()
            traces = [TraceContext.new_root() for _ in range(8)]
            for trace in traces:
                with TraceContext.use(trace):
                    look.send(trace.trace_id)
            works.join()
            worker.stop()

        assert seen == {trace.trace_id: [trace.trace_id] * 2 for trace in traces}


class TestEndings:
    @pytest.mark.parametrize(
        ("options", "outcomes"),
        [
            ({}, ["ok"]),
            ({"raises": True, "max_retries": 0}, ["error"]),
            ({"raises": True, "max_retries": 1}, ["retry", "error"]),
            ({"raises": True, "throws": HandlerError}, ["error"]),
            ({"skips": True}, ["ignored"]),
            ({"max_age": 1}, ["rejected"]),
            ({"fails": True}, ["rejected"]),
        ],
        ids=repr,
    )
    @pytest.mark.parametrize("place", ["first", "last"])
    def test_how_a_message_ends_is_recorded(
        self, works: Works, recorder: MemoryRecorder, options: dict[str, Any], outcomes: list[str], place: str
    ) -> None:
        class Rules(Middleware):
            def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
                if options.get("skips"):
                    raise SkipMessage
                if options.get("fails"):
                    message.fail()

        known = {name: value for name, value in options.items() if name in works.broker.actor_options}

        @works.actor(**AT_ONCE, **known)
        def ends() -> None:
            if options.get("raises"):
                raise HandlerError

        middleware = dramatiq.TraceMiddleware(tracer=recorder)
        first = type(works.broker.middleware[0])
        works.broker.add_middleware(middleware, before=first if place == "first" else None)
        works.broker.add_middleware(Rules(), before=dramatiq.TraceMiddleware)
        works.deliver(ends.message().copy(message_timestamp=1_000, options={"traceparent": TRACEPARENT}))
        works.join()

        assert [span.outcome for span in recorder.spans] == outcomes
        assert {span.parent_span_id for span in recorder.spans} == {SENDER.span_id}
        assert all(
            (span.error is not None) == (span.outcome in {"error", "retry"}) for span in recorder.spans
        )

    def test_an_actor_that_is_interrupted_by_a_shutdown_is_tried_again(
        self, recorder: MemoryRecorder
    ) -> None:
        """C-10: dramatiq raises the exception into the thread."""
        works = Works()
        started, go_on = threading.Event(), threading.Event()

        @works.actor(**AT_ONCE, notify_shutdown=True)
        def works_on() -> None:
            started.set()
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline:
                go_on.wait(0.01)  # an exception gets in between two waits

        with traced(works.broker, tracer=recorder), works.open():
            works.deliver(works_on.message_with_options(traceparent=TRACEPARENT))
            assert started.wait(PATIENCE)

        (run,) = recorder.spans
        assert (run.outcome, run.parent_span_id) == ("retry", SENDER.span_id)
        assert str(run.error).endswith(".Shutdown")

    def test_a_retry_that_cannot_be_sent_is_an_error(self, works: Works, recorder: MemoryRecorder) -> None:
        class Refuses(Middleware):
            def before_enqueue(self, broker: Broker, message: Message[Any], delay: int) -> None:
                if "retries" in message.options:
                    raise SkipMessage

        works.broker.add_middleware(Refuses())
        with traced(works.broker, tracer=recorder):
            fails_twice(works).send()
            works.join()

        assert [span.outcome for span in recorder.spans] == ["ok", "error"]

    def test_a_message_of_no_actor_that_is_known_is_nobodys(
        self, works: Works, recorder: MemoryRecorder
    ) -> None:
        with works.ambient(), traced(works.broker, tracer=recorder):
            works.deliver(Message(works.queue, "unknown", (), {}, {"traceparent": TRACEPARENT}))
            works.join()

        assert not recorder.spans

    def test_a_message_that_a_worker_gives_back_keeps_its_sender(self, url: str) -> None:
        """T-04: its next worker runs it, in the trace of its sender."""
        recorder = MemoryRecorder()
        name = f"back-{uuid4().hex}"
        held, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            go_on.wait(PATIENCE)

        brokers = [new_broker(url, name, dramatiq.TraceMiddleware(tracer=recorder)) for _ in range(2)]
        for broker in brokers:
            actor(broker, name, "hold")(hold)
            actor(broker, name, "look")(lambda: None)
        first, second = (Worker(each, worker_timeout=20, worker_threads=1) for each in brokers)
        first.start()
        brokers[0].get_actor("hold").send()
        assert held.wait(PATIENCE)
        with TraceContext.use(TraceContext.new_root()) as context:
            brokers[0].get_actor("look").send()
        stopping = threading.Thread(target=first.stop)
        wait_until(lambda: first.work_queue.qsize() == 1)
        for thread in first.workers:
            thread.stop()
        go_on.set()
        stopping.start()
        stopping.join()
        assert [span.name for span in recorder.spans if span.kind == "consumer"] == ["run hold"]
        second.start()
        wait_until(lambda: [span for span in recorder.spans if span.name == "run look"])
        second.stop()
        for broker in brokers:
            delete(broker, name)

        assert context is not None
        (run,) = [span for span in recorder.spans if span.name == "run look"]
        (sending,) = [span for span in recorder.spans if span.name == "send look"]
        assert (run.trace_id, run.parent_span_id) == (context.trace_id, sending.span_id)


class TestChoosing:
    @pytest.mark.parametrize("relation", ["child", "link", "root"])
    def test_a_relation_can_be_set_by_name_or_by_a_function(self, works: Works, relation: Any) -> None:
        """C-08: of an actor, or else of a queue; delayed or not."""
        another = "child" if relation == "root" else "root"
        for choice in (
            relation,
            {"call": relation, works.queue: another},
            {works.queue: relation},
            lambda message: relation if message.actor_name == "call" else another,
        ):
            assert self.relation_seen(works, relation=choice) == relation

    def test_an_actor_can_be_switched_off_by_its_name(self, works: Works, recorder: MemoryRecorder) -> None:
        """C-15: an actor counts before its queue."""
        assert self.relation_seen(works, enabled={"call": False, works.queue: True}) == "off"
        assert self.relation_seen(works, enabled={works.queue: False}) == "off"
        assert self.relation_seen(works, enabled={"call": True, works.queue: False}) == "child"

    def test_a_message_to_what_is_switched_off_is_sent_as_it_is(self, works: Works) -> None:
        with (
            traced(works.broker, enabled={"quiet": False}),
            TraceContext.use(full_context()),
        ):
            assert senders(works, {"app": 1}) == [None]

    def test_everything_can_be_switched_off(self, works: Works, recorder: MemoryRecorder) -> None:
        switch(on=False)
        try:
            assert self.relation_seen(works) == "off"
        finally:
            switch(on=True)

    def relation_seen(self, works: Works, **options: Any) -> str:
        recorder = MemoryRecorder()
        carried = {"traceparent": TRACEPARENT, "baggage": "tenant=acme", "eta": 1}
        with traced(works.broker, tracer=recorder, **options):
            context = works.run(TraceContext.get, carried)
        if context is None:
            assert not recorder.spans
            return "off"
        (span,) = recorder.spans
        relation = "child" if context.trace_id == SENDER.trace_id else "link" if span.links else "root"
        assert dict(context.baggage) == ({} if relation == "root" else {"tenant": "acme"})
        return relation


class Mill:
    """A worker in processes of its own, and a broker in this process that sends it messages."""

    def __init__(self, url: str, program: list[str], folder: Path) -> None:
        self._program = program
        self.record = folder / "spans.jsonl"
        self._notes = folder / "notes.jsonl"
        self._name = f"mill-{uuid4().hex}"
        self._url = url
        self.broker = new_broker(url, self._name)
        self.worker: Guarded | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator[Mill]:
        self.broker.declare_queue(self._name)
        with Guarded() as guarded:
            self.worker = guarded
            guarded.start("worker", self._command(), self._environment())
            yield self
            log = guarded.log("worker")
        delete(self.broker, self._name)
        assert "Unexpected failure" not in log

    def send(self, actor: str, *args: object, **options: Any) -> tuple[str, TraceContext]:
        """Send a message in a trace of its own; return its id and the trace."""
        recorder = JsonLinesRecorder(self.record, process="sender")
        delay = options.pop("delay", None)
        message = self.message(actor, *args, **options)
        with traced(self.broker, tracer=recorder), TraceContext.use(full_context()) as context:
            self.broker.enqueue(message, delay=delay)
        recorder.close()
        assert context is not None
        return message.message_id, context

    def message(self, actor: str, *args: object, **options: Any) -> Message[Any]:
        return Message(self._name, actor, args, {}, options)

    def notes(self, message_id: str, count: int = 1) -> list[dict[str, Any]]:
        """Return what an actor has noted in each attempt."""
        return self._wait(
            lambda: [note for note in read_notes(self._notes) if note["id"] == message_id], count
        )

    def spans(self, trace: TraceContext, count: int) -> list[Span]:
        """Return the recorded spans of a trace, of all processes, in the order in which they began."""

        def look() -> list[Span]:
            return [span for span in read_spans(self.record) if span.trace_id == trace.trace_id]

        return sorted(self._wait(look, count), key=lambda span: span.start_unix_nano)

    def _wait(self, look: Callable[[], list[Any]], count: int) -> list[Any]:
        assert self.worker is not None
        deadline = time.monotonic() + 2 * PATIENCE
        while len(found := look()) < count:
            assert time.monotonic() < deadline, self.worker.excuse("worker") or self.worker.log("worker")
            time.sleep(0.02)
        return found

    def _command(self) -> list[str]:
        apps = Path(__file__).parent / "dramatiq_apps"
        options = ("--processes", "2", "--threads", "2", "--worker-shutdown-timeout", "5000")
        return [*self._program, "mill", *options, "--path", str(apps)]

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "dramatiq_worker_timeout": "50",
            "MILL_BROKER": self._url,
            "MILL_NAME": self._name,
            "MILL_NOTES": str(self._notes),
            "SPAKKY_TRACING_RECORD": str(self.record),
        }


THREADS = [sys.executable, "-m", "dramatiq"]
GREENLETS = [str(Path(sys.executable).with_name("dramatiq-gevent"))]


@pytest.fixture(
    scope="module",
    params=[("amqp_url", THREADS), ("redis_url", THREADS), ("redis_url", GREENLETS)],
    ids=["rabbitmq", "redis", "redis and gevent"],
)
def mill(
    request: pytest.FixtureRequest, amqp_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mill]:
    broker, program = request.param
    url = {"amqp_url": amqp_url, "redis_url": redis_url}[broker]
    with Mill(url, program, tmp_path_factory.mktemp("mill")).open() as mill:
        yield mill


class TestWorkerProcesses:
    """T-04: `python -m dramatiq`, over RabbitMQ and Redis."""

    @pytest.mark.parametrize("actor", ["look", "look_async"])
    def test_an_actor_runs_in_the_trace_of_its_sender(self, mill: Mill, actor: str) -> None:
        message_id, trace = mill.send(actor)

        (note,) = mill.notes(message_id)
        sending, run = mill.spans(trace, 2)
        assert (sending.kind, sending.parent_span_id, sending.outcome) == ("producer", trace.span_id, "ok")
        assert (run.kind, run.parent_span_id, run.outcome) == ("consumer", sending.span_id, "ok")
        assert (run.name, run.attempt) == (f"run {actor}", 1)
        assert (note["trace_id"], note["span_id"]) == (trace.trace_id, run.span_id)
        assert (note["baggage"], note["trace_state"]) == ({"tenant": "acme"}, "congo=t61")
        assert sending.process_id == os.getpid() != run.process_id == note["pid"]

    def test_a_delayed_message_keeps_its_sender(self, mill: Mill) -> None:
        message_id, trace = mill.send("look", delay=20)

        (note,) = mill.notes(message_id)
        sending, run = mill.spans(trace, 2)
        assert (note["trace_id"], run.parent_span_id) == (trace.trace_id, sending.span_id)

    def test_a_message_that_is_retried_stays_in_its_trace(self, mill: Mill) -> None:
        message_id, trace = mill.send("fails_twice")

        notes = mill.notes(message_id, 3)
        sending, *runs = mill.spans(trace, 4)
        assert [note["parent_span_id"] for note in notes] == [sending.span_id] * 3
        assert [(run.attempt, run.outcome) for run in runs] == [(1, "retry"), (2, "retry"), (3, "ok")]
        assert [note["baggage"] for note in notes] == [{"tenant": "acme"}] * 3

    def test_an_actor_that_sends_to_another_is_its_parent(self, mill: Mill) -> None:
        _, trace = mill.send("sends_on")

        first, run, second, last = mill.spans(trace, 4)
        assert [each.parent_span_id for each in (run, second, last)] == [
            first.span_id,
            run.span_id,
            second.span_id,
        ]

    def test_an_actor_that_takes_too_long_is_recorded_and_the_next_one_is_in_its_own_trace(
        self, mill: Mill
    ) -> None:
        """C-04: dramatiq raises the exception into the thread."""
        _, trace = mill.send("takes_too_long")

        _, run = mill.spans(trace, 2)
        assert (run.outcome, run.error) == ("error", "dramatiq.middleware.time_limit.TimeLimitExceeded")
        others = [mill.send("look") for _ in range(8)]
        assert [mill.notes(each)[0]["trace_id"] for each, _ in others] == [
            each.trace_id for _, each in others
        ]

    def test_messages_without_context_start_traces_whose_ids_differ_between_the_processes(
        self, mill: Mill
    ) -> None:
        messages: list[Message[Any]] = [mill.message("look") for _ in range(10)]
        for message in messages:
            mill.broker.enqueue(message)

        notes = [mill.notes(message.message_id)[0] for message in messages]
        assert len({note["trace_id"] for note in notes}) == 10
        assert {note["parent_span_id"] for note in notes} == {None}


def current() -> TraceContext:
    context = TraceContext.get()
    assert context is not None
    return context


def by_kind(recorder: MemoryRecorder) -> tuple[list[Span], list[Span]]:
    """Return what was sent and what was run, each in the order in which it began."""
    spans = sorted(recorder.spans, key=lambda span: span.start_unix_nano)
    sends = [span for span in spans if span.kind == "producer"]
    return sends, [span for span in spans if span.kind == "consumer"]


def senders(works: Works, options: dict[str, Any]) -> list[TraceContext | None]:
    """Return the sender of a message with *options*, enqueued by the broker of *works*."""
    seen: list[TraceContext | None] = []

    class Look(Middleware):
        def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
            seen.append(dramatiq.context_from(message))

    look = Look()
    works.broker.add_middleware(look)
    works.broker.enqueue(Message(works.queue, "quiet", (), {}, options))
    works.join()
    works.broker.middleware.remove(look)
    return seen


def fails_twice(
    works: Works, options: dict[str, Any] | None = None, *, before: Callable[[], object] = lambda: None
) -> Any:
    """Return an actor that succeeds at its third attempt."""
    attempts: list[None] = []

    @works.actor(**AT_ONCE)
    def fails_twice() -> None:
        before()
        attempts.append(None)
        if len(attempts) < 3:
            raise HandlerError

    return fails_twice


def cut_off(url: str) -> Broker:
    """Return a broker on a server like that at *url* that does not answer."""
    port = free_port()
    if url.startswith("amqp"):
        broker = new_broker(f"amqp://127.0.0.1:{port}/?connection_attempts=1&retry_delay=0", "lost")
    else:
        broker = new_broker(f"redis://127.0.0.1:{port}/0", "lost")
    return broker


def wait_until(look: Callable[[], object], guarded: Guarded | None = None) -> None:
    deadline = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < deadline, guarded and guarded.log("program")
        time.sleep(0.005)
