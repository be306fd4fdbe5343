"""Celery's canvas on real workers: who is whose parent, and what links to what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import pytest
from celery import chain, chord, group
from celery.canvas import chunks, xmap, xstarmap

from integrations.celery_branch import Kind, Urls
from integrations.celery_kitchen import id_of, open_kitchen
from spakky.tracing.integrations.celery import call_headers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from celery.canvas import Signature

    from integrations.celery_kitchen import Kitchen, Note
    from spakky.tracing.context import TraceContext


@pytest.fixture(scope="module")
def urls(amqp_url: str, redis_url: str) -> Urls:
    return Urls(amqp_url, redis_url)


@pytest.fixture(scope="module")
def prefork(urls: Urls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kitchen]:
    with open_kitchen(Kind("prefork", "amqp"), urls, tmp_path_factory.mktemp("prefork")) as kitchen:
        yield kitchen


@pytest.fixture(scope="module")
def threads(urls: Urls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kitchen]:
    with open_kitchen(Kind("threads", "redis"), urls, tmp_path_factory.mktemp("threads")) as kitchen:
        yield kitchen


@pytest.fixture(scope="module")
def gevent(urls: Urls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kitchen]:
    with open_kitchen(Kind("gevent", "amqp"), urls, tmp_path_factory.mktemp("gevent")) as kitchen:
        yield kitchen


@pytest.fixture(scope="module")
def files(urls: Urls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kitchen]:
    """A kitchen whose result backend cannot count: a task asks it now and then whether a header is done."""
    folder = tmp_path_factory.mktemp("files")
    with open_kitchen(Kind("threads", "redis"), urls, folder, keeps_files=True) as kitchen:
        yield kitchen


@pytest.fixture(params=["prefork", "threads", "gevent"])
def kitchen(request: pytest.FixtureRequest) -> Kitchen:
    kitchen: Kitchen = request.getfixturevalue(request.param)
    return kitchen


@pytest.fixture(params=["prefork", "gevent"])
def killing_kitchen(request: pytest.FixtureRequest) -> Kitchen:
    """A kitchen with hard time limits."""
    kitchen: Kitchen = request.getfixturevalue(request.param)
    return kitchen


@pytest.fixture(params=["prefork", "threads", "gevent", "files"])
def any_kitchen(request: pytest.FixtureRequest) -> Kitchen:
    kitchen: Kitchen = request.getfixturevalue(request.param)
    return kitchen


class Dead(NamedTuple):
    """Tasks that have killed their processes, all at once: Celery takes seconds to see that."""

    kitchen: Kitchen
    errback: Signature
    dies: Signature
    trace: TraceContext
    again: Signature
    trace_of_again: TraceContext
    bare: Signature


@pytest.fixture(scope="module")
def dead(urls: Urls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dead]:
    """In a worker of their own: a task that waits for a process which others kill may never start."""
    with open_kitchen(Kind("prefork", "amqp"), urls, tmp_path_factory.mktemp("dead")) as kitchen:
        errback = kitchen.dish()
        dies, again, bare = kitchen.dish("dies"), kitchen.dish("dies_once"), kitchen.dish("dies_once")
        trace = kitchen.order(dies.on_error(errback))
        trace_of_again = kitchen.order(again, baggage={"tenant": "acme"})
        bare.apply_async()
        yield Dead(kitchen, errback, dies, trace, again, trace_of_again, bare)


def ids(notes: list[Note]) -> list[str]:
    """Return the ids of the runs that wrote *notes*, sorted as links are."""
    return sorted(note["span_id"] for note in notes)


class TestChains:
    def test_each_step_is_a_child_of_the_step_before_it(self, kitchen: Kitchen) -> None:
        """C-12: the sender's child is the first step only."""
        steps = [kitchen.dish() for _ in range(3)]

        trace = kitchen.order(chain(*steps))

        notes = kitchen.notes(steps)
        assert [kitchen.caller(note) for note in notes] == [
            trace.span_id,
            *(n["span_id"] for n in notes[:-1]),
        ]
        assert {note["trace_id"] for note in notes} == {trace.trace_id}

    def test_a_step_after_a_retried_one_is_a_child_of_its_last_attempt(self, kitchen: Kitchen) -> None:
        first, second = kitchen.dish("cooks_again"), kitchen.dish()

        kitchen.order(chain(first, second))

        assert kitchen.caller(kitchen.note(second)) == kitchen.note(first, 2)["span_id"]

    def test_a_group_in_a_chain_is_called_by_the_step_before_it(self, any_kitchen: Kitchen) -> None:
        """C-11, C-12: with a step behind it the group is the header of a chord."""
        kitchen = any_kitchen
        first, middle, last = kitchen.dish(), [kitchen.dish() for _ in range(2)], kitchen.dish()

        trace = kitchen.order(chain(first, group(*middle, app=kitchen.app), last))

        start, *cooked, end = kitchen.notes([first, *middle, last])
        assert kitchen.caller(start) == trace.span_id
        assert [kitchen.caller(note) for note in cooked] == [start["span_id"]] * 2
        assert kitchen.links(end) == ids(cooked)
        assert end["trace_id"] == trace.trace_id


class TestChords:
    @pytest.mark.parametrize("size", [1, 3])
    def test_the_body_links_to_all_header_tasks(self, any_kitchen: Kitchen, size: int) -> None:
        """C-11: it is a child of the one that sends it."""
        kitchen = any_kitchen
        header, body = [kitchen.dish() for _ in range(size)], kitchen.dish()
        canvas = chord(header, body, app=kitchen.app)

        trace = kitchen.order(canvas, task_id=id_of(body))

        cooked, served = kitchen.notes(header), kitchen.note(body)
        assert [kitchen.caller(note) for note in cooked] == [trace.span_id] * size
        assert kitchen.links(served) == ids(cooked)
        assert {note["trace_id"] for note in [*cooked, served]} == {trace.trace_id}
        sender = kitchen.caller(served)
        assert sender is not None
        assert kitchen.span(sender).name == (
            "run celery.chord_unlock" if kitchen.keeps_files else "run kitchen.cook"
        )
        assert kitchen.left_behind(cooked[0]) == []

    def test_header_tasks_that_are_chains_are_linked_to_by_their_last_steps(self, kitchen: Kitchen) -> None:
        """C-11: those are what the body waits for."""
        firsts, lasts = ([kitchen.dish() for _ in range(2)] for _ in range(2))
        body = kitchen.dish()
        header = [chain(*steps, app=kitchen.app) for steps in zip(firsts, lasts, strict=True)]

        kitchen.order(chord(header, body, app=kitchen.app))

        assert kitchen.links(kitchen.note(body)) == ids(kitchen.notes(lasts))

    def test_the_tasks_of_a_group_in_the_header_are_linked_to(self, kitchen: Kitchen) -> None:
        """C-11: in a header a group is its tasks."""
        inner, outer, body = [kitchen.dish() for _ in range(2)], kitchen.dish(), kitchen.dish()

        kitchen.order(chord([group(*inner, app=kitchen.app), outer], body, app=kitchen.app))

        assert kitchen.links(kitchen.note(body)) == ids(kitchen.notes([*inner, outer]))

    def test_a_body_that_is_a_group_has_the_links_on_each_of_its_tasks(self, kitchen: Kitchen) -> None:
        """C-11: each of them waits for the header."""
        header, body = ([kitchen.dish() for _ in range(2)] for _ in range(2))

        kitchen.order(chord(header, group(*body, app=kitchen.app), app=kitchen.app))

        cooked = ids(kitchen.notes(header))
        assert [kitchen.links(note) for note in kitchen.notes(body)] == [cooked, cooked]

    def test_of_a_body_that_is_a_chain_the_first_step_has_the_links(self, kitchen: Kitchen) -> None:
        """C-11: the second step waits for the first one only."""
        header, body = ([kitchen.dish() for _ in range(2)] for _ in range(2))

        kitchen.order(chord(header, chain(*body, app=kitchen.app), app=kitchen.app))

        first, second = kitchen.notes(body)
        assert kitchen.links(first) == ids(kitchen.notes(header))
        assert kitchen.links(second) == []
        assert kitchen.caller(second) == first["span_id"]

    def test_of_a_body_that_is_a_chord_the_header_has_the_links(self, kitchen: Kitchen) -> None:
        """C-11: its own body links to its own header."""
        header, second = ([kitchen.dish() for _ in range(2)] for _ in range(2))
        last = kitchen.dish()

        kitchen.order(chord(header, chord(second, last, app=kitchen.app), app=kitchen.app))

        cooked, then = kitchen.notes(header), kitchen.notes(second)
        assert [kitchen.links(note) for note in then] == [ids(cooked)] * 2
        assert kitchen.links(kitchen.note(last)) == ids(then)
        assert kitchen.left_behind(cooked[0]) == kitchen.left_behind(then[0]) == []

    def test_a_header_task_that_is_retried_is_linked_to_by_its_last_attempt(
        self, any_kitchen: Kitchen
    ) -> None:
        """C-11: the attempt that succeeded."""
        kitchen = any_kitchen
        header, body = [kitchen.dish(), kitchen.dish("cooks_again")], kitchen.dish()

        kitchen.order(chord(header, body, app=kitchen.app))

        cooked = [kitchen.note(header[0]), kitchen.note(header[1], 2)]
        assert kitchen.links(kitchen.note(body)) == ids(cooked)
        assert kitchen.left_behind(cooked[0]) == []

    def test_a_header_task_that_replaces_itself_is_linked_to_by_its_replacement(
        self, kitchen: Kitchen
    ) -> None:
        """C-11, C-12: the replacement is a child of what it replaces."""
        other, body = kitchen.dish(), kitchen.dish()
        by = kitchen.app.signature("kitchen.cook", queue=kitchen.branch.queue)
        host = kitchen.dish("is_replaced", dict(by))

        kitchen.order(chord([other, host], body, app=kitchen.app))

        replaced, replacement = kitchen.branch.notes(id_of(host), 2)
        assert kitchen.caller(replacement) == replaced["span_id"]
        assert kitchen.links(kitchen.note(body)) == ids([kitchen.note(other), replacement])
        assert kitchen.left_behind(replaced) == []

    def test_a_body_that_is_retried_keeps_its_links(self, kitchen: Kitchen) -> None:
        """C-11: in all attempts."""
        header, body = [kitchen.dish() for _ in range(2)], kitchen.dish("cooks_again")

        kitchen.order(chord(header, body, app=kitchen.app))

        cooked = ids(kitchen.notes(header))
        attempts = [kitchen.note(body, attempt) for attempt in (1, 2)]
        assert [kitchen.links(note) for note in attempts] == [cooked, cooked]
        assert attempts[0]["parent_span_id"] == attempts[1]["parent_span_id"]

    def test_a_body_whose_relation_is_link_links_to_its_sender_too(self, kitchen: Kitchen) -> None:
        """C-08, C-11: the header tasks besides."""
        header, body = [kitchen.dish() for _ in range(2)], kitchen.dish("linked")

        trace = kitchen.order(chord(header, body, app=kitchen.app))

        cooked, served = kitchen.notes(header), kitchen.note(body)
        (sender,) = set(kitchen.links(served)) - set(ids(cooked))
        assert kitchen.span(sender).parent_span_id in ids(cooked)
        assert served["trace_id"] != trace.trace_id
        assert served["parent_span_id"] is None

    def test_a_body_whose_relation_is_root_links_to_nothing(self, kitchen: Kitchen) -> None:
        """C-08, C-11: it does not trust its senders."""
        body = kitchen.dish("rooted")

        trace = kitchen.order(chord([kitchen.dish(), kitchen.dish()], body, app=kitchen.app))

        served = kitchen.note(body)
        assert kitchen.links(served) == []
        assert served["trace_id"] != trace.trace_id

    def test_the_call_of_a_body_can_choose_its_relation(self, threads: Kitchen) -> None:
        """C-08, C-11: the header tasks are linked to all the same."""
        kitchen, header = threads, [threads.dish() for _ in range(2)]
        body = kitchen.dish().set(headers=call_headers({"table": "7"}, relation="link"))

        trace = kitchen.order(chord(header, body, app=kitchen.app))

        cooked, served = ids(kitchen.notes(header)), kitchen.note(body)
        assert served["trace_id"] != trace.trace_id
        assert set(cooked) < set(kitchen.links(served))
        assert len(kitchen.links(served)) == 3
        assert served["headers"] == ["table", "traceparent", "x-trace-links", "x-trace-relation"]

    def test_the_call_of_a_body_can_be_switched_off(self, threads: Kitchen) -> None:
        """C-11, C-15: it carries nothing of ours, and so starts a trace without links."""
        kitchen, body = threads, threads.dish().set(headers=call_headers({"table": "7"}, enabled=False))

        trace = kitchen.order(chord([kitchen.dish(), kitchen.dish()], body, app=kitchen.app))

        served = kitchen.note(body)
        assert served["headers"] == ["table"]
        assert served["trace_id"] != trace.trace_id
        assert kitchen.links(served) == []

    def test_the_errback_of_a_chord_belongs_to_the_task_that_calls_it_and_links_to_the_header(
        self, any_kitchen: Kitchen
    ) -> None:
        """C-11: the failed task itself is the last one here."""
        kitchen = any_kitchen
        errback, header = kitchen.dish(), [kitchen.dish(), kitchen.dish("burns", kwargs={"seconds": 0.2})]
        body = kitchen.dish().on_error(errback)

        kitchen.order(chord(header, body, app=kitchen.app))

        cooked, burnt = kitchen.notes(header)
        complaint = kitchen.note(errback)
        if kitchen.keeps_files:
            assert kitchen.span(kitchen.caller(complaint) or "").name == "run celery.chord_unlock"
        else:
            assert kitchen.caller(complaint) == burnt["span_id"]
        assert kitchen.links(complaint) == ids([cooked, burnt])
        assert kitchen.left_behind(burnt) == []

    def test_no_more_than_128_are_linked_to(self, threads: Kitchen) -> None:
        """C-11: as many as a span has room for in OpenTelemetry."""
        kitchen = threads
        header, body = [kitchen.dish("rinse") for _ in range(130)], kitchen.dish()

        kitchen.order(chord(header, body, app=kitchen.app))

        assert len(kitchen.links(kitchen.note(body))) == 128


class TestCallbacks:
    def test_a_callback_is_a_child_of_the_task_that_calls_it(self, kitchen: Kitchen) -> None:
        """C-12: by `link`."""
        first, callback = kitchen.dish(), kitchen.dish()

        kitchen.order(first.on_error(kitchen.dish()), link=callback)

        assert kitchen.caller(kitchen.note(callback)) == kitchen.note(first)["span_id"]

    def test_an_errback_is_a_child_of_the_task_that_fails(self, kitchen: Kitchen) -> None:
        """C-12: by `link_error`."""
        burns, errback = kitchen.dish("burns"), kitchen.dish()

        trace = kitchen.order(burns.on_error(errback))

        complaint = kitchen.note(errback)
        assert kitchen.caller(complaint) == kitchen.note(burns)["span_id"]
        assert complaint["trace_id"] == trace.trace_id

    def test_an_errback_that_is_called_in_place_runs_in_the_task_that_fails(self, kitchen: Kitchen) -> None:
        """C-12: Celery sends no message for what takes the request."""
        burns = kitchen.dish("burns")
        key = f"in place of {id_of(burns)}"

        kitchen.order(burns.on_error(kitchen.app.signature("kitchen.complain_in_place", kwargs={"key": key})))

        assert kitchen.note(key)["span_id"] == kitchen.note(burns)["span_id"]

    def test_an_errback_of_a_chain_is_a_child_of_the_step_that_fails(self, kitchen: Kitchen) -> None:
        """C-12: also of a later one."""
        steps, errback = [kitchen.dish(), kitchen.dish("burns"), kitchen.dish()], kitchen.dish()

        kitchen.order(chain(*steps, app=kitchen.app), link_error=errback)

        assert kitchen.caller(kitchen.note(errback)) == kitchen.note(steps[1])["span_id"]

    def test_a_replacement_is_a_child_of_what_it_replaces_and_keeps_what_follows(
        self, kitchen: Kitchen
    ) -> None:
        """C-12: the next step of the chain is a child of the replacement."""
        by, last = kitchen.app.signature("kitchen.cook", queue=kitchen.branch.queue), kitchen.dish()
        host = kitchen.dish("is_replaced", dict(by))

        kitchen.order(chain(host, last))

        replaced, replacement = kitchen.branch.notes(id_of(host), 2)
        assert kitchen.caller(replacement) == replaced["span_id"]
        assert kitchen.caller(kitchen.note(last)) == replacement["span_id"]

    @pytest.mark.parametrize("many", ["map", "starmap", "chunks"])
    def test_many_items_in_one_task_are_part_of_its_run(self, threads: Kitchen, many: str) -> None:
        kitchen = threads
        keys = [f"{many} {number} {uuid4().hex}" for number in range(4)]
        taste = kitchen.app.signature("kitchen.taste")
        canvas: Any = {
            "map": xmap(taste, keys, app=kitchen.app),
            "starmap": xstarmap(taste, [(key,) for key in keys], app=kitchen.app),
            "chunks": chunks(taste, [(key,) for key in keys], 2, app=kitchen.app).group(),
        }[many]

        trace = kitchen.order(canvas, queue=kitchen.branch.queue)

        notes = kitchen.notes(keys)
        runs = 2 if many == "chunks" else 1
        assert len({note["span_id"] for note in notes}) == runs
        assert {note["trace_id"] for note in notes} == {trace.trace_id}
        assert {kitchen.caller(note) for note in notes} == {trace.span_id}

    def test_stamps_and_the_context_travel_side_by_side(self, kitchen: Kitchen) -> None:
        steps = [kitchen.dish(), kitchen.dish()]
        canvas = chain(*steps, app=kitchen.app)
        canvas.stamp(table="7")

        kitchen.order(canvas)

        first, second = kitchen.notes(steps)
        assert kitchen.caller(second) == first["span_id"]
        assert first["stamps"] == second["stamps"] == {"table": "7"}


class TestLostTasks:
    """What the worker's main process sends for a task whose process is gone belongs to that task's run."""

    def test_the_errback_after_a_hard_time_limit_is_a_child_of_the_killed_task(
        self, killing_kitchen: Kitchen
    ) -> None:
        """C-12: Celery's main process calls it, under gevent what is around the task."""
        kitchen = killing_kitchen
        hang, errback = kitchen.dish("hang", time_limit=0.5), kitchen.dish()

        trace = kitchen.order(hang.on_error(errback))

        killed, complaint = kitchen.note(hang), kitchen.note(errback)
        assert kitchen.caller(complaint) == killed["span_id"]
        assert complaint["trace_id"] == trace.trace_id

    def test_an_errback_that_the_main_process_calls_in_place_has_no_context(self, prefork: Kitchen) -> None:
        """Celery says nothing of such a call, and goes on after it."""
        kitchen, hang = prefork, prefork.dish("hang", time_limit=0.3)
        key = f"in place of {id_of(hang)}"

        kitchen.order(hang.on_error(kitchen.app.signature("kitchen.complain_in_place", kwargs={"key": key})))

        assert kitchen.note(key)["span_id"] is None

    def test_a_killed_task_with_a_trace_of_its_own_keeps_its_errback_in_it(
        self, killing_kitchen: Kitchen
    ) -> None:
        """C-08, C-12: its trace id is known to the main process, too."""
        kitchen = killing_kitchen
        hang, errback = kitchen.dish("linked_hang", time_limit=0.5), kitchen.dish()

        trace = kitchen.order(hang.on_error(errback))

        killed, complaint = kitchen.note(hang), kitchen.note(errback)
        assert kitchen.caller(complaint) == killed["span_id"]
        assert complaint["trace_id"] == killed["trace_id"] != trace.trace_id

    def test_a_killed_header_task_has_the_errback_of_the_chord(self, killing_kitchen: Kitchen) -> None:
        """C-11, C-12: it is the last of the header here."""
        kitchen = killing_kitchen
        header, errback = (
            [kitchen.dish(), kitchen.dish("hang", time_limit=0.5), kitchen.dish()],
            kitchen.dish(),
        )

        kitchen.order(chord(header, kitchen.dish().on_error(errback), app=kitchen.app))

        notes = kitchen.notes(header)
        complaint = kitchen.note(errback)
        assert kitchen.caller(complaint) == notes[1]["span_id"]
        assert kitchen.links(complaint) == ids(notes)
        assert kitchen.left_behind(notes[1]) == []

    def test_of_header_tasks_in_one_worker_the_killed_one_has_the_errback(self, prefork: Kitchen) -> None:
        """C-11, C-12: the others are done by then."""
        kitchen, errback = prefork, prefork.dish()
        hang = kitchen.dish("hang", time_limit=0.5)
        header = [hang, *(kitchen.dish(kwargs={"seconds": 0.2}) for _ in range(3))]

        kitchen.order(chord(header, kitchen.dish().on_error(errback), app=kitchen.app))

        assert kitchen.caller(kitchen.note(errback)) == kitchen.note(hang)["span_id"]

    def test_the_errback_of_a_task_whose_process_died_is_its_child(self, dead: Dead) -> None:
        """C-12: lost workers fail their tasks."""
        lost, complaint = dead.kitchen.note(dead.dies), dead.kitchen.note(dead.errback)
        assert dead.kitchen.caller(complaint) == lost["span_id"]
        assert complaint["trace_id"] == dead.trace.trace_id

    def test_a_task_that_is_tried_again_by_the_main_process_stays_in_its_trace(self, dead: Dead) -> None:
        """C-12: the attempts are siblings, with the baggage of the message."""
        first, second = dead.kitchen.note(dead.again), dead.kitchen.note(dead.again, 2)
        assert first["parent_span_id"] == second["parent_span_id"]
        assert first["span_id"] != second["span_id"]
        assert first["trace_id"] == second["trace_id"] == dead.trace_of_again.trace_id
        assert first["baggage"] == second["baggage"] == {"tenant": "acme"}
        assert dead.kitchen.run(second).attempt == 2

    def test_a_task_without_context_that_is_tried_again_is_a_child_of_its_first_attempt(
        self, dead: Dead
    ) -> None:
        """C-12: whose ids the main process knows."""
        first, second = dead.kitchen.note(dead.bare), dead.kitchen.note(dead.bare, 2)
        assert first["parent_span_id"] is None
        assert second["trace_id"] == first["trace_id"]
        assert second["parent_span_id"] == first["span_id"]

    def test_a_header_task_that_is_terminated_has_the_errback_of_the_chord(self, prefork: Kitchen) -> None:
        """C-11, C-12: Celery calls none of the task's own for what is revoked."""
        kitchen, hang, other, errback = prefork, prefork.dish("hang"), prefork.dish(), prefork.dish()

        kitchen.order(chord([hang, other], kitchen.dish().on_error(errback), app=kitchen.app))
        running = kitchen.note(hang)
        kitchen.span(kitchen.note(other)["span_id"])  # or else it might return last, and send the errback
        kitchen.revoke(hang, terminate=True, signal="SIGKILL")

        assert kitchen.caller(kitchen.note(errback)) == running["span_id"]

    def test_what_is_sent_for_a_task_that_never_started_belongs_to_its_sender(self, prefork: Kitchen) -> None:
        """C-11, C-12: there is no run that it could belong to."""
        kitchen, errback = prefork, prefork.dish()
        expires = kitchen.dish(countdown=0.4, expires=0.3)

        trace = kitchen.order(chord([expires], kitchen.dish().on_error(errback), app=kitchen.app))

        complaint = kitchen.note(errback)
        sender = kitchen.span(kitchen.caller(complaint) or "")
        assert (sender.name, sender.process) == ("send kitchen.cook", "guest")
        assert complaint["trace_id"] == trace.trace_id

    def test_our_ids_are_in_what_celery_says_of_the_delivery_only(self, dead: Dead) -> None:
        """C-23: an attempt sends them on neither as a header nor as a property."""
        kitchen, cooks = dead.kitchen, dead.kitchen.dish("cooks_again")
        kitchen.order(cooks)

        for note in [kitchen.note(each, attempt) for each in (cooks, dead.again) for attempt in (1, 2)]:
            assert [name for name in note["delivery_info"] if "spakky" in name] == ["spakky_tracing_ids"]
            assert note["headers"] == (["baggage", "traceparent"] if note["baggage"] else ["traceparent"])
            assert [name for name in note["properties"] if "spakky" in name] == []

    def test_under_protocol_1_an_errback_by_the_main_process_starts_a_trace(
        self, urls: Urls, tmp_path: Path
    ) -> None:
        """Its message names no parent. The next attempt of a task names the task, and stays in its trace."""
        settings = {"task_protocol": 1}
        with open_kitchen(Kind("prefork", "redis"), urls, tmp_path, settings=settings) as kitchen:
            dies, again, errback = kitchen.dish("dies"), kitchen.dish("dies_once"), kitchen.dish()
            trace = kitchen.order(dies.on_error(errback))
            other = kitchen.order(again)

            complaint = kitchen.note(errback)
            assert kitchen.note(dies)["trace_id"] == trace.trace_id
            assert complaint["trace_id"] != trace.trace_id
            assert kitchen.caller(complaint) is None
            attempts = [kitchen.note(again, attempt) for attempt in (1, 2)]
            assert [note["trace_id"] for note in attempts] == [other.trace_id] * 2
