"""`docs/how-to/trust-boundaries.md`, and what it says of forged headers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest

from contract.contexts import TRACEPARENT
from contract.receiving import SENDER
from docs.pages import programs_by_heading
from docs.running import printed_by, with_names
from spakky.tracing.baggage import Baggage
from spakky.tracing.boundaries.client import Client
from spakky.tracing.boundaries.verbs import Verbs
from spakky.tracing.carriers.amqp import CARRIER, delivery_from
from spakky.tracing.context import TraceContext
from spakky.tracing.recorder import MemoryRecorder
from spakky.tracing.w3c_propagator import W3C

if TYPE_CHECKING:
    from pathlib import Path

    from spakky.tracing.trace_state import TraceState

CODE: Final = programs_by_heading("docs/how-to/trust-boundaries.md")
QUEUES: Final = ("orders", "imports", "webhooks", "partners")

letters: Final[Verbs[dict[str, Any], dict[str, Any]]] = Verbs(
    Client(
        system="letters",
        carrier=CARRIER,
        message_type=dict,
        headers=lambda letter: letter,
        destination=lambda letter: str(letter.get("from", "anybody")),
        name=lambda letter: f"process {letter.get('from', 'anybody')}",
        delivery=lambda letter: delivery_from(letter, is_redelivered=False),
    )
)
FORGED: Final = {"traceparent": TRACEPARENT, "baggage": "role=admin", "x-retry-count": "7"}


def named(code: str, amqp_url: str) -> str:
    names = {f'"{queue}"': f'"{queue}-{uuid4().hex}"' for queue in QUEUES}
    return with_names(code, {**names, "amqp://guest:guest@localhost/": amqp_url})


def test_every_block_has_its_test() -> None:
    assert {heading: len(blocks) for heading, blocks in CODE.items()} == {
        "What comes in": 1,
        "What goes out": 1,
    }


def test_each_relation_does_what_the_table_says(amqp_url: str, tmp_path: Path) -> None:
    (code,) = CODE["What comes in"]

    said = [line.split(" ", 1) for line in printed_by(named(code, amqp_url), tmp_path)]

    assert [(queue.partition("-")[0], rest) for queue, rest in said] == [
        ("orders", "joined 0 {'role': 'admin'}"),
        ("imports", "own trace 1 {'role': 'admin'}"),
        ("webhooks", "own trace 0 {}"),
        ("partners", "no trace"),
    ]


def test_each_way_to_send_tells_what_the_table_says(amqp_url: str, tmp_path: Path) -> None:
    (code,) = CODE["What goes out"]

    assert printed_by(named(code, amqp_url), tmp_path) == [
        "all baggage traceparent tracestate",
        "no baggage traceparent tracestate",
        "traceparent only traceparent",
        "nothing",
    ]


def propagators() -> dict[str, Any]:
    """Return the page's two propagators."""
    (code,) = CODE["What goes out"]
    defined: dict[str, Any] = {}
    exec(code.partition("\nwith BlockingConnection")[0], defined)  # noqa: S102 - it is the page's own code
    return {"traceparent only": defined["TraceparentOnly"](), "no baggage": defined["W3CTracePropagator"]()}


@pytest.mark.parametrize(
    ("name", "left"),
    [("traceparent only", ["app", "traceparent"]), ("no baggage", ["app", "baggage", "traceparent"])],
)
def test_what_is_in_the_headers_already_is_taken_out_as_far_as_the_page_says(
    name: str, left: list[str]
) -> None:
    stale = {"app": "1", "traceparent": TRACEPARENT, "tracestate": "old=1", "baggage": "old=1"}

    with TraceContext.use(TraceContext.new_root()) as context:
        headers = letters.headers(stale, propagator=propagators()[name])

    assert sorted(headers) == left
    assert context is not None
    assert headers["traceparent"] == context.to_traceparent()


@pytest.mark.parametrize(
    ("name", "left"), [("traceparent only", {}), ("no baggage", {"baggage": "sentry-trace_id=1"})]
)
def test_members_of_sentrys_stay_where_the_page_says_so(name: str, left: dict[str, str]) -> None:
    with TraceContext.use(SENDER.with_baggage(Baggage({"customer": "acme"}))):
        headers = letters.headers({"baggage": "sentry-trace_id=1"}, propagator=propagators()[name])

    assert headers == {"traceparent": TRACEPARENT, **left}


def test_where_it_is_switched_off_headers_go_out_as_they_came() -> None:
    with TraceContext.use(SENDER):
        assert letters.headers({"baggage": "old=1"}, enabled=False) == {"baggage": "old=1"}


@pytest.mark.parametrize(("relation", "links"), [("child", [SENDER.span_id]), ("root", [])])
def test_a_forged_number_of_attempts_is_on_the_span(relation: Any, links: list[str]) -> None:
    recorder = MemoryRecorder()

    with letters.process(FORGED, relation=relation, tracer=recorder) as processing:
        assert processing.context is not None
        assert dict(processing.context.baggage) == ({"role": "admin"} if relation == "child" else {})

    (span,) = recorder.spans
    assert (span.attempt, [link.span_id for link in span.links]) == (8, links)
    assert (span.trace_id == SENDER.trace_id) is (relation == "child")


def test_a_function_that_fails_trusts_nobody() -> None:
    with letters.process(FORGED, relation=lambda letter: letter["missing"]) as processing:
        assert processing.context is not None
        assert processing.context.parent_span_id is None


def test_a_star_turns_the_rule_round() -> None:
    relation: Any = {"ours": "child", "*": "root"}

    parents = []
    for sender in ("ours", "theirs"):
        with letters.process({**FORGED, "from": sender}, relation=relation) as processing:
            assert processing.context is not None
            parents.append(processing.context.parent_span_id)

    assert parents == [SENDER.span_id, None]


def test_what_a_consumer_behind_the_boundary_sends_is_its_own() -> None:
    with letters.process(FORGED, relation="root") as processing:
        context = W3C.extract(letters.headers())

    assert processing.context is not None
    assert context is not None
    assert (context.trace_id, context.span_id) == (processing.context.trace_id, processing.context.span_id)
    assert dict(context.baggage) == {}


@pytest.mark.parametrize(("size", "is_read"), [(512, True), (513, False)])
def test_the_longest_traceparent_is_that_of_the_table(size: int, is_read: bool) -> None:  # noqa: FBT001 - a parameter of pytest's
    header = f"cc{TRACEPARENT[2:]}-".ljust(size, "0")

    assert (W3C.extract({"traceparent": header}) is not None) is is_read
    assert len(SENDER.to_traceparent()) == 55


def state_of(header: str) -> TraceState:
    context = W3C.extract({"traceparent": TRACEPARENT, "tracestate": header})
    assert context is not None
    return context.trace_state


@pytest.mark.parametrize(("number", "is_read"), [(32, True), (33, False)])
def test_the_most_members_of_a_tracestate_are_those_of_the_table(number: int, is_read: bool) -> None:  # noqa: FBT001
    header = ",".join(f"a{index}=1" for index in range(number))

    assert bool(state_of(header)) is is_read
    assert not state_of("a=1,=,")


@pytest.mark.parametrize(
    ("header", "read"),
    [
        (",".join(f"a{index}=1" for index in range(65)), 64),
        (f"a={'x' * 8190}", 1),
        (f"a={'x' * 8191}", 0),
        ("a=1,=,b=2", 2),
    ],
    ids=["members", "bytes", "too many bytes", "malformed"],
)
def test_the_most_baggage_is_that_of_the_table(header: str, read: int) -> None:
    assert len(Baggage.parse(header)) == read
