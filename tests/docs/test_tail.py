"""`docs/tail.md`: what it shows is what is printed, and it names the options that there are."""

from __future__ import annotations

import calendar
import json
import re
import shlex
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit
from uuid import uuid4

import pika
import pytest
import redis
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from cli.running import piped
from cli.tailing import tail
from docs.pages import commands_of, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = "docs/tail.md"
SECONDS = 30

SPAN = "b7ad6b7169203331"
CHECKOUT = f"00-0af7651916cd43dd8448eb211c80319c-{SPAN}-01"
LEAKED = f"00-5bd66ef5095369c7b0d1f8f4bd33716a-{SPAN}-01"
TRACED = {"traceparent": f"00-4bf92f3577b34da6a3ce929d0e0e4736-{SPAN}-01"}
RECORDS: list[tuple[str, dict[str, Any]]] = [
    ("18:40:00", {"service": "checkout", "traceparent": CHECKOUT}),
    ("18:40:00", {"service": "billing"}),
    ("18:40:01", {"service": "invoices", "traceparent": f"ff{CHECKOUT[2:]}"}),
    ("18:40:01", {"service": "mailer", "tracestate": "vendor=1"}),
    ("18:40:02", {"service": "checkout", "traceparent": LEAKED}),
    ("18:42:32", {"service": "checkout", "traceparent": LEAKED}),
    ("18:42:33", {"service": "billing"}),
]
MESSAGES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("18:43:27", "shop", "order.new", TRACED),
    ("18:43:27", "billing", "order.paid", {}),
    ("18:43:28", "shop", "order.new", TRACED),
]


class Scene(NamedTuple):
    """What a block of the page speaks of, as it is here.

    Attributes:
        url: What is watched.
        name: The last part of it, as long as that of the page.
        address: Host and port.
        play: Does what happens while it is watched.
    """

    url: str
    name: str
    address: str
    play: Callable[[], None]


def moment_of(clock: str) -> int:
    return calendar.timegm(time.strptime(f"2026-11-24 {clock}", "%Y-%m-%d %H:%M:%S"))


def a_name(length: int) -> str:
    return f"o{uuid4().hex[: length - 1]}"


def nothing_happens() -> None:
    """Leave it at what is there already."""


@pytest.fixture(scope="module")
def topic(apache_kafka_address: str) -> Iterator[Scene]:
    name = a_name(len("orders"))
    admin = AdminClient({"bootstrap.servers": apache_kafka_address})
    admin.create_topics([NewTopic(name, 1)])[name].result(SECONDS)
    producer = Producer({"bootstrap.servers": apache_kafka_address})
    for clock, headers in RECORDS:
        producer.produce(name, b"value", headers=headers, timestamp=moment_of(clock) * 1000)
    assert producer.flush(SECONDS) == 0
    yield Scene(f"kafka://{apache_kafka_address}/{name}", name, apache_kafka_address, nothing_happens)
    admin.delete_topics([name])[name].result(SECONDS)


@pytest.fixture
def exchange(amqp_url: str) -> Iterator[Scene]:
    name = a_name(len("orders"))
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        channel = connection.channel()
        channel.exchange_declare(name, "topic")

        def send() -> None:
            for clock, application, key, headers in MESSAGES:
                properties = pika.BasicProperties(
                    app_id=application, timestamp=moment_of(clock), headers=headers
                )
                channel.basic_publish(name, key, b"value", properties)

        yield Scene(
            f"{amqp_url.rstrip('/')}/{name}", name, urlsplit(amqp_url).netloc.rpartition("@")[2], send
        )
        channel.exchange_delete(name)


@pytest.fixture
def queue(redis_url: str) -> Iterator[Scene]:
    name = a_name(len("celery"))
    with redis.Redis.from_url(redis_url) as client:
        for headers in (TRACED, {}):
            task = {"task": "shop.pay", "id": uuid4().hex, "origin": "gen17@shop", **headers}
            client.lpush(name, json.dumps({"headers": task, "properties": {}}))
        yield Scene(f"{redis_url}/{name}", name, urlsplit(redis_url).netloc, nothing_happens)
        client.delete(name)


SCENES: Final = {
    "kafka://localhost:9092/orders": ("topic", "orders", "localhost:9092"),
    "amqp://localhost/orders": ("exchange", "orders", "localhost:5672"),
    "redis://localhost/celery": ("queue", "celery", "localhost:6379"),
}


@pytest.mark.parametrize(("command", "printed"), commands_of(PAGE))
def test_what_the_page_shows_is_printed(command: str, printed: str, request: pytest.FixtureRequest) -> None:
    _, _, url, *options = shlex.split(command)
    fixture, name, address = SCENES[url]
    scene: Scene = request.getfixturevalue(fixture)

    with tail(scene.url, *options, TZ="UTC") as running:
        scene.play()
        ended = running.ended()

    assert ended.code == 0
    shown = (ended.errors + ended.output).replace(scene.address, address).replace(scene.name, name)
    assert with_clock(fixture, shown) == printed


def test_several_places_are_watched_together(topic: Scene, queue: Scene) -> None:
    with tail(topic.url, queue.url, "--from-beginning", "--totals", "--json", "--count=9") as running:
        ended = running.ended()

    totals = json.loads(ended.output)["totals"]
    assert {group["producer"]: group["messages"] for group in totals["groups"]} == {
        topic.name: 7,
        "gen17@shop": 2,
    }
    assert ended.errors.count("Watching") == 2


def with_clock(fixture: str, shown: str) -> str:
    """Return what is *shown* with the page's time, where a message says none of its own."""
    return re.sub(r"^\d\d:\d\d:\d\d", "18:43:27", shown, flags=re.MULTILINE) if fixture == "queue" else shown


def test_the_page_names_every_option_and_no_other() -> None:
    offered = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", piped("tail", "--help").output))
    table = text_of(PAGE).partition("## Options")[2].partition("\n\nCtrl-C")[0]

    named = re.findall(r"`(--?[a-z-]+)", "\n".join(row.split("|")[1] for row in table.strip().splitlines()))

    assert set(named) == offered
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text_of(PAGE))) <= offered
