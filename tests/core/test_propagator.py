"""W3C propagation over plain dicts, and what any propagator does; PR ids are the rules that are tested."""

from __future__ import annotations

import logging
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from spakky.tracing.baggage import Baggage
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.propagator import (
    CarrierT,
    CompositePropagator,
    IGetter,
    ISetter,
    ITracePropagator,
    MappingAccess,
)
from spakky.tracing.trace_state import TraceState
from spakky.tracing.w3c_propagator import W3C, W3CBaggagePropagator, W3CTracePropagator

if TYPE_CHECKING:
    from collections.abc import Callable

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
STALE = "00-11111111111111111111111111111111-2222222222222222-01"

PROPAGATORS = [
    pytest.param(W3CTracePropagator(), id="trace"),
    pytest.param(W3CBaggagePropagator(), id="baggage"),
    pytest.param(W3C, id="both"),
]
every_propagator = pytest.mark.parametrize("propagator", PROPAGATORS)


def received(**parts: Any) -> TraceContext:
    context = TraceContext.from_traceparent(TRACEPARENT)
    return context.with_trace_state(parts.get("trace_state", context.trace_state)).with_baggage(
        parts.get("baggage", context.baggage)
    )


class Lists:
    """Getter and setter of names to lists, as a third party may have them: without `remove`."""

    def get(self, carrier: dict[str, list[str]], key: str) -> list[str] | None:
        return carrier.get(key)

    def keys(self, carrier: dict[str, list[str]]) -> list[str]:
        return list(carrier)

    def set(self, carrier: dict[str, list[str]], key: str, value: str) -> None:
        carrier[key] = [value]


class CorrelationPropagator(ITracePropagator):
    """A format of somebody's own: the trace id alone, in one header."""

    def inject(
        self,
        carrier: CarrierT,
        context: TraceContext | None = None,
        setter: ISetter[CarrierT] | None = None,
    ) -> None:
        context = context or TraceContext.get()
        access: Any = setter or MappingAccess()
        if context is not None:
            access.set(carrier, "X-Correlation", context.trace_id)

    def extract(self, carrier: CarrierT, getter: IGetter[CarrierT] | None = None) -> TraceContext | None:
        access: Any = getter or MappingAccess()
        found = access.get(carrier, "X-Correlation")
        if not found:
            return None
        return TraceContext(trace_id=found[0], span_id="1" * 16, is_remote=True)

    def fields(self) -> list[str]:
        return ["X-Correlation"]


# --- inject


@every_propagator
def test_without_a_context_nothing_is_written_or_taken_out(propagator: ITracePropagator) -> None:
    """P-02: the policy of `inject` itself."""
    carrier = {"traceparent": STALE, "tracestate": "old=1", "baggage": "old=1"}
    before = dict(carrier)

    propagator.inject(carrier)

    assert carrier == before


def test_the_current_context_is_written() -> None:
    carrier: dict[str, str] = {}

    with TraceContext.use(received()):
        W3C.inject(carrier)

    assert carrier == {"traceparent": TRACEPARENT}


def test_a_context_that_is_given_goes_before_the_current_one() -> None:
    carrier: dict[str, str] = {}

    with TraceContext.use(TraceContext.new_root()):
        W3C.inject(carrier, received())

    assert carrier == {"traceparent": TRACEPARENT}


def test_all_that_there_is_is_written_under_lower_case_names() -> None:
    carrier: dict[str, str] = {}

    W3C.inject(
        carrier,
        received(trace_state=TraceState({"b": "2", "a": "1"}), baggage=Baggage({"tenant": "J\xfcrgen"})),
    )

    assert carrier == {"traceparent": TRACEPARENT, "tracestate": "b=2,a=1", "baggage": "tenant=J%C3%BCrgen"}


def test_an_earlier_context_is_replaced_or_taken_out_in_any_casing() -> None:
    """K-02, K-30, P-03: one of each field, nothing stale."""
    carrier = {"TraceParent": STALE, "TRACESTATE": "old=1", "Baggage": "old=1", "app": "1"}

    W3C.inject(carrier, received())

    assert carrier == {"app": "1", "traceparent": TRACEPARENT}


def test_the_trace_propagator_leaves_baggage_alone_and_the_other_way_round() -> None:
    carrier = {"baggage": "a=1"}
    W3CTracePropagator().inject(carrier, received())
    assert carrier == {"traceparent": TRACEPARENT, "baggage": "a=1"}

    carrier = {"traceparent": STALE, "tracestate": "old=1", "baggage": "old=1"}
    W3CBaggagePropagator().inject(carrier, received())
    assert carrier == {"traceparent": STALE, "tracestate": "old=1"}


def test_a_setter_without_remove_is_enough() -> None:
    carrier: dict[str, list[str]] = {}

    W3C.inject(carrier, received(trace_state=TraceState({"a": "1"})), Lists())

    assert carrier == {"traceparent": [TRACEPARENT], "tracestate": ["a=1"]}
    W3C.inject(carrier, received(), Lists())
    assert carrier["traceparent"] == [TRACEPARENT]
    assert W3C.extract(carrier, Lists()) == received(trace_state=TraceState({"a": "1"}))


@pytest.mark.parametrize(
    "carrier", [None, 7, "x", [], [("a", "b")], object(), MappingProxyType({})], ids=repr
)
@every_propagator
def test_writing_into_what_is_no_dict_is_refused_in_one_sentence(
    propagator: ITracePropagator, carrier: Any
) -> None:
    with pytest.raises(
        WrongUseError, match=r"^trace context is written into a dict, got \w+; pass setter=.*$"
    ):
        propagator.inject(carrier, received(baggage=Baggage({"a": "1"})))


def test_a_relay_sends_on_what_it_received() -> None:
    carrier = {"traceparent": TRACEPARENT, "tracestate": "b=2,a=1", "baggage": "k=%20;p=1"}
    relayed: dict[str, str] = {}

    W3C.inject(relayed, W3C.extract(carrier))

    assert relayed == carrier


# --- extract


def test_the_context_of_a_dict_is_read_and_remote() -> None:
    found = W3C.extract({"traceparent": TRACEPARENT, "tracestate": "a=1", "baggage": "k=v"})

    assert found == received(trace_state=TraceState({"a": "1"}), baggage=Baggage({"k": "v"}))
    assert found is not None
    assert found.is_remote


def test_extracting_makes_nothing_current() -> None:
    """P-04, P-09: extracting only looks."""
    W3C.extract({"traceparent": TRACEPARENT})
    assert TraceContext.get() is None

    with TraceContext.use(received()) as current:
        W3C.extract({"traceparent": STALE})
        W3C.extract({"traceparent": "nonsense"})
        assert TraceContext.get() is current


@pytest.mark.parametrize(
    "propagator",
    [
        W3C,
        CompositePropagator(W3CBaggagePropagator(), W3CTracePropagator()),
        W3CTracePropagator(),
        W3CBaggagePropagator(),
    ],
    ids=["trace-first", "baggage-first", "trace-alone", "baggage-alone"],
)
def test_what_is_current_gets_into_nothing_that_is_extracted(propagator: ITracePropagator) -> None:
    """P-04: whatever the order of the propagators."""
    with TraceContext.use(received(baggage=Baggage({"tenant": "acme"}))):
        for carrier in ({}, {"app": "1"}, {"traceparent": "nonsense"}):
            assert propagator.extract(carrier) is None
            assert not propagator.extract_baggage(carrier)


def test_a_name_in_another_casing_is_found() -> None:
    """K-30: as bridges from HTTP write it."""
    found = W3C.extract({"TraceParent": TRACEPARENT, "TRACESTATE": "a=1"})

    assert found == received(trace_state=TraceState({"a": "1"}))


def test_baggage_alone_is_no_context_but_can_be_read() -> None:
    """P-13: it is not lost with the traceparent."""
    carrier = {"baggage": "tenant=acme"}

    assert W3C.extract(carrier) is None
    assert W3C.extract_baggage(carrier) == Baggage({"tenant": "acme"})
    assert W3CTracePropagator().extract_baggage(carrier) == Baggage()


def test_a_refused_trace_state_does_not_cost_the_context() -> None:
    """K-04: it costs itself only."""
    assert W3C.extract({"traceparent": TRACEPARENT, "tracestate": "a=b=c"}) == received()


def test_refused_members_of_baggage_do_not_cost_the_others_or_the_context() -> None:
    """K-04: they cost themselves only."""
    found = W3C.extract({"traceparent": TRACEPARENT, "baggage": "a=1,what is this,b=2"})

    assert found == received(baggage=Baggage({"a": "1", "b": "2"}))


ANYTHING = [
    *(None, 7, 1.5, True, object(), [], (), {}, b"\xff", bytearray(b"\xff"), memoryview(b"\xff"), "", "\x00"),
    *("\ud800", "\N{SNOWMAN}", [None], [[TRACEPARENT]], [TRACEPARENT] * 2, {"a": 1}, range(3), Exception()),
    *("x" * 1_000_000, b"\x00" * 1_000_000, ["x"] * 100_000, "," * 1_000_000, "a=1," * 100_000),
]


@every_propagator
@pytest.mark.parametrize("value", ANYTHING, ids=lambda value: repr(value)[:30])
def test_extract_raises_on_no_type_of_value(propagator: ITracePropagator, value: object) -> None:
    """K-04, K-08, P-08, P-14: bytes, numbers, lists, a megabyte."""
    for carrier in (
        value,
        {"traceparent": value},
        {"traceparent": value, "tracestate": value, "baggage": value},
        {"TraceParent": value, "TraceState": [value]},
        {value if isinstance(value, (str, bytes)) else 7: value},
    ):
        assert propagator.extract(carrier) is None
        assert isinstance(propagator.extract_baggage(carrier), Baggage)


@pytest.mark.parametrize("value", ANYTHING, ids=lambda value: repr(value)[:30])
def test_no_type_of_trace_state_or_baggage_costs_the_context(value: object) -> None:
    found = W3C.extract({"traceparent": TRACEPARENT, "tracestate": value, "baggage": value})

    assert found is not None
    assert found.to_traceparent() == TRACEPARENT
    assert not found.trace_state


@pytest.mark.parametrize("as_sent", [str, str.encode, lambda text: bytearray(text.encode())], ids=repr)
def test_text_may_be_bytes(as_sent: Callable[[str], object]) -> None:
    """K-08, P-08: bytes in a plain dict are read, not taken for a list of numbers."""
    texts = {"traceparent": TRACEPARENT, "tracestate": "a=1", "baggage": "k=v"}

    found = W3C.extract({name: as_sent(text) for name, text in texts.items()})

    assert found == received(trace_state=TraceState({"a": "1"}), baggage=Baggage({"k": "v"}))


# --- the log


@pytest.mark.parametrize(
    ("carrier", "message"),
    [
        pytest.param(
            {"traceparent": "nonsense"},
            "no trace context: traceparent has 8 characters, fewer than 55: 'nonsense'",
            id="malformed",
        ),
        pytest.param(
            {"traceparent": 7}, "no trace context: traceparent is not text", id="traceparent-is-no-text"
        ),
        pytest.param(
            {"traceparent": [TRACEPARENT, STALE]},
            "no trace context: traceparent is there 2 times",
            id="repeated",
        ),
        pytest.param(
            {"traceparent": TRACEPARENT, "tracestate": "a=1,,what"},
            "no trace state: member 2 of the tracestate is not key=value as section 3.3.2.2 has it",
            id="trace-state",
        ),
        pytest.param(
            {"traceparent": TRACEPARENT, "baggage": "a=1,what"},
            "baggage is not complete: dropped from the baggage: malformed members: 1, the first is number 2",
            id="baggage",
        ),
    ],
)
def test_what_is_refused_says_why_once(
    carrier: dict[str, object], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    """P-14: one line in the debug log."""
    caplog.set_level(logging.DEBUG)

    W3C.extract(carrier)

    assert caplog.record_tuples == [("spakky.tracing", logging.DEBUG, message)]


@pytest.mark.parametrize(
    "carrier",
    [
        {},
        {"app": "1"},
        {"traceparent": TRACEPARENT, "tracestate": "a=1", "baggage": "a=1"},
        {"traceparent": TRACEPARENT, "tracestate": "", "baggage": ""},
        None,
        7,
    ],
    ids=repr,
)
def test_what_is_right_or_absent_says_nothing(carrier: object, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    W3C.extract(carrier)

    assert caplog.records == []


@pytest.mark.parametrize("name", ["tracestate", "baggage"])
def test_a_megabyte_is_one_line_in_the_log_without_the_value(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """P-14: for each message, whatever its size."""
    caplog.set_level(logging.DEBUG)

    found = W3C.extract({"traceparent": TRACEPARENT, name: "s3cret=1," * (2**20 // 9)})

    assert found is not None
    (record,) = caplog.records
    assert "s3cret" not in record.getMessage()
    assert len(record.getMessage()) < 200


@pytest.mark.parametrize(
    "text", ["\x00\x07\x1b[31m\x7f\r\n", "\x85\u2028\u202e\ud800", "\r\nINFO all is well"]
)
@pytest.mark.parametrize("name", ["traceparent", "tracestate", "baggage"])
@pytest.mark.parametrize(
    "as_sent", [str, lambda text: text.encode("utf-8", "surrogatepass")], ids=["str", "bytes"]
)
def test_the_log_holds_no_control_characters_of_the_sender(
    name: str, text: str, as_sent: Callable[[str], object], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    W3C.extract({"traceparent": TRACEPARENT, name: as_sent(text * 20)})

    (record,) = caplog.records
    assert record.getMessage().isprintable()
    assert record.getMessage().isascii()
    assert len(record.getMessage()) < 1_000


# --- composites and propagators of others (PR-13)


def test_a_composite_writes_with_all_and_names_all_fields_once() -> None:
    propagator = CompositePropagator(W3CTracePropagator(), CorrelationPropagator(), W3CTracePropagator())
    carrier: dict[str, str] = {}

    propagator.inject(carrier, received())

    assert carrier == {"traceparent": TRACEPARENT, "X-Correlation": TRACE_ID}
    assert propagator.fields() == ["traceparent", "tracestate", "X-Correlation"]


def test_of_several_contexts_the_later_propagator_s_counts() -> None:
    carrier = {"traceparent": TRACEPARENT, "X-Correlation": "f" * 32}
    trace, correlation = W3CTracePropagator(), CorrelationPropagator()

    first = CompositePropagator(trace, correlation).extract(carrier)
    second = CompositePropagator(correlation, trace).extract(carrier)

    assert first is not None
    assert second is not None
    assert (first.trace_id, second.trace_id) == ("f" * 32, TRACE_ID)


def test_a_composite_takes_what_one_finds_if_the_others_find_nothing() -> None:
    propagator = CompositePropagator(W3C, CorrelationPropagator())

    found = propagator.extract({"traceparent": "nonsense", "X-Correlation": "f" * 32, "baggage": "a=1"})

    assert found is not None
    assert found.trace_id == "f" * 32
    assert found.baggage == Baggage({"a": "1"})
    assert propagator.extract({"baggage": "a=1"}) is None
    assert propagator.extract_baggage({"baggage": "a=1"}) == Baggage({"a": "1"})


def test_a_composite_of_nothing_does_nothing() -> None:
    carrier: dict[str, str] = {}

    CompositePropagator().inject(carrier, received())

    assert carrier == {}
    assert CompositePropagator().extract({"traceparent": TRACEPARENT}) is None
    assert CompositePropagator().fields() == []


def test_the_fields_are_those_that_may_be_written() -> None:
    assert W3CTracePropagator().fields() == ["traceparent", "tracestate"]
    assert W3CBaggagePropagator().fields() == ["baggage"]
    assert W3C.fields() == ["traceparent", "tracestate", "baggage"]


def test_what_fields_returns_is_the_caller_s_own() -> None:
    W3C.fields().clear()

    assert W3C.fields() == ["traceparent", "tracestate", "baggage"]


def test_a_propagator_has_to_define_inject_extract_and_fields() -> None:
    incomplete: Any = type("Incomplete", (ITracePropagator,), {"inject": W3CTracePropagator.inject})

    with pytest.raises(TypeError, match=r"abstract methods '?extract'?, '?fields'?"):
        incomplete()


def test_a_propagator_without_baggage_reads_none() -> None:
    assert CorrelationPropagator().extract_baggage({"baggage": "a=1"}) == Baggage()
