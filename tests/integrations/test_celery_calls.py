"""Options of a single call of a task, and marks on a message, on RabbitMQ with a real worker in a thread."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, Task, chain, group

from contract.contexts import STALE, TRACEPARENT
from contract.receiving import SENDER
from integrations.celery_office import (
    OWN_HEADERS,
    PATIENCE,
    Desk,
    Office,
    Step,
    hooked,
    open_desk,
    task,
)
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.integrations import celery
from spakky.tracing.recorder import MemoryRecorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from spakky.tracing.recorder import Span

LINKS = "x-trace-links"
RELATION = "x-trace-relation"


@pytest.fixture(scope="module")
def open_amqp_desk(amqp_url: str) -> Iterator[Desk]:
    with open_desk(amqp_url) as desk:
        yield desk


@pytest.fixture
def desk(open_amqp_desk: Desk) -> Iterator[Desk]:
    with open_amqp_desk.with_new_mailbox() as desk:
        yield desk


@pytest.fixture(scope="module")
def office(amqp_url: str) -> Iterator[Office]:
    with Office(amqp_url).open() as office:
        yield office


def arrived(desk: Desk) -> dict[str, Any]:
    """Return the user's headers of the next message as they are on the wire."""
    headers = desk.mailbox.message().headers
    return {name: value for name, value in headers.items() if name not in OWN_HEADERS}


def by_chain(desk: Desk, headers: dict[str, Any]) -> None:
    chain(desk.order.si().set(headers=headers), desk.order.si()).apply_async()


CALLS: dict[str, Callable[[Desk, dict[str, Any]], object]] = {
    "apply_async": lambda desk, headers: desk.order.apply_async(headers=headers),
    "send_task": lambda desk, headers: desk.app.send_task("registered.nowhere", headers=headers),
    "protocol 1": lambda desk, headers: desk.old_app.send_task("registered.nowhere", headers=headers),
    "signature": lambda desk, headers: desk.order.s().set(headers=headers).delay(),
    "group": lambda desk, headers: group(desk.order.s()).apply_async(headers=headers),
    "member of a group": lambda desk, headers: group(desk.order.s().set(headers=headers)).apply_async(),
    "chain": by_chain,
}


@pytest.mark.parametrize("call", CALLS)
class TestSendingACall:
    def test_a_call_can_be_switched_off(self, desk: Desk, call: str) -> None:
        """C-15: nothing of ours leaves the process, and the caller's dicts are as before."""
        own, recorder = {"app": "1", "traceparent": STALE}, MemoryRecorder()
        headers = celery.call_headers(own, enabled=False)
        given = dict(headers)

        with hooked(desk.app, tracer=recorder), TraceContext.use(TraceContext.new_root()):
            CALLS[call](desk, headers)
            CALLS[call](desk, headers)

        assert [arrived(desk), arrived(desk)] == [{"app": "1", "traceparent": STALE}] * 2
        assert own == {"app": "1", "traceparent": STALE}
        assert headers == given
        assert list(recorder.spans) == []

    def test_a_call_can_choose_its_relation(self, desk: Desk, call: str) -> None:
        """C-08: the wish goes with the message."""
        own = {"app": "1"}
        headers = celery.call_headers(own, relation="link")
        given = dict(headers)

        with hooked(desk.app), TraceContext.use(TraceContext.new_root()) as context:
            CALLS[call](desk, headers)

        assert context is not None
        assert arrived(desk) == {"app": "1", "traceparent": context.to_traceparent(), RELATION: "link"}
        assert own == {"app": "1"}
        assert headers == given


class TestCallHeaders:
    def test_without_options_they_are_a_copy(self) -> None:
        own = {"app": "1"}

        copied = celery.call_headers(own)

        assert copied == own
        assert copied is not own
        assert celery.call_headers() == celery.call_headers(enabled=True) == {}

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"relation": "parent"}, "relation= takes 'child', 'link' or 'root', got 'parent'"),
            ({"enabled": "no"}, "enabled= takes True, False or a mapping of names to these, got 'no'"),
            ({"tracer": None}, "there is no option 'tracer' here; the options are enabled, relation"),
            (
                {"relation": {"orders": "link"}},
                "relation= of a call takes 'child', 'link' or 'root', got dict",
            ),
            (
                {"relation": lambda _: "link"},
                "relation= of a call takes 'child', 'link' or 'root', got function",
            ),
            ({"enabled": {"orders": False}}, "enabled= of a call takes True or False, got dict"),
        ],
        ids=str,
    )
    def test_options_that_cannot_be_are_refused(self, options: Any, sentence: str) -> None:
        with pytest.raises(WrongUseError, match=sentence):
            celery.call_headers(**options)

    def test_what_cannot_be_headers_is_refused(self) -> None:
        with pytest.raises(WrongUseError):
            celery.call_headers(5)  # type: ignore[arg-type]


class TestReceivingACall:
    @pytest.mark.parametrize("relation", ["child", "link", "root"])
    def test_the_run_relates_to_its_sender_as_the_call_wants(self, office: Office, relation: str) -> None:
        """C-08: whatever holds for the app and the task."""
        recorder = MemoryRecorder()
        with hooked(office.app, tracer=recorder, relation={"office.call": "link"}):
            context = office.run(TraceContext.get, {"traceparent": TRACEPARENT, RELATION: relation})
            office.settle()

        span = span_of(recorder, context)
        assert (context.trace_id == SENDER.trace_id) is (relation == "child")
        assert [link.span_id for link in span.links] == ([SENDER.span_id] if relation == "link" else [])

    def test_who_does_not_trust_senders_ignores_their_wishes(self, office: Office) -> None:
        """C-08: a worker whose relation is `root`."""
        with hooked(office.app, relation="root"):
            context = office.run(TraceContext.get, {"traceparent": TRACEPARENT, RELATION: "child"})

        assert context.trace_id != SENDER.trace_id

    @pytest.mark.parametrize(
        "wish", ["off", "parent", "", 5, None, True, ["link"], {"link": 1}, b"\xff", "x" * 10_000]
    )
    def test_a_wish_that_cannot_be_is_none(self, office: Office, wish: object) -> None:
        """C-08: a message cannot switch a worker off."""
        with hooked(office.app):
            context = office.run(TraceContext.get, {"traceparent": TRACEPARENT, RELATION: wish})

        assert context.parent_span_id == SENDER.span_id

    @pytest.mark.parametrize("relation", ["link", "root"])
    def test_further_attempts_stay_in_the_trace_of_the_first(self, office: Office, relation: str) -> None:
        """C-08: the wish was for the first attempt."""
        contexts: list[TraceContext] = []
        done = threading.Event()

        def body(running: Task) -> None:
            context = TraceContext.get()
            assert context is not None
            contexts.append(context)
            if len(contexts) < 3:
                raise running.retry(countdown=0)
            done.set()

        with hooked(office.app):
            office.deliver(office.take(body), {"traceparent": TRACEPARENT, RELATION: relation})
            assert done.wait(PATIENCE)
            office.settle()

        first, *further = contexts
        assert first.trace_id != SENDER.trace_id
        assert [context.trace_id for context in further] == [first.trace_id] * 2
        assert [context.parent_span_id for context in further] == [first.span_id] * 2


class TestEagerCalls:
    @pytest.fixture
    def app(self) -> Iterator[Celery]:
        app = Celery("eager", set_as_current=False)
        app.conf.task_always_eager = True
        with hooked(app):
            yield app

    def test_an_eager_call_can_be_switched_off(self, app: Celery) -> None:
        """C-15: it runs in what is current."""
        look = task(app, name="look")(TraceContext.get)

        with TraceContext.use(TraceContext.new_root()) as caller:
            seen = look.apply_async(headers=celery.call_headers(enabled=False)).get()

        assert seen is caller

    @pytest.mark.parametrize("relation", ["child", "link", "root"])
    def test_an_eager_call_can_choose_its_relation(self, app: Celery, relation: Any) -> None:
        """C-08: the sender is its caller."""
        look, recorder = task(app, name="look")(TraceContext.get), MemoryRecorder()
        celery.install(app, tracer=recorder)

        with TraceContext.use(TraceContext.new_root()) as caller:
            seen = look.apply_async(headers=celery.call_headers(relation=relation)).get()

        assert caller is not None
        assert (seen.trace_id == caller.trace_id) is (relation == "child")
        links = [link.span_id for link in span_of(recorder, seen).links]
        assert links == ([caller.span_id] if relation == "link" else [])


class TestFlatChains:
    def test_steps_with_headers_of_their_own_are_all_children_of_the_sender(self, office: Office) -> None:
        """C-12: where the hooks keep what a caller put into the headers."""
        steps = [Step(office) for _ in range(3)]

        with hooked(office.app, keep=True):
            with TraceContext.use(TraceContext.new_root()) as context:
                chain(*(step.signature.set(headers=celery.headers()) for step in steps)).apply_async()
            contexts = [step.context() for step in steps]
            office.settle()

        assert context is not None
        assert [each.parent_span_id for each in contexts] == [context.span_id] * 3
        assert {each.trace_id for each in contexts} == {context.trace_id}

    @pytest.mark.parametrize("relation", ["link", "root"])
    def test_a_step_can_choose_its_relation(self, office: Office, relation: Any) -> None:
        """C-08: a step of a chain is a call like any other."""
        steps, recorder = [Step(office) for _ in range(3)], MemoryRecorder()
        steps[1].signature.set(headers=celery.call_headers(relation=relation))

        with hooked(office.app, tracer=recorder):
            chain(*(step.signature for step in steps)).apply_async()
            first, second, third = [step.context() for step in steps]
            office.settle()

        assert first.trace_id != second.trace_id == third.trace_id
        senders = [link.span_id for link in span_of(recorder, second).links]
        assert [span_with(recorder, each).parent_span_id for each in senders] == (
            [first.span_id] if relation == "link" else []
        )

    def test_a_step_can_be_switched_off(self, office: Office) -> None:
        """C-15: it gets no context, and so starts a trace."""
        steps = [Step(office) for _ in range(2)]
        steps[1].signature.set(headers=celery.call_headers({"app": "1"}, enabled=False))

        with hooked(office.app):
            chain(*(step.signature for step in steps)).apply_async()
            first, second = [step.context() for step in steps]
            office.settle()

        assert second.trace_id != first.trace_id
        assert second.parent_span_id is None
        assert steps[1].headers == {"app": "1"}


class TestMarksOfBeat:
    def test_what_beat_sends_starts_a_trace(self, desk: Desk) -> None:
        """C-08: each tick has a trace of its own, also in a process where one is current."""
        recorder = MemoryRecorder()
        headers = {"celery_beat_task": True, "traceparent": STALE, "baggage": "tenant=acme"}
        with hooked(desk.app, tracer=recorder), TraceContext.use(TraceContext.new_root()) as context:
            desk.app.send_task("tick", headers=headers)

        assert context is not None
        wire, (span,) = arrived(desk), recorder.spans
        assert span.is_scheduled
        assert span.parent_span_id is None
        assert span.trace_id not in {context.trace_id, STALE[3:35]}
        assert wire == {
            "celery_beat_task": True,
            "traceparent": f"00-{span.trace_id}-{span.span_id}-01",
            "baggage": "tenant=acme",
        }

    def test_a_task_that_sends_on_what_it_was_sent_is_no_clock(self, desk: Desk, office: Office) -> None:
        recorder = MemoryRecorder()

        def forward() -> TraceContext | None:
            desk.app.send_task("tick", headers={"celery_beat_task": True})
            return TraceContext.get()

        with hooked(office.app, tracer=recorder):
            context = office.run(forward)
            office.settle()

        (send,) = [span for span in recorder.spans if span.kind == "producer"]
        assert not send.is_scheduled
        assert send.parent_span_id == context.span_id

    @pytest.mark.parametrize("mark", [True, False, "yes", None])
    def test_the_run_says_that_a_clock_started_it(self, office: Office, mark: object) -> None:
        recorder = MemoryRecorder()
        with hooked(office.app, tracer=recorder):
            context = office.run(TraceContext.get, {"celery_beat_task": mark, "traceparent": TRACEPARENT})
            office.settle()

        assert span_of(recorder, context).is_scheduled is (mark is True)


class TestLinksInHeaders:
    @pytest.mark.parametrize("call", CALLS)
    def test_links_that_are_forwarded_go_no_further(self, desk: Desk, call: str) -> None:
        """C-11: they were those of another message."""
        with hooked(desk.app), TraceContext.use(TraceContext.new_root()):
            CALLS[call](desk, {LINKS: TRACEPARENT, "app": "1"})

        assert sorted(arrived(desk)) == ["app", "traceparent"]

    @pytest.mark.parametrize(
        "links",
        [
            b"\x00\xff",
            7,
            None,
            True,
            [TRACEPARENT],
            {"a": TRACEPARENT},
            "",
            ",,,",
            "bad",
            "x" * 100_000,
            f"{TRACEPARENT}," * 200,
        ],
        ids=lambda value: repr(value)[:20],
    )
    def test_links_that_cannot_be_are_none(self, office: Office, links: object) -> None:
        """C-11: they fail no task."""
        recorder = MemoryRecorder()
        with hooked(office.app, tracer=recorder):
            context = office.run(TraceContext.get, {"traceparent": TRACEPARENT, LINKS: links})
            office.settle()

        assert context.parent_span_id == SENDER.span_id
        assert span_of(recorder, context).links == ()

    def test_of_several_links_those_that_can_be_read_count(self, office: Office) -> None:
        """C-11: one that is broken costs no other."""
        recorder = MemoryRecorder()
        with hooked(office.app, tracer=recorder):
            context = office.run(TraceContext.get, {"traceparent": TRACEPARENT, LINKS: f"{STALE},bad"})
            office.settle()

        assert [link.trace_id for link in span_of(recorder, context).links] == [STALE[3:35]]


def span_of(recorder: MemoryRecorder, context: TraceContext) -> Span:
    """Return the recorded span of a context."""
    return span_with(recorder, context.span_id)


def span_with(recorder: MemoryRecorder, span_id: str) -> Span:
    return next(span for span in recorder.spans if span.span_id == span_id)
