from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from spakky.tracing.baggage import Baggage
from spakky.tracing.carriers.celery import CARRIER
from spakky.tracing.context import TraceContext
from spakky.tracing.testing import CarrierContract
from spakky.tracing.trace_state import TraceState
from spakky.tracing.w3c_propagator import W3C

if TYPE_CHECKING:
    from collections.abc import Iterable

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
STALE = "00-11111111111111111111111111111111-2222222222222222-01"


class TestCeleryCarrier(CarrierContract[dict[str, Any]]):
    carrier = CARRIER
    unreadable = (*CarrierContract.unreadable, [TRACEPARENT])

    def native(self, headers: Iterable[tuple[str, object]]) -> dict[str, Any]:
        return dict(headers)


def context() -> TraceContext:
    return TraceContext.from_traceparent(TRACEPARENT)


def test_the_context_is_found_in_nested_headers() -> None:
    headers = {"headers": {"Traceparent": TRACEPARENT, "tracestate": "a=1"}, "app": "1"}

    found = W3C.extract(headers, CARRIER)

    assert found is not None
    assert found.to_traceparent() == TRACEPARENT
    assert found.trace_state.to_header() == "a=1"


def test_what_is_at_the_top_goes_before_what_is_nested() -> None:
    headers = {"headers": {"traceparent": STALE}, "traceparent": TRACEPARENT}

    assert CARRIER.get(headers, "traceparent") == [TRACEPARENT]


def test_writing_makes_both_places_say_the_same() -> None:
    headers = {"headers": {"Traceparent": STALE, "tracestate": "old=1", "app": 1}, "tracestate": "old=1"}

    W3C.inject(headers, context(), CARRIER)

    assert headers == {"headers": {"traceparent": TRACEPARENT, "app": 1}, "traceparent": TRACEPARENT}


def test_removing_takes_out_of_both_places() -> None:
    headers = {"headers": {"BAGGAGE": "a=1", "app": 1}, "baggage": "a=1"}

    CARRIER.remove(headers, "baggage")

    assert headers == {"headers": {"app": 1}}


def test_copying_leaves_out_of_both_places() -> None:
    headers = {"headers": {"Traceparent": STALE, "app": 1}, "traceparent": STALE}

    copied = CARRIER.copy(headers, {"traceparent"})

    assert copied == {"headers": {"app": 1}}
    assert CARRIER.get(copied, "traceparent") is None


def test_nested_headers_without_the_field_are_not_touched() -> None:
    nested = {"app": 1}
    headers = CARRIER.copy({"headers": nested}, {"traceparent"})

    W3C.inject(headers, context(), CARRIER)

    assert headers == {"headers": {"app": 1}, "traceparent": TRACEPARENT}
    assert headers["headers"] is nested


def test_nested_headers_of_the_caller_are_never_changed() -> None:
    nested = {"traceparent": STALE, "Tracestate": "old=1", "baggage": "old=1", "app": [1]}
    before = copy.deepcopy(nested)

    headers = CARRIER.copy({"headers": nested})
    W3C.inject(headers, context(), CARRIER)
    CARRIER.remove(headers, "traceparent")

    assert nested == before
    assert headers == {"headers": {"app": [1]}}


@pytest.mark.parametrize("nested", [None, 7, "traceparent", ["traceparent"], [("traceparent", TRACEPARENT)]])
def test_nested_headers_that_are_no_mapping_are_left_alone(nested: object) -> None:
    headers = CARRIER.copy({"headers": nested}, {"traceparent"})

    W3C.inject(headers, context(), CARRIER)

    assert headers == {"headers": nested, "traceparent": TRACEPARENT}


def test_celery_s_own_headers_stay_as_they_are() -> None:
    app = Celery("shop", broker="memory://", set_as_current=False)
    message = app.amqp.as_task_v2("task-1", "shop.pay", args=(1,), headers={"traceparent": STALE}, retries=1)
    own = {name: value for name, value in message.headers.items() if name != "traceparent"}
    sent = TraceContext.new_root(baggage=Baggage({"tenant": "acme"})).child(
        trace_state=TraceState({"congo": "t61"})
    )

    headers = CARRIER.copy(message.headers)
    W3C.inject(headers, sent, CARRIER)

    received = json.loads(json.dumps(headers))
    ours = {"traceparent": sent.to_traceparent(), "tracestate": "congo=t61", "baggage": "tenant=acme"}
    assert received == {**json.loads(json.dumps(own)), **ours}
    assert W3C.extract(received, CARRIER) == TraceContext(
        trace_id=sent.trace_id, span_id=sent.span_id, trace_state=sent.trace_state, baggage=sent.baggage
    )
