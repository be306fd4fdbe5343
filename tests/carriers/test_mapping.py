from __future__ import annotations

import json
from collections import OrderedDict
from queue import SimpleQueue
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from contract.contexts import full_context
from spakky.tracing.carriers.mapping import CARRIER
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.testing import CarrierContract
from spakky.tracing.w3c_propagator import W3C

if TYPE_CHECKING:
    from collections.abc import Iterable

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class TestMappingCarrier(CarrierContract[dict[str, Any]]):
    carrier = CARRIER

    def native(self, headers: Iterable[tuple[str, object]]) -> dict[str, Any]:
        return dict(headers)

    def shapes(self, headers: Iterable[tuple[str, object]]) -> list[object]:
        entries = list(headers)
        return [dict(entries), OrderedDict(entries), _ReadOnly(entries)]


class _ReadOnly(OrderedDict[str, object]):
    """A mapping that can be compared and copied, as `MappingProxyType` cannot."""


def test_a_plain_dict_carries_a_context_through_any_queue() -> None:
    """T-04, T-05: what a job of an unknown queue needs is a dict in it, and no broker."""
    jobs: SimpleQueue[str] = SimpleQueue()
    context = full_context()
    carrier: dict[str, str] = {}
    W3C.inject(carrier, context)
    jobs.put(json.dumps({"trace": carrier}))

    received = W3C.extract(json.loads(jobs.get())["trace"])

    assert received is not None
    assert received.to_traceparent() == context.to_traceparent()
    assert (received.trace_state, received.baggage) == (context.trace_state, context.baggage)


def test_a_read_only_mapping_is_read_and_copied() -> None:
    headers = MappingProxyType({"traceparent": TRACEPARENT, "app": "1"})

    assert CARRIER.get(headers, "traceparent") == [TRACEPARENT]
    assert CARRIER.copy(headers, {"traceparent"}) == {"app": "1"}


def test_a_read_only_mapping_is_not_written_into() -> None:
    with pytest.raises(WrongUseError, match="trace context is written into a dict, got mappingproxy"):
        CARRIER.set(MappingProxyType({}), "traceparent", TRACEPARENT)  # type: ignore[arg-type]


def test_a_list_of_values_is_several_values() -> None:
    headers = {"tracestate": ["a=1", b"b=2", None, 7, "c=3"]}

    assert CARRIER.get(headers, "tracestate") == ["a=1", "b=2", "c=3"]


def test_the_exact_name_goes_before_another_casing_of_it() -> None:
    headers = {"Traceparent": "other", "traceparent": TRACEPARENT}

    assert CARRIER.get(headers, "traceparent") == [TRACEPARENT]


def test_the_names_of_a_mapping_need_not_be_text() -> None:
    headers: dict[Any, Any] = {1: "one", None: "none", ("a",): "b", "app": "1"}

    copied = CARRIER.copy(headers)
    W3C.inject(copied, TraceContext.from_traceparent(TRACEPARENT), CARRIER)

    assert copied == {**headers, "traceparent": TRACEPARENT}
    assert CARRIER.keys(headers) == ["app"]
