"""The vectors of W3C Trace Context Level 2, by name, over every carrier.

`trace_context.json` says for each what is received and what has to be sent on by a service that continues the
trace in a span of its own: `null` for a new trace, or else the flags and the tracestate beside the same trace
id. The basis is `M` for the text of the specification, `H` for its test harness, `D` for a decision of ours
where both are silent.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from spakky.tracing.carriers import ICarrier, amqp, celery, kafka, mapping
from spakky.tracing.context import TraceContext
from spakky.tracing.w3c_propagator import W3CTracePropagator

if TYPE_CHECKING:
    from collections.abc import Callable

_DATA: Final[dict[str, Any]] = json.loads(
    Path(__file__).with_name("trace_context.json").read_text(encoding="utf-8")
)
TRACE_ID: Final[str] = _DATA["trace_id"]
PARENT_ID: Final[str] = _DATA["parent_id"]

Headers = list[tuple[str, str]]


@dataclass(frozen=True)
class Vector:
    """What is received, and what has to be sent on; `None` for a new trace."""

    name: str
    headers: Headers
    expected: dict[str, str | None] | None


def _slug(headers: Headers) -> str:
    """Return the input in a form that is fit for a test's name."""
    names = {"traceparent": "tp", "tracestate": "ts"}
    text = "+".join(f"{names.get(name, name)}:{value or 'empty'}" for name, value in headers) or "nothing"
    text = text.replace(TRACE_ID, "T").replace(PARENT_ID, "P").replace("\t", "TAB").replace("\n", "LF")
    return re.sub(r"[^A-Za-z0-9.:=+*,@/-]", "_", text)[:60]


def _vectors() -> list[Vector]:
    vectors = []
    for entry in _DATA["vectors"]:
        headers = [(name, value) for name, value in entry["headers"]]
        vectors.append(Vector(f"{entry['id']}-{_slug(headers)}", headers, entry["expected"]))
    return vectors


VECTORS: Final = _vectors()
every_vector = pytest.mark.parametrize("vector", VECTORS, ids=[vector.name for vector in VECTORS])


def sent_on(carrier: ICarrier[Any], received: object) -> dict[str, str | None] | None:
    """Receive headers, continue the trace in a new span, and return what is sent; `None` for a new trace."""
    propagator = W3CTracePropagator()
    context = propagator.extract(received, carrier)
    if context is None:
        return None
    assert context.is_remote
    headers = carrier.copy(None)
    propagator.inject(headers, context.child(), carrier)
    (traceparent,) = carrier.get(headers, "traceparent") or []
    tracestates = carrier.get(headers, "tracestate")
    sent = TraceContext.from_traceparent(traceparent)
    assert traceparent.startswith("00-")
    assert sent.trace_id == TRACE_ID
    assert sent.span_id not in {PARENT_ID, context.span_id}
    return {"flags": traceparent[-2:], "tracestate": None if tracestates is None else ",".join(tracestates)}


def combined(headers: Headers) -> dict[str, str]:
    """Return the headers of a carrier that has each name once: values joined as RFC 9110, 5.3 joins them.

    So two traceparents are one that is malformed, and two tracestates are one list.
    """
    names = dict.fromkeys(name for name, _ in headers)
    return {name: ",".join(value for each, value in headers if each == name) for name in names}


def test_there_are_132_vectors_with_names_of_their_own() -> None:
    names = Counter(vector.name for vector in VECTORS)

    assert len(names) == len(VECTORS) == 132


@every_vector
def test_over_http(vector: Vector) -> None:
    """P-11: every case of the W3C's suite."""
    received = [(name.encode(), value.encode()) for name, value in vector.headers]

    assert sent_on(mapping.HTTP, received) == vector.expected


@every_vector
def test_over_http_in_latin_1(vector: Vector) -> None:
    received = [(name.encode(), value.encode("latin-1", "replace")) for name, value in vector.headers]

    assert sent_on(mapping.HTTP, received) == vector.expected


@every_vector
def test_over_http_with_names_in_another_casing(vector: Vector) -> None:
    received = [(name.upper(), value) for name, value in vector.headers]

    assert sent_on(mapping.HTTP, received) == vector.expected


# Kafka's own rule for a repeated key is that the last one counts; it repairs a record that was forwarded by a
# library that appends. So where HTTP starts a new trace, the trace of the last traceparent goes on.
LAST_COUNTS: Final = {
    "V058": {"flags": "01", "tracestate": None},
    "V059": {"flags": "01", "tracestate": None},
}


@every_vector
def test_over_kafka(vector: Vector) -> None:
    """P-01, P-11: every case of the W3C's suite."""
    received = [(name, value.encode()) for name, value in vector.headers]

    expected = LAST_COUNTS.get(vector.name[:4], vector.expected)
    assert sent_on(kafka.CARRIER, received) == expected


def test_kafka_differs_exactly_where_a_traceparent_is_repeated() -> None:
    """P-01: the one difference between the formats."""
    repeated = {
        vector.name[:4] for vector in VECTORS if [name for name, _ in vector.headers].count("traceparent") > 1
    }

    assert repeated == set(LAST_COUNTS)


@every_vector
@pytest.mark.parametrize("as_sent", [str, str.encode], ids=["text", "bytes"])
@pytest.mark.parametrize(
    "carrier",
    [
        pytest.param(amqp.CARRIER, id="amqp"),
        pytest.param(celery.CARRIER, id="celery"),
        pytest.param(mapping.CARRIER, id="mapping"),
    ],
)
def test_over_headers_that_have_each_name_once(
    carrier: ICarrier[Any], as_sent: Callable[[str], object], vector: Vector
) -> None:
    """P-11: every case of the W3C's suite."""
    received = {name: as_sent(value) for name, value in combined(vector.headers).items()}

    assert sent_on(carrier, received) == vector.expected


@every_vector
def test_over_a_mapping_of_names_to_lists(vector: Vector) -> None:
    names = dict.fromkeys(name for name, _ in vector.headers)
    received = {name: [value for each, value in vector.headers if each == name] for name in names}

    assert sent_on(mapping.CARRIER, received) == vector.expected


@every_vector
def test_over_a_plain_dict_without_a_carrier(vector: Vector) -> None:
    propagator, carrier = W3CTracePropagator(), combined(vector.headers)
    context = propagator.extract(carrier)
    if context is None:
        assert vector.expected is None
        return
    propagator.inject(carrier, context.child())

    assert vector.expected is not None
    assert carrier["traceparent"].startswith(f"00-{TRACE_ID}-")
    assert carrier["traceparent"].endswith(f"-{vector.expected['flags']}")
    assert carrier.get("tracestate") == vector.expected["tracestate"]
