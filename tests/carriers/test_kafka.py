from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from spakky.tracing.baggage import Baggage
from spakky.tracing.carriers.kafka import CARRIER, KafkaHeaders, delivery_from
from spakky.tracing.context import TraceContext
from spakky.tracing.testing import CarrierContract
from spakky.tracing.trace_state import TraceState
from spakky.tracing.w3c_propagator import W3C

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
STALE = "00-11111111111111111111111111111111-2222222222222222-01"


class TestKafkaCarrier(CarrierContract[KafkaHeaders]):
    carrier = CARRIER
    value_type = bytes
    repeats = True
    unreadable = (*CarrierContract.unreadable, [TRACEPARENT], (TRACEPARENT.encode(),))

    def native(self, headers: Iterable[tuple[str, object]]) -> KafkaHeaders:
        return [
            (name, value.encode() if isinstance(value, str) else value)  # type: ignore[misc]
            for name, value in headers
        ]

    def shapes(self, headers: Iterable[tuple[str, object]]) -> list[object]:
        pairs = self.native(headers)
        return [pairs, tuple(pairs), dict(pairs)]


def over_the_wire(headers: KafkaHeaders) -> KafkaHeaders:
    """Encode and decode *headers* with aiokafka's own record-batch codec."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 16,
    )
    builder.append(0, 1, None, b"value", headers)
    batch = MemoryRecords(bytes(builder.build())).next_batch()
    assert batch is not None
    return [header for record in batch for header in record.headers]


def full_context() -> TraceContext:
    root = TraceContext.new_root(baggage=Baggage({"customer": "J\xfcrgen"}))
    return root.child(trace_state=TraceState({"congo": "t61"}))


@pytest.mark.parametrize(
    "existing",
    [
        pytest.param(None, id="none"),
        pytest.param((), id="what-a-record-without-headers-has"),
        pytest.param([], id="empty-list"),
        pytest.param([("app", b"\xff"), ("empty", b""), ("null", None)], id="list"),
        pytest.param((("app", b"1"), ("app", b"2")), id="tuple"),
        pytest.param({"app": b"1", "null": None}, id="dict"),
        pytest.param(iter([("app", b"1")]), id="iterator"),
        pytest.param([("traceparent", STALE.encode()), ("tracestate", b"old=1")], id="stale"),
    ],
)
def test_aiokafka_encodes_what_is_written(existing: object) -> None:
    """K-01, K-17: from any shape, the tuple of a received record too."""
    context = full_context()
    headers = CARRIER.copy(existing)
    W3C.inject(headers, context, CARRIER)

    received = over_the_wire(headers)

    assert received == headers
    found = W3C.extract(received, CARRIER)
    assert found is not None
    assert found.to_traceparent() == context.to_traceparent()
    assert (found.trace_state, found.baggage) == (context.trace_state, context.baggage)


def test_written_headers_are_exactly_what_the_encoder_takes() -> None:
    """K-01: a list of tuples, of exactly these types."""
    headers = CARRIER.copy({"app": b"1"})
    W3C.inject(headers, full_context(), CARRIER)

    assert type(headers) is list
    assert {type(header) for header in headers} == {tuple}
    assert {(type(name), type(value)) for name, value in headers} == {(str, bytes)}


def test_the_last_traceparent_counts() -> None:
    """K-02, P-01: Kafka's own rule for a repeated name."""
    headers = [("traceparent", STALE.encode()), ("app", b"1"), ("Traceparent", TRACEPARENT.encode())]

    found = W3C.extract(headers, CARRIER)

    assert found is not None
    assert found.to_traceparent() == TRACEPARENT


def test_the_last_readable_value_counts() -> None:
    """K-07: null values are passed over."""
    headers = [("traceparent", TRACEPARENT.encode()), ("traceparent", None), ("traceparent", 7)]

    assert CARRIER.get(headers, "traceparent") == [TRACEPARENT]


@pytest.mark.parametrize("as_sent", [str, str.encode, bytearray, memoryview], ids=lambda kind: kind.__name__)
def test_a_value_of_any_type_of_text_is_the_same(as_sent: Callable[[Any], object]) -> None:
    """K-08: in-memory brokers and test doubles hand out what they were given."""
    text: Any = TRACEPARENT if as_sent in {str, str.encode} else TRACEPARENT.encode()

    found = W3C.extract([("traceparent", as_sent(text)), ("x-schema", b"\x00\xff")], CARRIER)

    assert found == TraceContext.from_traceparent(TRACEPARENT)


def test_headers_of_others_are_not_decoded() -> None:
    """K-06, K-07, K-26: binary, null, or the context of another vendor."""
    headers = [("elasticapmtraceparent", b"\x00\xff"), ("k", None), ("traceparent", TRACEPARENT.encode())]

    assert W3C.extract(headers, CARRIER) == TraceContext.from_traceparent(TRACEPARENT)
    assert W3C.extract(headers[:2], CARRIER) is None
    assert CARRIER.copy(headers) == headers


def test_a_null_traceparent_is_no_context() -> None:
    """K-07: null is a legal value."""
    assert CARRIER.get([("traceparent", None)], "traceparent") == []
    assert W3C.extract([("traceparent", None)], CARRIER) is None


@pytest.mark.parametrize(("name", "text"), [("tracestate", "{0}=1"), ("baggage", "{0}=1")])
def test_the_values_of_a_repeated_list_are_all_read_in_their_order(name: str, text: str) -> None:
    """P-07: tracestate and baggage are lists."""
    values = [text.format(key) for key in "abc"]
    headers = [(name, values[0].encode()), ("x", None), (name.title(), values[1].encode()), (name, None)]

    assert CARRIER.get([*headers, (name, values[2].encode())], name) == values


def test_repeated_trace_states_are_one_trace_state() -> None:
    headers = [("tracestate", b"a=1"), ("traceparent", TRACEPARENT.encode()), ("tracestate", b"b=2")]

    found = W3C.extract(headers, CARRIER)

    assert found is not None
    assert found.trace_state.to_header() == "a=1,b=2"


def test_a_record_that_was_forwarded_by_a_library_that_appends_is_repaired() -> None:
    """K-02: one traceparent is left, the live one."""
    received = over_the_wire([("traceparent", STALE.encode()), ("traceparent", TRACEPARENT.encode())])
    found = W3C.extract(received, CARRIER)
    assert found is not None

    forwarded = CARRIER.copy(received)
    W3C.inject(forwarded, found, CARRIER)

    assert over_the_wire(forwarded) == [("traceparent", TRACEPARENT.encode())]


def test_the_keys_are_repeated_as_they_are_on_the_wire() -> None:
    assert CARRIER.keys([("a", b""), ("a", None), ("A", b"1")]) == ["a", "a", "A"]


def test_repeated_headers_of_the_user_stay_repeated() -> None:
    """K-02: in their order."""
    headers = CARRIER.copy([("app", b"1"), ("traceparent", b"x"), ("app", b"2")], {"traceparent"})

    W3C.inject(headers, TraceContext.from_traceparent(TRACEPARENT), CARRIER)

    assert headers == [("app", b"1"), ("app", b"2"), ("traceparent", TRACEPARENT.encode())]


# --- what a record says of its way


def test_a_record_without_a_count_does_not_say_which_attempt_it_is() -> None:
    empty: list[object] = [None, (), [], {}, [("app", b"1")]]
    for headers in empty:
        assert delivery_from(headers) == delivery_from(None)
        assert delivery_from(headers).attempt is None
        assert not delivery_from(headers).follows_failure


@pytest.mark.parametrize(
    ("value", "attempt"), [(b"0", 1), (b"1", 2), ("2", 3), (bytearray(b"12"), 13), (7, 8)], ids=repr
)
def test_the_retry_count_tells_the_attempt(value: object, attempt: int) -> None:
    delivery = delivery_from([("X-Retry-Count", value)])

    assert (delivery.attempt, delivery.retry_count) == (attempt, attempt - 1)
    assert delivery.follows_failure is (attempt > 1)


@pytest.mark.parametrize(
    "value",
    [None, b"", b"-1", b"1.5", b"many", b"\xff", b"\xd9\xa3", True, -1, 1.5, [1], b"9" * 10],
    ids=repr,
)
def test_what_is_no_count_says_nothing(value: object) -> None:
    assert delivery_from([("x-retry-count", value)]) == delivery_from(None)


@pytest.mark.parametrize(("value", "attempt"), [(b"\x02", 2), (b"\x00\x00\x00\x03", 3)])
def test_the_attempt_of_a_spring_retry_topic_is_read(value: bytes, attempt: int) -> None:
    delivery = delivery_from((("retry_topic-attempts", value),))

    assert (delivery.attempt, delivery.follows_failure) == (attempt, True)


@pytest.mark.parametrize(
    "value", [None, b"", b"\x00", b"\x00\x02", b"\x00" * 8, b"\xff" * 4, "2", 2], ids=repr
)
def test_another_attempt_of_spring_says_nothing(value: object) -> None:
    assert delivery_from([("retry_topic-attempts", value)]) == delivery_from(None)


def test_our_own_count_counts_more_than_that_of_spring() -> None:
    assert delivery_from([("x-retry-count", b"4"), ("retry_topic-attempts", b"\x02")]).attempt == 5


@pytest.mark.parametrize(("timestamp", "nano"), [(None, None), (-1, None), (0, 0), (1234, 1_234_000_000)])
def test_the_timestamp_of_a_record_is_in_milliseconds(timestamp: int | None, nano: int | None) -> None:
    assert delivery_from((), timestamp).sent_unix_nano == nano


def test_a_timestamp_that_backends_cannot_store_says_nothing() -> None:
    latest = (2**63 - 1) // 1_000_000

    assert delivery_from((), latest).sent_unix_nano == latest * 1_000_000
    assert delivery_from((), latest + 1).sent_unix_nano is None
    assert delivery_from((), 2**62).sent_unix_nano is None
