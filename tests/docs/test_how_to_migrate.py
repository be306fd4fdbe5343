"""`docs/how-to/migrate-from-opentelemetry.md`: both versions of each service, together on a real broker."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest
from pika import BlockingConnection, URLParameters

from docs.pages import programs_by_heading, text_of
from docs.running import environment, printed_by, run, with_names

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE: Final = "docs/how-to/migrate-from-opentelemetry.md"
TEXT: Final = text_of(PAGE)
CODE: Final = programs_by_heading(PAGE)
PATIENCE: Final = 30
BAGGAGE: Final = {"tenant": "acme"}

INSTRUMENTORS: Final = {
    "aiokafka": "opentelemetry.instrumentation.aiokafka:AIOKafkaInstrumentor",
    "confluent-kafka": "opentelemetry.instrumentation.confluent_kafka:ConfluentKafkaInstrumentor",
    "kafka-python": "opentelemetry.instrumentation.kafka:KafkaInstrumentor",
    "aio-pika": "opentelemetry.instrumentation.aio_pika:AioPikaInstrumentor",
    "pika": "opentelemetry.instrumentation.pika:PikaInstrumentor",
    "Celery": "opentelemetry.instrumentation.celery:CeleryInstrumentor",
}
KAFKA: Final = ("aiokafka", "confluent-kafka", "kafka-python")
NAMES: Final = {  # of a send and of a processing, before and after
    "aiokafka": ("{} send", "{} receive", "send {}", "process {}"),
    "confluent-kafka": ("{} send", "{} process", "send {}", "process {}"),
    "kafka-python": ("{} send", "{} receive", "send {}", "process {}"),
    "aio-pika": (",{} send", "{} receive", "send {}", "process {}"),
    "pika": ("{} send", "{} receive", "send {}", "process {}"),
    "Celery": ("apply_async/bill", "run/bill", "send bill", "run bill"),
}

Span = dict[str, Any]


class Service:
    """A running version of the service."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, action: str, queue: str) -> None:
        assert self._process.stdin is not None
        print(action, queue, file=self._process.stdin, flush=True)

    def answer(self) -> list[Span]:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        assert answer, "the service has ended"
        spans: list[Span] = json.loads(answer)
        return spans


@contextmanager
def serving(code: str, folder: Path, *instrumentor: str, **variables: str) -> Iterator[Service]:
    program = folder / f"{uuid4().hex}.py"
    program.write_text(code, encoding="utf-8")
    command = [
        sys.executable,
        str(Path(__file__).with_name("telemetry_shop.py")),
        str(program),
        *instrumentor,
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(**variables)
    ) as process:
        try:
            yield Service(process)
        finally:
            process.terminate()


@dataclass(frozen=True)
class Hop:
    """What a message left behind on both sides."""

    queue: str
    placed: list[Span]
    billed: list[Span]

    @property
    def place(self) -> Span:
        return named("place", self.placed)

    @property
    def bill(self) -> Span:
        return named("bill", self.billed)

    @property
    def send(self) -> Span:
        return next(span for span in self.placed if span["kind"] == "PRODUCER")

    @property
    def processing(self) -> Span:
        return [span for span in self.billed if span["kind"] == "CONSUMER"][-1]


def named(name: str, spans: list[Span]) -> Span:
    (found,) = [span for span in spans if span["name"] == name]
    return found


class Traffic:
    """Messages between the versions of a service: each sends to each.

    Attributes:
        client: The heading of its part of the page.
        hops: By the names of the two versions.
    """

    VERSIONS: Final = ("before", "after", "rolled back")

    def __init__(self, client: str, names: dict[str, str], folder: Path) -> None:
        self.client = client
        before, after = (with_names(code, names) for code in CODE[client])
        off = {"SPAKKY_TRACING_ENABLED": "0"}
        ways = [(source, target) for source in self.VERSIONS for target in self.VERSIONS]
        queues = {way: f"orders-{uuid4().hex}" for way in ways}
        with ExitStack() as stack:
            services = {
                "before": stack.enter_context(serving(before, folder)),
                "after": stack.enter_context(serving(after, folder)),
                "rolled back": stack.enter_context(serving(after, folder, INSTRUMENTORS[client], **off)),
            }
            placed = self._asked(services, "place", {way: (way[0], queues[way]) for way in ways})
            billed = self._asked(services, "bill", {way: (way[1], queues[way]) for way in ways})
        self.hops = {way: Hop(queues[way], placed[way], billed[way]) for way in ways}

    @staticmethod
    def _asked(
        services: dict[str, Service], action: str, wanted: dict[tuple[str, str], tuple[str, str]]
    ) -> dict[tuple[str, str], list[Span]]:
        for service, queue in wanted.values():
            services[service].ask(action, queue)
        return {way: services[service].answer() for way, (service, _) in wanted.items()}


@pytest.fixture(scope="module", params=INSTRUMENTORS)
def traffic(
    request: pytest.FixtureRequest,
    kafka_address: str,
    amqp_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Traffic]:
    names = {"localhost:9092": kafka_address, "amqp://guest:guest@localhost/": amqp_url}
    traffic = Traffic(request.param, names, tmp_path_factory.mktemp("shop"))
    yield traffic
    if request.param not in KAFKA:
        with BlockingConnection(URLParameters(amqp_url)) as connection:
            for hop in traffic.hops.values():
                connection.channel().queue_delete(hop.queue)


def test_each_instrumentation_has_a_pair_of_blocks() -> None:
    assert {
        heading: len(blocks) for heading, blocks in CODE.items() if heading in INSTRUMENTORS
    } == dict.fromkeys(INSTRUMENTORS, 2)


@pytest.mark.parametrize("sender", Traffic.VERSIONS)
def test_a_new_consumer_works_in_the_trace_and_with_the_baggage_of_either_sender(
    traffic: Traffic, sender: str
) -> None:
    hop = traffic.hops[sender, "after"]

    assert hop.bill["trace_id"] == hop.place["trace_id"]
    assert hop.bill["parent_id"] == hop.processing["span_id"]
    assert hop.processing["parent_id"] in {span["span_id"] for span in hop.placed}
    assert hop.bill["baggage"] == BAGGAGE


@pytest.mark.parametrize("sender", Traffic.VERSIONS)
def test_an_old_consumer_finds_a_new_sender_as_it_finds_an_old_one(traffic: Traffic, sender: str) -> None:
    hop = traffic.hops[sender, "before"]

    found = {hop.processing["parent_id"], *hop.processing["links"]}
    assert found & {span["span_id"] for span in hop.placed}


def test_what_an_old_consumer_of_kafka_does_is_in_another_trace(traffic: Traffic) -> None:
    """What the page says of K-09, K-10 and K-11."""
    hop = traffic.hops["before", "before"]

    assert (hop.bill["trace_id"] == hop.place["trace_id"]) is (traffic.client not in KAFKA)
    assert hop.bill["baggage"] == ({} if traffic.client in KAFKA else BAGGAGE)


def test_the_names_of_spans_are_those_of_the_table(traffic: Traffic) -> None:
    old, new = traffic.hops["before", "before"], traffic.hops["after", "after"]
    names = [old.send["name"], old.processing["name"], new.send["name"], new.processing["name"]]

    queues = [old.queue, old.queue, new.queue, new.queue]
    assert names == [name.format(queue) for name, queue in zip(NAMES[traffic.client], queues, strict=True)]
    written = [f"`{name.format('orders')}`" for name in NAMES[traffic.client]]
    assert f"| {traffic.client} | {' | '.join(written)} |" in TEXT


def test_there_is_one_span_for_each_operation(traffic: Traffic) -> None:
    new, old = traffic.hops["after", "after"], traffic.hops["before", "before"]

    assert [
        (span["kind"], span["by"]) for span in (*new.placed, *new.billed) if span["kind"] != "INTERNAL"
    ] == [
        ("PRODUCER", "spakky.tracing"),
        ("CONSUMER", "spakky.tracing"),
    ]
    sends = [span for span in old.placed if span["kind"] == "PRODUCER"]
    assert len(sends) == (2 if traffic.client == "pika" else 1)


def test_rolled_back_by_the_environment_it_is_as_before(traffic: Traffic) -> None:
    old, back = traffic.hops["before", "before"], traffic.hops["rolled back", "rolled back"]

    for hop in (old, back):
        assert {span["by"].partition(".")[0] for span in (*hop.placed, *hop.billed)} == {
            "opentelemetry",
            "shop",
        }
    assert [span["kind"] for span in back.placed] == [span["kind"] for span in old.placed]
    assert [span["kind"] for span in back.billed] == [span["kind"] for span in old.billed]


def test_without_opentelemetry_the_trace_goes_on_too(amqp_url: str, tmp_path: Path) -> None:
    (code,) = CODE["Without OpenTelemetry"]
    names = {"amqp://guest:guest@localhost/": amqp_url, '"orders"': f'"orders-{uuid4().hex}"'}

    said = run(with_names(code, names), tmp_path).stderr.splitlines()

    assert [line.split(" ", 1)[1] for line in said] == ["an order is placed", "a bill is written"]
    (trace_id,) = {line.split()[0] for line in said}
    assert re.fullmatch("[0-9a-f]{32}", trace_id)


def test_everything_can_be_undone(kafka_address: str, tmp_path: Path) -> None:
    (code,) = CODE["Roll back"]
    code += (
        "\nfrom spakky.tracing.tracer import get_tracer\n"
        "\nfrom celery.signals import before_task_publish\n"
        "print(type(producer) is Producer, before_task_publish.receivers, get_tracer())\n"
    )

    assert printed_by(with_names(code, {"localhost:9092": kafka_address}), tmp_path) == ["True [] None"]


def test_what_is_disabled_has_these_names() -> None:
    (disabled,) = re.findall("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=(\\S+)`", TEXT)

    assert set(disabled.split(",")) <= entry_points(group="opentelemetry_instrumentor").names


def test_what_fails_elsewhere_has_these_numbers() -> None:
    known = text_of("docs/pain-points.md")

    for number in re.findall(r"[AKC]-\d\d", TEXT):
        assert f"| {number} |" in known
