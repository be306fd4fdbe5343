"""Celery with Sentry's SDK or OpenTelemetry's instrumentation beside us, in real processes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

import pytest
from kombu.connection import Connection

from contract.contexts import STALE, TRACEPARENT
from contract.receiving import SENDER
from integrations.celery_neighbours import Town
from integrations.celery_office import (
    OWN_HEADERS,
    PATIENCE,
    Desk,
    Mailbox,
    Office,
    hooked,
    open_desk,
)
from spakky.tracing.baggage import Baggage
from spakky.tracing.context import TraceContext
from spakky.tracing.recorder import MemoryRecorder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Task

    from integrations.celery_neighbours import Published, Publisher, Worker
    from spakky.tracing.recorder import Span

SENTRY_FIRST: Final = "sentry,ours"
SENTRY_LAST: Final = "ours,sentry"
OTEL_FIRST: Final = "opentelemetry,ours"
OTEL_LAST: Final = "ours,opentelemetry"


@pytest.fixture(scope="module")
def town(amqp_url: str) -> Iterator[Town]:
    with Town(amqp_url).open() as town:
        yield town


@pytest.fixture(scope="module")
def connection(amqp_url: str) -> Iterator[Connection]:
    with Connection(amqp_url) as connection:
        yield connection


@pytest.fixture
def mailbox(connection: Connection) -> Iterator[Mailbox]:
    with Mailbox(connection) as mailbox:
        yield mailbox


def wire_in(mailbox: Mailbox) -> dict[str, Any]:
    """Return the headers of the next message, less Celery's own."""
    headers = mailbox.message().headers
    return {name: value for name, value in headers.items() if name not in OWN_HEADERS}


def members(wire: dict[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the baggage of the user and that of Sentry."""
    baggage = Baggage.parse(wire.get("baggage", ""))
    theirs = {key: value for key, value in baggage.items() if key.startswith("sentry-")}
    return {key: value for key, value in baggage.items() if key not in theirs}, theirs


def sender_seen_by(tool: dict[str, Any]) -> tuple[str, str | None]:
    """Return the ids of trace and span that a *tool* takes for the sender of a task."""
    return tool["trace_id"], tool["parent_span_id"]


def sentrys(headers: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in headers.items() if name.startswith("sentry-")}


@pytest.mark.parametrize("tools", [SENTRY_FIRST, SENTRY_LAST])
class TestAMessageBesideSentry:
    @pytest.fixture
    def publisher(self, town: Town, tools: str) -> Publisher:
        return town.publisher(tools)

    @pytest.mark.parametrize("call", ["apply_async", "send_task", "group"])
    def test_what_sentry_wrote_is_at_both_of_its_places(
        self, publisher: Publisher, mailbox: Mailbox, call: str
    ) -> None:
        """C-13, C-14: at the top and once more below `headers`, where Sentry's worker reads it."""
        published = publisher.publish(mailbox.queue.name, way=call, inside="sentry,ours")
        wire = wire_in(mailbox)

        ours, theirs = published.before["ours"], published.before["sentry"]
        assert (wire["traceparent"], wire["tracestate"]) == (ours["traceparent"], "ours=1")
        assert members(wire) == ({"tenant": "acme"}, dict(Baggage.parse(theirs["baggage"])))
        assert wire["sentry-trace"].startswith(theirs["trace_id"])
        assert sentrys(wire["headers"]) == sentrys(wire)
        assert wire["headers"]["baggage"] == wire["baggage"]
        assert "traceparent" not in wire["headers"]

    def test_outside_of_a_context_of_ours_it_is_there_too(
        self, publisher: Publisher, mailbox: Mailbox
    ) -> None:
        """C-14: beside a trace that the message starts."""
        published = publisher.publish(mailbox.queue.name, inside="sentry")
        wire = wire_in(mailbox)

        assert TraceContext.from_traceparent(wire["traceparent"]).trace_id
        assert members(wire) == ({}, dict(Baggage.parse(published.before["sentry"]["baggage"])))
        assert wire["headers"]["baggage"] == wire["baggage"]

    def test_a_context_in_the_headers_of_the_caller_is_nowhere_in_the_message(
        self, publisher: Publisher, mailbox: Mailbox
    ) -> None:
        """C-13, C-14: Sentry copies all headers, and puts the caller's baggage together with its own."""
        headers = {"traceparent": STALE, "tracestate": "old=1", "baggage": "old=1", "app": "1"}

        published = publisher.publish(mailbox.queue.name, inside="sentry,ours", headers=headers)
        wire = wire_in(mailbox)

        assert wire["traceparent"] == published.before["ours"]["traceparent"]
        assert members(wire)[0] == {"tenant": "acme"}
        assert members(wire)[1] == dict(Baggage.parse(published.before["sentry"]["baggage"]))
        assert "old" not in str(wire)
        assert STALE not in str(wire)
        assert (wire["app"], wire["headers"]["app"]) == ("1", "1")
        assert published.headers == headers

    def test_sentrys_opt_out_for_a_call_does_not_touch_ours(
        self, publisher: Publisher, mailbox: Mailbox
    ) -> None:
        """C-15: whatever becomes of Sentry's own headers, ours are there."""
        for way in ("apply_async", "send_task", "group"):
            headers = {"sentry-propagate-traces": False, "app": "1"}
            published = publisher.publish(mailbox.queue.name, way=way, inside="sentry,ours", headers=headers)
            wire = wire_in(mailbox)

            assert wire["traceparent"] == published.before["ours"]["traceparent"]
            assert members(wire)[0] == {"tenant": "acme"}
            assert wire["app"] == "1"

    def test_what_sentry_says_of_a_tick_of_beat_is_at_both_of_its_places(
        self, town: Town, mailbox: Mailbox, tools: str
    ) -> None:
        """C-14, C-18: and each tick is a trace of its own."""
        beat = town.publisher(tools, "beat")  # Sentry marks the process as one
        wires = []
        for _ in range(2):
            beat.publish(mailbox.queue.name, way="tick")
            wires.append(wire_in(mailbox))

        for wire in wires:
            assert {
                "sentry-monitor-slug",
                "sentry-monitor-config",
                "sentry-monitor-check-in-id",
            } < wire.keys()
            assert sentrys(wire["headers"]) == sentrys(wire)
            assert members(wire)[1]["sentry-trace_id"] == wire["sentry-trace"][:32]
            assert wire["headers"]["baggage"] == wire["baggage"]
        assert len({wire["traceparent"][3:35] for wire in wires}) == 2

    def test_publishing_leaves_each_its_context(self, publisher: Publisher, mailbox: Mailbox) -> None:
        published = publisher.publish(mailbox.queue.name, inside="ours,sentry")

        assert published.after == published.before
        assert set(published.left.values()) == {None}


def test_where_sentry_propagates_nothing_the_message_is_as_without_it(town: Town, mailbox: Mailbox) -> None:
    """C-15: its opt-out for all calls."""
    published = town.publisher("silent_sentry,ours").publish(mailbox.queue.name, inside="silent_sentry,ours")

    assert wire_in(mailbox) == {
        "traceparent": published.before["ours"]["traceparent"],
        "tracestate": "ours=1",
        "baggage": "tenant=acme",
    }


@pytest.mark.parametrize(
    ("tools", "pool"), [(SENTRY_FIRST, "prefork"), (SENTRY_LAST, "threads")], ids=["first", "last"]
)
class TestATaskBesideSentry:
    @pytest.fixture
    def worker(self, town: Town, tools: str, pool: str) -> Worker:
        return town.worker(tools, pool)

    @pytest.fixture
    def publisher(self, town: Town, tools: str) -> Publisher:
        return town.publisher(tools)

    def test_both_continue_what_they_have_sent(self, worker: Worker, publisher: Publisher) -> None:
        """C-14: the task is in both traces, and Sentry's transaction is a child of what was sent."""
        published = publisher.publish(worker.queue, inside="sentry,ours")
        (note,) = worker.notes(published.task_id)

        ours, theirs = published.before["ours"], published.before["sentry"]
        assert sender_seen_by(note["ours"]) == (
            ours["trace_id"],
            ours["span_id"],
        )
        assert note["ours"]["baggage"]["tenant"] == "acme"
        assert note["sentry"]["trace_id"] == theirs["trace_id"]
        assert note["sentry"]["parent_span_id"] == note["attributes"]["sentry-trace"].split("-")[1]
        assert note["sentry"]["baggage"] == theirs["baggage"]
        (event,) = worker.sentry("transaction", theirs["trace_id"])
        assert event["transaction"] == "neighbours.look"

    def test_all_attempts_of_a_retry_stay_in_both_traces(self, worker: Worker, publisher: Publisher) -> None:
        """C-13, C-14, C-16: and their headers neither disagree nor grow."""
        published = publisher.publish(worker.queue, "retries_twice", inside="sentry,ours")
        notes = worker.notes(published.task_id, 3)

        ours, theirs = published.before["ours"], published.before["sentry"]
        assert [note["attempt"] for note in notes] == [1, 2, 3]
        assert {note["ours"]["trace_id"] for note in notes} == {ours["trace_id"]}
        assert {note["ours"]["parent_span_id"] for note in notes} == {ours["span_id"]}
        assert {note["sentry"]["trace_id"] for note in notes} == {theirs["trace_id"]}
        for note in notes:
            top, nested = note["attributes"], note["headers"]
            assert (top["traceparent"], top["tracestate"]) == (ours["traceparent"], "ours=1")
            assert members(top) == ({"tenant": "acme"}, dict(Baggage.parse(theirs["baggage"])))
            assert (nested["baggage"], nested["sentry-trace"]) == (top["baggage"], top["sentry-trace"])
            assert nested.get("traceparent", ours["traceparent"]) == ours["traceparent"]
        assert len({len(str(note["attributes"])) for note in notes}) == 1

    def test_a_task_that_starts_another_hands_on_both_traces(
        self, worker: Worker, publisher: Publisher
    ) -> None:
        second_id = f"second-{publisher.publish(worker.queue).task_id}"
        published = publisher.publish(worker.queue, "starts_another", second_id, inside="sentry,ours")
        (first,), (second,) = worker.notes(published.task_id), worker.notes(second_id)

        assert second["ours"]["trace_id"] == first["ours"]["trace_id"]
        assert second["ours"]["parent_span_id"] == first["ours"]["span_id"]
        assert second["ours"]["baggage"]["tenant"] == "acme"
        assert second["sentry"]["trace_id"] == first["sentry"]["trace_id"]
        assert second["headers"]["baggage"] == second["attributes"]["baggage"]


def sender_of(wire: dict[str, Any]) -> tuple[str, str]:
    """Return the ids of trace and span in the message's one `traceparent`."""
    _, trace_id, span_id, _ = wire["traceparent"].split("-")
    return trace_id, span_id


def rest_of(wire: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in wire.items() if name != "traceparent"}


OURS: Final = {"tracestate": "ours=1", "baggage": "tenant=acme"}
THEIRS: Final = {"tracestate": "theirs=1", "baggage": "customer=7"}


class TestAMessageBesideOpenTelemetry:
    """What a message carries is decided by who is hooked last: it writes over what the other wrote."""

    @pytest.mark.parametrize("tools", [OTEL_FIRST, OTEL_LAST])
    def test_in_a_context_of_opentelemetrys_it_belongs_to_that(
        self, town: Town, mailbox: Mailbox, tools: str
    ) -> None:
        """C-14: we leave what is there, or are written over; all three fields are of the same context."""
        published = town.publisher(tools).publish(mailbox.queue.name, inside="opentelemetry")
        wire = wire_in(mailbox)

        assert sender_of(wire)[0] == published.before["opentelemetry"]["trace_id"]
        assert rest_of(wire) == THEIRS

    @pytest.mark.parametrize("inside", ["ours", "ours,opentelemetry"])
    def test_hooked_last_we_send_our_context(self, town: Town, mailbox: Mailbox, inside: str) -> None:
        """C-14: and nothing of OpenTelemetry's."""
        published = town.publisher(OTEL_FIRST).publish(mailbox.queue.name, inside=inside)
        wire = wire_in(mailbox)

        assert wire["traceparent"] == published.before["ours"]["traceparent"]
        assert rest_of(wire) == OURS

    def test_hooked_last_opentelemetry_sends_its_context(self, town: Town, mailbox: Mailbox) -> None:
        published = town.publisher(OTEL_LAST).publish(mailbox.queue.name, inside="ours,opentelemetry")
        wire = wire_in(mailbox)

        assert sender_of(wire)[0] == published.before["opentelemetry"]["trace_id"]
        assert rest_of(wire) == THEIRS

    def test_hooked_last_opentelemetry_leaves_our_state_beside_a_trace_of_its_own(
        self, town: Town, mailbox: Mailbox
    ) -> None:
        """C-09: outside of its contexts it starts a trace, and takes no field out: so hook us last."""
        published = town.publisher(OTEL_LAST).publish(mailbox.queue.name, inside="ours")
        wire = wire_in(mailbox)

        assert sender_of(wire)[0] != published.before["ours"]["trace_id"]
        assert rest_of(wire) == OURS

    @pytest.mark.parametrize("tools", [OTEL_FIRST, OTEL_LAST])
    def test_outside_of_both_the_message_starts_a_trace_of_opentelemetrys(
        self, town: Town, mailbox: Mailbox, tools: str
    ) -> None:
        publisher = town.publisher(tools)
        wires = []
        for _ in range(2):
            published = publisher.publish(mailbox.queue.name)
            wires.append(wire_in(mailbox))
            assert set(published.left.values()) == {None}

        assert [rest_of(wire) for wire in wires] == [{}, {}]
        assert len({sender_of(wire)[0] for wire in wires}) == 2

    @pytest.mark.parametrize("tools", [OTEL_FIRST, OTEL_LAST])
    def test_publishing_leaves_each_its_context(self, town: Town, mailbox: Mailbox, tools: str) -> None:
        published = town.publisher(tools).publish(mailbox.queue.name, inside="ours,opentelemetry")

        assert published.after == published.before
        assert set(published.left.values()) == {None}

    @pytest.mark.parametrize("tools", [OTEL_FIRST, OTEL_LAST])
    def test_publishing_in_vain_leaves_our_context(self, town: Town, mailbox: Mailbox, tools: str) -> None:
        """C-01: what OpenTelemetry leaves current reaches no message that is sent in a context of ours."""
        publisher = town.publisher(tools)

        failed = publisher.publish("nowhere", way="in vain", inside="opentelemetry,ours")
        published = publisher.publish(mailbox.queue.name, inside="opentelemetry,ours")
        wire = wire_in(mailbox)

        assert failed.after["ours"] == failed.before["ours"]
        assert failed.left == published.left == {"opentelemetry": None, "ours": None}
        last = published.before["ours" if tools == OTEL_FIRST else "opentelemetry"]
        assert sender_of(wire)[0] == last["trace_id"]

    def test_hooked_last_we_do_not_send_what_opentelemetry_leaves_current(
        self, town: Town, mailbox: Mailbox
    ) -> None:
        """C-01: its span of a publishing that failed stays current for ever."""
        publisher = town.publisher(OTEL_FIRST, "failing")

        failed = publisher.publish("nowhere", way="in vain")
        published = publisher.publish(mailbox.queue.name, inside="ours")
        wire = wire_in(mailbox)

        assert failed.left["ours"] is None
        assert wire == {"traceparent": published.before["ours"]["traceparent"], **OURS}

    @pytest.mark.parametrize("tools", [OTEL_FIRST, OTEL_LAST])
    def test_publishing_in_vain_leaves_us_nothing(self, town: Town, tools: str) -> None:
        """C-01: outside of a context there is none afterwards."""
        failed = town.publisher(tools, "failing").publish("nowhere", way="in vain")

        assert (failed.after["ours"], failed.left["ours"]) == (None, None)


@pytest.mark.parametrize(
    ("tools", "pool"), [(OTEL_FIRST, "prefork"), (OTEL_LAST, "threads")], ids=["first", "last"]
)
class TestATaskBesideOpenTelemetry:
    """No log complains of anything: that is looked at when the worker ends."""

    @pytest.fixture
    def worker(self, town: Town, tools: str, pool: str) -> Worker:
        return town.worker(tools, pool)

    @pytest.fixture
    def published(self, town: Town, tools: str, worker: Worker, task: str) -> Published:
        return town.publisher(tools).publish(worker.queue, task, inside="ours,opentelemetry")

    @pytest.mark.parametrize("task", ["look"])
    def test_both_continue_the_message_each_in_a_span_of_its_own(
        self, worker: Worker, published: Published
    ) -> None:
        """C-06: neither is the parent of the other."""
        (note,) = worker.notes(published.task_id)

        ours, theirs, sent = note["ours"], note["opentelemetry"], sender_of(note["attributes"])
        assert sender_seen_by(ours) == sent
        assert sender_seen_by(theirs) == sent
        assert ours["span_id"] != theirs["span_id"]
        assert (ours["baggage"], ours["tracestate"]) == (theirs["baggage"], theirs["tracestate"])

    @pytest.mark.parametrize("task", ["retries_twice"])
    def test_all_attempts_of_a_retry_stay_in_the_trace(
        self, worker: Worker, published: Published, tools: str
    ) -> None:
        """C-10: hooked last we keep them children of the first sender; OpenTelemetry nests them."""
        notes = worker.notes(published.task_id, 3)
        wires = [note["attributes"] for note in notes]

        assert len({sender_of(wire)[0] for wire in wires}) == 1
        assert len({str(rest_of(wire)) for wire in wires}) == 1
        assert len({sender_of(wire)[1] for wire in wires}) == (1 if tools == OTEL_FIRST else 3)
        for note, wire in zip(notes, wires, strict=True):
            assert sender_seen_by(note["ours"]) == sender_of(wire)
        assert len({note["ours"]["span_id"] for note in notes}) == 3

    @pytest.mark.parametrize("task", ["publishes_in_vain"])
    def test_publishing_in_vain_leaves_the_task_its_context(
        self, worker: Worker, published: Published, town: Town, tools: str
    ) -> None:
        """C-01: and the next tasks theirs."""
        (note,) = worker.notes(published.task_id)
        later = [town.publisher(tools).publish(worker.queue, inside="ours,opentelemetry") for _ in range(4)]

        assert sender_seen_by(note["ours"]) == sender_of(note["attributes"])
        for each in later:
            (after,) = worker.notes(each.task_id)
            assert sender_seen_by(after["ours"]) == sender_of(after["attributes"])


@pytest.mark.parametrize("pool", ["prefork", "threads"])
class TestOneToolInEachProcess:
    def test_a_worker_of_opentelemetrys_continues_what_we_publish(self, town: Town, pool: str) -> None:
        """C-17: with trace state and baggage; nothing of ours is loaded there."""
        worker = town.worker("opentelemetry", pool)

        published = town.publisher("ours").publish(worker.queue, inside="ours")
        (note,) = worker.notes(published.task_id)

        ours, theirs = published.before["ours"], note["opentelemetry"]
        assert sender_seen_by(theirs) == (ours["trace_id"], ours["span_id"])
        assert (theirs["tracestate"], theirs["baggage"]) == ("ours=1", {"tenant": "acme"})
        (span,) = worker.spans(ours["trace_id"])
        assert span["name"] == "run/neighbours.look"

    def test_our_worker_continues_what_opentelemetry_publishes(self, town: Town, pool: str) -> None:
        """C-17: the other way round."""
        worker = town.worker("ours", pool)

        published = town.publisher("opentelemetry").publish(worker.queue, inside="opentelemetry")
        (note,) = worker.notes(published.task_id)

        ours, theirs = note["ours"], published.before["opentelemetry"]
        assert sender_seen_by(ours) == sender_of(note["attributes"])
        assert ours["trace_id"] == theirs["trace_id"]
        assert (ours["tracestate"], ours["baggage"]) == ("theirs=1", {"customer": "7"})

    def test_a_worker_of_opentelemetrys_keeps_a_retry_of_our_message_in_its_trace(
        self, town: Town, pool: str
    ) -> None:
        """C-17: the headers that we wrote stand being sent again."""
        worker = town.worker("opentelemetry", pool)

        published = town.publisher("ours").publish(worker.queue, "retries_twice", inside="ours")
        notes = worker.notes(published.task_id, 3)

        assert {note["opentelemetry"]["trace_id"] for note in notes} == {published.before["ours"]["trace_id"]}


@pytest.fixture(scope="module")
def office(amqp_url: str) -> Iterator[Office]:
    with Office(amqp_url).open() as office:
        yield office


@pytest.fixture
def desk(amqp_url: str) -> Iterator[Desk]:
    with open_desk(amqp_url) as desk:
        desk.app.conf.broker_pool_limit = 1
        with desk.with_new_mailbox():
            yield desk


class TestRelations:
    """A new trace for what waits, by task or by what a message says."""

    def seen(self, office: Office, relation: Any, **options: Any) -> tuple[TraceContext, Span, Span]:
        """Return the context of a task that is published in a trace, its span, and that of its sending."""
        recorder, done = MemoryRecorder(), threading.Event()
        contexts: list[TraceContext | None] = []

        def body(_: Task) -> None:
            contexts.append(TraceContext.get())
            done.set()

        sender = TraceContext.from_traceparent(TRACEPARENT).with_baggage(Baggage({"tenant": "acme"}))
        with hooked(office.app, relation=relation, tracer=recorder):
            with TraceContext.use(sender):
                office.call.apply_async((office.take(body),), **options)
            assert done.wait(PATIENCE)
            office.settle()
        (context,) = contexts
        assert context is not None
        sent = next(span for span in recorder.spans if span.kind == "producer")
        run = next(span for span in recorder.spans if span.span_id == context.span_id)
        return context, run, sent

    @pytest.mark.parametrize("options", [{}, {"countdown": 0.01}], ids=["at once", "later"])
    def test_a_task_that_links_starts_a_trace_and_keeps_the_baggage(
        self, office: Office, options: dict[str, Any]
    ) -> None:
        """C-07, C-08: chosen by the name of the task."""
        context, run, sender = self.seen(office, {"office.call": "link"}, **options)

        assert context.trace_id != SENDER.trace_id
        assert [(link.trace_id, link.span_id) for link in run.links] == [(sender.trace_id, sender.span_id)]
        assert (run.parent_span_id, dict(context.baggage)) == (None, {"tenant": "acme"})

    @pytest.mark.parametrize(
        ("options", "relation"),
        [({}, "child"), ({"countdown": 0.01}, "link"), ({"headers": {"relation": "root"}}, "root")],
        ids=["at once", "later", "by a header of the call"],
    )
    def test_a_message_may_say_how_it_relates(
        self, office: Office, options: dict[str, Any], relation: str
    ) -> None:
        """C-07, C-08: only what has an ETA links; a call may say so itself."""

        def choose(request: Any) -> Any:
            return request.get("relation") or ("link" if request.eta else "child")

        context, run, sender = self.seen(office, choose, **options)

        assert (context.trace_id == SENDER.trace_id) is (relation == "child")
        assert run.parent_span_id == (sender.span_id if relation == "child" else None)
        assert len(run.links) == (1 if relation == "link" else 0)
        assert dict(context.baggage) == ({} if relation == "root" else {"tenant": "acme"})


class TestPlaces:
    def test_of_two_places_that_disagree_the_top_counts(self, office: Office) -> None:
        """C-13: it was written last; the other is read where the top has nothing."""
        nested = {"traceparent": STALE, "tracestate": "old=1", "baggage": "old=1"}

        with hooked(office.app):
            both = office.run(
                TraceContext.get,
                {"traceparent": TRACEPARENT, "tracestate": "a=1", "baggage": "b=1", "headers": nested},
            )
            one = office.run(TraceContext.get, {"headers": nested})

        assert both.parent_span_id == SENDER.span_id
        assert (both.trace_state.to_header(), dict(both.baggage)) == ("a=1", {"b": "1"})
        assert one.parent_span_id == TraceContext.from_traceparent(STALE).span_id
        assert (one.trace_state.to_header(), dict(one.baggage)) == ("old=1", {"old": "1"})

    def test_publishing_makes_both_places_agree(self, desk: Desk) -> None:
        """C-13: what is stale is in neither; what another tool wrote is in both."""
        nested = {"traceparent": STALE, "baggage": "old=1,sentry-a=old", "app": "1"}
        headers = {"headers": nested, "traceparent": STALE, "baggage": "old=1,sentry-a=1"}

        with hooked(desk.app), TraceContext.use(TraceContext.new_root()) as context:
            desk.order.apply_async(headers=headers)

        assert context is not None
        assert wire_in(desk.mailbox) == {
            "traceparent": context.to_traceparent(),
            "baggage": "sentry-a=1",
            "headers": {"app": "1", "baggage": "sentry-a=1"},
        }
        assert nested == {"traceparent": STALE, "baggage": "old=1,sentry-a=old", "app": "1"}


class TestManyThreads:
    def test_publishing_from_many_threads_on_one_connection_changes_no_header(self, desk: Desk) -> None:
        """C-19: flat text, and byte for byte what each thread sent."""
        sent: list[dict[str, Any]] = []

        def publish(number: int) -> None:
            for count in range(10):
                own = {"app": f"{number}-{count}", "long": str(number) * 500, "blob": bytes([255, number])}
                baggage = Baggage({"tenant": str(number) * 200})
                with TraceContext.use(TraceContext.new_root(baggage=baggage)) as context:
                    desk.order.apply_async(headers=own)
                assert context is not None
                sent.append({**own, "traceparent": context.to_traceparent(), "baggage": baggage.to_header()})

        threads = [threading.Thread(target=publish, args=[number]) for number in range(8)]
        with hooked(desk.app):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        arrived = [wire_in(desk.mailbox) for _ in range(80)]
        assert sorted(arrived, key=lambda wire: wire["app"]) == sorted(sent, key=lambda wire: wire["app"])
