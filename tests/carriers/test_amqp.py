from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from amqp.serialization import dumps  # type: ignore[import-untyped] # no py.typed
from pamqp import commands, frame, header

from spakky.tracing.baggage import Baggage
from spakky.tracing.carriers.amqp import CARRIER, size_of
from spakky.tracing.context import TraceContext
from spakky.tracing.testing import CarrierContract
from spakky.tracing.trace_state import TraceState
from spakky.tracing.w3c_propagator import W3C

if TYPE_CHECKING:
    from collections.abc import Iterable

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
    received = over_the_wire({"traceparent": value})

    assert CARRIER.get(received, "traceparent") == [TRACEPARENT]


@pytest.mark.parametrize("value", [7, 1.5, True, None, SOME_DAY, [TRACEPARENT], {"traceparent": TRACEPARENT}])
def test_a_field_of_another_type_is_no_context(value: object) -> None:
    received = over_the_wire({"traceparent": value, "tracestate": value, "baggage": value})

    assert CARRIER.get(received, "traceparent") == []
    assert W3C.extract(received, CARRIER) is None
    assert W3C.extract_baggage(received, CARRIER) == Baggage()


def test_an_unreadable_trace_state_does_not_cost_the_context() -> None:
    received = over_the_wire({"traceparent": TRACEPARENT, "tracestate": ["a=1"], "baggage": 7})

    found = W3C.extract(received, CARRIER)

    assert found is not None
    assert found.to_traceparent() == TRACEPARENT
    assert not found.trace_state


def test_the_death_history_of_a_message_stays_as_it_is() -> None:
    history = [{"count": 1, "reason": "expired", "queue": "orders", "time": SOME_DAY, "routing-keys": ["a"]}]
    headers = CARRIER.copy({"x-death": history, "traceparent": "stale"}, {"traceparent"})

    W3C.inject(headers, TraceContext.from_traceparent(TRACEPARENT), CARRIER)

    assert over_the_wire(headers)["x-death"] == history
    assert headers["x-death"] is history


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"app": "1", "text": "ä€😀", "\udcff": "\ud800", b"\xff": b"\xff"},
        {"a": 7, "b": 2**40, "c": 1.5, "d": True, "e": None, "f": Decimal("1.5"), "g": SOME_DAY},
        {"nested": {"list": [1, "two", {"deep": None}], "table": {"ä": b"x" * 300}}},
    ],
    ids=["empty", "text", "numbers", "nested"],
)
def test_headers_are_never_larger_than_they_are_counted(headers: dict[Any, Any]) -> None:
    """py-amqp takes the most types and the widest texts; the length of the table itself is not counted."""
    exact = len(dumps("F", [headers])) - 4

    assert exact <= size_of(headers) <= exact + 8 * 7


def test_what_no_client_sends_has_some_size() -> None:
    assert size_of({7: object(), None: {1, 2}}) > 0  # type: ignore[dict-item]
