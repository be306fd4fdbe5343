from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from multidict import CIMultiDict
from starlette.datastructures import Headers, MutableHeaders

from spakky.tracing.carriers.mapping import HTTP, HTTP_TEXT, HttpHeaders, HttpTextHeaders, names_of_host
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.testing import CarrierContract
from spakky.tracing.w3c_propagator import W3C

if TYPE_CHECKING:
    from collections.abc import Iterable

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class TestHttpCarrier(CarrierContract[HttpHeaders]):
    carrier = HTTP
    value_type = bytes
    repeats = True

    def native(self, headers: Iterable[tuple[str, object]]) -> HttpHeaders:
        return [(name.encode(), value) for name, value in _encoded(headers)]  # type: ignore[misc]

    def shapes(self, headers: Iterable[tuple[str, object]]) -> list[object]:
        entries = _encoded(headers)
        pairs = self.native(entries)
        return [pairs, tuple(pairs), [list(pair) for pair in pairs], entries, dict(entries), dict(pairs)]


class TestHttpTextCarrier(CarrierContract[HttpTextHeaders]):
    carrier = HTTP_TEXT
    repeats = True

    def native(self, headers: Iterable[tuple[str, object]]) -> HttpTextHeaders:
        return list(headers)  # type: ignore[arg-type]

    def shapes(self, headers: Iterable[tuple[str, object]]) -> list[object]:
        pairs = self.native(headers)
        return [pairs, tuple(pairs), [list(pair) for pair in pairs], dict(pairs), CIMultiDict(pairs)]


def _encoded(headers: Iterable[tuple[str, object]]) -> list[tuple[str, object]]:
    return [(name, value.encode() if isinstance(value, str) else value) for name, value in headers]


def test_repeated_headers_are_all_read_in_their_order() -> None:
    """P-07: a list may be split over several headers."""
    headers = [(b"TraceState", b"a=1"), (b"x", b""), (b"tracestate", b"b=2"), (b"TRACESTATE", b"c=3")]

    assert HTTP.get(headers, "tracestate") == ["a=1", "b=2", "c=3"]
    assert HTTP.keys(headers) == ["TraceState", "x", "tracestate", "TRACESTATE"]


def test_two_traceparents_mean_a_new_trace() -> None:
    """P-01: over HTTP none of them counts."""
    header = (b"traceparent", TRACEPARENT.encode())

    assert W3C.extract([header], HTTP) is not None
    assert W3C.extract([header, header], HTTP) is None


def test_names_and_values_may_be_text_or_bytes() -> None:
    for headers in (
        [("Traceparent", TRACEPARENT)],
        [(b"Traceparent", TRACEPARENT)],
        {"Traceparent": TRACEPARENT},
        {b"Traceparent": [TRACEPARENT.encode()]},
    ):
        assert HTTP.get(headers, "traceparent") == [TRACEPARENT]
        assert HTTP.copy(headers) == [(b"Traceparent", TRACEPARENT.encode())]


def test_a_mapping_with_several_values_is_copied_as_repeated_headers() -> None:
    headers = {"accept": ["a", "b"], "x": "1"}

    assert HTTP.copy(headers) == [(b"accept", b"a"), (b"accept", b"b"), (b"x", b"1")]


def test_text_is_sent_as_latin_1_as_http_has_it() -> None:
    assert HTTP.copy({"x": "caf\xe9"}) == [(b"x", b"caf\xe9")]


def test_bytes_of_any_type_are_copied_as_they_are() -> None:
    assert HTTP.copy([("x", bytearray(b"\xff")), ("y", memoryview(b"\xfe"))]) == [
        (b"x", b"\xff"),
        (b"y", b"\xfe"),
    ]


def test_headers_of_starlette_are_read_and_written() -> None:
    raw = Headers({"Traceparent": TRACEPARENT, "x": "1"}).raw
    written = HTTP.copy(raw)
    context = TraceContext.new_root()
    W3C.inject(written, context, HTTP)

    assert HTTP.get(raw, "traceparent") == [TRACEPARENT]
    assert MutableHeaders(raw=written)["traceparent"] == context.to_traceparent()


@pytest.mark.parametrize("wrong", [[("name",)], [7], ["ab"], [("name", 7)], [(None, b"")], {"name": 7}])
def test_pairs_that_are_none_are_not_copied(wrong: object) -> None:
    with pytest.raises(WrongUseError, match=r"an HTTP header must be a"):
        HTTP.copy(wrong)


@pytest.mark.parametrize(
    ("host", "port", "names"),
    [
        ("shop", None, ("shop", "shop")),
        ("shop", 8000, ("shop:8000", "shop")),
        ("::1", 8000, ("[::1]:8000", "::1")),
    ],
)
def test_a_host_has_a_name_with_its_port_and_one_without(
    host: str, port: int | None, names: tuple[str, str]
) -> None:
    assert names_of_host(host, port) == names
