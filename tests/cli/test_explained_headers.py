"""What `explain` finds out agrees with the library: no fault is found exactly where it takes all."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import pytest

from spakky.tracing.baggage import Baggage
from spakky.tracing.cli.headers.baggage import read_baggage
from spakky.tracing.cli.headers.foreign import Foreign
from spakky.tracing.cli.headers.messages import message_of
from spakky.tracing.cli.headers.pasted import Pasted, headers_of_argument, headers_of_line
from spakky.tracing.cli.headers.traceparent import read_traceparent
from spakky.tracing.cli.headers.tracestate import read_tracestate
from spakky.tracing.context import TraceContext
from spakky.tracing.error import InvalidTraceparentError, InvalidTraceStateError
from spakky.tracing.trace_state import TraceState
from vectors.test_trace_context import PARENT_ID, TRACE_ID, Vector, every_vector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from spakky.tracing.cli.headers.findings import Reading, Verdict

_MUTATIONS: Final = 4_000
_SEED: Final = 20_261_124

_PIECES: Final = [
    *"-.,;= \t\n0aAfFgzZ_%@*/\"\\'",
    "ff",
    "00",
    "%zz",
    "%ff",
    "%20",
    "\x00",
    "\x7f",
    "é",
    "\xa0",
    "\uff11",
]
_TRACEPARENTS: Final = [
    f"00-{TRACE_ID}-{PARENT_ID}-01",
    f"cc-{TRACE_ID}-{PARENT_ID}-03-more",
    f"cc-{TRACE_ID}-{PARENT_ID}-01-{'x' * 456}",  # 512 characters, the most that are read
    f" ff-{TRACE_ID}-{'0' * 16}-ff",
    f"01-{'0' * 32}-{PARENT_ID}-00",
]
_TRACESTATES: Final = [
    "foo=1,bar=2",
    "a-b_c*d/e@f=1, 1a=  x ,,z=~",
    ",".join(f"k{number:02}=v" for number in range(32)),
    f"{'k' * 256}={'v' * 256},ot=th:0;rv:6e6d1a75832a2f",
]
_BAGGAGES: Final = [
    "userId=alice,serverNode=DF%2028;p1;p2=x,isProduction=false",
    "SomeKey \t = \t SomeValue \t ; \t Prop , k=a=b==",
    ",".join(f"k{number}=v" for number in range(64)),
    f"a={'x' * 8180},b=1",
    f"a={'x' * 5000},b={'y' * 5000},c=1;p",
]


def mutated(values: list[str]) -> Iterable[str]:
    """Yield the values, and many of them with some pieces put in, replaced, doubled or taken out."""
    yield from values
    chance = random.Random(_SEED)  # noqa: S311 - the same in each run
    for _ in range(_MUTATIONS):
        value = chance.choice(values)
        for _ in range(chance.randint(1, 3)):
            start = chance.randint(0, len(value))
            end = min(len(value), start + chance.choice([0, 0, 1, 1, 2, 16]))
            put = chance.choice([chance.choice(_PIECES), "", value[start:end] * 2])
            value = value[:start] + put + value[end:]
        yield value


def has_faults(reading: Reading) -> bool:
    return any(finding.is_fault for finding in reading.findings)


def of_traceparent(value: str) -> Verdict:
    try:
        TraceContext.from_traceparent(value)
    except InvalidTraceparentError:
        return "refused"
    return "accepted"


def of_tracestate(value: str) -> Verdict:
    try:
        state = TraceState.parse(value)
    except InvalidTraceStateError:
        return "refused"
    return "accepted" if len(state) == members_of(value) else "partial"


def of_baggage(value: str) -> Verdict:
    baggage, reason = Baggage.parse_with_reason(value)
    if reason is None and len(baggage) == members_of(value):
        return "accepted"
    return "partial" if baggage else "refused"


def members_of(value: str) -> int:
    return sum(bool(member.strip(" \t")) for member in value.split(","))


@pytest.mark.parametrize(
    ("values", "read", "verdict_of"),
    [
        pytest.param(_TRACEPARENTS, read_traceparent, of_traceparent, id="traceparent"),
        pytest.param(_TRACESTATES, read_tracestate, of_tracestate, id="tracestate"),
        pytest.param(_BAGGAGES, read_baggage, of_baggage, id="baggage"),
    ],
)
def test_a_header_has_no_fault_exactly_if_the_library_takes_all_of_it(
    values: list[str], read: Callable[[str], Reading], verdict_of: Callable[[str], Verdict]
) -> None:
    verdicts = set()
    for value in mutated(values):
        reading = read(value)
        verdicts.add(reading.verdict)

        assert reading.verdict == verdict_of(value), value
        assert has_faults(reading) == (reading.verdict != "accepted"), value
        for finding in reading.findings:
            assert finding.places, (value, finding)
            assert all(0 <= place.start <= place.end <= len(value) for place in finding.places), value

    assert {"accepted", "refused"} <= verdicts


@every_vector
def test_a_message_is_read_as_the_vectors_have_it(vector: Vector) -> None:
    headers = [header for name, value in vector.headers for header in headers_of_argument(f"{name}:{value}")]

    message = message_of(headers)

    assert (message.context is None) == (vector.expected is None)
    if message.context is not None and vector.expected is not None:
        assert message.context.trace_id == TRACE_ID
        assert message.context.to_traceparent()[-2:] == vector.expected["flags"]
        assert (message.context.trace_state.to_header() or None) == vector.expected["tracestate"]


@every_vector
def test_a_refused_vector_has_a_fault(vector: Vector) -> None:
    """But for a tracestate alone, which may be valid, and for no header at all."""
    headers = [header for name, value in vector.headers for header in headers_of_argument(f"{name}:{value}")]
    names = {name for name, _ in vector.headers}

    if vector.expected is None and names not in ({"tracestate"}, set()):
        assert message_of(headers).has_faults


PARENT: Final = f"00-{TRACE_ID}-{PARENT_ID}-01"


def found_in(text: str) -> list[tuple[str, str]]:
    return [(header.kind, header.value) for header in headers_of_argument(text) if isinstance(header, Pasted)]


@pytest.mark.parametrize(
    "text",
    [
        f"traceparent: {PARENT}",
        f"TraceParent:{PARENT}",
        f"traceparent={PARENT}",
        f"export TRACEPARENT='{PARENT}'",
        f"-H 'traceparent: {PARENT}' \\",
        f'--header "traceparent: {PARENT}"',
        f"> traceparent: {PARENT}",
        f"curl -s -H 'traceparent: {PARENT}' http://localhost/",
        f'"traceparent": "{PARENT}",',
        f"('traceparent', b'{PARENT}')",
        f"(b'traceparent', b'{PARENT}')",
        f"2026-11-24 INFO headers={{traceparent={PARENT}, offset=3}}",
        PARENT,
        f'"{PARENT}"',
    ],
)
def test_a_header_is_found_however_it_was_pasted(text: str) -> None:
    assert found_in(text) == [("traceparent", PARENT)]


@pytest.mark.parametrize(
    "text",
    [
        f"traceparent:{PARENT},tracestate:a=1,b=2",
        f"traceparent={PARENT},tracestate=a=1,b=2",
        f"{{'traceparent': '{PARENT}', 'tracestate': 'a=1,b=2'}}",
        f"[('traceparent', b'{PARENT}'), ('tracestate', b'a=1,b=2')]",
        f"Headers: traceparent={PARENT},tracestate=a=1,b=2 Key: 7",
        f"curl -H 'traceparent: {PARENT}' -H \"tracestate: a=1,b=2\" localhost",
    ],
)
def test_several_headers_are_found_in_one_text(text: str) -> None:
    assert found_in(text) == [("traceparent", PARENT), ("tracestate", "a=1,b=2")]


def test_a_key_with_the_name_of_a_header_is_no_header() -> None:
    assert found_in("baggage: a=1,tracestate=2,traceparent=3") == [
        ("baggage", "a=1,tracestate=2,traceparent=3")
    ]


def test_white_space_that_the_library_refuses_is_kept() -> None:
    assert found_in(f"traceparent: \n{PARENT}\xa0") == [("traceparent", f"\n{PARENT}\xa0")]


@pytest.mark.parametrize(
    "text", ["hello", "X-Request-Id: a=1", TRACE_ID, "", " ", "Vary: traceparent, baggage"]
)
def test_what_is_no_such_header_is_none(text: str) -> None:
    assert headers_of_argument(text) == []


@pytest.mark.parametrize(
    ("value", "kind", "why"),
    [
        (PARENT, "traceparent", "in the shape of a traceparent"),
        ("00-bad", "traceparent", "in the shape of a traceparent"),
        (f"{TRACE_ID}-{PARENT_ID}-01", "traceparent", "in the shape of a traceparent"),
        ("ot=th:0,x=1", "tracestate", "a key of OpenTelemetry"),
        ("12@nr=0-0", "tracestate", "a key of New Relic"),
        ("foo=a b", "tracestate", "looks more like tracestate"),
        ("userId=alice", "baggage", "looks more like baggage"),
        ("a=1;p=2", "baggage", "looks more like baggage"),
        ("a=1,b=2", "baggage", "valid as a tracestate, too"),
    ],
)
def test_a_bare_value_is_guessed_by_its_shape(value: str, kind: str, why: str) -> None:
    (reading,) = message_of(headers_of_argument(value)).readings

    assert reading.kind == kind
    assert why in (reading.guess or "")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (f"b3: {TRACE_ID}-{PARENT_ID}-1", "Zipkin"),
        (f"{TRACE_ID}-{PARENT_ID}-1-{PARENT_ID}", "Zipkin"),
        (f"{TRACE_ID}-{PARENT_ID}-1", "Zipkin or Sentry"),
        (f"X-B3-TraceId: {TRACE_ID}", "Zipkin"),
        (f"uber-trace-id: {TRACE_ID}:{PARENT_ID}:0:1", "Jaeger"),
        (f"{TRACE_ID}:{PARENT_ID}:0:1", "Jaeger"),
        ("X-Amzn-Trace-Id: Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1", "X-Ray"),
        ("Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1", "X-Ray"),
        (f"sentry-trace: {TRACE_ID}-{PARENT_ID}-1", "Sentry"),
        ("x-datadog-trace-id: 123", "Datadog"),
        (f"X-Cloud-Trace-Context: {TRACE_ID}/1;o=1", "Google"),
        (f"elastic-apm-traceparent: {PARENT}", "Elastic"),
    ],
)
def test_another_format_is_called_by_its_name(text: str, what: str) -> None:
    (header,) = headers_of_argument(text)

    assert isinstance(header, Foreign)
    assert what in header.format


@pytest.mark.parametrize(
    ("line", "is_whole"),
    [
        (f"> traceparent: {PARENT}", False),
        (f"traceparent:{PARENT}", False),
        (f"traceparent:{PARENT}\tthe value", True),
        (f"traceparent:{PARENT},tracestate:a=1\tthe value", True),
        (f"topic=orders traceparent={PARENT}", True),
        (PARENT, True),
    ],
)
def test_a_line_with_a_record_is_a_message_of_its_own(line: str, is_whole: bool) -> None:  # noqa: FBT001 - data
    found, whole = headers_of_line(line)

    assert whole == is_whole
    assert read_traceparent(getattr(found[0], "value", "")).verdict == "accepted"
