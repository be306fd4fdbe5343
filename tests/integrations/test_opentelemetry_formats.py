"""The bridge to OpenTelemetry: headers in the format that it is configured for, in every carrier."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest
from opentelemetry import baggage
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.aws import AwsXRayPropagator
from opentelemetry.propagators.b3 import B3MultiFormat, B3SingleFormat
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.jaeger import JaegerPropagator
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import spakky.tracing
from integrations.bridged import bridged, span_id_of
from integrations.celery_office import OWN_HEADERS, Desk, Office, hooked
from integrations.letters import client_of
from integrations.test_celery import desk, office, rabbitmq_desk
from spakky.tracing.baggage import Baggage
from spakky.tracing.boundaries.default import DEFAULT
from spakky.tracing.boundaries.options import Policy, ReceiveOptions, SendOptions, Settings
from spakky.tracing.boundaries.process import Receiver
from spakky.tracing.boundaries.publish import Sender
from spakky.tracing.carriers import ICarrier, amqp, celery, kafka, mapping
from spakky.tracing.context import TraceContext
from spakky.tracing.integrations.opentelemetry import OpenTelemetryPropagator
from spakky.tracing.w3c_propagator import W3C

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.context import Context

__all__ = ["desk", "office", "rabbitmq_desk"]

SOURCES: Final = Path(spakky.tracing.__file__).parents[2]
ROOT: Final = TraceContext(trace_id="67452301" + "ab" * 12, span_id="00f067aa0ba902b7")


class Format(NamedTuple):
    """A format of OpenTelemetry, the fields that it writes and whether baggage is among them."""

    name: str
    propagator: TextMapPropagator
    written: dict[str, str]
    has_baggage: bool = False


B3: Final = Format("b3", B3SingleFormat(), {"b3": f"{ROOT.trace_id}-{ROOT.span_id}-1"})
FORMATS: Final = [
    B3,
    Format(
        "b3multi",
        B3MultiFormat(),
        {"x-b3-traceid": ROOT.trace_id, "x-b3-spanid": ROOT.span_id, "x-b3-sampled": "1"},
    ),
    Format(
        "jaeger",
        JaegerPropagator(),
        {"uber-trace-id": f"{ROOT.trace_id}:{ROOT.span_id}:0000000000000000:03"},
    ),
    Format(
        "xray",
        AwsXRayPropagator(),
        {
            "X-Amzn-Trace-Id": f"Root=1-{ROOT.trace_id[:8]}-{ROOT.trace_id[8:]}"
            f";Parent={ROOT.span_id};Sampled=1"
        },
    ),
    Format("tracecontext", TraceContextTextMapPropagator(), {"traceparent": ROOT.to_traceparent()}),
    Format(
        "composite",
        CompositePropagator([TraceContextTextMapPropagator(), B3SingleFormat(), W3CBaggagePropagator()]),
        {"traceparent": ROOT.to_traceparent(), **B3.written},
        has_baggage=True,
    ),
]
CARRIERS: Final[dict[str, tuple[ICarrier[Any], Any]]] = {
    "kafka": (kafka.CARRIER, [("app", b"1")]),
    "amqp": (amqp.CARRIER, {"app": "1"}),
    "celery": (celery.CARRIER, {"app": "1"}),
    "mapping": (mapping.CARRIER, {"app": "1"}),
    "http": (mapping.HTTP, [(b"app", b"1")]),
}
formats = pytest.mark.parametrize("of", FORMATS, ids=lambda of: of.name)
carriers = pytest.mark.parametrize("carrier_name", CARRIERS)


def values(carrier: ICarrier[Any], headers: Any, name: str) -> list[str]:
    return carrier.get(headers, name) or []


@formats
@carriers
class TestEveryCarrier:
    @pytest.fixture(autouse=True)
    def _bridge(self, of: Format, carrier_name: str) -> Iterator[None]:
        self.carrier, self.existing = CARRIERS[carrier_name]
        # They were made before the bridge was installed, and follow it all the same.
        self.sender = Sender(client_of(self.carrier), Settings(SendOptions, {"keep": False}))
        self.receiver = Receiver(client_of(self.carrier), Settings(ReceiveOptions))
        with bridged(propagator=of.propagator) as self.bridge:
            yield

    def test_what_is_sent_is_in_the_format_and_in_no_other(self, of: Format) -> None:
        with TraceContext.use(ROOT):
            headers = self.sender.headers(self.existing)

        assert {name: values(self.carrier, headers, name) for name in of.written} == {
            name: [value] for name, value in of.written.items()
        }
        assert len(self.carrier.keys(headers)) == len(of.written) + 1
        assert values(self.carrier, headers, "app") == ["1"]

    def test_what_is_received_is_read_in_the_format(self, of: Format) -> None:
        headers = self.carrier.copy(self.existing)
        for name, value in of.written.items():
            self.carrier.set(headers, name.lower(), value)

        sender = self.receiver.context_from(headers)
        with self.receiver.process(headers), self.bridge.tracer.start_as_current_span("inside"):
            current = TraceContext.get()

        assert sender is not None
        assert (sender.trace_id, sender.span_id, sender.is_remote) == (ROOT.trace_id, ROOT.span_id, True)
        assert (type(sender), sender.is_sampled) == (TraceContext, True)
        assert current is not None
        assert current.trace_id == ROOT.trace_id

    def test_stale_fields_are_replaced(self, of: Format) -> None:
        stale = self.carrier.copy(self.existing)
        for name in of.written:
            self.carrier.set(stale, name.upper(), "stale")

        with TraceContext.use(ROOT):
            headers = self.sender.headers(stale)

        for name, value in of.written.items():
            assert values(self.carrier, headers, name) == [value]
        assert len(self.carrier.keys(headers)) == len(of.written) + 1

    def test_a_message_sent_on_carries_the_context_of_its_processing(self, of: Format) -> None:
        stale = self.carrier.copy(self.existing)
        for name in of.written:
            self.carrier.set(stale, name, "stale")

        with TraceContext.use(ROOT):
            headers = self.sender.retry_headers(stale, 2, ["orders"])

        assert [values(self.carrier, headers, name) for name in of.written] == [
            [value] for value in of.written.values()
        ]
        assert values(self.carrier, headers, "x-retry-count") == ["2"]

    def test_a_header_of_the_format_that_means_nothing_starts_a_trace(self, of: Format) -> None:
        for nonsense in ("", "nonsense", "1-2-3-4", "0" * 32, "\xff" * 9):
            headers = self.carrier.copy(self.existing)
            for name in of.written:
                self.carrier.set(headers, name, nonsense)

            with self.receiver.process(headers) as processing:
                assert processing.context is not None
                assert processing.context.parent_span_id is None

    def test_policies_know_its_fields(self, of: Format) -> None:
        names = {name.lower() for name in of.propagator.fields}

        assert Policy().fields == names
        assert Policy(propagator=OpenTelemetryPropagator(of.propagator)).fields == names
        assert {name.lower() for name in of.written} <= names

    def test_baggage_travels_where_the_format_has_it(self, of: Format) -> None:
        with TraceContext.use(ROOT.with_baggage(Baggage({"tenant": "acme"}))):
            headers = self.sender.headers(self.existing)

        with self.receiver.process(headers):
            received = dict(baggage.get_all())
        assert received == ({"tenant": "acme"} if of.has_baggage or of.name == "jaeger" else {})


class TestTheDefault:
    def test_the_usual_format_is_our_own_propagator(self) -> None:
        """Which is stricter in what it reads and takes out what it does not write."""
        textmap = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])
        context = ROOT.with_baggage(Baggage.parse("tenant=acme;ttl=5"))
        with bridged(propagator=textmap), TraceContext.use(context):
            headers: dict[str, str] = {}
            DEFAULT.inject(headers)

        assert headers == {"traceparent": ROOT.to_traceparent(), "baggage": "tenant=acme;ttl=5"}

    def test_it_is_w3c_again_without_the_bridge(self) -> None:
        with bridged(propagator=B3SingleFormat()):
            assert DEFAULT.fields() == ["b3"]
        assert DEFAULT.fields() == W3C.fields()

    def test_an_option_wins_over_the_bridge(self) -> None:
        sender = Sender(client_of(mapping.CARRIER), Settings(SendOptions, {"propagator": W3C}))
        with bridged(propagator=B3SingleFormat()), TraceContext.use(ROOT):
            assert sender.headers() == {"traceparent": ROOT.to_traceparent()}

    def test_the_propagator_serves_without_the_bridge(self) -> None:
        headers: dict[str, str] = {}
        propagator = OpenTelemetryPropagator(B3SingleFormat())
        propagator.inject(headers)
        assert headers == {}

        with TraceContext.use(ROOT):
            propagator.inject(headers)

        assert headers == B3.written
        read = propagator.extract(headers)
        assert read is not None
        assert (read.trace_id, read.span_id) == (ROOT.trace_id, ROOT.span_id)
        assert propagator.extract({}) is None
        assert not propagator.extract_baggage(headers)

    @pytest.mark.parametrize(
        ("configured", "expected"),
        [
            ("b3", ["b3"]),
            ("tracecontext,baggage", ["baggage", "traceparent", "tracestate"]),
            ("jaeger,xray", ["X-Amzn-Trace-Id", "uber-trace-id"]),
            ("none", []),
        ],
    )
    def test_the_environment_chooses(self, configured: str, expected: list[str]) -> None:
        code = (
            "from spakky.tracing.boundaries.default import DEFAULT\n"
            "from spakky.tracing.integrations import opentelemetry\n"
            "opentelemetry.install()\n"
            "print(*sorted(DEFAULT.fields()))"
        )
        environment = {**os.environ, "PYTHONPATH": str(SOURCES), "OTEL_PROPAGATORS": configured}

        output = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )

        assert output.stdout.split() == expected


class TestCelery:
    """A task in B3, on a real broker, both ways."""

    @pytest.fixture(autouse=True)
    def _bridge(self) -> Iterator[None]:
        with bridged(propagator=B3SingleFormat()) as self.bridge:
            yield

    def test_a_task_is_sent_and_run(self, desk: Desk, office: Office) -> None:
        with hooked(desk.app), TraceContext.use(ROOT):
            desk.order.delay()
        headers = desk.mailbox.message().headers
        sent = {name: value for name, value in headers.items() if name not in OWN_HEADERS}

        with hooked(office.app):
            seen = office.run(TraceContext.get, sent)
            office.settle()

        (send, run, _) = self.bridge.ours
        assert list(sent) == ["b3"]
        assert sent["b3"] == f"{ROOT.trace_id}-{span_id_of(send)}-1"
        assert (seen.trace_id, seen.parent_span_id) == (ROOT.trace_id, sent["b3"][33:49])
        assert span_id_of(run) == seen.span_id


def test_a_propagator_of_the_users_own_that_fails_costs_the_context_only() -> None:
    class Broken(TextMapPropagator):
        def extract(self, carrier: Any, context: Context | None = None, getter: Any = None) -> Context:
            raise RuntimeError

        def inject(self, carrier: Any, context: Context | None = None, setter: Any = None) -> None:
            raise RuntimeError

        @property
        def fields(self) -> set[str]:
            return {"x-own"}

    sender = Sender(client_of(mapping.CARRIER), Settings(SendOptions))
    receiver = Receiver(client_of(mapping.CARRIER), Settings(ReceiveOptions))
    with bridged(propagator=Broken()):
        with TraceContext.use(ROOT):
            assert sender.headers({"app": "1"}) == {"app": "1"}
        with receiver.process({"x-own": "1"}) as processing:
            assert processing.context is not None
