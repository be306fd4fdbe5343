"""A propagator that reads and writes nothing but a dict, over carriers of any shape."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest

from contract.formats import B3Propagator
from contract.formats import PlainPropagator as DictPropagator
from spakky.tracing.baggage import Baggage
from spakky.tracing.boundaries.options import Policy
from spakky.tracing.carriers.amqp import CARRIER as AMQP
from spakky.tracing.carriers.kafka import CARRIER as KAFKA
from spakky.tracing.carriers.mapping import HTTP
from spakky.tracing.context import TraceContext
from spakky.tracing.propagator import CompositePropagator, ITracePropagator, PlainPropagator, serve
from spakky.tracing.w3c_propagator import W3C, W3CBaggagePropagator, W3CTracePropagator

if TYPE_CHECKING:
    from collections.abc import Callable

CONTEXT = TraceContext.new_root(baggage=Baggage({"tenant": "acme"}))
WRITTEN = f"{CONTEXT.trace_id}/{CONTEXT.span_id}"


class Recording(ITracePropagator):
    """Notes what it is given; a method for each number of arguments that somebody may have written."""

    written: dict[str, str] = {"a": "1"}

    def __init__(self) -> None:
        self.given: list[tuple[Any, ...]] = []

    def inject(self, *given: Any, **_: Any) -> None:
        self.given.append(given)

    def extract(self, *given: Any, **_: Any) -> TraceContext | None:
        self.given.append(given)
        return None

    def fields(self) -> list[str]:
        return ["a", "B"]


class Subclass(W3CTracePropagator):
    """One of W3C's, with the arguments that Spakky's have."""

    def inject(self, carrier: Any) -> None:  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride] # this is what it is about
        super().inject(carrier)
        carrier["extra"] = "1"


class KeywordOnly(DictPropagator):
    """One whose further arguments are not those of ours."""

    def inject(self, carrier: Any, *, strict: bool = True) -> None:  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride] # likewise
        assert strict
        super().inject(carrier)


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Decorated(DictPropagator):
    inject = decorated(DictPropagator.inject)


class WithBaggage(DictPropagator):
    """One that knows of baggage."""

    def extract_baggage(self, carrier: dict[str, str]) -> Baggage:  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride] # likewise
        return Baggage({"user": carrier["X-User"]})

    def fields(self) -> list[str]:
        return ["X-Trace", "X-User"]


@pytest.mark.parametrize("propagator", [W3C, W3CTracePropagator(), B3Propagator(), Recording()], ids=repr)
def test_a_propagator_for_any_carrier_stays_as_it_is(propagator: ITracePropagator) -> None:
    assert serve(propagator) is propagator
    assert Policy(propagator=propagator).propagator is propagator


@pytest.mark.parametrize("kind", [DictPropagator, Subclass, KeywordOnly, Decorated, WithBaggage])
def test_a_propagator_of_dicts_is_served_once(kind: type[ITracePropagator]) -> None:
    served = serve(kind())

    assert isinstance(served, PlainPropagator)
    assert serve(served) is served
    assert Policy(propagator=kind()).fields == {name.lower() for name in kind().fields()}


@pytest.mark.parametrize("kind", [DictPropagator, KeywordOnly, Decorated])
@pytest.mark.parametrize(
    ("carrier", "headers", "expected"),
    [
        (KAFKA, [("app", b"1"), ("x-trace", b"old")], [("app", b"1"), ("X-Trace", WRITTEN.encode())]),
        (AMQP, {"app": 1, "x-trace": "old"}, {"app": 1, "X-Trace": WRITTEN}),
        (HTTP, [(b"app", b"1"), (b"x-trace", b"old")], [(b"app", b"1"), (b"X-Trace", WRITTEN.encode())]),
        (None, {"app": "1", "x-trace": "old"}, {"app": "1", "X-Trace": WRITTEN}),
    ],
    ids=["kafka", "amqp", "http", "dict"],
)
def test_what_it_writes_is_the_only_value_of_its_field(
    kind: type[ITracePropagator], carrier: Any, headers: Any, expected: Any
) -> None:
    serve(kind()).inject(headers, CONTEXT, carrier)

    assert headers == expected
    assert serve(kind()).extract(headers, carrier) == TraceContext(
        trace_id=CONTEXT.trace_id, span_id=CONTEXT.span_id
    )


def test_the_context_to_write_is_current_while_it_writes_and_no_longer() -> None:
    carrier: dict[str, str] = {}
    with TraceContext.use(TraceContext.new_root()) as current:
        serve(DictPropagator()).inject(carrier, CONTEXT)

        assert TraceContext.get() is current
    assert carrier == {"X-Trace": WRITTEN}


def test_without_a_context_nothing_is_written_or_taken_out() -> None:
    carrier = {"x-trace": "old"}

    serve(DictPropagator()).inject(carrier)

    assert carrier == {"x-trace": "old"}


def test_the_current_context_is_written_if_none_is_given() -> None:
    carrier: dict[str, str] = {}

    with TraceContext.use(CONTEXT):
        serve(DictPropagator()).inject(carrier)

    assert carrier == {"X-Trace": WRITTEN}


def test_a_field_that_it_names_and_leaves_out_is_taken_out() -> None:
    headers: Any = [("b", b"old"), ("A", b"old"), ("app", b"1")]

    PlainPropagator(Recording()).inject(headers, CONTEXT, KAFKA)

    assert headers == [("app", b"1")]


def test_what_it_writes_besides_its_fields_is_sent_too() -> None:
    carrier = {"app": "1"}

    serve(Subclass()).inject(carrier, CONTEXT)

    assert carrier == {"app": "1", "traceparent": CONTEXT.to_traceparent(), "extra": "1"}


def test_a_setter_without_remove_is_enough() -> None:
    class SetterOnly:
        def set(self, carrier: dict[str, str], key: str, value: str) -> None:
            carrier[key] = value

    carrier: dict[str, str] = {}
    serve(DictPropagator()).inject(carrier, CONTEXT, SetterOnly())

    assert carrier == {"X-Trace": WRITTEN}


def test_it_is_given_a_dict_of_its_fields_and_nothing_else() -> None:
    recording = Recording()
    served = PlainPropagator(recording)

    served.extract([("A", b"1"), ("b", b"2"), ("B", b"3"), ("app", b"4")], HTTP)
    served.extract({"a": "1", "b": object()})
    served.extract(None)
    served.inject({}, CONTEXT)

    assert recording.given == [({"a": "1", "B": "2,3"},), ({"a": "1"},), ({},), ({},)]


def test_it_may_know_of_baggage() -> None:
    carrier = {"x-user": "7"}

    assert serve(DictPropagator()).extract_baggage(carrier) == Baggage()
    assert serve(WithBaggage()).extract_baggage(carrier) == Baggage({"user": "7"})


def test_a_composite_serves_it_too() -> None:
    composite = CompositePropagator(DictPropagator(), W3CBaggagePropagator())
    headers: Any = []

    composite.inject(headers, CONTEXT, KAFKA)

    assert headers == [("X-Trace", WRITTEN.encode()), ("baggage", b"tenant=acme")]
    found = composite.extract(headers, KAFKA)
    assert found is not None
    assert (found.span_id, found.baggage) == (CONTEXT.span_id, CONTEXT.baggage)
    assert composite.fields() == ["X-Trace", "baggage"]
