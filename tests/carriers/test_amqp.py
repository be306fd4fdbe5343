from __future__ import annotations

import sys
import time
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from amqp.serialization import dumps as encode_as_kombu
from pamqp import commands, encode, frame, header
from pika.data import encode_table as encode_as_pika

from spakky.tracing.baggage import Baggage
from spakky.tracing.carriers import UNKNOWN, Delivery
from spakky.tracing.carriers.amqp import (
    CARRIER,
    DEFAULT_FRAME_SIZE,
    delivery_from,
    destination_of,
    names_of,
    room_in,
    size_of,
)
from spakky.tracing.context import TraceContext
from spakky.tracing.testing import CarrierContract
from spakky.tracing.trace_state import TraceState
from spakky.tracing.w3c_propagator import W3C

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SOME_DAY = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class TestAmqpCarrier(CarrierContract[dict[str, Any]]):
    carrier = CARRIER
    unreadable = (*CarrierContract.unreadable, SOME_DAY, Decimal(1), [TRACEPARENT], (TRACEPARENT,))

    def native(self, headers: Iterable[tuple[str, object]]) -> dict[str, Any]:
        return dict(headers)


def over_the_wire(headers: dict[str, Any]) -> dict[str, Any]:
    """Encode and decode *headers* with pamqp, which aio-pika uses."""
    properties = commands.Basic.Properties(headers=headers)
    data = frame.marshal(header.ContentHeader(body_size=1, properties=properties), 1)
    _, _, received = frame.unmarshal(data)
    assert isinstance(received, header.ContentHeader)
    return dict(received.properties.headers or {})


@pytest.mark.parametrize(
    "existing",
    [
        pytest.param(None, id="none"),
        pytest.param({}, id="empty"),
        pytest.param(
            {
                "number": 7,
                "float": 1.5,
                "flag": True,
                "nothing": None,
                "when": SOME_DAY,
                "list": ["a", 1],
                "table": {"a": {"b": 1}},
                "binary": bytearray(b"\xff"),
                "text": "\u20ac",
            },
            id="every-type",
        ),
        pytest.param({"traceparent": "stale", "Tracestate": "old=1", "baggage": "old=1"}, id="stale"),
    ],
)
def test_pamqp_encodes_what_is_written(existing: dict[str, Any] | None) -> None:
    """A-19: beside any other header."""
    root = TraceContext.new_root(baggage=Baggage({"customer": "J\xfcrgen"}))
    context = root.child(trace_state=TraceState({"congo": "t61"}))
    headers = CARRIER.copy(existing)
    W3C.inject(headers, context, CARRIER)

    received = over_the_wire(headers)

    assert received == headers
    found = W3C.extract(received, CARRIER)
    assert found is not None
    assert found.to_traceparent() == context.to_traceparent()
    assert (found.trace_state, found.baggage) == (context.trace_state, context.baggage)


@pytest.mark.parametrize("value", [bytearray(TRACEPARENT.encode()), TRACEPARENT], ids=["binary", "text"])
def test_text_is_read_from_either_type_of_the_wire(value: object) -> None:
    """A-01: text and byte array."""
    received = over_the_wire({"traceparent": value})

    assert CARRIER.get(received, "traceparent") == [TRACEPARENT]


@pytest.mark.parametrize("value", [7, 1.5, True, None, SOME_DAY, [TRACEPARENT], {"traceparent": TRACEPARENT}])
def test_a_field_of_another_type_is_no_context(value: object) -> None:
    """A-02, T-03: no exception, no context."""
    received = over_the_wire({"traceparent": value, "tracestate": value, "baggage": value})

    assert CARRIER.get(received, "traceparent") == []
    assert W3C.extract(received, CARRIER) is None
    assert W3C.extract_baggage(received, CARRIER) == Baggage()


def test_an_unreadable_trace_state_does_not_cost_the_context() -> None:
    """A-02: nor does such baggage."""
    received = over_the_wire({"traceparent": TRACEPARENT, "tracestate": ["a=1"], "baggage": 7})

    found = W3C.extract(received, CARRIER)

    assert found is not None
    assert found.to_traceparent() == TRACEPARENT
    assert not found.trace_state


def test_the_death_history_of_a_message_stays_as_it_is() -> None:
    """A-20: the very list."""
    history = [{"count": 1, "reason": "expired", "queue": "orders", "time": SOME_DAY, "routing-keys": ["a"]}]
    headers = CARRIER.copy({"x-death": history, "traceparent": "stale"}, {"traceparent"})

    W3C.inject(headers, TraceContext.from_traceparent(TRACEPARENT), CARRIER)

    assert over_the_wire(headers)["x-death"] == history
    assert headers["x-death"] is history


# --- what a message says of its way


def delivery(headers: object, *, is_redelivered: bool | None = False, timestamp: object = None) -> Delivery:
    return delivery_from(headers, is_redelivered=is_redelivered, timestamp=timestamp)


def death(reason: object, count: object = 1) -> dict[str, Any]:
    return {"reason": reason, "count": count, "queue": "orders", "time": SOME_DAY, "exchange": ""}


@pytest.mark.parametrize(
    ("headers", "is_redelivered", "attempt"),
    [
        ({}, False, 1),
        ({}, None, 1),
        ({}, True, None),
        ({"x-death": [death("rejected")]}, False, 2),
        ({"x-death": [death("rejected", 3)]}, False, 4),
        ({"x-death": [death("rejected", 2), death("expired", 2)]}, False, 3),
        ({"x-death": [death(bytearray(b"rejected"), b"2")]}, False, 3),
        ({"x-death": [death("rejected")]}, True, None),
        ({"x-death": [death("expired", 5), death("maxlen", 2)]}, False, 1),
        ({"x-death": [death("delivery_limit")]}, False, None),
        ({"x-delivery-count": 2}, True, 3),
        ({"x-delivery-count": 2}, None, 3),
        ({"x-delivery-count": 0}, False, 1),
        ({"x-delivery-count": 0}, True, None),
        ({"x-death": [death("rejected")], "x-delivery-count": 1}, True, 3),
        ({"x-retry-count": "2"}, False, 3),
        ({"x-retry-count": "2"}, True, None),
        ({"x-retry-count": 1, "x-death": [death("rejected")], "x-delivery-count": 1}, True, 4),
    ],
)
def test_the_attempt_is_known_where_something_counts(
    headers: dict[str, Any], *, is_redelivered: bool | None, attempt: int | None
) -> None:
    """A-20: what was rejected, requeued and sent on is added; what nobody counted is not guessed."""
    assert delivery(headers, is_redelivered=is_redelivered).attempt == attempt


def test_a_count_of_another_queue_that_was_forwarded_is_none_of_this_one() -> None:
    assert delivery({"x-delivery-count": 4, "x-retry-count": 1}).attempt == 2


@pytest.mark.parametrize("name", ["x-retry-count", "X-Retry-Count", "X-RETRY-COUNT"])
@pytest.mark.parametrize("count", [3, "3", b"3"])
def test_the_retry_count_is_read_in_any_casing(name: str, count: object) -> None:
    """As every header is that we write: another application may have sent the message on."""
    found = delivery({"x-other-count": 7, b"X-Retry-Count": 8, name: count})

    assert (found.retry_count, found.attempt, found.follows_failure) == (3, 4, True)


@pytest.mark.parametrize("name", ["X-Death", "X-Delivery-Count", "Timestamp_In_Ms"])
def test_a_header_of_the_broker_s_own_is_read_in_its_own_casing_alone(name: str) -> None:
    found = delivery({name: [death("rejected")] if name == "X-Death" else 4}, is_redelivered=None)

    assert found == delivery({}, is_redelivered=None)


def test_the_exact_name_of_the_retry_count_wins_over_another_casing() -> None:
    assert delivery({"X-Retry-Count": "7", "x-retry-count": "2"}).retry_count == 2


@pytest.mark.parametrize(
    ("deaths", "count", "is_failure"),
    [
        ([], 0, False),
        ([death("expired", 2)], 2, False),
        ([death("maxlen")], 1, False),
        ([death("rejected", 2), death("expired", 3)], 5, True),
        ([death("delivery_limit")], 1, True),
    ],
)
def test_deaths_are_counted_and_failures_among_them_are_followed(
    deaths: list[Any], *, count: int, is_failure: bool
) -> None:
    """A-20: an expiration is a death, a rejection is a failed attempt, too."""
    found = delivery({"x-death": deaths})

    assert (found.death_count, found.follows_failure) == (count, is_failure)


@pytest.mark.parametrize(
    "headers",
    [
        None,
        7,
        "x-death",
        b"x-death",
        [("x-death", [death("rejected")])],
        {"x-death": None},
        {"x-death": 7},
        {"x-death": "rejected"},
        {"x-death": death("rejected")},
        {"x-death": [None, 7, "rejected", ["rejected"], []]},
        {"x-delivery-count": -1, "x-retry-count": -1},
        {"x-delivery-count": True, "x-retry-count": True},
        {"x-delivery-count": 1.5, "x-retry-count": 1.5},
        {"x-delivery-count": 10**30, "x-retry-count": 2**63},
        {"x-delivery-count": [3], "x-retry-count": {"count": 3}},
        {"x-delivery-count": Decimal(3), "x-retry-count": SOME_DAY},
        {"x-delivery-count": b"\xff", "x-retry-count": "\u0663"},
        {b"x-retry-count": 1, 7: 2},
    ],
)
def test_a_hostile_history_says_nothing(headers: object) -> None:
    """A-02: of any type, nothing is raised and nothing is made up."""
    assert delivery(headers, is_redelivered=None) == UNKNOWN._replace(attempt=1, death_count=0)


@pytest.mark.parametrize("reason", [None, 7, ["rejected"], {"a": 1}, b"\xff", "Rejected", SOME_DAY])
@pytest.mark.parametrize("count", [None, -5, True, 1.5, "many", [], {}, 10**30, Decimal(2)])
def test_a_hostile_death_is_one_death(reason: object, count: object) -> None:
    found = delivery({"x-death": [death(reason, count)]})

    assert (found.attempt, found.death_count, found.follows_failure) == (1, 1, False)


def test_counts_stay_within_what_backends_store() -> None:
    most = {"x-death": [death("rejected", 999_999_999)] * 3, "x-delivery-count": 999_999_999}

    found = delivery(most, is_redelivered=True)

    assert found.attempt is not None
    assert found.attempt < 2**63


SECONDS = 1_700_000_000
ZONE = timezone(timedelta(hours=5, minutes=30))


@pytest.mark.parametrize(
    "timestamp",
    [
        SECONDS,
        SECONDS * 1_000,
        datetime.fromtimestamp(SECONDS, UTC),
        datetime.fromtimestamp(SECONDS, UTC).replace(tzinfo=None),
        datetime.fromtimestamp(SECONDS, ZONE),
    ],
)
def test_the_timestamp_of_any_client_is_the_same_moment(
    timestamp: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pika and py-amqp hand out a number, aio-pika a datetime; a naive one is in UTC, wherever this runs."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert delivery({}, timestamp=timestamp).sent_unix_nano == SECONDS * 1_000_000_000
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_broker_s_own_milliseconds_come_first() -> None:
    found = delivery({"timestamp_in_ms": SECONDS * 1_000 + 7}, timestamp=SECONDS)

    assert found.sent_unix_nano == (SECONDS * 1_000 + 7) * 1_000_000


@pytest.mark.parametrize("milliseconds", [None, -1, True, "1700000000000", 1.5, 10**30, [], {}])
def test_milliseconds_that_are_none_leave_the_timestamp(milliseconds: object) -> None:
    found = delivery({"timestamp_in_ms": milliseconds}, timestamp=SECONDS)

    assert found.sent_unix_nano == SECONDS * 1_000_000_000


@pytest.mark.parametrize(
    "timestamp",
    [
        None,
        True,
        -1,
        1.5,
        float("nan"),
        float("inf"),
        "1700000000",
        b"1",
        10**30,
        2**64 - 1,
        Decimal(SECONDS),
        [SECONDS],
        {},
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        datetime(1969, 12, 31, tzinfo=UTC),
        timedelta(seconds=5),
    ],
)
def test_a_hostile_timestamp_says_nothing(timestamp: object) -> None:
    """A-02: of any type and size."""
    assert delivery({}, timestamp=timestamp).sent_unix_nano is None


# --- names


@pytest.mark.parametrize(
    ("exchange", "routing_key", "destination", "names"),
    [
        ("shop", "orders", "shop:orders", ("shop:orders", "orders", "shop")),
        ("", "orders", "orders", ("orders",)),
        (None, "orders", "orders", ("orders",)),
        ("shop", "", "shop", ("shop",)),
        ("shop", None, "shop", ("shop",)),
        ("shop", "shop", "shop:shop", ("shop:shop", "shop")),
        ("", "", "amq.default", ("amq.default",)),
        (b"shop", b"\xff", "shop:\ufffd", ("shop:\ufffd", "\ufffd", "shop")),
        (None, None, "amq.default", ("amq.default",)),
        (7, ["orders"], "amq.default", ("amq.default",)),
    ],
)
def test_a_destination_is_exchange_and_routing_key(
    exchange: Any, routing_key: Any, destination: str, names: tuple[str, ...]
) -> None:
    assert destination_of(exchange, routing_key) == destination
    assert names_of(exchange, routing_key) == names


# --- sizes

ENCODABLE: list[Any] = [
    *(0, -1, 127, 128, -129, 32_767, 32_768, 65_535, 65_536, -(2**31), 2**32 - 1, 2**32, -(2**63), 2**63 - 1),
    True,
    None,
    Decimal("1.25"),
    Decimal(-(2**31)),
    SOME_DAY,
    "",
    "text",
    "\u20ac" * 100,
    "\U0001f600",
    "x" * 70_000,
    [],
    [1, "two", [3, ["four"]], {"five": 5}],
    {},
    {"nested": {"nested": {"n\xe9sted": [None, True, "x"]}}},
]
BINARY: list[Any] = [b"", b"\x00\xff" * 50]


def as_pamqp(headers: dict[str, Any]) -> int:
    return len(encode.field_table(headers)) - 4


def as_pika(headers: dict[str, Any]) -> int:
    pieces: list[bytes] = []
    encode_as_pika(pieces, headers)
    return sum(map(len, pieces)) - 4


def as_kombu(headers: dict[str, Any]) -> int:
    return len(encode_as_kombu("F", [headers])) - 4


@pytest.mark.parametrize(
    ("real_size", "values"),
    [
        pytest.param(as_pamqp, [1.5, time.gmtime(0), *map(bytearray, BINARY)], id="pamqp"),
        pytest.param(as_pika, BINARY, id="pika"),
        pytest.param(as_kombu, [1.5, (1, ("two",)), "\ud800", *BINARY], id="py-amqp"),
    ],
)
def test_a_size_is_never_smaller_than_what_a_client_writes(
    real_size: Callable[[dict[str, Any]], int], values: list[Any]
) -> None:
    for value in [*ENCODABLE, *values]:
        headers = {"n\xe4me": value, "": "x"}

        assert size_of(headers) >= real_size(headers), repr(value)[:80]


def test_the_size_of_texts_lists_and_the_largest_numbers_is_exact() -> None:
    texts = {f"x-{number}": "\u20ac" * number for number in range(100)}
    headers = {**texts, "list": [texts, "x", []], "largest": 2**63 - 1, "when": SOME_DAY}

    assert size_of(headers) == as_pamqp(headers) == as_pika(headers) == as_kombu(headers)
    assert size_of({}) == 0


def test_what_no_client_can_write_has_a_size() -> None:
    """What is wrong with it is for the client to say."""
    itself: dict[str, Any] = {"a": 1}
    itself["b"] = [itself]
    deep: dict[str, Any] = {}
    for _ in range(50_000):
        deep = {"d": deep}

    unwritable: list[Any] = [itself, deep, {"a": object()}, {"a": {1, 2}}, {7: "x"}, {b"a": "x"}, {None: {}}]
    for headers in unwritable:
        assert size_of(headers) > 0


def test_the_room_in_a_frame_is_what_all_other_properties_leave() -> None:
    """cluster_id is the tenth short string; only its place is counted here, as RabbitMQ ignores it."""
    names = ("content_type", "content_encoding", "correlation_id", "reply_to", "expiration", "message_id")
    longest: dict[str, Any] = dict.fromkeys((*names, "message_type", "user_id", "app_id"), "x" * 255)
    headers: dict[str, Any] = {"x": "x" * (room_in(DEFAULT_FRAME_SIZE) - 7)}
    properties = commands.Basic.Properties(
        headers=headers, delivery_mode=2, priority=9, timestamp=SOME_DAY, **longest
    )

    written = frame.marshal(header.ContentHeader(body_size=2**63, properties=properties), 1)

    assert size_of(headers) == room_in(DEFAULT_FRAME_SIZE)
    assert len(written) + len(b"\xff" + b"x" * 255) == DEFAULT_FRAME_SIZE


@pytest.mark.parametrize("frame_size", [4_096, 8_192, DEFAULT_FRAME_SIZE, 2**31])
def test_every_frame_that_the_protocol_allows_has_room_for_a_traceparent(frame_size: int) -> None:
    assert room_in(frame_size) > size_of({"traceparent": TRACEPARENT})


def test_without_a_limit_there_is_room_for_anything() -> None:
    assert room_in(0) == sys.maxsize


def test_a_name_that_is_not_utf8_has_a_size() -> None:
    assert size_of({"ab": "x"}) == size_of({b"\xff\xfe": b"x"}) == 1 + 2 + 5 + 1
